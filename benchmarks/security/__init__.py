"""Hostile inputs by the thousand: ``python -m benchmarks.security``."""
