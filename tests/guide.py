"""Runs a page of the guide (``docs/*.md``): its blocks, one after another, as a reader would.

    console   `$ command` and what it prints; `cogcat` runs in this process, the rest in a shell
    python    one namespace a page; a last expression shows its value, as in a notebook
    sql       on ``cogcat.db``; rows with ``|`` between values, as the sqlite3 shell has them
    text      what the python or sql block above printed
    toml      ``# cogcat.toml`` is written there; any other is read as settings
    bash      commands for places that no test reaches: their names and options must be known

In what is printed, ``…`` stands for anything, alone on a line for any lines; snapshot ids,
digests, seconds and times of today need only look like ones.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest
from stacks import child_environment, run_cli

import catalog
from catalog.cli import main
from catalog.demo.archive import load_archive
from catalog.demo.server import ArchiveServer
from catalog.settings import load_settings

ADDRESS = "127.0.0.1:8765"
"""Of the archive's server, as the pages have it."""
HERE = "/srv/s2"
"""The reader's working directory."""
SERVE = "python -m catalog.demo.server archive"
_BLOCK = re.compile(r"^```([^\s`][^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LOOSE = (
    r"(?P<snapshot>\b[0-9A-Z]{20}\b)",
    r"(?P<digest>\b[0-9a-f]{64}\b)",
    r"(?P<short>\b[0-9a-f]{12}\b)",
    r"(?P<uuid>\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b)",
    r"(?P<time>\b20(?:2[4-9]|[3-9]\d)-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|\+00:00)?)",
    r"(?P<seconds>\b\d+\.\d+ s\b)",
    r"(?P<any>…)",
)
_LOOSER = re.compile("|".join(_LOOSE))
_STANDS_FOR = {
    "snapshot": r"[0-9A-Z]{20}",
    "digest": r"[0-9a-f]{64}",
    "short": r"[0-9a-f]{12}",
    "uuid": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "time": r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|\+00:00)?",
    "seconds": r"\d+\.\d+ s",
    "any": r".*",
}


class Rotten(Exception):
    """A block that does not do what its page says."""


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int
    start: int
    end: int
    """Of the text, within the page."""


def blocks(page: str) -> list[Block]:
    """Every fenced block but directives."""
    return [
        Block(m[1].strip(), m[2], page.count("\n", 0, m.start()) + 1, m.start(2), m.end(2))
        for m in _BLOCK.finditer(page)
        if not m[1].startswith("{")
    ]


def looks_like(shown: str, printed: str) -> bool:
    """Whether what was printed is what the page shows."""
    pattern = ""
    for line in _tidy(shown).split("\n"):
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
            continue
        place = 0
        for match in _LOOSER.finditer(line):
            pattern += re.escape(line[place : match.start()]) + _STANDS_FOR[str(match.lastgroup)]
            place = match.end()
        pattern += re.escape(line[place:]) + "\n"
    return re.fullmatch(pattern, _tidy(printed) + "\n") is not None


def _tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").split("\n"))


@dataclass
class Reader:
    """Someone who follows pages in a directory of their own."""

    directory: Path
    archive: Path
    """As ``SERVE`` makes it; copied, since pages change it."""
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "__guide__"})
    server: ArchiveServer | None = None
    exit_code: int = 0
    _opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        for value in self.namespace.values():
            if isinstance(value, catalog.Catalog):
                value.close()
        self._opened.close()

    def follow(self, page: str) -> str:
        """Does all that a page says; the page with what was really printed.

        Raises:
            Rotten: a block failed.
        """
        printed, pieces, place = None, [], 0
        for block in blocks(page):
            try:
                done, printed = self._do(block, printed)
            except Exception as error:
                raise Rotten(f"line {block.line}: {block.text.strip()}\n{error!r}") from error
            pieces += [page[place : block.start], done]
            place = block.end
        return "".join([*pieces, page[place:]])

    def _do(self, block: Block, printed: str | None) -> tuple[str, str | None]:
        """The block's text as it should be, and what it printed where another block shows it."""
        match block.language:
            case "console":
                return self._console(block.text), None
            case "python":
                return block.text, self._python(block.text, block.line)
            case "sql":
                return block.text, self._sql(block.text)
            case "text":
                if printed is None:
                    raise Rotten("nothing above it prints")
                return (block.text if looks_like(block.text, printed) else printed), None
            case "toml":
                self._toml(block.text)
                return block.text, None
            case "bash":
                self._bash(block.text)
                return block.text, None
        raise Rotten(f"no way to run {block.language}")

    def _console(self, text: str) -> str:
        done = []
        asked = re.split(r"^\$ ", text, flags=re.MULTILINE)
        if asked[0]:
            raise Rotten("output of no command")
        for part in asked[1:]:
            command, _, shown = part.partition("\n")
            while command.endswith("\\"):
                more, _, shown = shown.partition("\n")
                command += "\n" + more
            if self.exit_code and not command.startswith("echo $?"):
                raise Rotten(f"exit code {self.exit_code} before {command}")
            printed = self.run(command.replace("\\\n", " "))
            kept = shown if looks_like(shown, printed) else printed
            done.append(f"$ {command}\n{kept}")
        if self.exit_code:
            raise Rotten(f"exit code {self.exit_code}: {printed}")
        return "".join(done)

    def run(self, command: str) -> str:
        """One command; what it prints, and ``exit_code``."""
        if command == "echo $?":
            code, self.exit_code = self.exit_code, 0
            return f"{code}\n"
        if command == SERVE:
            shutil.copytree(self.archive, self.directory / "archive")
            self.server = ArchiveServer(load_archive(self.directory / "archive"))
            self._opened.enter_context(self.server)
            return self._as_read(f"{self.server.stac_url}\n")
        command, _, file = self._as_run(command).partition(" > ")
        words = shlex.split(command)
        if words[0] == "cogcat":
            result = run_cli(*words[1:])
            self.exit_code = result.exit_code
            if file:
                Path(self.directory, file.strip()).write_text(result.stdout, "utf-8")
            return self._as_read(result.stderr if file else result.output)
        if words[0] == "python":
            command = shlex.quote(sys.executable) + command.removeprefix("python")
        done = subprocess.run(
            command + (f" > {file}" if file else ""),
            shell=True,
            text=True,
            cwd=self.directory,
            env=child_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.exit_code = done.returncode
        return self._as_read(done.stdout)

    def _python(self, text: str, line: int) -> str:
        tree = ast.parse("\n" * line + self._as_run(text))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        stdout = io.StringIO()
        with contextlib.redirect_stdout(stdout):
            exec(compile(tree, "guide", "exec"), self.namespace)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), "guide", "eval"), self.namespace)
                if value is not None:
                    print(repr(value))
        return self._as_read(stdout.getvalue())

    def _sql(self, text: str) -> str:
        with contextlib.closing(sqlite3.connect(self.directory / "cogcat.db")) as database:
            rows = database.execute(text).fetchall()
        lines = ["|".join("" if value is None else str(value) for value in row) for row in rows]
        return self._as_read("".join(f"{line}\n" for line in lines))

    def _toml(self, text: str) -> None:
        name = "cogcat.toml" if text.startswith("# cogcat.toml") else "other.toml"
        path = self.directory / name
        path.write_text(self._as_run(text), "utf-8")
        load_settings(config=path)

    def _bash(self, text: str) -> None:
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["cogcat"]:
                continue
            command: click.Command = main
            words = words[1:]
            while isinstance(command, click.Group):
                command = command.commands[words.pop(0)]
            with click.Context(command) as context:
                command.make_parser(context).parse_args(words)

    def _as_run(self, text: str) -> str:
        if self.server is None:
            return text
        return text.replace(ADDRESS, self.server.url.removeprefix("http://"))

    def _as_read(self, text: str) -> str:
        text = text.replace(str(self.directory), HERE)
        if self.server is not None:
            text = text.replace(self.server.url.removeprefix("http://"), ADDRESS)
        return text


@pytest.fixture
def reader(tmp_path: Path, guide_archive: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    directory = tmp_path / "s2"
    directory.mkdir()
    monkeypatch.chdir(directory)
    with Reader(directory, guide_archive) as one:
        yield one
