#!/bin/sh
# nginx as the gateway in a container, from the files of `detserve gateway render`, `keys` and `certs`.
# A changed file is taken up within two seconds; requests under way are finished by the old workers.
set -eu
configuration=${GATEWAY_CONFIGURATION:-/etc/detserve/gateway/nginx.conf}
watched=${GATEWAY_WATCHED:-/etc/detserve}

state() { find -L "$watched" -type f -exec cksum {} + 2>/dev/null | sort | cksum; }

nginx -e stderr -c "$configuration" -g 'daemon off;' &
nginx=$!
trap 'kill -QUIT "$nginx" 2>/dev/null' TERM INT QUIT

taken=$(state)
while kill -0 "$nginx" 2>/dev/null; do
    sleep 1 &
    wait $! || true
    now=$(state)
    # A certificate and its key are two files: what nginx refuses is tried again, and the old ones stay meanwhile.
    if [ "$now" != "$taken" ] && nginx -e stderr -c "$configuration" -t -q; then
        kill -HUP "$nginx" 2>/dev/null && taken=$now
    fi
done
wait "$nginx"
