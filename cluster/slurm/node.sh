#!/usr/bin/env bash
# Ray on one node of a Slurm job, until SIGTERM: node.sh head|worker, of job.sh, which sets all that it reads.
# `node.sh address` prints the address by which other nodes reach this one.
set -euo pipefail

fail() {
    echo "node.sh: $(hostname): $*" >&2
    exit 1
}

# "ADDRESS INTERFACE" of this node.
network() {
    local called
    called=$(scontrol --oneliner show node "$SLURMD_NODENAME" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
    python - "${CLUSTER_INTERFACE:-}" "$called" <<'PYTHON'
import socket, sys
import psutil

wanted, called = sys.argv[1:]
there = [(a.address, name) for name, all_of in psutil.net_if_addrs().items() for a in all_of if a.family == socket.AF_INET]
if wanted:
    found = [pair for pair in there if pair[1] == wanted]
    missing = f"there is no network interface {wanted} (CLUSTER_INTERFACE) with an IPv4 address; there are {there}"
else:
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(called, None, socket.AF_INET)}
    except OSError:
        addresses = set()
    found = [pair for pair in there if pair[0] in addresses and not pair[0].startswith("127.")]
    missing = f"Slurm calls this node {called}, which is no address of its interfaces {there}; set CLUSTER_INTERFACE"
if not found:
    sys.exit(missing)
print(*found[0])
PYTHON
}

found=$(network) || fail "the address of this node is not known"
read -r address interface <<< "$found"
if [ "$1" = address ]; then
    echo "$address"
    exit
fi

# Else gloo takes the interface of the host's name, which on some nodes is loopback.
export GLOO_SOCKET_IFNAME=$interface NCCL_SOCKET_IFNAME=$interface
# The job's command has ended before Ray is: a node would wait for others' work to move away.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

ray=
stop() {
    trap '' TERM
    # `ray start --block` ends what it started, and nothing else.
    [ -z "$ray" ] || kill -TERM "$ray" 2>/dev/null || true
    wait || true
    [ ! -e "$CLUSTER_STATE/failed" ] ||
        cp -r "$CLUSTER_TEMP"/session_latest/logs "$CLUSTER_STATE/ray-logs-$SLURMD_NODENAME" 2>/dev/null || true
    rm -rf "$CLUSTER_TEMP"
}
trap stop EXIT
trap 'exit 0' TERM

# What this job's last start on this node left, if it was killed.
rm -rf "$CLUSTER_TEMP"
mkdir -m 700 "$CLUSTER_TEMP" || fail "CLUSTER_LOCAL: $CLUSTER_LOCAL cannot be written, or $CLUSTER_TEMP is another's"

options=(
    --block --disable-usage-stats --temp-dir="$CLUSTER_TEMP" --node-ip-address="$address"
    --num-cpus="${SLURM_CPUS_ON_NODE:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}"
    --object-store-memory="$CLUSTER_OBJECT_STORE" --dashboard-agent-listen-port=$((CLUSTER_PORT + 3))
    # Of the kernel's choice: by default all Rays of a node would take the same ones.
    --min-worker-port=0 --max-worker-port=0
)
if [ "$1" = head ]; then
    ray start --head --port="$CLUSTER_PORT" --ray-client-server-port=$((CLUSTER_PORT + 1)) \
        --dashboard-host=127.0.0.1 --dashboard-port=$((CLUSTER_PORT + 2)) "${options[@]}" &
    ray=$!
    wait $ray
else
    # Again where it ends: the head is not up yet, or Ray lost this node and its driver waits for it.
    while true; do
        ray start --address="$CLUSTER_HEAD:$CLUSTER_PORT" "${options[@]}" &
        ray=$!
        wait $ray || true
        sleep 3
    done
fi
