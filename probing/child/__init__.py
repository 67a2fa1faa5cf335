"""Where models run: the pipeline inside a process, the child process, its walls, and the parent's side of it."""
