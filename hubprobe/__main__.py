"""``python -m hubprobe``: the command line, also what ``accelerate launch -m hubprobe`` starts."""

from hubprobe.cli import main

if __name__ == "__main__":
    main()
