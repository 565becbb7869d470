"""Real items of three catalogs become right scenes; damaged ones say what is wrong."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.bands import BANDS
from catalog.errors import ItemError, NotFoundError
from catalog.item import item_sha256, scene_from_item
from catalog.scene import Scene

DATA = Path(__file__).parents[2] / "shared" / "data"
C1 = sorted((DATA / "items" / "earth-search-c1").glob("*.json"))
MIGRATED = sorted((DATA / "cog-headers").glob("*.item.json"))
V1 = sorted((DATA / "items" / "earth-search-l2a").glob("*.json"))
PC = sorted((DATA / "items" / "planetary-computer").glob("*.json"))

IN_V1_AND_PC = [
    *("coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08"),
    *("nir09", "swir16", "swir22", "visual", "scl", "aot", "wvp"),
]
IN_C1 = [*IN_V1_AND_PC, "cloud", "snow"]

COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def small_item(**properties: Any) -> dict[str, Any]:
    """An item as Earth Search's Collection 1 writes them, with three assets."""

    def asset(name: str, **more: Any) -> dict[str, Any]:
        return {
            "href": f"https://example.com/13TDE/{name}.tif",
            "type": COG,
            "proj:shape": [10980, 10980],
            "proj:transform": [10, 0, 399960, 0, -10, 4500000],
            "file:size": 57369733,
            "file:checksum": "1220" + "ab" * 32,
            **more,
        }

    offset = {"raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": -0.1}]}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "S2A_T13TDE_20240402T174230_L2A",
        "collection": "sentinel-2-c1-l2a",
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[-106.2, 40.6], [-106.2, 39.7], [-105, 39.7], [-106.2, 40.6]]],
        },
        "properties": {
            "datetime": "2024-04-02T17:52:57.105000Z",
            "created": "2024-04-03T03:37:33.923Z",
            "updated": "2024-04-03T03:37:33.923Z",
            "platform": "sentinel-2a",
            "eo:cloud_cover": 0.118322,
            "proj:epsg": 32613,
            "grid:code": "MGRS-13TDE",
            "mgrs:utm_zone": 13,
            "mgrs:latitude_band": "T",
            "mgrs:grid_square": "DE",
            "s2:processing_baseline": "05.10",
            **properties,
        },
        "assets": {
            "red": asset("B04", **offset),
            "nir": asset("B08", **offset),
            "scl": asset("SCL"),
        },
    }


def edited(edit: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    item = small_item()
    edit(item)
    return item


def files(paths: list[Path]) -> list[Any]:
    skip = pytest.mark.skip(reason=f"no real items at {DATA}")
    return [pytest.param(path, id=path.stem) for path in paths] or [pytest.param(None, marks=skip)]


def check_common(scene: Scene, item: dict[str, Any], bands: list[str]) -> None:
    order = [band.name for band in BANDS]
    assert [asset.band for asset in scene.assets] == sorted(bands, key=order.index)
    assert scene.id == item["id"]
    assert scene.collection == item["collection"]
    assert scene.datetime.tzinfo is UTC
    assert scene.datetime.strftime("%Y-%m-%dT%H:%M:%S") == item["properties"]["datetime"][:19]
    assert scene.cloud_cover == item["properties"]["eo:cloud_cover"]
    footprint = shapely.from_wkb(scene.footprint)
    assert footprint.equals(shapely.geometry.shape(item["geometry"]))
    assert scene.bbox == footprint.bounds
    assert scene.bbox == pytest.approx(item["bbox"], abs=1e-4)
    for asset in scene.assets:
        source = item["assets"][asset.key]
        assert asset.href == source["href"]
        assert asset.shape == tuple(source["proj:shape"])
        assert asset.transform == tuple(source["proj:transform"])
    canonical = json.dumps(item, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert scene.item_sha256 == hashlib.sha256(canonical.encode()).hexdigest()


@pytest.mark.parametrize("path", files(C1 + MIGRATED))
def test_earth_search_collection_1(path: Path) -> None:
    item = read(path)
    scene = scene_from_item(item)
    check_common(scene, item, IN_C1)
    # S2A_T13TDE_20240402T174230_L2A: the id says it all.
    platform, tile, _, _ = item["id"].split("_")
    assert scene.dialect == "earth-search-c1"
    assert scene.tile == tile[1:] == ("10TFR" if path in MIGRATED else "13TDE")
    assert scene.epsg == (32610 if path in MIGRATED else 32613)
    assert scene.platform == f"sentinel-{platform[1:].lower()}"
    assert scene.baseline == "05.10"
    assert scene.acquisition is not None
    assert item["properties"]["s2:datatake_id"] == f"{scene.acquisition.split()[0]}_N05.10"
    assert scene.acquisition.split()[1] == item["id"].split("_")[2]
    assert (scene.boa_offset, scene.boa_evidence) == (-1000, "raster:offset=-0.1")
    assert scene.warnings == ()
    assert scene.created is not None
    assert scene.updated is not None
    for asset in scene.assets:
        assert asset.size == item["assets"][asset.key]["file:size"]
        assert asset.checksum == item["assets"][asset.key]["file:checksum"]
        assert re.fullmatch("1220[0-9a-f]{64}", asset.checksum)


@pytest.mark.parametrize("path", files(V1))
def test_earth_search_v1(path: Path) -> None:
    item = read(path)
    scene = scene_from_item(item)
    check_common(scene, item, IN_V1_AND_PC)
    # S2A_13SCA_20200403_0_L2A
    platform, tile, day, _, _ = item["id"].split("_")
    assert scene.dialect == "earth-search-v1"
    assert scene.tile == tile
    assert scene.epsg == (32632 if tile == "32TPS" else 32613)
    assert scene.platform == f"sentinel-{platform[1:].lower()}"
    assert scene.created is not None
    assert scene.updated is not None
    assert {asset.checksum for asset in scene.assets} == {None}
    assert {asset.size for asset in scene.assets} == {None}
    assert not any(asset.href.endswith("jp2") for asset in scene.assets)
    if day.startswith("2020"):
        assert scene.baseline == "02.14"
        assert (scene.boa_offset, scene.boa_evidence) == (0, "raster:offset=0")
        assert scene.warnings == ()
    else:
        # Pixels are shifted already, though raster:bands lists -0.1.
        assert scene.baseline == "05.09"
        assert scene.boa_offset == 0
        assert scene.boa_evidence == "earthsearch:boa_offset_applied=true"
        assert [text for text in scene.warnings if "contradicts" in text] == list(scene.warnings)
        assert len(scene.warnings) == 1


@pytest.mark.parametrize("path", files(PC))
def test_planetary_computer(path: Path) -> None:
    item = read(path)
    scene = scene_from_item(item)
    check_common(scene, item, IN_V1_AND_PC)
    # S2A_MSIL2A_20240412T173901_R098_T13TDE_20240413T013611
    platform, _, _, _, tile, _ = item["id"].split("_")
    assert scene.dialect == "planetary-computer"
    assert scene.tile == tile[1:]
    southern = scene.tile == "35MNM"
    assert scene.epsg == (32700 if southern else 32600) + int(scene.tile[:2])
    assert scene.platform == f"sentinel-{platform[1:].lower()}"
    baseline = re.search(r"_N(\d\d)(\d\d)_", item["properties"]["s2:product_uri"])
    if baseline:
        assert scene.baseline == f"{baseline[1]}.{baseline[2]}"
    assert scene.boa_offset == (0 if scene.baseline == "02.12" else -1000)
    assert scene.boa_evidence == f"s2:processing_baseline={scene.baseline}"
    assert scene.updated is None
    assert scene.warnings == ()
    assert {asset.checksum for asset in scene.assets} == {None}
    assert [asset.key for asset in scene.assets if asset.band == "red"] == ["B04"]


def test_the_item_is_not_changed_and_only_asked_bands_are_kept() -> None:
    item = small_item()
    before = copy.deepcopy(item)
    scene = scene_from_item(item, bands=["B04", "SCL", "red", "B11"])
    assert item == before
    assert [asset.band for asset in scene.assets] == ["red", "scl"]
    assert scene.warnings == ("no asset for band swir16.",)
    # The offset is the scene's, also where no band that has it is asked for.
    assert scene_from_item(item, bands=["scl"]).boa_offset == -1000
    with pytest.raises(NotFoundError, match="ultraviolet"):
        scene_from_item(item, bands=["ultraviolet"])


def test_item_sha256_ignores_order_and_white_space() -> None:
    item = small_item()
    shuffled = dict(reversed(item.items()))
    assert item_sha256(shuffled) == item_sha256(item)
    item["properties"]["eo:cloud_cover"] = 1
    assert item_sha256(item) != item_sha256(small_item())


def drop(*keys: str) -> Callable[[dict[str, Any]], object]:
    def edit(item: dict[str, Any]) -> None:
        for key in keys[:-1]:
            item = item[key]
        del item[keys[-1]]

    return edit


def put(value: Any, *keys: str) -> Callable[[dict[str, Any]], object]:
    def edit(item: dict[str, Any]) -> None:
        for key in keys[:-1]:
            item = item[key]
        item[keys[-1]] = value

    return edit


SQUARE = [[[-106, 40], [-105, 40], [-105, 41], [-106, 40]]]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (put("Collection", "type"), "not 'Feature'"),
        (drop("id"), "its id is None"),
        (put("a\x00b", "id"), "not printable"),
        (put("\ud800", "properties", "note"), "UTF-8"),
        (drop("collection"), "its collection is None"),
        (put("a/b", "collection"), "slash"),
        (drop("properties"), "no properties"),
        (put([], "properties"), "no properties"),
        (drop("properties", "datetime"), "no datetime"),
        (put("2024-04-02T17:52:57", "properties", "datetime"), "no offset"),
        (put("yesterday", "properties", "datetime"), "RFC 3339"),
        (put(5, "properties", "datetime"), "datetime is not text"),
        (drop("properties", "proj:epsg"), "no EPSG code"),
        (put(4326, "properties", "proj:epsg"), "EPSG:4326 is not a UTM zone"),
        (put("x", "properties", "proj:epsg"), "not an EPSG code"),
        (put("IAU:1", "properties", "proj:code"), "not an EPSG code"),
        (put("EPSG:32614", "properties", "proj:code"), "two coordinate systems"),
        (put(32614, "properties", "proj:epsg"), "tile 13TDE and its EPSG:32614"),
        (put(32713, "properties", "proj:epsg"), "tile 13TDE and its EPSG:32713"),
        (put("MGRS-13TDF", "properties", "grid:code"), "grid:code says 13TDF"),
        (put("MGRS-99XXX", "properties", "grid:code"), "is no MGRS tile"),
        (drop("assets"), "no assets"),
        (put({}, "assets"), "no asset is a band"),
        (
            put({"red": {"type": "image/jp2"}}, "assets"),
            "no asset is a band",
        ),
    ],
)
def test_damaged_items_say_what_is_wrong(
    edit: Callable[[dict[str, Any]], object], reason: str
) -> None:
    item = edited(edit)
    with pytest.raises(ItemError, match=reason) as caught:
        scene_from_item(item)
    assert "\n" not in str(caught.value)
    if str(item.get("id")).isprintable():
        assert caught.value.scene == item.get("id")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (drop("assets", "red", "href"), "no href"),
        (put("B04.tif", "assets", "red", "href"), "its href is not an absolute"),
        (put("ftp://host/B04.tif", "assets", "red", "href"), "its href is not an absolute"),
        (put("https:///B04.tif", "assets", "red", "href"), "its href is not an absolute"),
        (put("https://[host/B04.tif", "assets", "red", "href"), "its href is not an absolute"),
        (put("https://host/a b.tif", "assets", "red", "href"), "its href holds white space"),
    ],
)
def test_a_damaged_href_costs_its_own_band(
    edit: Callable[[dict[str, Any]], object], reason: str
) -> None:
    """As a file does that no reference can be made of; where it is the only one, its scene."""
    item = edited(edit)
    scene = scene_from_item(item)
    assert scene.refused == ("red",)
    assert "red" not in {asset.band for asset in scene.assets}
    (said,) = (text for text in scene.warnings if text.startswith("red "))
    assert said.startswith(f"red is not indexed: {reason}")
    assert not any("for bands red," in text for text in scene.warnings)
    with pytest.raises(ItemError, match=f"red: {reason}") as caught:
        scene_from_item(item, bands=["red"])
    assert caught.value.scene == item["id"]


def test_no_field_names_the_tile() -> None:
    item = small_item()
    for key in ("grid:code", "mgrs:utm_zone"):
        del item["properties"][key]
    assert scene_from_item(item).tile == "13TDE"  # from the id
    item["id"] = "some-scene"
    with pytest.raises(ItemError, match="no field names its MGRS tile"):
        scene_from_item(item)


def test_two_assets_of_one_band() -> None:
    item = small_item()
    item["assets"]["B04"] = item["assets"]["red"]
    with pytest.raises(ItemError, match="'red' and 'B04' are the same band"):
        scene_from_item(item)
    assert scene_from_item(item, bands=["nir"]).assets[0].band == "nir"


def test_none_of_the_asked_bands() -> None:
    with pytest.raises(ItemError, match="no asset for bands aot, wvp"):
        scene_from_item(small_item(), bands=["aot", "wvp"])


def test_secrets_do_not_enter() -> None:
    item = small_item()
    item["assets"]["red"]["href"] = "https://a.blob.core.windows.net/x/B04.tif?se=2024&sig=SECRET"
    scene = scene_from_item(item, bands=["red"])
    assert scene.assets[0].href == "https://a.blob.core.windows.net/x/B04.tif"
    for href in ("https://user:SECRET@host/B04.tif", "ftp://user:SECRET@host/B04.tif?sig=SECRET"):
        item["assets"]["red"]["href"] = href
        with pytest.raises(ItemError) as caught:
            scene_from_item(item, bands=["red"])
        assert "SECRET" not in str(caught.value)
        assert "SECRET" not in repr(scene_from_item(item))


@pytest.mark.parametrize(
    ("edit", "field", "warning"),
    [
        (
            put("1220abcd", "assets", "red", "file:checksum"),
            "checksum",
            "file:checksum of",
        ),
        (put("zz" * 34, "assets", "red", "file:checksum"), "checksum", "file:checksum of"),
        (put(-1, "assets", "red", "file:size"), "size", "file:size of band red"),
        (put(2**70, "assets", "red", "file:size"), "size", "file:size of band red"),
        (put(True, "assets", "red", "file:size"), "size", "file:size of band red"),
        (put([1, 2, 3], "assets", "red", "proj:shape"), "shape", "proj:shape of band red"),
        (put([0, 5], "assets", "red", "proj:shape"), "shape", "proj:shape of band red"),
        (
            put([1] * 5, "assets", "red", "proj:transform"),
            "transform",
            "proj:transform of",
        ),
        (
            put([10, 0, float("nan"), 0, -10, 0], "assets", "red", "proj:transform"),
            "transform",
            "proj:transform of",
        ),
        (put("ikonos", "properties", "platform"), "platform", "platform 'ikonos'"),
        (put(101, "properties", "eo:cloud_cover"), "cloud_cover", "eo:cloud_cover is 101"),
        (put(10**400, "properties", "eo:cloud_cover"), "cloud_cover", "a huge number"),
        (put("soon", "properties", "updated"), "updated", "updated: 'soon'"),
        (put([], "properties", "created"), "created", "created is a list"),
    ],
)
def test_what_a_scene_can_do_without(
    edit: Callable[[dict[str, Any]], object], field: str, warning: str
) -> None:
    scene = scene_from_item(edited(edit), bands=["red"])
    value = getattr(scene, field) if hasattr(scene, field) else getattr(scene.assets[0], field)
    assert value is None
    (said,) = (text for text in scene.warnings if "NaN" not in text)
    assert warning in said


def test_other_spellings() -> None:
    item = small_item(platform="Sentinel-2B", datetime=None)
    item["properties"] |= {
        "start_datetime": "2024-04-02T19:52:57.105+02:00",
        "proj:code": "epsg:32613",
        "proj:shape": [5490, 5490],
        "proj:transform": [20, 0, 399960, 0, -20, 4500000, 0, 0, 1],
    }
    del item["properties"]["proj:epsg"]
    del item["properties"]["s2:processing_baseline"]
    item["properties"]["processing:version"] = "N0511"
    red = item["assets"]["red"]
    del red["proj:shape"], red["proj:transform"]
    red["type"] = "IMAGE/TIFF;Profile = Cloud-Optimized"
    red["file:checksum"] = red["file:checksum"].upper()
    item["assets"]["nir"]["type"] = "image/vnd.stac.geotiff; cloud-optimized=true"
    scene = scene_from_item(item)
    assert scene.platform == "sentinel-2b"
    assert scene.datetime == datetime(2024, 4, 2, 17, 52, 57, 105000, tzinfo=UTC)
    assert scene.baseline == "05.11"
    asset = scene.assets[0]
    assert (asset.band, asset.shape) == ("red", (5490, 5490))
    assert asset.transform == (20, 0, 399960, 0, -20, 4500000)
    assert asset.checksum == "1220" + "ab" * 32
    assert "datetime is null; start_datetime is used." in scene.warnings


def test_southern_single_digit_zone() -> None:
    item = small_item(**{"proj:epsg": 32701, "grid:code": "MGRS-1CCV"})
    item["id"] = "S2A_T01CCV_20240402T174230_L2A"
    for key in ("mgrs:utm_zone", "mgrs:latitude_band", "mgrs:grid_square"):
        del item["properties"][key]
    assert scene_from_item(item).tile == "01CCV"


def test_a_catalog_unknown_to_us() -> None:
    item = small_item()
    item["collection"] = "s2-l2a"
    scene = scene_from_item(item)
    assert scene.dialect == "generic"
    assert scene.warnings[0].startswith("no asset for bands coastal, blue")


BASELINE = "s2:processing_baseline"
APPLIED = "earthsearch:boa_offset_applied"


@pytest.mark.parametrize(
    ("properties", "offsets", "expected", "evidence", "warning"),
    [
        ({}, (-0.1, -0.1), -1000, "raster:offset=-0.1", None),
        ({}, (0, 0), 0, "raster:offset=0", "s2:processing_baseline=05.10 contradicts"),
        ({BASELINE: "03.01"}, (0, 0), 0, "raster:offset=0", None),
        ({BASELINE: "03.01"}, (-0.1, -0.1), -1000, "raster:offset=-0.1", "03.01 contradicts"),
        ({APPLIED: False}, (-0.1, -0.1), -1000, "raster:offset=-0.1", None),
        ({APPLIED: True}, (0, 0), 0, f"{APPLIED}=true", None),
        ({APPLIED: True}, (None, None), 0, f"{APPLIED}=true", None),
        ({APPLIED: True}, (-0.1, -0.1), 0, f"{APPLIED}=true", "raster:offset=-0.1 contradicts"),
        ({APPLIED: "yes"}, (-0.1, -0.1), -1000, "raster:offset=-0.1", "not true or false"),
        ({}, (None, None), -1000, f"{BASELINE}=05.10", None),
        ({BASELINE: "04.00"}, (None, None), -1000, f"{BASELINE}=04.00", None),
        ({BASELINE: "03.01"}, (None, None), 0, f"{BASELINE}=03.01", None),
        ({BASELINE: None}, (None, None), 0, "none", "0 is assumed"),
        ({BASELINE: 5.1}, (None, None), -1000, f"{BASELINE}=05.10", None),
        ({BASELINE: "new"}, (None, None), 0, "none", "not a processing baseline"),
        ({}, (-0.1, 0), -1000, "raster:offset=-0.1", "raster:offset=0 of band nir contradicts"),
        ({BASELINE: "02.14"}, (-0.1, 0), 0, "raster:offset=0", "of band red contradicts"),
        ({}, (-0.1, -0.05), -1000, "raster:offset=-0.1", "of band nir is neither"),
        ({}, (float("nan"), "x"), -1000, f"{BASELINE}=05.10", "of bands red, nir is neither"),
    ],
)
@pytest.mark.parametrize("form", ["1.0", "1.1 asset", "1.1 bands"])
def test_boa_offset(
    properties: dict[str, Any],
    offsets: tuple[Any, Any],
    expected: int,
    evidence: str,
    warning: str | None,
    form: str,
) -> None:
    item = small_item(**properties)
    for band, offset in zip(("red", "nir"), offsets, strict=True):
        asset = item["assets"][band]
        del asset["raster:bands"]
        if form == "1.0":
            asset["raster:bands"] = [{"offset": offset, "scale": 0.0001}]
        elif form == "1.1 asset":
            asset |= {"raster:offset": offset, "raster:scale": 0.0001}
        else:
            asset["bands"] = [{"name": band, "raster:offset": offset, "raster:scale": 0.0001}]
    scene = scene_from_item(item, bands=["red", "nir", "scl"])
    assert (scene.boa_offset, scene.boa_evidence) == (expected, evidence)
    text = " ".join(scene.warnings)
    assert (warning in text) if warning else (text == "")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["Feature", "Polygon", "MGRS-13TDE", "13TDE", "EPSG:32613", COG, "05.10"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(["type", "href", "coordinates", "red"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def paths_in(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at] if at else []
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in entries:
        if isinstance(inner, dict | list):
            found += paths_in(inner, (*at, key))
        else:
            found.append((*at, key))
    return found


def becomes_scene_or_item_error(document: Any) -> None:
    try:
        scene = scene_from_item(document)
    except ItemError as error:
        message = str(error)
    else:
        message = "a scene"
        assert isinstance(scene, Scene)
        assert scene.boa_offset in (0, -1000)
        assert scene.assets
    assert message
    assert "\n" not in message


@settings(deadline=None, max_examples=300)
@given(JSON)
def test_any_json_is_a_scene_or_an_item_error(document: Any) -> None:
    becomes_scene_or_item_error(document)


@settings(deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_damage_is_a_scene_or_an_item_error(data: st.DataObject) -> None:
    item = small_item(**{APPLIED: False, "proj:code": "EPSG:32613", "s2:mgrs_tile": "13TDE"})
    item["assets"]["red"]["bands"] = [{"raster:offset": -0.1}]
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(paths_in(item)))
        holder: Any = item
        for key in way:
            holder = holder[key]
        if isinstance(holder, dict) and data.draw(st.booleans()):
            del holder[last]
        else:
            holder[last] = data.draw(JSON)
    becomes_scene_or_item_error(item)


DATATAKE = "GS2B_20231223T190949_035490_N05.10"
STRIP = "S2B_OPER_MSI_L2A_DS_2BPS_20231223T221212_S20231223T190950_N05.10"


@pytest.mark.parametrize(
    ("datatake", "strip", "expected"),
    [
        (DATATAKE, STRIP, "GS2B_20231223T190949_035490 20231223T190950"),
        # Processed again, elsewhere and by another baseline.
        (
            "GS2B_20231223T190949_035490_N05.11",
            "S2B_OPER_MSI_L2A_DS_S2RP_20250101T000000_S20231223T190950_N05.11",
            "GS2B_20231223T190949_035490 20231223T190950",
        ),
        # The next datastrip of the same datatake: another part of the ground.
        (
            DATATAKE,
            STRIP.replace("S20231223T190950", "S20231223T191004"),
            "GS2B_20231223T190949_035490 20231223T191004",
        ),
        (DATATAKE, None, "GS2B_20231223T190949_035490"),
        (DATATAKE.removesuffix("_N05.10"), 7, "GS2B_20231223T190949_035490"),
        (None, STRIP, None),
        ("a datatake", STRIP, None),
        (["GS2B"], STRIP, None),
    ],
)
def test_acquisition(datatake: Any, strip: Any, expected: str | None) -> None:
    item = small_item(**{"s2:datatake_id": datatake, "s2:datastrip_id": strip})
    assert scene_from_item(item).acquisition == expected
