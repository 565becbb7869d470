"""STAC document → Scene: the one border where a foreign item becomes ours.

Pure: no request is made. What a scene cannot do without raises ``ItemError``;
what it can (cloud cover, checksums, sizes …) becomes None with a sentence in
``Scene.warnings``. Items of STAC 1.0 and 1.1 are read, of three dialects and of
any catalog that gives a tile, an EPSG code, a time, a footprint and COGs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from shapely.geometry.base import BaseGeometry

from catalog.bands import BANDS, band_names
from catalog.boa_offset import boa_offset_of
from catalog.errors import ItemError, UsageError, fit
from catalog.footprint import footprint_shape, stored_footprint
from catalog.ground import grid_ground, lies_on_tile, tile_ground
from catalog.item_assets import Found, band_cogs, read_assets
from catalog.item_properties import (
    PRODUCT_NAMES,
    acquisition_of,
    baseline_of,
    cloud_cover_of,
    platform_of,
    time_beside,
    time_fault,
)
from catalog.json_values import band_list, bounded, bounded_notes, brief, whole
from catalog.names import name_fault, recorded_name
from catalog.parse import parse_instant, parse_tile
from catalog.scene import Asset, Scene
from catalog.unreadable import UnreadableItem

_CORE = tuple(band.name for band in BANDS if band.reflectance and band.name != "cirrus")
EXPECTED_BANDS: dict[str, tuple[str, ...]] = {
    "earth-search-c1": (*_CORE, "visual", "scl", "aot", "wvp", "cloud", "snow"),
    "earth-search-v1": (*_CORE, "visual", "scl", "aot", "wvp"),
    "planetary-computer": (*_CORE, "visual", "scl", "aot", "wvp"),
    "generic": (*_CORE, "scl"),
}
"""What every scene of a dialect has; an item with less gets a warning that names the rest."""

LONGEST = 4 << 20
"""Characters of an item's JSON; real ones have some 20 000."""
_REASON = 250
_BAND_NUMBERS = frozenset(band.number for band in BANDS)
_TILE_PARTS = ("utm_zone", "latitude_band", "grid_square")
_TILE_IN_NAME = re.compile(r"(?:^|_)T?(\d{1,2}[C-X][A-Z]{2})(?=[_.]|$)", re.ASCII)
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
        raise ItemError(
            bounded(error.reason, _REASON),
            scene=recorded_name(name),
            band=error.band,
            href=error.href,
        ) from error.__cause__


def item_sha256(item: Mapping[str, Any]) -> str:
    """Hex SHA-256 of the item as served.

    Of ``json.dumps(item, sort_keys=True, separators=(",", ":"), ensure_ascii=False)``
    in UTF-8: anyone can recompute it from the document, whatever its white space.

    Raises:
        ItemError: not JSON.
    """
    return hashlib.sha256(_canonical(item).encode()).hexdigest()


def _canonical(item: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(item, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ItemError("the item is not JSON that can be encoded as UTF-8") from error
    return text


def _holds_no_number(text: str, item: Mapping[str, Any]) -> bool:
    if "NaN" not in text and "Infinity" not in text:
        return False
    try:
        json.dumps(item, allow_nan=False)
    except ValueError:
        return True
    return False


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
    for prefix in ("mgrs", "sentinel"):
        parts = [properties.get(f"{prefix}:{key}") for key in _TILE_PARTS]
        if all(isinstance(part, int | str) for part in parts):
            zone = whole(parts[0], 100)  # 13.0 too
            name = "".join(
                part if isinstance(part, str) else brief(part)
                for part in (parts[0] if zone is None else zone, *parts[1:])
            )
            said[f"{prefix}:utm_zone"] = _tile(name, f"{prefix}:utm_zone and its fellows")
    for source, text in (
        *((key, properties.get(key)) for key in PRODUCT_NAMES),
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
        ItemError: neither, not RFC 3339 with an offset, before Sentinel-2 flew or in the future.
    """
    properties = _properties(item)
    for key in ("datetime", "start_datetime"):
        if (text := properties.get(key)) is not None:
            if not isinstance(text, str):
                raise ItemError(f"{key} is not text")
            try:
                moment = parse_instant(text)
            except ValueError as error:
                raise ItemError(f"{key}: {error}") from error
            if fault := time_fault(moment):
                raise ItemError(f"{key} is {brief(text)}, {fault}")
            return moment
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
    text = _canonical(item)
    if len(text) > LONGEST:
        raise ItemError(f"more than {LONGEST >> 20} MB of JSON: no item of a scene is so long")
    if _holds_no_number(text, item):
        notes.append("it holds NaN or Infinity, which are not JSON.")
    name = _name(item, "id")
    collection = _name(item, "collection")
    if "/" in collection or any(character.isspace() for character in collection):
        raise ItemError(f"collection {brief(collection)} holds a slash or white space")
    properties = _properties(item)
    when = time_of_item(item)
    if properties.get("datetime") is None:
        notes.append("datetime is null; start_datetime is used.")
    dialect = dialect_of_item(item)
    found = band_cogs(item)
    tile = tile_of_item(item)
    epsg = _epsg(properties, found)
    _check_zone(tile, epsg)
    baseline, baseline_source = baseline_of(properties, notes)
    boa_offset, boa_evidence = boa_offset_of(properties, found, baseline, baseline_source, notes)
    assets, refused = read_assets(properties, found, wanted, notes)
    wkb, bbox = stored_footprint(_footprint(item, tile, epsg, assets, notes))
    expected = EXPECTED_BANDS[dialect] if wanted is None else wanted
    present = {*refused, *(asset.band for asset in assets)}
    if missing := [band for band in expected if band not in present]:
        notes.append(f"no asset for {band_list(missing)}.")
    return Scene(
        id=name,
        collection=collection,
        dialect=dialect,
        tile=tile,
        epsg=epsg,
        datetime=when,
        platform=platform_of(properties, notes),
        cloud_cover=cloud_cover_of(properties, notes),
        baseline=baseline,
        acquisition=acquisition_of(properties),
        footprint=wkb,
        bbox=bbox,
        created=time_beside(properties, "created", notes),
        updated=time_beside(properties, "updated", notes),
        boa_offset=boa_offset,
        boa_evidence=boa_evidence,
        warnings=bounded_notes(map(fit, notes)),
        item_sha256=hashlib.sha256(text.encode()).hexdigest(),
        assets=assets,
        refused=refused,
    )


def _properties(item: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = item.get("properties")
    if not isinstance(properties, Mapping):
        raise ItemError("no properties")
    return properties


def _name(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    if fault := name_fault(value):
        raise ItemError(f"its {key} is {brief(value)}, {fault}")
    assert isinstance(value, str)
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


def _footprint(
    item: Mapping[str, Any], tile: str, epsg: int, assets: Sequence[Asset], notes: list[str]
) -> BaseGeometry:
    """The item's own, or where that cannot be the footprint of a scene of its tile, the ground of
    its files, or of its tile."""
    geometry = item.get("geometry")
    try:
        if geometry is None:
            raise ValueError("no geometry")
        shape = footprint_shape(geometry)
        if lies_on_tile(shape, tile):
            return shape
        raise ValueError(f"the geometry does not lie on its tile {tile}")
    except ValueError as error:
        fault = str(error)
    for asset in assets:
        if asset.shape is None or asset.transform is None:
            continue
        with contextlib.suppress(ValueError):
            rows, columns = asset.shape
            shape = grid_ground(epsg, asset.transform, columns, rows)
            if lies_on_tile(shape, tile):
                notes.append(f"{fault}: the ground of its file of band {asset.band} is used.")
                return shape
    notes.append(f"{fault}: the ground of its whole tile is used.")
    return tile_ground(tile)
