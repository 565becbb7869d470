"""Why something of a repository could not be read, in terms of who reads.

The file that a chunk lies in, the branch and the snapshot are named; no error of another library
gets past these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import icechunk

from catalog.chunk_reader import ChunkError
from catalog.errors import CatalogError, ChangedFileError, SourceError, StoreError, first_line
from catalog.repository import SnapshotStore

# Icechunk 2.3 has one class for all of these; ``tests/test_read_errors.py`` meets each.
_CHANGED = "checksum of the object owning the virtual chunk has changed"
_FETCHING = "error fetching virtual reference"
_GONE = (" not found", "NoSuchKey")
_LOST = ("not found", "NoSuchKey", "No such file")
_LOCAL = (OSError, EOFError, RuntimeError, LookupError, ValueError, TypeError, AttributeError,
          AssertionError, ArithmeticError, MemoryError)  # fmt: skip
"""What a document or a chunk that makes no sense leads to, in whoever takes it apart."""


@contextmanager
def damage(store: icechunk.IcechunkStore) -> Iterator[None]:
    """What fails here is a ``StoreError`` that names branch and snapshot; errors of ours pass.

    Around what takes the repository's own documents and coordinates apart, and nothing else.
    """
    try:
        yield
    except CatalogError:
        raise
    except (icechunk.IcechunkError, *_LOCAL) as error:
        raise StoreError(f"{where(store)}: {_reason(store, error)}") from error
    except BaseException as error:
        # A panic of native code is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise StoreError(f"{where(store)}: {_reason(store, error)}") from error


def where(store: icechunk.IcechunkStore) -> str:
    """Branch, snapshot and repository of a store, for messages."""
    return store.about if isinstance(store, SnapshotStore) else "the store"


async def unreadable(error: ChunkError, scene: str, band: str) -> CatalogError:
    """What to raise for ``error``, with scene, band and the file's address."""
    store = error.array.store
    href = await _location(error)
    cause = error.__cause__ or error
    reason = first_line(cause)
    if _CHANGED in reason:
        return ChangedFileError("the file has changed since it was indexed", scene, band, href)
    if _FETCHING in reason and any(said in reason for said in _GONE):
        return ChangedFileError("the file is gone since it was indexed", scene, band, href)
    place = f" ({href})" if href else ""
    if _FETCHING in reason:
        return SourceError(f"{scene} {band}: its store does not answer: {reason}{place}")
    if isinstance(cause, icechunk.IcechunkError) or type(cause).__name__ == "PanicException":
        return StoreError(f"{scene} {band}: {where(store)}: {_reason(store, cause)}{place}")
    return StoreError(f"{scene} {band}: {reason}{place}")


def _reason(store: icechunk.IcechunkStore, error: BaseException) -> str:
    reason = first_line(error)
    if isinstance(error, icechunk.IcechunkError) and any(said in str(error) for said in _LOST):
        expired = store.has_expired() if isinstance(store, SnapshotStore) else None
        if expired:
            return "the snapshot has expired since it was opened: open the dataset again"
        if expired is None:
            reason = f"the snapshot has expired, or a file of the repository is lost ({reason})"
            return f"{reason}: open the dataset again"
    if not isinstance(error, icechunk.IcechunkError):
        reason = f"{type(error).__name__}: {reason}"
    return f"cannot be read, the repository is damaged or was changed by others ({reason})"


async def _location(error: ChunkError) -> str:
    """The URL of the file; empty where the repository itself cannot say."""
    place = error.place
    try:
        batches = error.array.store.array_chunk_iterator(f"/{error.array.path}")
        async for at, _, paths, _, _, _ in batches:
            for row, url in zip(at, paths, strict=True):
                if tuple(row[: len(place)]) == place:
                    return str(url)
    except (icechunk.IcechunkError, *_LOCAL):
        pass
    except BaseException as failed:
        if type(failed).__name__ != "PanicException":
            raise
    return ""
