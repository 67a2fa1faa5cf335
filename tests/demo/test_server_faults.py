"""Each fault does to a client what its name says."""

import json
import time
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx
from packaging.version import Version

from hubprobe.demo import tiny
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from tests.hubs import faults as f
from tests.hubs.faults import Fault, Faults

HOME = "quiet-lab/tiny-vit"
WEIGHTS = tiny.files()["model.safetensors"]
FILE = f"/{HOME}/resolve/main/model.safetensors"


@pytest.fixture
def faults():
    return Faults()


@pytest.fixture
def hub(faults):
    repos = [Repo.of(HOME, tiny.files()), *(Repo.of(f"lab/model-{i}", {"config.json": b"{}"}) for i in range(5))]
    with HubServer(repos, page_size=2, intercept=faults) as server:
        yield server


@pytest.fixture
def client():
    with httpx.Client(follow_redirects=True, timeout=60) as client:
        yield client


def test_only_matching_requests_are_hit_and_only_so_often(hub, faults, client):
    fault = faults.add(Fault(f.status(503), match=r"GET /api/models\?", times=2, skip=1))
    codes = [client.get(hub.url + "/api/models?limit=1").status_code for _ in range(5)]
    assert codes == [200, 503, 503, 200, 200]
    assert client.get(hub.url + f"/api/models/{HOME}").status_code == 200
    assert fault.hits == 2
    faults.add(Fault(f.status(500), bucket="cdn", times=None))
    assert client.get(hub.url + FILE).status_code == 500
    faults.clear()
    assert client.get(hub.url + FILE).content == WEIGHTS


@pytest.mark.parametrize("code", [500, 502, 503, 504])
def test_server_errors_look_like_a_proxys(hub, faults, client, code):
    faults.add(Fault(f.status(code)))
    answer = client.get(hub.url + "/api/models")
    assert answer.status_code == code
    assert "ratelimit" not in answer.headers
    assert answer.headers["content-type"].startswith("text/html")


def test_429_with_headers_with_retry_after_and_with_neither(hub, faults, client):
    faults.add(Fault(f.rate_limited(wait=17)))
    faults.add(Fault(f.rate_limited(retry_after=3)))
    faults.add(Fault(f.rate_limited()))
    hub_style, old_style, bare = (client.get(hub.url + "/api/models") for _ in range(3))
    assert {answer.status_code for answer in (hub_style, old_style, bare)} == {429}
    assert hub_style.headers["ratelimit"] == '"api";r=0;t=17'
    assert old_style.headers["retry-after"] == "3"
    assert not {"ratelimit", "retry-after"} & set(bare.headers)


@pytest.mark.skipif(
    Version(huggingface_hub.__version__).major < 2, reason="huggingface_hub 1 does not list again after a 429"
)
def test_the_real_client_gets_over_a_few_bad_answers(hub, faults):
    faults.add(Fault(f.rate_limited(retry_after=0), match="/api/models"))
    faults.add(Fault(f.reset(), match="/api/models", skip=1))
    assert len(list(HfApi(endpoint=hub.url).list_models())) == 6


def test_a_body_cut_by_a_reset(hub, faults, client):
    faults.add(Fault(f.cut(after=1000), bucket="cdn"))
    with pytest.raises(httpx.TransportError):
        client.get(hub.url + FILE)


def test_a_body_shorter_than_stated(hub, faults, client):
    faults.add(Fault(f.short(missing=10), bucket="cdn"))
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(hub.url + FILE)


def test_a_file_smaller_than_listed(hub, faults, client, tmp_path):
    faults.add(Fault(f.smaller(missing=10), match="^GET", bucket="cdn", times=None))
    assert client.get(hub.url + FILE).content == WEIGHTS[:-10]
    with pytest.raises((OSError, HfHubHTTPError)):
        hf_hub_download(HOME, "model.safetensors", endpoint=hub.url, cache_dir=tmp_path, token=False)


def test_a_flipped_bit_that_the_real_client_does_not_see(hub, faults, tmp_path):
    faults.add(Fault(f.corrupt(at=5000), match="^GET", bucket="cdn"))
    path = hf_hub_download(HOME, "model.safetensors", endpoint=hub.url, cache_dir=tmp_path, token=False)
    data = Path(path).read_bytes()
    assert len(data) == len(WEIGHTS)
    assert [i for i in range(len(data)) if data[i] != WEIGHTS[i]] == [5000]


def test_range_ignored(hub, faults, client):
    faults.add(Fault(f.ignore_range(), bucket="cdn"))
    answer = client.get(hub.url + FILE, headers={"Range": "bytes=0-99"})
    assert (answer.status_code, answer.content) == (200, WEIGHTS)
    assert "accept-ranges" not in answer.headers


def test_a_header_that_claims_five_gigabytes(hub, faults, client):
    faults.add(Fault(f.header_claim(), bucket="cdn"))
    answer = client.get(hub.url + FILE, headers={"Range": "bytes=0-99"})
    assert answer.status_code == 206
    assert int.from_bytes(answer.content[:8], "little") == 5 * 1024**3
    assert answer.content[8:] == WEIGHTS[8:100]


def test_redirects_round_and_round(hub, faults, client):
    faults.add(Fault(f.redirect_loop(), match="/resolve/", times=None))
    with pytest.raises(httpx.TooManyRedirects):
        client.get(hub.url + FILE)


def test_a_redirect_to_another_port_shows_who_leaks_a_token(hub, faults, client):
    with HubServer([Repo.of(HOME, tiny.files())]) as stranger:
        faults.add(Fault(f.redirect_to(stranger.url), match="/api/models", times=None))
        HfApi(endpoint=hub.url, token="hf_secret").model_info(HOME)
        assert [asked.has_token for asked in hub.requests] == [True]
        assert [asked.has_token for asked in stranger.requests] == [False]


def test_html_where_json_was_asked_for(hub, faults, client):
    faults.add(Fault(f.html()))
    answer = client.get(hub.url + "/api/models")
    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        answer.json()


def test_a_cursor_that_repeats(hub, faults, client):
    faults.add(Fault(f.repeat_cursor(), match="cursor=", times=None))
    second = client.get(hub.url + "/api/models").links["next"]["url"]
    assert client.get(second).links["next"]["url"] == second


def test_a_next_page_on_another_host(hub, faults, client):
    faults.add(Fault(f.next_page("http://127.0.0.1:9/api/models?cursor=x")))
    assert client.get(hub.url + "/api/models").links["next"]["url"].startswith("http://127.0.0.1:9/")


def test_dripping_and_hanging(hub, faults, client):
    faults.add(Fault(f.drip(size=len(WEIGHTS) // 4, pause=0.05), bucket="cdn"))
    began = time.monotonic()
    assert client.get(hub.url + FILE).content == WEIGHTS
    assert time.monotonic() - began > 0.14  # three pauses
    faults.add(Fault(f.hang(0.5), match="/api/models"))
    with pytest.raises(httpx.ReadTimeout):
        client.get(hub.url + "/api/models", timeout=0.1)


def test_malformed_rows_among_sound_ones(hub, faults, client):
    faults.add(Fault(f.malformed_rows()))
    rows = client.get(hub.url + "/api/models").json()
    assert len(rows) == 2 + len(f.MALFORMED_ROWS)
    assert [type(row) for row in (rows[0], rows[-1])] == [dict, dict]


def test_any_body(hub, faults, client):
    faults.add(Fault(f.body(b'[{"id": "a/b", "id": "c/d"}, \xff]')))
    assert b"\xff" in client.get(hub.url + "/api/models").content
