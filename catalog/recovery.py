"""What a crawl that died left behind: commits that are in the repository and not in SQL.

The store says what is ingested. The commit names its items; the record of the intent says what
each of them was to become; the files say which they are. Where all three agree the scene is
recorded as if its crawl had lived. Where they do not (a file has changed, or is gone) it stays
pending, and a crawl that meets it again writes it at the index its id already has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from catalog import heads, records, registry
from catalog.cube import SceneReferences, scene_references
from catalog.cube_writer import Placement, cube_epsg, scene_ids, stored_refs_digest
from catalog.database import read_transaction, write_transaction
from catalog.errors import ConfigError, HeaderError, StoreError
from catalog.header import Header, Reads
from catalog.known import known_scenes, wanted_scenes
from catalog.recorded import AssetRecord, Commit, IndexedScene, Raster
from catalog.repository import Repository, Snapshot
from catalog.scene import Scene

log = logging.getLogger(__name__)


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
    """A branch of which SQL does not have all commits."""

    branch: str
    collection: str
    tile: str
    since: str | None
    """The recorded head; None where no commit of the branch is recorded."""
    history: tuple[Snapshot, ...]
    """What is not recorded, oldest first; at least one."""

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


def unrecorded(engine: Engine, repository: Repository, repository_id: int) -> Iterator[Behind]:
    """Branches of which the repository has commits that SQL does not have, by name. Where there
    are none it costs one look at the heads of both.

    Raises:
        StoreError: a branch that SQL records is not in the repository, or not with that history.
    """
    with read_transaction(engine) as connection:
        recorded = heads.branch_heads(connection, repository_id)
    there = repository.branches()
    if missing := sorted(set(recorded) - there):
        raise StoreError(
            f"{repository.location} has no branch {missing[0]}, which the catalog records: is "
            "this the catalog's own repository?"
        )
    for branch in sorted(there):
        head = repository.head(branch)
        since = recorded[branch].snapshot_id if branch in recorded else None
        if head is None or head == since:
            continue
        if history := repository.history(branch, since=since):  # else made, and no more
            collection, _, tile = branch.rpartition("/")
            yield Behind(branch, collection, tile, since, tuple(history))


async def recover(
    engine: Engine, repository: Repository, repository_id: int, reader: Reads, crawl: int | None
) -> Recovered:
    """Records every commit that is in the repository and not in SQL. Nothing to do is the rule.

    Raises:
        StoreError: as ``unrecorded``.
        ConfigError: the commits are of no crawl that this database knows: it was lost, is an old
            copy, or a rebuild of it did not come to its end.
    """
    total = Recovered(0, 0, 0, 0, 0, 0)
    found = await asyncio.to_thread(lambda: list(unrecorded(engine, repository, repository_id)))
    if found:
        with read_transaction(engine) as connection:
            if registry.is_half_rebuilt(connection, repository_id):
                raise ConfigError(
                    "a rebuild of the database did not come to its end: run `cogcat rebuild` again"
                )
    for behind in found:
        scenes, withdrawn, pending, requests = await _record(
            engine, repository, repository_id, reader, crawl, behind
        )
        log.warning(
            "%s: %d commits of a crawl that died are recorded now: %d scenes, %d withdrawn, %d "
            "still pending", behind.branch, len(behind.history), scenes, withdrawn, pending,
        )  # fmt: skip
        total = Recovered(
            total.branches + 1,
            total.commits + len(behind.history),
            total.scenes + scenes,
            total.withdrawn + withdrawn,
            total.pending + pending,
            total.requests + requests,
        )
    return total


async def _record(
    engine: Engine,
    repository: Repository,
    repository_id: int,
    reader: Reads,
    crawl: int | None,
    behind: Behind,
) -> tuple[int, int, int, int]:
    history = behind.history
    ids = list(dict.fromkeys(item for snapshot in history for item in snapshot.scenes))
    store = repository.store(history[-1].id)
    places = await asyncio.to_thread(scene_ids, store)
    # What a later one of the commits wrote again is there.
    named = dict.fromkeys(item for snapshot in history for item in snapshot.withdrawn)
    gone = [item for item in named if item not in places]
    ids = [item for item in ids if item not in gone]
    with read_transaction(engine) as connection:
        known = known_scenes(connection, repository_id, behind.collection, ids)
        wanted = wanted_scenes(connection, repository_id, behind.collection, ids)
    epsg = await asyncio.to_thread(cube_epsg, store)
    for item in ids:
        # A crawl that died had recorded its intent. Two at once may write the same scene twice.
        if item in wanted or item not in places:
            continue
        stored = await asyncio.to_thread(stored_refs_digest, repository, store, places[item])
        if item not in known or known[item].refs_sha256 != stored:
            raise ConfigError(
                f"branch {behind.branch} of {repository.location} holds commits that the database "
                f"knows nothing of ({item} …): run `cogcat rebuild`, which records them"
            )
    requests = 0
    adopted: list[IndexedScene] = []
    for item, scene in wanted.items():
        place = places.get(item)
        if place is None:
            continue
        requests += len(scene.assets)
        try:
            headers = [_sound(found) for found in await reader.read_all(scene.assets)]
            references = scene_references(scene, headers)
        except HeaderError as error:
            log.warning("%s: %s", item, error)
            continue
        stored = await asyncio.to_thread(stored_refs_digest, repository, store, place)
        if stored == references.sha256:
            adopted.append(indexed_scene(scene, references, headers, place))
        else:
            log.warning("%s: its files are no longer those its commit refers to", item)
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
    return len(adopted), len(gone), len(ids) - len(adopted), requests


def _sound(found: Header | HeaderError) -> Header:
    if isinstance(found, HeaderError):
        raise found
    return found


def indexed_scene(
    scene: Scene, references: SceneReferences, headers: Sequence[Header], place: Placement
) -> IndexedScene:
    """What is recorded of a scene that is in the store at ``place``."""
    return IndexedScene(
        scene=scene,
        root=place.root,
        time_index=place.time_index,
        refs_sha256=references.sha256,
        files=tuple(map(file_record, headers)),
        warnings=tuple(warning for header in headers for warning in header.warnings),
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
