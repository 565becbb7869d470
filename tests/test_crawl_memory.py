"""What a crawl holds in memory does not grow with what it meets.

``scripts/bench_memory.py`` measures it; here is what would make it grow.
"""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from stacks import BANDS, SCENES, Stack

from catalog import crawl as crawl_module
from catalog.demo.faults import Fault
from catalog.header import HeaderReader
from catalog.setup import open_crawl

pytest_plugins = ["stacks"]


def documents(stack: Stack, times: int = 1) -> Iterator[dict[str, Any]]:
    """The archive's items, as often as asked for under ids of their own."""
    text = json.dumps(stack.items).replace(stack.server.archive.base_url, stack.server.url)
    for number in range(times):
        for item in json.loads(text):
            yield item | {"id": f"{item['id']}{number}" if number else item["id"]}


def test_a_report_names_some_failures_and_counts_all(
    local_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catalog.report.FAILURES", 2)
    local_stack.server.faults.callback = lambda request: Fault(status=404)
    report = local_stack.crawl(items=documents(local_stack))
    assert (report.failed, len(report.failures)) == (SCENES, 2)
    ((recorded,),) = local_stack.rows("SELECT count(*) FROM scenes WHERE status = 'failed'")
    assert recorded == SCENES


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_crawl_remembers_a_bounded_number_of_scenes(
    local_stack: Stack, dry_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawl_module, "PAGE", 5)
    monkeypatch.setattr(crawl_module, "WAITING", 5)
    monkeypatch.setattr("catalog.sieve.REMEMBERED", 10)
    most = 0

    def watched(crawl: Any) -> Iterator[dict[str, Any]]:
        nonlocal most
        for item in documents(local_stack, 6):
            most = max(most, len(crawl._in_hand))
            yield item

    with open_crawl(local_stack.settings, bands=["scl"], dry_run=dry_run) as crawl:
        report = crawl.run(watched(crawl), query={})
        assert report.found == report.new == 6 * SCENES
        assert not report.failed
        assert dry_run or not (crawl._in_hand or crawl._waiting)
    assert 0 < most <= 10


def test_headers_that_are_written_are_let_go_while_others_are_read(
    local_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one page: a page may be a thousand scenes on a cluster."""
    monkeypatch.setattr(crawl_module, "BATCH", 1)
    seen: list[weakref.ref[Any]] = []
    counts: list[int] = []

    class Counting(HeaderReader):
        async def read_all(self, assets: Any) -> Any:
            found = await super().read_all(assets)
            seen.extend(weakref.ref(header.levels[0].offsets) for header in found)
            return found

    def progress(report: Any) -> None:
        gc.collect()
        counts.append(sum(offsets() is not None for offsets in seen))

    source = local_stack.settings.sources
    with open_crawl(local_stack.settings, reader=Counting(source), on_progress=progress) as crawl:
        crawl.run(documents(local_stack), query={})
    assert counts[-1] <= 2 * BANDS < SCENES * BANDS
