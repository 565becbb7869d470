"""A database, a store or a disk that goes away while a crawl is at work: it ends with one clear
error, what is recorded stays, and the next crawl comes to what an undisturbed one does."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import postgres_database
from fault_proxy import FaultProxy, Message
from faulty_crawls import indexed
from sqlalchemy import create_engine, make_url
from stacks import SCENES, Stack, open_stack

from catalog import committer, database, records, registry
from catalog.database import open_engine, write_transaction
from catalog.demo.server import ArchiveServer
from catalog.errors import BusyError, ConfigError, DatabaseLostError, StoreError

pytest_plugins = ["stacks", "faulty_crawls"]

BANDS = ["red", "scl"]
POINTS = ("pending", "commit", "recorded", "finish")
"""Where it happens: before the intent, between commit and record, after the record, at the end."""


@pytest.fixture
def pg_stack(
    request: pytest.FixtureRequest, tmp_path: Path, server: ArchiveServer
) -> Iterator[Stack]:
    """PostgreSQL and a repository on disk: no object store has a part in it."""
    with open_stack("sqlite+local", request, tmp_path, server) as stack:
        stack.database = request.getfixturevalue("lone_database")
        stack.write_config()
        stack.init()
        yield stack


@pytest.fixture
def lone_database(postgres_server: str) -> Iterator[str]:
    with postgres_database(postgres_server, "cogcat_template") as url:
        yield url


def at(
    point: str,
    happens: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    *,
    within: bool = False,
) -> None:
    """``happens`` once, at that point of the next crawl."""
    module, name, after = {
        "pending": (records, "record_pending", False),
        "commit": (committer, "write_batch", True),
        "recorded": (records, "record_indexed", True),
        "finish": (registry, "finish_crawl", False),
    }[point]
    real = getattr(module, name)
    left = [1]

    def then(*args: Any, **kw: Any) -> Any:
        if not after and left:
            left.pop()
            happens()
        result = real(*args, **kw)
        if after and left:
            left.pop()
            happens()
        return result

    monkeypatch.setattr(module, name, then)


def undisturbed(stack: Stack, request: pytest.FixtureRequest) -> dict[str, tuple[str, str, int]]:
    directory = stack.directory / "calm"
    directory.mkdir()
    with open_stack("sqlite+local", request, directory, stack.server) as calm:
        calm.crawl(bands=BANDS)
        return indexed(calm)


def assert_ends_well(stack: Stack, request: pytest.FixtureRequest) -> None:
    """All that is recorded resolves; the next crawl completes."""
    before = indexed(stack)
    want = undisturbed(stack, request)
    assert all(want[item] == found for item, found in before.items())
    report = stack.crawl(bands=BANDS)
    assert report.failed == 0
    assert report.unchanged >= len(before)
    assert indexed(stack) == want
    again = stack.crawl(bands=BANDS)
    assert (again.unchanged, again.commits, again.recovered) == (SCENES, 0, 0)


# The database


def cut(stack: Stack) -> None:
    """Every connection to the stack's database is terminated by its server."""
    url = make_url(stack.database)
    admin = create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE datname = '{url.database}'"
            )
    finally:
        admin.dispose()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("point", POINTS)
def test_connections_of_postgresql_are_cut(
    pg_stack: Stack, point: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    with monkeypatch.context() as patched:
        at(point, lambda: cut(pg_stack), patched)
        if point == "pending":
            # In the middle of a transaction that is not made for repeating.
            with pytest.raises(DatabaseLostError, match=r"went away: .*run this again"):
                pg_stack.crawl(bands=BANDS)
        else:
            # Between two transactions, or in one that may be done twice: nothing is lost.
            assert pg_stack.crawl(bands=BANDS).indexed == SCENES
    assert_ends_well(pg_stack, request)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("point", POINTS)
def test_postgresql_goes_away_for_good(
    pg_stack: Stack, point: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    name = make_url(pg_stack.database).database
    admin = create_engine(
        make_url(pg_stack.database).set(database="postgres"), isolation_level="AUTOCOMMIT"
    )

    def allow(yes: bool) -> None:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {yes}")

    def gone() -> None:
        allow(False)
        cut(pg_stack)

    try:
        with monkeypatch.context() as patched:
            at(point, gone, patched)
            result = pg_stack.cli(
                "crawl", "--stac", pg_stack.server.stac_url, "--bands", ",".join(BANDS)
            )
        assert result.exit_code == 2, result.output
        (line,) = [row for row in result.stderr.splitlines() if row.startswith("cogcat: ")]
        assert f"database {pg_stack.database.split('@')[0].split('://')[0]}" in line
        assert "Traceback" not in result.stderr
    finally:
        allow(True)
        admin.dispose()
    assert_ends_well(pg_stack, request)


def test_a_short_outage_of_a_server_is_waited_for(
    lone_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused connections, once there have been some; never at first."""
    engine = open_engine(lone_database)
    pauses: list[float] = []
    monkeypatch.setattr("catalog.database.time.sleep", pauses.append)
    real = engine.dialect.connect
    refusals = [3]

    def connect(*args: Any, **kw: Any) -> Any:
        if refusals[0]:
            refusals[0] -= 1
            import psycopg

            raise psycopg.OperationalError("connection failed: the database system is starting up")
        return real(*args, **kw)

    engine.dispose()
    monkeypatch.setattr(engine.dialect, "connect", connect)
    with write_transaction(engine) as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
    assert len(pauses) == 3
    refusals[0] = 100
    engine.dispose()
    pauses.clear()
    for waited in (database.PATIENCE.retries, 0):
        with pytest.raises(ConfigError, match="starting up"), write_transaction(engine):
            pass
        assert len(pauses) == waited  # the second time it is known to be away
        pauses.clear()
    refusals[0] = 0
    engine.dispose()


@pytest.mark.parametrize("point", POINTS[:3])
def test_a_sqlite_file_is_removed(
    local_stack: Stack, point: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """SQLite would write on into the void and say that all is well."""
    stack = local_stack
    file, away = stack.directory / "cogcat.db", stack.directory / "away"
    away.mkdir()

    def remove() -> None:
        for path in stack.directory.glob("cogcat.db*"):
            shutil.move(path, away / path.name)

    with monkeypatch.context() as patched:
        at(point, remove, patched)
        with pytest.raises(DatabaseLostError, match="its file was removed while it was in use"):
            stack.crawl(bands=BANDS)
    assert not file.exists()  # no empty one in its place
    for path in away.iterdir():
        shutil.move(path, stack.directory / path.name)
    assert_ends_well(stack, request)


def test_a_sqlite_file_is_locked_for_too_long(
    local_stack: Stack, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    stack = local_stack
    other = sqlite3.connect(
        stack.directory / "cogcat.db", isolation_level=None, check_same_thread=False
    )
    with contextlib.closing(other), monkeypatch.context() as patched:
        patched.setattr("catalog.database.BUSY_SECONDS", 0.2)
        at("commit", lambda: other.execute("BEGIN IMMEDIATE").close(), patched)
        with pytest.raises(BusyError, match="another process has been writing for too long"):
            stack.crawl(bands=BANDS)
        other.execute("ROLLBACK").close()
    assert_ends_well(stack, request)


# The store


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["refuse", "500"])
@pytest.mark.parametrize("point", ["before the commit", "within the commit"])
def test_an_object_store_goes_away(
    how: str, point: str, request: pytest.FixtureRequest, tmp_path: Path, server: ArchiveServer
) -> None:
    with open_stack("postgresql+s3", request, tmp_path, server) as stack:
        assert stack.moto
        real = stack.moto
        with FaultProxy(real, share=0) as proxy:
            stack.moto = proxy.url
            stack.write_config()
            puts = iter(range(10**6))

            def goes(message: Message) -> str:
                # The first branch is written whole; the second not, or only in part.
                if message.method == "PUT" and "/snapshots/" in message.target:
                    number = next(puts)
                    if number == 1:
                        proxy.gone = how
                        return "reset before" if point == "before the commit" else "reset after"
                return "none"

            proxy.before = goes
            with pytest.raises(StoreError, match=r"branch .* run the crawl again"):
                stack.crawl(bands=BANDS)
        stack.moto = real
        stack.write_config()
        assert len(indexed(stack)) == SCENES // 2
        assert_ends_well(stack, request)


@pytest.mark.usefixtures("impatient")
def test_an_answer_to_a_commit_that_is_lost_makes_no_second_commit(
    request: pytest.FixtureRequest, tmp_path: Path, server: ArchiveServer
) -> None:
    with open_stack("postgresql+s3", request, tmp_path, server) as stack:
        assert stack.moto
        real = stack.moto
        with FaultProxy(real, share=0) as proxy:
            stack.moto = proxy.url
            stack.write_config()
            proxy.before = lambda message: (
                "reset after"
                if message.method == "PUT"
                and message.target.split("?")[0].endswith("/repo")
                and proxy.failed.total() < 3
                else "none"
            )
            report = stack.crawl(bands=BANDS)
            assert proxy.failed["reset after"] == 3
        stack.moto = real
        stack.write_config()
        assert (report.indexed, report.commits, report.failed) == (SCENES, 2, 0)
        repository = stack.repository()
        assert [len(repository.history(name, since=None)) for name in repository.branches()] == [
            1,
            1,
        ]
        assert_ends_well(stack, request)


@pytest.mark.parametrize("how", ["removed", "a file in the way"])
def test_a_local_repository_goes_away(
    local_stack: Stack, how: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    stack = local_stack
    place, away = Path(stack.location), stack.directory / "away"

    def remove() -> None:
        place.rename(away)
        if how != "removed":
            place.write_text("in the way")

    with monkeypatch.context() as patched:
        at("recorded", remove, patched)
        with pytest.raises(StoreError, match=r"branch .* run the crawl again"):
            stack.crawl(bands=BANDS)
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    away.rename(place)
    assert len(indexed(stack)) == SCENES // 2
    assert_ends_well(stack, request)


# The disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except OSError:
        pytest.skip("no mount here")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """All of the disk but ``leave`` bytes is taken."""
    found = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(max(0, found.f_bavail * found.f_frsize - leave)))
    return ballast


@pytest.mark.parametrize("point", ["pending", "commit", "recorded"])
def test_the_disk_of_the_database_is_full(
    local_stack: Stack,
    small_disk: Path,
    point: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    stack = local_stack
    shutil.move(stack.directory / "cogcat.db", small_disk / "cogcat.db")
    stack.database = f"sqlite:///{small_disk / 'cogcat.db'}"
    stack.write_config()
    with monkeypatch.context() as patched:
        at(point, lambda: fill(small_disk, 0) and None, patched)
        with pytest.raises(ConfigError, match=r"disk is full; make room, then run this again"):
            stack.crawl(bands=BANDS)
    (small_disk / "ballast").unlink()
    assert_ends_well(stack, request)


@pytest.mark.parametrize("leave", [0, 20_000, 60_000])
def test_the_disk_of_the_repository_is_full(
    local_stack: Stack,
    small_disk: Path,
    leave: int,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    stack = local_stack
    shutil.move(stack.location, small_disk / "repo")
    stack.location = str(small_disk / "repo")
    stack.write_config()
    with monkeypatch.context() as patched:
        at("recorded", lambda: fill(small_disk, leave) and None, patched)
        with pytest.raises(StoreError, match=r"No space left on device.*run the crawl again"):
            stack.crawl(bands=BANDS)
    assert len(indexed(stack)) == SCENES // 2  # a full disk can be read
    (small_disk / "ballast").unlink()
    assert_ends_well(stack, request)
