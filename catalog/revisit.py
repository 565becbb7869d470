"""Whether a changed item means changed pixels, or a record to write anew and nothing else.

Pure. What the store holds of a scene is its references, its time and its BOA offset: where
those stay, only SQL has to change.
"""

from __future__ import annotations

from collections.abc import Sequence

from catalog.cube import SceneReferences
from catalog.errors import HeaderError
from catalog.header import Header
from catalog.recorded import DESCRIBED, IndexedScene, IndexedState
from catalog.scene import Scene
from catalog.settings import Source
from catalog.sources import resolve


def same_by_item(scene: Scene, state: IndexedState, sources: Sequence[Source]) -> bool:
    """Whether the item alone shows that all files are as indexed: the same address, size and
    checksum of each, on a store whose references carry ETags.

    Elsewhere they carry the time of last modification, which only the server knows.
    """
    if not _same_coordinates(scene, state) or {a.band for a in scene.assets} != set(state.files):
        return False
    if scene.warnings != state.warnings:
        # Some come from the files themselves: they have to be read to know.
        return False
    for asset in scene.assets:
        file = state.files[asset.band]
        try:
            source, _ = resolve(asset.href, sources)
        except HeaderError:
            return False
        if source.scheme != "s3" or file.etag is None or asset.checksum is None:
            return False
        if (asset.href, asset.checksum) != (file.href, file.checksum):
            return False
        if asset.size is not None and asset.size != file.size:
            return False
    return True


def same_by_headers(
    scene: Scene, headers: Sequence[Header], references: SceneReferences, state: IndexedState
) -> bool:
    """Whether the files, whose headers were read now, are those that are indexed."""
    return (
        _same_coordinates(scene, state)
        and references.sha256 == state.refs_sha256
        and {header.asset.band for header in headers} == set(state.files)
        and all(_same_file(header, state) for header in headers)
    )


def same_record(found: IndexedScene, state: IndexedState) -> bool:
    """Whether all that would be recorded of a scene, whose headers were read now, is what is."""
    warnings = tuple(dict.fromkeys((*found.scene.warnings, *found.warnings)))
    return (
        {name: getattr(found.scene, name) for name in DESCRIBED} == state.described
        and (warnings, found.missing) == (state.warnings, state.missing)
        and {file.band: file for file in found.files} == state.files
    )


def _same_coordinates(scene: Scene, state: IndexedState) -> bool:
    if state.branch != f"{scene.collection}/{scene.tile}":
        return False
    return scene.boa_offset == state.boa_offset and int(scene.datetime.timestamp()) == int(
        state.datetime.timestamp()
    )


def _same_file(header: Header, state: IndexedState) -> bool:
    file = state.files[header.asset.band]
    if (header.asset.href, header.size, header.sha256) != (
        file.href,
        file.size,
        file.header_sha256,
    ):
        return False
    # What the references carry decides whether the pixels can still be read.
    if isinstance(header.checksum, str):
        return header.etag == file.etag
    return header.last_modified == file.last_modified
