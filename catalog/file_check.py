"""Are the files that a stored scene refers to still there, and the same? Knows no SQL."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

import icechunk

from catalog.contents import StoredScene, is_unchanged
from catalog.cube import refs_digest, scene_references
from catalog.errors import HeaderError
from catalog.header import Header, Reads
from catalog.remote_file import NO_SUCH_KEY
from catalog.scene import Scene

CHANGED = "the file is no longer the one that is referenced"
_NOTHING = refs_digest(())


@dataclass(slots=True)
class CheckedFiles:
    """The files of one scene as they are now, by band."""

    headers: dict[str, Header] = field(default_factory=dict)
    """Of those that are what the store refers to."""
    faults: dict[str, HeaderError] = field(default_factory=dict)
    """Of those that are not."""
    left_out: set[str] = field(default_factory=set)
    """That the scene has and the store has not: they were not asked for, or could not be read."""
    unindexed: dict[str, HeaderError] = field(default_factory=dict)
    """Why not, for those of ``left_out`` that cannot be read now either."""
    requests: int = 0
    """GET requests."""

    @property
    def unanswered(self) -> HeaderError | None:
        """A fault, if not one file was answered for, not even as missing."""
        faults = list(self.faults.values())
        if self.headers or not all(map(is_unread, faults)):
            return None
        return next(iter(faults), None)


def is_unread(fault: HeaderError) -> bool:
    """Whether the store did not give the file, without saying that it is missing."""
    return fault.__cause__ is not None and fault.reason != NO_SUCH_KEY


async def check_files(
    scene: Scene,
    stored: StoredScene,
    committed_at: datetime,
    store: icechunk.IcechunkStore,
    reader: Reads,
) -> CheckedFiles:
    """Reads the headers of ``scene``'s files and compares what they would be referenced as with
    what ``stored`` refers to. One GET per file, and a second, of its smallest chunk, only where
    the file is not older than the commit: then Icechunk judges by the reference's checksum.

    Args:
        scene: whose assets name the files; of each band of ``stored.files``, the same file.
        committed_at: aware; when the references were committed.
        store: of a snapshot that holds ``stored``.
    """
    files = CheckedFiles()
    found = await asyncio.gather(
        *(reader.read(asset) for asset in scene.assets), return_exceptions=True
    )
    for asset, result in zip(scene.assets, found, strict=True):
        files.requests += result.requests if isinstance(result, Header) else 1
        if isinstance(result, HeaderError):
            files.faults[asset.band] = result
        elif isinstance(result, Header):
            files.headers[asset.band] = result
        else:
            raise result
    digests = _digests(scene, files)
    moment = committed_at.replace(microsecond=0)  # files' times are whole seconds
    for asset in scene.assets:
        band = asset.band
        header, file = files.headers.get(band), stored.files.get(band)
        if file is None:
            # A file without tiles has no reference; any other is not indexed.
            if header is None or digests[band] != _NOTHING:
                files.left_out.add(band)
                files.headers.pop(band, None)
                if (fault := files.faults.pop(band, None)) is not None:
                    files.unindexed[band] = fault
            continue
        if header is None:
            continue
        same = digests[band] == file.refs_sha256
        if same and (header.last_modified is None or header.last_modified >= moment):
            files.requests += 1
            same = await asyncio.to_thread(is_unchanged, store, file)
        if not same:
            del files.headers[band]
            files.faults[band] = HeaderError(CHANGED, band=band, href=asset.href)
    return files


def _digests(scene: Scene, files: CheckedFiles) -> dict[str, str]:
    """``refs_digest`` of each band's arrays alone; a file that makes no references is a fault."""
    while True:
        try:
            arrays = scene_references(scene, files.headers.values()).arrays
            break
        except HeaderError as error:
            band = str(error.band)
            del files.headers[band]
            files.faults[band] = error
    return {
        band: refs_digest(
            (array.spec.path, array.location, array.offsets, array.lengths)
            for array in arrays
            if array.spec.band == band
        )
        for band in files.headers
    }
