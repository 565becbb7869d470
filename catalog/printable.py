"""Foreign text made fit for a terminal, a log line and a record: one visible line, bounded.

What a terminal would obey instead of show (C0 and C1 controls, escape sequences), what turns or
hides other text (bidirectional overrides, zero-width and default-ignorable characters: Unicode's
UAX 9 and UTR 36), what ends a line, and what is no character at all (lone surrogates, unassigned
and private codes) is written as Python would write it: ``\\x1b``, ``\\u202e``.
"""

from __future__ import annotations

import re

MESSAGE = 2000
"""Characters of a message or a field."""

# What ``str.isprintable`` lets pass and nobody sees: Default_Ignorable_Code_Point that are letters
# or marks, and the blank of Braille.
_UNSEEN = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0000-\U000e0fff"
)
_IS_UNSEEN = re.compile(f"[{_UNSEEN}]")
# Blanks of other widths than one are honest text: only those that end a line are not (Zl, Zp).
_BLANKS = frozenset("\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
                    "\u202f\u205f\u3000")  # fmt: skip
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str, limit: int | None = MESSAGE) -> str:
    """``text`` as one line of visible characters; what is longer than ``limit`` ends in ``…``.

    Text of which nothing has to be escaped comes back as it is, which is checked in C.
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable() and (text.isascii() or _IS_UNSEEN.search(text) is None):
        return text
    fit = "".join(map(_visible, text))
    return fit if limit is None or len(fit) <= limit else fit[: limit - 1] + "…"


def printable_lines(text: str) -> str:
    """As ``printable``, of any length, but line feeds stay."""
    return "\n".join(printable(line, None) for line in text.split("\n"))


def json_escaped(text: str) -> str:
    """JSON text with what is not printable in its strings as JSON's own escapes: the same value.

    Args:
        text: of ``json.dumps``; outside its strings are only ASCII and line feeds.
    """
    if text.isascii() and "\x7f" not in text:
        return text  # the encoder has escaped all else
    return "\n".join(map(_json_line, text.split("\n")))


def _json_line(line: str) -> str:
    if line.isprintable() and _IS_UNSEEN.search(line) is None:
        return line
    return "".join(char if _is_visible(char) else _json_escape(char) for char in line)


def _is_visible(char: str) -> bool:
    return char in _BLANKS or (char.isprintable() and _IS_UNSEEN.match(char) is None)


def _visible(char: str) -> str:
    if _is_visible(char):
        return char
    code = ord(char)
    if code < 0x100:
        return _SHORT.get(char, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
