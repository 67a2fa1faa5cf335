"""The Python API's front: what can be imported, what it is called in tracebacks, and that paths will do."""

import pickle
import traceback

import pytest

import hubprobe
from tests.search.conftest import make


def test_dir_lists_what_is_meant_for_users_and_all_of_it_is_there():
    assert dir(hubprobe) == sorted(hubprobe.__all__)
    assert all(getattr(hubprobe, name) is not None for name in hubprobe.__all__)
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        hubprobe.serch  # noqa: B018


def test_classes_can_be_imported():
    import search
    from hubprobe import Index, Query

    assert Index is search.Index
    assert Query.__name__ == "Query"


@pytest.mark.parametrize("name", [name for name in hubprobe.__all__ if name.endswith("Error")])
def test_errors_are_called_what_they_are_imported_as(name):
    error = getattr(hubprobe, name)
    assert f"{error.__module__}.{error.__qualname__}" == f"hubprobe.{name}"
    assert pickle.loads(pickle.dumps(error)) is error
    assert issubclass(error, hubprobe.HubprobeError)


def test_a_traceback_says_hubprobe(tmp_path):
    with pytest.raises(hubprobe.WorkspaceError) as caught:
        hubprobe.open(tmp_path)
    last = traceback.format_exception_only(caught.value)[-1]
    assert last.startswith("hubprobe.WorkspaceError: ")


def test_verbs_take_a_path(tmp_path):
    made = make(tmp_path / "workspace", models=3, n=60)
    path = str(made.workspace.root)
    assert hubprobe.index(path, encoder=made.encoder, progress=False).logits == 30
    assert hubprobe.open(path).info()["logits"] == 30
    assert hubprobe.open(made.workspace).info()["logits"] == 30
    assert hubprobe.status(path).ok == 3
    assert hubprobe.complete(made.workspace.root, progress=False).models == 3
    truth = {"concepts": {}, "models": {}}
    with pytest.raises(hubprobe.HubprobeError):
        hubprobe.evaluate(path, truth, progress=False)
    for verb in (hubprobe.index, hubprobe.complete, hubprobe.probe):
        with pytest.raises(hubprobe.WorkspaceError, match="is not a hubprobe workspace"):
            verb(tmp_path / "nowhere")
