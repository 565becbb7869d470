"""JSON as others write it: one entry that cannot be read spoils no other.

A page of a search is parsed at once. Where that fails, because one item holds ``NaN``, a number
of a million digits, arrays within arrays a thousand deep, or half a character, its ``features``
are taken apart by their brackets and parsed one by one: those that fail stand in the list as
``UnreadableItem``. Nothing here recurses over what others wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NoReturn

import pystac

from catalog.unreadable import UnreadableItem

LARGE = 4 << 20
"""Bytes from which on values are counted before they are made."""
VALUES = 3_000_000
"""Of one document: a Python object for each of them takes some 300 MB at most."""
# Atomic throughout: a string of a million escapes takes no memory to pass over.
# A string without an end goes on to the end of the text.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)
_NAMED = re.compile(r'"(id|collection)"\s*:\s*("[^"\\]{1,1024}")')
_CONSTANT = re.compile(r"[:,\[]\s*(-?(?:NaN|Infinity))\b")
_SURROGATE = re.compile("[\ud800-\udfff]")


class NotJsonError(ValueError):
    """The text as a whole is no JSON, or too much of it; the message says which."""


def read_document(body: bytes) -> Any:
    """The JSON value in ``body`` (UTF-8, with or without a mark at its beginning).

    Raises:
        NotJsonError: none, or one of more than ``VALUES`` values.
    """
    if len(body) > LARGE and sum(map(body.count, (b",", b"{", b"["))) > VALUES:
        raise NotJsonError(f"more than {VALUES:,} values")
    text = decoded(body)
    try:
        return strict(text)
    except (ValueError, RecursionError) as error:
        # What closes and what is quoted is counted too, before it is looked at piece by piece.
        marks = sum(map(body.count, (b"]", b"}", b'"')))
        document = None if marks > 4 * VALUES else _by_entries(text)
        if document is None:
            raise NotJsonError(f"not JSON: {_reason(error)}") from error
        return document


def decoded(body: bytes) -> str:
    """UTF-8; a byte that is none of it becomes half a character, which no name may hold."""
    return body.decode("utf-8-sig", errors="surrogateescape")


def strict(text: str) -> Any:
    """What JSON allows and nothing beside it, unlike Python's own parser.

    Raises:
        ValueError, RecursionError: anything else.
    """
    return pystac.StacIO.default().json_loads(text, parse_constant=_refuse)


def entry(text: str) -> Any:
    """One item of a list or a file, or ``UnreadableItem`` where it is none that can be read."""
    try:
        return strict(text)
    except (ValueError, RecursionError) as error:
        names: dict[str, str] = {}
        for depth, member in _members(text):
            named = _NAMED.match(text, member) if depth == 1 else None
            if named and named[1] not in names and not _SURROGATE.search(named[2]):
                try:
                    names[named[1]] = json.loads(named[2])
                except ValueError:
                    continue
        constant = _CONSTANT.search(text)
        fault = f"{constant[1]} is not JSON" if constant else _reason(error)
        return UnreadableItem(fault, text, id=names.get("id"), collection=names.get("collection"))


def end_of_value(text: str, at: int) -> int | None:
    """Where the array or object that begins at ``at`` ends, by its brackets; None if it does not.

    What stands between the brackets need not be JSON.
    """
    open_: list[str] = []
    for token in _TOKEN.finditer(text, at):
        match token[0]:
            case "{" | "[":
                open_.append(token[0])
            case "}" | "]":
                if not open_ or open_.pop() + token[0] not in ("{}", "[]"):
                    return None
                if not open_:
                    return token.end()
            case _ if not open_:
                return None
    return None


def _by_entries(text: str) -> dict[str, Any] | None:
    """A feature collection whose features are parsed one by one; None where it is none."""
    for depth, at in _members(text):
        found = re.compile(r'"features"\s*:\s*\[').match(text, at) if depth == 1 else None
        if found is None:
            continue
        features: list[Any] = []
        cuts = _cuts(text, found.end() - 1)
        if cuts is None:
            return None
        for start, end in pairwise(cuts):
            piece = text[start + 1 : end].strip()
            if piece:
                features.append(entry(piece))
            elif len(cuts) > 2:
                return None
        try:
            # What is said beside the items may be no number, and says nothing then.
            document = json.loads(
                f"{text[: cuts[0] + 1]}{text[cuts[-1] :]}", parse_constant=lambda name: None
            )
        except (ValueError, RecursionError):
            return None
        if not isinstance(document, dict) or document.get("features") != []:
            return None
        document["features"] = features
        return document
    return None


def _cuts(text: str, at: int) -> list[int] | None:
    """Of the array that begins at ``at``: its brackets, and the commas between its entries."""
    cuts, depth = [at], 0
    for token in _TOKEN.finditer(text, at):
        match token[0]:
            case "{" | "[":
                depth += 1
            case "}" | "]":
                depth -= 1
                if depth == 0:
                    return [*cuts, token.start()]
            case ",":
                if depth == 1:
                    cuts.append(token.start())
    return None


def _members(text: str) -> Iterator[tuple[int, int]]:
    """Depth and place of each string of ``text``, outermost object 1; the keys are among them."""
    depth = 0
    for token in _TOKEN.finditer(text):
        match token[0]:
            case "{" | "[":
                depth += 1
            case "}" | "]":
                depth -= 1
            case ",":
                pass
            case _:
                yield depth, token.start()


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, RecursionError) or "depth limit" in text or "recursion" in text:
        return "nested too deeply"
    if "infinity" in text or "digits" in text:
        return "a number is beyond what can be held"
    if "surrogate" in text or "utf-8" in text.lower():
        return "its text is not UTF-8"
    return text.partition(": line ")[0] or type(error).__name__


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
