"""StoredScene: one scene of the catalog, its record and its pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import icechunk
import xarray as xr

from catalog import arrays
from catalog.arrays import Cube
from catalog.bands import band_names
from catalog.errors import NotFoundError
from catalog.footprint import footprint_geojson
from catalog.masks import parse_mask
from catalog.missing import parse_missing
from catalog.opening import Part, checked, mask_scene, open_part, parts_of
from catalog.recorded import AssetRecord, SceneRecord


class StoredScene:
    """One scene as the catalog records it: every field of ``SceneRecord`` as an attribute
    (``id``, ``datetime``, ``branch``, ``snapshot_id``, ``time_index``, ``refs_sha256``,
    ``boa_offset`` …), ``assets`` by band, and ``open`` for its pixels at its own snapshot."""

    def __init__(
        self,
        record: SceneRecord,
        assets: Callable[[SceneRecord], Mapping[str, AssetRecord]],
        store: Callable[[str], icechunk.IcechunkStore],
        repository: str,
    ) -> None:
        self.record = record
        self._load_assets = assets
        self._open_store, self._repository = store, repository
        self._assets: Mapping[str, AssetRecord] | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "record":
            raise AttributeError(name)
        return getattr(self.record, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *SceneRecord.__dataclass_fields__})

    def __repr__(self) -> str:
        record = self.record
        cloud = "" if record.cloud_cover is None else f", {record.cloud_cover:.1f}% cloud"
        return f"<Scene {record.id} {record.datetime:%Y-%m-%d %H:%M}Z{cloud}, {record.status}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoredScene) and other.record == self.record

    def __hash__(self) -> int:
        return hash((self.record.collection, self.record.id, self.record.snapshot_id))

    @property
    def __geo_interface__(self) -> dict[str, Any]:
        """The footprint as a GeoJSON geometry, cut at the antimeridian; for shapely, geopandas …"""
        return footprint_geojson(self.record.footprint)[0]

    @property
    def assets(self) -> Mapping[str, AssetRecord]:
        """By band: ``href``, ``size``, ``etag``, ``last_modified``, ``checksum``,
        ``header_sha256``, ``header_length``, ``raster``."""
        if self._assets is None:
            self._assets = self._load_assets(self.record)
        return self._assets

    def store(self) -> icechunk.IcechunkStore:
        """A read-only Zarr store of the scene's branch at its recorded snapshot.

        Raises:
            NotFoundError: the scene is not indexed, or withdrawn: what it was is at the earlier
                snapshots of its branch.
        """
        if self.record.snapshot_id is None and self.record.status == "indexed":
            raise NotFoundError(
                f"{self.record.id}: the snapshot of its state of "
                f"{self.record.recorded_at:%Y-%m-%dT%H:%M:%SZ} has expired"
            )
        if self.record.snapshot_id is None or self.record.status == "withdrawn":
            reason = f": {self.record.last_error}" if self.record.last_error else ""
            if self.record.status == "withdrawn":
                reason = (
                    f": it is gone from the source since snapshot {self.record.snapshot_id} of "
                    f"{self.record.branch}"
                )
            raise NotFoundError(f"{self.record.id} is {self.record.status}, not indexed{reason}")
        return self._open_store(self.record.snapshot_id)

    def cubes(self) -> list[Cube]:
        """The one cube that holds the scene (a list, as ``arrays`` takes them), with the bands of
        which the scene has a file.

        Raises:
            StoreError: the repository does not have the scene where, when and with the offset that
                the catalog records, or is damaged.
        """
        return self._opened()[2]

    def _opened(
        self, *, all_bands: bool = False
    ) -> tuple[icechunk.IcechunkStore, Part, list[Cube]]:
        record, store = self.record, self.store()
        assert record.branch is not None
        assert record.snapshot_id is not None
        (part,) = parts_of([record], {record.branch: record.snapshot_id})
        (own,) = part.bands
        cubes = [cube for cube in checked(part, store) if cube.root == record.root]
        if own is not None and not all_bands:
            cubes = [cube.having(own) for cube in cubes]
        return store, part, cubes

    def open(
        self,
        resolution: float | None = None,
        bands: Sequence[str] | None = None,
        *,
        mask: Any = None,
        missing: str | None = None,
        reflectance: bool = False,
    ) -> xr.Dataset:
        """The scene at its recorded snapshot: a lazy dataset of (y, x) variables.

        Args:
            resolution: pixel size in metres, one that ``open_tree`` shows; None for the finest
                at which all ``bands`` have an array.
            bands: ``red`` or ``B04`` …; None for all at that resolution.
            mask: classes of scl that become nodata or NaN, as ``masks.parse_mask`` takes them.
            missing: ``nodata`` where a band that the scene does not have, and other scenes of its
                tile do, is to read as nodata, and without scl all of it; else that is an error.
            reflectance: float32 ``(DN + boa_offset) * 0.0001`` with NaN for nodata in reflectance
                bands; else raw digital numbers as stored.

        Returns:
            Pixel centres ``y``, ``x`` in metres of the CRS in ``spatial_ref``; ``visual`` has a
            ``band`` axis before them; scalar ``time`` (UTC), ``scene`` and ``boa_offset``;
            ``attrs`` cite repository, branch and snapshot.

        Raises:
            NotFoundError: not indexed, or no such resolution, band or class; says what there is.
            StoreError: as ``cubes``.
        """
        classes, lenient = parse_mask(mask), parse_missing(missing) == "nodata"
        opened = self._opened(all_bands=lenient and bands is not None)
        names = band_names(bands) if bands is not None else None
        size, chosen = arrays.choose(opened[2], names, resolution, self.record.id)
        return self._open(*opened, size, chosen, reflectance, classes, lenient)

    def open_tree(
        self,
        bands: Sequence[str] | None = None,
        *,
        mask: Any = None,
        missing: str | None = None,
        reflectance: bool = False,
    ) -> xr.DataTree:
        """Every resolution as one lazy tree: nodes ``r10m``, ``r20m`` … as ``open`` gives them.

        Args:
            bands: each node holds those of them it has; None for all.
            mask, missing, reflectance: as in ``open``.

        Raises:
            NotFoundError: not indexed, a band that has no array at any resolution, no such class.
        """
        classes, lenient = parse_mask(mask), parse_missing(missing) == "nodata"
        opened = self._opened(all_bands=lenient and bands is not None)
        cubes = opened[2]
        there = arrays.resolutions(cubes)
        names = band_names(bands) if bands is not None else None
        for name in names or ():
            arrays.choose(cubes, [name], None, self.record.id)
        nodes: dict[str, xr.Dataset] = {}
        for size, held in there.items():
            chosen = [band for band in (names or held) if band in held]
            if chosen:
                nodes[f"r{size}m"] = self._open(
                    *opened, size, chosen, reflectance, classes, lenient
                )
        tree = xr.DataTree.from_dict(nodes)
        tree.attrs.update(self._citation())
        return tree

    def virtual(
        self, resolution: float | None = None, bands: Sequence[str] | None = None
    ) -> xr.Dataset:
        """The scene's references as a VirtualiZarr dataset, at its recorded snapshot: no pixel is
        read, and ``.vz.to_icechunk(…)`` or ``.vz.to_kerchunk(…, zarr_format=3)`` writes them
        elsewhere (Zarr 2 has no word for these codecs).

        Args:
            resolution, bands: as in ``open``.

        Raises:
            NotFoundError: as ``open``.
        """
        from catalog.virtual import virtual_dataset

        store, _, cubes = self._opened()
        names = band_names(bands) if bands is not None else None
        size, chosen = arrays.choose(cubes, names, resolution, self.record.id)
        assert self.record.time_index is not None
        group = f"r{size}m"
        path = f"{self.record.root}/{group}" if self.record.root else group
        dataset = virtual_dataset(store, path, self.record.time_index, chosen)
        dataset.attrs.update(self._citation())
        return dataset

    def _open(
        self,
        store: icechunk.IcechunkStore,
        part: Part,
        cubes: Sequence[Cube],
        resolution: int,
        bands: Sequence[str],
        reflectance: bool,
        classes: Sequence[int],
        lenient: bool,
    ) -> xr.Dataset:
        dataset = open_part(store, cubes, part, resolution, bands, reflectance)
        if classes:
            dataset = mask_scene(dataset, part, store, cubes, classes, resolution, lenient)
        dataset = dataset.isel(time=0)
        dataset.attrs.update(self._citation())
        return dataset

    def _citation(self) -> dict[str, Any]:
        record = self.record
        return {
            "cogcat_repository": self._repository,
            "cogcat_branch": record.branch,
            "cogcat_snapshot": record.snapshot_id,
            "cogcat_scene": record.id,
        }
