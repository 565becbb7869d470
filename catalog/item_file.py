"""Items from a file instead of an API: JSON, NDJSON or Parquet, however large it is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from catalog.errors import UsageError
from catalog.item_parquet import read_parquet_items

_CHUNK = 1 << 18
_DECODER = json.JSONDecoder()


def read_items(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The STAC items in ``path``, in its order, as they stand there.

    Takes a FeatureCollection (or the answer of a search), a list of items, a single
    item, and any number of those one after another (NDJSON). One item at a time is
    held in memory. Also takes a stac-geoparquet file (``item_parquet.py``).

    Raises:
        SourceError: a Parquet file that is none, damaged, or holds no STAC items.
        UsageError: no such file, not UTF-8 JSON, or an entry that is no item; raised
            where the fault is reached.
    """
    path = Path(path)
    number = 0
    try:
        with path.open("rb") as binary:
            if binary.read(4) == b"PAR1":
                yield from read_parquet_items(path)
                return
        with path.open(encoding="utf-8-sig") as stream:
            for entry in _entries(_Reader(stream)):
                number += 1
                if not isinstance(entry, dict) or entry.get("type") != "Feature":
                    raise UsageError(f"{path}: entry {number} is not a STAC item")
                yield entry
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text") from error
    except (json.JSONDecodeError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise UsageError(f"{path}: not JSON after entry {number}: {reason}") from error
    if number == 0:
        raise UsageError(f"{path}: holds no item")


class _Reader:
    """A text stream read as JSON tokens and values, from a buffer no larger than a value needs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._buffer, self._at, self._ended = stream, "", 0, False

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
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            # A number that ends with the buffer may go on after it.
            if end == len(self._buffer) and self._more():
                continue
            self._at = end
            return value


def _entries(reader: _Reader) -> Iterator[Any]:
    while character := reader.peek():
        if character == "[":
            yield from _list(reader)
        elif character == "{":
            yield from _object(reader)
        else:
            yield reader.value()


def _list(reader: _Reader) -> Iterator[Any]:
    reader.take("[")
    if reader.peek() == "]":
        reader.take("]")
        return
    while True:
        yield reader.value()
        if reader.take(",]") == "]":
            return


def _object(reader: _Reader) -> Iterator[Any]:
    """The features of a collection as they come; any other object as a whole."""
    reader.take("{")
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
        yield members
