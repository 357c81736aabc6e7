#!/bin/sh
# nginx in the foreground, on a copy of its files. Every few seconds this looks whether the configuration, the keys, the
# certificates or the addresses of Triton have changed, and gives nginx a new copy and a reload, with which it finishes
# the requests in flight with what was. A folder of which nginx refuses the change keeps its old files; the others do not
# wait for it. In the copy
#  - each address of a name is its own server, and one of a Triton that twice did not answer is "down": nginx itself
#    would notice only by having a client wait. A name of detserve rest without an address stops nobody else
#  - limit_conn's zones have a new name when a worker was killed, for its counts are in the old ones for ever.
# It also turns the access log over before it grows large. A HUP has it look and reload at once.
set -u
: "${GATEWAY_DIR:=/etc/detserve}" "${ACCESS_LOG:=/var/log/detserve/access.jsonl}" "${RUN_DIR:=/tmp/detserve}"
: "${LOG_MIB:=64}" "${LOGS_KEPT:=16}" "${WATCH_S:=3}"
given=$GATEWAY_DIR/gateway/nginx.conf
copies=0 lost=0 changes=0 failing='' down='' nginx='' said='' nameless=''

say() { echo "gateway: $*" >&2; }

# ---- what there is

# "NUMBER HOST PORT" of each server of an upstream in the configuration's order.
servers_of() {
    sed -n "/^ *upstream $1 /,/}/s/^ *server \(.*\):\([0-9]*\) weight=.*/\1 \2/p" "$given" 2>/dev/null | cat -n
}

# Of each Triton, with the port for HTTP, and of each detserve rest, whose number has an r before it.
servers() { servers_of triton_http; servers_of detserve_rest | sed 's/^ */r/'; }

# What was found of Tritons.
tritons() { echo "$found" | grep '^ *[0-9]'; }

# "NUMBER PORT ADDRESS", IPv6 in brackets. A name that has no address now keeps those it had, in known.NAME.
addresses() {
    servers | while read -r number host port; do
        name=${host#[} && name=${name%]}
        now_known=$(getent ahosts "$name" | cut -d ' ' -f 1 | sort -u | sed '/:/s/.*/[&]/')
        if [ -n "$now_known" ]; then
            echo "$now_known" >"$RUN_DIR/known.$name"
            rm -f "$RUN_DIR/nameless.$name"
        else
            : >"$RUN_DIR/nameless.$name"
        fi
        cat "$RUN_DIR/known.$name" 2>/dev/null | while read -r address; do
            echo "$number $port $address"
        done
    done
}

state() { echo "$found"; find -L "$GATEWAY_DIR" -type f -exec cksum {} + 2>&1 | sort; }

say_nameless() {
    still=$(find "$RUN_DIR" -maxdepth 1 -name 'nameless.*' | sed 's/.*nameless\.//' | sort | tr '\n' ' ')
    [ "$still" = "$nameless" ] || say "names without an address: ${still:-none }${still:+(the addresses they had stay)}"
    nameless=$still
}

# Which addresses of several do not answer, a second time. When none answers it is not they: none is taken out.
look_at_servers() {
    all=$(tritons | cut -d ' ' -f 2,3 | sort -u) silent='' still='' waited=''
    if [ "$(echo "$all" | wc -l)" -eq 1 ] || ! command -v curl >/dev/null; then
        failing='' down=''
        return
    fi
    rm -f "$RUN_DIR"/answers.*
    while read -r port address; do
        { curl -so /dev/null --noproxy "*" --connect-timeout 1 -m 2 "http://$address:$port/v2/health/live" && : >"$RUN_DIR/answers.$address.$port"; } &
        waited="$waited $!"
    done <<END
$all
END
    # shellcheck disable=SC2086 # several
    wait $waited
    while read -r port address; do
        [ -e "$RUN_DIR/answers.$address.$port" ] && continue
        silent="$silent $address:$port"
        case " $failing " in *" $address:$port "*) still="$still $address:$port" ;; esac
    done <<END
$all
END
    [ "$(echo "$silent" | wc -w)" -eq "$(echo "$all" | wc -l)" ] && silent='' still=''
    [ "$still" = "$down" ] || say "no answer from:${still:- none}, which get no requests"
    failing=$silent down=$still
}

alerts() { sed -n 's/^error_log \(.*\) alert;/\1/p' "$RUN_DIR/taken/gateway/nginx.conf"; }

# How many workers were killed, by the log of alerts.
killed() { cat "$(alerts)" /dev/null 2>/dev/null | grep -c 'exited on signal'; }

# ---- giving it to nginx

# A folder's .conf files as nginx is to read them; $1 is the copy.
adapt() {
    limit=$(ulimit -Hn) pairs=$(echo "$found" | tr '\n' ';')
    find "$1" -name '*.conf' | while read -r file; do
        awk -v from="$GATEWAY_DIR/" -v to="$1/" -v lost="$lost" -v limit="$limit" -v pairs="$pairs" -v run="$RUN_DIR" -v down=" $down " '
            BEGIN {
                count = split(pairs, lines, ";")
                for (i = 1; i <= count; i++) {
                    split(lines[i], part, " ")
                    if (part[1] ~ /^[0-9]/) http_port[part[1]] = part[2]
                }
            }
            function exchanged(text, old, new,  place, done) {
                while (place = index(text, old)) { done = done substr(text, 1, place - 1) new; text = substr(text, place + length(old)) }
                return done text
            }
            {
                $0 = exchanged($0, from, to)
            }
            lost && /^ *limit_conn(_zone)? / { sub(/concurrency_/, "concurrency_" lost "_") }
            limit != "unlimited" && /^worker_rlimit_nofile / && $2 + 0 > limit + 0 { $0 = "worker_rlimit_nofile " limit ";"; few = int((limit - 256) / 2) }
            few && /^ *worker_connections / { $0 = "    worker_connections " (few > 64 ? few : 64) ";" }
            /^ *upstream / { number = 0; is_rest = /detserve_rest/ }
            /^ *server .*:[0-9]+ weight=/ {
                number++
                port = $2; sub(/.*:/, "", port)
                rest = $0; sub(/^.* weight=/, " weight=", rest); sub(/;$/, "", rest)
                name = $2; sub(/:[0-9]+$/, "", name); gsub(/[][]/, "", name)
                known = run "/known." name
                there = 0
                while ((getline address < known) > 0) {
                    there++
                    silent = !is_rest && index(down, " " address ":" http_port[number] " ") ? " down" : ""
                    print "        server " address ":" port rest silent ";"
                }
                close(known)
                if (is_rest && !there) print "        server 127.0.0.1:" port " down;"
                next
            }
            { print }
        ' "$file" >"$file.new" && mv "$file.new" "$file" || return 1
    done
}

# A copy of the folders in $1, and nginx's word on it.
copied() {
    rm -rf "${RUN_DIR:?}/$copies" && cp -RL "$1" "$RUN_DIR/$copies" && adapt "$RUN_DIR/$copies" &&
        nginx -e stderr -c "$RUN_DIR/$copies/gateway/nginx.conf" -t -q
}

# What is in $1 becomes what nginx reads next.
taken() {
    [ "$1" = "$RUN_DIR/taken" ] || { rm -rf "$RUN_DIR/taken" && mv "$1" "$RUN_DIR/taken"; }
    ln -sfn "$copies" "$RUN_DIR/now.new" && mv -T "$RUN_DIR/now.new" "$RUN_DIR/now"
    find "$RUN_DIR" -mindepth 1 -maxdepth 1 -type d -name '[0-9]*' ! -name "$copies" -exec rm -rf {} +
}

# Give nginx all that has changed or, where it refuses that, each folder that it does not refuse.
take_up() {
    rm -rf "$RUN_DIR/next" "$RUN_DIR/partly" && copies=$((copies + 1))
    if cp -RL "$GATEWAY_DIR" "$RUN_DIR/next" && copied "$RUN_DIR/next"; then
        taken "$RUN_DIR/next"
        return 0
    fi
    [ -n "$nginx" ] || return 1
    rm -rf "$RUN_DIR/next"
    seen=''
    for name in $(cd "$RUN_DIR/taken" && find . -mindepth 1 -maxdepth 1 -type d | cut -c 3-; cd "$GATEWAY_DIR" && find -L . -mindepth 1 -maxdepth 1 -type d | cut -c 3-); do
        case " $seen " in *" $name "*) continue ;; esac
        seen="$seen $name"
        rm -rf "$RUN_DIR/partly" && cp -RL "$RUN_DIR/taken" "$RUN_DIR/partly" && rm -rf "$RUN_DIR/partly/$name"
        copies=$((copies + 1))
        if cp -RL "$GATEWAY_DIR/$name" "$RUN_DIR/partly/$name" && copied "$RUN_DIR/partly" 2>/dev/null; then
            taken "$RUN_DIR/partly"
        else
            refused="$refused $name"
        fi
    done
    copies=$((copies + 1))
    copied "$RUN_DIR/taken" && taken "$RUN_DIR/taken"
}

# When the blocks of a PEM file end, in seconds since 1970: $1 is their kind, $2 asks openssl, $3 is the file.
ends() {
    file=$RUN_DIR/taken/tls/$3
    [ -f "$file" ] && command -v openssl >/dev/null || return 0
    awk -v block="$1" -v ask="$2" '
        index($0, "-----BEGIN " block "-----") { within = 1 }
        within { print | ask }
        index($0, "-----END " block "-----") { close(ask); within = 0 }
    ' "$file" | sed -n 's/^[a-zA-Z]*=\(.* GMT\)$/\1/p' | while read -r end; do date -ud "$end" +%s; done
}

expires() {
    [ -z "$2" ] || printf '# TYPE %s gauge\n%s %s\n' "$1" "$1" "$2"
}

# For whoever watches: detserve audit collect shows it to Prometheus.
report() {
    prom=$(dirname "$ACCESS_LOG")/gateway.prom
    {
        echo "# TYPE detserve_gateway_change_refused gauge"
        echo "detserve_gateway_change_refused $([ -n "$said" ] && echo 1 || echo 0)"
        echo "# TYPE detserve_gateway_changes_total counter"
        echo "detserve_gateway_changes_total $changes"
        echo "# TYPE detserve_gateway_workers_lost_total counter"
        echo "detserve_gateway_workers_lost_total $lost"
        expires detserve_gateway_certificate_expires_timestamp_seconds \
            "$(ends CERTIFICATE 'openssl x509 -noout -enddate' server.crt | head -n 1)"
        expires detserve_gateway_revocations_expire_timestamp_seconds \
            "$(ends 'X509 CRL' 'openssl crl -noout -nextupdate' clients.crl | sort -n | head -n 1)"
    } >"$prom.new" && mv "$prom.new" "$prom"
}

turn_log_over() {
    [ -f "$ACCESS_LOG" ] && kill -0 "$nginx" 2>/dev/null && [ "$(wc -c <"$ACCESS_LOG")" -gt $((LOG_MIB * 1048576)) ] || return 0
    turned=$ACCESS_LOG.$(date -u +%Y%m%dT%H%M%SZ)
    [ ! -e "$turned" ] && mv "$ACCESS_LOG" "$turned" && kill -USR1 "$nginx" 2>/dev/null
    ls -1 "$ACCESS_LOG".* | sort -r | tail -n +$((LOGS_KEPT + 1)) | while read -r old; do rm -f "$old"; done
}

# ---- from the first to the last

# nginx does not start on a name without an address. In Kubernetes there is none until a Triton is ready.
trap 'exit 0' TERM INT QUIT
(umask 077 && mkdir -p "$RUN_DIR") || exit 1
rm -f "$RUN_DIR"/known.* "$RUN_DIR"/nameless.*
[ -n "$(servers_of triton_http)" ] || { say "$given names no Triton; write it with: detserve gateway render"; exit 1; }
found=$(addresses)
[ -n "$(tritons)" ] || say "waiting for $(servers_of triton_http | awk '{ printf "%s ", $2 }')to have an address"
until [ -n "$(tritons)" ]; do
    sleep 1
    found=$(addresses)
done

served=$(state)
take_up || exit 1
command -v openssl >/dev/null || say "openssl is not here: gateway.prom does not say when certificates end"
already=$(killed)
nginx -e stderr -c "$RUN_DIR/now/gateway/nginx.conf" -g 'daemon off;' &
nginx=$!
now='' rounds=0 ending=''
trap 'ending=yes; kill -QUIT "$nginx"' TERM INT QUIT
trap 'now=yes' HUP
report

while kill -0 "$nginx" 2>/dev/null; do
    [ -n "$now$ending" ] || { sleep "$WATCH_S" & wait $!; } # a signal ends the wait at once
    [ -z "$ending" ] || break
    turn_log_over
    found=$(addresses)
    current=$(state)
    before="$down $lost"
    say_nameless
    look_at_servers
    count=$(killed)
    if [ "$count" -gt "$already" ]; then
        lost=$((lost + count - already))
        say "$lost workers of nginx were killed so far; the counts of concurrent requests begin anew"
    fi
    already=$count
    # A client that takes all places has nginx write an alert for each that finds none.
    if [ "$(cat "$(alerts)" /dev/null 2>/dev/null | wc -c)" -gt 1048576 ]; then
        : >"$(alerts)"
        already=0
    fi
    rounds=$((rounds + 1))
    if [ -n "$now" ] || [ "$current" != "$served" ] || [ "$before" != "$down $lost" ]; then
        refused=''
        if take_up && kill -HUP "$nginx"; then
            changes=$((changes + 1))
        else
            refused=${refused:- everything}
        fi
    elif [ -n "$said" ] && [ $((rounds % 5)) -eq 0 ]; then # it may be taken now, as when a disk was full
        refused=''
        take_up 2>/dev/null || refused=${refused:- everything}
        [ "$refused" = "$said" ] || { kill -HUP "$nginx" && changes=$((changes + 1)); }
    else
        continue
    fi
    again=$([ "$current" = "$served" ] && echo yes)
    now='' served=$current
    if [ -n "$refused" ]; then
        [ -n "$again" ] && [ "$refused" = "$said" ] || say "the change of$refused is refused, see above; the old stays in force"
    elif [ -n "$said" ]; then
        say "what was refused is in force now"
    else
        say "configuration, keys, certificates or addresses changed: reloading"
    fi
    said=$refused
    report
done
trap '' TERM INT QUIT HUP
wait "$nginx"
