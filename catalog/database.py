"""The connection to the SQL catalog: engines, transactions and migrations.

SQLite (WAL: readers go on while a crawl writes) and PostgreSQL (psycopg 3) by
URL. Nothing here, messages included, shows a password.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
)

from catalog.errors import BusyError, CatalogError, ConfigError, DatabaseLostError, redacted
from catalog.models import REVISION
from catalog.patience import Patience
from catalog.printable import printable
from catalog.redaction import is_secret_name

PATIENCE = Patience(retries=4, first=1.0)
"""With a server that has answered before and refuses connections now: it may be restarting."""
BUSY_SECONDS = 30
"""How long a writer of SQLite waits for another one."""
_WRITE = "cogcat_write"
_MIGRATION_LOCK = 0x636F6763
"""Key of PostgreSQL's advisory lock around a migration: two ``init`` at once take turns."""


READER_CACHE = 65_536
"""KB of SQLite's pages that each connection of a reader may keep. With its own 2 MB, a row of a
catalog of a million scenes takes a third longer: its page has to come from the system again."""


def open_engine(url: str, *, cache: int | None = None) -> Engine:
    """Engine for an SQLAlchemy URL; ``postgresql://`` and ``postgres://`` mean psycopg 3.

    A SQLite file is not created before something is written. Transactions are
    real on both databases: on SQLite they begin with ``BEGIN``, or ``BEGIN
    IMMEDIATE`` inside ``write_transaction``.

    Args:
        cache: KB of pages that a connection to SQLite may keep; None for SQLite's own 2 MB.

    Raises:
        ConfigError: the URL does not parse or names another database or driver,
            the directory of the SQLite file does not exist, the file is no
            SQLite database, or the server refuses the connection.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        engine = _open_sqlite(parsed)
        if cache is not None:
            event.listen(engine, "connect", partial(_keep_pages, cache))
    else:
        # prepare_threshold: psycopg would prepare a statement at its fifth use, and
        # PostgreSQL then plan it without knowing the values: 3 ms became 30.
        options: dict[str, Any] = {"prepare_threshold": None, "application_name": "cogcat"}
        if "connect_timeout" not in parsed.query:
            options["connect_timeout"] = 10
        # A connection that broke while it lay idle is noticed, and replaced, before its next use.
        engine = create_engine(parsed, connect_args=options, pool_pre_ping=True)
    if exists(engine):
        try:
            with read_transaction(engine) as connection:
                # SQLite reads its file's header only when asked for something in it.
                inspect(connection).has_table("alembic_version")
        except CatalogError:
            engine.dispose()
            raise
    return engine


def exists(engine: Engine) -> bool:
    """False for a SQLite file that is not there yet; True for everything else."""
    file = _sqlite_file(engine.url)
    return file is None or file.exists()


def shown(url: URL | str) -> str:
    """The URL fit for a message: without user name and password, even where it does not parse."""
    try:
        bare = make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        # Up to the last @ whatever stands there, blanks too: nobody can say what it is.
        bare = re.sub(r"(?s)^(\w[\w+.-]*:?/*)?.*@", r"\1…@", str(url))
    return printable(redacted(bare), 1000)


@contextmanager
def read_transaction(engine: Engine) -> Iterator[Connection]:
    """A connection whose statements are one transaction, rolled back at the end.

    All of them see the same state, whatever is written meanwhile.

    Raises:
        ConfigError: the database cannot be reached, or lacks a table.
        DatabaseLostError: it went away.
        BusyError: another process holds it for too long.
    """
    with _translated(engine), _connect(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection


@contextmanager
def read_statements(engine: Engine) -> Iterator[Connection]:
    """A connection for reading whose statements each see what is recorded when they are sent.

    On PostgreSQL no transaction is opened around them, which saves two trips to the server; on
    SQLite they are one, as in ``read_transaction``.

    Raises:
        ConfigError: the database cannot be reached, or lacks a table.
        BusyError: another process holds it for too long.
    """
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    with _translated(engine), engine.connect() as connection:
        yield connection


@contextmanager
def write_transaction(engine: Engine) -> Iterator[Connection]:
    """A connection whose statements are committed together, or not at all after an exception.

    On SQLite it takes the write lock at the start, so that two writers wait for
    each other rather than one of them failing at its first write.

    Raises:
        ConfigError: the database cannot be reached, cannot be written, or lacks a table.
        DatabaseLostError: it went away; whether what was written stays is not known if that was
            at the very end.
        BusyError: another process holds it for too long.
    """
    with _translated(engine), _connect(engine) as connection:
        writing = connection.execution_options(**{_WRITE: True})
        with writing.begin():
            yield writing


def write_twice[T](engine: Engine, write: Callable[[Connection], T]) -> tuple[T, bool]:
    """``write`` in a write transaction, and once more in another if the first lost its database.

    Args:
        write: leaves the same rows when it is done twice: the first time may have been committed,
            and only the word of it lost.

    Returns:
        what ``write`` returned, and True if that was at its second time.
    """
    try:
        with write_transaction(engine) as connection:
            return write(connection), False
    except DatabaseLostError:
        with write_transaction(engine) as connection:
            return write(connection), True


def migrate(engine: Engine) -> None:
    """Bring the schema to ``REVISION``; nothing to do when it is there. Two at once take turns.

    Raises:
        ConfigError: the database cannot be reached or written, or is at a
            revision this version of cogcat does not know.
    """
    # Alembic takes 0.1 s to import: only who migrates pays for it.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    with migration_connection(engine) as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise ConfigError(
                f"database {shown(engine.url)} cannot be migrated: {error}; was it made by a "
                "later version of cogcat?"
            ) from error


@contextmanager
def migration_connection(engine: Engine) -> Iterator[Connection]:
    """A write transaction fit for changes of the schema; others wait for its end.

    On SQLite, foreign keys are not enforced inside it, or rebuilding a table
    would delete the rows that refer to it; they are checked at the end.
    """
    with _translated(engine), engine.connect() as connection:
        lite = connection.dialect.name == "sqlite"
        if lite:
            # On the driver's connection: the pragma does nothing inside a transaction.
            _pragma(connection, "foreign_keys = OFF")
        try:
            writing = connection.execution_options(**{_WRITE: True})
            with writing.begin():
                if lite:
                    yield writing
                    broken = writing.exec_driver_sql("PRAGMA foreign_key_check").first()
                    if broken:
                        raise ConfigError(f"the migration broke foreign keys of {broken[0]}")
                else:
                    writing.execute(
                        text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK}
                    )
                    yield writing
        finally:
            if lite:
                _pragma(connection, "foreign_keys = ON")


def check_revision(engine: Engine) -> None:
    """Make sure that the database has the schema of this version of cogcat. One statement or two.

    Raises:
        ConfigError: it has none or another; names both and what to do.
    """
    found = _revision(engine)
    if found == REVISION:
        return
    what = "is not set up" if found is None else f"is at revision {found}"
    raise ConfigError(
        f"database {shown(engine.url)} {what}, this version of cogcat needs revision {REVISION}: "
        "run `cogcat init`"
    )


def migrations_directory() -> Path:
    """Where the migrations are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    shipped = package / "_migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"


def _revision(engine: Engine) -> str | None:
    if not exists(engine):
        return None
    with read_transaction(engine) as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        found = connection.execute(text("SELECT version_num FROM alembic_version"))
        return found.scalar_one_or_none()


_answered: WeakSet[Engine] = WeakSet()
"""Engines whose database has been there, the last time it was asked."""


def _connect(engine: Engine) -> Connection:
    """A connection; a server that was there is waited for a little while. Nothing has been
    written yet, so this can be repeated."""
    retry = 0
    while True:
        try:
            connection = engine.connect()
        except OperationalError:
            retry += 1
            if engine not in _answered or retry > PATIENCE.retries:
                _answered.discard(engine)
                raise
            time.sleep(PATIENCE.pause(retry))
        else:
            if engine.dialect.name != "sqlite":
                _answered.add(engine)
            return connection


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            f"database {shown(url)!r} is not a URL; write sqlite:///path/to/file.db or "
            "postgresql://user@host/name"
        ) from error
    if "@" in (parsed.host or ""):
        raise ConfigError(
            f"database {shown(parsed)}: an '@' in a user name or a password is "
            "written %40, a '/' %2F, a ':' %3A"
        )
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        backend, driver = parsed.get_backend_name(), parsed.get_driver_name()
    except (NoSuchModuleError, ArgumentError) as error:
        raise _unknown(parsed) from error
    if (backend, driver) not in (("sqlite", "pysqlite"), ("postgresql", "psycopg")):
        raise _unknown(parsed)
    secret = [name for name in parsed.query if is_secret_name(name)]
    if backend == "sqlite" and secret:
        raise ConfigError(f"database {shown(parsed)}: SQLite knows no {secret[0]!r}")
    # SQLAlchemy hides a password of this name alone, where it stands before the host.
    if isinstance(password := parsed.query.get("password"), str):
        parsed = parsed.set(password=password).difference_update_query(["password"])
    return parsed


def _unknown(url: URL) -> ConfigError:
    return ConfigError(
        f"database {shown(url)}: unknown driver {url.drivername!r}; known are sqlite and postgresql"
    )


def _sqlite_file(url: URL) -> Path | None:
    """The file of a SQLite URL; None for a server, memory or a ``file:`` URI."""
    name = url.database
    if url.get_backend_name() != "sqlite" or not name or name == ":memory:":
        return None
    return None if name.startswith("file:") else Path(name)


def _open_sqlite(url: URL) -> Engine:
    file = _sqlite_file(url)
    if file is not None:
        if not file.parent.is_dir():
            raise ConfigError(f"database {shown(url)}: no such directory {str(file.parent)!r}")
        if file.is_dir():
            raise ConfigError(f"database {shown(url)}: {str(file)!r} is a directory")
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    if file is not None:
        _watch_file(engine, file)
    return engine


def _watch_file(engine: Engine, file: Path) -> None:
    """SQLite would go on writing into a file that has been removed, and make a new, empty one for
    the next connection: both are refused."""
    opened: tuple[int, int] | None = None

    def check(*_: object) -> None:
        nonlocal opened
        try:
            found = file.stat()
            here = (found.st_dev, found.st_ino)
        except FileNotFoundError:
            here = None
        if opened is None:
            opened = here
        elif here != opened:
            what = "removed" if here is None else "replaced"
            raise DatabaseLostError(
                f"database {shown(engine.url)}: its file was {what} while it was in use; put it "
                "back, or make the catalog anew, then run this again"
            )

    event.listen(engine, "do_connect", check)
    event.listen(engine, "begin", check)


def _set_up_sqlite(connection: sqlite3.Connection, record: object) -> None:
    # The driver opens transactions by itself before some statements only: it is
    # told to leave that alone, and `_begin_sqlite` opens all of them.
    connection.isolation_level = None
    cursor = connection.cursor()
    # NORMAL in WAL: a power cut may lose the last commits but breaks nothing, and
    # a crawl finds what was lost in the repository.
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _keep_pages(cache: int, connection: sqlite3.Connection, record: object) -> None:
    connection.execute(f"PRAGMA cache_size = -{cache}").close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _pragma(connection: Connection, pragma: str) -> None:
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    raw.execute(f"PRAGMA {pragma}").close()


_ADVICE = (
    (r"disk is full|No space left", "make room, then run this again; what is recorded stays"),
    (r"readonly database", "make the file and its directory writable, then run this again"),
    (r"disk I/O error|malformed", "look after the disk; what is in the repository is safe there"),
)


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    """Turn the driver's errors of a whole database into ours; a statement's own pass unchanged."""
    try:
        yield
    except DBAPIError as error:
        reason = str(error.orig).strip()
        lines = reason.splitlines()
        line = lines[0] if lines else "no answer"
        where = f"database {shown(engine.url)}"
        if "database is locked" in reason:
            raise BusyError(f"{where}: another process has been writing for too long") from error
        if re.search(r"no such table|relation .* does not exist", reason):
            raise ConfigError(f"{where}: {lines[0]}: run `cogcat init`") from error
        if error.connection_invalidated:
            raise DatabaseLostError(
                f"{where} went away: {line}; what is recorded stays: run this again when it is back"
            ) from error
        for pattern, advice in _ADVICE:
            if re.search(pattern, reason):
                raise ConfigError(f"{where}: {line}; {advice}") from error
        connecting = error.statement is None  # an option of the URL that the driver does not know
        known = isinstance(error, (OperationalError, InterfaceError))
        if known or connecting or "not a database" in reason:
            raise ConfigError(f"{where}: {line}") from error
        raise
