"""What a crawl that died left behind: commits that are in the repository and not in SQL.

The store says what is ingested. The commit names its items; the record of the intent says what
each of them was to become; the files say which they are. Where all three agree the scene is
recorded as if its crawl had lived. Where they do not (a file has changed, or is gone) it stays
pending, and a crawl that meets it again writes it at the index its id already has.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from operator import add

import icechunk
from sqlalchemy import Engine
from zarr.core.sync import sync

from catalog import heads, records, registry
from catalog.blame import is_everyones, of_scene
from catalog.commit_check import Foreign, own_commits
from catalog.contents import StoredScene, is_unchanged, read_scenes
from catalog.cube import refs_digest, scene_references
from catalog.cube_writer import Cube, Placement, cube_epsg, read_cubes, seconds
from catalog.database import read_transaction, write_transaction
from catalog.errors import ConfigError, HeaderError, StoreError, UsageError
from catalog.header import Header, Reads
from catalog.known import indexed_states, intended_items, wanted_scenes
from catalog.recorded import AssetRecord, Commit, IndexedScene, IndexedState, Raster
from catalog.repository import Repository, Snapshot
from catalog.scene import Scene
from catalog.scene_files import SceneFiles, assemble, why_not

log = logging.getLogger(__name__)

SHOWN = 5
"""Names of other branches in a warning."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was mended."""

    branches: int
    """Whose head in the repository was ahead of the recorded one."""
    commits: int
    """That were not recorded."""
    scenes: int
    """Of those commits, recorded now."""
    withdrawn: int
    """That those commits took out."""
    pending: int
    """Of those commits, left for the next crawl that meets them."""
    requests: int
    """GET requests to files."""


@dataclass(frozen=True, slots=True)
class Behind:
    """A branch of which SQL does not have all commits, or of which the repository has commits that
    are not cogcat's."""

    branch: str
    collection: str
    tile: str
    since: str | None
    """The last commit that is recorded; None where none of the branch is."""
    history: tuple[Snapshot, ...]
    """What is not recorded and ours, oldest first."""
    foreign: Foreign | None = None
    """What stands on top of ``history`` and is not ours."""
    mend: tuple[str, datetime] | None = None
    """The head to be recorded first, and its time: the one that is belongs to no recorded commit,
    or to an earlier one."""

    def commit(
        self, snapshot: Snapshot, *, epsg: int, origin: tuple[float, float] | None = None
    ) -> Commit:
        """What is recorded of one of ``history``."""
        return Commit(
            branch=self.branch,
            collection=self.collection,
            tile=self.tile,
            epsg=epsg,
            snapshot_id=snapshot.id,
            parent_id=snapshot.parent_id,
            written_at=snapshot.written_at,
            origin=origin,
        )

    def last_of(self, item: str) -> Snapshot:
        """The last commit of ``history`` that wrote a scene."""
        return next(found for found in reversed(self.history) if item in found.scenes)

    def before(self, forged: _ForgedError) -> Behind:
        """What is left without a commit that proved not to be ours, and those after it."""
        at = self.history.index(forged.snapshot)
        after = len(self.history) - at - 1 + (self.foreign.after + 1 if self.foreign else 0)
        foreign = Foreign(forged.snapshot.id, forged.reason, after)
        return replace(self, history=self.history[:at], foreign=foreign)

    def refusal(self, repository: Repository) -> str:
        """What is said of ``foreign``, and what to do."""
        assert self.foreign is not None
        last = self.history[-1].id if self.history else self.since
        more = f", nor are the {self.foreign.after} after it" if self.foreign.after else ""
        return (
            f"branch {self.branch} of {repository.location}: commit {self.foreign.snapshot_id} is "
            f"not of cogcat's making: {self.foreign.reason}. It is not recorded{more}; readers go "
            f"on at {last}. `cogcat repair --reset {shlex.quote(self.branch)}` sets the branch "
            "back to that, and crawls go on from there"
        )


def unrecorded(engine: Engine, repository: Repository, repository_id: int) -> Iterator[Behind]:
    """Branches of which the repository has commits that SQL does not have, by name. Where there
    are none it costs one look at the heads of both. Branches that are not cogcat's are left out,
    with one warning.

    Raises:
        StoreError: a branch that SQL records is not in the repository, or not with that history.
    """
    with read_transaction(engine) as connection:
        recorded = heads.recorded_heads(connection, repository_id)
    there = repository.branches()
    if missing := sorted(
        name for name, (head, _) in recorded.items() if head and name not in there
    ):
        raise StoreError(
            f"{repository.location} has no branch {missing[0]}, which the catalog records: is "
            f"this the catalog's own repository? If it is, `cogcat repair --reset "
            f"{shlex.quote(missing[0])}` makes it again at the recorded snapshot"
        )
    others: list[str] = []
    for branch in sorted(there):
        head, is_own = recorded.get(branch, (None, False))
        if is_own and repository.head(branch) == head:
            continue
        with read_transaction(engine) as connection:
            known = dict(heads.branch_snapshots(connection, repository_id, branch))
        found = _behind(repository, branch, head, known)
        if found is None:
            continue
        if branch not in recorded and not found.history:
            others.append(branch)
            continue
        yield found
    if others:
        log.warning(
            "%s: %d branches are not cogcat's and are left alone: %s",
            repository.location, len(others),
            ", ".join(map(ascii, others[:SHOWN])) + (" …" if len(others) > SHOWN else ""),
        )  # fmt: skip


def _behind(
    repository: Repository,
    branch: str,
    head: str | None,
    known: Mapping[str, datetime],
) -> Behind | None:
    """What there is to do for a branch whose ``head`` as recorded (None: there is no record) is not
    the repository's, or none of its recorded commits ``known``; None for nothing."""
    since: str | None
    if head in known and max(known, key=lambda name: known[name]) == head:
        history, since = repository.history(branch, since=head), head
    else:
        whole = repository.history(branch, since=None)
        at = {snapshot.id: number for number, snapshot in enumerate(whole)}
        since = max(known.keys() & at.keys(), key=lambda name: at[name], default=None)
        later = [name for name in known if since is None or known[name] > known[since]]
        if later:
            # As for any head that is not there.
            repository.history(branch, since=later[-1])
        history = whole[at[since] + 1 :] if since else whole
    mend = None
    if head is not None and head != (since or (first := repository.first_snapshot())):
        mend = (since, known[since]) if since else (first, datetime.now(UTC))
    remains = since is None and bool(history) and repository.has_expired()
    own, foreign = own_commits(repository, branch, history, remains=remains)
    if not own and foreign is None and mend is None:
        return None  # made, and no more
    collection, _, tile = branch.rpartition("/")
    return Behind(branch, collection, tile, since, own, foreign, mend)


async def recover(
    engine: Engine, repository: Repository, repository_id: int, reader: Reads, crawl: int | None
) -> Recovered:
    """Records every commit that is in the repository and not in SQL. Nothing to do is the rule.

    Raises:
        StoreError: as ``unrecorded``; or a commit is not of cogcat's making: what comes before it
            is recorded.
        ConfigError: the commits are of no crawl that this database knows: it was lost, is an old
            copy, or a rebuild of it did not come to its end.
    """
    total = Recovered(0, 0, 0, 0, 0, 0)
    found = await asyncio.to_thread(lambda: list(unrecorded(engine, repository, repository_id)))
    if any(behind.history for behind in found):
        with read_transaction(engine) as connection:
            if registry.is_half_rebuilt(connection, repository_id):
                raise ConfigError(
                    "a rebuild of the database did not come to its end: run `cogcat rebuild` again"
                )
    refused: list[str] = []
    # Where scenes have left for another branch, that one first: they are there, and not gone.
    found.sort(key=lambda behind: any(snapshot.moved for snapshot in behind.history))
    for behind in found:
        mend_head(engine, repository_id, behind)
        done = Recovered(1 if behind.mend else 0, 0, 0, 0, 0, 0)
        while behind.history:
            try:
                done = await _record(engine, repository, repository_id, reader, crawl, behind)
            except _ForgedError as forged:
                # Of the commits before it, each is as it was left by one that is ours.
                behind = behind.before(forged)
                continue
            log.warning(
                "%s: %d commits of a crawl that died are recorded now: %d scenes, %d withdrawn, "
                "%d still pending",
                behind.branch, len(behind.history), done.scenes, done.withdrawn, done.pending,
            )  # fmt: skip
            break
        if behind.foreign is not None:
            refused.append(behind.refusal(repository))
        total = Recovered(*map(add, astuple(total), astuple(done)))
    if refused:
        others = f"; so are commits of {len(refused) - 1} other branches" if refused[1:] else ""
        raise StoreError(refused[0] + others)
    return total


def reset_branches(
    engine: Engine, repository: Repository, repository_id: int, branches: Sequence[str]
) -> None:
    """Sets branches of the repository to their recorded heads; one that is gone is made again.

    Raises:
        UsageError: the catalog records no such branch.
        StoreError: the repository has a recorded head no more.
    """
    if not branches:
        return
    with read_transaction(engine) as connection:
        recorded = heads.recorded_heads(connection, repository_id)
    for branch in branches:
        head, _ = recorded.get(branch, ("", False))
        if not head:
            raise UsageError(f"the catalog records no branch {branch!a} of {repository.location}")
    for branch in branches:
        head, _ = recorded[branch]
        if repository.head(branch) != head:
            repository.reset(branch, head)
            log.warning("%s: set back to its recorded head %s", branch, head)


def mend_head(engine: Engine, repository_id: int, behind: Behind) -> None:
    """Records the head that a branch has by its recorded commits."""
    if behind.mend is None:
        return
    snapshot, moment = behind.mend
    with write_transaction(engine) as connection:
        records.move_head(connection, repository_id, behind.branch, snapshot, moment)
    log.warning("%s: its recorded head was not its last recorded commit, and is now", behind.branch)


async def _record(
    engine: Engine,
    repository: Repository,
    repository_id: int,
    reader: Reads,
    crawl: int | None,
    behind: Behind,
) -> Recovered:
    history = behind.history
    ids = list(dict.fromkeys(item for snapshot in history for item in snapshot.scenes))
    store = repository.store(history[-1].id)
    cubes = await asyncio.to_thread(lambda: sync(read_cubes(store)))
    epsg = await asyncio.to_thread(cube_epsg, store)
    stored = await asyncio.to_thread(read_scenes, repository, store, set(ids))
    places = {name for cube in cubes.values() for name in cube.ids}
    # What a later one of the commits wrote again is there.
    named = dict.fromkeys(item for snapshot in history for item in snapshot.withdrawn)
    gone = [item for item in named if item not in places]
    ids = [item for item in ids if item not in gone and item in stored]
    with read_transaction(engine) as connection:
        known = indexed_states(connection, repository_id, behind.collection, ids)
        wanted = wanted_scenes(connection, repository_id, behind.collection, ids)
        meant = intended_items(connection, repository_id, behind.collection, ids)
        starts = registry.crawl_starts(connection, repository_id)
    for item in ids:
        # A crawl that died had recorded its intent. Two at once may write the same scene twice.
        if item in meant or (item in known and _is_as_recorded(stored[item], known[item])):
            continue
        snapshot = behind.last_of(item)
        began = starts.get(int(snapshot.crawl)) if snapshot.crawl.isdecimal() else None
        if began is None or began > snapshot.written_at:
            raise ConfigError(
                f"branch {behind.branch} of {repository.location} holds commits that the database "
                f"knows nothing of ({item} …): run `cogcat rebuild`, which records them"
            )
        raise _ForgedError(snapshot, f"no crawl has set out to write {item!a} so")
    requests = 0
    adopted: list[IndexedScene] = []
    for item, scene in wanted.items():
        there = stored[item]
        requests += len(scene.assets)
        headers = await reader.read_all(scene.assets)
        if fault := await asyncio.to_thread(_forgery, scene, there, headers, store, cubes):
            raise _ForgedError(behind.last_of(item), f"{item}: {fault}")
        try:
            # Whatever it was committed without: the digest tells whether it is the same now.
            found = assemble(scene, headers, last_try=True)
        except BaseException as error:
            if is_everyones(error):
                raise
            # The crawl that takes it up records why.
            log.warning("%s", of_scene(error, item))
            continue
        if there.refs_sha256 == found.references.sha256:
            adopted.append(indexed_scene(scene, found, there.place))
        else:
            log.warning("%s: its files are no longer those its commit refers to", item)

    def record() -> None:
        with write_transaction(engine) as connection:
            registry.register_collection(connection, behind.collection)
            for number, snapshot in enumerate(history, 1):
                # All are read at the last of the commits: there each is as it was left.
                last = number == len(history)
                records.record_indexed(
                    connection,
                    repository_id,
                    behind.commit(snapshot, epsg=epsg),
                    adopted if last else [],
                    crawl,
                    withdrawn=gone if last else [],
                )
            if left := [item for item in ids if item not in {one.scene.id for one in adopted}]:
                records.record_left(
                    connection, repository_id, behind.collection, behind.branch, left
                )

    try:
        record()
    except BaseException as error:
        if is_everyones(error):
            raise
        commit = replace(behind.commit(history[-1], epsg=epsg), parent_id=None)
        adopted, refused = recordable(engine, repository_id, commit, adopted, crawl)
        if not refused:
            raise
        for item, reason in refused.items():
            log.warning("%s", of_scene(reason, item))
        record()
    gone = [item for item in gone if not any(item in found.moved for found in history)]
    return Recovered(1, len(history), len(adopted), len(gone), len(ids) - len(adopted), requests)


def _is_as_recorded(stored: StoredScene, state: IndexedState) -> bool:
    return (stored.refs_sha256, seconds(stored.time), stored.boa_offset) == (
        state.refs_sha256,
        seconds(state.datetime),
        state.boa_offset,
    )


def _forgery(
    scene: Scene,
    stored: StoredScene,
    headers: Sequence[Header | HeaderError],
    store: icechunk.IcechunkStore,
    cubes: Mapping[str, Cube],
) -> str | None:
    """Why our writer has not written ``scene`` as it is ``stored``, whatever has become of its
    files since; None where it may have."""
    if seconds(stored.time) != seconds(scene.datetime) or stored.boa_offset != scene.boa_offset:
        return "its time or boa_offset is not that of the scene"
    sound = [header for header in headers if not isinstance(header, HeaderError)]
    bands = {asset.band for asset in scene.assets}
    if extra := sorted(stored.files.keys() - bands):
        return f"it refers to files of {', '.join(map(ascii, extra))}, which the scene has not"
    try:
        arrays = scene_references(scene, sound).arrays
    except BaseException as error:
        if is_everyones(error):
            raise
        return None
    for header in sound:
        band = header.asset.band
        mine = [array for array in arrays if array.spec.band == band]
        digest = refs_digest((a.spec.path, a.location, a.offsets, a.lengths) for a in mine)
        file = stored.files.get(band)
        if file is None:
            # Its file could not be read then: a scene is written without such a band, and is only
            # adopted where that is so now.
            continue
        if file.location != header.location:
            return f"{band}: it refers to {file.location[:200]!a}"
        if file.refs_sha256 == digest:
            specs = cubes[stored.place.root].specs
            if any(specs.get(array.spec.path) != array.spec for array in mine):
                return f"{band}: its array is not as the file says"
        elif is_unchanged(store, file):
            return f"{band}: it refers to other bytes of the file than its header says"
    return None


class _ForgedError(Exception):
    """A commit that names its scenes as ours do, and left them as ours would not."""

    def __init__(self, snapshot: Snapshot, reason: str) -> None:
        self.snapshot, self.reason = snapshot, reason
        super().__init__(reason)


def recordable(
    engine: Engine,
    repository_id: int,
    commit: Commit,
    scenes: Sequence[IndexedScene],
    crawl: int | None,
) -> tuple[list[IndexedScene], dict[str, BaseException]]:
    """Those of ``scenes`` that the database takes as of ``commit``, and why it refuses the others,
    by item id. Each is tried and taken back."""
    taken: list[IndexedScene] = []
    refused: dict[str, BaseException] = {}
    for scene in scenes:
        try:
            with write_transaction(engine) as connection:
                records.record_indexed(connection, repository_id, commit, [scene], crawl)
                raise _TakenBack
        except _TakenBack:
            taken.append(scene)
        except BaseException as error:
            if is_everyones(error):
                raise
            refused[scene.scene.id] = error
    return taken, refused


class _TakenBack(Exception):
    """Ends a transaction whose work is not to stay."""


def indexed_scene(scene: Scene, found: SceneFiles, place: Placement) -> IndexedScene:
    """What is recorded of a scene that is in the store at ``place``."""
    return IndexedScene(
        scene=scene,
        root=place.root,
        time_index=place.time_index,
        refs_sha256=found.references.sha256,
        files=tuple(map(file_record, found.headers)),
        warnings=(
            *(warning for header in found.headers for warning in header.warnings),
            *why_not(found.faults),
        ),
        missing=(*scene.refused, *found.faults),
    )


def file_record(header: Header) -> AssetRecord:
    """What is recorded of a file whose header was read."""
    return AssetRecord(
        band=header.asset.band,
        href=header.asset.href,
        size=header.size,
        etag=header.etag,
        last_modified=header.last_modified,
        checksum=header.asset.checksum,
        header_sha256=header.sha256,
        header_length=header.read,
        raster=Raster(
            width=header.levels[0].width,
            height=header.levels[0].height,
            transform=header.transform,
            dtype=header.levels[0].dtype,
            nodata=header.levels[0].nodata,
        ),
    )
