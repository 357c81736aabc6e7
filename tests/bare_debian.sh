#!/bin/sh
# The first hour on a bare Debian 12: an ordinary user, no g++, no nginx, no docker.
#
#     sh tests/bare_debian.sh [FOLDER [COMMAND...]]     as root; FOLDER gets the root, 3 GB
#
# Makes the root with debootstrap, copies this checkout into it, and runs there "make demo", what that says to
# paste, "make demo" again, and COMMAND (make test). The pip configuration of this machine goes along.
set -eu

checkout=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-/var/tmp/detserve-bare}
[ $# -gt 0 ] && shift
root=$folder/root

if [ -z "${BARE_DEBIAN_INSIDE:-}" ]; then
    command -v debootstrap >/dev/null || { echo "debootstrap is missing: apt-get install debootstrap" >&2; exit 1; }
    mkdir -p "$folder"
    [ -d "$root/usr/share/doc/make" ] || debootstrap --variant=minbase --include=ca-certificates,make,python3 \
        bookworm "$root" http://deb.debian.org/debian
    BARE_DEBIAN_INSIDE=1 exec unshare --mount sh "$0" "$folder" "$@"
fi

along() {  # the same path inside, read-only
    for path; do
        if [ ! -e "$path" ] || [ "$root$path" -ef "$path" ]; then continue; fi
        if [ -d "$path" ]; then mkdir -p "$root$path"; else mkdir -p "$root${path%/*}"; touch "$root$path"; fi
        mount --bind -o ro "$path" "$root$path"
    done
}
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
along /etc/hosts /etc/resolv.conf /etc/ssl/certs /etc/pip.conf /etc/xdg/pip
# shellcheck disable=SC2046 # a word a folder
along $(python3 -m pip config list | grep -o "/[^' ]*" | sed 's|^///*|/|; s|/simple$||' | sort -u)

chroot "$root" id someone >/dev/null 2>&1 || chroot "$root" useradd --create-home someone
home=$root/home/someone/detserve
mkdir -p "$home"
git -C "$checkout" ls-files -z | tar -C "$checkout" --null -T - -c | tar -C "$home" -x
chroot "$root" chown -R someone: /home/someone

someone() {
    variables=$(env | grep '^PIP_' || true)
    # shellcheck disable=SC2086 # a word a variable
    chroot --userspec=someone "$root" env -i HOME=/home/someone PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 \
        $variables sh -c 'cd ~/detserve && exec "$@"' sh "$@"
}

if ! said=$(someone make demo 2>&1); then
    printf '%s\n' "$said"
    paste=$(printf '%s\n' "$said" | grep -o 'apt-get update && apt-get install .*') || exit 1
    chroot "$root" env DEBIAN_FRONTEND=noninteractive sh -c "$paste"
    someone make demo
fi
someone du -sh .venv
[ $# -gt 0 ] || set -- make test
someone "$@"
