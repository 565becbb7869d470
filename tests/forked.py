"""Crawls in processes of their own, forked from one that has imported what they need, to be killed.

    python tests/forked.py

reads one job a line from its standard input and writes one result a line: a crawl costs a fork,
not the imports. Icechunk is left out of what is imported before the fork: it starts threads, and
no thread lives in a forked child. ``Forks`` is the other end.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

BEFORE_THE_FORK = (
    "numpy", "obstore", "zarr", "xarray", "psycopg", "sqlalchemy.dialects.postgresql", "filelock",
    "sqlalchemy.dialects.sqlite", "numcodecs", "virtual_tiff.codecs", "catalog.stac_search",
    "catalog.header", "catalog.known", "catalog.records", "catalog.cube", "catalog.lease",
    "catalog.database",
)  # fmt: skip
COMMITS = ("icechunk commit", "icechunk create_branch", "icechunk expire_snapshots",
           "icechunk garbage_collect")  # fmt: skip
"""Steps within which much happens that only a kill after a random while meets."""


@dataclass(slots=True)
class Ended:
    """How a job ended."""

    code: int
    """Exit code as ``subprocess`` has it: -9 for a kill."""
    steps: list[str]
    """Names of the steps it came to, in order."""
    result: dict[str, Any] = field(default_factory=dict)
    """Counts of the report; of a job that raised, ``error`` and its ``message``."""

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Forks:
    """A process from which jobs are forked, one at a time; ``with`` ends it."""

    def __init__(self) -> None:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        if environment.pop("PYTHONDONTWRITEBYTECODE", None):
            environment["PYTHONPYCACHEPREFIX"] = "/tmp/cogcat-pyc"
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parent.parent,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(timeout=30)

    def start(self, do: str, config: Path, **options: Any) -> None:
        """Begins a job; ``end`` waits for it.

        Args:
            do: ``crawl``, ``repair``, ``maintain`` or ``read``.
            options: keywords of the function of that name below; and
                ``kill_at`` (the number of the step, from 1, that kills), of those
                called ``kill_on`` if given,
                ``kill_after`` (seconds until it is killed), and
                ``kill_within`` (seconds after the step number ``kill_at`` began).
        """
        assert self._process.stdin is not None
        job = {"do": do, "config": str(config), **options}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()

    def end(self) -> Ended:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks has died"
        return Ended(**json.loads(line))

    def run(self, do: str, config: Path, **options: Any) -> Ended:
        self.start(do, config, **options)
        return self.end()


# What follows runs in the process that forks, and in its children


def main() -> None:
    for name in BEFORE_THE_FORK:
        importlib.import_module(name)
    assert "icechunk" not in sys.modules
    assert threading.active_count() == 1
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), flush=True)


def _run(job: dict[str, Any]) -> dict[str, Any]:
    within, after = job.pop("kill_within", None), job.pop("kill_after", None)
    steps_end, steps = os.pipe()
    result_end, result = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(steps_end)
        os.close(result_end)
        code = 1
        try:
            code = _child(job, steps, result, kill=within is None)
        finally:
            os._exit(code)
    os.close(steps)
    os.close(result)
    names = b""
    watched = os.pidfd_open(child)
    deadline = None if after is None else time.monotonic() + after
    kill_at = job.get("kill_at")
    open_ends = {steps_end, watched}
    while True:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = select.select(list(open_ends), [], [], wait)[0]
        if steps_end in ready:
            piece = os.read(steps_end, 65536)
            names += piece
            if not piece:
                open_ends.discard(steps_end)
            if within is not None and kill_at and names.count(b"\n") >= kill_at:
                deadline, within = time.monotonic() + within, None
        elif watched in ready:
            break
        elif deadline is not None and time.monotonic() >= deadline:
            signal.pidfd_send_signal(watched, signal.SIGKILL)
            deadline = None
    os.close(watched)
    _, status = os.waitpid(child, 0)
    while piece := os.read(steps_end, 65536):
        names += piece
    text = b""
    while piece := os.read(result_end, 65536):
        text += piece
    os.close(steps_end)
    os.close(result_end)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "steps": names.decode().splitlines(),
        "result": json.loads(text) if text else {},
    }


def _child(job: dict[str, Any], steps: int, result: int, *, kill: bool) -> int:
    do = job.pop("do")
    kill_at, kill_on = job.pop("kill_at", None), job.pop("kill_on", None)
    jobs: dict[str, Callable[..., Any]] = {
        "crawl": crawl, "repair": repair, "maintain": maintain, "read": read,
    }  # fmt: skip
    if do != "read":
        _watch_steps(steps, kill_at if kill else None, kill_on)
    try:
        done = jobs[do](**job)
        code = 0
    except BaseException as error:  # noqa: BLE001 it is handed on
        done = {"error": type(error).__name__, "message": str(error)}
        if not type(error).__module__.startswith("catalog"):
            done["message"] = traceback.format_exc()
        code = 1
    os.write(result, json.dumps(done).encode())
    return code


def crawl(
    config: str,
    *,
    stac: str,
    collection: str,
    page: int = 2,
    batch: int = 2,
    lease: bool = True,
    dawdle: float = 0.0,
    meet: str | None = None,
    wait: float | None = 0.0,
    sync: bool = False,
    **query: Any,
) -> dict[str, Any]:
    """A crawl, with pages and batches so small that a few scenes make several.

    Args:
        lease: False for one that always grants.
        dawdle: at most so many seconds, by chance, between a commit and its record.
        meet: a directory at which two crawls wait for each other before each of their commits.
        sync: what the archive no longer has is withdrawn.
    """
    from dataclasses import asdict

    import catalog.committer
    import catalog.crawl
    from catalog import sync as syncing
    from catalog.settings import load_settings
    from catalog.setup import open_crawl
    from catalog.stac_query import StacQuery
    from catalog.stac_search import search_items

    catalog.crawl.PAGE, catalog.crawl.BATCH, catalog.crawl.WAITING = page, batch, 3 * batch
    if not lease:
        _grant_all()
    if dawdle:
        real = catalog.committer.write_batch

        def slowly(*args: Any, **kw: Any) -> Any:
            if meet is not None:
                _meet(Path(meet))
            written = real(*args, **kw)
            time.sleep(random.uniform(0, dawdle))
            return written

        catalog.committer.write_batch = slowly
    asked = StacQuery.parse(collection=collection, **query)
    with open_crawl(load_settings(config=config), wait=wait) as work:
        items = search_items(stac, asked, retries=0, page_size=page)
        report = work.run(
            items,
            query=asked.as_dict(),
            collection=collection,
            stac=stac,
            scope=syncing.scope(stac, asked) if sync else None,
        )
    return {**asdict(report.counts()), "recovered": report.recovered, "updated": report.updated,
            "failures": [failure.reason for failure in report.failures]}  # fmt: skip


def _meet(place: Path) -> None:
    """Waits for another process to come here as often; not for long, it may have ended."""
    came = len(list(place.glob(f"{os.getpid()}-*")))
    (place / f"{os.getpid()}-{came}").touch()
    until = time.monotonic() + 1
    while len(list(place.glob(f"*-{came}"))) < 2 and time.monotonic() < until:
        time.sleep(0.005)


def repair(config: str) -> dict[str, Any]:
    from dataclasses import asdict

    from catalog import setup
    from catalog.settings import load_settings

    return asdict(setup.repair(load_settings(config=config)))


def maintain(config: str) -> dict[str, Any]:
    """Upkeep that leaves nothing but what is read now."""
    from dataclasses import asdict
    from datetime import timedelta

    from catalog import setup, upkeep
    from catalog.settings import load_settings

    real, none = upkeep.maintain, timedelta(0)
    setup.maintain = functools.partial(real, grace=none)
    return asdict(setup.keep_up(load_settings(config=config), keep=none))


def read(config: str, *, until: str) -> dict[str, Any]:
    """Reads over and over, as anyone may during a crawl, until there is a file ``until``.

    Every scene it is given must be in the snapshot it is given with, with the references whose
    digest is recorded; every scene in a head it is given must be recorded.
    """
    import catalog
    from catalog.cube_writer import Placement, scene_ids, stored_refs_digest

    rounds = opened = 0
    last = False
    seen: set[tuple[str, str, str]] = set()
    while True:
        last = Path(until).exists()
        with catalog.connect(config=config) as cat:
            scenes = list(cat.search())
            for scene in scenes:
                key = (scene.id, scene.snapshot_id, scene.refs_sha256)
                if key in seen:
                    continue
                store = cat.repository.store(scene.snapshot_id)
                place = Placement(scene.root, scene.time_index)
                assert scene_ids(store).get(scene.id) == place, f"{key} is not at {place}"
                digest = stored_refs_digest(cat.repository, store, place)
                assert digest == scene.refs_sha256, f"{key}: the store has {digest}"
                pixels = scene.open(bands=["scl"])["scl"]
                assert pixels.load().size
                seen.add(key)
                opened += 1
            for tile in {scene.tile for scene in scenes}:
                held = set(cat.cube(tile, bands=["scl"])["scene"].values.tolist()) - {""}
                before = {scene.id for scene in scenes if scene.tile == tile}
                after = {scene.id for scene in cat.search(tile=tile)}
                assert before & after <= held, f"{tile}: head lacks {before & after - held}"
                assert held <= after | before, f"{tile}: head has {held - after - before}"
        rounds += 1
        if last:
            return {"rounds": rounds, "opened": opened}
        time.sleep(0.1)


def _grant_all() -> None:
    from catalog import lease as leases
    from catalog.lease import Lease

    class Granted(Lease):
        def __init__(self) -> None:
            self.holder = "whoever"

        def check(self) -> None:
            pass

        def release(self) -> None:
            pass

    @contextlib.contextmanager
    def held(*args: Any, **kw: Any) -> Iterator[Lease]:
        yield Granted()

    leases.held = held


def _watch_steps(out: int, kill_at: int | None, kill_on: str | None) -> None:
    """Tells ``out`` the name of every step of this process as it comes to it, and ends the process
    at the step number ``kill_at`` of those called ``kill_on`` (None: of all)."""
    import icechunk
    from sqlalchemy import Engine, event
    from sqlalchemy.engine.default import DefaultDialect

    import catalog.crawl
    import catalog.cube_writer
    import catalog.header
    import catalog.upkeep

    lock = threading.Lock()
    count = 0

    def step(name: str) -> None:
        nonlocal count
        with lock:
            count += kill_on in (None, name)
            os.write(out, f"{name}\n".encode())
            if kill_on in (None, name) and count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(owner: Any, name: str, called: str) -> None:
        real = getattr(owner, name)

        @functools.wraps(real)
        def call(*args: Any, **kw: Any) -> Any:
            step(called)
            done = real(*args, **kw)
            step(f"{called}, done")
            return done

        setattr(owner, name, call)

    def watch_async(owner: Any, name: str, called: str) -> None:
        real = getattr(owner, name)

        @functools.wraps(real)
        async def call(*args: Any, **kw: Any) -> Any:
            step(called)
            done = await real(*args, **kw)
            step(f"{called}, done")
            return done

        setattr(owner, name, call)

    def statement(_c: Any, _cursor: Any, text: str, *_: Any) -> None:
        words = text.split()
        if words[0] in ("INSERT", "UPDATE", "DELETE"):
            table = words[1] if words[0] == "UPDATE" else words[2]
            step(f"SQL {words[0]} {table}")
        elif words[0] != "PRAGMA":
            step(f"SQL {words[0]}")

    event.listen(Engine, "before_cursor_execute", statement)
    watch(DefaultDialect, "do_commit", "SQL COMMIT")
    watch(icechunk.Session, "commit", "icechunk commit")
    for name in ("create_branch", "writable_session", "expire_snapshots", "garbage_collect"):
        watch(icechunk.Repository, name, f"icechunk {name}")
    watch(catalog.crawl.Crawl, "_page", "page of items")
    watch(catalog.upkeep.obstore, "delete", "delete copies")
    watch_async(catalog.header.HeaderReader, "read", "header")
    watch_async(catalog.cube_writer, "_put_metadata", "array documents")
    watch(catalog.cube_writer, "_put_references", "references")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
