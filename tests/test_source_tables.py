"""What a ``[[sources]]`` table can say, end to end: who pays, who signs, and where a mirror is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stacks import Stack, make_bucket, open_stack, s3_client

from catalog.cube_writer import Placement, stored_refs_digest
from catalog.demo.archive import Archive
from catalog.demo.faults import Fault
from catalog.demo.http_connection import Request, Response
from catalog.demo.server import ArchiveServer
from catalog.errors import ConfigError, SourceError, StoreError
from catalog.repository import Repository
from catalog.settings import Source

pytest_plugins = ["stacks"]

BUCKET = "e84-earth-search-sentinel-data"


class Bucket(ArchiveServer):
    """The archive, its files also as ``/{bucket}/{key}``, with every request's headers kept."""

    def __init__(self, archive: Archive) -> None:
        super().__init__(archive)
        self.headers: list[dict[str, str]] = []
        self.must_pay = False

    def _respond(self, request: Request, fault: Fault) -> Response:
        if not request.path.startswith(f"/{BUCKET}/"):
            return super()._respond(request, fault)
        self.headers.append(request.headers)
        if self.must_pay and request.headers.get("x-amz-request-payer") != "requester":
            return Response(403, {"Content-Type": "application/xml"}, b"<Error/>")
        headers = dict(request.headers)
        if "if-match" in headers:
            # As S3 does, and this server otherwise does not.
            headers["if-match"] = '"' + headers["if-match"].strip('"') + '"'
        path = f"/files{request.path}"
        return super()._respond(Request("GET", path, "", headers, b"", request.keep_alive), fault)


@pytest.fixture
def bucket(archive: Archive) -> Iterator[Bucket]:
    with Bucket(archive) as running:
        yield running


@pytest.mark.parametrize(
    ("table", "payer", "signed"),
    [
        ({}, None, False),
        ({"anonymous": False}, None, True),
        pytest.param(
            {"requester_pays": True},
            "requester",
            True,
            marks=pytest.mark.xfail(
                reason="icechunk 2.3 keeps the flag of a container and does not send the header",
                raises=SourceError,
            ),
        ),
    ],
    ids=["anonymous", "keys", "requester-pays"],
)
def test_headers_and_pixels_are_asked_for_alike(
    bucket: Bucket,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    table: dict[str, Any],
    payer: str | None,
    signed: bool,
) -> None:
    bucket.must_pay = payer is not None
    with open_stack("sqlite+local", request, tmp_path, bucket, init=False) as stack:
        stack.sources = [
            {
                "name": "pays",
                "match": f"{bucket.files_url}{BUCKET}/",
                "url": f"s3://{BUCKET}/",
                "endpoint": bucket.url,
                "region": "eu-central-1",
                **table,
            }
        ]
        stack.write_config()
        stack.init()
        # What cannot be read later is said before it is crawled.
        assert ("pixels not" in caplog.text) == (payer is not None)
        assert stack.crawl(bands=["scl"], limit=1).indexed == 1
        crawled, bucket.headers = bucket.headers, []
        assert len(crawled) == 1
        assert_sent(crawled, payer, signed)
        with stack.connect() as cat:
            (scene,) = cat.search()
            pixels = scene.open(bands=["scl"])["scl"].to_numpy()
            (item,) = [item for item in stack.items if item["id"] == scene.id]
        np.testing.assert_array_equal(pixels, stack.pixels(item, "scl"))
        assert bucket.headers
        assert_sent(bucket.headers, payer, signed)


def assert_sent(requests: list[dict[str, str]], payer: str | None, signed: bool) -> None:
    for headers in requests:
        assert headers.get("x-amz-request-payer") == payer
        assert ("authorization" in headers) == signed
        assert not signed or "/eu-central-1/s3/aws4_request" in headers["authorization"]


@pytest.mark.parametrize("url", ["https://host/", "file:///data/"])
def test_only_buckets_have_a_payer(url: str) -> None:
    with pytest.raises(ConfigError, match="requester_pays is for s3:// urls only"):
        Source(name="x", match="https://host/", url=url, requester_pays=True)


# A mirror: its container's prefix is another, and nothing else


def red(stack: Stack) -> dict[str, NDArray[Any]]:
    with stack.connect() as cat:
        return {s.id: s.open(bands=["red"])["red"].to_numpy() for s in cat.search()}


def point(stack: Stack, **change: Any) -> None:
    """Changes the first source in ``cogcat.toml``, and runs nothing."""
    table = stack.sources[0] | change
    stack.sources = [{key: value for key, value in table.items() if value is not None}]
    stack.write_config()


def assert_reads_there(stack: Stack, before: dict[str, NDArray[Any]], url: str) -> None:
    """By ``catalog.connect`` alone; SQL is as it was, and still true of the store."""
    rows = stack.everything()
    stack.server.requests.reset()
    after = red(stack)
    assert after.keys() == before.keys()
    for scene, pixels in before.items():
        np.testing.assert_array_equal(after[scene], pixels)
    assert stack.repository().containers[stack.sources[0]["name"]] == url
    repository = stack.repository()
    with stack.connect() as cat:
        for scene in cat.search():
            store, place = (
                repository.store(scene.snapshot_id),
                Placement(scene.root, scene.time_index),
            )
            assert stored_refs_digest(repository, store, place) == scene.refs_sha256
    report = stack.crawl(bands=["red"])
    assert (report.unchanged, report.requests) == (report.found, 0)
    assert stack.everything() == rows


def test_a_bucket_pointed_at_its_copy(s3_stack: Stack, moto_server: str) -> None:
    """In another bucket, and over the plain HTTP of an S3 server: ETags stay with the bytes."""
    stack, client = s3_stack, s3_client(moto_server)
    stack.crawl(bands=["red"])
    before = red(stack)
    make_bucket(client, "mirror")
    keys = [found["Key"] for found in client.list_objects_v2(Bucket=BUCKET)["Contents"]]
    copies = [key for key in keys if key.endswith("B04.tif")]
    try:
        for key in copies:
            client.copy_object(
                Bucket="mirror", Key=f"s2/{key}", CopySource=f"{BUCKET}/{key}", ACL="public-read"
            )
            client.delete_object(Bucket=BUCKET, Key=key)
        point(stack, url="s3://mirror/s2/")
        assert_reads_there(stack, before, "s3://mirror/s2/")
        over_http = f"{moto_server}/mirror/s2/"
        point(stack, url=over_http, endpoint=None, region=None)
        assert_reads_there(stack, before, over_http)
        # Whoever has no such table is where the repository says: at the files that are gone.
        alone = Repository.open(stack.location, (), stack.settings.repository_options)
        assert alone.containers["earth-search-c1"] == f"s3://{BUCKET}/"
    finally:
        listed = client.list_objects_v2(Bucket="mirror")["Contents"]
        client.delete_objects(
            Bucket="mirror", Delete={"Objects": [{"Key": found["Key"]} for found in listed]}
        )
        client.delete_bucket(Bucket="mirror")


def test_a_web_server_pointed_at_its_copy(local_stack: Stack, tmp_path: Path) -> None:
    """On another server, and in a directory: times of modification stay where a copy keeps them."""
    stack = local_stack
    stack.crawl(bands=["red"])
    before = red(stack)
    copy = tmp_path / "copy"
    shutil.copytree(stack.server.archive.files, copy / "files")
    mirrored = stack.server.archive.rebased(stack.server.archive.base_url)
    mirrored.directory = copy
    with ArchiveServer(mirrored) as mirror:
        point(stack, url=mirror.files_url)
        assert_reads_there(stack, before, mirror.files_url)
        assert mirror.requests.below("/files/")
    assert stack.file_requests() == []
    directory = (copy / "files").as_uri() + "/"
    point(stack, url=directory)
    assert_reads_there(stack, before, directory)


def later(files: Path, directory: Path) -> str:
    shutil.copytree(files, directory, copy_function=shutil.copyfile)
    for path in directory.rglob("*.tif"):
        path.touch()
    return directory.as_uri() + "/"


def test_a_copy_that_cannot_be_told_from_another_file_is_refused(
    local_stack: Stack, own_files: Path, tmp_path: Path
) -> None:
    """A copy with its own time of modification: rather no pixels than perhaps wrong ones."""

    for path in own_files.rglob("*.tif"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    stack = local_stack
    stack.crawl(bands=["red"])
    before = red(stack)
    url = stack.sources[0]["url"]
    point(stack, url=later(own_files, tmp_path / "later"))
    with pytest.raises(StoreError, match=r"red: the file has changed .*later/.*B04\.tif"):
        red(stack)
    point(stack, url=url)
    assert_reads_there(stack, before, url)


def test_init_remembers_another_endpoint(bare_stack: Stack) -> None:
    """The same bucket on another server is another place."""
    stack = bare_stack
    stack.sources.append(
        {"name": "b", "match": "s3://b/", "url": "s3://b/", "endpoint": "http://127.0.0.1:1"}
    )
    stack.write_config()
    stack.init()
    stack.sources[-1]["endpoint"] = "http://127.0.0.1:2"
    stack.write_config()
    stack.init()
    alone = Repository.open(stack.location, (), stack.settings.repository_options)
    containers = alone.icechunk.config.virtual_chunk_containers or {}
    assert "127.0.0.1:2" in repr(containers["s3://b/"])
