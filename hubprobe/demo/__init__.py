"""The embedded demo: a hub of small, really trained classifiers, and everything needed to serve it on this machine."""

__all__: list[str] = []
