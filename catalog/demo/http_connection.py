"""HTTP/1.1 by hand on one asyncio connection: requests in, responses out, kept alive."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import unquote

_LARGEST_REQUEST = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived."""

    method: str
    path: str
    """Percent-decoded, without the query."""
    query: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    keep_alive: bool


@dataclass(slots=True)
class Response:
    """One answer; ``Content-Length`` is the body's unless the headers say otherwise."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@functools.lru_cache(maxsize=4096)
def http_date(seconds: int) -> str:
    """Seconds since 1970 as HTTP writes them."""
    return formatdate(seconds, usegmt=True)


@dataclass(frozen=True, slots=True)
class Reply:
    """What to do about a request, decided when it arrives."""

    delay: float
    """Seconds before ``respond`` is called."""
    truncate: int | None
    """Bytes of the body after which the connection is closed, though more were announced."""
    respond: Callable[[], Response]


class Connection(asyncio.Protocol):
    """One connection: one request after another, kept alive.

    Args:
        handle: decides about a request; runs in the loop's thread, as all here.
        served: told of every response before it is written: request, status and
            bytes of the body that will be sent.
        open_connections: holds this connection while it is open.
    """

    def __init__(
        self,
        handle: Callable[[Request], Reply],
        served: Callable[[Request, int, int], None],
        open_connections: set[Connection],
    ) -> None:
        self._handle, self._served, self._open_connections = handle, served, open_connections
        self._buffer = bytearray()
        self._answering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open_connections.discard(self)

    def abort(self) -> None:
        """Close at once, whatever has not been sent."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._answering:
            self._next()

    def _next(self) -> None:
        try:
            request = self._take()
        except ValueError as error:
            self._refuse(str(error))
            return
        if request is None:
            return
        self._answering = True
        reply = self._handle(request)
        if reply.delay > 0:
            asyncio.get_running_loop().call_later(reply.delay, self._answer, request, reply)
        else:
            self._answer(request, reply)

    def _take(self) -> Request | None:
        """The next whole request of the buffer, or None until there is one."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _LARGEST_REQUEST:
                raise ValueError("the headers do not end")
            return None
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if "transfer-encoding" in headers:
            raise ValueError("a body needs Content-Length here")
        length = int(headers.get("content-length", 0))
        start = end + 4
        if len(self._buffer) < start + length:
            if headers.get("expect", "").lower() == "100-continue" and len(self._buffer) == start:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        body = bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        method, target, version = first.split(" ")
        path, _, query = target.partition("?")
        connection = headers.get("connection", "").lower()
        return Request(
            method=method,
            path=unquote(path),
            query=query,
            headers=headers,
            body=body,
            keep_alive=connection == "keep-alive"
            if version == "HTTP/1.0"
            else connection != "close",
        )

    def _answer(self, request: Request, reply: Reply) -> None:
        if self._transport.is_closing():
            return
        try:
            response = reply.respond()
        except Exception as error:  # noqa: BLE001 - a bug here must reach the client, not hang it
            response = Response(500, {"Content-Type": "text/plain"}, repr(error).encode())
        body = b"" if request.method == "HEAD" or response.status == 304 else response.body
        keep_alive = request.keep_alive
        if reply.truncate is not None and reply.truncate < len(body):
            response.headers["Content-Length"] = str(len(body))
            body, keep_alive = body[: reply.truncate], False
        self._served(request, response.status, len(body))
        self._write(response, body, keep_alive=keep_alive)
        self._answering = False
        if self._buffer and keep_alive and not self._transport.is_closing():
            self._next()

    def _refuse(self, reason: str) -> None:
        body = reason.encode()
        self._write(Response(400, body=body), body, keep_alive=False)

    def _write(self, response: Response, body: bytes, *, keep_alive: bool) -> None:
        lines = [
            f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
            f"Date: {http_date(int(time.time()))}",
            *(f"{name}: {value}" for name, value in response.headers.items()),
        ]
        if "Content-Length" not in response.headers and response.status != 304:
            lines.append(f"Content-Length: {len(response.body)}")
        if not keep_alive:
            lines.append("Connection: close")
        head = "\r\n".join((*lines, "", "")).encode("latin-1")
        self._transport.write(head + body)
        if not keep_alive:
            self._transport.close()
