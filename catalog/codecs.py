"""TIFF tiles to pixels in native code: inflate, undo the predictor, put the axes in order.

virtual-tiff's chain is zlib and ``numpy.cumsum``. imagecodecs, which virtual-tiff depends on, has
libdeflate and a delta in C: the same pixels for a third of the CPU, with the GIL released. Two
ways in: ``TileDecoder`` decodes a tile in one call, for ``chunk_reader.py``; the codecs of this
module serve the names that stand in the store, for whoever reads it with Zarr.

A tile may say that it is gigabytes: nothing here decodes into more memory than the array says that
its chunks have. One that is longer, or shorter, is an error and never cut or filled up.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import imagecodecs
import numpy as np
import virtual_tiff.codecs
import virtual_tiff.imagecodecs
import zarr
from numpy.typing import NDArray
from zarr.codecs.numcodecs import Zlib
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.registry import register_codec

DELTA, ZLIB = "HorizontalDeltaCodec", "numcodecs.zlib"
LZW, ZSTD = "imagecodecs_lzw", "imagecodecs_zstd"
"""Names in the store that are served here."""
_DECODERS: dict[str, Callable[..., Any]] = {
    "zlib": imagecodecs.deflate_decode,
    "lzw": imagecodecs.lzw_decode,
    "zstd": imagecodecs.zstd_decode,
}
"""Each decodes into a buffer that it is given, ``out``, and gives back the part that it filled.
What is longer than the buffer is an error, but of LZW, which stops at its end."""


@dataclass(frozen=True, slots=True)
class TileDecoder:
    """How one tile of an array becomes pixels.

    A tile is what a TIFF holds: ``rows`` × ``columns`` × ``samples`` numbers of ``dtype``.
    """

    dtype: np.dtype[Any]
    """As in the file, byte order included."""
    rows: int
    columns: int
    samples: int
    """Above 1: they lie side by side, pixel by pixel."""
    predictor: bool
    compression: str
    """``zlib``, ``lzw``, ``zstd`` or empty."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self | None:
        """For an array's ``zarr.json``; None for a chain of codecs that is not known here."""
        chain = [(c["name"], dict(c.get("configuration") or {})) for c in document["codecs"]]
        names = [name for name, _ in chain]
        options = dict(chain)
        chunk = document["chunk_grid"]["configuration"]["chunk_shape"]
        dtype = np.dtype(document["data_type"])
        order = options.get("bytes", {}).get("endian", "little")
        stored = dtype.newbyteorder("<" if order == "little" else ">")
        known = [DELTA] * (DELTA in names)
        if "numcodecs.astype" in names:
            swap = {"encode_dtype": stored.str, "decode_dtype": dtype.newbyteorder("<").str}
            if options["numcodecs.astype"] != swap:
                return None
            known.append("numcodecs.astype")
        if "transpose" in names:
            if list(options["transpose"]["order"]) != [0, 2, 3, 1]:
                return None
            known.append("transpose")
        known.append("bytes")
        compression = {ZLIB: "zlib", LZW: "lzw", ZSTD: "zstd"}.get(names[-1], "")
        if compression:
            known.append(names[-1])
        samples = chunk[1] if len(chunk) == 4 else 1
        interleaved = "transpose" in names
        if names != known or chunk[0] != 1 or (samples > 1 and not interleaved):
            return None
        if dtype.kind not in "iu" and DELTA in names:
            return None
        return cls(stored, chunk[-2], chunk[-1], samples, DELTA in names, compression)

    @property
    def size(self) -> int:
        """Bytes of a tile's pixels."""
        return self.rows * self.columns * self.samples * self.dtype.itemsize

    @property
    def room(self) -> int:
        """Bytes to decode a tile in: one more shows that it is longer."""
        return self.size + 1

    def decode(
        self,
        data: bytes | NDArray[np.uint8],
        first: int,
        last: int,
        room: NDArray[np.uint8] | None = None,
    ) -> NDArray[Any]:
        """Pixels of the rows from ``first`` to before ``last``: (sample, row, column), writable.

        Args:
            room: ``room`` bytes, which the pixels then are a view of; None for new memory. Memory
                that was used before is a tenth faster: new pages come from the kernel one by one.

        Raises:
            ValueError: the bytes are no such tile.
        """
        size = self.size
        found: Any = np.empty(size + 1, np.uint8) if room is None or len(room) <= size else room
        try:
            if not self.compression:
                length = len(data)
                if length == size:
                    found[:size] = np.frombuffer(data, np.uint8)
            else:
                # Fewer bytes than asked for come back as a shorter view. Only LZW needs the byte
                # behind: the others refuse what does not fit.
                out = found[: size + (self.compression == "lzw")]
                length = len(_DECODERS[self.compression](data, out=out))
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"a tile cannot be decoded: it is damaged, or has more than {size} bytes ({error})"
            ) from error
        if length != size:
            some = "more than " if length > size else ""
            raise ValueError(f"a tile has {some}{min(length, size)} bytes where {size} belong")
        found = found[:size]
        tile: NDArray[Any] = found.view(self.dtype).reshape(self.rows, self.columns, self.samples)
        tile = tile[first:last]
        if self.predictor:
            undo_delta(tile, axis=1)
        return tile.transpose(2, 0, 1)


def undo_delta(array: NDArray[Any], axis: int) -> None:
    """TIFF predictor 2, undone in place along ``axis``: sums modulo the width of the integers."""
    if array.size:
        imagecodecs.delta_decode(array, axis=axis, out=array)


@dataclass(frozen=True)
class HorizontalDelta(virtual_tiff.codecs.HorizontalDeltaCodec):
    """virtual-tiff's codec of that name: the same numbers, without a second copy in C order."""

    async def _decode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> NDBuffer:
        def decode() -> NDBuffer:
            array = np.asarray(chunk_array.as_ndarray_like())
            raw = array.view(f"u{array.dtype.itemsize}")
            summed: Any = imagecodecs.delta_decode(raw, axis=-1)
            return chunk_array.__class__(summed.view(array.dtype))

        return await asyncio.to_thread(decode)


def _decoded(compression: str, data: Buffer, spec: ArraySpec) -> Buffer:
    """``data`` without its compression: as long as a chunk, or nearly so where another codec that
    stands before it in the array's chain made it longer or shorter.

    Raises:
        ValueError: it is longer than any codec makes a chunk, or damaged.
    """
    size = math.prod(spec.shape) * spec.dtype.to_native_dtype().itemsize
    compressed, failure = data.as_numpy_array(), ""
    for room in (size, 2 * size + 4096):
        out = np.empty(room + 1, np.uint8)
        try:
            found: Any = _DECODERS[compression](compressed, out=out)
        except (RuntimeError, ValueError) as error:
            failure = str(error)
            continue
        if len(found) <= room:
            return spec.prototype.buffer.from_array_like(found)
    raise ValueError(
        f"a chunk cannot be decoded: it is damaged, or has more than the {size} bytes that the "
        f"array says it has ({compression}: {failure or 'longer'})"
    )


class FastZlib(Zlib, codec_name="zlib"):
    """Zarr's ``numcodecs.zlib``, decoded by libdeflate; encoded as before."""

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        if chunk_spec.dtype.to_native_dtype().kind not in "biufc":
            # Of text, in whoever's store, no length is known.
            return await super()._decode_single(chunk_data, chunk_spec)
        return await asyncio.to_thread(_decoded, "zlib", chunk_data, chunk_spec)


class BoundedLzw(virtual_tiff.imagecodecs.LZWCodec):
    """virtual-tiff's codec of that name, within a chunk's memory."""

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(_decoded, "lzw", chunk_bytes, chunk_spec)


class BoundedZstd(virtual_tiff.imagecodecs.ZstdCodec):
    """virtual-tiff's codec of that name, within a chunk's memory."""

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(_decoded, "zstd", chunk_bytes, chunk_spec)


def serve_names() -> None:
    """This process decodes with the codecs of this module, by the names in the store.

    A choice made in Zarr's configuration stays.
    """
    served: dict[str, type[Any]] = {
        DELTA: HorizontalDelta,
        ZLIB: FastZlib,
        LZW: BoundedLzw,
        ZSTD: BoundedZstd,
    }
    usual = {ZLIB: "zarr.codecs.numcodecs.Zlib"}
    chosen = dict(zarr.config.get("codecs"))
    for name, codec in served.items():
        qualified = f"{codec.__module__}.{codec.__qualname__}"
        register_codec(name, codec)
        if chosen.get(name) in (None, usual.get(name)):
            chosen[name] = qualified
    zarr.config.set({"codecs": chosen})


serve_names()
