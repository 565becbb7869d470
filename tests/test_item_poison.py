"""Poisoned items: each has one right outcome, a scene or an ``ItemError`` and nothing else."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_item import C1, COG, PC, V1, drop, edited, paths_in, put, read, small_item

from catalog.affine import checked_transform
from catalog.bands import BY_NAME
from catalog.demo.archive import build_archive
from catalog.errors import ItemError, UsageError
from catalog.ground import grid_ground, lies_on_tile, tile_ground, tile_transform
from catalog.hrefs import checked_href
from catalog.item import EXPECTED_BANDS, scene_from_item
from catalog.item_properties import FIRST
from catalog.json_values import bounded_notes
from catalog.names import name_fault, recorded_name
from catalog.parse import parse_collection, parse_item_id, parse_tile
from catalog.printable import printable
from catalog.scene import Scene, scene_from_json, scene_to_json

Edit = Callable[[dict[str, Any]], object]
SECRET = "SECRET7a1f"
NAN, INF = float("nan"), float("inf")
HUGE = 10**400
LATER = (datetime.now(UTC) + timedelta(days=3)).isoformat()


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def prop(key: str, value: Any) -> Edit:
    return put(value, "properties", key)


def red(key: str, value: Any) -> Edit:
    return put(value, "assets", "red", key)


def ring(*corners: tuple[Any, ...]) -> Edit:
    return put([[list(corner) for corner in corners]], "geometry", "coordinates")


REFUSED: dict[str, tuple[Edit, str]] = {
    # Names
    "id of 1 MB": (put("x" * 2**20, "id"), "its id is .*longer than 255 bytes"),
    "id of 256 bytes": (put("é" * 128, "id"), "longer than 255 bytes"),
    "id with NUL": (put("a\x00b", "id"), "not printable"),
    "id with a line": (put("a\nb", "id"), "not printable"),
    "id with an escape": (put("a\x1b[2Jb", "id"), "not printable"),
    "id with C1": (put("a\x9bb", "id"), "not printable"),
    "id turned around": (put("a\u202eb", "id"), "not printable"),
    "id with a mark": (put("a\u200eb", "id"), "not printable"),
    "id of zero width": (put("a\u200bb", "id"), "not printable"),
    "id joined": (put("a\u200db", "id"), "not printable"),
    "id with BOM": (put("\ufeffab", "id"), "not printable"),
    "id with a soft hyphen": (put("a\xadb", "id"), "not printable"),
    "id with a filler": (put("a\u3164b", "id"), "not printable"),
    "id with a variation": (put("a\ufe0fb", "id"), "not printable"),
    "id with a hard blank": (put("a\xa0b", "id"), "not printable"),
    "id of a private code": (put("a\ue000b", "id"), "not printable"),
    "id of no character": (put("a\uffffb", "id"), "not printable"),
    "id of half a pair": (put("a\ud800", "id"), "UTF-8"),
    "id in NFD": (put("e\u0301", "id"), "NFC"),
    "id with blanks around": (put(" a", "id"), "blanks around"),
    "id of blanks": (put("  ", "id"), "not printable"),
    "id empty": (put("", "id"), "not printable"),
    "id null": (put(None, "id"), "its id is None"),
    "id a number": (put(5, "id"), "its id is 5"),
    "id true": (put(True, "id"), "its id is True"),
    "id NaN": (put(NAN, "id"), "its id is nan"),
    "id a list": (put(["a"], "id"), "its id is a list"),
    "id an object": (put({"a": "b"}, "id"), "its id is an object"),
    "id with a password": (put(f"https://me:{SECRET}@host/a", "id"), "holds a secret"),
    "id with a token": (put(f"a?token={SECRET}", "id"), "holds a secret"),
    "collection of 1 MB": (put("x" * 2**20, "collection"), "its collection .*255 bytes"),
    "collection with NUL": (put("a\x00", "collection"), "its collection .*not printable"),
    "collection turned": (put("\u202da", "collection"), "its collection .*not printable"),
    "collection in NFD": (put("e\u0301", "collection"), "its collection .*NFC"),
    "collection of two words": (put("a b", "collection"), "slash or white space"),
    "collection a path": (put("../main", "collection"), "slash or white space"),
    "collection a list": (put([], "collection"), "its collection is a list"),
    # The whole
    "type": (put("FeatureCollection", "type"), "not 'Feature'"),
    "type of 1 MB": (put("x" * 2**20, "type"), "not 'Feature'"),
    "half a pair anywhere": (put("\udfff", "links"), "UTF-8"),
    "half a pair as key": (put(1, "properties", "\ud800"), "UTF-8"),
    "depth": (put(deep(100_000), "links"), "not JSON"),
    "bytes": (put(b"x", "links"), "not JSON"),
    "digits without end": (prop("note", 10**5000), "not JSON"),
    "keys of other types": (put({5: 1, "a": 2}, "properties", "x"), "not JSON"),
    "5 MB": (prop("note", "x" * 5 * 2**20), "more than 4 MB of JSON"),
    "a million positions": (
        put([[[0.5, 0.5]] * 10**6], "geometry", "coordinates"),
        "more than 4 MB of JSON",
    ),
    "properties null": (put(None, "properties"), "no properties"),
    "properties a list": (put([["datetime", "x"]], "properties"), "no properties"),
    "assets null": (put(None, "assets"), "no assets"),
    "assets a list": (put([{"href": "x"}], "assets"), "no assets"),
    "assets of no band": (put({"B99": {"type": COG}}, "assets"), "no asset is a band"),
    # Times
    "datetime of year 1": (prop("datetime", "0001-01-01T00:00:00Z"), "before Sentinel-2 flew"),
    "datetime before year 1": (prop("datetime", "0001-01-01T00:00:00+14:00"), "years 1 to 9999"),
    "datetime of 1970": (prop("datetime", "1970-01-01T00:00:00Z"), "before Sentinel-2 flew"),
    "datetime of 2014": (prop("datetime", "2014-12-31T23:59:59Z"), "before Sentinel-2 flew"),
    "datetime of year 9999": (prop("datetime", "9999-12-31T23:59:59Z"), "in the future"),
    "datetime after year 9999": (prop("datetime", "9999-12-31T23:59:59-01:00"), "1 to 9999"),
    "datetime in three days": (prop("datetime", LATER), "in the future"),
    "datetime without offset": (prop("datetime", "2024-04-02T17:52:57"), "no offset"),
    "datetime of a day": (prop("datetime", "2024-04-02"), "RFC 3339"),
    "datetime of no day": (prop("datetime", "2024-02-31T00:00:00Z"), "datetime: "),
    "datetime of 1 MB": (prop("datetime", "2" * 2**20), "RFC 3339"),
    "datetime a number": (prop("datetime", 1712080377), "not text"),
    "datetime a list": (prop("datetime", ["2024-04-02T17:52:57Z"]), "not text"),
    "datetime NaN": (prop("datetime", NAN), "not text"),
    "datetime of other digits": (prop("datetime", "２０２４-04-02T17:52:57Z"), "RFC 3339"),
    "datetime with NUL": (prop("datetime", "2024-04-02T17:52:57Z\x00"), "RFC 3339"),
    # Where
    "epsg NaN": (prop("proj:epsg", NAN), "proj:epsg is nan"),
    "epsg infinite": (prop("proj:epsg", INF), "proj:epsg is inf"),
    "epsg huge": (prop("proj:epsg", HUGE), "proj:epsg is a huge number"),
    "epsg true": (prop("proj:epsg", True), "proj:epsg is True"),
    "epsg text": (prop("proj:epsg", "32613"), "proj:epsg is '32613'"),
    "epsg negative": (prop("proj:epsg", -32613), "not an EPSG code"),
    "epsg a list": (prop("proj:epsg", [32613]), "not an EPSG code"),
    "epsg of no zone": (prop("proj:epsg", 32661), "not a UTM zone"),
    "epsg of an asset": (red("proj:epsg", 32614), "two coordinate systems"),
    "code of another form": (prop("proj:code", "urn:ogc:def:crs:EPSG::32613"), "proj:code"),
    "code a list": (prop("proj:code", ["EPSG:32613"]), "proj:code is a list"),
    "tile in another zone": (prop("grid:code", "MGRS-14TDE"), "no MGRS tile|contradict"),
    "tile of no square": (prop("grid:code", "MGRS-13TII"), "no MGRS tile"),
    "tile of 1 MB": (prop("grid:code", "MGRS-" + "1" * 2**20), "no MGRS tile"),
    "zone huge": (prop("mgrs:utm_zone", 10**30), "no MGRS tile"),
    "zone true": (prop("mgrs:utm_zone", True), "no MGRS tile"),
    "zone negative": (prop("mgrs:utm_zone", -13), "no MGRS tile"),
    "square with NUL": (prop("mgrs:grid_square", "D\x00"), "no MGRS tile"),
    "square of other letters": (prop("mgrs:grid_square", "ＤＥ"), "no MGRS tile"),
    # Files
    "href missing": (drop("assets", "red", "href"), "red: no href"),
    "href a list": (red("href", ["https://host/a.tif"]), "red: no href"),
    "href of 1 MB": (red("href", "https://host/" + "a" * 2**20), "red: .*2048 bytes"),
    "href with //": (red("href", "https://host//B04.tif"), "red: .*another file"),
    "href with ./": (red("href", "https://host/./B04.tif"), "red: .*another file"),
    "href with ../": (red("href", "https://host/a/%2e%2e/B04.tif"), "red: .*another file"),
    "href with NUL": (red("href", "https://host/B04%00.tif"), "red: .*control"),
    "href with a line": (red("href", "https://host/B04%0a.tif"), "red: .*control"),
    "href with an escape": (red("href", "https://host/\x1b[2J.tif"), "red: .*control"),
    "href with a slash": (red("href", "https://host/a%2FB04.tif"), "red: .*encoded slash"),
    "href with a backslash": (red("href", "https://host\\B04.tif"), "red: "),
    "href of a port": (red("href", "https://host:70000/B04.tif"), "red: .*absolute"),
    "href with a user": (red("href", f"https://{SECRET}@host/B04.tif"), "red: .*user name"),
    "href with a token": (red("href", f"https://host/B04.tif?token={SECRET}"), "red: .*query"),
    "href with a key": (red("href", f"https://host/B04.tif?key={SECRET}"), "red: .*query"),
    "href with a fragment": (red("href", f"https://host/B04.tif#{SECRET}"), "red: .*fragment"),
    "href with a token as name": (
        red("href", "https://host/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmVk/B04.tif"),
        "red: .*secret",
    ),
    "href of a script": (red("href", "javascript:alert(1)"), "red: .*absolute"),
    "href of a pipe": (red("href", "/vsicurl/https://host/B04.tif"), "red: .*absolute"),
    "two of a band": (
        put({"type": COG, "href": "https://host/x.tif"}, "assets", "B04"),
        "'red' and 'B04' are the same band",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_scene_can_do_without(name: str) -> None:
    edit, reason = REFUSED[name]
    item = edited(edit)
    began = time.perf_counter()
    # A band whose address is none costs itself, and its scene where it is the only one.
    only = ["red"] if name.startswith("href") else None
    with pytest.raises(ItemError, match=reason) as caught:
        scene_from_item(item, bands=only)
    if only:
        scene = scene_from_item(item)
        assert scene.refused == ("red",)
        obeys(scene)
    assert time.perf_counter() - began < 20
    is_told_well(caught.value)


def is_told_well(error: ItemError) -> None:
    text = str(error)
    assert printable(text, None) == text
    assert len(text) <= 500
    assert SECRET not in text
    assert SECRET not in repr(error)
    assert error.scene is None or name_fault(error.scene) is None


Noted = tuple[Edit, str, Any, str | None]
"""(edit, field of the scene or its first asset, what it then is, what a warning says or None)"""
T10 = (10.0, 0.0, 399960.0, 0.0, -10.0, 4500000.0)
NOTED: dict[str, Noted] = {
    # Times beside the acquisition
    **{
        f"{key} {name}": (prop(key, value), key, None, f"{key}.* {said}")
        for key in ("created", "updated")
        for name, value, said in (
            ("of year 1", "0001-01-01T00:00:00Z", "before Sentinel-2 flew"),
            ("of 1970", "1970-01-01T00:00:00Z", "before Sentinel-2 flew"),
            ("of year 9999", "9999-12-31T23:59:59Z", "in the future"),
            ("in three days", LATER, "in the future"),
            ("NaN", NAN, "is nan"),
            ("a number", 5, "is 5"),
            ("an object", {}, "an object"),
            ("of 1 MB", "x" * 2**20, "RFC 3339"),
            ("without offset", "2024-04-02T00:00:00", "no offset"),
        )
    },
    # Numbers
    "cloud NaN": (prop("eo:cloud_cover", NAN), "cloud_cover", None, "eo:cloud_cover is nan"),
    "cloud infinite": (prop("eo:cloud_cover", INF), "cloud_cover", None, "eo:cloud_cover is inf"),
    "cloud huge": (prop("eo:cloud_cover", HUGE), "cloud_cover", None, "a huge number"),
    "cloud negative": (prop("eo:cloud_cover", -0.1), "cloud_cover", None, "not a percentage"),
    "cloud 101": (prop("eo:cloud_cover", 101), "cloud_cover", None, "not a percentage"),
    "cloud true": (prop("eo:cloud_cover", True), "cloud_cover", None, "not a percentage"),
    "cloud text": (prop("eo:cloud_cover", "5"), "cloud_cover", None, "not a percentage"),
    "cloud a list": (prop("eo:cloud_cover", [5]), "cloud_cover", None, "a list"),
    "cloud tiny": (prop("eo:cloud_cover", 5e-324), "cloud_cover", 5e-324, None),
    "cloud not valid": (
        lambda item: item["properties"].update({"sentinel:valid_cloud_cover": False}),
        "cloud_cover",
        None,
        "sentinel:valid_cloud_cover is false",
    ),
    "platform of another": (prop("platform", "landsat-8"), "platform", None, "none of Sentinel-2"),
    "platform of 1 MB": (prop("platform", "x" * 2**20), "platform", None, "none of Sentinel-2"),
    "platform a number": (prop("platform", 2), "platform", None, "none of Sentinel-2"),
    "platform with escapes": (prop("platform", "\x1b[2J"), "platform", None, r"\\x1b\[2J"),
    "platform with a password": (
        prop("platform", f"https://me:{SECRET}@host/" + "x" * 99),
        "platform",
        None,
        "none of Sentinel-2",
    ),
    "datatake of 1 MB": (prop("s2:datatake_id", "GS2A_" * 2**18), "acquisition", None, None),
    "datatake with more": (
        prop("s2:datatake_id", "GS2B_20231223T190949_035490_N05.10\n"),
        "acquisition",
        None,
        None,
    ),
    "baseline NaN": (prop("s2:processing_baseline", NAN), "baseline", None, "nan, not a"),
    "baseline huge": (prop("s2:processing_baseline", 1e300), "baseline", None, "not a processing"),
    "baseline of 1 MB": (prop("s2:processing_baseline", "5" * 2**20), "baseline", None, "not a"),
    "baseline of digits": (prop("s2:processing_baseline", "０５.10"), "baseline", None, "not a"),
    # Files
    "size 0": (red("file:size", 0), "size", None, "file:size of band red is malformed"),
    "size NaN": (red("file:size", NAN), "size", None, "file:size of band red is malformed"),
    "size huge": (red("file:size", HUGE), "size", None, "file:size of band red is malformed"),
    "size 2**63": (red("file:size", 2**63), "size", None, "file:size of band red is malformed"),
    "size text": (red("file:size", "57369733"), "size", None, "file:size of band red"),
    "size a half": (red("file:size", 0.5), "size", None, "file:size of band red is malformed"),
    "checksum of 1 MB": (
        red("file:checksum", "12c0843d" + "ab" * 500_000),
        "checksum",
        None,
        "file:checksum of band red is malformed",
    ),
    "checksum short": (red("file:checksum", "1220ab"), "checksum", None, "file:checksum of band"),
    "checksum empty": (red("file:checksum", ""), "checksum", None, "file:checksum of band red"),
    "checksum a list": (red("file:checksum", []), "checksum", None, "file:checksum of band red"),
    "checksum with blanks": (
        red("file:checksum", "1220 " + "ab" * 32),
        "checksum",
        None,
        "file:checksum of band red",
    ),
    "shape NaN": (red("proj:shape", [NAN, 5]), "shape", None, "proj:shape of band red"),
    "shape huge": (red("proj:shape", [HUGE, 5]), "shape", None, "proj:shape of band red"),
    "shape of 2**31": (red("proj:shape", [2**31, 2**31]), "shape", None, "proj:shape of band"),
    "shape of 2**21": (red("proj:shape", [2**21, 5]), "shape", None, "proj:shape of band red"),
    "shape negative": (red("proj:shape", [-5, 5]), "shape", None, "proj:shape of band red"),
    "shape of bools": (red("proj:shape", [True, True]), "shape", None, "proj:shape of band"),
    "shape text": (red("proj:shape", "10980"), "shape", None, "proj:shape of band red"),
    "shape of 1e5": (red("proj:shape", [5] * 10**5), "shape", None, "proj:shape of band red"),
    "shape of floats": (red("proj:shape", [5.0, 6.0]), "shape", (5, 6), None),
    **{
        f"transform {name}": (
            red("proj:transform", value),
            "transform",
            None,
            f"proj:transform of band red is {said}",
        )
        for name, value, said in (
            ("in GDAL order", [399960, 10, 0, 4500000, 0, -10], "in GDAL's order"),
            ("in GDAL order of 9", [399960, 10, 0, 4500000, 0, -10, 0, 0, 1], "in GDAL's order"),
            ("south up", [10, 0, 399960, 0, 10, 4500000], "of no north-up grid"),
            ("mirrored", [-10, 0, 399960, 0, -10, 4500000], "of no north-up grid"),
            ("turned", [7, 7, 399960, 7, -7, 4500000], "of no north-up grid"),
            ("of degrees", [1e-4, 0, -106, 0, -1e-4, 40], "of pixels of 0.0001"),
            ("of huge pixels", [60000, 0, 399960, 0, -60000, 4500000], "of pixels of 60000"),
            ("of a pixel of 0", [0, 0, 399960, 0, -10, 4500000], "of no north-up grid"),
            ("far away", [10, 0, 1e9, 0, -10, 4500000], "of an origin outside UTM"),
            ("far below", [10, 0, 399960, 0, -10, -1e9], "of an origin outside UTM"),
            ("NaN", [10, 0, NAN, 0, -10, 4500000], "malformed"),
            ("infinite", [10, 0, INF, 0, -10, 4500000], "malformed"),
            ("huge", [10, 0, HUGE, 0, -10, 4500000], "malformed"),
            ("of 5", [10, 0, 399960, 0, -10], "malformed"),
            ("of 1e5", [10] * 10**5, "malformed"),
            ("of another last row", [*T10, 0, 1, 1], "malformed"),
            ("of text", ["10", "0", "399960", "0", "-10", "4500000"], "malformed"),
            ("of zeros", [0] * 6, "of no north-up grid"),
        )
    },
    "signature": (
        red("href", f"https://host/B04.tif?se=2024&sig={SECRET}"),
        "href",
        "https://host/B04.tif",
        "the signature in the href of band red is left out",
    ),
    # Offsets
    "offset of 1e308": (
        red("raster:bands", [{"offset": 1e308, "scale": 0.0001}]),
        "boa_offset",
        -1000,
        "raster:offset of band red is neither",
    ),
    "offset NaN": (red("raster:bands", [{"offset": NAN}]), "boa_offset", -1000, "is neither"),
    "offset huge": (red("raster:bands", [{"offset": HUGE}]), "boa_offset", -1000, "is neither"),
    "offset a list": (red("raster:bands", [{"offset": []}]), "boa_offset", -1000, "is neither"),
    "scale 0": (
        red("raster:bands", [{"offset": -0.1, "scale": 0}]),
        "boa_offset",
        -1000,
        "neither",
    ),
    "raster of 1e5": (red("raster:bands", [[]] * 10**5), "boa_offset", -1000, None),
    "raster a number": (red("raster:bands", 5), "boa_offset", -1000, None),
    # Elsewhere in the document
    "NaN in a field": (prop("view:azimuth", NAN), "id", small_item()["id"], "NaN or Infinity"),
    "Infinity in a link": (put([{"a": -INF}], "links"), "id", small_item()["id"], "NaN or Inf"),
    "the word NaN": (prop("title", "NaN, Infinity"), "id", small_item()["id"], None),
    "depth of 500": (put(deep(500), "links"), "id", small_item()["id"], None),
    "1e5 links": (put([{}] * 10**5, "links"), "id", small_item()["id"], None),
    "1e5 assets": (
        lambda item: item["assets"].update({f"x{n}": {} for n in range(10**5)}),
        "id",
        small_item()["id"],
        None,
    ),
    "secrets elsewhere": (
        put([{"href": f"https://me:{SECRET}@host/?token={SECRET}"}], "links"),
        "id",
        small_item()["id"],
        None,
    ),
    "id of two words": (put("T13TDE a b", "id"), "id", "T13TDE a b", None),
    "id of 255 bytes": (put("x" * 255, "id"), "id", "x" * 255, None),
    "id in NFC": (put("é", "id"), "id", "é", None),
}


@pytest.mark.parametrize("name", NOTED)
def test_what_a_scene_can_do_without_is_a_warning(name: str) -> None:
    edit, field, value, said = NOTED[name]
    item = edited(edit)
    began = time.perf_counter()
    scene = scene_from_item(item, bands=["red"])
    assert time.perf_counter() - began < 20
    obeys(scene)
    found = getattr(scene, field) if hasattr(scene, field) else getattr(scene.assets[0], field)
    assert found == value
    notes = [note for note in scene.warnings if said is None or re.search(said, note)]
    if said is None:
        assert not notes
    else:
        assert len(notes) == 1
    assert SECRET not in json.dumps(scene_to_json(scene))


# Footprints

TILE = tile_ground("13TDE")
NOWHERE: dict[str, tuple[Edit, str]] = {
    "missing": (drop("geometry"), "no geometry"),
    "null": (put(None, "geometry"), "no geometry"),
    "text": (put("POLYGON EMPTY", "geometry"), "not a Polygon"),
    "a list": (put([], "geometry"), "not a Polygon"),
    "a point": (put({"type": "Point", "coordinates": [0, 0]}, "geometry"), "not a Polygon"),
    "of 1 MB": (put({"type": "x" * 2**20}, "geometry"), "not a Polygon"),
    "a collection": (
        put({"type": "GeometryCollection", "geometries": []}, "geometry"),
        "not a Polygon",
    ),
    "without coordinates": (drop("geometry", "coordinates"), "without rings"),
    "coordinates NaN": (put(NAN, "geometry", "coordinates"), "without rings"),
    "empty": (put([], "geometry", "coordinates"), "without rings"),
    "without rings": (put([[]], "geometry", "coordinates"), "fewer than three"),
    "deep": (put(deep(500), "geometry", "coordinates"), "position|positions"),
    "NaN": (ring((NAN, 40), (-105, 40), (-105, 41), (NAN, 40)), "outside the globe"),
    "infinite": (ring((INF, 40), (-105, 40), (-105, 41)), "outside the globe"),
    "huge": (ring((HUGE, 40), (-105, 40), (-105, 41)), "outside the globe"),
    "text in it": (ring(("-106", 40), (-105, 40), (-105, 41)), "not a number"),
    "true in it": (ring((True, 40), (-105, 40), (-105, 41)), "not a number"),
    "null in it": (ring((None, 40), (-105, 40), (-105, 41)), "not a number"),
    "one number a position": (ring((-106,), (-105,), (-105,)), "not .longitude"),
    "metres": (ring((399960, 4500000), (509760, 4500000), (509760, 4390200)), "the globe"),
    "a line": (ring((-106, 40), (-105, 40), (-106, 40)), "no area"),
    "a spot": (ring((-106, 40), (-106, 40), (-106, 40)), "no area"),
    "the globe": (ring((-180, -90), (180, -90), (180, 90), (-180, 90)), "no area|wide|pole"),
    "a hemisphere": (ring((-170, -80), (10, -80), (10, 80), (-170, 80)), "too wide"),
    "a pole": (ring((0, 80), (90, 80), (180, 80), (-90, 80)), "pole"),
    "a continent": (ring((-130, 25), (-80, 25), (-80, 50), (-130, 50)), "not lie on its tile"),
    "joined to the pole": (ring((-106, 40), (-105, 40), (-105, 90), (-106, 90)), "not lie on"),
    "elsewhere": (ring((10, 40), (11, 40), (11, 41), (10, 41)), "not lie on its tile 13TDE"),
    "on the equator": (ring((0, 0), (1, 0), (1, 1), (0, 1)), "not lie on its tile"),
    "turned around": (ring((40, -106), (40, -105), (41, -105)), "outside the globe"),
    "of the next tile": (ring((-103, 40), (-102, 40), (-102, 41)), "not lie on its tile"),
    "10 001 positions": (
        put([[[-106 + n / 1e5, 40] for n in range(10_001)]], "geometry", "coordinates"),
        "10001 positions, and 10000 is the most",
    ),
    "10 001 polygons": (
        put({"type": "MultiPolygon", "coordinates": [[]] * 10_001}, "geometry"),
        "10001 polygons, and 10000 is the most",
    ),
}


@pytest.mark.parametrize("name", NOWHERE)
def test_a_footprint_that_is_none_becomes_the_ground_of_the_files(name: str) -> None:
    edit, reason = NOWHERE[name]
    item = edited(edit)
    began = time.perf_counter()
    scene = scene_from_item(item, bands=["red"])
    assert time.perf_counter() - began < 20
    obeys(scene)
    (note,) = (note for note in scene.warnings if "ground" in note)
    assert re.search(reason, note)
    assert note.endswith("the ground of its file of band red is used.")
    ground = grid_ground(32613, T10, 10980, 10980)
    assert shapely.from_wkb(scene.footprint).equals(ground)


@pytest.mark.parametrize(
    ("shape", "transform"),
    [
        (None, list(T10)),
        ([10980, 10980], None),
        ([10980, 10980], [399960, 10, 0, 4500000, 0, -10]),
        ([10980, 10980], [10, 0, 399960, 0, -10, 9500000]),
        ([2**20, 2**20], [10000, 0, 399960, 0, -10000, 4500000]),
    ],
)
def test_without_a_file_that_says_so_it_is_the_tile(shape: Any, transform: Any) -> None:
    item = small_item()
    item["geometry"] = None
    for asset in item["assets"].values():
        asset["proj:shape"], asset["proj:transform"] = shape, transform
    scene = scene_from_item(item)
    obeys(scene)
    assert "no geometry: the ground of its whole tile is used." in scene.warnings
    assert shapely.from_wkb(scene.footprint).equals(TILE)


@pytest.mark.parametrize(
    "corners",
    [
        # A bow tie, a ring that touches itself, one with a spike, one that runs twice.
        [(-106, 40), (-105, 41), (-105, 40), (-106, 41)],
        [(-106, 40), (-105, 40), (-105.5, 40.5), (-105, 41), (-106, 41), (-105.5, 40.5)],
        [(-106, 40), (-105, 40), (-105, 41), (-104, 42), (-105, 41), (-106, 41)],
        [(-106, 40), (-105, 40), (-105, 41), (-106, 40), (-105, 40), (-105, 41)],
        [(254, 40), (255, 40), (255, 41)],
        [(-106, 40, NAN), (-105, 40, 1e300), (-105, 41, 5)],
    ],
)
def test_a_footprint_that_can_be_mended_is_kept(corners: list[tuple[float, ...]]) -> None:
    scene = scene_from_item(edited(ring(*corners)))
    obeys(scene)
    assert not [note for note in scene.warnings if "ground" in note]


@pytest.mark.parametrize(
    ("tile", "transform"),
    [
        # From real files and ESA's kml of the tiling grid.
        ("10TFR", (600000, 5100000)),
        ("13TDE", (399960, 4500000)),
        ("13SCA", (300000, 4100040)),
        ("32TPS", (600000, 5200020)),
        ("19PHS", (799980, 1700040)),
        ("59VLE", (300000, 6500040)),
        ("35MNM", (499980, 9200020)),
        ("21UYT", (699960, 5800020)),
    ],
)
def test_where_a_tile_lies(tile: str, transform: tuple[int, int]) -> None:
    assert tile_transform(tile) == (10, 0, transform[0], 0, -10, transform[1])


def test_every_square_lies_in_its_zone_and_band() -> None:
    """Where a band ends, squares of both bands share a row of letters."""
    for band, south in zip("CDEFGHJKLMNPQRSTUVWX", range(-80, 80, 8), strict=True):
        for zone in (2, 30, 60):
            for row in "AEKQV":
                columns = (
                    ("VW", "DE", "MN")[zone % 3] if abs(south) < 60 else ("W", "E", "N")[zone % 3]
                )
                for column in columns:
                    west, low, east, high = tile_ground(f"{zone:02}{band}{column}{row}").bounds
                    middle = zone * 6 - 183
                    assert abs((west + east) / 2 - middle) % 360 < 8 or west > 170
                    assert high > south - 13
                    assert low < south + 24


@pytest.mark.parametrize("tile", ["01CCV", "60WWT", "01WCV", "01GBQ", "60GXV"])
def test_tiles_at_the_antimeridian_hold_their_own_ground(tile: str) -> None:
    ground = tile_ground(tile)
    for turn in (-360.0, 0.0, 360.0):
        moved = shapely.transform(ground, lambda xy, turn=turn: np.add(xy, (turn, 0.0)))
        assert lies_on_tile(moved, tile)
    assert not lies_on_tile(shapely.transform(ground, lambda xy: np.add(xy, (180.0, 0.0))), tile)


# Earth Search v0


def v0_item(**properties: Any) -> dict[str, Any]:
    """As sentinel-s2-l2a-cogs had them."""
    item = small_item()
    keep = ("datetime", "platform", "eo:cloud_cover", "proj:epsg", "created", "updated")
    item["properties"] = {key: item["properties"][key] for key in keep} | {
        "sentinel:utm_zone": 13,
        "sentinel:latitude_band": "T",
        "sentinel:grid_square": "DE",
        "sentinel:sequence": "0",
        "sentinel:valid_cloud_cover": True,
        **properties,
    }
    item["id"], item["collection"] = "S2A_13TDE_20240402_0_L2A", "sentinel-s2-l2a-cogs"
    item["assets"] = {"B04": item["assets"]["red"]}
    del item["assets"]["B04"]["raster:bands"]
    return item


NAME = "S2A_MSIL2A_20240402T174230_N{}_R098_T13TDE_20240402T213000"


@pytest.mark.parametrize(
    ("properties", "baseline", "offset", "evidence"),
    [
        ({"sentinel:product_id": NAME.format("0301")}, "03.01", 0, "sentinel:product_id=03.01"),
        ({"sentinel:product_id": NAME.format("0400")}, "04.00", -1000, "sentinel:product_id=04.00"),
        (
            {"sentinel:processing_baseline": "04.00"},
            "04.00",
            -1000,
            "sentinel:processing_baseline=04.00",
        ),
        (
            {"sentinel:processing_baseline": "04.00", "sentinel:boa_offset_applied": False},
            "04.00",
            -1000,
            "sentinel:processing_baseline=04.00",
        ),
        (
            {"sentinel:processing_baseline": "04.00", "sentinel:boa_offset_applied": True},
            "04.00",
            0,
            "sentinel:boa_offset_applied=true",
        ),
        (
            {"sentinel:boa_offset_applied": "yes", "sentinel:product_id": NAME.format("0510")},
            "05.10",
            -1000,
            "sentinel:product_id=05.10",
        ),
        ({"sentinel:product_id": 5}, None, 0, "none"),
        ({}, None, 0, "none"),
    ],
)
def test_earth_search_v0(
    properties: dict[str, Any], baseline: str | None, offset: int, evidence: str
) -> None:
    scene = scene_from_item(v0_item(**properties))
    obeys(scene)
    assert (scene.tile, scene.epsg) == ("13TDE", 32613)
    assert (scene.baseline, scene.boa_offset, scene.boa_evidence) == (baseline, offset, evidence)
    assumed = [note for note in scene.warnings if "0 is assumed" in note]
    assert bool(assumed) == (baseline is None)
    assert [asset.key for asset in scene.assets] == ["B04"]


def test_the_tile_of_earth_search_v0_is_judged_like_any_other() -> None:
    item = v0_item()
    item["id"] = "some-scene"
    assert scene_from_item(item).tile == "13TDE"
    item["properties"]["sentinel:grid_square"] = "DF"
    item["properties"]["sentinel:product_id"] = NAME.format("0400")
    with pytest.raises(ItemError, match="sentinel:utm_zone says 13TDF, sentinel:product_id says"):
        scene_from_item(item)


# Names, where they are asked for, and what a record of a failure calls what has none


def test_names_are_asked_for_as_they_are_kept() -> None:
    assert parse_item_id(" e\u0301 ") == "é"
    assert parse_item_id("x" * 255) == "x" * 255
    for bad in ("x" * 256, "a\x00", "a\x1b", "a\u202eb", "a\u200bb", "\ud800", "a\nb", "é" * 128,
                "", f"https://me:{SECRET}@host/", 5, None, ["a"], 10**5000):  # fmt: skip
        for parse in (parse_item_id, parse_collection):
            with pytest.raises(UsageError, match=r"malformed .*write one such as") as caught:
                parse(bad)  # type: ignore[arg-type]
            assert len(str(caught.value)) < 300
            assert SECRET not in str(caught.value)


def test_distinct_bad_ids_stay_apart() -> None:
    bad = ["x" * 300, "x" * 301, "a\x00", "a\x01", "a\u202e", "\ud800", "\ud801", "e\u0301", " e",
           5, 6, [5], {"a": 5}, True, NAN, 10**5000, deep(100_000)]  # fmt: skip
    names = [recorded_name(value) for value in bad]
    assert len(set(names)) == len(bad)
    for name in names:
        assert name is not None
        assert name_fault(name) is None
    assert [recorded_name(value) for value in (None, "", "  ")] == [None] * 3
    assert recorded_name("S2A_T13TDE") == "S2A_T13TDE"
    for value in ("x" * 2**20, "a\x00b", 5):
        with pytest.raises(ItemError) as caught:
            scene_from_item(edited(put(value, "id")))
        assert caught.value.scene == recorded_name(value)


def test_notes_are_bounded_in_number_and_length() -> None:
    notes = bounded_notes(f"{n} " + "x" * 1000 for n in range(100_000))
    assert len(notes) == 51
    assert max(map(len, notes)) <= 400
    assert notes[-1] == "and 99950 more."
    assert bounded_notes(["a", "b", "a"]) == ("a", "b")


# Any value at any path


def obeys(scene: Scene) -> None:
    """Every field is what its docstring says."""
    assert name_fault(scene.id) is None
    assert name_fault(scene.collection) is None
    assert scene.dialect in EXPECTED_BANDS
    assert parse_tile(scene.tile) == scene.tile
    assert scene.epsg == (32600 if scene.tile[2] >= "N" else 32700) + int(scene.tile[:2])
    soon = datetime.now(UTC) + timedelta(days=1)
    for moment in (scene.datetime, scene.created, scene.updated):
        assert moment is None or (moment.tzinfo is UTC and FIRST <= moment <= soon)
    assert scene.platform is None or re.fullmatch("sentinel-2[a-d]", scene.platform)
    assert scene.cloud_cover is None or 0 <= scene.cloud_cover <= 100
    assert scene.baseline is None or re.fullmatch(r"\d\d\.\d\d", scene.baseline, re.ASCII)
    assert scene.acquisition is None or re.fullmatch(r"[\w ]{1,60}", scene.acquisition, re.ASCII)
    footprint = shapely.from_wkb(scene.footprint)
    assert footprint.is_valid
    assert footprint.area > 0
    assert footprint.geom_type in ("Polygon", "MultiPolygon")
    assert footprint.bounds == scene.bbox
    assert lies_on_tile(footprint, scene.tile)
    west, south, east, north = scene.bbox
    assert -180 <= west < 180
    assert west < east < west + 60
    assert -90 <= south < north <= 90
    assert scene.boa_offset in (0, -1000)
    assert len(scene.boa_evidence) < 60
    assert len(scene.warnings) <= 51
    for note in scene.warnings:
        assert printable(note, None) == note
        assert len(note) <= 400
        assert SECRET not in note
    assert re.fullmatch("[0-9a-f]{64}", scene.item_sha256)
    assert scene.assets
    bands = [*scene.refused, *(asset.band for asset in scene.assets)]
    assert len(bands) == len({*bands} & {*BY_NAME})
    for asset in scene.assets:
        assert asset.band in BY_NAME
        assert name_fault(asset.key) is None
        assert checked_href(asset.href) == (asset.href, False)
        assert asset.size is None or 0 < asset.size < 2**63
        assert asset.checksum is None or re.fullmatch("[0-9a-f]{4,300}", asset.checksum)
        assert asset.shape is None or all(0 < side <= 2**20 for side in asset.shape)
        assert asset.transform is None or checked_transform(asset.transform) == asset.transform
    text = json.dumps(scene_to_json(scene), allow_nan=False)
    assert "\\u0000" not in text
    assert scene_from_json(json.loads(text)) == scene


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.text(st.characters(categories=["Cs", "Cc", "Cf", "Co", "Mn"]), max_size=4)
    | st.sampled_from(
        [
            NAN, INF, -INF, 1e308, 5e-324, HUGE, -HUGE, 2**63, "x" * 300, "\x00", "\ud800",
            "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2024-04-02T00:00:00Z", "Feature",
            "Polygon", "MultiPolygon", "MGRS-13TDE", "EPSG:32613", "05.10", COG, "\u202e",
            "\x1b[2J",             f"https://me:{SECRET}@host/a.tif", f"https://host/a.tif?token={SECRET}",
            f"https://host/a.tif?sig={SECRET}", f"https://host/a.tif#{SECRET}", "https://host//a",
            "https://host/%2e%2e/a", "s3://bucket/a b.tif", "file:///a%20b/c.tif",
        ]
    )
)  # fmt: skip
ANY = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=4)
            | st.sampled_from(["type", "href", "coordinates", "red", "B04", "offset", "\ud800"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
# Made when drawn: hypothesis shows what it samples from, which not all of these can be.
ANY |= st.sampled_from([300, 100_000]).map(deep) | st.just(5000).map(lambda n: 10**n)
ANY |= st.sampled_from([[[]] * 5000, {f"k{n}": n for n in range(500)}])


def poisoned(data: st.DataObject, item: dict[str, Any]) -> dict[str, Any]:
    paths = paths_in(item)
    item = copy.deepcopy(item)
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(paths))
        action = data.draw(st.sampled_from(["put"] * 8 + ["drop", "add"]))
        value, name = data.draw(ANY), data.draw(st.text(max_size=8))
        with contextlib.suppress(LookupError, TypeError):  # an earlier one took the place away
            holder: Any = item
            for key in way:
                holder = holder[key]
            if action == "drop" and isinstance(holder, dict):
                del holder[last]
            else:
                holder[name if action == "add" else last] = value
    return item


def is_a_scene_or_an_item_error(item: Any) -> None:
    began = time.perf_counter()
    try:
        scene = scene_from_item(item)
    except ItemError as error:
        is_told_well(error)
    else:
        obeys(scene)
        assert SECRET not in json.dumps(scene_to_json(scene))
    assert time.perf_counter() - began < 10


REAL = [read(path) for path in (*C1[:1], *V1[:1], *V1[-1:], *PC[:1], *PC[-1:])]
PATIENT = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)


@PATIENT
@given(st.data())
def test_any_value_anywhere_in_made_up_items(data: st.DataObject) -> None:
    item = data.draw(st.sampled_from([small_item(), v0_item()]))
    is_a_scene_or_an_item_error(poisoned(data, item))


@pytest.mark.skipif(not REAL, reason="no real items in ../shared/data")
@PATIENT
@given(st.data())
def test_any_value_anywhere_in_real_items(data: st.DataObject) -> None:
    is_a_scene_or_an_item_error(poisoned(data, data.draw(st.sampled_from(REAL))))


@pytest.fixture(scope="module")
def demo_items(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    built = build_archive(
        tmp_path_factory.mktemp("demo"),
        dates=["2023-06-03"],
        tiles=["10TFR"],
        dialects=("earth-search-c1", "earth-search-v1", "planetary-computer"),
        bands=("red", "scl", "aot"),
        width=66,
        block=64,
    )
    return [items[0] for items in built.items.values()]


@PATIENT
@given(st.data())
def test_any_value_anywhere_in_the_demos_items(
    demo_items: list[dict[str, Any]], data: st.DataObject
) -> None:
    is_a_scene_or_an_item_error(poisoned(data, data.draw(st.sampled_from(demo_items))))


@pytest.mark.parametrize("document", [None, 5, "x", [], NAN, deep(1000), {}, b"x"], ids=repr)
def test_what_is_no_item_at_all(document: Any) -> None:
    is_a_scene_or_an_item_error(document)


def test_how_many_are_tried() -> None:
    assert len(REFUSED) + len(NOTED) + len(NOWHERE) > 200
