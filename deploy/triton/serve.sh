#!/bin/sh
# Triton's command line in production. Arguments are added at the end, where they win.
# DETSERVE_ADMIN_KEY opens the closed protocols to who sends it; without one, nobody knows the key of this run.
set -eu
closed="shared-memory,model-repository,trace,logging:detserve-admin-key=${DETSERVE_ADMIN_KEY:-$(cat /proc/sys/kernel/random/uuid)}"
exec tritonserver \
    --model-repository="${MODEL_REPOSITORY:-/models}" \
    --model-control-mode=none \
    --disable-auto-complete-config \
    --strict-readiness=true \
    --exit-on-error=true \
    --exit-timeout-secs=20 \
    --grpc-restricted-protocol="$closed" \
    --http-restricted-api="$closed" \
    --metrics-config=summary_latencies=true \
    --log-format=ISO8601 \
    "$@"
