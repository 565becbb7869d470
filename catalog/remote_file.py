"""One file on its server: its bytes as they are asked for, and what a request that fails means."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from typing import Any

import obstore
from obstore.exceptions import BaseError as ObstoreError
from obstore.exceptions import NotFoundError as ObstoreNotFoundError
from obstore.exceptions import PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import ObjectStore

from catalog.errors import DamagedFileError, HeaderError, MissingFileError, first_line
from catalog.patience import RETRIED
from catalog.settings import Source
from catalog.sources import ask_pause, open_store

log = logging.getLogger(__name__)

FIRST_READ = 32_768
"""Bytes. A 10 m band of the real archive needs 4 212 with all its tile offsets."""
NO_SUCH_KEY = "the file is missing"


class Unanswered(Exception):
    """A request met a fault that may be over at the next try."""

    def __init__(self, reason: str, *, throttled: bool) -> None:
        self.reason, self.throttled = reason, throttled
        super().__init__(reason)


class FileBytes:
    """The bytes of one file, got as they are asked for; keeps the first response's metadata."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store, self._key = store, key
        self.requests = 0
        self.pieces: list[tuple[int, bytes]] = []
        """(start, bytes) of every response, in the order asked for."""
        self.meta: dict[str, Any] = {}

    async def open(self) -> None:
        await self._get(0, FIRST_READ)

    async def read(self, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``, or fewer where the file ends.

        Raises:
            DamagedFileError: the file ends before ``start``.
            HeaderError: it changed since the first response.
        """
        size = int(self.meta["size"])
        if start >= size:
            raise DamagedFileError(f"truncated: its header goes on at byte {start} of {size}")
        stop = min(start + length, size)
        for first, piece in self.pieces:
            if first <= start and stop <= first + len(piece):
                return piece[start - first : stop - first]
        # Parts of a header lie together: the next ask is likely just behind this one.
        piece = await self._get(start, min(size, max(stop, start + 2 * FIRST_READ)))
        return piece[: stop - start]

    async def _get(self, start: int, end: int) -> bytes:
        self.requests += 1
        try:
            result = await obstore.get_async(
                self._store, self._key, options={"range": (start, end)}
            )
            meta: dict[str, Any] = dict(result.meta)
            piece = bytes(await result.bytes_async())
        except (ObstoreNotFoundError, FileNotFoundError) as error:
            raise MissingFileError(NO_SUCH_KEY) from error
        except (ObstoreError, OSError) as error:
            raise _fault(error) from error
        if not self.meta:
            self.meta = meta
        elif any(meta[key] != self.meta[key] for key in ("size", "e_tag", "last_modified")):
            raise HeaderError("the file changed while its header was read")
        if len(piece) < min(end, meta["size"]) - start:
            raise Unanswered(f"cannot be read: {len(piece)} bytes came", throttled=False)
        self.pieces.append((start, piece))
        return piece

    @property
    def sha256(self) -> str:
        return hashlib.sha256(b"".join(piece for _, piece in self.pieces)).hexdigest()


class Server:
    """One source as it answers: its client, and until when it wants to be left alone."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.store = open_store(source)
        self.unanswered = 0
        """Files given up in a row."""
        self._free_at = 0.0
        self._asking = asyncio.Lock()

    async def wait(self) -> None:
        while (seconds := self._free_at - time.monotonic()) > 0:
            await asyncio.sleep(seconds)

    async def throttled(self, key: str) -> int:
        """Finds out how long to wait, once for all whom it refused; requests made."""
        async with self._asking:
            if self._free_at > time.monotonic():
                return 0
            seconds = await asyncio.to_thread(ask_pause, self.store, key)
            if seconds:
                log.warning("%s wants no requests for %.0f s", self.source.name, seconds)
                self._free_at = time.monotonic() + seconds
            return 1


def _fault(error: Exception) -> Exception:
    """What a failed request means: for good, or to be tried again. obstore's words without the
    address, which errors name anyway, and without timings."""
    text = str(error).strip() or type(error).__name__
    if "416 Range Not Satisfiable" in text or "Requested range was invalid" in text:
        return DamagedFileError("the file is empty")
    words = text
    if "Error performing" in text:
        # Before it is cut to length: what is left of a signed address must not hold its token.
        words = text.splitlines()[0].rpartition(" - ")[2]
    said = f"cannot be read: {first_line(words)}"
    found = re.search(r"status code: (\d{3})", text)
    status = int(found[1]) if found else None
    if status == 410:
        return MissingFileError(NO_SUCH_KEY)
    refused = isinstance(error, (PermissionDeniedError, UnauthenticatedError, PreconditionError))
    if refused or (status is not None and status < 500 and status not in RETRIED):
        return HeaderError(said)
    return Unanswered(said, throttled=status in (429, 503))
