"""The command line: data on stdout, talk and progress on stderr.

Exit codes: 0 done, 1 an error that its message explains, 2 wrong usage, 130 interrupted.
"""

from hubprobe.cli.app import cli, main

__all__ = ["cli", "main"]
