"""CQL2's parser behind bounds. Knows words, signs and brackets, and not what they mean.

The library ``cql2`` recurses, natively: a chain of some ten thousand ``a = 1 AND a = 1 AND …``, of
``1 + 1 + …`` or of NOTs ends the process. And it tries each parenthesis twice: an error within
forty of them takes for ever. So text is counted first, and what lies deep is parsed from the inside
out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from catalog.bounds import (
    DEEPEST,
    FAR,
    LONGEST_VALUE,
    MOST_CONDITIONS,
    MOST_VALUES,
    check_depth,
    check_geojson,
    check_number,
    check_values,
    check_vertices,
)
from catalog.errors import UsageError

_TOKEN = re.compile(
    r"(?P<quoted>'[^']*(?:''[^']*)*'|\"[^\"]*\")"
    r"|(?P<open>\()|(?P<close>\))|(?P<comma>,)"
    r"|(?P<join>\b(?:and|or|not)\b)"
    r"|(?P<operator>\b(?:between|in|like|is|div)\b|<>|<=|>=|[=<>*/^%])"
    r"|(?P<shape>\b(?:(?:multi)?(?:point|linestring|polygon)|geometrycollection|bbox)"
    r"(?:\s*\bzm?|\s*\bm)?\s*(?=\())"
    r"|(?P<number>(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)"
    r"|(?P<sign>[-+])"
    r"|(?P<word>[^\s'\"(),<>=*/^%+-]+)",
    re.IGNORECASE,
)
_TOKENS = 1_000_000
"""Of a filter: those of 100 000 vertices or values, and more."""
_SIGNS = 8
"""Of a position: of four numbers and their exponents. More are sums."""
_SHALLOW = 8
"""Levels of parentheses that are parsed as they are."""


def document_of(text: str) -> Any:
    """CQL2 text as the library's CQL2 JSON, not yet checked.

    Raises:
        UsageError: too many conditions, values or vertices, or nested too deep.
        cql2.ParseError: it is no CQL2.
    """
    import cql2

    scan = _Scan()
    scan.read(text)
    if scan.groups <= _SHALLOW:
        return cql2.parse_text(text).to_json()
    # Of another's name, in whose place nobody's property can be.
    mark = uuid4().hex
    found: dict[str, Any] = {}
    document = None
    for piece in scan.pieces(text, mark):
        document = _filled(cql2.parse_text(piece).to_json(), found)
        found[f"{mark}{len(found)}"] = document
    return document


class _Scan:
    """What text holds, counted word by word."""

    def __init__(self) -> None:
        self.joins = self.operators = self.values = self.vertices = self.depth = 0
        self.groups = 0
        """Levels of parentheses that are of no function, list or shape."""
        self.edges: list[tuple[int, bool]] = []
        """Where these are, and whether one opens there."""

    def read(self, text: str) -> None:
        self.count(text)
        check_depth("a filter", self.depth)
        # The fewest that it can have: exactly how many, the parser says.
        check_conditions(max(self.joins + 1, self.operators))
        check_values([self.values])
        check_vertices(self.vertices)

    def count(self, text: str) -> None:
        inside: list[str] = []
        before = word = ""
        run = signs = groups = 0
        for number, token in enumerate(_TOKEN.finditer(text)):
            last, word = word, token[0].lower()
            kind = token.lastgroup or ""
            within = inside[-1] if inside else ""
            run = run + 1 if word in ("not", "-", "+", "(") else 0
            self.depth = max(self.depth, run, len(inside))
            match kind:
                case "quoted":
                    check_number("filter: a text of {} characters", len(word) - 2, LONGEST_VALUE)
                case "open":
                    of = "group"
                    if "shape" in (before, within):
                        of = "shape"
                        self.vertices += within != "shape"
                    elif last == "in":
                        of = "list"
                        self.values += 1
                        if of in inside:
                            raise UsageError("filter: a list of IN holds values, no other list")
                    elif before == "word":
                        of = "call"
                    else:
                        groups += 1
                        self.groups = max(groups, self.groups)
                        self.edges.append((token.start(), True))
                    inside.append(of)
                case "close" if inside and inside.pop() == "group":
                    groups -= 1
                    self.edges.append((token.start(), False))
                case "comma":
                    signs = 0
                    self.values += within == "list"
                    self.vertices += within == "shape"
                case "join":
                    self.joins += 1
                case "operator":
                    self.operators += 1
                    self.joins -= word == "between"  # its AND joins nothing
                case "sign" if before in ("quoted", "close", "number", "word"):
                    signs += 1
                    self.operators += within != "shape" or before != "number" or signs > _SIGNS
            before = kind
            if number % 1000 == 0 or len(inside) > DEEPEST:
                self.check_far(number, len(inside))
        self.depth = max(self.depth, len(inside))

    def check_far(self, number: int, depth: int) -> None:
        """While it is worth it to count on."""
        if number > _TOKENS:
            if self.values > MOST_VALUES:
                check_values([self.values], least=True)
            check_number("a filter of {} words and signs", _TOKENS, _TOKENS, least=True)
        if max(depth, self.depth) > FAR * DEEPEST:
            check_depth("a filter", FAR * DEEPEST, least=True)
        if max(self.joins, self.operators) > FAR * MOST_CONDITIONS:
            check_conditions(FAR * MOST_CONDITIONS, least=True)

    def pieces(self, text: str, mark: str) -> list[str]:
        """``text`` taken apart: what stands in parentheses, the inner ones first, and at last what
        is left. In the place of each stands a property, called ``mark`` and its number."""
        found: list[str] = []
        open_ones: list[list[str]] = [[]]
        begin = 0
        for place, opens in self.edges:
            open_ones[-1].append(text[begin:place])
            begin = place + 1
            if opens:
                open_ones.append([])
            else:
                found.append("".join(open_ones.pop()))
                open_ones[-1].append(f'"{mark}{len(found) - 1}"')
        if len(open_ones) > 1:
            raise UsageError("filter does not parse as CQL2: a parenthesis is not closed")
        found.append("".join([*open_ones[0], text[begin:]]))
        return found


def _filled(node: Any, found: Mapping[str, Any]) -> Any:
    """``node`` with the pieces in their places again."""
    if isinstance(node, list):
        return [_filled(child, found) for child in node]
    if not isinstance(node, dict):
        return node
    if set(node) == {"property"} and node["property"] in found:
        return found[node["property"]]
    return {key: _filled(child, found) for key, child in node.items()}


def check_conditions(count: int, *, least: bool = False) -> None:
    """
    Raises:
        UsageError: more than one filter may have.
    """
    advice = "IN takes many values at once"
    check_number("a filter with {} conditions", count, MOST_CONDITIONS, advice, least=least)


def check_document(document: Any) -> int:
    """CQL2 JSON before the library or ``filter_cql2`` goes through it.

    Returns:
        how many conditions it has; AND, OR and NOT are some, too.

    Raises:
        UsageError: too many conditions, values or vertices, nested too deep, or an operator with
            keys that the library would pass over: a mistake there would widen the answer.
    """
    conditions = values = vertices = deepest = 0
    waiting: list[tuple[Any, int, int]] = [(document, 0, 0)]
    while waiting:
        node, level, depth = waiting.pop()
        check_depth("a filter", DEEPEST, least=level > 4 * DEEPEST)
        children: Any = ()
        if isinstance(node, str):
            check_number("filter: a text of {} characters", len(node), LONGEST_VALUE)
        elif isinstance(node, bool):
            conditions += 1
        elif isinstance(node, list | tuple):
            check_number("filter: a list of {} values", len(node), MOST_VALUES)
            children = node
        elif isinstance(node, Mapping) and ("coordinates" in node or "geometries" in node):
            vertices += check_geojson(node)
        elif isinstance(node, Mapping):
            children = node.values()
            if "op" in node:
                _check_keys(node)
                name, arguments = str(node["op"]).lower(), node["args"]
                conditions += name != "casei"
                depth += 1
                deepest = max(deepest, depth)
                if name == "in" and isinstance(arguments, list) and len(arguments) == 2:
                    values += len(arguments[1]) if isinstance(arguments[1], list) else 0
        waiting += [(child, level + 1, depth) for child in children]
    check_depth("a filter", deepest)
    check_conditions(conditions)
    check_values([values])
    check_vertices(vertices)
    return conditions


def _check_keys(node: Mapping[str, Any]) -> None:
    if set(node) != {"op", "args"}:
        extra = ", ".join(sorted(map(str, set(node) ^ {"op", "args"})))
        raise UsageError(f"filter: an operator has op and args; amiss is {extra}")
