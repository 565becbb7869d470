"""Items from a file instead of an API: JSON, NDJSON or Parquet, however large it is."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urljoin

from catalog.errors import UsageError
from catalog.item_parquet import read_parquet_items
from catalog.json_values import brief
from catalog.page_json import end_of_value, entry
from catalog.unreadable import UnreadableItem

log = logging.getLogger(__name__)

_CHUNK = 1 << 18
_LONGEST = 64 << 20
"""Characters of one entry: as many as of a page of a search."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_items(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The STAC items in ``path``, in its order, as they stand there; relative hrefs of their
    assets are made absolute, by the item's own address or the file's.

    Takes a FeatureCollection (or the answer of a search), a list of items, a single
    item, and any number of those one after another (NDJSON). One item at a time is
    held in memory. Also takes a stac-geoparquet file (``item_parquet.py``).

    An entry that is no item is an ``UnreadableItem``: it fails alone.

    Raises:
        SourceError: a Parquet file that is none, damaged, or holds no STAC items.
        UsageError: no such file, compressed, no JSON from some place on, or without one item
            that can be read; raised where the fault is reached.
    """
    path = Path(path)
    number = readable = 0
    fault: str | None = None
    reader = None
    base = path.absolute().as_uri()
    try:
        with path.open("rb") as binary:
            head = binary.read(4)
        if head == b"PAR1":
            for item in read_parquet_items(path):
                yield _absolute(item, base)
            return
        if head[:2] == b"\x1f\x8b":
            raise UsageError(f"{path}: is gzip: unpack it first, gunzip --keep {path}")
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
            reader = _Reader(stream)
            for found in _entries(reader):
                number += 1
                item = _item(found)
                if isinstance(item, UnreadableItem):
                    where = f"entry {number} is not a STAC item: {item.fault}"
                    fault = fault or where
                    log.warning("%s: %s", path, where)
                else:
                    readable += 1
                yield _absolute(item, base)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        if reader is not None and not reader.is_text():
            raise UsageError(f"{path}: not UTF-8 text") from error
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise UsageError(f"{path}: not JSON after entry {number}: {reason}") from error
    if readable == 0:
        raise UsageError(f"{path}: {fault or 'holds no item'}")


def _item(entry: Any) -> dict[str, Any]:
    if isinstance(entry, UnreadableItem):
        return entry
    if not isinstance(entry, dict):
        return UnreadableItem("not a JSON object", repr(entry)[:1_000])
    if entry.get("type") != "Feature":
        name = entry.get("id")
        return UnreadableItem(
            f"its type is {brief(entry.get('type'))}, not 'Feature'",
            id=name if isinstance(name, str) else None,
        )
    return entry


def _absolute(item: dict[str, Any], base: str) -> dict[str, Any]:
    """``item`` with absolute hrefs of its assets: relative ones are so to where the item lies,
    which its ``self`` link says if it is absolute (STAC, best practices, "Use of links")."""
    assets = item.get("assets")
    if not isinstance(assets, dict):
        return item
    relative = {
        name: asset["href"]
        for name, asset in assets.items()
        if isinstance(asset, dict)
        and isinstance(asset.get("href"), str)
        and not _SCHEME.match(asset["href"])
    }
    if not relative:
        return item
    links = item.get("links")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, dict) and link.get("rel") == "self":
            href = link.get("href")
            if isinstance(href, str) and _SCHEME.match(href):
                base = href
                break
    resolved = {}
    for name, href in relative.items():
        try:
            resolved[name] = assets[name] | {"href": _joined(base, href)}
        except ValueError:
            continue  # the border says what is wrong with it
    return item | {"assets": assets | resolved}


def _joined(base: str, href: str) -> str:
    """As ``urljoin``, which knows no ``s3:``."""
    scheme, mark, rest = base.partition("://")
    if not href or not mark:
        return href
    return scheme + urljoin(f"http://{rest}", href).removeprefix("http")


class _Reader:
    """A text stream read as JSON tokens and values, from a buffer no larger than a value needs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._buffer, self._at, self._ended = stream, "", 0, False
        self._decoder = json.JSONDecoder(parse_constant=self._constant, parse_int=self._integer)
        self.odd: str | None = None

    def _more(self) -> bool:
        # Reads at least as much as is held, so that a long value is not tried too often.
        if not self._ended:
            held = self._buffer[self._at :]
            chunk = self._stream.read(max(_CHUNK, len(held)))
            self._ended = not chunk
            self._buffer, self._at = held + chunk, 0
        return not self._ended

    def peek(self) -> str:
        """The next character that is not white space (or an RFC 7464 separator); '' at the end."""
        while True:
            while self._at < len(self._buffer):
                if (character := self._buffer[self._at]) not in " \t\r\n\x1e":
                    return character
                self._at += 1
            if not self._more():
                return ""

    def take(self, expected: str) -> str:
        character = self.peek()
        if not character or character not in expected:
            raise json.JSONDecodeError(
                f"expected {' or '.join(expected)}, found {character or 'the end'}", "", 0
            )
        self._at += 1
        return character

    def value(self) -> Any:
        """The next value. What Python takes and JSON does not is noted in ``odd``.

        Raises:
            JSONDecodeError: none; the reader stands where it was to begin.
        """
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except RecursionError:
                self.odd = "nested too deeply"
                if self.skip() is None:
                    raise
                return None
            except json.JSONDecodeError as error:
                # What may only be cut off is tried again with more of it.
                if _may_go_on(error, len(self._buffer)) and self._more():
                    continue
                raise
            # A number that ends with the buffer may go on after it.
            if end == len(self._buffer) and self._more():
                continue
            if not self._buffer.isascii() and _SURROGATE.search(self._buffer, self._at, end):
                self.odd = "its text is not UTF-8"
            self._at = end
            return value

    def skip(self) -> str | None:
        """Passes over an array or object by its brackets; its text, or None if it does not end."""
        while (end := end_of_value(self._buffer, self._at)) is None:
            if len(self._buffer) - self._at >= _LONGEST or not self._more():
                return None
        text, self._at = self._buffer[self._at : end], end
        return text

    def skip_line(self) -> bool:
        """Passes over the rest of a line; False where nothing follows it."""
        while (end := self._buffer.find("\n", self._at)) < 0:
            self._at = len(self._buffer)
            if not self._more():
                return False
        self._at = end
        return bool(self.peek())

    def take_odd(self) -> str | None:
        """What was noted since it was asked last."""
        odd, self.odd = self.odd, None
        return odd

    def is_text(self) -> bool:
        """Whether what is held is UTF-8."""
        return not _SURROGATE.search(self._buffer)

    def _constant(self, name: str) -> None:
        self.odd = f"{name} is not JSON"

    def _integer(self, digits: str) -> int:
        try:
            return int(digits)
        except ValueError:
            self.odd = "a number is beyond what can be held"
            return 0


def _may_go_on(error: json.JSONDecodeError, length: int) -> bool:
    """Whether a value that did not parse may be one that is not read to its end yet."""
    return "Unterminated" in error.msg or error.pos >= length - 16


def _entries(reader: _Reader) -> Iterator[Any]:
    while character := reader.peek():
        if character == "[":
            yield from _list(reader)
            continue
        try:
            if character == "{":
                yield from _object(reader)
            else:
                yield reader.value()
        except json.JSONDecodeError as error:
            # One line of many.
            if not reader.skip_line():
                raise
            yield UnreadableItem(f"not JSON: {error.msg}", error.msg)


def _list(reader: _Reader) -> Iterator[Any]:
    reader.take("[")
    if reader.peek() == "]":
        reader.take("]")
        return
    while True:
        reader.take_odd()
        try:
            yield _judged(reader.value(), reader)
        except json.JSONDecodeError:
            text = reader.skip() if reader.peek() in ("{", "[") else None
            if text is None:
                raise
            yield entry(text)
        if reader.take(",]") == "]":
            return


def _judged(value: Any, reader: _Reader) -> Any:
    """``value``, or why it is not as JSON has it."""
    odd = reader.take_odd()
    if odd is None:
        return value
    members = value if isinstance(value, dict) else {}
    named = {
        key: text
        for key in ("id", "collection")
        if isinstance(text := members.get(key), str) and not _SURROGATE.search(text)
    }
    return UnreadableItem(odd, repr(members)[:1_000], **named)


def _object(reader: _Reader) -> Iterator[Any]:
    """The features of a collection as they come; any other object as a whole."""
    reader.take("{")
    reader.take_odd()
    members: dict[str, Any] = {}
    collection = False
    if reader.peek() == "}":
        reader.take("}")
        yield members
        return
    while True:
        key = reader.value()
        reader.take(":")
        if key == "features" and reader.peek() == "[":
            collection = True
            yield from _list(reader)
        elif isinstance(key, str):
            value = reader.value()
            if not collection:
                members[key] = value
        else:
            raise json.JSONDecodeError("a key is not text", "", 0)
        if reader.take(",}") == "}":
            break
    if not collection and members.get("type") != "FeatureCollection":
        yield _judged(members, reader)
