"""The scenes of a snapshot: which stands at which index of which cube, as its coordinates say.

What stands in a repository may have been changed by others, or have been damaged: documents and
coordinates are judged here, once, and what is no cube of ours is a ``StoreError`` that names
branch and snapshot, before it can ask for memory or give another scene's pixels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import icechunk
import numpy as np
from imagecodecs import zstd_decode
from numcodecs import VLenUTF8
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from catalog.bands import band_place
from catalog.cube import TIME_CHUNK, Grid, grid_of_group
from catalog.errors import StoreError
from catalog.read_errors import damage, where
from catalog.repository import SnapshotStore, get_document, once, read_document

MOST_STEPS = 1_000_000
"""Of a cube: a tile has some 150 scenes a year."""
_SIZES = {"scene": 2**20, "time": 8 * TIME_CHUNK, "boa_offset": 2 * TIME_CHUNK}
"""Bytes of a chunk of coordinates, decoded; of ``scene`` at most so many. As ``Columns`` has them.
"""
SECOND = 1_000_000
"""In microseconds, which times are in; the store's own are whole seconds."""


@dataclass(frozen=True, slots=True)
class Cube:
    """What one cube holds, from its root document."""

    root: str
    """``""`` or ``variant-{digest}``."""
    bands: Mapping[str, Sequence[str]]
    """Data arrays by group."""
    attributes: Mapping[str, Any]
    """Of the root group."""
    levels: Mapping[int, Sequence[str]] = field(init=False, compare=False)
    """Pixel size in metres → bands that have an array there, finest first; bands in the order of
    ``bands.BANDS``."""

    def __post_init__(self) -> None:
        found: dict[int, set[str]] = {}
        for group, names in self.bands.items():
            found.setdefault(pixel_size(group), set()).update(names)
        levels = {size: sorted(found[size], key=band_place) for size in sorted(found)}
        object.__setattr__(self, "levels", levels)

    def having(self, bands: frozenset[str]) -> Cube:
        """The same with only these of its bands."""
        some = {group: [b for b in names if b in bands] for group, names in self.bands.items()}
        some = {group: names for group, names in some.items() if names}
        return self if some == self.bands else Cube(self.root, some, self.attributes)


@dataclass(frozen=True, slots=True)
class Steps:
    """Time steps to open, in the order wanted; one entry each per step."""

    roots: tuple[str, ...]
    indices: tuple[int, ...]
    """Time index within the cube of that root."""

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True, slots=True)
class Columns:
    """The coordinates along time of one cube, by index."""

    ids: Sequence[str]
    """Empty where no scene stands: it was withdrawn, or is in another cube."""
    times: Sequence[int]
    """Seconds since 1970, UTC."""
    offsets: Sequence[int]


def read_cubes(store: icechunk.IcechunkStore) -> Sequence[Cube]:
    """The cubes of a branch, the main one first; none for a branch without scenes. Read once of a
    snapshot.

    Raises:
        StoreError: what is there is no cube of ours, or cannot be read.
    """
    return once(store, "cubes", lambda: _read_cubes(store))


def _read_cubes(store: icechunk.IcechunkStore) -> list[Cube]:
    with damage(store):
        main = read_document(store, "zarr.json")
        if main is None:
            return []
        described: Any = main["attributes"].get("cogcat")
        if not isinstance(described, dict):
            raise StoreError(f"{where(store)} holds no cogcat cube")
        cubes = [_cube(store, "", main["attributes"])]
        for root in described["variants"]:
            cubes.append(_cube(store, root, document(store, root)["attributes"]))
        return [cube for cube in cubes if cube.bands]


def _cube(store: icechunk.IcechunkStore, root: str, attributes: Mapping[str, Any]) -> Cube:
    bands = attributes["cogcat"]["bands"]
    for group, names in bands.items():
        pixel_size(group)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise StoreError(f"{where(store)}: group {group} of its cube {root} lists no bands")
    return Cube(root, bands, attributes)


def document(store: icechunk.IcechunkStore, path: str) -> dict[str, Any]:
    """The ``zarr.json`` at ``path``.

    Raises:
        StoreError: there is none, or it cannot be read.
    """
    with damage(store):
        found = read_document(store, f"{path}/zarr.json")
        if found is None:
            raise StoreError(f"{where(store)} has no {path}, which its cube names")
        return found


def read_grid(store: icechunk.IcechunkStore, path: str) -> Grid:
    """The grid that the group at ``path`` states; read once of a snapshot."""

    def read() -> Grid:
        found = document(store, path)
        with damage(store):
            return grid_of_group(found)

    return once(store, ("grid", path), read)


def path_of(cube: Cube, group: str) -> str:
    """Of a group of a cube, in the store."""
    return f"{cube.root}/{group}" if cube.root else group


def pixel_size(group: str) -> int:
    """Metres, of a group by its name."""
    return int(group.removeprefix("r").split("m")[0])


def read_columns(store: icechunk.IcechunkStore, cubes: Sequence[Cube]) -> dict[str, Columns]:
    """The coordinates along time of ``cubes``, by root; read once of a snapshot.

    Raises:
        StoreError: they cannot be read, or are none of ours.
    """
    known = store.known if isinstance(store, SnapshotStore) else {}
    missing = [cube for cube in cubes if ("columns", cube.root) not in known]
    if missing:
        with damage(store):
            for root, found in sync(_read_columns(store, missing)).items():
                known["columns", root] = found
    return {cube.root: known["columns", cube.root] for cube in cubes}


async def _read_columns(store: icechunk.IcechunkStore, cubes: Sequence[Cube]) -> dict[str, Columns]:
    found = await asyncio.gather(*(_columns(store, cube) for cube in cubes))
    return {cube.root: columns for cube, columns in zip(cubes, found, strict=True)}


async def _columns(store: icechunk.IcechunkStore, cube: Cube) -> Columns:
    """Of ``cube.coordinate_documents``. Each array lies in a manifest of its own: all are fetched
    at once, and nearly always one chunk of each is all there is."""
    group = path_of(cube, next(iter(cube.bands)))
    first = [_chunk(store, f"{group}/{name}", name, 0) for name in _SIZES]
    about, *columns = await asyncio.gather(get_document(store, f"{group}/scene/zarr.json"), *first)
    if about is None:
        raise StoreError(f"{where(store)} has no {group}/scene")
    (steps,) = about["shape"]
    if not isinstance(steps, int) or not 0 <= steps <= MOST_STEPS:
        raise StoreError(f"{where(store)}: {group}/scene says that it has {steps!r} time steps")
    count = -(-steps // TIME_CHUNK)
    for name, column in zip(_SIZES, columns, strict=True):
        later = (_chunk(store, f"{group}/{name}", name, number) for number in range(1, count))
        column += [value for values in await asyncio.gather(*later) for value in values]
        if len(column) < steps:
            raise StoreError(f"{where(store)}: {group}/{name} lacks a chunk")
    ids, times, offsets = (column[:steps] for column in columns)
    return Columns(ids, times, offsets)


async def _chunk(store: icechunk.IcechunkStore, path: str, name: str, number: int) -> list[Any]:
    """The values of a chunk; none where there is no such chunk."""
    chunk = await store.get(f"{path}/c/{number}", default_buffer_prototype())
    if chunk is None:
        return []
    raw = zstd_decode(chunk.to_bytes(), out=_SIZES[name])
    if name == "scene":
        if int.from_bytes(raw[:4], "little") != TIME_CHUNK:
            raise StoreError(f"{where(store)}: {path} has a chunk of another length")
        return list(map(str, VLenUTF8().decode(raw)))
    if len(raw) != _SIZES[name]:
        raise StoreError(f"{where(store)}: {path} has a chunk of another length")
    return np.frombuffer(raw, "<i8" if name == "time" else "<i2").tolist()


def all_steps(
    store: icechunk.IcechunkStore, cubes: Sequence[Cube]
) -> tuple[Steps, NDArray[np.int64], list[str], NDArray[np.int16]]:
    """Every scene of ``cubes`` in order of arrival: steps, times (microseconds since 1970, UTC),
    item ids, BOA offsets. Places without a scene are left out."""
    columns = read_columns(store, cubes)
    roots: list[str] = []
    indices: list[int] = []
    times: list[int] = []
    ids: list[str] = []
    offsets: list[int] = []
    for root, held in columns.items():
        rows = zip(held.ids, held.times, held.offsets, strict=True)
        for index, (scene, time, offset) in enumerate(rows):
            if scene:
                roots.append(root)
                indices.append(index)
                ids.append(scene)
                times.append(time)
                offsets.append(offset)
    seconds = np.array(times, np.int64)
    if (np.abs(seconds) > 2**62 // SECOND).any():
        raise StoreError(f"{where(store)}: a scene's time is out of all bounds")
    return Steps(tuple(roots), tuple(indices)), seconds * SECOND, ids, np.array(offsets, np.int16)


def check_places(
    store: icechunk.IcechunkStore,
    cubes: Sequence[Cube],
    *,
    steps: Steps,
    times: NDArray[np.int64],
    ids: Sequence[str],
    offsets: NDArray[np.int16],
) -> None:
    """Makes sure that the snapshot has the scenes where the catalog records them, with the time
    (to the second) and BOA offset that it records: other pixels are not theirs.

    Args:
        times: microseconds since 1970, UTC.

    Raises:
        StoreError: it has not; names scene, branch, snapshot, index, what stands there, and what
            to do.
    """
    columns = read_columns(store, cubes)
    rows = zip(steps.roots, steps.indices, ids, times.tolist(), offsets.tolist(), strict=True)
    for root, index, scene, time, offset in rows:
        held = columns.get(root)
        if held is None or not 0 <= index < len(held.ids):
            there = "there is no such place"
        elif held.ids[index] != scene:
            there = f"{held.ids[index] or 'no scene'} stands there"
        elif held.times[index] != time // SECOND:
            there = f"its time is {_utc(held.times[index])}, the catalog's {_utc(time // SECOND)}"
        elif held.offsets[index] != offset:
            there = f"its BOA offset is {held.offsets[index]}, the catalog's {offset}"
        else:
            continue
        raise StoreError(
            f"{scene}: recorded at index {index}{f' of {root}' if root else ''}, {where(store)}: "
            f"{there}: the catalog and its repository differ, and no pixels are given: `cogcat "
            "repair` records what was not yet, `cogcat rebuild` makes the catalog anew from the "
            "repository"
        )


def _utc(seconds: int) -> str:
    return str(np.datetime64(seconds, "s")) + "Z"
