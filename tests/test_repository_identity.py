"""A repository is known by its id: it may be moved, and is not mistaken for another."""

from __future__ import annotations

import os
import shutil
import uuid
from datetime import timedelta
from pathlib import Path

import icechunk
import pytest
from sqlalchemy import make_url
from stacks import C1, SCENES, TILES, Stack

from catalog.errors import ConfigError, NotFoundError, StoreError
from catalog.repository import Repository, put_documents
from catalog.settings import load_settings
from catalog.setup import keep_up, rebuild, repair

pytest_plugins = ["stacks"]

TILE = TILES[0]


@pytest.fixture
def filled(stack: Stack) -> Stack:
    """A crawled catalog of the test's own, to move about."""
    assert stack.crawl().indexed == SCENES
    return stack


def _move(stack: Stack, directory: Path) -> None:
    """Repository and SQLite database go elsewhere; S3 and a server stay where they are."""
    directory.mkdir()
    if not stack.moto:
        shutil.move(stack.location, directory / "repo")
        stack.location = str(directory / "repo")
        database = Path(make_url(stack.database).database or "")
        shutil.move(database, directory / "catalog.db")
        stack.database = f"sqlite:///{directory / 'catalog.db'}"
    stack.write_config()


def _other(stack: Stack, name: str) -> None:
    """The stack's database with another, new repository."""
    stack.location = f"{stack.location}-{name}"
    stack.write_config()


def test_the_id_is_made_once_and_stays(stack: Stack) -> None:
    first = stack.repository().id
    assert str(uuid.UUID(first)) == first
    stack.init()
    again = stack.repository()
    assert again.id == first
    assert stack.rows("SELECT uid, location FROM repositories") == [(first, again.location)]


def test_a_catalog_that_was_moved_has_nothing_to_do(filled: Stack, tmp_path: Path) -> None:
    before = filled.everything()
    _move(filled, tmp_path / "elsewhere")
    # Readers do not wait for a crawl to write down where it is now.
    with filled.connect() as cat:
        assert cat.search().count() == SCENES
        assert cat.cube(TILE, resolution=20, bands=["red"]).sizes["time"] == SCENES // len(TILES)
    report = filled.crawl()
    assert (report.unchanged, report.new, report.commits) == (SCENES, 0, 0)
    assert filled.file_requests() == []
    assert filled.everything() == before
    ((_, location),) = filled.rows("SELECT uid, location FROM repositories")
    assert location == filled.repository().location
    with filled.connect() as cat:
        assert {scene.repository for scene in cat.search()} == {location}


def test_a_path_is_one_however_it_is_written(
    filled: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if filled.moto:
        filled.location += "/"
    else:
        (tmp_path / "link").symlink_to(Path(filled.location).parent)
        monkeypatch.chdir(tmp_path)
        filled.location = os.path.join("link", Path(filled.location).name)  # noqa: PTH118
    location = filled.rows("SELECT location FROM repositories")
    filled.write_config()
    assert filled.crawl().unchanged == SCENES
    assert filled.rows("SELECT location FROM repositories") == location


def test_a_second_repository_of_the_same_database_is_kept_apart(filled: Stack) -> None:
    first = filled.location
    before = filled.everything()
    with filled.connect() as cat:
        here = cat.search().records()
    _other(filled, "two")
    filled.init()
    with filled.connect() as cat:
        assert cat.search(status="any").count() == 0
        assert cat.status()["branches"] == []
        with pytest.raises(NotFoundError, match=f"no tile {TILE}; there are none"):
            cat.cube(TILE)
    assert filled.crawl(dry_run=True).new == SCENES
    report = filled.crawl(tiles=[TILE])
    assert report.indexed == report.new == SCENES // len(TILES)
    with filled.connect() as cat:
        assert cat.search().count() == report.indexed
        second = cat.scene(here[0].id) if here[0].tile == TILE else next(iter(cat.search()))
        assert second.repository == filled.repository().location
        assert second.open(resolution=20, bands=["red"])["red"].any()
        assert [row["branch"] for row in cat.status()["branches"]] == [f"{C1}/{TILE}"]
        assert len(cat.status()["crawls"]) == 1
    filled.location = first
    filled.write_config()
    with filled.connect() as cat:
        assert cat.search().records() == here
        assert cat.search().count() == SCENES
        assert next(iter(cat.search())).open(resolution=20, bands=["red"])["red"].any()
    assert filled.crawl().unchanged == SCENES
    after = filled.everything()
    for name, rows in before.items():
        assert all(row in after[name] for row in rows), name


def test_one_repository_in_place_of_another_is_noticed(filled: Stack) -> None:
    if filled.moto:
        pytest.skip("a directory is moved")
    shutil.move(filled.location, f"{filled.location}-old")
    settings = filled.settings
    made = Repository.create(settings.repository, settings.sources)
    with filled.connect() as cat:
        # What SQL knows it answers; pixels would be those of another repository.
        assert cat.search().count() == SCENES
        with pytest.raises(ConfigError, match=f"has the id {made.id}.*cogcat init"):
            cat.cube(TILE)
    for dry in (True, False):
        with pytest.raises(ConfigError, match=f"has the id {made.id}.*cogcat init"):
            filled.crawl(dry_run=dry)
    filled.init()
    with filled.connect() as cat:
        assert cat.search().count() == 0
    assert filled.crawl(dry_run=True).new == SCENES
    filled.location += "-old"
    filled.write_config()
    with filled.connect() as cat:
        assert cat.search().count() == SCENES


def test_a_repository_the_database_does_not_know(filled: Stack) -> None:
    known = filled.location
    _other(filled, "unknown")
    # Nothing is there: its records can only be those of the one there is.
    with filled.connect() as cat:
        assert cat.search().count() == SCENES
        with pytest.raises(ConfigError, match="no repository at"):
            cat.cube(TILE)
    settings = filled.settings
    Repository.create(settings.repository, settings.sources, settings.repository_options)
    with pytest.raises(ConfigError, match=r"is not in the database, which holds .*cogcat init"):
        filled.connect()
    filled.init()
    filled.location = f"{known}-nowhere"
    filled.write_config()
    with pytest.raises(ConfigError, match=r"no repository at .*; the database holds .*name one"):
        filled.connect()


def _say(repository: Repository, uid: object) -> str:
    """What others commit to ``main``."""
    session = repository.icechunk.writable_session("main")
    about = {} if uid is None else {"cogcat": {"id": uid}}
    document = {"zarr_format": 3, "node_type": "group", "attributes": about}
    put_documents(session.store, {"zarr.json": document})
    return str(session.commit("another's"))


def test_a_main_that_others_changed_makes_no_new_repository(filled: Stack) -> None:
    """Neither an empty catalog nor scenes of another: crawls stop, and readers go on."""
    repository = filled.repository()
    mine, here = repository.id, filled.location
    _other(filled, "two")
    filled.init()
    second = filled.repository().id
    filled.location = here
    filled.write_config()
    filled.init()

    def everything() -> list[object]:
        return [
            filled.everything(),
            filled.rows("SELECT id, uid, location FROM repositories ORDER BY id"),
        ]

    before = everything()
    # On top of ours or in its place: a new id, none, that of another that the database knows.
    on_top: list[tuple[bool, str | None]] = [(False, "new"), (False, None), (False, second)]
    for anew, said in [*on_top, (True, "new"), (True, second)]:
        if anew:
            repository.reset("main", repository.first_snapshot())
        snapshot = _say(repository, said)
        for call in (
            filled.init,
            filled.crawl,
            lambda: filled.crawl(dry_run=True),
            lambda: repair(filled.settings),
            lambda: rebuild(filled.settings),
            lambda: keep_up(filled.settings, keep=timedelta(days=1)),
        ):
            with pytest.raises(StoreError, match=f"branch main of {repository.location}") as caught:
                call()
            for part in (snapshot, mine, "cogcat repair --reset main"):
                assert part in str(caught.value)
        assert everything() == before
        _reads(filled)
        if not anew:
            with filled.connect() as cat:
                assert cat.repository.location == repository.location
        assert filled.cli("repair", "--reset", "main").exit_code == 0
        assert filled.repository().id == mine
    repository.reset("main", repository.first_snapshot())
    for call, reason in [(filled.init, "has no id"), (filled.crawl, "says that .* is None")]:
        with pytest.raises((ConfigError, StoreError), match=reason):
            call()
    _reads(filled)
    repair(filled.settings, reset=["main"])
    filled.init()
    assert filled.crawl().unchanged == SCENES
    assert everything() == before


def _reads(stack: Stack) -> None:
    with stack.connect() as cat:
        assert cat.search().count() == SCENES
        cube = cat.cube(TILE, resolution=20, bands=["red"])
        assert cube.sizes["time"] == SCENES // len(TILES)


def test_a_moved_repository_with_a_forged_main(filled: Stack, tmp_path: Path) -> None:
    """The database does not know the place: readers find it by the id it was made with."""
    if filled.moto:
        pytest.skip("a directory is moved")
    _say(filled.repository(), "another")
    _move(filled, tmp_path / "elsewhere")
    _reads(filled)
    for call in (filled.init, filled.crawl):
        with pytest.raises(StoreError, match="says that the repository is 'another'"):
            call()
    repair(filled.settings, reset=["main"])
    assert filled.crawl().unchanged == SCENES


def test_a_database_that_is_lost_is_not_rebuilt_under_a_forged_id(
    filled: Stack, tmp_path: Path
) -> None:
    repository = filled.repository()
    mine = repository.id
    _say(repository, "another")
    filled.database = f"sqlite:///{tmp_path / 'new.db'}"
    filled.write_config()
    for call in (filled.init, lambda: rebuild(filled.settings)):
        with pytest.raises(StoreError, match=f"said {mine} first"):
            call()
    assert not (tmp_path / "new.db").exists()


def _foreign(path: Path, *, attributes: dict[str, object]) -> None:
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)))
    session = repository.writable_session("main")
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    put_documents(session.store, {"zarr.json": document})
    session.commit("someone else's")


@pytest.mark.parametrize("attributes", [{}, {"cogcat": 5}, {"cogcat": {"id": ""}}])
def test_a_repository_of_someone_else_is_refused(
    tmp_path: Path, attributes: dict[str, object]
) -> None:
    _foreign(tmp_path / "theirs", attributes=attributes)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "theirs").rglob("*")}
    config = tmp_path / "cogcat.toml"
    database = f"sqlite:///{tmp_path / 'cogcat.db'}"
    config.write_text(f'database = "{database}"\nrepository = "{tmp_path / "theirs"}"\n')
    settings = load_settings(config=config)
    with pytest.raises(ConfigError, match=r"theirs was not made by cogcat") as caught:
        Repository.create(settings.repository, settings.sources)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="not made by cogcat"):
        _ = Repository.open(settings.repository).id
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "theirs").rglob("*")}


def test_an_init_that_died_halfway_is_completed(tmp_path: Path) -> None:
    location = str(tmp_path / "repo")
    icechunk.Repository.create(icechunk.local_filesystem_storage(location))
    with pytest.raises(ConfigError, match="has no id"):
        _ = Repository.open(location).id
    made = Repository.create(location, ())
    assert Repository.open(location).id == made.id
