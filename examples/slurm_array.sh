#!/bin/bash
# Probe a crawled catalog as a SLURM array: tasks that come, go and are preempted one by one, and wait for nobody.
#
#   hubprobe crawl --workspace /shared/my-index            # before, on a host that reaches the Hub
#   hubprobe probes build --workspace /shared/my-index
#   array=$(sbatch --parsable examples/slurm_array.sh /shared/my-index)
#   sbatch --dependency=afterany:"$array" --wrap "hubprobe probe -w /shared/my-index && hubprobe complete -w /shared/my-index && hubprobe index -w /shared/my-index"
#
# The second job runs what is left, should all tasks have died, merges the small files, completes and indexes. Change the
# #SBATCH lines to what your cluster has: --array=0-15%8 would run eight of the sixteen at a time.

#SBATCH --job-name=hubprobe
#SBATCH --array=0-15
#SBATCH --gpus-per-task=1 --ntasks=1 --cpus-per-task=8 --mem=32G
#SBATCH --time=08:00:00
#SBATCH --requeue --open-mode=append
#SBATCH --output=hubprobe-%A_%a.log

set -euo pipefail

workspace=${1:?usage: sbatch examples/slurm_array.sh WORKSPACE}
export HF_HUB_DISABLE_TELEMETRY=1 HUBPROBE_LOG_FORMAT=json

# The shell gives way to hubprobe, so that SLURM's SIGTERM reaches it: it puts its work away and ends with 143.
exec hubprobe probe --workspace "$workspace" --shard auto
