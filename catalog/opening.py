"""Scenes' records and snapshots to xarray: one tile's, over several branches.

Knows no SQL: records come in, with the snapshot of each branch to read them at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import icechunk
import numpy as np
import xarray as xr

from catalog import arrays
from catalog.arrays import Cube, Steps
from catalog.bands import band_names
from catalog.errors import ConfigError, NotFoundError, UsageError, first_line
from catalog.masks import parse_mask
from catalog.recorded import SceneRecord
from catalog.views import JoinedArray, lazy, masked


@dataclass(frozen=True, slots=True)
class Part:
    """Scenes of one branch, at the snapshot to read them at; one entry each per scene."""

    branch: str
    snapshot: str
    steps: Steps
    times: np.ndarray[Any, np.dtype[np.int64]]
    """Seconds since 1970, UTC."""
    ids: tuple[str, ...]
    offsets: np.ndarray[Any, np.dtype[np.int16]]

    @property
    def collection(self) -> str:
        return self.branch.rpartition("/")[0]


Opener = Callable[[str], icechunk.IcechunkStore]
"""Snapshot id → a store to read."""


def parts_of(records: Iterable[SceneRecord], snapshots: Mapping[str, str]) -> list[Part]:
    """The records by branch, in their order.

    Args:
        records: indexed scenes.
        snapshots: the one to read each branch at.
    """
    by_branch: dict[str, list[SceneRecord]] = {}
    for record in records:
        assert record.branch is not None
        by_branch.setdefault(record.branch, []).append(record)
    return [
        Part(
            branch=branch,
            snapshot=snapshots[branch],
            steps=Steps(
                tuple(record.root or "" for record in held),
                tuple(int(record.time_index or 0) for record in held),
            ),
            times=np.array([int(record.datetime.timestamp() // 1) for record in held], np.int64),
            ids=tuple(record.id for record in held),
            offsets=np.array([record.boa_offset for record in held], np.int16),
        )
        for branch, held in by_branch.items()
    ]


def read_part(branch: str, snapshot: str, store: icechunk.IcechunkStore) -> Part:
    """Every scene of a branch that ``store`` holds, in order of arrival."""
    steps, times, ids, offsets = arrays.all_steps(store, arrays.read_cubes(store))
    return Part(branch, snapshot, steps, times, tuple(ids), offsets)


def some_of(part: Part, at: Iterable[int]) -> Part:
    """The scenes of ``part`` at these places."""
    at = [int(n) for n in at]
    return Part(
        part.branch,
        part.snapshot,
        Steps(tuple(part.steps.roots[n] for n in at), tuple(part.steps.indices[n] for n in at)),
        part.times[at],
        tuple(part.ids[n] for n in at),
        part.offsets[at],
    )


def open_tile(
    parts: Sequence[Part],
    opener: Opener,
    *,
    tile: str,
    bands: Sequence[str] | None,
    resolution: float | None,
    reflectance: bool,
    mask: Any = None,
) -> xr.Dataset:
    """One tile's scenes as (time, y, x), sorted by time, then id, on the tile's own grid.

    Args:
        parts: at least one scene each; branches of one tile.
        resolution: metres, one that is stored; None for the finest at which all bands have arrays.
        mask: as ``masks.parse_mask``; scl's nearest pixel counts.

    Raises:
        NotFoundError: no such band or resolution, or no scl to mask with.
        UsageError: the branches cannot share arrays: says why.
    """
    stores = [opener(part.snapshot) for part in parts]
    cubes = [arrays.read_cubes(store) for store in stores]
    every = [cube for held in cubes for cube in held]
    wanted = band_names(bands) if bands is not None else None
    size, chosen = arrays.choose(every, wanted, resolution, f"tile {tile}")
    classes = parse_mask(mask)
    datasets = []
    for part, store, held in zip(parts, stores, cubes, strict=True):
        here = [cube for cube in held if cube.root in part.steps.roots]
        opened = open_bands(part, store, here, size, chosen, reflectance)
        if classes:
            opened = mask_part(opened, part, store, here, classes, size)
        datasets.append(opened)
    joined = datasets[0] if len(parts) == 1 else _join(parts, datasets, chosen, tile)
    order = np.lexsort((joined.scene.values.astype(str), joined.time.values))
    if not (np.diff(order) == 1).all():
        joined = joined.isel(time=order)
    return joined


def mask_part(
    dataset: xr.Dataset,
    part: Part,
    store: icechunk.IcechunkStore,
    cubes: Sequence[Cube],
    classes: Sequence[int],
    resolution: int,
) -> xr.Dataset:
    """``dataset`` (of ``part`` at ``resolution``) without the pixels of ``classes``.

    Raises:
        NotFoundError: the scenes have no scl.
    """
    sizes = [size for size, names in arrays.resolutions(cubes).items() if "scl" in names]
    if not sizes:
        raise NotFoundError(f"{part.ids[0]}: no band 'scl' to mask with")
    size = max((size for size in sizes if size <= resolution), default=sizes[0])
    scl = open_bands(part, store, cubes, size, ["scl"], False)["scl"]
    return masked(dataset, scl, classes, size)


def chunked(dataset: xr.Dataset, chunks: Any) -> xr.Dataset:
    """``dataset`` with its variables as dask arrays, one task for each block; as it is for None.

    Args:
        chunks: as xarray's ``chunk`` takes them: sizes by dimension, ``"auto"``, -1 …

    Raises:
        ConfigError: there is no dask.
        UsageError: chunks of a dimension that is not there, or that are no sizes.
    """
    if chunks is None:
        return dataset
    try:
        import dask.array  # noqa: F401
    except ImportError as error:
        raise ConfigError("chunks= makes dask arrays: pip install 'cogcat[dask]'") from error
    # Coordinates stay in memory; of texts dask could not tell a size either.
    beside = {name: dataset[name] for name in dataset.coords if name not in dataset.dims}
    try:
        return dataset.drop_vars(beside).chunk(chunks).assign_coords(beside)
    except (ValueError, TypeError, NotImplementedError, ZeroDivisionError) as error:
        raise UsageError(f"chunks={chunks!r}: {first_line(error)}") from error


def cite(dataset: xr.Dataset, repository: str, snapshots: Mapping[str, str]) -> xr.Dataset:
    """``dataset`` with attributes that say where its pixels are from.

    ``cogcat_branches`` and ``cogcat_snapshots`` are lists, one entry for each branch; where there
    is but one, ``cogcat_branch`` and ``cogcat_snapshot`` name it.

    Args:
        snapshots: by branch.
    """
    dataset.attrs["cogcat_repository"] = repository
    if len(snapshots) == 1:
        ((branch, snapshot),) = snapshots.items()
        dataset.attrs |= {"cogcat_branch": branch, "cogcat_snapshot": snapshot}
    branches = sorted(snapshots)
    dataset.attrs |= {
        "cogcat_branches": branches,
        "cogcat_snapshots": [snapshots[branch] for branch in branches],
    }
    return dataset


def open_bands(
    part: Part,
    store: icechunk.IcechunkStore,
    cubes: Sequence[Cube],
    size: int,
    bands: Sequence[str],
    reflectance: bool,
) -> xr.Dataset:
    """A part's scenes with those of ``bands`` that ``cubes`` hold at ``size`` metres.

    Raises:
        NotFoundError: they hold none.
    """
    there = arrays.resolutions(cubes).get(size, [])
    held = [name for name in bands if name in there]
    if not held:
        raise NotFoundError(
            f"{part.branch} has none of {', '.join(bands)} at {size} m: name other bands, another "
            "resolution or a collection"
        )
    return open_part(store, cubes, part, size, held, reflectance)


def open_part(
    store: icechunk.IcechunkStore,
    cubes: Sequence[Cube],
    part: Part,
    resolution: int,
    bands: Sequence[str],
    reflectance: bool,
) -> xr.Dataset:
    """``arrays.open_steps`` of a part's scenes."""
    return arrays.open_steps(
        store,
        cubes,
        steps=part.steps,
        times=part.times,
        ids=part.ids,
        offsets=part.offsets,
        resolution=resolution,
        bands=bands,
        reflectance=reflectance,
    )


def _join(
    parts: Sequence[Part], datasets: Sequence[xr.Dataset], bands: Sequence[str], tile: str
) -> xr.Dataset:
    """Datasets of one tile as one along time; a band that a collection lacks reads as nodata."""
    names = ", ".join(part.collection for part in parts)

    def refuse(reason: str) -> UsageError:
        return UsageError(
            f"tile {tile} is in collections {names}, which cannot be joined ({reason}): say which"
        )

    first = datasets[0]
    for other in datasets[1:]:
        if not (first.y.equals(other.y) and first.x.equals(other.x)):
            raise refuse("their grids differ")
        if first.spatial_ref.attrs != other.spatial_ref.attrs:
            raise refuse("their grids differ")
    order = [(n, step) for n, part in enumerate(parts) for step in range(len(part.ids))]
    variables: dict[str, xr.Variable] = {}
    for band in bands:
        held = [dataset.variables.get(band) for dataset in datasets]
        there = [variable for variable in held if variable is not None]
        kinds = {(v.dtype, v.shape[1:], v.attrs.get("_FillValue")) for v in there}
        if len(kinds) > 1:
            raise refuse(f"{band} has another type or nodata")
        fill = np.nan if there[0].dtype.kind == "f" else there[0].attrs.get("_FillValue", 0)
        variables[band] = lazy(JoinedArray(held, order, fill), there[0])
    along: dict[Any, Any] = {
        name: ("time", np.concatenate([dataset[name].values for dataset in datasets]))
        for name in ("time", "scene", "boa_offset")
    }
    collections = [part.collection for part in parts for _ in part.ids]
    coords: dict[Any, Any] = {name: first[name] for name in first.coords if name not in along}
    for dataset in datasets:
        if "band" in dataset.coords:
            coords["band"] = dataset["band"]
    coords |= along
    coords["collection"] = ("time", np.array(collections, dtype=object))
    return xr.Dataset(variables, coords, first.attrs)
