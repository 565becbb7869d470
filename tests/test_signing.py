"""Files whose requests are signed: a token service and an Azure container that look like the
Planetary Computer's, with tokens that expire while they are used."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import numpy as np
import pytest
from stacks import L2A, Stack, child_environment, open_stack, read_pixels

from catalog import signing
from catalog.demo.archive import Archive
from catalog.demo.faults import Fault
from catalog.demo.http_connection import Request, Response
from catalog.demo.server import ArchiveServer
from catalog.errors import CatalogError, ConfigError, SourceError
from catalog.header import HeaderReader
from catalog.item import scene_from_item
from catalog.settings import BUILT_IN_SOURCES, PLANETARY_COMPUTER, Source, load_settings
from catalog.sources import open_store, resolve

pytest_plugins = ["stacks"]

ACCOUNT, CONTAINER = "sentinel2l2a01", "sentinel2-l2"
HOST = f"https://{ACCOUNT}.blob.core.windows.net/"
SECRET = "c2VjcmV0LW9m"
"""Begins every signature of the stand-in."""


class SignedServer(ArchiveServer):
    """The archive, its files also as ``/{CONTAINER}/…`` for those who hold a token of
    ``/sas/{account}/{container}``."""

    life = 3600.0
    """Seconds a token is good for; it is announced to expire a minute later, which is when the
    package gives it up."""
    endpoint_down = False

    def __init__(self, archive: Archive) -> None:
        super().__init__(archive)
        self.tokens: dict[str, float] = {}
        """Signature → when it ends, by this machine's clock."""
        self.refused: list[str] = []
        self.versions: set[str | None] = set()

    def _respond(self, request: Request, fault: Fault) -> Response:
        if request.path.startswith("/sas/"):
            return self._give(request)
        if not request.path.startswith(f"/{CONTAINER}/"):
            return super()._respond(request, fault)
        self.versions.add(request.headers.get("x-ms-version"))
        (signature,) = parse_qs(request.query).get("sig", [""])
        if self.tokens.get(signature, 0) < time.time():
            self.refused.append(signature)
            body = b"<Error><Code>AuthenticationFailed</Code></Error>"
            return Response(403, {"Content-Type": "application/xml"}, body)
        path = f"/files/{CONTAINER}/" + request.path.removeprefix(f"/{CONTAINER}/")
        headers = dict(request.headers)
        renamed = Request(request.method, path, "", headers, b"", request.keep_alive)
        return super()._respond(renamed, fault)

    def _give(self, request: Request) -> Response:
        if self.endpoint_down:
            return Response(403, {"Content-Type": "text/plain"}, b"no")
        if request.path != f"/sas/{ACCOUNT}/{CONTAINER}":
            return Response(404, {"Content-Type": "text/plain"}, b"no such container")
        raw = f"secret-of-{len(self.tokens)}/+".encode()
        signature = base64.b64encode(raw).decode()
        # A little longer than it is used, as real ones are.
        self.tokens[signature] = time.time() + self.life + 0.3
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.life + 61))
        token = f"st=2023-01-01T00%3A00%3A00Z&se={quote(end)}&sp=rl&sv=2024-05-04&sr=c&sig="
        expiry = time.time() + self.life + 60
        whole, part = divmod(expiry, 1)
        document = {
            "msft:expiry": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
            + f"{part:.3f}"[1:]
            + "Z",
            "token": token + quote(signature, safe=""),
        }
        return Response(200, {"Content-Type": "application/json"}, json.dumps(document).encode())


@pytest.fixture
def signed_server(
    dialects_archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SignedServer]:
    """Its items' hrefs are the real host's."""
    archive = dialects_archive.rebased(dialects_archive.base_url)
    before = f"{archive.base_url}/files/{CONTAINER}/"
    text = json.dumps(archive.items["planetary-computer"])
    assert before in text
    archive.items["planetary-computer"] = json.loads(text.replace(before, f"{HOST}{CONTAINER}/"))
    with SignedServer(archive) as running:
        monkeypatch.setenv("PC_SDK_SAS_URL", f"{running.url}/sas")
        _forget()
        yield running
    _forget()


def _forget() -> None:
    for thread in threading.enumerate():
        if thread.name == "sas-token":
            thread.join()  # it would put its token where the next test finds it
    sas = signing._package()
    signing._asking.clear()
    sas.TOKEN_CACHE.clear()
    sas.Settings.get.cache_clear()


def pc_source(server: ArchiveServer) -> dict[str, Any]:
    return {
        "name": PLANETARY_COMPUTER,
        "match": f"{HOST}{CONTAINER}/",
        "url": f"{HOST}{CONTAINER}/",
        "sign": PLANETARY_COMPUTER,
        "endpoint": server.url,
    }


@pytest.fixture
def pc_stack(
    signed_server: SignedServer, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Stack]:
    with open_stack("sqlite+local", request, tmp_path, signed_server, init=False) as made:
        made.sources = [pc_source(signed_server)]
        made.write_config()
        made.init()
        yield made


def crawl(stack: Stack, **how: Any) -> Any:
    return stack.crawl(collection=L2A, stac=stack.server.pc_stac_url, **how)


def everything_written(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


def test_the_planetary_computer_is_built_in() -> None:
    href = f"{HOST}{CONTAINER}/10/T/FR/2023/S2A.SAFE/IMG_DATA/R10m/B04_10m.tif"
    source, key = resolve(href, BUILT_IN_SOURCES)
    assert (source.name, source.sign) == (PLANETARY_COMPUTER, PLANETARY_COMPUTER)
    assert key == "10/T/FR/2023/S2A.SAFE/IMG_DATA/R10m/B04_10m.tif"
    assert (source.scheme, source.container_url) == ("az", "az://sentinel2-l2/")
    assert source.azure == (ACCOUNT, CONTAINER, "")


def test_headers_and_pixels_are_read_with_tokens(
    pc_stack: Stack, signed_server: SignedServer, tmp_path: Path
) -> None:
    stack = pc_stack
    report = crawl(stack)
    assert (report.indexed, report.failed, report.requests) == (2, 0, 32)
    assert len(signed_server.tokens) == 1
    with stack.connect() as cat:
        for item in signed_server.archive.items["planetary-computer"]:
            scene = cat.scene(item["id"])
            assert scene.assets["red"].href == item["assets"]["B04"]["href"]
            for band, key in (("red", "B04"), ("scl", "SCL")):
                pixels = scene.open(bands=[band])[band].to_numpy()
                path = signed_server.archive.files / item["assets"][key]["href"][len(HOST) :]
                np.testing.assert_array_equal(pixels, read_pixels(path))
    assert signed_server.refused == []
    assert signed_server.versions != {None}
    # The two, SQL and store, with all that was ever in them.
    assert SECRET.encode() not in everything_written(tmp_path)
    assert b"sig=" not in everything_written(tmp_path)
    again = crawl(stack)
    assert (again.unchanged, again.requests) == (2, 0)


def test_a_token_expires_in_the_middle_of_a_crawl(
    pc_stack: Stack, signed_server: SignedServer
) -> None:
    signed_server.life = 0.6
    signed_server.faults.callback = lambda request: (
        Fault(delay_ms=120) if request.path.startswith(f"/{CONTAINER}/") else None
    )
    from catalog.setup import open_crawl
    from catalog.stac_query import StacQuery
    from catalog.stac_search import search_items

    query = StacQuery.parse(collection=L2A)
    with open_crawl(
        pc_stack.settings, bands=["red", "scl", "blue", "green"], concurrency=1
    ) as work:
        report = work.run(search_items(signed_server.pc_stac_url, query), query={})
    assert (report.indexed, report.failed) == (2, 0)
    assert len(signed_server.tokens) >= 2
    assert signed_server.refused == []


def test_a_token_expires_while_a_session_is_open(
    pc_stack: Stack, signed_server: SignedServer
) -> None:
    """Also when the store went to another process: it gets tokens of its own, and takes none."""
    crawl(pc_stack, bands=["red"])
    _forget()
    signed_server.tokens.clear()
    signed_server.life = 0.5
    with pc_stack.connect() as cat:
        old, _ = cat.search(sort="datetime")
        store = cat.repository.store(old.snapshot_id)
        red = old.open(bands=["red"])["red"]
        first = red.to_numpy()
        given = set(signed_server.tokens)
        assert len(given) == 1
        sent = pickle.dumps(store)
        assert SECRET.encode() not in sent
        time.sleep(0.9)
        np.testing.assert_array_equal(red.to_numpy(), first)
        assert len(signed_server.tokens) > 1
        code = (
            "import pickle, sys, zarr, catalog\n"
            "store = pickle.loads(sys.stdin.buffer.read())\n"
            "print(zarr.open_array(store, path='r10m/red', mode='r')[0].sum())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], input=sent, env=child_environment(),
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        assert int(done.stdout) == first.sum()
    assert signed_server.refused == []


def test_no_error_tells_a_token(
    pc_stack: Stack, signed_server: SignedServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A token that the container does not take, at the crawl and at the read."""
    crawl(pc_stack, bands=["red"], limit=1)
    with pc_stack.connect() as cat:
        (scene,) = cat.search()
        _forget()
        signed_server.life = -1.0
        with pytest.raises(CatalogError, match="necessary privileges") as refused:
            scene.open(bands=["red"])["red"].to_numpy()
    caplog.clear()
    with caplog.at_level("DEBUG"):
        report = crawl(pc_stack, bands=["scl"])
    reasons = [failure.reason for failure in report.failures]
    assert len(reasons) == 2
    assert all("403 Forbidden" in reason for reason in reasons)
    assert signed_server.refused
    read = "".join(traceback.format_exception(refused.value))
    for text in (caplog.text, *reasons, read):
        assert "sig=" not in text
        assert SECRET not in text
    assert b"sig=" not in everything_written(tmp_path)


def test_a_service_that_gives_no_token_fails_scenes_with_its_reason(
    pc_stack: Stack, signed_server: SignedServer
) -> None:
    signed_server.endpoint_down = True
    report = crawl(pc_stack, bands=["red"])
    assert (report.indexed, report.failed) == (0, 2)
    assert "no token to read container 'sentinel2-l2' of 'sentinel2l2a01'" in str(report.failures)
    signed_server.endpoint_down = False
    with pytest.raises(SourceError, match="404"):
        signing.token("other", "container")
    again = crawl(pc_stack, bands=["red"])
    assert (again.indexed, again.failed) == (2, 0)


def test_a_service_that_stalls_is_given_up(
    signed_server: SignedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_server.misbehave(f"/sas/{ACCOUNT}/{CONTAINER}", delay_ms=1500)
    monkeypatch.setattr(signing, "TIMEOUT", 0.2)
    # The request that is left behind is not made again once the server is gone.
    monkeypatch.setattr(signing, "RETRIES", 0)
    with pytest.raises(SourceError, match="did not answer"):
        signing.token(ACCOUNT, CONTAINER)


def test_without_the_package_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, signed_server: SignedServer
) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "planetary_computer", None)
        with pytest.raises(ConfigError, match=r"install cogcat\[planetary-computer\]"):
            open_store(Source(**pc_source(signed_server)))


def test_a_mirror_of_signed_files_needs_no_token(
    pc_stack: Stack, signed_server: SignedServer
) -> None:
    crawl(pc_stack, bands=["red"])
    with pc_stack.connect() as cat:
        before = {s.id: s.open(bands=["red"])["red"].to_numpy() for s in cat.search()}
    _forget()
    signed_server.tokens.clear()
    files = signed_server.archive.files / CONTAINER
    pc_stack.sources = [
        {
            "name": PLANETARY_COMPUTER,
            "match": f"{HOST}{CONTAINER}/",
            "url": files.as_uri() + "/",
        }
    ]
    pc_stack.write_config()
    with pc_stack.connect() as cat:
        for scene in cat.search():
            np.testing.assert_array_equal(
                scene.open(bands=["red"])["red"].to_numpy(), before[scene.id]
            )
    assert signed_server.tokens == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sign": "somebody"}, "only 'planetary-computer' is known"),
        ({"url": "s3://bucket/"}, "must be https://ACCOUNT.blob.core.windows.net/CONTAINER/"),
        ({"url": "https://x.blob.core.windows.net/"}, "blob.core.windows.net/CONTAINER/"),
        ({"sign": 1}, "'sign' in .* not text"),
    ],
)
def test_a_source_that_cannot_be_signed(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    table = {
        "match": "https://x/", "url": f"{HOST}{CONTAINER}/", "sign": PLANETARY_COMPUTER
    } | change  # fmt: skip
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
    (tmp_path / "cogcat.toml").write_text(f"[[sources]]\n{lines}\n")
    with pytest.raises(ConfigError, match=message):
        load_settings(config=tmp_path / "cogcat.toml")


def test_one_token_serves_all_readers(signed_server: SignedServer) -> None:
    item = signed_server.archive.items["planetary-computer"][0]
    scene = scene_from_item(item)

    async def read() -> None:
        reader = HeaderReader([Source(**pc_source(signed_server))])
        await asyncio.gather(*(reader.read(asset) for asset in scene.assets))

    asyncio.run(read())
    assert len(signed_server.tokens) == 1
    assert re.search("sas", os.environ["PC_SDK_SAS_URL"])
