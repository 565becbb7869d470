"""Clocks that jump, and places in the feed that others made up: what is recorded is met once, in
the order in which it was recorded, whatever the clocks of those who wrote it said."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import shapely
from alembic import command
from alembic.config import Config
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select, text
from test_changes import C1, Recorder

import catalog
from catalog import records
from catalog.database import migrate, migration_connection, open_engine, read_transaction
from catalog.errors import CatalogError, UsageError
from catalog.models import SCENES
from catalog.registry import begin_crawl, register_collection, register_repository
from catalog.tokens import read_token, write_token

START = datetime(2026, 3, 1, tzinfo=UTC)
YEAR = 365 * 86_400
_numbers = itertools.count(1)


class Writer(Recorder):
    """A crawl of a repository of its own, on a machine whose clock can be set."""

    def __init__(self, engine: Engine, location: Path) -> None:
        number = next(_numbers)
        self.engine, self.head, self.commits = engine, "", number * 10_000
        self.places: dict[str, int] = {}
        self.location = str(location / str(number))
        with records_at(START), engine.begin() as connection:
            self.repository = register_repository(connection, f"uid-{number}", self.location)
            register_collection(connection, C1)
            self.crawl = begin_crawl(connection, {}, repository_id=self.repository)
        self.said: list[tuple[str, str, int]] = []
        """What the feed has to say: kind, scene, revision."""
        self.states: dict[str, dict[str, int]] = {}
        """Snapshot → revision of every scene that was recorded by then."""
        self.clocks: list[datetime] = []

    def write(self, clock: datetime, what: str, name: str) -> None:
        with records_at(clock):
            revisions = dict(self.states[self.head]) if self.head else {}
            if what == "withdraw" and revisions.get(name, 0) > 0 and self.is_there(name):
                self.withdraw(name)
                kind = "withdrawn"
            else:
                there, known = self.is_there(name), name in revisions
                lon = 10.0 * (len(self.places) % 16)
                self.commit(
                    self.scene(name, tile="10TFR", footprint=shapely.box(lon, 1, lon + 1, 2)),
                    etag=str(self.commits),
                )
                kind = "changed" if there else "returned" if known else "indexed"
            revisions[name] = revisions.get(name, 0) + 1
            self.states[self.head] = revisions
            self.said.append((kind, name, revisions[name]))
            self.clocks.append(clock)

    def is_there(self, name: str) -> bool:
        last = [kind for kind, scene, _ in self.said if scene == name]
        return bool(last) and last[-1] != "withdrawn"

    def connect(self) -> catalog.Catalog:
        url = self.engine.url.render_as_string(hide_password=False)
        return catalog.connect(url, repository=self.location)


def records_at(clock: datetime) -> Any:
    patch = pytest.MonkeyPatch()
    patch.setattr(records, "_now", lambda: clock)

    class Put:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None:
            patch.undo()

    return Put()


JUMPS = st.sampled_from([0, 0, 1, 30, 3_000, -1, -300, -3_000, YEAR, -YEAR, 2 * YEAR, -86_400])
STEPS = st.lists(
    st.tuples(
        JUMPS,
        st.integers(0, 1),  # whose
        st.sampled_from(["write", "write", "withdraw"]),
        st.sampled_from("abcd"),
        st.sampled_from([0, 0, 1, 2, None]),  # what the consumer reads then
    ),
    min_size=1,
    max_size=14,
)


@given(steps=STEPS)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_change_is_met_once_whatever_clocks_say(
    engine: Engine, tmp_path: Path, steps: list[tuple[int, int, str, str, int | None]]
) -> None:
    clock = START
    writers = [Writer(engine, tmp_path), Writer(engine, tmp_path)]
    readers = [writer.connect() for writer in writers]
    tokens: list[Any] = [None, None]
    met: list[list[Any]] = [[], []]

    def read(whose: int, limit: int | None) -> int:
        feed = readers[whose].changes(tokens[whose], limit=limit)
        met[whose] += feed
        tokens[whose] = feed.token
        return len(feed)

    try:
        for jump, whose, what, name, reads in steps:
            clock += timedelta(seconds=jump)
            writers[whose].write(clock, what, name)
            if reads != 0:
                read(whose, reads)
            here = sum(writers[whose].is_there(scene) for scene in writers[whose].places)
            assert readers[whose].search(bbox=(-180, 0, 180, 3)).count() == here, "boxes are old"
        for whose, writer in enumerate(writers):
            while read(whose, 3):
                pass
            assert [(c.kind, c.id, c.revision) for c in met[whose]] == writer.said
            for change, at in zip(met[whose], writer.clocks, strict=True):
                assert (
                    timedelta(0) <= change.recorded_at - at <= records.SKEW + timedelta(seconds=1)
                )
            check_the_past(writer, readers[whose], met[whose])
    finally:
        for cat in readers:
            cat.close()


def check_the_past(writer: Writer, cat: catalog.Catalog, feed: list[Any]) -> None:
    """As of a snapshot is what was recorded with it; as of a time, what was recorded last of all
    that its own clock puts no later; and what has changed since is what follows."""

    def then(as_of: Any) -> dict[str, int]:
        found = [(s.id, s.record.revision) for s in cat.search(as_of=as_of, status="any")]
        assert len(found) == len(dict(found)), "a scene in two states"
        return dict(found)

    snapshots = list(writer.states)
    for snapshot in snapshots:
        assert then(snapshot) == writer.states[snapshot]
    for moment in {change.recorded_at for change in feed}:
        past = [n for n, change in enumerate(feed) if change.recorded_at <= moment]
        assert then(moment) == writer.states[snapshots[past[-1]]]
        before = [n for n, change in enumerate(feed) if change.recorded_at < moment]
        assert list(cat.changes(moment)) == feed[before[-1] + 1 if before else 0 :]


def test_a_clock_that_was_once_ahead_drags_nothing_along(engine: Engine, tmp_path: Path) -> None:
    writer = Writer(engine, tmp_path)
    writer.write(START, "write", "a")
    with writer.connect() as cat:
        token = cat.changes().token
        ahead = START + timedelta(days=365)
        writer.write(ahead, "write", "b")
        token_then = cat.changes(token).token
        later = START + timedelta(hours=1)
        writer.write(later, "write", "c")
        writer.write(later, "write", "b")
        assert [(c.id, c.recorded_at.replace(microsecond=0)) for c in cat.changes(token)] == [
            ("b", ahead), ("c", later), ("b", later),
        ]  # fmt: skip
        assert [c.id for c in cat.changes(token_then)] == ["c", "b"]
        assert sorted(cat.search(as_of=later + timedelta(seconds=1), status="any").ids()) == [
            "a",
            "b",
            "c",
        ]
        assert cat.search(as_of=START + timedelta(seconds=1), status="any").ids() == ["a"]
        assert cat.scene("b").assets["red"].etag == f'"{writer.commits - 1}"'


def test_what_was_recorded_before_there_was_an_order_keeps_it(database_url: str) -> None:
    """Down to the revision before and up again, with rows."""
    engine = open_engine(database_url)
    migrate(engine)
    writer = Writer(engine, Path("/nowhere"))
    for n, name in enumerate("abab"):
        writer.write(START + timedelta(hours=n), "write", name)
    with writer.connect() as cat:
        before = list(cat.changes())
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    with migration_connection(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0004")
    migrate(engine)
    with writer.connect() as cat:
        assert list(cat.changes()) == before
        for snapshot, state in writer.states.items():
            found = cat.search(as_of=snapshot, status="any")
            assert {s.id: s.record.revision for s in found} == state
    with read_transaction(engine) as connection:
        for at, sequence in connection.execute(select(SCENES.c.recorded_at, SCENES.c.sequence)):
            assert sequence == (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        assert connection.execute(text("SELECT count(*) FROM scene_revisions")).scalar() == 2
    engine.dispose()


# Tokens


@pytest.fixture
def writer(engine: Engine, tmp_path: Path) -> Writer:
    made = Writer(engine, tmp_path)
    for n, name in enumerate("abcdabca"):
        made.write(START + timedelta(hours=n), "write", name)
    return made


def packed(payload: Any) -> str:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return base64.urlsafe_b64encode(hashlib.sha256(raw).digest()[:8] + raw).rstrip(b"=").decode()


ODD = (
    None, True, False, -1, 0, 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**3000, 1.5, -0.0, 1e308,
    float("nan"), float("inf"), "", "x", "\0", "\ud800", "x" * 5000, "2024-01-01", [], {}, [[]],
    {"t": None}, {"t": 5}, {"t": "x"}, {"t": "2024-01-01"}, {"t": "2024-01-01T00:00:00"},
    {"t": "0001-01-01T00:00:00+23:59"}, {"t": "9999-12-31T23:59:59-23:59"},
    {"t": "2024-01-01T00:00:00+00:00"}, {"t": "2024-01-01T00:00:00+00:00", "u": 1}, {"u": 1},
)  # fmt: skip


def forged(token: str, rng: random.Random) -> Iterator[Any]:
    """2 000 that are not as they were handed out."""
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    payload = json.loads(raw[8:])
    for _ in range(500):
        yield token[: (n := rng.randrange(len(token)))] + rng.choice("aZ09-_é \0") + token[n + 1 :]
    for _ in range(200):
        yield token[: rng.randrange(len(token))]
    for _ in range(300):
        flipped = bytearray(raw[8:])
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        yield packed(bytes(flipped))
    for _ in range(700):
        other = list(payload)
        for _ in range(rng.randint(1, 3)):
            other[rng.randrange(len(other))] = rng.choice(ODD)
        yield packed(other)
    for _ in range(200):
        other = list(payload)
        rng.choice([other.pop, lambda o=other: o.append(rng.choice(ODD))])()
        yield packed(other)
    for whole in (*ODD, b"[" * 4000, b"\xff", b"", b"{", [2], [2, 3], ["2"], [[2]]):
        yield packed(whole)
        yield whole
    yield from (5, b"x", ["x"], {}, "x" * 10**6, "A" * 5999)


@pytest.mark.parametrize("of", ["changes", "datetime", "-cloud_cover,id", "updated,-datetime"])
def test_two_thousand_forged_tokens(writer: Writer, of: str) -> None:
    """Of each, an error that says so, or the answer to a place that may be asked for as well."""
    refused = taken = 0
    with writer.connect() as cat:
        if of == "changes":
            token: Any = cat.changes(limit=3).token
            ask = cat.changes
            whole = set(cat.changes())
        else:
            token = cat.search(sort=of).page(limit=2).token
            ask = cat.search(sort=of).page  # type: ignore[assignment]
            whole = set(cat.search(sort=of).records())  # type: ignore[arg-type]
        for bad in forged(token, random.Random(of)):
            if bad is None or bad == token:
                continue
            try:
                found = ask(bad)
            except UsageError as error:
                refused += len(str(error)) < 400 and str(error).isprintable()
            else:
                taken += 1
                assert set(getattr(found, "records", found)) <= whole
    assert refused + taken >= 1_950
    assert refused > 1_500


def test_a_token_names_its_catalog_and_its_time(writer: Writer, engine: Engine) -> None:
    other = Writer(engine, Path("/elsewhere"))
    for name in "abcdefgh":
        other.write(START, "write", name)
    with writer.connect() as cat, other.connect() as elsewhere:
        changes, page = elsewhere.changes(limit=1).token, elsewhere.search().page(limit=1).token
        with pytest.raises(UsageError, match="of another catalog"):
            cat.changes(changes)
        with pytest.raises(UsageError, match="of another catalog"):
            cat.search().page(page)
        with pytest.raises(UsageError, match="of another question, not changes"):
            elsewhere.changes(page)
        old = packed(["changes", writer.repository, {"t": START.isoformat()}, 1])
        with pytest.raises(UsageError, match="of an earlier version of cogcat"):
            cat.changes(old)
        assert len(cat.changes(cat.changes().token)) == 0


def test_a_token_of_any_place_is_read_back() -> None:
    values = [0, 2**63 - 1, None, "é", START, None, -1.5, None]
    kinds = ("whole", "whole", "whole?", "text", "time", "time?", "number", "number?")
    assert read_token("k", "c", write_token("k", "c", values), kinds) == values
    with pytest.raises(CatalogError):
        read_token("k", "c", write_token("k", "c", values), kinds[:-1])
