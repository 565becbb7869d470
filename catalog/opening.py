"""Scenes' records and snapshots to xarray: one tile's, over several branches.

Knows no SQL: records come in, with the snapshot of each branch to read them at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import icechunk
import numpy as np
import xarray as xr

from catalog import arrays
from catalog.arrays import Cube, Steps
from catalog.bands import band_names
from catalog.errors import ConfigError, NotFoundError, UsageError, first_line
from catalog.masks import parse_mask
from catalog.missing import parse_missing, settle
from catalog.recorded import PlacedScene, SceneRecord
from catalog.repository import SnapshotStore
from catalog.steps import SECOND, check_places
from catalog.views import JoinedArray, emptied, lazy, masked

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Part:
    """Scenes of one branch, at the snapshot to read them at; one entry each per scene."""

    branch: str
    snapshot: str
    steps: Steps
    times: np.ndarray[Any, np.dtype[np.int64]]
    """Microseconds since 1970, UTC."""
    ids: tuple[str, ...]
    offsets: np.ndarray[Any, np.dtype[np.int16]]
    bands: tuple[frozenset[str] | None, ...]
    """Of which each scene has a file; None where that is not recorded: all of its cube."""

    @property
    def collection(self) -> str:
        return self.branch.rpartition("/")[0]


Opener = Callable[[str], icechunk.IcechunkStore]
"""Snapshot id → a store to read."""


def parts_of(
    records: Iterable[SceneRecord],
    snapshots: Mapping[str, str],
) -> list[Part]:
    """The records by branch, in their order.

    Args:
        records: indexed scenes.
        snapshots: the one to read each branch at.
    """
    by_branch: dict[str, list[PlacedScene]] = {}
    for record in records:
        assert record.branch is not None
        by_branch.setdefault(record.branch, []).append(
            PlacedScene(
                record.id,
                microseconds(record.datetime),
                record.boa_offset,
                record.root or "",
                int(record.time_index or 0),
                frozenset(record.bands) or None,
            )
        )
    return [part_of(branch, snapshots[branch], held) for branch, held in by_branch.items()]


def microseconds(moment: datetime) -> int:
    """Since 1970, UTC; ``moment`` is aware."""
    return (moment - _EPOCH) // _MICROSECOND


def part_of(branch: str, snapshot: str, scenes: Sequence[PlacedScene]) -> Part:
    """Scenes as the catalog records them."""
    return Part(
        branch,
        snapshot,
        Steps(tuple(scene.root for scene in scenes), tuple(scene.time_index for scene in scenes)),
        np.array([scene.time for scene in scenes], np.int64),
        tuple(scene.id for scene in scenes),
        np.array([scene.boa_offset for scene in scenes], np.int16),
        tuple(scene.bands for scene in scenes),
    )


def part_then(
    branch: str,
    snapshot: str,
    store: icechunk.IcechunkStore,
    recorded: Mapping[str, PlacedScene],
    later: Mapping[str, PlacedScene],
) -> Part:
    """Every scene of a branch at an earlier snapshot: as the catalog recorded it then, and where
    what it recorded then is forgotten, as the store has it.

    Args:
        recorded: by item id, of then.
        later: of scenes that are not among these, the next state that is known: where it is of the
            same second, it has the time to the microsecond and the bands.
    """
    name_branch(store, branch)
    steps, times, ids, offsets = arrays.all_steps(store, arrays.read_cubes(store))
    scenes = list(recorded.values())
    for n, item in enumerate(ids):
        if item in recorded:
            continue
        time = int(times[n])
        found = PlacedScene(item, time, int(offsets[n]), steps.roots[n], steps.indices[n], None)
        known = later.get(item)
        if known is not None and known.time // SECOND == time // SECOND:
            found = replace(found, time=known.time, bands=known.bands)
        scenes.append(found)
    return part_of(branch, snapshot, scenes)


def name_branch(store: icechunk.IcechunkStore, branch: str) -> None:
    """So that messages can say it."""
    if isinstance(store, SnapshotStore):
        store.branch = branch


def checked(part: Part, store: icechunk.IcechunkStore) -> Sequence[Cube]:
    """The cubes of a part's branch, which has the scenes where, when and with the offsets that the
    catalog records.

    Raises:
        StoreError: it has not: ``steps.check_places``.
    """
    name_branch(store, part.branch)
    cubes = arrays.read_cubes(store)
    used = [cube for cube in cubes if cube.root in part.steps.roots]
    check_places(
        store, used, steps=part.steps, times=part.times, ids=part.ids, offsets=part.offsets
    )
    return cubes


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
        tuple(part.bands[n] for n in at),
    )


def lacking(
    part: Part, cubes: Sequence[Cube], size: int | None, bands: Sequence[str]
) -> list[frozenset[str]]:
    """Which of ``bands`` each scene of a part does not have at ``size`` metres (None: at any)."""
    there: dict[str, frozenset[str]] = {}
    for cube in cubes:
        sizes = arrays.resolutions([cube])
        groups = sizes.values() if size is None else [sizes.get(size, [])]
        there[cube.root] = frozenset(name for names in groups for name in names)
    wanted, known = frozenset(bands), {}
    found = []
    for root, own in zip(part.steps.roots, part.bands, strict=True):
        if (root, own) not in known:
            held = there.get(root, frozenset())
            known[root, own] = wanted - (held if own is None else held & own)
        found.append(known[root, own])
    return found


def open_tile(
    parts: Sequence[Part],
    opener: Opener,
    *,
    tile: str,
    bands: Sequence[str] | None,
    resolution: float | None,
    reflectance: bool,
    mask: Any = None,
    missing: str | None = None,
) -> xr.Dataset:
    """One tile's scenes as (time, y, x), sorted by time, then id, on the tile's own grid.

    Args:
        parts: at least one scene each; branches of one tile.
        resolution: metres, one that is stored; None for the finest at which all bands have arrays.
        mask: as ``masks.parse_mask``; scl's nearest pixel counts.
        missing: as ``missing.settle``.

    Raises:
        NotFoundError: no such band or resolution, or no scl to mask with.
        UsageError: the branches cannot share arrays: says why.
        StoreError: a snapshot does not hold what the catalog records.
    """
    classes, missing = parse_mask(mask), parse_missing(missing)
    stores = [opener(part.snapshot) for part in parts]
    cubes = [checked(part, store) for part, store in zip(parts, stores, strict=True)]
    every = [cube for held in cubes for cube in held]
    wanted = band_names(bands) if bands is not None else None
    size, chosen = arrays.choose(every, wanted, resolution, f"tile {tile}")
    cubes = [
        [cube for cube in held if cube.root in part.steps.roots]
        for part, held in zip(parts, cubes, strict=True)
    ]
    if wanted is None:
        nobody = frozenset.intersection(
            *(
                lacks
                for part, held in zip(parts, cubes, strict=True)
                for lacks in lacking(part, held, size, chosen)
            )
        )
        chosen = [name for name in chosen if name not in nobody]
    parts, kept, lacks = _settled(parts, cubes, size, chosen, classes, missing, f"tile {tile}")
    datasets = []
    for part, n in zip(parts, kept, strict=True):
        opened = open_bands(part, stores[n], cubes[n], size, chosen, reflectance)
        if classes:
            opened = mask_part(opened, part, stores[n], cubes[n], classes, size)
        datasets.append(opened)
    joined = datasets[0] if len(parts) == 1 else _join(parts, datasets, chosen, tile)
    if any(lacks):
        joined = joined.assign_coords(missing_bands=("time", missing_names(lacks)))
    order = np.lexsort((joined.scene.values.astype(str), joined.time.values))
    if not (np.diff(order) == 1).all():
        joined = joined.isel(time=order)
    return joined


def missing_names(lacks: Iterable[frozenset[str]]) -> np.ndarray[Any, Any]:
    """For the coordinate ``missing_bands``: names with a blank between."""
    return np.array([" ".join(sorted(names)) for names in lacks], dtype=object)


def _settled(
    parts: Sequence[Part],
    cubes: Sequence[Sequence[Cube]],
    size: int,
    bands: Sequence[str],
    classes: Sequence[int],
    missing: str | None,
    what: str,
) -> tuple[list[Part], list[int], list[frozenset[str]]]:
    """The parts with the scenes to keep, their numbers among ``parts``, and which of ``bands`` each
    scene of theirs lacks."""
    ids: list[str] = []
    lacks: list[frozenset[str]] = []
    unmasked: list[bool] = []
    places: list[tuple[int, int]] = []
    for number, (part, held) in enumerate(zip(parts, cubes, strict=True)):
        ids += part.ids
        lacks += lacking(part, held, size, bands)
        unmasked += _unmasked(part, held, size) if classes else [False] * len(part.ids)
        places += [(number, n) for n in range(len(part.ids))]
    keep = settle(ids, lacks, unmasked, missing, what)
    if len(keep) == len(ids):
        return list(parts), list(range(len(parts))), lacks
    numbers = sorted({places[n][0] for n in keep})
    return (
        [
            some_of(parts[number], [places[n][1] for n in keep if places[n][0] == number])
            for number in numbers
        ],
        numbers,
        [lacks[n] for n in keep],
    )


def _unmasked(part: Part, cubes: Sequence[Cube], resolution: int) -> list[bool]:
    """Which scenes have no scl of the size that a mask at ``resolution`` is made of."""
    size = _scl_size(cubes, resolution)
    if size is None:
        return [True] * len(part.ids)
    return [bool(lacks) for lacks in lacking(part, cubes, size, ["scl"])]


def _scl_size(cubes: Sequence[Cube], resolution: int) -> int | None:
    """The pixel size of scl to mask pixels of ``resolution`` with: one at which all cubes that have
    it do, if there is one."""
    held = [
        {size for size, names in arrays.resolutions([cube]).items() if "scl" in names}
        for cube in cubes
    ]
    held = [sizes for sizes in held if sizes]
    if not held:
        return None
    sizes = sorted(set.intersection(*held) or set.union(*held))
    return max((size for size in sizes if size <= resolution), default=sizes[0])


def mask_scene(
    dataset: xr.Dataset,
    part: Part,
    store: icechunk.IcechunkStore,
    cubes: Sequence[Cube],
    classes: Sequence[int],
    resolution: int,
    lenient: bool,
) -> xr.Dataset:
    """``mask_part`` of one scene.

    Args:
        lenient: without scl nothing of it is left; else that is an error.

    Raises:
        NotFoundError: it has no scl.
    """
    if not all(_unmasked(part, cubes, resolution)):
        return mask_part(dataset, part, store, cubes, classes, resolution)
    if not lenient:
        raise NotFoundError(
            f"{part.ids[0]}: no band 'scl' to mask with: missing='nodata' takes all its pixels for "
            "masked"
        )
    return emptied(dataset)


def mask_part(
    dataset: xr.Dataset,
    part: Part,
    store: icechunk.IcechunkStore,
    cubes: Sequence[Cube],
    classes: Sequence[int],
    resolution: int,
) -> xr.Dataset:
    """``dataset`` (of ``part`` at ``resolution``) without the pixels of ``classes``; without any of
    scenes that have no scl.
    """
    size = _scl_size(cubes, resolution)
    if size is None:
        return emptied(dataset)
    scl = open_bands(part, store, cubes, size, ["scl"], False)["scl"]
    unknown = np.array(_unmasked(part, cubes, resolution), np.bool_)
    return masked(dataset, scl, classes, size, unknown)


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
