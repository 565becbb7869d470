"""One commit on one branch: whole scenes in, or out, or nothing. Knows no SQL.

What is ingested is what the branch's own ``scene`` coordinate says. A scene that is
there already is overwritten at its index, so writing a batch twice gives one result.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import icechunk
import numpy as np
from numcodecs import VLenUTF8, Zstd
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from catalog.blame import is_everyones
from catalog.cube import (
    TIME_CHUNK,
    ArraySpec,
    Grid,
    SceneReferences,
    coordinate_documents,
    fits,
    grid_of_group,
    group_document,
    refs_digest,
    root_document,
    spec_of_document,
    variant_root,
)
from catalog.errors import HeaderError, SceneError, StoreError, first_line
from catalog.repository import (
    LONGEST_NAME,
    NO_FILE,
    Repository,
    get_document,
    is_name,
    put_bytes,
    step_references,
)
from catalog.storage import PATIENCE, is_remote, store_errors

_Change = Callable[[icechunk.IcechunkStore], Coroutine[Any, Any, dict[str, "Placement"]]]

MOST_VARIANTS = 64
"""Sibling cubes on one branch: real archives have two or three layouts of a tile."""
MOST_ARRAYS = 1_024
"""Of one cube: a cube of all bands and their overviews has some eighty."""
MOST_CHUNKS = 2**17
"""References of one scene: one of all bands has some thousands."""
TRIES = 5
"""Of a commit that another writer of the same branch got in before."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a scene lives on its branch."""

    root: str
    """Of its cube: ``""`` or ``variant-{digest}``."""
    time_index: int


@dataclass(frozen=True, slots=True)
class Written:
    """One commit and where it put each scene."""

    branch: str
    snapshot_id: str
    parent_id: str
    written_at: datetime
    """Aware, UTC."""
    placements: Mapping[str, Placement]
    """By item id."""


@dataclass(slots=True)
class Cube:
    """One cube as it is and as the batch will leave it."""

    root: str
    ids: list[str] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    grids: dict[str, Grid] = field(default_factory=dict)
    specs: dict[str, ArraySpec] = field(default_factory=dict)
    new_groups: set[str] = field(default_factory=set)
    resized: bool = False

    def key(self, path: str) -> str:
        return f"{self.root}/{path}" if self.root else path

    @property
    def bands(self) -> dict[str, list[str]]:
        """The bands of each group, sorted."""
        return {
            name: [spec.band for spec in specs]
            for name, specs in groupby(
                sorted(self.specs.values(), key=lambda spec: spec.path), lambda spec: spec.group
            )
        }


def write_batch(
    repository: Repository,
    branch: str,
    *,
    collection: str,
    tile: str,
    scenes: Sequence[SceneReferences],
    crawl: str,
) -> Written:
    """Writes ``scenes`` (ids all different) of one tile into ``branch``, made if there is none.

    Raises:
        SceneError: the store cannot hold one of them; none is written.
        HeaderError: a scene's references cannot be written; it names the scene and the band, and
            nothing is committed.
        StoreError: the repository has no container for a location, or refused the commit.
    """
    ids = [scene.id for scene in scenes]

    async def fill(store: icechunk.IcechunkStore) -> dict[str, Placement]:
        return await _fill(store, collection, tile, scenes, repository.containers)

    return _commit(
        repository, branch, f"{len(ids)} scenes of {tile}", fill, {"crawl": crawl, "scenes": ids}
    )


def withdraw_batch(
    repository: Repository,
    branch: str,
    *,
    collection: str,
    tile: str,
    ids: Sequence[str],
    crawl: str,
    moved: bool = False,
) -> Written:
    """Takes scenes out of ``branch`` in one commit: their references go, and their place in the
    ``scene`` coordinate becomes empty, so that any Zarr reader finds nodata and no name there.
    Ids that are not there are left as they are; earlier snapshots keep everything.

    Args:
        moved: they are written to another branch next; the commit says so.

    Raises:
        StoreError: the repository refused the commit.
    """

    async def clear(store: icechunk.IcechunkStore) -> dict[str, Placement]:
        cubes = await read_cubes(store)
        gone: dict[str, Placement] = {}
        for cube in cubes.values():
            for index, scene in enumerate(cube.ids):
                if scene in wanted:
                    await _clear(store, cube, index)
                    cube.ids[index] = ""
                    cube.resized = True
                    gone[scene] = Placement(cube.root, index)
        await _put_metadata(store, cubes, collection, tile)
        return gone

    wanted = frozenset(ids)
    metadata: dict[str, Any] = {"crawl": crawl, "scenes": [], "withdrawn": list(ids)}
    if moved:
        metadata["moved"] = list(ids)
    return _commit(repository, branch, f"{len(ids)} scenes of {tile} withdrawn", clear, metadata)


def _commit(
    repository: Repository,
    branch: str,
    message: str,
    change: _Change,
    metadata: dict[str, Any],
) -> Written:
    """One commit of what ``change`` does to the head, tried again on top of another writer's."""
    attempt = 0
    with store_errors(f"branch {branch} of {repository.location}"):
        while True:
            attempt += 1
            try:
                return _try_commit(repository, branch, message, change, metadata)
            except icechunk.ConflictError as error:
                if attempt >= TRIES:
                    raise StoreError(
                        f"branch {branch}: {TRIES} commits in a row met another writer's"
                    ) from error
            except icechunk.IcechunkError:
                # icechunk asks again for what was refused, not for what broke off half way; the
                # scenes are written anew, at the indexes they have.
                if attempt > PATIENCE.retries or not is_remote(repository.location):
                    raise
                time.sleep(PATIENCE.pause(attempt))


def scene_ids(store: icechunk.IcechunkStore) -> dict[str, Placement]:
    """Every scene a snapshot holds, by item id, as its ``scene`` coordinates say."""
    cubes = sync(read_cubes(store))
    return {
        scene: Placement(cube.root, index)
        for cube in cubes.values()
        for index, scene in enumerate(cube.ids)
        if scene
    }


def cube_epsg(store: icechunk.IcechunkStore) -> int:
    """EPSG code of the CRS that all cubes of a snapshot are in.

    Raises:
        StoreError: the snapshot holds no cube.
    """
    for cube in sync(read_cubes(store)).values():
        for grid in cube.grids.values():
            return grid.epsg
    raise StoreError("the snapshot holds no cogcat cube")


def stored_refs_digest(
    repository: Repository, store: icechunk.IcechunkStore, placement: Placement
) -> str:
    """``cube.refs_digest`` of one scene, from the store alone."""
    relative = relative_to_containers(repository)

    async def read() -> str:
        cube = (await read_cubes(store))[placement.root]
        found = []
        for path, spec in cube.specs.items():
            urls, offsets, lengths = await step_references(
                store, cube.key(path), spec.chunk_grid, placement.time_index
            )
            found.append((path, relative(one_location(urls, lengths)), offsets, lengths))
        return refs_digest(found)

    with store_errors(repository.location):
        return sync(read())


def one_location(urls: NDArray[Any], lengths: NDArray[np.uint64]) -> str:
    """The URL of the file that one array of a scene comes from; empty where it has no reference.
    Where its chunks name several, which our writer does not do, it is no URL."""
    named = sorted({str(url) or NO_FILE for url in urls[lengths > 0].flat})
    if len(named) < 2:
        return named[0] if named else ""
    return " and ".join(["several files:", *named[:2]])[:500]


def relative_to_containers(repository: Repository) -> Callable[[str], str]:
    """A function from absolute URLs to locations as references store them, ``vcc://{name}/…``."""
    prefixes = sorted(
        ((prefix, name) for name, prefix in repository.containers.items()),
        key=lambda pair: -len(pair[0]),
    )

    def relative(url: str) -> str:
        for prefix, name in prefixes:
            if url.startswith(prefix):
                return f"vcc://{name}/{url[len(prefix) :]}"
        return url

    return relative


def _try_commit(
    repository: Repository,
    branch: str,
    message: str,
    change: _Change,
    metadata: dict[str, Any],
) -> Written:
    if repository.head(branch) is None:
        # Another writer may make it first.
        with repository.writing(), contextlib.suppress(icechunk.AlreadyExistsError):
            repository.icechunk.create_branch(branch, repository.first_snapshot())
    session = repository.icechunk.writable_session(branch)
    parent = session.snapshot_id
    placements = sync(change(session.store))
    write = uuid.uuid4().hex[:12]
    with repository.writing():
        try:
            snapshot = session.commit(message, {**metadata, "write": write}, allow_empty=True)
        except icechunk.IcechunkError:
            # It may have been made, and only the answer have been lost.
            made = _commit_with(repository, branch, parent, write)
            if made is None:
                raise
            snapshot = made
    return Written(branch, snapshot, parent, datetime.now(UTC), placements)


def _commit_with(repository: Repository, branch: str, parent: str, write: object) -> str | None:
    """The snapshot that ``write`` left on the branch after ``parent``, if it left one."""
    for info in repository.icechunk.ancestry(branch=branch):
        if info.id == parent:
            return None
        if info.metadata.get("write") == write:
            return info.id
    return None


async def _fill(
    store: icechunk.IcechunkStore,
    collection: str,
    tile: str,
    scenes: Sequence[SceneReferences],
    containers: Collection[str],
) -> dict[str, Placement]:
    for scene in scenes:
        _check_scene(scene)
    cubes = await read_cubes(store)
    where = {
        scene: Placement(cube.root, index)
        for cube in cubes.values()
        for index, scene in enumerate(cube.ids)
        if scene
    }
    placements: dict[str, Placement] = {}
    for scene in scenes:
        cube = _cube_for(scene, cubes)
        old = where.get(scene.id)
        if old is not None:
            # What is written whole below needs no clearing: a delete for every chunk costs more.
            same = old.root == cube.root
            whole = {a.spec.path for a in scene.arrays if same and a.lengths.all()}
            await _clear(store, cubes[old.root], old.time_index, but=whole)
        if old is not None and old.root == cube.root:
            index = old.time_index
            cube.times[index], cube.offsets[index] = seconds(scene.time), scene.boa_offset
        else:
            if old is not None:
                cubes[old.root].ids[old.time_index] = ""
                cubes[old.root].resized = True
            index = len(cube.ids)
            cube.ids.append(scene.id)
            cube.times.append(seconds(scene.time))
            cube.offsets.append(scene.boa_offset)
        cube.resized = True
        placements[scene.id] = Placement(cube.root, index)
    await _put_metadata(store, cubes, collection, tile)
    for scene in scenes:
        place = placements[scene.id]
        cube = cubes[place.root]
        for array in scene.arrays:
            try:
                _put_references(store, cube, array, place.time_index)
            except BaseException as error:
                container = array.location.removeprefix("vcc://").partition("/")[0]
                if is_everyones(error) and not (
                    isinstance(error, StoreError) and container in containers
                ):
                    raise
                # In memory so far: it is the reference that is refused, not the write.
                raise HeaderError(
                    f"no reference to it can be written: {first_line(error)}",
                    scene=scene.id,
                    band=array.spec.band,
                    href=array.location,
                ) from error
    return placements


def _check_scene(scene: SceneReferences) -> None:
    """What the store cannot hold is one scene's fault, and no batch's.

    Raises:
        SceneError: says which.
    """
    reason = None
    if not is_name(scene.id):
        reason = f"its id is no name that can be printed, of at most {LONGEST_NAME} bytes"
    elif not -(2**15) <= scene.boa_offset < 2**15:
        reason = f"its boa_offset {scene.boa_offset} is none of 16 bits"
    elif sum(array.lengths.size for array in scene.arrays) > MOST_CHUNKS:
        reason = f"its files have more than {MOST_CHUNKS} tiles"
    if reason:
        raise SceneError(reason, scene=scene.id)


def _cube_for(scene: SceneReferences, cubes: dict[str, Cube]) -> Cube:
    """The first cube whose arrays the scene's agree with, or a new variant; it learns the scene's
    arrays."""
    specs = scene.specs
    for cube in cubes.values():
        if fits(specs, cube.specs):
            break
    else:
        root = variant_root(specs)
        if root not in cubes and len(cubes) > MOST_VARIANTS:
            raise SceneError(
                f"its files are laid out like none of the {len(cubes)} cubes of its tile: no more "
                "are made",
                scene=scene.id,
            )
        cube = cubes.setdefault(root, Cube(root))
    if len(cube.specs.keys() | specs.keys()) > MOST_ARRAYS:
        raise SceneError(
            f"its tile's cube would have more than {MOST_ARRAYS} arrays", scene=scene.id
        )
    for path, spec in specs.items():
        if spec.group not in cube.grids:
            cube.grids[spec.group] = spec.grid
            cube.new_groups.add(spec.group)
        cube.specs.setdefault(path, spec)
    return cube


async def read_cubes(store: icechunk.IcechunkStore) -> dict[str, Cube]:
    """Every cube of a branch by root, the main one (root ``""``) first; it may be empty.

    Raises:
        StoreError: the snapshot's documents are not such as cogcat writes.
    """
    try:
        document = await get_document(store, "zarr.json")
        roots = [""]
        if document is not None:
            roots += document["attributes"].get("cogcat", {}).get("variants", [])
        return {root: await _read_cube(store, root) for root in roots}
    except MALFORMED as error:
        raise StoreError(
            f"snapshot {store.session.snapshot_id} holds what cogcat has not written: "
            f"{type(error).__name__}: {first_line(error)}; put back a copy of the repository, or "
            "crawl into a new one"
        ) from error


MALFORMED = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
"""What taking apart a document or a chunk raises that another has written: numcodecs' errors are
``RuntimeError`` and ``ValueError``, those of JSON and of text too."""


async def _read_cube(store: icechunk.IcechunkStore, root: str) -> Cube:
    cube = Cube(root)
    document = await get_document(store, cube.key("zarr.json"))
    if document is None:
        return cube
    bands: Mapping[str, Sequence[str]] = document["attributes"]["cogcat"]["bands"]

    async def group(name: str) -> tuple[Grid, list[ArraySpec]]:
        found = await get_document(store, cube.key(f"{name}/zarr.json"))
        assert found is not None, name
        grid = grid_of_group(found)
        paths = [f"{name}/{band}" for band in bands[name]]
        documents = await asyncio.gather(
            *(get_document(store, cube.key(f"{path}/zarr.json")) for path in paths)
        )
        return grid, [
            spec_of_document(path, array, grid)
            for path, array in zip(paths, documents, strict=True)
            if array is not None
        ]

    for name in bands:
        grid, specs = await group(name)
        cube.grids[name] = grid
        cube.specs |= {spec.path: spec for spec in specs}
    first = next(iter(bands))
    cube.ids = list(await read_steps(store, cube, first, "scene"))
    cube.times = [int(value) for value in await read_steps(store, cube, first, "time")]
    cube.offsets = [int(value) for value in await read_steps(store, cube, first, "boa_offset")]
    return cube


async def read_steps(
    store: icechunk.IcechunkStore, cube: Cube, group: str, name: str
) -> Iterable[Any]:
    document = await get_document(store, cube.key(f"{group}/{name}/zarr.json"))
    assert document is not None, name
    steps = document["shape"][0]
    values: list[Any] = []
    # No chunk of ours is longer, whatever it says of itself.
    size = {"time": 8, "boa_offset": 2}.get(name, 4 + LONGEST_NAME)
    room = TIME_CHUNK * size + (4 if name == "scene" else 0)
    for number in range(-(-steps // TIME_CHUNK)):
        chunk = await store.get(cube.key(f"{group}/{name}/c/{number}"), default_buffer_prototype())
        assert chunk is not None, name
        raw = Zstd().decode(chunk.to_bytes(), out=np.zeros(room, "u1"))
        if name == "scene":
            values.extend(VLenUTF8().decode(raw))
        else:
            values.extend(np.frombuffer(raw, "<i8" if name == "time" else "<i2"))
    return values[:steps]


async def _put_metadata(
    store: icechunk.IcechunkStore, cubes: Mapping[str, Cube], collection: str, tile: str
) -> None:
    variants = [root for root in cubes if root]
    puts: dict[str, bytes] = {}
    for cube in cubes.values():
        if not cube.resized:
            continue
        document = root_document(collection, tile, cube.grids, cube.bands)
        puts[cube.key("zarr.json")] = json.dumps(document).encode()
        steps = len(cube.ids)
        chunks = _step_chunks(cube)
        for name, grid in cube.grids.items():
            new = name in cube.new_groups
            if new:
                puts[cube.key(f"{name}/zarr.json")] = json.dumps(group_document(grid)).encode()
            for coordinate, array in coordinate_documents(grid, steps).items():
                if new or array["dimension_names"] == ["time"]:
                    puts[cube.key(f"{name}/{coordinate}/zarr.json")] = json.dumps(array).encode()
            if new:
                y, x = grid.centres()
                puts[cube.key(f"{name}/y/c/0")] = Zstd(3).encode(y.astype("<f8"))
                puts[cube.key(f"{name}/x/c/0")] = Zstd(3).encode(x.astype("<f8"))
                puts[cube.key(f"{name}/spatial_ref/c")] = bytes(8)
            for key, value in chunks.items():
                puts[cube.key(f"{name}/{key}")] = value
        for path, spec in cube.specs.items():
            puts[cube.key(f"{path}/zarr.json")] = json.dumps(spec.document(steps)).encode()
    if variants:
        # The root says where else to look, whether or not its own cube has changed.
        text = puts.get("zarr.json")
        found = json.loads(text) if text else await get_document(store, "zarr.json")
        document = found or root_document(collection, tile, {}, {})
        document["attributes"]["cogcat"]["variants"] = variants
        puts["zarr.json"] = json.dumps(document).encode()
    # Parents before children.
    for key in sorted(puts, key=lambda key: (key.count("/"), not key.endswith("zarr.json"))):
        await put_bytes(store, key, puts[key])


def _step_chunks(cube: Cube) -> dict[str, bytes]:
    """The chunks of ``time``, ``scene`` and ``boa_offset``, encoded as ``coordinate_documents``
    says; the same for every group."""
    chunks: dict[str, bytes] = {}
    for first in range(0, len(cube.ids), TIME_CHUNK):
        number = first // TIME_CHUNK
        part = slice(first, first + TIME_CHUNK)
        pad = TIME_CHUNK - len(cube.ids[part])
        times = np.array(cube.times[part] + [0] * pad, "<i8")
        offsets = np.array(cube.offsets[part] + [0] * pad, "<i2")
        ids = np.array(cube.ids[part] + [""] * pad, object)
        chunks[f"time/c/{number}"] = Zstd(3).encode(times)
        chunks[f"boa_offset/c/{number}"] = Zstd(3).encode(offsets)
        chunks[f"scene/c/{number}"] = Zstd(3).encode(VLenUTF8().encode(ids))
    return chunks


def _put_references(store: icechunk.IcechunkStore, cube: Cube, array: Any, index: int) -> None:
    lengths: NDArray[np.uint64] = array.lengths.ravel()
    if not lengths.any():
        return
    if lengths.all():
        locations = [array.location] * lengths.size
    else:
        locations = [array.location if length else "" for length in lengths]
    spec: ArraySpec = array.spec
    failed = store.set_virtual_refs_arr(
        cube.key(spec.path),
        (1, *spec.chunk_grid),
        locations,
        np.ascontiguousarray(array.offsets).ravel(),
        lengths,
        arr_offset=(index, *(0 for _ in spec.chunk_grid)),
        checksum=array.checksum,
    )
    if failed:
        raise StoreError(f"the repository has no container for {array.location}: run `cogcat init`")


async def _clear(
    store: icechunk.IcechunkStore, cube: Cube, index: int, *, but: Set[str] = frozenset()
) -> None:
    """Removes the references at one time index, of all arrays ``but`` some: a plain reader sees
    nodata there."""
    for path, spec in cube.specs.items():
        if path in but:
            continue
        for at in np.ndindex(*spec.chunk_grid):
            await store.delete(f"{cube.key(path)}/c/{index}/{'/'.join(map(str, at))}")


def seconds(time: datetime) -> int:
    """As the ``time`` coordinate has it."""
    return int(time.timestamp() // 1)
