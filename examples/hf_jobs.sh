#!/bin/bash
# Probe on Hugging Face Jobs: N independent jobs, one GPU each, that share a bucket. It says what they cost at most, and asks.
#
#   hf buckets create ORG/hub                                              # once; then crawl from any machine:
#   HUBPROBE_REMOTE=hf://buckets/ORG/hub hubprobe crawl --workspace here
#   HUBPROBE_REMOTE=hf://buckets/ORG/hub hubprobe probes build --workspace here
#   examples/hf_jobs.sh hf://buckets/ORG/hub 8 l4x1 6h                     # 8 jobs of at most 6 hours; --dry-run: start none
#   hf jobs ps
#   hf jobs logs JOB_ID
#
# A job that ends at its time limit, or dies, has committed what it did; start as many again and they go on. The token of
# `hf auth login` goes along as a secret: it must be one that may write to the bucket.

set -euo pipefail

usage="usage: examples/hf_jobs.sh REMOTE JOBS FLAVOR TIME [--dry-run]"
remote=${1:?$usage} jobs=${2:?$usage} flavor=${3:?$usage} time=${4:?$usage} dry=${5:-}
script=$(dirname "$0")/hf_job.py

case $time in
*h) hours=${time%h} ;;
*d) hours=$((${time%d} * 24)) ;;
*) echo "$usage; TIME is like 6h or 2d" >&2 && exit 2 ;;
esac

# What an hour costs is the Hub's to say.
price=$(hf jobs hardware --format json | python3 -c '
import json, sys
costs = {entry["name"]: entry["cost/hour"] for entry in json.load(sys.stdin)}
sys.exit(f"the Hub has no {sys.argv[1]}: {sorted(costs)}") if sys.argv[1] not in costs else None
print(costs[sys.argv[1]].lstrip("$").replace("free", "0"))
' "$flavor")
most=$(python3 -c 'import sys; a, b, c = map(float, sys.argv[1:]); print(f"{a * b * c:.2f}")' "$jobs" "$hours" "$price")
echo "$jobs jobs of at most $hours hours on $flavor at \$$price an hour: at most \$$most" >&2
if [ "$dry" != --dry-run ]; then
    read -r -p "start them? [y/N] " answer
    [ "$answer" = y ] || exit 1
fi

for ((index = 0; index < jobs; index++)); do
    hf jobs uv run ${dry:+--dry-run} --detach --flavor "$flavor" --timeout "$time" --name "hubprobe-$index" \
        --secrets HF_TOKEN --env "HUBPROBE_REMOTE=$remote" --env HUBPROBE_LOG_FORMAT=json "$script" "$index/$jobs"
done
