#!/bin/bash
# A Slurm of two nodes on this machine, on loopback, by hand: no systemd, no cgroups, no accounting database.
#
#   scripts/cluster/slurm.sh start FOLDER     its state is in FOLDER, which is made
#   scripts/cluster/slurm.sh env FOLDER       prints what a shell needs: eval "$(scripts/cluster/slurm.sh env FOLDER)"
#   scripts/cluster/slurm.sh kill FOLDER n2   a node dies, and all that runs on it
#   scripts/cluster/slurm.sh revive FOLDER n2
#   scripts/cluster/slurm.sh stop FOLDER
#
# Needs root and Debian's packages: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
# The partition `local` gives way to `urgent`: its jobs are queued again.
set -euo pipefail
what=${1:?start, env, kill, revive or stop}
lab=$(realpath -m "${2:?a folder for the state}")
nodes=(n1 n2)
socket=$lab/munge.socket
export SLURM_CONF=$lab/slurm.conf

alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

configured() {
    local memory host
    memory=$(awk '/MemTotal/ {print int($2 / 2048)}' /proc/meminfo)
    host=$(hostname -s)
    # cred_expire is also how long a job waits before it runs again.
    cat <<C
ClusterName=lab
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=5
SlurmdTimeout=10
SlurmctldPidFile=$lab/slurmctld.pid
SlurmdPidFile=$lab/slurmd.%n.pid
StateSaveLocation=$lab/ctl
SlurmdSpoolDir=$lab/spool.%n
SlurmctldLogFile=$lab/slurmctld.log
SlurmdLogFile=$lab/slurmd.%n.log
C
    for at in "${!nodes[@]}"; do
        echo "NodeName=${nodes[at]} NodeHostname=$host NodeAddr=127.0.0.1 Port=$((16821 + at)) CPUs=1 RealMemory=$memory"
    done
    echo "PartitionName=local Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE"
    echo "PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF"
}

# submitit asks sacct what became of a job; Slurm's own needs a database, so here one asks the controller.
stand_in() {
    cat <<'A'
#!/usr/bin/env python3
import re, subprocess, sys
print("JobID|State|NodeList")
for flag, job in zip(sys.argv, sys.argv[1:]):
    if flag == "-j":
        told = subprocess.run(["scontrol", "-o", "show", "job", job], capture_output=True, text=True, check=False).stdout
        for line in told.splitlines():
            said = dict(re.findall(r"(\w+)=(\S*)", line))
            if "ArrayJobId" in said:
                task = said["ArrayTaskId"].split("%")[0]
                job = said["ArrayJobId"] + "_" + (task if task.isdigit() else f"[{task}]")
            print(f"{job}|{said['JobState']}|{said.get('NodeList', '')}")
A
}

start_node() {
    mkdir -p "$lab/spool.$1"
    alive "$lab/slurmd.$1.pid" || PATH=$lab/bin:$PATH slurmd -f "$SLURM_CONF" -N "$1"
}

case $what in
start)
    mkdir -p "$lab/ctl" "$lab/bin"
    chmod 755 "$lab"
    if ! alive "$lab/munged.pid"; then
        [ -f "$lab/munge.key" ] || (umask 077 && mungekey --create --keyfile="$lab/munge.key")
        munged --force --socket="$socket" --key-file="$lab/munge.key" --pid-file="$lab/munged.pid" \
            --log-file="$lab/munged.log" --seed-file="$lab/munge.seed" --num-threads=2
    fi
    configured >"$SLURM_CONF"
    stand_in >"$lab/bin/sacct"
    chmod +x "$lab/bin/sacct"
    alive "$lab/slurmctld.pid" || slurmctld -f "$SLURM_CONF"
    for node in "${nodes[@]}"; do start_node "$node"; done
    for _ in $(seq 80); do
        [ "$(sinfo -h -p local -N -o %t 2>/dev/null | grep -c idle)" = ${#nodes[@]} ] && exit 0
        sleep 0.25
    done
    sinfo
    echo "the nodes do not answer; see the logs in $lab" >&2
    exit 1
    ;;
env)
    echo "export SLURM_CONF=$SLURM_CONF PATH=$lab/bin:\$PATH"
    ;;
kill)
    daemon=$(cat "$lab/slurmd.$3.pid")
    # The daemon, the step daemons that it has begun and all below them; these have sessions of their own.
    below() { for child in $(pgrep -P "$1"); do below "$child"; echo "$child"; done; }
    steps=$(pgrep -f "slurmstepd: \[" || true)
    for step in $steps; do
        if tr '\0' '\n' <"/proc/$step/environ" 2>/dev/null | grep -q "^SLURMD_NODENAME=$3$" ||
            ls -l "/proc/$step/fd" 2>/dev/null | grep -qE "/(spool\.$3/|slurmd\.$3\.log$)"; then
            kill -9 $(below "$step") "$step" 2>/dev/null || true
        fi
    done
    kill -9 "$daemon"
    rm -f "$lab/slurmd.$3.pid"
    ;;
revive)
    start_node "$3"
    ;;
stop)
    scancel --state=PENDING -u root 2>/dev/null || true
    scancel -u root 2>/dev/null || true
    for pidfile in "$lab"/slurmd.*.pid "$lab/slurmctld.pid" "$lab/munged.pid"; do
        if alive "$pidfile"; then
            daemon=$(cat "$pidfile")
            kill "$daemon"
            for _ in $(seq 40); do kill -0 "$daemon" 2>/dev/null || break; sleep 0.25; done
        fi
    done
    ;;
*)
    echo "start, env, kill, revive or stop, not $what" >&2
    exit 2
    ;;
esac
