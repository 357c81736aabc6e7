#!/bin/sh
# nginx in the foreground. Every few seconds this looks whether the configuration, the keys, the certificates or the
# addresses of Triton have changed, and then reloads nginx, which finishes the requests under way with what was.
# It also turns the access log over before it grows large.
set -u
: "${GATEWAY_DIR:=/etc/detserve}" "${ACCESS_LOG:=/var/log/detserve/access.jsonl}" "${TRITON_HOST:=triton}"
: "${LOG_MIB:=64}" "${LOGS_KEPT:=16}" "${WATCH_S:=3}"
config=$GATEWAY_DIR/gateway/nginx.conf

say() { echo "gateway: $*" >&2; }

addresses() { getent ahosts "$TRITON_HOST" | cut -d ' ' -f 1 | sort -u; }

# Nothing while Triton has no address: nginx keeps the old one until there is a new one.
state() {
    found=$(addresses)
    [ -n "$found" ] && { echo "$found"; find "$GATEWAY_DIR" -type f -exec cksum {} + 2>&1 | sort; }
}

turn_log_over() {
    [ -f "$ACCESS_LOG" ] && kill -0 "$nginx" 2>/dev/null && [ "$(wc -c <"$ACCESS_LOG")" -gt $((LOG_MIB * 1048576)) ] || return 0
    turned=$ACCESS_LOG.$(date -u +%Y%m%dT%H%M%SZ)
    [ ! -e "$turned" ] && mv "$ACCESS_LOG" "$turned" && kill -USR1 "$nginx" 2>/dev/null
    ls -1 "$ACCESS_LOG".* | sort -r | tail -n +$((LOGS_KEPT + 1)) | while read -r old; do rm -f "$old"; done
}

# nginx does not start on a name without an address. In Kubernetes there is none until a Triton is ready.
trap 'exit 0' TERM INT QUIT
[ -n "$(addresses)" ] || say "waiting for $TRITON_HOST to have an address"
until [ -n "$(addresses)" ]; do
    sleep 1
done

served=$(state)
nginx -e stderr -c "$config" -g 'daemon off;' &
nginx=$!
trap 'kill -QUIT "$nginx"' TERM INT QUIT
trap 'kill -HUP "$nginx"' HUP

refused=
while kill -0 "$nginx" 2>/dev/null; do
    sleep "$WATCH_S" &
    wait $! # a signal ends the wait at once
    turn_log_over
    current=$(state)
    if [ -z "$current" ] || [ "$current" = "$served" ] || [ "$current" = "$refused" ]; then
        continue
    fi
    if nginx -e stderr -c "$config" -t -q; then
        say "configuration, keys, certificates or addresses changed: reloading"
        kill -HUP "$nginx"
        served=$current
    else
        say "what changed is refused, see above; the old stays in force"
        refused=$current
    fi
done
wait "$nginx"
