"""TIFF tiles to pixels in native code: inflate, undo the predictor, put the axes in order.

virtual-tiff's chain is zlib and ``numpy.cumsum``. imagecodecs, which virtual-tiff depends on, has
libdeflate and a delta in C: the same pixels for a third of the CPU, with the GIL released. Two
ways in: ``TileDecoder`` decodes a tile in one call, for ``chunk_reader.py``; the codecs of this
module serve the names that stand in the store, for whoever reads it with Zarr.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import imagecodecs
import numpy as np
import virtual_tiff.codecs
import zarr
from numpy.typing import NDArray
from zarr.codecs.numcodecs import Zlib
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.registry import register_codec

DELTA, ZLIB = "HorizontalDeltaCodec", "numcodecs.zlib"
"""Names in the store that are served here."""


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
    """``zlib``, ``lzw`` or empty."""

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
        compression = {ZLIB: "zlib", "imagecodecs_lzw": "lzw"}.get(names[-1], "")
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

    def decode(
        self,
        data: bytes | NDArray[np.uint8],
        first: int,
        last: int,
        room: NDArray[np.uint8] | None = None,
    ) -> NDArray[Any]:
        """Pixels of the rows from ``first`` to before ``last``: (sample, row, column), writable.

        Args:
            room: ``size`` bytes, which the pixels then are a view of; None for new memory. Memory
                that was used before is a tenth faster: new pages come from the kernel one by one.

        Raises:
            ValueError: the bytes are no such tile.
        """
        size = self.size
        found: Any = np.empty(size, np.uint8) if room is None else room
        try:
            if self.compression == "zlib":
                # Fewer bytes than asked for come back as a shorter view.
                length = len(imagecodecs.deflate_decode(data, out=found))
            elif self.compression == "lzw":
                length = len(imagecodecs.lzw_decode(data, out=found))
            else:
                length = len(data)
                if length == size:
                    found[:] = np.frombuffer(data, np.uint8)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"a tile cannot be decoded: {error}") from error
        if length != size:
            raise ValueError(f"a tile has {length} bytes where {size} belong")
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


class FastZlib(Zlib, codec_name="zlib"):
    """Zarr's ``numcodecs.zlib``, decoded by libdeflate where that can; encoded as before."""

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        size = math.prod(chunk_spec.shape) * chunk_spec.dtype.to_native_dtype().itemsize

        def decode() -> Buffer | None:
            try:
                found = imagecodecs.deflate_decode(chunk_data.as_numpy_array(), out=size)
            except (imagecodecs.DeflateError, ValueError):
                # Another size than the array's, where another codec comes first; or damaged.
                return None
            return chunk_spec.prototype.buffer.from_bytes(found)

        return await asyncio.to_thread(decode) or await super()._decode_single(
            chunk_data, chunk_spec
        )


def serve_names() -> None:
    """This process decodes with the codecs of this module, by the names in the store.

    A choice made in Zarr's configuration stays.
    """
    served: dict[str, type[Any]] = {DELTA: HorizontalDelta, ZLIB: FastZlib}
    usual = {ZLIB: "zarr.codecs.numcodecs.Zlib"}
    chosen = dict(zarr.config.get("codecs"))
    for name, codec in served.items():
        qualified = f"{codec.__module__}.{codec.__qualname__}"
        register_codec(name, codec)
        if chosen.get(name) in (None, usual.get(name)):
            chosen[name] = qualified
    zarr.config.set({"codecs": chosen})


serve_names()
