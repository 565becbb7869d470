"""A server on the loopback that answers byte for byte what a test says, HTTP or not."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

MODIFIED = "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT"
TAG = 'ETag: "abc"'


def answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    """One response; the connection ends with it."""
    lines = [f"HTTP/1.1 {status}", *headers, "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def part(
    content: bytes, start: int, stop: int, *headers: str, size: object = None, body: bytes = b""
) -> bytes:
    """206 with the bytes from ``start`` to before ``stop``, as a proper server gives them.

    Args:
        headers: besides length and range.
        size: of the whole, in place of ``content``'s.
        body: in place of the bytes.
    """
    stop = min(stop, len(content))
    whole = len(content) if size is None else size
    data = body or content[start:stop]
    said = f"Content-Range: bytes {start}-{stop - 1}/{whole}"
    return answer("206 Partial Content", f"Content-Length: {len(data)}", said, *headers, body=data)


def asked_range(request: str) -> tuple[int, int] | None:
    """(first byte, byte behind the last) that a request asks for, or None."""
    for line in request.lower().splitlines():
        if line.startswith("range: bytes="):
            first, _, last = line.removeprefix("range: bytes=").partition("-")
            return int(first), int(last) + 1
    return None


class RawServer:
    """``http://127.0.0.1:PORT`` from ``with`` to the end of its block.

    Args:
        respond: from a request, headers included, to the pieces of what is sent back.
    """

    def __init__(self, respond: Callable[[str], Iterable[bytes]]) -> None:
        self.respond = respond
        self.requests: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        """Ends in a slash."""
        return f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                piece = connection.recv(65536)
                if not piece:
                    return
                data += piece
            request = data.decode("latin-1")
            self.requests.append(request)
            for piece in self.respond(request):
                connection.sendall(piece)
