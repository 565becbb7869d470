"""What the SQL catalog forgets when snapshots expire. Knows no Icechunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, delete, func, select, update

from catalog.models import BRANCHES, SCENE_REVISIONS, SCENES, SNAPSHOTS
from catalog.portable_sql import one_of


def forget_snapshots(
    connection: Connection, repository_id: int, doomed: Mapping[str, Sequence[str]]
) -> int:
    """Makes sure that nothing recorded names a snapshot that is about to expire.

    A scene that was read at one of them is read at its branch's head instead: its references
    there are the same, or a commit would have been recorded that changed them. Earlier revisions
    keep their checksums and lose their snapshot.

    Args:
        doomed: branch name → snapshot ids, none of them the branch's recorded head.

    Returns:
        How many snapshots were recorded and are no more.
    """
    gone = [snapshot for ids in doomed.values() for snapshot in ids]
    for name, ids in doomed.items():
        branch = BRANCHES.c
        head = (
            select(branch.head_snapshot)
            .where(branch.repository_id == repository_id, branch.name == name)
            .scalar_subquery()
        )
        connection.execute(
            update(SCENES).where(one_of(SCENES.c.snapshot_id, ids)).values(snapshot_id=head)
        )
    connection.execute(
        update(SCENE_REVISIONS)
        .where(one_of(SCENE_REVISIONS.c.snapshot_id, gone))
        .values(snapshot_id=None)
    )
    before = connection.execute(
        select(func.count()).select_from(SNAPSHOTS).where(one_of(SNAPSHOTS.c.id, gone))
    ).scalar_one()
    connection.execute(delete(SNAPSHOTS).where(one_of(SNAPSHOTS.c.id, gone)))
    return int(before)
