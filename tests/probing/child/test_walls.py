"""The walls around a model's process, each tried from inside by what it is there to refuse."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from probing.child import runners, walls
from probing.model import placement
from probing.settings import Settings
from workspace import Workspace

LINUX = sys.platform.startswith("linux")


def _inside(code: str, folder: Path, kernel: bool = False, **environment: str) -> dict[str, str]:
    """Return what became of each statement of ``code``, one a line, in a process behind the walls: "" or its error.

    In ``folder`` lie ``open`` (may be written to), ``model`` (a repository's files) and ``outside``.
    """
    script = f"""
        import ctypes, ctypes.util, json, os, pickle, shutil, socket, subprocess, sys, tempfile, threading
        from pathlib import Path
        from probing.child import walls
        OPEN, MODEL, OUTSIDE = (Path({str(folder)!r}, name) for name in ("open", "model", "outside"))
        libc = ctypes.CDLL(None, use_errno=True)
        def native(result):
            assert result >= 0, os.strerror(ctypes.get_errno())
        walls.close_network() if {kernel} else None
        fence = walls.Fence([OPEN], [MODEL], [str(MODEL)])
        walls.raise_walls(fence, kernel={kernel})
        found = {{}}
        for line in {code!r}.strip().splitlines():
            try:
                exec(line.strip())
                found[line.strip()] = ""
            except BaseException as error:
                found[line.strip()] = repr(error)
        sys.stdout.write(json.dumps(found))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=walls.environment(os.environ, folder / "open") | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("open", "model", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for name in ("modeling.py", "pytorch_model.bin", "weights.PKL", "lib.so"):
        (tmp_path / "model" / name).write_bytes(b"x = 1")
    (tmp_path / "outside" / "secret").write_text("secret")
    (tmp_path / "model" / "link.json").symlink_to(tmp_path / "outside" / "secret")
    (tmp_path / "model" / "to-outside").symlink_to(tmp_path / "outside")
    return tmp_path


REFUSED = """
    (OUTSIDE / "secret").read_text()
    (MODEL / "link.json").read_text()
    (MODEL / "to-outside" / "secret").read_text()
    os.open(OUTSIDE / "secret", os.O_RDONLY)
    os.open(os.fsencode(OUTSIDE / "secret"), os.O_RDWR)
    (OPEN / ".." / "outside" / "secret").read_text()
    (OUTSIDE / "new").write_text("x")
    (MODEL / "config.json").write_text("x")
    os.open(OUTSIDE / "new", os.O_CREAT | os.O_WRONLY)
    os.remove(OUTSIDE / "secret")
    os.rename(OUTSIDE / "secret", OPEN / "secret")
    os.rename(MODEL, OPEN / "model")
    os.mkdir(OUTSIDE / "new")
    os.rmdir(OUTSIDE)
    os.symlink(OUTSIDE / "secret", OPEN / "secret")
    os.link(OUTSIDE / "secret", OPEN / "secret")
    os.truncate(OUTSIDE / "secret", 0)
    os.chmod(OUTSIDE / "secret", 0o777)
    shutil.rmtree(OUTSIDE)
    shutil.copy(OUTSIDE / "secret", OPEN / "secret")
    subprocess.run(["true"])
    subprocess.run("true", shell=True)
    os.system("true")
    os.popen("true").read()
    os.execv("/bin/true", ["true"])
    os.posix_spawn("/bin/true", ["true"], {})
    os.spawnl(os.P_WAIT, "/bin/true", "true")
    os.fork()
    os.kill(os.getppid(), 0)
    os.killpg(0, 0)
    os.chdir(OUTSIDE)
    socket.create_connection(("127.0.0.1", PORT), 5)
    socket.getaddrinfo("localhost", 80)
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", PORT))
    socket.socket().bind(("127.0.0.1", 0))
    socket.gethostbyname("localhost")
    __import__("urllib.request").request.urlopen("http://127.0.0.1:PORT/", timeout=5)
    pickle.loads(b"cbuiltins\\nlen\\n.")
    pickle._loads(b"cbuiltins\\nlen\\n.")
    (MODEL / "modeling.py").read_text()
    (MODEL / "pytorch_model.bin").read_bytes()
    (MODEL / "weights.PKL").open("rb")
    __import__("importlib.machinery").machinery.SourceFileLoader("m", str(MODEL / "modeling.py")).get_code("m")
    ctypes.CDLL(str(MODEL / "lib.so"))
"""

ALLOWED = """
    (MODEL / "config.json").read_text()
    (OPEN / "file").write_text("x")
    os.rename(OPEN / "file", OPEN / "other")
    os.truncate(OPEN / "other", 0)
    tempfile.TemporaryDirectory().cleanup()
    (OPEN / "deep" / "er").mkdir(parents=True)
    shutil.rmtree(OPEN / "deep")
    Path("/dev/null").write_text("x")
    import xml.dom.minidom, sqlite3, decimal
    threading.Thread(target=print, args=("",), kwargs={"file": sys.stderr}).start()
    Path("/proc/self/status").read_text()
    pickle.loads(pickle.dumps([1, "two", {3: 4.0}]))
    os.listdir(MODEL)
    __import__("signal").raise_signal(__import__("signal").SIGCONT)
"""


@pytest.mark.parametrize("kernel", [False, pytest.param(True, marks=pytest.mark.skipif(not LINUX, reason="Linux's"))])
def test_what_goes_through_python_is_refused_but_what_running_a_model_needs(folder: Path, kernel: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        refused = _inside(REFUSED.replace("PORT", str(server.getsockname()[1])), folder, kernel)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert {line: error for line, error in refused.items() if "PermissionError" not in error} == {}
    assert len(refused) >= 40
    assert {line: error for line, error in _inside(ALLOWED, folder, kernel).items() if error} == {}
    assert (folder / "outside" / "secret").read_text() == "secret"
    assert sorted(p.name for p in folder.iterdir()) == ["model", "open", "outside"]


NATIVE = """
    native(libc.open(os.fsencode(OUTSIDE / "secret"), os.O_RDONLY))
    native(libc.open(os.fsencode(OUTSIDE / "new"), os.O_CREAT | os.O_WRONLY, 0o600))
    native(libc.unlink(os.fsencode(OUTSIDE / "secret")))
    native(libc.rename(os.fsencode(OUTSIDE / "secret"), os.fsencode(OPEN / "secret")))
    native(libc.open(b"/proc/PARENT/environ", os.O_RDONLY))
    native(libc.open(b"/proc/PARENT/mem", os.O_RDONLY))
    native(libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0))
    native(libc.socket(socket.AF_INET, socket.SOCK_DGRAM, 0))
    native(libc.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0))
    native(-1 if libc.system(b"true") else 0)
    native(libc.execv(b"/bin/true", (ctypes.c_char_p * 2)(b"true", None)))
    native(libc.ptrace(16, PARENT, 0, 0))
    native(libc.unshare(0x10000000))
    native(libc.kill(PARENT, 0))
"""


@pytest.mark.skipif(not LINUX, reason="walls of Linux")
def test_native_code_is_refused_by_the_kernel_where_it_has_walls(folder: Path) -> None:
    standing = walls.standing()
    assert standing, "the process that tries them failed"
    assert "audit hook" in standing
    if not {"seccomp", "landlock"} <= set(standing):
        pytest.skip(f"only {standing} here")
    found = _inside(NATIVE.replace("PARENT", str(os.getpid())), folder, kernel=True)
    assert {line: error for line, error in found.items() if not error} == {}
    assert (folder / "outside" / "secret").read_text() == "secret"
    assert {line: error for line, error in _inside(ALLOWED, folder, kernel=True).items() if error} == {}


@pytest.mark.skipif(not LINUX, reason="walls of Linux")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="changes user")
def test_walls_need_no_rights(folder: Path) -> None:
    script = (
        "import ctypes, os; from probing.child import walls; os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0); walls._try()"  # as a process that began as that user
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=walls.environment(os.environ, folder / "open") | {"TMPDIR": "/tmp"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout or "[]")
    assert found, done.stderr
    assert {"namespace", *found} == {"namespace", *walls.standing()}


def test_bounds_of_files_and_no_core(folder: Path) -> None:
    resource = pytest.importorskip("resource")
    found = _inside("native(-1 if Path(OPEN, 'f').open('wb').truncate(2**40) else 0)", folder)
    assert "File too large" in str(found)
    script = (
        "import resource as r; from probing.child import walls; walls.bound_resources();"
        "print(r.getrlimit(r.RLIMIT_CORE), r.getrlimit(r.RLIMIT_NOFILE)[1])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = walls.MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, walls.MAX_OPEN_FILES)
    assert done.stdout.split() == ["(0,", "0)", str(most)]


SECRETS = {
    "HF_TOKEN": "hf_secret", "HUGGING_FACE_HUB_TOKEN": "hf_secret", "AWS_SECRET_ACCESS_KEY": "s", "AWS_PROFILE": "p",
    "SSH_AUTH_SOCK": "/s", "GITHUB_TOKEN": "s", "OPENAI_API_KEY": "s", "https_proxy": "http://me:pass@proxy",
    "PYTHON_KEYRING_BACKEND": "s", "CUDA_AUTH_TOKEN": "s", "LD_SECRET": "s", "KUBECONFIG": "/k", "NETRC": "/n",
    "DATABASE_URL": "postgres://me:pass@host", "WANDB_API_KEY": "s", "GIT_ASKPASS": "s", "HUBPROBE_CONTACT": "me",
}  # fmt: skip


def test_the_environment_is_an_allowlist(tmp_path: Path) -> None:
    own = {"PATH": "/bin", "LANG": "C.UTF-8", "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "1", "LD_LIBRARY_PATH": "/l",
           "PYTHONHASHSEED": "1", "TZ": "UTC", "PYTORCH_CUDA_ALLOC_CONF": "x"}  # fmt: skip
    made = walls.environment(own | SECRETS, tmp_path)
    assert not made.keys() & SECRETS.keys()
    assert not any(str(value) in SECRETS.values() for value in made.values() if len(value) > 1)
    assert {name: made[name] for name in own} == own
    assert made["HOME"] == made["TMPDIR"] == str(tmp_path)
    assert made["HF_HUB_OFFLINE"] == "1"


def test_a_child_finds_no_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workspace: Workspace, settings: Settings
) -> None:
    """Neither in its environment nor where huggingface_hub would look for one."""
    home = tmp_path / "home"
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".cache" / "huggingface" / "token").write_text("hf_secret")
    monkeypatch.setenv("HOME", str(home))
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    said = (
        "import json, os, huggingface_hub as h\n"
        "print(json.dumps({'token': h.get_token(), 'offline': os.environ['HF_HUB_OFFLINE'],"
        " 'environment': sorted(os.environ)}))"
    )
    events: queue.Queue[Any] = queue.Queue()
    child = runners.Child(workspace, settings, events, command=(sys.executable, "-c", said))
    try:
        message = events.get(timeout=300)[1]
    finally:
        child.close()
    assert (message["token"], message["offline"]) == (None, "1")
    assert not set(message["environment"]) & SECRETS.keys()


# ── memory of control groups ─────────────────────────────────────────────────────────────────────────────────────────
GB = 1024**3
OLD = "memory.limit_in_bytes"  # of version 1


def _groups(root: Path, lines: str, limits: dict[str, str]) -> int:
    (root / "proc").mkdir(parents=True)
    (root / "proc" / "cgroup").write_text(lines)
    for name, value in limits.items():
        path = root / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")
    return placement.host_memory(root / "proc", root / "cgroup")


def test_the_smallest_limit_of_nested_control_groups_counts(tmp_path: Path) -> None:
    whole = placement.host_memory(tmp_path / "none", tmp_path / "none")
    cases: list[tuple[str, dict[str, str], int]] = [
        ("0::/\n", {"memory.max": str(GB)}, GB),
        ("0::/a/b\n", {"memory.max": str(3 * GB), "a/memory.max": str(GB), "a/b/memory.max": "max"}, GB),
        ("0::/a/b\n", {"a/memory.max": "max", "a/b/memory.max": str(GB)}, GB),
        ("0::/a/b\n", {"a/memory.high": str(GB), "a/b/memory.max": str(2 * GB)}, GB),
        ("0::/../../other\n", {"memory.max": str(GB)}, GB),
        ("0::/not/mounted/here\n", {"memory.max": str(GB)}, GB),
        ("4:memory:/a/b\n", {f"memory/a/{OLD}": str(GB), f"memory/a/b/{OLD}": str(2 * GB)}, GB),
        ("4:memory:/a/b\n", {f"memory/{OLD}": str(2**63 - 4096), f"memory/a/b/{OLD}": str(GB)}, GB),
        ("7:cpu,memory:/a\n0::/\n", {f"cpu,memory/a/{OLD}": str(GB)}, GB),
        ("7:memory:/docker/0123\n", {f"memory/{OLD}": str(GB)}, GB),
        ("3:cpu:/a\n4:memory:/\n0::/u\n", {"unified/u/memory.max": str(GB)}, GB),
        ("0::/a:b/c d\n", {"a:b/memory.max": str(GB)}, GB),
        ("0::/a\n", {"a/memory.max": "0"}, whole),
        ("0::/a\n", {"a/memory.max": "rubbish"}, whole),
        ("rubbish\n", {}, whole),
    ]  # fmt: skip
    for i, (lines, limits, wanted) in enumerate(cases):
        assert _groups(tmp_path / str(i), lines, limits) == min(wanted, whole), lines
