"""``hubprobe doctor``: what of this machine, its libraries, the Hub and a workspace would keep the verbs from working.

Each module yields rows about one thing; `examine` runs them all. Nothing is written, nothing is mended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hubprobe.doctor import folder, hub, machine
from hubprobe.doctor.check import LEAST_BYTES, NETWORK_SECONDS, Check, Setting

__all__ = ["Check", "Setting", "before_run", "examine"]

Examination = Callable[[Setting], Iterable[Check]]

_BEFORE_RUN: tuple[Examination, ...] = (hub.reach, hub.encoders, hub.probe_images, machine.disks)
"""What `hubprobe run` needs of the world: looked at before it begins. The disks last: the others say what they hold."""

_ALL: tuple[Examination, ...] = (
    machine.python,
    machine.packages,
    machine.extras,
    machine.device,
    machine.processor,
    machine.limits,
    machine.walls,
    hub.environment,
    hub.contact,
    *_BEFORE_RUN,
    folder.workspace,
)


def examine(
    root: str | Path = ".",
    *,
    endpoint: str | None = None,
    token: str | None = None,
    offline: bool = False,
    seconds: float = NETWORK_SECONDS,
    least_bytes: int = LEAST_BYTES,
) -> Iterator[Check]:
    """Yield a row for everything that is looked at, in a fixed order.

    Args:
        root: the workspace's folder; it need not exist.
        endpoint: address of the Hub; the workspace's own when None.
        token: for the Hub; the machine's own when None. It appears in no row.
        offline: leave out what asks the Hub.
        seconds: what one question to the Hub may take; one that cannot be reached is asked once. The encoder and the
            probe images, where they have still to be had, take a few questions more.
        least_bytes: free space on the workspace's disk below which the row is a failure; ten times that is a warning.

    Raises nothing: a check that breaks is a row that fails and says how.
    """
    yield from _examined(_ALL, Setting(Path(root), endpoint, token, offline, seconds, least_bytes))


def before_run(
    root: str | Path,
    *,
    endpoint: str | None = None,
    token: str | None = None,
    probes_from: str | None = None,
    limit: int | None = None,
    seconds: float = NETWORK_SECONDS,
    least_bytes: int = LEAST_BYTES // 10,
) -> Iterator[Check]:
    """Yield what `hubprobe run` needs of the Hub, the encoder, the probe images and the disks; see `examine`.

    What the workspace has already is not asked for again: a Hub that it crawled (the crawl asks it first of all), its
    probe set, the encoder of its index. ``probes_from`` and ``limit`` are those of `hubprobe.run`; ``least_bytes`` is
    free space beside what the run is known to need.
    """
    setting = Setting(
        Path(root),
        endpoint,
        token,
        offline=False,
        seconds=seconds,
        least_bytes=least_bytes,
        is_run=True,
        probes_from=probes_from,
        limit=limit,
    )
    crawled = (setting.root / "catalog" / ".lock").is_file()  # every crawl leaves it
    yield from _examined(_BEFORE_RUN[1:] if crawled else _BEFORE_RUN, setting)


def _examined(examinations: Iterable[Examination], setting: Setting) -> Iterator[Check]:
    for examination in examinations:
        try:
            yield from examination(setting)
        except Exception as error:  # noqa: BLE001 - the others must still be heard
            name = examination.__name__
            said = f"the check itself broke: {type(error).__name__}: {setting.without_token(str(error))}"
            yield Check(name, "fail", said, "report this, with the row")
