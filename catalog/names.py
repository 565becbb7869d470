"""Names that others give: ids of items and collections, as records, branches and stores keep them.

A name is at most ``LONGEST`` bytes of UTF-8, printable (no control characters, no bidirectional
overrides, nothing of zero width, no half of a surrogate pair), in Unicode's normal form NFC and
without blanks around it: two names that look alike are one name, and a name that is shown can be
asked for. https://unicode.org/reports/tr36/
"""

from __future__ import annotations

import hashlib
import json
import unicodedata

from catalog.json_values import brief
from catalog.printable import printable
from catalog.redaction import has_secrets

LONGEST = 255
"""Bytes of UTF-8. PostgreSQL indexes 2 700; Sentinel-2's own ids have some 60."""
_KEPT = 60


def is_printable(text: str) -> bool:
    """Whether ``text`` is visible characters and plain blanks, on one line."""
    return text.isprintable() and (text.isascii() or printable(text, None) == text)


def name_fault(name: object) -> str | None:
    """What keeps ``name`` from being one, as the end of a sentence; None where nothing does."""
    if not isinstance(name, str) or not name.strip():
        return "not printable text"
    if len(name) > LONGEST or (not name.isascii() and _bytes(name) > LONGEST):
        return f"longer than {LONGEST} bytes"
    if not is_printable(name):
        return "not printable text"
    if name != name.strip():
        return "with blanks around it"
    if has_secrets(name):
        return "which holds a secret"
    if not name.isascii() and not unicodedata.is_normalized("NFC", name):
        return "not in Unicode's normal form NFC, so that it looks like another"
    return None


def recorded_name(value: object) -> str | None:
    """What a record of a failure calls something: its name, or where that is none its beginning,
    printable, and a digest that keeps it apart from others; None where it has none at all."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        if name_fault(value) is None:
            return value
        shown = unicodedata.normalize("NFC", printable(value[:_KEPT], None))[:_KEPT]
        text, start = value, "a secret" if has_secrets(value) else " ".join(shown.split())
    else:
        text, start = _json(value), f"not a name but {brief(value)}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{start}… (sha256 {digest})"


def _json(value: object) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return type(value).__name__


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
