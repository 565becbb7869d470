"""Which snapshot ``as_of`` means, and what the catalog knew of its scenes then.

``as_of`` is a time, a snapshot id, snapshot ids by branch, or None for now; a time is compared with
those at which commits were written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from catalog import heads
from catalog.errors import NotFoundError, UsageError
from catalog.opening import Part
from catalog.parse import parse_datetime
from catalog.placed import Then, placed_scenes
from catalog.recorded import PlacedScene, SceneRecord

if TYPE_CHECKING:
    from sqlalchemy import Connection

AsOf = datetime | str | Mapping[str, str] | None
"""A time, a snapshot id, or snapshot ids by branch."""


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def tile_heads(
    connection: Connection, repository_id: int, tile: str, collections: Sequence[str] | None
) -> dict[str, tuple[str, list[PlacedScene]]]:
    """The recorded head of each branch of a tile, by branch name, with the scenes that the catalog
    records there now; at least one.

    Raises:
        NotFoundError: no such tile in these collections.
    """
    found = placed_scenes(connection, repository_id, tile)
    if collections is not None:
        found = {name: at for name, at in found.items() if name.rpartition("/")[0] in collections}
    if not found:
        named = ", ".join(map(repr, collections or ()))
        where = f" in collection {named}" if collections is not None else ""
        known = known_tiles(connection, repository_id)
        raise NotFoundError(f"no tile {tile}{where}; there are {known}")
    return dict(sorted(found.items()))


def branches_then(
    connection: Connection, repository_id: int, branches: Iterable[str], as_of: AsOf, what: str
) -> dict[str, Then]:
    """Branches as of then; those that had no commit are left out. One statement for each.

    Args:
        what: named in errors.

    Raises:
        NotFoundError: none had any, or a snapshot that is none of theirs.
    """
    written = {
        branch: heads.branch_snapshots(connection, repository_id, branch) for branch in branches
    }
    if isinstance(as_of, Mapping):
        for branch, snapshot in as_of.items():
            if branch in written and snapshot not in dict(written[branch]):
                raise NotFoundError(f"branch {branch} has no recorded snapshot {snapshot!r}")
        found = {branch: as_of[branch] for branch in written if branch in as_of}
    else:
        # A snapshot of one branch is a moment for the others.
        named = [at for them in written.values() for snapshot, at in them if snapshot == as_of]
        moment = named[0] if named else _moment(as_of, ", ".join(written))
        found = {}
        for branch, snapshots in written.items():
            before = [(at, snapshot) for snapshot, at in snapshots if at <= moment]
            if any(snapshot == as_of for snapshot, _ in snapshots):
                found[branch] = str(as_of)
            elif before:
                found[branch] = max(before)[1]
    if not found:
        raise NotFoundError(f"{what}: nothing was recorded as of {as_of}")
    return {
        branch: Then(snapshot, [name for name, _ in written[branch]])
        for branch, snapshot in found.items()
    }


def as_recorded(records: Sequence[SceneRecord], parts: Mapping[str, Part]) -> list[SceneRecord]:
    """The records with their places, times, offsets and bands as ``parts`` (by branch) have them;
    scenes that these do not hold are left out."""
    places = {
        (branch, item_id): n for branch, part in parts.items() for n, item_id in enumerate(part.ids)
    }
    then = []
    for record in records:
        n = places.get((record.branch or "", record.id))
        if n is None:
            continue
        part = parts[record.branch or ""]
        then.append(
            replace(
                record,
                root=part.steps.roots[n],
                time_index=part.steps.indices[n],
                datetime=_EPOCH + timedelta(microseconds=int(part.times[n])),
                boa_offset=int(part.offsets[n]),
                bands=tuple(part.bands[n] or ()),
            )
        )
    return then


def known_tiles(connection: Connection, repository_id: int) -> str:
    """The tiles that have a branch, for a message."""
    tiles = heads.tile_names(connection, repository_id)
    return (", ".join(tiles[:20]) + (" …" if len(tiles) > 20 else "")) or "none"


def _moment(as_of: Any, branch: str) -> datetime:
    if isinstance(as_of, datetime):
        if as_of.tzinfo is None:
            raise UsageError(f"as_of={as_of!r} has no time zone")
        return as_of
    try:
        # The end of the day, month or second that was named.
        end = parse_datetime(as_of)[1]
    except UsageError:
        end = None
    if end is None:
        raise NotFoundError(f"branch {branch} has no recorded snapshot {as_of!r}")
    return end
