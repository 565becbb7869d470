"""A condition on scenes as a checked tree: what ``filter_cql2`` makes and ``filter_sql`` asks.

Knows no grammar and no SQL. Literals stand apart from the tree, so that questions that differ in
their values alone have one tree, and one SQL statement.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shapely.geometry.base import BaseGeometry

type Tree = And | Or | Not | Truth | Compare | OneOf | Like | IsNull | Spatial
type Operand = Property | Lower | Value


@dataclass(frozen=True, slots=True)
class Property:
    """A column of a scene, or what is made of one."""

    column: str
    kind: str
    """``text``, ``number`` or ``time``."""


@dataclass(frozen=True, slots=True)
class Value:
    """The literal ``Filter.values[index]``."""

    index: int
    kind: str


@dataclass(frozen=True, slots=True)
class Lower:
    """Text with A to Z as a to z; other letters stay."""

    of: Property
    kind: str = "text"


@dataclass(frozen=True, slots=True)
class And:
    of: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Or:
    of: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Not:
    of: Tree


@dataclass(frozen=True, slots=True)
class Truth:
    value: bool


@dataclass(frozen=True, slots=True)
class Compare:
    operator: str
    """``=``, ``<>``, ``<``, ``<=``, ``>`` or ``>=``; unknown where a side is NULL."""
    left: Operand
    right: Operand


@dataclass(frozen=True, slots=True)
class OneOf:
    """Text that is one of the list ``Filter.values[index]``."""

    left: Operand
    index: int


@dataclass(frozen=True, slots=True)
class Like:
    """Text that is as the pattern ``Filter.values[index]``: % any, _ one, \\ before either."""

    left: Operand
    index: int


@dataclass(frozen=True, slots=True)
class IsNull:
    of: Operand


@dataclass(frozen=True, slots=True)
class Spatial:
    """The footprint and the geometry ``Filter.places[index]``; never unknown."""

    operator: str
    """``s_intersects``, ``s_disjoint``; ``s_within`` (the footprint in the geometry),
    ``s_contains`` (the geometry in the footprint)."""
    index: int


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition; made by ``filter_cql2.parse_filter``."""

    text: str
    """As it was written, JSON in one order of keys."""
    tree: Tree
    values: tuple[Any, ...] = field(repr=False)
    """float, str, aware datetime; a tuple of str for ``OneOf``."""
    places: tuple[BaseGeometry, ...] = field(repr=False)
    """Valid, 2-D, degrees."""

    @property
    def listed(self) -> int:
        """How many values its lists have together."""
        return sum(len(value) for value in self.values if isinstance(value, tuple))
