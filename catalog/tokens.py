"""Tokens by which a question goes on where it stopped: opaque to who holds them, checked."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from datetime import datetime
from typing import Any

from catalog.errors import UsageError

_CHECK = 8


def write_token(kind: str, values: list[Any]) -> str:
    """A token; safe in a URL.

    Args:
        kind: what it is of: a token of one kind is none of another.
        values: text, numbers, None, aware datetimes.
    """
    plain = [{"t": v.isoformat()} if isinstance(v, datetime) else v for v in values]
    payload = json.dumps([kind, *plain], separators=(",", ":")).encode()
    digest = hashlib.sha256(payload).digest()[:_CHECK]
    return base64.urlsafe_b64encode(digest + payload).rstrip(b"=").decode()


def read_token(kind: str, token: str) -> list[Any]:
    """The values of a token.

    Raises:
        UsageError: it is none, damaged, or of another kind.
    """
    try:
        raw = base64.b64decode(
            token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True
        )
        digest, payload = raw[:_CHECK], raw[_CHECK:]
        if hashlib.sha256(payload).digest()[:_CHECK] != digest:
            raise ValueError
        found, *values = json.loads(payload)
        if found != kind:
            raise ValueError
        return [datetime.fromisoformat(v["t"]) if isinstance(v, dict) else v for v in values]
    except (ValueError, binascii.Error, AttributeError, KeyError, TypeError) as error:
        raise UsageError(
            f"malformed token {str(token)[:60]!r}: give one as it was handed out for this question"
        ) from error
