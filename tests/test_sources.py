"""Which store an href is read from, and how references name it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import HTTPStore, LocalStore, S3Store

from catalog.errors import ConfigError, HeaderError
from catalog.settings import BUILT_IN_SOURCES, Source
from catalog.sources import location, open_store, resolve

C1 = "https://e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com/"


def test_an_earth_search_href_is_read_from_its_bucket() -> None:
    source, key = resolve(f"{C1}sentinel-2-c1-l2a/10/T/FR/B04.tif", BUILT_IN_SOURCES)
    assert (source.name, source.url) == ("earth-search-c1", "s3://e84-earth-search-sentinel-data/")
    assert key == "sentinel-2-c1-l2a/10/T/FR/B04.tif"
    assert location(source, key) == "vcc://earth-search-c1/sentinel-2-c1-l2a/10/T/FR/B04.tif"


def test_the_first_source_that_matches_wins() -> None:
    mirror = Source(name="mirror", match=C1, url="http://mirror.example/")
    assert resolve(f"{C1}a.tif", (mirror, *BUILT_IN_SOURCES))[0] is mirror


@pytest.mark.parametrize(
    ("href", "key"),
    [
        ("https://host/a%20b/%23%3F%25.tif", "a b/#?%.tif"),
        ("https://host/%C3%A9.tif", "é.tif"),
        ("s3://bucket/a%20b.tif", "a%20b.tif"),
        ("s3://bucket/a b.tif", "a b.tif"),
        ("file:///data/é.tif", "é.tif"),
        ("file:///data/%C3%A9%20100%25.tif", "é 100%.tif"),
        ("file://localhost/data/a.tif", "a.tif"),
    ],
)
def test_keys_are_decoded_where_the_href_is_a_web_or_file_address(href: str, key: str) -> None:
    sources = [
        Source(name=str(number), match=match, url=match)
        for number, match in enumerate(("https://host/", "s3://bucket/", "file:///data/"))
    ]
    assert resolve(href, sources)[1] == key


@pytest.mark.parametrize(
    "href",
    [
        "https://elsewhere/a.tif",
        C1.removesuffix("/") + ".evil.example/a.tif",
    ],
)
def test_an_href_of_no_source_says_what_to_add(href: str) -> None:
    with pytest.raises(HeaderError, match=r"no source matches it: add a \[\[sources\]\]") as error:
        resolve(href, BUILT_IN_SOURCES)
    assert error.value.href == href
    assert "\n" not in str(error.value)


@given(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1))
def test_a_location_gives_its_key_back(key: str) -> None:
    source = Source(name="files", match="s3://bucket/", url="s3://bucket/")
    stored = location(source, key)
    assert stored.isascii()
    assert not set("?#") & set(stored)
    assert unquote(stored.removeprefix("vcc://files/")) == key


def test_open_store_knows_every_kind_of_url(tmp_path: Path) -> None:
    def opened(url: str, **options: str) -> object:
        return open_store(Source(name="x", match="https://x/", url=url, **options))  # type: ignore[arg-type]

    assert isinstance(opened("https://host/below/"), HTTPStore)
    bucket = opened("s3://bucket/below/", region="eu-west-1", endpoint="http://127.0.0.1:1")
    assert isinstance(bucket, S3Store)
    assert bucket.prefix == "below"
    directory = tmp_path / "with space"
    directory.mkdir()
    (directory / "a.tif").write_bytes(b"II")
    local = opened(f"{directory.as_uri()}/")
    assert isinstance(local, LocalStore)
    assert bytes(obstore.get(local, "a.tif").bytes()) == b"II"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3:///key/", "names no bucket or host"),
        ("file:///no/such/place/", "no directory /no/such"),
    ],
)
def test_a_url_that_cannot_be_opened_names_the_source(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"source 'mine': .*{reason}"):
        open_store(Source(name="mine", match="https://x/", url=url))
