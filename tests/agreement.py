"""What must be true of SQL and store after any crawl, for every test that did something to one."""

from __future__ import annotations

from typing import Any

from stacks import Stack

from catalog.cube_writer import Placement, scene_ids, stored_refs_digest

Item = dict[str, Any]


class Died(SystemExit):
    """What ends the process of a crawl; an ``Exception`` would be the scene's that is at hand."""


def item_at(stack: Stack, tile: str, date: str) -> Item:
    """Of Collection 1, as the server has it: to edit."""
    (found,) = (
        item
        for item in stack.items
        if tile in item["id"] and item["properties"]["datetime"].startswith(date)
    )
    return found


def assert_agree(stack: Stack, indexed: int) -> None:
    """SQL and store say the same of every branch, and every recorded snapshot resolves."""
    repository = stack.repository()
    with stack.connect() as cat:
        scenes = list(cat.search())
    assert len(scenes) == indexed == len({scene.id for scene in scenes})
    heads = dict(stack.rows("SELECT name, head_snapshot FROM branches"))
    assert set(heads) == repository.branches()
    for branch, head in heads.items():
        assert repository.head(branch) == head
        recorded = {s.id: Placement(s.root, s.time_index) for s in scenes if s.branch == branch}
        assert scene_ids(repository.store(head)) == recorded
        history = {snapshot.id for snapshot in repository.history(branch, since=None)}
        asked = "SELECT s.id FROM snapshots s JOIN branches b ON b.id = s.branch_id WHERE name = :b"
        assert {row[0] for row in stack.rows(asked, b=branch)} == history
    for scene in scenes:
        store = repository.store(scene.snapshot_id)
        place = Placement(scene.root, scene.time_index)
        assert scene_ids(store)[scene.id] == place
        assert stored_refs_digest(repository, store, place) == scene.refs_sha256
