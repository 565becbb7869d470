"""What a catalog and its repository hold, in a form that two can be compared by.

``world`` reads all of it, reference by reference, and asserts on the way what must always be true;
``copied`` makes a second catalog of what a first one holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sqlite3
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import postgres_database
from stacks import Stack, s3_client
from zarr.core.sync import sync

from catalog.bands import bands_in
from catalog.cube_writer import Placement, read_cubes
from catalog.repository import Repository

SCENE = """
SELECT s.item_id, s.status, s.tile, s.root, s.refs_sha256, s.item_sha256, s.cloud_cover, s.baseline,
       s.boa_offset, s.attempts, s.last_error, s.wanted_sha256, s.id, s.time_index, s.snapshot_id,
       s.revision, b.name
FROM scenes s LEFT JOIN branches b ON b.id = s.branch_id
"""
REVISION = """
SELECT s.item_id, r.status, r.refs_sha256, r.item_sha256, r.baseline, r.snapshot_id, b.name
FROM scene_revisions r JOIN scenes s ON s.id = r.scene_id LEFT JOIN branches b ON b.id = r.branch_id
ORDER BY s.item_id, r.revision
"""


@dataclasses.dataclass
class World:
    """All that does not differ between two crawls of the same archive."""

    scenes: dict[str, Any]
    """Item id → what is recorded of it and its files."""
    earlier: dict[str, list[Any]]
    """Item id → its earlier states, oldest first."""
    store: dict[str, dict[str, Any]]
    """Branch → item id → time, offset and array path → references, at the head."""
    failures: list[Any]


def world(stack: Stack, *, every_commit: bool = True) -> World:
    """What there is.

    Fails where a scene is twice, or recorded where it is not; where a recorded head is not the
    repository's, and a recorded snapshot id is not of its branch's history; or (``every_commit``)
    one of its history is not recorded.
    """
    repository = stack.repository()
    heads = dict(stack.rows("SELECT name, head_snapshot FROM branches"))
    histories = {
        branch: {repository.first_snapshot(), *_history(repository, branch)}
        for branch in repository.branches()
    }
    for branch, head in heads.items():
        assert repository.head(branch) == head, f"{branch}: another head than recorded"
    for branch in set(histories) - set(heads):
        assert len(histories[branch]) == 1, f"{branch} is not recorded"
    asked = "SELECT s.id, b.name FROM snapshots s JOIN branches b ON b.id = s.branch_id"
    recorded = stack.rows(asked)
    for snapshot, branch in recorded:
        assert snapshot in histories[branch], f"{branch}: recorded snapshot {snapshot}"
    if every_commit:
        there = {s for branch in heads for s in histories[branch]} - {repository.first_snapshot()}
        assert {s for s, _ in recorded} == there, "a commit is not recorded"

    held: dict[int, set[str]] = {}
    for key, band in stack.rows("SELECT scene_id, band FROM assets"):
        held.setdefault(key, set()).add(band)
    for key, item, bits in stack.rows("SELECT id, item_id, bands FROM scenes"):
        assert set(bands_in(bits)) == held.get(key, set()), f"{item}: other bands than files"

    store = {branch: _scenes_of(repository, head) for branch, head in heads.items()}
    files: dict[int, list[Any]] = {}
    rasters = {row[0]: row[1:] for row in stack.rows("SELECT * FROM rasters")}
    # The number of a raster depends on who met it first.
    for key, *row, raster in stack.rows("SELECT * FROM assets ORDER BY scene_id, band"):
        files.setdefault(key, []).append(_plain([*row, *rasters[raster]]))
    scenes: dict[str, Any] = {}
    places: list[Any] = []
    for row in map(_plain, stack.rows(SCENE)):
        *state, key, index, snapshot, _, branch = row
        item, status, *_ = state
        assert item not in scenes, f"{item} is recorded twice"
        scenes[item] = (state, files.get(key, []))
        if snapshot is not None:
            assert snapshot in histories[branch], f"{item}: recorded at {snapshot}"
        if status == "indexed":
            found = store[branch].get(item)
            assert found is not None, f"{item} is not in {branch}"
            assert found["place"] == Placement(state[3], index), f"{item} is elsewhere"
            places.append((branch, state[3], index))
    assert len(set(places)) == len(places)
    held = Counter(item for branch in store.values() for item in branch)
    assert max(held.values(), default=1) == 1, "a scene is on two branches"
    for item in held:
        assert scenes[item][0][1] == "indexed", f"{item} is in the store and not indexed"
    for branch in store.values():
        for found in branch.values():
            del found["place"]  # the order of arrival

    earlier: dict[str, list[Any]] = {}
    for row in map(_plain, stack.rows(REVISION)):
        *revision, snapshot, branch = row
        if snapshot is not None:
            assert snapshot in histories[branch], f"{row[0]}: was recorded at {snapshot}"
        earlier.setdefault(row[0], []).append(revision[1:])
    failures = [_plain(row) for row in stack.rows("SELECT item_id, reason FROM item_failures")]
    return World(scenes, earlier, store, sorted(failures))


def _history(repository: Repository, branch: str) -> list[str]:
    return [snapshot.id for snapshot in repository.history(branch, since=None)]


def _scenes_of(repository: Repository, snapshot: str) -> dict[str, Any]:
    """Item id → place, time, offset and every reference of it. Fails where one is there twice, and
    where there are references for no scene."""
    store = repository.store(snapshot)
    found: dict[str, Any] = {}

    async def read() -> None:
        for root, cube in (await read_cubes(store)).items():
            by_index: dict[int, dict[str, Any]] = {}
            for index, item in enumerate(cube.ids):
                if item:
                    assert item not in found, f"{item} is twice in {snapshot}"
                    found[item] = by_index[index] = {
                        "place": Placement(root, index),
                        "time": cube.times[index],
                        "boa_offset": cube.offsets[index],
                    }
            for path in cube.specs:
                async for at, _, urls, starts, sizes, _ in store.array_chunk_iterator(
                    f"/{cube.key(path)}"
                ):
                    for row, (index, *chunk) in enumerate(at.tolist()):
                        assert index in by_index, f"{path}: references for no scene at {index}"
                        references = by_index[index].setdefault(path, {})
                        references[tuple(chunk)] = (
                            str(urls[row]), int(starts[row]), int(sizes[row]),
                        )  # fmt: skip

    sync(read())
    return found


def _plain(row: Any) -> list[Any]:
    return [bytes(value).hex() if isinstance(value, bytes | memoryview) else value for value in row]


@contextlib.contextmanager
def copied(stack: Stack, directory: Path) -> Iterator[Stack]:
    """A catalog of its own with all that ``stack`` holds, in ``directory``; gone at the end."""
    directory.mkdir()
    with contextlib.ExitStack() as opened:
        if stack.moto:
            template = stack.database.rpartition("/")[2].partition("?")[0]
            server = stack.database.replace(template, "postgres")
            database = opened.enter_context(postgres_database(server, template))
            location = f"s3://repositories/{uuid.uuid4().hex}"
            client = s3_client(stack.moto)
            opened.callback(client.close)
            bucket, _, old = stack.location.removeprefix("s3://").partition("/")
            new = location.rpartition("/")[2]
            opened.callback(_empty, client, bucket, new)
            for key in _keys(client, bucket, old):
                client.copy_object(
                    Bucket=bucket,
                    Key=key.replace(old, new, 1),
                    CopySource={"Bucket": bucket, "Key": key},
                )
        else:
            database = f"sqlite:///{directory / 'cogcat.db'}"
            with contextlib.closing(sqlite3.connect(stack.directory / "cogcat.db")) as source:
                source.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
            shutil.copy(stack.directory / "cogcat.db", directory / "cogcat.db")
            location = str(directory / "repo")
            shutil.copytree(stack.location, location)
            opened.callback(shutil.rmtree, directory, ignore_errors=True)
        copy = dataclasses.replace(stack, directory=directory, database=database, location=location)
        copy.write_config()
        yield copy


def _keys(client: Any, bucket: str, prefix: str) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    return [found["Key"] for page in pages for found in page.get("Contents", ())]


def _empty(client: Any, bucket: str, prefix: str) -> None:
    keys = [{"Key": key} for key in _keys(client, bucket, prefix)]
    for first in range(0, len(keys), 1000):
        client.delete_objects(Bucket=bucket, Delete={"Objects": keys[first : first + 1000]})
