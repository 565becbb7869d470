"""Everything that can go wrong, as one tree, split by what a caller would do about it::

    CatalogError
    ├── UsageError            the question is wrong: ask another (exit code 2)
    │   ├── ConfigError           a setting, a database or a repository does not fit
    │   │   ├── DatabaseLostError     it did, and went away: run again when it is back
    │   │   └── RefusedValueError     the database does not take one value, or holds a damaged one
    │   └── NotFoundError         no such scene, tile, band, resolution, snapshot (LookupError)
    ├── SceneError            one scene is unusable: record the reason, go on with the others
    │   ├── ItemError             its STAC document
    │   └── HeaderError           one of its files: not now
    │       ├── UnreadableFileError   it answered, and no reference can be made of it: for good
    │       └── MissingFileError      it is not there: until it is put there
    │           └── DamagedFileError      not whole, or not the one its item describes
    ├── SourceError           a STAC API, a store of files, a cluster does not answer: later
    ├── BusyError             another crawl holds the repository: wait, or stop (exit code 3)
    └── StoreError            the Icechunk repository refused or lost something: stop
        └── ChangedFileError      a file has changed since it was indexed: crawl --reread

Messages are one line, show no secret and no control character, and name the scene, band and href
they are about. The cause stays in ``__cause__``.
"""

from __future__ import annotations

import shlex
from typing import Any

from catalog.printable import printable
from catalog.redaction import LONGEST, redacted

__all__ = [
    "BusyError", "CatalogError", "ChangedFileError", "ConfigError", "DamagedFileError",
    "DatabaseLostError", "HeaderError", "ItemError", "MissingFileError", "NotFoundError",
    "RefusedValueError", "SceneError", "SourceError", "StoreError", "UnreadableFileError",
    "UsageError", "first_line", "fit", "redacted",
]  # fmt: skip


def fit(text: str) -> str:
    """Foreign text fit for a terminal, a log and a record: one line of visible characters, of
    bounded length, without secrets."""
    return printable(redacted(text[:LONGEST]))


class CatalogError(Exception):
    """Root of every error that cogcat raises on purpose.

    Whatever was put into its message: what ``str`` and ``repr`` give is fit to be shown and kept.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*(fit(value) if isinstance(value, str) else value for value in args))


class UsageError(CatalogError, ValueError):
    """The question or the command line is wrong; the message says how."""


class ConfigError(UsageError):
    """A setting, the database or the repository does not fit what was asked."""


class DatabaseLostError(ConfigError):
    """The SQL database went away while it was in use; what is recorded stays."""


class RefusedValueError(ConfigError):
    """The database does not take a value, or holds one that cannot be: of one scene, where it was
    met while one was recorded."""


class NotFoundError(UsageError, LookupError):
    """No such scene, tile, band, resolution or snapshot; the message names what there is."""


class SceneError(CatalogError):
    """One scene cannot be indexed; the others can.

    Args:
        reason: what is wrong, without the names below.
        scene: item id.
        band: band name, where one file is at fault.
        href: the file's address as in the item, where one file is at fault.
    """

    def __init__(
        self,
        reason: str,
        *,
        scene: str | None = None,
        band: str | None = None,
        href: str | None = None,
    ) -> None:
        self.reason, self.scene, self.band = fit(reason), scene, band
        self.href = None if href is None else fit(href)
        super().__init__(self.reason, scene, band, self.href)

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers of a cluster hand it back; BaseException's own way is without keywords.
        return _scene_error, (type(self), self.reason, self.scene, self.band, self.href)

    def __str__(self) -> str:
        where = " ".join(printable(part, 255) for part in (self.scene, self.band) if part)
        text = f"{where}: {self.reason}" if where else self.reason
        return f"{text} ({self.href})" if self.href else text


def _scene_error(kind: type[SceneError], reason: str, *names: str | None) -> SceneError:
    return kind(reason, **dict(zip(("scene", "band", "href"), names, strict=True)))


class ItemError(SceneError):
    """A STAC document that cannot become a scene."""


class HeaderError(SceneError):
    """A file that cannot be referenced. This class itself: its server did not answer, or would not
    give it (no permission, no ranges), so that nothing is known of the file; later it may be."""


class UnreadableFileError(HeaderError):
    """The file answered, and is none that can be referenced: striped, JPEG, floats, 15 bits, a
    directory that cannot be meant. Another read would say the same: for good, unless it or its
    item changes."""


class MissingFileError(HeaderError):
    """The server answered that there is no such file. It may be put there yet."""


class DamagedFileError(MissingFileError):
    """What lies there is not whole (empty, truncated, no TIFF at all), or has not the size that its
    item says: as good as missing, until it is put right."""


class SourceError(CatalogError):
    """A STAC API, an object store or a cluster did not answer, or not as its protocol says."""


class BusyError(CatalogError):
    """Another crawl is writing to the same repository."""


class StoreError(CatalogError):
    """The Icechunk repository refused a write or lost a read."""


class ChangedFileError(StoreError):
    """A file is not the one that was indexed, or is gone: its references lead to no pixels, and
    none are returned.

    Args:
        reason: what is wrong, without the names below.
        scene: item id.
        band: band name.
        href: URL of the file, where its bytes were asked for.
    """

    def __init__(self, reason: str, scene: str, band: str, href: str) -> None:
        self.reason, self.scene, self.band, self.href = fit(reason), scene, band, fit(href)
        super().__init__(self.reason, scene, band, self.href)

    def __str__(self) -> str:
        scene, band = printable(self.scene, 255), printable(self.band, 255)
        # With that band, the scene's others are read too, and none that it was indexed without.
        cure = f"cogcat crawl --ids {shlex.quote(scene)} --reread --bands {shlex.quote(band)}"
        return f"{scene} {band}: {self.reason}: `{cure}` indexes it as it is now ({self.href})"


def first_line(error: BaseException | str) -> str:
    """What an error of another library says, fit for a message of ours: one line of visible
    characters, and no secret is in it."""
    text = redacted(str(error)[:LONGEST]).strip() or type(error).__name__
    return printable(text.splitlines()[0].strip(), 300)
