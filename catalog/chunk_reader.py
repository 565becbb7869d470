"""Many chunks at once, from the store into one array in memory.

Zarr reads one array at a time, ten chunks at once, and takes each through a chain of codecs.
Here one read asks for all chunks of all steps it needs, ``CONCURRENCY`` at once, each with one
request; as they arrive they are decoded in threads, and only what was asked for is copied. Pixels
are the same: ``tests/test_chunk_reader.py`` holds them against Zarr's own reading.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, product
from typing import Any, Self

import icechunk
import numpy as np
from numpy.typing import NDArray
from zarr.core.buffer import Buffer, default_buffer_prototype

from catalog.codecs import TileDecoder

CONCURRENCY = 64
"""Chunks that one read has on their way: at 30 ms a request and 1.4 MB a chunk, 3 GB a second;
what bounds its memory besides the result."""
PAUSES = (0.2, 0.6, 1.8)
"""Seconds before a request over HTTP whose body broke off is made again: it does not end a read of
thousands of chunks."""
KEPT_BYTES = 16 * 2**20
"""Of the largest tile whose memory a thread keeps for its next one."""

MOST_BYTES = 2**28
"""Of one tile: the largest of any archive have 2 MB to 32 MB."""
MOST_PIXELS = 2**33
"""Of one time step: a tile at 10 m has 1.2e8."""

_kept = threading.local()

UNREADABLE = (icechunk.IcechunkError, ValueError, RuntimeError, TypeError, LookupError, OSError,
              AssertionError, ArithmeticError, MemoryError)  # fmt: skip
"""What bytes or documents that make no sense lead to."""

Key = slice | NDArray[np.int64]
"""Of one axis: a slice of any step, or numbers from 0 in any order."""


@dataclass(frozen=True, slots=True)
class StoredArray:
    """One array of the store, from its ``zarr.json``."""

    store: icechunk.IcechunkStore
    path: str
    shape: tuple[int, ...]
    """(time, y, x) or (time, band, y, x)."""
    chunk: tuple[int, ...]
    dtype: np.dtype[Any]
    nodata: int | float | None
    """As the array states it (``_FillValue``); chunks that are not there read as it, or as 0."""
    decoder: TileDecoder | None
    """None: only Zarr can read it."""

    @classmethod
    def of(cls, store: icechunk.IcechunkStore, path: str, document: Mapping[str, Any]) -> Self:
        """
        Raises:
            ValueError, TypeError, LookupError: the document is no array's, or one whose chunks no
                file has.
        """
        shape = tuple(document["shape"])
        chunk = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
        dtype = np.dtype(document["data_type"])
        if document["node_type"] != "array" or dtype.kind not in "iuf":
            raise ValueError(f"{path} is no array of numbers")
        sizes = (*shape, *chunk)
        if any(type(n) is not int or not 0 <= n < 2**31 for n in sizes) or 0 in sizes[1:]:
            raise ValueError(f"{path} has the shape {shape} and chunks of {chunk}")
        if len(shape) not in (3, 4) or len(chunk) != len(shape) or chunk[0] != 1:
            raise ValueError(f"{path} has the shape {shape} and chunks of {chunk}")
        if math.prod(chunk) * dtype.itemsize > MOST_BYTES or math.prod(shape[1:]) > MOST_PIXELS:
            raise ValueError(f"{path} has the shape {shape} and chunks of {chunk}")
        nodata = document["attributes"].get("_FillValue")
        if document["fill_value"] != (nodata or 0) or not _holds(dtype, nodata):
            raise ValueError(f"{path} has fill values that are no file's")
        return cls(store, path, shape, chunk, dtype, nodata, TileDecoder.of(document))


class ChunkError(Exception):
    """One chunk could not be read; the reason is the cause."""

    def __init__(self, array: StoredArray, place: tuple[int, ...]) -> None:
        super().__init__(array, place)
        self.array, self.place = array, place


@dataclass(frozen=True, slots=True)
class _Part:
    """What one chunk gives along one axis."""

    chunk: int
    inside: Key
    """Of the chunk."""
    outside: Key
    """Of the result."""


@dataclass(frozen=True, slots=True)
class _Read:
    array: StoredArray
    time_index: int
    steps: tuple[int, ...]
    """Of the result: where the chunk's pixels go."""
    parts: tuple[_Part, ...]
    """Along the axes behind time."""


def _holds(dtype: np.dtype[Any], nodata: Any) -> bool:
    if nodata is None or (dtype.kind == "f" and type(nodata) in (int, float)):
        return True
    return type(nodata) is int and np.iinfo(dtype).min <= nodata <= np.iinfo(dtype).max


async def read_chunks(
    wanted: Sequence[tuple[StoredArray, int, tuple[int, ...]]],
    key: Sequence[Key],
    out: NDArray[Any],
    scaled: Callable[[NDArray[Any], int], NDArray[Any]] | None = None,
) -> None:
    """Reads ``key`` (along the axes behind time) of time steps into ``out``.

    Args:
        wanted: (array, time index in it, the steps of ``out`` that it becomes); the arrays have
            one shape behind time, and a decoder.
        out: (step, …); what has no chunk stays as it is.
        scaled: from pixels as stored, and the step of ``out``, to what goes there.

    Raises:
        ChunkError: the first that could not be read; the others are given up.
    """
    every = _reads(wanted, key)
    some = list(islice(every, CONCURRENCY))
    reads = chain(some, every)

    async def work() -> None:
        for read in reads:
            await _read(read, out, scaled)

    workers = [asyncio.ensure_future(work()) for _ in some]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _reads(
    wanted: Sequence[tuple[StoredArray, int, tuple[int, ...]]], key: Sequence[Key]
) -> Iterator[_Read]:
    for array, time_index, steps in wanted:
        axes = zip(key, array.shape[1:], array.chunk[1:], strict=True)
        for parts in product(*(list(_parts(*axis)) for axis in axes)):
            yield _Read(array, time_index, steps, parts)


async def _read(
    read: _Read,
    out: NDArray[Any],
    scaled: Callable[[NDArray[Any], int], NDArray[Any]] | None,
) -> None:
    array = read.array
    place = (read.time_index, *(part.chunk for part in read.parts))
    key = f"{array.path}/c/{'/'.join(map(str, place))}"
    try:
        data = await _get(array.store, key)
        if data is not None:
            await asyncio.to_thread(_place, read, data.as_numpy_array(), out, scaled)
    except UNREADABLE as error:
        raise ChunkError(array, place) from error
    except BaseException as error:
        # A panic of native code is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise ChunkError(array, place) from error


async def _get(store: icechunk.IcechunkStore, key: str) -> Buffer | None:
    for pause in PAUSES:
        try:
            return await store.get(key, default_buffer_prototype())
        except icechunk.IcechunkError as error:
            # Icechunk has tried again where there was no answer, not where a body broke off.
            if "Generic HTTP error" not in str(error) or " retries" in str(error):
                raise
            await asyncio.sleep(pause)
    return await store.get(key, default_buffer_prototype())


def _place(
    read: _Read,
    data: NDArray[np.uint8],
    out: NDArray[Any],
    scaled: Callable[[NDArray[Any], int], NDArray[Any]] | None,
) -> None:
    """Decodes the rows that are needed, and copies what was asked for; in a thread."""
    decoder = read.array.decoder
    assert decoder is not None
    first, last = _hull(read.parts[-2].inside)
    tile = decoder.decode(data, first, last, _room(decoder.room))
    if len(read.parts) == 2:
        tile = tile[0]
    for axis, part in enumerate(read.parts):
        inside = part.inside
        if axis == len(read.parts) - 2:
            inside = _shifted(inside, first)
        tile = tile[(*(slice(None),) * axis, inside)]
    simple = all(isinstance(part.outside, slice) for part in read.parts)
    for step in read.steps:
        pixels = scaled(tile, step) if scaled else tile
        if simple:
            out[(step, *(part.outside for part in read.parts))] = pixels
        else:
            out[step][np.ix_(*(_numbers(part.outside) for part in read.parts))] = pixels


def _room(size: int) -> NDArray[np.uint8] | None:
    """This thread's memory to decode a tile in, until it decodes the next one."""
    if size > KEPT_BYTES:
        return None
    kept: NDArray[np.uint8] | None = getattr(_kept, "bytes", None)
    if kept is None or len(kept) < size:
        kept = _kept.bytes = np.empty(size, np.uint8)
    return kept[:size]


def _parts(key: Key, size: int, chunk: int) -> Iterator[_Part]:
    """The chunks of an axis of ``size`` that ``key`` touches, each once."""
    if not isinstance(key, slice):
        number = key // chunk
        for n in np.unique(number):
            where = np.flatnonzero(number == n)
            yield _Part(int(n), key[where] - n * chunk, where)
        return
    places = range(*key.indices(size))
    at = 0
    while at < len(places):
        n = places[at] // chunk
        border = n * chunk if places.step < 0 else (n + 1) * chunk - 1
        count = min((border - places[at]) // places.step + 1, len(places) - at)
        first, last = places[at] - n * chunk, places[at + count - 1] - n * chunk
        stop: int | None = last + (1 if places.step > 0 else -1)
        inside = slice(first, None if stop == -1 else stop, places.step)
        yield _Part(n, inside, slice(at, at + count))
        at += count


def _hull(inside: Any) -> tuple[int, int]:
    """The rows from first to before last that hold all of ``inside``, which is not empty."""
    if not isinstance(inside, slice):
        return int(inside.min()), int(inside.max()) + 1
    if inside.step > 0:
        return inside.start, inside.stop
    return 0 if inside.stop is None else inside.stop + 1, inside.start + 1


def _shifted(inside: Any, by: int) -> Key:
    if not isinstance(inside, slice):
        return inside - by
    stop = -1 if inside.stop is None else inside.stop
    stop -= by
    return slice(inside.start - by, None if stop == -1 else stop, inside.step)


def _numbers(outside: Key) -> NDArray[np.int64]:
    if isinstance(outside, slice):
        return np.arange(outside.start, outside.stop)
    return outside
