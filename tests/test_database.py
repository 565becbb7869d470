"""Engines, transactions, migrations; and that the tests themselves cannot reach the internet."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from conftest import ROOT
from sqlalchemy import Engine, insert, inspect, select, text
from sqlalchemy.sql.compiler import SQLCompiler

from catalog import database
from catalog.assets import read_assets
from catalog.database import (
    check_revision,
    migrate,
    migration_connection,
    open_engine,
    read_transaction,
    shown,
    write_transaction,
)
from catalog.errors import BusyError, ConfigError
from catalog.models import BRANCHES, REPOSITORIES, REVISION, TILES, WATCHES, Base
from catalog.portable_sql import one_of, upsert
from catalog.recorded import AssetRecord

NOW = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=UTC)
BOX = {"tile": "10TFR", "minx": -122.0, "miny": 44.0, "maxx": -120.0, "maxy": 46.0}


def _drift(engine: Engine) -> list[object]:
    with read_transaction(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return compare_metadata(context, Base.metadata)


def test_migrations_make_the_models_and_go_back(database_url: str) -> None:
    engine = open_engine(database_url)
    migrate(engine)
    migrate(engine)
    check_revision(engine)
    assert _drift(engine) == []
    # A table and an index that the models do not know must be seen, or the line above says nothing.
    with write_transaction(engine) as connection:
        connection.execute(text("CREATE INDEX stray ON scenes (platform)"))
    assert len(_drift(engine)) == 1
    with write_transaction(engine) as connection:
        connection.execute(text("DROP INDEX stray"))

    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    with migration_connection(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    with read_transaction(engine) as connection:
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
    migrate(engine)
    assert _drift(engine) == []
    engine.dispose()


def test_what_one_engine_compiled_serves_the_next(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own values, and the types of its own kind of database."""
    watch = WATCHES.c
    shape = select(watch.query, watch.created_at).where(watch.name.in_(["one", "two"]))

    def write_and_read(engine: Engine, name: str, moment: datetime) -> list[tuple[object, ...]]:
        row = {"name": name, "query": {"tile": [name, "é"]}, "created_at": moment}
        with write_transaction(engine) as connection:
            connection.execute(insert(WATCHES).values(**row))
            connection.execute(upsert(engine.dialect.name, TILES).on_conflict_do_nothing(), BOX)
        with read_transaction(engine) as connection:
            return [tuple(row) for row in connection.execute(shape.where(watch.name == name))]

    later = NOW + timedelta(microseconds=1)
    assert write_and_read(engine, "one", NOW) == [({"tile": ["one", "é"]}, NOW)]
    other = open_engine(engine.url.render_as_string(hide_password=False))
    try:
        monkeypatch.setattr(SQLCompiler, "__init__", "not to be called")
        assert write_and_read(other, "two", later) == [({"tile": ["two", "é"]}, later)]
        with pytest.raises(TypeError), read_transaction(other) as connection:
            connection.execute(shape.limit(3))
    finally:
        monkeypatch.undo()
        other.dispose()


def test_every_constraint_and_index_has_a_name(engine: Engine) -> None:
    with read_transaction(engine) as connection:
        seen = inspect(connection)
        for table in Base.metadata.tables:
            names = [seen.get_pk_constraint(table)["name"]]
            names += [found["name"] for found in seen.get_foreign_keys(table)]
            names += [found["name"] for found in seen.get_unique_constraints(table)]
            names += [found["name"] for found in seen.get_check_constraints(table)]
            assert {(name or "none").split("_")[0] for name in names} <= {"pk", "fk", "uq", "ck"}


def test_models_are_of_the_newest_migration() -> None:
    assert ScriptDirectory(str(ROOT / "migrations")).get_current_head() == REVISION


def test_a_catalog_of_an_earlier_revision_keeps_its_rows(database_url: str) -> None:
    engine = open_engine(database_url)
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    with migration_connection(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    moment = 1_700_000_000_000_000 if engine.dialect.name == "sqlite" else "2023-11-14T22:13:20Z"
    with write_transaction(engine) as connection:
        connection.execute(
            text("INSERT INTO repositories VALUES (1, 'uid', '/repo', :now, :now)"), {"now": moment}
        )
        connection.execute(
            text("INSERT INTO collections VALUES (1, 'c', NULL, NULL, :now)"), {"now": moment}
        )
        values = {
            "repository_id": 1, "collection_id": 1, "item_id": "i", "tile": "10TFR",
            "epsg": 32610, "href_prefix": "", "attempts": 0, "revision": 0, "status": "pending",
            "datetime": moment, "footprint": b"x", "minx": 0, "miny": 0, "maxx": 1, "maxy": 1,
            "boa_offset": 0, "boa_evidence": "none", "warnings": "[]", "item_sha256": b"y",
            "recorded_at": moment,
        }  # fmt: skip
        names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        connection.execute(text(f"INSERT INTO scenes ({names}) VALUES ({marks})"), values)
        connection.execute(
            text("INSERT INTO assets (scene_id, band, href, header_sha256, header_length)"
                 " VALUES (1, 'red', 'red.tif', :digest, 9)"), {"digest": b"z"}
        )  # fmt: skip
    for _ in range(2):
        migrate(engine)
        with read_transaction(engine) as connection:
            rows = connection.execute(text("SELECT item_id, status, acquisition FROM scenes")).all()
            files = read_assets(connection, [1])[1]
        assert rows == [("i", "pending", None)]
        assert files == {"red": AssetRecord("red", "red.tif", *[None] * 4, b"z".hex(), 9, None)}
        with migration_connection(engine) as connection:
            config.attributes["connection"] = connection
            command.downgrade(config, "0001")
        with read_transaction(engine) as connection:
            assert connection.execute(text("SELECT band FROM assets")).all() == [("red",)]
    engine.dispose()


def test_alembic_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'cli.db'}"
    monkeypatch.setenv("COGCAT_DATABASE", url)
    for words in (["upgrade", "head"], ["check"]):
        # From another directory, as the file names its own.
        alembic = [sys.executable, "-m", "alembic", "-c", str(ROOT / "alembic.ini"), *words]
        subprocess.run(alembic, check=True, cwd=tmp_path, capture_output=True)
    engine = open_engine(url)
    check_revision(engine)
    engine.dispose()


def test_another_revision_is_named(database_url: str) -> None:
    engine = open_engine(database_url)
    with pytest.raises(ConfigError, match=rf"is not set up.*{REVISION}.*cogcat init"):
        check_revision(engine)
    migrate(engine)
    with write_transaction(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for attempt in (check_revision, migrate):
        with pytest.raises(
            ConfigError, match=rf"revision '9999'.* knows {REVISION} at most.*upgrade cogcat"
        ):
            attempt(engine)
    engine.dispose()


def test_looking_creates_no_file(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'new.db'}")
    with pytest.raises(ConfigError, match="not set up"):
        check_revision(engine)
    engine.dispose()
    assert list(tmp_path.iterdir()) == []


def test_a_migration_that_breaks_foreign_keys_is_undone(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'cogcat.db'}")
    migrate(engine)
    with (
        pytest.raises(ConfigError, match="foreign keys of leases"),
        migration_connection(engine) as connection,
    ):
        connection.execute(text("INSERT INTO leases VALUES (7, 'me', 0, 0)"))
    with read_transaction(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM leases")).scalar() == 0
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("cogcat.db", "is not a URL"),
        ("postgresql://u:secret@127.0.0.1:port/d", "is not a URL"),
        (
            "mysql://u:secret@127.0.0.1/d",
            r"unknown driver 'mysql'; known are sqlite and postgresql",
        ),
        ("postgresql+asyncpg://u:secret@127.0.0.1/d", "unknown driver"),
        ("nothing+such://u:secret@127.0.0.1/d", "unknown driver"),
        ("sqlite:////no/such/directory/x.db", "no such directory '/no/such/directory'"),
        ("postgresql://u:secret@127.0.0.1:1/d", "Connection refused"),
        ("postgresql://127.0.0.1:1/d?user=u&password=secret", "Connection refused"),
    ],
)
def test_bad_urls(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_engine(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_database(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, " * 100)
    with pytest.raises(ConfigError, match="not a database"):
        open_engine(f"sqlite:///{tmp_path / 'text.db'}")
    with pytest.raises(ConfigError, match="is a directory"):
        open_engine(f"sqlite:///{tmp_path}")


def test_a_server_without_the_database(postgres_server: str) -> None:
    url = postgres_server.replace("/postgres?", "/no_such_db?").replace("+psycopg", "")
    with pytest.raises(ConfigError, match='"no_such_db" does not exist'):
        open_engine(url)


def test_shown_hides_passwords() -> None:
    assert "p@ss" not in shown("postgresql://u:p@ss@host/d?x=1")
    assert "hush" not in shown("not a url password=hush")


def test_transactions_are_real(engine: Engine) -> None:
    row = {"tile": "10TFR", "minx": 0.0, "miny": 0.0, "maxx": 1.0, "maxy": 1.0}

    def fail_after_writing() -> None:
        with write_transaction(engine) as connection:
            connection.execute(insert(TILES), [row])
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_writing()
    with write_transaction(engine) as connection:
        assert connection.execute(select(TILES)).first() is None
        connection.execute(insert(TILES), [row])
    with read_transaction(engine) as connection:
        assert len(connection.execute(select(TILES)).all()) == 1


def test_readers_of_sqlite_see_one_state_while_another_writes(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'cogcat.db'}")
    migrate(engine)
    row = {"tile": "10TFR", "minx": 0.0, "miny": 0.0, "maxx": 1.0, "maxy": 1.0}
    with read_transaction(engine) as reader:
        assert reader.execute(select(TILES)).first() is None
        with write_transaction(engine) as writer:
            writer.execute(insert(TILES), [row])
        assert reader.execute(select(TILES)).first() is None
    with read_transaction(engine) as reader:
        assert reader.execute(select(TILES)).first() is not None
        assert reader.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    engine.dispose()


def test_second_writer_of_sqlite_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    engine = open_engine(f"sqlite:///{tmp_path / 'cogcat.db'}")
    migrate(engine)
    with (
        write_transaction(engine),
        pytest.raises(BusyError, match="another process"),
        write_transaction(engine),
    ):
        pass
    engine.dispose()


def test_missing_tables_are_a_clear_error(database_url: str) -> None:
    engine = open_engine(database_url)
    with pytest.raises(ConfigError, match="run `cogcat init`"), read_transaction(engine) as c:
        c.execute(select(TILES))
    engine.dispose()


def test_foreign_keys_are_enforced(engine: Engine) -> None:
    bad = {"repository_id": 1, "collection_id": 1, "tile": "x", "name": "x", "epsg": 1}
    with (
        pytest.raises(ConfigError, match=r"(?i)foreign key"),
        write_transaction(engine) as connection,
    ):
        connection.execute(insert(BRANCHES), [bad | {"head_snapshot": "s", "updated_at": NOW}])


def test_instants_come_back_in_utc_to_the_microsecond(engine: Engine) -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    moments = [NOW.astimezone(zone), datetime(1969, 7, 20, 20, 17, 40, 1, tzinfo=UTC)]
    with write_transaction(engine) as connection:
        for number, moment in enumerate(moments):
            connection.execute(
                insert(REPOSITORIES),
                [{"uid": str(number), "location": "/", "registered_at": moment, "seen_at": NOW}],
            )
        column = REPOSITORIES.c.registered_at
        found = connection.execute(select(column).order_by(REPOSITORIES.c.uid)).scalars()
        assert [(moment, moment.tzinfo) for moment in found] == [(m, UTC) for m in moments]
        before = select(REPOSITORIES.c.uid).where(column < datetime(2000, 1, 1, tzinfo=UTC))
        assert connection.execute(before).scalars().all() == ["1"]
    with pytest.raises(ConfigError, match="naive datetime"), read_transaction(engine) as c:
        c.execute(select(column).where(column == datetime(2024, 1, 1)))  # noqa: DTZ001


@pytest.mark.parametrize("count", [0, 1, 50_000])
def test_one_of_takes_any_number_in_one_parameter(engine: Engine, count: int) -> None:
    row = {"tile": "10TFR", "minx": 0.0, "miny": 0.0, "maxx": 1.0, "maxy": 1.0}
    names = [f"{n}" for n in range(count - 1)] + ["10TFR"] * (count > 0)
    with write_transaction(engine) as connection:
        connection.execute(insert(TILES), [row])
        found = connection.execute(select(TILES.c.tile).where(one_of(TILES.c.tile, names)))
        assert found.scalars().all() == ["10TFR"] * (count > 0)


@pytest.mark.parametrize("url", ["http://192.0.2.1/", "http://example.com/"])
def test_the_internet_is_out_of_reach(url: str, internet_attempts: list[str]) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(pytest.fail.Exception, match="internet"):
        opener.open(url, timeout=1)
    with pytest.raises(pytest.fail.Exception, match="internet"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with socket.socket() as bare, pytest.raises(pytest.fail.Exception, match="internet"):
        bare.connect(("192.0.2.1", 80))
    assert len(internet_attempts) == 3
    internet_attempts.clear()


def test_a_thread_does_not_get_past_the_wall(internet_attempts: list[str]) -> None:
    def reach() -> None:
        with pytest.raises(pytest.fail.Exception):
            socket.create_connection(("192.0.2.1", 80), timeout=1)

    thread = threading.Thread(target=reach)
    thread.start()
    thread.join()
    assert internet_attempts == ["192.0.2.1"]
    internet_attempts.clear()


def test_loopback_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=1).close()


def test_a_reader_of_sqlite_keeps_more_pages(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'cogcat.db'}"
    for cache, expected in ((None, -2000), (4096, -4096)):
        engine = open_engine(url, cache=cache)
        migrate(engine)
        with read_transaction(engine) as connection:
            assert connection.execute(text("PRAGMA cache_size")).scalar() == expected
        engine.dispose()


def test_sqlite_is_new_enough() -> None:
    assert sqlite3.sqlite_version_info >= (3, 35), "RETURNING"
