"""STAC document → Scene: the one border where a foreign item becomes ours.

Pure: no request is made. What a scene cannot do without raises ``ItemError``;
what it can (cloud cover, checksums, sizes …) becomes None with a sentence in
``Scene.warnings``. Items of STAC 1.0 and 1.1 are read, of three dialects and of
any catalog that gives a tile, an EPSG code, a time, a footprint and COGs.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from catalog.bands import BANDS, band_names
from catalog.boa_offset import boa_offset_of
from catalog.errors import ItemError, UsageError
from catalog.footprint import footprint
from catalog.item_assets import Found, band_cogs, read_assets
from catalog.json_values import band_list, brief, finite, whole
from catalog.parse import parse_instant, parse_platform, parse_tile
from catalog.scene import Scene
from catalog.unreadable import UnreadableItem

_CORE = tuple(band.name for band in BANDS if band.reflectance and band.name != "cirrus")
EXPECTED_BANDS: dict[str, tuple[str, ...]] = {
    "earth-search-c1": (*_CORE, "visual", "scl", "aot", "wvp", "cloud", "snow"),
    "earth-search-v1": (*_CORE, "visual", "scl", "aot", "wvp"),
    "planetary-computer": (*_CORE, "visual", "scl", "aot", "wvp"),
    "generic": (*_CORE, "scl"),
}
"""What every scene of a dialect has; an item with less gets a warning that names the rest."""

_BAND_NUMBERS = frozenset(band.number for band in BANDS)
_TILE_IN_NAME = re.compile(r"(?:^|_)T?(\d{1,2}[C-X][A-Z]{2})(?=[_.]|$)", re.ASCII)
_BASELINE_IN_URI = re.compile(r"_N(\d{4})_", re.ASCII)
_BASELINE = re.compile(r"N?(\d{1,2})\.(\d{1,2})|N?(\d{2})(\d{2})", re.ASCII)
_DATATAKE = re.compile(r"(GS2[A-Z]_\d{8}T\d{6}_\d{6})(?:_N\d{2}\.\d{2})?", re.ASCII)
_DATASTRIP_BEGIN = re.compile(r"_S(\d{8}T\d{6})(?:_|$)", re.ASCII)
_EPSG_CODE = re.compile(r"EPSG:(\d{4,6})", re.ASCII | re.IGNORECASE)


def scene_from_item(item: Mapping[str, Any], *, bands: Sequence[str] | None = None) -> Scene:
    """The scene that a STAC item, parsed from JSON, describes.

    Args:
        item: as served, never changed here.
        bands: names or numbers to keep; None for all that the item has.

    Raises:
        ItemError: the item cannot become a scene; one sentence says why. No other
            exception comes from the document, whatever is in it.
        NotFoundError: ``bands`` names one that Sentinel-2 does not have.
    """
    wanted = None if bands is None else band_names(bands)
    try:
        return _scene(item, wanted)
    except ItemError as error:
        name = item.get("id") if isinstance(item, Mapping) else None
        scene = name if isinstance(name, str) and name.isprintable() else None
        raise ItemError(
            error.reason, scene=scene, band=error.band, href=error.href
        ) from error.__cause__


def item_sha256(item: Mapping[str, Any]) -> str:
    """Hex SHA-256 of the item as served.

    Of ``json.dumps(item, sort_keys=True, separators=(",", ":"), ensure_ascii=False)``
    in UTF-8: anyone can recompute it from the document, whatever its white space.

    Raises:
        ItemError: not JSON.
    """
    try:
        text = json.dumps(item, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()
    except (TypeError, ValueError, RecursionError) as error:
        raise ItemError("the item is not JSON that can be encoded as UTF-8") from error


def tile_of_item(item: Mapping[str, Any]) -> str:
    """The MGRS tile, five characters without the T, from whichever fields name it.

    Raises:
        ItemError: none does, one is malformed, or two contradict each other.
    """
    properties = _properties(item)
    said: dict[str, str] = {}
    code = properties.get("grid:code")
    if isinstance(code, str) and code.upper().startswith("MGRS-"):
        said["grid:code"] = _tile(code, "grid:code")
    if isinstance(code := properties.get("s2:mgrs_tile"), str):
        said["s2:mgrs_tile"] = _tile(code, "s2:mgrs_tile")
    parts = [properties.get(f"mgrs:{key}") for key in ("utm_zone", "latitude_band", "grid_square")]
    if all(isinstance(part, int | str) for part in parts):
        said["mgrs:utm_zone"] = _tile("".join(map(str, parts)), "mgrs:utm_zone and its fellows")
    for source, text in (
        ("s2:product_uri", properties.get("s2:product_uri")),
        ("id", item.get("id")),
    ):
        match = _TILE_IN_NAME.search(text) if isinstance(text, str) else None
        if match:
            try:
                said[source] = parse_tile(match[1])
            except UsageError:
                continue  # a name is free to hold letters that look like a tile
    if not said:
        raise ItemError("no field names its MGRS tile (grid:code, s2:mgrs_tile or mgrs:utm_zone)")
    if len(set(said.values())) > 1:
        claims = ", ".join(f"{source} says {tile}" for source, tile in said.items())
        raise ItemError(f"its fields contradict each other on the tile: {claims}")
    return next(iter(said.values()))


def time_of_item(item: Mapping[str, Any]) -> datetime:
    """``datetime`` of the properties, or ``start_datetime`` where that is null; aware, UTC.

    Raises:
        ItemError: neither, or not RFC 3339 with an offset.
    """
    properties = _properties(item)
    for key in ("datetime", "start_datetime"):
        if (text := properties.get(key)) is not None:
            if not isinstance(text, str):
                raise ItemError(f"{key} is not text")
            try:
                return parse_instant(text)
            except ValueError as error:
                raise ItemError(f"{key}: {error}") from error
    raise ItemError("no datetime")


def dialect_of_item(item: Mapping[str, Any]) -> str:
    """Which catalog wrote the item, from its own fields: a key of ``EXPECTED_BANDS``."""
    properties = _properties(item)
    collection = str(item.get("collection"))
    if any(key.startswith("earthsearch:") for key in properties if isinstance(key, str)):
        return "earth-search-c1" if "-c1-" in collection else "earth-search-v1"
    if collection == "sentinel-2-c1-l2a":
        return "earth-search-c1"
    assets = item.get("assets")
    if (
        "s2:mgrs_tile" in properties
        and isinstance(assets, Mapping)
        and not _BAND_NUMBERS.isdisjoint(assets)
    ):
        return "planetary-computer"
    return "generic"


def _scene(item: Any, wanted: tuple[str, ...] | None) -> Scene:
    if not isinstance(item, Mapping):
        raise ItemError("not a JSON object")
    if isinstance(item, UnreadableItem):
        raise ItemError(item.fault)
    if item.get("type") != "Feature":
        raise ItemError(f"its type is {brief(item.get('type'))}, not 'Feature'")
    notes: list[str] = []
    name = _name(item, "id")
    collection = _name(item, "collection")
    if "/" in collection or any(character.isspace() for character in collection):
        raise ItemError(f"collection {collection!r} holds a slash or white space")
    properties = _properties(item)
    digest = item_sha256(item)
    when = time_of_item(item)
    if properties.get("datetime") is None:
        notes.append("datetime is null; start_datetime is used.")
    dialect = dialect_of_item(item)
    found = band_cogs(item)
    tile = tile_of_item(item)
    epsg = _epsg(properties, found)
    _check_zone(tile, epsg)
    wkb, bbox = _footprint(item)
    baseline, baseline_source = _baseline(properties, notes)
    boa_offset, boa_evidence = boa_offset_of(properties, found, baseline, baseline_source, notes)
    assets = read_assets(properties, found, wanted, notes)
    expected = EXPECTED_BANDS[dialect] if wanted is None else wanted
    present = {asset.band for asset in assets}
    if missing := [band for band in expected if band not in present]:
        notes.append(f"no asset for {band_list(missing)}.")
    return Scene(
        id=name,
        collection=collection,
        dialect=dialect,
        tile=tile,
        epsg=epsg,
        datetime=when,
        platform=_platform(properties, notes),
        cloud_cover=_cloud_cover(properties, notes),
        baseline=baseline,
        acquisition=_acquisition(properties),
        footprint=wkb,
        bbox=bbox,
        created=_optional_time(properties, "created", notes),
        updated=_optional_time(properties, "updated", notes),
        boa_offset=boa_offset,
        boa_evidence=boa_evidence,
        warnings=tuple(notes),
        item_sha256=digest,
        assets=assets,
    )


def _properties(item: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = item.get("properties")
    if not isinstance(properties, Mapping):
        raise ItemError("no properties")
    return properties


def _name(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ItemError(f"its {key} is {brief(value)}, not printable text")
    return value


def _tile(text: str, source: str) -> str:
    try:
        return parse_tile(text)
    except UsageError as error:
        raise ItemError(f"{source}: {brief(text)} is no MGRS tile") from error


def _epsg(properties: Mapping[str, Any], found: Found) -> int:
    codes: dict[int, None] = {}
    for level in (properties, *(asset for _, _, asset in found)):
        code = level.get("proj:epsg")
        if code is not None:
            codes[whole(code, 10**6) or _bad_epsg("proj:epsg", code)] = None
        code = level.get("proj:code")
        if code is not None:
            match = _EPSG_CODE.fullmatch(code) if isinstance(code, str) else None
            codes[int(match[1]) if match else _bad_epsg("proj:code", code)] = None
    if not codes:
        raise ItemError("no EPSG code (proj:epsg or proj:code)")
    if len(codes) > 1:
        raise ItemError(f"two coordinate systems: {', '.join(f'EPSG:{code}' for code in codes)}")
    return next(iter(codes))


def _bad_epsg(key: str, value: Any) -> int:
    raise ItemError(f"{key} is {brief(value)}, not an EPSG code")


def _check_zone(tile: str, epsg: int) -> None:
    zone, north = int(tile[:2]), tile[2] >= "N"
    if epsg not in range(32601, 32661) and epsg not in range(32701, 32761):
        raise ItemError(f"EPSG:{epsg} is not a UTM zone of WGS 84 (326zz or 327zz)")
    if epsg != (32600 if north else 32700) + zone:
        raise ItemError(f"its tile {tile} and its EPSG:{epsg} lie in different UTM zones")


def _footprint(item: Mapping[str, Any]) -> tuple[bytes, tuple[float, float, float, float]]:
    geometry = item.get("geometry")
    if geometry is None:
        raise ItemError("no geometry")
    try:
        return footprint(geometry)
    except ValueError as error:
        raise ItemError(str(error)) from error


def _platform(properties: Mapping[str, Any], notes: list[str]) -> str | None:
    value = properties.get("platform")
    if value is None:
        return None
    try:
        return parse_platform(value)
    except UsageError:
        notes.append(f"platform {brief(value)} is none of Sentinel-2.")
        return None


def _cloud_cover(properties: Mapping[str, Any], notes: list[str]) -> float | None:
    value = properties.get("eo:cloud_cover")
    number = finite(value)
    if number is not None and 0 <= number <= 100:
        return number
    if value is not None:
        notes.append(f"eo:cloud_cover is {brief(value)}, not a percentage.")
    return None


def _optional_time(properties: Mapping[str, Any], key: str, notes: list[str]) -> datetime | None:
    value = properties.get(key)
    if isinstance(value, str):
        try:
            return parse_instant(value)
        except ValueError as error:
            notes.append(f"{key}: {error}.")
    elif value is not None:
        notes.append(f"{key} is {brief(value)}, not a date-time.")
    return None


def _baseline(properties: Mapping[str, Any], notes: list[str]) -> tuple[str | None, str]:
    """The processing baseline, ``05.10``, and the field that says so."""
    for key in ("s2:processing_baseline", "processing:version"):
        value = properties.get(key)
        if value is None:
            continue
        text = f"{value:05.2f}" if isinstance(value, float) and math.isfinite(value) else value
        match = _BASELINE.fullmatch(text.strip().upper()) if isinstance(text, str) else None
        if match:
            major, minor = (match[1], match[2]) if match[1] else (match[3], match[4])
            return f"{int(major):02}.{minor:0<2}", key
        notes.append(f"{key} is {brief(value)}, not a processing baseline.")
    uri = properties.get("s2:product_uri")
    if isinstance(uri, str) and (match := _BASELINE_IN_URI.search(uri)):
        return f"{match[1][:2]}.{match[1][2:]}", "s2:product_uri"
    return None, ""


def _acquisition(properties: Mapping[str, Any]) -> str | None:
    # A tile on the seam of two datastrips of one datatake is two acquisitions, each with its own
    # part of the ground.
    datatake, strip = properties.get("s2:datatake_id"), properties.get("s2:datastrip_id")
    match = _DATATAKE.fullmatch(datatake) if isinstance(datatake, str) else None
    if match is None:
        return None
    begin = _DATASTRIP_BEGIN.search(strip) if isinstance(strip, str) else None
    return f"{match[1]} {begin[1]}" if begin else match[1]
