"""TIFFs made byte by byte: sound ones, and such as no writer makes.

A sound one is an image of uint16 in DEFLATE tiles with one overview, as small as can be. What a
test wants otherwise it changes in the ``Image``s, and field by field where it has to.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

CODES = {1: "B", 2: "s", 3: "H", 4: "I", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q"}
SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION = 254, 256, 257, 258, 259
SAMPLES, PLANAR, PREDICTOR, TILE_WIDTH, TILE_HEIGHT = 277, 284, 317, 322, 323
OFFSETS, COUNTS, FORMAT, JPEG_TABLES = 324, 325, 339, 347
SCALE, TIE, MATRIX, GEO_KEYS, NODATA = 33550, 33922, 34264, 34735, 42113


@dataclass
class At:
    """A field's values lie where the test says."""

    kind: int
    count: int
    offset: int


@dataclass
class Image:
    """One directory and its tiles."""

    fields: dict[int, tuple[int, Any] | At]
    """Tag → (type, values): numbers, or bytes of type 2; without offsets and sizes of tiles, which
    are added."""
    tiles: list[bytes]
    """Empty: a sparse one."""
    again: list[tuple[int, int, Any]] = field(default_factory=list)
    """(tag, type, values) besides, such as a field that is there twice."""
    table: tuple[int, int] = (16, 16)
    """Types of the tables of offsets and sizes in a BigTIFF; 4 in a classic one."""

    def set(self, tag: int, *values: Any, kind: int = 3) -> Image:
        self.fields[tag] = (kind, values)
        return self


def image(width: int, height: int, tile: int = 16, *, reduced: bool = False) -> Image:
    """A sound one: every pixel of a tile is its number plus one."""
    across, down = -(-width // tile), -(-height // tile)
    tiles = [
        zlib.compress(struct.pack("<H", number + 1) * tile * tile)
        for number in range(across * down)
    ]
    fields: dict[int, Any] = {
        SUBFILE: (4, [int(reduced)]),
        WIDTH: (3, [width]),
        HEIGHT: (3, [height]),
        BITS: (3, [16]),
        COMPRESSION: (3, [8]),
        SAMPLES: (3, [1]),
        PLANAR: (3, [1]),
        PREDICTOR: (3, [1]),
        TILE_WIDTH: (3, [tile]),
        TILE_HEIGHT: (3, [tile]),
        FORMAT: (3, [1]),
        NODATA: (2, b"0\0"),
    }
    if not reduced:
        fields |= {
            SCALE: (12, [10.0, 10.0, 0.0]),
            TIE: (12, [0.0, 0.0, 0.0, 600000.0, 5100000.0, 0.0]),
            GEO_KEYS: (3, [1, 1, 0, 2, 1025, 0, 1, 1, 3072, 0, 1, 32610]),
        }
    return Image(fields, tiles)


def images() -> list[Image]:
    """Of a sound file: 40 × 36 pixels in nine tiles, and an overview of a half."""
    return [image(40, 36), image(20, 18, reduced=True)]


def build(
    made: Sequence[Image] | None = None,
    *,
    order: str = "<",
    big: bool = False,
    patch: dict[int, bytes] | None = None,
    following: dict[int, int] | None = None,
    tables: dict[int, dict[int, Sequence[int]]] | None = None,
    end: bytes = b"",
) -> bytes:
    """A file: its head, directories with their values, then all tiles.

    Args:
        patch: bytes to write over others, by place, at last.
        following: number of an image → where the next directory is said to be.
        tables: number of an image → tag → values in place of the true offsets or sizes.
        end: behind all.
    """
    made = images() if made is None else made
    head = 16 if big else 8
    starts, at = [], head
    for number, one in enumerate(made):
        starts.append(at)
        given = (tables or {}).get(number, {})
        at += len(_directory(one, [0] * len(one.tiles), 0, order, big, at, given))
    places: list[list[int]] = []
    body = b""
    for one in made:
        row = []
        for tile in one.tiles:
            row.append(at + len(body) if tile else 0)
            body += tile
        places.append(row)
    content = b""
    for number, one in enumerate(made):
        next_at = starts[number + 1] if number + 1 < len(made) else 0
        next_at = (following or {}).get(number, next_at)
        given = (tables or {}).get(number, {})
        content += _directory(one, places[number], next_at, order, big, starts[number], given)
    first = starts[0] if made else 0
    mark = {"<": b"II", ">": b"MM"}[order]
    if big:
        lead = mark + struct.pack(order + "HHHQ", 43, 8, 0, first)
    else:
        lead = mark + struct.pack(order + "HI", 42, first)
    data = bytearray(lead + content + body + end)
    for where, new in (patch or {}).items():
        data[where : where + len(new)] = new
    return bytes(data)


def _directory(
    one: Image,
    places: Sequence[int],
    next_at: int,
    order: str,
    big: bool,
    at: int,
    given: dict[int, Sequence[int]],
) -> bytes:
    """One directory that lies at ``at``, with its values behind it."""
    kinds = one.table if big else (4, 4)
    rows: list[tuple[int, Any]] = list(one.fields.items())
    if one.tiles:
        sizes = [len(tile) for tile in one.tiles]
        rows += [
            (OFFSETS, (kinds[0], given.get(OFFSETS, places))),
            (COUNTS, (kinds[1], given.get(COUNTS, sizes))),
        ]
    rows += [(tag, (kind, values)) for tag, kind, values in one.again]
    rows.sort(key=lambda row: row[0])
    count, entry, link, room = ("Q", "HHQ", "Q", 8) if big else ("H", "HHI", "I", 4)
    values_at = at + struct.calcsize(f"={count}") + len(rows) * (8 if not big else 12)
    values_at += len(rows) * room + room
    values, table = b"", struct.pack(order + count, len(rows))
    for tag, held in rows:
        if isinstance(held, At):
            table += struct.pack(order + entry, tag, held.kind, held.count)
            table += struct.pack(order + link, held.offset)
            continue
        kind, numbers = held
        data, number = _encoded(kind, numbers, order)
        table += struct.pack(order + entry, tag, kind, number)
        if len(data) <= room:
            table += data.ljust(room, b"\0")
        else:
            table += struct.pack(order + link, values_at + len(values))
            values += data + b"\0" * (len(data) % 2)
    return table + struct.pack(order + link, next_at) + values


def _encoded(kind: int, values: Any, order: str) -> tuple[bytes, int]:
    if isinstance(values, bytes):
        return values, len(values)
    values = list(values)
    code = CODES.get(kind, "I")
    return struct.pack(f"{order}{len(values)}{code}", *values), len(values)
