"""Honest items and files among poisoned ones of every kind, in any order, under lying answers:
every honest scene is indexed with the right references, nothing but the tree of ``CatalogError``
comes out, memory is bounded, and no secret that went in comes out.

``COGCAT_EXAMPLES=200 pytest tests/test_hostile_world.py -n 0`` tries so many worlds.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import imagecodecs
import pytest
from hostile import (
    HARMFUL,
    HARMLESS,
    LIMIT,
    POISONED_FILES,
    POISONED_ITEMS,
    SECRET,
    WAYS,
    Commands,
    HostileServer,
    Item,
    Ran,
)
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from stacks import C1, STACKS, Stack, open_stack, s3_client
from worlds import copied, world

from catalog.cube import scene_references
from catalog.demo.archive import Archive
from catalog.demo.server import ArchiveServer
from catalog.header import HeaderReader
from catalog.item import scene_from_item

pytest_plugins = ["stacks"]

EXAMPLES = int(os.environ.get("COGCAT_EXAMPLES", "4"))
pytestmark = pytest.mark.timeout(300 + 20 * EXAMPLES)
HONEST = 6
ZSTD = b"\x28\xb5\x2f\xfd"


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with Commands() as running:
        yield running


@pytest.fixture(scope="module")
def files(small_archive: Archive) -> Iterator[ArchiveServer]:
    with ArchiveServer(small_archive.rebased(small_archive.base_url)) as server:
        yield server


@pytest.fixture(scope="module")
def of_two_tiles(files: ArchiveServer) -> list[Item]:
    """As served."""
    text = json.dumps(files.archive.items["earth-search-c1"])
    items: list[Item] = json.loads(text.replace(files.archive.base_url, files.url))
    return [item for item in items if item["properties"]["grid:code"] != "MGRS-11TLL"]


@pytest.fixture(scope="module")
def honest(of_two_tiles: list[Item]) -> list[Item]:
    return of_two_tiles[:HONEST]


@pytest.fixture(scope="module")
def model(of_two_tiles: list[Item]) -> Item:
    """What the poisoned are made of: none of the honest, whose files nobody else is to read."""
    return of_two_tiles[HONEST]


@pytest.fixture(scope="module")
def api(files: ArchiveServer, honest: list[Item]) -> Iterator[HostileServer]:
    sound = files.archive.files / honest[0]["assets"]["red"]["href"].split("/files/")[1]
    with HostileServer(sound.read_bytes()) as server:
        yield server


@pytest.fixture(params=STACKS)
def empty(
    request: pytest.FixtureRequest, tmp_path: Path, files: ArchiveServer, api: HostileServer
) -> Iterator[Stack]:
    with open_stack(request.param, request, tmp_path, files, init=False) as stack:
        poison = f"{api.url}/poison/"
        stack.sources.append({"name": "poison", "match": poison, "url": poison})
        stack.write_config()
        stack.init()
        yield stack


Poison = tuple[str, str]
"""(``item``, ``file`` or ``way``, its name)."""
EVERY: list[Poison] = [
    *(("item", name) for name in POISONED_ITEMS),
    *(("file", name) for name in POISONED_FILES),
    *(("way", name) for name in WAYS),
]


def poisoned(poison: Poison, model: Item, number: int, api: HostileServer) -> str:
    """JSON of a harmful item, of a day and an id of its own."""
    item = copy.deepcopy(model)
    item["id"] = f"S2A_T10TFR_201{number % 10}0{number % 9 + 1}10T19{number:04}_L2A"
    kind, name = poison
    if kind == "item":
        made = POISONED_ITEMS[name](item)
        return made if isinstance(made, str) else json.dumps(made)
    red = item["assets"]["red"]
    red["href"] = f"{api.url}/poison/{name.replace(' ', '_')}.tif"
    for key in ("file:size", "file:checksum", "proj:shape", "proj:transform"):
        red.pop(key, None)
    return json.dumps(item)


@pytest.fixture
def expected(honest: list[Item], files: ArchiveServer, empty: Stack) -> dict[str, str]:
    """Honest item → the digest of its references, read here and now."""
    import asyncio

    async def read() -> dict[str, str]:
        reader = HeaderReader(empty.settings.sources)
        found = {}
        for item in honest:
            scene = scene_from_item(item)
            headers = [await reader.read(asset) for asset in scene.assets]
            found[scene.id] = scene_references(scene, headers).sha256
        return found

    return asyncio.run(read())


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    # A world takes seconds: one that fails is told as it was drawn.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_honest_scenes_come_through_a_hostile_world(
    data: st.DataObject,
    empty: Stack,
    api: HostileServer,
    honest: list[Item],
    model: Item,
    expected: dict[str, str],
    commands: Commands,
) -> None:
    poisons = data.draw(st.lists(st.sampled_from(EVERY), min_size=4, max_size=24, unique=True))
    lie = data.draw(st.sampled_from(sorted(HARMLESS) + sorted(HARMFUL)))
    texts = [json.dumps(item) for item in honest]
    texts += [poisoned(poison, model, n, api) for n, poison in enumerate(poisons)]
    texts = data.draw(st.permutations(texts))
    note(f"{lie}: {poisons}")
    hostile_world(empty, api, texts, lie, data.draw(st.integers(0, 3)), expected, commands)


@pytest.mark.parametrize("portion", range(6))
def test_every_poison_is_tried(
    portion: int,
    empty: Stack,
    api: HostileServer,
    honest: list[Item],
    model: Item,
    expected: dict[str, str],
    commands: Commands,
) -> None:
    texts = [json.dumps(item) for item in honest]
    texts += [poisoned(p, model, n, api) for n, p in enumerate(EVERY[portion::6])]
    hostile_world(empty, api, texts[::-1], "none", 0, expected, commands)


@pytest.mark.parametrize("lie", sorted(HARMFUL))
def test_every_lie_is_tried(
    lie: str,
    empty: Stack,
    api: HostileServer,
    honest: list[Item],
    expected: dict[str, str],
    commands: Commands,
) -> None:
    if empty.moto:
        pytest.skip("the API is asked before the store")
    hostile_world(empty, api, [json.dumps(item) for item in honest], lie, 0, expected, commands)


def hostile_world(
    empty: Stack,
    api: HostileServer,
    texts: list[str],
    lie: str,
    lie_at: int,
    expected: dict[str, str],
    commands: Commands,
) -> None:
    with ExitStack() as opened:
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        stack = opened.enter_context(copied(empty, directory / "catalog"))
        ran: list[Ran] = []

        def cogcat(*words: str, allowed: tuple[int, ...] = (0,)) -> Ran:
            done = commands.run(*words, "--config", str(stack.config))
            ran.append(done)
            assert done.error is None, done.error
            assert done.code in allowed, f"{words}: {done.code}\n{done.err[-3000:]}"
            assert done.peak < LIMIT, f"{words} took {done.peak >> 20} MB"
            return done

        api.items, api.lie, api.lie_at = texts, lie, lie_at
        api.trespasses.clear()
        cogcat("watch", "add", "w", "--stac", api.url, "--collection", C1)
        lied = len(texts) > 5 * lie_at and lie in HARMFUL
        cogcat("--log-format", "json", "crawl", allowed=(0, 1, 2) if lied else (0, 1))
        api.lie = "none"
        second = cogcat("crawl", "--json", allowed=(0, 1))
        assert not api.trespasses

        found = world(stack)
        for name, digest in expected.items():
            state, _ = found.scenes[name]
            assert state[1] == "indexed", f"{name} is {state[1]}: {state[10]}"
            assert state[4] == digest, f"{name} has other references"
        # Once more nothing of the honest is touched.
        requests = stack.server.requests
        requests.reset()
        last = json.loads(cogcat("crawl", "--full", "--json", allowed=(0, 1)).out)
        assert last["unchanged"] >= len(expected), second.out
        asked = {served.path for served in requests.below("/files/")}
        assert not {path for path in asked if path.split("/")[-2] in expected}
        (mark,) = {row[0] for row in stack.rows("SELECT watermark FROM watches")}
        assert mark is None or str(mark) < "2027", f"the watermark is {mark}"

        cogcat("status")
        cogcat("status", "--json")
        cogcat("watch", "list")
        cogcat("search", "--format", "table")
        cogcat("search", "--format", "ids")
        cogcat("search", "--format", "geojson", "-o", str(directory / "out.geojson"))
        cogcat("export", str(directory / "out.parquet"))
        some = next(iter(expected))
        cogcat("show", some)
        with stack.connect() as cat:
            assert cat.scene(some).open(resolution=20, bands=["scl"])["scl"].load().size
        for done in ran:
            for text in (done.out, done.err):
                assert SECRET not in text
                odd = {c for c in text if not (c.isprintable() or c == "\n")}
                assert not odd, f"{odd} in the output of {done}"
        _assert_no_secret(stack, directory)


def _assert_no_secret(stack: Stack, directory: Path) -> None:
    """In no file, no object and no row."""
    needle = SECRET.encode()
    for path in directory.rglob("*"):
        if path.is_file():
            _assert_without(path.read_bytes(), needle, path)
    if stack.moto:
        client = s3_client(stack.moto)
        bucket, _, prefix = stack.location.removeprefix("s3://").partition("/")
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for found in (entry for page in pages for entry in page.get("Contents", ())):
            body = client.get_object(Bucket=bucket, Key=found["Key"])["Body"].read()
            _assert_without(body, needle, found["Key"])
        client.close()
    for table in ("scenes", "assets", "crawls", "watches", "collections", "item_failures",
                  "sources", "repositories", "scene_revisions"):  # fmt: skip
        assert SECRET not in repr(stack.rows(f"SELECT * FROM {table}")), table


def _assert_without(data: bytes, needle: bytes, where: Any) -> None:
    assert needle not in data, where
    frame = data.find(ZSTD)
    # Icechunk's own files: a head, and what it tells, packed.
    if data.startswith(b"ICE") and frame >= 0:
        assert needle not in imagecodecs.zstd_decode(data[frame:]), where


def test_the_kinds_are_as_many_as_are_said() -> None:
    assert (len(POISONED_ITEMS), len(POISONED_FILES), len(WAYS)) >= (75, 20, 14)
