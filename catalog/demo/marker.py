"""What a demo made in a directory, written down there, and how much of it may be removed again.

A directory is cleared only if a marker in it says that a demo made what lies there, and what lies
there is still that. Everything else is refused: a catalog that somebody crawled looks like a
demo's, and holds months of work.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from catalog.errors import CatalogError, UsageError
from catalog.repository import Repository

MARKER = ".cogcat-demo.json"
FORMAT = 1
ARCHIVE, CONFIG, DATABASE, REPOSITORY = "archive", "cogcat.toml", "cogcat.db", "cogcat-repo"
PICTURES = ("quicklook.png", "ndvi.png")
MADE = (ARCHIVE, CONFIG, DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", REPOSITORY, *PICTURES)
"""Every name that a demo writes in its directory, beside ``.{REPOSITORY}.lock``."""
_LOCK = f".{REPOSITORY}.lock"
_DIRECTORIES = (ARCHIVE, REPOSITORY)
_OF_ICECHUNK = {
    "repo", "config.yaml", "snapshots", "manifests", "chunks", "transactions", "attributes",
    "overwritten", "refs",
}  # fmt: skip
_LARGEST = 10_000_000
"""Bytes of a marker."""


@dataclass(slots=True)
class Made:
    """What a demo has made so far. Kept in the marker, which is there before anything else."""

    directory: str
    """Resolved: a marker that was copied elsewhere speaks of nothing there."""
    files: list[str] = field(default_factory=list)
    """Of the archive, relative to it."""
    repository: str | None = None
    """``Repository.id``."""
    stac: str | None = None
    """URL of the demo's own API."""
    crawls: int = 0

    def write(self) -> None:
        """Brings what is there now into the marker. Only while a demo runs: all is its own then."""
        root = Path(self.directory)
        self.files = _files(root / ARCHIVE)
        # Of an ``init`` that was broken off there is no repository yet.
        with contextlib.suppress(sqlite3.Error):
            if (root / DATABASE).exists():
                held = _held(root / DATABASE)
                self.repository = held.repositories[0] if len(held.repositories) == 1 else None
                self.crawls = held.crawls
        text = json.dumps({"cogcat-demo": FORMAT, **asdict(self)}, indent=1)
        part = root / f"{MARKER}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(root / MARKER)


def begin(directory: Path) -> Made:
    """An empty place for a demo in ``directory``, and its marker; an earlier demo is removed.

    Raises:
        UsageError: something is there that is not, or no longer only, an earlier demo's. Nothing
            has been removed then.
    """
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory}: a file is in the way")
    if directory.exists() and any(directory.iterdir()):
        _remove(_checked(directory))
    directory.mkdir(parents=True, exist_ok=True)
    made = Made(str(directory))
    made.write()
    return made


def _refused(directory: Path, why: str) -> UsageError:
    return UsageError(
        f"{directory} {why}: nothing was removed; name another directory, or remove what is there "
        "yourself"
    )


def _checked(directory: Path) -> Made:
    """What the marker says, if everything it speaks of is still as the demo left it."""
    marker = directory / MARKER
    if marker.is_symlink() or not marker.is_file():
        raise _refused(directory, "is not empty and not an earlier demo")
    made = _read(directory, marker)
    for name in (*MADE, _LOCK, f"{MARKER}.part"):
        path = directory / name
        if path.is_symlink() or (path.exists() and path.is_dir() != (name in _DIRECTORIES)):
            raise _refused(directory, f"holds another {name} than a demo makes")
    _check_archive(directory, made)
    _check_config(directory)
    _check_catalog(directory, made)
    return made


def _read(directory: Path, marker: Path) -> Made:
    try:
        if marker.stat().st_size > _LARGEST:
            raise ValueError("it is too large")
        document: Any = json.loads(marker.read_text(encoding="utf-8"))
        if document.pop("cogcat-demo") != FORMAT or set(document) != {f.name for f in fields(Made)}:
            raise ValueError("it is of another version")
        made = Made(**document)
        whole = (
            isinstance(made.files, list)
            and all(isinstance(name, str) for name in made.files)
            and all(isinstance(text, str | None) for text in (made.repository, made.stac))
            and type(made.crawls) is int
        )
        if not whole or made.directory != str(directory):
            raise ValueError("it speaks of another directory")
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, OSError) as error:
        raise _refused(directory, f"has a {MARKER} that is no demo's ({error})") from error
    return made


def _check_archive(directory: Path, made: Made) -> None:
    if strange := sorted(set(_files(directory / ARCHIVE)) - set(made.files)):
        raise _refused(directory, f"holds {ARCHIVE}/{strange[0]}, which no demo made")


def _check_config(directory: Path) -> None:
    path = directory / CONFIG
    if not path.exists():
        return
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        (source,) = found.pop("sources")
        own = (
            found == settings(directory)
            and set(source) == {"name", "match", "url"}
            and source["name"] == "demo"
            and all(_is_here(source[key], directory) for key in ("match", "url"))
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        own = False
    if not own:
        raise _refused(directory, f"has a {CONFIG} that is not as the demo wrote it")


def _check_catalog(directory: Path, made: Made) -> None:
    database, repository = directory / DATABASE, directory / REPOSITORY
    if not database.exists() and not repository.exists():
        return
    if made.repository is None or made.stac is None or not _is_here(made.stac, directory):
        raise _refused(directory, "holds a catalog of which its marker knows nothing")
    if database.exists():
        try:
            held = _held(database)
        except (sqlite3.Error, OSError) as error:
            raise _refused(directory, f"holds a {DATABASE} that cannot be read ({error})") from None
        if held.repositories != [made.repository]:
            raise _refused(directory, f"holds a {DATABASE} of another catalog than the demo's")
        if held.watches or held.crawls != made.crawls or not set(held.apis) <= {made.stac}:
            raise _refused(directory, "holds a catalog that was crawled since the demo made it")
    if repository.exists():
        strange = {path.name for path in repository.iterdir()} - _OF_ICECHUNK
        if strange:
            raise _refused(directory, f"holds {REPOSITORY}/{min(strange)}, which no demo made")
        try:
            found: str | None = Repository.open(str(repository)).id
        except CatalogError:
            found = None
        if found != made.repository:
            raise _refused(directory, f"holds a {REPOSITORY} that is not the demo's")


def _remove(made: Made) -> None:
    """The marker last: whatever ends this leaves a directory that is a demo's still."""
    root = Path(made.directory)
    for name in made.files:
        (root / ARCHIVE / name).unlink(missing_ok=True)
    for path in sorted((root / ARCHIVE).rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
    if (root / ARCHIVE).exists():
        (root / ARCHIVE).rmdir()
    # The repository before its database, by which alone it is known to be the demo's.
    if (root / REPOSITORY).exists():
        shutil.rmtree(root / REPOSITORY)
    for name in (*MADE, _LOCK, f"{MARKER}.part"):
        if name not in _DIRECTORIES:
            (root / name).unlink(missing_ok=True)
    (root / MARKER).unlink()


def settings(directory: Path) -> dict[str, str]:
    """Database and repository of the demo in ``directory``, as its ``cogcat.toml`` names them."""
    return {
        "database": f"sqlite:///{directory / DATABASE}",
        "repository": str(directory / REPOSITORY),
    }


def _is_here(url: str, directory: Path) -> bool:
    """An address of this machine: of a server that ran here, or of the archive's own files."""
    if url.startswith((directory / ARCHIVE).as_uri() + "/"):
        return True
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname == "127.0.0.1"


def _files(archive: Path) -> list[str]:
    """Everything below that is no directory; links too, which are not followed."""
    return sorted(
        path.relative_to(archive).as_posix()
        for path in archive.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )


@dataclass(frozen=True, slots=True)
class _Held:
    """What a database says of where its records come from."""

    repositories: list[str]
    apis: list[str]
    watches: int
    crawls: int


def _held(database: Path) -> _Held:
    address = f"file:{quote(str(database))}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:

        def ask(statement: str) -> list[Any]:
            return [value for (value,) in connection.execute(statement)]

        return _Held(
            ask("SELECT uid FROM repositories"),
            ask("SELECT DISTINCT stac_url FROM collections WHERE stac_url IS NOT NULL"),
            ask("SELECT count(*) FROM watches")[0],
            ask("SELECT count(*) FROM crawls")[0],
        )
