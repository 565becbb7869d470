"""Two crawls of one repository from two processes: taking turns, and with no lease to make them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from forked import Forks
from stacks import C1, SCENES, Stack
from worlds import copied, world

pytest_plugins = ["stacks"]

ROUNDS = 6
REFUSED = ("BusyError", "StoreError")
"""What a crawl without a lease may end with: it says so, and its scenes stay pending."""


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Forks, Forks]]:
    with Forks() as first, Forks() as second:
        yield first, second


def start(forks: Forks, stack: Stack, **options: object) -> None:
    forks.start("crawl", stack.config, stac=stack.server.stac_url, collection=C1, **options)


def begun(stack: Stack) -> bool:
    return bool(stack.rows("SELECT 1 FROM leases")) and len(stack.file_requests()) > 0


def test_the_second_exits_with_3_or_waits(stack: Stack, both: tuple[Forks, Forks]) -> None:
    stack.server.faults.latency_ms = 400
    start(both[0], stack)
    while not begun(stack):
        pass
    start(both[1], stack, wait=None)
    command = ["crawl", "--stac", stack.server.stac_url, "--collection", C1, "--json"]
    # In this process, which need not start: the first is still at work.
    third = stack.cli(*command)
    stack.server.faults.latency_ms = 0
    first, second = both[0].end(), both[1].end()
    assert third.exit_code == 3, third.output
    assert "another crawl" in third.stderr
    assert (first.code, first.result.get("indexed")) == (0, SCENES), first.result
    assert (second.code, second.result.get("unchanged")) == (0, SCENES), second.result
    assert len(world(stack).scenes) == SCENES
    waiting = stack.cli(*command, "--wait", "30")
    assert waiting.exit_code == 0, waiting.output
    assert json.loads(waiting.stdout)["unchanged"] == SCENES


def test_without_a_lease_nothing_is_lost(stack: Stack, both: tuple[Forks, Forks]) -> None:
    """They meet in the store (one commits on top of the other, again) and in SQL (one records
    what follows on a commit that the other has not recorded yet, and says that it must not)."""
    with copied(stack, stack.directory / "calm") as calm:
        start(both[0], calm)
        assert both[0].end().code == 0
        expected = world(calm)
    met = refused = 0
    for number in range(ROUNDS):
        with copied(stack, stack.directory / f"{number}") as shared:
            place = shared.directory / "meet"
            place.mkdir()
            for forks in both:
                start(forks, shared, lease=False, batch=1, dawdle=0.3, meet=str(place))
            for one in [forks.end() for forks in both]:
                assert one.code == 0 or one.result["error"] in REFUSED, one.result
                refused += one.code
                met += one.steps.count("icechunk commit") - one.steps.count("icechunk commit, done")
            start(both[0], shared)
            assert (last := both[0].end()).code == 0, last.result
            found = world(shared, every_commit=False)
            assert (found.scenes, found.store) == (expected.scenes, expected.store)
        if number and met:
            break
    print(f"{stack.name}: {met} met in the store, {refused} refused by SQL")
    assert met
