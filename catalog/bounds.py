"""How much one question may ask for, checked before it costs memory or time.

Parsers of WKT, WKB, JSON and CQL2 recurse, natively: what is nested some thousands deep overflows
the stack and ends the process, where no ``except`` helps. So text and bytes are counted here,
without recursion, before a parser sees them. Knows no geometry library and no grammar but brackets
and commas: what is malformed is left to the parsers to say.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Mapping, Sized
from itertools import islice
from typing import Any

from catalog.errors import UsageError

MOST_VERTICES = 100_000
"""Of one area, all its parts together, and of the areas of one filter together."""
MOST_VALUES = 100_000
"""Of all lists of one question together: ids, tiles …, and those of IN."""
MOST_CONDITIONS = 400
"""Of one filter, AND, OR and NOT counted too: SQLite takes a thousand levels of AND and OR."""
MOST_CROSSINGS = 100_000
"""Places where lines of one area cross or touch: mending and joining pay some 25 µs for each."""
MOST_PIECES = 500
"""Of an area asked for piece by piece; and crossings of the antimeridian, where it is cut."""
DEEPEST = 60
"""Levels of parentheses, collections and NOTs."""
LONGEST_TEXT = 16_000_000
"""Characters or bytes of one geometry or filter: 100 000 vertices have some 4 to 10 million."""
LONGEST_VALUE = 1_000
"""Characters of one value; what the catalog holds is shorter."""

_BRACKETS = re.compile(r"\"[^\"\\]*(?:\\.[^\"\\]*)*\"|[\[\]{}]", re.DOTALL)
"""Of JSON, past the brackets in its strings."""
_PARENTHESES = re.compile(r"[()]")
_IN_JSON = 2 * DEEPEST + 10
"""Brackets that ``DEEPEST`` levels take in JSON: two each, and some for coordinates."""
FAR = 10
"""Times a limit, up to which things are counted: what is far beyond it is "more than" that."""


def check_number(
    what: str, count: int, most: int, advice: str = "", *, least: bool = False
) -> None:
    """
    Args:
        what: names the thing and its parts: ``"an area of {} vertices"``.
        advice: what to do.
        least: counting ended at ``count``: there are more.

    Raises:
        UsageError: ``count`` is more than ``most``; names both.
    """
    if count > most or least:
        said = what.format(f"more than {count}" if least else count)
        raise UsageError(f"{said} is too much: {most} is the most{advice and f'; {advice}'}")


def check_length(what: str, text: Sized, most: int = LONGEST_TEXT) -> None:
    """
    Raises:
        UsageError: ``text`` is longer than ``most`` characters or bytes.
    """
    check_number(f"{what} of {{}} characters", len(text), most)


def values_of(what: str, given: Iterable[Any], most: int = MOST_VALUES) -> list[Any]:
    """``given`` as a list: of an endless iterable, no more is taken than may be.

    Raises:
        UsageError: it has more than ``most``.
    """
    advice = "ask in several questions"
    if isinstance(given, Sized):
        check_number(f"a list of {{}} {what}", len(given), most, advice)
    found = list(islice(given, most + 1))
    if len(found) > most:
        check_number(f"a list of {{}} {what}", most, most, advice, least=True)
    return found


def check_values(counts: Iterable[int], *, least: bool = False) -> None:
    """
    Args:
        counts: values of each list of a question.

    Raises:
        UsageError: all lists together have more than ``MOST_VALUES``.
    """
    advice = "ask in several questions"
    what = "a question with {} values in its lists"
    check_number(what, sum(counts), MOST_VALUES, advice, least=least)


def check_vertices(count: int, *, least: bool = False) -> None:
    """
    Raises:
        UsageError: more than one area may have.
    """
    advice = "simplify it, or ask for its parts"
    check_number("an area of {} vertices", count, MOST_VERTICES, advice, least=least)


def check_depth(what: str, depth: int, most: int = DEEPEST, *, least: bool = False) -> None:
    """
    Raises:
        UsageError: nested deeper than may be.
    """
    check_number(f"{what} nested {{}} deep", depth, most, least=least)


def check_json(what: str, text: str) -> None:
    """Before a parser of JSON sees ``text``.

    Raises:
        UsageError: too long, or nested too deep.
    """
    check_length(what, text)
    check_depth(what, deepest(_BRACKETS, text), _IN_JSON)


def deepest(pattern: re.Pattern[str], text: str) -> int:
    """Levels of brackets in ``text``, of which ``pattern`` finds each; what else it finds counts
    for nothing."""
    found = depth = 0
    for match in pattern.finditer(text):
        bracket = match[0]
        if bracket in "([{":
            depth += 1
            found = max(found, depth)
        elif bracket in ")]}":
            depth -= 1
    return found


def check_wkt(text: str) -> None:
    """Before a parser of WKT sees ``text``. Commas stand between vertices, rings and shapes: all
    together they have one more than there are commas.

    Raises:
        UsageError: too long, too many vertices, or nested too deep.
    """
    check_length("a geometry", text)
    check_vertices(text.count(",") + 1)
    check_depth("a geometry", deepest(_PARENTHESES, text))


def check_wkb(data: bytes) -> None:
    """Before a parser of WKB (ISO's or PostGIS's) sees ``data``. What has no vertex counts as one.

    Raises:
        UsageError: too long, too many vertices, or nested too deep.
    """
    check_length("a geometry", data)
    waiting = [1]  # how many shapes are still to come, on each level
    position = vertices = deepest = 0
    try:
        while waiting:
            if waiting[-1] == 0:
                waiting.pop()
                continue
            waiting[-1] -= 1
            order = "<" if data[position] == 1 else ">"
            (kind,) = struct.unpack_from(f"{order}I", data, position + 1)
            position += 9 if kind & 0x2000_0000 else 5  # an SRID lies between
            dimensions = 2 + bool(kind & 0x8000_0000) + bool(kind & 0x4000_0000)
            iso, kind = divmod(kind & 0xFFFF, 1000)
            stride = 8 * max(dimensions, (2, 3, 3, 4)[iso & 3])
            if kind == _POINT:
                position += stride
                vertices += 1
                continue
            (count,) = struct.unpack_from(f"{order}I", data, position)
            position += 4
            if kind in _LINES:
                vertices += max(count, 1)
                position += stride * count
            elif kind in _RINGS:
                vertices += not count
                for _ in range(count):
                    (length,) = struct.unpack_from(f"{order}I", data, position)
                    position += 4 + stride * length
                    vertices = _counted(vertices + max(length, 1))
            else:
                vertices += not count
                deepest = max(deepest, len(waiting))
                waiting.append(count)
            vertices = _counted(vertices)
    except (IndexError, struct.error):
        pass  # it ends too early: for the parser to say, which reads no further either
    check_depth("a geometry", deepest)
    check_vertices(vertices)


_POINT, _LINES, _RINGS = 1, (2, 8), (3, 17)
"""Kinds of shapes in WKB: a point; lines and arcs; polygons and triangles. All others have shapes
in them."""


def check_geojson(document: Any) -> int:
    """Before ``document`` is made a shape: a geometry, Feature or FeatureCollection. Goes where
    coordinates may be, and nowhere else.

    Returns:
        how many vertices there are; what is empty counts as one.

    Raises:
        UsageError: too many vertices, or nested too deep.
    """
    vertices = 0
    waiting: list[tuple[Any, int]] = [(document, 1)]
    while waiting:
        node, level = waiting.pop()
        if level > _IN_JSON:
            # Some that hold themselves are endless.
            check_depth("a geometry", _IN_JSON, _IN_JSON, least=True)
        inside: Iterable[Any] = ()
        if isinstance(node, Mapping):
            inside = [node[name] for name in _INSIDE if node.get(name) is not None]
        elif isinstance(node, list | tuple):
            if node and _is_position(node[0]):
                vertices += len(node)
            elif _is_position(node) or not node:
                vertices += 1
            else:
                _counted(vertices + len(node))
                inside = node
        elif isinstance(shape := getattr(node, "shape", None), tuple):  # an array of numbers
            vertices += max(1, math.prod(shape[:-1]))
        vertices = _counted(vertices)
        waiting += [(child, level + 1) for child in inside]
    check_vertices(vertices)
    return vertices


_INSIDE = ("geometry", "geometries", "features", "coordinates")


def _is_position(node: Any) -> bool:
    return isinstance(node, list | tuple) and len(node) > 0 and isinstance(node[0], int | float)


def _counted(vertices: int) -> int:
    """``vertices``, while it is worth it to count on."""
    most = FAR * MOST_VERTICES
    if vertices > most:
        check_vertices(most, least=True)
    return vertices
