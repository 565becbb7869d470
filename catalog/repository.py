"""The Icechunk repository: open, create, containers, and snapshots to read. Knows no SQL.

``cube_writer.py`` writes batches through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import re
import shlex
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import icechunk
import numpy as np
from filelock import FileLock
from icechunk.credentials import (
    AzureRefreshableCredential,
    HttpAccess,
    LocalFileSystemAccess,
    azure_anonymous_credentials,
    azure_refreshable_credentials,
)
from icechunk.storage import azure_store
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync

from catalog.cube import main_document
from catalog.errors import ConfigError, NotFoundError, StoreError
from catalog.settings import BUILT_IN_SOURCES, Source
from catalog.signing import token
from catalog.storage import (
    Options,
    absolute,
    is_remote,
    open_storage,
    patiently,
    probe_conditional_writes,
    request_settings,
    storage_errors,
    store_errors,
)

MANIFEST_STEPS = 32
"""Time steps of one array in one manifest: what an append rewrites, what a reader fetches."""
INLINE_BYTES = 16_384
"""Coordinate chunks up to this size lie in the manifest: one object less per array and commit."""
CACHED_NODES, CACHED_REFERENCES = 1_000, 100_000
"""That a writer remembers: a dozen snapshots of a tile, a batch's manifests. icechunk's own limits,
500 000 and 15 000 000, are a reader's."""
NEVER = 65_535
"""References in a manifest from which on icechunk compresses each URL alone; more than
``MANIFEST_STEPS`` steps have (3 872 at 10 m). It made commits up to twice as slow, to save a
fortieth of a manifest: the manifest is compressed whole in any case."""

MOST_NAMES = 100_000
"""Scenes that one commit can name; a crawl's batch has ``crawl.BATCH``."""
LONGEST_NAME = 1_024
"""Bytes of a scene's id that is found in a repository; later ones have 255 at most."""
MOST_OF_MAIN = 100
"""Commits of ``main`` that are looked at for an id, from the first; ours is the second."""
INITS = 50
"""Tenths of a second for another process to make the same repository."""
_AT_ONCE = r"clean prefixes|was updated after|config was updated|already exists"

UNPICKLED = 64
"""Stores that came from other processes, kept open in this one."""


_used = _forked = False


def _after_fork() -> None:
    global _forked
    _forked = _used


os.register_at_fork(after_in_child=_after_fork)


def use_icechunk() -> None:
    """Icechunk's threads start with its first use, and do not come along when a process forks: in
    the child every call would wait for them for ever.

    Raises:
        StoreError: this process was forked from one that had used Icechunk.
    """
    global _used
    if _forked:
        raise StoreError(
            "this process was forked from one that had opened a repository, which cannot be used "
            "here: start workers by 'spawn' or 'forkserver', not by 'fork'"
        )
    _used = True


class SnapshotStore(icechunk.IcechunkStore):
    """A read-only Zarr store at one snapshot, which never changes: what was read of it once, and
    taken apart, is kept in ``known``.

    It pickles as a few kilobytes; in a process, all unpickled copies are one, so that the
    snapshot and its manifests are fetched once there, however many tasks read.
    """

    def __init__(
        self,
        store: icechunk.IcechunkStore,
        snapshot: str = "",
        repository: Repository | None = None,
        branch: str = "",
    ) -> None:
        super().__init__(store._store, read_only=True)
        self.known: dict[Any, Any] = {}
        self.snapshot, self.branch = snapshot, branch
        """The branch where it is known, for messages."""
        self.repository = repository
        """None in a copy that came from another process."""

    @property
    def about(self) -> str:
        """Which snapshot of what this is, for messages."""
        where = f" of {self.repository.location}" if self.repository else ""
        branch = f"branch {self.branch} at " if self.branch else ""
        return f"{branch}snapshot {self.snapshot}{where}"

    def has_expired(self) -> bool | None:
        """Whether the repository no longer has the snapshot; None where it cannot be asked."""
        if self.repository is None:
            return None
        try:
            self.repository.icechunk.reopen().readonly_session(snapshot_id=self.snapshot)
        except (icechunk.SnapshotNotFoundError, icechunk.InvalidInputError):
            return True
        except icechunk.IcechunkError:
            return None
        return False

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        use_icechunk()
        return await super().get(key, prototype, byte_range)

    def __reduce__(self) -> tuple[Any, ...]:
        plain = icechunk.IcechunkStore(self._store, read_only=True)
        return _unpickled, (pickle.dumps(plain), self.snapshot, self.branch)


def once[T](store: icechunk.IcechunkStore, key: Any, make: Callable[[], T]) -> T:
    """What ``make`` gives of a store: made once where the store never changes, and not to be."""
    if not isinstance(store, SnapshotStore):
        return make()
    if key not in store.known:
        store.known[key] = make()
    found: T = store.known[key]
    return found


class _RefusedStore(SnapshotStore):
    """In a forked process: refuses when it is read, and not before, since an error while a task is
    unpickled would end the worker and leave its parent waiting."""

    def __init__(self) -> None:
        self.known, self.repository = {}, None
        self.snapshot = self.branch = ""


@lru_cache(UNPICKLED)
def _unpickled(data: bytes, snapshot: str = "", branch: str = "") -> SnapshotStore:
    if _forked:
        return _RefusedStore()
    use_icechunk()
    return SnapshotStore(pickle.loads(data), snapshot, None, branch)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One commit of a branch."""

    id: str
    parent_id: str
    written_at: datetime
    """Aware, UTC."""
    scenes: tuple[str, ...]
    """Item ids it wrote."""
    withdrawn: tuple[str, ...]
    """Item ids it took out."""
    crawl: str = ""
    """That made it."""
    moved: tuple[str, ...] = ()
    """Those of ``withdrawn`` that are written to another branch next."""
    fault: str | None = None
    """Why its metadata is not of a commit of cogcat's; it then names nothing."""


class Repository:
    """One Icechunk repository, local (a path) or on S3 (``s3://bucket/prefix``)."""

    def __init__(self, location: str, icechunk_repository: icechunk.Repository) -> None:
        self.location = absolute(location)
        self.icechunk = icechunk_repository

    @property
    def id(self) -> str:
        """A UUID, made with the repository and kept in the attributes of ``main``'s root: it stays
        when the repository is moved, or addressed in another way.

        Raises:
            ConfigError: it has none: cogcat did not make it.
        """
        if self.said_id is None:
            raise ConfigError(
                f"repository {self.location} was not made by cogcat (its main branch has no id): "
                "name another place: `cogcat init --repository ELSEWHERE` makes one there"
            )
        return self.said_id

    @cached_property
    def said_id(self) -> str | None:
        """``id`` as ``main`` says it now, where it says one: anyone may have committed to it."""
        with storage_errors(self.location):
            return patiently(
                self.location, lambda: _id_in(self.icechunk.readonly_session(branch="main"))
            )

    def first_id(self) -> tuple[str, str] | None:
        """The oldest commit of ``main`` that says an id, and that id: what the repository was made
        with, whoever has committed to ``main`` since."""

        def read() -> tuple[str, str] | None:
            for info in list(self.icechunk.ancestry(branch="main"))[::-1][:MOST_OF_MAIN]:
                found = _id_in(self.icechunk.readonly_session(snapshot_id=info.id))
                if found is not None:
                    return info.id, found
            return None

        with storage_errors(self.location):
            return patiently(self.location, read)

    def introduce_again(self, uid: str) -> None:
        """Writes ``main`` anew, with ``uid`` as the repository's id and nothing else."""
        self.reset("main", self.first_snapshot())
        with self.writing(), store_errors(f"branch main of {self.location}"):
            self._say(uid)

    @classmethod
    def open(
        cls,
        location: str,
        sources: Sequence[Source] = (),
        options: Options | None = None,
        *,
        forgetful: bool = False,
    ) -> Repository:
        """An existing repository, authorized to read from its containers.

        Args:
            location: path or ``s3://bucket/prefix``.
            sources: one that is not built in says where the container of its name is read now,
                whatever the repository remembers (``create`` makes it remember); the built-in
                ones give credentials only. Other containers are read anonymously.
            options: ``region``, ``endpoint``, ``anonymous`` of an S3 repository.
            forgetful: keeps few of the snapshots and manifests it met, for one that writes: it
                meets each once, and there is no end of them.

        Raises:
            ConfigError: there is none, or its storage does not answer.
        """
        use_icechunk()
        storage = open_storage(location, options or {})
        with storage_errors(location):
            # One round to the storage: what it remembers comes with it, and opening it once more,
            # with what is known then, asks nothing.
            try:
                found = patiently(
                    location,
                    lambda: icechunk.Repository.open(
                        storage, config=_config({}, forgetful=forgetful)
                    ),
                )
            except icechunk.RepositoryNotFoundError:
                raise ConfigError(f"no repository at {location}: run `cogcat init`") from None
            containers = dict(found.config.virtual_chunk_containers or {})
            names = {container.name for container in containers.values()}
            for source in sources:
                if source.name in names and source not in BUILT_IN_SOURCES:
                    containers = _pointed(containers, source, location)
            repository = patiently(
                location,
                lambda: found.reopen(
                    config=_config(containers, forgetful=forgetful),
                    authorize_virtual_chunk_access=_credentials(containers, sources),
                ),
            )
        return cls(location, repository)

    @classmethod
    def create(
        cls, location: str, sources: Sequence[Source], options: Options | None = None
    ) -> Repository:
        """The repository at ``location``, made if there is none, with a container for each source.

        Safe to repeat. A source whose ``url`` changed re-points its container: references
        are relative to it, so they need no rewriting.

        Raises:
            ConfigError: the storage does not answer, or ignores conditional writes; or the
                repository there is not one of cogcat's.
        """
        use_icechunk()
        for left in range(INITS, -1, -1):
            try:
                with storage_errors(location):
                    return cls._create(location, sources, options or {})
            except ConfigError as error:
                # Another `cogcat init` is making it at this moment, or changing its settings.
                if not left or not re.search(_AT_ONCE, str(error)):
                    raise
            time.sleep(0.1)
        raise AssertionError(location)

    @classmethod
    def _create(cls, location: str, sources: Sequence[Source], options: Options) -> Repository:
        storage = open_storage(location, options)
        exists = patiently(
            location, lambda: icechunk.Repository.exists(storage, request_settings())
        )
        if not exists:
            probe_conditional_writes(location, options)
        saved = (
            patiently(location, lambda: icechunk.Repository.fetch_config(storage))
            if exists
            else None
        )
        containers = dict((saved.virtual_chunk_containers or {}) if saved else {})
        before = containers
        for source in sources:
            containers = _pointed(containers, source, location)
        config, access = _config(containers), _credentials(containers, sources)
        repository = (
            patiently(
                location,
                lambda: icechunk.Repository.open(
                    storage, config=config, authorize_virtual_chunk_access=access
                ),
            )
            if exists
            else icechunk.Repository.create(
                storage, config=config, authorize_virtual_chunk_access=access
            )
        )
        made = cls(location, repository)
        made._introduce()
        if before != containers:
            repository.save_config()
        return made

    def _introduce(self) -> str:
        """Writes into ``main`` what this repository is, unless something is there; its id.

        Raises:
            ConfigError: what is there is not cogcat's.
        """
        with self.writing():
            commits = sum(1 for _ in islice(self.icechunk.ancestry(branch="main"), 2))
            if commits > 1 or self.branches():
                return first[1] if (first := self.first_id()) else self.id
            # Another `cogcat init` at the same moment may be first: then its id is the one.
            with contextlib.suppress(icechunk.ConflictError):
                self._say(str(uuid.uuid4()))
        return self.id

    def _say(self, uid: str) -> None:
        """Commits to ``main`` what this repository is."""
        session = self.icechunk.writable_session("main")
        put_documents(session.store, {"zarr.json": main_document(uid)})
        session.commit("cogcat: what this repository is")
        self.__dict__.pop("said_id", None)

    @property
    def containers(self) -> dict[str, str]:
        """Name → URL prefix of every virtual chunk container."""
        containers = self.icechunk.config.virtual_chunk_containers or {}
        return {c.name or prefix: prefix for prefix, c in containers.items()}

    def branches(self) -> set[str]:
        with store_errors(self.location):
            return patiently(self.location, self.icechunk.list_branches) - {"main"}

    def head(self, branch: str) -> str | None:
        """The branch's head snapshot id, or None where there is no such branch."""
        with store_errors(f"branch {branch} of {self.location}"):
            try:
                return patiently(self.location, lambda: self.icechunk.lookup_branch(branch))
            except icechunk.RefNotFoundError:
                return None

    def first_snapshot(self) -> str:
        """The snapshot every branch starts from: the empty one a repository is born with."""
        with store_errors(self.location):
            return patiently(
                self.location, lambda: list(self.icechunk.ancestry(branch="main"))[-1].id
            )

    def history(self, branch: str, *, since: str | None) -> list[Snapshot]:
        """The branch's commits after ``since`` (None: all but the repository's first snapshot),
        oldest first.

        Raises:
            StoreError: ``since`` is not in the branch's history.
        """

        def read() -> tuple[list[Snapshot], bool]:
            found: list[Snapshot] = []
            for info in self.icechunk.ancestry(branch=branch):
                if info.id == since:
                    return found[::-1], True
                if info.parent_id is None:
                    break
                found.append(_snapshot(info))
            return found[::-1], since is None

        with store_errors(f"branch {branch} of {self.location}"):
            found, reached = patiently(self.location, read)
        if not reached:
            raise StoreError(
                f"branch {branch} of {self.location} does not hold snapshot {since}, which the "
                "catalog records as its head: is this the catalog's own repository? If it is, "
                "another has set the branch back or written it anew: `cogcat repair --reset "
                f"{shlex.quote(branch)}` sets it to the recorded snapshot again"
            )
        return found

    def has_expired(self) -> bool:
        """Whether snapshots of this repository have ever been expired: then a branch's first commit
        holds scenes of commits that are no more."""

        def look() -> bool:
            return any("Expiration" in repr(u.kind) for u in self.icechunk.ops_log())

        with store_errors(self.location):
            return patiently(self.location, look)

    def reset(self, branch: str, snapshot_id: str) -> None:
        """Sets a branch, made if there is none, to a snapshot; what was committed after it is
        no more in its history.

        Raises:
            StoreError: the repository has no such snapshot (any more), or refuses.
        """
        with self.writing(), store_errors(f"branch {branch} of {self.location}"):
            try:
                if branch in self.icechunk.list_branches():
                    self.icechunk.reset_branch(branch, snapshot_id)
                else:
                    self.icechunk.create_branch(branch, snapshot_id)
                self.__dict__.pop("said_id", None)
            except (icechunk.SnapshotNotFoundError, icechunk.InvalidInputError) as error:
                raise StoreError(
                    f"branch {branch}: {self.location} has no snapshot {snapshot_id} any more: put "
                    "back a copy of the repository, or run `cogcat rebuild` into an empty database"
                ) from error

    def store(self, snapshot_id: str) -> SnapshotStore:
        """A read-only Zarr store at ``snapshot_id``; pickles to other processes.

        Raises:
            NotFoundError: the repository has no such snapshot.
            StoreError: the repository failed, or is damaged.
        """

        def open_it() -> SnapshotStore:
            session = self.icechunk.readonly_session(snapshot_id=snapshot_id)
            return SnapshotStore(session.store, snapshot_id, self)

        with store_errors(f"{self.location}, snapshot {snapshot_id}"):
            try:
                return patiently(self.location, open_it)
            except (icechunk.SnapshotNotFoundError, icechunk.InvalidInputError) as error:
                raise NotFoundError(f"no snapshot {snapshot_id} in {self.location}") from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Held around creating a branch and around every commit.

        On a local file system two processes that commit at once lose commits without an
        error, even to different branches; an object store's conditional writes need no help.
        """
        if is_remote(self.location):
            yield
            return
        path = Path(self.location)
        with FileLock(path.with_name(f".{path.name}.lock")):
            yield


def _id_in(session: icechunk.Session) -> str | None:
    """The repository's id in a snapshot of ``main``, which anyone may have written."""
    document = read_document(session.store, "zarr.json")
    attributes = document.get("attributes") if isinstance(document, dict) else None
    about = attributes.get("cogcat") if isinstance(attributes, dict) else None
    found = about.get("id") if isinstance(about, dict) else None
    return found if isinstance(found, str) and found else None


def _snapshot(info: icechunk.SnapshotInfo) -> Snapshot:
    """A commit as its metadata says; anyone may have written those."""
    metadata = info.metadata
    known = isinstance(metadata, dict) and isinstance(metadata.get("crawl"), str)
    lists = [metadata.get(key, []) if known else [] for key in ("scenes", "withdrawn", "moved")]
    if not known or "scenes" not in metadata:
        fault: str | None = "its metadata names no crawl and no scenes"
    elif not all(isinstance(names, list) and len(names) <= MOST_NAMES for names in lists):
        fault = f"its metadata names scenes in no list, or more than {MOST_NAMES}"
    elif not all(is_name(name) for names in lists for name in names):
        fault = "its metadata names what is no scene's id"
    else:
        fault = None
    scenes, withdrawn, moved = (tuple(names) if fault is None else () for names in lists)
    crawl = str(metadata["crawl"])[:100] if known else ""
    return Snapshot(
        info.id, info.parent_id or "", info.written_at, scenes, withdrawn, crawl, moved, fault
    )


def is_name(value: object) -> bool:
    """Whether a value from a repository can be the id of a scene."""
    return (
        isinstance(value, str)
        and value.isprintable()
        and 0 < len(value.encode("utf-8", "surrogatepass")) <= LONGEST_NAME
    )


async def step_references(
    store: icechunk.IcechunkStore, path: str, grid: tuple[int, ...], time_index: int
) -> tuple[Any, NDArray[np.uint64], NDArray[np.uint64]]:
    """What the array at ``path`` refers to at one time step: absolute URLs (strings, empty where
    there is no reference), offsets and lengths in bytes, each of shape ``grid`` (chunks along the
    axes behind time)."""
    urls, offsets, lengths = await steps_references(store, path, grid, [time_index])
    return urls[0], offsets[0], lengths[0]


async def steps_references(
    store: icechunk.IcechunkStore, path: str, grid: tuple[int, ...], steps: Sequence[int]
) -> tuple[Any, NDArray[np.uint64], NDArray[np.uint64]]:
    """``step_references`` of several time steps (rising), each of shape (steps, grid); the array
    is gone through once, however many they are."""
    shape = (len(steps), *grid)
    urls = np.full(shape, "", dtype=np.dtypes.StringDType())
    offsets, lengths = np.zeros(shape, np.uint64), np.zeros(shape, np.uint64)
    async for at, kinds, paths, starts, sizes, _ in store.array_chunk_iterator(f"/{path}"):
        rows = np.flatnonzero(np.isin(at[:, 0], steps))
        place = (np.searchsorted(steps, at[rows, 0]), *at[rows, 1:].T)
        # What lies in the repository itself is no reference of ours: nobody takes it for one.
        urls[place] = np.array(
            [paths[row] if kinds[row] == _VIRTUAL else NO_FILE for row in rows],
            dtype=np.dtypes.StringDType(),
        )
        offsets[place], lengths[place] = starts[rows], sizes[rows]
    return urls, offsets, lengths


NO_FILE = "no file: bytes in the repository"
"""In place of the URL of a chunk that is not a reference."""
_VIRTUAL = 2
"""``icechunk.ChunkType`` of a reference."""


def put_documents(store: icechunk.IcechunkStore, documents: Mapping[str, Any]) -> None:
    """Writes JSON documents by key into a writable session's store."""

    async def put() -> None:
        for key, document in documents.items():
            await put_bytes(store, key, json.dumps(document).encode())

    sync(put())


async def put_bytes(store: icechunk.IcechunkStore, key: str, value: bytes) -> None:
    await store.set(key, default_buffer_prototype().buffer.from_bytes(value))


async def get_document(store: icechunk.IcechunkStore, key: str) -> dict[str, Any] | None:
    """The JSON document at ``key``, or None. Not to be changed: the store may keep it."""
    if isinstance(store, SnapshotStore):
        if key not in store.known:
            store.known[key] = await _document(store, key)
        found: dict[str, Any] | None = store.known[key]
        return found
    return await _document(store, key)


def read_document(store: icechunk.IcechunkStore, key: str) -> dict[str, Any] | None:
    """``get_document``, for who does not await; where the store keeps it, without a turn of the
    event loop, which takes longer than the rest."""
    if isinstance(store, SnapshotStore) and key in store.known:
        found: dict[str, Any] | None = store.known[key]
        return found
    return sync(get_document(store, key))


def expect_documents(store: icechunk.IcechunkStore, keys: Iterable[str]) -> None:
    """Fetches documents that are to be read, all at once where the store keeps them."""
    if isinstance(store, SnapshotStore):
        unknown = [key for key in keys if key not in store.known]
        if len(unknown) > 1:
            sync(_documents(store, unknown))


async def _documents(store: icechunk.IcechunkStore, keys: Sequence[str]) -> None:
    await asyncio.gather(*(get_document(store, key) for key in keys))


async def _document(store: icechunk.IcechunkStore, key: str) -> dict[str, Any] | None:
    value = await store.get(key, default_buffer_prototype())
    return None if value is None else json.loads(value.to_bytes())


def _config(
    containers: Mapping[str, icechunk.VirtualChunkContainer], *, forgetful: bool = False
) -> icechunk.RepositoryConfig:
    config = icechunk.RepositoryConfig.default()
    if forgetful:
        config.caching = icechunk.CachingConfig(
            num_snapshot_nodes=CACHED_NODES, num_chunk_refs=CACHED_REFERENCES
        )
    config.inline_chunk_threshold_bytes = INLINE_BYTES
    config.manifest = icechunk.ManifestConfig(
        splitting=icechunk.ManifestSplittingConfig.from_dict(
            {
                icechunk.ManifestSplitCondition.AnyArray(): {
                    icechunk.ManifestSplitDimCondition.DimensionName("time"): MANIFEST_STEPS
                }
            }
        ),
        # To find what to fetch ahead, a session looks every manifest up: the more, the more steps.
        preload=icechunk.ManifestPreloadConfig(max_total_refs=0),
        virtual_chunk_location_compression=(
            icechunk.ManifestVirtualChunkLocationCompressionConfig(min_num_chunks=NEVER)
        ),
        max_concurrent_manifest_fetches_during_commit=32,
    )
    config.storage = request_settings()
    for container in containers.values():
        config.set_virtual_chunk_container(container)
    return config


Containers = Mapping[str, icechunk.VirtualChunkContainer]


def _pointed(
    containers: Containers, source: Source, location: str
) -> dict[str, icechunk.VirtualChunkContainer]:
    """``containers`` by prefix, with the one of the source's name at the source's url."""
    other = containers.get(source.container_url)
    if other is not None and other.name != source.name:
        raise ConfigError(
            f"source {source.name!r}: {source.container_url} is the container {other.name!r} of "
            f"repository {location}, and references name it: call the source so"
        )
    others = {prefix: c for prefix, c in containers.items() if c.name != source.name}
    return {**others, source.container_url: _container(source)}


def _container(source: Source) -> icechunk.VirtualChunkContainer:
    store: Any
    if source.scheme == "s3":
        store = icechunk.s3_store(
            region=source.region,
            endpoint_url=source.endpoint,
            allow_http=bool(source.endpoint and source.endpoint.startswith("http://")),
            anonymous=source.anonymous and not source.requester_pays,
            s3_compatible=bool(source.endpoint),
            force_path_style=bool(source.endpoint),
            requester_pays=source.requester_pays,
        )
    elif source.scheme == "az":
        options = {}
        if source.endpoint:
            options["azure_storage_endpoint"] = source.endpoint
            options["allow_http"] = str(source.endpoint.startswith("http://")).lower()
        store = azure_store(account=source.azure[0], config=options)
    elif source.scheme == "file":
        store = icechunk.local_filesystem_store(unquote(urlsplit(source.url).path))
    else:
        store = icechunk.http_store(
            {"allow_http": "true"} if source.scheme == "http" else None,
        )
    return icechunk.VirtualChunkContainer(source.container_url, store, name=source.name)


def _credentials(
    containers: Mapping[str, icechunk.VirtualChunkContainer], sources: Sequence[Source]
) -> Any:
    by_name = {source.name: source for source in sources}
    credentials: dict[str, Any] = {}
    for prefix, container in containers.items():
        source = by_name.get(container.name or "")
        scheme = urlsplit(prefix).scheme
        if scheme == "s3":
            signed = source is not None and (not source.anonymous or source.requester_pays)
            credentials[prefix] = icechunk.s3_credentials(
                anonymous=None if signed else True, from_env=True if signed else None
            )
        elif scheme == "az":
            credentials[prefix] = (
                azure_refreshable_credentials(partial(_azure_credential, *source.azure[:2]))
                if source is not None and source.scheme == "az"
                else azure_anonymous_credentials()
            )
        elif scheme == "file":
            credentials[prefix] = LocalFileSystemAccess
        else:
            credentials[prefix] = HttpAccess
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return icechunk.containers_credentials(credentials)


def _azure_credential(account: str, container: str) -> Any:
    """What icechunk calls when it has no token or the last has expired; picklable with its
    arguments, so that a store sent to another process gets tokens of its own there."""
    given = token(account, container)
    return AzureRefreshableCredential.SasToken(given.query, expires_after=given.use_until)
