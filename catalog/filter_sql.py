"""A tree of ``filter_tree`` in SQL, alike on SQLite and PostgreSQL. Executes nothing.

What footprints must be asked for is not SQL's to decide: of a tree that has such parts, SQL
chooses what may be (``possible``) and says how its other parts turn out (``split``), and
``holds`` joins that with the exact tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    ColumnElement,
    Double,
    Integer,
    String,
    and_,
    bindparam,
    cast,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    true,
)
from sqlalchemy.types import TypeEngine

from catalog.filter_tree import (
    And,
    Compare,
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
from catalog.models import COLLECTIONS
from catalog.portable_sql import GlobPattern, UtcDateTime, bytewise, like_exactly, one_of_these

type Mask = NDArray[np.bool_]

_TYPES: dict[str, TypeEngine[Any]] = {"text": String(), "number": Double(), "time": UtcDateTime()}


@dataclass(frozen=True, slots=True)
class Known:
    """What SQL has said of part ``index``: true, false or NULL."""

    index: int


type Rest = And | Or | Not | Known | Spatial


def condition(tree: Tree, scene: Any) -> ColumnElement[bool]:
    """``tree``, which asks no footprint, over the columns ``scene``; NULL where it is unknown."""
    match tree:
        case And(of):
            return and_(*(condition(part, scene) for part in of))
        case Or(of):
            return or_(*(condition(part, scene) for part in of))
        case Not(of):
            return not_(condition(of, scene).self_group())
        case Truth(value):
            return true() if value else false()
        case Compare(operator, left, right):
            return _COMPARE[operator](_operand(left, scene), _operand(right, scene))
        case OneOf(left, index):
            return one_of_these(_operand(left, scene), name(index))
        case Like(left, index):
            pattern = bindparam(name(index), type_=GlobPattern())
            return like_exactly(_operand(left, scene), pattern)
        case IsNull(of):
            return _operand(of, scene).is_(None)
    raise AssertionError(tree)


def possible(
    tree: Tree, scene: Any, near: Callable[[int], ColumnElement[bool]], *, being: bool = True
) -> ColumnElement[bool]:
    """True of every scene of which ``tree`` may be true (or false), and of few others.

    Args:
        near: index of a place → whether the scene's box is near it.
    """
    match tree:
        case And(of) | Or(of):
            parts = [possible(part, scene, near, being=being) for part in of]
            return and_(*parts) if isinstance(tree, And) is being else or_(*parts)
        case Not(of):
            return possible(of, scene, near, being=not being)
        case Spatial(operator, index):
            apart = operator == "s_disjoint"
            return true() if being is apart else near(index)
    stated = condition(tree, scene)
    return stated if being else not_(stated.self_group())


@lru_cache(512)
def split(tree: Tree) -> tuple[tuple[Tree, ...], Rest | None]:
    """The parts of a tree that SQL answers alone, and what remains to be joined with footprints.

    Parts that all answers must have are left out: ``possible`` asks for them.
    """
    parts: list[Tree] = []

    def rest(node: Tree) -> Any:
        if not asks_footprints(node):
            parts.append(node)
            return Known(len(parts) - 1)
        match node:
            case And(of):
                return And(tuple(rest(part) for part in of))
            case Or(of):
                return Or(tuple(rest(part) for part in of))
            case Not(of):
                return Not(rest(of))
        assert isinstance(node, Spatial)
        return node

    wanted = [part for part in conjuncts(tree) if asks_footprints(part)]
    if not wanted:
        return (), None
    found = And(tuple(rest(part) for part in wanted))
    return tuple(parts), found


def conjuncts(tree: Tree) -> list[Tree]:
    if isinstance(tree, And):
        return [inner for part in tree.of for inner in conjuncts(part)]
    return [tree]


def asks_footprints(tree: Tree) -> bool:
    match tree:
        case And(of) | Or(of):
            return any(map(asks_footprints, of))
        case Not(of):
            return asks_footprints(of)
    return isinstance(tree, Spatial)


def holds(rest: Rest, known: Sequence[Sequence[Any]], spatial: Callable[[Spatial], Mask]) -> Mask:
    """Of which rows the condition is true; unknown is not true.

    Args:
        known: for each part of ``split``, what SQL said of each row.
        spatial: the exact test of all rows.
    """
    return _decide(rest, known, spatial)[0]


def name(index: int) -> str:
    """Of the parameter for ``Filter.values[index]``."""
    return f"value_{index}"


def parameters(values: Sequence[Any]) -> Mapping[str, Any]:
    return {
        name(n): list(value) if isinstance(value, tuple) else value
        for n, value in enumerate(values)
    }


def _decide(
    rest: Any, known: Sequence[Sequence[Any]], spatial: Callable[[Spatial], Mask]
) -> tuple[Mask, Mask]:
    """(is true, is false), each per row: SQL's three values."""
    match rest:
        case And(of):
            sides = [_decide(part, known, spatial) for part in of]
            return _all([is_ for is_, _ in sides]), _any([isnt for _, isnt in sides])
        case Or(of):
            sides = [_decide(part, known, spatial) for part in of]
            return _any([is_ for is_, _ in sides]), _all([isnt for _, isnt in sides])
        case Not(of):
            is_, isnt = _decide(of, known, spatial)
            return isnt, is_
        case Known(index):
            said = known[index]
            return (
                np.array([bool(value) for value in said], dtype=np.bool_),
                np.array([value is not None and not value for value in said], dtype=np.bool_),
            )
    found = spatial(rest)
    return found, ~found


def _all(masks: Sequence[Mask]) -> Mask:
    return np.logical_and.reduce(masks)


def _any(masks: Sequence[Mask]) -> Mask:
    return np.logical_or.reduce(masks)


_COMPARE: dict[str, Callable[[Any, Any], ColumnElement[bool]]] = {
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _operand(operand: Operand, scene: Any) -> ColumnElement[Any]:
    match operand:
        case Value(index, kind):
            return bindparam(name(index), type_=_TYPES[kind])
        case Lower(of):
            return func.lower(_operand(of, scene), type_=String())
        case Property(column, kind):
            made = _MADE[column](scene) if column in _MADE else scene[column]
            return bytewise(made) if kind == "text" else made
    raise AssertionError(operand)


# Another name than the question joins it by, or it would be taken for that.
_NAMED = COLLECTIONS.alias("named")
_MADE: dict[str, Callable[[Any], ColumnElement[Any]]] = {
    "collection": lambda scene: (
        select(_NAMED.c.name).where(_NAMED.c.id == scene.collection_id).scalar_subquery()
    ),
    "constellation": lambda scene: literal("sentinel-2", String()),
    "grid_code": lambda scene: literal("MGRS-", String()) + scene.tile,
    "latitude_band": lambda scene: func.substr(scene.tile, 3, 1, type_=String()),
    "grid_square": lambda scene: func.substr(scene.tile, 4, 2, type_=String()),
    "utm_zone": lambda scene: cast(func.substr(scene.tile, 1, 2), Integer),
    "proj_code": lambda scene: literal("EPSG:", String()) + cast(scene.epsg, String()),
}
