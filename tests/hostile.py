"""A hostile world: STAC answers and files that mean harm, among honest ones, on the loopback.

``POISONED_ITEMS``, ``POISONED_FILES`` and ``LIES`` are what there is of each kind;
``HostileServer`` serves them, on two addresses of the loopback, of which the second is a host that
nobody allowed.
``Commands`` runs ``cogcat`` in a process of its own whose memory is bounded and measured.

    python tests/hostile.py

is that process. PYTEST_DONT_REWRITE: it asserts nothing.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import resource
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

Item = dict[str, Any]

SECRET = "hunter2swordfish"
"""Planted wherever a secret can stand; it may come out nowhere."""
ESCAPE = "\x1b[2J\x1b]0;owned\x07\u202e"
"""What would clear a terminal, set its title and turn its text around."""
MEGABYTE = 2**20
LIMIT = 600 * MEGABYTE
"""Bytes that a crawl of a hostile world may take."""


# Items


def _set(*path: str, value: Any) -> Callable[[Item], Any]:
    def poison(item: Item) -> Item:
        at: Any = item
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = value(item) if callable(value) else value
        return item

    return poison


def _drop(*path: str) -> Callable[[Item], Any]:
    def poison(item: Item) -> Item:
        at: Any = item
        for name in path[:-1]:
            at = at[name]
        del at[path[-1]]
        return item

    return poison


def _href(change: Callable[[str], str]) -> Callable[[Item], Any]:
    def poison(item: Item) -> Item:
        red = item["assets"]["red"]
        red["href"] = change(red["href"])
        return item

    return poison


def _in_key(change: Callable[[str], str]) -> Callable[[Item], Any]:
    """Of the last two segments of an address."""

    def changed(href: str) -> str:
        head, folder, name = href.rsplit("/", 2)
        return f"{head}/{change(f'{folder}/{name}')}"

    return _href(changed)


def _ring(count: int) -> list[list[float]]:
    return [[-121 + (n % 1000) / 1e4, 45 + n / (10 * count)] for n in range(count)]


def _deep(levels: int) -> Callable[[Item], str]:
    def poison(item: Item) -> str:
        item["properties"]["deep"] = "DEEP"
        return json.dumps(item).replace('"DEEP"', "[" * levels + "]" * levels)

    return poison


def _literal(text: str, *path: str) -> Callable[[Item], str]:
    """``text`` as it is in the JSON: NaN, an endless number …"""

    def poison(item: Item) -> str:
        _set(*path, value="LITERAL")(item)
        return json.dumps(item).replace('"LITERAL"', text)

    return poison


_BOX = [[-121.8, 44.1], [-120.4, 44.1], [-120.4, 45.1], [-121.8, 45.1], [-121.8, 44.1]]
_GLOBE = [[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]

POISONED_ITEMS: dict[str, Callable[[Item], Any]] = {
    # Addresses
    "double slash": _in_key(lambda key: key.replace("/", "//")),
    "dot segment": _in_key(lambda key: f"./{key}"),
    "parent segment": _in_key(lambda key: f"../{key}"),
    "quoted parent": _in_key(lambda key: f"%2e%2e/{key}"),
    "quoted NUL": _in_key(lambda key: f"{key}%00"),
    "quoted line break": _in_key(lambda key: f"%0a{key}"),
    "quoted slash": _in_key(lambda key: key.replace("/", "%2F")),
    "broken quote": _in_key(lambda key: f"{key}%"),
    "quoted no UTF-8": _in_key(lambda key: f"%ff{key}"),
    "backslash": _in_key(lambda key: key.replace("/", "\\")),
    "ends in a slash": _in_key(lambda key: f"{key}/"),
    "a folder alone": _in_key(lambda key: ""),
    "megabyte of address": _in_key(lambda key: "a" * MEGABYTE + key),
    "query": _href(lambda href: f"{href}?token={SECRET}"),
    "api key": _href(lambda href: f"{href}?api_key={SECRET}"),
    "key": _href(lambda href: f"{href}?key={SECRET}&x=1"),
    "signature": _href(lambda href: f"{href}?X-Amz-Signature={SECRET}"),
    "fragment": _href(lambda href: f"{href}#{SECRET}"),
    "user and password": _href(lambda href: href.replace("://", f"://me:{SECRET}@")),
    "user": _href(lambda href: href.replace("://", f"://{SECRET}@")),
    "another host": _href(lambda href: "http://127.0.0.2:9/x.tif"),
    "port": _href(lambda href: "http://127.0.0.1:99999/x.tif"),
    "bad IPv6": _href(lambda href: "http://[::1/x.tif"),
    "file": _href(lambda href: "file:///etc/passwd"),
    "javascript": _href(lambda href: "javascript:alert(1)"),
    "relative": _href(lambda href: "../B04.tif"),
    "no address": _href(lambda href: ""),
    "address is a list": _set("assets", "red", "href", value=[1]),
    "surrogate in address": _href(lambda href: f"{href}\ud800"),
    "escape in address": _href(lambda href: f"{href}{ESCAPE}"),
    # Names
    "megabyte of id": _set("id", value=lambda item: item["id"] + "x" * MEGABYTE),
    "300 bytes of id": _set("id", value=lambda item: item["id"] + "x" * 300),
    "NUL in id": _set("id", value=lambda item: item["id"] + "\0"),
    "escape in id": _set("id", value=lambda item: item["id"] + ESCAPE),
    "surrogate in id": _set("id", value=lambda item: item["id"] + "\udcff"),
    "markup in id": _set("id", value="[red]S2A[/red][link=file:///etc/passwd]x[/link]"),
    "formula in id": _set("id", value="=cmd|' /C calc'!A0"),
    "no id": _drop("id"),
    "id is a number": _set("id", value=5),
    "NUL in collection": _set("collection", value="sentinel-2\0"),
    "collection of slashes": _set("collection", value="../../etc"),
    "megabyte of collection": _set("collection", value="c" * MEGABYTE),
    "another collection": _set("collection", value="landsat-c2-l2"),
    "no collection": _drop("collection"),
    "unknown tile": _set("properties", "grid:code", value="MGRS-99ZZZ"),
    "another tile": _set("properties", "grid:code", value="MGRS-31UFU"),
    # Times
    "updated in 9999": _set("properties", "updated", value="9999-12-31T23:59:59Z"),
    "updated in a day": _set("properties", "updated", value="2099-01-01T00:00:00Z"),
    "seen in year 1": _set("properties", "datetime", value="0001-01-01T00:00:00Z"),
    "seen in 9999": _set("properties", "datetime", value="9999-12-31T23:59:59.999999Z"),
    "seen before year 1": _set("properties", "datetime", value="0001-01-01T00:00:00+14:00"),
    "no time": _set("properties", "datetime", value=None),
    "time is a number": _set("properties", "datetime", value=1e300),
    # Numbers
    "NaN": _literal("NaN", "properties", "eo:cloud_cover"),
    "Infinity in the box": _literal("[Infinity,0,0,0]", "bbox"),
    "endless number": _literal("9" * 5000, "properties", "s2:sequence"),
    "endless fraction": _literal("1e400", "properties", "eo:cloud_cover"),
    "huge size": _literal("9" * 40, "assets", "red", "file:size"),
    "negative size": _set("assets", "red", "file:size", value=-1),
    "another size": _set("assets", "red", "file:size", value=12),
    "deep": _deep(500),
    "deeper": _deep(100_000),
    "bad checksum": _set("assets", "red", "file:checksum", value="12" * MEGABYTE),
    # Ground
    "no geometry": _set("geometry", value=None),
    "no area": _set("geometry", value={"type": "Polygon", "coordinates": [_BOX[:1] * 4]}),
    "the globe": _set("geometry", value={"type": "Polygon", "coordinates": [_GLOBE]}),
    "a point": _set("geometry", value={"type": "Point", "coordinates": [0, 0]}),
    "text for numbers": _set("geometry", value={"type": "Polygon", "coordinates": [["a"] * 4]}),
    "200 000 vertices": _set(
        "geometry",
        value=lambda item: {"type": "Polygon", "coordinates": [_ring(200_000)]},
    ),
    "bow tie": _set(
        "geometry",
        value={"type": "Polygon", "coordinates": [[_BOX[0], _BOX[2], _BOX[1], _BOX[3], _BOX[0]]]},
    ),
    "another zone": _set("properties", "proj:epsg", value=32755),
    "no zone": _set("properties", "proj:epsg", value="32610; DROP TABLE scenes"),
    "GDAL's transform": _set(
        "assets", "red", "proj:transform", value=[600000, 10, 0, 5100000, 0, -10]
    ),
    "shape of millions": _set("assets", "red", "proj:shape", value=[2**31, 2**31]),
    # Shape
    "no assets": _set("assets", value={}),
    "assets are a list": _set("assets", value=[]),
    "asset is text": _set("assets", "red", value="red"),
    "ten thousand assets": _set(
        "assets",
        value=lambda item: (
            item["assets"] | {f"red{n}": item["assets"]["red"] for n in range(10_000)}
        ),
    ),
    "two reds": _set("assets", "B04", value=lambda item: copy.deepcopy(item["assets"]["red"])),
    "no properties": _set("properties", value=None),
    "no marks of its dialect": lambda item: (
        item
        | {
            "properties": {
                key: value
                for key, value in item["properties"].items()
                if not key.startswith(("earthsearch:", "s2:"))
            }
        }
    ),
    "other marks": _set("properties", "earthsearch:boa_offset_applied", value="perhaps"),
    "a number": lambda item: "5",
    "null": lambda item: "null",
    "a list": lambda item: "[]",
    "megabyte of words": _set("properties", "s2:product_uri", value="x" * MEGABYTE),
}


# Files


def tiff(
    fields: Iterable[tuple[int, int, int, int | bytes]], *, after: bytes = b"", next_at: int = 0
) -> bytes:
    """A little-endian TIFF of one directory.

    Args:
        fields: tag, type, count, and the value or where it lies (bytes: what lies behind).
        after: what follows the directory.
    """
    rows = list(fields)
    at = 8 + 2 + 12 * len(rows) + 4
    body = b""
    packed = b""
    for tag, kind, count, value in rows:
        if isinstance(value, bytes):
            number = at + len(body)
            body += value
        else:
            number = value
        packed += struct.pack("<HHII", tag, kind, count, number & 0xFFFFFFFF)
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(rows))
    return head + packed + struct.pack("<I", next_at) + body + after


def image(
    side: int = 64, tile: int = 64, *, compression: int = 8, bits: int = 16, **changed: Any
) -> bytes:
    """A file of one image whose every tile is one and the same piece of data."""
    count = (-(-side // tile)) ** 2
    piece = changed.pop("piece", zlib.compress(bytes(tile * tile * bits // 8)))
    start = 1000 + 8 * min(count, 2**18)
    samples = changed.pop("samples", 1)
    offsets = struct.pack("<I", start) * count
    lengths = struct.pack("<I", len(piece)) * count
    fields: list[tuple[int, int, int, int | bytes]] = [
        (256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, bits), (259, 3, 1, compression),
        (277, 3, 1, samples), (284, 3, 1, 1), (317, 3, 1, changed.pop("predictor", 1)),
        (322, 4, 1, tile), (323, 4, 1, tile),
        (324, 4, count, offsets if count > 1 else start),
        (325, 4, count, lengths if count > 1 else len(piece)),
        (339, 3, 1, changed.pop("format", 1)),
        (33550, 12, 3, struct.pack("<3d", 10, 10, 0)),
        (33922, 12, 6, struct.pack("<6d", 0, 0, 0, 600000, 5100000, 0)),
    ]  # fmt: skip
    data = tiff(fields)
    return data + bytes(max(0, start - len(data))) + piece


def _loop() -> bytes:
    data = bytearray(image())
    count = struct.unpack_from("<H", data, 8)[0]
    struct.pack_into("<I", data, 10 + 12 * count, 8)
    return bytes(data)


def _overlapping(fields: int, length: int) -> bytes:
    """Fields that all claim the same bytes."""
    rows = [(33550 + n % 3, 1, length, 0x100) for n in range(fields)]
    return tiff(rows) + bytes(length)


POISONED_FILES: dict[str, bytes] = {
    "nothing": b"",
    "text": b"<html>We will be back soon</html>",
    "head alone": b"II*\0\x08\0\0\0",
    "cut": image()[:60],
    "zeroes": bytes(40_000),
    "loop": _loop(),
    "fields over each other": _overlapping(4000, MEGABYTE * 4),
    "million tiny tiles": image(1024, 1),
    "endless counts": tiff([(256, 4, 1, 64), (324, 4, 2**32 - 1, 0), (325, 4, 2**32 - 1, 0)]),
    "no tiles": tiff([(256, 4, 1, 64), (257, 4, 1, 64)]),
    "256 samples": image(samples=256),
    "15 bits": image(bits=15),
    "JPEG": image(compression=7),
    "no such compression": image(compression=40_000),
    "floats": image(bits=32, format=3),
    "inflates": image(piece=zlib.compress(bytes(32 * MEGABYTE), 9)),
    "tiles beyond": image(piece=b"")[:-2],
    "huge sides": tiff([(256, 4, 1, 2**31), (257, 4, 1, 2**31), (322, 4, 1, 16), (323, 4, 1, 16)]),
    "big endian": b"MM\0*" + image()[4:],
    "BigTIFF": b"II+\0" + image()[4:],
}
WAYS: tuple[str, ...] = (
    "404", "403", "500", "200 for a range", "redirect", "redirect to metadata", "no length",
    "gzip", "short", "long", "no range told", "odd ETag", "odd time", "escape",
)  # fmt: skip
"""How a server may answer for a file that is sound."""


# Answers of the API


def _plain_page(state: Page) -> bytes:
    return state.encoded()


@dataclass(slots=True)
class Page:
    """One answer to a search, before it is sent."""

    url: str
    """Of the API."""
    other: str
    """Of the host that nobody allowed."""
    items: list[str]
    """JSON of each."""
    next: dict[str, Any] | None
    matched: int
    more: dict[str, Any] = field(default_factory=dict)
    links: list[Any] = field(default_factory=list)

    def encoded(self) -> bytes:
        links = [*self.links, *([self.next] if self.next else [])]
        rest = {"type": "FeatureCollection", "links": links, "numberMatched": self.matched}
        text = json.dumps(rest | self.more)[:-1] + ', "features": [' + ",".join(self.items) + "]}"
        return text.encode("utf-8", "surrogatepass")


def _lower_case(page: Page) -> bytes:
    if page.next:
        page.next["method"] = page.next["method"].lower()
    return page.encoded()


def _relative(page: Page) -> bytes:
    if page.next:
        page.next["href"] = page.next["href"].removeprefix(page.url)
    return page.encoded()


def _more_links(page: Page) -> bytes:
    page.links = [{"href": "x"}, 5, None, {"rel": None}, {"rel": "next2", "href": "file:///"}]
    return page.encoded()


def _with_headers(page: Page) -> bytes:
    if page.next:
        page.next["headers"] = {"X-Evil": "1", "Host": "evil", "Authorization": "x"}
    return page.encoded()


def _elsewhere(page: Page) -> bytes:
    if page.next:
        page.next["href"] = page.next["href"].replace(page.url, page.other)
    return page.encoded()


def _method(method: Any) -> Callable[[Page], bytes]:
    def lie(page: Page) -> bytes:
        if page.next:
            page.next["method"] = method
        return page.encoded()

    return lie


def _no_next(page: Page) -> bytes:
    page.next = None
    return page.encoded()


def _no_next_no_total(page: Page) -> bytes:
    text = page.encoded() if page.next is None else b""
    if not text:
        page.next = None
        text = page.encoded()
    return text.replace(b'"numberMatched"', b'"ignored"')


def _file_next(page: Page) -> bytes:
    if page.next:
        page.next["href"] = "file:///etc/passwd"
    return page.encoded()


HARMLESS: dict[str, Callable[[Page], bytes]] = {
    "none": _plain_page,
    "lower case": _lower_case,
    "relative next": _relative,
    "odd links": _more_links,
    "headers": _with_headers,
}
"""After which everything is indexed all the same."""
HARMFUL: dict[str, Callable[[Page], bytes]] = {
    "next elsewhere": _elsewhere,
    "DELETE": _method("DELETE"),
    "PUT": _method("PUT"),
    "a number for a method": _method(5),
    "no next": _no_next,
    "no next, no total": _no_next_no_total,
    "next is a file": _file_next,
    "HTML": lambda page: b"<html>" + ESCAPE.encode() + SECRET.encode(),
    "no features": lambda page: b'{"type": "FeatureCollection", "features": null}',
    "nothing": lambda page: b"",
    "half": lambda page: page.encoded()[:-20],
    "deep": lambda page: b"[" * 200_000,
    "bomb": lambda page: b"BOMB",
    "error": lambda page: b"ERROR",
}
"""After which the crawl may say that the source is at fault; the next one completes it."""
LIES = HARMLESS | HARMFUL


class HostileServer:
    """A STAC API without extensions, a file server and a host that nobody allowed.

    Set ``items`` (JSON texts, in the order to serve), ``lie`` and ``page`` before each crawl.
    """

    def __init__(self, sound: bytes) -> None:
        self.items: list[str] = []
        self.lie = "none"
        self.lie_at = 0
        """Number of the page that lies."""
        self.sound = sound
        """A file as it should be, for ``WAYS``."""
        self.methods: set[str] = set()
        self.trespasses: list[str] = []
        """What was asked of the host that nobody allowed, or was never to be asked."""
        self._servers = [self._start("127.0.0.1"), self._start("127.0.0.2")]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def other(self) -> str:
        return f"http://127.0.0.2:{self._servers[1].server_port}"

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, host: str) -> ThreadingHTTPServer:
        world = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def answer(self) -> None:
                world._answer(self, host)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = answer

        server = ThreadingHTTPServer((host, 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def _answer(self, request: BaseHTTPRequestHandler, host: str) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length)
        parts = urlsplit(request.path)
        what = f"{request.command} {host}{parts.path}"
        if host != "127.0.0.1" or request.command not in ("GET", "POST"):
            self.trespasses.append(what)
        if request.headers.get("X-Evil") or request.headers.get("Authorization"):
            self.trespasses.append(f"{what} with headers of the server's own")
        try:
            if parts.path.startswith("/poison/"):
                self._file(request, parts.path.removeprefix("/poison/"))
            else:
                asked = dict(parse_qsl(parts.query)) | (json.loads(body) if body else {})
                self._api(request, parts.path.rstrip("/"), asked)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        **headers: str,
    ) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _api(self, request: BaseHTTPRequestHandler, path: str, asked: dict[str, Any]) -> None:
        collection = {
            "type": "Collection", "id": "sentinel-2-c1-l2a", "stac_version": "1.0.0",
            "description": ESCAPE, "license": "x", "links": [],
            "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]},
                       "temporal": {"interval": [[None, None]]}},
        }  # fmt: skip
        if path == "/search":
            body = self._page(asked)
            if body == b"BOMB":
                bomb = gzip.compress(bytes(2**28), 9)
                self._send(request, 200, bomb, Content_Encoding="gzip")
            elif body == b"ERROR":
                said = {"description": f"{ESCAPE} https://me:{SECRET}@host/?api_key={SECRET}"}
                self._send(request, 400, json.dumps(said).encode())
            else:
                self._send(request, 200, body, Content_Type="application/geo+json")
            return
        if path.startswith("/collections/"):
            document: Any = collection
        elif path == "/collections":
            document = {"collections": [collection], "links": []}
        else:
            document = {
                "type": "Catalog", "id": "hostile", "stac_version": "1.0.0", "description": ESCAPE,
                "conformsTo": ["https://api.stacspec.org/v1.0.0/core",
                               "https://api.stacspec.org/v1.0.0/item-search"],
                "links": [{"rel": "self", "href": self.url},
                          {"rel": "search", "href": f"{self.url}/search", "method": "POST"},
                          {"rel": "data", "href": f"{self.url}/collections"}],
            }  # fmt: skip
        self._send(request, 200, json.dumps(document).encode(), Content_Type="application/json")

    def _page(self, asked: dict[str, Any]) -> bytes:
        size = min(int(asked.get("limit") or 5), 5)
        at = int(asked.get("token") or 0)
        follow = None
        if at + size < len(self.items):
            follow = {
                "rel": "next",
                "href": f"{self.url}/search",
                "method": "POST",
                "body": {**asked, "token": at + size},
            }
        page = Page(self.url, self.other, self.items[at : at + size], follow, len(self.items))
        return LIES[self.lie if at // size == self.lie_at else "none"](page)

    def _file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        name = name.replace("_", " ").removesuffix(".tif")
        data = POISONED_FILES.get(name, self.sound)
        first, last = _range(request.headers.get("Range"), len(data))
        part = data[first : last + 1]
        headers = {
            "Content_Range": f"bytes {first}-{last}/{len(data)}",
            "Last_Modified": "Mon, 01 May 2023 00:00:00 GMT",
            "ETag": f'"{zlib.crc32(data)}"',
        }
        match name:
            case "404" | "403" | "500":
                self._send(request, int(name), f"{ESCAPE} token={SECRET}".encode())
            case "200 for a range":
                self._send(request, 200, data)
            case "redirect" | "redirect to metadata":
                place = self.other if name == "redirect" else "http://127.0.0.2:9/latest/meta-data"
                self._send(request, 302, b"", Location=f"{place}/poison/x?token={SECRET}")
            case "no length":
                headers["Content_Range"] = f"bytes {first}-{last}/*"
                self._send(request, 206, part, **headers)
            case "gzip":
                self._send(request, 206, gzip.compress(part), Content_Encoding="gzip", **headers)
            case "short":
                self._send(request, 206, part[: len(part) // 2], **headers)
            case "long":
                self._send(request, 206, part + bytes(8 * MEGABYTE), **headers)
            case "no range told":
                del headers["Content_Range"]
                self._send(request, 206, part, **headers)
            case "odd ETag":
                self._send(request, 206, part, **headers | {"ETag": '"' + "x" * 5000 + '"'})
            case "odd time":
                odd = headers | {"Last_Modified": "Fri, 31 Dec 9999 23:59:59 GMT"}
                self._send(request, 206, part, **odd)
            case "escape":
                self._send(request, 410, ESCAPE.encode() * 100)
            case _ if not data:
                self._send(request, 416, b"")
            case _:
                self._send(request, 206, part, **headers)


def _range(header: str | None, size: int) -> tuple[int, int]:
    if not header or not header.startswith("bytes="):
        return 0, size - 1
    first, _, last = header.removeprefix("bytes=").partition("-")
    return int(first or 0), min(int(last or size - 1), size - 1)


# The process that is measured


@dataclass(slots=True)
class Ran:
    """How a command went."""

    code: int
    out: str
    err: str
    error: str | None
    """Traceback of what it let out, where that is no exit."""
    peak: int
    """Bytes of memory, at most, since the process began or was last asked."""


class Commands:
    """``cogcat`` in one process whose address space is bounded; ``with`` ends it."""

    def __init__(self) -> None:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        if environment.pop("PYTHONDONTWRITEBYTECODE", None):
            environment["PYTHONPYCACHEPREFIX"] = "/tmp/cogcat-pyc"
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parent.parent,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(timeout=30)

    def run(self, *words: str) -> Ran:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"cogcat {' '.join(words)} ended the process: {self._process.wait()}"
            )
        return Ran(**json.loads(line))


def main() -> None:
    import traceback

    from click.testing import CliRunner

    import catalog.header
    import catalog.stac_api
    from catalog.cli import main as cogcat
    from catalog.patience import Patience

    # As many tries as ever, after shorter pauses.
    catalog.header.PATIENCE = Patience(first=0.001)
    catalog.stac_api.PATIENCE = Patience(first=0.001)
    answers = os.dup(1)
    os.dup2(2, 1)
    size = next(_status("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * 2**30, resource.RLIM_INFINITY))
    for line in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")
        result = CliRunner().invoke(cogcat, json.loads(line), prog_name="cogcat")
        error = result.exception
        raised = error is not None and not isinstance(error, SystemExit)
        ran = {
            "code": result.exit_code,
            "out": result.stdout,
            "err": result.stderr,
            "error": "".join(traceback.format_exception(error)) if raised and error else None,
            "peak": next(_status("VmHWM")),
        }
        os.write(answers, json.dumps(ran).encode() + b"\n")


def _status(name: str) -> Iterator[int]:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            yield int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
