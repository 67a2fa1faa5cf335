# /// script
# requires-python = ">=3.10"
# dependencies = ["hubprobe[remote]"]
# ///
"""One job of hf_jobs.sh: bring what has to be known from HUBPROBE_REMOTE, probe the share I/N, push. Argument: I/N."""

import os
import subprocess
import sys

workspace, shard = "index", sys.argv[1]
subprocess.run(["hubprobe", "sync", "--workspace", workspace, "--remote", os.environ["HUBPROBE_REMOTE"]], check=True)
# in place of this process, so that the signal that ends a job reaches hubprobe
os.execvp("hubprobe", ["hubprobe", "probe", "--workspace", workspace, "--shard", shard, "--max-disk", "40"])
