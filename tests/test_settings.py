"""Where settings come from, and which sources there are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from catalog.errors import ConfigError
from catalog.settings import BUILT_IN_SOURCES, Settings, Source, load_settings

EVERYTHING = """
database = "sqlite:///file.db"

[repository]
location = "s3://bucket/file"
region = "eu-central-1"
endpoint = "https://s3.example.org"
anonymous = true

[[sources]]
name = "mirror"
match = "https://data.example.org/s2"
url = "s3://mirror/s2"
region = "eu-central-1"
requester_pays = true

[[sources]]
match = "https://other.example.org/"
url = "file:///data/"
"""


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("COGCAT_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults() -> None:
    assert load_settings() == Settings("sqlite:///cogcat.db", "./cogcat-repo", BUILT_IN_SOURCES, {})
    assert [source.url for source in BUILT_IN_SOURCES] == [
        "s3://e84-earth-search-sentinel-data/",
        "s3://sentinel-cogs/",
        "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/",
    ]


def test_arguments_before_environment_before_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("cogcat.toml").write_text(EVERYTHING)
    found = load_settings()
    assert (found.database, found.repository) == ("sqlite:///file.db", "s3://bucket/file")
    monkeypatch.setenv("COGCAT_DATABASE", "sqlite:///env.db")
    monkeypatch.setenv("COGCAT_REPOSITORY", "env")
    found = load_settings()
    assert (found.database, found.repository) == ("sqlite:///env.db", "env")
    found = load_settings(database="sqlite:///arg.db", repository="arg")
    assert (found.database, found.repository) == ("sqlite:///arg.db", "arg")


def test_the_file_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("one.toml").write_text('database = "sqlite:///one.db"')
    Path("two.toml").write_text('database = "sqlite:///two.db"\nrepository = "two"')
    monkeypatch.setenv("COGCAT_CONFIG", "one.toml")
    assert load_settings().database == "sqlite:///one.db"
    named = load_settings(config=Path("two.toml"))
    assert (named.database, named.repository) == ("sqlite:///two.db", "two")


def test_everything_a_file_can_say() -> None:
    Path("cogcat.toml").write_text(EVERYTHING)
    found = load_settings()
    assert found.repository_options == {
        "region": "eu-central-1",
        "endpoint": "https://s3.example.org",
        "anonymous": "True",
    }
    assert found.sources == (
        Source(
            name="mirror",
            match="https://data.example.org/s2/",
            url="s3://mirror/s2/",
            region="eu-central-1",
            requester_pays=True,
        ),
        Source(name="other.example.org", match="https://other.example.org/", url="file:///data/"),
        *BUILT_IN_SOURCES,
    )


def test_the_sdks_own_variables_say_where_s3_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very secret")
    found = load_settings()
    assert found.repository_options == {"region": "us-west-2", "endpoint": "http://127.0.0.1:9000"}
    assert "very secret" not in repr(found)
    Path("cogcat.toml").write_text(EVERYTHING)
    assert load_settings().repository_options["endpoint"] == "https://s3.example.org"


@pytest.mark.parametrize(
    ("key", "value"),
    [("name", "earth-search-c1"), ("url", "s3://e84-earth-search-sentinel-data/")],
)
def test_a_source_replaces_the_built_in_one_that_it_names(key: str, value: str) -> None:
    """A repository has one container of a name, and one of a url."""
    table = {"name": "mine", "match": "https://mirror.org/", "url": "https://mirror.org/"}
    lines = [f'{name} = "{text}"' for name, text in (table | {key: value}).items()]
    Path("cogcat.toml").write_text("\n".join(["[[sources]]", *lines]))
    found = load_settings().sources
    assert [source.name for source in found] == [
        value if key == "name" else "mine",
        *(source.name for source in BUILT_IN_SOURCES[1:]),
    ]


SOURCE = '[[sources]]\nname = "a"\nmatch = "https://a.org/"\nurl = "https://a.org/"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("database = ", "not TOML"),
        ("\xff", "not TOML"),
        ('databse = "x"', "unknown key 'databse'"),
        ("database = 5", "database is 5, not text"),
        ("repository = 5", "repository is 5, not text"),
        ('[repository]\nbucket = "x"', r"unknown key 'bucket' in \[repository\]"),
        ('sources = "x"', r"written as \[\[sources\]\] tables"),
        ('sources = ["x"]', r"written as \[\[sources\]\] tables"),
        (SOURCE + 'key = "x"', r"unknown key 'key' in \[\[sources\]\] 1"),
        ('[[sources]]\nurl = "https://a.org/"', r"\[\[sources\]\] 1 has no 'match'"),
        ('[[sources]]\nmatch = "https://a.org/"', r"\[\[sources\]\] 1 has no 'url'"),
        (SOURCE + "region = 5", r"'region' in \[\[sources\]\] 1 is not text"),
        (SOURCE + 'anonymous = "no"', "'anonymous' .* is not true or false"),
        (SOURCE + SOURCE, "two .* have the name 'a'"),
        (SOURCE + SOURCE.replace('"a"', '"b"'), "two .* have the url 'https://a.org/'"),
        (SOURCE.replace('"a"', '"a/b"'), "a name has no '/'"),
        (SOURCE.replace('url = "https', 'url = "gopher'), "must start with s3://"),
        (SOURCE.replace('"https://a.org/"', '""', 1), "'match' is missing"),
    ],
)
def test_what_a_file_must_not_say(text: str, message: str) -> None:
    Path("cogcat.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message) as caught:
        load_settings()
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such configuration file"):
        load_settings(config="none.toml")
    with pytest.raises(ConfigError, match="directory"):
        load_settings(config=tmp_path)
