"""Servers of files that answer otherwise than they should: one clear error, in bounded memory."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from raw_server import MODIFIED, TAG, RawServer, answer, asked_range, part
from scenes import make_asset, noise, read_header, write_small_cog

from catalog.errors import (
    DamagedFileError,
    HeaderError,
    MissingFileError,
    SourceError,
    UnreadableFileError,
)
from catalog.header import Header, HeaderReader
from catalog.patience import Patience
from catalog.remote_file import FIRST_READ, MAX_ETAG
from catalog.settings import Source
from catalog.sources import hosts_of, open_store

FAR = "Last-Modified: Fri, 31 Dec 9999 23:59:59 GMT"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Shorter than the first read."""
    path = tmp_path_factory.mktemp("small") / "a.tif"
    content = write_small_cog(path, noise(60, 60), overviews=()).read_bytes()
    assert len(content) < FIRST_READ
    return content


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("large") / "a.tif"
    content = write_small_cog(path, noise(300, 300)).read_bytes()
    assert len(content) > 2 * FIRST_READ
    return content


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six tries without pauses."""
    monkeypatch.setattr("catalog.header.PATIENCE", Patience(retries=5, first=0.001, longest=0.002))


def read(respond: Callable[[str], Iterable[bytes]], *more: Source) -> tuple[Any, RawServer]:
    """The header or the error, and the server that was asked."""
    with RawServer(respond) as server:
        source = Source(name="raw", match=server.url, url=server.url)
        try:
            found: Any = read_header(make_asset(f"{server.url}a.tif"), source, *more)
        except HeaderError as error:
            found = error
        if isinstance(found, HeaderError):
            assert (found.band, found.href) == ("red", f"{server.url}a.tif")
            assert "\n" not in str(found)
            assert len(str(found)) < 600
        return found, server


def ranged(content: bytes, *headers: str, **changes: Any) -> Callable[[str], Iterator[bytes]]:
    """A server that is proper but for ``headers`` and ``changes``, see ``part``."""

    def respond(request: str) -> Iterator[bytes]:
        start, stop = asked_range(request) or (0, len(content))
        yield part(content, start, stop, *headers, **changes)

    return respond


def whole(content: bytes, *, covered: bool = False) -> Callable[[str], Iterator[bytes]]:
    """200 and the whole file, whatever is asked for; or (``covered``) to ranges that cover it."""
    length = f"Content-Length: {len(content)}"

    def respond(request: str) -> Iterator[bytes]:
        start, stop = asked_range(request) or (0, len(content))
        if covered and (start > 0 or stop < len(content)):
            yield part(content, start, stop, MODIFIED, TAG)
        else:
            yield answer("200 OK", length, MODIFIED, TAG, body=content)

    return respond


# 200 to a range


def test_a_small_file_that_comes_whole_is_taken(small: bytes) -> None:
    want, _ = read(ranged(small, MODIFIED, TAG))
    header, server = read(whole(small, covered=True))
    assert isinstance(header, Header)
    assert (header.size, header.sha256, header.etag) == (len(small), want.sha256, '"abc"')
    # Where one byte of it comes alone, chunks will; that is asked once of a server.
    assert header.requests == len(server.requests) == 3

    async def read_two(source: Source) -> list[Any]:
        reader = HeaderReader([source])
        return [await reader.read(make_asset(f"{source.match}{n}.tif")) for n in range(2)]

    with RawServer(whole(small, covered=True)) as server:
        source = Source(name="raw", match=server.url, url=server.url)
        assert [found.requests for found in asyncio.run(read_two(source))] == [3, 2]


def test_a_server_that_knows_no_ranges_is_no_source_of_small_files_either(small: bytes) -> None:
    """Its headers would be there, and never a pixel."""
    error, server = read(whole(small))
    assert type(error) is HeaderError
    assert f"sends the whole file, {len(small)} bytes, where a range" in error.reason
    assert len(server.requests) <= 6


def test_a_large_file_that_comes_whole_is_one_clear_error(large: bytes) -> None:
    error, server = read(whole(large))
    assert type(error) is HeaderError
    assert f"sends the whole file, {len(large)} bytes, where a range" in error.reason
    assert len(server.requests) <= 4


def test_files_that_come_whole_are_no_silence(
    large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many: the source is not away. One that says nothing is."""
    monkeypatch.setattr("catalog.header.GONE", 3)

    async def read_all(source: Source, count: int) -> list[Any]:
        reader = HeaderReader([source], concurrency=1, patience=Patience(retries=1, first=0.001))
        assets = [make_asset(f"{source.match}{n}.tif") for n in range(count)]
        return await reader.read_all(assets)

    for respond in (
        whole(large),
        whole(large[:FIRST_READ]),
        ranged(large, "Last-Modified: soon"),
        ranged(large, size="*"),
    ):
        with RawServer(respond) as server:
            source = Source(name="raw", match=server.url, url=server.url)
            assert {type(e) for e in asyncio.run(read_all(source, 8))} == {HeaderError}
    with RawServer(lambda request: []) as server:
        source = Source(name="raw", match=server.url, url=server.url)
        with pytest.raises(SourceError, match="answers nothing any more"):
            asyncio.run(read_all(source, 8))


# Answers that make no sense


def endless(_: str) -> Iterator[bytes]:
    """Gigabytes to a range of 32 KB."""
    yield answer(
        "206 Partial Content", f"Content-Length: {2**33}", f"Content-Range: bytes 0-32767/{2**33}"
    )
    for _ in range(2**13):
        yield bytes(2**20)


SENSELESS: dict[str, tuple[Any, type[HeaderError], str]] = {
    "another range": (
        lambda c: lambda r: [
            answer("206 P", f"Content-Length: {len(c)}",
                   f"Content-Range: bytes 7-{len(c) + 6}/{len(c) + 7}", body=c)
        ],
        HeaderError, "got 7..",
    ),
    "no range": (
        lambda c: lambda r: [answer("206 P", f"Content-Length: {len(c)}", body=c)],
        HeaderError, "Content-Range header not present",
    ),
    "size unknown": (lambda c: ranged(c, size="*"), HeaderError, "CONTENT_RANGE"),
    "size 0": (lambda c: ranged(c, size=0), HeaderError, "object was only 0 bytes"),
    "size 2^63": (lambda c: ranged(c, size=2**63), HeaderError, "got 0.."),
    "size 2^64": (lambda c: ranged(c, size=2**64), HeaderError, "CONTENT_RANGE"),
    "size -4": (lambda c: ranged(c, size=-4), HeaderError, "CONTENT_RANGE"),
    "a file of exabytes": (
        lambda c: ranged(c + bytes(FIRST_READ), size=2**62), UnreadableFileError, "a file of 46116",
    ),
    "a longer body": (lambda c: ranged(c, body=c + b"!"), HeaderError, "more than .* bytes came"),
    "a shorter body": (lambda c: ranged(c, body=c[:99]), HeaderError, "99 bytes came"),
    "no length": (
        lambda c: lambda r: [
            answer("206 P", f"Content-Range: bytes 0-{len(c) - 1}/{len(c)}", body=c)
        ],
        HeaderError, "Content-Length",
    ),
    "an endless body": (lambda c: endless, HeaderError, "more than 32768 bytes came"),
    "gzip": (
        lambda c: ranged(b"\x1f\x8b" + c, "Content-Encoding: gzip"),
        HeaderError, "encoded as gzip",
    ),
    "nothing": (
        lambda c: lambda r: [answer("204 No Content", MODIFIED, "Content-Length: 0")],
        DamagedFileError, "empty",
    ),
    "nothing, of no length": (
        lambda c: lambda r: [answer("204 No Content", MODIFIED)], HeaderError, "Content-Length",
    ),
    "an empty file": (
        lambda c: lambda r: [answer("416 Range Not Satisfiable", "Content-Range: bytes */0")],
        DamagedFileError, "empty",
    ),
    "not modified": (lambda c: lambda r: [answer("304 Not Modified")], HeaderError, "304"),
    "several choices": (
        lambda c: lambda r: [answer("300 Multiple Choices", "Content-Length: 0")],
        HeaderError, "sends on, and never to the file",
    ),
    "gone": (
        lambda c: lambda r: [answer("410 Gone", "Content-Length: 0")], MissingFileError, "missing",
    ),
    "not there": (
        lambda c: lambda r: [answer("404 Not Found", "Content-Length: 0")],
        MissingFileError, "missing",
    ),
    "a teapot": (
        lambda c: lambda r: [answer("418 I'm a teapot", "Content-Length: 0")], HeaderError, "418",
    ),
    "no date": (lambda c: ranged(c, "Last-Modified: soon"), HeaderError, "last modified 'soon'"),
    "an escape in the tag": (lambda c: ranged(c, 'ETag: "\x1b[31m"'), HeaderError, "cannot be"),
    "a tag of bytes": (lambda c: ranged(c, 'ETag: "\xe9"'), HeaderError, "non-ASCII"),
    "no HTTP": (lambda c: lambda r: [b"SSH-2.0-OpenSSH_9.9\r\n\r\n"], HeaderError, "cannot be"),
    "a page": (
        lambda c: lambda r: [answer("200 OK", "Content-Length: 15", body=b"<!DOCTYPE html>")],
        DamagedFileError, "not a TIFF",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SENSELESS)
def test_an_answer_that_makes_no_sense(small: bytes, kind: str) -> None:
    make, meant, reason = SENSELESS[kind]
    tracemalloc.start()
    try:
        error, server = read(make(small))
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()
    assert type(error) is meant, error
    with pytest.raises(HeaderError, match=reason):
        raise error
    assert len(server.requests) <= 6


def test_a_redirect_without_an_end(small: bytes) -> None:
    error, _ = read(lambda request: [answer("302 Found", "Location: /a.tif", "Content-Length: 0")])
    assert type(error) is HeaderError
    assert "never to the file" in error.reason


# What is said of the file


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ((), None),
        ((FAR,), None),
        (("Last-Modified: Thu, 01 Jan 1970 00:00:00 GMT",), None),
        (("Last-Modified: Mon, 01 Jan 0001 00:00:00 GMT",), None),
        ((MODIFIED,), datetime(2015, 10, 21, 7, 28, tzinfo=UTC)),
    ],
    ids=["none", "9999", "1970", "year 1", "2015"],
)
def test_a_time_of_modification_is_one_that_can_be(
    small: bytes, said: tuple[str, ...], kept: datetime | None
) -> None:
    header, _ = read(ranged(small, *said))
    assert isinstance(header, Header)
    assert header.last_modified == kept
    assert header.checksum == (kept and kept + timedelta(seconds=1))


@pytest.mark.parametrize(
    ("tag", "kept"),
    [
        ('"abc"', '"abc"'),
        ('W/"abc"', 'W/"abc"'),
        ('"' + "x" * MAX_ETAG + '"', None),
        ('"' + "x" * 200_000 + '"', None),
        ("", None),
    ],
    ids=["plain", "weak", "long", "very long", "empty"],
)
def test_a_tag_is_kept_where_it_is_short(small: bytes, tag: str, kept: str | None) -> None:
    header, _ = read(ranged(small, MODIFIED, f"ETag: {tag}"))
    assert isinstance(header, Header)
    assert header.etag == kept


def test_a_weak_tag_is_no_checksum(small: bytes) -> None:
    """Asked for with If-Match it matches nothing: no pixel could ever be read."""
    with RawServer(ranged(small, MODIFIED, 'ETag: W/"abc"')) as server:
        source = Source(name="raw", match=server.url, url="s3://bucket/", endpoint=server.url)
        header = read_header(make_asset(f"{server.url}a.tif"), source)
    assert header.checksum == datetime(2015, 10, 21, 7, 28, 1, tzinfo=UTC)
    assert header.etag == 'W/"abc"'


# Redirects


def redirect(to: str) -> Callable[[str], Iterator[bytes]]:
    return lambda request: iter([answer("302 Found", f"Location: {to}", "Content-Length: 0")])


def source_at(server: RawServer, kind: str) -> Source:
    if kind == "s3":
        return Source(name="raw", match=server.url, url="s3://bucket/", endpoint=server.url)
    return Source(name="raw", match=server.url, url=server.url)


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_a_redirect_to_another_host_is_refused_unless_settings_name_it(
    small: bytes, kind: str
) -> None:
    with RawServer(ranged(small, MODIFIED)) as other:
        there = f"http://localhost:{other.port}/a.tif"
        with RawServer(redirect(there)) as server:
            asset = make_asset(f"{server.url}a.tif")
            with pytest.raises(HeaderError) as caught:
                read_header(asset, source_at(server, kind))
            assert type(caught.value) is HeaderError
            assert "sends on to another host, localhost, " in caught.value.reason
            assert f"url = 'http://localhost:{other.port}/'" in caught.value.reason
            assert not other.requests
            named = Source(name="o", match="http://o/", url=f"http://localhost:{other.port}/")
            assert read_header(asset, source_at(server, kind), named).size == len(small)
            assert len(other.requests) == 1


@pytest.mark.parametrize("to", ["/b.tif", "http://127.0.0.1:{port}/b.tif", "//127.0.0.1:{port}/b"])
def test_a_redirect_within_the_host_is_followed(small: bytes, to: str) -> None:
    proper = ranged(small, MODIFIED)
    ports: list[int] = []

    def respond(request: str) -> Iterable[bytes]:
        if request.startswith("GET /a.tif"):
            return redirect(to.format(port=ports[0]))(request)
        return proper(request)

    with RawServer(respond) as server:
        ports.append(server.port)
        source = source_at(server, "http")
        assert read_header(make_asset(f"{server.url}a.tif"), source).size == len(small)


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data/", "another host, 169.254.169.254, "),
        ("https://localhost:1/a", "another host, localhost, "),
        ("http://user:secret@localhost:1/a?sig=abc", "another host, localhost, "),
        ("http://[::1]:1/a", "another host, ::1, "),
        ("http://[::1/a", "sends on"),
        ("http://loc alhost/a", "sends on"),
        ("file:///etc/passwd", "sends on to file:, which is not followed"),
        ("ftp://localhost/a", "sends on to ftp:, which is not followed"),
        ("s3://bucket/a", "sends on to s3:, which is not followed"),
        ("", "sends on"),
    ],
)
def test_where_no_redirect_leads(to: str, reason: str) -> None:
    error, server = read(redirect(to))
    assert type(error) is HeaderError
    assert reason in error.reason
    assert "secret" not in str(error)
    assert "abc" not in str(error)
    assert len(server.requests) <= 24  # a redirect to itself is followed ten times


def test_a_chain_of_redirects_names_where_it_leaves_the_host() -> None:
    def respond(request: str) -> Iterable[bytes]:
        first = request.startswith("GET /a.tif")
        return redirect("/b" if first else "http://localhost:9/c")(request)

    error, _ = read(respond)
    assert "another host, localhost, " in error.reason


def test_a_source_behind_the_environments_proxy_is_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever needs a proxy has none of ours: a redirect then is the proxy's to allow."""
    source = Source(name="far", match="http://far.example/", url="http://far.example/")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert "proxy_url" not in (open_store(source).client_options or {})
    monkeypatch.setenv("no_proxy", "far.example")
    options: Any = open_store(source, ["cdn.example"]).client_options
    assert options["proxy_excludes"] == "cdn.example,far.example"


def test_hosts_that_settings_name() -> None:
    sources = [
        Source(name="a", match="https://m.example/", url="https://A.example:444/x/"),
        Source(name="b", match="https://b/", url="s3://bucket/", endpoint="http://s3.example:9000"),
        Source(name="c", match="file:///c/", url="file:///c/"),
    ]
    assert hosts_of(sources) == ("a.example", "s3.example")


# Local files


def test_odd_places_of_a_local_source(tmp_path: Path) -> None:
    (tmp_path / "dir.tif").mkdir()
    (tmp_path / "empty.tif").write_bytes(b"")
    source = Source(name="l", match="https://l/", url=f"{tmp_path.as_uri()}/")
    for key, meant in itertools.product(
        ("dir.tif", "none.tif", "empty.tif", "empty.tif/below.tif"), (MissingFileError,)
    ):
        with pytest.raises(meant):
            read_header(make_asset(f"https://l/{key}"), source)
