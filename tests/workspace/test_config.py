from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workspace import Config, ConfigError, ReleaseConfig, SearchConfig


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40),
    st.integers(1, 10**12),
    st.lists(st.text("ab/-\"\\'", max_size=8), max_size=3),
)
def test_toml_round_trip(tmp_path_factory, encoder, k, opt_out):
    default = Config()
    config = replace(
        default,
        search=replace(default.search, encoder=encoder, k=k),
        crawl=replace(default.crawl, opt_out=tuple(opt_out)),
    )
    path = tmp_path_factory.mktemp("config") / "hubprobe.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert Config.load(path) == config
    assert Config.load(path).hash == config.hash


def test_hashes_of_runs_already_made_stay_what_they_are():
    then = Config(search=SearchConfig(encoder="clip:openai/clip-vit-base-patch16"))  # as workspaces were made
    assert then.hash == "6e4a385f874c667c"
    crawl = replace(then.crawl, opt_out=("a", "b"), cards=False)
    assert replace(then, crawl=crawl).hash == "206408addcba10f1"
    assert replace(then, crawl=replace(then.crawl, converted=False)).hash != then.hash


def test_hash_follows_settings_but_not_the_address():
    config = Config()
    assert replace(config, endpoint="http://127.0.0.1:1").hash == config.hash
    assert replace(config, release=ReleaseConfig(license="mit")).hash == config.hash
    assert replace(config, search=SearchConfig(k=65)).hash != config.hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[search]\nkk = 3", "unknown setting 'kk'"),
        ("[search]\nk = 'three'", "must be int"),
        ("[search]\nk = -1", "at least 0"),
        ("[search]\nk = true", "must be int"),
        ("search = 3", "is a section"),
        ("[search", "hubprobe.toml"),
    ],
)
def test_bad_settings_say_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "hubprobe.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        Config.load(path)
