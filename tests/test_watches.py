"""Watches are saved, listed, replaced and forgotten; their watermark only moves on."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from catalog import registry, watches
from catalog.database import write_transaction
from catalog.errors import NotFoundError, UsageError
from catalog.recorded import CrawlCounts

MARK = datetime(2024, 4, 3, 3, 37, 33, 923000, tzinfo=UTC)
QUERY = {"collection": "sentinel-2-c1-l2a", "tiles": ["10TFR"], "stac": "http://127.0.0.1/"}


def add_repository(engine: Engine, name: str = "a") -> int:

    with write_transaction(engine) as connection:
        return registry.register_repository(connection, f"uid-{name}", f"/repository/{name}")


def test_a_watch_is_kept_as_it_was_given(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        watches.save_watch(connection, "valley", QUERY)
        watches.save_watch(connection, "coast", {"collection": "x"})
        assert [watch.name for watch in watches.list_watches(connection)] == ["coast", "valley"]
        watch = watches.get_watch(connection, "valley")
    assert dict(watch.query) == QUERY
    assert watch.watermark is None
    assert watch.last_crawl is None
    assert watch.created_at.tzinfo is not None


def test_another_query_starts_from_the_beginning(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        watches.save_watch(connection, "valley", QUERY)
        saved = watches.get_watch(connection, "valley")
        watches.advance_watch(connection, saved, MARK)
        assert watches.get_watch(connection, "valley").watermark == MARK
        watches.save_watch(connection, "valley", QUERY | {"tiles": ["10TGR"]})
        watch = watches.get_watch(connection, "valley")
    assert watch.id == saved.id
    assert watch.watermark is None


def test_the_watermark_never_goes_back(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        watches.save_watch(connection, "valley", QUERY)
        saved = watches.get_watch(connection, "valley")
        watches.advance_watch(connection, saved, MARK)
        watches.advance_watch(connection, saved, MARK.replace(year=2020))
        watches.advance_watch(connection, saved, None)
        assert watches.get_watch(connection, "valley").watermark == MARK


def test_the_last_crawl_that_ended_well_is_shown(engine: Engine) -> None:
    repository = add_repository(engine)
    with write_transaction(engine) as connection:
        watches.save_watch(connection, "valley", QUERY)
        key = watches.get_watch(connection, "valley").id
        for outcome in ("done", "failed"):
            crawl = registry.begin_crawl(connection, QUERY, repository_id=repository, watch_id=key)
            registry.finish_crawl(
                connection, crawl, CrawlCounts(), outcome, now=MARK.replace(
                    year=2024 if outcome == "done" else 2025
                )
            )  # fmt: skip
        watch = watches.get_watch(connection, "valley")
    assert watch.last_crawl == crawl
    assert watch.last_finished_at == MARK


def test_a_forgotten_watch_leaves_its_crawls(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        watches.save_watch(connection, "valley", QUERY)
        key = watches.get_watch(connection, "valley").id
        registry.begin_crawl(connection, QUERY, watch_id=key)
        watches.remove_watch(connection, "valley")
        assert watches.list_watches(connection) == []
        with pytest.raises(NotFoundError, match="no watch 'valley'; there are none"):
            watches.remove_watch(connection, "valley")


@pytest.mark.parametrize("name", ["", "a b", "-x", "ü", "x" * 65, "a/b", "../x"])
def test_a_name_is_plain(engine: Engine, name: str) -> None:
    with write_transaction(engine) as connection, pytest.raises(UsageError, match="watch name"):
        watches.save_watch(connection, name, QUERY)
