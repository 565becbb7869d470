"""What the SQL catalog says of branches: recorded heads and snapshots, for readers."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, func, select

from catalog.models import BRANCHES, COLLECTIONS, SCENES, SNAPSHOTS
from catalog.recorded import BranchHead, BranchSummary


def branch_heads(connection: Connection, repository_id: int) -> dict[str, BranchHead]:
    """Recorded head of every branch of a repository, by branch name. One statement."""
    branch = BRANCHES.c
    statement = (
        select(
            branch.name,
            COLLECTIONS.c.name.label("collection"),
            branch.tile,
            branch.epsg,
            branch.origin_x,
            branch.origin_y,
            branch.head_snapshot,
            branch.updated_at,
        )
        .join(COLLECTIONS, COLLECTIONS.c.id == branch.collection_id)
        .where(branch.repository_id == repository_id, branch.head_snapshot != "")
        .order_by(branch.name)
    )
    heads = {}
    for name, collection, tile, epsg, x, y, snapshot_id, updated_at in connection.execute(
        statement
    ):
        origin = None if x is None else (x, y)
        heads[name] = BranchHead(name, collection, tile, epsg, origin, snapshot_id, updated_at)
    return heads


def recorded_heads(connection: Connection, repository_id: int) -> dict[str, tuple[str, bool]]:
    """Branch name → its recorded head, and whether that is one of the branch's recorded commits.
    One statement."""
    branch = BRANCHES.c
    statement = (
        select(branch.name, branch.head_snapshot, SNAPSHOTS.c.id)
        .join(
            SNAPSHOTS,
            (SNAPSHOTS.c.id == branch.head_snapshot) & (SNAPSHOTS.c.branch_id == branch.id),
            isouter=True,
        )
        .where(branch.repository_id == repository_id)
    )
    return {name: (head, own is not None) for name, head, own in connection.execute(statement)}


def tile_branches(connection: Connection, repository_id: int, tile: str) -> dict[str, str]:
    """Branch name → recorded head snapshot, for every collection that has the tile."""
    branch = BRANCHES.c
    statement = select(branch.name, branch.head_snapshot).where(
        branch.repository_id == repository_id, branch.tile == tile, branch.head_snapshot != ""
    )
    return {row.name: row.head_snapshot for row in connection.execute(statement)}


def tile_names(connection: Connection, repository_id: int) -> list[str]:
    """Every tile that has a branch, sorted."""
    branch = BRANCHES.c
    statement = (
        select(branch.tile)
        .distinct()
        .where(branch.repository_id == repository_id)
        .order_by(branch.tile)
    )
    return list(connection.execute(statement).scalars())


def branch_snapshots(
    connection: Connection, repository_id: int, branch: str
) -> list[tuple[str, datetime]]:
    """(snapshot id, time of its commit) of every recorded commit of a branch, oldest first."""
    statement = (
        select(SNAPSHOTS.c.id, SNAPSHOTS.c.written_at)
        .join(BRANCHES, BRANCHES.c.id == SNAPSHOTS.c.branch_id)
        .where(BRANCHES.c.repository_id == repository_id, BRANCHES.c.name == branch)
        .order_by(SNAPSHOTS.c.written_at)
    )
    return [(snapshot, at) for snapshot, at in connection.execute(statement)]


def snapshot_count(connection: Connection, repository_id: int) -> int:
    """How many commits of a repository are recorded. One statement."""
    statement = (
        select(func.count())
        .select_from(SNAPSHOTS)
        .join(BRANCHES, BRANCHES.c.id == SNAPSHOTS.c.branch_id)
        .where(BRANCHES.c.repository_id == repository_id)
    )
    return int(connection.execute(statement).scalar_one())


def branch_summary(connection: Connection, repository_id: int) -> list[BranchSummary]:
    """Every branch with its indexed scenes, by name. One statement."""
    scene = SCENES.c
    statement = (
        select(
            BRANCHES.c.name,
            BRANCHES.c.head_snapshot,
            func.count(scene.id),
            func.min(scene.datetime),
            func.max(scene.datetime),
        )
        .join(
            SCENES, (scene.branch_id == BRANCHES.c.id) & (scene.status == "indexed"), isouter=True
        )
        .where(BRANCHES.c.repository_id == repository_id)
        .group_by(BRANCHES.c.name, BRANCHES.c.head_snapshot)
        .order_by(BRANCHES.c.name)
    )
    return [BranchSummary(*row) for row in connection.execute(statement)]
