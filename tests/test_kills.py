"""A crawl killed at every step and at any moment, run again, and held against one that never was.

``COGCAT_KILLS=200 pytest tests/test_kills.py -s -n 0`` kills so often and prints where it did; the
normal run kills at a sample of the steps.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from forked import COMMITS, Ended, Forks
from stacks import C1, STACKS, Stack, open_stack
from worlds import World, copied, world

from catalog.demo.archive import Archive
from catalog.demo.server import ArchiveServer

pytest_plugins = ["stacks"]

KILLS = int(os.environ.get("COGCAT_KILLS", "8"))
"""Over both stacks."""
TILES = ("10TFR", "10TGR", "11TLL")
DATES = tuple(f"2023-{month:02}-03" for month in range(1, 8))
BANDS = ("red", "scl")
BATCH = 2
pytestmark = pytest.mark.timeout(180 + 10 * KILLS)

Item = dict[str, Any]


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as running:
        yield running


@pytest.fixture(scope="module")
def readers() -> Iterator[Forks]:
    with Forks() as running:
        yield running


class Days:
    """What the archive offers from day to day: ``show`` lets the server offer it."""

    def __init__(self, archive: Archive) -> None:
        self._all = {
            (tile, date): item
            for item, (date, tile) in zip(
                archive.items["earth-search-c1"],
                ((date, tile) for date in DATES for tile in TILES),
                strict=True,
            )
        }
        assert all(tile in item["id"] for (tile, _), item in self._all.items())

    def items(self, day: int) -> list[Item]:
        """Of day 0: three dates, but for one scene that was there before. Of day 1: a fourth; one
        scene has other files, one another text, one is withdrawn, and the one that was withdrawn
        returns. Of day 2: a fifth, and the changed ones have changed again."""
        before, day = day < 0, max(day, 0)
        offered = {
            key: copy.deepcopy(item)
            for key, item in self._all.items()
            if key[1] in DATES[: 3 + day]
        }
        if day:
            del offered[TILES[2], DATES[1]]
        elif not before:
            del offered[TILES[2], DATES[0]]
        for change in range(day):
            # Other files: those of a date that is never offered.
            files = self._all[TILES[0], DATES[-1 - change]]["assets"]
            offered[TILES[0], DATES[0]]["assets"] = copy.deepcopy(files)
            offered[TILES[0], DATES[0]]["properties"]["s2:processing_baseline"] = f"05.1{change}"
            offered[TILES[1], DATES[1]]["properties"]["eo:cloud_cover"] = 50.5 + change
        return list(offered.values())


@pytest.fixture(params=STACKS)
def first_day(
    request: pytest.FixtureRequest, tmp_path: Path, small_archive: Archive, forks: Forks
) -> Iterator[tuple[Stack, Days]]:
    """A catalog with all of day 0, and what the archive will offer."""
    archive = small_archive.rebased(small_archive.base_url)
    days = Days(archive)
    with (
        ArchiveServer(archive) as server,
        open_stack(request.param, request, tmp_path, server) as stack,
    ):
        for day in (-1, 0):
            stack.items[:] = days.items(day)
            assert crawl(forks, stack).code == 0
        stack.items[:] = days.items(1)
        yield stack, days


def crawl(forks: Forks, stack: Stack, **options: Any) -> Ended:
    return forks.run(
        "crawl",
        stack.config,
        stac=stack.server.stac_url,
        collection=C1,
        batch=BATCH,
        sync=True,
        **options,
    )


def undisturbed(forks: Forks, stack: Stack, directory: Path) -> tuple[World, Ended, float]:
    with copied(stack, directory) as calm:
        started = time.monotonic()
        done = crawl(forks, calm)
        seconds = time.monotonic() - started
        assert done.code == 0, done.result
        return world(calm), done, seconds


@dataclasses.dataclass(frozen=True)
class Kill:
    """How one crawl is killed; the next is, too, where ``again`` says so."""

    how: dict[str, Any]
    again: dict[str, Any] | None
    moved_on: bool
    """The archive changes before the next crawl."""


def plan(steps: list[str], seconds: float, kills: int, dice: random.Random) -> list[Kill]:
    """Half at the boundaries of steps, evenly; a quarter within commits; a quarter at any time."""
    boundaries = max(1, kills // 2)
    hows = [
        {"kill_at": 1 + round(n * (len(steps) - 1) / max(1, boundaries - 1))}
        for n in range(boundaries)
    ]
    commits = [number for number, name in enumerate(steps, 1) if name in COMMITS]
    while len(hows) < kills:
        if len(hows) % 2:
            at = dice.choice(commits)
            hows.append({"kill_at": at, "kill_within": dice.uniform(0, 0.015)})
        else:
            hows.append({"kill_after": dice.uniform(0, seconds)})
    return [
        Kill(how, {"kill_at": dice.randint(1, len(steps))} if n % 3 == 1 else None, n % 5 == 4)
        for n, how in enumerate(hows)
    ]


def test_a_crawl_killed_anywhere_is_completed_by_the_next(
    first_day: tuple[Stack, Days], tmp_path: Path, forks: Forks, readers: Forks
) -> None:
    stack, days = first_day
    expected, calm, seconds = undisturbed(forks, stack, tmp_path / "calm")
    stack.items[:] = days.items(2)
    moved_on, *_ = undisturbed(forks, stack, tmp_path / "moved")
    dice = random.Random(3)
    where: Counter[str] = Counter()
    survived = reads = 0
    kills = plan(calm.steps, seconds, KILLS // 2, dice)
    for number, kill in enumerate(kills):
        stack.items[:] = days.items(1)
        with copied(stack, tmp_path / f"{number}") as killed:
            over = killed.directory / "over"
            readers.start("read", killed.config, until=str(over))
            try:
                for how in filter(None, (kill.how, kill.again)):
                    ended = crawl(forks, killed, **how)
                    if ended.killed:
                        where[ended.steps[-1] if ended.steps else "before the first step"] += 1
                    else:
                        assert ended.code == 0, ended.result
                        survived += 1
                if kill.moved_on:
                    killed.items[:] = days.items(2)
                todo = None if kill.moved_on else calm.result["indexed"] + calm.result["updated"]
                check_the_rest(forks, killed, todo)
            finally:
                over.touch()
                read = readers.end()
                reads += read.result.get("opened", 0)
            assert read.code == 0, (kill, read.result)
            found = world(killed)
            if kill.moved_on:
                # A state that was never recorded is no earlier state.
                assert (found.scenes, found.store) == (moved_on.scenes, moved_on.store), kill
            else:
                assert found == expected, kill
        if number % 10 == 9 or number == len(kills) - 1:
            print(
                f"\n{stack.name}: {where.total()} kills at {len(where)} of "
                f"{len(set(calm.steps))} kinds of steps, {survived} too late; a crawl has "
                f"{len(calm.steps)} steps; readers opened {reads} scenes",
                flush=True,
            )
    for name, count in where.most_common():
        print(f"  {count:4} {name}")
    assert where.total() >= len(kills) - survived
    assert where.total() > 3 * survived


def test_upkeep_killed_anywhere_is_completed_by_the_next(
    first_day: tuple[Stack, Days], tmp_path: Path, forks: Forks, readers: Forks
) -> None:
    """It expires all that is not read now, and readers never hold what no longer resolves."""
    stack, days = first_day
    for day in (1, 2):
        stack.items[:] = days.items(day)
        assert crawl(forks, stack).code == 0
    expected = world(stack)
    with copied(stack, tmp_path / "calm") as calm:
        steps = forks.run("maintain", calm.config).steps
    assert "icechunk garbage_collect" in steps
    kills = max(3, KILLS // 10)
    for number in range(kills):
        kill_at = 1 + round(number * (len(steps) - 1) / (kills - 1))
        with copied(stack, tmp_path / f"{number}") as killed:
            assert forks.run("maintain", killed.config, kill_at=kill_at).killed
            # Expiry may be ahead of the repository, never behind it.
            found = world(killed, every_commit=False)
            assert (found.scenes, found.store) == (expected.scenes, expected.store)
            over = killed.directory / "over"
            over.touch()
            read = readers.run("read", killed.config, until=str(over))
            assert read.code == 0, read.result
            done = forks.run("maintain", killed.config)
            assert done.code == 0, done.result
            found = world(killed)
            assert (found.scenes, found.store) == (expected.scenes, expected.store)
            snapshots = killed.rows("SELECT id FROM snapshots")
            assert len(snapshots) == len(TILES)
            assert crawl(forks, killed).result["unchanged"] == len(killed.items)


def test_upkeep_after_a_crawl_that_died_between_making_a_branch_and_its_first_commit(
    first_day: tuple[Stack, Days], forks: Forks
) -> None:
    stack, _ = first_day
    repository = stack.repository()
    repository.icechunk.create_branch(f"{C1}/12TVK", repository.first_snapshot())
    done = forks.run("maintain", stack.config)
    assert done.code == 0, done.result
    assert len(world(stack).scenes) == 3 * len(TILES)


def check_the_rest(forks: Forks, stack: Stack, todo: int | None) -> None:
    """The next crawl does what the dead ones left, and nothing of what they had recorded.

    Args:
        todo: scenes that the first of them set out to write or update; None where that has
            changed since.
    """
    asked = "SELECT count(*) FROM scenes WHERE status = 'indexed' AND crawl_id > 2"
    ((recorded,),) = stack.rows(asked)
    for _ in range(2):
        # What a dead crawl asked for arrived before this, and is answered before it.
        requests.get(stack.server.stac_url, timeout=10)
    stack.server.requests.reset()
    done = crawl(forks, stack)
    assert (done.code, done.result["failed"]) == (0, 0), done.result
    # Of what was committed, no more than a batch had not been recorded.
    assert done.result["recovered"] <= BATCH
    headers = Counter(
        served.path
        for served in stack.file_requests()
        if served.range and served.range.startswith("bytes=0-")  # others are the reader's
    )
    if todo is not None:
        now = done.result["indexed"] + done.result["updated"] + done.result["recovered"]
        assert now == todo - recorded
        assert headers.total() == len(BANDS) * now
        assert max(headers.values(), default=1) == 1
    idle = crawl(forks, stack)
    assert (idle.code, idle.result["requests"], idle.result["commits"]) == (0, 0, 0)
