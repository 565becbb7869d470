"""A scene has one place: an item that comes back on another tile leaves the one it was on."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agreement import Died, assert_agree
from stacks import C1, Stack, open_stack
from test_rebuild import dump, lose_database, without
from worlds import world

from catalog import committer, cube_writer
from catalog.demo.archive import Archive
from catalog.demo.server import ArchiveServer
from catalog.errors import NotFoundError, StoreError
from catalog.setup import rebuild, repair

pytest_plugins = ["stacks"]

OLD, NEW = "10TFR", "10TGR"
DATE = "2023-01-03"


@pytest.fixture(params=["sqlite+local", "postgresql+s3"])
def stack(
    request: pytest.FixtureRequest, tmp_path: Path, small_archive: Archive
) -> Iterator[Stack]:
    """Two dates of two tiles, crawled."""
    archive = small_archive.rebased(small_archive.base_url)
    items = archive.items["earth-search-c1"]
    items[:] = [
        item
        for item in items
        if item["properties"]["datetime"][:7] < "2023-03" and "11TLL" not in item["id"]
    ]
    for number, item in enumerate(items):
        item["id"] = f"scene-{number}"  # not one that names its tile
    with (
        ArchiveServer(archive) as server,
        open_stack(request.param, request, tmp_path, server) as made,
    ):
        assert made.crawl().indexed == 4
        yield made


def item_at(stack: Stack, tile: str, date: str) -> dict[str, Any]:
    (found,) = (
        item
        for item in stack.items
        if item["properties"]["grid:code"].endswith(tile)
        and item["properties"]["datetime"].startswith(date)
    )
    return found


def _template(stack: Stack, tile: str) -> dict[str, Any]:
    """An item of the tile."""
    return next(i for i in stack.items if i["properties"]["grid:code"].endswith(tile))


def move(stack: Stack, date: str = DATE, old: str = OLD, new: str = NEW) -> dict[str, Any]:
    """The item of a date on ``old`` is on ``new``, with the files of a scene there."""
    item = item_at(stack, old, date)
    files = _template(stack, new)
    moved: dict[str, Any] = copy.deepcopy(files)
    moved["id"] = item["id"]
    moved["properties"]["datetime"] = item["properties"]["datetime"]
    moved["properties"]["updated"] = "2024-01-01T00:00:00Z"
    stack.items[stack.items.index(item)] = moved
    return moved


def assert_moved(stack: Stack, name: str, left: int) -> None:
    """It is on the new tile, for every reader, and the old one does not show it."""
    assert_agree(stack, 4)
    with stack.connect() as cat:
        scene = cat.scene(name)
        assert (scene.tile, scene.branch) == (NEW, f"{C1}/{NEW}")
        assert scene.open(bands=["red"]).load().red.any()
        assert name not in cat.cube(OLD, bands=["red"]).scene.values
        assert cat.cube(OLD, bands=["red"]).sizes["time"] == left
        assert name in cat.cube(NEW, bands=["red"]).scene.values


def test_a_scene_whose_tile_changes_has_one_place(stack: Stack) -> None:
    with stack.connect() as cat:
        token = cat.changes().token
        before = cat.scene(item_at(stack, OLD, DATE)["id"])
        then = before.open(bands=["red"]).load()
    name = move(stack)["id"]
    report = stack.crawl()
    assert (report.changed, report.indexed, report.withdrawn, report.commits) == (1, 1, 0, 2)
    assert_moved(stack, name, 1)
    if stack.name == "sqlite+local":
        world(stack)
    with stack.connect() as cat:
        (change,) = cat.changes(token)
        assert (change.kind, change.id, change.tile) == ("changed", name, NEW)
        assert [c.tile for c in cat.changes() if c.id == name] == [OLD, NEW]
        # What it was is there, where it was.
        old = cat.cube(OLD, bands=["red"], as_of=before.snapshot_id)
        at = list(old.scene.values).index(name)
        assert (old.red[at].values == then.red.values).all()
    again = stack.crawl()
    assert (again.unchanged, again.commits) == (4, 0)

    # Back again, and all is recorded the same without the database.
    files = _template(stack, OLD)
    item = next(item for item in stack.items if item["id"] == name)
    back = copy.deepcopy(files) | {"id": name}
    back["properties"]["datetime"] = item["properties"]["datetime"]
    back["properties"]["updated"] = "2024-02-01T00:00:00Z"
    stack.items[stack.items.index(item)] = back
    assert stack.crawl().indexed == 1
    recorded = dump(stack)
    lose_database(stack)
    assert rebuild(stack.settings, stac=stack.server.stac_url).complete == 4
    found = dump(stack)
    for table in ("scenes", "snapshots", "branches"):
        assert without(found[table], "wanted") == without(recorded[table], "wanted"), table
    assert [row["branch"] for row in found["revisions"]] == [
        row["branch"] for row in recorded["revisions"]
    ]
    assert_agree(stack, 4)


@pytest.mark.parametrize("dies", ["leaving", "left", "written", "recording", "refused"])
def test_wherever_it_dies_the_next_crawl_ends_the_move(
    stack: Stack, dies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = move(stack)["id"]

    def die(*_: Any, **__: Any) -> Any:
        raise (StoreError("refused") if dies == "refused" else Died)

    withdraw, write = cube_writer.withdraw_batch, cube_writer.write_batch

    def die_after(real: Any) -> Any:
        def call(*args: Any, **kw: Any) -> Any:
            real(*args, **kw)
            die()

        return call

    with monkeypatch.context() as patch:
        if dies == "leaving":
            patch.setattr(committer, "withdraw_batch", die)
        elif dies == "left":
            patch.setattr(committer, "withdraw_batch", die_after(withdraw))
        elif dies == "written":
            patch.setattr(committer, "write_batch", die_after(write))
            patch.setattr("catalog.records.record_indexed", die)
        elif dies == "refused":
            patch.setattr(committer, "write_batch", die)
        else:
            patch.setattr("catalog.records.record_indexed", die)
        with pytest.raises((Died, StoreError)):
            stack.crawl()
    # Whoever asks for something else, and whatever else is repaired first.
    repair(stack.settings)
    report = stack.crawl(outstanding=True, ids=["no such"])
    assert report.failed == 0
    assert_moved(stack, name, 1)
    if stack.name == "sqlite+local":
        world(stack)
    assert stack.crawl().commits == 0


@pytest.mark.parametrize("backwards", [False, True])
def test_two_items_of_one_id_in_one_answer(stack: Stack, backwards: bool) -> None:
    """The one that was updated later, in whatever order they come; again and again."""
    item = item_at(stack, OLD, DATE)
    name = move(stack)["id"]
    items = [*stack.items, item]
    text = json.dumps(items[::-1] if backwards else items)
    documents = json.loads(text.replace(stack.server.archive.base_url, stack.server.url))
    assert stack.crawl(items=documents).indexed == 1
    assert_moved(stack, name, 1)
    assert stack.crawl(items=documents).commits == 0


@pytest.mark.parametrize("updated", ["newer", "same"])
@pytest.mark.parametrize("backwards", [False, True])
def test_two_items_of_one_id_on_different_pages(
    stack: Stack, updated: str, backwards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crawl by crawl, whichever comes first: one of them stays, and nothing more is done."""
    monkeypatch.setattr("catalog.crawl.PAGE", 1)
    item = item_at(stack, OLD, DATE)
    moved = move(stack)
    for found in (item, moved):
        if updated == "same":
            found["properties"]["updated"] = "2023-05-01T00:00:00Z"
    pair = [moved, item] if backwards else [item, moved]
    text = json.dumps([pair[0], *[one for one in stack.items if one is not moved], pair[1]])
    documents = json.loads(text.replace(stack.server.archive.base_url, stack.server.url))
    counts = [stack.crawl(items=documents).commits for _ in range(5)]
    assert counts[-2:] == [0, 0], counts
    if updated == "newer":
        assert not any(counts[1:])
    assert_moved(stack, moved["id"], 1)
    # What the source then says later is taken, wherever it is.
    back = copy.deepcopy(item)
    back["properties"]["updated"] = "2024-06-01T00:00:00Z"
    documents = json.loads(
        json.dumps([back]).replace(stack.server.archive.base_url, stack.server.url)
    )
    assert stack.crawl(items=documents).indexed == 1
    with stack.connect() as cat:
        assert cat.scene(moved["id"]).tile == OLD
    if stack.name == "sqlite+local":
        world(stack)


def test_a_tile_that_loses_its_only_scene(stack: Stack) -> None:
    for date in (DATE, "2023-02-03"):
        moved = move(stack, date)
    assert stack.crawl().commits == 2
    assert_agree(stack, 4)
    with stack.connect() as cat:
        assert cat.scene(moved["id"]).tile == NEW
        with pytest.raises(NotFoundError):
            cat.cube(OLD, bands=["red"])
    world(stack)
