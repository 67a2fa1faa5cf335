"""The command line: data on stdout, talk and progress on stderr; exit codes 0 done, 1 error, 2 usage, 130 interrupted."""

from hubprobe.cli.app import cli, main

__all__ = ["cli", "main"]
