"""The long run, made short: days pass, upkeep runs, and nothing grows but the scenes."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from fault_proxy import FaultProxy, Message
from scenes import local_source, noise, references, write, write_small_cog
from stacks import REGION

from catalog.repository import Repository

pytest_plugins = ["stacks"]


@pytest.fixture
def long_run(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("long_run", ROOT / "scripts" / "long_run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "long_run", module)
    spec.loader.exec_module(module)
    return module


def test_days_pass(long_run: Any, tmp_path: Path) -> None:
    days, last = 8, -1
    lived = long_run.live(tmp_path, days=days, tiles=2, keep=1, weekly=2, width=132)
    assert len(lived) == days
    assert sum(day.indexed for day in lived) >= lived[last].scenes >= 4
    # The last day was one of upkeep: what lies there is what is read, and little more.
    assert lived[last].objects < 2 * lived[0].objects
    assert lived[last].store / lived[last].scenes < lived[0].store / lived[0].scenes


def test_a_commit_fetches_the_manifests_it_changes_and_no_others(
    moto_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many steps lie behind it. By itself icechunk also fetches coordinates ahead, and its
    search for them takes longer with every manifest there is."""
    monkeypatch.setattr("catalog.repository.MANIFEST_STEPS", 2)
    write_small_cog(tmp_path / "red.tif", noise(200, 200))
    source = local_source(tmp_path)
    fetched: set[str] = set()

    def look(request: Message) -> None:
        if request.method == "GET" and "/manifests/" in request.target:
            fetched.add(request.target.partition("?")[0].rpartition("/")[2])

    def manifests(repository: Repository, snapshot: str) -> set[str]:
        found = asyncio.run(repository.icechunk.inspect_snapshot_async(snapshot))
        return {manifest["id"] for manifest in found["manifests"]}

    with FaultProxy(moto_server, share=0) as proxy:
        proxy.before = look
        location, options = "s3://repositories/long", {"endpoint": proxy.url, "region": REGION}
        Repository.create(location, [source], options)
        for number in range(6):
            scene = references(f"s{number}", source, {"red": "red.tif"}, day=number)
            repository = Repository.open(location, [source], options)
            fetched.clear()
            written = write(repository, scene)
            time.sleep(0.2)  # what is fetched ahead is fetched beside
            before, after = (
                manifests(repository, snapshot)
                for snapshot in (written.parent_id, written.snapshot_id)
            )
            assert fetched == before - after
            assert len(after) > len(before) or number % 2
