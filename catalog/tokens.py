"""Tokens by which a question goes on where it stopped: opaque to who holds them, checked.

A token names its catalog and carries nothing but a place in an order: no right and no secret. So it
has no key; whoever makes one up, with every field as it should be, has asked for another place, as
anybody may. What is not as it should be is refused before it is looked at.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from catalog.errors import UsageError
from catalog.json_values import brief, finite
from catalog.parse import is_unicode

VERSION = 2
LONGEST = 6_000
"""Characters: a question has at most four keys, and none is longer than a name."""
_CHECK = 8
_LONGEST_TEXT = 1_024
_MOST = 2**63 - 1


def write_token(kind: str, catalog: str, values: Sequence[Any]) -> str:
    """A token; safe in a URL.

    Args:
        kind: what it is of: a token of one kind is none of another.
        catalog: ``Repository.id`` of what is asked.
        values: text, numbers, None, aware datetimes.
    """
    plain = [{"t": v.isoformat()} if isinstance(v, datetime) else v for v in values]
    payload = json.dumps([VERSION, kind, catalog, *plain], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_digest(payload) + payload).rstrip(b"=").decode()


def read_token(kind: str, catalog: str, token: Any, fields: Sequence[str]) -> list[Any]:
    """The values of a token.

    Args:
        fields: the type of each: ``whole`` (0 to 64 bits), ``number`` (finite), ``text`` or
            ``time``; with a ``?`` behind, None too.

    Raises:
        UsageError: it is none, damaged, of another kind, of another catalog, or one of its values
            is not as its field says.
    """
    try:
        if not isinstance(token, str) or len(token) > LONGEST:
            raise ValueError
        raw = base64.b64decode(
            token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True
        )
        payload = raw[_CHECK:]
        if _digest(payload) != raw[:_CHECK]:
            raise ValueError
        document = json.loads(payload)
        if not isinstance(document, list):
            raise ValueError
    except (ValueError, binascii.Error, RecursionError) as error:
        raise _malformed(token) from error
    if document[:1] != [VERSION] or isinstance(document[0], bool):
        if document[:1] in (["page"], ["changes"]):
            raise UsageError(
                f"token {brief(token)} is of an earlier version of cogcat: ask from the beginning, "
                "or from a time"
            )
        raise _malformed(token)
    _, found, where, *values = [*document, None, None]
    del values[-2:]
    if not isinstance(found, str) or not isinstance(where, str) or len(document) < 3:
        raise _malformed(token)
    if found != kind:
        raise UsageError(f"malformed token {brief(token)}: it is of another question, not {kind}")
    if where != catalog:
        raise UsageError(f"token {brief(token)} is of another catalog: another repository's")
    if len(values) != len(fields):
        raise UsageError(f"malformed token {brief(token)}: it is of another question")
    return [_value(value, field, token) for value, field in zip(values, fields, strict=True)]


def _value(value: Any, field: str, token: Any) -> Any:
    if value is None and field.endswith("?"):
        return None
    read = _READ[field.rstrip("?")](value)
    if read is None:
        raise _malformed(token)
    return read


def _whole(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _MOST else None


def _number(value: Any) -> float | None:
    return finite(value) if type(value) in (int, float) else None


def _text(value: Any) -> str | None:
    fits = isinstance(value, str) and len(value) <= _LONGEST_TEXT and "\0" not in value
    return value if fits and is_unicode(value) else None


def _time(value: Any) -> datetime | None:
    if not isinstance(value, Mapping) or set(value) != {"t"} or not isinstance(value["t"], str):
        return None
    try:
        moment = datetime.fromisoformat(value["t"])
        return None if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


_READ: dict[str, Callable[[Any], Any]] = {
    "whole": _whole, "number": _number, "text": _text, "time": _time,
}  # fmt: skip


def _digest(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()[:_CHECK]


def _malformed(token: Any) -> UsageError:
    return UsageError(
        f"malformed token {brief(token)}: give one as it was handed out for this question"
    )
