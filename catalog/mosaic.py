"""Which scenes make one time step of an array over any area, and in what order. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import date, datetime, timedelta
from itertools import groupby as runs
from typing import Protocol

from catalog.errors import NotFoundError
from catalog.json_values import brief

GROUPINGS = ("solar_day", "time", None)


class Dated(Protocol):
    """What has a time and an id: a scene's record."""

    @property
    def id(self) -> str: ...

    @property
    def datetime(self) -> datetime: ...


def group[T: Dated](
    scenes: Sequence[T], groupby: str | None, longitude: float
) -> list[tuple[T, ...]]:
    """The scenes of each time step, steps in order of time.

    Within a step they stand by time, then id, as in odc-stac: of several valid pixels the first
    is taken.

    Args:
        groupby: ``solar_day`` (one step for each day by the sun), ``time`` (for each instant),
            None (for each scene).
        longitude: degrees, of the middle of the output, whose sun it is.

    Raises:
        NotFoundError: no such grouping.
    """
    if not (groupby is None or isinstance(groupby, str)) or groupby not in GROUPINGS:
        known = ", ".join(map(repr, GROUPINGS))
        raise NotFoundError(f"unknown groupby {brief(groupby)}; known are {known}")
    ordered = sorted(scenes, key=lambda scene: (scene.datetime, scene.id))
    if groupby is None:
        return [(scene,) for scene in ordered]

    def key(scene: T) -> Hashable:
        if groupby == "time":
            return scene.datetime
        return solar_day(scene.datetime, longitude)

    return [tuple(run) for _, run in runs(ordered, key)]


def solar_day(moment: datetime, longitude: float) -> date:
    """The day at ``longitude`` (degrees) by the sun, in whole hours as odc-stac has it.

    Args:
        moment: aware.
    """
    # Beyond the antimeridian of a grid that crosses it, days still follow Greenwich's.
    longitude = (longitude + 180) % 360 - 180
    try:
        return (moment + timedelta(hours=int(longitude / 15))).date()
    except OverflowError:
        # In the first hours of year 1 and the last of 9999, which records of before may have.
        return moment.date()
