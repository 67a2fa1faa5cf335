"""The encoders that texts and example images are read with: whether there is one, can be loaded, and is on disk."""

from __future__ import annotations

from collections.abc import Iterator

from hubprobe.doctor.check import Check, Setting
from hubprobe.output import size
from workspace.errors import HubprobeError

_SECONDS = 60.0  # for a handful of small requests
_ADVICE = "name another in [search] encoder of hubprobe.toml (docs/encoders.md), or auto, or none for no text queries"


def encoders(setting: Setting) -> Iterator[Check]:
    """One row for texts, one for example images where the configuration names an eye of their own."""
    search = setting.own.search
    for check, name in (("encoder", search.encoder), ("image encoder", search.image_encoder)):
        if name:
            yield _encoder(setting, check, name)


def _encoder(setting: Setting, check: str, name: str) -> Check:
    from hubprobe.doctor.hub import within
    from search.text import encoder_choice

    workspace = setting.workspace
    if name == encoder_choice.NONE:
        return Check(check, "ok", "none: this index will answer logit queries only")
    try:
        if built := encoder_choice.built_with(workspace, name, check.replace(" ", "_")):
            return Check(check, "ok", f"{built[0]} at {built[1][:12]}, as the index was built; its files are on disk")
        if not setting.is_asked:
            return Check(check, "ok", f"{name}, not looked at: the Hub is not asked")
        token = setting.learned.get("token", setting.token)
        found = within(_SECONDS, lambda: encoder_choice.choose(workspace, name, token))
    except (HubprobeError, OSError) as error:
        return Check(check, setting.bad, setting.without_token(str(error)), _ADVICE)
    about = f"{found.name} at {found.commit[:12]}" if found.commit else found.name
    if found.is_here:
        return Check(check, "ok", f"{about}, on disk")
    assert found.files is not None
    setting.learned["encoder_bytes"] = setting.learned.get("encoder_bytes", 0) + found.files.bytes
    about += f", {size(found.files.bytes)} to fetch"
    if found.files.converted:
        about += ", its weights from a pull request of the conversion bot"
    if found.passed_over:
        about += "; not taken: " + "; ".join(f"{other}: {why}" for other, why in found.passed_over)
    return Check(check, "ok", about)
