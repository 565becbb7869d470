"""SQL that SQLite and PostgreSQL write differently: column types and a few expressions."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    Dialect,
    Integer,
    LargeBinary,
    String,
    Table,
    bindparam,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from catalog.errors import ConfigError, UsageError
from catalog.json_values import brief

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ETAG = re.compile(r'"((?:[0-9a-f]{2}){0,64})(.*)"', re.DOTALL)


def clean_text(text: str) -> str:
    """``text`` without what a database cannot hold: NUL, and halves of characters."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text


def is_text(value: str) -> str:
    """``value``, which a column of text has given: in SQLite's any type may lie.

    Raises:
        ConfigError: it is none.
    """
    if value.__class__ is not str:
        raise ConfigError(f"the database is damaged: it holds {brief(value)} in place of a text")
    return value


def to_json(value: Any) -> str:
    """JSON that PostgreSQL takes too: no NaN, no infinity (null in their place), clean text."""
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_clean(value))
    return json.dumps(_clean(value)) if _ESCAPED.search(text) else text


def from_json(text: str | bytes) -> Any:
    """
    Raises:
        ConfigError: what the database holds is no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError("the database is damaged: it holds JSON that is none") from error


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {clean_text(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


_ESCAPED = re.compile(r"\\u(?:0000|d[89a-f])")
"""What JSON writes for NUL and for characters beyond 16 bits: whole ones too, which are rare."""


class Text(TypeDecorator[str]):
    """Text as it may come from anywhere: what no database can hold is replaced."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return clean_text(value) if isinstance(value, str) else value


class Name(TypeDecorator[str]):
    """Text by which rows are found: in byte order on both databases, whatever locale the
    PostgreSQL cluster was made with, and short enough for its indexes.

    Raises:
        UsageError: what is to be kept, or asked for, has a NUL or half a character in it, or is
            longer than ``LONGEST_NAME``. A name that was changed would be another's.
    """

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        native = dialect.name == "postgresql"
        return dialect.type_descriptor(String(collation="C") if native else String())

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if isinstance(value, str) and (reason := name_fault(value)):
            raise UsageError(f"{brief(value)} can be no name in the catalog: it {reason}")
        return value


LONGEST_NAME = 1024
"""Bytes. PostgreSQL's indexes take rows of 2 704, and some have two names."""


def name_fault(name: str) -> str | None:
    """Why a text cannot be a ``Name``; None if it can."""
    if "\0" in name:
        return "has a NUL in it"
    if name.isascii():
        return None if len(name) <= LONGEST_NAME else f"is longer than {LONGEST_NAME} bytes"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "has half a character in it"
    return None if size <= LONGEST_NAME else f"is longer than {LONGEST_NAME} bytes"


def microseconds(moment: datetime) -> int:
    """Since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


class UtcDateTime(TypeDecorator[datetime]):
    """An instant: aware datetime in, aware UTC datetime out, to the microsecond.

    ``timestamptz`` on PostgreSQL; microseconds since 1970 as an integer on SQLite,
    which has no time type: sorts, is indexed and compared as the number it is.

    Raises:
        ValueError: a naive datetime (SQLAlchemy wraps it in ``StatementError``).
    """

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        native = dialect.name == "postgresql"
        return dialect.type_descriptor(TIMESTAMP(timezone=True) if native else BigInteger())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value.isoformat()}: instants carry their zone")
        return value if dialect.name == "postgresql" else microseconds(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if dialect.name == "postgresql":
            # Comes in the zone of the session.
            return value.astimezone(UTC)
        try:
            return _EPOCH + value * _MICROSECOND
        except (OverflowError, TypeError) as error:
            # Of a file that something else has written to, or that is damaged.
            raise ConfigError(
                "the database holds a time that is none, or beyond the years 1 to 9999"
            ) from error


class Hex(TypeDecorator[str]):
    """A digest: lower-case hex in and out, half the bytes in the table."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        return None if value is None else bytes.fromhex(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        try:
            return None if value is None else bytes(value).hex()
        except (TypeError, ValueError) as error:
            raise ConfigError("the database is damaged: it holds a digest that is none") from error


class ETag(TypeDecorator[str]):
    """An ETag as its server sent it, in and out; most are MD5 sums: 17 bytes in the table, not 34.

    The first byte counts the bytes that the hex digits after the opening quote stand
    for; these follow, then the text up to the closing quote: ``"d41d…7e-3"`` is 16, the
    sum, ``-3``. First byte 255: another form, such as ``W/"…"``, kept as UTF-8.
    """

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        if value is None:
            return None
        value = clean_text(value)
        if not (found := _ETAG.fullmatch(value)):
            return b"\xff" + value.encode()
        packed = bytes.fromhex(found[1])
        return bytes([len(packed)]) + packed + found[2].encode()

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        if value is None:
            return None
        try:
            length, text = value[0], bytes(value[1:])
            if length == 255:
                return text.decode()
            return f'"{text[:length].hex()}{text[length:].decode()}"'
        except (TypeError, ValueError, IndexError) as error:
            raise ConfigError("the database is damaged: it holds an ETag that is none") from error


class _Values(TypeDecorator[list[Any]]):
    """A list as one bound value: an array on PostgreSQL, a JSON text on SQLite."""

    impl = String
    cache_ok = True

    def __init__(self, item: TypeEngine[Any]) -> None:
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        native = dialect.name == "postgresql"
        return dialect.type_descriptor(ARRAY(self.item) if native else String())

    def process_bind_param(self, value: list[Any] | None, dialect: Dialect) -> Any:
        if dialect.name != "postgresql":
            return json.dumps(value)
        # No row has such a text, and PostgreSQL takes none.
        return [v for v in value or () if not (isinstance(v, str) and "\0" in v)]


class one_of(FunctionElement[bool]):
    """``column IN (values)`` with all values in one bound parameter, however many.

    One statement text for every length, so it is compiled once, and no limit on
    the number of variables. Strings and integers only.
    """

    inherit_cache = True
    type = Boolean()

    def __init__(self, column: ColumnElement[Any], values: Iterable[Any]) -> None:
        item = BigInteger() if isinstance(column.type, Integer) else String()
        super().__init__(column, bindparam(None, list(values), type_=_Values(item), unique=True))

    def self_group(self, against: Any = None) -> Any:
        # Else a WHERE on SQLite says `(… IN …) = 1`, for which no index is used.
        return self


@compiles(one_of, "sqlite")
def _one_of_sqlite(element: one_of, compiler: Any, **kw: Any) -> str:
    column, values = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"


@compiles(one_of, "postgresql")
def _one_of_postgresql(element: one_of, compiler: Any, **kw: Any) -> str:
    column, values = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} = ANY ({values})"


class unindexed(FunctionElement[Any]):
    """``column``, but SQLite does not use an index for it (a plus before it says so).

    SQLite knows nothing of the values of an array parameter and would rather read
    half the table in the order asked for than sort the rows of a few tiles or ids.
    """

    inherit_cache = True

    def __init__(self, column: ColumnElement[Any]) -> None:
        super().__init__(column)
        self.type = column.type


@compiles(unindexed)
def _unindexed(element: unindexed, compiler: Any, **kw: Any) -> str:
    (column,) = element.clauses
    return str(compiler.process(column, **kw))


@compiles(unindexed, "sqlite")
def _unindexed_sqlite(element: unindexed, compiler: Any, **kw: Any) -> str:
    (column,) = element.clauses
    return f"+{compiler.process(column, **kw)}"


def upsert(dialect: str, table: Table) -> Any:
    """INSERT for ``ON CONFLICT``: the same methods on both, without a common class."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


class one_of_these(one_of):
    """``one_of`` whose values come with the execution, as the list of a named parameter."""

    inherit_cache = True

    def __init__(self, column: ColumnElement[Any], name: str) -> None:
        item = BigInteger() if isinstance(column.type, Integer) else String()
        FunctionElement.__init__(self, column, bindparam(name, type_=_Values(item)))


class bytewise(FunctionElement[Any]):
    """Text that sorts as its UTF-8 bytes do, and whose ``lower`` knows A to Z only.

    PostgreSQL has that from a cluster's locale otherwise; SQLite has it always.
    """

    inherit_cache = True

    def __init__(self, column: ColumnElement[Any]) -> None:
        super().__init__(column)
        self.type = column.type


@compiles(bytewise)
def _bytewise(element: bytewise, compiler: Any, **kw: Any) -> str:
    (column,) = element.clauses
    return str(compiler.process(column, **kw))


@compiles(bytewise, "postgresql")
def _bytewise_postgresql(element: bytewise, compiler: Any, **kw: Any) -> str:
    (column,) = element.clauses
    return f'(({compiler.process(column, **kw)}) COLLATE "C")'


class GlobPattern(TypeDecorator[str]):
    """A pattern of LIKE (``%``, ``_``, backslash before either), as ``like_exactly`` needs it."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or dialect.name == "postgresql":
            return value
        # SQLite's LIKE takes A for a; its GLOB does not.
        return _LIKE_TOKEN.sub(
            lambda token: _GLOB.get(token[0]) or _GLOB_LITERAL.get(token[0][-1], token[0][-1]),
            value,
        )


_LIKE_TOKEN = re.compile(r"\\?.", re.DOTALL)
_GLOB = {"%": "*", "_": "?"}
_GLOB_LITERAL = {character: f"[{character}]" for character in "*?["}


class like_exactly(FunctionElement[bool]):
    """Text that is as a ``GlobPattern``; A is not a on either database."""

    inherit_cache = True
    type = Boolean()

    def __init__(self, column: ColumnElement[Any], pattern: ColumnElement[Any]) -> None:
        super().__init__(column, pattern)

    def self_group(self, against: Any = None) -> Any:
        return self


@compiles(like_exactly, "sqlite")
def _like_sqlite(element: like_exactly, compiler: Any, **kw: Any) -> str:
    text, pattern = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({text} GLOB {pattern})"


@compiles(like_exactly, "postgresql")
def _like_postgresql(element: like_exactly, compiler: Any, **kw: Any) -> str:
    text, pattern = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({text} LIKE {pattern})"
