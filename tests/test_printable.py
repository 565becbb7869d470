"""Foreign text fit for a terminal: one line, nothing that it would obey, bounded."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import errors
from catalog.printable import json_escaped, printable, printable_lines

POISON = (
    "\x1b[31mred\x1b[0m", "\x1b]8;;http://evil\x07link\x1b]8;;\x07", "\x9b31m", "\x07", "\x00",
    "\x7f", "\x85", "a\rb", "a\nb", "a\tb", "\x0b\x0c", "\x1c\x1d\x1e", "\u2028", "\u2029",
    "\u202egnp.exe",
    "\u2066\u2069", "\u200b", "\u200d", "\ufeff", "\u00ad", "\ud800", "\udfff", "\ue000",
    "\U000e0041", "\u3164", "\u034f", "\ufe0f", "\U0010ffff", "\x1bP1$r\x1b\\",
)  # fmt: skip


@pytest.mark.parametrize("text", POISON, ids=ascii)
def test_what_is_not_seen_is_escaped(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert "\\" in shown
    shown.encode()
    assert ascii(text)[1:-1].partition("\\")[2][:3] in shown


@pytest.mark.parametrize("text", ["", "Zürich", "日本語", "a\xa0b", "50 %", "C:\\x1b", "été"])
def test_what_is_seen_stays(text: str) -> None:
    assert printable(text) is text or printable(text) == text


@given(st.text(st.characters(exclude_categories=[]), max_size=50), st.integers(1, 40))
def test_any_text(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert len(shown) <= limit
    for char in shown:
        assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    assert printable(shown, None) == shown
    assert printable_lines(text).count("\n") == text.count("\n")


@given(st.text(st.characters(exclude_categories=[]), max_size=50))
def test_json_keeps_its_value(text: str) -> None:
    for indent in (None, 1):
        written = json_escaped(json.dumps({"a": [text]}, ensure_ascii=False, indent=indent))
        assert printable_lines(written) == written or "\xa0" in written or " " in text
        written.encode()
        assert json.loads(written) == json.loads(json.dumps({"a": [text]}))


@pytest.mark.parametrize("text", POISON, ids=ascii)
def test_errors_are_one_visible_line(text: str) -> None:
    for error in (
        errors.UsageError(text),
        errors.HeaderError(text, scene=text, band=text, href=text),
        errors.ChangedFileError(text, text, text, text),
        errors.SourceError(errors.first_line(ValueError(text))),
    ):
        assert printable(str(error), None) == str(error)
        assert printable(repr(error), None) == repr(error)
    assert len(str(errors.HeaderError(text, scene="x" * 10**6, href="h" * 10**6))) < 5000


def test_errors_tell_no_secret() -> None:
    href = "https://u:hunter2@h/a.tif?sig=hunter2"
    for error in (
        errors.UsageError(f"at {href}"),
        errors.HeaderError(f"at {href}", scene="s", href=href),
        errors.ChangedFileError(f"at {href}", "s", "red", href),
    ):
        assert "hunter2" not in str(error) + repr(error) + repr(error.args) + repr(vars(error))
