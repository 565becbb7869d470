"""Which of the items that a search returns need work, and what that work is. Reads no file.

An item that is byte for byte as indexed needs none; one that failed lately waits until it is due;
one whose files are plainly as indexed has its record written anew; the rest is to be read. What an
item is refused for, by us or by the database, is its own failure: the others of its page go on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeGuard

from sqlalchemy import Connection, Engine

from catalog import failures, records, registry
from catalog.blame import is_everyones, of_scene
from catalog.database import read_transaction, write_transaction
from catalog.errors import ConfigError, HeaderError, ItemError, SceneError
from catalog.item import item_sha256, scene_from_item
from catalog.json_values import band_list
from catalog.known import (
    Incomplete,
    IndexedPlace,
    Outstanding,
    incomplete_scenes,
    indexed_href,
    indexed_places,
    indexed_states,
    known_scenes,
    outstanding_scenes,
)
from catalog.recorded import IndexedScene, IndexedState, KnownScene
from catalog.report import Report
from catalog.revisit import same_by_item
from catalog.scene import Scene, not_indexed, why_not_indexed
from catalog.settings import Source
from catalog.sources import resolve

log = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""The collection of items that name none, where none was asked for."""
REMEMBERED = 65_536
"""Scenes that a dry run, which records none, remembers so as to count each once."""
SKEW = timedelta(minutes=10)
"""That a source's clock may be ahead of ours and still move a watermark on."""
NAMELESS = "an item without an id"
LONGEST_NAME = 255
"""Bytes of an id or a collection that are recorded."""

_Key = tuple[str, str]
"""Collection and item id."""
Tried = dict[_Key, tuple[str, frozenset[str]]]
"""What ``retry`` has had tried, though it was not due: with the hash of its item, and the bands
without which it was to be no scene. What is asked otherwise is another try."""


@dataclass(slots=True)
class Work:
    """What a page of items, or of scenes to retry, asks for."""

    scenes: list[Scene]
    """Whose files are to be read."""
    states: dict[_Key, IndexedState]
    """What is indexed of those of them that have changed, by collection and item id."""
    attempts: dict[_Key, int] = field(default_factory=dict)
    """How often in a row those of them failed that did."""
    reread: set[_Key] = field(default_factory=set)
    """Those of them whose item is as indexed."""

    def add(self, other: Work) -> None:
        self.scenes += other.scenes
        self.states |= other.states
        self.attempts |= other.attempts
        self.reread |= other.reread


def _is_newer(scene: Scene, other: Scene | None) -> bool:
    """Which of two items of one id is taken: the later in the answer; of two on different tiles,
    since a scene has one place, whichever says that it was updated later, in any order."""
    if other is None or other.tile == scene.tile:
        return True
    never = datetime.min.replace(tzinfo=UTC)
    log.warning("%s: two items of this id lie on %s and %s", scene.id, other.tile, scene.tile)
    return (scene.updated or never, scene.datetime, scene.tile) > (
        other.updated or never,
        other.datetime,
        other.tile,
    )


def _is_superseded(scene: Scene, place: IndexedPlace) -> bool:
    """Whether an item on another tile than the one of its id that is indexed is older than that:
    by ``updated``; where that does not tell, an item that was indexed before and left is, or comes
    back for good, by its time and tile. So a source that goes on serving both changes nothing."""
    updated = None if scene.updated and _is_ahead(scene.updated) else scene.updated
    if updated and place.updated and updated != place.updated:
        return updated < place.updated
    return scene.item_sha256 in place.left and (scene.datetime, scene.tile) < (
        place.datetime,
        place.tile,
    )


@dataclass(slots=True)
class Sieve:
    """Sifts for one crawl; counts into its report."""

    engine: Engine
    repository_id: int
    crawl_id: int
    sources: Sequence[Source]
    report: Report
    containers: Collection[str]
    """Names of the sources that the repository can refer to."""
    in_hand: set[_Key]
    """Scenes that are being worked on, by collection and item id: pages may repeat an item."""
    bands: Sequence[str] | None
    """Array names to index; None for all."""
    required: tuple[str, ...]
    """Array names without which a scene is not indexed."""
    collection: str
    """That items without one are recorded under."""
    stac: str | None
    dry_run: bool
    retry: bool
    """Whether what failed before is tried again though it is not due."""
    reread: bool = False
    """Whether files are read though the item is as indexed, or shows that they are: they may have
    changed behind it."""
    _matched: set[str] = field(default_factory=set)
    """Collections of which the settings match a scene."""
    _registered: set[str] = field(default_factory=set)
    """Collections whose dialect was compared."""
    tried: Tried = field(default_factory=dict)
    """By now: a crawl that meets it again, from the records, by its id or in the search, does not
    try it twice; nor do crawls that share this."""

    def sift(self, documents: Sequence[Mapping[str, Any]]) -> Work:
        """The scenes of ``documents`` that need work; records the intent, what is no scene, and
        what has changed in the item alone.

        Raises:
            ConfigError: as ``_check_sources`` and ``registry.register_collection``; nothing of the
                page is recorded.
        """
        scenes: dict[_Key, Scene] = {}
        served: dict[_Key, Mapping[str, Any]] = {}
        bad: list[tuple[Any, ItemError]] = []
        newest = self.report.watermark
        for document in documents:
            self.report.found += 1
            try:
                scene = self._read_item(document, self.bands)
            except BaseException as error:
                if is_everyones(error):
                    raise
                bad.append((document, _item_error(document, error)))
                continue
            if scene.updated is not None and not _is_ahead(scene.updated):
                newest = max(newest or scene.updated, scene.updated)
            key = (scene.collection, scene.id)
            if key not in self.in_hand and _is_newer(scene, scenes.get(key)):
                scenes[key], served[key] = scene, document
        work = self._sift_all(scenes, served, bad)
        for scene in work.scenes:
            if (scene.collection, scene.id) in work.reread:
                self._remember((scene.collection, scene.id), scene.item_sha256, scene.required)
        self.report.watermark = newest
        return work

    def _sift_all(
        self,
        scenes: Mapping[_Key, Scene],
        served: Mapping[_Key, Mapping[str, Any]],
        bad: Sequence[tuple[Any, ItemError]],
    ) -> Work:
        """In one transaction; where that is refused for one of them, each in its own."""
        before = self.report.counted()
        try:
            return self._sift(scenes, served, bad)
        except BaseException as error:
            if is_everyones(error):
                raise
            log.debug("a page is sifted item by item", exc_info=error)
            self.report.count_again(before)
            self.in_hand.difference_update(scenes)
        work = Work([], {})
        for key, scene in scenes.items():
            before = self.report.counted()
            try:
                work.add(self._sift({key: scene}, served, ()))
            except BaseException as error:
                if is_everyones(error):
                    raise
                self.report.count_again(before)
                self.in_hand.discard(key)
                self._fail_alone(served[key], _item_error(served[key], error))
        for document, fault in bad:
            self._fail_alone(document, fault)
        return work

    def _fail_alone(self, document: Any, fault: ItemError) -> None:
        before = self.report.counted()
        try:
            self._sift({}, {}, [(document, fault)])
        except BaseException as error:
            if is_everyones(error):
                raise
            # Not even its failure can be recorded: it is counted, and named in the log.
            self.report.count_again(before)
            self.report.fail(fault.scene or NAMELESS, fault, self.crawl_id)

    def _sift(
        self,
        scenes: Mapping[_Key, Scene],
        served: Mapping[_Key, Mapping[str, Any]],
        bad: Sequence[tuple[Any, ItemError]],
    ) -> Work:
        work = Work([], {})
        transaction = read_transaction if self.dry_run else write_transaction
        with transaction(self.engine) as connection:
            for collection in dict.fromkeys(name for name, _ in scenes):
                members = [scene for (name, _), scene in scenes.items() if name == collection]
                known = known_scenes(
                    connection, self.repository_id, collection, [s.id for s in members]
                )
                members = self._not_superseded(connection, collection, members, known)
                wanted = [
                    self._with_bands(scene, known, served[collection, scene.id])
                    for scene in members
                    if self._needs_work(scene, known, work)
                ]
                self._check_sources(connection, collection, wanted)
                if not self.dry_run:
                    self._register(connection, collection, members)
                    wanted = self._update(connection, collection, wanted, known, work)
                work.scenes += wanted
            if not self.dry_run:
                records.record_pending(connection, self.repository_id, work.scenes, self.crawl_id)
            for document, fault in bad:
                self._fail_item(connection, document, fault)
        return work

    def _not_superseded(
        self,
        connection: Connection,
        collection: str,
        scenes: list[Scene],
        known: Mapping[str, KnownScene],
    ) -> list[Scene]:
        """``scenes`` without those that ``_is_superseded``; they count as unchanged."""
        moving = [
            scene.id
            for scene in scenes
            if (before := known.get(scene.id))
            and before.status == "indexed"
            and before.branch != f"{collection}/{scene.tile}"
            and before.wanted_sha256 != scene.item_sha256
        ]
        if not moving:
            return scenes
        places = indexed_places(connection, self.repository_id, collection, moving)
        kept = []
        for scene in scenes:
            place = places.get(scene.id)
            if place is None or not _is_superseded(scene, place):
                kept.append(scene)
                continue
            log.warning(
                "%s: an item of this id on %s is older than the one that is indexed on %s",
                scene.id, scene.tile, place.tile,
            )  # fmt: skip
            self.report.unchanged += 1
        return kept

    def _register(self, connection: Connection, collection: str, members: Sequence[Scene]) -> None:
        """Its dialect is what most of the items with any marks have."""
        marks = Counter(scene.dialect for scene in members if scene.dialect != registry.GENERIC)
        registry.register_collection(
            connection,
            collection,
            self.stac,
            None if collection in self._registered else next(iter(dict(marks.most_common())), None),
            others=marks,
        )
        if marks:
            self._registered.add(collection)

    def _check_sources(
        self, connection: Connection, collection: str, scenes: Sequence[Scene]
    ) -> None:
        """Whether the settings are for such scenes at all.

        An href that no source matches is foreign data, the failure of its scene alone, where the
        settings are plainly right for the collection: another scene of the crawl's first page that
        needs work is matched whole, or what is indexed of the collection still is. Otherwise, and
        where a source has no container in the repository, it is the settings that are wrong.

        Raises:
            ConfigError: they are.
        """
        if not scenes:
            return
        first: HeaderError | None = None
        for scene in scenes:
            fault: HeaderError | None = None
            for asset in scene.assets:
                try:
                    source, _ = resolve(asset.href, self.sources)
                except HeaderError as error:
                    fault = type(error)(
                        error.reason, scene=scene.id, band=asset.band, href=asset.href
                    )
                    continue
                if source.name not in self.containers:
                    raise ConfigError(
                        f"the repository has no container {source.name!r} for {source.url}, where "
                        f"{scene.id} lies: run `cogcat init`"
                    )
            if fault is None:
                self._matched.add(collection)
            first = first or fault
        if first is None or collection in self._matched:
            return
        known = indexed_href(connection, self.repository_id, collection)
        try:
            if known is not None:
                resolve(known, self.sources)
                self._matched.add(collection)
                return
        except HeaderError:
            pass
        raise ConfigError(str(of_scene(first, first.scene)))

    def outstanding(self, *, limit: int, after: int) -> tuple[Work, int]:
        """What earlier crawls began and did not end, and is due, from the records alone: the work,
        which may be none, and the number to go on after; the same as ``after`` at the end. What
        cannot be read any more fails by name."""
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
            last = found[-1].number if found else after
            found = [one for one in found if not self._was_tried(one)]
            work.scenes = [one.scene for one in found if isinstance(one.scene, Scene)]
            work.attempts = {(one.collection, one.id): one.attempts for one in found}
            for name in dict.fromkeys(scene.collection for scene in work.scenes):
                ids = [scene.id for scene in work.scenes if scene.collection == name]
                states = indexed_states(connection, self.repository_id, name, ids)
                work.states.update({(name, item): state for item, state in states.items()})
        for one in found:
            if isinstance(one.scene, SceneError):
                with write_transaction(self.engine) as connection:
                    self.fail(connection, one.collection, one.id, one.scene)
                self._remember((one.collection, one.id), "", ())
        self.report.retried += len(found)
        self.in_hand.update((scene.collection, scene.id) for scene in work.scenes)
        for scene in work.scenes:
            self._remember((scene.collection, scene.id), scene.item_sha256, scene.required)
        return work, last

    def _was_tried(self, one: Outstanding) -> bool:
        mark = _mark(one.scene) if isinstance(one.scene, Scene) else ("", frozenset())
        return self.tried.get((one.collection, one.id)) == mark

    def incomplete(self, *, limit: int, after: int) -> tuple[list[Incomplete], int]:
        """Scenes that are indexed without a band and were not tried again yet, and the number to
        go on after; the same as ``after`` at the end."""
        collection = None if self.collection == UNKNOWN else self.collection
        with read_transaction(self.engine) as connection:
            found = incomplete_scenes(
                connection, self.repository_id, collection, self.stac, limit=limit, after=after
            )
        fresh = [
            one
            for one in found
            if self.tried.get((one.collection, one.id)) != (one.item_sha256, frozenset())
        ]
        return fresh, found[-1].number if found else after

    def taking_up(self, bands: Collection[str]) -> Sieve:
        """For scenes that were indexed by whatever crawl: with these bands, as they come."""
        return replace(self, bands=sorted(bands), required=())

    def due_items(self, *, limit: int, after: str) -> list[str]:
        """Ids behind ``after`` of items that could not become a scene, and are to be tried."""
        now = datetime.max.replace(tzinfo=UTC) if self.retry else None
        with read_transaction(self.engine) as connection:
            return failures.due_items(
                connection, self.repository_id, self.collection, limit=limit, after=after, now=now
            )

    def postpone_items(self, ids: Sequence[str]) -> None:
        """They are not there now."""
        with write_transaction(self.engine) as connection:
            failures.postpone_items(connection, self.repository_id, self.collection, ids)

    def fail(self, connection: Connection, collection: str, scene: str, error: SceneError) -> None:
        """Records a failed attempt of a scene whose intent is recorded."""
        failures.record_failed(
            connection, self.repository_id, collection, {scene: str(error)}, self.crawl_id
        )
        self.report.fail(scene, error, self.crawl_id)

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
                    IndexedScene(
                        scene,
                        state.root,
                        state.time_index,
                        state.refs_sha256,
                        files,
                        missing=scene.refused,
                    )
                )
                self.in_hand.discard((collection, scene.id))
                continue
            if state is not None:
                work.states[collection, scene.id] = state
            rest.append(scene)
        records.record_updated(connection, self.repository_id, collection, same, self.crawl_id)
        self.report.updated += len(same)
        return rest

    def _needs_work(self, scene: Scene, known: Mapping[str, KnownScene], work: Work) -> bool:
        before = known.get(scene.id)
        key = (scene.collection, scene.id)
        tried = self.tried.get(key) == _mark(scene)
        retry = self.retry and not tried
        if before is not None and (
            self._is_parked(before, scene.item_sha256)
            or (tried and before.wanted_sha256 == scene.item_sha256)
        ):
            self.report.parked += 1
            return False
        if before is None or before.status != "indexed":
            self.report.new += 1
        elif (
            before.item_sha256 != scene.item_sha256
            or before.wanted_sha256 is not None
            or not before.bands | before.missing >= {asset.band for asset in scene.assets}
        ):
            self.report.changed += 1
        elif self.reread or (retry and before.missing) or before.missing & {*self.required}:
            self.report.reread += 1
            work.reread.add(key)
        else:
            self.report.unchanged += 1
            return False
        if before is not None and before.attempts and not before.unreadable:
            # Of another item than the last that failed, the first.
            same = before.wanted_sha256 == scene.item_sha256
            work.attempts[key] = before.attempts if same else 0
        if self.dry_run and len(self.in_hand) >= REMEMBERED:
            self.in_hand.clear()
        self.in_hand.add(key)
        return True

    def _remember(self, key: _Key, item_sha256: str, required: Collection[str]) -> None:
        if not self.retry:
            return  # it has a time to be due again
        if len(self.tried) >= REMEMBERED:
            self.tried.clear()
        self.tried[key] = (item_sha256, frozenset(required))

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
        """``scene`` with the bands that are indexed beside those asked for, or were to be: a scene
        is written whole, so fewer would take some away."""
        before = known.get(scene.id)
        held = before.bands | before.missing if before else frozenset()
        if self.bands is None or held <= set(self.bands):
            return scene
        return self._read_item(document, sorted({*self.bands, *held}))

    def _read_item(self, document: Mapping[str, Any], bands: Sequence[str] | None) -> Scene:
        """The scene of an item, fit to be indexed as it is asked for here."""
        scene = scene_from_item(document, bands=bands)
        if scene.updated is not None and _is_ahead(scene.updated):
            note = "updated lies ahead of the clock: it moves no watermark."
            scene = replace(scene, warnings=(*scene.warnings, note))
        for what, name in (("id", scene.id), ("collection", scene.collection)):
            if not _is_name(name):
                raise ItemError(f"its {what} has more than {LONGEST_NAME} bytes")
        if not self.required:
            return scene
        there = {asset.band for asset in scene.assets}
        for band in self.required:
            if band in scene.refused:
                reason = why_not_indexed(band, scene.warnings)
                why = not_indexed(band, reason) if reason else f"{band} is not indexed."
                raise ItemError(f"required here: {why}", scene=scene.id)
        if lacks := [band for band in self.required if band not in there]:
            raise ItemError(f"no asset for {band_list(lacks)}, required here", scene=scene.id)
        return replace(scene, required=self.required)

    def _fail_item(self, connection: Connection, document: Any, error: ItemError) -> None:
        scene = error.scene or NAMELESS
        named = document.get("collection") if isinstance(document, Mapping) else None
        collection = named if _is_name(named) else self.collection
        try:
            digest = item_sha256(document) if isinstance(document, Mapping) else None
        except ItemError:
            digest = None
        known = known_scenes(connection, self.repository_id, collection, [scene])
        key = (collection, scene)
        tried = self.tried.get(key) == (digest, frozenset(self.required))
        if digest and scene in known and (tried or self._is_parked(known[scene], digest)):
            self.report.parked += 1
            return
        if not self.dry_run:
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
        if digest:
            self._remember(key, digest, self.required)
        self.report.fail(scene, error, self.crawl_id)


def _mark(scene: Scene) -> tuple[str, frozenset[str]]:
    return scene.item_sha256, frozenset(scene.required)


def _is_ahead(moment: datetime) -> bool:
    return moment > datetime.now(UTC) + SKEW


def _item_error(document: Any, error: BaseException) -> ItemError:
    named = document.get("id") if isinstance(document, Mapping) else None
    if isinstance(error, ItemError):
        return error
    found = of_scene(error, named if _is_name(named) else None, ItemError)
    return ItemError(found.reason, scene=found.scene, band=found.band, href=found.href)


def _is_name(value: Any) -> TypeGuard[str]:
    """Whether it can be a key: text of 255 bytes that can be printed."""
    return (
        isinstance(value, str)
        and bool(value.strip())
        and value.isprintable()
        and len(value.encode("utf-8", "replace")) <= LONGEST_NAME
    )
