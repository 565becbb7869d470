"""One crawl at a time may write: the lease is taken, renewed, waited for, expires, is lost."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
from sqlalchemy import Engine, delete, select, update

from catalog import lease as leases
from catalog.database import write_transaction
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
