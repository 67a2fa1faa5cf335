"""The probe images: whether there are some, and if not, whether those that would be sampled can be had."""

from __future__ import annotations

from collections.abc import Iterator

from hubprobe.doctor.check import Check, Setting
from workspace.errors import HubprobeError

_SECONDS = 120.0  # the first images of a data set lie behind a few requests and some megabytes
_ADVICE = "name a folder of images, a Parquet file or a data set: hubprobe run --probes-from PLACE"


def source(setting: Setting) -> Iterator[Check]:
    """Whether a probe set is there, or its source: split, columns, and an image that opens."""
    from hubprobe.doctor.hub import within
    from probing.probes import wanted
    from probing.sources import glance

    if (setting.root / "probes" / "current.json").exists():
        setting.learned["has_probes"] = True
        yield Check("probe images", "ok", "built: the workspace has its probe set")
        return
    place = wanted(setting.workspace, setting.probes_from, token=setting.learned.get("token", setting.token))
    where = f"{place.source}, split {place.split}"
    if not (place.is_local or setting.is_asked):
        yield Check("probe images", "ok", f"{where}, not looked at: the Hub is not asked")
        return
    try:
        found = within(_SECONDS, lambda: glance(place))
    except (HubprobeError, OSError) as error:
        yield Check("probe images", "fail", setting.without_token(str(error)), _ADVICE)
        return
    about = f"{where}: column {found.image_column}" if found.image_column else f"{place.source}: {found.total:,} images"
    about += f", the first of {found.width} x {found.height} pixels"
    about += f", captions in {found.caption_column}" if found.caption_column else ""
    if found.caption_column is None and found.columns and setting.own.search.encoder.startswith("captions:"):
        advice = "name the column: hubprobe probes build --caption-column NAME; or choose a clip: encoder"
        yield Check("probe images", "fail", f"{about}; no captions, which {setting.own.search.encoder} reads", advice)
        return
    yield Check("probe images", "ok", about)
