"""Why a chunk could not be read, in terms of the file it lies in."""

from __future__ import annotations

import icechunk

from catalog.chunk_reader import ChunkError
from catalog.errors import CatalogError, ChangedFileError, SourceError, StoreError, first_line

# Icechunk 2.3 has one class for all of these; ``tests/test_read_errors.py`` meets each.
_CHANGED = "checksum of the object owning the virtual chunk has changed"
_FETCHING = "error fetching virtual reference"
_GONE = (" not found", "NoSuchKey")


async def unreadable(error: ChunkError, scene: str, band: str) -> CatalogError:
    """What to raise for ``error``, with scene, band and the file's address."""
    href = await _location(error)
    reason = first_line(error.__cause__ or error)
    if _CHANGED in reason:
        return ChangedFileError("the file has changed since it was indexed", scene, band, href)
    if _FETCHING in reason and any(said in reason for said in _GONE):
        return ChangedFileError("the file is gone since it was indexed", scene, band, href)
    where = f" ({href})" if href else ""
    if _FETCHING in reason:
        return SourceError(f"{scene} {band}: its store does not answer: {reason}{where}")
    return StoreError(f"{scene} {band}: {reason}{where}")


async def _location(error: ChunkError) -> str:
    """The URL of the file; empty where the repository itself cannot say."""
    place = error.place
    try:
        batches = error.array.store.array_chunk_iterator(f"/{error.array.path}")
        async for at, _, paths, _, _, _ in batches:
            for row, url in zip(at, paths, strict=True):
                if tuple(row[: len(place)]) == place:
                    return str(url)
    except icechunk.IcechunkError:
        pass
    return ""
