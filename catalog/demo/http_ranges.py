"""Ranges and conditions of HTTP requests for one file (RFC 9110, 13 and 14); pure.

Strict where S3 is lenient: an ``If-Match`` whose entity tag has no quotes matches
nothing, so that the answer is 412.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from catalog.demo.http_connection import Request, Response, http_date


@dataclass(frozen=True, slots=True)
class Representation:
    """What a file is at this moment."""

    size: int
    etag: str
    modified: int
    """Seconds since 1970."""
    content_type: str
    read: Callable[[int, int], bytes]
    """(offset, length) → bytes"""


def md5_tag(content: bytes) -> str:
    """The entity tag S3 gives to small objects, in quotes."""
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def respond(request: Request, file: Representation) -> Response:
    """GET or HEAD of a file: conditions first (RFC 9110, 13.2.2), then the range (14.2)."""
    asked = request.headers
    validators = {"ETag": file.etag, "Last-Modified": http_date(file.modified)}
    if "if-match" in asked:
        if not _matches(asked["if-match"], file.etag, weak=False):
            return Response(412, validators)
    elif _seconds(asked.get("if-unmodified-since"), math.inf) < file.modified:
        return Response(412, validators)
    if "if-none-match" in asked:
        if _matches(asked["if-none-match"], file.etag, weak=True):
            return Response(304, validators)
    elif _seconds(asked.get("if-modified-since"), -math.inf) >= file.modified:
        return Response(304, validators)
    headers = validators | {"Content-Type": file.content_type, "Accept-Ranges": "bytes"}
    bounds = None
    if request.method == "GET" and "range" in asked:
        condition = asked.get("if-range")
        if condition is None or condition in (file.etag, validators["Last-Modified"]):
            bounds = _bounds(asked["range"], file.size)
    if bounds is None:
        body = file.read(0, file.size) if request.method == "GET" else b""
        return Response(200, headers | {"Content-Length": str(file.size)}, body)
    first, last = bounds
    if first > last:
        return Response(416, validators | {"Content-Range": f"bytes */{file.size}"})
    headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
    return Response(206, headers, file.read(first, last - first + 1))


_RANGE = re.compile(r"bytes=\s*(\d*)-(\d*)\s*$")


def _bounds(text: str, size: int) -> tuple[int, int] | None:
    """First and last byte, inclusive.

    None where the header does not count: not bytes, malformed, or several ranges,
    which a server may answer whole. First > last where it cannot be satisfied.
    """
    found = _RANGE.match(text)
    if not found or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        length = int(last)
        return (max(0, size - length), size - 1) if length else (1, 0)
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        return (1, 0)
    return int(first), min(int(last), size - 1) if last else size - 1


def _matches(header: str, etag: str, *, weak: bool) -> bool:
    """Whether an entity tag is in a list of them. One without quotes matches nothing."""
    if header.strip() == "*":
        return True
    tags = re.findall(r'(W/)?("[^"]*")', header)
    return any(tag == etag and (weak or not prefix) for prefix, tag in tags)


@functools.lru_cache(maxsize=4096)
def _seconds(header: str | None, otherwise: float) -> float:
    """Seconds since 1970; ``otherwise`` where there is no date, or none that can be read."""
    if header is None:
        return otherwise
    try:
        return parsedate_to_datetime(header).timestamp()
    except ValueError:
        return otherwise
