"""What the documents claim is there: commands, options, modules, Python that parses."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from catalog import cli_crawl
from catalog.cli import main

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md"]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text("utf-8"), re.DOTALL)


def commands() -> list[str]:
    lines = [
        line.split("#")[0].strip()
        for path in DOCUMENTS
        for block in blocks(path, "bash")
        for line in block.splitlines()
    ]
    return [line.removeprefix("python3 -m uv run ") for line in lines if "cogcat " in line]


def test_the_readme_shows_commands() -> None:
    assert len(commands()) >= 5


@pytest.mark.parametrize("line", commands())
def test_every_command_shown_is_one(line: str) -> None:
    program, name, *arguments = shlex.split(line)
    assert program == "cogcat"
    command = main.commands[name]
    with click.Context(command, info_name=name) as context:
        command.make_parser(context).parse_args(arguments)


def test_every_option_that_is_named_is_there() -> None:
    known = {"--help", "--version"}
    for command in (main, *main.commands.values(), *cli_crawl.watch.commands.values()):
        known |= {name for parameter in command.params for name in parameter.opts}
    for path in (DOCUMENTS[0], *PAGES):
        named = set(re.findall(r"`(?:cogcat [a-z ]*)?(--[a-z][a-z-]+)", path.read_text("utf-8")))
        assert named <= known, path.name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_in_documents_parses(path: Path) -> None:
    for block in blocks(path, "python"):
        compile(block, path.name, "exec")


def test_the_architecture_page_lists_every_module() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    rooms = text[text.index("## Rooms") : text.index("## Decisions")]
    listed = set(re.findall(r"`([a-z0-9_]+)\.py`", rooms))
    there = {path.stem for path in (ROOT / "catalog").glob("[a-z]*.py")}
    assert listed == there


def test_documents_link_to_files_that_exist() -> None:
    for path in (*DOCUMENTS, *PAGES):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", path.read_text("utf-8")):
            assert (path.parent / target).exists(), (path.name, target)


def test_no_document_names_a_machine_or_a_download_host() -> None:
    for path in [*DOCUMENTS, *PAGES, ROOT / "pyproject.toml", ROOT / ".ci" / "run"]:
        text = path.read_text("utf-8")
        assert "files.pythonhosted" not in text
        assert str(ROOT) not in text
