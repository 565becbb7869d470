"""Scenes of the catalog as STAC 1.1 items and collections: plain dicts, made of records alone.

An item has an asset for each COG, under its source's address, and the asset ``icechunk``, which is
the scene in the repository. That one follows what the field has agreed on so far:

- media type ``application/vnd.zarr+icechunk``; ``version`` is the snapshot id; the href is the
  repository (xpystac, ``xpystac/_icechunk.py``, which opens such assets)
- roles ``data``, ``references``, ``virtual`` (the NASA VEDA and virtual-zarr-workshop collections)
- ``vrt:hrefs`` points at the source assets by JSON pointer, and demands the role ``virtual``
  (stac-extensions/virtual-assets 1.0.0, README)
- ``storage:schemes`` in the properties, ``storage:refs`` on assets in object stores; types
  ``aws-s3`` and ``custom-s3`` (stac-extensions/storage 2.0.0, README and ``platforms/``);
  ``anonymous`` beside them is what xpystac reads
- ``version`` and ``deprecated`` (stac-extensions/version 1.2.0); deprecated is what was withdrawn,
  processed again under another id, or written anew since
- ``zarr:`` fields say how to open it (stac-extensions/zarr 1.1.0), the link ``store`` where it is
  and ``bands`` which arrays there are (radiantearth/stac-best-practices, best-practices-zarr.md)
- ``file:checksum`` (stac-extensions/file 2.1.0) is a multihash; a scene in a repository is no file,
  so here it is the multihash of ``refs_sha256``: of all byte ranges that the asset stands for

No extension says which part of a store is meant, so ``cogcat:branch``, ``cogcat:group`` (of the
cube; its resolutions ``r10m`` … lie below) and ``cogcat:time_index`` do.

Addresses lose user names, passwords and queries on their way here. No secret is known anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from catalog.bands import BANDS, BY_NAME
from catalog.footprint import footprint_geojson, narrowest_span, wrapped
from catalog.parse import Box, format_datetime
from catalog.recorded import AssetRecord, CollectionExtent, DescribedScene, SceneRecord
from catalog.settings import Source

STAC_VERSION = "1.1.0"
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
ICECHUNK = "application/vnd.zarr+icechunk"
ICECHUNK_ASSET = "icechunk"
"""Asset key of the scene in the repository; no band is called so."""

_EXTENSIONS = {
    "eo:": "eo/v2.0.0",
    "file:": "file/v2.1.0",
    "grid:": "grid/v1.1.0",
    "mgrs:": "mgrs/v1.0.0",
    "processing:": "processing/v1.2.0",
    "proj:": "projection/v2.0.0",
    "raster:": "raster/v2.0.0",
    "s2:": "sentinel-2/v1.0.0",
    "storage:": "storage/v2.0.0",
    "version": "version/v1.2.0",
    "deprecated": "version/v1.2.0",
    "vrt:": "virtual-assets/v1.0.0",
    "zarr:": "zarr/v1.1.0",
}
"""By the prefix of their fields."""

# Common names of the eo extension, and centres in micrometres (Sentinel-2 MSI).
_EO: dict[str, tuple[str, float]] = {
    "coastal": ("coastal", 0.443),
    "blue": ("blue", 0.49),
    "green": ("green", 0.56),
    "red": ("red", 0.665),
    "rededge1": ("rededge071", 0.704),
    "rededge2": ("rededge075", 0.74),
    "rededge3": ("rededge078", 0.783),
    "nir": ("nir", 0.842),
    "nir08": ("nir08", 0.865),
    "nir09": ("nir09", 0.945),
    "cirrus": ("cirrus", 1.375),
    "swir16": ("swir16", 1.61),
    "swir22": ("swir22", 2.19),
}


class ItemMaker:
    """Items of one repository's scenes."""

    def __init__(self, sources: Sequence[Source], repository_options: Mapping[str, str]) -> None:
        """
        Args:
            sources: where files are read; says how the object stores of hrefs are reached.
            repository_options: ``region``, ``endpoint`` and ``anonymous`` of an S3 repository.
        """
        self._sources = sources
        self._options = repository_options
        self.schemes: dict[str, dict[str, Any]] = {
            source.name: scheme for source in sources if (scheme := _source_scheme(source))
        }
        """``storage:schemes`` of the sources, by name."""
        self.repository_scheme = "repository"
        """The key of the repository's own scheme, where that lies in an object store."""
        while self.repository_scheme in self.schemes:
            self.repository_scheme += "-icechunk"

    @property
    def scheme_names(self) -> tuple[str, ...]:
        """Every key that ``storage:schemes`` of an item may have."""
        return (self.repository_scheme, *self.schemes)

    def item(self, scene: DescribedScene) -> dict[str, Any]:
        """The item of a scene, whatever its status; every value is plain JSON.

        Fields that are not known are absent. Times are RFC 3339, UTC. The geometry is cut at the
        antimeridian and the bbox has west > east there (RFC 7946).
        """
        record = scene.record
        geometry, bbox = footprint_geojson(record.footprint)
        schemes: dict[str, dict[str, Any]] = {}
        assets = {band: self._cog(record, file, schemes) for band, file in scene.files.items()}
        links = _source_links(record, scene.stac_url)
        deprecated = scene.superseded or record.status == "withdrawn"
        if record.snapshot_id is not None:
            asset = assets[ICECHUNK_ASSET] = self._icechunk(record, scene.files, schemes)
            if deprecated:
                asset["deprecated"] = True
            links.append({"rel": "store", "href": asset["href"], "type": ICECHUNK})
        properties = _properties(record)
        if deprecated:
            properties["deprecated"] = True
        if schemes:
            properties["storage:schemes"] = schemes
        return {
            "type": "Feature",
            "stac_version": STAC_VERSION,
            "stac_extensions": _extensions(properties, assets),
            "id": record.id,
            "collection": record.collection,
            "geometry": geometry,
            "bbox": bbox,
            "properties": properties,
            "links": links,
            "assets": assets,
        }

    def _cog(
        self, record: SceneRecord, file: AssetRecord, schemes: dict[str, dict[str, Any]]
    ) -> dict[str, Any]:
        known = BY_NAME.get(file.band)
        reflectance = known is not None and known.reflectance
        asset: dict[str, Any] = {"href": _public(file.href, query=True), "type": COG}
        if known is not None:
            asset["title"] = known.long_name
        asset["roles"] = (
            ["visual"] if file.band == "visual" else ["data", *(["reflectance"] * reflectance)]
        )
        asset["bands"] = _bands(file.band)
        if file.raster is not None:
            raster = file.raster
            asset["proj:shape"] = [raster.height, raster.width]
            asset["proj:transform"] = list(raster.transform)
            asset["data_type"] = raster.dtype
            if raster.nodata is not None:
                asset["nodata"] = raster.nodata
            asset["gsd"] = raster.transform[0]
        if reflectance:
            asset["raster:scale"] = 0.0001
            asset["raster:offset"] = record.boa_offset / 10000
        if file.size is not None:
            asset["file:size"] = file.size
        if file.checksum is not None:
            asset["file:checksum"] = file.checksum
        source = next((s for s in self._sources if file.href.startswith(s.match)), None)
        if source is not None and (scheme := self.schemes.get(source.name)):
            schemes[source.name] = scheme
            asset["storage:refs"] = [source.name]
        return asset

    def _icechunk(
        self,
        record: SceneRecord,
        files: Mapping[str, AssetRecord],
        schemes: dict[str, dict[str, Any]],
    ) -> dict[str, Any]:
        asset: dict[str, Any] = {
            "href": repository_href(record.repository),
            "type": ICECHUNK,
            "title": "All bands and resolutions, virtual Zarr in an Icechunk repository",
            "roles": ["data", "references", "virtual"],
            "version": record.snapshot_id,
            "zarr:zarr_format": 3,
            "zarr:node_type": "group",
            "zarr:consolidated": False,
            "cogcat:branch": record.branch,
            "cogcat:group": record.root or "/",
            "cogcat:time_index": record.time_index,
            "bands": [{"name": band} for band in files],
            "vrt:hrefs": [{"key": band, "href": f"#/assets/{band}"} for band in files],
        }
        if record.refs_sha256 is not None:
            asset["file:checksum"] = f"1220{record.refs_sha256}"
        if scheme := _repository_scheme(record.repository, self._options):
            schemes[self.repository_scheme] = scheme
            asset["storage:refs"] = [self.repository_scheme]
        return asset


def collection_document(extent: CollectionExtent) -> dict[str, Any]:
    """A collection of the catalog as a STAC 1.1 collection, without items or links of its own."""
    source = _public(extent.stac_url) if extent.stac_url else None
    first, last = (
        None if at is None else format_datetime(at) for at in (extent.first, extent.last)
    )
    links = []
    if source:
        href = f"{source}/collections/{quote(extent.name, safe='')}"
        links.append({"rel": "derived_from", "href": href, "type": "application/json"})
    return {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": [],
        "id": extent.name,
        "description": f"Sentinel-2 scenes of {extent.name}, as virtual Zarr in Icechunk by cogcat",
        # What the source says of its collection holds; the catalog keeps no copy of it.
        "license": "other",
        "keywords": ["sentinel-2", "cog", "zarr", "icechunk"],
        "extent": {
            "spatial": {"bbox": [enclosing_bbox(extent.boxes)]},
            "temporal": {"interval": [[first, last]]},
        },
        "links": links,
    }


def enclosing_bbox(boxes: Iterable[Box]) -> list[float]:
    """The narrowest bbox around boxes on a round Earth, [west, south, east, north] within ±180.

    Args:
        boxes: (minx, miny, maxx, maxy), degrees; maxx may exceed 180. The whole globe for none.
    """
    held = list(boxes)
    if not held:
        return [-180.0, -90.0, 180.0, 90.0]
    south, north = min(box[1] for box in held), max(box[3] for box in held)
    span = narrowest_span((west, east - west) for west, _, east, _ in held)
    if span is None:
        return [-180.0, south, 180.0, north]
    west, east = map(wrapped, span)
    # An eastern end at the antimeridian is 180, not -180.
    return [west, south, 180.0 if east == -180 else east, north]


@lru_cache(64)
def repository_href(location: str) -> str:
    """``s3://bucket/prefix`` as it is, a path as ``file:///…``."""
    return _public(location) if "://" in location else Path(location).as_uri()


def _properties(record: SceneRecord) -> dict[str, Any]:
    times = {
        name: None if at is None else format_datetime(at)
        for name, at in (("created", record.created), ("updated", record.updated))
    }
    fields = {
        "datetime": format_datetime(record.datetime),
        **times,
        "platform": record.platform,
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "eo:cloud_cover": record.cloud_cover,
        "grid:code": f"MGRS-{record.tile}",
        "mgrs:utm_zone": int(record.tile[:2]),
        "mgrs:latitude_band": record.tile[2],
        "mgrs:grid_square": record.tile[3:],
        "proj:code": f"EPSG:{record.epsg}",
        "processing:level": "L2A",
        "processing:version": record.baseline,
        "s2:processing_baseline": record.baseline,
        "s2:mgrs_tile": record.tile,
        "cogcat:status": record.status,
        "cogcat:revision": record.revision,
        "cogcat:recorded_at": format_datetime(record.recorded_at),
        "cogcat:acquisition": record.acquisition,
        "cogcat:boa_offset": record.boa_offset,
        "cogcat:boa_evidence": record.boa_evidence,
        "cogcat:warnings": list(record.warnings) or None,
        "cogcat:missing": list(record.missing) or None,
        "cogcat:item_sha256": record.item_sha256,
        "cogcat:last_error": record.last_error,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _bands(band: str) -> list[dict[str, Any]]:
    """Of a file, by the product's own numbers: whoever asks by the asset's key finds it by that."""
    names = ("red", "green", "blue") if band == "visual" else (band,)
    bands: list[dict[str, Any]] = []
    for name in names:
        entry: dict[str, Any] = {"name": BY_NAME[name].number if name in BY_NAME else name}
        if name in _EO:
            entry["eo:common_name"], entry["eo:center_wavelength"] = _EO[name]
        bands.append(entry)
    return bands


def _source_links(record: SceneRecord, stac_url: str | None) -> list[dict[str, Any]]:
    # An item with a collection has to link to it; where its source is not known, that lies beside.
    collection = {"rel": "collection", "href": "../collection.json", "type": "application/json"}
    if stac_url is None:
        return [collection]
    collection["href"] = f"{_public(stac_url)}/collections/{quote(record.collection, safe='')}"
    item = f"{collection['href']}/items/{quote(record.id, safe='')}"
    return [
        collection,
        {"rel": "derived_from", "href": item, "type": "application/geo+json"},
    ]


def _extensions(properties: Mapping[str, Any], assets: Mapping[str, Any]) -> list[str]:
    used = (tuple(properties), *map(tuple, assets.values()))
    return list(_extensions_of(used, any(_EO.keys() & assets.keys()) or "visual" in assets))


@lru_cache(1024)
def _extensions_of(used: tuple[tuple[str, ...], ...], eo: bool) -> tuple[str, ...]:
    """Of fields; a search's items have few kinds of them.

    Args:
        eo: whether a band has a field of that extension.
    """
    fields = {field for those in used for field in those} | ({"eo:"} if eo else set())
    names = {
        name
        for field in fields
        if (name := _EXTENSIONS.get(f"{field.partition(':')[0]}:" if ":" in field else field))
    }
    return tuple(f"https://stac-extensions.github.io/{name}/schema.json" for name in sorted(names))


def _source_scheme(source: Source) -> dict[str, Any] | None:
    if source.scheme != "s3":
        return None
    bucket = _host(source.url)
    host, path = _host(source.match), urlsplit(source.match).path.lstrip("/")
    # Where files are read from a mirror, the hrefs say nothing of its bucket.
    if host != bucket and not host.startswith(f"{bucket}.") and path.partition("/")[0] != bucket:
        return None
    scheme = _s3_scheme(bucket, source.region, source.endpoint)
    if source.requester_pays:
        scheme["requester_pays"] = True
    return scheme | {"anonymous": source.anonymous and not source.requester_pays}


def _repository_scheme(location: str, options: Mapping[str, str]) -> dict[str, Any] | None:
    if urlsplit(location).scheme != "s3":
        return None
    scheme = _s3_scheme(_host(location), options.get("region"), options.get("endpoint"))
    return scheme | {"anonymous": options.get("anonymous", "").lower() == "true"}


def _s3_scheme(bucket: str, region: str | None, endpoint: str | None) -> dict[str, Any]:
    if region and not endpoint:
        return {
            "type": "aws-s3",
            "platform": "https://{bucket}.s3.{region}.amazonaws.com",
            "bucket": bucket,
            "region": region,
        }
    platform = _public(endpoint) if endpoint else "https://s3.amazonaws.com"
    scheme = {"type": "custom-s3", "platform": platform, "bucket": bucket}
    return scheme | ({"region": region} if region else {})


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _public(url: str, *, query: bool = False) -> str:
    """Without user name, password and, unless it is part of a file's name, query."""
    if "@" not in url and query:
        return url
    kept = urlsplit(url)._replace(netloc=_host(url))
    if query:
        return urlunsplit(kept)
    return urlunsplit(kept._replace(query="", fragment="")).rstrip("/")


ASSET_KEYS = (*(band.name for band in BANDS), ICECHUNK_ASSET)
"""Every asset an item may have, in their order."""
