"""The SQL catalog made anew from the repository, and from items where they are at hand.

Every branch's commits are recorded in their order, as if they were made now: each names its
scenes, its snapshot says where they are and what they refer to, and the files say which they
are. So a scene that two commits name has two states. What only an item says is filled from the
item, if what it describes is what the store refers to; then the record is the one a crawl had
made. Otherwise the record says what it lacks, and a crawl that meets the item completes it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import icechunk
from sqlalchemy import Engine

from catalog import heads, records, registry
from catalog.contents import StoredScene, read_scenes
from catalog.cube import Grid
from catalog.cube_writer import cube_epsg, scene_ids
from catalog.database import read_transaction, write_transaction
from catalog.errors import (
    BusyError,
    ConfigError,
    HeaderError,
    ItemError,
    SourceError,
    StoreError,
)
from catalog.file_check import CheckedFiles, check_files, is_unread
from catalog.header import Reads
from catalog.item import scene_from_item
from catalog.itemless import BOA_EVIDENCE, NO_ITEM, itemless_scene
from catalog.known import wanted_scenes
from catalog.lease import Lease
from catalog.recorded import AssetRecord, CrawlCounts, IndexedScene
from catalog.recovery import Behind, file_record, mend_head, unrecorded
from catalog.remote_file import NO_SUCH_KEY
from catalog.repository import Repository, Snapshot
from catalog.scene import Asset, Scene
from catalog.scene_files import why_not
from catalog.settings import Source
from catalog.sources import location, resolve

log = logging.getLogger(__name__)

TOGETHER = 64
"""Scenes whose headers are asked for at once."""

FindItems = Callable[[str, Sequence[str]], Iterable[Mapping[str, Any]]]
"""Items of a collection by their ids, as served; those that are not there are left out."""


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild recorded."""

    branches: int = 0
    commits: int = 0
    scenes: int = 0
    """In their present state."""
    revisions: int = 0
    """Earlier states of scenes."""
    withdrawn: int = 0
    complete: int = 0
    """Of ``scenes``, as a crawl records them: a crawl will find them unchanged."""
    partial: int = 0
    """Of ``scenes``, without what only an item says, or with files that are gone or changed: a
    crawl that meets the item completes them."""
    files_gone: int = 0
    files_changed: int = 0
    files_unread: int = 0
    """That their store did not give, without saying that they are gone."""
    lost: int = 0
    """Scenes that a commit names and its snapshot does not hold."""
    foreign: int = 0
    """Commits that are not cogcat's, and those on top of them: they are not recorded."""
    requests: int = 0
    """GET requests to files."""
    seconds: float = 0.0

    @property
    def damaged(self) -> bool:
        """Something is not as it was: a file, or a scene."""
        return bool(
            self.files_gone or self.files_changed or self.files_unread or self.lost or self.foreign
        )


@dataclass(frozen=True, slots=True)
class _Opened:
    """A branch to be recorded."""

    behind: Behind
    last: Mapping[str, int]
    """Scene → the last commit of the history that names it."""
    newest: Mapping[str, StoredScene]
    """What the branch holds at its end."""
    epsg: int
    scenes: Mapping[str, Scene]
    """Those of ``newest`` that are described by more than the store."""


def _sharing(behind: Sequence[Behind]) -> list[list[Behind]]:
    """The branches, those together that name the same scene of a collection."""
    group = list(range(len(behind)))

    def root(number: int) -> int:
        while group[number] != number:
            number = group[number]
        return number

    first: dict[tuple[str, str], int] = {}
    for number, one in enumerate(behind):
        for snapshot in one.history:
            for name in (*snapshot.scenes, *snapshot.withdrawn):
                other = root(first.setdefault((one.collection, name), number))
                group[max(other, root(number))] = min(other, root(number))
    found: dict[int, list[Behind]] = {}
    for number, one in enumerate(behind):
        found.setdefault(root(number), []).append(one)
    return list(found.values())


class Rebuild:
    """Records what the repository has and the database has not.

    Args:
        engine: migrated.
        repository_id: its key in the database.
        lease: on the repository.
        find_items: None to do without items.
        collection: of the branches to record; None for all.
        stac: URL of the API that the items come from, kept with the collection.
        on_progress: called after each commit.
    """

    def __init__(
        self,
        engine: Engine,
        repository: Repository,
        repository_id: int,
        sources: Sequence[Source],
        reader: Reads,
        lease: Lease,
        *,
        find_items: FindItems | None = None,
        collection: str | None = None,
        stac: str | None = None,
        on_progress: Callable[[Rebuilt], None] | None = None,
    ) -> None:
        self._engine, self._repository, self._repository_id = engine, repository, repository_id
        self._sources, self._reader, self._lease = tuple(sources), reader, lease
        self._find_items, self._collection, self._stac = find_items, collection, stac
        self._on_progress = on_progress or (lambda rebuilt: None)
        self._crawl = 0
        self.rebuilt = Rebuilt()

    async def run(self) -> Rebuilt:
        """Records commit by commit; a run that was killed goes on where it was.

        Raises:
            ConfigError: the database records commits that the repository does not have, or a
                container has no source in the settings.
            SourceError: the items' source, or that of a whole commit's files, does not answer.
            BusyError: the lease was lost, or another records the same commits.
        """
        started = time.monotonic()
        behind = [
            one
            for one in await asyncio.to_thread(self._behind)
            if self._collection in (None, one.collection)
        ]
        if not behind:
            return self.rebuilt
        asked = {
            "collection": self._collection,
            "stac": self._stac,
            "items": self._find_items is not None,
        }
        with write_transaction(self._engine) as connection:
            self._crawl = registry.begin_rebuild(connection, asked, self._repository_id)
        outcome = "failed"
        try:
            for one in behind:
                mend_head(self._engine, self._repository_id, one)
                if one.foreign is not None:
                    self._leave(one, one.foreign.snapshot_id, one.foreign.reason, one.foreign.after)
            for together in _sharing([one for one in behind if one.history]):
                await self._branches(together)
            outcome = "done"
        finally:
            done = self.rebuilt
            done.seconds = time.monotonic() - started
            counts = CrawlCounts(
                found=done.scenes,
                new=done.scenes,
                indexed=done.scenes,
                commits=done.commits,
                requests=done.requests,
                seconds=done.seconds,
            )
            with write_transaction(self._engine) as connection:
                registry.finish_crawl(connection, self._crawl, counts, outcome)
        return self.rebuilt

    def _behind(self) -> list[Behind]:
        try:
            found = list(unrecorded(self._engine, self._repository, self._repository_id))
            for one in found:
                if one.since is None:
                    continue
                with read_transaction(self._engine) as connection:
                    recorded = heads.branch_snapshots(connection, self._repository_id, one.branch)
                there = {s.id for s in self._repository.history(one.branch, since=None)}
                if strange := [snapshot for snapshot, _ in recorded if snapshot not in there]:
                    raise StoreError(f"the repository has no snapshot {strange[0]}")
        except StoreError as error:
            if error.__cause__ is not None:
                raise  # the repository failed, whatever it records
            raise ConfigError(
                f"the database records another history of {self._repository.location}: {error}; "
                "rebuild into an empty database"
            ) from error
        return found

    async def _branches(self, together: Sequence[Behind]) -> None:
        """Branches that share scenes, which went from one to another: their commits in the order in
        which they were made, so that the last says where a scene is."""
        opened = [await self._open(behind) for behind in together]
        order: list[tuple[datetime, int, int]] = []
        for which, behind in enumerate(together):
            latest = behind.history[0].written_at
            for number, snapshot in enumerate(behind.history):
                latest = max(latest, snapshot.written_at)
                order.append((latest, which, number))
        order.sort()
        written = {
            (which, name): place
            for place, (_, which, number) in enumerate(order)
            for name in together[which].history[number].scenes
        }
        left: set[int] = set()
        for place, (_, which, number) in enumerate(order):
            if which in left:
                continue
            snapshot = together[which].history[number]
            moved = {
                name
                for name in snapshot.moved
                if any(written.get((other, name), -1) > place for other in range(len(together)))
            }
            if not await self._commit(opened[which], number, moved):
                left.add(which)

    async def _open(self, behind: Behind) -> _Opened:
        history = behind.history
        last = {
            scene: number
            for number, snapshot in enumerate(history)
            for scene in (*snapshot.scenes, *snapshot.withdrawn)
        }
        head = self._repository.store(history[-1].id)
        # What no later commit names is at the head as its own commit left it: one pass for all.
        newest = await asyncio.to_thread(
            read_scenes, self._repository, head, None if behind.since is None else set(last)
        )
        epsg = await asyncio.to_thread(cube_epsg, head)
        scenes = await asyncio.to_thread(self._described, behind, newest)
        return _Opened(behind, last, newest, epsg, scenes)

    async def _commit(self, opened: _Opened, number: int, moved: Collection[str]) -> bool:
        """Records one commit; False where it is not recorded, nor are those after it.

        Args:
            moved: scenes that it took out for another branch, which has them.
        """
        behind = opened.behind
        snapshot = behind.history[number]
        store = self._repository.store(snapshot.id)
        names = set(snapshot.scenes)
        if number == 0 and behind.since is None:
            # Of commits that have expired, their scenes are left.
            names |= set(await asyncio.to_thread(scene_ids, store))
        current = {
            scene: opened.newest[scene]
            for scene in names & opened.newest.keys()
            if opened.last.get(scene, number) == number
        }
        earlier = await self._stored(store, names - current.keys())
        if lost := names - current.keys() - earlier.keys():
            self.rebuilt.lost += len(lost)
            log.warning(
                "%s: commit %s names %s and does not hold it",
                behind.branch, snapshot.id, ", ".join(sorted(lost)),
            )  # fmt: skip
        if strange := [one for one in (*current.values(), *earlier.values()) if _lies(one)]:
            reason = f"it refers to no file for {strange[0].id!a}"
            self._leave(behind, snapshot.id, reason, len(behind.history) - number - 1)
            return False
        withdrawn = [name for name in snapshot.withdrawn if name not in moved]
        await self._record(opened, snapshot, store, current, earlier, withdrawn)
        return True

    def _leave(self, behind: Behind, snapshot: str, reason: str, after: int) -> None:
        self.rebuilt.foreign += 1 + after
        log.warning(
            "%s: commit %s is not of cogcat's making: %s; it is not recorded, nor are the %d after "
            "it", behind.branch, snapshot, reason, after,
        )  # fmt: skip

    async def _stored(
        self, store: icechunk.IcechunkStore, ids: Collection[str]
    ) -> dict[str, StoredScene]:
        if not ids:
            return {}
        return await asyncio.to_thread(read_scenes, self._repository, store, ids)

    def _described(self, behind: Behind, stored: Mapping[str, StoredScene]) -> dict[str, Scene]:
        """Scenes as their items describe them, if those name the files that the store does; else
        as a crawl that died before it recorded them had meant to."""
        with read_transaction(self._engine) as connection:
            meant = wanted_scenes(connection, self._repository_id, behind.collection, list(stored))
        found = {
            name: scene for name, scene in meant.items() if self._same_files(scene, stored[name])
        }
        if self._find_items is None:
            return found
        for document in self._find_items(behind.collection, sorted(stored)):
            try:
                scene = scene_from_item(document)
                if scene.id not in stored or scene.collection != behind.collection:
                    continue
                there = stored[scene.id].bands
                if {asset.band for asset in scene.assets} - there:
                    bands = [asset.band for asset in scene.assets if asset.band in there]
                    scene = scene_from_item(document, bands=bands)
            except ItemError as error:
                log.warning("%s", error)
                continue
            if scene.tile == behind.tile and self._same_files(scene, stored[scene.id]):
                found[scene.id] = scene
            else:
                log.warning("%s: its item describes other files than are indexed", scene.id)
        return found

    def _same_files(self, scene: Scene, stored: StoredScene) -> bool:
        named: dict[str, str] = {}
        for asset in scene.assets:
            try:
                named[asset.band] = location(*resolve(asset.href, self._sources))
            except HeaderError:
                continue
        return all(named.get(band) == file.location for band, file in stored.files.items())

    async def _record(
        self,
        opened: _Opened,
        snapshot: Snapshot,
        store: icechunk.IcechunkStore,
        current: Mapping[str, StoredScene],
        earlier: Mapping[str, StoredScene],
        withdrawn: Sequence[str],
    ) -> None:
        behind, scenes, epsg = opened.behind, opened.scenes, opened.epsg
        names = dict.fromkeys((*snapshot.scenes, *sorted({*current, *earlier})))
        states = [found for name in names if (found := current.get(name) or earlier.get(name))]
        indexed: list[IndexedScene] = []
        whole: set[str] = set()
        unanswered: list[HeaderError] = []
        for first in range(0, len(states), TOGETHER):
            part = states[first : first + TOGETHER]
            # An earlier state is of an item that its source has no more.
            described = [scenes.get(s.id) if s.id in current else None for s in part]
            made = [
                scene
                or itemless_scene(
                    stored,
                    collection=behind.collection,
                    tile=behind.tile,
                    epsg=epsg,
                    sources=self._sources,
                )
                for scene, stored in zip(described, part, strict=True)
            ]
            read = await asyncio.gather(
                *(
                    check_files(scene, stored, snapshot.written_at, store, self._reader)
                    for scene, stored in zip(made, part, strict=True)
                )
            )
            for item, scene, stored, files in zip(described, made, part, read, strict=True):
                if fault := files.unanswered:
                    unanswered.append(fault)
                if item is not None and not files.faults and _agrees(scene, stored):
                    whole.add(stored.id)
                indexed.append(_indexed(scene, stored, files, whole=stored.id in whole))
                self._count_files(stored, files)
        if states and len(unanswered) == len(states):
            raise SourceError(
                f"{behind.branch}: no file of commit {snapshot.id} can be read: {unanswered[0]}; "
                "what is recorded stays, run it again"
            )
        self._write(opened, snapshot, indexed, withdrawn, states[0].grid if states else None)
        done = self.rebuilt
        done.commits += 1
        done.branches += snapshot is behind.history[-1]
        done.scenes += len(current)
        done.withdrawn += len(withdrawn)
        done.revisions += len(earlier)
        done.complete += len(whole)
        done.partial += len(current) - len(whole)
        self._on_progress(done)
        log.info("%s: %d scenes, snapshot %s", behind.branch, len(indexed), snapshot.id)

    def _write(
        self,
        opened: _Opened,
        snapshot: Snapshot,
        indexed: Sequence[IndexedScene],
        withdrawn: Sequence[str],
        grid: Grid | None,
    ) -> None:
        behind = opened.behind
        origin = (grid.transform[2], grid.transform[5]) if grid else None
        commit = behind.commit(snapshot, epsg=opened.epsg, origin=origin)
        known = next((i.scene for i in indexed if i.scene.boa_evidence != BOA_EVIDENCE), None)
        self._lease.check()
        with write_transaction(self._engine) as connection:
            registry.register_collection(
                connection,
                behind.collection,
                self._stac if known else None,
                known.dialect if known else None,
            )
            if not records.record_indexed(
                connection,
                self._repository_id,
                commit,
                indexed,
                self._crawl,
                withdrawn=withdrawn,
            ):
                raise BusyError(f"{behind.branch}: another has recorded commit {snapshot.id}")

    def _count_files(self, stored: StoredScene, files: CheckedFiles) -> None:
        self.rebuilt.requests += files.requests
        for fault in files.faults.values():
            unread, gone = is_unread(fault), fault.reason == NO_SUCH_KEY
            self.rebuilt.files_unread += unread
            self.rebuilt.files_gone += gone
            self.rebuilt.files_changed += not (unread or gone)
            log.warning("%s %s", stored.id, fault)


def _lies(stored: StoredScene) -> bool:
    """Whether a scene refers to what is no file, or to several in place of one."""
    return any(not file.location.startswith("vcc://") for file in stored.files.values())


def _agrees(scene: Scene, stored: StoredScene) -> bool:
    return scene.boa_offset == stored.boa_offset and scene.datetime.replace(microsecond=0) == (
        stored.time
    )


def _indexed(
    scene: Scene, stored: StoredScene, files: CheckedFiles, *, whole: bool
) -> IndexedScene:
    warnings = scene.warnings
    assets = tuple(asset for asset in scene.assets if asset.band not in files.left_out)
    if files.left_out:
        # Then only some bands were asked for, and those are there.
        warnings = tuple(text for text in warnings if not text.startswith("no asset for "))
    if not whole:
        scene = replace(scene, boa_offset=stored.boa_offset, item_sha256=NO_ITEM)
        if scene.datetime.replace(microsecond=0) != stored.time:
            scene = replace(scene, datetime=stored.time)
    return IndexedScene(
        scene=replace(scene, assets=assets, warnings=warnings),
        root=stored.place.root,
        time_index=stored.place.time_index,
        refs_sha256=stored.refs_sha256,
        files=tuple(
            file_record(files.headers[asset.band])
            if asset.band in files.headers
            else _lost_file(asset)
            for asset in assets
        ),
        warnings=(
            *(text for header in files.headers.values() for text in header.warnings),
            *(f"{band}: {fault.reason}." for band, fault in sorted(files.faults.items())),
            *why_not(files.unindexed),
        ),
        missing=(*scene.refused, *files.unindexed),
    )


def _lost_file(asset: Asset) -> AssetRecord:
    """Of a file that cannot be read as what it was: no byte of its header is vouched for."""
    return AssetRecord(
        band=asset.band,
        href=asset.href,
        size=asset.size,
        etag=None,
        last_modified=None,
        checksum=asset.checksum,
        header_sha256=NO_ITEM,
        header_length=0,
    )
