"""STAC items and collections of the look-alike archive, in the words of each catalog.

Property names, asset keys, titles, roles and their quirks follow the documents
that Earth Search v1 and the Planetary Computer serve; the scenes are made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from catalog.bands import BY_NAME
from catalog.demo.products import (
    EARTH_SEARCH_C1,
    EARTH_SEARCH_V1,
    PLANETARY_COMPUTER,
    FileFacts,
    SceneFacts,
    bands_of,
    compact,
    resolution_of,
)

COLLECTION_IDS = {
    EARTH_SEARCH_C1: "sentinel-2-c1-l2a",
    EARTH_SEARCH_V1: "sentinel-2-l2a",
    PLANETARY_COMPUTER: "sentinel-2-l2a",
}
API_ROOTS = {
    EARTH_SEARCH_C1: "/stac/v1",
    EARTH_SEARCH_V1: "/stac/v1",
    PLANETARY_COMPUTER: "/pc/stac/v1",
}

COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_EXTENSION = "https://stac-extensions.github.io"

# common name; centre wavelength and full width at half maximum in µm; title in Collection 1,
# in v1 and in Planetary Computer.
_SPECTRAL: dict[str, tuple[str | None, float, float, str, str, str]] = {
    "coastal": ("coastal", 0.443, 0.027, "Coastal", "Coastal aerosol (band 1)", "Coastal aerosol"),
    "blue": ("blue", 0.49, 0.098, "Blue", "Blue (band 2)", "Blue"),
    "green": ("green", 0.56, 0.045, "Green", "Green (band 3)", "Green"),
    "red": ("red", 0.665, 0.038, "Red", "Red (band 4)", "Red"),
    "rededge1": (
        "rededge",
        0.704,
        0.019,
        "Red Edge 1",
        "Red edge 1 (band 5)",
        "Vegetation red edge 1",
    ),
    "rededge2": (
        "rededge",
        0.74,
        0.018,
        "Red Edge 2",
        "Red edge 2 (band 6)",
        "Vegetation red edge 2",
    ),
    "rededge3": (
        "rededge",
        0.783,
        0.028,
        "Red Edge 3",
        "Red edge 3 (band 7)",
        "Vegetation red edge 3",
    ),
    "nir": ("nir", 0.842, 0.145, "NIR 1", "NIR 1 (band 8)", "NIR"),
    "nir08": ("nir08", 0.865, 0.033, "NIR 2", "NIR 2 (band 8A)", "Vegetation red edge 4"),
    "nir09": ("nir09", 0.945, 0.026, "NIR 3", "NIR 3 (band 9)", "Water vapor"),
    "swir16": ("swir16", 1.61, 0.143, "SWIR 1.6μm", "SWIR 1 (band 11)", "SWIR (1.6)"),
    "swir22": ("swir22", 2.19, 0.242, "SWIR 2.2μm", "SWIR 2 (band 12)", "SWIR (2.2)"),
}
_OTHER_TITLES = {
    "visual": "True color image",
    "scl": "Scene classification map (SCL)",
    "aot": "Aerosol optical thickness (AOT)",
    "wvp": "Water Vapour (WVP)",
    "cloud": "Cloud Probabilities",
    "snow": "Snow Probabilities",
}
_ROLES_C1 = {"visual": ["visual"], "cloud": ["data", "cloud"], "snow": ["data", "snow-ice"]}


def item(
    dialect: str,
    scene: SceneFacts,
    files: Mapping[str, FileFacts],
    *,
    base_url: str,
    true_shapes: bool = True,
) -> dict[str, Any]:
    """The STAC 1.0.0 item of a scene.

    Args:
        files: asset key or band name → file.
        base_url: of the server, without a last slash; files are below ``/files``.
        true_shapes: False says 20 m for every aot and wvp of v1, as Earth Search
            does, though those files are 60 and 10 m.
    """
    if dialect == PLANETARY_COMPUTER:
        return _item_pc(scene, files, base_url)
    return _item_earth_search(dialect, scene, files, base_url, true_shapes)


def _item_earth_search(
    dialect: str,
    scene: SceneFacts,
    files: Mapping[str, FileFacts],
    base_url: str,
    true_shapes: bool,
) -> dict[str, Any]:
    c1 = dialect == EARTH_SEARCH_C1
    item_id, collection = scene.item_id(dialect), COLLECTION_IDS[dialect]
    api = base_url + API_ROOTS[dialect]
    baseline = scene.baseline(dialect)
    zone, band, square = int(scene.tile[:2]), scene.tile[2], scene.tile[3:]
    azimuth, elevation = scene.sun
    created = _stamp(scene.created, "milliseconds")
    bucket, _, key = scene.directory(dialect).partition("/")
    esa = scene.satellite + "_OPER_MSI_L2A"
    generated, strip = compact(scene.generated), compact(scene.strip)
    station = f"2{scene.satellite[-1]}PS"
    granule = f"{esa}_TL_{station}_{generated}_A{scene.absolute_orbit:06}_T{scene.tile}_N{baseline}"
    properties: dict[str, Any] = {
        "created": created,
        "platform": scene.platform,
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "eo:cloud_cover": scene.cloud_cover,
        "proj:epsg": scene.epsg,
        "proj:centroid": {
            "lat": round(scene.centroid[1], 5),
            "lon": round(scene.centroid[0], 5),
        },
        "mgrs:utm_zone": zone,
        "mgrs:latitude_band": band,
        "mgrs:grid_square": square,
        "grid:code": f"MGRS-{scene.tile}",
        "view:azimuth": 104.6,
        "view:incidence_angle": 4.47,
        "view:sun_azimuth": azimuth,
        "view:sun_elevation": elevation,
        "s2:tile_id" if c1 else "s2:granule_id": granule,
        **_percentages(scene),
        "s2:product_type": "S2MSI2A",
        "s2:processing_baseline": baseline,
        "s2:product_uri": scene.product(dialect),
        "s2:generation_time": _stamp(scene.generated, "microseconds"),
        "s2:datatake_id": _datatake(scene, baseline),
        "s2:datatake_type": "INS-NOBS",
        "s2:datastrip_id": f"{esa}_DS_{station}_{generated}_S{strip}_N{baseline}",
        "s2:reflectance_conversion_factor": 1.0,
        "datetime": _stamp(scene.seen, "microseconds"),
    }
    if c1:
        properties |= {
            "earthsearch:payload_id": f"synthetic/{item_id}",
            "storage:platform": "AWS",
            "storage:region": "us-west-2",
            "storage:requester_pays": False,
            "processing:software": {"cogcat-demo": "synthetic"},
        }
    else:
        for name in ("proj:centroid", "view:azimuth", "view:incidence_angle"):
            del properties[name]
        properties |= {
            "s2:sequence": "0",
            "earthsearch:s3_path": f"s3://{bucket}/{key}",
            "earthsearch:payload_id": f"synthetic/{item_id}",
            "earthsearch:boa_offset_applied": baseline >= "04.00",
            "processing:software": {"cogcat-demo": "synthetic"},
        }
    properties["updated"] = created

    day = f"{zone}/{band}/{square}/{scene.seen.year}/{scene.seen.month}/{scene.seen.day}"
    jp2 = f"s3://sentinel-s2-l2a/tiles/{day}/0"
    assets: dict[str, Any] = {}
    for name in [band for band in bands_of(dialect) if band in files]:
        assets[name] = _asset_c1(scene, name) if c1 else _asset_v1(scene, name, true_shapes)
    for name in scene.other_files(dialect):
        assets[name] = dict(_OTHER_ASSETS[name])
        if name == "preview":
            assets[name]["eo:bands"] = [_eo_band_c1(part) for part in ("red", "green", "blue")]
    for name, asset in assets.items():
        assets[name] = {"href": f"{base_url}/files/{files[name].key}", **asset}
        if c1:
            assets[name]["file:checksum"] = f"1220{files[name].sha256}"
            assets[name]["file:size"] = files[name].size
            assets[name]["roles"] = assets[name].pop("roles")
    if not c1:
        for name in [band for band in bands_of(dialect) if band in files]:
            assets[f"{name}-jp2"] = {
                **assets[name],
                "href": f"{jp2}/{BY_NAME[name].number}.jp2",
                "type": "image/jp2",
            }

    collection_url = f"{api}/collections/{collection}"
    self_url = f"{collection_url}/items/{item_id}"
    canonical = f"s3://{bucket}/{key}/{item_id}.json"
    links = [
        {"rel": "self", "type": "application/geo+json", "href": self_url},
        {"rel": "canonical", "href": canonical, "type": "application/json"},
        {
            "rel": "via",
            "href": f"{jp2}/metadata.xml",
            "type": "application/xml",
            "title": "Granule Metadata in Sinergize RODA Archive",
        },
        {"rel": "parent", "type": "application/json", "href": collection_url},
        {"rel": "collection", "type": "application/json", "href": collection_url},
        {"rel": "root", "type": "application/json", "href": api},
    ]
    names = "processing/v1.1.0 grid/v1.0.0 raster/v1.1.0 view/v1.0.0 projection/v1.1.0 mgrs/v1.0.0"
    if c1:
        names = (
            "eo/v1.1.0 file/v2.1.0 grid/v1.1.0 mgrs/v1.0.0 processing/v1.1.0 projection/v1.1.0 "
            "raster/v1.1.0 sentinel-2/v1.0.0 storage/v1.0.0 view/v1.0.0"
        )
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": item_id,
        "properties": properties,
        "geometry": _geometry(scene),
        "links": links,
        "assets": assets,
        "bbox": [round(value, 6) for value in scene.bbox()],
        "stac_extensions": [
            f"{_EXTENSION}/{name}/schema.json"
            for name in (names if c1 else f"{names} eo/v1.1.0").split()
        ],
        "collection": collection,
    }


_OTHER_ASSETS: dict[str, dict[str, Any]] = {
    "preview": {"type": COG, "title": "True color preview", "roles": ["overview"]},
    "granule_metadata": {"type": "application/xml", "roles": ["metadata"]},
    "tileinfo_metadata": {"type": "application/json", "roles": ["metadata"]},
    "product_metadata": {"type": "application/xml", "roles": ["metadata"]},
    "thumbnail": {
        "type": "image/jpeg",
        "title": "Thumbnail of preview image",
        "roles": ["thumbnail"],
    },
}


def _asset_c1(scene: SceneFacts, band: str) -> dict[str, Any]:
    resolution = resolution_of(EARTH_SEARCH_C1, band)
    asset: dict[str, Any] = {"type": COG, "title": _OTHER_TITLES.get(band)}
    if band in _SPECTRAL:
        asset["title"] = f"{_SPECTRAL[band][3]} - {resolution}m"
        asset["eo:bands"] = [_eo_band_c1(band)]
    elif band == "visual":
        asset["eo:bands"] = [_eo_band_c1(name) for name in ("red", "green", "blue")]
    if band != "snow":
        asset["gsd"] = resolution
    asset |= _grid(scene, resolution)
    if band != "visual":
        asset["raster:bands"] = [_raster_band(band, resolution, offset=-0.1)]
    asset["roles"] = _ROLES_C1.get(band, ["data", "reflectance"] if band in _SPECTRAL else ["data"])
    return asset


def _asset_v1(scene: SceneFacts, band: str, true_shapes: bool) -> dict[str, Any]:
    resolution = resolution_of(EARTH_SEARCH_V1, band)
    if band in ("aot", "wvp") and not true_shapes:
        resolution = 20
    asset: dict[str, Any] = {"type": COG, "title": _OTHER_TITLES.get(band)}
    if band in _SPECTRAL:
        asset["title"] = f"{_SPECTRAL[band][4]} - {resolution}m"
        asset["eo:bands"] = [_eo_band_v1(band)]
        asset["gsd"] = resolution
    elif band == "visual":
        asset["eo:bands"] = [_eo_band_v1(name) for name in ("red", "green", "blue")]
    asset |= _grid(scene, resolution)
    if band != "visual":
        # Listed even where boa_offset_applied says that the pixels are shifted already.
        offset = -0.1 if scene.baseline(EARTH_SEARCH_V1) >= "04.00" else 0
        raster = _raster_band(band, resolution, offset=offset)
        if raster["data_type"] == "uint16":
            raster["bits_per_sample"] = 15
        asset["raster:bands"] = [raster]
    asset["roles"] = ["visual"] if band == "visual" else ["data", "reflectance"]
    return asset


def _raster_band(band: str, resolution: int, *, offset: float) -> dict[str, Any]:
    raster: dict[str, Any] = {"nodata": 0, "data_type": "uint16", "spatial_resolution": resolution}
    if band in _SPECTRAL:
        return raster | {"scale": 0.0001, "offset": offset}
    if band in ("aot", "wvp"):
        return raster | ({"unit": "cm"} if band == "wvp" else {}) | {"scale": 0.001, "offset": 0}
    return raster | {"data_type": "uint8"}


def _eo_band_c1(band: str) -> dict[str, Any]:
    common_name, centre, width, *_ = _SPECTRAL[band]
    return {
        "name": BY_NAME[band].number,
        "common_name": common_name,
        "center_wavelength": centre,
        "full_width_half_max": width,
    }


def _eo_band_v1(band: str) -> dict[str, Any]:
    return _eo_band_c1(band) | {"name": band, "description": _SPECTRAL[band][4]}


def _item_pc(scene: SceneFacts, files: Mapping[str, FileFacts], base_url: str) -> dict[str, Any]:
    dialect = PLANETARY_COMPUTER
    item_id, collection = scene.item_id(dialect), COLLECTION_IDS[dialect]
    api = base_url + API_ROOTS[dialect]
    baseline = scene.baseline(dialect)
    azimuth, elevation = scene.sun
    generated, strip = compact(scene.generated), compact(scene.strip)
    esa = scene.satellite + "_OPER_MSI_L2A"
    granule = f"{esa}_TL_MSFT_{generated}_A{scene.absolute_orbit:06}_T{scene.tile}_N{baseline}"
    properties: dict[str, Any] = {
        # Of the data take, unlike Earth Search's; all tiles of a pass share it.
        "datetime": _stamp(scene.sensing.replace(microsecond=24_000), "milliseconds"),
        "platform": f"Sentinel-2{scene.satellite[-1]}",
        "proj:epsg": scene.epsg,
        "instruments": ["msi"],
        "s2:mgrs_tile": scene.tile,
        "constellation": "Sentinel 2",
        "s2:granule_id": granule,
        "eo:cloud_cover": scene.cloud_cover,
        "s2:datatake_id": _datatake(scene, baseline),
        "s2:product_uri": scene.product(dialect),
        "s2:datastrip_id": f"{esa}_DS_MSFT_{generated}_S{strip}_N{baseline}",
        "s2:product_type": "S2MSI2A",
        "sat:orbit_state": "descending",
        "s2:datatake_type": "INS-NOBS",
        "s2:generation_time": _stamp(scene.generated, "microseconds"),
        "sat:relative_orbit": scene.orbit,
        "s2:mean_solar_zenith": 90 - elevation,
        "s2:mean_solar_azimuth": azimuth,
        "s2:processing_baseline": baseline,
        **_percentages(scene),
        "s2:reflectance_conversion_factor": 1.0,
    }
    (west, north), extent = scene.origin, scene.width * scene.pixel_size
    assets: dict[str, Any] = {}
    for band in [band for band in bands_of(dialect) if band in files]:
        resolution = resolution_of(dialect, band)
        asset: dict[str, Any] = {
            "href": f"{base_url}/files/{files[band].key}",
            "title": _OTHER_TITLES.get(band),
            "type": COG,
            "roles": ["data"],
            "proj:bbox": [west, north - extent, west + extent, north],
            **_grid(scene, resolution),
            "gsd": float(resolution),
        }
        if band in _SPECTRAL:
            asset["title"] = f"{_pc_title(band)} - {resolution}m"
            asset["eo:bands"] = [_eo_band_pc(band)]
        elif band == "visual":
            asset["eo:bands"] = [_eo_band_pc(name) for name in ("red", "green", "blue")]
        assets[band if band == "visual" else BY_NAME[band].number] = asset
    for name in scene.other_files(dialect):
        asset = {"href": f"{base_url}/files/{files[name].key}", "title": name.replace("-", " ")}
        if name == "preview":
            asset |= {"title": "Thumbnail", "type": COG, "roles": ["thumbnail"]}
        else:
            asset |= {"type": "application/xml", "roles": ["metadata"]}
        assets[name] = asset
    collection_url = f"{api}/collections/{collection}"
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            f"{_EXTENSION}/{name}/v1.0.0/schema.json" for name in ("eo", "sat", "projection")
        ],
        "id": item_id,
        "geometry": _geometry(scene),
        "bbox": [round(value, 7) for value in scene.bbox()],
        "properties": properties,
        "links": [
            {"href": collection_url, "rel": "collection", "type": "application/json"},
            {"href": collection_url, "rel": "parent", "type": "application/json"},
            {"href": f"{api}/", "rel": "root", "type": "application/json"},
            {
                "href": f"{collection_url}/items/{item_id}",
                "rel": "self",
                "type": "application/geo+json",
            },
        ],
        "assets": assets,
        "collection": collection,
    }


def _pc_title(band: str) -> str:
    number = BY_NAME[band].number[1:].lstrip("0")
    return f"Band {number} - {_SPECTRAL[band][5]}"


def _eo_band_pc(band: str) -> dict[str, Any]:
    entry = _eo_band_c1(band) | {"description": _pc_title(band)}
    if band == "nir08":
        entry["common_name"] = "rededge"
    if band == "nir09":
        del entry["common_name"]
    return entry


def _grid(scene: SceneFacts, resolution: int) -> dict[str, Any]:
    """``proj:shape`` (rows, columns) and ``proj:transform`` in affine order, metres."""
    pixel = scene.pixel_size * resolution // 10
    size = scene.width * 10 // resolution
    west, north = scene.origin
    return {
        "proj:shape": [size, size],
        "proj:transform": [pixel, 0, west, 0, -pixel, north],
    }


def _percentages(scene: SceneFacts) -> dict[str, float]:
    classes = {
        2: "dark_features",
        3: "cloud_shadow",
        4: "vegetation",
        5: "not_vegetated",
        6: "water",
        7: "unclassified",
        8: "medium_proba_clouds",
        9: "high_proba_clouds",
        11: "snow_ice",
    }
    return {
        "s2:degraded_msi_data_percentage": 0.0,
        "s2:nodata_pixel_percentage": scene.nodata_percentage,
        "s2:saturated_defective_pixel_percentage": 0,
        **{
            f"s2:{name}_percentage": scene.class_percentages.get(number, 0.0)
            for number, name in classes.items()
        },
        "s2:thin_cirrus_percentage": scene.class_percentages.get(10, 0.0),
    }


def _geometry(scene: SceneFacts) -> dict[str, Any]:
    ring = [list(corner) for corner in scene.outline]
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}


def _datatake(scene: SceneFacts, baseline: str) -> str:
    return f"G{scene.satellite}_{compact(scene.sensing)}_{scene.absolute_orbit:06}_N{baseline}"


def _stamp(moment: datetime, precision: str) -> str:
    return moment.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def collection(dialect: str, *, base_url: str) -> dict[str, Any]:
    """The STAC 1.0.0 collection that a dialect's items belong to."""
    collection_id = COLLECTION_IDS[dialect]
    api = base_url + API_ROOTS[dialect]
    url = f"{api}/collections/{collection_id}"
    title = "Sentinel-2 Level-2A"
    if dialect == EARTH_SEARCH_C1:
        title = "Sentinel-2 Collection 1 Level-2A"
    platforms = ["sentinel-2a", "sentinel-2b"]
    if dialect == PLANETARY_COMPUTER:
        platforms = ["Sentinel-2A", "Sentinel-2B"]
    return {
        "type": "Collection",
        "id": collection_id,
        "stac_version": "1.0.0",
        "title": title,
        "description": f"{title} look-alike made by cogcat. The pixels are synthetic: no satellite "
        "has seen these fields.",
        "links": [
            {"rel": "self", "type": "application/json", "href": url},
            {"rel": "parent", "type": "application/json", "href": api},
            {"rel": "root", "type": "application/json", "href": api},
            {"rel": "items", "type": "application/geo+json", "href": f"{url}/items"},
        ],
        "stac_extensions": [],
        "extent": {
            "spatial": {"bbox": [[-180, -90, 180, 90]]},
            "temporal": {"interval": [["2015-06-27T10:25:31.456000Z", None]]},
        },
        "license": "proprietary",
        "keywords": ["sentinel", "earth observation", "synthetic"],
        "providers": [{"name": "cogcat demo", "roles": ["producer", "processor", "host"]}],
        "summaries": {
            "platform": platforms,
            "constellation": ["sentinel-2"],
            "instruments": ["msi"],
            "gsd": [10, 20, 60],
        },
    }
