"""Headers read on a dask.distributed cluster: the crawl asks, workers answer in compact arrays.

A task is some scenes' files. A worker keeps one ``HeaderReader`` per process, on an event loop of
its own, and reads credentials from its own environment: sources' settings travel, secrets do not.
Dask gives the tasks of a worker that dies to another.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from catalog.blame import is_everyones, of_scene
from catalog.errors import CatalogError, ConfigError, HeaderError, SourceError, first_line
from catalog.header import Header, HeaderReader, Level
from catalog.redaction import has_secrets
from catalog.scene import Asset
from catalog.settings import Source

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

LOCAL = "local"
CONNECT_TIMEOUT = 10.0
"""Seconds for the scheduler to answer."""
PATIENCE = 120.0
"""Seconds without any worker until a crawl gives up: a cluster that grows when it is asked to
needs a minute or two."""
THREADS = 2
"""Of each process of a local cluster: while one task waits for its last files, another begins."""
MOST_AT_ONCE = 1_000
"""Scenes in flight, however large the cluster: as many as are committed in ten seconds or so."""
_FILES = 15
"""Of a scene, for an estimate."""
_POLL = 1.0

_FACTS = tuple(field.name for field in fields(Header) if field.name not in ("asset", "levels"))
_SHAPE = tuple(field.name for field in fields(Level) if field.name not in ("offsets", "lengths"))


@dataclass(frozen=True, slots=True)
class Fault:
    """A ``HeaderError`` on its way; its cause, which may be of any library, as text."""

    kind: type[HeaderError]
    reason: str
    band: str | None
    href: str | None
    cause: str | None


@dataclass(frozen=True, slots=True)
class PackedHeaders:
    """The headers of some files as two arrays and a row per file: never an object per chunk."""

    rows: tuple[tuple[Any, ...] | Fault, ...]
    """Per file: a ``Header``'s fields but ``asset`` and ``levels``, then per level a ``Level``'s
    but its arrays, with the arrays' shape."""
    offsets: NDArray[np.unsignedinteger[Any]]
    """Of every level of every file, one after another, in the least unsigned type that holds
    them."""
    lengths: NDArray[np.unsignedinteger[Any]]
    """As ``offsets``."""


class RemoteError(Exception):
    """What an error on a worker was caused by, in its own words."""


def pack(found: Sequence[Header | HeaderError]) -> PackedHeaders:
    """What ``read_all`` gave, ready to travel."""
    rows: list[tuple[Any, ...] | Fault] = []
    offsets: list[NDArray[np.uint64]] = []
    lengths: list[NDArray[np.uint64]] = []
    for header in found:
        if isinstance(header, HeaderError):
            cause = header.__cause__
            text = None if cause is None else f"{type(cause).__name__}: {first_line(cause)}"
            rows.append(Fault(type(header), header.reason, header.band, header.href, text))
            continue
        levels = tuple(
            (level.offsets.shape, *(getattr(level, name) for name in _SHAPE))
            for level in header.levels
        )
        rows.append((*(getattr(header, name) for name in _FACTS), levels))
        offsets += [level.offsets.ravel() for level in header.levels]
        lengths += [level.lengths.ravel() for level in header.levels]
    return PackedHeaders(tuple(rows), _joined(offsets), _joined(lengths))


def unpack(packed: PackedHeaders, assets: Sequence[Asset]) -> list[Header | HeaderError]:
    """What ``pack`` was given, of ``assets``."""
    found: list[Header | HeaderError] = []
    offsets, lengths = packed.offsets.astype(np.uint64), packed.lengths.astype(np.uint64)
    at = 0
    for row, asset in zip(packed.rows, assets, strict=True):
        if isinstance(row, Fault):
            error = row.kind(row.reason, band=row.band, href=row.href)
            error.__cause__ = RemoteError(row.cause) if row.cause else None
            found.append(error)
            continue
        *facts, shapes = row
        levels = []
        for shape, *values in shapes:
            end = at + math.prod(shape)
            levels.append(
                Level(
                    **dict(zip(_SHAPE, values, strict=True)),
                    offsets=offsets[at:end].reshape(shape),
                    lengths=lengths[at:end].reshape(shape),
                )
            )
            at = end
        found.append(
            Header(asset=asset, levels=tuple(levels), **dict(zip(_FACTS, facts, strict=True)))
        )
    return found


def _joined(parts: Sequence[NDArray[np.uint64]]) -> NDArray[np.unsignedinteger[Any]]:
    whole = np.concatenate(parts) if parts else np.empty(0, np.uint64)
    return whole.astype(np.min_scalar_type(whole.max(initial=np.uint64(0))))


class _Reading:
    """A process's event loop and its readers, made when the first task needs them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readers: dict[tuple[tuple[Source, ...], int], HeaderReader] = {}

    def read_all(
        self, sources: tuple[Source, ...], concurrency: int, assets: Sequence[Asset]
    ) -> list[Header | HeaderError]:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="cogcat-headers", daemon=True
                ).start()
            loop = self._loop
            key = (sources, concurrency)
            if key not in self._readers:
                # Of the crawl at hand: those of earlier ones would keep their connections.
                self._readers = {key: HeaderReader(sources, concurrency=concurrency)}
            reader = self._readers[key]
        return asyncio.run_coroutine_threadsafe(reader.read_all(assets), loop).result()


_reading = _Reading()


def read_packed(
    sources: tuple[Source, ...], concurrency: int, scenes: Sequence[Sequence[Asset]]
) -> list[PackedHeaders]:
    """The task: headers of the files of some scenes, scene by scene.

    Raises:
        ConfigError: a source cannot be opened on this worker.
    """
    assets = [asset for scene in scenes for asset in scene]
    found = iter(_reading.read_all(sources, concurrency, assets))
    return [_packed(scene, [next(found) for _ in scene]) for scene in scenes]


def _packed(assets: Sequence[Asset], found: Sequence[Header | HeaderError]) -> PackedHeaders:
    """What cannot travel is its scene's failure, not that of all who travel with it."""
    try:
        return pack(found)
    except Exception as error:
        if is_everyones(error):
            raise
        reason = of_scene(error, None).reason
        return pack([HeaderError(reason, band=a.band, href=a.href) for a in assets])


def _version_there() -> str:
    """Of the process that runs it: workers must have the crawl's."""
    try:
        return version("cogcat")
    except PackageNotFoundError:
        return "0"


_VERSION = _version_there()


@dataclass(eq=False)
class _Wanted:
    """One scene's files, and who waits for them."""

    assets: tuple[Asset, ...]
    answer: asyncio.Future[list[Header | HeaderError]]


class ClusterReader:
    """Reads headers on a cluster, ``concurrency`` requests in flight per worker; see ``connect``.

    Serves one event loop at a time.
    """

    def __init__(
        self, client: Client, address: str, sources: Sequence[Source], *, concurrency: int = 32
    ) -> None:
        self._client, self._address = client, address
        self._sources, self._concurrency = tuple(sources), concurrency
        self._queue: list[_Wanted] = []
        self._running: set[asyncio.Task[None]] = set()
        self._threads = sum(client.nthreads().values())
        self._looked = self._seen = time.monotonic()

    @property
    def scenes_at_once(self) -> int:
        """Two tasks for each of the cluster's threads."""
        return min(MOST_AT_ONCE, 2 * self._threads * math.ceil(self._concurrency / _FILES))

    async def read(self, asset: Asset) -> Header:
        """The header of ``asset``'s file.

        Raises:
            HeaderError: as ``HeaderReader.read``.
            ConfigError, SourceError: as ``read_all``.
        """
        (found,) = await self.read_all((asset,))
        if isinstance(found, HeaderError):
            raise found
        return found

    async def read_all(self, assets: Sequence[Asset]) -> list[Header | HeaderError]:
        """The headers of one scene's ``assets``, or an error in the place of each that has none.

        Raises:
            ConfigError: workers lack cogcat, or what a source needs.
            SourceError: the cluster is gone, or has had no worker for ``PATIENCE`` seconds.
        """
        loop = asyncio.get_running_loop()
        wanted = _Wanted(tuple(assets), loop.create_future())
        if not self._queue:
            # Behind all that is asked for in this turn of the loop: tasks are made of many.
            loop.call_soon(self._send)
        self._queue.append(wanted)
        return await wanted.answer

    def _send(self) -> None:
        queue, self._queue = self._queue, []
        group: list[_Wanted] = []
        for number, wanted in enumerate(queue, 1):
            group.append(wanted)
            if number == len(queue) or sum(len(w.assets) for w in group) >= self._concurrency:
                self._start(group)
                group = []

    def _start(self, group: list[_Wanted]) -> None:
        if not self._running:
            self._looked = self._seen = time.monotonic()
        task = asyncio.create_task(self._work(group))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _work(self, group: list[_Wanted]) -> None:
        try:
            packed = await self._run([wanted.assets for wanted in group])
        except _Deadly as error:
            if len(group) > 1:
                for wanted in group:  # one of them is to blame
                    self._start([wanted])
                return
            packed = [[error.of(asset) for asset in group[0].assets]]
        except asyncio.CancelledError:
            for wanted in group:
                wanted.answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001  whoever waits for the answer raises it
            for wanted in group:
                if not wanted.answer.done():
                    wanted.answer.set_exception(error)
            return
        for wanted, found in zip(group, packed, strict=True):
            if not wanted.answer.done():
                wanted.answer.set_result(found)

    async def _run(self, scenes: Sequence[tuple[Asset, ...]]) -> list[list[Header | HeaderError]]:
        from distributed import KilledWorker

        loop = asyncio.get_running_loop()
        landed = asyncio.Event()

        def wake(_: Any) -> None:
            with suppress(RuntimeError):  # the crawl has ended without it
                loop.call_soon_threadsafe(landed.set)

        try:
            future = self._client.submit(
                read_packed, self._sources, self._concurrency, scenes, pure=False
            )
            # Not gathered before it is there: dask logs a gathering that is broken off.
            future.add_done_callback(wake)
            while not landed.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(landed.wait(), _POLL)
                await self._look()
            answer = self._awaitable(self._client.gather([future], asynchronous=True))
            await asyncio.wait({answer})
            if answer.cancelled():
                raise self._gone("connection lost")
            (packed,) = answer.result()
        except KilledWorker as error:
            raise _Deadly(error.allowed_failures + 1) from error
        except (CatalogError, asyncio.CancelledError):
            raise
        except (OSError, RuntimeError, concurrent.futures.CancelledError) as error:
            raise self._gone(first_line(error)) from error
        except Exception as error:
            raise ConfigError(
                f"workers of the cluster at {self._address} cannot read headers "
                f"({type(error).__name__}: {first_line(error)}): install this cogcat there"
            ) from error
        return [unpack(scene, assets) for scene, assets in zip(packed, scenes, strict=True)]

    async def _look(self) -> None:
        """Raises once there has been no worker for too long; asks the scheduler now and then."""
        now = time.monotonic()
        if now - self._looked < _POLL:
            return
        self._looked = now
        workers = await self._awaitable(self._client.scheduler.ncores())
        if workers:
            self._threads, self._seen = sum(workers.values()), now
        elif now - self._seen > PATIENCE:
            raise self._gone(f"no worker for {PATIENCE:.0f} s")

    def _awaitable(self, coroutine: Any) -> asyncio.Future[Any]:
        """``coroutine`` of the client's own event loop, to be awaited in ours."""
        theirs: Any = self._client.loop
        future = asyncio.run_coroutine_threadsafe(coroutine, theirs.asyncio_loop)
        return asyncio.wrap_future(future)

    def _gone(self, reason: str) -> SourceError:
        return SourceError(
            f"the cluster at {self._address} is gone ({reason}): what is recorded stays, the "
            "rest is read by the next crawl"
        )


class _Deadly(Exception):
    """Every worker that began a task died of it."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        super().__init__(workers)

    def of(self, asset: Asset) -> HeaderError:
        error = HeaderError(
            f"{self.workers} workers of the cluster died while this scene's headers were read",
            band=asset.band,
            href=asset.href,
        )
        error.__cause__ = self.__cause__
        return error


@contextmanager
def connect(
    address: str, sources: Sequence[Source], *, concurrency: int = 32
) -> Iterator[ClusterReader]:
    """A reader on the cluster at ``address``, ``tcp://host:8786`` or such; ``local`` starts one of
    a process per core, which ends with the block.

    Raises:
        ConfigError: dask.distributed is not installed, nothing answers at the address within
            ``CONNECT_TIMEOUT`` seconds, no worker within ``PATIENCE``, or workers have no cogcat
            or another version of it.
    """
    if has_secrets(address):
        raise ConfigError(
            "the address of a dask scheduler holds a user name, a password or a key, which "
            "schedulers do not ask for: give tcp://host:8786, and certificates in dask's own "
            "configuration"
        )
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ConfigError("--dask needs dask.distributed: pip install 'cogcat[dask]'") from error
    with ExitStack() as opened:
        if address == LOCAL:
            cluster = opened.enter_context(
                LocalCluster(
                    threads_per_worker=THREADS,
                    n_workers=os.cpu_count(),
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address=":0",
                    silence_logs=logging.CRITICAL,
                )
            )
            at = cluster.scheduler_address
        else:
            at = address
            _probe(address)
        client = opened.enter_context(Client(at, timeout=CONNECT_TIMEOUT, set_as_default=False))
        if address == LOCAL:
            client.register_plugin(_plugin())
        _check_workers(client, address)
        log.info("cluster at %s: %d workers", at, len(client.nthreads()))
        yield ClusterReader(client, address, sources, concurrency=concurrency)


def _probe(address: str) -> None:
    """Looks before a client is made: one that finds nothing is left half open."""
    from distributed.comm import connect as dial
    from distributed.security import Security

    async def look() -> None:
        arguments = Security().get_connection_args("client")
        comm = await dial(address, timeout=CONNECT_TIMEOUT, **arguments)
        await comm.close()

    try:
        asyncio.run(look())
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"no dask scheduler answers at {address!r} ({first_line(error)}): give an address "
            "such as tcp://host:8786, or local"
        ) from error


def _check_workers(client: Client, address: str) -> None:
    """A worker answers, and all there are have this cogcat."""
    from distributed import TimeoutError as Late

    mine = _VERSION
    try:
        client.submit(_version_there, pure=False).result(timeout=PATIENCE)
        theirs = client.run(_version_there)
    except (Late, TimeoutError) as error:
        raise ConfigError(
            f"the cluster at {address} has had no worker for {PATIENCE:.0f} s"
        ) from error
    except Exception as error:
        raise ConfigError(
            f"workers of the cluster at {address} cannot run cogcat {mine} "
            f"({type(error).__name__}: {first_line(error)}): install it there"
        ) from error
    for worker, found in theirs.items():
        if found != mine:
            raise ConfigError(
                f"worker {worker} of the cluster at {address} has cogcat {found}, this is {mine}"
            )


def _plugin() -> Any:
    from distributed import WorkerPlugin

    class IgnoreInterrupts(WorkerPlugin):
        """Ctrl-C reaches a local cluster's processes too; the crawl ends them when it is done."""

        def setup(self, worker: Any) -> None:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)

    return IgnoreInterrupts()
