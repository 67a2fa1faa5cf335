"""``probe --engine ray``: one prober on every GPU, or every few cores, of a Ray cluster; one driver hands out.

The driver plans, hands models out (`probing.fetching`) and reports; each of Ray's actors is a prober as on one machine,
with its child, its deadlines and its caches, and commits by itself, to the disk that all see or to the remote. So the
driver knows nothing that the files do not: it may die, and the same command goes on. Machines, GPUs and autoscaling are
Ray's: actors that wait for room are what makes it add machines.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from hubprobe.sync import opened
from probing import inflight
from probing.fetching import AHEAD_MODELS, HandOut
from probing.plan import Task
from probing.prober import Work, is_booked, run_all
from probing.settings import Settings, here
from workspace import Config, HubprobeError, Workspace, WorkspaceError, model_file_name
from workspace.files import short_hash
from workspace.layout import MARKER
from workspace.locks import lock
from workspace.remote import Remote
from workspace.version import __version__

_log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
"""How long a cluster's head may take to let the driver in."""

UPLOAD_SECONDS = 900.0
"""How long a model that was committed on a node may take to arrive in the remote."""

LOOK_SECONDS = 5.0
"""How often the driver looks whether the cluster has grown."""

CPUS = 4
"""Cores of an actor where there are no GPUs, at most as many as a node has."""

GIVE_UP_AFTER = 3
"""Actors that fail one after the other, with no model ended in between, before the run does."""


End = tuple[dict[str, Any] | None, bool]
"""How a model ended: its row, None when another had committed it before, and whether it was committed here."""


@dataclass(frozen=True)
class Spec:
    """What an actor has to know. ``root``: the workspace's folder. ``per_actor``: what of a node it takes."""

    root: str
    config: Config
    settings: Settings
    common: Mapping[str, Any]
    per_actor: Mapping[str, float]
    device: str | None
    token: str | None
    fetcher: Mapping[str, Any]
    remote: str
    version: str = __version__


class Prober:
    """An actor: the prober of one machine, fed with one model after the other."""

    def __init__(self, spec: Spec, number: int) -> None:
        self._spec, self._number = spec, number
        self._tasks: queue.Queue[Task | None] = queue.Queue()
        self._ends: dict[Task, Future[End]] = {}
        self._error: BaseException | None = None

    def ready(self) -> str:
        """Begin; return the name of this host. Raises `WorkspaceError` when this node cannot take part."""
        if self._spec.version != __version__:
            raise WorkspaceError(f"{socket.gethostname()} has hubprobe {__version__}, the driver {self._spec.version}")
        self._workspace, self._remote = _workspace_here(self._spec)
        self._thread = threading.Thread(target=self._serve, name="prober")
        self._thread.start()
        return socket.gethostname()

    def run(self, task: Task) -> End:
        """Run a model, and wait until it is booked."""
        end: Future[End] = Future()
        self._ends[task] = end
        if self._error is not None:
            raise self._error
        self._tasks.put(task)
        row, committed = end.result()
        if row is not None and committed and self._remote is not None:  # the driver is told when it is safe
            place, until = (model_file_name(task.repo_id, task.sha), task.number), monotonic() + UPLOAD_SECONDS
            while place not in self._remote.commits:
                if monotonic() > until:
                    raise WorkspaceError(f"{task.repo_id} could not be pushed within {UPLOAD_SECONDS:.0f} s")
                sleep(0.05)
        return row, committed

    def close(self) -> None:
        """Take no more models, and wait until the last is booked."""
        self._tasks.put(None)
        self._tasks.put(None)  # two threads fetch
        self._thread.join()

    def _serve(self) -> None:
        import crawler

        spec = self._spec
        peers = max(1, int(_node_size(spec.per_actor)))
        settings = here(spec.settings, peers, spec.device)
        if "GPU" not in spec.per_actor:
            settings = replace(settings, threads=max(1, int(spec.per_actor["CPU"])))
        work = Work(self._take, self._told, self._is_done, self._number)
        try:
            fetcher = crawler.Fetcher(self._workspace, token=spec.token, **spec.fetcher)
            try:
                run_all(self._workspace, fetcher, work, settings, spec.common, isolate=True)
            finally:
                fetcher.close()
        except BaseException as error:  # noqa: BLE001 - told to the driver, by every model that waits
            self._error = error
            for end in list(self._ends.values()):
                if not end.done():
                    end.set_exception(error)

    def _take(self) -> Task | None:
        while (task := self._tasks.get()) is not None and self._is_done(task):
            pass
        return task

    def _told(self, fields: dict[str, Any], committed: bool) -> None:
        key = fields["repo_id"], fields["sha"]
        if committed and self._remote is not None:
            self._remote.committed((model_file_name(*key), fields["attempt"]))
        task = next(task for task in self._ends if (task.repo_id, task.sha) == key)
        self._ends.pop(task).set_result((dict(fields), committed))

    def _is_done(self, task: Task) -> bool:
        """Return whether another has committed a model, which ends it here."""
        done = is_booked(self._workspace, self._remote, task)
        if done and (end := self._ends.pop(task, None)) is not None:
            end.set_result((None, False))
        return done


def _workspace_here(spec: Spec) -> tuple[Workspace, Remote | None]:
    """Return the workspace on this node: the same folder, or where there is none a folder filled by the remote."""
    root, parts = Path(spec.root), ["commits"]
    if not (root / MARKER).exists():
        if not spec.remote:
            raise WorkspaceError(
                f"{socket.gethostname()} does not see the driver's {root}: put the workspace on a disk that all nodes "
                "see under one path, or give it a remote (docs/sync.md)"
            )
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        root, parts = cache / "hubprobe" / "ray" / short_hash(spec.remote), ["catalog", "probes", "commits"]
    workspace, remote = Workspace(root, spec.config, spec.remote), None
    if spec.remote:
        root.parent.mkdir(parents=True, exist_ok=True)
        with lock(root.parent / f".{root.name}.lock", wait=True) or nullcontext():  # once for all actors of a node
            Workspace.create(root, spec.config)
            remote = opened(workspace)
            remote.pull(*parts)
    if workspace.probe_set != spec.settings.probe_set:
        raise WorkspaceError(f"{socket.gethostname()} has another probe set in {workspace.root} than the driver")
    return workspace, remote


def _node_size(per_actor: Mapping[str, float]) -> float:
    ray = import_module("ray")
    me = ray.get_runtime_context().get_node_id()
    return max(_slots(node, per_actor) for node in ray.nodes() if node["NodeID"] == me)


def _slots(node: Mapping[str, Any], per_actor: Mapping[str, float]) -> int:
    """Return how many actors a node has room for."""
    has = node["Resources"]
    return int(min(has.get(name, 0.0) / amount for name, amount in per_actor.items())) if node["Alive"] else 0


@dataclass(frozen=True)
class Ray:
    """The engine: see `probing.prober.Engine`. Raises `HubprobeError` when Ray is not installed."""

    workspace: Workspace  # on a disk that every node sees under the same path, or with a remote
    address: str = "auto"  # of ``RAY_ADDRESS`` or of this machine; ``local``: one that begins and ends with this run
    workers: int | None = None  # actors at most, waited for, which adds machines; None: as many as there is room for
    cpus: float | None = None  # cores of an actor
    gpus: float | None = None  # GPUs of an actor, a fraction too; None: 1 when the cluster has any, else 0
    device: str | None = None  # torch device of an actor; the best there is when None
    token: str | None = field(default=None, repr=False)  # for the Hub
    fetcher: Mapping[str, Any] = field(default_factory=dict)  # further options of `crawler.Fetcher`

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            raise HubprobeError("--engine ray needs Ray: pip install 'hubprobe[ray]'")

    def __call__(
        self,
        tasks: Sequence[Task],
        settings: Settings,
        common: Mapping[str, Any],
        told: Callable[[dict[str, Any], bool], None],
    ) -> int:
        """Run ``tasks`` on the cluster; return how many actors took part."""
        with _connected(self.address) as ray:
            per_actor = self._per_actor(ray)
            spec = Spec(
                root=str(self.workspace.root.absolute()),
                config=self.workspace.config,
                settings=settings,
                common=dict(common),
                per_actor=per_actor,
                device=self.device,
                token=self.token,
                fetcher=self.fetcher,
                remote=self.workspace.remote,
            )
            driver = _Driver(ray, spec, HandOut(tasks), self.workers, told)
            try:
                driver.run()
            finally:
                for task in driver.close():  # what is put away on purpose has not died
                    stem = model_file_name(task.repo_id, task.sha)
                    inflight.path_of(self.workspace, stem).unlink(missing_ok=True)
            return len(driver.took_part)

    def _per_actor(self, ray: Any) -> dict[str, float]:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = self.gpus if self.gpus is not None else float(any(node.get("GPU") for node in nodes))
        most = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
        cpus = self.cpus if self.cpus is not None else 1.0 if gpus else min(CPUS, most or CPUS)
        return {"CPU": cpus, **({"GPU": gpus} if gpus else {})}


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Yield ray, connected to the cluster; leave it after, and end it when it was ours."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    ray = import_module("ray")
    mine = not ray.is_initialized()
    options = {"log_to_driver": False, "logging_level": logging.WARNING, "namespace": "hubprobe"}
    if address == "local":
        os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default, so that whatever else runs would go first
        options |= {"include_dashboard": False, "object_store_memory": 100_000_000, "_node_ip_address": "127.0.0.1"}
    try:
        if mine:
            named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
            host, _, port = named.rpartition(":")
            if host and port.isdigit() and "://" not in named:  # Ray would ask a silent one for twenty minutes
                socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
            with _on_loopback(address):
                ray.init(address=address, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise HubprobeError(
            f"no Ray cluster answers at '{address}' ({str(error).splitlines()[0]}): start one with 'ray start --head' "
            "or 'ray up CLUSTER.yaml', name it with --address, or use this machine alone with --address local"
        ) from error
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


@contextmanager
def _on_loopback(address: str) -> Iterator[None]:
    """Have Ray keep to loopback where that is asked for.

    On Linux it takes the machine's own address for 127.0.0.1, and then listens to everybody who can reach the machine:
    whoever it lets in runs what he likes. On other systems it does not, and this is how it tells them apart.
    """
    constants: Any = import_module("ray._private.ray_constants")
    several = getattr(constants, "ENABLE_RAY_CLUSTER", None)
    if several is None or not (address == "local" or address.startswith(("127.0.0.1:", "localhost:"))):
        yield
        return
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = several


class _Driver:
    """The loop that keeps actors busy until no model is left."""

    def __init__(
        self,
        ray: Any,
        spec: Spec,
        handout: HandOut[int],
        workers: int | None,
        told: Callable[[dict[str, Any], bool], None],
    ) -> None:
        self._ray, self._handout, self._workers, self._told = ray, handout, workers, told
        self._spec = ray.put(spec)
        self._per_actor = dict(spec.per_actor)
        options = {"num_cpus": self._per_actor["CPU"], "num_gpus": self._per_actor.get("GPU", 0)}
        self._kind = ray.remote(Prober).options(max_concurrency=AHEAD_MODELS + 2, **options)
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, tuple[int, Task | None]] = {}  # None: whether it is ready
        self._leaving: list[Any] = []
        self._failed = self._next = 0
        self.took_part: set[int] = set()

    def run(self) -> None:
        """Return when every model has ended. Raises `HubprobeError` when one prober after the other fails."""
        looked = -math.inf
        while self._handout.left:
            if monotonic() - looked > LOOK_SECONDS:
                looked = monotonic()
                self._grow()
            for number, task in self._handout.ready():
                self._calls[self._actors[number].run.remote(task)] = number, task
            done, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=1.0) if self._calls else ([], [])
            for call in done:
                self._take(call)

    def close(self) -> list[Task]:
        """End the actors: those that ended all they had by themselves, others by force; return what these had."""
        cut = [task for number in self._actors for task in self._handout.held(number)]
        for number in list(self._actors):
            if self._handout.left:
                self._ray.kill(self._actors.pop(number))
            else:
                self._release(number)
        if self._leaving:
            self._ray.wait(self._leaving, num_returns=len(self._leaving), timeout=30.0)
        return cut

    def _grow(self) -> None:
        """Start as many actors as the cluster has room for, or were asked for, while models wait for one."""
        room = sum(_slots(node, self._per_actor) for node in self._ray.nodes())
        wanted = min(self._workers or max(room, 1), len(self._actors) + self._handout.waiting)
        for _ in range(wanted - len(self._actors)):
            number, self._next = self._next, self._next + 1
            actor = self._actors[number] = self._kind.remote(self._spec, number)
            self._calls[actor.ready.remote()] = number, None
        if not room and not self._workers:
            _log.warning("no node of the cluster has room for an actor of %s: waiting for one", self._per_actor)

    def _take(self, call: Any) -> None:
        number, task = self._calls.pop(call)
        if number not in self._actors:
            return
        errors = import_module("ray.exceptions")
        try:
            answer = self._ray.get(call)
        except errors.RayActorError as error:
            died_with_node = "node has died" in str(error) or getattr(error, "preempted", False)
            self._lose(number, error, by_itself=not died_with_node)
            return
        except errors.RayTaskError as error:  # its prober ended: a full disk, a child that does not start
            self._lose(number, error.cause or error, by_itself=True)
            return
        if task is None:
            _log.info("prober %d is ready on %s", number, answer)
            self._handout.join(number)
            return
        self._handout.ended(number, task)
        self._failed = 0
        self.took_part.add(number)
        fields, committed = answer
        if fields is not None:
            self._told(fields, committed)
        if not self._handout.waiting and not self._handout.held(number):
            self._release(number)

    def _release(self, number: int) -> None:
        """Let go of an actor that gets nothing more: its node is free for others, or for an autoscaler to take away."""
        self._handout.lost(number)
        self._leaving.append(self._actors.pop(number).close.remote())

    def _lose(self, number: int, error: BaseException, *, by_itself: bool) -> None:
        actor = self._actors.pop(number)
        self._ray.kill(actor)
        back = self._handout.lost(number, by_itself=by_itself)
        _log.warning("prober %d is gone, %d models go to others: %s", number, len(back), str(error).splitlines()[0])
        self._failed += by_itself
        if self._failed >= GIVE_UP_AFTER:
            raise HubprobeError(f"{self._failed} probers failed one after the other; the last: {error}") from error
