"""What went wrong elsewhere, from a crawl to the pixels: cases that neighbouring projects' users
reported. What each part does is tested beside the part."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from agreement import Item, assert_agree
from lying_api import LyingApi, serving
from scenes import noise, write_small_cog, write_tiff
from stacks import REGION, Stack, make_bucket, open_stack, s3_client
from stacks import read_pixels as pixels_of

from catalog.demo import server as demo_server
from catalog.demo.archive import Archive
from catalog.demo.http_connection import Request, Response
from catalog.demo.http_ranges import Representation
from catalog.demo.server import ArchiveServer
from catalog.errors import ChangedFileError, NotFoundError
from catalog.patience import Patience

pytest_plugins = ["stacks"]

TILE = "10TFR"
SIDE = 132
"""Pixels of red; scl has half."""


@pytest.fixture
def stack(
    request: pytest.FixtureRequest, tmp_path: Path, small_archive: Archive
) -> Iterator[Stack]:
    """Seven scenes of a tile, oldest first, with red and scl."""
    copy = small_archive.rebased(small_archive.base_url)
    items = [item for item in copy.items["earth-search-c1"] if TILE in item["id"]]
    items.sort(key=lambda item: str(item["properties"]["datetime"]))
    copy.items["earth-search-c1"] = items
    with ArchiveServer(copy) as server, open_stack("sqlite+local", request, tmp_path, server) as s:
        yield s


def variants(item: Item, count: int) -> list[Item]:
    """So many other scenes of the same files, an hour apart, newest first."""
    first = datetime.fromisoformat(item["properties"]["datetime"])
    made: list[Item] = []
    for number in reversed(range(count)):
        other: Item = json.loads(json.dumps(item))
        other["id"] = f"S2A_T{TILE}_{number:05}_L2A"
        properties = other["properties"]
        for key in [key for key in properties if key.startswith("s2:")]:
            del properties[key]
        when = (first + timedelta(hours=number)).isoformat().replace("+00:00", "Z")
        properties |= {"datetime": when, "created": when, "updated": when}
        made.append(other)
    return made


def bare(asset: dict[str, Any]) -> None:
    """The item is not to contradict another file."""
    for key in ("file:size", "file:checksum", "proj:shape", "proj:transform"):
        asset.pop(key, None)


def served_items(stack: Stack, path: Path, items: list[Item]) -> Path:
    """``items`` in a file, as the server gives them."""
    text = json.dumps({"type": "FeatureCollection", "features": items})
    path.write_text(text.replace(stack.server.archive.base_url, stack.server.url))
    return path


def crawl(stack: Stack, *arguments: object) -> dict[str, Any]:
    """``cogcat crawl --json``; what it prints and its exit code."""
    done = stack.cli("crawl", "--stac", stack.server.stac_url, *arguments, "--json")
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report | {"exit": done.exit_code, "stderr": done.stderr}


# 18


@pytest.mark.parametrize("total", [True, False])
def test_pages_without_a_next_link_leave_a_watch_where_it_is(stack: Stack, total: bool) -> None:
    """Either all is found by other questions, or the watch does not move on."""
    api = LyingApi(total=total)
    text = json.dumps(variants(stack.items[0], 130))
    api.items = json.loads(text.replace(stack.server.archive.base_url, stack.server.url))

    def lie(asked: Any, page: Any) -> Any:
        page["links"] = []
        if stubborn:
            page["features"] = api.items[:100]
            if total:
                page["numberMatched"] = len(api.items)
        return page

    api.lie = lie
    with serving(api):
        stack.cli("watch", "add", "w", "--stac", api.url, "--bands", "scl")
        stubborn = True
        done = stack.cli("crawl")
        assert done.exit_code == 2, done.output
        assert "an incomplete answer is not believed" in done.stderr
        assert stack.rows("SELECT watermark FROM watches") == [(None,)]
        stubborn = False
        assert stack.cli("crawl").exit_code == 0
        assert stack.rows("SELECT count(*) FROM scenes") == [(130,)]
        assert stack.rows("SELECT count(*) FROM watches WHERE watermark IS NOT NULL") == [(1,)]


# 03


def test_a_mosaic_of_scenes_without_scl_is_not_clear(stack: Stack) -> None:
    first, lacking = stack.items[0], stack.items[1]
    del lacking["assets"]["scl"]
    # On one day, so that they are one time step.
    lacking["properties"]["datetime"] = first["properties"]["datetime"].replace(":53.", ":54.")
    stack.crawl()
    with stack.connect() as cat:
        ask = {"tile": TILE, "bands": ["red"], "resolution": 20, "groupby": "solar_day"}
        with pytest.raises(NotFoundError, match=f"no band 'scl' to mask {lacking['id']} with"):
            cat.load(**ask, mask="clouds")
        ids = [first["id"]]
        want = cat.search(ids=ids).to_xarray(["red"], 20, mask="clouds").red.values
        for missing in ("drop", "nodata"):
            got = cat.load(**ask, mask="clouds", missing=missing, datetime="2023-01-03").red.values
            np.testing.assert_array_equal(got, want)


# 01


def test_zero_is_nodata_without_its_tag_in_cubes_and_mosaics(stack: Stack, tmp_path: Path) -> None:
    item = stack.items[0]
    pixels = noise(SIDE, SIDE)
    pixels[:, :60] = 0
    path = write_small_cog(tmp_path / "tagged.tif", pixels)
    with rasterio.open(path) as tagged:
        profile = tagged.profile | {"nodata": None}
    with rasterio.open(tmp_path / "untagged.tif", "w", **profile) as file:
        file.write(pixels, 1)
    bare(item["assets"]["red"])
    body = (tmp_path / "untagged.tif").read_bytes()
    stack.server.misbehave(stack.href(item, "red"), body=body)
    assert stack.crawl(bands=["red"]).failed == 0
    with stack.connect() as cat:
        cube = cat.cube(TILE, bands=["red"], resolution=10)
        at = cube.scene.values.tolist().index(item["id"])
        np.testing.assert_array_equal(cube.red[at], pixels)
        shown = cat.load(tile=TILE, bands=["red"], resolution=10, reflectance=True)
        assert shown.sizes["time"] == 7
        of_item = cat.search(ids=[item["id"]]).to_xarray(["red"], 10, reflectance=True).red[0]
        np.testing.assert_array_equal(np.isnan(of_item.values), pixels == 0)


# 06


def test_offsets_of_earth_search_v0_from_its_items_to_reflectance(
    stack: Stack, tmp_path: Path
) -> None:
    """Shifted already, not yet, and from before there were offsets."""
    told = {
        "S2B_10TFR_20211223_0_L2A": (
            {"sentinel:product_id": f"S2B_MSIL2A_x_N0301_R013_T{TILE}_x"},
            0,
        ),
        "S2B_10TFR_20220130_0_L2A": ({"sentinel:processing_baseline": "04.00"}, -1000),
        "S2B_10TFR_20220301_0_L2A": (
            {"sentinel:processing_baseline": "04.00", "sentinel:boa_offset_applied": True},
            0,
        ),
    }
    items = []
    for item, (name, (properties, _)) in zip(stack.items, told.items(), strict=False):
        red = item["assets"]["red"]
        red = {key: red[key] for key in ("href", "type", "proj:shape", "proj:transform")}
        zone = {"utm_zone": 10, "latitude_band": "T", "grid_square": "FR"}
        items.append(
            item
            | {"id": name, "collection": "sentinel-s2-l2a-cogs", "assets": {"B04": red}}
            | {
                "properties": {f"sentinel:{key}": value for key, value in zone.items()}
                | {"datetime": item["properties"]["datetime"], "proj:epsg": 32610}
                | properties
            }
        )
    path = served_items(stack, tmp_path / "v0.json", items)
    done = stack.cli("crawl", "--items", path, "--collection", "sentinel-s2-l2a-cogs")
    assert done.exit_code == 0, done.output
    with stack.connect() as cat:
        for item in items:
            offset = told[item["id"]][1]
            scene = cat.scene(item["id"])
            assert scene.record.boa_offset == offset
            shown = scene.open(bands=["red"], resolution=10, reflectance=True).red.values
            want = stack.pixels(item, "B04")
            want = np.where(want == 0, np.nan, (want + float(offset)) * 1e-4)
            np.testing.assert_allclose(shown, want, atol=1e-6)


# 04


def test_hrefs_whose_query_matters_are_refused_and_signatures_said(stack: Stack) -> None:
    token, signed, version = stack.items[:3]
    pixels = stack.pixels(signed, "red")
    token["assets"]["red"]["href"] += "?token=abc"
    signed["assets"]["red"]["href"] += "?X-Amz-Signature=abc&X-Amz-Date=now"
    version["assets"]["red"]["href"] += "?versionId=3"
    report = crawl(stack)
    with stack.connect() as cat:
        for item in (token, version):
            record = cat.scene(item["id"]).record
            assert (record.missing, record.status) == (("red",), "indexed")
            assert "a query" in " ".join(record.warnings)
            assert "abc" not in " ".join(record.warnings)
        scene = cat.scene(signed["id"])
        assert "the signature in the href of band red is left out." in scene.record.warnings
        np.testing.assert_array_equal(scene.open(bands=["red"], resolution=10).red, pixels)
    assert (report["exit"], report["incomplete"]) == (0, 2)
    rows = stack.everything()
    assert crawl(stack)["unchanged"] == 7
    assert stack.everything() == rows
    required = crawl(stack, "--require", "red")
    assert (required["exit"], required["failed"]) == (1, 2)
    assert "required here: red is not indexed: its href has a query" in required["stderr"]
    assert crawl(stack, "--bands", "red")["failed"] == 2


# 02


def without_range(request: Request, file: Representation, *, always: bool) -> Response:
    """200 and the whole file to a range that covers it, or to any."""
    first, _, last = request.headers.get("range", "bytes=1-").removeprefix("bytes=").partition("-")
    if always or (first == "0" and last and int(last) >= file.size - 1):
        headers = {key: value for key, value in request.headers.items() if key != "range"}
        request = dataclasses.replace(request, headers=headers)
    return RESPOND(request, file)


RESPOND = demo_server.respond


def test_small_files_that_come_whole_are_no_silence(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.server.archive.items["earth-search-c1"] = variants(stack.items[0], 80)
    answer = lambda request, file: without_range(request, file, always=False)  # noqa: E731
    monkeypatch.setattr(demo_server, "respond", answer)
    report = stack.crawl(bands=["scl"])
    assert (report.indexed, report.failed) == (80, 0)
    with stack.connect() as cat:
        scene = cat.scene(stack.items[7]["id"])
        np.testing.assert_array_equal(
            scene.open(bands=["scl"]).scl, stack.pixels(stack.items[7], "scl")
        )


def test_a_server_without_ranges_is_no_silence_either(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catalog.header.PATIENCE", Patience(first=0.001))
    stack.server.archive.items["earth-search-c1"] = variants(stack.items[0], 80)
    answer = lambda request, file: without_range(request, file, always=True)  # noqa: E731
    monkeypatch.setattr(demo_server, "respond", answer)
    report = stack.crawl(bands=["scl"])
    assert (report.indexed, report.failed) == (0, 80)
    assert "sends the whole file" in report.failures[0].reason


# 17


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("georeferenced", [True, False])
def test_a_transform_in_gdals_order_is_not_believed(
    stack: Stack, tmp_path: Path, georeferenced: bool
) -> None:
    item, right = stack.items[:2]
    pixels = noise(SIDE, SIDE)
    place: dict[str, Any] = {} if georeferenced else {"transform": None, "epsg": None}
    body = write_tiff(tmp_path / "red.tif", pixels, **place).read_bytes()
    for one in (item, right):
        transform = one["assets"]["red"]["proj:transform"]
        bare(one["assets"]["red"])
        a, b, c, d, e, f = transform[:6]
        one["assets"]["red"]["proj:transform"] = transform if one is right else [c, a, b, f, d, e]
        stack.server.misbehave(stack.href(one, "red"), body=body)
    assert crawl(stack)["exit"] == 0
    with stack.connect() as cat:
        record = cat.scene(item["id"]).record
        assert "in GDAL's order" in " ".join(record.warnings)
        assert record.missing == (() if georeferenced else ("red",))
        cube = cat.cube(TILE, bands=["red"], missing="drop")
        assert (item["id"] in cube.scene.values) == georeferenced
        red = cat.scene(right["id"]).open(bands=["red"], resolution=10).red
        np.testing.assert_array_equal(red, pixels)
        assert (float(red.x[0]), float(red.y[0])) == (600005, 5099995)
        groups = cat.scene(right["id"]).open_tree().children
        assert set(groups) <= {"r10m", "r20m", "r40m", "r80m"}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("whose", ["item", "file"])
def test_pixels_off_their_tile_are_not_believed(stack: Stack, whose: str) -> None:
    """They would stretch every mosaic of the tile to there."""
    item = stack.items[0]
    bare(item["assets"]["red"])
    origin = [10, 0, 0, 0, -10, 0]
    place: dict[str, Any] = {"transform": origin}
    if whose == "item":
        item["assets"]["red"]["proj:transform"] = origin
        place = {"transform": None, "epsg": None}
    body = write_tiff(stack.directory / "red.tif", noise(SIDE, SIDE), **place).read_bytes()
    stack.server.misbehave(stack.href(item, "red"), body=body)
    assert crawl(stack)["incomplete"] == 1
    with stack.connect() as cat:
        record = cat.scene(item["id"]).record
        assert record.missing == ("red",)
        assert f"are not on the scene's tile {TILE}" in " ".join(record.warnings)
        area = cat.load(tile=TILE, bands=["red"], resolution=10, missing="drop")
        assert (area.sizes["y"], area.sizes["x"]) == (SIDE, SIDE)


# 21


def test_files_in_directories_with_blanks_and_accents(stack: Stack, tmp_path: Path) -> None:
    """As ``Path.as_uri`` writes them, and as people do."""
    root = tmp_path / "my data" / "é 100%"
    root.mkdir(parents=True)
    stack.sources = [{"name": "disk", "match": f"{root.as_uri()}/", "url": f"{root.as_uri()}/"}]
    stack.write_config()
    assert stack.cli("init").exit_code == 0
    for number, item in enumerate(stack.items):
        path = root / f"scène {number}.tif"
        shutil.copy2(stack.path(item, "red"), path)
        item["assets"] = {"red": item["assets"]["red"]}
        plain = f"file://{path}".replace("%", "%25")
        item["assets"]["red"]["href"] = plain if number % 2 else path.as_uri()
    report = crawl(stack)
    assert (report["exit"], report["indexed"]) == (0, 7), report
    with stack.connect() as cat:
        for number, item in enumerate(stack.items):
            red = cat.scene(item["id"]).open(bands=["red"], resolution=10).red
            np.testing.assert_array_equal(red, pixels_of(root / f"scène {number}.tif"))


def test_keys_with_blanks_in_a_bucket(stack: Stack, moto_server: str) -> None:
    client = s3_client(moto_server)
    make_bucket(client, "blanks")
    table = {"name": "blanks", "match": "s3://blanks/", "url": "s3://blanks/"}
    stack.sources = [table | {"endpoint": moto_server, "region": REGION}]
    stack.write_config()
    assert stack.cli("init").exit_code == 0
    item = stack.items[0]
    path = stack.path(item, "red")
    stack.server.archive.items["earth-search-c1"] = [item]
    item["assets"] = {"red": item["assets"]["red"] | {"href": "s3://blanks/my tiles/é+%20 1.tif"}}
    client.put_object(
        Bucket="blanks", Key="my tiles/é+%20 1.tif", Body=path.read_bytes(), ACL="public-read"
    )
    assert crawl(stack)["indexed"] == 1
    with stack.connect() as cat:
        red = cat.scene(item["id"]).open(bands=["red"], resolution=10).red
        np.testing.assert_array_equal(red, pixels_of(path))


# 05


def test_a_footprint_that_covers_the_globe_is_the_ground_of_its_files(stack: Stack) -> None:
    item, flat = stack.items[:2]
    globe = [[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]
    item["geometry"] = {"type": "Polygon", "coordinates": [globe]}
    item["bbox"] = [-180, -90, 180, 90]
    line = [flat["geometry"]["coordinates"][0][0]] * 4
    flat["geometry"] = {"type": "Polygon", "coordinates": [line]}
    assert crawl(stack, "--bands", "red")["exit"] == 0
    with stack.connect() as cat:
        for one in (item, flat):
            warnings = " ".join(cat.scene(one["id"]).record.warnings)
            assert "the ground of its file of band red is used" in warnings
        here = cat.search(bbox=(-121.71, 46.035, -121.70, 46.04))
        assert {item["id"], flat["id"]} <= set(here.ids())
        assert item["id"] not in cat.search(bbox=(10, 50, 11, 51)).ids()
        area = cat.load(bbox=(-121.707, 46.035, -121.70, 46.04), bands=["red"], resolution=10)
        assert area.red[0].values.any()


# 10 and 13


def test_bands_that_cannot_be_read_say_why_and_cost_no_other(stack: Stack, tmp_path: Path) -> None:
    fifteen, jpeg = stack.items[:2]
    bits = write_tiff(tmp_path / "b.tif", noise(SIDE, SIDE) & 0x7FFF, nbits=15).read_bytes()
    colours = noise(3, SIDE, SIDE, dtype="uint8")
    masked = write_tiff(tmp_path / "j.tif", colours, compress="JPEG", photometric="YCBCR")
    for item, key, body in ((fifteen, "red", bits), (jpeg, "visual", masked.read_bytes())):
        item["assets"].setdefault(key, dict(item["assets"]["red"]))
        name = item["assets"]["red"]["href"].replace("B04", key)
        item["assets"][key]["href"] = name
        bare(item["assets"][key])
        stack.server.misbehave(stack.href(item, key), body=body)
    assert crawl(stack)["exit"] == 0
    with stack.connect() as cat:
        for item, band, words in (
            (fifteen, "red", ("NBITS", "15")),
            (jpeg, "visual", ("compression 7", "JPEG")),
        ):
            record = cat.scene(item["id"]).record
            assert record.missing == (band,)
            said = next(text for text in record.warnings if text.startswith(f"{band} is not"))
            assert all(word in said for word in words), said
            np.testing.assert_array_equal(
                cat.scene(item["id"]).open(bands=["scl"]).scl, stack.pixels(item, "scl")
            )
    assert "2 without a band that cannot be read" in stack.cli("status").stdout
    failed = crawl(stack, "--bands", "red", "--require", "red")
    assert (failed["exit"], failed["failed"]) == (1, 1)


# 14


def test_times_a_millisecond_apart_are_kept_from_crawl_to_crawl(stack: Stack) -> None:
    """Also where an item's time is put right by less than a second, and in the cube of before."""
    for item, part in zip(stack.items[:2], ("327", "328"), strict=True):
        item["properties"]["datetime"] = f"2023-01-03T19:11:53.{part}Z"
    stack.crawl(bands=["red"])
    with stack.connect() as cat:
        before = cat.cube(TILE, bands=["red"])
        for item in stack.items[:2]:
            when = datetime.fromisoformat(item["properties"]["datetime"]).replace(tzinfo=None)
            assert before.scene.sel(time=when).item() == item["id"]
        second = stack.items[1]
        second["properties"]["datetime"] = "2023-01-03T19:11:53.999Z"
        second["properties"]["updated"] = "2024-01-01T00:00:00Z"
        assert stack.crawl(bands=["red"]).changed == 1
        after = cat.cube(TILE, bands=["red"])
        assert after.scene.sel(time="2023-01-03T19:11:53.999").values.tolist() in (
            [second["id"]],
            second["id"],
        )
        scene = cat.scene(second["id"])
        assert scene.open(bands=["red"]).time.item() == np.datetime64("2023-01-03T19:11:53.999")
        old = cat.cube(TILE, bands=["red"], as_of=before.attrs["cogcat_snapshot"])
        np.testing.assert_array_equal(old.scene.values, before.scene.values)


# 22


@pytest.mark.parametrize("kind", ["beside", "self"])
def test_relative_hrefs_of_a_file_of_items_lead_to_pixels(
    stack: Stack, tmp_path: Path, kind: str
) -> None:
    root = tmp_path / "the items"
    item = stack.items[0]
    path = stack.path(item, "red")
    red = item["assets"]["red"] | {"href": "./files/B 04.tif"}
    item = item | {"assets": {"red": red}, "links": []}
    if kind == "beside":
        (root / "files").mkdir(parents=True)
        shutil.copy2(path, root / "files" / "B 04.tif")
        place = f"{root.as_uri()}/"
        stack.sources = [{"name": "disk", "match": place, "url": place}]
        stack.write_config()
        assert stack.cli("init").exit_code == 0
    else:
        root.mkdir()
        base = stack.href({"assets": {"red": stack.items[0]["assets"]["red"]}}, "red")
        item["links"] = [{"rel": "self", "href": f"{base.rpartition('/')[0]}/item.json"}]
        red["href"] = f"../{base.split('/')[-2]}/B04.tif"
    (root / "items.json").write_text(json.dumps(item))
    os.chdir(root.parent)
    done = stack.cli("crawl", "--items", "the items/items.json")
    assert done.exit_code == 0, done.output
    with stack.connect() as cat:
        shown = cat.scene(item["id"]).open(bands=["red"], resolution=10).red
        np.testing.assert_array_equal(shown, pixels_of(path))


# What a file that changed is to be cured by


def hinted(error: ChangedFileError) -> list[str]:
    """The command that the error prints, as a shell takes it apart."""
    words = shlex.split(str(error).split("`")[1])
    assert words[0] == "cogcat"
    return words[1:]


def replace_red(stack: Stack, item: Item, side: int = SIDE) -> Any:
    """Its file by another, in a copy of the archive; the new pixels."""
    bare(item["assets"]["red"])
    own = stack.directory / "own"
    path = own / "files" / stack.path(item, "red").relative_to(stack.server.archive.files)
    shutil.copytree(stack.server.archive.files, own / "files")
    stack.server.archive.directory = own
    pixels = noise(side, side, seed=7)
    write_small_cog(path, pixels)
    os.utime(path, (1_760_000_000, 1_760_000_000))
    return pixels


@pytest.mark.parametrize("name", ["S2B_T10TFR_x", "it's $HOME; S2B_T10TFR_x"])
def test_the_cure_for_a_changed_file_works_as_printed(stack: Stack, name: str) -> None:
    item = stack.items[0]
    bare(item["assets"]["red"])
    item["id"] = name
    crawl(stack)
    pixels = replace_red(stack, item)
    with stack.connect() as cat:
        with pytest.raises(ChangedFileError) as caught:
            cat.cube(TILE, bands=["red"]).red.load()
        done = stack.cli(*hinted(caught.value))
        assert done.exit_code == 0, done.output
        np.testing.assert_array_equal(
            cat.scene(item["id"]).open(bands=["red"], resolution=10).red, pixels
        )
    assert_agree(stack, 7)


def test_the_cure_reads_no_band_that_was_not_crawled(stack: Stack) -> None:
    """One that is not there would keep the others from being mended."""
    item = stack.items[0]
    bare(item["assets"]["red"])
    stack.server.misbehave(stack.href(item, "scl"), status=404)
    crawl(stack, "--bands", "red")
    pixels = replace_red(stack, item)
    with stack.connect() as cat:
        with pytest.raises(ChangedFileError) as caught:
            cat.scene(item["id"]).open(bands=["red"], resolution=10).red.load()
        done = stack.cli(*hinted(caught.value))
        assert done.exit_code == 0, done.output
        scene = cat.scene(item["id"])
        np.testing.assert_array_equal(scene.open(bands=["red"], resolution=10).red, pixels)
        assert (list(scene.assets), scene.record.missing) == (["red"], ())


def test_the_cure_asks_for_the_collection_that_the_scene_is_of(
    request: pytest.FixtureRequest, tmp_path: Path, dialects_archive: Archive
) -> None:
    copy = dialects_archive.rebased(dialects_archive.base_url)
    with ArchiveServer(copy) as server, open_stack("sqlite+local", request, tmp_path, server) as s:
        item = copy.items["earth-search-v1"][0]
        bare(item["assets"]["red"])
        words = ("--collection", item["collection"], "--bands", "red", "--ids", item["id"])
        assert crawl(s, *words)["indexed"] == 1
        pixels = replace_red(s, item, 546)
        with s.connect() as cat:
            with pytest.raises(ChangedFileError) as caught:
                cat.scene(item["id"]).open(bands=["red"], resolution=10).red.load()
            done = s.cli(*hinted(caught.value))
            assert done.exit_code == 0, done.output
            red = cat.scene(item["id"]).open(bands=["red"], resolution=10).red
            np.testing.assert_array_equal(red, pixels)
