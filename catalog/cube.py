"""The layout of a tile cube: which groups and arrays a scene's files become, and what they say.

Pure: values in, Zarr v3 documents and digests out. ``repository.py`` writes them.

One branch holds one tile of one collection. Below its root, or below
``variant-{digest}`` for scenes whose arrays cannot share the root's::

    r10m/            one group per pixel size, metres, rounded
      red            (time, y, x) raw integers, one chunk per COG tile and time step
      visual         (time, band, y, x)
      time scene boa_offset   (time,)
      x y            (x,) (y,)  pixel centres, metres
      spatial_ref    ()         CF grid mapping
    r20m/ …          native bands and overviews of finer ones, side by side

Every array of a cube has the same time length, so that one index finds a scene
in all of them. A reference, literally: chunk ``r10m/red/c/17/0/3`` →
``vcc://earth-search-c1/…/B04.tif``, offset 60222446, length 1428549.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS
from virtual_tiff.constants import COMPRESSORS
from zarr_cm import multiscales as multiscales_convention
from zarr_cm import proj as proj_convention
from zarr_cm import spatial as spatial_convention

from catalog.bands import BY_NAME, PROBABILITIES, band_place
from catalog.errors import UnreadableFileError
from catalog.ground import touches_tile
from catalog.header import Header, Level
from catalog.scene import Scene

FORMAT = 1
"""Of this layout; stands in the attributes of ``main`` and of every cube."""
TIME_CHUNK = 1024
"""Steps per chunk of the coordinates along time: one small chunk for fourteen years of a tile."""
TIME_UNITS = "seconds since 1970-01-01"
REFLECTANCE_SCALE = 0.0001
MAX_TILES = 2**16
"""Of a scene, all files and levels together: some 1 500 in Earth Search's tiles of 1024, 25 000 in
tiles of 256. What is written takes some kilobyte of memory each."""

Transform = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the pixels of one group lie."""

    epsg: int
    width: int
    height: int
    transform: Transform
    """Affine order (a, b, c, d, e, f), metres."""

    @property
    def pixel_size(self) -> int:
        """Metres, rounded: what the group is named after."""
        return round(self.transform[0])

    def centres(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixel centres (y of shape (height,), x of shape (width,)), metres."""
        a, _, c, _, e, f = self.transform
        rows, columns = (np.arange(size, dtype=np.float64) for size in (self.height, self.width))
        return f + e * (rows + 0.5), c + a * (columns + 0.5)


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """All that scenes must agree on to share an array: everything but its length in time."""

    band: str
    group: str
    grid: Grid
    dtype: str
    samples: int
    """Above 1: the array has a band axis behind time."""
    chunk: tuple[int, int, int]
    """Samples, rows, columns of one TIFF tile."""
    nodata: int | float | None
    """As ``_FillValue`` states it."""
    codecs: str
    """JSON of the codec chain."""

    @property
    def path(self) -> str:
        """Below the cube's root: ``r10m/red``."""
        return f"{self.group}/{self.band}"

    @property
    def chunk_grid(self) -> tuple[int, ...]:
        """Chunks of one time step, along the axes behind time."""
        grid = (-(-self.grid.height // self.chunk[1]), -(-self.grid.width // self.chunk[2]))
        return (self.samples // self.chunk[0], *grid) if self.samples > 1 else grid

    def document(self, steps: int) -> dict[str, Any]:
        """The array's ``zarr.json`` with ``steps`` time steps."""
        rows, columns = self.grid.height, self.grid.width
        shape, chunk = [steps, rows, columns], [1, *self.chunk[1:]]
        names = ["time", "y", "x"]
        if self.samples > 1:
            shape.insert(1, self.samples)
            chunk.insert(1, self.chunk[0])
            names.insert(1, "band")
        attributes: dict[str, Any] = {
            "grid_mapping": "spatial_ref",
            "coordinates": "scene boa_offset spatial_ref",
        }
        if self.nodata is not None:
            attributes["_FillValue"] = self.nodata
        if known := BY_NAME.get(self.band):
            attributes["long_name"] = known.long_name
            if known.reflectance:
                attributes["reflectance"] = f"(DN + boa_offset) * {REFLECTANCE_SCALE}"
        return _array(
            shape, chunk, self.dtype, self.nodata or 0, json.loads(self.codecs), names, attributes
        )


@dataclass(frozen=True, slots=True, eq=False)
class ArrayReferences:
    """One array of one scene: where the bytes of each of its chunks are."""

    spec: ArraySpec
    location: str
    """``vcc://{source}/{key}``."""
    offsets: NDArray[np.uint64]
    """Bytes, shape ``spec.chunk_grid``."""
    lengths: NDArray[np.uint64]
    """Bytes, same shape; 0 where the file has no such tile."""
    checksum: str | datetime | None


@dataclass(frozen=True, slots=True, eq=False)
class SceneReferences:
    """One scene, ready to be written: what a header read becomes."""

    id: str
    time: datetime
    boa_offset: int
    arrays: tuple[ArrayReferences, ...]
    """In the order of their paths."""
    sha256: str
    """``refs_digest`` of ``arrays``."""

    @property
    def specs(self) -> dict[str, ArraySpec]:
        return {array.spec.path: array.spec for array in self.arrays}


def scene_references(scene: Scene, headers: Iterable[Header]) -> SceneReferences:
    """The arrays that ``headers`` (one per band) become in the cube of ``scene``'s tile.

    Raises:
        UnreadableFileError: a header's CRS is another than the scene's, its ground is none of the
            tile's, two files of one band, or more tiles than any archive's scene has: then of the
            file with most of them.
    """
    headers = list(headers)
    tiles = {header.asset.band: _tiles(header) for header in headers}
    if sum(tiles.values()) > MAX_TILES:
        most = max(headers, key=_tiles).asset
        raise UnreadableFileError(
            f"the scene's files have {sum(tiles.values())} tiles, this one {tiles[most.band]} of "
            f"them, and {MAX_TILES} at most can be referenced",
            band=most.band,
            href=most.href,
        )
    arrays: dict[str, ArrayReferences] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for header in sorted(headers, key=lambda h: band_place(h.asset.band)):
        band, href = header.asset.band, header.asset.href
        if header.epsg is not None and header.epsg != scene.epsg:
            raise UnreadableFileError(
                f"the file is in EPSG:{header.epsg}, its item says EPSG:{scene.epsg}",
                band=band,
                href=href,
            )
        first = header.levels[0]
        if not touches_tile(header.transform, first.width, first.height, scene.tile):
            _, _, east, _, _, north = header.transform
            raise UnreadableFileError(
                f"its pixels, from {east:g} east and {north:g} north, are not on the scene's tile "
                f"{scene.tile}",
                band=band,
                href=href,
            )
        for level in header.levels:
            grid = _grid(scene.epsg, header, level)
            group = f"r{grid.pixel_size}m"
            # Rounding can give two grids one name; all arrays of a group share y and x.
            if sizes.setdefault(group, (grid.height, grid.width)) != (grid.height, grid.width):
                group = f"{group}-{grid.height}x{grid.width}"
            spec = _spec(band, group, grid, level)
            if spec.path in arrays:
                raise UnreadableFileError("two images of one size", band=band, href=href)
            arrays[spec.path] = ArrayReferences(
                spec=spec,
                location=header.location,
                offsets=level.offsets.reshape(spec.chunk_grid),
                lengths=level.lengths.reshape(spec.chunk_grid),
                checksum=header.checksum,
            )
    ordered = tuple(arrays[path] for path in sorted(arrays))
    return SceneReferences(
        id=scene.id,
        time=scene.datetime,
        boa_offset=scene.boa_offset,
        arrays=ordered,
        sha256=refs_digest((a.spec.path, a.location, a.offsets, a.lengths) for a in ordered),
    )


def _tiles(header: Header) -> int:
    return sum(level.offsets.size for level in header.levels)


def refs_digest(
    arrays: Iterable[tuple[str, str, NDArray[np.uint64], NDArray[np.uint64]]],
) -> str:
    """Hex SHA-256 over one scene's canonical references; anyone can recompute it from the store.

    ``arrays`` are (path below the cube's root, location, offsets, lengths). In
    the order of the paths, each array that has any reference gives one line of
    UTF-8, ``{path} {location} {chunk grid as 11x11}\\n``, followed by its offsets and then
    its lengths as little-endian unsigned 64-bit integers in C order, both 0
    where a chunk has no reference. The location is ``vcc://{container}/{key}``, so a
    repository pointed at a mirror keeps its digests; the time index is left out.
    """
    digest = hashlib.sha256()
    for array in sorted(arrays, key=lambda array: array[0]):
        digest.update(canonical(*array))
    return digest.hexdigest()


def canonical(
    path: str, location: str, offsets: NDArray[np.uint64], lengths: NDArray[np.uint64]
) -> bytes:
    """What one array of a scene adds to ``refs_digest``; nothing where it has no reference."""
    if not lengths.any():
        return b""
    grid = "x".join(map(str, lengths.shape))
    # A sparse tile may keep an offset; without a length it is no reference.
    starts = np.where(lengths > 0, offsets, 0).astype("<u8")
    line = f"{path} {location} {grid}\n".encode()
    return line + starts.tobytes() + lengths.astype("<u8").tobytes()


def fits(specs: Mapping[str, ArraySpec], cube: Mapping[str, ArraySpec]) -> bool:
    """Whether a scene with ``specs`` can share a cube whose arrays are ``cube``.

    Every array they both have must agree, and so must the grid of every group.
    """
    grids = {spec.group: spec.grid for spec in cube.values()}
    return all(
        cube.get(path, spec) == spec and grids.get(spec.group, spec.grid) == spec.grid
        for path, spec in specs.items()
    )


def variant_root(specs: Mapping[str, ArraySpec]) -> str:
    """Name of the sibling cube that a scene with ``specs`` opens."""
    # Of all a spec says: specs of one name must fit each other's cube.
    text = json.dumps([[path, asdict(spec)] for path, spec in sorted(specs.items())])
    return f"variant-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def spec_of_document(path: str, document: Mapping[str, Any], grid: Grid) -> ArraySpec:
    """The inverse of ``ArraySpec.document``: a data array as found in a store."""
    group, _, band = path.partition("/")
    shape = document["shape"]
    chunk = document["chunk_grid"]["configuration"]["chunk_shape"]
    several = len(shape) == 4
    return ArraySpec(
        band=band,
        group=group,
        grid=grid,
        dtype=document["data_type"],
        samples=shape[1] if several else 1,
        chunk=(chunk[1] if several else 1, chunk[-2], chunk[-1]),
        nodata=_stated(band, document["attributes"].get("_FillValue")),
        codecs=json.dumps(document["codecs"], sort_keys=True),
    )


def _stated(band: str, tagged: int | float | None) -> int | float | None:
    """What an array says of its nodata: of a file that says nothing, what its product says
    (``bands.nodata_of``), so that files with the tag and without it share a cube."""
    if tagged is None and band in BY_NAME and band not in PROBABILITIES:
        return 0
    return tagged


def grid_of_group(document: Mapping[str, Any]) -> Grid:
    """The grid a group's ``zarr.json`` states (``proj:`` and ``spatial:`` attributes)."""
    attributes = document["attributes"]
    height, width = attributes["spatial:shape"]
    return Grid(
        epsg=int(attributes["proj:code"].removeprefix("EPSG:")),
        width=width,
        height=height,
        transform=tuple(attributes["spatial:transform"]),
    )


def group_document(grid: Grid) -> dict[str, Any]:
    """``zarr.json`` of one group, with GeoZarr's ``proj:`` and ``spatial:``."""
    a, _, c, _, e, f = grid.transform
    return _group(
        {
            "Conventions": "CF-1.11",
            "zarr_conventions": [proj_convention.CMO, spatial_convention.CMO],
            "proj:code": f"EPSG:{grid.epsg}",
            "spatial:dimensions": ["y", "x"],
            "spatial:shape": [grid.height, grid.width],
            "spatial:transform_type": "affine",
            "spatial:transform": list(grid.transform),
            "spatial:bbox": [c, f + e * grid.height, c + a * grid.width, f],
            "spatial:registration": "pixel",
        }
    )


def root_document(
    collection: str, tile: str, groups: Mapping[str, Grid], bands: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """``zarr.json`` of a cube's root, with GeoZarr's ``multiscales`` over its groups.

    ``bands`` are the data arrays of each group; they stand in the attributes, so that a cube
    is known after one read.
    """
    names = sorted(groups, key=lambda name: (groups[name].transform[0], name))
    layout: list[dict[str, Any]] = []
    for name in names:
        grid = groups[name]
        entry: dict[str, Any] = {
            "asset": name,
            "spatial:shape": [grid.height, grid.width],
            "spatial:transform": list(grid.transform),
        }
        if layout:
            # Row and column scale, and the half pixel the centres shift by, in source pixels.
            finest = groups[names[0]]
            scale = [finest.height / grid.height, finest.width / grid.width]
            entry["derived_from"] = names[0]
            entry["transform"] = {"scale": scale, "translation": [(s - 1) / 2 for s in scale]}
        else:
            entry["transform"] = {"scale": [1.0, 1.0], "translation": [0.0, 0.0]}
        layout.append(entry)
    described = {
        "format": FORMAT,
        "collection": collection,
        "tile": tile,
        "bands": {name: list(bands[name]) for name in names},
        "variants": [],
    }
    if not groups:
        return _group({"cogcat": described})
    epsg = groups[names[0]].epsg
    return _group(
        {
            "cogcat": described,
            "zarr_conventions": [
                multiscales_convention.CMO,
                proj_convention.CMO,
                spatial_convention.CMO,
            ],
            "proj:code": f"EPSG:{epsg}",
            "spatial:dimensions": ["y", "x"],
            "multiscales": {"layout": layout, "resampling_method": "average"},
        }
    )


def main_document(repository_id: str) -> dict[str, Any]:
    """``zarr.json`` of ``main``: what someone who finds the store alone needs to know."""
    return _group(
        {
            "title": "Sentinel-2 scenes, referenced where they lie",
            "cogcat": {
                "format": FORMAT,
                "id": repository_id,
                "branches": "{collection}/{tile}: one cube per MGRS tile, growing along time",
                "groups": "r{pixel size in metres}m, below the root or below variant-{digest}",
                "arrays": "{group}/{band}: (time, y, x), raw digital numbers",
                "reflectance": f"(DN + boa_offset) * {REFLECTANCE_SCALE}, boa_offset per time step",
                "order": "time is in order of arrival: sort by the time coordinate",
                "references": "vcc://{container}/{key}: byte ranges of the source's own files",
            },
        }
    )


def coordinate_documents(grid: Grid, steps: int) -> dict[str, dict[str, Any]]:
    """``zarr.json`` of a group's coordinate arrays by name, ``steps`` long in time."""
    zstd = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
    plain = [{"name": "bytes", "configuration": {"endian": "little"}}]
    strings = [{"name": "vlen-utf8", "configuration": {}}]
    along_time: dict[str, tuple[str, Any, list[Any], dict[str, Any]]] = {
        "time": (
            "int64",
            0,
            plain,
            {
                "standard_name": "time",
                "long_name": "acquisition, UTC",
                "units": TIME_UNITS,
                "calendar": "proleptic_gregorian",
            },
        ),
        "scene": ("string", "", strings, {"long_name": "STAC item id"}),
        "boa_offset": (
            "int16",
            0,
            plain,
            {"long_name": "added to the DN of reflectance bands before scaling", "units": "1"},
        ),
    }
    documents = {
        name: _array([steps], [TIME_CHUNK], dtype, fill, [*codecs, zstd], ["time"], attributes)
        for name, (dtype, fill, codecs, attributes) in along_time.items()
    }
    for name, size in (("y", grid.height), ("x", grid.width)):
        attributes = {
            "standard_name": f"projection_{name}_coordinate",
            "long_name": f"{name} of pixel centres",
            "units": "m",
            "axis": name.upper(),
        }
        documents[name] = _array([size], [size], "float64", 0.0, [*plain, zstd], [name], attributes)
    documents["spatial_ref"] = _array([], [], "int64", 0, plain, [], grid_mapping(grid))
    return documents


def grid_mapping(grid: Grid) -> dict[str, Any]:
    """Attributes of ``spatial_ref``: CF grid mapping, WKT, and ``GeoTransform`` in GDAL order."""
    a, b, c, d, e, f = grid.transform
    return {**_cf(grid.epsg), "GeoTransform": " ".join(repr(v) for v in (c, a, b, f, d, e))}


@cache
def _cf(epsg: int) -> dict[str, Any]:
    return dict(CRS.from_epsg(epsg).to_cf())


def _grid(epsg: int, header: Header, level: Level) -> Grid:
    a, b, c, d, e, f = header.transform
    full = header.levels[0]
    # GDAL: an overview covers exactly what the full resolution covers.
    across, down = full.width / level.width, full.height / level.height
    transform = (a * across, b * down, c, d * across, e * down, f)
    return Grid(epsg=epsg, width=level.width, height=level.height, transform=transform)


def _spec(band: str, group: str, grid: Grid, level: Level) -> ArraySpec:
    samples = level.samples if level.interleaved else 1
    return ArraySpec(
        band=band,
        group=group,
        grid=grid,
        dtype=level.dtype,
        samples=level.samples,
        chunk=(samples, level.tile_height, level.tile_width),
        nodata=_stated(band, level.nodata),
        codecs=_codecs(
            level.predictor, level.compression, level.byte_order, level.dtype, samples > 1
        ),
    )


@cache
def _codecs(
    predictor: int, compression: int, byte_order: str, dtype: str, interleaved: bool
) -> str:
    """From array to bytes, as Zarr lists them.

    Samples that lie side by side are put back by the core ``transpose`` codec:
    (time, band, y, x) is stored as (time, y, x, band). virtual-tiff's ``ChunkyCodec``
    does the same for three axes only.
    """
    chain: list[dict[str, Any]] = []
    if predictor == 2:
        chain.append({"name": "HorizontalDeltaCodec"})
        if byte_order == "big" and np.dtype(dtype).itemsize > 1:
            # It sums up native integers, whatever the bytes codec below hands it.
            there, here = (f"{order}{np.dtype(dtype).str[1:]}" for order in "><")
            swap = {"encode_dtype": there, "decode_dtype": here}
            chain.append({"name": "numcodecs.astype", "configuration": swap})
    if interleaved:
        chain.append({"name": "transpose", "configuration": {"order": [0, 2, 3, 1]}})
    if np.dtype(dtype).itemsize > 1:
        chain.append({"name": "bytes", "configuration": {"endian": byte_order}})
    else:
        chain.append({"name": "bytes"})
    if (codec := COMPRESSORS[compression]) is not None:
        with warnings.catch_warnings():
            # All but DEFLATE warn that Zarr's specification does not have them.
            warnings.simplefilter("ignore", UserWarning)
            chain.append(codec().to_dict())
    return json.dumps(chain, sort_keys=True)


def _array(
    shape: Sequence[int],
    chunk: Sequence[int],
    dtype: str,
    fill: Any,
    codecs: Sequence[Any],
    names: Sequence[str],
    attributes: dict[str, Any],
) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": list(codecs),
        "attributes": attributes,
        "dimension_names": list(names),
        "storage_transformers": [],
    }


def _group(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}
