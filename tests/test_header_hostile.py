"""TIFFs that no writer makes: each a sound header or one clear error, in bounded memory and time.

Files are made byte by byte (``tiffs.py``) and read through ``HeaderReader`` from a local source.
"""

from __future__ import annotations

import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiffs
from conftest import make_scene
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scenes import local_source, make_asset, read_header
from tiffs import At, Image, build, image, images

from catalog.cube import MAX_TILES, scene_references
from catalog.errors import DamagedFileError, HeaderError, MissingFileError, UnreadableFileError
from catalog.header import Header
from catalog.patience import Patience
from catalog.remote_file import FIRST_READ, MAX_READ

MEMORY = 4 * MAX_READ
"""Bytes; a header of the whole ``MAX_READ`` is held once, and hashed."""
SECONDS = 10
BAD, HALF, MISSING = UnreadableFileError, DamagedFileError, MissingFileError


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catalog.header.PATIENCE", Patience(retries=1, first=0.0001))


def read(directory: Path, content: bytes, band: str = "red", **facts: Any) -> Header:
    (directory / "a.tif").write_bytes(content)
    source = local_source(directory)
    return read_header(make_asset(f"{source.url}a.tif", band, **facts), source)


def one(change: Callable[[Image], Any], number: int = 0, **options: Any) -> bytes:
    """A sound file but for what ``change`` does to the image of that number."""
    made = images()
    change(made[number])
    return build(made, **options)


def with_field(tag: int, kind: int, *values: Any, number: int = 0) -> bytes:
    return one(lambda i: i.fields.__setitem__(tag, (kind, values)), number)


def without(tag: int) -> bytes:
    return one(lambda i: i.fields.pop(tag))


def pointing(tag: int, kind: int, count: int, offset: int) -> bytes:
    return one(lambda i: i.fields.__setitem__(tag, At(kind, count, offset)))


def overlapping_fields(count: int, size: int) -> bytes:
    """One directory of many fields that all lie at the same bytes."""
    rows = b"".join(struct.pack("<HHII", 324, 4, size // 4, 8) for _ in range(count))
    table = struct.pack("<H", count) + rows + struct.pack("<I", 0)
    at = 8 + size
    return b"II*\0" + struct.pack("<I", at) + bytes(size) + table


def chain(count: int, *, loop_to: int | None = None, gap: int = 0) -> bytes:
    """``count`` directories of one field each, ``gap`` bytes apart."""
    each = 2 + 12 + 4 + gap
    data = b"II*\0" + struct.pack("<I", 8)
    for number in range(count):
        after = 8 + each * (number + 1) if number + 1 < count else (loop_to or 0)
        data += struct.pack("<HHHII", 1, 254, 4, 1, 0) + struct.pack("<I", after) + bytes(gap)
    return data


def many_tiles(width: int, height: int, tile: int = 16, tables: int = 4) -> bytes:
    """An image whose tables are whole, and whose tiles are all sparse."""
    made = image(16, 16)
    count = -(-width // tile) * -(-height // tile)
    made.set(tiffs.WIDTH, width, kind=4).set(tiffs.HEIGHT, height, kind=4)
    made.set(tiffs.TILE_WIDTH, tile).set(tiffs.TILE_HEIGHT, tile)
    made.tiles = []
    for tag in (tiffs.OFFSETS, tiffs.COUNTS):
        made.set(tag, *[0] * count, kind=tables)
    return build([made], big=tables == 16)


def large_directories(count: int) -> bytes:
    """Each image has a table of a megabyte: together more than any header."""
    made = []
    for _ in range(count):
        one = image(16, 16, reduced=bool(made))
        one.fields[tiffs.GEO_KEYS] = (3, [0] * 4000)
        one.fields[tiffs.OFFSETS] = (4, [0] * 32_000)
        one.fields[tiffs.COUNTS] = (4, [0] * 32_000)
        one.tiles = []
        made.append(one)
    return build(made)


def scattered(count: int) -> bytes:
    """Directories that lie 100 KB apart: a request each."""
    return chain(count, gap=100_000)


def samples(count: int, *, planar: int = 1, bits: int = 16) -> bytes:
    def change(i: Image) -> None:
        i.set(tiffs.SAMPLES, count).set(tiffs.PLANAR, planar)
        i.set(tiffs.BITS, *[bits] * count).set(tiffs.FORMAT, *[1] * count)

    return one(change)


def tables(tag: int, *values: int, number: int = 0, **options: Any) -> bytes:
    return build(images(), tables={number: {tag: values}}, **options)


def sound_places() -> list[int]:
    """Where the tiles of the first image of a sound file lie."""
    content = build(images())
    at = content.find(images()[0].tiles[0])
    places = []
    for tile in images()[0].tiles:
        places.append(at)
        at += len(tile)
    return places


PLACES = sound_places()
SIZES = [len(tile) for tile in images()[0].tiles]


def nested(by: int) -> list[int]:
    """Offsets of which the second lies ``by`` bytes behind the first's begin."""
    return [PLACES[0], PLACES[0] + by, *PLACES[2:]]


FULL = build(images())
MATRIX = [10.0, 0, 0, 6e5, 0, -10.0, 0, 5.1e6, 0, 0, 0, 0, 0, 0, 0, 1]


def placed(**changes: float) -> bytes:
    """With a matrix in place of scale and tie point, ``m0=…`` of its values changed."""

    def change(i: Image) -> None:
        values = list(MATRIX)
        for name, value in changes.items():
            values[int(name[1:])] = value
        del i.fields[tiffs.SCALE], i.fields[tiffs.TIE]
        i.set(tiffs.MATRIX, *values, kind=12)

    return one(change)


def placeless() -> bytes:
    def change(i: Image) -> None:
        del i.fields[tiffs.SCALE], i.fields[tiffs.TIE]

    return one(change)


def overview(width: int, height: int, *more: Image, reduced: bool = True) -> bytes:
    return build([image(40, 36), image(width, height, reduced=reduced), *more])


HOSTILE: dict[str, tuple[Callable[[], bytes], type[HeaderError], str]] = {
    # What is no TIFF
    "empty": (lambda: b"", HALF, "the file is empty"),
    "one byte": (lambda: b"I", HALF, "not a TIFF"),
    "zeros": (lambda: bytes(5000), HALF, "not a TIFF"),
    "another version": (lambda: b"II\x2c\0" + FULL[4:], HALF, "not a TIFF"),
    "order and version disagree": (lambda: b"MM*\0" + FULL[4:], HALF, "not a TIFF"),
    "a zip": (lambda: b"PK\3\4" + FULL, HALF, "not a TIFF"),
    "only a head": (lambda: FULL[:8], HALF, "truncated"),
    "half a head": (lambda: FULL[:6], HALF, "truncated"),
    "half a BigTIFF's head": (lambda: build(big=True)[:12], HALF, "truncated"),
    "cut in the directory": (lambda: FULL[:100], HALF, "truncated"),
    "cut in the values": (lambda: FULL[: PLACES[0] - 300], HALF, "truncated"),
    "cut in the tiles": (lambda: FULL[:-1], HALF, "its tiles reach to byte"),
    # Directories
    "no directory": (lambda: b"II*\0\0\0\0\0", BAD, "holds no image"),
    "a directory beyond the end": (lambda: build(patch={4: b"\xff\xff\xff\x7f"}), HALF, "trunc"),
    "a directory in the head": (lambda: build(patch={4: struct.pack("<I", 4)}), BAD, "of 0 fields"),
    "no fields": (lambda: build(patch={8: b"\0\0"}), BAD, "a directory of 0 fields|directory of 0"),
    "65535 fields": (lambda: build(patch={8: b"\xff\xff"}), BAD, "directory of 65535 fields"),
    "2^63 fields": (
        lambda: build(big=True, patch={16: struct.pack("<Q", 2**63)}), BAD, "of 9223372036854775",
    ),
    "a loop of one": (lambda: build(following={1: 8}), BAD, "form a loop"),
    "a loop of itself": (lambda: chain(1, loop_to=8), BAD, "form a loop"),
    "a loop of many": (lambda: chain(60, loop_to=8 + 18 * 30), BAD, "form a loop"),
    "too many directories": (lambda: chain(65), BAD, "more than 64 image directories"),
    "256 large directories": (lambda: large_directories(24), BAD, "as none does"),
    "scattered directories": (lambda: scattered(60), BAD, "as none does"),
    "4000 fields of 16 MB": (lambda: overlapping_fields(4000, 2**24), BAD, "of 4000 fields"),
    "200 fields of 128 KB": (lambda: overlapping_fields(200, 2**17), BAD, "OFFSETS is there twice"),
    "no image but a mask": (lambda: with_field(tiffs.SUBFILE, 4, 4), BAD, "a mask or an overview"),
    "an overview first": (lambda: with_field(tiffs.SUBFILE, 4, 1), BAD, "a mask or an overview"),
    # Fields
    "the width twice": (
        lambda: one(lambda i: i.again.append((tiffs.WIDTH, 3, [40]))), BAD, "WIDTH is there twice",
    ),
    "tables twice": (
        lambda: one(lambda i: i.again.append((tiffs.OFFSETS, 4, [8] * 9))), BAD, "there twice",
    ),
    "no width": (lambda: without(tiffs.WIDTH), BAD, "its field WIDTH is missing"),
    "no height": (lambda: without(tiffs.HEIGHT), BAD, "its field HEIGHT is missing"),
    "no tables": (lambda: one(lambda i: i.tiles.clear()), BAD, "TILE_OFFSETS is missing"),
    "striped": (lambda: without(tiffs.TILE_WIDTH), BAD, "striped"),
    "a width of text": (lambda: with_field(tiffs.WIDTH, 2, b"40"), BAD, "no integers"),
    "a width of floats": (lambda: with_field(tiffs.WIDTH, 12, 40.0), BAD, "no integers"),
    "a width of rationals": (lambda: pointing(tiffs.WIDTH, 5, 1, 8), BAD, "of type 5"),
    "a width of type 99": (lambda: pointing(tiffs.WIDTH, 99, 1, 8), BAD, "of type 99"),
    "an empty width": (lambda: with_field(tiffs.WIDTH, 3), BAD, "no integers"),
    "a negative width": (lambda: with_field(tiffs.WIDTH, 9, -40), BAD, "36 rows and -40 columns"),
    "a width of 2^32": (lambda: with_field(tiffs.WIDTH, 4, 2**32 - 1), BAD, "4294967295 columns"),
    "a height of nothing": (lambda: with_field(tiffs.HEIGHT, 3, 0), BAD, "an image of 0 rows"),
    "a billion bits": (lambda: pointing(tiffs.BITS, 3, 10**9, 8), BAD, "BITS has 1000000000"),
    "nodata of a megabyte": (
        lambda: one(lambda i: i.fields.update({tiffs.NODATA: (2, b"9" * 10**6)})),
        BAD, "NODATA has 1000000 values",
    ),
    "a million keys": (lambda: pointing(tiffs.GEO_KEYS, 3, 10**6, 8), BAD, "GEO_KEYS has 1000000"),
    "a million tie points": (lambda: pointing(tiffs.TIE, 12, 10**6, 8), BAD, "TIE_POINT has"),
    "values beyond the end": (lambda: pointing(tiffs.TIE, 12, 6, 2**31), HALF, "truncated"),
    "values across the end": (lambda: pointing(tiffs.TIE, 12, 6, len(FULL) - 8), HALF, "trunc"),
    # Images
    "a side of 2^20": (lambda: many_tiles(2**20, 16, 8192), BAD, "1048576 columns"),
    "tiles of one pixel": (lambda: many_tiles(64, 64, 1), BAD, "tiles of 1 rows and 1 columns"),
    "two million tiles": (
        lambda: many_tiles(1500, 1500, 1), BAD, "TILE_OFFSETS has 2250000 values",
    ),
    "two million tiles of a BigTIFF": (
        lambda: many_tiles(1500, 1500, 1, 16), BAD, "TILE_OFFSETS has 2250000 values",
    ),
    "tiles of no width": (lambda: with_field(tiffs.TILE_WIDTH, 3, 0), BAD, "and 0 columns"),
    "tiles of -16": (lambda: with_field(tiffs.TILE_WIDTH, 8, -16), BAD, "and -16 columns"),
    "tiles of 17": (lambda: with_field(tiffs.TILE_WIDTH, 3, 17), BAD, "and 17 columns"),
    "tiles of 24": (lambda: with_field(tiffs.TILE_HEIGHT, 3, 24), BAD, "tiles of 24 rows"),
    "tiles of half a gigabyte": (
        lambda: many_tiles(16384, 16384, 16384), BAD, "tiles of 16384 rows",
    ),
    "a tile of 2^31": (
        lambda: with_field(tiffs.TILE_WIDTH, 4, 2**31), BAD, "2147483648 columns",
    ),
    "too few tiles": (lambda: tables(tiffs.OFFSETS, *PLACES[:5]), BAD, "lists 5 tiles and 9 sizes"),
    "too many tiles": (
        lambda: tables(tiffs.COUNTS, *SIZES, *SIZES), BAD, "lists 9 tiles and 18 sizes",
    ),
    # Samples
    "256 samples": (lambda: samples(256), BAD, "256 samples a pixel, red has 1"),
    "256 planes": (lambda: samples(256, planar=2), BAD, "256 samples a pixel, red has 1"),
    "3 samples of a band": (lambda: samples(3), BAD, "3 samples a pixel, red has 1"),
    "65535 samples": (lambda: with_field(tiffs.SAMPLES, 3, 65535), BAD, "65535 samples"),
    "no samples": (lambda: with_field(tiffs.SAMPLES, 3, 0), BAD, "0 samples a pixel"),
    "15 bits": (lambda: with_field(tiffs.BITS, 3, 15), BAD, r"NBITS=15.* NBITS=16`"),
    "1 bit": (lambda: with_field(tiffs.BITS, 3, 1), BAD, r"1 samples of format \[1\]"),
    "0 bits": (lambda: with_field(tiffs.BITS, 3, 0), BAD, r"and \[0\] bits"),
    "128 bits": (lambda: with_field(tiffs.BITS, 3, 128), BAD, r"and \[128\] bits"),
    "floats": (lambda: with_field(tiffs.FORMAT, 3, 3), BAD, "float16, not integers"),
    "undefined samples": (lambda: with_field(tiffs.FORMAT, 3, 99), BAD, r"format \[99\]"),
    "bits that differ": (lambda: with_field(tiffs.BITS, 3, 16, 8), BAD, r"and \[16, 8\] bits"),
    "predictor 3": (lambda: with_field(tiffs.PREDICTOR, 3, 3), BAD, "predictor 3 is not"),
    "predictor 34892": (lambda: with_field(tiffs.PREDICTOR, 3, 34892), BAD, "predictor 34892"),
    **{
        f"compression {code}": (
            lambda code=code: with_field(tiffs.COMPRESSION, 3, code),  # type: ignore[misc]
            BAD, f"compression {code} is not supported",
        )
        for code in (0, 2, 6, 7, 9, 22610, 32773, 33003, 34712, 34887, 34925, 50001, 50002, 50013)
    },
    "JPEG tables": (lambda: pointing(tiffs.JPEG_TABLES, 7, 4000, 8), BAD, "compression 8 is not"),
    # Tables of tiles
    "tiles in the head": (lambda: tables(tiffs.OFFSETS, 0, *PLACES[1:]), BAD, "within its header"),
    "tiles in the directory": (
        lambda: tables(tiffs.OFFSETS, 20, *PLACES[1:]), BAD, "within its header",
    ),
    "tiles in values": (
        lambda: tables(tiffs.OFFSETS, PLACES[0] - 40, *PLACES[1:]), BAD, "its header|overlap",
    ),
    "tiles that overlap": (lambda: tables(tiffs.OFFSETS, *nested(3)), BAD, "its tiles overlap"),
    "tiles over the overview's": (
        lambda: tables(tiffs.OFFSETS, PLACES[0] + 1, *[0] * 3, number=1), BAD, "overlap|header",
    ),
    "tiles behind the end": (
        lambda: tables(tiffs.OFFSETS, 2**31, *PLACES[1:]), HALF, "reach to byte 2147483",
    ),
    "tiles beyond 2^64": (
        lambda: tables(tiffs.OFFSETS, 2**64 - 1, *PLACES[1:], big=True), HALF, "to byte 1844674407",
    ),
    "sizes of 2^64": (
        lambda: tables(tiffs.COUNTS, 2**64 - 1, *SIZES[1:], big=True), BAD, "takes 1844674407",
    ),
    "sizes of a gigabyte": (
        lambda: tables(tiffs.COUNTS, 2**30, *SIZES[1:]), BAD, "of 512 bytes takes 1073741824",
    ),
    "sizes of ten tiles": (
        lambda: build(images(), tables={0: {tiffs.COUNTS: [5121] * 9}}, end=bytes(99_999)),
        BAD, "of 512 bytes takes 5121",
    ),
    "raw tiles of other sizes": (
        lambda: with_field(tiffs.COMPRESSION, 3, 1), BAD, "of 512 bytes takes",
    ),
    # Overviews
    "an overview as large": (lambda: overview(40, 36), BAD, "an overview of 36 rows and 40"),
    "an overview that is larger": (lambda: overview(80, 72), BAD, "an overview of 72 rows"),
    "an overview as wide": (lambda: overview(40, 18), BAD, "an overview of 18 rows and 40"),
    "an overview of two factors": (lambda: overview(20, 9), BAD, "an overview of 9 rows and 20"),
    "an overview by one and a half": (lambda: overview(27, 24), BAD, "an overview of 24 rows"),
    "an overview twice": (
        lambda: overview(20, 18, image(20, 18, reduced=True)), BAD, "an overview of 18 rows",
    ),
    "an overview of another type": (
        lambda: build([image(40, 36), image(20, 18, reduced=True).set(tiffs.FORMAT, 2)]),
        BAD, "another number or type of samples",
    ),
    "an overview without tiles": (
        lambda: one(lambda i: i.fields.pop(tiffs.TILE_WIDTH), 1), BAD, "striped",
    ),
    # Places
    "no place": (placeless, BAD, "where its pixels lie"),
    "upside down": (lambda: placed(m5=10.0), BAD, "no north-up grid"),
    "mirrored": (lambda: placed(m0=-10.0), BAD, "no north-up grid"),
    "turned": (lambda: placed(m1=1.0), BAD, "no north-up grid"),
    "pixels of nothing": (lambda: placed(m0=0.0), BAD, "no north-up grid"),
    "pixels that are no number": (lambda: placed(m0=float("nan")), BAD, "no north-up grid"),
    "an infinite origin": (lambda: placed(m3=float("inf")), BAD, "no north-up grid"),
    "pixels of 600 km": (lambda: placed(m0=6e5), BAD, "pixels are of 600000 by 10 m|of pixels of"),
    "pixels of a micrometre": (lambda: placed(m0=1e-6), BAD, "are of 1e-06 by|of pixels of 1e-06"),
    "degrees": (lambda: placed(m0=1e-4, m5=-1e-4), BAD, "0.0001 by"),
}  # fmt: skip


def test_there_are_many() -> None:
    assert len(HOSTILE) > 110


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_no_writer_makes(tmp_path: Path, name: str) -> None:
    make, meant, reason = HOSTILE[name]
    content = make()
    started = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(HeaderError, match=reason) as caught:
            read(tmp_path, content)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < SECONDS
    assert type(caught.value) is meant
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


SOUND: dict[str, Callable[[], bytes]] = {
    "classic": build,
    "classic, big-endian": lambda: build(order=">"),
    "BigTIFF": lambda: build(big=True),
    "BigTIFF, big-endian": lambda: build(order=">", big=True),
    "BigTIFF with short tables": lambda: one(lambda i: setattr(i, "table", (4, 3)), big=True),
    "no overview": lambda: build([image(40, 36)]),
    "one pixel": lambda: build([image(1, 1)]),
    "one column": lambda: build([image(1, 64), image(1, 32, reduced=True)]),
    "overviews by 2 and 3": lambda: overview(20, 18, image(14, 12, reduced=True)),
    "overviews rounded down": lambda: build([image(41, 37), image(20, 18, reduced=True)]),
    "a mask behind": lambda: overview(20, 18, image(40, 36).set(tiffs.SUBFILE, 4, kind=4)),
    "a page behind": lambda: overview(20, 18, image(99, 99)),
    "a sparse tile": lambda: one(lambda i: i.tiles.__setitem__(4, b"")),
    "all sparse": lambda: build([Image(image(40, 36).fields, [b""] * 9)]),
    "two tiles that are one": lambda: one(
        lambda i: i.tiles.__setitem__(1, i.tiles[0]),
        tables={0: {tiffs.OFFSETS: [PLACES[0], PLACES[0], *PLACES[2:]]}},
    ),
    "a matrix": placed,
    "fields out of order": lambda: one(
        lambda i: i.fields.update({tiffs.WIDTH: i.fields.pop(tiffs.WIDTH)})
    ),
    "unknown fields": lambda: one(
        lambda i: i.fields.update({700: (7, [1] * 900), 33432: (2, b"c" * 40), 50708: At(5, 9, 0)})
    ),
    "unknown fields that lie nowhere": lambda: one(
        lambda i: i.fields.update({60_000 + n: At(12, 2**31, 2**32 - 1) for n in range(200)})
    ),
    "pixels as points": lambda: one(
        lambda i: i.set(tiffs.GEO_KEYS, 1, 1, 0, 1, 1025, 0, 1, 2)
    ),
    "keys of floats": lambda: one(
        lambda i: i.set(tiffs.GEO_KEYS, *[1.0, 1, 0, 1, 3072, 0, 1, float("inf")], kind=12)
    ),
    "much behind": lambda: build(end=bytes(10**6)),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_an_odd_file_that_is_sound(tmp_path: Path, name: str) -> None:
    header = read(tmp_path, SOUND[name]())
    assert_sound(header, SOUND[name]())
    first = header.levels[0]
    if "sparse" not in name:
        at, size = int(first.offsets.flat[0]), int(first.lengths.flat[0])
        tile = zlib.decompress(SOUND[name]()[at : at + size])
        assert tile == struct.pack("<H", 1) * (len(tile) // 2)


def assert_sound(header: Header, content: bytes) -> None:
    """Every reference lies in the file, and all that makes arrays is within bounds."""
    assert header.size == len(content)
    assert header.read <= MAX_READ
    references = scene_references(make_scene(epsg=header.epsg or 32610), [header])
    for array in references.arrays:
        held = array.lengths > 0
        ends = array.offsets[held].astype(object) + array.lengths[held].astype(object)
        assert all(end <= len(content) for end in ends)
        assert (array.offsets[held] >= 8).all()
        assert np.dtype(array.spec.dtype).kind in "iu"
        assert array.spec.samples == 1
        assert array.lengths.shape == array.spec.chunk_grid
        assert 1 <= array.spec.grid.pixel_size <= 10**6
    sizes = [(level.height, level.width) for level in header.levels]
    assert sizes == sorted(set(sizes), reverse=True)


# Nodata is what the tag says, where the type can hold it


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (b"0\0", 0), (b"0", 0), (b" 0 \0", 0), (b"-0\0", 0), (b"0.0\0", 0), (b"65535\0", 65535),
        (b"65536\0", None), (b"-9999\0", None), (b"nan\0", None), (b"inf\0", None), (b"", None),
        (b"1.5\0", None), (b"0\0garbage", 0), (b"\xff\xfe0", None), (b"1e400", None),
        (b"9" * 4000, None),
    ],
)  # fmt: skip
def test_nodata_is_what_the_tag_says(tmp_path: Path, text: bytes, kept: int | None) -> None:
    content = one(lambda i: i.fields.__setitem__(tiffs.NODATA, (2, text)))
    assert read(tmp_path, content).levels[0].nodata == kept


# What the item says


@pytest.mark.parametrize(
    "transform",
    [
        (600000.0, 10.0, 0.0, 5100000.0, 0.0, -10.0),
        (10.0, 0.0, 600000.0, 0.0, 10.0, 5100000.0),
        (600000.0, 0.0, 10.0, 0.0, -10.0, 5100000.0),
        (float("nan"), 0.0, 0.0, 0.0, -10.0, 0.0),
        (1e-9, 0.0, 0.0, 0.0, -1e-9, 0.0),
    ],
    ids=["GDAL's order", "upside down", "pixels of 600 km", "no number", "too fine"],
)
def test_an_items_transform_passes_the_checks_of_a_files(
    tmp_path: Path, transform: tuple[float, ...]
) -> None:
    with pytest.raises(UnreadableFileError, match="pixels"):
        read(tmp_path, placeless(), transform=transform)
    sound = (10.0, 0.0, 600000.0, 0.0, -10.0, 5100000.0)
    assert read(tmp_path, placeless(), transform=sound).transform == sound
    assert read(tmp_path, build(), transform=transform).transform == sound  # the file's own


# Visual


@pytest.mark.parametrize("count", [1, 2, 4, 256])
def test_visual_has_three_samples(tmp_path: Path, count: int) -> None:
    with pytest.raises(UnreadableFileError, match=f"{count} samples a pixel, visual has 3"):
        read(tmp_path, samples(count), "visual")


# Scenes


def test_a_scene_has_no_more_tiles_than_any_archives(tmp_path: Path) -> None:
    """Each file is within bounds, together they are not: the largest is named."""
    many, more = many_tiles(16 * 180, 16 * 180), many_tiles(16 * 181, 16 * 181)
    headers = [read(tmp_path, many, band) for band in ("blue", "green")]
    scene_references(make_scene(), headers)
    headers.append(read(tmp_path, more, "red"))
    with pytest.raises(UnreadableFileError, match=f"and {MAX_TILES} at most") as caught:
        scene_references(make_scene(), headers)
    assert caught.value.band == "red"


def test_the_largest_header_that_is_taken(tmp_path: Path) -> None:
    """All tables a file may have: more than the first read, and far below the bound."""
    content = many_tiles(16 * 181, 16 * 181, tables=16)
    tracemalloc.start()
    try:
        header = read(tmp_path, content)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert FIRST_READ < header.read < MAX_READ / 4
    assert header.requests <= 4
    with pytest.raises(UnreadableFileError, match="TILE_OFFSETS has 33124 values"):
        read(tmp_path, many_tiles(16 * 182, 16 * 182))


# Real cases


@pytest.mark.parametrize(
    ("name", "band", "reason"),
    [
        ("B04_nbits15.tif", "red", r"15 bits \(NBITS=15\), .* NBITS=16`"),
        ("TCI_jpeg_mask.tif", "visual", r"compression 7 is not supported \(JPEG\): .*DEFLATE"),
        ("B04_no_nodata_tag.tif", "red", ""),
    ],
)
def test_files_of_bug_reports(shared_data: Path, name: str, band: str, reason: str) -> None:
    directory = shared_data.parent / "cases"
    if not (directory / name).exists():
        pytest.skip(f"no {name}")
    source = local_source(directory)
    asset = make_asset(f"{source.url}{name}", band)
    if reason:
        with pytest.raises(UnreadableFileError, match=reason):
            read_header(asset, source)
    else:
        assert {level.nodata for level in read_header(asset, source).levels} == {None}


# Chance


@pytest.mark.parametrize("kind", ["classic", "BigTIFF", "BigTIFF, big-endian"])
@given(data=st.data())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_changed_header_is_sound_or_refused(
    tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    """Numbers of the directories become others: what they point at, how many, of which type."""
    content = bytearray(SOUND[kind]())
    end = content.find(images()[0].tiles[0])
    order = "big" if "endian" in kind else "little"
    for _ in range(data.draw(st.integers(1, 4), label="changes")):
        size = data.draw(st.sampled_from([1, 2, 4, 8]), label="size")
        at = data.draw(st.integers(0, end - size), label="at")
        edge = st.sampled_from([0, 1, 2, 3, 8, 16, len(content), 2**31, 2**63, 2**64 - 1])
        value = data.draw(edge | st.integers(0, 2**16), label="value") % 2 ** (8 * size)
        content[at : at + size] = value.to_bytes(size, "big" if order == "big" else "little")
    tracemalloc.start()
    try:
        header = read(tmp_path, bytes(content))
    except HeaderError as error:
        assert "\n" not in str(error)  # noqa: PT017 - whatever happens, but nothing else
        return
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY
    try:
        assert_sound(header, bytes(content))
    except UnreadableFileError as error:
        said = ("EPSG", "one size", "not on the scene's tile")
        assert any(words in str(error) for words in said)  # noqa: PT017
