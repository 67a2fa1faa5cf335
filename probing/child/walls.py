"""The walls around the process that runs strangers' models: no network, no secrets, no programs, few files.

Nothing of a repository is meant to run; the walls are for the day when something does, or when a library can be talked
into opening what a config names. Layers, from the weakest to the strongest, and what each is worth:

* **environment**: an allowlist, so that no token, key or password of the parent is there to be read. Everywhere.
* **audit hook**: Python itself refuses connections, other programs, unpickling, and files outside the folders that
  running a model needs. Everywhere, but only for what goes through Python: native code passes it by.
* **seccomp**: Linux on x86-64 and ARM64, also in containers. The kernel refuses sockets, other programs and debugging,
  whoever asks.
* **Landlock**: Linux 5.13 and later. The kernel refuses to open files outside those folders, and to run any file.
* **namespace**: Linux where it is permitted. The process has a network of its own in which there is nobody.

The last three may stand in the way of a GPU's driver, which opens devices, and are raised for processors only. Call
`close_network` before any thread is started and `raise_walls` when all libraries are imported. What stood is returned,
and ``hubprobe doctor`` shows it: see `standing`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import site
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_FILE_BYTES = 64 * 1024**3
"""Largest file that a model's process may write: what all preprocessed probes together may take."""

MAX_OPEN_FILES = 4096
"""Files it may have open at once."""

_LIBRARY = str(Path(__file__).resolve().parents[2])

_NAMES = {"LANG", "LANGUAGE", "LOGNAME", "PATH", "TZ", "USER", "VIRTUAL_ENV", "CONDA_PREFIX", "SYSTEMROOT", "WINDIR"}
_PREFIXES = (
    "ATEN_", "CUBLAS_", "CUDA_", "CUDNN_", "DYLD_", "GLIBC_", "GOMP_", "HIP_", "HSA_", "KMP_", "LC_", "LD_", "MALLOC_",
    "MIOPEN_", "MKL_", "NVIDIA_", "OMP_", "OPENBLAS_", "PYTHON", "PYTORCH_", "ROCM_", "ROCR_", "TORCH_",
)  # fmt: skip
_SECRET = ("AUTH", "CREDENTIAL", "KEY", "PASS", "SECRET", "TOKEN")

FIXED = {
    "OMP_NUM_THREADS": "1",  # each batch runs on one thread: see probing.model.forward
    # Keep freed memory: activations of tens of megabytes would else be mapped, zeroed and unmapped again at every
    # layer. EfficientNet-Lite0, batch 64, one thread: 68 ms of processor time per image without, 30 ms with.
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "HF_HUB_OFFLINE": "1",  # what a model needs was fetched: its config must not make a library ask for more
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "USE_HUB_KERNELS": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}
"""What every child's environment sets; glibc reads its own before the first line of Python runs."""


def environment(parent: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return the environment of a child of a process with ``parent``'s; ``home`` is its home and temporary folder."""
    kept = {
        name: value
        for name, value in parent.items()
        if (name in _NAMES or name.startswith(_PREFIXES)) and not any(word in name.upper() for word in _SECRET)
    }
    places = dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME"), str(home))
    paths = {
        "HF_HOME": str(home / "huggingface"),
        "HF_TOKEN_PATH": str(home / "no-token"),
        "PYTHONPATH": os.pathsep.join(p for p in [_LIBRARY, *sys.path] if p),
        "PYTHONUSERBASE": site.getuserbase(),
    }
    return kept | places | paths | FIXED


@dataclass
class Fence:
    """What the process may open."""

    write: Sequence[Path]  # folders it may write to
    read: Sequence[Path]  # folders and files it may read, beside those of Python and its libraries
    # folders of the models that are run now, set as they come: code and pickles in them are never opened
    strangers: list[str] = field(default_factory=list)

    def roots(self) -> tuple[list[str], list[str]]:
        """Return what may be read, and what may be written to; resolved, only what there is."""
        write = _existing([*self.write, os.devnull])
        return _existing([*_libraries(), *self.read, *self.write]), write


def _existing(paths: Sequence[Path | str]) -> list[str]:
    return sorted({os.path.realpath(path) for path in paths if str(path) and os.path.exists(path)})  # noqa: PTH110


def _libraries() -> set[str]:
    """Return where Python, its libraries and what they have mapped lie, and what the system tells about itself."""
    found = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path}
    found |= {"/usr", "/lib", "/lib64", "/etc", "/sys", "/dev/urandom", "/dev/random", "/dev/zero"}
    found |= {f"/proc/{os.getpid()}"} | {f"/proc/{name}" for name in ("cpuinfo", "meminfo", "stat", "sys", "version")}
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        maps = []
    found |= {str(Path(line.split(maxsplit=5)[5]).parent) for line in maps if ".so" in line}
    # where somebody happens to stand is no library, unless this very package lies there
    return (found - {"", "/", str(Path.cwd()), str(Path.home()), os.environ.get("HOME", "")}) | {_LIBRARY}


# ── layers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def close_network() -> bool:
    """Move this process to a network of its own in which there is nobody; return whether that could be done.

    Call it before a second thread is started. Root keeps its rights over files where it can: a namespace of users,
    which others need for this, would take them.
    """
    uid, gid = (os.getuid(), os.getgid()) if hasattr(os, "getuid") else (0, 0)
    if not sys.platform.startswith("linux"):
        return False
    if _call("unshare", _CLONE_NEWNET) == 0:
        return True
    if uid == 0 or _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny", encoding="utf-8")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="utf-8")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="utf-8")
    except OSError:  # it is a process of nobody's then, and owns its files still
        return True
    return True


def die_with_parent(parent: int) -> None:
    """Have Linux kill this process when its parent ends; call it after `close_network`, which would undo it."""
    if sys.platform.startswith("linux"):
        _call("prctl", _PR_SET_PDEATHSIG, 9, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def raise_walls(fence: Fence, *, kernel: bool) -> list[str]:
    """Raise the walls, the ``kernel``'s too, and return those that stand: ``audit hook``, ``seccomp``, ``landlock``."""
    bound_resources()
    standing = ["audit hook"]
    reads, writes = fence.roots()
    if kernel and sys.platform.startswith("linux"):
        _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if _landlock(reads, writes):
            standing.append("landlock")
        if _seccomp():
            standing.append("seccomp")
    sys.addaudithook(_hook(reads, writes, fence.strangers))
    return standing


def bound_resources() -> None:
    """Bound files and their size, and leave no core: a dump of this process would be gigabytes of weights."""
    wanted = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": MAX_FILE_BYTES, "RLIMIT_NOFILE": MAX_OPEN_FILES}
    with suppress(ImportError):  # Windows
        for name, most in wanted.items():
            bound(name, most, for_good=True)


def bound(name: str, most: int, *, for_good: bool = False) -> None:
    """Set a limit of this process, as far as the one that stands allows; raises `ImportError` on Windows."""
    import resource

    kind = getattr(resource, name)
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most if for_good else hard))


# ── the audit hook ───────────────────────────────────────────────────────────────────────────────────────────────────

_REFUSED = {
    "os.chdir", "os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.posix_spawn", "os.spawn",
    "os.startfile", "os.system", "pickle.find_class", "pty.spawn", "socket.bind", "socket.connect",
    "socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname", "socket.sendmsg", "socket.sendto",
    "subprocess.Popen",
}  # fmt: skip
_CHANGES = {
    "os.chmod": 1, "os.chown": 1, "os.link": 2, "os.mkdir": 1, "os.remove": 1, "os.rename": 2, "os.rmdir": 1,
    "os.symlink": 2, "os.truncate": 1, "os.utime": 1,
}  # fmt: skip
"""Events that change files, and how many of their arguments are paths."""

_NEVER = (
    ".bin", ".ckpt", ".dll", ".dylib", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth", ".py", ".pyc",
    ".pyd", ".so", ".tar", ".zip",
)  # fmt: skip
"""Ends of the names of files that are not opened in a model's folder: code, and what can hold pickles."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _hook(reads: Sequence[str], writes: Sequence[str], strangers: Sequence[str]) -> Callable[[str, Any], None]:
    """Return the audit hook; it raises `PermissionError`, which ends the model that asked."""

    def check(path: Any, roots: Sequence[str], verb: str) -> None:
        if isinstance(path, int):
            return
        full = os.path.realpath(os.fsdecode(path))
        if not _within(full, roots):
            raise PermissionError(errno.EACCES, f"a model's process may not {verb} this file", full)

    def hook(event: str, arguments: Any) -> None:
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, int):
                return
            name = os.fsdecode(path)
            if name.lower().endswith(_NEVER) and _within(os.path.abspath(name), tuple(strangers)):  # noqa: PTH100 - unresolved
                raise PermissionError(errno.EACCES, "code and pickles of a repository are never opened", name)
            writing = any(c in mode for c in "wax+") if mode else flags & _WRITING
            if mode is None and not writing and not os.path.isabs(name):  # noqa: PTH117
                return  # may be relative to an open folder, which is not told here
            check(path, writes if writing else reads, "write to" if writing else "read")
        elif event in _REFUSED:
            raise PermissionError(errno.EACCES, f"a model's process may not use {event}")
        elif event in _CHANGES:
            for path in arguments[: _CHANGES[event]]:
                if arguments[-1] in (-1, None) or event == "os.truncate" or os.path.isabs(path):  # noqa: PTH117
                    check(path, writes, "change")
        elif event == "ctypes.dlopen" and arguments[0] is not None and _within(arguments[0], (*strangers, *writes)):
            raise PermissionError(errno.EACCES, "a model's process may not load this library", arguments[0])

    return hook


def _within(path: Any, roots: Sequence[str]) -> bool:
    text = os.fsdecode(path)
    return any(text == root or text.startswith(root + os.sep) for root in roots)


# ── Linux ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SYS_LANDLOCK = 444  # create_ruleset, add_rule, restrict_self: the same numbers everywhere

_FILES_READ = 1 << 2 | 1 << 3  # read a file, list a folder
_FILES_ALL = (1 << 13) - 1  # also run, write, remove, make of every kind
_REFER, _TRUNCATE = 1 << 13, 1 << 14  # since versions 2 and 3
_OF_A_FILE = 1 << 1 | 1 << 2 | _TRUNCATE  # the only ones that a rule about a file, not a folder, may name
_TCP = 1 << 0 | 1 << 1  # bind and connect, since version 4
_SCOPES = 1 << 0 | 1 << 1  # abstract sockets and signals of others, since version 6


def _call(name: str, *arguments: int) -> int:
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (AttributeError, OSError):
        return -1
    return int(function(*[ctypes.c_ulong(argument) for argument in arguments]))


def _landlock(reads: Sequence[str], writes: Sequence[str]) -> int:
    """Restrict this thread, and those it will start, to these folders; return Landlock's version, 0 without it."""
    version = _call("syscall", _SYS_LANDLOCK, 0, 0, 1)
    if version < 1:
        return 0
    handled = _FILES_ALL | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    rules = struct.pack("=QQQ", handled, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _call("syscall", _SYS_LANDLOCK, _address(rules), size, 0)
    if ruleset < 0:
        return 0
    try:
        granted = dict.fromkeys(reads, _FILES_READ) | dict.fromkeys(writes, handled & ~1)  # 1: run it
        for path, rights in granted.items():
            _allow(ruleset, path, rights & handled)
        return version if _call("syscall", _SYS_LANDLOCK + 2, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # gone, or not ours to see: then it is not read either
        return
    try:
        if not Path(path).is_dir():
            rights &= _OF_A_FILE
        rule = struct.pack("=Qi", rights, handle)
        _call("syscall", _SYS_LANDLOCK + 1, ruleset, 1, _address(rule), 0)
    finally:
        os.close(handle)


_alive: list[Any] = []  # what the kernel is given the address of must outlive the call


def _address(data: bytes) -> int:
    buffer = ctypes.create_string_buffer(data, len(data))
    _alive.append(buffer)
    return ctypes.addressof(buffer)


@dataclass(frozen=True)
class _Machine:
    """The kernel's numbers on one kind of machine: its own, those of `seccomp` and `socket`, and what is refused."""

    audit: int
    seccomp: int
    refused: tuple[int, ...]


_MACHINES = {
    # socket, execve, execveat, ptrace, process_vm_readv, process_vm_writev, unshare, setns, mount, bpf,
    # perf_event_open, userfaultfd, keyctl, add_key, request_key, pidfd_getfd, io_uring_setup, kill, tkill,
    # rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal
    "x86_64": _Machine(
        0xC000003E,
        317,
        (41, 59, 322, 101, 310, 311, 272, 308, 165, 321, 298, 323, 250, 248, 249, 438, 425, 62, 200, 129, 297, 424),
    ),
    "aarch64": _Machine(
        0xC00000B7,
        277,
        (198, 221, 281, 117, 270, 271, 97, 268, 40, 280, 241, 282, 219, 217, 218, 438, 425, 129, 130, 138, 240, 424),
    ),
}


def _seccomp() -> bool:
    """Have the kernel refuse, in all threads, the calls that a model's arithmetic has no use for."""
    machine = _MACHINES.get(platform.machine())
    if machine is None or sys.maxsize < 2**32:
        return False
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    refuse = 0x00050000 | errno.EACCES
    count = len(machine.refused)
    program = [
        (load, 0, 0, 4),
        (equal, 0, count + 3, machine.audit),  # calls of another kind of machine: refused
        (load, 0, 0, 0),
        (at_least, count + 1, 0, 0x40000000),  # and of x32, whose numbers are others
        *((equal, count - i, 0, number) for i, number in enumerate(machine.refused)),
        (answer, 0, 0, 0x7FFF0000),  # all else is allowed
        (answer, 0, 0, refuse),
    ]
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    head = struct.pack("@HP", len(program), _address(code))
    return _call("syscall", machine.seccomp, 1, 1, _address(head)) == 0  # a filter, of all threads


# ── what stands here ─────────────────────────────────────────────────────────────────────────────────────────────────


def standing(seconds: float = 20.0) -> list[str]:
    """Return the walls that stand on this system, tried in a process of their own; empty when that fails."""
    with tempfile.TemporaryDirectory() as home:
        try:
            done = subprocess.run(
                [sys.executable, "-m", __name__],
                env=environment(os.environ, Path(home)),
                capture_output=True,
                timeout=seconds,
                check=True,
            )
            return [str(name) for name in json.loads(done.stdout)]
        except (OSError, ValueError, subprocess.SubprocessError):
            return []


def _try() -> None:
    found = ["namespace"] if close_network() else []
    found += raise_walls(Fence([Path(tempfile.gettempdir())], []), kernel=True)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    _try()
