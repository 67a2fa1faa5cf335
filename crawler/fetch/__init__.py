"""Bringing the files of models to disk: pinned, verified, within bounds."""
