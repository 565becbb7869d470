"""A Parquet file of foreign items is read by a process of its own, whose memory is bounded.

Nothing in a Parquet file says what it becomes: a page of a kilobyte may inflate to two gigabytes, a
dictionary of one long text stand for a million, a list of one row have a billion entries; and what
native code makes of a damaged file may be the end of its process. So the process that may end is
another: it writes items as lines of JSON, and whoever reads them survives it, and goes on with the
next row group.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

from catalog.errors import SourceError, first_line
from catalog.unreadable import UnreadableItem

MEMORY = 512 << 20
"""Bytes that reading may take, beside what the process is when it begins."""
LONGEST = 64 << 20
"""Characters of an item, as in a file of JSON."""
ITEMS = 64
"""Read at once; one at a time where so many do not fit."""
TRIES = 8
"""Row groups that cannot be read, after which no other is tried."""
_FULL = 77
"""Exit code: it took more memory than it may."""
_LOOK = 0.01
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1));"
    "from catalog.item_parquet import read_here; from catalog.parquet_process import main;"
    "main(read_here, *sys.argv[1:])"
)


@dataclass(frozen=True, slots=True)
class Broken:
    """A row group of which not all items could be read."""

    items: int
    """Of the file, before it broke off."""
    reason: str


@dataclass(slots=True)
class _Part:
    """What is to be read, and how far that has got."""

    group: int = 0
    size: int = ITEMS
    skip: int = 0
    """Items of the group that were given before."""
    groups: int | None = None
    given: int = 0
    """Of the group in hand, those skipped among them."""
    done: bool = False
    reason: str = ""


def read_apart(path: Path, broken: list[Broken]) -> Iterator[dict[str, Any]]:
    """The items of a file, each once; what could not be read is added to ``broken``.

    Raises:
        SourceError: as ``item_parquet.read_here``, or nothing of it can be read.
    """
    part, number = _Part(), 0
    while True:
        for item in _read(path, part):
            number += 1
            yield item
        if part.done:
            return
        if part.groups is None:
            raise SourceError(f"{path}: not readable from its start: {part.reason}")
        if part.size > 1:
            # Fewer at once may fit, and what comes before the fault is not lost.
            part = _Part(part.group, 1, part.given)
            continue
        broken.append(Broken(number, part.reason))
        if part.group + 1 >= (part.groups or 0) or len(broken) >= TRIES:
            return
        part = _Part(part.group + 1)


def _read(path: Path, part: _Part) -> Iterator[dict[str, Any]]:
    """Of one process."""
    words = [json.dumps(sys.path), str(path), *map(str, (part.group, part.size, MEMORY))]
    process = subprocess.Popen(
        [sys.executable, "-c", _START, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Who stops a crawl stops it after what is in hand.
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if not line.endswith(b"\n"):
                break
            kind, value = json.loads(line)
            match kind:
                case "groups":
                    part.groups = value
                case "group":
                    part.group, part.given, part.skip, part.size = value + 1, 0, 0, ITEMS
                case "end":
                    part.done = True
                case "refused":
                    raise SourceError(value)
                case "failed":
                    part.reason = value
                case _:
                    part.given += 1
                    if part.given > part.skip:
                        yield value if kind == "item" else UnreadableItem(*value[:2], id=value[2])
        code = process.wait()
        if code == _FULL:
            part.reason = (
                f"it takes more than {MEMORY >> 20} MB of memory to read on: it is damaged, or has "
                "pages or values that large; write it anew in smaller row groups, or as NDJSON"
            )
        elif not (part.done or part.reason):
            part.reason = f"reading it ended its process (exit code {code}): it is damaged"
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


class _WithoutPandas(MetaPathFinder):
    """pyarrow imports it for every time that it reads, if it is there: a second for nothing."""

    def find_spec(self, fullname: str, *_: Any) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


Read = Callable[[Path, int, int], Iterator[int | dict[str, Any]]]
"""As ``item_parquet.read_here``."""


def main(read: Read, path: str, group: str, size: str, memory: str) -> None:
    """The process that reads."""
    sys.meta_path.insert(0, _WithoutPandas())
    with suppress(BrokenPipeError):
        try:
            _write(read, Path(path), int(group), int(size), int(memory))
        except MemoryError:
            os._exit(_FULL)


def _write(read: Read, path: Path, group: int, size: int, memory: int) -> None:
    import pyarrow

    # It takes what is used; other pools reserve more.
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    _bound_memory(memory)
    try:
        groups = False
        for found in read(path, group, size):
            if isinstance(found, int):
                _say("group" if groups else "groups", found)
                groups = True
            else:
                # Before the next one is read, which may be the last of this process.
                _say_item(found, at_once=size == 1)
    except SourceError as error:
        _say("refused", str(error))
    except pyarrow.ArrowMemoryError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        _say("failed", first_line(error))
    else:
        _say("end", None)


def _say_item(item: dict[str, Any], at_once: bool) -> None:
    name = item.get("id")
    known = name if isinstance(name, str) else None
    if isinstance(item, UnreadableItem):
        _say("odd", (item.fault, repr(name), known))
        return
    try:
        text = json.dumps(item)
        fault = f"it has {len(text)} characters" if len(text) > LONGEST else ""
    except (TypeError, ValueError, RecursionError) as error:
        fault = f"not as JSON has it: {first_line(error)}"
    if fault:
        _say("odd", (fault, repr(name), known))
        return
    sys.stdout.writelines(('["item", ', text, "]\n"))
    if at_once:
        sys.stdout.flush()


def _say(kind: str, value: Any) -> None:
    sys.stdout.writelines((json.dumps([kind, value]), "\n"))
    sys.stdout.flush()


def _bound_memory(memory: int) -> None:
    """By the kernel where it counts what is allocated (Linux), and by what is in use."""
    try:
        import resource
    except ImportError:  # Windows
        return
    with suppress(OSError, ValueError, StopIteration):
        status = Path("/proc/self/status").read_text()
        held = next(line for line in status.splitlines() if line.startswith("VmData:"))
        most = (int(held.split()[1]) << 10) + memory
        resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))
    unit = 1 if sys.platform == "darwin" else 1024
    first = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def watch() -> None:
        while resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - first < memory // unit:
            time.sleep(_LOOK)
        os._exit(_FULL)

    threading.Thread(target=watch, daemon=True).start()
