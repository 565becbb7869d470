"""A bad network: what fails for a while is asked for again, what fails for good is named."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_proxy import RANGES, READS, THROTTLED, FaultProxy, Message
from faulty_crawls import SEEDS, behind, crawl, indexed
from scenes import make_asset, noise, read_header, served, write_small_cog
from stacks import BANDS, C1, SCENES, Stack, open_stack, s3_client

from catalog import committer
from catalog.demo.http_ranges import md5_tag
from catalog.demo.server import ArchiveServer
from catalog.errors import HeaderError, SourceError, StoreError
from catalog.header import Header
from catalog.patience import LONGEST_ASKED, Patience, asked_pause
from catalog.settings import Source
from catalog.stac_query import StacQuery
from catalog.stac_search import search_items

pytest_plugins = ["stacks", "faulty_crawls"]


# Pauses


def test_pauses_grow_and_are_scattered() -> None:
    patience = Patience(retries=5, first=1.0, longest=10.0)
    for retry, whole in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 10.0), (500, 10.0)):
        pauses = [patience.pause(retry) for _ in range(50)]
        assert whole / 2 <= min(pauses) < max(pauses) <= whole
        assert len(set(pauses)) > 40


def test_retry_after_is_seconds_or_a_date() -> None:
    assert asked_pause("7") == 7
    assert asked_pause(" 0 ") == 0
    assert asked_pause("86400") == LONGEST_ASKED
    assert asked_pause(formatdate(time.time() + 30, usegmt=True)) == pytest.approx(30, abs=2)
    assert asked_pause(formatdate(time.time() - 30, usegmt=True)) == 0
    for nonsense in (None, "", "soon", "-1", "1.5", "٣", "Wed, 99 Foo 2026"):
        assert asked_pause(nonsense) is None


# One file


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArchiveServer]:
    directory = tmp_path_factory.mktemp("faulty")
    write_small_cog(directory / "files" / "a.tif", noise(200, 200))
    with served(directory) as server:
        yield server


def read(proxy: FaultProxy, key: str = "a.tif") -> Header:
    files = f"{proxy.url}/files/"
    return read_header(make_asset(files + key), Source(name="files", match=files, url=files))


def first(count: int, kind: str) -> Any:
    """Fails the first ``count`` requests."""
    left = [count]

    def choose(_: Message) -> str:
        left[0] -= 1
        return kind if left[0] >= 0 else "none"

    return choose


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", [*READS, *RANGES])
def test_a_header_is_read_through_every_fault(files: ArchiveServer, kind: str) -> None:
    with FaultProxy(files.url, share=0) as proxy:
        whole = read(proxy)
        proxy.before = first(2, kind)
        header = read(proxy)
        assert (header.sha256, header.size, header.etag) == (whole.sha256, whole.size, whole.etag)
        assert proxy.failed == {kind: 2}
        assert header.requests == proxy.requests - whole.requests


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", THROTTLED)
def test_a_server_that_asks_to_be_left_alone_is(files: ArchiveServer, kind: str) -> None:
    with FaultProxy(files.url, share=0, wait=1) as proxy:
        proxy.before = first(2, kind)
        read(proxy)
        # Refused, asked for its reason, and then left alone for as long as it said.
        assert len(proxy.refused) == 2
        after = [at for at, _ in proxy.arrivals if at > proxy.refused[-1]]
        assert min(after) - proxy.refused[-1] >= 0.95


@pytest.mark.usefixtures("impatient")
def test_a_file_that_stays_nonsense_is_damaged(files: ArchiveServer) -> None:
    files.misbehave("/files/damaged.tif", body=b"no image" * 5000)
    with FaultProxy(files.url, share=0) as proxy:
        with pytest.raises(HeaderError, match=r"not a TIFF|no TIFF"):
            read(proxy, "damaged.tif")
        assert proxy.requests == 2  # the second time to see whether it was the network


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["stall", "trickle", "500"])
def test_a_file_that_never_comes_fails_in_bounded_time(
    files: ArchiveServer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catalog.header.PATIENCE", Patience(retries=1, first=0.01))
    with FaultProxy(files.url, share=1, kinds=[kind]) as proxy:
        started = time.monotonic()
        with pytest.raises(HeaderError, match="cannot be read"):
            read(proxy)
        assert time.monotonic() - started < 20


@pytest.mark.usefixtures("impatient")
def test_a_trickling_page_of_a_search_ends(local_stack: Stack) -> None:
    with FaultProxy(local_stack.server.url, share=1, kinds=["trickle"]) as proxy:
        question = StacQuery.parse(collection=C1)
        started = time.monotonic()
        with pytest.raises(SourceError, match="timed out"):
            list(search_items(f"{proxy.url}/stac/v1", question, timeout=0.5, retries=1))
        assert time.monotonic() - started < 20


@pytest.mark.usefixtures("impatient")
def test_a_search_is_whole_through_every_fault(local_stack: Stack) -> None:
    question = StacQuery.parse(collection=C1)
    with FaultProxy(local_stack.server.url, share=0) as proxy:
        url = f"{proxy.url}/stac/v1"
        want = list(search_items(url, question, page_size=1))
        assert len(want) == SCENES
        seen: dict[str, int] = {}
        turn = iter(range(10**6))

        def every_request_fails_once(request: Message) -> str:
            name = f"{request.method} {request.target} {request.body!r}"
            seen[name] = seen.get(name, 0) + 1
            return READS[next(turn) % len(READS)] if seen[name] == 1 else "none"

        proxy.before = every_request_fails_once
        while set(proxy.failed) != set(READS):
            seen.clear()
            assert list(search_items(url, question, page_size=1, timeout=1)) == want


# A whole crawl


def spoil(stack: Stack) -> set[str]:
    """Two scenes that nobody can read: a file is missing, another is damaged."""
    missing, damaged = stack.items[0], stack.items[3]
    stack.server.misbehave(stack.href(missing, "scl"), status=404)
    stack.server.misbehave(stack.href(damaged, "red"), body=b"no image" * 5000)
    return {missing["id"], damaged["id"]}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_missing_but_what_is_unreadable(
    seed: int, request: pytest.FixtureRequest, tmp_path: Path, server: ArchiveServer
) -> None:
    (tmp_path / "calm").mkdir()
    with (
        open_stack("sqlite+local", request, tmp_path / "calm", server) as calm,
        open_stack("postgresql+s3", request, tmp_path, server) as stormy,
    ):
        unreadable = spoil(calm)
        calm.crawl()
        want = indexed(calm)
        assert len(want) == SCENES - len(unreadable)
        assert stormy.moto
        started = time.monotonic()
        with (
            FaultProxy(server.url, seed=seed) as archive,
            FaultProxy(stormy.moto, seed=seed) as store,
            behind(stormy, archive, store),
        ):
            report = crawl(stormy, archive.url, page_size=1)
            seconds = time.monotonic() - started
        assert {failure.scene for failure in report.failures} == unreadable
        assert (report.found, report.indexed, report.failed) == (SCENES, len(want), 2)
        assert seconds < 120
        assert indexed(stormy) == want
        assert all(a == b and files == BANDS for a, b, files in indexed(stormy).values())
        # It was a bad network indeed.
        assert set(archive.failed) == {*READS, *RANGES}
        assert 0.1 < archive.failed.total() / archive.requests < 0.4
        assert store.failed.total() > 8


@pytest.mark.usefixtures("impatient")
def test_a_source_that_goes_away_stops_the_crawl(
    local_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = local_stack
    monkeypatch.setattr("catalog.header.GONE", 10)
    with FaultProxy(stack.server.url, share=0) as proxy, behind(stack, proxy):
        there = ["/stac/", stack.items[1]["id"], stack.items[4]["id"]]
        proxy.before = lambda request: (
            "none" if any(part in request.target for part in there) else "500"
        )
        with pytest.raises(SourceError, match="source 'demo' answers nothing any more") as caught:
            crawl(stack, proxy.url, page_size=1)
        assert "run the crawl again" in str(caught.value)
        assert [len(indexed(stack))] == [2]
        assert stack.rows("SELECT outcome, indexed, failed FROM crawls") == [("failed", 2, 0)]
        proxy.before = None
        report = crawl(stack, proxy.url)
        assert (report.indexed, report.failed, report.unchanged) == (SCENES - 2, 0, 2)
    assert len(indexed(stack)) == SCENES


# A file that changes under the crawl


def change_before_the_commit(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, replace: Callable[[bytes], None]
) -> None:
    """The red file of the first scene is another's when its header has been read, and its
    references have not been committed."""
    item, other = stack.items[0], stack.items[2]
    before = stack.path(item, "red").read_bytes()
    after = stack.path(other, "red").read_bytes()
    assert item["properties"]["grid:code"] == other["properties"]["grid:code"]
    real = committer.write_batch

    def late(*args: Any, **kw: Any) -> Any:
        replace(after)
        return real(*args, **kw)

    with monkeypatch.context() as patched:
        patched.setattr(committer, "write_batch", late)
        assert stack.crawl(tiles=["10TFR"], bands=["red"]).indexed == SCENES // 2
    with stack.connect() as cat:
        scene = cat.scene(item["id"])
        # The record and the references say which file was read: the one that is no more.
        asset = scene.assets["red"]
        assert asset.header_sha256 == hashlib.sha256(before[: asset.header_length]).hexdigest()
        assert asset.etag == md5_tag(before)
        with pytest.raises(StoreError, match=rf"{item['id']} red: .*changed") as caught:
            scene.open(bands=["red"])["red"].load()
        assert asset.href.rpartition("/")[2] in str(caught.value)
        item["properties"]["updated"] = "2024-01-01T00:00:00Z"
        item["assets"]["red"] |= {
            key: other["assets"]["red"][key] for key in ("file:size", "file:checksum")
        }
        report = stack.crawl(tiles=["10TFR"], bands=["red"])
        assert (report.changed, report.indexed, report.failed) == (1, 1, 0)
        again = cat.scene(item["id"])
        assert again.assets["red"].etag == md5_tag(after)
        ours = again.open(resolution=10, bands=["red"])["red"]
        np.testing.assert_array_equal(ours, stack.pixels(other, "red"))


def test_a_file_that_changes_before_the_commit_is_refused(
    own_files: Path, local_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = own_files / local_stack.path(local_stack.items[0], "red").relative_to(own_files)
    later = path.stat().st_mtime + 2  # HTTP dates are whole seconds

    def replace(content: bytes) -> None:
        path.write_bytes(content)
        os.utime(path, (later, later))

    change_before_the_commit(local_stack, monkeypatch, replace)


def test_an_object_that_changes_before_the_commit_is_refused(
    s3_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    href = s3_stack.items[0]["assets"]["red"]["href"]
    bucket, _, key = href.removeprefix("https://").partition("/")

    def replace(content: bytes) -> None:
        s3_client(str(s3_stack.moto)).put_object(
            Bucket=bucket.partition(".")[0], Key=key, Body=content, ACL="public-read"
        )

    change_before_the_commit(s3_stack, monkeypatch, replace)
