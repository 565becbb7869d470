"""What a driver says of a whole database, as an error of ours. Nothing here shows a password."""

from __future__ import annotations

import re

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from catalog.errors import (
    BusyError,
    CatalogError,
    ConfigError,
    DatabaseLostError,
    RefusedValueError,
)

_LOCKED = r"database (?:table )?is locked|deadlock detected|lock timeout|could not serialize"
_MISSING = r"no such table|relation .* does not exist"
_OTHER = r"no such column|has no column|column .* does not exist|has \d+ columns but"
_DAMAGED = (
    r"malformed|not a database|disk I/O error|Could not decode|invalid page|could not read block"
    r"|unexpected zero page|corrupt"
)
_ADVICE = (
    (r"disk is full|No space left", "make room, then run this again; what is recorded stays"),
    (r"readonly database", "make the file and its directory writable, then run this again"),
    (r"read-only transaction|permission denied", "it can be read, not written, by this user"),
    (_OTHER, "it is not as cogcat made it: restore a copy, or make it anew: `cogcat rebuild`"),
    (
        _DAMAGED,
        "look after the disk; what is in the repository is safe there: restore a copy, or make "
        "it anew: `cogcat rebuild`",
    ),
)


def translated(error: SQLAlchemyError, shown: str) -> CatalogError:
    """The error of ours that says what ``error`` means.

    Args:
        shown: URL of the database, fit for a message.
    """
    original = getattr(error, "orig", None)
    if isinstance(original, CatalogError):
        return original  # of a value that was refused on its way
    reason = str(original if original is not None else error).strip()
    line = reason.splitlines()[0][:300] if reason else "no answer"
    where = f"database {shown}"
    if re.search(_LOCKED, reason):
        return BusyError(f"{where}: another process has been writing for too long")
    if re.search(_MISSING, reason):
        return ConfigError(
            f"{where}: {line}: run `cogcat init`; if there was a catalog, restore a copy, or make "
            "it anew: `cogcat rebuild`"
        )
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return DatabaseLostError(
            f"{where} went away: {line}; what is recorded stays: run this again when it is back"
        )
    for pattern, advice in _ADVICE:
        if re.search(pattern, reason):
            return ConfigError(f"{where}: {line}; {advice}")
    if (
        isinstance(error, (DataError, IntegrityError))
        or not isinstance(error, DBAPIError)
        or type(original).__name__ == "ProgramLimitExceeded"  # of a text too long for an index
    ):
        return RefusedValueError(f"{where}: {line}")
    return ConfigError(f"{where}: {line}")


def damaged(shown: str, error: Exception) -> RefusedValueError:
    """A value that no version of cogcat writes was met on the way."""
    return RefusedValueError(
        f"database {shown} holds or was given a value that cannot be ({type(error).__name__}: "
        f"{str(error)[:200]}): if it is damaged, restore a copy, or make it anew: `cogcat rebuild`"
    )
