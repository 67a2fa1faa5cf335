"""The best model for one's own images: candidates from the index, run on the images, ranked."""

from hubprobe.pick.verb import PickSummary, pick

__all__ = ["PickSummary", "pick"]
