"""A STAC API on the loopback that answers honestly, but for the one lie that a test gives it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Json = dict[str, Any]
COLLECTION = "sentinel-2-c1-l2a"
_FIRST = datetime.fromisoformat("2024-04-01T17:52:57.105Z")


def item(number: int, **extra: Any) -> Json:
    when = _FIRST + timedelta(hours=number)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"S2A_T13TDE_{number:05}_L2A",
        "collection": COLLECTION,
        "geometry": {"type": "Point", "coordinates": [-105.5, 40.5]},
        "bbox": [-105.5, 40.5, -105.5, 40.5],
        "links": [],
        "assets": {},
        "properties": {"datetime": when.isoformat().replace("+00:00", "Z")},
        **extra,
    }


def time_of(one: Json) -> datetime:
    return datetime.fromisoformat(one["properties"]["datetime"])


class LyingApi:
    """``count`` items, newest first, in pages of at most ``cap``; ``lie`` changes each page of a
    search: what was asked, the page → the page, or text, or status, headers and bytes."""

    def __init__(self, count: int = 0, *, cap: int = 100, total: bool = True) -> None:
        self.items = [item(number) for number in reversed(range(count))]
        self.cap, self.total = cap, total
        self.lie: Callable[[Json, Json], Any] = lambda asked, page: page
        self.landing: Callable[[Json], Any] = lambda page: page
        self.other: Callable[[str], Any] = lambda path: None
        self.asked: list[tuple[str, str, Json]] = []
        """Method, path and body or query of each request."""
        self.headers: list[Json] = []
        self.url = ""

    @property
    def searches(self) -> list[Json]:
        return [asked for _, path, asked in self.asked if path == "/search"]

    def root(self) -> Json:
        def link(rel: str, path: str, **more: str) -> Json:
            return {"rel": rel, "href": self.url + path, "type": "application/geo+json", **more}

        return {
            "type": "Catalog",
            "id": "lies",
            "description": "test",
            "stac_version": "1.0.0",
            "conformsTo": ["https://api.stacspec.org/v1.0.0/item-search"],
            "links": [
                link("data", "/collections"),
                link("search", "/search", method="GET"),
                link("search", "/search", method="POST"),
            ],
        }

    def page(self, asked: Json) -> Json:
        found = self.items
        if when := asked.get("datetime"):
            first, last = (
                None if end == ".." else datetime.fromisoformat(end) for end in when.split("/")
            )
            found = [
                one
                for one in found
                if (first is None or time_of(one) >= first)
                and (last is None or time_of(one) <= last)
            ]
        if ids := asked.get("ids"):
            found = [one for one in found if one["id"] in ids]
        start, size = int(asked.get("token", 0)), min(int(asked.get("limit", 10)), self.cap)
        page: Json = {"type": "FeatureCollection", "features": found[start : start + size]}
        page["links"] = [{}, {"href": "x"}, {"rel": "root", "href": self.url}]
        if start + size < len(found):
            body = {**asked, "token": start + size}
            page["links"].append(
                {"rel": "next", "href": f"{self.url}/search", "method": "POST", "body": body}
            )
        if self.total:
            page["numberMatched"] = len(found)
        return page

    def respond(self, method: str, target: str, body: bytes) -> Any:
        parts = urlsplit(target)
        path = "/" + parts.path.strip("/")
        asked = json.loads(body) if body else dict(parse_qsl(parts.query))
        self.asked.append((method, path, asked))
        if (taken := self.other(path)) is not None:
            return taken
        if path == "/":
            return self.landing(self.root())
        if path == f"/collections/{COLLECTION}":
            return {"id": COLLECTION}
        if path == "/search":
            return self.lie(asked, self.page(asked))
        return 404, {}, b"{}"


@contextmanager
def serving(api: LyingApi) -> Iterator[LyingApi]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            api.headers.append(dict(self.headers.items()))
            answer = api.respond(self.command, self.path, body)
            status, headers, data = answer if isinstance(answer, tuple) else (200, {}, answer)
            if not isinstance(data, bytes | str) and not callable(data):
                data = json.dumps(data)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if callable(data):
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                try:
                    for piece in data():
                        self.wfile.write(piece)
                except OSError:
                    pass  # who asked has gone
                return
            raw = data.encode(errors="surrogatepass") if isinstance(data, str) else data
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = answer

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
