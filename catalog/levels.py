"""The images of a TIFF as what references need: size, type, codec, and where each tile lies.

All that a file may say of them is checked here, against what TIFF 6.0 allows and against what
archives have: a header that passes makes arrays that can be opened, within bounded memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from virtual_tiff.constants import SAMPLE_DTYPES

from catalog.directories import MAX_TILES, Directory, Tag
from catalog.errors import DamagedFileError, UnreadableFileError

REDUCED, MASK = 1, 4
"""NewSubfileType bits of an overview and of a transparency mask (TIFF 6.0, section 8)."""
PREDICTORS = (1, 2)
MAX_SIDE = 2**15
"""Pixels; a tile's 109.8 km are 10 980 at 10 m."""
MAX_TILE_BYTES = 2**25
"""Of a tile's pixels: whoever reads one has as much. Those of archives have 2 MB, 3 MB in
``visual``."""
COMPRESSIONS = {1: "none", 5: "LZW", 8: "DEFLATE", 32946: "DEFLATE", 50000: "ZSTD"}
"""TIFF tag 259 → name. What archives of integers use, and what ``codecs.py`` decodes into as much
memory as a tile has pixels and no more."""
_OTHER_COMPRESSIONS = {7: " (JPEG)", 6: " (JPEG)", 34712: " (JPEG 2000)", 34887: " (LERC)",
                       34925: " (LZMA)", 50001: " (WEBP)", 50002: " (JPEG XL)"}  # fmt: skip
VISUAL, VISUAL_SAMPLES = "visual", 3
"""The one band whose pixels have several samples, side by side or in tiles of their own."""


_DTYPES = {
    key: np.dtype(code)
    for key, code in SAMPLE_DTYPES.items()
    if np.dtype(code).kind in "iu" and np.dtype(code).itemsize * 8 == key[1]
}
"""(format, bits) → type."""
_NAMES = {dtype: dtype.name for dtype in _DTYPES.values()}


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One image of the file: the full resolution or an overview."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    samples: int
    """Per pixel; above 1 only in ``visual``."""
    interleaved: bool
    """True where one tile holds all samples (planar configuration 1)."""
    dtype: str
    """NumPy name without byte order: ``uint16``."""
    byte_order: str
    """``little`` or ``big``."""
    compression: int
    """TIFF tag 259, one of ``COMPRESSIONS``."""
    predictor: int
    """TIFF tag 317: 1 none, 2 horizontal differencing."""
    nodata: int | None
    offsets: NDArray[np.uint64]
    """Shape (planes, tile rows, tile columns); planes is 1 where interleaved. 0 with length 0: no
    such tile in the file, it reads as nodata."""
    lengths: NDArray[np.uint64]
    """Bytes, same shape as ``offsets``."""


def read_levels(directories: Sequence[Directory], band: str, size: int) -> tuple[Level, ...]:
    """The first image and its overviews, by falling width; masks and further pages are others.

    Args:
        band: of the file: ``visual`` has three samples, every other band one.
        size: bytes of the file.

    Raises:
        DamagedFileError: the file ends before its tiles do.
        UnreadableFileError: an image that cannot be referenced.
    """
    first = directories[0]
    if first.integer(Tag.SUBFILE_TYPE, 0) & (REDUCED | MASK):
        raise UnreadableFileError("its first image is a mask or an overview")
    overviews = [
        other
        for other in directories[1:]
        if other.integer(Tag.SUBFILE_TYPE, 0) & (REDUCED | MASK) == REDUCED
    ]
    levels = [_level(image, band) for image in (first, *overviews)]
    _check_overviews(levels)
    _check_places(levels, directories, size)
    return tuple(sorted(levels, key=lambda level: -level.width))


def _level(image: Directory, band: str) -> Level:
    if Tag.TILE_WIDTH not in image.fields or Tag.TILE_HEIGHT not in image.fields:
        raise UnreadableFileError("striped, not tiled: not a Cloud-Optimized GeoTIFF")
    width, height = image.integer(Tag.WIDTH), image.integer(Tag.HEIGHT)
    tile_width, tile_height = image.integer(Tag.TILE_WIDTH), image.integer(Tag.TILE_HEIGHT)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise UnreadableFileError(f"an image of {height} rows and {width} columns")
    # TIFF 6.0, section 15: multiples of 16.
    if not (tile_width > 0 and tile_height > 0) or tile_width % 16 or tile_height % 16:
        raise UnreadableFileError(f"tiles of {tile_height} rows and {tile_width} columns")
    samples, dtype = _samples(image, band)
    predictor = image.integer(Tag.PREDICTOR, 1)
    if predictor not in PREDICTORS:
        raise UnreadableFileError(f"predictor {predictor} is not supported")
    compression = image.integer(Tag.COMPRESSION, 1)
    if compression not in COMPRESSIONS or Tag.JPEG_TABLES in image.fields:
        raise UnreadableFileError(
            f"compression {compression} is not supported"
            f"{_OTHER_COMPRESSIONS.get(compression, '')}: its tiles must be compressed by DEFLATE, "
            "LZW or ZSTD, or not at all"
        )
    interleaved = samples == 1 or image.integer(Tag.PLANAR_CONFIGURATION, 1) == 1
    raw = tile_width * tile_height * dtype.itemsize * (samples if interleaved else 1)
    if raw > MAX_TILE_BYTES:
        raise UnreadableFileError(f"tiles of {tile_height} rows and {tile_width} columns")
    grid = (
        1 if interleaved else samples,
        math.ceil(height / tile_height),
        math.ceil(width / tile_width),
    )
    offsets = image.integers(Tag.TILE_OFFSETS).astype(np.uint64)
    lengths = image.integers(Tag.TILE_BYTES).astype(np.uint64)
    if offsets.size != math.prod(grid) or lengths.size != offsets.size:
        raise UnreadableFileError(
            f"its table lists {offsets.size} tiles and {lengths.size} sizes, "
            f"an image of this size has {math.prod(grid)}"
        )
    # LZW makes what it cannot compress half as long again; the others add some bytes.
    longest = int(lengths.max())
    if longest > 2 * raw + 4096 or (compression == 1 and ((lengths != raw) & (lengths > 0)).any()):
        raise UnreadableFileError(
            f"its table says that a tile of {raw} bytes takes {longest} in the file"
        )
    return Level(
        width=width,
        height=height,
        tile_width=tile_width,
        tile_height=tile_height,
        samples=samples,
        interleaved=interleaved,
        dtype=_NAMES[dtype],
        byte_order=image.byte_order,
        compression=compression,
        predictor=predictor,
        nodata=_nodata(image.text(Tag.GDAL_NODATA), dtype),
        offsets=offsets.reshape(grid),
        lengths=lengths.reshape(grid),
    )


def _samples(image: Directory, band: str) -> tuple[int, np.dtype[Any]]:
    """How many numbers a pixel has, and of which type."""
    samples = image.integer(Tag.SAMPLES, 1)
    form, bits = image.integer(Tag.SAMPLE_FORMAT, 1), image.integer(Tag.BITS, 1)
    dtype = _DTYPES.get((form, bits))
    if dtype is None or not (image.same(Tag.SAMPLE_FORMAT) and image.same(Tag.BITS)):
        raise UnreadableFileError(_strange_samples(image, samples))
    wanted = VISUAL_SAMPLES if band == VISUAL else 1
    if samples != wanted:
        raise UnreadableFileError(f"{samples} samples a pixel, {band} has {wanted}")
    return samples, dtype


def _strange_samples(image: Directory, samples: int) -> str:
    formats = image.integers(Tag.SAMPLE_FORMAT, 1).tolist()
    bits = image.integers(Tag.BITS, 1).tolist()
    if len({*formats}) == len({*bits}) == 1:
        dtype = np.dtype(SAMPLE_DTYPES.get((formats[0], bits[0]), "V"))
        whole = dtype.itemsize * 8
        if dtype.kind in "iu":
            return (
                f"its samples have {bits[0]} bits (NBITS={bits[0]}), packed, which no reference "
                f"can say: it must be written anew with {whole}, as by `gdal_translate -of COG "
                f"-co NBITS={whole}`"
            )
        if dtype.kind in "fc" and whole == bits[0]:
            return f"samples are {dtype.name}, not integers"
    return f"{samples} samples of format {formats[:8]} and {bits[:8]} bits"


def _nodata(text: str | None, dtype: np.dtype[Any]) -> int | None:
    """What the tag says. (In Level-2A 0 is nodata whatever it says: readers see to that.)"""
    if not text:
        return None
    try:
        value = float(text)
        return int(dtype.type(int(value))) if value == int(value) else None
    except (ValueError, OverflowError):
        return None  # GDAL too ignores a nodata that the type cannot hold


def _check_overviews(levels: Sequence[Level]) -> None:
    """The first image, and reductions of it by whole numbers, each once."""
    first, *overviews = levels
    sizes = {(first.height, first.width)}
    for level in overviews:
        if (level.samples, level.dtype) != (first.samples, first.dtype):
            raise UnreadableFileError("its overviews have another number or type of samples")
        size = (level.height, level.width)
        if size in sizes or not _reduces(first, level):
            raise UnreadableFileError(
                f"an overview of {level.height} rows and {level.width} columns, of an image of "
                f"{first.height} and {first.width}"
            )
        sizes.add(size)
    tiles = sum(level.offsets.size for level in levels)
    if tiles > MAX_TILES:
        raise UnreadableFileError(f"{tiles} tiles: no archive's files have so many")


def _reduces(first: Level, level: Level) -> bool:
    """Whether one whole factor from 2 makes both sides, rounded up or down."""
    sides = ((first.width, level.width), (first.height, level.height))
    least = max(2, *(whole // (side + 1) + 1 for whole, side in sides))
    return all(side == 1 or least * (side - 1) < whole for whole, side in sides)


def _check_places(levels: Sequence[Level], directories: Sequence[Directory], size: int) -> None:
    """Tiles lie in the file, behind one another, outside its header; one may stand for several."""
    starts = np.concatenate([level.offsets.ravel() for level in levels])
    lengths = np.concatenate([level.lengths.ravel() for level in levels])
    if not lengths.all():
        held = lengths > 0  # a sparse tile may keep an offset
        if not held.any():
            return
        starts, lengths = starts[held], lengths[held]
    ends = starts + lengths
    if int(ends.max()) > size or int(starts.max()) > size:
        # In floating point: 64 bits of a damaged file overflow.
        end = int((starts + lengths.astype(float)).max())
        raise DamagedFileError(f"truncated: its tiles reach to byte {end}, the file has {size}")
    order = starts.argsort()
    starts, ends = starts[order], ends[order]
    nested = starts[1:] < ends[:-1]
    if nested.any():
        shared = (starts[1:] == starts[:-1]) & (ends[1:] == ends[:-1])
        if (nested & ~shared).any():
            raise UnreadableFileError("its tiles overlap")
    places = [(0, 8), *(place for image in directories for place in image.places)]
    if max(stop for _, stop in places) <= starts[0]:
        return  # as in a COG
    behind = np.searchsorted(ends, [start for start, _ in places], side="right").tolist()
    for (_, stop), tile in zip(places, behind, strict=True):
        if tile < ends.size and starts[tile] < stop:
            raise UnreadableFileError("its tiles lie within its header")
