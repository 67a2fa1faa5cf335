#!/bin/bash
# Probe a whole catalog on several hosts with SLURM and a file system that all of them see.
#
#   hubprobe crawl --workspace /shared/my-index            # before, on a host that reaches the Hub
#   hubprobe probes build --workspace /shared/my-index
#   sbatch examples/slurm.sh /shared/my-index
#
# Change the #SBATCH lines to what your cluster has. The job sends itself again before its time is over, and SLURM does
# so when it is preempted: what was committed is never run again.

#SBATCH --job-name=hubprobe
#SBATCH --nodes=4 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue --open-mode=append
#SBATCH --signal=B:USR1@300

set -euo pipefail

workspace=${1:?usage: sbatch examples/slurm.sh WORKSPACE}
nodes=$SLURM_JOB_NUM_NODES
gpus=${SLURM_GPUS_ON_NODE:-1} # of this host; the same on each
port=$((20000 + SLURM_JOB_ID % 12000)) # another for each job, below those that systems hand out by themselves
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts%%$'\n'*} # not `| head -n 1`: pipefail would end this script when scontrol is cut short
export HF_HUB_DISABLE_TELEMETRY=1
export OMP_NUM_THREADS=$((${SLURM_CPUS_PER_TASK:-1} > gpus ? ${SLURM_CPUS_PER_TASK:-1} / gpus : 1))

# USR1 comes 300 seconds before the end (--signal above), to this shell only.
trap 'echo "time is nearly over: sending the job again" >&2; scontrol requeue "$SLURM_JOB_ID"; exit 0' USR1

# A failure is worth seeing before four hosts start; without the network, models that are on disk can still be run.
hubprobe doctor --workspace "$workspace" >&2 || echo "hubprobe doctor found something to mend" >&2

# accelerate starts once per host; on it, one process per GPU, and each pulls its models from a store on the first host.
# --multi_gpu is right for any number of them: without it a single process would start and not say so.
# SLURM_NODEID is another on each host, so that an inner shell has to read it.
launch() {
    # shellcheck disable=SC2016
    srun --ntasks="$nodes" --ntasks-per-node=1 --kill-on-bad-exit=1 bash -c '
        exec accelerate launch --multi_gpu --num_machines "$1" --num_processes "$2" --machine_rank "$SLURM_NODEID" \
            --main_process_ip "$3" --main_process_port "$4" --mixed_precision no --dynamo_backend no \
            -m hubprobe probe --workspace "$5" --quiet
    ' launch "$nodes" "$((nodes * gpus))" "$head" "$port" "$workspace"
}

# A process that is killed takes its launch with it; the next launch redoes only what was in flight.
ended=1
for attempt in 1 2 3; do
    launch &
    if wait "$!"; then
        ended=0
        break
    fi
    echo "launch $attempt ended with an error" >&2
done
[ "$ended" -eq 0 ] || exit 1

hubprobe complete --workspace "$workspace" --quiet
hubprobe index --workspace "$workspace" --quiet
hubprobe status --workspace "$workspace"
