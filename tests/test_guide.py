"""The guide: every block of its pages runs and prints what it shows; its reference is whole.

After a change of what is printed, ``COGCAT_GUIDE=write pytest tests/test_guide.py`` writes it
into the pages; read the difference before committing it.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from filelock import FileLock
from guide import ADDRESS, Reader, Rotten, blocks, looks_like
from stacks import child_environment

import catalog
import catalog.errors
from catalog.cli import main
from catalog.demo.archive import build_archive, load_archive
from catalog.demo.server import SMALL
from catalog.query import Query
from catalog.recorded import AssetRecord, SceneRecord

pytest_plugins = ["stacks", "guide"]

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BEGINNING = DOCS / "try.md"
"""What every other page with something to run begins from."""
PAGES = sorted(path for path in DOCS.glob("*.md") if blocks(path.read_text("utf-8")))
RUN = {"console", "python", "sql"}
"""Languages that need what ``BEGINNING`` leaves."""


@pytest.fixture(scope="session")
def guide_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server makes where there is no archive; once per run."""
    directory = tmp_path_factory.getbasetemp().parent / "guide"
    with FileLock(f"{directory}.lock"):
        if not directory.exists():
            build_archive(directory, **SMALL)
    return directory


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_block_of_a_page_does_what_it_shows(path: Path, reader: Reader) -> None:
    page = path.read_text("utf-8")
    if path != BEGINNING and any(block.language in RUN for block in blocks(page)):
        reader.follow(BEGINNING.read_text("utf-8"))
    seen = reader.follow(page)
    if os.environ.get("COGCAT_GUIDE") == "write":
        path.write_text(seen, "utf-8")
    else:
        assert seen == page


def test_the_readme_runs_on_the_archive(reader: Reader) -> None:
    """Its commands and its Python, with the archive's addresses in place of the real one's."""
    reader.follow(BEGINNING.read_text("utf-8"))
    done = 0
    for block in blocks((ROOT / "README.md").read_text("utf-8")):
        text = block.text
        if block.language == "bash":
            if "uv run" in text:
                continue
            text = re.sub(
                r"^cogcat (crawl --tile|watch add)(.*)",
                rf"cogcat \1\2 --stac http://{ADDRESS}/stac/v1",
                text,
                flags=re.MULTILINE,
            )
            for line in text.splitlines():
                reader.run(line)
                assert reader.exit_code == 0, line
        elif block.language == "python":
            text = text.replace("s3://e84-earth-search-sentinel-data/", f"http://{ADDRESS}/files/")
            text = text.replace(
                "icechunk.s3_credentials(anonymous=True)", "icechunk.credentials.HttpAccess"
            )
            reader.follow(f"```python\n{text}```\n")
        else:
            continue
        done += 1
    assert done >= 7
    assert reader.namespace["scenes"].count() == 4
    assert reader.namespace["area"].sizes["time"] > 3


def test_the_reader_notices(reader: Reader) -> None:
    assert looks_like("a 1.2 s\n…\nz", "a 0.9 s\nb\nc\nz\n")
    assert looks_like("at 2026-01-02 03:04 ABCDEFGHJKMNPQRSTVWX", "at 2027-05-06 07:08 " + "0" * 20)
    assert not looks_like("a\nz", "a\nb\nz")
    assert not looks_like("6 scenes", "5 scenes")
    assert not looks_like("at 2023-05-02", "at 2023-05-03")
    page = "```python\n1 + 1\n```\n\n```text\n{}\n```\n"
    assert reader.follow(page.format(2)) == page.format(2)
    assert reader.follow(page.format(3)) == page.format(2)
    for wrong in (
        "```console\n$ cogcat search --tile 10TFR\n```\n",
        "```console\n$ false\n```\n",
        "```python\nraise ValueError\n```\n",
        "```toml\nrepositry = 1\n```\n",
        "```bash\ncogcat crawl --tiles 10TFR\n```\n",
        "```ruby\nputs 1\n```\n",
    ):
        with pytest.raises(Rotten):
            reader.follow(wrong)
        reader.exit_code = 0


def test_the_server_makes_an_archive_where_there_is_none(tmp_path: Path) -> None:
    smaller = "dict(tiles=['10TFR'], dates=['2023-05-02'], bands=['scl'], width=132, block=64)"
    program = (
        f"import catalog.demo.server as s; s.SMALL = {smaller}; s.main(['archive', '--port', '0'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=child_environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline().endswith("/stac/v1\n")
        finally:
            server.terminate()
    assert len(load_archive(tmp_path / "archive").items["earth-search-c1"]) == 1


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide as it is built, warnings as errors, with no network; once per run."""
    directory = tmp_path_factory.getbasetemp().parent / "site"
    with FileLock(f"{directory}.lock"):
        if not directory.exists():
            done = subprocess.run(
                [sys.executable, "-m", "sphinx", "-W", "-q", str(DOCS), str(directory)],
                env=child_environment(),
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
    return directory


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    text = (site / "reference" / "python.html").read_text("utf-8")
    there = set(re.findall(r'id="(catalog\.[\w.]+)"', text))
    wanted = {f"catalog.{name}" for name in catalog.__all__} - {
        "catalog.__version__",
        # At home in a module that has the whole tree.
        "catalog.CatalogError",
    }
    for kind in (catalog.Catalog, catalog.Scenes, catalog.StoredScene):
        members: dict[str, Any] = dict(vars(kind))
        wanted |= {
            f"catalog.{kind.__name__}.{name}"
            for name, member in members.items()
            if not name.startswith("_")
            and (inspect.isroutine(member) or isinstance(member, property))
        }
    wanted |= {f"catalog.recorded.SceneRecord.{field.name}" for field in fields(SceneRecord)}
    wanted |= {f"catalog.recorded.AssetRecord.{field.name}" for field in fields(AssetRecord)}
    wanted |= {f"catalog.query.Query.{field.name}" for field in fields(Query)}
    wanted |= {
        f"catalog.errors.{name}"
        for name, member in vars(catalog.errors).items()
        if inspect.isclass(member) and issubclass(member, catalog.CatalogError)
    }
    assert len(wanted) > 80
    assert wanted <= there, sorted(wanted - there)


def commands(group: click.Group, *path: str) -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name, command in group.commands.items():
        found.append(("-".join((*path, name)), command))
        if isinstance(command, click.Group):
            found += commands(command, *path, name)
    return found


def test_attributes_read_as_they_are_written(site: Path) -> None:
    """Napoleon takes what stands before a colon for a type, and shows it last."""
    page = (site / "reference" / "python.html").read_text("utf-8")
    text = " ".join(re.sub("<[^>]+>", "", page).split())
    assert "WKB, EPSG:4326, longitude latitude." in text
    assert "A key of PER_TILE: of the scenes of a tile that match, this one." in text


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    text = (site / "reference" / "cli.html").read_text("utf-8")
    there = set(re.findall(r'id="([\w-]+)"', text))
    wanted: set[str] = set()
    for name, command in commands(main, "cogcat"):
        wanted.add(name)
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                wanted.add(f"cmdoption-{name}-arg-{str(parameter.name).upper()}")
                continue
            option = max(parameter.opts, key=len).lstrip("-")
            wanted.add(f"cmdoption-{name}-{option}")
            assert isinstance(parameter, click.Option)
            assert parameter.help, (name, option)
    assert len(wanted) > 120
    assert wanted <= there, sorted(wanted - there)


def test_the_built_guide_asks_no_network(site: Path) -> None:
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text("utf-8")
        assert not re.search(r"""(<script[^>]+src|<link[^>]+href)=["']https?:""", text), path
        assert not re.search(r"""(url\(|@import )["']?https?:""", text), path
