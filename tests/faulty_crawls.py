"""Crawls that meet faults, and what they are compared with.

PYTEST_DONT_REWRITE: it is imported before it is a plugin, and asserts nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from fault_proxy import FaultProxy
from stacks import C1, Stack

from catalog.crawl import Report
from catalog.cube_writer import Placement, stored_refs_digest
from catalog.patience import Patience
from catalog.setup import open_crawl
from catalog.stac_query import StacQuery
from catalog.stac_search import search_items

SEEDS = range(int(os.environ.get("FAULT_SEEDS", "1")))
"""Of the faults that a crawl meets: FAULT_SEEDS=20 for an evening's worth."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tries as ever, with shorter timeouts and pauses."""
    short = Patience(retries=5, first=0.02, longest=1.0)
    for module in ("header", "stac_api", "cube_writer", "database"):
        monkeypatch.setattr(f"catalog.{module}.PATIENCE", short)
    monkeypatch.setattr("catalog.sources.REQUEST_TIMEOUT", timedelta(seconds=1))
    monkeypatch.setattr("catalog.storage.READ_TIMEOUT", timedelta(seconds=3))
    monkeypatch.setattr("catalog.storage.LONGEST_PAUSE", timedelta(seconds=0.2))
    monkeypatch.setattr("catalog.stac_api.WHOLE", 2)


@contextlib.contextmanager
def behind(stack: Stack, archive: FaultProxy, store: FaultProxy | None = None) -> Iterator[Stack]:
    """``stack`` with its files, and its object store if there is one, behind proxies; at the end it
    is as it was."""
    before = stack.sources, stack.moto
    files = f"{archive.url}/files/"
    stack.sources = [{"name": "demo", "match": files, "url": files}]
    stack.write_config()
    stack.init()
    if store is not None:
        stack.moto = store.url
        stack.write_config()
    try:
        yield stack
    finally:
        stack.sources, stack.moto = before
        stack.write_config()
        stack.init()


def crawl(
    stack: Stack, url: str, *, page_size: int = 2, bands: list[str] | None = None, **query: Any
) -> Report:
    """A crawl from the server or proxy at ``url``, whose search is tried again as a user's is."""
    with open_crawl(stack.settings, bands=bands) as opened:
        asked = StacQuery.parse(collection=C1, **query)
        items = search_items(f"{url}/stac/v1", asked, page_size=page_size, timeout=1, retries=5)
        return opened.run(items, query=asked.as_dict(), collection=C1, stac=f"{url}/stac/v1")


def indexed(stack: Stack) -> dict[str, tuple[str, str, int]]:
    """Item id → the digest of its references in SQL, the same from the store, and its files."""
    rows = stack.rows(
        "SELECT s.item_id, s.refs_sha256, s.snapshot_id, s.root, s.time_index, "
        "(SELECT count(*) FROM assets a WHERE a.scene_id = s.id) "
        "FROM scenes s WHERE s.status = 'indexed'"
    )
    repository = stack.repository()
    return {
        item: (
            bytes(digest).hex() if isinstance(digest, (bytes, memoryview)) else digest,
            stored_refs_digest(repository, repository.store(snapshot), Placement(root, index)),
            files,
        )
        for item, digest, snapshot, root, index, files in rows
    }
