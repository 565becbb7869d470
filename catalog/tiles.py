"""Boxes of tiles, by which a search for a place finds the tiles to look at."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from sqlalchemy import Connection, case, or_

from catalog.models import TILES
from catalog.portable_sql import upsert
from catalog.scene import Scene

BOX = ("minx", "miny", "maxx", "maxy")
"""Columns of a box, in the order of ``Scene.bbox``."""


def tile_box(
    tile: str, bbox: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """A box in degrees, moved by 360 into the frame of its tile.

    The frame is centred on the tile's UTM zone; zones 1 to 5 lie beyond 180. So
    boxes of one tile are neighbours whichever side of the antimeridian they
    were given on, and the box around them is no wider than they are.
    """
    zone = int(tile[:2])
    centre = zone * 6 - 183 + (360 if zone <= 5 else 0)
    minx, miny, maxx, maxy = bbox
    shift = 360 * round((centre - (minx + maxx) / 2) / 360)
    return (minx + shift, miny, maxx + shift, maxy)


def grow_tiles(connection: Connection, scenes: Iterable[Scene]) -> None:
    """Make the boxes of tiles hold these scenes' footprints. One statement."""
    boxes: dict[str, list[float]] = {}
    for scene in scenes:
        minx, miny, maxx, maxy = tile_box(scene.tile, scene.bbox)
        box = boxes.setdefault(scene.tile, [minx, miny, maxx, maxy])
        box[:2] = min(box[0], minx), min(box[1], miny)
        box[2:] = max(box[2], maxx), max(box[3], maxy)
    connection.execute(
        _tiles_statement(connection.dialect.name),
        # Sorted, so that two writers lock PostgreSQL's rows in the same order.
        [{"tile": tile} | dict(zip(BOX, box, strict=True)) for tile, box in sorted(boxes.items())],
    )


@cache
def _tiles_statement(dialect: str) -> Any:
    statement = upsert(dialect, TILES)
    old, new = TILES.c, statement.excluded
    grows = {name: new[name] < old[name] for name in ("minx", "miny")}
    grows |= {name: new[name] > old[name] for name in ("maxx", "maxy")}
    return statement.on_conflict_do_update(
        index_elements=["tile"],
        set_={name: case((out, new[name]), else_=old[name]) for name, out in grows.items()},
        where=or_(*grows.values()),
    )
