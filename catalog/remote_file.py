"""One file on its server: its bytes as they are asked for, and what a request that fails means."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError as ObstoreError
from obstore.exceptions import NotFoundError as ObstoreNotFoundError
from obstore.exceptions import (
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import ObjectStore

from catalog.errors import (
    DamagedFileError,
    HeaderError,
    MissingFileError,
    UnreadableFileError,
    first_line,
)
from catalog.patience import RETRIED
from catalog.redirects import was_redirected
from catalog.settings import Source
from catalog.sources import ask_pause, open_store, why_redirected

if TYPE_CHECKING:
    from obstore import GetResult

log = logging.getLogger(__name__)

FIRST_READ = 32_768
"""Bytes. A 10 m band of the real archive needs 4 212 with all its tile offsets."""
MAX_READ = 2**22
"""Bytes of one file's header. With a table of ``directories.MAX_TILES`` offsets and sizes it has
half a megabyte, and what lies between its parts is read with them."""
MAX_REQUESTS = 48
"""For one file's header, whose levels may each lie far from the others."""
MAX_SIZE = 2**40
"""Bytes of a file; a 10 m band has some 200 MB."""
MAX_ETAG = 256
"""Characters. Longer ones, or such as no terminal shows, are left out as if there were none."""
AHEAD = timedelta(days=1)
"""How far the clock of a server may be ahead: what was modified later yet shows no change."""
NONSENSE = 3
"""How often an answer that makes no sense is asked for, before it is believed to be one."""
NO_SUCH_KEY = "the file is missing"
EMPTY = "the file is empty"
_EPOCH = datetime(1970, 1, 2, tzinfo=UTC)
_SENSELESS = (
    "Content-Range", "CONTENT_RANGE", "Requested ", "Wanted range", "Content-Length Header",
    "Content-Length header", "Invalid ", "Received header", "Range request not supported",
)  # fmt: skip
"""In obstore's words of an answer whose headers it can make nothing of."""
_ENCODINGS = ("gzip", "deflate", "br", "zstd", "compress")


class Unanswered(Exception):
    """A request met a fault that may be over at the next try.

    Args:
        throttled: the server wants to be left alone.
        tries: of a server that did answer, but not as its protocol says: how often such an answer
            is asked for. None: there was no answer.
    """

    def __init__(self, reason: str, *, throttled: bool = False, tries: int | None = None) -> None:
        self.reason, self.throttled, self.tries = reason, throttled, tries
        super().__init__(reason)


class FileBytes:
    """The bytes of one file, got as they are asked for; keeps the first response's metadata.

    Args:
        ranges: whether its server is known to answer a range with a range.
    """

    def __init__(self, store: ObjectStore, key: str, *, ranges: bool = False) -> None:
        self._store, self._key, self.ranges = store, key, ranges
        self.requests = 0
        self.pieces: list[tuple[int, bytes]] = []
        """(start, bytes) of every response, in the order asked for."""
        self.read_bytes = 0
        self._encoding = ""
        self.meta: dict[str, Any] = {}
        """obstore's of the first response: ``size`` is bytes of the whole file."""

    async def open(self) -> None:
        """Reads the first bytes.

        Raises:
            MissingFileError, DamagedFileError: there is no such file, or it is empty.
            UnreadableFileError: its size is no file's.
            HeaderError: its server does not give it.
            Unanswered: as the server stands now.
        """
        piece = await self._get(0, FIRST_READ)
        size = int(self.meta["size"])
        if not size:
            raise DamagedFileError(EMPTY)
        if size > MAX_SIZE:
            raise UnreadableFileError(f"a file of {size} bytes")
        if self._encoding in _ENCODINGS and piece[:2] not in (b"II", b"MM"):
            raise HeaderError(
                f"its server sends it encoded as {self._encoding}: parts of that are not parts of "
                "the file"
            )

    @property
    def etag(self) -> str | None:
        """As served; None where it is none that can be kept."""
        tag: str | None = self.meta["e_tag"]
        return tag if tag and len(tag) <= MAX_ETAG and tag.isascii() and tag.isprintable() else None

    @property
    def last_modified(self) -> datetime | None:
        """Aware, UTC; None where it cannot be believed. obstore says 1970 where a server says
        nothing."""
        found: datetime = self.meta["last_modified"]
        return found if _EPOCH < found < datetime.now(UTC) + AHEAD else None

    async def read(self, start: int, length: int) -> memoryview:
        """``length`` bytes from ``start``, or fewer where the file ends.

        Raises:
            UnreadableFileError: no header is that long.
            DamagedFileError: the file ends before ``start``.
            HeaderError: it changed since the first response.
        """
        size = int(self.meta["size"])
        if start >= size:
            raise DamagedFileError(f"truncated: its header goes on at byte {start} of {size}")
        stop = min(start + length, size)
        for first, piece in self.pieces:
            if first <= start and stop <= first + len(piece):
                return memoryview(piece)[start - first : stop - first]
        # Parts of a header lie together: the next ask is likely just behind this one.
        end = min(size, max(stop, start + 2 * FIRST_READ))
        if self.read_bytes + end - start > MAX_READ or self.requests >= MAX_REQUESTS:
            raise UnreadableFileError(
                f"its header goes on after {self.read_bytes} bytes in {self.requests} pieces, as "
                "none does"
            )
        return memoryview(await self._get(start, end))[: stop - start]

    async def _get(self, start: int, end: int) -> bytes:
        self.requests += 1
        try:
            result = await obstore.get_async(
                self._store, self._key, options={"range": (start, end)}
            )
        except NotSupportedError as error:
            if start or self.meta:
                raise _whole(self.meta["size"]) from error
            return await self._get_whole()
        except Exception as error:
            raise await self._fault(error) from error
        self.ranges = True
        return await self._take(result, start, end)

    async def _get_whole(self) -> bytes:
        """For a server that answers 200 to a range which covers the file: it may be that short.
        One that answers so to every range never gives a reader a chunk."""
        self.requests += 1
        try:
            result = await obstore.get_async(self._store, self._key)
        except Exception as error:
            raise await self._fault(error) from error
        size = int(result.meta["size"])
        if size > FIRST_READ:
            raise _whole(size)
        piece = await self._take(result, 0, size)
        # What is no TIFF, such as a page that says so, is told as that.
        if piece[:2] in (b"II", b"MM") and not self.ranges:
            await self._check_ranges(size)
        return piece

    async def _check_ranges(self, size: int) -> None:
        self.requests += 1
        try:
            result = await obstore.get_async(
                self._store, self._key, options={"range": (size - 1, size)}
            )
            await result.bytes_async()
        except NotSupportedError as error:
            raise _whole(size) from error
        except Exception as error:
            raise await self._fault(error) from error
        self.ranges = True

    async def _take(self, result: GetResult, start: int, end: int) -> bytes:
        """The body: as long as the range and the size of the file say, and not a byte more."""
        meta: dict[str, Any] = dict(result.meta)
        if not self.meta:
            self._encoding = str(result.attributes.get("Content-Encoding", "")).lower()
        elif any(meta[key] != self.meta[key] for key in ("size", "e_tag", "last_modified")):
            raise HeaderError("the file changed while its header was read")
        expected = min(end, meta["size"]) - start
        body = result.stream(min_chunk_size=expected + 1)
        try:
            piece = bytes(await anext(body, b""))
        except Exception as error:
            raise await self._fault(error) from error
        self.meta = meta
        if len(piece) != expected:
            some = "more than " if len(piece) > expected else ""
            reason = f"cannot be read: {some}{min(expected, len(piece))} bytes came"
            raise Unanswered(reason, tries=NONSENSE)
        self.pieces.append((start, piece))
        self.read_bytes += len(piece)
        return piece

    async def _fault(self, error: Exception) -> Exception:
        if was_redirected(str(error)):
            return HeaderError(await asyncio.to_thread(why_redirected, self._store, self._key))
        return _fault(error)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(b"".join(piece for _, piece in self.pieces)).hexdigest()


class Server:
    """One source as it answers: its client, and until when it wants to be left alone."""

    def __init__(self, source: Source, hosts: Sequence[str] = ()) -> None:
        """``hosts``: that it may redirect to, see ``open_store``."""
        self.source = source
        self.store = open_store(source, hosts)
        self.unanswered = 0
        """Files given up in a row without an answer."""
        self.ranges = False
        """Whether it has answered a range with a range."""
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


def _whole(size: int) -> Unanswered:
    reason = f"its server sends the whole file, {size} bytes, where a range of it was asked for"
    return Unanswered(f"cannot be read: {reason}", tries=2)


def _fault(error: Exception) -> Exception:
    """What a failed request means: for good, or to be tried again. obstore's words without the
    address, which errors name anyway, and without timings."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, ObstoreNotFoundError | FileNotFoundError) or "Not a directory" in text:
        return MissingFileError(NO_SUCH_KEY)
    if "416 Range Not Satisfiable" in text or "Requested range was invalid" in text:
        return DamagedFileError(EMPTY)
    words = text
    performing = "Error performing" in text
    if performing:
        # Before it is cut to length: what is left of a signed address must not hold its token.
        words = text.splitlines()[0].rpartition(" - ")[2]
    said = f"cannot be read: {first_line(words)}"
    if not isinstance(error, ObstoreError | OSError):
        return HeaderError(said)
    found = re.search(r"status code: (\d{3})", text)
    status = int(found[1]) if found else None
    if status == 410:
        return MissingFileError(NO_SUCH_KEY)
    refused = isinstance(error, PermissionDeniedError | UnauthenticatedError | PreconditionError)
    if refused or (status is not None and status < 500 and status not in RETRIED):
        return HeaderError(said)
    # There was an answer: obstore, or below it hyper, could make nothing of its headers.
    answered = "Parse(" in text if performing else any(word in text for word in _SENSELESS)
    return Unanswered(said, throttled=status in (429, 503), tries=NONSENSE if answered else None)
