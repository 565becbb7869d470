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
from pathlib import Path
from typing import Any
from weakref import WeakSet

from sqlalchemy import URL, Connection, Engine, create_engine, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from catalog.compiled import share_compiled
from catalog.errors import CatalogError, ConfigError, DatabaseLostError, redacted
from catalog.json_values import brief
from catalog.models import REVISION, Base
from catalog.patience import Patience
from catalog.portable_sql import from_json, to_json
from catalog.printable import printable
from catalog.redaction import is_secret_name
from catalog.sql_errors import damaged, translated
from catalog.sqlite_file import WRITE, open_sqlite, sqlite_file

PATIENCE = Patience(retries=4, first=1.0)
"""With a server that has answered before and refuses connections now: it may be restarting."""
BUSY_SECONDS = 30
"""How long a writer of SQLite waits for another one."""
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
        engine = open_sqlite(parsed, shown(parsed), busy=BUSY_SECONDS, cache=cache)
    else:
        # prepare_threshold: psycopg would prepare a statement at its fifth use, and
        # PostgreSQL then plan it without knowing the values: 3 ms became 30.
        options: dict[str, Any] = {"prepare_threshold": None, "application_name": "cogcat"}
        if "connect_timeout" not in parsed.query:
            options["connect_timeout"] = 10
        # A connection that broke while it lay idle is noticed, and replaced, before its next use.
        engine = create_engine(
            parsed,
            connect_args=options,
            pool_pre_ping=True,
            json_serializer=to_json,
            json_deserializer=from_json,
        )
    share_compiled(engine)
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
    file = sqlite_file(engine.url)
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
        writing = connection.execution_options(**{WRITE: True})
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

    check_migratable(engine)
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    with migration_connection(engine) as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise ConfigError(
                f"database {shown(engine.url)} cannot be migrated: {error}"
            ) from error
        _check_tables(connection, engine)


@contextmanager
def set_up_alone(engine: Engine) -> Iterator[None]:
    """Around what ``cogcat init`` does: of several at once on one server, one at a time. On SQLite
    they are kept apart by the file and by the storage alone.

    Raises:
        ConfigError: the database cannot be reached.
    """
    if engine.dialect.name == "sqlite":
        yield
        return
    with _translated(engine), engine.connect() as connection, connection.begin():
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK + 1})
        yield


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
            writing = connection.execution_options(**{WRITE: True})
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
    if found != REVISION:
        what = "is not set up" if found is None else f"is at revision {found}"
        raise _other_revision(engine, found) or ConfigError(
            f"database {shown(engine.url)} {what}, this version of cogcat needs revision "
            f"{REVISION}: run `cogcat init`"
        )


def check_migratable(engine: Engine) -> None:
    """Make sure that the database is none yet, or of this version of cogcat, or of an earlier one.

    Raises:
        ConfigError: it is a later version's, or another program's.
    """
    error = _other_revision(engine, _revision(engine))
    if error is not None:
        raise error


def _other_revision(engine: Engine, found: str | None) -> ConfigError | None:
    """What is wrong with a database whose revision no migration of ours leads away from."""
    if found is None:
        return None
    versions = (migrations_directory() / "versions").glob("[0-9]*_*.py")
    known = {path.name.partition("_")[0] for path in versions}
    if found in known:
        return None
    where = f"database {shown(engine.url)} is at revision {brief(found)}"
    if re.fullmatch(r"\d{4}", found, re.ASCII) and found > REVISION:
        return ConfigError(
            f"{where}, this version of cogcat knows {REVISION} at most: cogcat is older than the "
            "database: upgrade cogcat"
        )
    return ConfigError(
        f"{where}, which is none of cogcat's: is it another program's database? name another"
    )


def _check_tables(connection: Connection, engine: Engine) -> None:
    """That the revision which the database names is the one that it has."""
    there = inspect(connection)
    tables = set(there.get_table_names())
    for table in Base.metadata.sorted_tables:
        missing: set[str] = set()
        if table.name in tables:
            columns = {column["name"] for column in there.get_columns(table.name)}
            missing = {column.name for column in table.columns} - columns
        if table.name not in tables or missing:
            what = f"column {table.name}.{min(missing)}" if missing else f"table {table.name}"
            raise ConfigError(
                f"database {shown(engine.url)} is at revision {REVISION} but lacks the {what}: "
                "restore a copy, or make it anew: `cogcat rebuild` into an empty one"
            )


def migrations_directory() -> Path:
    """Where the migrations are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    shipped = package / "_migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"


def _revision(engine: Engine) -> str | None:
    """What the database says that it is; None where it says nothing, or is not there.

    Raises:
        ConfigError: it says several things, or none where it should.
    """
    if not exists(engine):
        return None
    with read_transaction(engine) as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        found = connection.execute(text("SELECT version_num FROM alembic_version LIMIT 3"))
        rows = list(found.scalars())
        if not rows and not set(inspect(connection).get_table_names()) & set(Base.metadata.tables):
            return None  # as Alembic leaves it that has gone all the way back
    if len(rows) != 1 or not isinstance(rows[0], str):
        said = ", ".join(map(brief, rows)) or "no revision"
        raise ConfigError(
            f"database {shown(engine.url)}: its table alembic_version names {said} in place of "
            "one revision: it is damaged, or another program's; restore a copy, or name another"
        )
    return rows[0]


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


def _pragma(connection: Connection, pragma: str) -> None:
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    raw.execute(f"PRAGMA {pragma}").close()


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    """Nothing but errors of ours comes from a database, whatever is wrong with it."""
    try:
        yield
    except SQLAlchemyError as error:
        raise translated(error, shown(engine.url)) from error
    except (OverflowError, UnicodeError) as error:
        # What the drivers say of a number or a text that no column can hold, or that is garbage.
        raise damaged(shown(engine.url), error) from error
