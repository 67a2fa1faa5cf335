"""Whether a repository can be probed: what is asked of it, and the rules that judge the answers."""
