"""Upkeep of a repository: old snapshots, garbage, and old copies of its info file.

In this order, so that no recorded snapshot id ever dangles: SQL lets go of what is about to
expire, the repository expires it, garbage is collected, old copies of the info file are removed.
A process that dies in between leaves work for the next run and nothing else.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import icechunk
import obstore
from sqlalchemy import Engine

from catalog import expiry
from catalog.commit_check import own_commits
from catalog.database import write_transaction
from catalog.errors import StoreError, first_line
from catalog.heads import branch_heads
from catalog.lease import Lease
from catalog.repository import Repository
from catalog.storage import Options, open_objects

COPIES = "overwritten/"
"""Where icechunk keeps every earlier copy of the info file; its own collection leaves them."""
GRACE = timedelta(hours=1)
"""Nothing younger is removed: it may belong to a commit under way, or a reader may hold it."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What a run of upkeep did, or would do."""

    expired: int
    """Snapshots that are no more."""
    kept: int
    objects_deleted: int
    bytes_deleted: int
    copies_deleted: int
    """Old copies of the repository's info file."""
    copies_kept: int
    """Those its log of operations still goes through, and the young ones."""


def maintain(
    engine: Engine,
    repository: Repository,
    repository_id: int,
    lease: Lease,
    *,
    keep: timedelta,
    options: Options | None = None,
    grace: timedelta = GRACE,
    dry_run: bool = False,
) -> Upkeep:
    """Expires snapshots older than ``keep`` (branch heads never), and removes what is unreachable.

    Args:
        lease: on the repository: no crawl may be writing.
        keep: age; a snapshot id that was cited longer ago no longer resolves.
        options: of an S3 repository.
        grace: age below which no object is removed.
        dry_run: look and count only.

    Raises:
        StoreError: a branch's head is not the recorded one (run ``cogcat repair`` first), or
            the storage failed.
        BusyError: the lease was lost.
    """
    now = datetime.now(UTC)
    cutoff = now - keep
    doomed, kept = _doomed(engine, repository, repository_id, cutoff)
    expired = sum(map(len, doomed.values()))
    try:
        if not dry_run and expired:
            lease.check()
            with write_transaction(engine) as connection:
                expiry.forget_snapshots(connection, repository_id, doomed)
            lease.check()
            with repository.writing():
                repository.icechunk.expire_snapshots(cutoff)
        lease.check()
        summary = repository.icechunk.garbage_collect(now - grace, dry_run=dry_run)
        lease.check()
        deleted, left = _remove_copies(
            repository, options or {}, now - grace, lease=lease, dry_run=dry_run
        )
    except icechunk.IcechunkError as error:
        raise StoreError(f"{repository.location}: {first_line(error)}") from error
    return Upkeep(
        expired=expired,
        kept=kept,
        objects_deleted=summary.snapshots_deleted
        + summary.manifests_deleted
        + summary.chunks_deleted
        + summary.attributes_deleted
        + summary.transaction_logs_deleted,
        bytes_deleted=summary.bytes_deleted,
        copies_deleted=deleted,
        copies_kept=left,
    )


def _doomed(
    engine: Engine, repository: Repository, repository_id: int, cutoff: datetime
) -> tuple[dict[str, list[str]], int]:
    """Snapshots to expire by branch, judged by the repository's own clock; and how many stay."""
    with write_transaction(engine) as connection:
        recorded = branch_heads(connection, repository_id)
    doomed: dict[str, list[str]] = {}
    kept = 0
    for branch in sorted(repository.branches()):
        head = repository.head(branch)
        known = recorded.get(branch)
        history = repository.history(branch, since=None)
        if known is None and not own_commits(repository, branch, history)[0]:
            # Made by a crawl that died before its first commit to it, or by another: what that
            # one's branches and tags hold stays, for nothing they reach is garbage.
            continue
        if known is None or known.snapshot_id != head:
            raise StoreError(
                f"branch {branch}: its head is not the recorded one; run `cogcat repair` first"
            )
        old = [info.id for info in history if info.written_at < cutoff and info.id != head]
        kept += len(history) - len(old)
        if old:
            doomed[branch] = old
    return doomed, kept


def _remove_copies(
    repository: Repository,
    options: Options,
    before: datetime,
    *,
    lease: Lease,
    dry_run: bool,
) -> tuple[int, int]:
    """Removes copies of the info file that nothing goes through: (deleted, left).

    The current file holds the newest entries of the log of operations and names the one copy
    that holds those before; that copy names the next. Only this chain is ever read again.
    """
    store = open_objects(repository.location, options)
    entries = [meta for page in obstore.list(store, COPIES) for meta in page]
    chain: set[str] = set()
    name = asyncio.run(_info(repository.icechunk)).get("repo_before_updates")
    while name and name not in chain:
        chain.add(name)
        name = _before(bytes(obstore.get(store, COPIES + name).bytes()))
    old = [
        meta["path"]
        for meta in entries
        if meta["path"].rpartition("/")[2] not in chain and meta["last_modified"] < before
    ]
    if not dry_run:
        for first in range(0, len(old), 1000):
            lease.check()
            obstore.delete(store, old[first : first + 1000])
    return len(old), len(entries) - len(old)


def _before(info: bytes) -> str | None:
    """The copy that a copy of an info file names as the one before it."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "repo").write_bytes(info)
        copy = icechunk.Repository.open(icechunk.local_filesystem_storage(directory))
        found: str | None = asyncio.run(_info(copy)).get("repo_before_updates")
        return found


async def _info(repository: icechunk.Repository) -> dict[str, Any]:
    # Its synchronous form keeps the GIL while it waits for the storage (icechunk 2.3).
    return await repository.inspect_repo_info_async()
