#!/bin/bash
# A Ray of two nodes of one core on this machine.
#
#   scripts/cluster/ray.sh start FOLDER      its logs and process ids are in FOLDER; the address is 127.0.0.1:6399
#   scripts/cluster/ray.sh kill2 FOLDER      the second node dies, and all that runs on it
#   scripts/cluster/ray.sh stop FOLDER       both end, by their process ids; other Rays on this machine go on
#
# PYTHON names the Python that has ray (default: python3). Commands need RAY_AUTH_MODE=token and
# RAY_AUTH_TOKEN_PATH=FOLDER/token, as below.
set -euo pipefail
what=${1:?start, kill2 or stop}
lab=${2:?a folder for the state}
ray=("${PYTHON:-python3}" -m ray.scripts.scripts)
address=127.0.0.1:6399
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$lab/token RAY_USAGE_STATS_ENABLED=0
export RAY_health_check_timeout_ms=3000 RAY_health_check_period_ms=1000 RAY_health_check_failure_threshold=3

node() { # name, arguments
    local name=$1
    shift
    setsid "${ray[@]}" start --block --node-ip-address=127.0.0.1 --num-cpus=1 --num-gpus=0 --disable-usage-stats \
        --object-store-memory=100000000 "$@" >"$lab/$name.log" 2>&1 </dev/null &
    echo $! >"$lab/$name.pid"
}

case $what in
start)
    mkdir -p "$lab"
    (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$lab/token")
    node one --head --port=6399 --include-dashboard=false --min-worker-port=21000 --max-worker-port=21099
    for _ in $(seq 60); do
        "${ray[@]}" health-check --address $address >/dev/null 2>&1 && break
        kill -0 "$(cat "$lab/one.pid")" || { tail -3 "$lab/one.log" >&2; exit 1; }
        sleep 0.5
    done
    node two --address=$address --min-worker-port=21100 --max-worker-port=21199
    for _ in $(seq 60); do
        [ "$("${ray[@]}" status --address $address 2>/dev/null | grep -c ' node_')" -ge 2 ] && exit 0
        sleep 0.5
    done
    echo "the nodes do not answer; see the logs in $lab" >&2
    exit 1
    ;;
kill2)
    kill -9 -- "-$(cat "$lab/two.pid")"
    rm "$lab/two.pid"
    ;;
stop)
    for name in two one; do
        [ -f "$lab/$name.pid" ] || continue
        leader=$(cat "$lab/$name.pid")
        kill "$leader" 2>/dev/null || true
        for _ in $(seq 40); do kill -0 "$leader" 2>/dev/null || break; sleep 0.25; done
        kill -9 -- "-$leader" 2>/dev/null || true
        rm "$lab/$name.pid"
    done
    ;;
*)
    echo "start, kill2 or stop, not $what" >&2
    exit 2
    ;;
esac
