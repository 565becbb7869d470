"""Whether a commit is one that ``cube_writer`` makes. Knows no SQL.

Anyone who may write to a repository can commit to a tile's branch, with any message and metadata.
So what a commit changed is the judge: places of the scenes that it names, and documents as the
writer makes them. What the references of those scenes lead to is held against their files
elsewhere (``recovery.py``, ``file_check.py``).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import icechunk
import numpy as np
from numcodecs import Zstd
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from catalog.cube import Grid, coordinate_documents, group_document, root_document
from catalog.cube_writer import MALFORMED, Cube, read_cubes, read_steps
from catalog.errors import StoreError, UsageError, first_line
from catalog.parse import parse_tile
from catalog.repository import Repository, Snapshot, get_document, steps_references
from catalog.storage import is_damage, is_passing, patiently, store_errors

_ALONG_TIME = ("scene", "time", "boa_offset")
_VARIANT = re.compile(r"variant-[0-9a-f]{8}")
_SAID = frozenset(
    {"grid_mapping", "coordinates", "_FillValue", "long_name", "reflectance", "standard_name",
     "units", "calendar", "axis"}
)  # fmt: skip
"""Attributes of arrays that any version of cogcat has written; ``scale_factor`` is none of them."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """The first commit of a branch that is not of cogcat's making."""

    snapshot_id: str
    reason: str
    after: int
    """Commits on top of it."""


def own_commits(
    repository: Repository, branch: str, history: Sequence[Snapshot], *, remains: bool = False
) -> tuple[tuple[Snapshot, ...], Foreign | None]:
    """Those commits of ``history`` (oldest first) that come before the first which is not ours.

    Args:
        remains: the first commit may hold scenes of commits that have expired.

    Raises:
        StoreError: the repository failed, or is damaged.
    """
    if (reason := _name_fault(branch)) and history:
        return (), Foreign(history[0].id, reason, len(history) - 1)
    for number, snapshot in enumerate(history):
        first = remains and number == 0
        reason = snapshot.fault or _commit_fault(repository, snapshot, branch, remains=first)
        if reason:
            return tuple(history[:number]), Foreign(snapshot.id, reason, len(history) - number - 1)
    return tuple(history), None


def _name_fault(branch: str) -> str | None:
    """Why no branch of ours is called so."""
    collection, _, tile = branch.rpartition("/")
    try:
        if collection and parse_tile(tile) == tile:
            return None
    except UsageError:
        pass
    return "its branch is not named {collection}/{tile}"


def _commit_fault(
    repository: Repository, snapshot: Snapshot, branch: str, *, remains: bool
) -> str | None:
    """Why our writer has not made a commit; None where it may have."""
    location = repository.location

    def changes() -> icechunk.Diff:
        return repository.icechunk.diff(
            from_snapshot_id=snapshot.parent_id, to_snapshot_id=snapshot.id
        )

    with store_errors(f"{location}, snapshot {snapshot.id}"):
        diff = patiently(location, changes)
        if gone := sorted({*diff.deleted_arrays, *diff.deleted_groups}):
            return f"it deletes {_some(gone)}"
        if diff.moved_nodes:
            return "it moves arrays or groups"
        before = _State(repository.store(snapshot.parent_id))
        sync(before.read())
        after = _State(repository.store(snapshot.id))
        try:
            sync(after.read())
            check = _Check(snapshot, branch, diff, before, after, remains=remains)
            return check.scenes() or sync(check.documents()) or sync(check.chunks())
        except (*MALFORMED, StoreError) as error:
            if (cause := error.__cause__) and (is_damage(cause) or is_passing(cause)):
                raise
            return f"it holds what cogcat has not written ({first_line(error)})"


class _State:
    """One snapshot, and its cubes."""

    def __init__(self, store: icechunk.IcechunkStore) -> None:
        self.store = store
        self.cubes: dict[str, Cube] = {}

    async def read(self) -> None:
        self.cubes = await read_cubes(self.store)

    def ids(self, root: str) -> list[str]:
        return self.cubes[root].ids if root in self.cubes else []


class _Check:
    """What one commit changed, from ``before`` to ``after``."""

    def __init__(
        self,
        snapshot: Snapshot,
        branch: str,
        diff: icechunk.Diff,
        before: _State,
        after: _State,
        *,
        remains: bool,
    ) -> None:
        self._collection, _, self._tile = branch.rpartition("/")
        self._diff, self._before, self._after, self._remains = diff, before, after, remains
        self._written = frozenset(snapshot.scenes)
        self._named = self._written | frozenset(snapshot.withdrawn)
        self._gone = frozenset(snapshot.withdrawn) - self._written

    def scenes(self) -> str | None:
        """The places of scenes, their times and offsets: only those of the scenes that it names
        may differ."""
        if lost := set(self._before.cubes) - set(self._after.cubes):
            return f"it leaves out the cube {_some(sorted(lost))}"
        there: dict[str, int] = {}
        for root, cube in self._after.cubes.items():
            if root and not _VARIANT.fullmatch(root):
                return f"no cube of cogcat's is called {_some([root])}"
            old = self._before.cubes.get(root, Cube(root))
            if len(cube.ids) < len(old.ids):
                return "it takes places out of its cube"
            for index, name in enumerate(cube.ids):
                if name:
                    there[name] = there.get(name, 0) + 1
                if fault := self._place_fault(old, cube, index):
                    return fault
        if twice := [name for name, count in there.items() if count > 1]:
            return f"it holds {_some(twice)} twice"
        if missing := self._written - there.keys():
            return f"it names {_some(sorted(missing))} and does not hold it"
        if left := self._gone & there.keys():
            return f"it names {_some(sorted(left))} as withdrawn and holds it"
        return None

    def _place_fault(self, old: Cube, new: Cube, index: int) -> str | None:
        name = new.ids[index]
        if index >= len(old.ids):
            if name in self._written or self._remains:
                return None
            return f"it adds {_some([name])}, which it does not name"
        was = old.ids[index]
        if name != was and (name or was not in self._named):
            return f"it puts {_some([name])} in the place of {_some([was])}"
        if name not in self._written:
            for what, values, others in (
                ("time", new.times, old.times),
                ("boa_offset", new.offsets, old.offsets),
            ):
                if values[index] != others[index]:
                    return f"it changes {what} of {_some([was or name])}, which it does not name"
        return None

    async def documents(self) -> str | None:
        """Every document is as the writer makes it of what it says, or as it was."""
        expected = self._expected()
        new = {f"{path.strip('/')}/zarr.json".lstrip("/") for path in
               (*self._diff.new_groups, *self._diff.new_arrays)}  # fmt: skip
        if added := sorted(new - expected.keys()):
            return f"it adds {_some(added)}"
        keys = list(expected)
        found = await asyncio.gather(*(get_document(self._after.store, key) for key in keys))
        olds = await asyncio.gather(*(get_document(self._before.store, key) for key in keys))
        for key, document, old in zip(keys, found, olds, strict=True):
            if document is None:
                return f"it has no {_some([key])}"
            # As JSON has it: without tuples.
            want = json.loads(json.dumps(expected[key]))
            if document == want or _is_grown(old, document, want):
                continue
            if old is None and self._remains and _means(document) == _means(want):
                continue
            return f"it changes {_some([key])} as cogcat does not"
        for root, cube in self._before.cubes.items():
            for path, spec in cube.specs.items():
                if self._after.cubes[root].specs.get(path) != spec:
                    return f"it changes {_some([cube.key(path)])} as cogcat does not"
        return None

    def _expected(self) -> dict[str, Any]:
        """Key → document of everything that the writer would have here."""
        expected: dict[str, Any] = {}
        for root, cube in self._after.cubes.items():
            document = root_document(self._collection, self._tile, cube.grids, cube.bands)
            if not root:
                variants = [other for other in self._after.cubes if other]
                if not cube.grids and not variants and "/" not in self._diff.new_groups:
                    continue
                document["attributes"]["cogcat"]["variants"] = variants
            expected[cube.key("zarr.json")] = document
            steps = len(cube.ids)
            for name, grid in cube.grids.items():
                expected[cube.key(f"{name}/zarr.json")] = group_document(grid)
                for coordinate, array in coordinate_documents(grid, steps).items():
                    expected[cube.key(f"{name}/{coordinate}/zarr.json")] = array
            for path, spec in cube.specs.items():
                expected[cube.key(f"{path}/zarr.json")] = spec.document(steps)
        return expected

    async def chunks(self) -> str | None:
        """Chunks only at the places of scenes that it names, and none where one went."""
        arrays = {
            f"/{cube.key(path)}": (root, path)
            for root, cube in self._after.cubes.items()
            for path in cube.specs
        }
        touched = {root: self._touched(root) for root in self._after.cubes}
        for node, chunks in self._diff.updated_chunks.items():
            if node in arrays:
                allowed = touched[arrays[node][0]]
                if others := {chunk[0] for chunk in chunks} - allowed:
                    return f"it changes {node[1:]} at time {min(others)}, of no scene it names"
            elif node.rpartition("/")[2] not in (*_ALONG_TIME, "y", "x", "spatial_ref"):
                return f"it writes chunks of {_some([node[1:]])}"
        for root, cube in self._after.cubes.items():
            for name, grid in cube.grids.items():
                if fault := await self._coordinate_fault(cube, name, grid):
                    return fault
            empty = [i for i in sorted(touched[root]) if not cube.ids[i]]
            for path, spec in cube.specs.items() if empty else ():
                node = cube.key(path)
                _, _, lengths = await steps_references(
                    self._after.store, node, spec.chunk_grid, empty
                )
                if lengths.any():
                    return f"it leaves or writes chunks of {node} where no scene is"
        return None

    def _touched(self, root: str) -> set[int]:
        """Time indexes of the scenes that it names, where they were and where they are."""
        new, old = self._after.ids(root), self._before.ids(root)
        if self._remains:
            return set(range(len(new)))
        return {i for ids in (old, new) for i, name in enumerate(ids) if name in self._named}

    async def _coordinate_fault(self, cube: Cube, name: str, grid: Grid) -> str | None:
        """All groups of a cube have the same scenes, and pixel centres as their grid says."""
        store = self._after.store
        for coordinate, values in zip(
            _ALONG_TIME, (cube.ids, cube.times, cube.offsets), strict=True
        ):
            if list(await read_steps(store, cube, name, coordinate)) != values:
                return f"{cube.key(name)}/{coordinate} differs from that of its other groups"
        for axis, centres in zip(("y", "x"), grid.centres(), strict=True):
            key = f"{cube.key(name)}/{axis}"
            if f"/{key}" not in self._diff.updated_chunks:
                continue
            chunk = await store.get(f"{key}/c/0", default_buffer_prototype())
            assert chunk is not None, key
            room = np.zeros(centres.nbytes, "u1")
            found = np.frombuffer(Zstd().decode(chunk.to_bytes(), out=room), "<f8")
            if not np.array_equal(found, centres):
                return f"{key} is not where its grid says"
        return None


def _is_grown(
    old: Mapping[str, Any] | None, new: Mapping[str, Any], want: Mapping[str, Any]
) -> bool:
    """Whether a document is as it was, whichever version wrote it, but for its length in time."""
    if old is None or old.get("shape", [])[1:] != new.get("shape", [])[1:]:
        return False
    return new.get("shape") == want.get("shape") and {**old, "shape": None} == {
        **new, "shape": None,
    }  # fmt: skip


def _means(document: Mapping[str, Any]) -> Any:
    """What decides how a document's array or group is read, whichever version wrote it."""
    attributes = document["attributes"]
    if document["node_type"] == "group":
        about = attributes.get("cogcat", {})
        return [about.get(key) for key in ("collection", "tile", "bands", "variants")]
    extra = sorted(attributes.keys() - _SAID)
    spatial_ref = [] if document["shape"] == [] else extra
    rest = {key: value for key, value in document.items() if key != "attributes"}
    return [rest, attributes.get("_FillValue"), spatial_ref]


def _some(names: Sequence[str]) -> str:
    """Foreign names, fit for a message."""
    shown = ", ".join(ascii(name if len(name) <= 100 else f"{name[:100]}…") for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
