"""A scene's references as VirtualiZarr's own: for kerchunk files, other stores, other tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import icechunk
import numpy as np
import xarray as xr
import zarr
from virtualizarr.manifests import ChunkManifest, ManifestArray
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.core.sync import sync


def virtual_dataset(
    store: icechunk.IcechunkStore, group: str, time_index: int, bands: Sequence[str]
) -> xr.Dataset:
    """One time step of ``bands``: virtual (y, x) arrays, ``visual`` (band, y, x), raw integers.

    No pixel is read. Locations are absolute URLs, as the repository's containers say now.

    Args:
        group: path of the group in the store, such as ``r10m``.
        time_index: of the scene in its cube.
    """
    node = zarr.open_group(store, path=group, mode="r")
    variables: dict[str, Any] = {}
    for band in bands:
        array = node[band]
        assert isinstance(array, zarr.Array)
        manifest = sync(_manifest(store, f"/{group}/{band}", array, time_index))
        metadata = _without_time(array)
        variables[band] = (
            metadata.dimension_names,
            ManifestArray(metadata=metadata, chunkmanifest=manifest),
            dict(array.attrs),
        )
    return xr.Dataset(variables)


async def _manifest(
    store: icechunk.IcechunkStore, path: str, array: zarr.Array[Any], time_index: int
) -> ChunkManifest:
    grid = tuple(
        -(-size // chunk) for size, chunk in zip(array.shape[1:], array.chunks[1:], strict=True)
    )
    # An empty path is a chunk that is not there: it reads as the fill value.
    paths = np.full(grid, "", dtype=np.dtypes.StringDType())
    offsets, lengths = np.zeros(grid, np.uint64), np.zeros(grid, np.uint64)
    async for at, _, urls, starts, sizes, _ in store.array_chunk_iterator(path):
        for row in np.flatnonzero(at[:, 0] == time_index):
            place = tuple(at[row, 1:])
            paths[place], offsets[place], lengths[place] = urls[row], starts[row], sizes[row]
    return ChunkManifest.from_arrays(paths=paths, offsets=offsets, lengths=lengths)


def _without_time(array: zarr.Array[Any]) -> ArrayV3Metadata:
    document: dict[str, Any] = dict(array.metadata.to_dict())
    names = document["dimension_names"][1:]
    codecs = []
    for codec in document["codecs"]:
        if codec["name"] == "transpose":
            order = [axis - 1 for axis in codec["configuration"]["order"] if axis]
            codec = {"name": "transpose", "configuration": {"order": order}}
        codecs.append(codec)
    chunk = document["chunk_grid"]["configuration"]["chunk_shape"][1:]
    return ArrayV3Metadata.from_dict(
        document
        | {
            "shape": document["shape"][1:],
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "codecs": codecs,
            "dimension_names": names,
        }
    )
