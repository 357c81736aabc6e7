#!/bin/sh
# Triton's command line in production. Arguments are added at the end, where they win.
# DETSERVE_ADMIN_KEY opens the closed protocols to who sends it; without one, nobody knows the key of this run.
# DETSERVE_GATEWAY_SECRET, made by detserve gateway render, closes all but health to who is not the gateway;
# "none" leaves inference open to whoever reaches the port.
# The gateway names the models of a key in the header detserve-models; unless it is forwarded, no step refuses any.
set -eu
closed="shared-memory,model-repository,trace,logging:detserve-admin-key=${DETSERVE_ADMIN_KEY:-$(cat /proc/sys/kernel/random/uuid)}"
if [ -z "${DETSERVE_GATEWAY_SECRET:-}" ]; then
    echo "serve.sh: no DETSERVE_GATEWAY_SECRET; run detserve gateway render, or set it to none" >&2
    exit 1
elif [ "$DETSERVE_GATEWAY_SECRET" != none ]; then
    gateway="inference,metadata,model-config,statistics:detserve-gateway=$DETSERVE_GATEWAY_SECRET"
    set -- --grpc-restricted-protocol="$gateway" --http-restricted-api="$gateway" "$@"
fi
exec tritonserver \
    --model-repository="${MODEL_REPOSITORY:-/models}" \
    --model-control-mode=none \
    --disable-auto-complete-config \
    --strict-readiness=true \
    --exit-on-error=true \
    --exit-timeout-secs=20 \
    --grpc-restricted-protocol="$closed" \
    --http-restricted-api="$closed" \
    --grpc-header-forward-pattern=detserve-models \
    --http-header-forward-pattern=detserve-models \
    --log-format=ISO8601 \
    "$@"
