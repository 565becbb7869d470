"""Any order of new, changed, withdrawn and returning items, of crawls, deaths and repairs ends in
the catalog that the archive's last state asks for."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from forked import Ended, Forks
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from stacks import C1, Stack, open_stack
from worlds import copied, world

from catalog.cube import scene_references
from catalog.demo.archive import Archive
from catalog.demo.server import ArchiveServer
from catalog.header import HeaderReader
from catalog.item import scene_from_item

pytest_plugins = ["stacks"]

EXAMPLES = int(os.environ.get("COGCAT_EXAMPLES", "3"))
pytestmark = pytest.mark.timeout(180 + 20 * EXAMPLES)

Item = dict[str, Any]
STEP = st.integers(1, 100)
MOMENTS = ("icechunk create_branch, done", "icechunk commit", "icechunk commit, done",
           "SQL INSERT snapshots", "SQL UPDATE crawls")  # fmt: skip
SLOT = st.integers(0, 5)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as running:
        yield running


@pytest.fixture
def empty(
    request: pytest.FixtureRequest, tmp_path: Path, small_archive: Archive
) -> Iterator[Stack]:
    archive = small_archive.rebased(small_archive.base_url)
    with (
        ArchiveServer(archive) as server,
        open_stack("sqlite+local", request, tmp_path, server) as stack,
    ):
        yield stack


class Crawler(RuleBasedStateMachine):
    """Two tiles of three dates; files of the other dates are there for items that change theirs."""

    def __init__(self, empty: Stack, forks: Forks, pool: list[Item]) -> None:
        super().__init__()
        self._forks = forks
        tiles = sorted({_tile(item) for item in pool})[:2]
        self._tiles = tiles
        by_tile = {tile: [item for item in pool if _tile(item) == tile] for tile in tiles}
        self._pool = [by_tile[tile][n] for n in range(3) for tile in tiles]
        self._files = {tile: [item["assets"] for item in by_tile[tile]] for tile in tiles}
        self._offered: dict[int, Item] = {}
        self._gone: dict[int, Item] = {}
        self._edits = 0
        self._forgot = False  # SQL may have forgotten snapshots that upkeep has not removed yet
        self._opened = ExitStack()
        directory = Path(self._opened.enter_context(tempfile.TemporaryDirectory()))
        self._stack = self._opened.enter_context(copied(empty, directory / "catalog"))
        self._show()

    # The archive

    @initialize(slots=st.sets(SLOT, min_size=3))
    def there_are(self, slots: set[int]) -> None:
        for slot in sorted(slots):
            self.arrives(slot)

    @rule(slot=SLOT)
    def arrives(self, slot: int) -> None:
        """Or returns, as it was when it was withdrawn."""
        if slot not in self._offered:
            self._offered[slot] = self._gone.get(slot) or copy.deepcopy(self._pool[slot])
            self._show()

    @rule(slot=SLOT, files=st.none() | st.integers(0, 6), baseline=st.booleans())
    def changes(self, slot: int, files: int | None, baseline: bool) -> None:
        """Its text, or its files too; it is reprocessed, where the baseline goes with them."""
        if slot in self._offered:
            item = self._offered[slot]
            self._edits += 1
            item["properties"]["eo:cloud_cover"] = 0.5 + self._edits % 90
            if files is not None:
                item["assets"] = copy.deepcopy(self._files[_tile(item)][files])
                if baseline:
                    item["properties"]["s2:processing_baseline"] = f"05.{10 + files}"
            self._show()

    @rule(slot=SLOT)
    def is_withdrawn(self, slot: int) -> None:
        if slot in self._offered:
            self._gone[slot] = self._offered.pop(slot)
            self._show()

    def _show(self) -> None:
        self._stack.items[:] = [self._offered[slot] for slot in sorted(self._offered)]

    # The crawler

    @rule(sync=st.booleans())
    def crawls(self, sync: bool) -> None:
        self._crawl(sync=sync)

    @rule(tile=st.integers(0, 1), sync=st.booleans())
    def crawls_a_tile(self, tile: int, sync: bool) -> None:
        self._crawl(tiles=[self._tiles[tile]], sync=sync)

    @rule(step=STEP, sync=st.booleans())
    def dies(self, step: int, sync: bool) -> None:
        self._crawl(sync=sync, kill_at=step)

    @rule(step=st.sampled_from(MOMENTS), number=st.integers(1, 3), sync=st.booleans())
    def dies_at_a_bad_moment(self, step: str, number: int, sync: bool) -> None:
        self._crawl(sync=sync, kill_on=step, kill_at=number)

    @rule(step=st.none() | STEP)
    def is_repaired(self, step: int | None) -> None:
        self._ended("repair", kill_at=step)

    @rule(step=st.none() | STEP)
    def is_maintained(self, step: int | None) -> None:
        self._forgot = self._ended("maintain", kill_at=step).killed

    @precondition(lambda self: self._offered)
    @rule()
    def converges(self) -> None:
        ended = self._crawl(sync=True)
        assert ended.result["failed"] == 0
        found = world(self._stack, every_commit=not self._forgot)
        expected = {item["id"]: self._expected(item) for item in self._offered.values()}
        indexed = {
            name: (state, files)
            for name, (state, files) in found.scenes.items()
            if state[1] == "indexed"
        }
        assert set(indexed) == set(expected)
        assert {state[1] for state, _ in found.scenes.values()} <= {"indexed", "withdrawn"}
        there = {name: held for branch in found.store.values() for name, held in branch.items()}
        assert set(there) == set(expected)
        for name, (scene, references) in expected.items():
            state, files = indexed[name]
            assert state[4:8] == [
                references.sha256, scene.item_sha256, scene.cloud_cover, scene.baseline,
            ]  # fmt: skip
            assert len(files) == len(scene.assets)
            for array in references.arrays:
                url = array.location.replace("vcc://demo/", self._stack.server.files_url)
                assert set(there[name][array.spec.path].values()) == {
                    (url, int(offset), int(length))
                    for offset, length in zip(
                        array.offsets.ravel(), array.lengths.ravel(), strict=True
                    )
                    if length
                }
        again = self._crawl(sync=True)
        counts = ("indexed", "withdrawn", "requests", "commits")
        assert {again.result[name] for name in counts} == {0}

    def teardown(self) -> None:
        try:
            if self._offered:
                self.converges()
        finally:
            self._opened.close()

    def _crawl(self, *, sync: bool, **options: Any) -> Ended:
        server = self._stack.server
        return self._ended("crawl", stac=server.stac_url, collection=C1, sync=sync, **options)

    def _ended(self, do: str, **options: Any) -> Ended:
        ended = self._forks.run(do, self._stack.config, **options)
        assert ended.killed or ended.code == 0, ended.result
        return ended

    def _expected(self, item: Item) -> tuple[Any, Any]:
        """The scene and its references, read here and now."""
        server = self._stack.server
        served = json.loads(json.dumps(item).replace(server.archive.base_url, server.url))
        scene = scene_from_item(served)

        async def read() -> Any:
            reader = HeaderReader(self._stack.settings.sources)
            return await asyncio.gather(*(reader.read(asset) for asset in scene.assets))

        return scene, scene_references(scene, asyncio.run(read()))


def _tile(item: Item) -> str:
    return str(item["properties"]["grid:code"]).removeprefix("MGRS-")


def test_any_order_ends_in_the_same_catalog(
    empty: Stack, forks: Forks, small_archive: Archive
) -> None:
    pool = list(small_archive.items["earth-search-c1"])
    run_state_machine_as_test(
        lambda: Crawler(empty, forks, pool),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=16,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
