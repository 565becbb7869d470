"""An HTTP proxy on the loopback that fails a share of the requests, in every way a network does.

Stands before the archive's server or the object store. What fails is decided by the seed, the
request and how often it was made, so a run can be repeated; the ways take turns, so that each
comes up. PYTEST_DONT_REWRITE: it asserts nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

THROTTLED = ("429 in seconds", "429 until a date", "503 in seconds")
STATUSES = ("429", "500", "502", "503", "504")
CONNECTION = ("reset before", "reset after", "reset in the body", "truncated")
SLOW = ("stall", "trickle")
NONSENSE = ("garbage", "HTML page")
RANGES = ("other range", "whole file")
READS = (*THROTTLED, *STATUSES, *CONNECTION, *SLOW, *NONSENSE)
"""Of a request that changes nothing. A write that is answered as if it had been done, and was
not, cannot be survived by anyone."""
WRITES = (*THROTTLED, *STATUSES, "reset before", "reset after", "truncated", "stall")
PAGE = b"<!DOCTYPE html><html><body>We will be back soon.</body></html>"
STALL = 60.0
"""Seconds: longer than any timeout of a test."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request, or the answer to one."""

    first: str
    """Request line or status line."""
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def method(self) -> str:
        return self.first.split(" ")[0]

    @property
    def target(self) -> str:
        return self.first.split(" ")[1]

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    def encoded(self, **changed: str | None) -> bytes:
        """``changed`` headers by name with _ for -; None leaves one out."""
        names = {name.replace("_", "-").lower(): value for name, value in changed.items()}
        kept = [(k, v) for k, v in self.headers if k.lower() not in names]
        kept += [(k, v) for k, v in names.items() if v is not None]
        lines = [self.first, *(f"{k}: {v}" for k, v in kept), "", ""]
        return "\r\n".join(lines).encode("latin-1") + self.body


class FaultProxy:
    """``http://127.0.0.1:PORT`` in front of ``upstream``, from ``with`` to the end of its block.

    Args:
        upstream: ``http://host:port``; where answers in JSON name it, they name the proxy.
        share: of the requests that fail.
        seed: of the choice.
        kinds: how a request may fail; by default all that fit it.
        wait: seconds that a throttled client is asked to wait.
    """

    def __init__(
        self,
        upstream: str,
        *,
        share: float = 0.2,
        seed: int = 0,
        kinds: Sequence[str] | None = None,
        wait: int = 1,
    ) -> None:
        self.upstream, self.share, self.seed, self.kinds, self.wait = (
            upstream,
            share,
            seed,
            kinds,
            wait,
        )
        parts = urlsplit(upstream)
        self._address = (str(parts.hostname), parts.port or 80)
        self.failed: Counter[str] = Counter()
        """Requests failed, by kind."""
        self.requests = 0
        self.refused: list[float] = []
        """When (``time.monotonic``) a client was told to wait."""
        self.arrivals: list[tuple[float, str]] = []
        self.gone: str | None = None
        """``refuse``: every connection is cut; ``500``: every request is answered so."""
        self.before: Callable[[Message], str | None] | None = None
        """Asked first: the kind of fault of this request, ``none``, or None to leave it to chance.
        Runs in the proxy's thread."""
        self._attempts: Counter[str] = Counter()
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        try:
            while self.gone != "refuse":
                request = await _read(reader, writer)
                if request is None or self.gone == "refuse":
                    break
                if not await self._answer(request, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            if self.gone == "refuse":
                _reset(writer)
            with contextlib.suppress(OSError):
                writer.close()
            if task is not None:
                self._tasks.discard(task)

    def _choose(self, request: Message) -> str | None:
        if self.gone == "500":
            return "500"
        if self.before is not None:
            chosen = self.before(request)
            if chosen is not None:
                return None if chosen == "none" else chosen
        name = f"{request.method} {request.target} {request.header('range')}"
        self._attempts[name] += 1
        if random.Random(f"{self.seed} {name} {self._attempts[name]}").random() >= self.share:
            return None
        kinds = READS if request.method in ("GET", "HEAD") or _is_search(request) else WRITES
        if request.header("range"):
            kinds += RANGES
        if self.kinds is not None:
            kinds = tuple(kind for kind in kinds if kind in self.kinds)
        if not kinds:
            return None
        self._turn += 1
        return kinds[self._turn % len(kinds)]

    async def _answer(self, request: Message, writer: asyncio.StreamWriter) -> bool:
        """False where the connection is at its end."""
        self.requests += 1
        self.arrivals.append((time.monotonic(), f"{request.method} {request.target}"))
        kind = self._choose(request)
        if kind is not None:
            self.failed[kind] += 1
        if kind in THROTTLED or kind in STATUSES:
            # As servers do: refused without a look at it.
            headers = [("Content-Type", "text/plain")]
            if kind in THROTTLED:
                self.refused.append(time.monotonic())
                until = formatdate(time.time() + self.wait + 1, usegmt=True)
                headers.append(("Retry-After", until if "date" in kind else str(self.wait)))
            answer = Message(f"HTTP/1.1 {kind[:3]} Fault", tuple(headers), b"fault")
            writer.write(answer.encoded(content_length=str(len(answer.body))))
            await writer.drain()
            return True
        if kind == "reset before":
            _reset(writer)
            return False
        if kind == "stall":
            await asyncio.sleep(STALL)
            return False
        if kind == "HTML page":
            page = Message("HTTP/1.1 200 OK", (("Content-Type", "text/html"),), PAGE)
            writer.write(page.encoded(content_length=str(len(PAGE))))
            await writer.drain()
            return True
        if kind == "whole file":
            kept = tuple((k, v) for k, v in request.headers if k.lower() != "range")
            request = Message(request.first, kept, request.body)
        answer = await self._forward(request)
        if kind == "reset after":
            _reset(writer)
            return False
        if kind == "other range" and (said := answer.header("content-range")):
            first, _, last = said.removeprefix("bytes ").partition("/")[0].partition("-")
            moved = f"bytes {int(first) + 7}-{int(last) + 7}/{int(last) + 8}"
            writer.write(answer.encoded(content_range=moved))
            await writer.drain()
            return True
        if kind == "garbage":
            noise = random.Random(f"{self.seed} {self.requests}").randbytes(len(answer.body))
            answer = Message(answer.first, answer.headers, noise)
        data = answer.encoded()
        half = len(data) - len(answer.body) + len(answer.body) // 2
        if kind in ("reset in the body", "truncated"):
            writer.write(data[:half])
            await writer.drain()
            if kind == "reset in the body":
                await asyncio.sleep(0.01)
                _reset(writer)
            return False
        if kind == "trickle":
            # Never silent for as long as a timeout between two pieces, and never at its end.
            ends = time.monotonic() + STALL
            for at in range(len(data)):
                if time.monotonic() > ends:
                    return False
                writer.write(data[at : at + 1])
                await writer.drain()
                if at >= len(data) - len(answer.body):
                    await asyncio.sleep(0.1)
            return True
        writer.write(data)
        await writer.drain()
        return True

    async def _forward(self, request: Message) -> Message:
        reader, writer = await asyncio.open_connection(*self._address, limit=2**26)
        try:
            writer.write(request.encoded(connection="close"))
            await writer.drain()
            answer = await _read(reader, None, head=request.method == "HEAD")
        finally:
            writer.close()
        if answer is None:
            raise ConnectionResetError
        body = answer.body
        if "json" in (answer.header("content-type") or ""):
            body = body.replace(self.upstream.encode(), self.url.encode())
        kept = tuple(
            (k, v)
            for k, v in answer.headers
            if k.lower() not in ("connection", "transfer-encoding", "content-length")
        )
        length = answer.header("content-length") if request.method == "HEAD" else str(len(body))
        if length is not None and answer.first.split(" ")[1] not in ("204", "304"):
            kept += (("Content-Length", length),)
        return Message(answer.first, kept, body)


async def _read(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None, *, head: bool = False
) -> Message | None:
    """The next message, or None at the end. A body without a length goes to the end."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = raw[:-4].decode("latin-1").split("\r\n")
    headers = tuple((k, v.strip()) for k, _, v in (line.partition(":") for line in lines))
    bare = Message(first, headers, b"")
    if writer is not None and (bare.header("expect") or "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        headers = tuple((k, v) for k, v in headers if k.lower() != "expect")
    if head:
        return Message(first, headers, b"")
    if (bare.header("transfer-encoding") or "").lower() == "chunked":
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        kept = tuple((k, v) for k, v in headers if k.lower() != "transfer-encoding")
        return Message(first, (*kept, ("Content-Length", str(len(body)))), body)
    length = bare.header("content-length")
    if length is not None:
        return Message(first, headers, await reader.readexactly(int(length)))
    body = b"" if writer is not None else await reader.read()
    return Message(first, headers, body)


def _is_search(request: Message) -> bool:
    return request.target.endswith("/search")


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes so that the other side sees a reset, not an end."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
