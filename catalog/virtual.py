"""A scene's references as VirtualiZarr's own: for kerchunk files, other stores, other tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import icechunk
import xarray as xr
import zarr
from virtualizarr.manifests import ChunkManifest, ManifestArray
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.core.sync import sync

from catalog.read_errors import damage
from catalog.repository import step_references


def virtual_dataset(
    store: icechunk.IcechunkStore, group: str, time_index: int, bands: Sequence[str]
) -> xr.Dataset:
    """One time step of ``bands``: virtual (y, x) arrays, ``visual`` (band, y, x), raw integers.

    No pixel is read. Locations are absolute URLs, as the repository's containers say now.

    Args:
        group: path of the group in the store, such as ``r10m``.
        time_index: of the scene in its cube.

    Raises:
        StoreError: the repository is damaged, or the snapshot has expired.
    """
    with damage(store):
        return _virtual_dataset(store, group, time_index, bands)


def _virtual_dataset(
    store: icechunk.IcechunkStore, group: str, time_index: int, bands: Sequence[str]
) -> xr.Dataset:
    node = zarr.open_group(store, path=group, mode="r")
    variables: dict[str, Any] = {}
    for band in bands:
        array = node[band]
        assert isinstance(array, zarr.Array)
        grid = tuple(
            -(-size // chunk) for size, chunk in zip(array.shape[1:], array.chunks[1:], strict=True)
        )
        urls, offsets, lengths = sync(step_references(store, f"{group}/{band}", grid, time_index))
        # An empty path is a chunk that is not there: it reads as the fill value.
        manifest = ChunkManifest.from_arrays(paths=urls, offsets=offsets, lengths=lengths)
        metadata = _without_time(array)
        variables[band] = (
            metadata.dimension_names,
            ManifestArray(metadata=metadata, chunkmanifest=manifest),
            dict(array.attrs),
        )
    return xr.Dataset(variables)


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
