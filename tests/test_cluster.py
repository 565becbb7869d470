"""Headers read on a dask cluster: the same catalog, whatever happens to its workers."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from scenes import make_asset
from stacks import BANDS, DATES, SCENES, TILES, Stack, child_environment, open_stack

from catalog import cluster
from catalog.demo.faults import Fault
from catalog.demo.http_connection import Request
from catalog.demo.server import ArchiveServer
from catalog.errors import ConfigError, HeaderError, SourceError
from catalog.header import Header, HeaderReader
from catalog.item import scene_from_item
from catalog.scene import Asset
from catalog.settings import Source

pytest_plugins = ["stacks"]


@pytest.fixture(scope="module")
def workers() -> Iterator[LocalCluster]:
    """Two processes, which nannies start again."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=2,
        processes=True,
        host="127.0.0.1",
        dashboard_address=":0",
        silence_logs=50,
    ) as running:
        yield running


@pytest.fixture
def other(request: pytest.FixtureRequest, tmp_path: Path, server: ArchiveServer) -> Iterator[Stack]:
    """A second catalog over the same archive."""
    directory = tmp_path / "other"
    directory.mkdir()
    with open_stack("sqlite+local", request, directory, server) as made:
        yield made


def written(stack: Stack) -> dict[str, Any]:
    """Every scene as readers get it, without what tells one commit from another."""
    with stack.connect() as cat:
        return {
            scene.id: (
                scene.branch, scene.refs_sha256, scene.boa_offset, scene.warnings,
                {band: repr(asset) for band, asset in scene.assets.items()},
            )
            for scene in cat.search()
        }  # fmt: skip


def both_ways(
    stack: Stack, other: Stack, address: str, *arguments: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `cogcat crawl` reports on a cluster, and beside it in its own process."""
    reports = []
    for made, more in ((stack, ("--dask", address)), (other, ())):
        made.server.requests.reset()
        result = made.cli("crawl", *arguments, "--json", *more)
        report = json.loads(result.stdout)
        assert result.exit_code == bool(report["failed"]), result.stderr
        report["served"] = len(made.file_requests())
        del report["seconds"]
        report["failures"].sort(key=lambda failure: failure["scene"])
        reports.append(report)
    return reports[0], reports[1]


def test_a_crawl_on_a_cluster_gives_what_one_in_process_gives(
    stack: Stack, other: Stack, workers: LocalCluster
) -> None:
    together, alone = both_ways(
        stack, other, workers.scheduler_address, "--stac", stack.server.stac_url
    )
    assert together == alone
    assert together["indexed"] == SCENES
    assert together["requests"] == together["served"] == SCENES * BANDS
    assert written(stack) == written(other)


def test_what_fails_on_a_cluster_fails_with_the_same_words(
    local_stack: Stack, other: Stack, workers: LocalCluster, tmp_path: Path
) -> None:
    items = local_stack.items
    local_stack.server.faults.paths = {
        path_of(local_stack, items[0], "red"): Fault(status=404),
        path_of(local_stack, items[1], "nir"): Fault(body=b"no TIFF at all"),
    }
    items[2]["assets"]["scl"]["href"] = "https://elsewhere.example/scl.tif"
    items[3]["assets"]["blue"]["file:size"] += 1
    file = tmp_path / "items.ndjson"
    documents = json.dumps(items).replace(
        local_stack.server.archive.base_url, local_stack.server.url
    )
    file.write_text("\n".join(map(json.dumps, json.loads(documents))))
    together, alone = both_ways(local_stack, other, workers.scheduler_address, "--items", str(file))
    assert together == alone
    assert (together["failed"], together["indexed"]) == (4, SCENES - 4)
    assert written(local_stack) == written(other)
    errors = [made.rows("SELECT item_id, last_error FROM scenes ORDER BY 1") for made in
              (local_stack, other)]  # fmt: skip
    assert errors[0] == errors[1]


def path_of(stack: Stack, item: Any, key: str) -> str:
    return str(item["assets"][key]["href"]).removeprefix(stack.server.archive.base_url)


def test_watches_run_on_a_cluster(local_stack: Stack, workers: LocalCluster) -> None:
    for tile in TILES:
        add = ("watch", "add", tile, "--tile", tile, "--stac", local_stack.server.stac_url)
        assert local_stack.cli(*add).exit_code == 0
    result = local_stack.cli("crawl", "--dask", workers.scheduler_address, "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["indexed"]) == (0, SCENES)
    assert [watch["indexed"] for watch in report["watches"].values()] == [len(DATES)] * len(TILES)


def test_a_worker_killed_mid_crawl_changes_nothing(
    local_stack: Stack, other: Stack, workers: LocalCluster
) -> None:
    with Client(workers, set_as_default=False) as client:
        victim = next(iter(client.run(os.getpid).values()))
        killed = threading.Event()
        seen = 0

        def kill(request: Request) -> Fault | None:
            nonlocal seen
            seen += "/files/" in request.path
            if seen == BANDS and not killed.is_set():
                killed.set()
                os.kill(victim, signal.SIGKILL)
            return None

        local_stack.server.faults.callback = kill
        local_stack.server.faults.latency_ms = 10
        result = local_stack.cli(
            "crawl", "--stac", local_stack.server.stac_url, "--json",
            "--dask", workers.scheduler_address,
        )  # fmt: skip
        local_stack.server.faults.reset()
        assert killed.is_set()
        report = json.loads(result.stdout)
        assert (result.exit_code, report["indexed"], report["failed"]) == (0, SCENES, 0)
        assert report["requests"] == SCENES * BANDS
        client.wait_for_workers(2, timeout=30)
        assert victim not in client.run(os.getpid).values()
    other.crawl()
    assert written(local_stack) == written(other)


def test_a_scene_that_kills_workers_is_that_scene_s_failure(
    local_stack: Stack, workers: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = local_stack.items[0]["id"]
    monkeypatch.setattr(workers.scheduler, "allowed_failures", 1)

    def read(sources: Any, concurrency: int, scenes: Any) -> Any:
        from catalog.cluster import read_packed

        if any(deadly in asset.href for scene in scenes for asset in scene):
            os._exit(1)
        return read_packed(sources, concurrency, scenes)

    monkeypatch.setattr(cluster, "read_packed", read)
    result = local_stack.cli(
        "crawl", "--stac", local_stack.server.stac_url, "--bands", "red", "--json",
        "--concurrency", "2", "--dask", workers.scheduler_address,
    )  # fmt: skip
    report = json.loads(result.stdout)
    reasons = {failure["scene"]: failure["reason"] for failure in report["failures"]}
    assert result.exit_code == 1
    assert "2 workers of the cluster died" in reasons[deadly]
    assert report["indexed"] + report["failed"] == SCENES
    assert "red" in reasons[deadly]


ALL_IN_ONE = """
import sys
from distributed import LocalCluster
with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, host="127.0.0.1",
                  dashboard_address=":0", silence_logs=50, protocol="tcp://") as running:
    print(running.scheduler_address, flush=True)
    sys.stdin.read()
"""


@contextmanager
def frail_cluster() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Scheduler and worker in one process."""
    process = subprocess.Popen(
        [sys.executable, "-c", ALL_IN_ONE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=child_environment(),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.communicate()


def test_a_cluster_that_vanishes_stops_the_crawl_with_all_so_far_recorded(
    local_stack: Stack, other: Stack
) -> None:
    with frail_cluster() as (address, process):
        seen = 0

        def kill(request: Request) -> Fault | None:
            nonlocal seen
            seen += "/files/" in request.path
            if seen == 3 * BANDS:
                process.kill()
            return None

        local_stack.server.faults.callback = kill
        # Page by page: the first scenes are read before the cluster goes.
        result = local_stack.cli(
            "crawl", "--stac", local_stack.server.stac_url, "--dask", address,
            "--concurrency", "1",
        )  # fmt: skip
        local_stack.server.faults.reset()
    assert result.exit_code == 2
    assert f"the cluster at {address} is gone" in result.stderr
    assert "Traceback" not in result.stderr
    states = dict(local_stack.rows("SELECT status, count(*) FROM scenes GROUP BY 1"))
    assert states.get("failed", 0) == 0
    assert 0 < states["pending"] <= SCENES
    ((outcome,),) = local_stack.rows("SELECT outcome FROM crawls")
    assert outcome == "failed"
    report = local_stack.crawl()
    assert report.indexed == states["pending"]
    other.crawl()
    assert written(local_stack) == written(other)


def test_a_cluster_without_workers_is_given_up(
    local_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    monkeypatch.setattr(cluster, "_POLL", 0.1)
    with LocalCluster(
        n_workers=0,
        processes=False,
        host="127.0.0.1",
        protocol="tcp://",
        dashboard_address=":0",
        silence_logs=50,
    ) as empty:
        result = local_stack.cli(
            "crawl", "--stac", local_stack.server.stac_url, "--dask", empty.scheduler_address
        )
        assert result.exit_code == 2
        assert "no worker for" in result.stderr
        with Client(empty, set_as_default=False) as client:
            reader = cluster.ClusterReader(client, "here", (), concurrency=4)
            with pytest.raises(SourceError, match=r"cluster at here is gone \(no worker"):
                asyncio.run(reader.read(make_asset("file:///x/y.tif")))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "carrier://pigeon:1", ""])
def test_an_address_that_no_scheduler_answers_is_said(
    local_stack: Stack, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", 0.5)
    result = local_stack.cli("crawl", "--stac", local_stack.server.stac_url, "--dask", address)
    assert result.exit_code == 2
    assert f"no dask scheduler answers at {address!r}" in result.stderr
    assert not local_stack.rows("SELECT * FROM crawls")


def test_without_dask_installed_it_says_what_to_install(
    local_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = local_stack.cli("crawl", "--tile", "10TFR", "--dask", "local")
    assert result.exit_code == 2
    assert "pip install 'cogcat[dask]'" in result.stderr


def test_workers_with_another_cogcat_are_refused(
    local_stack: Stack, workers: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_version() -> str:
        return "9.9"

    def missing() -> str:
        raise ModuleNotFoundError("No module named 'catalog'")

    for function, words in ((other_version, "has cogcat 9.9"), (missing, "No module named")):
        monkeypatch.setattr(cluster, "_version_there", function)
        with (
            pytest.raises(ConfigError, match=words),
            cluster.connect(workers.scheduler_address, ()),
        ):
            pass


def test_a_local_cluster_is_stopped_by_sigterm_like_any_crawl(local_stack: Stack) -> None:
    local_stack.server.faults.latency_ms = 100
    process = local_stack.process(
        "crawl", "--stac", local_stack.server.stac_url, "--dask", "local", "--concurrency", "2"
    )
    deadline = time.monotonic() + 60
    while not local_stack.file_requests() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130, words
    assert "Traceback" not in words
    local_stack.server.faults.reset()
    states = dict(local_stack.rows("SELECT status, count(*) FROM scenes GROUP BY 1"))
    assert states.get("failed", 0) == 0
    assert local_stack.crawl().indexed == states["pending"]


@pytest.fixture
def headers(local_stack: Stack) -> list[Header | HeaderError]:
    """Of one scene, every band: one of them missing."""
    source = Source(**local_stack.sources[0])
    document = json.loads(
        json.dumps(local_stack.items[0]).replace(
            local_stack.server.archive.base_url, local_stack.server.url
        )
    )
    assets = [*scene_from_item(document).assets, make_asset(f"{source.match}none.tif", "none")]
    return asyncio.run(read_here(source, assets))


async def read_here(source: Source, assets: list[Asset]) -> list[Header | HeaderError]:
    return await HeaderReader([source]).read_all(assets)


def test_headers_travel_as_two_arrays_and_come_back_whole(
    headers: list[Header | HeaderError],
) -> None:
    assets = [
        header.asset if isinstance(header, Header) else make_asset(str(header.href), "none")
        for header in headers
    ]
    packed = cluster.pack(headers)
    assert isinstance(packed.offsets, np.ndarray)
    bytes_there = pickle.dumps(packed, 5)
    # Four bytes for an offset and a length each, and some words per file.
    assert len(bytes_there) < 8 * packed.offsets.size + 1_000 * len(headers)
    back = cluster.unpack(pickle.loads(bytes_there), assets)
    for before, after in zip(headers, back, strict=True):
        if isinstance(before, HeaderError):
            assert isinstance(after, HeaderError)
            assert type(after) is type(before)
            assert str(after) == str(before)
            assert type(before.__cause__).__name__ in str(after.__cause__)
            continue
        assert isinstance(after, Header)
        assert comparable(after) == comparable(before)


def comparable(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return (value.dtype, value.shape, value.tolist())
    if isinstance(value, tuple):
        return tuple(map(comparable, value))
    if type(value).__name__ in ("Header", "Level"):
        return {name: comparable(getattr(value, name)) for name in type(value).__slots__}
    return value


def test_only_settings_travel_to_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-the-wire")
    source = Source(name="own", match="https://own.example/", url="s3://own/", anonymous=False)
    sent = pickle.dumps(((source,), 32, [[make_asset("https://own.example/a.tif")]]))
    assert b"not-for-the-wire" not in sent
    assert b"s3://own/" in sent
