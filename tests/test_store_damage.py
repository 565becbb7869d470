"""A repository whose objects are lost, cut short or flipped is a clear error for every command, and
nothing is written to catalog or repository on top of it; one that breaks off is asked again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from agreement import Died
from fault_proxy import FaultProxy, Message
from stacks import C1, STACKS, Stack, open_stack
from test_rebuild import lose_database
from worlds import copied

from catalog.demo.archive import Archive
from catalog.demo.server import ArchiveServer
from catalog.errors import CatalogError, StoreError
from catalog.repository import Repository
from catalog.setup import keep_up, rebuild, repair
from catalog.storage import open_objects

pytest_plugins = ["stacks"]

BRANCH = f"{C1}/10TFR"


@pytest.fixture(scope="module", params=STACKS)
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, small_archive: Archive
) -> Iterator[Stack]:
    """One commit that is recorded and one that is not; a scene is still to come."""
    archive = small_archive.rebased(small_archive.base_url)
    items = archive.items["earth-search-c1"]
    here = [item for item in items if "10TFR" in item["id"]]
    with (
        ArchiveServer(archive) as server,
        open_stack(request.param, request, tmp_path_factory.mktemp("filled"), server) as made,
    ):
        items[:] = here[:1]
        assert made.crawl().indexed == 1
        items[:] = here[:2]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("catalog.records.record_indexed", _die)
            with pytest.raises(Died):
                made.crawl()
        items[:] = here[:3]
        yield made


def _die(*_: Any, **__: Any) -> None:
    raise Died


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "gone": lambda data: None,
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "less by one": lambda data: data[:-1],
    "first byte": lambda data: flip(data, 0),
    "version": lambda data: flip(data, 36),
    "within": lambda data: flip(data, len(data) * 2 // 3),
    "last byte": lambda data: flip(data, len(data) - 1),
    "junk": lambda data: b"x" * len(data),
}
KINDS = ("repo", "snapshots of main", "snapshots of the branch", "manifests", "transactions")


def objects(stack: Stack, kind: str) -> list[str]:
    """Keys below the repository's place of all objects of a kind."""
    if kind == "repo":
        return ["repo"]
    folder = kind.split()[0]
    store: Any = open_objects(stack.location, stack.settings.repository_options)
    keys = sorted(entry["path"] for page in store.list(folder) for entry in page)
    if folder == "snapshots":
        ancestry = stack.repository().icechunk.ancestry
        mine = {info.id for info in ancestry(branch=BRANCH)}
        mine -= (others := {info.id for info in ancestry(branch="main")})
        wanted = mine if "branch" in kind else others
        return [key for key in keys if key.rpartition("/")[2] in wanted]
    return keys


def damage(stack: Stack, keys: list[str], how: Callable[[bytes], bytes | None]) -> None:
    store: Any = open_objects(stack.location, stack.settings.repository_options)
    for key in keys:
        data = how(bytes(store.get(key).bytes()))
        if data is None:
            store.delete(key)
        else:
            store.put(key, data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", DAMAGES)
def test_damage_is_a_clear_error(filled: Stack, tmp_path: Path, kind: str, how: str) -> None:
    """Whatever is damaged, no command raises but what it says, nor writes."""
    if filled.moto and how not in ("gone", "half", "within"):
        pytest.skip("the same on disk")
    with copied(filled, tmp_path / "copy") as stack:
        keys = objects(stack, kind)
        assert keys
        damage(stack, keys, DAMAGES[how])
        before, there = stack.everything(), listing(stack)
        commands: list[Callable[[], Any]] = [
            lambda: repair(stack.settings),
            lambda: stack.crawl(),
            lambda: keep_up(stack.settings, keep=timedelta(days=1)),
            lambda: stack.init(),
        ]
        raised: list[CatalogError] = []
        for command in commands:
            with contextlib.suppress(AssertionError):
                try:
                    command()
                except CatalogError as error:
                    raised.append(error)
        stack.cli("status", "--store")
        if kind == "repo" and how == "gone":
            assert any("cogcat init" in str(error) for error in raised)
            return  # and init made a new one
        after = stack.everything()
        if raised[:2] and kind != "snapshots of main":
            # Either the damage is out of the way, or nothing was written on top of it.
            assert {name: after[name] for name in ("scenes", "snapshots")} == {
                name: before[name] for name in ("scenes", "snapshots")
            }
            assert listing(stack) >= there
        for error in raised:
            assert_says_what_to_do(error)
        lose_database(stack)
        try:
            rebuild(stack.settings)
        except CatalogError as error:
            assert_says_what_to_do(error)
            raised.append(error)
        if kind in ("repo", "snapshots of the branch"):
            assert raised, "nobody noticed"


def assert_says_what_to_do(error: CatalogError) -> None:
    text = str(error)
    assert "\n" not in text
    assert any(
        word in text
        for word in ("put back", "put it right", "cogcat init", "run ", "copy", "cogcat rebuild")
    ), text


def listing(stack: Stack) -> set[str]:
    store: Any = open_objects(stack.location, stack.settings.repository_options)
    return {entry["path"] for page in store.list() for entry in page}


def test_a_panic_of_icechunk_is_a_store_error(
    filled: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):
        pass

    def panic(*_: Any, **__: Any) -> Any:
        raise PanicException("index out of bounds")

    repository = filled.repository()

    class Panics:
        def __getattr__(self, name: str) -> Any:
            return panic

    monkeypatch.setattr(repository, "icechunk", Panics())
    calls: list[Callable[[], Any]] = [
        repository.branches,
        repository.first_snapshot,
        lambda: repository.head(BRANCH),
        lambda: repository.history(BRANCH, since=None),
        lambda: repository.store("A" * 20),
        lambda: Repository.said_id.func(repository),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="damaged: index out of bounds"):
            call()


@pytest.mark.parametrize("how", ["truncated", "reset in the body", "500"])
def test_s3_that_breaks_off_while_it_is_opened_is_asked_again(
    request: pytest.FixtureRequest, tmp_path: Path, small_archive: Archive, how: str
) -> None:
    archive = small_archive.rebased(small_archive.base_url)
    archive.items["earth-search-c1"][:] = archive.items["earth-search-c1"][:1]
    with (
        ArchiveServer(archive) as server,
        open_stack("postgresql+s3", request, tmp_path, server) as stack,
    ):
        assert stack.moto
        real = stack.moto
        stack.crawl()
        with FaultProxy(real, share=0) as proxy:
            stack.moto = proxy.url
            stack.write_config()
            met: dict[str, int] = {}

            def once(message: Message) -> str:
                # Every object is cut off the first time it is asked for.
                key = message.target.split("?")[0]
                if message.method != "GET":
                    return "none"
                met[key] = met.get(key, 0) + 1
                return how if met[key] == 1 else "none"

            proxy.before = once
            assert repair(stack.settings).commits == 0
            assert stack.crawl().unchanged == 1
            assert proxy.failed[how] > 1
