"""Whose an error is: one scene's, which then fails by name, or everyone's, which ends the crawl.

Everyone's is what the tree of errors says so of (a source, the database, the repository, a
setting), what the machine as a whole lacks (a full disk, no more open files), and what ends a
process or a task. Anything else was met while one scene was worked on and is that scene's, whatever
its class: a ``ValueError`` of a library, or a panic of a native client, whose class derives from
``BaseException``.
"""

from __future__ import annotations

import errno
import logging
from asyncio import CancelledError

from catalog.errors import CatalogError, RefusedValueError, SceneError, first_line

log = logging.getLogger(__name__)

LONGEST = 500
"""Characters of an address that a message shows."""
_ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit, CancelledError)
_MACHINE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.EIO}
)


def is_everyones(error: BaseException) -> bool:
    """Whether ``error``, met while one scene was worked on, concerns more than that scene."""
    if isinstance(error, RefusedValueError):
        return False
    if isinstance(error, OSError) and not isinstance(error, CatalogError):
        return error.errno in _MACHINE
    return isinstance(error, (CatalogError, *_ENDS)) and not isinstance(error, SceneError)


def of_scene(
    error: BaseException, scene: str | None, kind: type[SceneError] = SceneError
) -> SceneError:
    """``error``, which is not everyone's, as the scene's own, with its name. What is not of our
    tree becomes ``kind`` with its class and first line; its traceback is in the debug log."""
    if isinstance(error, SceneError):
        href = error.href
        if href is not None and len(href) > LONGEST:
            href = f"{href[:LONGEST]}…"
        named = type(error)(error.reason, scene=scene, band=error.band, href=href)
        named.__cause__ = error.__cause__
        return named
    log.debug("%s: unexpected", scene, exc_info=error)
    named = kind(f"unexpected {type(error).__name__}: {first_line(error)}", scene=scene)
    named.__cause__ = error
    return named
