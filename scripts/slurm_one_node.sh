#!/bin/bash
# A one-node SLURM on this machine, to try the submitit_slurm launcher: scripts/slurm_one_node.sh start|check|stop
# Run as root, with Debian's packages: apt-get install slurmctld slurmd slurm-client munge
# `check` runs a sweep of four short runs through the queue with $PYTHON (python by default).
set -euo pipefail

state=${SLURM_ONE_NODE:-/var/tmp/slurm_one_node}
configuration=/etc/slurm/slurm.conf

start() {
    mkdir -p "$state/controller" "$state/node" /run/munge /etc/slurm
    cat > "$configuration" <<END
# written by scripts/slurm_one_node.sh
ClusterName=one
SlurmctldHost=$(hostname -s)(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
StateSaveLocation=$state/controller
SlurmdSpoolDir=$state/node
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd.log
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=one Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    [ -f /etc/munge/munge.key ] || mungekey --create
    chown munge: /run/munge /etc/munge/munge.key
    munge -n > /dev/null 2>&1 || setpriv --reuid munge --regid munge --clear-groups munged
    slurmctld
    slurmd
    for _ in $(seq 30); do
        [ "$(sinfo --noheader --format=%t 2> /dev/null)" = idle ] && exec sinfo
        sleep 1
    done
    echo "error: the node is not idle; see $state/*.log" >&2
    sinfo
    exit 1
}

check() {
    cd "$(dirname "$0")/.."
    root=$(mktemp -d -p "$state")
    sweep=("${PYTHON:-python}" -m src.train -m "run.root=$root" name=slurm hydra/launcher=submitit_slurm
        model=irnn,lstm seed=0,1 model.hidden_size=8 task.train_size=256 task.val_size=64 task.test_size=64
        trainer.max_updates=50 trainer.eval_every=25)
    "${sweep[@]}"
    [ "$(ls "$root"/slurm/*/result.json | wc -l)" = 4 ]
    echo "4 runs have finished in the queue; the same command again:"
    "${sweep[@]}" | grep "4 of 4 runs have ended already"
}

stop() {
    for daemon in slurmd slurmctld; do
        [ -f "$state/$daemon.pid" ] && kill "$(cat "$state/$daemon.pid")" || true
    done
}

case "${1:-}" in
    start | check | stop) "$1" ;;
    *) sed -n '2,4s/^# //p' "$0" && exit 2 ;;
esac
