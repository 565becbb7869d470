"""What readers believe: each record against the snapshot it is read at, each scene's own bands and
time; and what they say where a repository is damaged or a snapshot is gone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from sqlalchemy import text
from stacks import C1, Stack

import catalog
from catalog.bands import band_bits
from catalog.database import write_transaction
from catalog.errors import CatalogError, NotFoundError, StoreError
from catalog.missing import MissingBandWarning
from catalog.preview import preview

pytest_plugins = ["stacks"]
TILE = "10TFR"


def crawl_some(stack: Stack, bands: list[str] | None = None) -> list[str]:
    """Three scenes of a tile, with red and scl unless other bands are named; ids by time."""
    stack.server.archive.items["earth-search-c1"] = [i for i in stack.items if TILE in i["id"]]
    stack.items.sort(key=lambda item: item["properties"]["datetime"])
    stack.crawl(bands=bands or ["red", "scl"])
    return [item["id"] for item in stack.items]


def alter(stack: Stack, statement: str, **values: Any) -> None:
    with stack.engine() as engine, write_transaction(engine) as connection:
        connection.execute(text(statement), values)


def readers(cat: catalog.Catalog, scene: str) -> dict[str, Callable[[], Any]]:
    """Every way to pixels of a scene and its tile."""
    return {
        "open": lambda: cat.scene(scene).open(bands=["red"], resolution=20),
        "open_tree": lambda: cat.scene(scene).open_tree(bands=["red"]),
        "virtual": lambda: cat.scene(scene).virtual(bands=["red"], resolution=20),
        "cube": lambda: cat.cube(TILE, bands=["red"], resolution=20),
        "load": lambda: cat.load(tile=TILE, bands=["red"], resolution=20),
        "to_xarray": lambda: cat.search(tile=TILE).to_xarray(bands=["red"], resolution=20),
        "search as_of": lambda: cat.search(tile=TILE, as_of=datetime.now(UTC)).to_xarray(["red"]),
        "cube as_of": lambda: cat.cube(TILE, bands=["red"], as_of=datetime.now(UTC)),
        "load as_of": lambda: cat.load(tile=TILE, bands=["red"], as_of=datetime.now(UTC)),
    }


WRONG = {
    "index": ("UPDATE scenes SET time_index = 17 WHERE item_id = :id", "no such place"),
    "offset": ("UPDATE scenes SET boa_offset = -999 WHERE item_id = :id", "BOA offset is"),
    "root": ("UPDATE scenes SET root = 'variant-1' WHERE item_id = :id", "no such place"),
}


@pytest.mark.parametrize("wrong", [*WRONG, "swapped", "time"])
def test_a_record_that_is_not_the_snapshots_gives_no_pixels(stack: Stack, wrong: str) -> None:
    first, second, _ = crawl_some(stack)
    if wrong == "swapped":
        for index, item in ((90, first), (0, second), (1, first)):
            now = dict(stack.rows("SELECT item_id, time_index FROM scenes"))
            target = {90: 90, 0: now[first], 1: 1}[index]
            if index == 90:
                places = now
            elif index == 0:
                target = places[first]
            else:
                target = places[second]
            alter(stack, "UPDATE scenes SET time_index=:n WHERE item_id=:id", n=target, id=item)
        said = f"{second} stands there"
    elif wrong == "time":
        column = "datetime + 3000000" if not stack.moto else "datetime + interval '3 seconds'"
        alter(stack, f"UPDATE scenes SET datetime = {column} WHERE item_id = :id", id=first)
        said = "its time is"
    else:
        statement, said = WRONG[wrong]
        alter(stack, statement, id=first)
    with stack.connect() as cat:
        for name, read in readers(cat, first).items():
            with pytest.raises(StoreError) as caught:
                read()
            message = str(caught.value)
            # Of the two that were swapped, either may be met first.
            assert said in message or "stands there" in message, (name, message)
            assert f"branch {C1}/{TILE} at snapshot " in message, name
            assert "cogcat rebuild" in message, name


def test_times_are_the_records(stack: Stack) -> None:
    """Two scenes a millisecond apart keep their own, in every array."""
    items = sorted(
        (i for i in stack.items if TILE in i["id"]), key=lambda i: i["properties"]["datetime"]
    )
    items[1]["properties"]["datetime"] = "2023-03-08T19:11:53.328001Z"
    items[0]["properties"]["datetime"] = "2023-03-08T19:11:53.327000Z"
    ids = crawl_some(stack)
    with stack.connect() as cat:
        records = {scene.id: scene.datetime for scene in cat.search(tile=TILE)}
        snapshot = cat.scene(ids[0]).snapshot_id
        for dataset in (
            cat.cube(TILE, bands=["red"]),
            cat.cube(TILE, bands=["red"], as_of=snapshot),
            cat.cube(TILE, bands=["red"], as_of=datetime.now(UTC)),
            cat.load(tile=TILE, bands=["red"], resolution=20, groupby="time"),
            cat.load(tile=TILE, bands=["red"], resolution=20, groupby=None, as_of=snapshot),
            cat.search(tile=TILE).to_xarray(["red"]),
        ):
            assert dataset.time.dtype == np.dtype("datetime64[us]")
            assert dataset.indexes["time"].is_unique
            for item in ids:
                moment = records[item].replace(tzinfo=None)
                assert dataset.scene.sel(time=moment).item() == item
        for item in ids:
            assert cat.scene(item).open(bands=["red"]).time.item() == np.datetime64(
                records[item].replace(tzinfo=None)
            )
        inside = cat.cube(
            TILE, bands=["red"], datetime="2023-03-08T19:11:53.328Z/2023-03-08T19:11:54Z"
        )
        assert inside.scene.values.tolist() == [ids[1]]


@pytest.mark.parametrize("lost", ["item", "record"])
def test_a_scene_without_scl_is_never_taken_for_clear(stack: Stack, lost: str) -> None:
    if lost == "item":
        bare = next(item for item in stack.items if TILE in item["id"])
        del bare["assets"]["scl"]
        crawl_some(stack)
        name = bare["id"]
    else:
        name = crawl_some(stack)[1]
        alter(
            stack,
            "DELETE FROM assets WHERE band = 'scl' AND scene_id ="
            " (SELECT id FROM scenes WHERE item_id = :id)",
            id=name,
        )
        alter(
            stack, "UPDATE scenes SET bands = :red WHERE item_id = :id",
            red=band_bits(["red"]), id=name,
        )  # fmt: skip
    with stack.connect() as cat:
        asks: list[Callable[..., xr.Dataset]] = [
            lambda **more: cat.cube(TILE, bands=["red"], resolution=20, **more),
            lambda **more: cat.load(tile=TILE, bands=["red"], resolution=20, groupby=None, **more),
            lambda **more: cat.search(tile=TILE).to_xarray(["red"], 20, **more),
        ]
        for ask in asks:
            for mask in ("clouds", "no_data"):
                with pytest.raises(NotFoundError, match=f"no band 'scl' to mask {name} with"):
                    ask(mask=mask)
                without = ask(mask=mask, missing="drop")
                assert name not in without.scene.values.tolist()
                assert without.sizes["time"] == 2
                empty = ask(mask=mask, missing="nodata").load()
                at = empty.scene.values.tolist().index(name)
                assert not empty.red[at].values.any()
                others = [n for n in range(3) if n != at]
                np.testing.assert_array_equal(empty.red[others], without.red)
                scaled = ask(mask=mask, missing="nodata", reflectance=True)
                assert np.isnan(scaled.red[at].values).all()
        scene = cat.scene(name)
        with pytest.raises(NotFoundError, match="no band 'scl' to mask with"):
            scene.open(bands=["red"], resolution=20, mask="clouds")
        left = scene.open(bands=["red"], resolution=20, mask="clouds", missing="nodata")
        assert not left.red.values.any()
        with pytest.raises(NotFoundError, match="no band 'scl'; there are red"):
            scene.open(bands=["scl"])
        assert set(scene.open(resolution=20).data_vars) == {"red"}
        with pytest.raises(NotFoundError, match="unknown missing"):
            cat.cube(TILE, missing="perhaps")


def test_a_band_that_a_scene_lacks_is_said(stack: Stack) -> None:
    """Crawled with fewer bands, or its file could not be read."""
    bare = next(item for item in stack.items if TILE in item["id"])
    for band in ("nir", "visual"):
        del bare["assets"][band]
    crawl_some(stack, ["red", "green", "blue", "nir", "visual", "scl"])
    with stack.connect() as cat:
        with pytest.warns(MissingBandWarning, match=f"no nir in {bare['id']}") as met:
            cube = cat.cube(TILE, bands=["red", "nir"], resolution=20)
        assert met[0].filename == __file__
        at = cube.scene.values.tolist().index(bare["id"])
        assert cube.missing_bands.values.tolist() == ["nir" if n == at else "" for n in range(3)]
        assert not cube.nir[at].values.any()
        assert cube.red[at].values.any()
        with pytest.raises(NotFoundError, match="no nir in"):
            cat.cube(TILE, bands=["red", "nir"], resolution=20, missing="error")
        fewer = cat.cube(TILE, bands=["red", "nir"], resolution=20, missing="drop")
        assert bare["id"] not in fewer.scene.values.tolist()
        assert "missing_bands" not in fewer.coords
        cat.cube(TILE, bands=["red", "nir"], resolution=20, missing="nodata")
        cat.cube(TILE, bands=["red"], resolution=20)
        with pytest.raises(NotFoundError, match="no band nir in"):
            cat.search(ids=bare["id"]).to_xarray(["nir"], 20)
        with pytest.warns(MissingBandWarning):
            area = cat.load(tile=TILE, bands=["nir"], resolution=20)
        assert [name != "" for name in area.missing_bands.values] == [n == at for n in range(3)]
        assert not area.nir[at].values.any()
        scene = cat.scene(bare["id"])
        for read in (scene.open, scene.virtual):
            with pytest.raises(NotFoundError, match="no band 'nir'; there are"):
                read(bands=["nir"])
        assert not scene.open(bands=["nir"], resolution=20, missing="nodata").nir.values.any()
        assert set(scene.open_tree()["r20m"].data_vars) == {"red", "green", "blue", "scl"}
        # True colour of the bands, since there is no visual.
        assert preview(scene).any()


def test_a_year_out_of_all_bounds_stops_no_other_scene(stack: Stack) -> None:
    first, *_ = crawl_some(stack)
    year = "253402300799000000" if not stack.moto else "'9999-12-31T23:59:59Z'"
    alter(stack, f"UPDATE scenes SET datetime = {year} WHERE item_id = :id", id=first)
    with stack.connect() as cat:
        with pytest.raises(StoreError, match="its time is"):
            cat.load(tile=TILE, bands=["red"], resolution=20)
        assert cat.load(tile=TILE, datetime="2023", bands=["red"], resolution=20).sizes["time"] == 2


def test_a_snapshot_that_expired_under_an_open_dataset(stack: Stack) -> None:
    crawl_some(stack)
    last = stack.items.pop()
    with stack.connect() as cat:
        dataset = cat.cube(TILE, bands=["red"], resolution=20)
        last["properties"]["datetime"] = "2023-12-24T19:11:53Z"
        last["id"] = "S2B_T10TFR_20231224T190950_L2A"
        stack.items.append(last)
        assert stack.crawl(bands=["red", "scl"]).indexed == 1
        stack.repository().icechunk.expire_snapshots(datetime.now(UTC) + timedelta(seconds=1))
        stack.repository().icechunk.garbage_collect(datetime.now(UTC) + timedelta(seconds=1))
        with pytest.raises(StoreError, match="open the dataset again") as caught:
            dataset.load()
        assert dataset.attrs["cogcat_snapshot"] in str(caught.value)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "zeros"])
def test_a_damaged_repository_is_an_error_of_ours_or_gives_the_pixels(
    local_stack: Stack, tmp_path: Path, damage: str
) -> None:
    """Each object in turn: every reader raises of the tree, or reads what it read before."""
    stack = local_stack
    first, *_ = crawl_some(stack)
    with stack.connect() as cat:
        want = {name: read() for name, read in readers(cat, first).items() if "virtual" not in name}
        pixels = {
            name: np.asarray((d["r20m"] if isinstance(d, xr.DataTree) else d).red.values)
            for name, d in want.items()
        }
    kept = tmp_path / "kept"
    shutil.copytree(stack.location, kept)
    files = [path for path in Path(stack.location).rglob("*") if path.is_file()]
    for path in files:
        data = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            middle = len(data) // 2
            path.write_bytes(
                {
                    "flip": data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]
                    if data
                    else b"x",
                    "cut": data[:middle],
                    "zeros": bytes(len(data)),
                }[damage]
            )
        try:
            with stack.connect() as cat:
                every = readers(cat, first)
                for name in ("open", "cube", "virtual"):
                    read = every[name]
                    try:
                        found = read()
                        if name in pixels:
                            tree = isinstance(found, xr.DataTree)
                            got = (found["r20m"] if tree else found).red.values
                            np.testing.assert_array_equal(got, pixels[name])
                    except CatalogError:
                        pass
        except CatalogError:
            pass
        path.write_bytes(data)
    assert len(files) >= 8
