#!/bin/sh
# What Kubernetes runs before it tells Triton to end (preStop). Triton goes on answering until no gateway holds a connection
# to it: they have seen that its address is gone, and what they had sent here is answered. A Triton that is told to end
# waits for the connections it has, idle ones too, takes no new one, and after its exit timeout ends without finalize.
set -eu
: "${QUIET_S:=1}" "${MOST_S:=60}"
: "${LOCAL:=:(1F40|1F41)$}" # ports 8000 and 8001, as the kernel writes them

held() { cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v ours="$LOCAL" '$4 == "01" && $2 ~ ours' | grep -c .; }

end=$(($(date +%s) + MOST_S)) quiet=0
while [ "$quiet" -lt $((QUIET_S * 5)) ] && [ "$(date +%s)" -lt "$end" ]; do
    sleep 0.2
    if [ "$(held)" -eq 0 ]; then quiet=$((quiet + 1)); else quiet=0; fi
done
