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
MAX_IMAGES = 256
MAX_FIELDS = 4096
"""Per image."""
MAX_FIELD_BYTES = 2**24
"""Of one field's values: two million tiles in a BigTIFF."""
_TYPES = {
    1: "u1", 2: "S1", 3: "u2", 4: "u4", 6: "i1", 7: "u1", 8: "i2", 9: "i4", 11: "f4", 12: "f8",
    13: "u4", 16: "u8", 17: "i8", 18: "u8",
}  # fmt: skip
"""Field type → NumPy's, without byte order; rational numbers are in no field that is wanted."""

Read = Callable[[int, int], Awaitable[bytes]]
"""(start, length) → those bytes, or fewer where the file ends."""


@dataclass(frozen=True, slots=True)
class Directory:
    """One image of a file: its fields by tag."""

    byte_order: str
    """``little`` or ``big``, of the whole file."""
    fields: Mapping[Tag, NDArray[Any]]

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
        if found.dtype.kind not in "iu" or not found.size:
            raise UnreadableFileError(f"its field {tag.name} holds no integers")
        return found

    def integer(self, tag: Tag, default: int | None = None) -> int:
        """The first value of a field."""
        return int(self.integers(tag, default)[0])

    def floats(self, tag: Tag, count: int) -> list[float] | None:
        """The first ``count`` values of a field, or None where it has not so many."""
        found = self.fields.get(tag)
        if found is None or found.dtype.kind not in "iuf" or found.size < count:
            return None
        return [float(value) for value in found[:count]]

    def text(self, tag: Tag) -> str | None:
        found = self.fields.get(tag)
        return None if found is None else found.tobytes().decode("latin-1").strip("\0 ")

    def geo_key(self, key: int) -> int | None:
        """A GeoKey whose value is one short, or None (GeoTIFF 1.1, section 7.1)."""
        found = self.fields.get(Tag.GEO_KEYS)
        if found is None:
            return None
        for entry in found[4 : found.size // 4 * 4].reshape(-1, 4).tolist():
            if entry[:3] == [key, 0, 1]:
                return int(entry[3])
        return None


async def read_directories(read: Read) -> list[Directory]:
    """Every image directory of a file, in the file's order; at least one.

    Raises:
        DamagedFileError: no TIFF, or truncated.
        UnreadableFileError: a directory that cannot be meant.
    """
    head = await read(0, 16)
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
        if start in seen or len(seen) == MAX_IMAGES:
            raise UnreadableFileError("its image directories form a loop")
        seen.add(start)
        count = _unpack(count_of, await read(start, count_of.size))
        if not 0 < count <= MAX_FIELDS:
            raise UnreadableFileError(f"an image directory of {count} fields")
        data = await read(start + count_of.size, count * one.size + next_of.size)
        start = _unpack(next_of, data[count * one.size :])
        fields: dict[Tag, NDArray[Any]] = {}
        for tag, kind, values, inline in one.iter_unpack(data[: count * one.size]):
            if tag not in WANTED:
                continue
            if kind not in _TYPES:
                raise UnreadableFileError(f"its field {Tag(tag).name} is of type {kind}")
            dtype = np.dtype(order + _TYPES[kind])
            size = values * dtype.itemsize
            if size > MAX_FIELD_BYTES:
                raise UnreadableFileError(f"its field {Tag(tag).name} has {values} values")
            content = inline[:size]
            if size > len(inline):
                content = await read(_unpack(next_of, inline), size)
            if len(content) < size:
                raise DamagedFileError("truncated: the file ends within its header")
            fields[Tag(tag)] = np.frombuffer(content, dtype)
        found.append(Directory("little" if order == "<" else "big", fields))
    if not found:
        raise UnreadableFileError("holds no image")
    return found


def _unpack(layout: struct.Struct, data: bytes) -> int:
    """The one number ``data`` begins with."""
    try:
        return int(layout.unpack_from(data)[0])
    except struct.error:
        raise DamagedFileError("truncated: the file ends within its header") from None
