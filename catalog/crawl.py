"""The write path: STAC items → scenes → headers → one commit per tile batch → records.

Order, so that a crash after any line leaves something the next crawl completes: record
the intent (pending), commit to Icechunk, record the result. A crawl begins with what one
before it committed and did not live to record (``recovery.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Engine

from catalog import failures, lease, records, registry, sync, watches
from catalog.bands import band_names
from catalog.blame import is_everyones, of_scene
from catalog.committer import Committer, Ready
from catalog.database import read_transaction, write_transaction, write_twice
from catalog.errors import CatalogError, HeaderError, SceneError, SourceError, UsageError
from catalog.header import HeaderReader, Reads
from catalog.identity import identify
from catalog.json_values import band_list
from catalog.memory import give_back_large_blocks
from catalog.recovery import recover
from catalog.report import Report
from catalog.repository import Repository
from catalog.revisit import same_by_headers
from catalog.scene import Scene
from catalog.scene_files import assemble
from catalog.settings import Source
from catalog.sieve import UNKNOWN, Sieve, Work
from catalog.watches import Watch

log = logging.getLogger(__name__)

PAGE = 100
"""Items looked up in SQL at once; more where the reader takes more scenes at once."""
BATCH = 32
"""Scenes per commit of a tile: a whole manifest (``repository.MANIFEST_STEPS``), so that filling
a tile rewrites no manifest."""
WAITING = 256
"""Scenes of all tiles with their headers read that may wait for their batch to fill."""
_LOOK = 0.5
"""Seconds after which a crawl that waits for files notices that it is to stop."""


Ask = Callable[[Sequence[str]], Iterable[Mapping[str, Any]]]
"""Ids → those of the items that the source has, as served."""


class Crawl:
    """One crawl of items into a catalog and its repository; ``with`` or ``close`` at its end.

    Args:
        engine: migrated.
        repository: created.
        sources: where hrefs are read.
        bands: array names to index; None for all.
        require: array names without which a scene fails: one that has them not, in its item or as
            a file that can be read, is not indexed.
        concurrency: header requests in flight.
        reader: in place of a ``HeaderReader`` over ``sources``.
        on_progress: called after each step, in the crawl's thread.
        dry_run: look and count; read no file, write nothing.
        retry: try what failed before whether or not it is due, and bands that could not be read.
        reread: read the files of every scene, though its item is as indexed; what has changed is
            written.
        wait: seconds to wait for another crawl of the repository; None for as long as it takes.
    """

    def __init__(
        self,
        engine: Engine,
        repository: Repository,
        sources: Sequence[Source],
        *,
        bands: Sequence[str] | None = None,
        require: Sequence[str] = (),
        concurrency: int = 32,
        reader: Reads | None = None,
        on_progress: Callable[[Report], None] | None = None,
        dry_run: bool = False,
        retry: bool = False,
        reread: bool = False,
        wait: float | None = 0.0,
    ) -> None:
        self._engine, self._repository, self._sources = engine, repository, tuple(sources)
        self._bands = None if bands is None else band_names(bands)
        self._required = band_names(require)
        if more := [b for b in self._required if b not in (self._bands or self._required)]:
            raise UsageError(f"{band_list(more)} cannot be required and not be among the bands")
        self._concurrency, self._reader = concurrency, reader
        self._on_progress = on_progress or (lambda report: None)
        self._dry_run, self._wait = dry_run, wait
        self._retry, self._reread = retry, reread
        self._waiting: dict[tuple[str, str], list[Ready]] = {}
        self._in_hand: set[tuple[str, str]] = set()
        self._scope: sync.Scope | None = None
        self._ask: Ask | None = None
        self._seen: set[int] = set()
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
        watch: Watch | None = None,
        outstanding: bool = False,
        ask: Ask | None = None,
        scope: sync.Scope | None = None,
    ) -> Report:
        """Indexes ``items`` (STAC documents as served, of any number; consumed lazily).

        Args:
            query: what was asked, kept in the crawl's record.
            collection: that items without one are recorded under.
            stac: URL of the API the items came from, kept with the collection.
            watch: whose query it is, unless it was given another one since.
            outstanding: first take up the scenes of ``collection`` that an earlier crawl began and
                did not end, which a search from a watermark may not return again.
            ask: with it, asks for items that could not become a scene and are due, which such a
                search would not return either.
            scope: of a search that ``items`` is the whole answer to: what the catalog holds of
                it and the source no longer has is withdrawn.

        Raises:
            SourceError: the search broke off; what was found before is indexed and recorded.
            StoreError: the repository refused a commit.
            ConfigError: the database cannot be reached.
            BusyError: another crawl holds it, or commits to the same branch.
        """
        started = time.monotonic()
        give_back_large_blocks()
        self._scope, self._ask = scope, ask
        uid, location = identify(self._engine, self._repository), self._repository.location
        sieve = Sieve(
            engine=self._engine,
            repository_id=0,
            crawl_id=0,
            sources=self._sources,
            report=self.report,
            containers=self._repository.containers,
            in_hand=self._in_hand,
            bands=self._bands,
            required=self._required,
            collection=collection or UNKNOWN,
            stac=stac,
            dry_run=self._dry_run,
            retry=self._retry,
            reread=self._reread,
        )
        if self._dry_run:
            with read_transaction(self._engine) as connection:
                known = registry.known_repositories(connection)
            # 0 is no repository's: all is new to one that was never registered.
            sieve.repository_id = next((found.key for found in known if found.uid == uid), 0)
            asyncio.run(self._run(iter(items), sieve, None, outstanding))
            self.report.seconds = time.monotonic() - started
            return self.report
        with write_transaction(self._engine) as connection:
            key = sieve.repository_id = registry.register_repository(connection, uid, location)
            registry.register_sources(connection, self._sources)
        with lease.held(self._engine, key, wait=self._wait) as held:
            with write_transaction(self._engine) as connection:
                sieve.crawl_id = registry.begin_crawl(
                    connection,
                    query,
                    repository_id=key,
                    watch_id=None if watch is None else watches.key_of(connection, watch),
                )
            committer = Committer(
                self._engine, self._repository, key, sieve.crawl_id, held, self.report
            )
            try:
                asyncio.run(self._run(iter(items), sieve, committer, outstanding))
            except BaseException:
                # What it ended with is what the caller is to see, even if this cannot be recorded.
                with contextlib.suppress(CatalogError):
                    self._finish(sieve.crawl_id, "failed", started)
                raise
            outcome = "interrupted" if self.report.interrupted else "done"
            self._finish(sieve.crawl_id, outcome, started)
        return self.report

    def _finish(self, crawl_id: int, outcome: str, started: float) -> None:
        self.report.seconds = time.monotonic() - started
        write_twice(
            self._engine,
            lambda connection: registry.finish_crawl(
                connection,
                crawl_id,
                self.report.counts(),
                outcome,
                watermark=self.report.watermark if outcome == "done" else None,
            ),
        )

    async def _run(
        self,
        items: Iterator[Mapping[str, Any]],
        sieve: Sieve,
        committer: Committer | None,
        outstanding: bool,
    ) -> None:
        """``committer`` None for a dry run."""
        try:
            await self._go(items, sieve, committer, outstanding)
        except SourceError:
            # What was read before the source went away is written.
            await self._flush_all(committer)
            raise

    async def _go(
        self,
        items: Iterator[Mapping[str, Any]],
        sieve: Sieve,
        committer: Committer | None,
        outstanding: bool,
    ) -> None:
        reader = self._reader or HeaderReader(self._sources, concurrency=self._concurrency)
        away: SourceError | None = None
        if committer is not None:
            mended = await recover(
                self._engine, self._repository, sieve.repository_id, reader, sieve.crawl_id
            )
            self.report.recovered = mended.scenes
            self.report.withdrawn += mended.withdrawn
            self.report.requests += mended.requests
            if outstanding:
                away = await self._take_up(sieve, committer, reader)
                await self._ask_again(sieve, committer, reader)
        size = max(PAGE, reader.scenes_at_once)
        page = asyncio.create_task(asyncio.to_thread(self._page, items, size))
        error: CatalogError | None = None
        while not self._stop.is_set():
            documents, error = await page
            if not documents:
                break
            # The next page is fetched while this one's files are. After an error there is none.
            page = asyncio.create_task(asyncio.to_thread(self._page, items, size))
            if self._scope:
                self._seen.update(map(hash, _ids(documents)))
            await self._index(documents, sieve, committer, reader)
            if error:
                break
        else:
            self.report.interrupted = True
        if not page.done():
            page.cancel()
        await self._flush_all(committer)
        if error := error or away:
            raise error
        if self._scope and not self.report.interrupted:
            await self._withdraw_missing(self._scope, sieve, committer, reader)
            await self._flush_all(committer)

    async def _take_up(
        self, sieve: Sieve, committer: Committer, reader: Reads
    ) -> SourceError | None:
        """What earlier crawls began and did not end. A source that is away keeps what another has
        from being crawled no more than it must: its error is given back, for the crawl's end."""
        last, away = 0, None
        while not self._stop.is_set():
            work, after = await asyncio.to_thread(sieve.outstanding, limit=PAGE, after=last)
            if after == last:
                break
            last = after
            try:
                await self._read(work, committer, reader)
            except SourceError as error:
                away = error
                break
        return away

    async def _ask_again(self, sieve: Sieve, committer: Committer, reader: Reads) -> None:
        """Items that were no scene when they were met, and may be by now."""
        last = ""
        while self._ask is not None and not self._stop.is_set():
            due = await asyncio.to_thread(sieve.due_items, limit=PAGE, after=last)
            if not due:
                return
            last = due[-1]
            there: list[Mapping[str, Any]] = []
            try:
                there = await asyncio.to_thread(list, self._ask(due))
            except (SourceError, UsageError) as error:
                # An API that cannot be asked for items by their ids has all else to give; one that
                # is away says so when it is searched.
                log.warning("items that could not be read are not asked for again: %s", error)
            await self._index(there, sieve, committer, reader)
            if gone := sorted(set(due) - set(_ids(there))):
                await asyncio.to_thread(sieve.postpone_items, gone)

    async def _index(
        self,
        documents: Sequence[Mapping[str, Any]],
        sieve: Sieve,
        committer: Committer | None,
        reader: Reads,
    ) -> None:
        work = await asyncio.to_thread(sieve.sift, documents)
        self._on_progress(self.report)
        if committer is not None:
            await self._read(work, committer, reader)

    async def _withdraw_missing(
        self, scope: sync.Scope, sieve: Sieve, committer: Committer | None, reader: Reads
    ) -> None:
        """Takes out what the catalog holds of the scope and the source no longer has."""
        with read_transaction(self._engine) as connection:
            missing = sync.missing(connection, sieve.repository_id, scope, self._seen)
        for portion in sync.pages(missing):
            if self._stop.is_set():
                self.report.interrupted = True
                return
            there = await asyncio.to_thread(list, scope.ask([scene.id for scene in portion]))
            # They no longer answer the question, but what is recorded of them stays true.
            await self._index(there, sieve, committer, reader)
            held = set(_ids(there))
            gone = [scene for scene in portion if scene.id not in held]
            if committer is None:
                self.report.withdrawn += sum(scene.indexed for scene in gone)
            else:
                await asyncio.to_thread(self._withdraw, scope.collection, gone, committer)
            self._on_progress(self.report)

    def _withdraw(
        self, collection: str, gone: Sequence[sync.Missing], committer: Committer
    ) -> None:
        for tile in dict.fromkeys(scene.tile for scene in gone if scene.indexed):
            assert tile is not None
            committer.withdraw(
                collection,
                tile,
                [scene.id for scene in gone if scene.indexed and scene.tile == tile],
            )
        if never := [scene.id for scene in gone if not scene.indexed]:
            with write_transaction(self._engine) as connection:
                records.forget_scenes(connection, committer.repository_id, collection, never)

    def _page(
        self, items: Iterator[Mapping[str, Any]], size: int
    ) -> tuple[list[Mapping[str, Any]], CatalogError | None]:
        """The next ``size`` items, and the error that the search broke off with after them."""
        page: list[Mapping[str, Any]] = []
        try:
            page.extend(islice(items, size))
        except CatalogError as error:
            return page, error
        return page, None

    async def _read(self, work: Work, committer: Committer, reader: Reads) -> None:
        """Headers → references; whole batches are written as they fill."""
        # Time of arrival in the store is only partly in our hands; within a page it is kept.
        tasks = [
            (scene, asyncio.create_task(self._scene(scene, work, reader))) for scene in work.scenes
        ]
        # From its left, so that what is written is forgotten while the rest is still read.
        reading = deque(sorted(tasks, key=lambda pair: pair[0].datetime))
        del tasks
        same: list[Ready] = []
        left: list[asyncio.Task[Ready]] = []
        gone: SourceError | None = None
        try:
            while reading:
                scene, task = reading[0]
                while not (task.done() or self._stop.is_set()):
                    await asyncio.wait({task}, timeout=_LOOK)
                reading.popleft()
                if not task.done():
                    # Stopping: what is read is written, the rest stays pending.
                    task.cancel()
                    left.append(task)
                    continue
                try:
                    ready = task.result()
                    state = work.states.get(ready.key)
                    files = ready.files
                    if state and same_by_headers(scene, files.headers, files.references, state):
                        same.append(ready)
                        continue
                    self.report.changed += ready.key in work.reread
                except SourceError as error:
                    # Others may have been read before, or come from another source.
                    gone = error
                    continue
                except BaseException as error:
                    if is_everyones(error):
                        raise
                    await asyncio.to_thread(self._fail, scene, error, committer)
                    continue
                finally:
                    del task
                key = (scene.collection, scene.tile)
                self._waiting.setdefault(key, []).append(ready)
                del ready
                if len(self._waiting[key]) >= BATCH:
                    await self._flush(key, committer)
                elif sum(map(len, self._waiting.values())) >= WAITING:
                    fullest = max(self._waiting, key=lambda key: len(self._waiting[key]))
                    await self._flush(fullest, committer)
        finally:
            for _, task in reading:
                task.cancel()
                left.append(task)
            await asyncio.gather(*left, return_exceptions=True)
        if same:
            await asyncio.to_thread(self._record_same, same, work, committer)
            self._in_hand -= {ready.key for ready in same}
        if gone is not None:
            raise gone

    async def _scene(self, scene: Scene, work: Work, reader: Reads) -> Ready:
        found = await reader.read_all(scene.assets)
        self.report.requests += sum(
            1 if isinstance(one, HeaderError) else one.requests for one in found
        )
        # After as many tries as there are delays, what is missing is taken to be so for good.
        key = (scene.collection, scene.id)
        spent = work.attempts.get(key, 0) >= len(failures.RETRY_DELAYS)
        state = work.states.get(key) if key in work.reread else None
        files = assemble(scene, found, last_try=spent, done_without=state.missing if state else ())
        for fault in files.faults.values():
            log.warning("indexed without it: %s", of_scene(fault, scene.id))
        return Ready(scene, files)

    async def _flush(self, key: tuple[str, str], committer: Committer) -> None:
        batch = self._waiting.pop(key)
        await asyncio.to_thread(self._write, key, batch, committer)
        self._in_hand -= {ready.key for ready in batch}
        self._on_progress(self.report)

    def _write(self, key: tuple[str, str], batch: list[Ready], committer: Committer) -> None:
        """In one commit. A scene for which it is refused fails by name, and the others are
        committed without it: at once where the error names it, else scene by scene."""
        alone = False
        while batch:
            part = batch[:1] if alone else batch
            try:
                unrecorded = committer.write(key, part)
            except BaseException as error:
                if is_everyones(error):
                    raise
                named = {error.scene} if isinstance(error, SceneError) else set()
                guilty = [ready for ready in part if len(part) == 1 or ready.scene.id in named]
                alone = alone or not guilty
                for ready in guilty:
                    self._fail(ready.scene, error, committer)
                batch = [ready for ready in batch if ready not in guilty]
            else:
                for ready, fault in unrecorded:
                    self._fail(ready.scene, fault, committer)
                batch = batch[len(part) :]

    def _record_same(self, same: list[Ready], work: Work, committer: Committer) -> None:
        """As ``_write``, of what stays where it is."""
        try:
            committer.record_same(same, work.states)
        except BaseException as error:
            if is_everyones(error):
                raise
            if len(same) == 1:
                self._fail(same[0].scene, error, committer)
                return
            for ready in same:
                self._record_same([ready], work, committer)

    async def _flush_all(self, committer: Committer | None) -> None:
        for key in list(self._waiting):
            assert committer is not None
            await self._flush(key, committer)

    def _fail(self, scene: Scene, error: BaseException, committer: Committer) -> None:
        named = of_scene(error, scene.id)
        self.report.fail(scene.id, named, committer.crawl_id)
        with write_transaction(self._engine) as connection:
            failures.record_failed(
                connection,
                committer.repository_id,
                scene.collection,
                {scene.id: str(named)},
                committer.crawl_id,
            )
        self._in_hand.discard((scene.collection, scene.id))


def _ids(documents: Iterable[Any]) -> Iterator[str]:
    for document in documents:
        if isinstance(document, Mapping) and isinstance(name := document.get("id"), str):
            yield name
