"""Rows of scenes as the driver gives them → ``SceneRecord``.

Columns are selected untyped and turned here, all at once: a third of what SQLAlchemy's types
take one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, make_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, type_coerce
from sqlalchemy.types import NullType

from catalog.bands import bands_in
from catalog.errors import ConfigError, first_line
from catalog.json_values import brief
from catalog.models import BRANCHES, COLLECTIONS, REPOSITORIES
from catalog.recorded import SceneRecord

_NAMES = tuple(field.name for field in fields(SceneRecord))
_SIDES = ("miny", "maxx", "maxy")
_BBOX, _WARNINGS, _MISSING, _BANDS = map(_NAMES.index, ("bbox", "warnings", "missing", "bands"))
_ID, _COLLECTION = _NAMES.index("id"), _NAMES.index("collection")
WIDTH = len(_NAMES) + len(_SIDES)
"""Columns of a record; what else a row has comes after them."""
FOOTPRINT = _NAMES.index("footprint")
_TIMES = ("datetime", "created", "updated", "recorded_at", "next_attempt_at")
_DIGESTS = ("item_sha256", "refs_sha256")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def columns(scene: Any) -> list[ColumnElement[Any]]:
    """What ``record`` takes, of the columns ``scene`` and the tables of names joined to them."""
    elsewhere = {
        "pk": scene.id,
        "id": scene.item_id,
        "collection": COLLECTIONS.c.name,
        "repository": REPOSITORIES.c.location,
        "branch": BRANCHES.c.name,
        "bbox": scene.minx,
    }
    found = [elsewhere[name] if name in elsewhere else scene[name] for name in _NAMES]
    return [type_coerce(c, NullType()) for c in (*found, *(scene[side] for side in _SIDES))]


def decoder(dialect: str) -> Callable[[Sequence[Any]], SceneRecord]:
    """A row of ``columns`` as what it stands for; more columns after them are passed over.

    For the rows of one answer: it remembers the times it met, most of which come again.
    """
    native = dialect == "postgresql"
    time = _in_utc if native else _from_microseconds
    times, digests = (tuple(map(_NAMES.index, names)) for names in (_TIMES, _DIGESTS))
    met: dict[Any, datetime] = {}

    def record(row: Sequence[Any]) -> SceneRecord:
        try:
            *values, miny, maxx, maxy = row[:WIDTH]
            if not values[_ID].__class__ is values[_COLLECTION].__class__ is str:
                raise TypeError("its name is no text")
            for index in times:
                value = values[index]
                if value is not None:
                    moment = met.get(value)
                    if moment is None:
                        moment = met[value] = time(value)
                    values[index] = moment
            for index in digests:
                if values[index] is not None:
                    values[index] = values[index].hex()
            said, lacks = values[_WARNINGS], values[_MISSING]
            values[_WARNINGS] = () if said == "[]" else tuple(said if native else json.loads(said))
            values[_MISSING] = (
                () if lacks is None else tuple(lacks if native else json.loads(lacks))
            )
            values[_BANDS] = bands_in(values[_BANDS])
            values[_BBOX] = (values[_BBOX], miny, maxx, maxy)
            return _made(values)
        except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise ConfigError(
                f"the database is damaged: scene {brief(row[1])} has a value that cannot be "
                f"({first_line(error)})"
            ) from error

    return record


# A frozen dataclass sets its thirty fields one by one through ``object``, in 5 µs; one of the same
# layout that is not frozen takes 0.7, and then becomes the other.
_Unfrozen = make_dataclass("_Unfrozen", _NAMES, slots=True)


def _made(values: Sequence[Any]) -> SceneRecord:
    record: Any = _Unfrozen(*values)
    record.__class__ = SceneRecord
    made: SceneRecord = record
    return made


def _in_utc(moment: datetime) -> datetime:
    # Comes in the zone of the session.
    return moment.astimezone(UTC)


def _from_microseconds(value: int) -> datetime:
    return _EPOCH + timedelta(0, 0, value)
