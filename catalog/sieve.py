"""Which of the items that a search returns need work, and what that work is. Reads no file.

An item that is byte for byte as indexed needs none; one that failed lately waits until it is due;
one whose files are plainly as indexed has its record written anew; the rest is to be read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine

from catalog import failures, records, registry
from catalog.database import read_transaction, write_transaction
from catalog.errors import ItemError
from catalog.item import item_sha256, scene_from_item
from catalog.known import indexed_states, known_scenes, outstanding_scenes
from catalog.recorded import IndexedScene, IndexedState, KnownScene
from catalog.report import Report
from catalog.revisit import same_by_item
from catalog.scene import Scene
from catalog.settings import Source

log = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""The collection of items that name none, where none was asked for."""
REMEMBERED = 65_536
"""Scenes that a dry run, which records none, remembers so as to count each once."""


@dataclass(slots=True)
class Work:
    """What a page of items, or of scenes to retry, asks for."""

    scenes: list[Scene]
    """Whose files are to be read."""
    states: dict[tuple[str, str], IndexedState]
    """What is indexed of those of them that have changed, by collection and item id."""


def _is_newer(scene: Scene, other: Scene | None) -> bool:
    """Which of two items of one id is taken: the later in the answer; of two on different tiles,
    since a scene has one place, whichever says that it was updated later, in any order."""
    if other is None or other.tile == scene.tile:
        return True
    never = datetime.min.replace(tzinfo=UTC)
    log.warning("%s: two items of this id lie on %s and %s", scene.id, other.tile, scene.tile)
    return (scene.updated or never, scene.tile) > (other.updated or never, other.tile)


@dataclass(slots=True)
class Sieve:
    """Sifts for one crawl; counts into its report."""

    engine: Engine
    repository_id: int
    crawl_id: int
    sources: Sequence[Source]
    report: Report
    in_hand: set[tuple[str, str]]
    """Scenes that are being worked on, by collection and item id: pages may repeat an item."""
    bands: Sequence[str] | None
    """Array names to index; None for all."""
    collection: str
    """That items without one are recorded under."""
    stac: str | None
    dry_run: bool
    retry: bool
    """Whether what failed before is tried again though it is not due."""
    reread: bool = False
    """Whether files are read though the item is as indexed, or shows that they are: they may have
    changed behind it."""

    def sift(self, documents: Sequence[Mapping[str, Any]]) -> Work:
        """The scenes of ``documents`` that need work; records the intent, what is no scene, and
        what has changed in the item alone."""
        scenes: dict[tuple[str, str], Scene] = {}
        sources: dict[tuple[str, str], Mapping[str, Any]] = {}
        bad: list[tuple[Any, ItemError]] = []
        for document in documents:
            self.report.found += 1
            try:
                scene = scene_from_item(document, bands=self.bands)
            except ItemError as error:
                bad.append((document, error))
                continue
            mark = self.report.watermark
            if scene.updated is not None and (mark is None or scene.updated > mark):
                self.report.watermark = scene.updated
            key = (scene.collection, scene.id)
            if key not in self.in_hand and _is_newer(scene, scenes.get(key)):
                scenes[key], sources[key] = scene, document
        work = Work([], {})
        transaction = read_transaction if self.dry_run else write_transaction
        with transaction(self.engine) as connection:
            for collection in dict.fromkeys(name for name, _ in scenes):
                members = [scene for (name, _), scene in scenes.items() if name == collection]
                known = known_scenes(
                    connection, self.repository_id, collection, [s.id for s in members]
                )
                wanted = [
                    self._with_bands(scene, known, sources[collection, scene.id])
                    for scene in members
                    if self._needs_work(scene, known)
                ]
                if not self.dry_run:
                    registry.register_collection(
                        connection, collection, self.stac, members[0].dialect
                    )
                    wanted = self._update(connection, collection, wanted, known, work)
                work.scenes += wanted
            if not self.dry_run:
                records.record_pending(connection, self.repository_id, work.scenes, self.crawl_id)
            for document, fault in bad:
                self._fail_item(connection, document, fault)
        return work

    def outstanding(self, *, limit: int, after: int) -> tuple[Work, int]:
        """What earlier crawls began and did not end, and is due, from the records alone: the work
        and the number to go on after; no scenes at the end."""
        work = Work([], {})
        collection = None if self.collection == UNKNOWN else self.collection
        with read_transaction(self.engine) as connection:
            found = outstanding_scenes(
                connection,
                self.repository_id,
                collection,
                limit=limit,
                after=after,
                now=datetime.max.replace(tzinfo=UTC) if self.retry else None,
            )
            work.scenes = [scene for _, scene in found]
            for name in dict.fromkeys(scene.collection for scene in work.scenes):
                ids = [scene.id for scene in work.scenes if scene.collection == name]
                states = indexed_states(connection, self.repository_id, name, ids)
                work.states.update({(name, item): state for item, state in states.items()})
        self.report.retried += len(work.scenes)
        self.in_hand.update((scene.collection, scene.id) for scene in work.scenes)
        return work, found[-1][0] if found else after

    def _update(
        self,
        connection: Connection,
        collection: str,
        scenes: Sequence[Scene],
        known: Mapping[str, KnownScene],
        work: Work,
    ) -> list[Scene]:
        """Records those of ``scenes`` whose items show that their files are as indexed; the rest,
        with what is indexed of them."""
        changed = [s.id for s in scenes if s.id in known and known[s.id].status == "indexed"]
        if not changed:
            return list(scenes)
        states = indexed_states(connection, self.repository_id, collection, changed)
        same: list[IndexedScene] = []
        rest: list[Scene] = []
        for scene in scenes:
            state = states.get(scene.id)
            if state and not self.reread and same_by_item(scene, state, self.sources):
                files = tuple(state.files.values())
                same.append(
                    IndexedScene(scene, state.root, state.time_index, state.refs_sha256, files)
                )
                self.in_hand.discard((collection, scene.id))
                continue
            if state is not None:
                work.states[collection, scene.id] = state
            rest.append(scene)
        records.record_updated(connection, self.repository_id, collection, same, self.crawl_id)
        self.report.updated += len(same)
        return rest

    def _needs_work(self, scene: Scene, known: Mapping[str, KnownScene]) -> bool:
        before = known.get(scene.id)
        if before is not None and self._is_parked(before, scene.item_sha256):
            self.report.parked += 1
            return False
        if before is None or before.status != "indexed":
            self.report.new += 1
        elif (
            not self.reread
            and before.item_sha256 == scene.item_sha256
            and before.wanted_sha256 is None
            and before.bands >= {asset.band for asset in scene.assets}
        ):
            self.report.unchanged += 1
            return False
        else:
            self.report.changed += 1
        if self.dry_run and len(self.in_hand) >= REMEMBERED:
            self.in_hand.clear()
        self.in_hand.add((scene.collection, scene.id))
        return True

    def _is_parked(self, before: KnownScene, item_sha256: str) -> bool:
        due = before.next_attempt_at
        return (
            not self.retry
            and before.wanted_sha256 == item_sha256
            and due is not None
            and due > datetime.now(UTC)
        )

    def _with_bands(
        self, scene: Scene, known: Mapping[str, KnownScene], document: Mapping[str, Any]
    ) -> Scene:
        """``scene`` with the bands that are indexed beside those asked for: a scene is written
        whole, so fewer would take some away."""
        before = known.get(scene.id)
        if self.bands is None or before is None or before.bands <= set(self.bands):
            return scene
        return scene_from_item(document, bands=sorted({*self.bands, *before.bands}))

    def _fail_item(self, connection: Connection, document: Any, error: ItemError) -> None:
        scene = error.scene or "an item without an id"
        named = document.get("collection") if isinstance(document, Mapping) else None
        collection = named if isinstance(named, str) and named else self.collection
        try:
            digest = item_sha256(document) if isinstance(document, Mapping) else None
        except ItemError:
            digest = None
        known = known_scenes(connection, self.repository_id, collection, [scene])
        if digest and scene in known and self._is_parked(known[scene], digest):
            self.report.parked += 1
            return
        self.report.fail(scene, error, self.crawl_id)
        if self.dry_run:
            return
        registry.register_collection(connection, collection, self.stac)
        failures.record_unreadable_item(
            connection,
            self.repository_id,
            collection,
            scene,
            str(error),
            self.crawl_id,
            item_sha256=digest,
        )
