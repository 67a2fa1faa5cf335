import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from workspace import WorkspaceError
from workspace.errors import DiskError
from workspace.locks import alone, lock


def test_many_readers_or_one_writer(tmp_path):
    path = tmp_path / "x.lock"
    first, second = lock(path, shared=True), lock(path, shared=True)
    assert first is not None
    assert second is not None
    assert lock(path) is None
    first.close()
    assert lock(path) is None
    second.close()
    with lock(path):
        assert lock(path, shared=True) is None
        with pytest.raises(WorkspaceError, match="somebody builds"), alone(path, "somebody builds"):
            pass
    with alone(tmp_path / "new" / "x.lock", "busy"):
        pass


def test_a_lock_ends_with_its_process(tmp_path):
    path = tmp_path / "x.lock"
    code = """
        import sys, time
        from pathlib import Path
        from workspace.locks import lock
        held = lock(Path(sys.argv[1]))
        print("held", flush=True)
        time.sleep(100)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert lock(path) is None
        process.send_signal(signal.SIGKILL)
    assert lock(path) is not None


def test_who_waits_for_a_file_that_is_deleted_meanwhile_locks_the_new_one(tmp_path):
    path, got = tmp_path / "x.lock", []
    held = lock(path)
    waiting = threading.Thread(target=lambda: got.append(lock(path, wait=True)))
    waiting.start()
    path.unlink()
    held.close()
    waiting.join(timeout=120)
    assert len(got) == 1
    assert path.exists()
    assert lock(path) is None


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a file that not even root can write to")
def test_a_folder_that_may_only_be_read_can_be_read():
    there = lock(Path("/proc/version"), shared=True)
    assert there is not None
    there.close()
    assert lock(Path("/proc/no-such-file"), shared=True) is not None
    with pytest.raises((DiskError, OSError)):
        lock(Path("/proc/no-such-file"))


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_no_file_is_not_opened(tmp_path, shared):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("pipe", "folder", "link"):
        with pytest.raises(WorkspaceError, match="where a regular file should be"):
            lock(tmp_path / name, shared=shared)
    assert not (tmp_path / "elsewhere").exists()
