"""Serve a look-alike archive over HTTP on the loopback: its files, and its two STAC APIs.

    /files/{bucket}/{key}   the COGs, with ranges and conditional requests (RFC 9110)
    /stac/v1                Earth Search's look-alike
    /pc/stac/v1             the Planetary Computer's

One thread with an event loop answers everything; answers come from memory or
from local files, so nothing in it waits. HTTP/1.1 is spoken by hand: a crawl makes
thousands of small requests, and a test wants answers that a proper server would
not give. Requests are counted; misbehaviour is turned on in ``ArchiveServer.faults``.

    python -m catalog.demo.server DIR --port 8765 --latency-ms 30

makes a small archive in DIR where there is none: the one that the guide (``docs/``) works on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

try:
    from catalog.demo.archive import Archive, build_archive, load_archive
except ImportError as error:
    if __name__ != "__main__":
        raise
    raise SystemExit(
        f"the archive is made of COGs: install cogcat[demo] (no module {error.name})"
    ) from error
from catalog.demo.documents import API_ROOTS, COLLECTION_IDS
from catalog.demo.faults import Fault, Faults
from catalog.demo.http_connection import Connection, Reply, Request, Response
from catalog.demo.http_ranges import Representation, md5_tag, respond
from catalog.demo.stac_api import (
    EARTH_SEARCH_CONFORMANCE,
    PLANETARY_COMPUTER_CONFORMANCE,
    StacApi,
)

_CONTENT_TYPES = {
    ".tif": "image/tiff",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".xml": "application/xml",
}
SMALL: dict[str, Any] = {"width": 276, "block": 128}
"""How ``main`` makes an archive: 18 scenes of 2.76 km in a few seconds."""
BEGUN = ".begun"
"""In the directory of an archive that is being made, so that one which was interrupted is known."""
_LARGEST_HASHED = 64 * 2**20
"""Bytes; the entity tag of a larger file is made of its time and size."""


@dataclass(frozen=True, slots=True)
class Served:
    """One request as it was answered."""

    method: str
    path: str
    range: str | None
    """The ``Range`` header."""
    status: int
    sent: int
    """Bytes of the body, headers not counted."""


class RequestLog:
    """Every request since the last ``reset``, in the order of the answers; any thread may look."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._served: list[Served] = []

    def __iter__(self) -> Iterator[Served]:
        with self._lock:
            return iter(list(self._served))

    def __len__(self) -> int:
        return len(self._served)

    def below(self, prefix: str) -> list[Served]:
        """Those whose path starts with ``prefix``: ``/files/``, ``/stac/v1/search`` …"""
        return [served for served in self if served.path.startswith(prefix)]

    def reset(self) -> None:
        with self._lock:
            self._served.clear()

    def add(self, served: Served) -> None:
        with self._lock:
            self._served.append(served)


class ArchiveServer:
    """An archive on ``http://127.0.0.1:PORT``, from ``with`` to the end of its block.

    Args:
        archive: an archive or the directory of one. Its items are looked up at every
            request and served with this server's address in place of ``base_url``.
        port: 0 takes a free one.
        latency_ms: the first value of ``faults.latency_ms``.
    """

    def __init__(
        self, archive: Archive | str | os.PathLike[str], *, port: int = 0, latency_ms: float = 0
    ) -> None:
        self.archive = archive if isinstance(archive, Archive) else load_archive(archive)
        self.requests = RequestLog()
        self.faults = Faults(latency_ms=latency_ms)
        self.port = port
        self._etags: dict[Path, tuple[tuple[int, ...], str]] = {}
        self._connections: set[Connection] = set()

    @property
    def url(self) -> str:
        """Without a last slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def files_url(self) -> str:
        """What hrefs of assets start with; ends in a slash."""
        return f"{self.url}/files/"

    @property
    def stac_url(self) -> str:
        """Earth Search's look-alike."""
        return f"{self.url}/stac/v1"

    @property
    def pc_stac_url(self) -> str:
        """The Planetary Computer's look-alike."""
        return f"{self.url}/pc/stac/v1"

    def misbehave(self, href: str, **fault: Any) -> Fault:
        """Give ``href`` (a path or a whole URL) a ``Fault`` of these fields, and return it."""
        made = Fault(**fault)
        self.faults.paths[unquote(urlsplit(href).path)] = made
        return made

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        try:
            self._listener = self._loop.run_until_complete(
                self._loop.create_server(
                    lambda: Connection(self._handle, self._served, self._connections),
                    "127.0.0.1",
                    self.port,
                )
            )
        except BaseException:
            self._loop.close()
            raise
        self.port = self._listener.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name="archive", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._close())
        self._loop.close()

    async def _close(self) -> None:
        self._listener.close()
        closed = asyncio.ensure_future(self._listener.wait_closed())
        while not closed.done():
            # A connection just accepted shows itself only in one of the loop's next turns.
            for connection in list(self._connections):
                connection.abort()
            await asyncio.wait([closed], timeout=0.01)

    def _handle(self, request: Request) -> Reply:
        fault = self.faults.of(request)
        wait = self.faults.latency_ms + (fault.delay_ms if fault else 0)
        return Reply(
            delay=wait / 1000,
            truncate=fault.truncate if fault else None,
            respond=functools.partial(self._respond, request, fault or Fault()),
        )

    def _served(self, request: Request, status: int, sent: int) -> None:
        asked = request.headers.get("range")
        self.requests.add(Served(request.method, request.path, asked, status, sent))

    def _respond(self, request: Request, fault: Fault) -> Response:
        """The whole answer; ``delay_ms`` and ``truncate`` are not dealt with here."""
        if fault.status is not None:
            body = HTTPStatus(fault.status).phrase.encode() if fault.body is None else fault.body
            return Response(
                fault.status, {"Content-Type": fault.content_type or "text/plain"}, body
            )
        if request.path.startswith("/files/"):
            response = self._file(request, fault.body)
        elif fault.body is not None:
            response = Response(200, {"Content-Type": "application/json"}, fault.body)
        else:
            response = self._stac(request)
        if fault.content_type is not None:
            response.headers["Content-Type"] = fault.content_type
        return response

    # STAC

    def _stac(self, request: Request) -> Response:
        for root in sorted(set(API_ROOTS.values()), key=len, reverse=True):
            if request.path == root or request.path.startswith(f"{root}/"):
                break
        else:
            return Response(404, {"Content-Type": "text/plain"}, b"Not Found")
        pc = root.startswith("/pc")
        dialects = [dialect for dialect in self.archive.collections if API_ROOTS[dialect] == root]
        api = StacApi(
            self.archive.base_url + root,
            catalog_id="microsoft-pc" if pc else "earth-search-aws",
            title="Planetary Computer look-alike" if pc else "Earth Search look-alike",
            conformance=PLANETARY_COMPUTER_CONFORMANCE if pc else EARTH_SEARCH_CONFORMANCE,
            collections={
                COLLECTION_IDS[dialect]: self.archive.collections[dialect] for dialect in dialects
            },
            items={COLLECTION_IDS[dialect]: self.archive.items[dialect] for dialect in dialects},
            faults=self.faults,
        )
        path = request.path.removeprefix(root)
        answer = api.answer(request.method, path, request.query, request.body)
        text = json.dumps(answer.document).replace(self.archive.base_url, self.url)
        return Response(answer.status, {"Content-Type": answer.content_type}, text.encode())

    # Files

    def _file(self, request: Request, instead: bytes | None) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(405, {"Allow": "GET, HEAD"})
        parts = request.path.split("/")[2:]
        if ".." in parts or "" in parts:
            return Response(404)
        path = self.archive.files.joinpath(*parts)
        content_type = _CONTENT_TYPES.get(path.suffix, "application/octet-stream")
        if instead is not None:
            file = Representation(
                size=len(instead),
                etag=md5_tag(instead),
                # Later than the file's own time: it has changed.
                modified=int(path.stat().st_mtime) + 1 if path.exists() else 0,
                content_type=content_type,
                read=lambda offset, length: instead[offset : offset + length],
            )
            return respond(request, file)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return Response(404)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                return Response(404)
            file = Representation(
                size=found.st_size,
                etag=self._etag(path, descriptor, found),
                modified=int(found.st_mtime),
                content_type=content_type,
                read=functools.partial(_read, descriptor),
            )
            return respond(request, file)
        finally:
            os.close(descriptor)

    def _etag(self, path: Path, descriptor: int, found: os.stat_result) -> str:
        """MD5 as S3's of small objects, made once per state of the file."""
        state = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        known = self._etags.get(path)
        if known is not None and known[0] == state:
            return known[1]
        if found.st_size > _LARGEST_HASHED:
            etag = f'"{found.st_mtime_ns:x}-{found.st_size:x}"'
        else:
            etag = md5_tag(_read(descriptor, 0, found.st_size))
        self._etags[path] = (state, etag)
        return etag


def _read(descriptor: int, offset: int, length: int) -> bytes:
    parts: list[bytes] = []
    while length:
        part = os.pread(descriptor, length, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)


def _is_taken(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _build(directory: Path) -> None:
    """A small archive; what an interrupted one left is built over."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / BEGUN).touch()
    build_archive(directory, **SMALL)
    (directory / BEGUN).unlink()


def main(arguments: list[str] | None = None) -> None:
    """Serve until interrupted; prints the address of the STAC API once it answers."""
    parser = argparse.ArgumentParser(
        prog="python -m catalog.demo.server", description="Serve a look-alike archive."
    )
    parser.add_argument(
        "directory", metavar="DIR", help="as left by build_archive; a small one is made if missing"
    )
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one")
    parser.add_argument("--latency-ms", type=float, default=0, help="before every answer")
    options = parser.parse_args(arguments)
    if options.port and _is_taken(options.port):
        parser.error(f"port {options.port} is taken: give another with --port, or 0")
    directory = Path(options.directory)
    if not (directory / "archive.json").exists():
        if directory.exists() and any(directory.iterdir()) and not (directory / BEGUN).exists():
            parser.error(f"{directory} is not empty and no archive: name another directory")
        _build(directory)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with ArchiveServer(directory, port=options.port, latency_ms=options.latency_ms) as server:
        print(server.stac_url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            stop.wait()


if __name__ == "__main__":
    main()
