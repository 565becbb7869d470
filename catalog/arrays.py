"""From a snapshot to xarray: one group of a tile's cubes as a lazy dataset.

Two phases. Open: the cubes' documents and time coordinates are read, nothing else, and
every array becomes a list of steps, each (cube, index). Read: an index into that list
is one read of each cube it touches. So scenes of variant cubes stand in one array, in
order of time, without dask and without a copy; reflectance is made on the way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import icechunk
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from catalog.bands import BANDS, BY_NAME
from catalog.cube import REFLECTANCE_SCALE, Grid, grid_mapping, grid_of_group
from catalog.errors import NotFoundError, StoreError, first_line

VISUAL_SAMPLES = ("red", "green", "blue")
_ORDER = {band.name: number for number, band in enumerate(BANDS)}


@dataclass(frozen=True, slots=True)
class Cube:
    """What one cube holds, from its root document."""

    root: str
    """``""`` or ``variant-{digest}``."""
    bands: Mapping[str, Sequence[str]]
    """Data arrays by group."""
    attributes: Mapping[str, Any]
    """Of the root group."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Time steps to open, in the order wanted; one entry each per step."""

    roots: tuple[str, ...]
    indices: tuple[int, ...]
    """Time index within the cube of that root."""

    def __len__(self) -> int:
        return len(self.indices)


def read_cubes(store: icechunk.IcechunkStore) -> list[Cube]:
    """The cubes of a branch, the main one first; an empty list for a branch without scenes."""
    try:
        main = zarr.open_group(store, mode="r")
    except FileNotFoundError:
        return []
    attributes = dict(main.attrs)
    described: Any = attributes.get("cogcat")
    if not isinstance(described, dict):
        raise StoreError("the snapshot holds no cogcat cube")
    cubes = [Cube("", described["bands"], attributes)]
    for root in described["variants"]:
        attributes = dict(zarr.open_group(store, path=root, mode="r").attrs)
        described = attributes["cogcat"]
        cubes.append(Cube(root, described["bands"], attributes))
    return [cube for cube in cubes if cube.bands]


def all_steps(
    store: icechunk.IcechunkStore, cubes: Sequence[Cube]
) -> tuple[Steps, NDArray[np.int64], list[str], NDArray[np.int16]]:
    """Every scene of ``cubes`` in order of arrival: steps, times (seconds since 1970, UTC), item
    ids, BOA offsets. Places without a scene (withdrawn, or moved to another cube) are left out."""
    roots: list[str] = []
    indices: list[int] = []
    times: list[int] = []
    ids: list[str] = []
    offsets: list[int] = []
    for cube in cubes:
        group = _group(store, cube, next(iter(cube.bands)))
        for index, (scene, time, offset) in enumerate(
            zip(
                _read(group, "scene"), _read(group, "time"), _read(group, "boa_offset"), strict=True
            )
        ):
            if scene:
                roots.append(cube.root)
                indices.append(index)
                ids.append(str(scene))
                times.append(int(time))
                offsets.append(int(offset))
    return (
        Steps(tuple(roots), tuple(indices)),
        np.array(times, np.int64),
        ids,
        np.array(offsets, np.int16),
    )


def resolutions(cubes: Sequence[Cube]) -> dict[int, list[str]]:
    """Pixel size in metres → bands that have an array there, finest first."""
    found: dict[int, set[str]] = {}
    for cube in cubes:
        for group, bands in cube.bands.items():
            found.setdefault(_pixel_size(group), set()).update(bands)
    return {size: sorted(found[size], key=_place) for size in sorted(found)}


def choose(
    cubes: Sequence[Cube], bands: Sequence[str] | None, resolution: float | None, what: str
) -> tuple[int, list[str]]:
    """The pixel size and bands to open.

    Args:
        bands: names as in ``bands.py``; None for all at the resolution.
        resolution: metres; None for the finest at which every asked band has an array.
        what: named in errors, such as ``tile 10TFR``.

    Raises:
        NotFoundError: no such resolution, or a band has no array there; says what there is.
    """
    there = resolutions(cubes)
    if not there:
        raise NotFoundError(f"{what}: no scene is indexed")
    everywhere = {band for names in there.values() for band in names}
    for band in bands or ():
        if band not in everywhere:
            names = ", ".join(sorted(everywhere, key=_place))
            raise NotFoundError(f"{what}: no band {band!r}; there are {names}")
    if resolution is None:
        sizes = [size for size, names in there.items() if set(bands or ()) <= set(names)]
        if not sizes:
            raise NotFoundError(f"{what}: no one resolution has all of {', '.join(bands or ())}")
        resolution = sizes[0]
    size = round(resolution)
    if size not in there or size != resolution:
        listed = ", ".join(map(str, there))
        raise NotFoundError(f"{what}: no resolution of {resolution:g} m; there are {listed}")
    for band in bands or ():
        if band not in there[size]:
            listed = ", ".join(str(other) for other, names in there.items() if band in names)
            raise NotFoundError(f"{what}: band {band!r} has no array at {size} m, but at {listed}")
    return size, list(bands or there[size])


def open_steps(
    store: icechunk.IcechunkStore,
    cubes: Sequence[Cube],
    *,
    steps: Steps,
    times: NDArray[np.int64],
    ids: Sequence[str],
    offsets: NDArray[np.int16],
    resolution: int,
    bands: Sequence[str],
    reflectance: bool = False,
) -> xr.Dataset:
    """A lazy dataset of ``steps``: variables (time, y, x), ``visual`` (time, band, y, x).

    Raw integers as stored, or with ``reflectance`` float32 ``(DN + boa_offset) * 0.0001``
    with NaN for nodata in reflectance bands (others stay raw). Coordinates: ``time``
    (datetime64[s], UTC), ``scene``, ``boa_offset``, ``y``, ``x`` (pixel centres, metres) and
    ``spatial_ref`` (CF grid mapping).
    """
    groups: dict[str, zarr.Group] = {}
    grid: Grid | None = None
    names: dict[str, str] = {}
    for cube in cubes:
        if cube.root not in steps.roots:
            continue
        for name in cube.bands:
            if _pixel_size(name) == resolution and cube.root not in names:
                groups[cube.root] = _group(store, cube, name)
                names[cube.root] = name
                here = grid_of_group({"attributes": dict(groups[cube.root].attrs)})
                if grid is not None and here != grid:
                    raise NotFoundError(
                        f"cubes {sorted(names)} have other grids at {resolution} m: "
                        "open their scenes one by one"
                    )
                grid = here
    assert grid is not None
    variables: dict[str, xr.Variable] = {}
    for band in bands:
        arrays: dict[str, Any] = {
            cube.root: groups[cube.root][band]
            for cube in cubes
            if cube.root in groups and band in cube.bands[names[cube.root]]
        }
        if not arrays:
            raise NotFoundError(f"band {band!r} has no array at {resolution} m in these scenes")
        variables[band] = _variable(band, arrays, steps, ids, offsets, reflectance)
    y, x = grid.centres()
    coordinates: dict[str, Any] = {
        "time": ("time", times.astype("datetime64[s]"), {"standard_name": "time"}),
        "scene": ("time", np.array(ids, dtype=object), {"long_name": "STAC item id"}),
        "boa_offset": ("time", offsets, {"long_name": "added to DN before scaling"}),
        "y": ("y", y, _axis("y")),
        "x": ("x", x, _axis("x")),
        "spatial_ref": ((), np.int64(0), grid_mapping(grid)),
    }
    if any("band" in variable.dims for variable in variables.values()):
        coordinates["band"] = ("band", list(VISUAL_SAMPLES))
    return xr.Dataset(variables, coordinates, {"Conventions": "CF-1.11"})


class StepsArray(BackendArray):
    """Steps of one band, from as many Zarr arrays as there are cubes; read on indexing.

    Args:
        band: named in errors.
        arrays: by cube root, all of one dtype and shape but for time.
        steps: which step of which array; a root without an array reads as nodata.
        ids: item ids by step, named in errors.
        nodata: the fill of steps without an array.
        boa_offsets: per step; None for raw values, else reflectance is returned.

    Reading raises StoreError where a file changed since it was indexed, or cannot be read.
    """

    def __init__(
        self,
        band: str,
        arrays: Mapping[str, zarr.Array[Any]],
        steps: Steps,
        ids: Sequence[str],
        nodata: int | float,
        boa_offsets: NDArray[np.int16] | None,
    ) -> None:
        self.band, self.arrays, self.steps, self.ids = band, arrays, steps, ids
        self.nodata, self.boa_offsets = nodata, boa_offsets
        first = next(iter(arrays.values()))
        self.shape = (len(steps), *first.shape[1:])
        self.stored = np.dtype(first.dtype)
        self.dtype = np.dtype("float32") if boa_offsets is not None else self.stored

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        # xarray 2026.9 cannot take apart a slice that is empty and runs backwards.
        parts = tuple(
            slice(0) if isinstance(part, slice) and not range(size)[part] else part
            for part, size in zip(key.tuple, self.shape, strict=True)
        )
        return indexing.explicit_indexing_adapter(
            type(key)(parts), self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        wanted = np.arange(len(self.steps))[key[0]]
        scalar = wanted.ndim == 0
        wanted = np.atleast_1d(wanted)
        rest = key[1:]
        shape = tuple(
            len(range(size)[part]) if isinstance(part, slice) else np.size(part)
            for size, part in zip(self.shape[1:], rest, strict=True)
            if not isinstance(part, (int, np.integer))
        )
        out = np.full((wanted.size, *shape), self.nodata, self.stored)
        for root in dict.fromkeys(self.steps.roots[step] for step in wanted):
            if root not in self.arrays:
                continue
            at = np.array([n for n, step in enumerate(wanted) if self.steps.roots[step] == root])
            indices = np.array([self.steps.indices[wanted[n]] for n in at])
            # Zarr reads an outer selection in its own order; a repeated step is read once.
            unique, back = np.unique(indices, return_inverse=True)
            try:
                pixels = np.asarray(self.arrays[root].oindex[(unique, *rest)])
            except icechunk.IcechunkError as error:
                raise StoreError(f"{self._where(root, error)}: {first_line(error)}") from error
            out[at] = pixels[back]
        if self.boa_offsets is not None:
            offset = self.boa_offsets[wanted].astype(np.float32)
            valid = out != self.nodata
            scaled = (out + offset.reshape(-1, *(1,) * len(shape))) * np.float32(REFLECTANCE_SCALE)
            out = np.where(valid, scaled, np.float32(np.nan)).astype(np.float32)
        return out[0] if scalar else out

    def _where(self, root: str, error: icechunk.IcechunkError) -> str:
        """Scene and band; Icechunk's message names the chunk: ``key="r10m/red/c/17/0/3"``."""
        found = re.search(r"/c/(\d+)/", str(error))
        place = (root, int(found[1]) if found else -1)
        places = zip(self.steps.roots, self.steps.indices, strict=True)
        scenes = [name for name, at in zip(self.ids, places, strict=True) if at == place]
        return " ".join([*scenes[:1], self.band])


def _variable(
    band: str,
    arrays: Mapping[str, zarr.Array[Any]],
    steps: Steps,
    ids: Sequence[str],
    offsets: NDArray[np.int16],
    reflectance: bool,
) -> xr.Variable:
    first = next(iter(arrays.values()))
    kinds = {
        (array.shape[1:], str(array.dtype), array.attrs.get("_FillValue"))
        for array in arrays.values()
    }
    if len(kinds) > 1:
        raise NotFoundError(
            f"band {band!r} has another shape, type or nodata in scenes of another layout: "
            "open them one by one"
        )
    scaled = reflectance and band in BY_NAME and BY_NAME[band].reflectance
    nodata: Any = first.attrs.get("_FillValue")
    backend = StepsArray(
        band,
        arrays,
        steps,
        ids,
        nodata if nodata is not None else 0,
        offsets if scaled else None,
    )
    attributes: dict[str, Any] = {"grid_mapping": "spatial_ref"}
    if band in BY_NAME:
        attributes["long_name"] = BY_NAME[band].long_name
    if scaled:
        attributes |= {"units": "1", "standard_name": "surface_bidirectional_reflectance"}
    elif nodata is not None:
        attributes["_FillValue"] = nodata
    dims = ("time", "y", "x") if first.ndim == 3 else ("time", "band", "y", "x")
    encoding = {"preferred_chunks": dict(zip(dims, first.chunks, strict=True))}
    return xr.Variable(dims, indexing.LazilyIndexedArray(backend), attributes, encoding)


def _group(store: icechunk.IcechunkStore, cube: Cube, name: str) -> zarr.Group:
    return zarr.open_group(store, path=f"{cube.root}/{name}" if cube.root else name, mode="r")


def _read(group: zarr.Group, name: str) -> Any:
    array: Any = group[name]
    return array[:]


def _axis(name: str) -> dict[str, Any]:
    return {
        "standard_name": f"projection_{name}_coordinate",
        "units": "m",
        "axis": name.upper(),
    }


def _pixel_size(group: str) -> int:
    return int(group.removeprefix("r").split("m")[0])


def _place(band: str) -> tuple[int, str]:
    return _ORDER.get(band, 99), band
