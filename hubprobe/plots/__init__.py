"""Pictures where people would rather look than read.

Every function writes one picture and returns the numbers that it shows, as rows. Strangers' text in them is disarmed:
see `hubprobe.plots.style` for pictures and `hubprobe.plots.logit_map` for HTML.
"""

from hubprobe.plots.curve import curve, recorded_curve
from hubprobe.plots.logit_map import logit_map
from hubprobe.plots.outputs import heatmap, hubness
from hubprobe.plots.progress import funnel, throughput

__all__ = ["curve", "funnel", "heatmap", "hubness", "logit_map", "recorded_curve", "throughput"]
