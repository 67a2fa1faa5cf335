"""Fill in the responses that were not run; what was run passes through bit-equal."""

from completion.complete import CompleteSummary, complete
from completion.settings import Settings

__all__ = ["CompleteSummary", "Settings", "complete"]
