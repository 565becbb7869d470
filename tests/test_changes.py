"""The feed of changes and the pages of an answer: nothing skipped, nothing twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import make_scene
from sqlalchemy import Engine

import catalog
from catalog.cli import main
from catalog.database import write_transaction
from catalog.errors import UsageError
from catalog.known import indexed_states
from catalog.recorded import AssetRecord, Commit, IndexedScene
from catalog.records import record_indexed, record_pending, record_updated
from catalog.registry import begin_crawl, register_collection, register_repository
from catalog.scene import Scene
from catalog.tokens import read_token, write_token

Statements = Callable[[Engine], AbstractContextManager[list[str]]]
C1 = "sentinel-2-c1-l2a"
START = datetime(2024, 1, 1, tzinfo=UTC)


class Recorder:
    """Records commits as a crawl does; the store is not there."""

    def __init__(self, engine: Engine, location: Path) -> None:
        self.engine, self.head, self.commits = engine, "", 0
        self.places: dict[str, int] = {}
        with write_transaction(engine) as connection:
            self.repository = register_repository(connection, "uid", str(location.resolve()))
            register_collection(connection, C1)
            self.crawl = begin_crawl(connection, {}, repository_id=self.repository)

    def scene(self, name: str, **changes: Any) -> Scene:
        day = int(name.rpartition("-")[2]) if "-" in name else 0
        return make_scene(name, **{"datetime": START + timedelta(days=day % 7)} | changes)

    def commit(self, *scenes: Scene, etag: str = "1") -> str:
        self.commits += 1
        snapshot = f"SNAPSHOT{self.commits:012}"
        commit = Commit(f"{C1}/10TFR", C1, "10TFR", 32610, snapshot, self.head or None, START)
        file = AssetRecord(
            "red", f"https://x.org/{etag}.tif", 5, f'"{etag}"', None, None, "cc" * 32, 9
        )
        placed = [
            IndexedScene(
                scene, "", self.places.setdefault(scene.id, len(self.places)),
                f"{self.commits:064x}", (file,),
            )
            for scene in scenes
        ]  # fmt: skip
        with write_transaction(self.engine) as connection:
            record_pending(connection, self.repository, scenes, self.crawl)
            assert record_indexed(connection, self.repository, commit, placed, self.crawl)
        self.head = snapshot
        return snapshot

    def withdraw(self, name: str) -> None:
        self.commits += 1
        snapshot = f"SNAPSHOT{self.commits:012}"
        commit = Commit(f"{C1}/10TFR", C1, "10TFR", 32610, snapshot, self.head, START)
        with write_transaction(self.engine) as connection:
            record_indexed(connection, self.repository, commit, [], self.crawl, withdrawn=[name])
        self.head = snapshot

    def update(self, scene: Scene) -> None:
        """The record alone: files and place as they were."""
        with write_transaction(self.engine) as connection:
            state = indexed_states(connection, self.repository, C1, [scene.id])[scene.id]
            placed = IndexedScene(
                scene, state.root, state.time_index, state.refs_sha256, tuple(state.files.values())
            )
            record_updated(connection, self.repository, C1, [placed], self.crawl)


@pytest.fixture
def recorder(engine: Engine, tmp_path: Path) -> Recorder:
    return Recorder(engine, tmp_path / "repo")


@pytest.fixture
def cat(recorder: Recorder, tmp_path: Path) -> Iterator[catalog.Catalog]:
    url = recorder.engine.url.render_as_string(hide_password=False)
    with catalog.connect(url, repository=str(tmp_path / "repo")) as opened:
        yield opened


def test_the_feed_says_what_became_of_scenes(
    recorder: Recorder, cat: catalog.Catalog, statements: Statements
) -> None:
    nothing = cat.changes()
    assert (len(nothing), cat.changes(nothing.token).token) == (0, nothing.token)
    first = recorder.commit(recorder.scene("a"), recorder.scene("b"))
    second = recorder.commit(recorder.scene("a", item_sha256="bb" * 32), etag="2")
    third = recorder.commit(recorder.scene("c"))
    with statements(cat._engine) as seen:
        feed = cat.changes(nothing.token)
    assert len(seen) == 1
    assert [(change.kind, change.id, change.snapshot_id) for change in feed] == [
        ("indexed", "a", first),
        ("indexed", "b", first),
        ("changed", "a", second),
        ("indexed", "c", third),
    ]
    assert [change.revision for change in feed] == [1, 1, 2, 1]
    assert list(cat.changes(feed.token)) == []
    assert list(cat.changes(feed[1].token)) == list(feed[2:])
    assert list(cat.changes(feed[2].recorded_at)) == list(feed[2:])
    assert list(cat.changes(limit=2)) == list(feed[:2])
    assert list(cat.changes(START - timedelta(days=900))) == list(feed)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_feed_resumes_while_it_grows(
    recorder: Recorder, cat: catalog.Catalog, size: int
) -> None:
    rng = random.Random(size)
    token, seen, expected = None, [], []
    for _ in range(12):
        names = rng.sample([f"s-{n}" for n in range(9)], rng.randint(1, 4))
        recorder.commit(*(recorder.scene(name) for name in names))
        expected += [(name, recorder.head) for name in names]
        feed = cat.changes(token, limit=size)
        seen += [(change.id, change.snapshot_id) for change in feed]
        token = feed.token
    while feed := cat.changes(token, limit=size):
        seen += [(change.id, change.snapshot_id) for change in feed]
        token = feed.token
    assert sorted(seen) == sorted(expected)
    assert [snapshot for _, snapshot in seen] == sorted(snapshot for _, snapshot in seen)


@pytest.mark.parametrize("since", ["", "soon", "AAAA", 5, "2023/2024", b"x"])
def test_a_bad_since(cat: catalog.Catalog, since: Any) -> None:
    with pytest.raises(UsageError):
        cat.changes(since)


def test_tokens_are_checked(recorder: Recorder, cat: catalog.Catalog) -> None:
    recorder.commit(recorder.scene("a"), recorder.scene("b"))
    token = cat.search(sort="id").page(limit=1).token
    assert token is not None
    for bad in (token[:-2], token.swapcase(), "x" + token, cat.changes().token, "", "é", 5):
        with pytest.raises(UsageError, match="token"):
            cat.search(sort="id").page(bad)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="another question"):
        cat.search(sort="id", tile="10TFR").page(token)
    with pytest.raises(UsageError, match="another catalog"):
        cat.changes(write_token("changes", "another", [99, 1]))
    with pytest.raises(UsageError, match="limit"):
        cat.search().page(limit=0)
    kinds = ("whole", "text?", "text", "time", "number")
    assert read_token("k", "c", write_token("k", "c", [1, None, "é", START, 0.5]), kinds) == [
        1, None, "é", START, 0.5,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "question",
    [
        {"sort": "datetime"},
        {"sort": "-cloud_cover,id"},
        {"sort": "updated", "bbox": (-122, 44, -120, 45)},
        {"sort": "-datetime", "filter": "S_INTERSECTS(geometry, POINT(-121 44.5)) OR id = 'z'"},
        {"sort": "-id", "limit": 17},
    ],
)
def test_pages_meet_every_scene_once_while_scenes_are_added(
    recorder: Recorder, cat: catalog.Catalog, question: dict[str, Any]
) -> None:
    def some(numbers: range) -> list[Scene]:
        return [
            recorder.scene(f"s-{n}", cloud_cover=[None, 10.0, 20.0][n % 3],
                           updated=[None, START][n % 2])
            for n in numbers
        ]  # fmt: skip

    recorder.commit(*some(range(25)))
    before = cat.search(**question).ids()
    seen: list[str] = []
    for number, page in enumerate(cat.search(**question).pages(4)):
        assert len(page) <= 4
        seen += [scene.id for scene in page]
        if number < 3:
            recorder.commit(*some(range(30 + 5 * number, 33 + 5 * number)))
    assert len(seen) == len(set(seen)), "none twice"
    if "limit" in question:
        assert len(seen) == 17
    else:
        assert [name for name in seen if name in before] == before, "none skipped, in order"


def test_as_of_gives_the_earlier_state_and_its_files(
    recorder: Recorder, cat: catalog.Catalog
) -> None:
    first = recorder.commit(recorder.scene("a", cloud_cover=10.0, baseline="04.00"))
    moment = cat.scene("a").recorded_at
    recorder.commit(recorder.scene("a", cloud_cover=50.0), etag="2")
    recorder.commit(recorder.scene("b"))
    now, then = cat.scene("a"), next(iter(cat.search(ids="a", as_of=moment)))
    assert (now.cloud_cover, now.revision, now.assets["red"].etag) == (50.0, 2, '"2"')
    assert (then.cloud_cover, then.baseline, then.revision) == (10.0, "04.00", 1)
    assert (then.snapshot_id, then.assets["red"].etag) == (first, '"1"')
    assert then.assets["red"].href == "https://x.org/1.tif"
    assert cat.search(as_of=first).ids() == ["a"]
    assert cat.search(as_of=first, max_cloud_cover=20).count() == 1
    assert cat.search(max_cloud_cover=20).ids() == ["b"]
    assert cat.search(as_of=moment - timedelta(seconds=9)).count() == 0
    assert sorted(cat.search(as_of=recorder.head).ids()) == ["a", "b"]


# Shared


def _count(opened: catalog.Catalog, results: Any) -> None:
    results.put((os.getpid(), opened.search(bbox=(-122, 44, -120, 45)).count()))


def test_a_catalog_goes_on_in_other_processes(recorder: Recorder, cat: catalog.Catalog) -> None:
    recorder.commit(*(recorder.scene(f"s-{n}") for n in range(5)))
    assert cat.search(bbox=(-122, 44, -120, 45)).count() == 5
    with pickle.loads(pickle.dumps(cat)) as copy:
        assert copy.search().count() == 5
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [context.Process(target=_count, args=(cat, results)) for _ in range(2)]
    for child in children:
        child.start()
    found = [results.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert {count for _, count in found} == {5}
    assert len({pid for pid, _ in found} | {os.getpid()}) == 3
    # The parent's connections are as they were.
    assert cat.search().count() == 5


def test_readers_see_whole_commits_only(recorder: Recorder, cat: catalog.Catalog) -> None:
    """A commit of three scenes is in an answer whole, or not at all."""
    failures: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            for question in ({}, {"bbox": (-122, 44, -120, 45)}):
                count = cat.search(**question).count()  # type: ignore[arg-type]
                if count % 3:
                    failures.append(f"{question}: {count}")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for n in range(15):
        recorder.commit(*(recorder.scene(f"s-{3 * n + k}") for k in range(3)))
    done.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert cat.search(bbox=(-122, 44, -120, 45)).count() == 45


# The command line


def test_commands(recorder: Recorder, cat: catalog.Catalog, tmp_path: Path) -> None:
    def run(*arguments: str) -> Any:
        where = ["--database", cat.settings.database, "--repository", str(tmp_path / "repo")]
        return CliRunner().invoke(main, [*arguments, *where])

    recorder.commit(recorder.scene("a", cloud_cover=10.0), recorder.scene("b", cloud_cover=50.0))
    recorder.commit(recorder.scene("a", cloud_cover=15.0))
    feed = run("changes", "--json", "--limit", "2")
    lines = [json.loads(line) for line in feed.stdout.splitlines()]
    assert [(line["kind"], line["id"]) for line in lines] == [("indexed", "a"), ("indexed", "b")]
    rest = run("changes", "--json", "--since", lines[-1]["token"])
    assert [json.loads(line)["kind"] for line in rest.stdout.splitlines()] == ["changed"]
    assert "go on with --since" in rest.stderr
    assert "changed" in run("changes").stdout
    assert run("changes", "--since", "nonsense").exit_code == 2

    def ids(*arguments: str) -> list[str]:
        return run("search", "--format", "ids", *arguments).stdout.split()

    assert ids("--filter", "eo:cloud_cover < 20 AND platform = 'sentinel-2b'") == ["a"]
    assert ids("--cloud-cover", "20,") == ["b"]
    assert ids("--per-tile", "least_cloudy") == ["a"]
    assert ids("--updated-since", "2023-12-24") == ["b", "a"]
    assert ids("--baseline", "05.10", "--as-of", f"{'SNAPSHOT':0<19}1", "--sort", "id") == [
        "a",
        "b",
    ]
    for arguments in (["--filter", "colour = 1"], ["--cloud-cover", "x"], ["--as-of", "soon"]):
        failed = run("search", *arguments)
        assert failed.exit_code == 2
        assert failed.stderr.startswith("cogcat: ")


def test_withdrawn_returned_and_updated(recorder: Recorder, cat: catalog.Catalog) -> None:
    recorder.commit(recorder.scene("a"), recorder.scene("b"))
    seen = cat.scene("a").recorded_at
    recorder.withdraw("a")
    gone = cat.scene("a").recorded_at
    again = recorder.commit(recorder.scene("a"))
    recorder.update(recorder.scene("b", cloud_cover=99.0))
    feed = cat.changes()
    assert [(change.kind, change.id) for change in feed] == [
        ("indexed", "a"), ("indexed", "b"), ("withdrawn", "a"), ("returned", "a"), ("updated", "b"),
    ]  # fmt: skip
    assert feed[3].snapshot_id == again
    moments = [change.recorded_at for change in feed]
    assert moments == sorted(moments)
    assert len(set(moments)) == 4, "one for each transaction"
    assert sorted(cat.search(as_of=seen).ids()) == ["a", "b"]
    assert cat.search(as_of=gone).ids() == ["b"]
    assert cat.search(as_of=gone, status="withdrawn").ids() == ["a"]
    assert cat.search(as_of=gone, max_cloud_cover=50).count() == 1
    assert cat.search(max_cloud_cover=50).ids() == ["a"]
