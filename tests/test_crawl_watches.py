"""What a watch is promised to find: nothing that its question newly covers is passed over, and
nothing that failed while its watermark moved on is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from agreement import item_at
from stacks import DATES, SCENES, Stack

from catalog import cron, watches
from catalog.database import write_transaction

pytest_plugins = ["stacks"]


def add(stack: Stack, *words: str) -> dict[str, Any]:
    done = stack.cli("watch", "add", "w", "--stac", stack.server.stac_url, *words, "--json")
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def run(stack: Stack, *words: str, code: int = 0) -> dict[str, Any]:
    done = stack.cli("crawl", "--json", *words)
    assert done.exit_code == code, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document


OLD = ("--tile", "10TFR", "--bands", "scl", "--max-cloud-cover", "90")
WIDER: dict[str, tuple[tuple[str, ...], int, int]] = {
    # The new question, what it finds, and of that what is new or changed.
    "another tile": (("--tile", "10TGR", "--bands", "scl", "--max-cloud-cover", "90"), 3, 3),
    "a tile more": ((*OLD, "--tile", "10TGR"), 6, 3),
    "a band more": ((*OLD, "--bands", "red"), 3, 3),
    "any cloud": (OLD[:4], 3, 0),
    "everything": (("--bands", "scl"), 6, 3),
    "a box": (("--bbox", "-121.9,45.9,-119,46.2", "--bands", "scl"), 6, 3),
    "require": ((*OLD, "--require", "scl"), 3, 0),
}


@pytest.mark.parametrize("how", WIDER)
@pytest.mark.parametrize("again", ["replaced", "removed"])
def test_another_question_is_asked_from_its_beginning(
    local_stack: Stack, how: str, again: str
) -> None:
    stack = local_stack
    assert add(stack, *OLD)["starts_anew"]
    assert run(stack)["found"] == len(DATES)
    words, found, work = WIDER[how]
    if again == "removed":
        assert stack.cli("watch", "remove", "w").exit_code == 0
    assert add(stack, *words)["starts_anew"]
    (listed,) = json.loads(stack.cli("watch", "list", "--json").stdout)
    assert (listed["watermark"], listed["last_finished_at"]) == (None, None)
    report = run(stack)
    assert (report["found"], report["new"] + report["changed"]) == (found, work)
    # And from then on only what is new.
    assert run(stack)["found"] < found


def test_the_same_question_saved_again_goes_on_where_it_is(stack: Stack) -> None:
    tiles = ("--tile", "10TFR", "--tile", "10TGR")
    add(stack, *tiles, "--bands", "red,scl")
    assert run(stack)["found"] == SCENES
    same = add(stack, "--bands", "scl", "--bands", "B04", "--tile", "10TGR", "--tile", "10TFR")
    assert not same["starts_anew"]
    assert run(stack)["found"] < SCENES


def test_a_source_without_updated_is_asked_from_the_beginning_too(dialects_stack: Stack) -> None:
    stack = dialects_stack
    words = ("--collection", "sentinel-2-l2a", "--bands")
    for number, bands in enumerate(("scl", "red,scl")):
        done = stack.cli(
            "watch", "add", "w", "--stac", stack.server.pc_stac_url, *words, bands, "--json"
        )
        assert json.loads(done.stdout)["starts_anew"]
        report = run(stack)
        assert (report["found"], report["changed"]) == (2, 2 * number)
        assert run(stack)["found"] == 0


def test_a_crawl_of_the_old_question_moves_nothing_of_the_new_one(stack: Stack) -> None:
    add(stack, *OLD)
    with stack.engine() as engine:
        with write_transaction(engine) as connection:
            old = watches.get_watch(connection, "w")
        add(stack, "--bands", "scl")
        # It began before, and ends now.
        cron.run_watch(stack.settings, engine, old)
        with write_transaction(engine) as connection:
            assert watches.get_watch(connection, "w").watermark is None
    assert run(stack)["found"] == SCENES


def test_a_limit_leaves_nothing_behind_the_watermark(local_stack: Stack) -> None:
    add(local_stack, "--bands", "scl", "--limit", "2")
    assert run(local_stack)["indexed"] == 2
    for item in local_stack.items:
        item["properties"]["eo:cloud_cover"] = 1.25
    assert run(local_stack)["changed"] == 2


def test_an_item_that_was_no_scene_is_asked_for_again(stack: Stack) -> None:
    """Its ``updated`` lies before the watermark, so the search does not return it."""
    victim = item_at(stack, "10TFR", DATES[0])
    epsg = victim["properties"].pop("proj:epsg")
    add(stack, "--bands", "scl")
    assert run(stack, code=1)["indexed"] == SCENES - 1
    report = run(stack, code=1)
    assert (report["failed"], report["indexed"]) == (1, 0)
    assert run(stack)["failed"] == 0, "it is parked now"
    victim["properties"]["proj:epsg"] = epsg
    assert run(stack)["indexed"] == 0
    with stack.engine() as engine, write_transaction(engine) as connection:
        connection.exec_driver_sql("UPDATE item_failures SET next_attempt_at = failed_at")
    assert run(stack)["indexed"] == 1
    with stack.connect() as cat:
        assert cat.status()["failures"] == []


def test_an_item_that_was_no_scene_and_is_gone_is_not_asked_for_at_every_crawl(
    stack: Stack,
) -> None:
    victim = item_at(stack, "10TFR", DATES[0])
    del victim["properties"]["proj:epsg"]
    add(stack, "--bands", "scl")
    run(stack, code=1)
    stack.items.remove(victim)
    for expected in (2, 2):
        run(stack)
        assert stack.rows("SELECT attempts FROM item_failures") == [(expected,)]
