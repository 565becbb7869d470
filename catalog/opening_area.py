"""Scenes of any tiles and zones to xarray: on one grid, each time step a mosaic.

Knows no SQL: records come in, with the snapshot of each branch to read them at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import icechunk
import numpy as np
import xarray as xr
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from catalog import arrays, grid
from catalog.arrays import Cube
from catalog.bands import BANDS, BY_NAME, band_names
from catalog.cube import Grid
from catalog.errors import UsageError
from catalog.masks import parse_mask
from catalog.missing import parse_missing, settle
from catalog.mosaic import group
from catalog.opening import (
    Opener,
    Part,
    checked,
    chunked,
    lacking,
    microseconds,
    missing_names,
    open_bands,
    parts_of,
    some_of,
)
from catalog.recorded import SceneRecord
from catalog.views import lazy

THREADS = 8
"""Branches opened at once."""
CATEGORICAL = frozenset({"scl"})
"""Numbers of classes: between two of them there is nothing."""
_ALIASES = {band.number: band.name for band in BANDS}


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
    missing: str | None,
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

    classes, missing = parse_mask(mask), parse_missing(missing)
    wanted = band_names(bands) if bands is not None else None
    target = own = None
    if like is not None:
        if crs is not None or resolution is not None:
            raise UsageError("give a grid (like= or geobox=), or a crs and a resolution, not both")
        target = grid.given_grid(like)
        own = grid.given_centres(like, target)
    projection = None if crs is None else grid.parse_crs(crs)
    group([], groupby, 0.0)

    parts = parts_of(records, snapshots)
    with ThreadPoolExecutor(min(THREADS, len(parts))) as pool:
        stores = list(pool.map(lambda part: opener(part.snapshot), parts))
        cubes = list(pool.map(checked, parts, stores))
    for number, part in enumerate(parts):
        cubes[number] = [cube for cube in cubes[number] if cube.root in part.steps.roots]
    every = [cube for held in cubes for cube in held]
    what = ", ".join(sorted({record.tile for record in records})[:5])
    what = f"tile {what}" if "," not in what else f"tiles {what}"
    if wanted == ():
        raise UsageError("bands is empty: name some, or leave it out for all")
    for name in wanted or ():
        arrays.choose(every, [name], None, what)

    if target is None:
        if projection is None:
            projection = CRS.from_epsg(grid.most_common(record.epsg for record in records))
        if resolution is None:
            unit = grid.unit_of(projection)
            if unit != "metre":
                raise UsageError(f"give a resolution in {unit}s of {grid.named(projection)}")
            resolution = arrays.choose(every, wanted, None, what)[0]
        sources = [] if area is not None else _extents(parts, stores, cubes)
        target = grid.output_grid(crs=projection, resolution=resolution, area=area, sources=sources)
    size = grid.metres(target)
    if wanted is None:
        everywhere = [_bands_of(*pair) for pair in zip(parts, cubes, strict=True)]
        somewhere = frozenset().union(*(names for some in everywhere for names in some))
        wanted = tuple(name for name in _bands_at(every, size) if name in somewhere)
    methods = grid.parse_resampling(resampling, wanted, _ALIASES)
    for name in CATEGORICAL & set(wanted):
        named = {} if isinstance(resampling, str) else resampling
        methods[name] = named.get(name, named.get(BY_NAME[name].number, "nearest"))

    records, lacks = _settled(records, parts, cubes, wanted, bool(classes), missing, what)
    opened = {*wanted, "scl"} if classes else set(wanted)
    with ThreadPoolExecutor(min(THREADS, len(parts))) as pool:
        layers: dict[str, dict[tuple[str, str], Any]] = {name: {} for name in opened}
        sizes = [size] * len(parts)
        for found in pool.map(_layers, parts, stores, cubes, [opened] * len(parts), sizes):
            for name, some in found.items():
                layers[name] |= some
    masks = Masks(layers["scl"], classes) if classes else None

    longitude = grid.middle_longitude(target)
    if not np.isfinite(longitude):
        longitude = records[0].bbox[0]
    steps = group(records, groupby, longitude)
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
    coordinates = _coordinates(steps, target, own, variables)
    if any(lacks.values()):
        names = (frozenset().union(*(lacks[_key(record)] for record in step)) for step in steps)
        coordinates["missing_bands"] = ("time", missing_names(names))
    dataset = xr.Dataset(variables, coordinates, {"Conventions": "CF-1.11"})
    return chunked(dataset, chunks)


def _settled(
    records: Sequence[SceneRecord],
    parts: Sequence[Part],
    cubes: Sequence[Sequence[Cube]],
    bands: Sequence[str],
    masked: bool,
    missing: str | None,
    what: str,
) -> tuple[Sequence[SceneRecord], dict[tuple[str, str], frozenset[str]]]:
    """The records to keep, as ``missing.settle`` has it, and which of ``bands`` each lacks."""
    lacks: dict[tuple[str, str], frozenset[str]] = {}
    bare: dict[tuple[str, str], bool] = {}
    for part, held in zip(parts, cubes, strict=True):
        keys = [(part.branch, item) for item in part.ids]
        lacks |= zip(keys, lacking(part, held, None, bands), strict=True)
        if masked:
            bare |= zip(keys, map(bool, lacking(part, held, None, ["scl"])), strict=True)
    keep = settle(
        [record.id for record in records],
        [lacks[_key(record)] for record in records],
        [bare.get(_key(record), False) for record in records],
        missing,
        what,
    )
    return [records[n] for n in keep], lacks


def _bands_of(part: Part, cubes: Sequence[Cube]) -> set[frozenset[str]]:
    """What scenes of a part have: each set once."""
    every = frozenset(name for cube in cubes for names in cube.bands.values() for name in names)
    return {every - lacks for lacks in lacking(part, cubes, None, sorted(every))}


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
                dataset = open_bands(here, store, [cube], level, wanted, False)
                for name in wanted:
                    held.setdefault(name, []).append((_grid(dataset), dataset.variables[name]))
        for name, levels in held.items():
            grids, variables = zip(*levels, strict=True)
            shared = Levels(grids, variables, variables[0].attrs.get("_FillValue"))
            for step, item_id in enumerate(here.ids):
                own = here.bands[step]
                if own is None or name in own:
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
    steps: Sequence[Sequence[SceneRecord]],
    target: Any,
    own: Any,
    variables: Mapping[str, xr.Variable],
) -> dict[str, Any]:
    times = np.array([microseconds(step[0].datetime) for step in steps], np.int64)
    names = [" ".join(record.id for record in step) for step in steps]
    coords: dict[str, Any] = {
        "time": ("time", times.astype("datetime64[us]"), {"standard_name": "time"}),
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
    return coords | grid.coordinates(target, own)


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
            found.append(_grid(open_bands(one, store, [cube], size, names[:1], False)))
    return found


def _bands_at(cubes: Sequence[Cube], size: float) -> Sequence[str]:
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
