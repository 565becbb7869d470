"""The image directories of a TIFF: which fields they have, read with as few bytes as can be.

TIFF 6.0, section 2, and BigTIFF. Values are read for the fields of ``Tag`` only, and
nothing a damaged file says is believed before it is checked: a count that is too large,
a link that leads back, a type that does not fit are an ``UnreadableFileError``. (async-tiff, at
0.7, allocates what a damaged count asks for and so ends the process, panics on the rest, and
reads all that lies before a directory at the end of a file.)
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalog.errors import DamagedFileError, UnreadableFileError

RASTER_TYPE, PROJECTED_CRS = 1025, 3072
"""GeoKeys (GeoTIFF 1.1, section 7)."""


class Tag(IntEnum):
    """The fields that are read."""

    SUBFILE_TYPE = 254
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    SAMPLES = 277
    PLANAR_CONFIGURATION = 284
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_BYTES = 325
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347
    PIXEL_SCALE = 33550
    TIE_POINT = 33922
    TRANSFORMATION = 34264
    GEO_KEYS = 34735
    GDAL_NODATA = 42113


WANTED = frozenset(map(int, Tag))
MAX_IMAGES = 64
"""A COG of an archive has six levels at most, each with a mask at most."""
MAX_FIELDS = 256
"""Per image; GDAL writes some twenty-five, and forty with EXIF."""
MAX_TILES = 2**15
"""Per file, all levels together. A 10 m band of 10 980 pixels has 160 in Earth Search's tiles of
1024 and 512, 2 500 in tiles of 256, 9 900 in tiles of 128: no archive has smaller ones."""
MAX_VALUES = 2**12
"""Of a field that is no table of tiles; a GeoTIFF's keys are some dozens of numbers."""
_TYPES = {
    1: "u1", 2: "S1", 3: "u2", 4: "u4", 6: "i1", 7: "u1", 8: "i2", 9: "i4", 11: "f4", 12: "f8",
    13: "u4", 16: "u8", 17: "i8", 18: "u8",
}  # fmt: skip
"""Field type → NumPy's, without byte order; rational numbers are in no field that is wanted."""
_SIZES = {kind: int(name[1:]) for kind, name in _TYPES.items()}
_SIGNED = {kind: name[0] == "i" for kind, name in _TYPES.items() if name[0] in "iu"}
"""Types of integers."""
_TABLES = (Tag.TILE_OFFSETS, Tag.TILE_BYTES)

Field = tuple[int, int, bytes | memoryview]
"""Type, number of values, and their bytes as in the file: taken apart when they are asked for."""
Read = Callable[[int, int], Awaitable[memoryview]]
"""(start, length) → those bytes, or fewer where the file ends."""


@dataclass(frozen=True, slots=True)
class Directory:
    """One image of a file: its fields by tag."""

    byte_order: str
    """``little`` or ``big``, of the whole file."""
    fields: Mapping[int, Field]
    """By tag; of ``JPEG_TABLES`` no values, only that they are there."""
    places: tuple[tuple[int, int], ...]
    """Where in the file it lies, and values of its fields: (first byte, byte behind the last)."""

    def integers(self, tag: Tag, default: int | None = None) -> NDArray[Any]:
        """All values of a field, shape (count,); ``default`` alone where it is missing.

        Raises:
            UnreadableFileError: it is missing and has no default, is empty, or holds no integers.
        """
        found = self.fields.get(tag)
        if found is None:
            if default is None:
                raise UnreadableFileError(f"its field {tag.name} is missing")
            return np.array([default])
        kind, count, _ = found
        if kind not in _SIGNED or not count:
            raise UnreadableFileError(f"its field {tag.name} holds no integers")
        return self._values(found)

    def integer(self, tag: Tag, default: int | None = None) -> int:
        """The first value of a field, as ``integers`` has it."""
        found = self.fields.get(tag)
        if found is None and default is not None:
            return default
        if found is not None and found[1] and found[0] in _SIGNED:
            kind, _, content = found
            return int.from_bytes(
                content[: _SIZES[kind]],
                "little" if self.byte_order == "little" else "big",
                signed=_SIGNED[kind],
            )
        return int(self.integers(tag)[0])  # which says what is wrong

    def same(self, tag: Tag) -> bool:
        """Whether all values of a field are equal; a missing one's are."""
        found = self.fields.get(tag)
        if found is None or found[1] < 2:
            return True
        kind, count, content = found
        return bool(content == bytes(content[: _SIZES[kind]]) * count)

    def floats(self, tag: Tag, count: int) -> list[float] | None:
        """The first ``count`` values of a field, or None where it has not so many."""
        found = self.fields.get(tag)
        if found is None or _TYPES[found[0]] == "S1" or found[1] < count:
            return None
        return [float(value) for value in self._values(found)[:count]]

    def text(self, tag: Tag) -> str | None:
        """A field of ASCII, to its first NUL."""
        found = self.fields.get(tag)
        if found is None:
            return None
        return bytes(found[2]).partition(b"\0")[0].decode("latin-1").strip()

    def geo_key(self, key: int) -> int | None:
        """A GeoKey whose value is one short, or None (GeoTIFF 1.1, section 7.1)."""
        found = self.fields.get(Tag.GEO_KEYS)
        if found is None or found[0] not in _SIGNED:
            return None
        values = self._values(found)
        for entry in values[4 : values.size // 4 * 4].reshape(-1, 4).tolist():
            if entry[:3] == [key, 0, 1]:
                return int(entry[3])
        return None

    def _values(self, field: Field) -> NDArray[Any]:
        kind, _, content = field
        order = "<" if self.byte_order == "little" else ">"
        return np.frombuffer(content, order + _TYPES[kind])


async def read_directories(read: Read) -> list[Directory]:
    """Every image directory of a file, in the file's order; at least one.

    Raises:
        DamagedFileError: no TIFF, or truncated.
        UnreadableFileError: a directory that cannot be meant.
    """
    head = bytes(await read(0, 16))
    if head[:4] in (b"II*\0", b"MM\0*"):
        number, field, link = "H", "HHI4s", "I"
    elif head[:4] in (b"II+\0", b"MM\0+"):
        number, field, link = "Q", "HHQ8s", "Q"
    else:
        raise DamagedFileError(f"not a TIFF: it begins with {head[:8]!r}")
    order = "<" if head[:1] == b"I" else ">"
    # Count of fields; one field: tag, type, count, value or where it lies; next directory.
    count_of, one, next_of = (struct.Struct(order + part) for part in (number, field, link))
    start = _unpack(next_of, head[8 if number == "Q" else 4 :])
    seen: set[int] = set()
    found: list[Directory] = []
    while start:
        if start in seen:
            raise UnreadableFileError("its image directories form a loop")
        if len(seen) == MAX_IMAGES:
            raise UnreadableFileError(f"more than {MAX_IMAGES} image directories")
        seen.add(start)
        count = _unpack(count_of, await read(start, count_of.size))
        if not 0 < count <= MAX_FIELDS:
            raise UnreadableFileError(f"an image directory of {count} fields")
        begins = start + count_of.size
        data = await read(begins, count * one.size + next_of.size)
        places = [(start, begins + count * one.size + next_of.size)]
        start = _unpack(next_of, data[count * one.size :])
        fields: dict[int, Field] = {}
        for tag, kind, values, inline in one.iter_unpack(data[: count * one.size]):
            if tag not in WANTED:
                continue
            if tag in fields:
                raise UnreadableFileError(f"its field {Tag(tag).name} is there twice")
            if kind not in _SIZES:
                raise UnreadableFileError(f"its field {Tag(tag).name} is of type {kind}")
            if values > (MAX_TILES if tag in _TABLES else MAX_VALUES):
                raise UnreadableFileError(f"its field {Tag(tag).name} has {values} values")
            size = values * _SIZES[kind]
            content = inline[:size]
            if tag == Tag.JPEG_TABLES:
                content = b""
            elif size > len(inline):
                at = _unpack(next_of, inline)
                content = await read(at, size)
                places.append((at, at + size))
                if len(content) < size:
                    raise DamagedFileError("truncated: the file ends within its header")
            fields[tag] = kind, values, content
        found.append(Directory("little" if order == "<" else "big", fields, tuple(places)))
    if not found:
        raise UnreadableFileError("holds no image")
    return found


def _unpack(layout: struct.Struct, data: bytes | memoryview) -> int:
    """The one number ``data`` begins with."""
    try:
        return int(layout.unpack_from(data)[0])
    except struct.error:
        raise DamagedFileError("truncated: the file ends within its header") from None
