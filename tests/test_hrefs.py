"""Hrefs: which are accepted, which key each stands for, and that both clients read the same file.

The clients are the real ones, obstore for headers and icechunk for pixels, against a directory, a
web server and S3's protocol.
"""

from __future__ import annotations

import random
import threading
import unicodedata
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import obstore
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import ConfigError, HeaderError
from catalog.hrefs import LONGEST, checked_href, key_below, shown_href
from catalog.printable import printable
from catalog.repository import Repository
from catalog.settings import Source
from catalog.sources import href_of, location, open_store, resolve

SECRET = "SECRET-7a1f"
WEB, BUCKET, DISK = "https://host/below/", "s3://bucket/below/", "file:///data/my%20files/"
SOURCES = [
    Source(name=name, match=match, url=match)
    for name, match in (("web", WEB), ("bucket", BUCKET), ("disk", DISK))
]

GOOD = {
    f"{WEB}a.tif": "a.tif",
    f"{WEB}a/b/c.tif": "a/b/c.tif",
    f"{WEB}a%20b.tif": "a b.tif",
    f"{WEB}%C3%A9.tif": "é.tif",
    f"{WEB}é.tif": "é.tif",
    f"{WEB}100%25.tif": "100%.tif",
    f"{WEB}a%2520b.tif": "a%20b.tif",
    f"{WEB}a%23b%3Fc.tif": "a#b?c.tif",
    f"{WEB}a%5Cb.tif": "a\\b.tif",
    f"{WEB}..a/b../...": "..a/b../...",
    f"{WEB}%": "%",
    f"{WEB}a@b:c.tif": "a@b:c.tif",
    f"{WEB}a+b&c=d;e,f(g)!$*~'.tif": "a+b&c=d;e,f(g)!$*~'.tif",
    f"{BUCKET}a b.tif": "a b.tif",
    f"{BUCKET} a": " a",
    f"{BUCKET}a%20b.tif": "a%20b.tif",
    f"{BUCKET}%2e%2e/a.tif": "%2e%2e/a.tif",
    f"{BUCKET}a\\b": "a\\b",
    f"{DISK}a.tif": "a.tif",
    f"{DISK}a b.tif": "a b.tif",
    f"{DISK}a%20b%25c%23d%3Fe.tif": "a b%c#d?e.tif",
    "file:///data/my files/é.tif": "é.tif",
    "file://localhost/data/my%20files/a.tif": "a.tif",
    "file:///%64ata/my%20files/a.tif": "a.tif",
}

ABSOLUTE, QUERY, SPACE = "not an absolute", "cannot carry", "white space or control"
ELSEWHERE, USER, NO_FILE = "may lead to another file", "user name or password", "names no file"
BAD: dict[Any, str] = {
    None: "no href",
    "": "no href",
    5: "no href",
    ("https://host/a",): "no href",
    "B04.tif": ABSOLUTE,
    "./B04.tif": ABSOLUTE,
    "/data/B04.tif": ABSOLUTE,
    "//host/B04.tif": ABSOLUTE,
    "ftp://host/B04.tif": ABSOLUTE,
    "gs://bucket/B04.tif": ABSOLUTE,
    "javascript:alert(1)": ABSOLUTE,
    "data:image/tiff;base64,AAAA": ABSOLUTE,
    "https:///B04.tif": ABSOLUTE,
    "https://host": ABSOLUTE,
    "https://host/": ABSOLUTE,
    "HTTPS://host/B04.tif": ABSOLUTE,
    "s3:///B04.tif": ABSOLUTE,
    "s3://bucket": ABSOLUTE,
    "s3://bucket:80/B04.tif": ABSOLUTE,
    "file:///": ABSOLUTE,
    "file:/data/B04.tif": ABSOLUTE,
    "file://elsewhere/data/B04.tif": ABSOLUTE,
    "https://[::1/B04.tif": ABSOLUTE,
    "https://[nonsense]/B04.tif": ABSOLUTE,
    "https://host:99999/B04.tif": ABSOLUTE,
    "https://host:-1/B04.tif": ABSOLUTE,
    "https://host:port/B04.tif": ABSOLUTE,
    "https://host\\evil/B04.tif": ABSOLUTE,
    "https://host/a\\..\\B04.tif": "backslash",
    "file:///data/a\\b.tif": "backslash",
    "https://host/a b.tif": SPACE,
    "https://ho st/a.tif": SPACE,
    " https://host/a.tif": ABSOLUTE,
    "https://host/a\n.tif": SPACE,
    "https://host/a\x00.tif": SPACE,
    "https://host/a\x1b[31m.tif": SPACE,
    "https://host/a\u202e.tif": SPACE,
    "https://host/a\u200b.tif": SPACE,
    "https://host/a\u2028.tif": SPACE,
    "https://host/a\xa0b.tif": SPACE,
    "https://host/\ud800.tif": SPACE,
    "s3://bucket/a\tb.tif": SPACE,
    "https://host/a%00.tif": SPACE,
    "https://host/a%0a.tif": SPACE,
    "https://host/a%0D%0AHost:%20evil": SPACE,
    "https://host/a%7F.tif": SPACE,
    "file:///data/a%00.tif": SPACE,
    "https://host//a.tif": ELSEWHERE,
    "https://host/a//b.tif": ELSEWHERE,
    "https://host/a/./b.tif": ELSEWHERE,
    "https://host/./a.tif": ELSEWHERE,
    "https://host/../a.tif": ELSEWHERE,
    "https://host/a/../b.tif": ELSEWHERE,
    "https://host/a/..": ELSEWHERE,
    "https://host/%2e/a.tif": ELSEWHERE,
    "https://host/a/%2E%2e/b.tif": ELSEWHERE,
    "https://host/a/.%2e/b.tif": ELSEWHERE,
    "s3://bucket//a.tif": ELSEWHERE,
    "s3://bucket/a/./b.tif": ELSEWHERE,
    "s3://bucket/../other/a.tif": ELSEWHERE,
    "file:////data/a.tif": ELSEWHERE,
    "file:///data/../etc/passwd": ELSEWHERE,
    "file:///data/%2e%2e/etc/passwd": ELSEWHERE,
    "https://host/a%2Fb.tif": "encoded slash",
    "https://host/..%2fa.tif": "encoded slash",
    "file:///data/a%2fb.tif": "encoded slash",
    "https://host/%FF.tif": "not UTF-8",
    "https://host/%C3.tif": "not UTF-8",
    "https://host/%ED%A0%80.tif": "not UTF-8",
    "https://host/%C0%AE%C0%AE/a.tif": "not UTF-8",
    "https://host/a%20": "ends in a blank",
    "s3://bucket/a ": "ends in a blank",
    "file:///data/a.tif%20%20": "ends in a blank",
    "https://host/a/": NO_FILE,
    "s3://bucket/a/": NO_FILE,
    "file:///data/": NO_FILE,
    "https://host/a.tif?": QUERY,
    "https://host/a.tif?version=2": QUERY,
    f"https://host/a.tif?token={SECRET}": QUERY,
    f"https://host/a.tif?api_key={SECRET}": QUERY,
    f"https://host/a.tif?key={SECRET}&sig={SECRET}": QUERY,
    f"https://host/a.tif?versionId=3&X-Amz-Signature={SECRET}": QUERY,
    f"https://host/a.tif?sig={SECRET}&snapshot=2024": QUERY,
    f"https://host/a.tif?sig={SECRET}#part": QUERY,
    f"https://host/a.tif#{SECRET}": QUERY,
    f"s3://bucket/a.tif?token={SECRET}": QUERY,
    "s3://bucket/a#1.tif": QUERY,
    "file:///data/a#1.tif": QUERY,
    "file:///data/a.tif?x": QUERY,
    f"https://{SECRET}@host/a.tif": USER,
    f"https://me:{SECRET}@host/a.tif": USER,
    f"https://me:{SECRET}@[::1]/a.tif": USER,
    f"https://:{SECRET}@host/a.tif": USER,
    f"s3://{SECRET}:{SECRET}@bucket/a.tif": USER,
    f"https://me:{SECRET}/x@host/a.tif": ABSOLUTE,
    f"https://{SECRET}@[::1/a.tif": ABSOLUTE,
    "https://host/" + "a" * LONGEST: "longer than 2048 bytes",
    "https://host/" + "é" * 1100: "longer than 2048 bytes",
    "x" * 2**20: "longer than 2048 bytes",
    "https://host/" + "a/" * 2**20: "longer than 2048 bytes",
}


@pytest.mark.parametrize(("href", "key"), GOOD.items())
def test_hrefs_that_are_accepted(href: str, key: str) -> None:
    assert checked_href(href) == (href, False)
    source, found = resolve(href, SOURCES)
    assert found == key
    again = href_of(location(source, key), SOURCES)
    assert resolve(again, SOURCES) == (source, key)
    assert checked_href(again) == (again, False)


@pytest.mark.parametrize(("href", "reason"), BAD.items(), ids=lambda value: ascii(value)[:40])
def test_hrefs_that_are_refused(href: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        checked_href(href)
    shown = shown_href(href)
    said = f"{caught.value} ({shown})"
    assert SECRET not in said
    assert printable(said, None) == said
    assert len(said) < 250


ANYWHERE = [
    Source(name=str(number), match=match, url="https://host/")
    for number, match in enumerate(("https://host/", "s3://bucket/", "file:///data/"))
]


@pytest.mark.parametrize(
    "href", [href for href in BAD if isinstance(href, str)], ids=lambda value: ascii(value)[:40]
)
def test_an_href_that_is_refused_is_not_resolved_either(href: str) -> None:
    """What was recorded before the border knew: the scene fails, whatever its source."""
    try:
        _, key = resolve(href, ANYWHERE)
    except HeaderError as error:
        said = str(error)
        assert len(said) < 400
        assert SECRET not in said
        assert printable(said, None) == said
    else:
        assert not {"", ".", ".."} & set(key.split("/"))
        assert "\x00" not in key


@pytest.mark.parametrize(
    "query",
    [
        "sv=2024-05-04&st=2024-01-01T00%3A00%3A00Z&se=2024-01-02&sr=c&sp=rl&sig=x%2Fy%3D",
        "SIG=x&SE=2024",
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=x&X-Amz-Date=y&X-Amz-Expires=9"
        "&X-Amz-SignedHeaders=host&X-Amz-Security-Token=t&X-Amz-Signature=s&x-id=GetObject",
        "AWSAccessKeyId=A&Expires=1&Signature=s",
        "Expires=1&Policy=p&Signature=s&Key-Pair-Id=k",
        "X-Goog-Algorithm=a&X-Goog-Credential=c&X-Goog-Date=d&X-Goog-Expires=1"
        "&X-Goog-SignedHeaders=host&X-Goog-Signature=s",
    ],
)
def test_a_known_signature_is_taken_out(query: str) -> None:
    assert checked_href(f"{WEB}a.tif?{query}") == (f"{WEB}a.tif", True)
    with pytest.raises(ValueError, match=QUERY):
        checked_href(f"{WEB}a.tif?{query}&more=1")


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=30) | st.text(st.sampled_from("a/.%2eEfF?#@\\ é\x00:&"), max_size=20))
def test_what_is_accepted_names_one_file(tail: str) -> None:
    for source in SOURCES:
        href = source.match + tail
        try:
            plain, signed = checked_href(href)
            found, key = resolve(plain, SOURCES)
        except (ValueError, HeaderError):
            continue
        assert (found, signed) == (source, False)
        assert resolve(href_of(location(source, key), SOURCES), SOURCES) == (source, key)
        assert unquote(location(source, key)) == f"vcc://{source.name}/{key}"
        segments = key.split("/")
        assert not {"", ".", ".."} & set(segments)
        assert not any(unicodedata.category(char) == "Cc" and char < "\x80" for char in key)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(st.characters(exclude_categories=["C"]), min_size=1), min_size=1))
def test_file_hrefs_come_back_as_python_writes_them(names: list[str]) -> None:
    path = Path("/data/my files").joinpath(*(name.replace("/", "-") for name in names))
    href = path.as_uri()
    try:
        plain, _ = checked_href(href)
    except ValueError:
        assert ".." in path.parts or len(href) > LONGEST or path.name.endswith(" ")
        return
    try:
        source, key = resolve(plain, SOURCES)
    except HeaderError:
        long = any(len(name.encode()) > 255 for name in path.parts)
        assert long or path == Path("/data/my files") or path.name.endswith(":")
        return
    assert href_of(location(source, key), SOURCES) == href


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://bucket/a#b/", "no '.' or '#'"),
        ("https://host/a?b/", "no '.' or '#'"),
        ("https://host/a%3Fb/", "cannot carry"),
        ("file:///data/a%2520b/", "encoded percent"),
        ("s3://bucket//a/", "holds '//'"),
        ("https://host/a/../b/", "holds '//'"),
        ("file:///data/%2e%2e/", "holds '//'"),
        ("https://host/a%00/", "control characters"),
    ],
)
def test_a_root_that_references_cannot_lead_to_is_a_setting_that_is_refused(
    url: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"source 'x': .*{reason}"):
        Source(name="x", match="https://match/", url=url)


# Both clients


class Recorder(BaseHTTPRequestHandler):
    """Answers every GET with bytes that say which path was asked for."""

    protocol_version = "HTTP/1.1"
    paths: list[str]

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.paths.append(path)
        self.send_response(206)
        self.send_header("Content-Range", "bytes 0-7/8")
        self.send_header("Content-Length", "8")
        self.send_header("ETag", '"same"')
        self.send_header("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT")
        self.end_headers()
        self.wfile.write(b"01234567")


@pytest.fixture
def recorder() -> Iterator[tuple[str, list[str]]]:
    paths: list[str] = []
    handler = type("Handler", (Recorder,), {"paths": paths})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", paths
    server.shutdown()
    server.server_close()


def odd_keys() -> list[str]:
    """The accepted ones of above, and as many of what fuzzing makes: all must be read alike."""
    random_ = random.Random(9)
    letters = "ab.%/ é日+#?&=;:@[]{}|^`\"'<>\\~!$()*,\u0301\U0001f600\u202e\u200b\x85\xad2Ee5Ff"
    made = {"".join(random_.choices(letters, k=random_.randint(1, 12))) for _ in range(130)}
    keys = [*dict.fromkeys(GOOD.values()), *sorted(made)]
    return [key for key in keys if _is_key(key)]


def _is_key(key: str) -> bool:
    try:
        return key_below(f"x://{key}", "x://") == key
    except ValueError:
        return False


@pytest.mark.parametrize("scheme", ["http", "s3", "file"])
def test_both_clients_read_the_same_file(
    recorder: tuple[str, list[str]], tmp_path: Path, scheme: str
) -> None:
    url, paths = recorder
    root = tmp_path / "my é"
    source = {
        "http": Source(name="x", match="https://h/", url=f"{url}/my%20%C3%A9/"),
        "s3": Source(
            name="x", match="https://h/", url="s3://bucket/my é/", endpoint=url, region="eu-west-1"
        ),
        "file": Source(name="x", match="https://h/", url=f"{root.as_uri()}/"),
    }[scheme]
    keys = odd_keys()
    assert len(keys) > 70
    root.mkdir()
    if scheme == "file":
        keys = [
            key
            for number, key in enumerate(keys)
            if not key.endswith(":") and _write(root / key, f"{number:08}")
        ]
    contents: list[bytes] = []
    store = open_store(source)
    for key in keys:
        contents.append(bytes(obstore.get(store, key, options={"range": (0, 8)}).bytes()))
    asked = list(paths)
    paths.clear()
    repository = Repository.create(str(tmp_path / "repository"), [source])
    session = repository.icechunk.writable_session("main")
    group = zarr.open_group(session.store, mode="a")
    array = group.create_array(
        "x", shape=(8 * len(keys),), chunks=(8,), dtype="u1", compressors=None, filters=None
    )
    failed = session.store.set_virtual_refs_arr(
        "x",
        (len(keys),),
        [location(source, key) for key in keys],
        np.zeros(len(keys), "u8"),
        np.full(len(keys), 8, "u8"),
    )
    assert not failed
    for number, (key, content) in enumerate(zip(keys, contents, strict=True)):
        assert bytes(np.asarray(array[8 * number : 8 * number + 8])) == content, key
    assert paths == asked
    if scheme == "file":
        assert len(set(contents)) == len(keys) > 50


def _write(path: Path, content: str) -> bool:
    """False where another of these names is in the way."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(content)
    except OSError:
        return False
    return True
