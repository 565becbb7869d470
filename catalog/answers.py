"""Questions asked of the database: statements of ``selection``, exact tests of footprints.

Every question takes a fixed number of statements: one, one more for a place (have tiles
changed?), one more for ``as_of`` (two for that of a commit without scenes), and one more where
the first few rows of a place were too few.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry
from sqlalchemy import Connection, Row, Select, bindparam, select

from catalog import filter_sql
from catalog.area import query_geometry
from catalog.errors import NotFoundError
from catalog.filter_sql import Mask
from catalog.filter_tree import Spatial
from catalog.footprint import stored_footprints
from catalog.models import SCENE_REVISIONS, SCENES
from catalog.portable_sql import UtcDateTime
from catalog.query import PER_TILE, Query
from catalog.recorded import SceneRecord
from catalog.scene_rows import FOOTPRINT, WIDTH, decoder
from catalog.selection import (
    Places,
    condition_of,
    count_statement,
    shape_of,
    snapshot_moment,
    statement,
    values_of,
)
from catalog.tile_boxes import TileBoxes

_BATCH = 2000


@dataclass(frozen=True, slots=True)
class Asker:
    """Whoever asks: a connection, whose scenes, and what is known of tiles."""

    connection: Connection
    repository_id: int | None
    """Only what this repository holds; None for all there are."""
    tiles: TileBoxes

    def records(self, query: Query, *, after: Sequence[Any] | None = None) -> list[SceneRecord]:
        """The scenes that answer, in order, at most ``query.limit``.

        Args:
            after: only what follows a scene, given by ``sort_values``.

        Raises:
            NotFoundError: ``as_of`` is a snapshot the catalog does not know.
        """
        if query.per_tile is not None and not self._exact(query):
            return self._best_of_tiles(query, after)
        if query.limit is None or self._exact(query):
            return list(self._answer(query, query.limit, after))
        # Most scenes near a place touch it: a few rows more than wanted are mostly enough.
        some = 2 * query.limit + 50
        found: list[SceneRecord] = []
        seen = 0
        last: Row[Any] | None = None
        test = _Test(query, self._places(query))
        record = decoder(self.connection.dialect.name)
        for rows in self._rows(query, test.places, some, after):
            seen += len(rows)
            last = rows[-1]
            found += [record(row) for row, fits in zip(rows, test(rows), strict=True) if fits]
        if len(found) < query.limit and seen == some and last is not None:
            found += self._answer(query, None, sort_values(query, record(last)), test)
        return found[: query.limit]

    def each(self, query: Query) -> Iterator[SceneRecord]:
        """``records`` of a question without a limit, a batch in memory at a time."""
        return self._answer(query, None, None)

    def count(self, query: Query) -> int:
        """How many scenes answer, at most ``query.limit``."""
        if query.per_tile is not None:
            return len(self.records(query))
        places = self._places(query)
        shape = shape_of(query, places, repository=self.repository_id is not None)
        values = self._values(query, places)
        rows = self.connection.execute(count_statement(shape), values)
        if shape.exact:
            total = int(rows.scalar_one())
        else:
            test = _Test(query, places, footprint=0, width=1)
            total = sum(int(np.count_nonzero(test(batch))) for batch in rows.partitions(_BATCH))
        return total if query.limit is None else min(total, query.limit)

    def _answer(
        self,
        query: Query,
        limit: int | None,
        after: Sequence[Any] | None,
        test: _Test | None = None,
    ) -> Iterator[SceneRecord]:
        test = test or _Test(query, self._places(query))
        record = decoder(self.connection.dialect.name)
        for rows in self._rows(query, test.places, limit, after):
            if test.rest is None:
                yield from map(record, rows)
            else:
                fits = test(rows)
                yield from (record(row) for row, fit in zip(rows, fits, strict=True) if fit)

    def _best_of_tiles(self, query: Query, after: Sequence[Any] | None) -> list[SceneRecord]:
        """One scene of each tile that touches the place, though another of the tile is better."""
        test = _Test(query, self._places(query))
        record = decoder(self.connection.dialect.name)
        best: list[SceneRecord] = []
        missed: list[str] = []
        for rows in self._rows(replace(query, limit=None), test.places, None, None):
            for row, fits in zip(rows, test(rows), strict=True):
                found = record(row)
                if fits:
                    best.append(found)
                else:
                    missed.append(found.tile)
        if missed:
            assert query.per_tile is not None
            others = replace(
                query, tile=tuple(missed), per_tile=None, sort=PER_TILE[query.per_tile], limit=None
            )
            first: dict[str, SceneRecord] = {}
            for found in self._answer(others, None, None, _Test(others, test.places)):
                first.setdefault(found.tile, found)
            best += first.values()
        return in_order(query, best, after)[: query.limit]

    def _rows(
        self, query: Query, places: Places, limit: int | None, after: Sequence[Any] | None
    ) -> Iterator[Sequence[Row[Any]]]:
        shape = shape_of(
            query,
            places,
            repository=self.repository_id is not None,
            limited=limit is not None,
            after=after is not None,
        )
        values = self._values(query, places, limit=limit, after=after)
        yield from self.connection.execute(statement(shape), values).partitions(_BATCH)

    def _values(self, query: Query, places: Places, **more: Any) -> dict[str, Any]:
        then = self._then(query)[0] if query.as_of is not None else None
        return values_of(query, places, repository_id=self.repository_id, then=then, **more)

    def moment(self, query: Query) -> datetime:
        """What ``query.as_of`` means.

        Raises:
            NotFoundError: a snapshot the catalog does not know.
        """
        if isinstance(query.as_of, datetime):
            return query.as_of
        return self._then(query)[1]

    def _then(self, query: Query) -> tuple[int, datetime]:
        """``query.as_of`` in the order in which states were recorded, and as a time."""
        if isinstance(query.as_of, datetime):
            return last_sequence(self.connection, self.repository_id, query.as_of), query.as_of
        asked = {"snapshot": query.as_of, "repository": self.repository_id}
        now, at, before, at_before, written = self.connection.execute(
            snapshot_moment(), asked
        ).one()
        if written is None:
            raise NotFoundError(f"as_of: the catalog has no recorded snapshot {query.as_of!r}")
        found = [(n, t) for n, t in ((now, at), (before, at_before)) if n is not None]
        if not found:
            return last_sequence(self.connection, self.repository_id, written), written
        return max(found)

    def _places(self, query: Query) -> Places:
        places = Places.of(query)
        if not places.areas:
            return places
        return replace(places, tiles=tuple(self.tiles.near(self.connection, places.boxes)))

    def _exact(self, query: Query) -> bool:
        condition = condition_of(query)
        return condition is None or not filter_sql.asks_footprints(condition)


class _Test:
    """Which rows of a statement answer: what SQL said of them, joined with their footprints."""

    def __init__(
        self, query: Query, places: Places, footprint: int = FOOTPRINT, width: int = WIDTH
    ) -> None:
        self.places = places
        condition = condition_of(query)
        self.rest = filter_sql.split(condition)[1] if condition is not None else None
        self._footprint, self._width = footprint, width
        self._prepared: dict[Spatial, Sequence[BaseGeometry]] = {}

    def __call__(self, rows: Sequence[Row[Any]]) -> Mask:
        if self.rest is None:
            return np.ones(len(rows), dtype=np.bool_)
        known = list(zip(*(row[self._width :] for row in rows), strict=True))
        shapes = stored_footprints([row[self._footprint] for row in rows])
        return filter_sql.holds(self.rest, known, lambda node: self._spatial(node, shapes))

    def _spatial(self, node: Spatial, shapes: Any) -> Mask:
        area = self.places.areas[node.index]
        if node.operator == "s_contains":
            return self._contained(area, shapes)
        copies = self._prepared.get(node)
        if copies is None:
            copies = query_geometry(area)
            if node.operator == "s_within":
                # In one piece over the antimeridian, as footprints are.
                copies = (shapely.union_all(copies),)
                shapely.prepare(list(copies))
            self._prepared[node] = copies
        test = shapely.contains if node.operator == "s_within" else shapely.intersects
        found = _any(test(copy, shapes) for copy in copies)
        return ~found if node.operator == "s_disjoint" else found

    @staticmethod
    def _contained(area: BaseGeometry, shapes: Any) -> Mask:
        """Each part of an area that is cut at the antimeridian may lie at another shift."""
        parts = [query_geometry(part) for part in shapely.get_parts(area)]
        covered = [_any(shapely.covered_by(copy, shapes) for copy in part) for part in parts]
        inside = [_any(shapely.within(copy, shapes) for copy in part) for part in parts]
        found: Mask = np.logical_and.reduce(covered) & np.logical_or.reduce(inside)
        return found


def _any(masks: Iterable[Mask]) -> Mask:
    found: Mask = np.logical_or.reduce(list(masks))
    return found


def sort_values(query: Query, record: SceneRecord) -> tuple[Any, ...]:
    """The values of the sort keys and the scene's number: its place in the answer."""
    return (*(getattr(record, name) for name, _ in query.sort), record.pk)


def in_order(
    query: Query, records: list[SceneRecord], after: Sequence[Any] | None = None
) -> list[SceneRecord]:
    """As SQL sorts: NULL last upwards and downwards, ties by number."""
    last_down = query.sort[-1][1]
    found = sorted(records, key=lambda r: r.pk, reverse=last_down)
    for name, down in reversed(query.sort):
        have = [r for r in found if getattr(r, name) is not None]
        have.sort(key=lambda r: getattr(r, name), reverse=down)
        found = have + [r for r in found if getattr(r, name) is None]
    if after is None:
        return found
    return [record for record in found if _behind(query, sort_values(query, record), after)]


def _behind(query: Query, here: Sequence[Any], there: Sequence[Any]) -> bool:
    downs = [*(down for _, down in query.sort), query.sort[-1][1]]
    for one, other, down in zip(here, there, downs, strict=True):
        if one == other:
            continue
        if one is None or other is None:
            return one is None
        return bool(one < other if down else one > other)
    return False


def last_sequence(
    connection: Connection, repository_id: int | None, moment: datetime, *, inclusive: bool = True
) -> int:
    """``sequence`` of the last state that was recorded up to (or before) a time, by its own clock;
    0 for none. One statement.

    What a clock recorded that was ahead counts as of what one that was not recorded next.
    """
    asked = {"moment": moment, "repository": repository_id}
    statement = _last_sequence(inclusive, repository_id is not None)
    return max((found or 0 for found in connection.execute(statement, asked).one()), default=0)


@cache
def _last_sequence(inclusive: bool, one: bool) -> Select[Any]:
    moment = bindparam("moment", type_=UtcDateTime())
    scene, then = SCENES.c, SCENE_REVISIONS.c

    def last(of: Any, source: Any) -> Any:
        # Downwards in the index, to the first that is early enough.
        asked = (
            select(of.sequence)
            .select_from(source)
            .where(of.recorded_at <= moment if inclusive else of.recorded_at < moment)
        )
        if one:
            asked = asked.where(scene.repository_id == bindparam("repository"))
        return asked.order_by(of.sequence.desc()).limit(1).scalar_subquery()

    joined = SCENE_REVISIONS.join(SCENES, scene.id == then.scene_id)
    return select(last(scene, SCENES), last(then, joined if one else SCENE_REVISIONS))
