"""A catalog in a place where nothing can be written is read like any; what would write says so."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import postgres_database
from read_only import COMMANDS
from stacks import Stack, child_environment

import catalog
from catalog import sqlite_file
from catalog.database import open_engine, read_transaction, write_transaction
from catalog.errors import ConfigError

pytest_plugins = ["stacks"]
SCRIPT = Path(__file__).with_name("read_only.py")


@pytest.fixture
def place(local_stack: Stack) -> Iterator[Path]:
    """A catalog of one scene: database, repository, settings in one directory."""
    assert local_stack.crawl(bands=["scl"], tiles=["10TFR"], datetime="2023-03-08").indexed == 1
    yield local_stack.config
    for path in [local_stack.directory, *local_stack.directory.rglob("*")]:
        path.chmod(0o700)


def run(how: str, config: Path) -> dict[str, list[object]]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), how, str(config)],
        capture_output=True,
        text=True,
        timeout=300,
        env=child_environment(),
    )
    if "PermissionError" in done.stderr or "CalledProcessError" in done.stderr:
        pytest.skip(f"this machine does not let a process give up rights: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    found: dict[str, list[object]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("how", ["mount", "drop"])
def test_all_that_reads_works_and_all_that_writes_says_why_not(place: Path, how: str) -> None:
    if how == "drop":
        for path in [place.parent, *place.parent.rglob("*")]:
            path.chmod(0o500 if path.is_dir() else 0o400)
    said = run(how, place)
    assert said["pixels"][1:] == [1, 1]
    for name in COMMANDS:
        code, out, err = said[name]
        if name in ("status", "search"):
            assert (code, err) == (0, ""), name
            assert out
        else:
            assert code == 2, (name, err)
            assert str(err).count("\n") == 1, (name, err)
            assert "ead-only" in str(err) or "Permission denied" in str(err), (name, err)


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only file system: SQLite opens a file so as it is told to, or not at all."""
    monkeypatch.setattr(sqlite_file.os, "access", lambda *_: False)
    real = sqlite3.connect

    def connect(address: str, **options: object) -> sqlite3.Connection:
        if "immutable=1" not in str(address):
            raise sqlite3.OperationalError("unable to open database file")
        return real(address, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(sqlite_file.sqlite3, "connect", connect)


def test_commits_that_are_in_the_log_alone_are_not_passed_over(
    local_stack: Stack, tmp_path: Path, unwritable: None
) -> None:
    copy = tmp_path / "copy #é.db"
    with closing(sqlite3.Connection(tmp_path / "cogcat.db")) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("UPDATE repositories SET location = 'moved'")
        writer.commit()
        for name in ("", "-wal"):
            shutil.copy(f"{tmp_path / 'cogcat.db'}{name}", f"{copy}{name}")
    with pytest.raises(ConfigError, match=r"its last commits are in .*-wal beside it"):
        open_engine(f"sqlite:///{copy}")
    Path(f"{copy}-wal").unlink()
    engine = open_engine(f"sqlite:///{copy}")
    with read_transaction(engine) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM repositories").scalar() == 1
    with pytest.raises(ConfigError, match="is read-only"), write_transaction(engine):
        pass
    engine.dispose()


def test_what_is_no_database_is_said_all_the_same(tmp_path: Path, unwritable: None) -> None:
    file = tmp_path / "x.db"
    file.write_bytes(b"x" * 5000)
    with pytest.raises(ConfigError):
        open_engine(f"sqlite:///{file}")


def test_a_uri_may_say_that_it_is_read_only(local_stack: Stack) -> None:
    file = local_stack.directory / "cogcat.db"
    url = f"sqlite:///file:{file}?mode=ro&uri=true"
    with catalog.connect(url, repository=local_stack.location) as cat:
        assert cat.search().count() == 0
    engine = open_engine(url)
    with (
        pytest.raises(ConfigError, match="readonly database"),
        write_transaction(engine) as connection,
    ):
        connection.exec_driver_sql("DELETE FROM crawls")
    engine.dispose()


def test_a_postgresql_user_who_may_only_read(request: pytest.FixtureRequest) -> None:
    with postgres_database(request.getfixturevalue("postgres_server"), "cogcat_template") as url:
        engine = open_engine(url + "&options=-cdefault_transaction_read_only%3Don")
        with read_transaction(engine) as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM scenes").scalar() == 0
        with (
            pytest.raises(ConfigError, match="it can be read, not written"),
            write_transaction(engine) as connection,
        ):
            connection.exec_driver_sql("DELETE FROM crawls")
        engine.dispose()
