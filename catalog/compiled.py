"""Statements that SQLAlchemy has compiled, kept for all engines of a process.

SQLAlchemy keeps them for each engine apart, so a catalog that is opened anew pays for its
statements anew: three quarters of the time that the first scene takes. What is compiled depends on
the kind of the database, its version and our own settings of the dialect, which are one for each
kind (``database.open_engine``).
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from sqlalchemy import Engine

MOST = 2_000
"""Statements that are kept; there are some hundred shapes, and questions of users' own."""
_known: dict[Any, Any] = {}


class _Shared(MutableMapping[Any, Any]):
    """``Connection.execution_options(compiled_cache=…)``: keys begin with the engine's dialect."""

    @staticmethod
    def _kind(key: tuple[Any, ...]) -> tuple[Any, ...]:
        dialect, *rest = key
        return (dialect.name, dialect.driver, dialect.server_version_info, *rest)

    def __getitem__(self, key: Any) -> Any:
        return _known[self._kind(key)]

    def get(self, key: Any, default: Any = None) -> Any:
        return _known.get(self._kind(key), default)

    def __setitem__(self, key: Any, value: Any) -> None:
        if len(_known) >= MOST:
            _known.clear()
        _known[self._kind(key)] = value

    def __delitem__(self, key: Any) -> None:
        del _known[self._kind(key)]

    def __iter__(self) -> Iterator[Any]:
        return iter(list(_known))

    def __len__(self) -> int:
        return len(_known)


def share_compiled(engine: Engine) -> None:
    """Lets ``engine`` use what others of its kind have compiled."""
    engine.update_execution_options(compiled_cache=_Shared())
