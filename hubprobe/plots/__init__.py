"""Pictures where people would rather look than read."""

from hubprobe.plots.funnel import funnel
from hubprobe.plots.throughput import throughput

__all__ = ["funnel", "throughput"]
