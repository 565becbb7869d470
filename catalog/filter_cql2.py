"""CQL2, text or JSON → a tree of ``filter_tree`` over what the catalog knows of a scene.

The grammar is the library ``cql2``'s; what a condition may name, and what each operator
means between the types of ours, is decided here.

    filter = parse_filter("eo:cloud_cover < 20 AND platform = 'sentinel-2a'")
    filter.tree     # And((Compare("<", Property("cloud_cover", "number"), Value(0, "number")), …))
    filter.values   # (20.0, "sentinel-2a")
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from catalog.area import box_geometry, parse_geometry
from catalog.bounds import MOST_PIECES, check_json, check_length, check_number
from catalog.errors import UsageError
from catalog.filter_bounds import check_conditions, check_document, document_of
from catalog.filter_tree import (
    And,
    Compare,
    Filter,
    IsNull,
    Like,
    Lower,
    Not,
    OneOf,
    Operand,
    Or,
    Property,
    Spatial,
    Tree,
    Truth,
    Value,
)
from catalog.parse import (
    is_unicode,
    parse_baseline,
    parse_bbox,
    parse_datetime,
    parse_platform,
    parse_tile,
)

_TEXT = {
    **dict.fromkeys(("id",), "item_id"),
    **dict.fromkeys(("collection",), "collection"),
    **dict.fromkeys(("platform",), "platform"),
    **dict.fromkeys(
        ("s2:processing_baseline", "processing:baseline", "processing:version", "baseline"),
        "baseline",
    ),
    **dict.fromkeys(("s2:mgrs_tile", "tile"), "tile"),
    "grid:code": "grid_code",
    "mgrs:latitude_band": "latitude_band",
    "mgrs:grid_square": "grid_square",
    "proj:code": "proj_code",
    **dict.fromkeys(("status", "cogcat:status"), "status"),
    "constellation": "constellation",
    "cogcat:acquisition": "acquisition",
    "snapshot_id": "snapshot_id",
}
_NUMBERS = {
    **dict.fromkeys(("eo:cloud_cover", "cloud_cover"), "cloud_cover"),
    "mgrs:utm_zone": "utm_zone",
    "proj:epsg": "epsg",
    **dict.fromkeys(("boa_offset", "cogcat:boa_offset"), "boa_offset"),
    **dict.fromkeys(("revision", "cogcat:revision"), "revision"),
}
_TIMES = {name: name for name in ("datetime", "created", "updated", "recorded_at")} | {
    "cogcat:recorded_at": "recorded_at"
}
_PLACES = ("geometry", "footprint")
PROPERTIES: dict[str, tuple[str, str]] = {
    name: (column, kind)
    for kind, names in (("text", _TEXT), ("number", _NUMBERS), ("time", _TIMES))
    for name, column in names.items()
}
"""Property as users of STAC write it → (column, ``text`` | ``number`` | ``time``)."""

_COMPARISONS = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
"""Operator → the same with its sides exchanged."""
_SPATIAL = {
    "s_intersects": "s_intersects",
    "s_disjoint": "s_disjoint",
    "s_within": "s_contains",
    "s_contains": "s_within",
}
_TEMPORAL = {
    **{name: name for name in ("t_intersects", "t_disjoint", "t_equals")},
    "t_after": "t_before", "t_before": "t_after", "t_during": "t_contains",
    "t_contains": "t_during", "t_starts": "t_startedby", "t_startedby": "t_starts",
    "t_finishes": "t_finishedby", "t_finishedby": "t_finishes",
}  # fmt: skip
# Between instants: what two properties may be asked.
_OF_INSTANTS = {
    "t_after": ">", "t_before": "<", "t_equals": "=", "t_intersects": "=", "t_disjoint": "<>",
}  # fmt: skip
_KNOWN = (
    "AND, OR, NOT, =, <>, <, <=, >, >=, BETWEEN, IN, LIKE, IS NULL, CASEI, S_INTERSECTS, "
    "S_DISJOINT, S_WITHIN, S_CONTAINS, T_AFTER, T_BEFORE, T_DURING, T_INTERSECTS, T_DISJOINT, "
    "T_EQUALS, T_STARTS and T_FINISHES"
)
_NORMAL = {"tile": parse_tile, "platform": parse_platform, "baseline": parse_baseline}
"""Column → what makes one form of what people write."""
_UPPER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def parse_filter(given: str | Mapping[str, Any] | bool | Filter) -> Filter:
    """A CQL2 condition on scenes.

    Names are those of STAC's extensions (``PROPERTIES``, and ``geometry`` for the footprint),
    with or without ``properties.`` before them. A date, or a text that a time is compared with,
    is the whole period it names, UTC: ``datetime <= '2023-01'`` takes January in. NULL is
    SQL's: a comparison with it is unknown, and so is its opposite.

    Args:
        given: CQL2 text, or CQL2 JSON as text, mapping or truth value.

    Raises:
        UsageError: it does not parse, names an unknown property, function or operator, or
            compares what cannot be compared; says which. More than ``bounds`` has it.
    """
    import cql2

    if isinstance(given, Filter):
        return given
    try:
        document: Any = None
        if isinstance(given, str):
            check_length("a filter", given)
            text = given.strip()
            if text.startswith("{"):
                check_json("a filter", text)
                document = json.loads(text)
                check_document(document)
        elif isinstance(given, Mapping | bool):
            # A truth value alone is a condition too, as JSON as much as ``TRUE`` is as text.
            document = given if isinstance(given, bool) else dict(given)
            check_document(document)
            text = json.dumps(document, sort_keys=True)
        else:
            raise UsageError(f"malformed filter {given!r}: write CQL2 as text or JSON")
        if document is None:
            document = document_of(text)
        else:
            document = cql2.parse_json(json.dumps(document)).to_json()
    except (cql2.ParseError, cql2.ValidationError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"filter does not parse as CQL2: {_reason(error)}") from error
    reading = _Reading(check_document(document))
    tree = reading.condition(document)
    return Filter(text, tree, tuple(reading.values), tuple(reading.places))


def lower(text: str) -> str:
    """As ``Lower`` does it."""
    return text.translate(_UPPER)


class _Reading:
    """One pass over a document: literals and geometries are laid aside as they come."""

    def __init__(self, conditions: int) -> None:
        self.values: list[Any] = []
        self.places: list[BaseGeometry] = []
        self.conditions = conditions

    def condition(self, node: Any) -> Tree:
        if isinstance(node, bool):
            return Truth(node)
        operator, arguments = _call(node, "a condition")
        if operator in ("and", "or"):
            parts = tuple(self.condition(part) for part in _several(operator, arguments))
            return And(parts) if operator == "and" else Or(parts)
        if operator == "not":
            return Not(self.condition(*_exactly(1, operator, arguments)))
        if operator in _COMPARISONS:
            return self.comparison(operator, *_exactly(2, operator, arguments))
        if operator == "between":
            value, low, high = _exactly(3, operator, arguments)
            return And((self.comparison(">=", value, low), self.comparison("<=", value, high)))
        if operator == "in":
            return self.one_of(*_exactly(2, operator, arguments))
        if operator == "like":
            return self.like(*_exactly(2, operator, arguments))
        if operator == "isnull":
            (value,) = _exactly(1, operator, arguments)
            if _place_name(value) is not None:
                # Every scene has a footprint.
                return Truth(False)
            return IsNull(self.property(value, "IS NULL"))
        if operator in _SPATIAL:
            return self.spatial(operator, *_exactly(2, operator, arguments))
        if operator in _TEMPORAL:
            return self.temporal(operator, *_exactly(2, operator, arguments))
        raise UsageError(f"filter: unknown function or operator {operator!r}; known are {_KNOWN}")

    def comparison(self, operator: str, left: Any, right: Any) -> Tree:
        if _is_literal(left) and _is_literal(right):
            return _folded(operator, left, right)
        if _is_literal(left):
            left, right, operator = right, left, _COMPARISONS[operator]
        subject = self.property(left, operator)
        if not _is_literal(right):
            other = self.property(right, operator)
            if other.kind != subject.kind:
                raise UsageError(
                    f"filter: {_shown(left)} is a {subject.kind}, {_shown(right)} a {other.kind}"
                )
            return Compare(operator, subject, other)
        if subject.kind == "time":
            return self.in_time(operator, subject, *_period(right, left))
        subject, value = self.normal(subject, operator, self.literal(right, subject, left))
        return Compare(operator, subject, self.keep(value, subject.kind))

    def in_time(self, operator: str, subject: Operand, start: datetime, end: datetime) -> Tree:
        """A comparison with a period: before its start, after its end, or in it."""
        if operator in ("=", "<>") and start != end:
            inside = self.within(subject, start, end)
            return inside if operator == "=" else Not(inside)
        edge = start if operator in ("<", ">=") else end
        return Compare(operator, subject, self.keep(edge, "time"))

    def within(
        self,
        subject: Operand,
        start: datetime | None,
        end: datetime | None,
        *,
        strictly: bool = False,
    ) -> Tree:
        parts: list[Tree] = []
        if start is not None:
            after = ">" if strictly else ">="
            parts.append(Compare(after, subject, self.keep(start, "time")))
        if end is not None:
            before = "<" if strictly else "<="
            parts.append(Compare(before, subject, self.keep(end, "time")))
        # All time: true of every time, unknown of none.
        return And(tuple(parts)) if parts else Compare("=", subject, subject)

    def one_of(self, subject: Any, choices: Any) -> Tree:
        if not isinstance(choices, list):
            raise UsageError("filter: IN needs a list of values")
        left = self.property(subject, "IN")
        if not choices:
            return Truth(False)
        if left.kind != "text":
            # Of numbers and times each is a comparison of its own.
            self.conditions += len(choices)
            check_conditions(self.conditions)
            return Or(tuple(self.comparison("=", subject, choice) for choice in choices))
        values = []
        for choice in choices:
            if not _is_literal(choice):
                raise UsageError(f"filter: IN needs values, {_shown(choice)} is none")
            values.append(self.normal(left, "=", self.literal(choice, left, subject)))
        columns = dict.fromkeys(placed for placed, _ in values)
        parts: list[Tree] = []
        for column in columns:
            self.values.append(tuple(dict.fromkeys(v for placed, v in values if placed == column)))
            parts.append(OneOf(column, len(self.values) - 1))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def like(self, subject: Any, pattern: Any) -> Tree:
        left = self.property(subject, "LIKE")
        if left.kind != "text":
            raise UsageError(f"filter: LIKE is for text, {_shown(subject)} is a {left.kind}")
        if not _is_literal(pattern):
            raise UsageError(f"filter: LIKE needs a pattern, {_shown(pattern)} is none")
        value = self.literal(pattern, left, subject)
        if re.search(r"(?<!\\)(?:\\\\)*\\$", value):
            raise UsageError(f"filter: the pattern {value!r} ends in the middle of an escape")
        self.values.append(value)
        return Like(left, len(self.values) - 1)

    def spatial(self, operator: str, left: Any, right: Any) -> Tree:
        if _place_name(left) is None:
            left, right, operator = right, left, _SPATIAL[operator]
        if _place_name(left) is None:
            raise UsageError(
                f"filter: {operator.upper()} needs the property geometry, not {_shown(left)}"
            )
        if not isinstance(right, dict) or not ("coordinates" in right or "bbox" in right
                                               or "geometries" in right):  # fmt: skip
            raise UsageError(f"filter: {operator.upper()} needs a geometry, not {_shown(right)}")
        if "bbox" in right:
            self.places.append(box_geometry(parse_bbox(right["bbox"])))
        else:
            self.places.append(parse_geometry(right))
        if operator == "s_contains":
            pieces = int(shapely.get_num_geometries(self.places[-1]))
            what = f"filter: {operator.upper()} of an area of {{}} pieces"
            check_number(what, pieces, MOST_PIECES, "ask for fewer of them")
        return Spatial(operator, len(self.places) - 1)

    def temporal(self, operator: str, left: Any, right: Any) -> Tree:
        if _is_literal(left):
            left, right, operator = right, left, _TEMPORAL[operator]
        subject = self.property(left, operator)
        if subject.kind != "time":
            raise UsageError(f"filter: {operator} is for times, {_shown(left)} is {subject.kind}")
        if not _is_literal(right):
            other = self.property(right, operator)
            if other.kind != "time" or operator not in _OF_INSTANTS:
                raise UsageError(f"filter: {operator} cannot compare {_shown(left)} with that")
            return Compare(_OF_INSTANTS[operator], subject, other)
        start, end = _ends(right, left)
        if operator == "t_after":
            return self.edge(">", subject, end)
        if operator == "t_before":
            return self.edge("<", subject, start)
        if operator == "t_intersects":
            return self.within(subject, start, end)
        if operator == "t_disjoint":
            return Not(self.within(subject, start, end))
        if operator == "t_during":
            return self.within(subject, start, end, strictly=True)
        if operator == "t_starts":
            return self.edge("=", subject, start)
        if operator == "t_finishes":
            return self.edge("=", subject, end)
        if operator == "t_equals" and not _is_interval(right):
            return self.within(subject, start, end)
        raise UsageError(
            f"filter: {operator} is for intervals, {_shown(left)} is an instant; "
            "T_INTERSECTS, T_DURING, T_BEFORE and T_AFTER are for instants"
        )

    def edge(self, operator: str, subject: Operand, moment: datetime | None) -> Tree:
        """A comparison with an end of an interval; nothing lies beyond an open one."""
        if moment is None:
            return Compare("<>", subject, subject)
        return Compare(operator, subject, self.keep(moment, "time"))

    def property(self, node: Any, what: str) -> Property | Lower:
        if isinstance(node, dict) and set(node) == {"property"}:
            name = str(node["property"])
            bare = name.removeprefix("properties.")
            if bare in _PLACES:
                raise UsageError(f"filter: {what} cannot compare {name!r}: S_INTERSECTS can")
            if bare not in PROPERTIES:
                known = ", ".join(sorted((*PROPERTIES, "geometry")))
                raise UsageError(f"filter: unknown property {name!r}; known are {known}")
            return Property(*PROPERTIES[bare])
        if isinstance(node, dict) and "op" in node:
            operator, arguments = _call(node, "a property")
            if operator == "casei":
                (argument,) = _exactly(1, operator, arguments)
                inner = self.property(argument, "CASEI")
                if inner.kind != "text":
                    raise UsageError(f"filter: CASEI is for text, not a {inner.kind}")
                return Lower(inner) if isinstance(inner, Property) else inner
            raise UsageError(
                f"filter: unknown function or operator {operator!r}; known are {_KNOWN}"
            )
        raise UsageError(f"filter: {what} needs a property, not {_shown(node)}")

    def literal(self, node: Any, subject: Property | Lower, name: Any) -> Any:
        value = _plain(node)
        kind = "text" if isinstance(value, str) else "number"
        if isinstance(value, bool) or not isinstance(value, str | float | int):
            kind = "condition" if isinstance(value, bool) else "time"
        if kind != subject.kind:
            raise UsageError(f"filter: {_shown(name)} is a {subject.kind}, {_shown(node)} is not")
        if kind == "number" and not math.isfinite(value):
            raise UsageError(f"filter: {value!r} is not a finite number")
        if kind == "text" and ("\0" in value or not is_unicode(value)):
            raise UsageError("filter: a text has a NUL in it, or half a character")
        return value

    def normal(
        self, subject: Property | Lower, operator: str, value: Any
    ) -> tuple[Property | Lower, Any]:
        """Tiles, platforms and baselines are compared in the form in which they are kept, however
        a source writes them: ``Sentinel-2A``, ``T10TFR``, ``MGRS-1CCV``, ``N0510``."""
        if isinstance(subject, Lower) or operator not in ("=", "<>"):
            return subject, value
        column = "tile" if subject.column == "grid_code" else subject.column
        if column not in _NORMAL or (column != subject.column and not value.startswith("MGRS-")):
            return subject, value
        try:
            return Property(column, "text"), _NORMAL[column](value)
        except UsageError:
            return subject, value

    def keep(self, value: Any, kind: str) -> Value:
        self.values.append(value)
        return Value(len(self.values) - 1, kind)


def _call(node: Any, wanted: str) -> tuple[str, list[Any]]:
    if not isinstance(node, dict) or not isinstance(node.get("op"), str):
        raise UsageError(f"filter: {_shown(node)} is not {wanted}")
    arguments = node.get("args")
    return node["op"].lower(), arguments if isinstance(arguments, list) else []


def _exactly(count: int, operator: str, arguments: list[Any]) -> list[Any]:
    if len(arguments) != count:
        raise UsageError(f"filter: {operator} takes {count} arguments, not {len(arguments)}")
    return arguments


def _several(operator: str, arguments: list[Any]) -> list[Any]:
    if not arguments:
        raise UsageError(f"filter: {operator} has nothing to join")
    return arguments


def _place_name(node: Any) -> str | None:
    if not isinstance(node, dict) or set(node) != {"property"}:
        return None
    name = str(node["property"]).removeprefix("properties.")
    return name if name in _PLACES else None


def _is_literal(node: Any) -> bool:
    """A value, a time, or CASEI of a value."""
    if isinstance(node, dict):
        if "op" in node:
            return node["op"].lower() == "casei" and all(map(_is_literal, node.get("args") or [0]))
        return bool(set(node) & {"date", "timestamp", "interval"})
    return node is not None and not isinstance(node, list)


def _is_interval(node: Any) -> bool:
    return isinstance(node, dict) and "interval" in node


def _plain(node: Any) -> Any:
    if isinstance(node, dict) and "op" in node:
        (value,) = _exactly(1, "casei", node["args"])
        value = _plain(value)
        if not isinstance(value, str):
            raise UsageError("filter: CASEI is for text")
        return lower(value)
    return node


def _folded(operator: str, left: Any, right: Any) -> Truth:
    """A comparison of two values is decided here."""
    one, other = _plain(left), _plain(right)
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (one, other))
    if not numbers and not (isinstance(one, str) and isinstance(other, str)):
        raise UsageError(f"filter: {operator} names no property")
    # Code points sort as their UTF-8 bytes do.
    outcome = {
        "=": one == other, "<>": one != other, "<": one < other, "<=": one <= other,
        ">": one > other, ">=": one >= other,
    }  # fmt: skip
    return Truth(outcome[operator])


def _period(node: Any, name: Any) -> tuple[datetime, datetime]:
    if isinstance(node, dict):
        node = node.get("timestamp", node.get("date"))
    if not isinstance(node, str) or "/" in node:
        raise UsageError(f"filter: {_shown(name)} is a time, {_shown(node)} is not")
    start, end = parse_datetime(node)
    assert start is not None
    assert end is not None
    return start, end


def _ends(node: Any, name: Any) -> tuple[datetime | None, datetime | None]:
    if not _is_interval(node):
        return _period(node, name)
    ends = node["interval"]
    if not isinstance(ends, list) or len(ends) != 2:
        raise UsageError("filter: an interval has two ends")
    first, last = (None if end in ("..", "") else _period(end, name) for end in ends)
    start, end = first and first[0], last and last[1]
    if start is not None and end is not None and end < start:
        raise UsageError("filter: an interval ends before it starts")
    return start, end


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if lines[0].startswith("-->") and len(lines) > 1:
        return f"at {lines[0].removeprefix('-->').strip()}, {lines[-1].removeprefix('=').strip()}"
    return lines[0][:300]


def _shown(node: Any) -> str:
    if isinstance(node, dict) and set(node) == {"property"}:
        return repr(node["property"])
    return json.dumps(node, ensure_ascii=False)[:80]
