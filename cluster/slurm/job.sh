#!/usr/bin/env bash
# A command on a Ray cluster of its own, over the nodes of a Slurm allocation:
#
#     sbatch [OPTIONS OF SBATCH] cluster/slurm/job.sh COMMAND...
#
# from the repository's root. Its exit status is the command's. Where the time is up, or another job takes the nodes, the
# command is told (SIGTERM), and the job is queued again. cluster/slurm/README.md says more.
#
#SBATCH --job-name=metaug
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
set -euo pipefail

# Settings: variables of the environment in which sbatch is called.
# The repository, on a file system that all nodes share.
export CLUSTER_PROJECT=${CLUSTER_PROJECT:-${SLURM_SUBMIT_DIR:-}}
# The Python environment that `uv sync` made, likewise.
export CLUSTER_ENVIRONMENT=${CLUSTER_ENVIRONMENT:-$CLUSTER_PROJECT/.venv}
# Folder of the jobs' tokens and of their nodes' logs, likewise.
CLUSTER_SHARED=${CLUSTER_SHARED:-$HOME/metaug_ray/slurm}
# Folder of each node's own disk, for Ray's sockets and logs.
export CLUSTER_LOCAL=${CLUSTER_LOCAL:-/tmp}
# Network interface between the nodes, such as ib0; empty: the one that has the address by which Slurm calls a node.
export CLUSTER_INTERFACE=${CLUSTER_INTERFACE:-}
# Bytes of Ray's object store on each node; it lies in /dev/shm, which counts as the job's memory.
export CLUSTER_OBJECT_STORE=${CLUSTER_OBJECT_STORE:-1073741824}
# Seconds that all nodes have to join, and that the command has to end after SIGTERM.
CLUSTER_JOIN_SECONDS=${CLUSTER_JOIN_SECONDS:-300}
CLUSTER_STOP_SECONDS=${CLUSTER_STOP_SECONDS:-90}
# Of these, those in which the command writes a checkpoint first.
export METAUG_CHECKPOINT__GRACE_SECONDS=${METAUG_CHECKPOINT__GRACE_SECONDS:-60}
# How often a job may be queued again.
CLUSTER_MAX_REQUEUES=${CLUSTER_MAX_REQUEUES:-100}

say() {
    echo "job.sh, $(date +%T): $*"
}

fail() {
    say "$*" >&2
    exit 1
}

[ $# -gt 0 ] || fail "no command; give one after the script: sbatch cluster/slurm/job.sh python jobs/..."
[ -n "${SLURM_JOB_ID:-}" ] || fail "runs inside a Slurm job alone; start it with sbatch"
node_script=$CLUSTER_PROJECT/cluster/slurm/node.sh
[ -f "$node_script" ] || fail "there is no $node_script; call sbatch in the repository's root, or set CLUSTER_PROJECT"
[ -x "$CLUSTER_ENVIRONMENT/bin/ray" ] ||
    fail "there is no Ray in $CLUSTER_ENVIRONMENT; run uv sync in the repository, or set CLUSTER_ENVIRONMENT"
export PATH=$CLUSTER_ENVIRONMENT/bin:$PATH

# Two jobs on one node must not meet: these ports are none that the kernel gives by itself (32768 and more).
export CLUSTER_PORT=$((20000 + SLURM_JOB_ID % 1200 * 10))
export CLUSTER_STATE=$CLUSTER_SHARED/$SLURM_JOB_ID
# Short, as the path of a socket has at most 107 characters.
export CLUSTER_TEMP=$CLUSTER_LOCAL/ray-$SLURM_JOB_ID
[ ${#CLUSTER_TEMP} -le 44 ] ||
    fail "CLUSTER_LOCAL: $CLUSTER_LOCAL is too long for Ray's sockets; it may have 36 characters, such as /tmp"

# A token of this start alone. Arguments show in ps, so that all hear of it by the name of a file.
mkdir -p "$CLUSTER_STATE" || fail "CLUSTER_SHARED: $CLUSTER_SHARED cannot be written"
chmod 700 "$CLUSTER_STATE"
rm -f "$CLUSTER_STATE"/{token,failed}
(umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$CLUSTER_STATE/token")
unset RAY_AUTH_TOKEN RAY_ADDRESS
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$CLUSTER_STATE/token RAY_USAGE_STATS_ENABLED=0

job_state() {
    scontrol --oneliner show job "$SLURM_JOB_ID" 2>/dev/null | sed -n 's/.* JobState=\([A-Z_]*\).*/\1/p'
}

# SIGTERM comes from Slurm before the time is up or the nodes are taken; also where the job was cancelled or queued
# again by others. Then it is not RUNNING any more, and all of its processes were told. A controller that does not answer
# knows of neither.
signalled=false
requeue=false
driver=''
told() {
    ! $signalled || return 0
    signalled=true
    local state
    state=$(job_state) || true
    if [ "${state:-RUNNING}" = RUNNING ]; then
        requeue=true
        say "${1:-Slurm takes the nodes back}; the command is told to end, and the job is queued again"
        [ -z "$driver" ] || kill -TERM "$driver" 2>/dev/null || true
    else
        # Slurm kills what is left after half a minute (KillWait), this script among it.
        CLUSTER_STOP_SECONDS=10
        rm -f "$CLUSTER_STATE/token"
    fi
}
trap 'told' TERM

head=''
workers=''
running() {
    [ -n "$1" ] && kill -0 "$1" 2>/dev/null
}

# ends PID SECONDS: whether it ends in time. A signal ends `sleep` early, and no more.
ends() {
    local end=$((SECONDS + $2))
    while running "$1"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.5 || true
    done
}

stop_ray() {
    trap '' TERM
    if running "$workers"; then
        # srun itself would kill them without a word.
        scancel --signal=TERM "$SLURM_JOB_ID.0" 2>/dev/null || true
        ends "$workers" 20 || kill -KILL "$workers" 2>/dev/null || true
    fi
    if running "$head"; then
        kill -TERM "$head" 2>/dev/null || true
        ends "$head" 20 || kill -KILL "$head" 2>/dev/null || true
    fi
    rm -f "$CLUSTER_STATE/token"
}
trap 'status=$?; [ $status = 0 ] || $requeue || touch "$CLUSTER_STATE/failed"; stop_ray' EXIT

start_ray() {
    # By an address and not by a name, which on some nodes means 127.0.1.1.
    CLUSTER_HEAD=$(bash "$node_script" address) || exit 1
    export CLUSTER_HEAD RAY_ADDRESS=$CLUSTER_HEAD:$CLUSTER_PORT
    say "Ray starts on $SLURM_JOB_NUM_NODES nodes ($SLURM_JOB_NODELIST); logs: $CLUSTER_STATE"
    bash "$node_script" head > "$CLUSTER_STATE/$SLURMD_NODENAME.log" 2>&1 &
    head=$!
    local others=$((SLURM_JOB_NUM_NODES - 1))
    if [ $others -gt 0 ]; then
        # A step's share is one CPU, unless it is said.
        srun --nodes=$others --ntasks=$others --ntasks-per-node=1 --exclude="$SLURMD_NODENAME" \
            ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} --kill-on-bad-exit=0 \
            --output="$CLUSTER_STATE/%N.log" bash "$node_script" worker &
        workers=$!
    fi
}

wait_for_nodes() {
    python "$CLUSTER_PROJECT/cluster/slurm/nodes_joined.py" "$SLURM_JOB_NUM_NODES" "$CLUSTER_JOIN_SECONDS" &
    local waiter=$! status=0
    while running $waiter && ! $signalled; do
        if ! running $head || { [ -n "$workers" ] && ! running "$workers"; }; then
            kill $waiter 2>/dev/null || true
            tail -n 5 "$CLUSTER_STATE"/*.log >&2
            fail "Ray did not start; above are the last lines of its logs in $CLUSTER_STATE"
        fi
        sleep 0.5 || true
    done
    if $signalled; then
        kill $waiter 2>/dev/null || true
        return
    fi
    wait $waiter || status=$?
    [ $status = 0 ] || fail "not all nodes joined; the logs of those that did not say why: $CLUSTER_STATE"
}

# The command is a child, and not given to `ray job submit`: so its exit status is its own and not 1 for all that is
# not 0, and it has Slurm's two minutes to end in order in place of the three seconds that Ray gives a job.
run_command() {
    "$@" &
    driver=$!
    say "all nodes have joined after $SECONDS s; the command begins"
    # It may have come before there was a driver to tell.
    ! $signalled || kill -TERM $driver 2>/dev/null || true
    local stop_at=
    while running $driver; do
        if ! running "$head" || { [ -n "$workers" ] && ! running "$workers"; }; then
            told "Ray ended on a node"
        fi
        if $signalled; then
            stop_at=${stop_at:-$((SECONDS + CLUSTER_STOP_SECONDS))}
            [ $SECONDS -lt "$stop_at" ] || kill -KILL $driver 2>/dev/null || true
        fi
        sleep 0.5 || true
    done
    status=0
    wait $driver || status=$?
}

status=1
start_ray
wait_for_nodes
$signalled || run_command "$@"

if [ $status = 0 ] || ! $requeue; then
    say "the command ended with status $status"
    exit $status
fi
stop_ray
if [ "${SLURM_RESTART_COUNT:-0}" -ge "$CLUSTER_MAX_REQUEUES" ]; then
    fail "the job was queued again $CLUSTER_MAX_REQUEUES times (CLUSTER_MAX_REQUEUES); the same sbatch goes on"
fi
say "the command ended with status $status after the signal; the job is queued again, and goes on from its last checkpoint"
# Slurm ends this script by SIGTERM; had it ended before, the job would count as failed.
trap 'exit 0' TERM
scontrol requeue "$SLURM_JOB_ID" || fail "Slurm does not queue the job again; the same sbatch goes on"
sleep 60 &
wait $!
