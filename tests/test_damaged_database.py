"""A database that is damaged, another's, or of another time: errors of ours, whatever it holds."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, text
from stacks import Stack
from test_changes import Recorder

import catalog
from catalog import lease
from catalog.database import (
    check_revision,
    migrate,
    open_engine,
    read_transaction,
    write_transaction,
)
from catalog.errors import CatalogError, ConfigError, UsageError
from catalog.models import COLLECTIONS, CRAWLS, REVISION, WATCHES
from catalog.portable_sql import LONGEST_NAME, clean_text, from_json, name_fault, to_json
from catalog.setup import SetUp, set_up

pytest_plugins = ["stacks"]
PAGE = 4096
DAMAGES = 60


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["0099"], rf"revision '0099'.* knows {REVISION} at most.*upgrade cogcat"),
        (["9999"], "upgrade cogcat"),
        (["1975ea83b712"], "none of cogcat's: is it another program's"),
        (["0000"], "none of cogcat's"),
        ([""], "none of cogcat's"),
        (["\x1b[31m"], "none of cogcat's"),
        (["../../etc"], "none of cogcat's"),
        (["*"], "none of cogcat's"),
        ([], "names no revision in place of one"),
        ([REVISION, "0001"], r"names '\d{4}', '\d{4}' in place of one"),
    ],
)
def test_a_revision_that_is_not_ours(engine: Engine, rows: list[str], message: str) -> None:
    with write_transaction(engine) as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
        for row in rows:
            connection.execute(text("INSERT INTO alembic_version VALUES (:v)"), {"v": row})
    for attempt in (check_revision, migrate):
        with pytest.raises(ConfigError, match=message) as caught:
            attempt(engine)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("statement", [
    "ALTER TABLE alembic_version RENAME COLUMN version_num TO other",
    "DROP TABLE alembic_version",
])  # fmt: skip
def test_a_revision_that_cannot_be_read(engine: Engine, statement: str) -> None:
    with write_transaction(engine) as connection:
        connection.exec_driver_sql(statement)
    for attempt in (check_revision, migrate):
        with pytest.raises(ConfigError):
            attempt(engine)


@pytest.mark.parametrize("statement", [
    "DROP TABLE leases", "ALTER TABLE tiles DROP COLUMN minx", "DROP TABLE item_failures",
])  # fmt: skip
def test_what_is_missing_is_named_by_init(engine: Engine, statement: str) -> None:
    with write_transaction(engine) as connection:
        connection.exec_driver_sql(statement)
    check_revision(engine)
    with pytest.raises(ConfigError, match=r"lacks the (table|column) \w+.*cogcat rebuild"):
        migrate(engine)


def test_a_database_of_another_program(database_url: str) -> None:
    """It has a table called as one of ours."""
    engine = open_engine(database_url)
    with write_transaction(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE sources (id INTEGER, path TEXT)")
    with pytest.raises(ConfigError, match="not set up"):
        check_revision(engine)
    with pytest.raises(ConfigError, match="sources"):
        migrate(engine)
    with read_transaction(engine) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM sources").scalar() == 0
    engine.dispose()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a catalog of 40 scenes, and what its recorder knows."""
    directory = tmp_path_factory.mktemp("whole")
    engine = open_engine(f"sqlite:///{directory / 'a.db'}")
    migrate(engine)
    recorder = Recorder(engine, directory / "repo")
    for n in range(10):
        recorder.commit(*(recorder.scene(f"s-{n}-{k}") for k in range(4)))
    recorder.commit(recorder.scene("s-0-1", item_sha256="bb" * 32), etag="2")
    engine.dispose()
    return (directory / "a.db").read_bytes(), vars(recorder)


def damage(data: bytes, rng: random.Random) -> bytes:
    found, pages = bytearray(data), len(data) // PAGE
    how = rng.choice(["flips", "noise", "zeros", "cut", "exchange", "byte"])
    one, other = (slice(n * PAGE, (n + 1) * PAGE) for n in (rng.randrange(pages) for _ in "ab"))
    if how == "flips":
        for _ in range(rng.randint(1, 200)):
            found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    elif how == "byte":
        found[rng.randrange(len(found))] = rng.randrange(256)
    elif how == "noise":
        found[one] = rng.randbytes(PAGE)
    elif how == "zeros":
        found[one] = bytes(PAGE)
    elif how == "cut":
        del found[rng.randrange(len(found)) :]
    else:
        found[one], found[other] = found[other], found[one]
    return bytes(found)


def reads(cat: catalog.Catalog) -> Iterator[Callable[[], Any]]:
    here = "S_INTERSECTS(geometry, POINT(-121 44.5))"
    yield lambda: list(cat.search())
    yield lambda: cat.search(bbox=(-122, 44, -120, 45)).to_geopandas()
    yield lambda: [scene.assets for scene in cat.search(limit=5)]
    yield lambda: cat.search(filter=f"eo:cloud_cover < 50 AND {here}").count()
    yield lambda: list(cat.changes())
    yield lambda: cat.status()
    yield lambda: cat.collections()
    yield lambda: list(cat.search(as_of="2030").items_as_dicts())
    yield lambda: list(cat.search(sort="id").pages(7))


def read_all(url: str) -> None:
    with catalog.connect(url, repository="repo") as cat:
        for read in reads(cat):
            with contextlib.suppress(CatalogError):
                read()


@pytest.mark.parametrize("seed", range(DAMAGES))
def test_nothing_raw_comes_of_a_damaged_file(
    tmp_path: Path, whole: tuple[bytes, dict[str, Any]], seed: int
) -> None:
    file = tmp_path / "damaged.db"
    file.write_bytes(damage(whole[0], random.Random(seed)))
    url = f"sqlite:///{file}"

    def write() -> None:
        engine = open_engine(url)
        recorder = object.__new__(Recorder)
        vars(recorder).update(whole[1] | {"engine": engine, "places": dict(whole[1]["places"])})
        try:
            migrate(engine)
            with lease.held(engine, recorder.repository):
                recorder.commit(recorder.scene("s-9-1"), recorder.scene("new-1"), etag="3")
                recorder.withdraw("s-9-2")
        finally:
            engine.dispose()

    for attempt in (lambda: read_all(url), write):
        with contextlib.suppress(CatalogError):
            attempt()


@pytest.mark.parametrize("value", [
    "a\0b", "\ud800", "a\udfffb", "\0", "é\0", "😀", "\x1b", "x" * 100_000,
])  # fmt: skip
def test_text_that_no_database_holds_is_made_clean(engine: Engine, value: str) -> None:
    """In columns of text and in JSON; what can be kept is kept."""
    with write_transaction(engine) as connection:
        connection.execute(
            insert(CRAWLS).values(
                query={"asked": value, value[:9]: [value, float("nan"), float("inf"), 2**70]},
                started_at=lease._now(connection),
                outcome=value,
            )
        )
    with read_transaction(engine) as connection:
        outcome, query = connection.execute(
            CRAWLS.select().with_only_columns(CRAWLS.c.outcome, CRAWLS.c.query)
        ).one()
    assert outcome == query["asked"] == clean_text(value)
    assert query[clean_text(value[:9])][1:3] == [None, None]
    if clean_text(value) == value:
        assert outcome == value
    else:
        assert "\ufffd" in outcome


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 1025, "é" * 513])
def test_a_name_that_no_database_holds_is_refused(engine: Engine, name: str) -> None:
    """Not changed: it would be another's."""
    assert name_fault(name)
    with (
        pytest.raises(UsageError, match="can be no name in the catalog"),
        write_transaction(engine) as connection,
    ):
        connection.execute(
            insert(COLLECTIONS).values(name=name, registered_at=lease._now(connection))
        )
    fits = "é" * (LONGEST_NAME // 2)
    assert name_fault(fits) is None
    with write_transaction(engine) as connection:
        connection.execute(
            insert(COLLECTIONS).values(name=fits, registered_at=lease._now(connection))
        )


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**400])
def test_a_number_that_no_database_holds(engine: Engine, number: int) -> None:
    with pytest.raises(ConfigError), write_transaction(engine) as connection:
        connection.execute(
            insert(CRAWLS).values(query={}, started_at=lease._now(connection), found=number)
        )


def test_a_name_longer_than_an_index_takes(engine: Engine) -> None:
    """PostgreSQL refuses it; SQLite takes anything."""
    with contextlib.suppress(ConfigError), write_transaction(engine) as connection:
        connection.execute(
            insert(WATCHES).values(
                name="".join(map(chr, range(0x4E00, 0x6E00))),
                query={},
                created_at=lease._now(connection),
            )
        )


@pytest.mark.parametrize("garbage", ["{", "", "nul", "[" * 100_000, "NaN}"])
def test_json_that_is_none(garbage: str) -> None:
    with pytest.raises(ConfigError, match="damaged"):
        from_json(garbage)


def test_clean_json_is_left_alone() -> None:
    for value in ({"a": [1, 2.5, None, "é😀\\u0000"]}, [], "x", True):
        assert from_json(to_json(value)) == value


def test_many_inits_at_once(bare_stack: Stack) -> None:
    """On nothing at all: one makes it, the others find it made."""
    go = threading.Barrier(4)

    def init(_: int) -> SetUp:
        go.wait()
        return set_up(bare_stack.settings)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(init, range(4)))) == 1
    assert len(bare_stack.rows("SELECT uid FROM repositories")) == 1
    with bare_stack.connect() as cat:
        assert cat.search().count() == 0
