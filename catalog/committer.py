"""One batch at a time into the store and then into SQL: the one writer of a crawl.

In this order, so that a process may die after any line: the commit names what it wrote or took
out, and the next crawl records it (``recovery.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine

from catalog import heads, records
from catalog.blame import is_everyones
from catalog.cube_writer import Placement, Written, withdraw_batch, write_batch
from catalog.database import read_transaction, write_transaction, write_twice
from catalog.errors import BusyError, SceneError
from catalog.known import same_acquisitions, scenes_elsewhere
from catalog.lease import Lease
from catalog.recorded import Commit, IndexedScene, IndexedState
from catalog.recovery import indexed_scene, recordable
from catalog.report import Report
from catalog.repository import Repository
from catalog.revisit import same_record
from catalog.scene import Scene
from catalog.scene_files import SceneFiles

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Ready:
    """A scene whose headers are read."""

    scene: Scene
    files: SceneFiles

    @property
    def key(self) -> tuple[str, str]:
        """Collection and item id."""
        return self.scene.collection, self.scene.id

    def indexed(self, place: Placement) -> IndexedScene:
        return indexed_scene(self.scene, self.files, place)


@dataclass(slots=True)
class Committer:
    """Writes for one crawl; counts into its report."""

    engine: Engine
    repository: Repository
    repository_id: int
    crawl_id: int
    lease: Lease
    report: Report
    _met: set[str] = field(default_factory=set)
    """Branches that are known to be ours."""

    def record_same(
        self, same: Sequence[Ready], states: Mapping[tuple[str, str], IndexedState]
    ) -> None:
        """Records changed items whose files, read now, are those that are indexed; where nothing
        at all has changed, no more than that there is nothing to do."""
        by_collection: dict[str, list[IndexedScene]] = {}
        settled: dict[str, list[str]] = {}
        for ready in same:
            state = states[ready.key]
            found = ready.indexed(Placement(state.root, state.time_index))
            collection = ready.scene.collection
            if same_record(found, state):
                settled.setdefault(collection, []).append(ready.scene.id)
            else:
                by_collection.setdefault(collection, []).append(found)
        with write_transaction(self.engine) as connection:
            for collection, scenes in by_collection.items():
                records.record_updated(
                    connection, self.repository_id, collection, scenes, self.crawl_id
                )
            for collection, ids in settled.items():
                records.record_settled(connection, self.repository_id, collection, ids)
        self.report.updated += sum(map(len, by_collection.values()))
        self.report.unchanged += sum(map(len, settled.values()))

    def write(
        self, key: tuple[str, str], batch: Sequence[Ready]
    ) -> list[tuple[Ready, BaseException]]:
        """Scenes of one tile (``key`` is its collection and name): one commit, one transaction; and
        one more commit for each tile that some of them were on before.

        Returns:
            those that are in the store and that the database would not take, and why: a later
            attempt finds them at the index that they have.

        Raises:
            SceneError: one of them is not fit to be written, or another's branch is where the
                tile's would be; the error names it.
            StoreError: the repository refused the commit.
            BusyError: the lease is lost, or another crawl commits to the branch.
        """
        collection, tile = key
        branch = f"{collection}/{tile}"
        self.lease.check()
        self._check_branch(branch, batch[0].scene.id)
        ids = [ready.scene.id for ready in batch]
        left = self._leave(collection, branch, ids)
        try:
            written = write_batch(
                self.repository,
                branch,
                collection=collection,
                tile=tile,
                scenes=[ready.files.references for ready in batch],
                crawl=str(self.crawl_id),
            )
        except BaseException:
            with write_transaction(self.engine) as connection:
                for commit, gone in left:
                    self._record_withdrawn(connection, commit, gone)
            raise
        scenes = [ready.indexed(written.placements[ready.scene.id]) for ready in batch]
        transform = batch[0].files.references.arrays[0].spec.grid.transform
        origin = (transform[2], transform[5])
        commit = _commit(collection, tile, batch[0].scene.epsg, written, origin)

        def record(connection: Connection) -> tuple[bool, dict[str, list[str]]]:
            # One change of each scene: it is there no more, and here.
            mine = all(
                [self._record_withdrawn(connection, old, ()) for old, _ in left]
                + [
                    records.record_indexed(
                        connection, self.repository_id, commit, scenes, self.crawl_id
                    )
                ]
            )
            ids = [indexed.scene.id for indexed in scenes]
            return mine, same_acquisitions(connection, self.repository_id, collection, ids)

        refused: Mapping[str, BaseException] = {}
        try:
            (mine, twins), again = write_twice(self.engine, record)
        except BaseException as error:
            if is_everyones(error):
                raise
            scenes, refused = recordable(
                self.engine, self.repository_id, commit, scenes, self.crawl_id
            )
            if not refused:
                raise
            (mine, twins), again = write_twice(self.engine, record)
        self._check_mine(commit, mine or again)
        for item, others in twins.items():
            log.info("%s is the same acquisition as %s", item, ", ".join(others))
        self.report.duplicates += len(twins)
        self.report.commits += 1 + len(left)
        self.report.indexed += len(scenes)
        self.report.incomplete += sum(bool(indexed.missing) for indexed in scenes)
        self._log("%s: %d scenes, snapshot %s", written, len(scenes))
        return [(ready, refused[ready.scene.id]) for ready in batch if ready.scene.id in refused]

    def withdraw(self, collection: str, tile: str, ids: Sequence[str]) -> None:
        """Takes indexed scenes of one tile out: one commit, one transaction.

        Raises:
            StoreError, BusyError: as ``write``.
        """
        branch = f"{collection}/{tile}"
        self.lease.check()
        written = withdraw_batch(
            self.repository,
            branch,
            collection=collection,
            tile=tile,
            ids=ids,
            crawl=str(self.crawl_id),
        )
        with write_transaction(self.engine) as connection:
            epsg = heads.branch_heads(connection, self.repository_id)[branch].epsg
            commit = _commit(collection, tile, epsg, written)
            self._check_mine(
                commit,
                records.record_indexed(
                    connection, self.repository_id, commit, [], self.crawl_id, withdrawn=ids
                ),
            )
        self.report.commits += 1
        self.report.withdrawn += len(ids)
        self._log("%s: %d scenes withdrawn, snapshot %s", written, len(ids))

    def _leave(
        self, collection: str, branch: str, ids: Sequence[str]
    ) -> list[tuple[Commit, Sequence[str]]]:
        """Takes scenes out of the other branches that they are on, whose tile their items had:
        the commits, not recorded yet, and whom each took out.

        A scene has one place, and it leaves the old one before it is at the new: a process that
        dies in between leaves a scene that is withdrawn and outstanding.
        """
        with read_transaction(self.engine) as connection:
            where = scenes_elsewhere(connection, self.repository_id, collection, ids, branch)
            known = heads.branch_heads(connection, self.repository_id) if where else {}
        left: list[tuple[Commit, Sequence[str]]] = []
        for other, moved in where.items():
            old = known[other]
            written = withdraw_batch(
                self.repository,
                other,
                collection=collection,
                tile=old.tile,
                ids=moved,
                crawl=str(self.crawl_id),
                moved=True,
            )
            left.append((_commit(collection, old.tile, old.epsg, written), moved))
            self._log(f"%s: %d scenes leave for {branch}, snapshot %s", written, len(moved))
        return left

    def _record_withdrawn(self, connection: Connection, commit: Commit, ids: Sequence[str]) -> bool:
        return records.record_indexed(
            connection, self.repository_id, commit, [], self.crawl_id, withdrawn=ids
        )

    def _check_branch(self, branch: str, scene: str) -> None:
        """A branch that is not recorded is begun by us, or by a crawl that died before its first
        commit: nothing is written on top of what others have there."""
        if branch in self._met:
            return
        with read_transaction(self.engine) as connection:
            recorded = heads.recorded_heads(connection, self.repository_id)
        self._met.update(recorded)
        if branch not in self._met:
            head = self.repository.head(branch)
            if head is not None and head != self.repository.first_snapshot():
                if all(one.fault is None for one in self.repository.history(branch, since=None)):
                    # What died was recorded when this crawl began: this is of one that lives.
                    raise BusyError(
                        f"{branch}: commit {head} is not recorded: another crawl is writing"
                    )
                raise SceneError(
                    f"its place, branch {branch} of {self.repository.location}, holds commits that "
                    "are not cogcat's: rename or delete that branch",
                    scene=scene,
                )
            self._met.add(branch)

    def _log(self, text: str, written: Written, scenes: int) -> None:
        extra = {
            "branch": written.branch,
            "scenes": scenes,
            "snapshot": written.snapshot_id,
            "crawl": self.crawl_id,
        }
        log.info(text, written.branch, scenes, written.snapshot_id, extra=extra)

    def _check_mine(self, commit: Commit, mine: bool) -> None:
        if not mine:
            # Its scenes are still pending, so nothing is lost.
            raise BusyError(
                f"{commit.branch}: another crawl has recorded our commit {commit.snapshot_id} as "
                "one that nobody would: two write to this repository"
            )


def _commit(
    collection: str,
    tile: str,
    epsg: int,
    written: Written,
    origin: tuple[float, float] | None = None,
) -> Commit:
    return Commit(
        branch=written.branch,
        collection=collection,
        tile=tile,
        epsg=epsg,
        snapshot_id=written.snapshot_id,
        parent_id=written.parent_id,
        written_at=written.written_at,
        origin=origin,
    )
