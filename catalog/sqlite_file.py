"""A catalog in a SQLite file: its connections, and what to do where it cannot be written.

A catalog may lie where nothing can be written: on a read-only file system, in another user's
directory. SQLite in WAL needs to write even to read, unless it is told that nobody writes: so how
a file can be opened is found out by trying.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event

from catalog.errors import ConfigError, DatabaseLostError
from catalog.portable_sql import from_json, to_json

WRITE = "cogcat_write"
"""Execution option of a transaction that writes."""
_ALONE = "mode=ro&immutable=1"


def sqlite_file(url: URL) -> Path | None:
    """The file of a SQLite URL; None for a server, memory or a ``file:`` URI."""
    name = url.database
    if url.get_backend_name() != "sqlite" or not name or name == ":memory:":
        return None
    return None if name.startswith("file:") else Path(name)


def open_sqlite(url: URL, shown: str, *, busy: float, cache: int | None) -> Engine:
    """An engine whose transactions are real: they begin with ``BEGIN``, or ``BEGIN IMMEDIATE``
    where they have the option ``WRITE``. The file is not created before something is written.

    Args:
        shown: the URL, fit for a message.
        busy: seconds to wait for another writer.
        cache: KB of pages that a connection may keep; None for SQLite's own 2 MB.

    Raises:
        ConfigError: the directory does not exist, the file is one, or it cannot be written and
            holds commits that could not be read so.
    """
    file = sqlite_file(url)
    access = ""
    if file is not None:
        if not file.parent.is_dir():
            raise ConfigError(f"database {shown}: no such directory {str(file.parent)!r}")
        if file.is_dir():
            raise ConfigError(f"database {shown}: {str(file)!r} is a directory")
        access = _access(file, shown)
    options: dict[str, Any] = {"json_serializer": to_json, "json_deserializer": from_json}
    if access == _ALONE:
        # Connections that are kept would not see a file that is replaced or grows all the same.
        options["poolclass"] = NullPool
    arguments = {"timeout": busy} | ({"uri": True} if access else {})
    engine = create_engine(url, connect_args=arguments, **options)
    if file is not None:
        _watch_file(engine, file, shown)
        if access:
            event.listen(engine, "do_connect", partial(_elsewhere, _address(file, access)))
    event.listen(engine, "connect", partial(_set_up, bool(access), busy, cache))
    event.listen(engine, "begin", partial(_begin, shown if access else None))
    return engine


def _access(file: Path, shown: str) -> str:
    """The parameters of a ``file:`` URI with which the file can be opened; empty for all rights,
    and where there is no file."""
    if not file.exists() or (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
        return ""
    if _readable(_address(file, "mode=ro")):
        return "mode=ro"
    log = Path(f"{file}-wal")
    if log.exists() and log.stat().st_size:
        # Alone the file would give an older state, or pages that do not belong together.
        raise ConfigError(
            f"database {shown} is in a place where nothing can be written, and its last commits "
            f"are in {log.name} beside it, which cannot be read so: close it where it is written "
            "(`cogcat status` does that), or copy both files to a place that can be written"
        )
    # Whatever else keeps it from being read is said when it is opened the ordinary way.
    return _ALONE if _readable(_address(file, _ALONE)) else ""


def _readable(address: str) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        return False
    return True


def _address(file: Path, access: str) -> str:
    return f"{file.absolute().as_uri()}?{access}"


def _elsewhere(address: str, dialect: object, record: object, words: list[str], _: object) -> None:
    words[0] = address


def _watch_file(engine: Engine, file: Path, shown: str) -> None:
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
                f"database {shown}: its file was {what} while it was in use; put it back, or make "
                "the catalog anew, then run this again"
            )

    event.listen(engine, "do_connect", check)
    event.listen(engine, "begin", check)


def _set_up(
    read_only: bool, busy: float, cache: int | None, connection: sqlite3.Connection, record: object
) -> None:
    # The driver opens transactions by itself before some statements only: it is
    # told to leave that alone, and `_begin` opens all of them.
    connection.isolation_level = None
    pragmas = ["foreign_keys = ON"]
    if not read_only:
        _use_log(connection, busy)
        # NORMAL in WAL: a power cut may lose the last commits but breaks nothing, and
        # a crawl finds what was lost in the repository.
        pragmas.append("synchronous = NORMAL")
    if cache is not None:
        pragmas.append(f"cache_size = -{cache}")
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}").close()


def _use_log(connection: sqlite3.Connection, busy: float) -> None:
    """WAL. Of two that make a file at once, one is refused without being made to wait."""
    end = time.monotonic() + busy
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)


def _begin(read_only: str | None, connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITE, False)
    if writes and read_only is not None:
        raise ConfigError(
            f"database {read_only} is read-only: cogcat can read it and write nothing; make the "
            "file and its directory writable, then run this again"
        )
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
