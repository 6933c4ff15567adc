#!/usr/bin/env bash
# A whole SLURM on this machine, for tests: controller and one node with pretended GPUs, no accounting. As root, with Debian's
# slurm-wlm and munge. Usage: slurm_node.sh start|stop FOLDER. The configuration must lie in /etc/slurm, for jobs forget SLURM_CONF.
set -euo pipefail
folder=$2
gpus=2
name=$(hostname -s)
conf=/etc/slurm/slurm.conf
if [ -e "$conf" ] && ! grep -qx ClusterName=gvbsm-test "$conf"; then
    echo "$conf: another cluster's configuration; this machine is left alone" >&2
    exit 1
fi

ended() { # ended PIDFILE: ask a daemon to end, and wait for it
    [ -s "$1" ] || return 0
    pid=$(cat "$1")
    kill "$pid" 2> /dev/null || return 0
    for _ in $(seq 50); do kill -0 "$pid" 2> /dev/null || return 0; sleep 0.1; done
    kill -9 "$pid" 2> /dev/null || true
}

if [ "$1" = stop ]; then
    for daemon in slurmd slurmctld munged; do ended "$folder/$daemon.pid"; done
    rm -f "$conf" /etc/slurm/gres.conf
    exit 0
fi

rm -rf "$folder/state" "$folder/spool"
mkdir -p "$folder/state" "$folder/spool" "$folder/log"
for number in $(seq 0 $((gpus - 1))); do
    [ -c "$folder/gpu$number" ] || mknod "$folder/gpu$number" c 1 3 # what SLURM counts are device files: /dev/null will do
done
cat > /etc/slurm/gres.conf << END
AutoDetect=off
NodeName=$name Name=gpu File=$folder/gpu[0-$((gpus - 1))]
END
cat > "$conf" << END
ClusterName=gvbsm-test
SlurmctldHost=$name(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
GresTypes=gpu
NodeName=$name NodeAddr=127.0.0.1 CPUs=16 Boards=1 SocketsPerBoard=1 CoresPerSocket=16 ThreadsPerCore=1 RealMemory=256000 Gres=gpu:$gpus
PartitionName=main Nodes=$name Default=YES MaxTime=INFINITE State=UP
END
if ! munge -n > /dev/null 2>&1; then
    mkdir -p /run/munge
    chown munge:munge /run/munge
    chmod 755 /run/munge
    su -s /bin/sh munge -c '/usr/sbin/munged --force'
    cp /run/munge/munged.pid "$folder/munged.pid"
fi
slurmctld
slurmd -N "$name"
for _ in $(seq 60); do
    sinfo -h -o %T 2> /dev/null | grep -q idle && exit 0
    sleep 0.5
done
sinfo -N -l >&2
for log in "$folder"/log/*.log; do tail -n 5 "$log" >&2; done
exit 1
