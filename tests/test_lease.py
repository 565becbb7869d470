"""One crawl at a time may write: the lease is taken, renewed, waited for, expires, is lost."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, delete, insert, select, update

from catalog import lease as leases
from catalog.database import read_transaction, write_transaction
from catalog.errors import BusyError
from catalog.models import LEASES

SHORT = timedelta(seconds=0.8)


@pytest.fixture
def repository_id(engine: Engine) -> int:
    from tests.test_watches import add_repository

    return add_repository(engine)


@pytest.fixture(autouse=True)
def _polls_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "POLL", 0.05)


def rows(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(select(LEASES.c.holder)).scalars())


def test_a_second_crawl_is_told_who_writes(engine: Engine, repository_id: int) -> None:
    with leases.held(engine, repository_id) as first:
        assert rows(engine) == [first.holder]
        busy = pytest.raises(BusyError, match=r"another crawl .* is writing")
        with busy, leases.held(engine, repository_id):
            pass
        first.check()
    assert rows(engine) == []
    with leases.held(engine, repository_id) as again:
        again.check()


def test_one_that_waits_gets_it_when_the_first_is_done(engine: Engine, repository_id: int) -> None:
    order: list[str] = []
    taken = threading.Event()

    def first() -> None:
        with leases.held(engine, repository_id):
            taken.set()
            time.sleep(0.4)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    taken.wait()
    with leases.held(engine, repository_id, wait=None):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_waiting_ends(engine: Engine, repository_id: int) -> None:
    busy = pytest.raises(BusyError)
    with leases.held(engine, repository_id), busy, leases.held(engine, repository_id, wait=0.2):
        pass


def test_it_is_renewed_for_as_long_as_it_is_held(engine: Engine, repository_id: int) -> None:
    with leases.held(engine, repository_id, ttl=SHORT) as held:
        time.sleep(2 * SHORT.total_seconds())
        held.check()
        with pytest.raises(BusyError), leases.held(engine, repository_id):
            pass


def test_that_of_a_dead_crawl_expires(engine: Engine, repository_id: int) -> None:
    assert leases._acquire(engine, repository_id, "dead:host:1:x", SHORT) is None
    with pytest.raises(BusyError, match="dead, process 1"), leases.held(engine, repository_id):
        pass
    with leases.held(engine, repository_id, wait=5) as mine:
        assert rows(engine) == [mine.holder]


def test_a_holder_learns_that_it_was_taken(engine: Engine, repository_id: int) -> None:
    with leases.held(engine, repository_id, ttl=SHORT) as held:
        with write_transaction(engine) as connection:
            connection.execute(update(LEASES).values(holder="thief::2:y"))
        time.sleep(SHORT.total_seconds())
        with pytest.raises(BusyError, match="taken"):
            held.check()
    # Another's lease is not given back.
    assert rows(engine) == ["thief::2:y"]
    with write_transaction(engine) as connection:
        connection.execute(delete(LEASES))


def test_only_one_of_many_at_once_gets_it(engine: Engine, repository_id: int) -> None:
    got: list[str] = []
    go = threading.Barrier(6)

    def take(number: int) -> None:
        go.wait()
        if leases._acquire(engine, repository_id, f"h::{number}:z", timedelta(minutes=1)) is None:
            got.append(str(number))

    threads = [threading.Thread(target=take, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_repositories_do_not_block_each_other(engine: Engine, repository_id: int) -> None:
    from tests.test_watches import add_repository

    with leases.held(engine, repository_id), leases.held(engine, add_repository(engine, "b")):
        assert len(rows(engine)) == 2


def test_that_of_a_killed_process_is_taken_at_once(engine: Engine, repository_id: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, check=True
    )
    dead = f"{socket.gethostname()}:{leases._processes()}:{int(done.stdout)}:x"
    long = timedelta(hours=1)
    assert leases._acquire(engine, repository_id, dead, long) is None
    with leases.held(engine, repository_id) as mine:
        assert rows(engine) == [mine.holder]


def test_that_of_a_living_process_or_another_machine_is_not(
    engine: Engine, repository_id: int
) -> None:
    here = leases._processes()
    assert here
    for holder in (
        f"{socket.gethostname()}:{here}:1:x",
        f"elsewhere:{here}:4194300:x",
        f"{socket.gethostname()}:other-boot:4194300:x",
        f"{socket.gethostname()}::4194300:x",
    ):
        assert leases._acquire(engine, repository_id, holder, timedelta(hours=1)) is None
        with pytest.raises(BusyError), leases.held(engine, repository_id):
            pass
        with write_transaction(engine) as connection:
            connection.execute(delete(LEASES))


HERE = f"{socket.gethostname()}:{leases._processes()}:1:x"
"""A living process of this machine that is no crawl."""
ODD_HOLDERS = (
    "", ":", "nobody", "no:colons", "a:b:c", "a:b:c:d:e:f", "::::", "host::notanumber:x",
    "host::-1:x", "host::0:x", "host::99999999999999999999:x", f"host::{'9' * 5000}:x",
    "host::²:x", "host::٣:x", "\x1b[2Jhost::1:x", "ho\nst::1:x", "h" * 300 + "::1:x",
    "x" * 1_000_000, "host::1:" + "x" * 1_000_000, "'; DROP TABLE leases; --",
)  # fmt: skip


def set_lease(engine: Engine, repository_id: int, holder: str, ahead: timedelta) -> None:
    with write_transaction(engine) as connection:
        now = leases._now(connection) + ahead
        connection.execute(delete(LEASES))
        connection.execute(
            insert(LEASES).values(
                repository_id=repository_id,
                holder=holder,
                acquired_at=now,
                expires_at=now + leases.TTL,
            )
        )


def seen(engine: Engine, repository_id: int) -> leases.LeaseRecord | None:
    with read_transaction(engine) as connection:
        return leases.read_lease(connection, repository_id)


@pytest.mark.parametrize("days", [1, 400])
def test_what_lies_ahead_of_every_renewal_is_believed_for_two_terms(
    engine: Engine, repository_id: int, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """Of a clock that was wrong, and another boot: nobody can tell whether the holder lives."""
    set_lease(engine, repository_id, "elsewhere:boot:1:x", timedelta(days=days))
    with (
        pytest.raises(BusyError, match=r"good until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"),
        leases.held(engine, repository_id),
    ):
        pass
    cut = seen(engine, repository_id)
    assert cut is not None
    assert cut.until is not None
    with read_transaction(engine) as connection:
        now = leases._now(connection)
    assert timedelta(0) < cut.until - now <= leases.BELIEVED
    # Two terms later.
    real = leases._now
    monkeypatch.setattr(leases, "_now", lambda c: real(c) + leases.BELIEVED)
    with leases.held(engine, repository_id) as mine:
        mine.check()


def test_a_living_holder_whose_clock_is_ahead_keeps_it(engine: Engine, repository_id: int) -> None:
    """Others cut it short; it renews."""
    with leases.held(engine, repository_id, ttl=SHORT) as held:
        for _ in range(3):
            with write_transaction(engine) as connection:
                connection.execute(
                    update(LEASES).values(expires_at=datetime.now(UTC) + timedelta(days=1))
                )
            with pytest.raises(BusyError), leases.held(engine, repository_id):
                pass
            time.sleep(SHORT.total_seconds() / leases.RENEWALS)
        held.check()


@pytest.mark.parametrize("holder", ODD_HOLDERS, ids=range(len(ODD_HOLDERS)))
def test_a_holder_of_any_form(engine: Engine, repository_id: int, holder: str) -> None:
    set_lease(engine, repository_id, holder, timedelta())
    with pytest.raises(BusyError, match="another crawl") as caught:
        leases.held(engine, repository_id).__enter__()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    broken = leases.break_lease(engine, repository_id)
    assert broken is not None
    assert str(broken).isprintable()
    assert rows(engine) == []


@pytest.mark.parametrize(
    "value", ["'x'", "x'ff00'", "1e300", "9223372036854775807", "CAST(x'610062' AS TEXT)"]
)
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_lease_that_is_garbage(engine: Engine, repository_id: int, value: str) -> None:
    """SQLite's columns take anything."""
    set_lease(engine, repository_id, "h::1:x", timedelta())
    with write_transaction(engine) as connection:
        for column in ("acquired_at", "expires_at", "holder"):
            connection.exec_driver_sql(f"UPDATE leases SET {column} = {value}")
    found = seen(engine, repository_id)
    assert found is not None
    assert (found.since, found.until) == (None, None)
    with pytest.raises(BusyError), leases.held(engine, repository_id):
        pass
    assert leases.break_lease(engine, repository_id) is not None


def test_breaking_a_lease_names_its_holder(engine: Engine, repository_id: int) -> None:
    assert leases.break_lease(engine, repository_id) is None
    set_lease(engine, repository_id, "elsewhere:boot:77:x", timedelta(days=1))
    broken = leases.break_lease(engine, repository_id)
    assert str(broken).startswith("elsewhere, process 77, since 2")
    assert rows(engine) == []


def test_that_of_a_running_process_is_broken_on_request_only(
    engine: Engine, repository_id: int
) -> None:
    set_lease(engine, repository_id, HERE, timedelta())
    with pytest.raises(BusyError, match=r"running on this machine .*process 1.* --yes"):
        leases.break_lease(engine, repository_id)
    assert rows(engine) == [HERE]
    assert leases.break_lease(engine, repository_id, though_alive=True) is not None
    assert rows(engine) == []


def test_the_broken_crawl_stops(engine: Engine, repository_id: int) -> None:
    with leases.held(engine, repository_id, ttl=SHORT) as held:
        assert leases.break_lease(engine, repository_id, though_alive=True) is not None
        with leases.held(engine, repository_id):
            time.sleep(SHORT.total_seconds())
            with pytest.raises(BusyError, match="taken"):
                held.check()
