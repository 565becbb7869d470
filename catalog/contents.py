"""What a snapshot holds, scene by scene: places, times, digests, files. Knows no SQL.

What someone who has nothing but the repository can still say of its scenes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import icechunk
import numpy as np
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from catalog.cube import Grid, canonical
from catalog.cube_writer import (
    Cube,
    Placement,
    one_location,
    read_cubes,
    relative_to_containers,
)
from catalog.repository import Repository, steps_references
from catalog.storage import store_errors


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file that a scene's references name."""

    location: str
    """``vcc://{container}/{key}``."""
    refs_sha256: str
    """``cube.refs_digest`` of the band's arrays alone."""
    smallest: str
    """Key of the chunk with the fewest bytes."""


@dataclass(frozen=True, slots=True)
class StoredScene:
    """One scene as a snapshot has it."""

    id: str
    place: Placement
    time: datetime
    """Aware, UTC, whole seconds."""
    boa_offset: int
    grid: Grid
    """The finest of its cube."""
    refs_sha256: str
    files: dict[str, StoredFile]
    """By band; only those with a reference."""
    bands: frozenset[str]
    """Of its cube: one without a file here reads as nodata, as a file without tiles does."""


@dataclass(slots=True)
class _File:
    location: str
    smallest: str
    bytes: int
    digest: Any = field(default_factory=hashlib.sha256)


def read_scenes(
    repository: Repository, store: icechunk.IcechunkStore, ids: Collection[str] | None = None
) -> dict[str, StoredScene]:
    """The scenes that a snapshot holds, by item id, from the store alone: one pass over the
    references of its arrays, one array in memory at a time.

    Args:
        store: of the snapshot.
        ids: those wanted; None for all. Those that are not there are left out.

    Raises:
        StoreError: the repository failed.
    """

    async def read() -> dict[str, StoredScene]:
        found: dict[str, StoredScene] = {}
        for cube in (await read_cubes(store)).values():
            steps = {
                index: scene
                for index, scene in enumerate(cube.ids)
                if scene and (ids is None or scene in ids)
            }
            if steps:
                found |= await _read_cube(repository, store, cube, steps)
        return found

    with store_errors(repository.location):
        return sync(read())


def is_unchanged(store: icechunk.IcechunkStore, file: StoredFile) -> bool:
    """Whether the file is still the one that was referenced: its smallest chunk is read, and
    Icechunk compares the checksum of the reference."""
    try:
        sync(store.get(file.smallest, default_buffer_prototype()))
    except icechunk.IcechunkError:
        return False
    return True


async def _read_cube(
    repository: Repository, store: icechunk.IcechunkStore, cube: Cube, steps: dict[int, str]
) -> dict[str, StoredScene]:
    relative = relative_to_containers(repository)
    digests = {index: hashlib.sha256() for index in steps}
    files: dict[int, dict[str, _File]] = {index: {} for index in steps}
    indexes = sorted(steps)
    # In the order of their paths, as the digest is made.
    for path, spec in sorted(cube.specs.items()):
        urls, offsets, lengths = await steps_references(
            store, cube.key(path), spec.chunk_grid, indexes
        )
        for number, index in enumerate(indexes):
            if not lengths[number].any():
                continue
            location = relative(one_location(urls[number], lengths[number]))
            text = canonical(path, location, offsets[number], lengths[number])
            digests[index].update(text)
            sizes = np.where(lengths[number] > 0, lengths[number], np.iinfo(np.uint64).max)
            least = int(sizes.min())
            at = np.unravel_index(int(sizes.argmin()), sizes.shape)
            chunk = f"{cube.key(path)}/c/{index}/{'/'.join(map(str, at))}"
            file = files[index].setdefault(spec.band, _File(location, chunk, least))
            file.digest.update(text)
            if least < file.bytes:
                file.smallest, file.bytes = chunk, least
    grid = min(cube.grids.values(), key=lambda grid: grid.transform[0])
    bands = frozenset(spec.band for spec in cube.specs.values())
    return {
        scene: StoredScene(
            id=scene,
            place=Placement(cube.root, index),
            time=datetime.fromtimestamp(cube.times[index], UTC),
            boa_offset=cube.offsets[index],
            grid=grid,
            refs_sha256=digests[index].hexdigest(),
            files={
                band: StoredFile(file.location, file.digest.hexdigest(), file.smallest)
                for band, file in files[index].items()
            },
            bands=bands,
        )
        for index, scene in steps.items()
    }
