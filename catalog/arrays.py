"""From a snapshot to xarray: one group of a tile's cubes as a lazy dataset.

Two phases. Open: the cubes' documents and time coordinates are read, nothing else, and
every array becomes a list of steps, each (cube, index). Read: an index into that list
becomes the chunks it touches, which ``chunk_reader.py`` fetches all at once. So scenes of variant
cubes stand in one array, in order of time, without dask; reflectance is made on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import icechunk
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.core.sync import sync

from catalog import accessor as accessor  # registers it
from catalog.bands import BY_NAME, PROBABILITIES, band_place, nodata_of
from catalog.chunk_reader import UNREADABLE, ChunkError, Key, StoredArray, read_chunks
from catalog.cube import REFLECTANCE_SCALE, Grid, grid_mapping
from catalog.errors import NotFoundError, StoreError, UsageError
from catalog.json_values import brief, finite
from catalog.read_errors import damage, unreadable, where
from catalog.repository import expect_documents, once
from catalog.steps import Cube as Cube
from catalog.steps import Steps as Steps
from catalog.steps import all_steps as all_steps
from catalog.steps import document, path_of, pixel_size, read_grid
from catalog.steps import read_cubes as read_cubes

VISUAL_SAMPLES = ("red", "green", "blue")


def resolutions(cubes: Sequence[Cube]) -> Mapping[int, Sequence[str]]:
    """Pixel size in metres → bands that have an array there, finest first."""
    if len(cubes) == 1:
        return cubes[0].levels
    found: dict[int, set[str]] = {}
    for cube in cubes:
        for size, bands in cube.levels.items():
            found.setdefault(size, set()).update(bands)
    return {size: sorted(found[size], key=band_place) for size in sorted(found)}


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
        UsageError: the resolution is no number, or there are no bands.
    """
    there = resolutions(cubes)
    if not there:
        raise NotFoundError(f"{what}: no scene is indexed")
    if bands is not None and not bands:
        raise UsageError("bands is empty: name some, or leave it out for all")
    everywhere = {band for names in there.values() for band in names}
    for band in bands or ():
        if band not in everywhere:
            names = ", ".join(sorted(everywhere, key=band_place))
            raise NotFoundError(f"{what}: no band {band!r}; there are {names}")
    if resolution is None:
        sizes = [size for size, names in there.items() if set(bands or ()) <= set(names)]
        if not sizes:
            raise NotFoundError(f"{what}: no one resolution has all of {', '.join(bands or ())}")
        resolution = sizes[0]
    if finite(resolution) is None:
        raise UsageError(f"resolution {brief(resolution)} is not the size of a pixel in metres")
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

    Args:
        times: microseconds since 1970, UTC.

    Raw integers as stored, or with ``reflectance`` float32 ``(DN + boa_offset) * 0.0001``
    with NaN for nodata in reflectance bands (others stay raw). Coordinates: ``time``
    (datetime64[us], UTC), ``scene``, ``boa_offset``, ``y``, ``x`` (pixel centres, metres) and
    ``spatial_ref`` (CF grid mapping).
    """
    names: dict[str, str] = {}
    for cube in cubes:
        for name in cube.bands:
            if pixel_size(name) == resolution and cube.root in steps.roots:
                names.setdefault(cube.root, name)
    expected: list[str] = []
    for cube in cubes:
        if cube.root in names:
            path = path_of(cube, names[cube.root])
            held = [band for band in bands if band in cube.bands[names[cube.root]]]
            expected += [f"{path}/zarr.json", *(f"{path}/{band}/zarr.json" for band in held)]
    with damage(store):
        expect_documents(store, expected)
    grid: Grid | None = None
    for cube in cubes:
        if cube.root in names:
            here = read_grid(store, path_of(cube, names[cube.root]))
            if grid is not None and here != grid:
                raise NotFoundError(
                    f"cubes {sorted(names)} have other grids at {resolution} m: "
                    "open their scenes one by one"
                )
            grid = here
    assert grid is not None
    at: dict[str, list[int]] = {}
    for root, index in zip(steps.roots, steps.indices, strict=True):
        at.setdefault(root, []).append(index)
    variables: dict[str, xr.Variable] = {}
    for band in bands:
        arrays = {
            cube.root: _array(
                store, f"{path_of(cube, names[cube.root])}/{band}", grid, at[cube.root]
            )
            for cube in cubes
            if cube.root in names and band in cube.bands[names[cube.root]]
        }
        if not arrays:
            raise NotFoundError(f"band {band!r} has no array at {resolution} m in these scenes")
        variables[band] = _variable(band, arrays, steps, ids, offsets, reflectance)
    y, x = grid.centres()
    coordinates: dict[str, Any] = {
        "time": ("time", times.astype("datetime64[us]"), {"standard_name": "time"}),
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
    """Steps of one band, from as many stored arrays as there are cubes; read on indexing, from
    any thread, or awaited (``Dataset.load_async``).

    Args:
        band: named in errors.
        arrays: by cube root, all of one dtype and shape but for time.
        steps: which step of which array; a root without an array reads as nodata.
        ids: item ids by step, named in errors.
        nodata: what pixels that there are not read as: steps without an array, tiles that a file
            does not have, and what the array itself states as its nodata, if that is another.
        boa_offsets: per step; None for raw values, else reflectance is returned.

    Reading raises ChangedFileError where a file changed since it was indexed or is gone,
    SourceError where its store does not answer, else StoreError; all name scene, band and file.
    """

    def __init__(
        self,
        band: str,
        arrays: Mapping[str, StoredArray],
        steps: Steps,
        ids: Sequence[str],
        nodata: int | float,
        boa_offsets: NDArray[np.int16] | None,
    ) -> None:
        self.band, self.arrays, self.steps, self.ids = band, arrays, steps, ids
        self.nodata, self.boa_offsets = nodata, boa_offsets
        first = next(iter(arrays.values()))
        self.shape = (len(steps), *first.shape[1:])
        self.stored = first.dtype
        self.dtype = np.dtype("float32") if boa_offsets is not None else self.stored

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            self._indexer(key),
            self.shape,
            indexing.IndexingSupport.OUTER,
            lambda outer: sync(self._read(outer)),
        )

    async def async_getitem(self, key: indexing.ExplicitIndexer) -> Any:
        return await indexing.async_explicit_indexing_adapter(
            self._indexer(key), self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _indexer(self, key: indexing.ExplicitIndexer) -> indexing.ExplicitIndexer:
        # xarray 2026.9 cannot take apart a slice that is empty and runs backwards.
        parts = tuple(
            slice(0) if isinstance(part, slice) and not range(size)[part] else part
            for part, size in zip(key.tuple, self.shape, strict=True)
        )
        return type(key)(parts)

    async def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        """``key`` is of outer indexing: each axis on its own."""
        keys = [_key(part, size) for part, size in zip(key, self.shape, strict=True)]
        wanted = np.arange(len(self.steps))[keys[0]]
        lengths = [len(np.arange(size)[part]) for part, size in zip(keys, self.shape, strict=True)]
        out = np.full(lengths, self._missing(), self.dtype)
        places: dict[tuple[str, int], list[int]] = {}
        for at, step in enumerate(wanted):
            # A step that is asked for twice is read once.
            place = (self.steps.roots[step], self.steps.indices[step])
            places.setdefault(place, []).append(at)
        for (root, _), sites in places.items():
            sparse = self._sparse(root)
            if sparse is not None:
                out[sites] = sparse
        scaled = self._scaled(wanted)
        known = [
            (self.arrays[root], index, tuple(at))
            for (root, index), at in places.items()
            if root in self.arrays and self.arrays[root].decoder is not None
        ]
        try:
            # Cubes may have tiles of their own sizes, but one shape.
            await read_chunks(known, keys[1:], out, scaled)
            for (root, index), steps in places.items():
                if root in self.arrays and self.arrays[root].decoder is None:
                    pixels = await _read_with_zarr(self.arrays[root], index, keys[1:])
                    for at in steps:
                        out[at] = scaled(pixels, at) if scaled else pixels
        except ChunkError as error:
            raise await unreadable(error, *self._named(error)) from error.__cause__
        single = tuple(0 if isinstance(part, (int, np.integer)) else slice(None) for part in key)
        return out[single]

    def _missing(self) -> Any:
        return self.nodata if self.boa_offsets is None else np.nan

    def _sparse(self, root: str) -> Any:
        """What tiles that a file does not have read as, where that is not nodata; or None."""
        array = self.arrays.get(root)
        # In all other bands what is not there is nodata, whatever the file calls it.
        untagged = array is not None and array.nodata is None and self.band in PROBABILITIES
        return 0 if untagged else None

    def _scaled(
        self, wanted: NDArray[np.int64]
    ) -> Callable[[NDArray[Any], int], NDArray[Any]] | None:
        """What makes pixels as stored, of one of the steps ``wanted``, into those that are read."""
        offsets = None if self.boa_offsets is None else self.boa_offsets[wanted].astype(np.float32)
        others = [
            None if array is None or array.nodata in (None, self.nodata) else array.nodata
            for array in (self.arrays.get(self.steps.roots[step]) for step in wanted)
        ]
        if offsets is None and all(other is None for other in others):
            return None

        def scaled(pixels: NDArray[Any], at: int) -> NDArray[Any]:
            missing = pixels == self.nodata
            if others[at] is not None:
                missing |= pixels == others[at]
            if offsets is None:
                return np.where(missing, pixels.dtype.type(self.nodata), pixels)
            found = (pixels + offsets[at]) * np.float32(REFLECTANCE_SCALE)
            return np.where(missing, np.float32(np.nan), found)

        return scaled

    def _named(self, error: ChunkError) -> tuple[str, str]:
        """Item id and band of the chunk that could not be read."""
        roots = [root for root, array in self.arrays.items() if array is error.array]
        places = zip(self.steps.roots, self.steps.indices, strict=True)
        for name, (root, index) in zip(self.ids, places, strict=True):
            if root in roots and index == error.place[0]:
                return name, self.band
        raise AssertionError(error)


async def _read_with_zarr(array: StoredArray, index: int, keys: Sequence[Key]) -> NDArray[Any]:
    """For files whose codecs ``codecs.py`` does not know."""
    try:
        opened = await zarr.api.asynchronous.open_array(
            store=array.store, path=array.path, mode="r"
        )
        selection = (np.array([index]), *(np.arange(n)[k] for k, n in _sized(array, keys)))
        return np.asarray(await opened.oindex.getitem(selection))[0]
    except UNREADABLE as error:
        raise ChunkError(array, (index,)) from error


def _sized(array: StoredArray, keys: Sequence[Key]) -> Iterator[tuple[Key, int]]:
    return zip(keys, array.shape[1:], strict=True)


def _key(part: Any, size: int) -> Key:
    """Of one axis, as ``read_chunks`` takes it."""
    if isinstance(part, slice):
        return part
    if isinstance(part, (int, np.integer)):
        at = range(size)[part]
        return slice(at, at + 1)
    numbers = np.asarray(part, np.int64)
    return np.where(numbers < 0, numbers + size, numbers)


def _variable(
    band: str,
    arrays: Mapping[str, StoredArray],
    steps: Steps,
    ids: Sequence[str],
    offsets: NDArray[np.int16],
    reflectance: bool,
) -> xr.Variable:
    first = next(iter(arrays.values()))
    stated = {nodata_of(band, array.nodata) for array in arrays.values()}
    if len(stated) > 1 and band in PROBABILITIES:
        # Some files say that 0 is nodata, some do not: each is taken at its word.
        stated = {nodata_of(band, None)}
    kinds = {(array.shape[1:], str(array.dtype)) for array in arrays.values()}
    if len(kinds) > 1 or len(stated) > 1:
        raise NotFoundError(
            f"band {band!r} has another shape, type or nodata in scenes of another layout: "
            "open them one by one"
        )
    scaled = reflectance and band in BY_NAME and BY_NAME[band].reflectance
    (nodata,) = stated
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
    dims = ("time", "y", "x") if len(first.shape) == 3 else ("time", "band", "y", "x")
    encoding = {"preferred_chunks": dict(zip(dims, first.chunk, strict=True))}
    return xr.Variable(dims, indexing.LazilyIndexedArray(backend), attributes, encoding)


def _array(
    store: icechunk.IcechunkStore, path: str, grid: Grid, steps: Sequence[int]
) -> StoredArray:
    """The array at ``path``, which must fit the grid of its group and hold ``steps``."""

    def read() -> StoredArray:
        found = document(store, path)
        with damage(store):
            return StoredArray.of(store, path, found)

    array = once(store, ("array", path), read)
    if array.shape[-2:] != (grid.height, grid.width) or max(steps, default=0) >= array.shape[0]:
        raise StoreError(
            f"{where(store)}: {path} has the shape {array.shape}, which is not that of its cube"
        )
    return array


def _axis(name: str) -> dict[str, Any]:
    return {
        "standard_name": f"projection_{name}_coordinate",
        "units": "m",
        "axis": name.upper(),
    }
