"""One answer over HTTP: whose it may be, and how long. What is served is bounded as it is decoded.

A STAC API names addresses of its own (``next``, ``search``, ``data``, redirects). They may lead
to its own host, from ``http`` to ``https``, and to the hosts that ``stac_hosts`` of
``cogcat.toml`` names, and nowhere else: not to files, not to what only this machine can reach.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

import requests

from catalog.errors import SourceError

PAGE_BYTES = 64 << 20
"""Of one page of a search, decoded: a hundred items of Sentinel-2 are 2 MB, 3 500 are this."""
PLAIN_BYTES = 16 << 20
"""Of any other answer. Planetary Computer's list of all collections is 3 MB."""
REFUSAL_BYTES = 1 << 16
"""Read of an answer that is an error: its message is shown in 200 characters."""
_MEMBERS = 1_000
_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int | None]
"""Scheme, host, port; None for each port."""


class LongAnswerError(SourceError):
    """More was served than is taken; nothing is gained by asking again."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    """``GET`` or ``POST``."""
    url: str
    parameters: dict[str, Any] = field(default_factory=dict)
    """Query of a GET, beside what ``url`` has; JSON body of a POST."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """Where the addresses that an API names may lead.

    Args:
        home: address of the API, as given by the user.
        others: ``host``, ``host:port``, or with ``http://`` in front where TLS may be left.
    """

    home: Origin
    others: tuple[Origin, ...]

    @classmethod
    def of(cls, home: str, others: Iterable[str] = ()) -> Hosts:
        named: list[Origin] = []
        for text in others:
            parts = urlsplit(text if "://" in text else f"//{text}")
            port = parts.port or _PORTS.get(parts.scheme)
            named.append((parts.scheme, _host(parts), port))
        return cls(_origin(urlsplit(home)), tuple(named))

    def is_home(self, url: str) -> bool:
        """Whether it is the API's own host, by its scheme or by TLS."""
        scheme, host, port = _origin(urlsplit(url))
        own_scheme, own_host, own_port = self.home
        if host != own_host:
            return False
        raised = scheme == "https" and own_scheme == "http" and own_port in (80, port)
        return raised or (scheme, port) == (own_scheme, own_port)

    def refusal(self, url: str) -> str | None:
        """Why ``url`` is not asked; None where it may be."""
        try:
            scheme, host, port = _origin(urlsplit(url))
        except ValueError:
            return "leads to an address that is none"
        if scheme not in _PORTS or not host:
            return f"leads to an address with {scheme or 'no scheme'!r}, not http(s)"
        own_scheme = self.home[0]
        secure = scheme == "https"
        if self.is_home(url):
            return None
        for other_scheme, other_host, other_port in self.others:
            if other_host != host or other_port not in (None, port):
                continue
            if secure or other_scheme == "http" or own_scheme == "http":
                return None
        place = host if port == _PORTS[scheme] else f"{host}:{port}"
        if not secure and own_scheme == "https":
            place = f"http://{place}"
            what = "leads out of TLS"
        else:
            what = "leads to another host"
        return (
            f"{what}, {place}: where that is right, allow it in cogcat.toml: "
            f'stac_hosts = ["{place}"]'
        )


def _origin(parts: SplitResult) -> Origin:
    scheme = parts.scheme.lower()
    return scheme, _host(parts), parts.port or _PORTS.get(scheme)


def _host(parts: SplitResult) -> str:
    return (parts.hostname or "").rstrip(".").lower()


def read_body(answer: requests.Response, *, most: int, ends: float) -> bytes:
    """The body of an answer that was asked for with ``stream=True``, decoded.

    Args:
        most: bytes, as sent and as decoded.
        ends: ``time.monotonic`` at which it is given up.

    Raises:
        LongAnswerError: more than ``most``.
        SourceError: an encoding that was not asked for.
        requests.Timeout, requests.ConnectionError, urllib3.exceptions.HTTPError: it broke off.
    """
    names = [
        name
        for part in answer.headers.get("Content-Encoding", "").lower().split(",")
        if (name := part.strip()) not in ("", "identity")
    ]
    if len(names) > 1 or not set(names) <= {"gzip", "x-gzip", "deflate"}:
        raise SourceError("the answer is encoded in a way that was not asked for")
    inflate = _Inflate(most) if names else None
    pieces: list[bytes] = []
    sent = length = 0
    for piece in _pieces(answer, ends):
        sent += len(piece)
        decoded = inflate.feed(piece, most - length) if inflate else piece
        length += len(decoded)
        if max(sent, length) > most:
            raise LongAnswerError(f"answered with more than {most >> 20 or 1} MiB")
        pieces.append(decoded)
    if inflate and not inflate.done:
        raise requests.ConnectionError("the answer breaks off: Connection broken")
    return b"".join(pieces)


def read_beginning(answer: requests.Response, *, ends: float) -> str:
    """What an error answer says, as far as it is worth reading; nothing that is encoded badly."""
    try:
        return read_body(answer, most=REFUSAL_BYTES, ends=ends).decode(errors="replace")
    except SourceError:
        return ""


def _pieces(answer: requests.Response, ends: float) -> Iterator[bytes]:
    while piece := answer.raw.read1(65_536, decode_content=False):
        yield piece
        if time.monotonic() > ends:
            raise requests.Timeout("the answer does not come to its end: timed out")


_STEP = 2**20
"""Bytes decoded at a time: what zlib makes at once it holds twice."""


class _Inflate:
    """gzip (of any number of members), zlib, or DEFLATE without a head, which some servers send."""

    def __init__(self, most: int) -> None:
        self._stream = zlib.decompressobj(47)
        self._members, self._bare, self._begun = 0, False, b""

    @property
    def done(self) -> bool:
        return self._stream.eof or not self._begun

    def feed(self, data: bytes, room: int) -> bytes:
        """The next bytes, at most one more than ``room``."""
        pieces: list[bytes] = []
        piece = b""
        # A piece of its full length may have more behind it, though all was taken in.
        while data or len(piece) == _STEP:
            if self._stream.eof:
                if not data:
                    break
                self._members += 1
                if self._members > _MEMBERS:
                    raise LongAnswerError(f"answered with more than {_MEMBERS} pieces of gzip")
                self._stream = zlib.decompressobj(47)
            try:
                piece = self._stream.decompress(data, min(room + 1, _STEP))
            except zlib.error as error:
                if self._begun or self._bare:
                    raise requests.ConnectionError(f"not as encoded: {error}") from error
                self._bare, self._stream = True, zlib.decompressobj(-15)
                continue
            self._begun = self._begun or data[:1]
            pieces.append(piece)
            room -= len(piece)
            if room < 0:
                break
            data = self._stream.unconsumed_tail or self._stream.unused_data
        return b"".join(pieces)
