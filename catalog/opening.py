"""Scenes' records and snapshots to xarray: over any area, or one tile's over several branches.

Knows no SQL: records come in, with the snapshot of each branch to read them at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import icechunk
import numpy as np
import xarray as xr
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from catalog import arrays, grid
from catalog.arrays import Cube, Steps
from catalog.bands import BANDS, BY_NAME, band_names
from catalog.cube import Grid
from catalog.errors import ConfigError, NotFoundError, UsageError, first_line
from catalog.masks import parse_mask
from catalog.mosaic import group
from catalog.recorded import SceneRecord
from catalog.views import JoinedArray, lazy, masked

THREADS = 8
"""Branches opened at once."""
CATEGORICAL = frozenset({"scl"})
"""Numbers of classes: between two of them there is nothing."""
_ALIASES = {band.number: band.name for band in BANDS}


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
        opened = _open_part(part, store, here, size, chosen, reflectance)
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
    scl = _open_part(part, store, cubes, size, ["scl"], False)["scl"]
    return masked(dataset, scl, classes, size)


def open_area(
    records: Sequence[SceneRecord],
    snapshots: Mapping[str, str],
    opener: Opener,
    *,
    area: BaseGeometry | None,
    bands: Sequence[str] | None,
    resolution: float | None,
    crs: Any,
    like: Any,
    resampling: str | Mapping[str, str],
    groupby: str | None,
    mask: Any,
    reflectance: bool,
    chunks: Any,
) -> xr.Dataset:
    """Scenes of any tiles and zones on one grid: (time, y, x), each step a mosaic.

    Args:
        records: indexed scenes, at least one.
        snapshots: of their branches.
        area: EPSG:4326; None for all the ground of their tiles.
        The others are those of ``lookup.Catalog.load``.
    """
    grid.require_odc()
    from catalog.mosaic_array import Masks, MosaicArray

    classes = parse_mask(mask)
    wanted = band_names(bands) if bands is not None else None
    target = None
    if like is not None:
        if crs is not None or resolution is not None:
            raise UsageError("give a grid (like= or geobox=), or a crs and a resolution, not both")
        target = grid.given_grid(like)
    projection = None if crs is None else grid.parse_crs(crs)
    group([], groupby, 0.0)

    parts = parts_of(records, snapshots)
    with ThreadPoolExecutor(min(THREADS, len(parts))) as pool:
        stores = list(pool.map(lambda part: opener(part.snapshot), parts))
        cubes = list(pool.map(arrays.read_cubes, stores))
    for number, part in enumerate(parts):
        cubes[number] = [cube for cube in cubes[number] if cube.root in part.steps.roots]
    every = [cube for held in cubes for cube in held]
    what = ", ".join(sorted({record.tile for record in records})[:5])
    what = f"tile {what}" if "," not in what else f"tiles {what}"
    for name in wanted or ():
        arrays.choose(every, [name], None, what)

    if target is None:
        if projection is None:
            projection = CRS.from_epsg(grid.most_common(record.epsg for record in records))
        if resolution is None:
            unit = grid.unit_of(projection)
            if unit != "metre":
                raise UsageError(f"give a resolution in {unit}s of {grid.crs_text(projection)}")
            resolution = arrays.choose(every, wanted, None, what)[0]
        sources = [] if area is not None else _extents(parts, stores, cubes)
        target = grid.output_grid(crs=projection, resolution=resolution, area=area, sources=sources)
    size = grid.metres(target)
    if wanted is None:
        wanted = tuple(_bands_at(every, size))
    methods = grid.parse_resampling(resampling, wanted, _ALIASES)
    for name in CATEGORICAL & set(wanted):
        named = {} if isinstance(resampling, str) else resampling
        methods[name] = named.get(name, named.get(BY_NAME[name].number, "nearest"))

    opened = {*wanted, "scl"} if classes else set(wanted)
    with ThreadPoolExecutor(min(THREADS, len(parts))) as pool:
        layers: dict[str, dict[tuple[str, str], Any]] = {name: {} for name in opened}
        sizes = [size] * len(parts)
        for found in pool.map(_layers, parts, stores, cubes, [opened] * len(parts), sizes):
            for name, held in found.items():
                layers[name] |= held
    masks = None
    if classes:
        lacking = [record.id for record in records if _key(record) not in layers["scl"]]
        if lacking:
            raise NotFoundError(f"{lacking[0]}: no band 'scl' to mask with")
        masks = Masks(layers["scl"], classes)

    steps = group(records, groupby, grid.middle_longitude(target))
    variables: dict[str, xr.Variable] = {}
    for name in wanted:
        first = _agreed(name, layers[name])
        scaled = reflectance and name in BY_NAME and BY_NAME[name].reflectance
        sample = first.levels.variables[0]
        array = MosaicArray(
            target,
            [[(_key(record), layers[name].get(_key(record))) for record in step] for step in steps],
            dtype=sample.dtype,
            nodata=first.levels.nodata,
            samples=sample.shape[1] if sample.ndim == 4 else None,
            resampling=methods[name],
            masks=masks,
            reflectance=scaled,
        )
        variables[name] = _variable(name, array, sample, scaled)
    dataset = xr.Dataset(
        variables, _coordinates(steps, target, variables), {"Conventions": "CF-1.11"}
    )
    return chunked(dataset, chunks)


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
    except (ValueError, TypeError, NotImplementedError) as error:
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


def _open_part(
    part: Part,
    store: icechunk.IcechunkStore,
    cubes: Sequence[Cube],
    size: int,
    bands: Sequence[str],
    reflectance: bool,
) -> xr.Dataset:
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


def _layers(
    part: Part,
    store: icechunk.IcechunkStore,
    cubes: Sequence[Cube],
    bands: Iterable[str],
    size: float,
) -> dict[str, dict[tuple[str, str], Any]]:
    """Band → scene → its layer, for the scenes of one branch that have the band.

    Args:
        size: metres, of the output's pixels: levels that are much coarser are not opened.
    """
    from catalog.mosaic_array import Layer, Levels

    found: dict[str, dict[tuple[str, str], Layer]] = {name: {} for name in bands}
    for cube in cubes:
        at = [n for n, root in enumerate(part.steps.roots) if root == cube.root]
        here = some_of(part, at)
        held: dict[str, list[tuple[Grid, xr.Variable]]] = {}
        there = arrays.resolutions([cube])
        for level, names in there.items():
            wanted = [name for name in names if name in found]
            if level > size * 1.1:
                wanted = [name for name in wanted if name not in held]
            if wanted:
                dataset = _open_part(here, store, [cube], level, wanted, False)
                for name in wanted:
                    held.setdefault(name, []).append((_grid(dataset), dataset.variables[name]))
        for name, levels in held.items():
            grids, variables = zip(*levels, strict=True)
            shared = Levels(grids, variables, variables[0].attrs.get("_FillValue"))
            for step, item_id in enumerate(here.ids):
                layer = Layer(shared, step, int(here.offsets[step]))
                found[name][part.branch, item_id] = layer
    return found


def _agreed(band: str, layers: Mapping[Any, Any]) -> Any:
    """Any of the layers; they must be of one type."""
    kinds = {
        (levels.variables[0].dtype, levels.variables[0].shape[1:-2], levels.nodata)
        for levels in {layer.levels for layer in layers.values()}
    }
    if len(kinds) > 1:
        raise UsageError(
            f"band {band!r} has another type or nodata in some of these scenes: name a collection"
        )
    return next(iter(layers.values()))


def _variable(name: str, array: Any, sample: xr.Variable, reflectance: bool) -> xr.Variable:
    attributes = dict(sample.attrs)
    if reflectance:
        attributes.pop("_FillValue", None)
        attributes |= {"units": "1", "standard_name": "surface_bidirectional_reflectance"}
    encoding = {"preferred_chunks": {"time": 1} | dict.fromkeys(("y", "x"), 2048)}
    variable = lazy(array, sample)
    variable.attrs, variable.encoding = attributes, encoding
    return variable


def _coordinates(
    steps: Sequence[Sequence[SceneRecord]], target: Any, variables: Mapping[str, xr.Variable]
) -> dict[str, Any]:
    times = np.array([int(step[0].datetime.timestamp() // 1) for step in steps], np.int64)
    names = [" ".join(record.id for record in step) for step in steps]
    coords: dict[str, Any] = {
        "time": ("time", times.astype("datetime64[s]"), {"standard_name": "time"}),
        "scene": (
            "time",
            np.array(names, dtype=object),
            {"long_name": "STAC item ids, the first with a valid pixel gives it"},
        ),
    }
    offsets = [{record.boa_offset for record in step} for step in steps]
    if all(len(found) == 1 for found in offsets):
        values = np.array([found.pop() for found in offsets], np.int16)
        coords["boa_offset"] = ("time", values, {"long_name": "added to DN before scaling"})
    if any("band" in variable.dims for variable in variables.values()):
        coords["band"] = ("band", list(arrays.VISUAL_SAMPLES))
    return coords | grid.coordinates(target)


def _extents(
    parts: Sequence[Part],
    stores: Sequence[icechunk.IcechunkStore],
    cubes: Sequence[Sequence[Cube]],
) -> list[Grid]:
    """The ground of each branch's cubes: the grid of their finest group."""
    found: list[Grid] = []
    for part, store, held in zip(parts, stores, cubes, strict=True):
        for cube in held:
            size, names = next(iter(arrays.resolutions([cube]).items()))
            one = some_of(part, [part.steps.roots.index(cube.root)])
            found.append(_grid(_open_part(one, store, [cube], size, names[:1], False)))
    return found


def _bands_at(cubes: Sequence[Cube], size: float) -> list[str]:
    """The bands that have pixels no finer than they need be: those at the coarsest group that is
    not coarser than ``size`` metres."""
    there = arrays.resolutions(cubes)
    level = max((found for found in there if found <= size * 1.001), default=min(there))
    return there[level]


def _grid(dataset: xr.Dataset) -> Grid:
    attributes = dataset.spatial_ref.attrs
    c, a, b, f, d, e = map(float, attributes["GeoTransform"].split())
    epsg = CRS.from_wkt(attributes["crs_wkt"]).to_epsg()
    assert epsg is not None
    return Grid(epsg, dataset.sizes["x"], dataset.sizes["y"], (a, b, c, d, e, f))


def _key(record: SceneRecord) -> tuple[str, str]:
    return record.branch or "", record.id
