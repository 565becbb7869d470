"""The write path: STAC items → scenes → headers → one commit per tile batch → records.

Order, so that a crash after any line leaves something the next crawl completes: record
the intent (pending), commit to Icechunk, record the result. A crawl begins with what one
before it committed and did not live to record (``recovery.py``).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine

from catalog import failures, lease, records, registry
from catalog.cube import SceneReferences, scene_references
from catalog.cube_writer import write_batch
from catalog.database import read_transaction, write_transaction
from catalog.errors import (
    BusyError,
    CatalogError,
    HeaderError,
    ItemError,
    SceneError,
)
from catalog.header import Header, HeaderReader, Reads
from catalog.item import item_sha256, scene_from_item
from catalog.recorded import Commit, CrawlCounts, KnownScene
from catalog.recovery import indexed_scene, recover
from catalog.repository import Repository
from catalog.scene import Scene
from catalog.settings import Source
from catalog.sources import resolve

log = logging.getLogger(__name__)

PAGE = 100
"""Items looked up in SQL at once."""
BATCH = 32
"""Scenes per commit of a tile: a whole manifest (``repository.MANIFEST_STEPS``), so that filling
a tile rewrites no manifest."""
WAITING = 256
"""Scenes of all tiles with their headers read that may wait for their batch to fill."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One scene that was not indexed."""

    scene: str
    reason: str


@dataclass(slots=True)
class Report:
    """What a crawl did; counts as in the contract, and the failures by name."""

    found: int = 0
    """Items the search returned that match the question."""
    new: int = 0
    """Scenes not indexed before: earlier failures among them."""
    changed: int = 0
    """Scenes whose item is another than the one indexed, or was since and failed."""
    unchanged: int = 0
    """Scenes whose item is byte for byte as indexed: no file of theirs is asked for."""
    indexed: int = 0
    failed: int = 0
    withdrawn: int = 0
    commits: int = 0
    requests: int = 0
    """GET requests to files."""
    seconds: float = 0.0
    recovered: int = 0
    """Scenes that an earlier crawl committed and did not live to record."""
    watermark: datetime | None = None
    """Newest ``updated`` of the items found, UTC; None where the source does not say."""
    interrupted: bool = False
    failures: list[Failure] = field(default_factory=list, repr=False)
    cpu: dict[str, float] = field(default_factory=dict)
    """Seconds of CPU by step, of the threads that run them."""

    def counts(self) -> CrawlCounts:
        names = CrawlCounts.__dataclass_fields__
        return CrawlCounts(**{name: getattr(self, name) for name in names})


@dataclass(slots=True)
class _Ready:
    """A scene whose headers are read, waiting for its batch."""

    scene: Scene
    references: SceneReferences
    headers: tuple[Header, ...]


class Crawl:
    """One crawl of items into a catalog and its repository; ``with`` or ``close`` at its end.

    Args:
        engine: migrated.
        repository: created.
        sources: where hrefs are read.
        bands: array names to index; None for all.
        concurrency: header requests in flight.
        reader: in place of a ``HeaderReader`` over ``sources``.
        on_progress: called after each step, in the crawl's thread.
        dry_run: look and count; read no file, write nothing.
        wait: seconds to wait for another crawl of the repository; None for as long as it takes.
    """

    def __init__(
        self,
        engine: Engine,
        repository: Repository,
        sources: Sequence[Source],
        *,
        bands: Sequence[str] | None = None,
        concurrency: int = 32,
        reader: Reads | None = None,
        on_progress: Callable[[Report], None] | None = None,
        dry_run: bool = False,
        wait: float | None = 0.0,
    ) -> None:
        self._engine, self._repository, self._sources = engine, repository, tuple(sources)
        self._bands, self._concurrency, self._reader = bands, concurrency, reader
        self._on_progress = on_progress or (lambda report: None)
        self._dry_run, self._wait = dry_run, wait
        self._lease: lease.Lease | None = None
        self._waiting: dict[tuple[str, str], list[_Ready]] = {}
        self._in_hand: set[tuple[str, str]] = set()
        self._crawl_id = self._repository_id = 0
        self._collection = "unknown"
        self._stac: str | None = None
        self.report = Report()
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the database connections back."""
        self._engine.dispose()

    def stop(self) -> None:
        """Ends the crawl once the scenes whose headers are read are written; those that still wait
        stay pending. Safe from a signal handler or another thread."""
        self._stop.set()

    def run(
        self,
        items: Iterable[Mapping[str, Any]],
        *,
        query: Mapping[str, Any],
        collection: str | None = None,
        stac: str | None = None,
        watch: int | None = None,
    ) -> Report:
        """Indexes ``items`` (STAC documents as served, of any number; consumed lazily).

        Args:
            query: what was asked, kept in the crawl's record.
            collection: that items without one are recorded under.
            stac: URL of the API the items came from, kept with the collection.
            watch: key of the watch whose query it is.

        Raises:
            SourceError: the search broke off; what was found before is indexed and recorded.
            StoreError: the repository refused a commit.
            ConfigError: the database cannot be reached.
            BusyError: another crawl holds it, or commits to the same branch.
        """
        started = time.monotonic()
        self._collection, self._stac = collection or "unknown", stac
        uid = self._repository.id
        if self._dry_run:
            with read_transaction(self._engine) as connection:
                known = registry.known_repositories(connection)
            # 0 is no repository's: all is new to one that was never registered.
            self._repository_id = next((found.key for found in known if found.uid == uid), 0)
            asyncio.run(self._run(iter(items)))
            self.report.seconds = time.monotonic() - started
            return self.report
        with write_transaction(self._engine) as connection:
            self._repository_id = registry.register_repository(
                connection, uid, self._repository.location
            )
            registry.register_sources(connection, self._sources)
        with lease.held(self._engine, self._repository_id, wait=self._wait) as self._lease:
            with write_transaction(self._engine) as connection:
                self._crawl_id = registry.begin_crawl(
                    connection, query, repository_id=self._repository_id, watch_id=watch
                )
            outcome = "failed"
            try:
                asyncio.run(self._run(iter(items)))
                outcome = "interrupted" if self.report.interrupted else "done"
            finally:
                self.report.seconds = time.monotonic() - started
                with write_transaction(self._engine) as connection:
                    registry.finish_crawl(
                        connection,
                        self._crawl_id,
                        self.report.counts(),
                        outcome,
                        watermark=self.report.watermark if outcome == "done" else None,
                    )
        return self.report

    async def _run(self, items: Iterator[Mapping[str, Any]]) -> None:
        reader = self._reader or HeaderReader(self._sources, concurrency=self._concurrency)
        if not self._dry_run:
            mended = await recover(
                self._engine, self._repository, self._repository_id, reader, self._crawl_id
            )
            self.report.recovered = mended.scenes
            self.report.requests += mended.requests
        page = asyncio.create_task(asyncio.to_thread(self._page, items))
        error: CatalogError | None = None
        while not self._stop.is_set():
            documents, error = await page
            if not documents:
                break
            # The next page is fetched while this one's files are. After an error there is none.
            page = asyncio.create_task(asyncio.to_thread(self._page, items))
            wanted = await asyncio.to_thread(self._sift, documents)
            self._on_progress(self.report)
            if wanted and not self._dry_run:
                await self._read(wanted, reader)
            if error:
                break
        else:
            self.report.interrupted = True
        if not page.done():
            page.cancel()
        for key in list(self._waiting):
            await self._flush(key)
        if error:
            raise error

    def _page(
        self, items: Iterator[Mapping[str, Any]]
    ) -> tuple[list[Mapping[str, Any]], CatalogError | None]:
        """The next items, and the error that the search broke off with after them."""
        page: list[Mapping[str, Any]] = []
        with self._timed("search"):
            try:
                page.extend(islice(items, PAGE))
            except CatalogError as error:
                return page, error
        return page, None

    def _sift(self, documents: Sequence[Mapping[str, Any]]) -> list[Scene]:
        """The scenes of ``documents`` that need work; records the intent, and what is no scene."""
        scenes: dict[tuple[str, str], Scene] = {}
        sources: dict[tuple[str, str], Mapping[str, Any]] = {}
        bad: list[tuple[Any, ItemError]] = []
        with self._timed("items"):
            for document in documents:
                self.report.found += 1
                try:
                    scene = scene_from_item(document, bands=self._bands)
                except ItemError as error:
                    bad.append((document, error))
                    continue
                mark = self.report.watermark
                if scene.updated is not None and (mark is None or scene.updated > mark):
                    self.report.watermark = scene.updated
                key = (scene.collection, scene.id)
                if key not in self._in_hand:
                    scenes[key], sources[key] = scene, document
        wanted: list[Scene] = []
        transaction = read_transaction if self._dry_run else write_transaction
        with self._timed("records"), transaction(self._engine) as connection:
            for collection in dict.fromkeys(name for name, _ in scenes):
                members = [scene for (name, _), scene in scenes.items() if name == collection]
                known = records.known_scenes(
                    connection, self._repository_id, collection, [s.id for s in members]
                )
                wanted += [
                    self._with_bands(scene, known, sources[collection, scene.id])
                    for scene in members
                    if self._needs_work(scene, known)
                ]
                if not self._dry_run:
                    registry.register_collection(
                        connection, collection, self._stac, members[0].dialect
                    )
            if not self._dry_run:
                records.record_pending(connection, self._repository_id, wanted, self._crawl_id)
            for document, fault in bad:
                self._fail_item(connection, document, fault)
        return wanted

    def _needs_work(self, scene: Scene, known: Mapping[str, KnownScene]) -> bool:
        before = known.get(scene.id)
        if before is None or before.status != "indexed":
            self.report.new += 1
        elif (
            before.item_sha256 == scene.item_sha256
            and before.wanted_sha256 is None
            and before.bands >= {asset.band for asset in scene.assets}
        ):
            self.report.unchanged += 1
            return False
        else:
            self.report.changed += 1
        self._in_hand.add((scene.collection, scene.id))
        return True

    def _with_bands(
        self, scene: Scene, known: Mapping[str, KnownScene], document: Mapping[str, Any]
    ) -> Scene:
        """``scene`` with the bands that are indexed beside those asked for: a scene is written
        whole, so fewer would take some away."""
        before = known.get(scene.id)
        if self._bands is None or before is None or before.bands <= set(self._bands):
            return scene
        return scene_from_item(document, bands=sorted({*self._bands, *before.bands}))

    async def _read(self, scenes: Sequence[Scene], reader: Reads) -> None:
        """Headers of ``scenes`` → references; whole batches are written as they fill."""
        # Time of arrival in the store is only partly in our hands; within a page it is kept.
        tasks = [asyncio.create_task(self._scene(scene, reader)) for scene in scenes]
        try:
            for scene, task in sorted(
                zip(scenes, tasks, strict=True), key=lambda pair: pair[0].datetime
            ):
                if self._stop.is_set():
                    break
                try:
                    ready = await task
                except SceneError as error:
                    await asyncio.to_thread(self._fail, scene, error)
                    continue
                key = (scene.collection, scene.tile)
                self._waiting.setdefault(key, []).append(ready)
                if len(self._waiting[key]) >= BATCH:
                    await self._flush(key)
                elif sum(map(len, self._waiting.values())) >= WAITING:
                    await self._flush(max(self._waiting, key=lambda k: len(self._waiting[k])))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _scene(self, scene: Scene, reader: Reads) -> _Ready:
        for asset in scene.assets:
            source, _ = resolve(asset.href, self._sources)
            if source.name not in self._repository.containers:
                raise HeaderError(
                    f"repository {self._repository.location} has no container {source.name!r} "
                    f"for {source.url}: run `cogcat init`",
                    band=asset.band,
                    href=asset.href,
                )
        found = await asyncio.gather(
            *(reader.read(asset) for asset in scene.assets), return_exceptions=True
        )
        headers: list[Header] = []
        errors: list[HeaderError] = []
        for result in found:
            if isinstance(result, HeaderError):
                self.report.requests += 1
                errors.append(result)
            elif isinstance(result, BaseException):
                raise result
            else:
                self.report.requests += result.requests
                headers.append(result)
        if errors:
            raise errors[0]
        with self._timed("references"):
            return _Ready(scene, scene_references(scene, headers), tuple(headers))

    async def _flush(self, key: tuple[str, str]) -> None:
        batch = self._waiting.pop(key)
        await asyncio.to_thread(self._write, key, batch)
        self._on_progress(self.report)

    def _write(self, key: tuple[str, str], batch: Sequence[_Ready]) -> None:
        collection, tile = key
        branch = f"{collection}/{tile}"
        assert self._lease is not None
        self._lease.check()
        with self._timed("commit"):
            written = write_batch(
                self._repository,
                branch,
                collection=collection,
                tile=tile,
                scenes=[ready.references for ready in batch],
                crawl=str(self._crawl_id),
            )
        scenes = [
            indexed_scene(r.scene, r.references, r.headers, written.placements[r.scene.id])
            for r in batch
        ]
        transform = batch[0].references.arrays[0].spec.grid.transform
        commit = Commit(
            branch=branch,
            collection=collection,
            tile=tile,
            epsg=batch[0].scene.epsg,
            snapshot_id=written.snapshot_id,
            parent_id=written.parent_id,
            written_at=written.written_at,
            origin=(transform[2], transform[5]),
        )
        with self._timed("records"), write_transaction(self._engine) as connection:
            mine = records.record_indexed(
                connection, self._repository_id, commit, scenes, self._crawl_id
            )
        if not mine:
            # Its scenes are still pending, so nothing is lost.
            raise BusyError(
                f"{branch}: another crawl has recorded our commit {written.snapshot_id} as one "
                "that nobody would: two write to this repository"
            )
        self._in_hand -= {(collection, ready.scene.id) for ready in batch}
        self.report.commits += 1
        self.report.indexed += len(batch)
        log.info("%s: %d scenes, snapshot %s", branch, len(batch), written.snapshot_id)

    def _fail(self, scene: Scene, error: SceneError) -> None:
        named = type(error)(error.reason, scene=scene.id, band=error.band, href=error.href)
        self._count_failure(scene.id, str(named))
        with write_transaction(self._engine) as connection:
            failures.record_failed(
                connection,
                self._repository_id,
                scene.collection,
                {scene.id: str(named)},
                self._crawl_id,
            )
        self._in_hand.discard((scene.collection, scene.id))

    def _fail_item(self, connection: Connection, document: Any, error: ItemError) -> None:
        scene = error.scene or "an item without an id"
        self._count_failure(scene, str(error))
        if self._dry_run:
            return
        named = document.get("collection") if isinstance(document, Mapping) else None
        collection = named if isinstance(named, str) and named else self._collection
        registry.register_collection(connection, collection, self._stac)
        failures.record_unreadable_item(
            connection,
            self._repository_id,
            collection,
            scene,
            str(error),
            self._crawl_id,
            item_sha256=item_sha256(document) if isinstance(document, Mapping) else None,
        )

    def _count_failure(self, scene: str, reason: str) -> None:
        self.report.failed += 1
        self.report.failures.append(Failure(scene, reason))
        log.warning("%s", reason, extra={"scene": scene})

    def _timed(self, step: str) -> _Timed:
        return _Timed(self.report.cpu, step)


class _Timed:
    """Adds the CPU seconds of a block in this thread to ``totals[step]``."""

    def __init__(self, totals: dict[str, float], step: str) -> None:
        self._totals, self._step = totals, step

    def __enter__(self) -> None:
        self._start = time.thread_time()

    def __exit__(self, *exc: object) -> None:
        spent = time.thread_time() - self._start
        self._totals[self._step] = self._totals.get(self._step, 0.0) + spent
