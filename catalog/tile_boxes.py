"""Where tiles are, kept in memory: which of them a question has to look at.

Going through the table costs milliseconds at ten thousand tiles; asking whether it has
changed costs microseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection, func, or_, select

from catalog.errors import ConfigError
from catalog.models import SCENES, TILES
from catalog.parse import Box
from catalog.portable_sql import is_text

MANY = 2000
"""More tiles than these are not listed: the boxes of scenes alone then choose as fast."""

_NEWEST = select(
    select(func.max(SCENES.c.sequence)).scalar_subquery(),
    select(func.max(SCENES.c.id)).scalar_subquery(),
)
_BOXES = select(TILES.c.tile, TILES.c.minx, TILES.c.miny, TILES.c.maxx, TILES.c.maxy)


class TileBoxes:
    """The table ``tiles`` as it is when it is asked; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version: tuple[int | None, int | None] | None = None
        self._boxes: dict[str, tuple[float, ...]] = {}
        self._names: list[str] = []
        self._sides = np.empty((0, 4))

    def near(
        self, connection: Connection, places: Sequence[Sequence[Box]]
    ) -> list[list[str] | None]:
        """For each place, given as boxes (minx <= maxx), the tiles whose box touches one of them.

        One statement, and another where scenes were recorded since the last time: whatever
        makes a tile's box grow makes ``sequence`` or the number of a scene grow.

        Returns:
            Names; None in place of more than ``MANY``.
        """
        with self._lock:
            self._refresh(connection)
            names, sides = self._names, self._sides
        found: list[list[str] | None] = []
        for boxes in places:
            touched = np.zeros(len(names), dtype=np.bool_)
            for west, south, east, north in boxes:
                touched |= (
                    (sides[:, 0] <= east)
                    & (sides[:, 2] >= west)
                    & (sides[:, 1] <= north)
                    & (sides[:, 3] >= south)
                )
            indices = np.flatnonzero(touched)
            found.append(None if len(indices) > MANY else [names[i] for i in indices])
        return found

    def _refresh(self, connection: Connection) -> None:
        newest = connection.execute(_NEWEST).one()
        version = (newest[0], newest[1])
        if version == self._version:
            return
        asked = _BOXES
        before = self._version
        if before is not None and before[0] is not None and before[1] is not None:
            # Only tiles of what was recorded since.
            tiles = select(SCENES.c.tile).where(
                or_(SCENES.c.sequence >= before[0], SCENES.c.id > before[1])
            )
            asked = asked.where(TILES.c.tile.in_(tiles))
        grown = {is_text(tile): tuple(box) for tile, *box in connection.execute(asked)}
        boxes = self._boxes | grown
        try:
            sides = np.array(list(boxes.values()), dtype=np.float64).reshape(-1, 4)
        except (TypeError, ValueError) as error:
            raise ConfigError("the database is damaged: a tile's box is none") from error
        # All of it or nothing: an error above leaves what was known.
        self._version, self._boxes = version, boxes
        self._names, self._sides = list(boxes), sides
