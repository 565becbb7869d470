"""The right to write to a repository: one holder at a time, kept in SQL, expiring by itself.

A crawl that is killed stops renewing; when its lease has expired another may take it. The
database's row is the judge, by compare-and-swap; the clock is the database server's, so that
machines whose clocks differ agree. Of SQLite it is the machine's, which may have been wrong: a
lease that ends later than any renewal could have made it is cut short by whoever finds it. Its
holder, if it lives, renews it; if not, it ends soon.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, Engine, delete, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from catalog.database import write_transaction
from catalog.errors import BusyError, CatalogError, ConfigError
from catalog.json_values import brief
from catalog.models import LEASES

log = logging.getLogger(__name__)

TTL = timedelta(seconds=60)
"""From the last renewal until another may take the lease."""
BELIEVED = 2 * TTL
"""The most that a lease is believed to be good for from now on."""
RENEWALS = 4
"""Per ``TTL``: three may fail before the lease is lost."""
POLL = 1.0
"""Seconds between two tries of a crawl that waits."""

_HELD: set[str] = set()
"""Holders of this process: what the database says of others of it could not be given back."""
_HOLDER = re.compile(r"([^:\0]{1,255}):([^:\0]{0,100}):([1-9][0-9]{0,9}):[^:\0]{1,40}", re.ASCII)
_WHEN = "%Y-%m-%d %H:%M:%S UTC"


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A lease as the database has it."""

    holder: str
    """Who, fit for a message."""
    since: datetime | None
    """None for what is no time."""
    until: datetime | None
    is_here: bool
    """The holder is a process of this machine, and lives."""

    def __str__(self) -> str:
        since, until = (at.strftime(_WHEN) if at else "?" for at in (self.since, self.until))
        return f"{self.holder}, since {since}, good until {until}"


class Lease:
    """A held lease, renewed in the background until ``release``."""

    def __init__(self, engine: Engine, repository_id: int, holder: str, ttl: timedelta) -> None:
        self._engine, self._repository_id, self.holder = engine, repository_id, holder
        self._ttl = ttl
        self._lost: str | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """To be called before every write to the repository.

        Raises:
            BusyError: the lease could not be renewed in time, or another has taken it.
        """
        if self._lost is not None:
            raise BusyError(self._lost)

    def release(self) -> None:
        """Gives the lease back; what cannot be given back expires."""
        self._done.set()
        self._thread.join()
        _HELD.discard(self.holder)
        try:
            with write_transaction(self._engine) as connection:
                connection.execute(
                    delete(LEASES).where(
                        LEASES.c.repository_id == self._repository_id,
                        LEASES.c.holder == self.holder,
                    )
                )
        except CatalogError as error:
            log.warning("the lease was not given back and will expire: %s", error)

    def _renew(self) -> None:
        pause = self._ttl.total_seconds() / RENEWALS
        good_until = time.monotonic() + self._ttl.total_seconds()
        while not self._done.wait(pause):
            try:
                with write_transaction(self._engine) as connection:
                    now = _now(connection)
                    changed = connection.execute(
                        update(LEASES)
                        .where(
                            LEASES.c.repository_id == self._repository_id,
                            LEASES.c.holder == self.holder,
                        )
                        .values(expires_at=now + self._ttl)
                    )
                if changed.rowcount == 0:
                    self._lost = "another crawl has taken the lease on the repository"
                    return
                good_until = time.monotonic() + self._ttl.total_seconds()
            except CatalogError as error:
                log.warning("the lease could not be renewed: %s", error)
                if time.monotonic() > good_until:
                    self._lost = f"the lease on the repository expired: {error}"
                    return


@contextmanager
def held(
    engine: Engine,
    repository_id: int,
    *,
    wait: float | None = 0.0,
    ttl: timedelta = TTL,
) -> Iterator[Lease]:
    """The lease on a repository for the length of a ``with`` block.

    Args:
        wait: seconds to wait for another holder; None for as long as it takes.
        ttl: of every renewal.

    Raises:
        BusyError: another holds it; says who and until when.
    """
    holder = f"{socket.gethostname()}:{_processes()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    _HELD.add(holder)
    try:
        deadline = None if wait is None else time.monotonic() + wait
        while True:
            other = _acquire(engine, repository_id, holder, ttl)
            if other is None:
                break
            if deadline is not None and time.monotonic() >= deadline:
                name, until = other
                raise BusyError(
                    f"another crawl ({_named(name)}) is writing to the repository; its lease is "
                    f"good until {until:{_WHEN}}: wait for it with --wait, or, if it is dead, "
                    "break its lease with `cogcat repair --break-lease`"
                )
            time.sleep(POLL)
    except BaseException:
        _HELD.discard(holder)
        raise
    lease = Lease(engine, repository_id, holder, ttl)
    try:
        yield lease
    finally:
        lease.release()


def _acquire(
    engine: Engine, repository_id: int, holder: str, ttl: timedelta
) -> tuple[str, datetime] | None:
    """Takes the lease, or says who holds it until when."""
    with write_transaction(engine) as connection:
        now = _now(connection)
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        statement = insert(LEASES).values(
            repository_id=repository_id, holder=holder, acquired_at=now, expires_at=now + ttl
        )
        taken = connection.execute(
            statement.on_conflict_do_update(
                index_elements=["repository_id"],
                set_={
                    name: statement.excluded[name]
                    for name in ("holder", "acquired_at", "expires_at")
                },
                where=or_(LEASES.c.expires_at < now, LEASES.c.holder == holder),
            ).returning(LEASES.c.holder)
        ).scalar_one_or_none()
        if taken == holder:
            return None
        # Later than any renewal could have made it: the clock was wrong then, or is now.
        connection.execute(
            update(LEASES)
            .where(LEASES.c.repository_id == repository_id, LEASES.c.expires_at > now + BELIEVED)
            .values(expires_at=now + BELIEVED)
        )
        row = connection.execute(
            select(LEASES.c.holder, LEASES.c.expires_at).where(
                LEASES.c.repository_id == repository_id
            )
        ).one()
        if not _is_dead(row.holder):
            return row.holder, row.expires_at
        # A crawl that was killed here a moment ago need not be waited for.
        stolen = connection.execute(
            update(LEASES)
            .where(LEASES.c.repository_id == repository_id, LEASES.c.holder == row.holder)
            .values(holder=holder, acquired_at=now, expires_at=now + ttl)
        )
        return None if stolen.rowcount else (row.holder, row.expires_at)


def read_lease(connection: Connection, repository_id: int) -> LeaseRecord | None:
    """Who holds the lease on a repository, or held it last and died. One or two statements."""
    mine = LEASES.c.repository_id == repository_id
    holder = connection.execute(select(LEASES.c.holder).where(mine)).scalar_one_or_none()
    if holder is None:
        return None
    try:
        times = select(LEASES.c.acquired_at, LEASES.c.expires_at).where(mine)
        since, until = connection.execute(times).first() or (None, None)
    except ConfigError:
        since = until = None  # no times, and so no lease that can be believed; but it is there
    return LeaseRecord(_named(holder), since, until, _lives(holder))


def break_lease(
    engine: Engine, repository_id: int, *, though_alive: bool = False
) -> LeaseRecord | None:
    """Takes the lease from whoever holds it, who notices at the next renewal and stops.

    Args:
        though_alive: also from a process of this machine that is running.

    Returns:
        whose it was; None where nobody held it.

    Raises:
        BusyError: the holder is running on this machine.
    """
    with write_transaction(engine) as connection:
        found = read_lease(connection, repository_id)
        if found is None:
            return None
        if found.is_here and not though_alive:
            raise BusyError(
                f"the crawl that holds the lease is running on this machine ({found}): stop it, "
                "or, if that process is no crawl, break its lease with --yes"
            )
        connection.execute(delete(LEASES).where(LEASES.c.repository_id == repository_id))
    log.warning("the lease of %s was broken", found)
    return found


def _named(holder: str) -> str:
    """A holder, fit for a message, whatever wrote it."""
    parts = _HOLDER.fullmatch(holder) if isinstance(holder, str) else None
    if parts is None or not parts[1].isprintable():
        return f"a holder of another form, {brief(holder)}"
    return f"{parts[1]}, process {parts[3]}"


def _processes() -> str:
    """Names the set of processes that ours can see by number: this boot of this machine, and the
    container. Empty where the system does not say; then no other's death can be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        container = str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")
        return f"{boot[:8]}-{container}"
    except OSError:
        return ""


def _is_dead(holder: str) -> bool:
    """True only if the holder was of this machine and container, and is no more."""
    number = _process_here(holder)
    return number is not None and not _runs(number, holder)


def _lives(holder: str) -> bool:
    """True only if the holder is of this machine and container, and is running."""
    number = _process_here(holder)
    return number is not None and _runs(number, holder)


def _process_here(holder: str) -> int | None:
    """Its number, if it is one of those that ours can see."""
    parts = _HOLDER.fullmatch(holder) if isinstance(holder, str) else None
    if parts is None or parts[1] != socket.gethostname():
        return None
    return int(parts[3]) if parts[2] and parts[2] == _processes() else None


def _runs(number: int, holder: str) -> bool:
    if number == os.getpid():
        return holder in _HELD
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _now(connection: Connection) -> datetime:
    if connection.dialect.name == "postgresql":
        moment: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return moment.astimezone(UTC)
    return datetime.now(UTC)  # SQLite is a file: its clock is the machine's
