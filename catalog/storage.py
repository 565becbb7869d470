"""Where a repository lies: a path, or a prefix of an S3 bucket that honours conditional writes."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import icechunk
import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.exceptions import BaseError as ObstoreError
from obstore.store import LocalStore, ObjectStore, S3Store

from catalog.errors import ConfigError, StoreError, first_line
from catalog.patience import Patience

CONNECT_TIMEOUT = timedelta(seconds=10)
READ_TIMEOUT = timedelta(seconds=30)
"""Until an object store begins to answer one try, and between two pieces of its answer."""
TRIES = 8
"""Of one request; icechunk scatters the pauses between them."""
PATIENCE = Patience(retries=3, first=1.0)
"""With an object store that breaks off half way."""
FIRST_PAUSE, LONGEST_PAUSE = timedelta(milliseconds=100), timedelta(seconds=15)

Options = Mapping[str, str]
"""``region``, ``endpoint`` and ``anonymous`` of an S3 repository."""


def is_remote(location: str) -> bool:
    return "://" in location


def absolute(location: str) -> str:
    """One spelling of a location: a path from the root without links, or a URL with no last /."""
    return location.rstrip("/") if is_remote(location) else str(Path(location).resolve())


def open_storage(location: str, options: Options) -> icechunk.Storage:
    """Storage for icechunk; nothing is read yet.

    Raises:
        ConfigError: neither a directory nor ``s3://bucket/prefix``.
    """
    # It warns of concurrent commits, which `Repository.writing` keeps apart, and writes to stderr
    # past our logs.
    icechunk.set_logs_filter("error")
    if not is_remote(location):
        path = Path(location)
        if path.exists() and not path.is_dir():
            raise ConfigError(f"repository {location}: a file is in the way")
        return icechunk.local_filesystem_storage(absolute(location))
    bucket, prefix = _bucket(location)
    endpoint = options.get("endpoint")
    anonymous = options.get("anonymous", "").lower() == "true"
    return icechunk.s3_storage(
        bucket=bucket,
        prefix=prefix,
        region=options.get("region"),
        endpoint_url=endpoint,
        allow_http=bool(endpoint and endpoint.startswith("http://")),
        force_path_style=bool(endpoint),
        anonymous=True if anonymous else None,
        from_env=None if anonymous else True,
        network_stream_timeout_seconds=max(1, int(READ_TIMEOUT.total_seconds())),
    )


def request_settings() -> icechunk.StorageSettings:
    """Timeouts and retries of icechunk's requests. A storage keeps those of its first use, so they
    are to be given there; by default nothing ends the wait for an answer."""
    milliseconds = timedelta(milliseconds=1)
    return icechunk.StorageSettings(
        # One request per chunk: by default icechunk splits a read of a few hundred KB.
        concurrency=icechunk.StorageConcurrencySettings(max_concurrent_requests_for_object=1),
        retries=icechunk.StorageRetriesSettings(
            max_tries=TRIES,
            initial_backoff_ms=FIRST_PAUSE // milliseconds,
            max_backoff_ms=LONGEST_PAUSE // milliseconds,
        ),
        timeouts=icechunk.StorageTimeoutSettings(
            connect_timeout_ms=CONNECT_TIMEOUT // milliseconds,
            read_timeout_ms=READ_TIMEOUT // milliseconds,
            operation_attempt_timeout_ms=2 * READ_TIMEOUT // milliseconds,
        ),
    )


def open_objects(location: str, options: Options) -> ObjectStore:
    """An obstore client whose keys are those below the repository's own location.

    Raises:
        ConfigError: neither a path nor ``s3://bucket/prefix``.
    """
    if not is_remote(location):
        return LocalStore(prefix=absolute(location))
    bucket, prefix = _bucket(location)
    settings: dict[str, Any] = {
        key: options[key] for key in ("region", "endpoint") if options.get(key)
    }
    client: Any = {"timeout": timedelta(seconds=30)}
    client["allow_http"] = settings.get("endpoint", "").startswith("http://")
    return S3Store(
        bucket,
        prefix=prefix,
        client_options=client,
        retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=20)},
        **settings,
    )


@dataclass(frozen=True, slots=True)
class StoreSize:
    """What a repository takes where it lies."""

    bytes: int
    objects: int


def measure(location: str, options: Options) -> StoreSize:
    """Lists every object of a repository: a request for each thousand on S3.

    Raises:
        ConfigError: its storage does not answer.
    """
    total = objects = 0
    with storage_errors(location):
        for page in obstore.list(open_objects(location, options), chunk_size=1000):
            objects += len(page)
            total += sum(found["size"] for found in page)
    return StoreSize(total, objects)


def probe_conditional_writes(location: str, options: Options) -> None:
    """Refuses a store on which two writers could overwrite each other's commits.

    Raises:
        ConfigError: the store accepts a write whose condition does not hold.
    """
    if not is_remote(location):
        return
    store = open_objects(location, options)
    key = f"cogcat-probe-{uuid.uuid4().hex}"
    try:
        obstore.put(store, key, b"1")
        ignored = []
        for name, mode in (("If-None-Match", "create"), ("If-Match", {"e_tag": '"0"'})):
            try:
                obstore.put(store, key, b"2", mode=mode)  # type: ignore[arg-type]
                ignored.append(name)
            except (AlreadyExistsError, PreconditionError):
                pass
        obstore.delete(store, key)
    except (ObstoreError, OSError) as error:
        raise ConfigError(f"{location}: {first_line(error)}") from error
    if ignored:
        raise ConfigError(
            f"{location}: the object store ignores conditional writes ({', '.join(ignored)}), so "
            "two writers could lose each other's commits; use one that honours them or a local path"
        )


@contextlib.contextmanager
def storage_errors(location: str) -> Iterator[None]:
    """What the storage does not let us do is a ``ConfigError`` that names it; what it gives and is
    no repository's is a ``StoreError``."""
    try:
        yield
    except (icechunk.IcechunkError, ObstoreError, ValueError, OSError) as error:
        if isinstance(error, ConfigError):
            raise
        if is_damage(error):
            raise _damaged(f"repository {location}", error) from error
        raise ConfigError(f"repository {location}: {storage_reason(error)}") from error
    except BaseException as error:
        if not is_panic(error):
            raise
        raise _damaged(f"repository {location}", error) from error


@contextlib.contextmanager
def store_errors(what: str) -> Iterator[None]:
    """What fails in a repository that was open already is a ``StoreError`` that names ``what``."""
    try:
        yield
    except (icechunk.IcechunkError, OSError, *_UNREADABLE) as error:
        if is_damage(error):
            raise _damaged(what, error) from error
        raise StoreError(
            f"{what}: {storage_reason(error)}; what is recorded stays: put it right, then run "
            "the crawl again"
        ) from error
    except BaseException as error:
        if not is_panic(error):
            raise
        raise _damaged(what, error) from error


_UNREADABLE = (json.JSONDecodeError, UnicodeDecodeError)
"""Of a document whose bytes have changed."""


def is_panic(error: BaseException) -> bool:
    """A panic of icechunk's native code: no ``Exception``, so that it is not caught by mistake."""
    return type(error).__name__ == "PanicException"


def is_damage(error: BaseException) -> bool:
    """What the storage gave is not what a repository wrote there, or is there no more."""
    if isinstance(error, _UNREADABLE):
        return True
    if not isinstance(error, icechunk.IcechunkError):
        return False
    text = str(error)
    return (
        isinstance(error, icechunk.FormatError)
        or error.kind == "object-not-found"
        or any(sign in text for sign in _DAMAGE)
    )


def _damaged(what: str, error: BaseException) -> StoreError:
    return StoreError(
        f"{what} is damaged: {storage_reason(error)}; put back the objects of the repository from "
        "a copy, or make it anew elsewhere and crawl again: the source's own files are untouched"
    )


def is_passing(error: BaseException) -> bool:
    """Whether the same request may be answered later: the network or the server failed, and did
    not say that something is missing, refused or wrong."""
    return isinstance(error, icechunk.StorageError) and not is_damage(error)


def patiently[T](location: str, ask: Callable[[], T]) -> T:
    """What ``ask`` returns, asked again after a pause where an object store broke off: icechunk
    itself asks again for what was refused, not for what broke off half way. ``ask`` only reads."""
    attempt = 0
    while True:
        attempt += 1
        try:
            return ask()
        except icechunk.IcechunkError as error:
            if attempt > PATIENCE.retries or not is_remote(location) or not is_passing(error):
                raise
            time.sleep(PATIENCE.pause(attempt))


def storage_reason(error: BaseException) -> str:
    """What a failure of the storage comes from, in one line: icechunk's first line names only what
    it was doing, and the cause stands below."""
    text = str(error)
    for known in _CAUSES:
        if known.lower() in text.lower():
            return f"{first_line(error)} ({known})"
    return first_line(error)


_DAMAGE = (
    # zstd's own words, and a range of a file that ends before it.
    "Src size is incorrect",
    "Data corruption detected",
    "Destination buffer is too small",
    "Unknown frame descriptor",
    "Restored data doesn't match checksum",
    "Frame requires too much memory",
    "Unsupported frame parameter",
    "Version not supported",
    "Requested range was invalid",
    "InvalidRange",
)
_CAUSES = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "Permission denied",
    "Read-only file system",
    "Not a directory",
    "No such file or directory",
    "Connection refused",
    "NoSuchBucket",
    "AccessDenied",
    "timed out",
    "dispatch failure",
    "InternalError",
    "SlowDown",
    "service error",
)


def _bucket(location: str) -> tuple[str, str]:
    parts = urlsplit(location)
    if parts.scheme != "s3" or not parts.netloc:
        raise ConfigError(f"repository {location!r}: give a path or s3://bucket/prefix")
    prefix = parts.path.strip("/")
    if not prefix:
        raise ConfigError(
            f"repository {location!r}: name a prefix too, as in s3://{parts.netloc}/s2"
        )
    return parts.netloc, prefix
