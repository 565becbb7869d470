"""``cogcat demo DIR`` removes what a demo made there, and nothing else, whatever it looks like."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stacks import run_cli

from catalog.demo import marker, run
from catalog.demo.marker import CONFIG, DATABASE, MARKER, REPOSITORY
from catalog.errors import UsageError
from catalog.settings import load_settings
from catalog.setup import set_up

pytest_plugins = ["stacks"]
API = "http://127.0.0.1:9999/stac"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a demo leaves, without its pixels; moved into each test's place."""
    directory = tmp_path_factory.mktemp("demo")
    _make(directory)
    return directory


def _make(directory: Path) -> None:
    made = marker.begin(directory)
    (directory / "archive" / "files").mkdir(parents=True)
    for name in ("archive.json", "files/B04.tif"):
        (directory / "archive" / name).write_text("pixels")
    made.stac = API
    run._write_config(directory / CONFIG, directory, match="http://127.0.0.1:1/", url=API)
    set_up(load_settings(config=directory / CONFIG))
    _sql(
        directory,
        "INSERT INTO collections (name, stac_url, registered_at)"
        f" VALUES ('sentinel-2-c1-l2a', '{API}', 0)",
    )
    (directory / "ndvi.png").write_text("plot")
    made.write()


@pytest.fixture
def demo(template: Path) -> Any:
    """The template itself, put back as it was: its files name the place where they lie."""
    kept = template.with_name("kept")
    shutil.copytree(template, kept, symlinks=True)
    yield template
    shutil.rmtree(template)
    kept.rename(template)


def _sql(directory: Path, statement: str) -> None:
    with closing(sqlite3.connect(directory / DATABASE)) as connection, connection:
        connection.execute(statement)


def _seen(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b""
        for path in directory.rglob("*")
        if not path.name.startswith(DATABASE + "-")
    }


def test_what_a_demo_made_is_made_anew(demo: Path) -> None:
    (demo / "mine.txt").write_text("beside it")
    made = marker.begin(demo)
    assert sorted(path.name for path in demo.iterdir()) == [MARKER, "mine.txt"]
    assert (made.files, made.repository, made.crawls) == ([], None, 0)
    marker.begin(demo)  # and one that was killed before it had made anything


def _edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        document = json.loads((directory / MARKER).read_text())
        change(document)
        (directory / MARKER).write_text(json.dumps(document))

    return edit


def _another_catalog(directory: Path) -> None:
    """A real one in the demo's place, as `cogcat init` makes it."""
    for name in (DATABASE, REPOSITORY):
        path = directory / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    set_up(load_settings(config=directory / CONFIG))


def _another_repository(directory: Path) -> None:
    database = (directory / DATABASE).read_bytes()
    _another_catalog(directory)
    (directory / DATABASE).write_bytes(database)


def _linked(name: str) -> Callable[[Path], None]:
    def link(directory: Path) -> None:
        elsewhere = directory.with_name(f"elsewhere-{name}")
        (directory / name).rename(elsewhere)
        (directory / name).symlink_to(elsewhere)

    return link


TAMPERED: dict[str, Callable[[Path], object]] = {
    "no marker": lambda d: (d / MARKER).unlink(),
    "marker empty": lambda d: (d / MARKER).write_text(""),
    "marker a list": lambda d: (d / MARKER).write_text("[1]"),
    "marker deep": lambda d: (d / MARKER).write_text("[" * 200_000),
    "marker no text": lambda d: (d / MARKER).write_bytes(b"\xff\x00"),
    "marker a directory": lambda d: ((d / MARKER).unlink(), (d / MARKER).mkdir()),
    "marker linked": _linked(MARKER),
    "marker of another version": _edit(lambda m: m.update({"cogcat-demo": 2})),
    "marker with more": _edit(lambda m: m.update(remove=["/"])),
    "marker of elsewhere": _edit(lambda m: m.update(directory="/home")),
    "marker with odd types": _edit(lambda m: m.update(files=[1])),
    "marker before the catalog": _edit(lambda m: m.update(repository=None)),
    "marker of a real API": _edit(lambda m: m.update(stac="https://earth-search.example/v1")),
    "a file in the archive": lambda d: (d / "archive/files/mine.tif").touch(),
    "a link in the archive": lambda d: (d / "archive/out").symlink_to("/"),
    "archive a link": _linked("archive"),
    "repository a link": _linked(REPOSITORY),
    "database a link": _linked(DATABASE),
    "picture a directory": lambda d: ((d / "ndvi.png").unlink(), (d / "ndvi.png").mkdir()),
    "another configuration": lambda d: (d / CONFIG).write_text('database = "sqlite:///x"'),
    "a source of its own": lambda d: (
        (d / CONFIG).write_text((d / CONFIG).read_text().replace("127.0.0.1:1", "real.example"))

    ),
    "another catalog": _another_catalog,
    "another repository": _another_repository,
    "a file in the repository": lambda d: (d / REPOSITORY / "thesis.txt").touch(),
    "a repository that is none": lambda d: (d / REPOSITORY / "repo").write_bytes(b"x"),
    "a database that is none": lambda d: (d / DATABASE).write_bytes(b"x" * 5000),
    "crawled since": lambda d: _sql(
        d, "INSERT INTO crawls (query, started_at, found, new, changed, unchanged, indexed, failed,"
        " withdrawn, commits, requests, seconds) VALUES ('{}', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)",
    ),
    "watched since": lambda d: _sql(
        d, "INSERT INTO watches (name, query, created_at) VALUES ('mine', '{}', 0)"
    ),
    "crawled from a real API": lambda d: _sql(
        d, "UPDATE collections SET stac_url = 'https://earth-search.example/v1'"
    ),
    "two repositories": lambda d: _sql(
        d, "INSERT INTO repositories (uid, location, registered_at, seen_at)"
        " VALUES ('real', 's3://x/y', 0, 0)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERED)
def test_anything_else_is_refused_whole(demo: Path, how: str) -> None:
    TAMPERED[how](demo)
    before = _seen(demo)
    with pytest.raises(UsageError, match="nothing was removed"):
        marker.begin(demo)
    assert _seen(demo) == before


def test_a_real_catalog_that_looks_like_a_demo_stays(tmp_path: Path) -> None:
    """As the issue had it: an archive, a database, a repository, and no marker."""
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "archive.json").write_text("{}")
    for name in (DATABASE, CONFIG):
        (tmp_path / name).write_text("years of work")
    before = _seen(tmp_path)
    done = run_cli("demo", str(tmp_path))
    assert done.exit_code == 2
    assert "nothing was removed" in done.stderr
    assert _seen(tmp_path) == before


def test_a_copied_demo_is_not_the_demo(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo, tmp_path / "copy")
    with pytest.raises(UsageError, match="speaks of another directory"):
        marker.begin(tmp_path / "copy")


@pytest.mark.parametrize("name", ["COGCAT_DATABASE", "COGCAT_REPOSITORY"])
def test_the_environments_catalog_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = tmp_path / "real.db"
    monkeypatch.setenv(name, f"sqlite:///{real}" if "DATABASE" in name else str(real))
    with pytest.raises(UsageError, match=name):
        run.run_demo(tmp_path / "demo", say=print)
    assert list(tmp_path.iterdir()) == []
