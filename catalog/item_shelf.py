"""Items put aside on disk, to be had by their id: a file of them comes in an order of its own."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from catalog.errors import first_line
from catalog.unreadable import UnreadableItem

log = logging.getLogger(__name__)


class ItemShelf:
    """Items by collection and id in a temporary file of SQLite's, which goes with it; of two of
    one id the last counts. ``with``, or ``close`` at its end."""

    def __init__(self, items: Iterable[Mapping[str, Any]]) -> None:
        # A name that is empty is a file without one. It is used by one thread at a time.
        self._rows = sqlite3.connect("", check_same_thread=False)
        self._rows.execute(
            "CREATE TABLE items (collection, id, item, PRIMARY KEY (collection, id)) WITHOUT ROWID"
        )
        try:
            with self._rows:
                self._rows.executemany(
                    "INSERT OR REPLACE INTO items VALUES (?, ?, ?)",
                    _rows(items),
                )
        except BaseException:
            self.close()
            raise

    def find(self, collection: str, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Those of the items that are there, as they came."""
        for name in ids:
            row = self._rows.execute(
                "SELECT item FROM items WHERE collection = ? AND id = ?", (collection, name)
            ).fetchone()
            if row is not None:
                yield json.loads(row[0])

    def close(self) -> None:
        self._rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _rows(items: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for item in items:
        if isinstance(item, UnreadableItem):
            continue
        names = str(item.get("collection")), str(item.get("id"))
        try:
            "".join(names).encode()
            yield *names, json.dumps(item)
        except (ValueError, RecursionError) as error:
            log.warning("%s is left out: %s", ascii(names[1])[:300], first_line(error))
