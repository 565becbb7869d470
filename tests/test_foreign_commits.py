"""What others commit to a repository is never taken for ours: it stops the crawl, by name, and
readers go on at the recorded head; branches that are not ours are left alone."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import icechunk
import pytest
import zarr
from agreement import Died
from numcodecs import Zstd
from sqlalchemy import text
from stacks import C1, Stack, open_stack
from worlds import copied, world
from zarr.core.sync import sync

from catalog import cube_writer, upkeep
from catalog.committer import Committer
from catalog.cube_writer import Cube, read_cubes
from catalog.demo.archive import Archive
from catalog.demo.server import ArchiveServer
from catalog.errors import SceneError, StoreError
from catalog.repository import Repository, get_document, put_bytes, put_documents
from catalog.setup import keep_up, repair

pytest_plugins = ["stacks"]

TILE = "10TFR"
BRANCH = f"{C1}/{TILE}"
Store = icechunk.IcechunkStore


@contextlib.contextmanager
def _filled(
    name: str,
    request: pytest.FixtureRequest,
    factory: pytest.TempPathFactory,
    small_archive: Archive,
) -> Iterator[Stack]:
    archive = small_archive.rebased(small_archive.base_url)
    items = archive.items["earth-search-c1"]
    here = [item for item in items if TILE in item["id"]]
    other = [item for item in items if "10TGR" in item["id"]]
    items[:] = [*here[:2], other[0]]
    with (
        ArchiveServer(archive) as server,
        open_stack(name, request, factory.mktemp("filled"), server) as made,
    ):
        assert made.crawl().indexed == 3
        items.append(here[2])
        yield made


@pytest.fixture(scope="module")
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, small_archive: Archive
) -> Iterator[Stack]:
    """Two scenes of one tile and one of another; to be copied."""
    with _filled("sqlite+local", request, tmp_path_factory, small_archive) as made:
        yield made


@pytest.fixture
def stack(filled: Stack, tmp_path: Path) -> Iterator[Stack]:
    with copied(filled, tmp_path / "copy") as made:
        yield made


def commit(
    repository: Repository,
    change: Callable[[Store], None] | None,
    metadata: dict[str, Any] | None = None,
    branch: str = BRANCH,
) -> str:
    """What another commits; the snapshot."""
    session = repository.icechunk.writable_session(branch)
    if change is not None:
        change(session.store)
    return str(session.commit("another's", metadata, allow_empty=True))


def last_metadata(repository: Repository) -> dict[str, Any]:
    return dict(next(iter(repository.icechunk.ancestry(branch=BRANCH))).metadata)


# What a commit may change beside the scenes it names


def _rewrite(store: Store, edit: Callable[[Cube], None]) -> None:
    """As our own writer would write the cube that ``edit`` leaves."""

    async def put() -> None:
        cubes = await read_cubes(store)
        edit(cubes[""])
        cubes[""].resized = True
        await cube_writer._put_metadata(store, cubes, C1, TILE)

    sync(put())


def swap_names(store: Store) -> None:
    _rewrite(store, lambda cube: cube.ids.reverse())


def change_offset(store: Store) -> None:
    def edit(cube: Cube) -> None:
        cube.offsets[0] += 500

    _rewrite(store, edit)


def change_time(store: Store) -> None:
    def edit(cube: Cube) -> None:
        cube.times[1] += 86_400

    _rewrite(store, edit)


def add_a_name(store: Store) -> None:
    def edit(cube: Cube) -> None:
        cube.ids.append("S2B_T10TFR_20991231T190950_L2A")
        cube.times.append(4_102_444_800)
        cube.offsets.append(0)

    _rewrite(store, edit)


def take_a_place(store: Store) -> None:
    def edit(cube: Cube) -> None:
        for values in (cube.ids, cube.times, cube.offsets):
            values.pop()

    _rewrite(store, edit)


def empty_a_name(store: Store) -> None:
    def edit(cube: Cube) -> None:
        cube.ids[0] = ""

    _rewrite(store, edit)


def rename(store: Store) -> None:
    def edit(cube: Cube) -> None:
        cube.ids[0] = "another"

    _rewrite(store, edit)


def one_group_alone(store: Store) -> None:
    """The names of one group are other than those of the rest."""

    async def put() -> None:
        cube = (await read_cubes(store))[""]
        cube.ids.reverse()
        name = list(cube.grids)[-1]
        for key, value in cube_writer._step_chunks(cube).items():
            await put_bytes(store, f"{name}/{key}", value)

    sync(put())


def point_elsewhere(store: Store) -> None:
    """One chunk of one scene leads to the other scene's file, at the same offset and length."""

    async def urls() -> tuple[Any, ...]:
        rows = {}
        async for at, _, paths, starts, sizes, _ in store.array_chunk_iterator("/r10m/red"):
            for row, place in enumerate(at.tolist()):
                rows[tuple(place)] = (str(paths[row]), int(starts[row]), int(sizes[row]))
        return rows[0, 0, 0], rows[1, 0, 0]

    (_, start, size), (other, _, _) = sync(urls())
    store.set_virtual_ref("r10m/red/c/0/0/0", other, offset=start, length=size)


def write_pixels(store: Store) -> None:
    sync(put_bytes(store, "r10m/red/c/0/0/0", b"\0" * 9_000))


def delete_a_chunk(store: Store) -> None:
    sync(store.delete("r10m/red/c/1/0/0"))


def _edit_document(store: Store, key: str, edit: Callable[[dict[str, Any]], None]) -> None:
    document = sync(get_document(store, key))
    assert document is not None
    edit(document)
    put_documents(store, {key: document})


def another_codec(store: Store) -> None:
    plain = [{"name": "bytes", "configuration": {"endian": "little"}}]
    _edit_document(store, "r10m/red/zarr.json", lambda d: d.update(codecs=plain))


def a_scale_factor(store: Store) -> None:
    _edit_document(store, "r10m/red/zarr.json", lambda d: d["attributes"].update(scale_factor=2.0))


def another_fill_value(store: Store) -> None:
    _edit_document(store, "r10m/red/zarr.json", lambda d: d["attributes"].update(_FillValue=7))


def other_units_of_time(store: Store) -> None:
    _edit_document(
        store, "r10m/time/zarr.json",
        lambda d: d["attributes"].update(units="seconds since 1971-01-01"),
    )  # fmt: skip


def another_transform(store: Store) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["attributes"]["spatial:transform"][2] += 10_000

    _edit_document(store, "r10m/zarr.json", edit)


def another_crs(store: Store) -> None:
    _edit_document(
        store, "r10m/zarr.json", lambda d: d["attributes"].update({"proj:code": "EPSG:32611"})
    )


def another_tile(store: Store) -> None:
    _edit_document(store, "zarr.json", lambda d: d["attributes"]["cogcat"].update(tile="11TLL"))


def a_variant_that_is_none(store: Store) -> None:
    _edit_document(
        store, "zarr.json", lambda d: d["attributes"]["cogcat"].update(variants=["../.."])
    )


def other_pixel_centres(store: Store) -> None:
    cube = sync(read_cubes(store))[""]
    y, _ = cube.grids["r10m"].centres()
    sync(put_bytes(store, "r10m/y/c/0", Zstd(3).encode(y + 100)))


def a_bomb_of_names(store: Store) -> None:
    sync(put_bytes(store, "r10m/scene/c/0", Zstd(3).encode(bytes(200_000_000))))


def names_in_no_code(store: Store) -> None:
    sync(put_bytes(store, "r10m/scene/c/0", b"\xff" * 50))


def delete_a_group(store: Store) -> None:
    name = list(sync(read_cubes(store))[""].grids)[-1]
    sync(store.delete_dir(name))


def delete_all(store: Store) -> None:
    sync(store.delete_dir(""))


def add_an_array(store: Store) -> None:
    zarr.create_array(store, name="r10m/nir", shape=(2, 132, 132), dtype="u2")


def add_a_group(store: Store) -> None:
    zarr.create_group(store, path="more")


def a_document_of_nonsense(store: Store) -> None:
    _edit_document(store, "zarr.json", lambda d: d.update(attributes={"cogcat": {"bands": 5}}))


def nothing(store: Store) -> None:
    pass


CHANGES = [
    swap_names, change_offset, change_time, add_a_name, take_a_place, empty_a_name, rename,
    one_group_alone, point_elsewhere, write_pixels, delete_a_chunk, another_codec, a_scale_factor,
    another_fill_value, other_units_of_time, another_transform, another_crs, another_tile,
    a_variant_that_is_none, other_pixel_centres, a_bomb_of_names, names_in_no_code,
    delete_a_group, delete_all, add_an_array, add_a_group, a_document_of_nonsense,
]  # fmt: skip


def assert_refused(stack: Stack, snapshot: str) -> StoreError:
    """Crawl and repair stop by name, and nothing else has changed for anyone."""
    before = stack.everything()
    with stack.connect() as cat:
        seen = cat.cube(TILE, bands=["red"]).load()
    with pytest.raises(StoreError, match=snapshot) as refused:
        repair(stack.settings)
    assert BRANCH in str(refused.value)
    assert "cogcat repair --reset" in str(refused.value)
    after = stack.everything()
    assert after == before
    with stack.connect() as cat:
        again = cat.cube(TILE, bands=["red"]).load()
    assert again.identical(seen)
    return refused.value


METADATA: list[dict[str, Any] | None] = [
    None,
    {},
    {"scenes": 5, "crawl": "1"},
    {"scenes": ["a"] * 200_000, "crawl": "1"},
    {"scenes": [None, {"a": 1}], "crawl": "1"},
    {"scenes": ["\x1b[31m"], "crawl": "1"},
    {"scenes": ["x" * 100_000], "crawl": "1"},
    {"scenes": [], "crawl": 1},
    {"scenes": ["not there"], "crawl": "1"},
    {"scenes": [], "withdrawn": "S2B", "crawl": "1"},
]


@pytest.mark.parametrize("metadata", METADATA, ids=range(len(METADATA)))
def test_metadata_of_others(stack: Stack, metadata: dict[str, Any] | None) -> None:
    """A commit that changes nothing is not ours either, unless it says what ours say."""
    assert_refused(stack, commit(stack.repository(), None, metadata))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_commit_of_others_is_refused(stack: Stack, change: Callable[[Store], None]) -> None:
    """Whatever it calls itself: here as one of ours did, that named both scenes."""
    repository = stack.repository()
    metadata = last_metadata(repository) | {"write": "abcdefabcdef"}
    assert len(metadata["scenes"]) == 2
    snapshot = commit(repository, change, metadata)
    assert_refused(stack, snapshot)


def test_commits_of_others_on_s3(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, small_archive: Archive
) -> None:
    """A few of them, one after the other; the rest is Icechunk's own, wherever it lies."""
    with _filled("postgresql+s3", request, tmp_path_factory, small_archive) as stack:
        repository = stack.repository()
        before = head_of(stack)
        metadata = last_metadata(repository) | {"write": "abcdefabcdef"}
        for change in (swap_names, point_elsewhere, write_pixels, another_codec, delete_all, None):
            snapshot = commit(repository, change, metadata if change else None)
            assert_refused(stack, snapshot)
            assert stack.cli("repair", "--reset", BRANCH).exit_code == 0
            assert repository.head(BRANCH) == before
        repository.icechunk.create_branch("scratch", repository.first_snapshot())
        theirs = commit(repository, add_a_group, branch="scratch")
        repository.icechunk.delete_branch(BRANCH)
        with pytest.raises(StoreError, match="is this the catalog's own repository"):
            stack.crawl()
        repair(stack.settings, reset=[BRANCH])
        assert stack.crawl().indexed == 1
        assert repository.head("scratch") == theirs
        repository.icechunk.delete_branch("scratch")
        world(stack)


@pytest.mark.parametrize("change", [swap_names, change_offset, point_elsewhere, write_pixels],
                         ids=lambda change: change.__name__)  # fmt: skip
@pytest.mark.parametrize("named", ["none", "nothing"])
def test_a_commit_that_names_less_than_it_changed(
    stack: Stack, change: Callable[[Store], None], named: str
) -> None:
    repository = stack.repository()
    metadata = last_metadata(repository) | {"scenes": []} if named == "nothing" else None
    assert_refused(stack, commit(repository, change, metadata))


def test_a_crawl_stops_too_and_what_was_set_back_goes_on(stack: Stack) -> None:
    repository = stack.repository()
    before = head_of(stack)
    first = commit(repository, swap_names)
    commit(repository, nothing, last_metadata(repository))
    with pytest.raises(StoreError, match=f"{first}.*nor are the 1 after it"):
        stack.crawl()
    assert stack.cli("repair").exit_code == 2
    assert stack.cli("repair", "--reset", "no/such").exit_code == 2
    assert stack.cli("repair", "--reset", BRANCH).exit_code == 0
    assert repository.head(BRANCH) == before
    assert stack.crawl().indexed == 1
    world(stack)


def test_a_commit_of_ours_below_one_of_others_is_recorded(stack: Stack) -> None:
    """A crawl died after its commit, and another committed on top."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("catalog.records.record_indexed", _die)
        with pytest.raises(Died):
            stack.crawl()
    repository = stack.repository()
    mine = repository.head(BRANCH)
    assert mine != head_of(stack)
    snapshot = commit(repository, change_offset, last_metadata(repository))
    with pytest.raises(StoreError, match=snapshot):
        stack.crawl()
    assert head_of(stack) == mine
    with stack.connect() as cat:
        assert cat.search(tile=TILE).count() == 3
    repair(stack.settings, reset=[BRANCH])
    world(stack)


@pytest.mark.parametrize("change", ["offset", "elsewhere", "other bytes", "gone", "spec"])
def test_a_forged_commit_of_a_scene_that_is_outstanding(stack: Stack, change: str) -> None:
    """It names the scene that a crawl which died had set out to write, and writes it otherwise."""
    repository = stack.repository()
    before = head_of(stack)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("catalog.records.record_indexed", _die)
        with pytest.raises(Died):
            stack.crawl()
    metadata = last_metadata(repository)

    def forge(store: Store) -> None:
        if change == "offset":
            _rewrite(store, lambda cube: cube.offsets.__setitem__(2, 7))
        elif change == "gone":
            sync(store.delete("r10m/red/c/2/0/0"))
        elif change == "spec":
            another_fill_value(store)
        else:
            url, start, size = next(iter(references_of(store, "r10m/red", 2)))
            if change == "elsewhere":
                url = next(iter(references_of(store, "r10m/red", 0)))[0]
            else:
                start += 1
            store.set_virtual_ref("r10m/red/c/2/0/0", url, offset=start, length=size)

    snapshot = commit(repository, forge, metadata)
    with pytest.raises(StoreError, match=snapshot):
        stack.crawl()
    assert head_of(stack) != repository.head(BRANCH)
    repair(stack.settings, reset=[BRANCH])
    assert stack.crawl().indexed in (0, 1)
    assert head_of(stack) != before
    world(stack)


def references_of(store: Store, path: str, index: int) -> list[tuple[str, int, int]]:
    async def read() -> list[tuple[str, int, int]]:
        return [
            (str(urls[row]), int(starts[row]), int(sizes[row]))
            async for at, _, urls, starts, sizes, _ in store.array_chunk_iterator(f"/{path}")
            for row in range(len(urls))
            if at[row, 0] == index
        ]

    return sync(read())


def _die(*_: Any, **__: Any) -> None:
    raise Died


def head_of(stack: Stack) -> str:
    ((head,),) = stack.rows("SELECT head_snapshot FROM branches WHERE name = :b", b=BRANCH)
    return str(head)


# History, branches


def test_a_branch_that_was_set_back_written_anew_or_deleted(stack: Stack) -> None:
    repository = stack.repository()
    head = head_of(stack)
    for how in ("back", "anew", "deleted"):
        if how == "deleted":
            repository.icechunk.delete_branch(BRANCH)
        else:
            repository.icechunk.reset_branch(BRANCH, repository.first_snapshot())
        if how == "anew":
            commit(repository, add_a_group)
        for call in (lambda: repair(stack.settings), stack.crawl):
            with pytest.raises(StoreError, match="is this the catalog's own repository"):
                call()
        with stack.connect() as cat:
            assert cat.cube(TILE, bands=["red"]).sizes["time"] == 2
        repair(stack.settings, reset=[BRANCH])
        assert repository.head(BRANCH) == head
    assert stack.crawl().indexed == 1
    world(stack)


FOREIGN = ["scratch", "a/b/c", f"{C1}/notatile", "x", "ünïcødé/🛰", f"{C1}/12TVK", f"{C1}/99ZZZ"]


def test_branches_of_others_are_left_alone(
    stack: Stack, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catalog.recovery.SHOWN", 100)
    repository = stack.repository()
    for name in FOREIGN:
        repository.icechunk.create_branch(name, repository.first_snapshot())
        commit(repository, add_a_group, branch=name)
    # Our own commits, under another's name, and under that of another tile.
    for name in (copies := ["copy", f"{C1}/11TLL"]):
        repository.icechunk.create_branch(name, head_of(stack))
    repository.icechunk.create_tag("v1", head_of(stack))
    heads = {name: repository.head(name) for name in (*FOREIGN, *copies)}
    with caplog.at_level(logging.WARNING, "catalog"):
        assert repair(stack.settings).commits == 0
    (warning,) = [r.getMessage() for r in caplog.records if "not cogcat's" in r.getMessage()]
    assert all(ascii(name) in warning for name in heads)
    assert stack.crawl().indexed == 1
    assert stack.cli("status", "--store").exit_code == 0
    monkeypatch.setattr(upkeep, "GRACE", timedelta(0))
    keep_up(stack.settings, keep=timedelta(0))
    assert {name: repository.head(name) for name in heads} == heads
    for head in heads.values():
        sync(get_document(repository.store(head or ""), "zarr.json"))
    assert stack.crawl().indexed == 0


def test_nothing_is_written_on_top_of_others(stack: Stack) -> None:
    """Their branch is where that of a tile would be: its scenes fail, by name, and no others."""
    name = f"{C1}/11TLL"
    repository = stack.repository()
    repository.icechunk.create_branch(name, repository.first_snapshot())
    theirs = commit(repository, add_a_group, branch=name)
    with stack.engine() as engine:
        writer = Committer(engine, repository, 1, 1, None, None)  # type: ignore[arg-type]
        with pytest.raises(SceneError, match=f"S2B.*{name}.*not cogcat's"):
            writer._check_branch(name, "S2B")
        writer._check_branch(BRANCH, "S2B")
        writer._check_branch(f"{C1}/12TVK", "S2B")
    assert repository.head(name) == theirs


# Heads that the database has wrong


@pytest.mark.parametrize("wrong", ["older", "another branch's", "no one's", "empty"])
def test_a_wrong_head_is_mended_once(
    stack: Stack, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    old, other = head_of(stack), f"{C1}/10TGR"
    assert stack.crawl().indexed == 1
    head = head_of(stack)
    ((theirs,),) = stack.rows("SELECT head_snapshot FROM branches WHERE name = :b", b=other)
    value = {"older": old, "another branch's": theirs, "no one's": "A" * 20, "empty": ""}[wrong]
    edit(stack, "UPDATE branches SET head_snapshot = :v WHERE name = :b", v=value, b=BRANCH)
    before = stack.everything()["scenes"]
    with caplog.at_level(logging.WARNING, "catalog"):
        done = repair(stack.settings)
    assert (done.branches, done.commits) == (1, 0)
    assert "is now" in caplog.text
    assert head_of(stack) == head
    assert stack.everything()["scenes"] == before
    caplog.clear()
    with caplog.at_level(logging.WARNING, "catalog"):
        assert repair(stack.settings).branches == 0
    assert not caplog.records
    world(stack)


def test_commits_whose_rows_are_missing_are_recorded_again(stack: Stack) -> None:
    before = stack.everything()
    with contextlib.closing(sqlite3.connect(stack.directory / "cogcat.db")) as connection:
        connection.execute("DELETE FROM snapshots").close()
        connection.commit()
    assert repair(stack.settings).commits == 2
    assert repair(stack.settings).commits == 0
    after = stack.everything()
    assert after["scenes"] == before["scenes"]
    assert [row[0] for row in after["snapshots"]] == [row[0] for row in before["snapshots"]]
    world(stack)


def edit(stack: Stack, statement: str, **values: Any) -> None:
    with stack.engine() as engine, engine.begin() as connection:
        connection.execute(text(statement), values)
