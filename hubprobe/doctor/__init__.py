"""``hubprobe doctor``: what of this machine, its libraries, the Hub and a workspace would keep the verbs from working.

Each module yields rows about one thing; `examine` runs them all. Nothing is written, nothing is mended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hubprobe.doctor import disk, folder, hub, libraries, machine
from hubprobe.doctor.check import LEAST_BYTES, NETWORK_SECONDS, Check, Setting

__all__ = ["Check", "Setting", "examine"]

Examination = Callable[[Setting], Iterable[Check]]

_ALL: tuple[Examination, ...] = (
    libraries.python,
    libraries.packages,
    libraries.extras,
    machine.device,
    machine.processor,
    machine.limits,
    machine.walls,
    disk.disks,
    hub.environment,
    hub.contact,
    hub.reach,
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
        seconds: what one question to the Hub may take; at most three are asked, one when it cannot be reached.
        least_bytes: free space on the workspace's disk below which the row is a failure; ten times that is a warning.

    Raises nothing: a check that breaks is a row that fails and says how.
    """
    setting = Setting(Path(root), endpoint, token, offline, seconds, least_bytes)
    for examination in _ALL:
        try:
            yield from examination(setting)
        except Exception as error:  # noqa: BLE001 - the others must still be heard
            name = examination.__name__
            said = f"the check itself broke: {type(error).__name__}: {setting.without_token(str(error))}"
            yield Check(name, "fail", said, "report this, with the row")
