"""``hubprobe doctor``: right on a machine that is fine, and on every kind of broken one a row that says what to do."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from hubprobe.cli.run import doctor as verb
from hubprobe.demo.server import HubServer, demo_repos
from hubprobe.demo.wire import Response
from hubprobe.doctor import examine, folder, hub, machine
from hubprobe.doctor.check import LEAST_BYTES, Check, Setting
from tests.hubs.limits import Quotas, RateLimiter
from tests.search.conftest import make
from workspace import Config, Workspace
from workspace.files import write_json

TOKEN = "hf_thisIsNobodysTokenAtAll"
SETTING = Setting(Path(), None, None, False, 5.0, 1)


def whoami(role: str | None, name: str = "somebody", fine: object = None):
    """Stand before the hub and answer, as the Hub does, whose token it is."""

    def intercept(bucket, request, answer):
        given = request.headers.get("authorization", "")
        if request.segments[:2] == ("api", "whoami-v2") and given == f"Bearer {TOKEN}":
            about = {"displayName": "t", "role": role, "fineGrained": fine}
            return Response.json({"type": "user", "name": name, "auth": {"type": "access_token", "accessToken": about}})
        if given and given != f"Bearer {TOKEN}":
            message = "Invalid credentials in Authorization header"
            return Response(401, headers=[("X-Error-Message", message)], body=b'{"error":"Invalid credentials"}')
        return answer(request)

    return intercept


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    """No token and no settings of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(("HF_", "HUBPROBE_", "SSL_CERT", "REQUESTS_CA", "CURL_CA", "TRANSFORMERS_OFF")):
            monkeypatch.delenv(name)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/no/such/file")


@pytest.fixture(scope="module")
def repos():
    return demo_repos(with_unhealthy=False, with_lite0=False)[:2]


@pytest.fixture
def served(repos):
    """A hub that says what time it is, as the Hub does and the demo hub alone does not."""

    def dated(bucket, request, answer):
        response = answer(request)
        response.headers.append(("Date", formatdate(usegmt=True)))
        return response

    with HubServer(repos, intercept=dated) as server:
        yield server


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small workspace with an index."""
    made = make(tmp_path_factory.mktemp("doctor") / "workspace", models=4, n=60)
    made.index(encoder="none")
    return made.workspace.root


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy", copy_function=shutil.copy2)  # times too: the index remembers them
    return tmp_path / "copy"


def asked(**changes) -> dict[str, Check]:
    return {check.check: check for check in hub.reach(replace(SETTING, **changes))}


def rows(examination, setting=SETTING) -> dict[str, Check]:
    return {check.check: check for check in examination(setting)}


# ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_on_a_machine_that_is_fine_nothing_fails(served, finished):
    done = subprocess.run(
        [sys.executable, "-m", "hubprobe", "doctor", "-w", str(finished), "--endpoint", served.url, "--format", "json"],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert done.returncode == 0, [row for row in found if row["state"] == "fail"]
    assert done.stderr == ""
    assert list(found[0]) == ["check", "state", "found", "advice"]
    named = {row["check"] for row in found}
    assert named >= {"python", "torch", "processor", "open files", "disk of the workspace", "endpoint", "clock"}
    assert named >= {"token", "rate limits", "workspace", "tables", "steps", "runs", "index", "contact", "environment"}
    assert not [row for row in found if row["state"] != "ok" and not row["advice"]]


def test_exit_code_one_when_something_fails_and_the_advice_below_it(tmp_path, monkeypatch):
    monkeypatch.setattr("hubprobe.doctor._ALL", (hub.reach,))
    done = CliRunner().invoke(verb, ["--workspace", str(tmp_path), "--endpoint", f"http://127.0.0.1:{closed_port()}"])
    assert done.exit_code == 1
    lines = done.output.splitlines()
    assert lines[0].startswith("fail  endpoint: ")
    assert lines[1].lstrip().startswith("→ check the network")
    assert lines[-1] == "2 checks: 0 ok, 1 to know of, 1 to mend"


def test_a_check_that_breaks_is_a_row_and_the_others_go_on(monkeypatch):
    def broken(setting):
        raise ZeroDivisionError(f"with {TOKEN}")

    monkeypatch.setattr("hubprobe.doctor._ALL", (broken, machine.limits))
    first, *others = examine(token=TOKEN)
    assert (first.check, first.state) == ("broken", "fail")
    assert "ZeroDivisionError" in first.found
    assert TOKEN not in first.found
    assert {check.check for check in others} >= {"open files"}


# ── the Hub ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_an_endpoint_that_answers(served):
    found = asked(endpoint=served.url + "/")
    assert found["endpoint"].state == "ok"
    assert f"{served.url} answers in " in found["endpoint"].found
    assert found["clock"].state == "ok"
    assert found["token"].found.startswith("none")
    assert found["rate limits"].found.startswith("api: ")


@pytest.mark.parametrize(
    ("role", "fine", "state", "said"),
    [
        ("read", None, "ok", "may only read"),
        ("write", None, "warn", "may write"),
        ("fineGrained", {"scoped": [{"permissions": ["repo.content.read"]}]}, "ok", "may only read"),
        ("fineGrained", {"scoped": [{"permissions": ["repo.write"]}]}, "warn", "may write"),
        (None, None, "ok", "does not say what it may"),
    ],
)
def test_a_token_that_is_accepted(repos, role, fine, state, said):
    with HubServer(repos, intercept=whoami(role, fine=fine)) as server:
        check = asked(endpoint=server.url, token=TOKEN)["token"]
        assert [asked.has_token for asked in server.requests] == [False, True, True]
    assert check.state == state
    assert "somebody" in check.found
    assert said in check.found


def test_a_wrong_token_fails_and_is_not_repeated(repos):
    with HubServer(repos, intercept=whoami("read")) as server:
        found = asked(endpoint=server.url, token="hf_wrong")
    assert found["endpoint"].state == "ok"  # asked without it: the endpoint is not to blame
    assert found["token"].state == "fail"
    assert "read token" in found["token"].advice
    assert not [c for c in found.values() if "hf_wrong" in c.found + c.advice]


def test_an_endpoint_that_names_the_token_does_not_get_it_shown(repos):
    with HubServer(repos, intercept=whoami("read", name=f"evil {TOKEN} \x1b[2J\u202e")) as server:
        check = asked(endpoint=server.url, token=TOKEN)["token"]
    assert TOKEN not in check.found
    assert "\x1b" not in check.found
    assert "\u202e" not in check.found


def test_a_token_that_no_header_can_carry():
    with HubServer([]) as server:
        check = asked(endpoint=server.url, token="hf_two words")["token"]
    assert check.state == "fail"
    assert "two words" not in check.found


def test_an_endpoint_without_whoami_is_only_a_warning(repos):
    def none(bucket, request, answer):
        return Response(404, body=b"{}") if "whoami-v2" in request.segments else answer(request)

    with HubServer(repos, intercept=none) as server:
        assert asked(endpoint=server.url, token=TOKEN)["token"].state == "warn"


def test_rate_limits_are_those_of_the_token(repos):
    few = RateLimiter(Quotas(api=3, resolvers=3, pages=3))
    with HubServer(repos, limiter=few) as server:
        found = asked(endpoint=server.url)["rate limits"]
        assert found.found == "api: 2 of 3 requests left in 300 s"
        asked(endpoint=server.url)
        found = asked(endpoint=server.url)["rate limits"]
        assert (found.state, found.found[:6]) == ("warn", "api: 0")
        assert "wait" in found.advice
        refused = asked(endpoint=server.url)["endpoint"]
        assert refused.state == "fail"
        assert "slow down" in refused.found


def test_a_clock_that_is_wrong():
    (check,) = hub._clock(hub._Asked({"date": "Thu, 01 Jan 2015 00:00:00 GMT"}, b"", 0.1))
    assert check.state == "warn"
    assert "ahead of" in check.found
    assert not list(hub._clock(hub._Asked({"date": "yesterday"}, b"", 0.1)))


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_an_endpoint_that_refuses_connections():
    found = asked(endpoint=f"http://127.0.0.1:{closed_port()}", token=TOKEN)
    assert found["endpoint"].state == "fail"
    assert "refused" in found["endpoint"].found
    assert found["token"].state == "warn"
    assert set(found) == {"endpoint", "token"}


def test_an_endpoint_that_says_nothing_is_given_up_in_time():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        found = asked(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.5)
    assert found["endpoint"].state == "fail"
    assert time.monotonic() - started < 30, "its seconds did not count"


def test_a_name_that_is_never_resolved_is_given_up_in_time(monkeypatch):
    hang = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: hang.wait(120))
    started = time.monotonic()
    found = asked(endpoint="https://hub.invalid", seconds=0.5)
    hang.set()
    assert found["endpoint"].state == "fail"
    assert "within 0.5 s" in found["endpoint"].found
    assert time.monotonic() - started < 60, "it was waited for"


def test_something_that_is_no_address():
    assert asked(endpoint="huggingface.co")["endpoint"].state == "fail"


def test_offline_asks_nobody(served):
    found = asked(endpoint=served.url, offline=True)
    assert set(found) == {"endpoint"}
    assert len(served.requests) == 0


def test_the_workspaces_own_endpoint_and_the_one_that_wins_over_it(served, tmp_path):
    Workspace.create(tmp_path / "w", Config(endpoint=served.url))
    assert asked(root=tmp_path / "w")["endpoint"].found.startswith(served.url)
    Workspace.create(tmp_path / "other", Config(endpoint="https://elsewhere.example"))
    check = asked(root=tmp_path / "other", endpoint=served.url)["endpoint"]
    assert "elsewhere.example" in check.found
    assert "HF_ENDPOINT" in check.advice


@pytest.mark.parametrize("name", sorted(hub._IN_THE_WAY))
def test_variables_that_trip_us(name, monkeypatch):
    monkeypatch.setenv(name, "1")
    check = rows(hub.environment)[name]
    assert check.state == "warn"
    assert "unset it" in check.advice


def test_a_certificate_file_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert rows(hub.environment)["SSL_CERT_FILE"].state == "fail"


def test_names_of_variables_are_shown_but_no_values(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    check = rows(hub.environment)["environment"]
    assert check.state == "ok"
    assert "HF_TOKEN" in check.found
    assert TOKEN not in check.found


def test_contact(monkeypatch, served):
    assert rows(hub.contact)["contact"].state == "warn"
    assert rows(hub.contact, replace(SETTING, endpoint=served.url))["contact"].state == "ok"
    monkeypatch.setenv("HUBPROBE_CONTACT", "me@example.org")
    assert "me@example.org" in rows(hub.contact)["contact"].found


# ── libraries ────────────────────────────────────────────────────────────────────────────────────────────────────────
def pretend(monkeypatch, versions: dict[str, str | None], needs: dict[str, list[str]]):
    real_version, real_requires = metadata.version, metadata.requires

    def version(name):
        if name in versions:
            if versions[name] is None:
                raise metadata.PackageNotFoundError(name)
            return versions[name]
        return real_version(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: needs[name] if name in needs else real_requires(name))


def test_libraries_that_are_missing_or_too_old(monkeypatch):
    needs = {"hubprobe": ["torch>=2.6", "lancedb>=0.30", "tqdm>=4.66", "tomli>=2; python_version < '3'"]}
    pretend(monkeypatch, {"torch": "2.1.0", "lancedb": None}, needs)
    found = rows(machine.packages)
    assert found["torch"].state == "fail"
    assert found["torch"].advice == "pip install 'torch>=2.6'"
    assert found["lancedb"].found.startswith("missing")
    assert "tqdm" in found["other libraries"].found
    assert "tomli" not in found


def test_a_torchvision_built_for_another_torch(monkeypatch):
    pretend(monkeypatch, {"torch": "2.9.0"}, {"hubprobe": [], "torchvision": ["torch==2.8.0", "numpy"]})
    check = rows(machine.packages)["torch with torchvision"]
    assert check.state == "fail"
    pretend(monkeypatch, {"torch": "2.8.0+cpu"}, {"hubprobe": [], "torchvision": ["torch==2.8.0", "numpy"]})
    assert not rows(machine.packages)


def test_extras(monkeypatch):
    about = {"hubprobe": ["gradio>=6; extra == 'page'", "plotly>=6; extra == 'plots'", "ruff>=1; extra == 'dev'"]}
    pretend(monkeypatch, {"gradio": None, "plotly": "5.0"}, about)
    stated = SimpleNamespace(get_all=lambda _: ["page", "plots", "dev"])
    monkeypatch.setattr(metadata, "metadata", lambda _: stated)
    found = rows(machine.extras)
    assert set(found) == {"extra page", "extra plots"}
    assert found["extra page"].state == "ok"
    assert "pip install 'hubprobe[page]'" in found["extra page"].advice
    assert found["extra plots"].state == "warn"


def test_a_python_that_is_too_old(monkeypatch):
    monkeypatch.setattr(machine.platform, "python_version", lambda: "3.9.1")
    assert rows(machine.python)["python"].state == "fail"


# ── the machine ──────────────────────────────────────────────────────────────────────────────────────────────────────
class FakeTorch(SimpleNamespace):
    """As much of torch as the check asks for."""

    def __init__(self, cuda: str | None, devices: int = 0, free: int = 60 * 2**30, why: str = "", total: float = 16.0):
        def init():
            if why:
                raise RuntimeError(why)

        def ones(*_shape, device):
            if total < 0:
                raise RuntimeError("no kernel image is available for execution on the device")
            return SimpleNamespace(sum=lambda: total)

        super().__init__(
            __version__="2.9.0", ones=ones, version=SimpleNamespace(cuda=cuda, hip=None),
            backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False)),
            cuda=SimpleNamespace(
                is_available=lambda: devices > 0, device_count=lambda: devices, init=init,
                get_device_name=lambda i: f"GPU {i}", mem_get_info=lambda i: (free, 80 * 2**30),
            ),
        )  # fmt: skip


DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  470.82.01  Release Build\n"


@pytest.mark.parametrize(
    ("torch", "driver", "hidden", "state", "said"),
    [
        (FakeTorch("13.0", 2), True, None, "ok", "GPU 0, 64.4 GB of 85.9 GB free, CUDA 13.0, driver 470.82.01"),
        (FakeTorch("13.0", 1, free=2**30), True, None, "warn", "1.07 GB of"),
        (FakeTorch("13.0", 1, total=-1), True, None, "fail", "no kernel image"),
        (FakeTorch("13.0", 1, total=3), True, None, "fail", "adds up 16 ones to 3"),
        (FakeTorch("13.0", why="The NVIDIA driver is too old"), True, None, "warn", "too old"),
        (FakeTorch(None), True, None, "warn", "built without CUDA"),
        (FakeTorch("13.0"), True, "", "warn", "CUDA_VISIBLE_DEVICES hides"),
        (FakeTorch("13.0"), False, None, "ok", "no GPU driver"),
    ],
)
def test_devices(torch, driver, hidden, state, said, monkeypatch, tmp_path):
    if driver:
        (tmp_path / "version").write_text(DRIVER)
    if hidden is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    monkeypatch.setattr(machine, "_DRIVER", tmp_path / "version")
    monkeypatch.setitem(sys.modules, "torch", torch)
    found = list(machine.device(SETTING))
    assert found[0].state == state
    assert said in found[0].found
    assert len(found) == max(torch.cuda.device_count(), 1)
    assert found[0].advice or state == "ok"


def test_a_torch_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (check,) = machine.device(SETTING)
    assert check.state == "fail"


def test_threads_and_quotas(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_GROUPS", tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert rows(machine.processor)["processor"].state == "warn"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert rows(machine.processor)["processor"].state == "ok"
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    check = rows(machine.processor)["processor"]
    assert (check.state, "OMP_NUM_THREADS=1" in check.advice) == ("warn", True)


def test_few_open_files_and_little_shared_memory(monkeypatch, tmp_path):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 100_000))
    monkeypatch.setattr(machine, "_SHARED", tmp_path)
    monkeypatch.setattr(machine, "LITTLE_SHARED", 10**18)
    found = rows(machine.limits)
    assert found["open files"].advice == "ulimit -n 4096"
    assert found["/dev/shm"].state == "warn"


# ── disks ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("least", "state"), [(1, "ok"), (10**18, "fail")])
def test_room(least, state, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "file_system", lambda _: "ext4")
    check = rows(machine.disks, replace(SETTING, root=tmp_path / "new" / "folder", least_bytes=least))
    assert check["disk of the workspace"].state == state
    assert str(tmp_path) in check["disk of the workspace"].found


def test_room_for_now_but_not_for_a_crawl(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "file_system", lambda _: "ext4")
    half = shutil.disk_usage(tmp_path).free // 2
    check = machine._room("disk", tmp_path, half)
    assert check.state == "warn"
    assert "--max-disk" in check.advice


@pytest.mark.parametrize(("kind", "said"), [("nfs4", "network"), ("fuse.sshfs", "network"), ("tmpfs", "memory")])
def test_file_systems(kind, said, tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/a / ext4 rw 0 0\nx {tmp_path} {kind} rw 0 0\ny {tmp_path}/other xfs rw 0 0\n")
    monkeypatch.setattr(machine, "_MOUNTS", mounts)
    assert machine.file_system(tmp_path / "w") == kind
    assert machine.file_system(tmp_path / "other" / "w") == "xfs"
    assert machine.file_system(Path("/nowhere")) == "ext4"
    check = machine._room("disk", tmp_path, 1)
    assert check.state == "warn"
    assert said in check.found


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.os, "access", lambda *_: False)  # root may write anywhere
    checks = list(machine.disks(replace(SETTING, root=tmp_path)))
    assert any(c.state == "fail" and "cannot be written" in c.found for c in checks)
    assert LEAST_BYTES > 0


# ── the workspace ────────────────────────────────────────────────────────────────────────────────────────────────────
def looked(root: Path) -> dict[str, Check]:
    return rows(folder.workspace, replace(SETTING, root=root))


def test_a_finished_workspace(copy):
    found = looked(copy)
    assert {c.state for c in found.values()} == {"ok"}, found
    assert "4 models" in found["index"].found


def test_none_yet(tmp_path):
    assert looked(tmp_path / "typo")["workspace"].state == "warn"
    empty = tmp_path / "empty"
    Workspace.create(empty)
    found = looked(empty)
    assert found["steps"].state == "warn"
    assert "hubprobe probes build" in found["steps"].advice


def test_a_configuration_that_cannot_be_read(copy):
    (copy / "hubprobe.toml").write_text("endpoint = 3")
    assert looked(copy)["workspace"].state == "fail"


def test_a_table_that_is_cut(copy):
    path = next((copy / "descriptors").rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:100])
    check = looked(copy)["tables"]
    assert check.state == "fail"
    assert path.name in check.found
    assert "hubprobe complete" in check.advice


def test_a_probe_set_whose_images_are_gone(copy):
    for path in (copy / "probes").rglob("probes.parquet"):
        path.unlink()
    assert looked(copy)["steps"].state == "fail"
    (copy / "probes" / "current.json").write_text("{")
    assert looked(copy)["steps"].state == "fail"


def test_an_index_with_a_damaged_file_or_of_another_format(copy):
    tile = next((copy / "index").rglob("*.u8"))
    tile.write_bytes(tile.read_bytes()[:-1])
    assert "missing or cut" in looked(copy)["index"].found
    manifest = next((copy / "index" / "versions").glob("*/manifest.json"))
    write_json(manifest, {**json.loads(manifest.read_text()), "format": "0"})
    check = looked(copy)["index"]
    assert check.state == "fail"
    assert "--rebuild" in check.advice


def test_an_index_that_is_behind(copy):
    path = next((copy / "descriptors").rglob("*.parquet"))
    os.utime(path, ns=(1, 1))
    check = looked(copy)["index"]
    assert check.state == "warn"
    assert check.advice == f"hubprobe index --workspace {copy}"


def test_runs_that_were_cut_off(copy):
    mark = {"repo_id": "a/b", "sha": "0" * 40, "deaths": 0, "pid": 2**22 + 1, "host": socket.gethostname(), "born": "1"}
    write_json(copy / "attempts" / ".inflight-x.json", mark)
    assert "1 models in flight" in looked(copy)["runs"].found
    assert looked(copy)["runs"].state == "warn"
    write_json(copy / "attempts" / ".inflight-x.json", {**mark, "pid": os.getpid()})
    assert looked(copy)["runs"].state == "ok"  # at work: it is this very process
    (copy / "attempts" / ".inflight-x.json").unlink()
    write_json(copy / "catalog" / "journal.json", {"finished": False})
    assert "crawl was cut off" in looked(copy)["runs"].found
    write_json(copy / "catalog" / "journal.json", {"finished": True})
    (copy / "runs").mkdir(exist_ok=True)
    (copy / "runs" / "20260101T000000Z-probe-aaaa-0.jsonl").write_text("")
    assert "20260101T000000Z-probe-aaaa" in looked(copy)["runs"].found
    write_json(copy / "runs" / "20260102T000000Z-probe-bbbb.json", {})
    assert looked(copy)["runs"].state == "ok"  # a later run came to its end
