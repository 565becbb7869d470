"""Where settings come from, and which sources there are."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from catalog.errors import ConfigError
from catalog.settings import BUILT_IN_SOURCES, Settings, Source, load_settings, stac_headers

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
OTHER = '[[sources]]\nname = "b"\nmatch = "https://a.org/b/"\nurl = "https://b.org/"\n'


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
        (SOURCE + "region = 5", r"'region' in \[\[sources\]\] 1 is 5, not text"),
        (SOURCE + 'anonymous = "no"', "'anonymous' .* is 'no', not true or false"),
        (SOURCE + SOURCE, r"\[\[sources\]\] 2: .* 1 has the name 'a', too"),
        (SOURCE + SOURCE.replace('"a"', '"b"'), "1 has the url 'https://a.org/', too"),
        (SOURCE.replace('"a"', '"a/b"'), "a name has no blank, '/'"),
        (SOURCE.replace('url = "https', 'url = "gopher'), "must start with s3://"),
        (SOURCE.replace('"https://a.org/"', '""', 1), "'match' is missing"),
        (SOURCE + OTHER, "2 is never used: .*'https://a.org/b/' goes to .* 1"),
        (SOURCE.replace('url = "', 'url = "\\u001b[31m'), r"'url' holds .* \\x1b\[31m"),
        (SOURCE.replace('"a"', '"a\\u202eb"'), "'name' holds characters that are not printable"),
        (SOURCE.replace('"a"', f'"{"n" * 256}"'), "255 characters"),
        (
            SOURCE.replace('a.org/"', f'a.org/{"x" * 5000}"'),
            "5014 characters, and 4096 are too many",
        ),
        (SOURCE.replace("https://a.org/", "https://[a/"), "'match' is no address"),
        (SOURCE.replace("https://a.org/", "https://a.org/?x="), "no '\\?' or '#'"),
        (SOURCE + 'endpoint = "a.org"', "'endpoint' must start with https"),
        ("database = nan", "database is nan, not text"),
        ("repository = {location = true}", "repository is True, not text"),
        ("[repository]\nregion = 5", r"'region' in \[repository\] is 5, not text"),
        ("[repository]\nendpoint = inf", r"'endpoint' in \[repository\] is inf, not text"),
        ('[repository]\nanonymous = "perhaps"', "is 'perhaps', not true or false"),
        ("stac = 5", "stac is 5, not text"),
        ("collection = ['a']", r"collection is \['a'\], not text"),
        ('collection = "a\\u0000"', r"collection holds .*a\\x00"),
        ('database = "a\\nb"', r"database holds .*a\\nb"),
        ('database = "x"\ndatabase = "y"', "not TOML"),
        ("a = " + "[" * 100_000, "not TOML"),
        ("a = " + "9" * 5000, "not TOML"),
        ("#" * 1_000_001, "more than 1000000 bytes"),
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
    with pytest.raises(ConfigError, match="null"):
        load_settings(config="a\0b")
    with pytest.raises(ConfigError, match="more than"):
        load_settings(config="/dev/zero")


def test_the_api_and_its_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().stac == "https://earth-search.aws.element84.com/v1"
    Path("cogcat.toml").write_text('stac = "https://file.org"\ncollection = "of-file"')
    assert (load_settings().stac, load_settings().collection) == ("https://file.org", "of-file")
    monkeypatch.setenv("COGCAT_STAC", "https://env.org")
    monkeypatch.setenv("COGCAT_COLLECTION", "of-env")
    assert (load_settings().stac, load_settings().collection) == ("https://env.org", "of-env")
    monkeypatch.setenv("COGCAT_STAC", "https://env.org/?api_key=hunter2")
    with pytest.raises(ConfigError, match=r"^COGCAT_STAC holds .* COGCAT_STAC_AUTHORIZATION") as no:
        load_settings()
    assert "hunter2" not in str(no.value)
    monkeypatch.setenv("COGCAT_STAC", "https://env.org/\x1b[31m")
    with pytest.raises(ConfigError, match=r"^COGCAT_STAC holds characters"):
        load_settings()


SECRET_URLS = (
    "https://hunter2@h.org/", "https://u:hunter2@h.org/", "https://u:p@hunter2@h.org/",
    "https://h.org/token=hunter2/", "https://h.org/;sig=hunter2/",
)  # fmt: skip


@pytest.mark.parametrize("url", SECRET_URLS)
@pytest.mark.parametrize("key", ["match", "url", "endpoint"])
def test_a_source_holds_no_secret(key: str, url: str) -> None:
    table = {"name": "a", "match": "https://a.org/", "url": "s3://a/"} | {key: url}
    lines = [f'{name} = "{text}"' for name, text in table.items()]
    Path("cogcat.toml").write_text("\n".join(["[[sources]]", *lines]))
    with pytest.raises(ConfigError, match=rf"{key}.*AWS_ACCESS_KEY_ID") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    "location",
    ["s3://k:hunter2@b/p", "s3://hunter2@b/p", "s3:/k:hunter2@b/p", "s3://b/p?key=hunter2"],
)
def test_a_repository_holds_no_secret(location: str) -> None:
    with pytest.raises(ConfigError, match="the environment") as caught:
        load_settings(repository=location)
    assert "hunter2" not in str(caught.value)
    Path("cogcat.toml").write_text('[repository]\nendpoint = "https://u:hunter2@h"')
    with pytest.raises(ConfigError, match="the environment") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)
    assert load_settings(repository="/a@b/c", config=os.devnull).repository == "/a@b/c"


def test_what_an_api_wants_to_see(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(stac="https://api.org/stac")
    assert stac_headers("https://api.org/stac", settings) == {}
    monkeypatch.setenv("COGCAT_STAC_AUTHORIZATION", "Bearer hunter2")
    assert stac_headers("https://api.org/x", settings) == {"Authorization": "Bearer hunter2"}
    assert stac_headers("https://other.org/x", settings) == {}
    monkeypatch.setenv("COGCAT_STAC_AUTHORIZATION_OTHER_ORG", "X-Api-Key: hunter3")
    assert stac_headers("https://other.org/x", settings) == {"X-Api-Key": "hunter3"}
    assert stac_headers("https://api.org.evil.net/", settings) == {}
    for url in ("http://api.org/x", "http://api.org:443/"):
        with pytest.raises(ConfigError, match="not sent in the clear") as caught:
            stac_headers(url, settings)
        assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("COGCAT_STAC_AUTHORIZATION", "a\r\nHost: evil")
    with pytest.raises(ConfigError, match="line break"):
        stac_headers("https://api.org/x", settings)


def test_no_password_in_repr_and_none_of_the_environment_in_a_pickle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = "postgresql://u:hunter2@h/db"
    assert "hunter2" not in repr(load_settings(database=url))
    assert pickle.loads(pickle.dumps(load_settings(database=url))).database == url
    monkeypatch.setenv("COGCAT_DATABASE", url)
    data = pickle.dumps(load_settings())
    assert b"hunter2" not in data
    assert pickle.loads(data) == load_settings()
    monkeypatch.delenv("COGCAT_DATABASE")
    with pytest.raises(ConfigError, match="set COGCAT_DATABASE here"):
        pickle.loads(data)
