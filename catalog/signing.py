"""Tokens that the Planetary Computer gives away: who holds one may read a container for an hour.

A token is asked for when a request needs one, kept in this process's memory until it is about to
expire, and stands in no reference, record or log. ``PC_SDK_SAS_URL`` and
``PC_SDK_SUBSCRIPTION_KEY`` are the ``planetary-computer`` package's own settings.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from catalog.errors import ConfigError, SourceError, first_line

MARGIN = timedelta(seconds=60)
"""Before its expiry a token is no longer used: the package gets another from then on."""
TIMEOUT = 60.0
"""Seconds for a token, retries included; the package itself sets none."""
RETRIES = 4


@dataclass(frozen=True, slots=True)
class Token:
    """A shared access signature of one container."""

    query: str = field(repr=False)
    """What is added to a URL behind ``?``."""
    use_until: datetime
    """Aware, UTC; it is valid a little longer."""


def require_signing() -> None:
    """Says at once what is missing.

    Raises:
        ConfigError: the ``planetary-computer`` package is not installed.
    """
    _package()


def token(account: str, container: str) -> Token:
    """One that can be used now; asked for anew only where the last is about to expire.

    Raises:
        SourceError: the service gives none.
        ConfigError: the ``planetary-computer`` package is not installed.
    """
    sas = _package()
    place = (account, container)
    with _lock:
        asking = _asking.get(place)
        if asking is None:
            asking = _asking[place] = _Asking(sas, account, container)
            asking.start()
    asking.join(TIMEOUT)
    with _lock:
        # One that stalls is left behind: whoever comes next asks anew.
        if _asking.get(place) is asking:
            del _asking[place]
    failed = f"no token to read container {container!r} of {account!r}"
    if asking.error is not None:
        raise SourceError(f"{failed}: {first_line(asking.error)}") from asking.error
    if asking.given is None:
        raise SourceError(f"{failed}: its service did not answer in {TIMEOUT:.0f} s")
    return Token(asking.given.token.lstrip("?"), asking.given.expiry - MARGIN)


class _Asking(threading.Thread):
    """One request to the service, shared by all who wait for its token."""

    def __init__(self, sas: Any, account: str, container: str) -> None:
        super().__init__(name="sas-token", daemon=True)
        self._sas, self._place = sas, (account, container)
        self.given: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.given = self._sas.get_token(*self._place, retry_total=RETRIES)
        except Exception as error:  # noqa: BLE001 - handed to those who wait
            self.error = error


_lock = threading.Lock()
_asking: dict[tuple[str, str], _Asking] = {}


def _package() -> Any:
    try:
        with warnings.catch_warnings():
            # It is written for pydantic 1 and 2, and 2 says so at every import.
            warnings.simplefilter("ignore", DeprecationWarning)
            from planetary_computer import sas
    except ImportError as error:
        raise ConfigError(
            "requests to the Planetary Computer are signed: install cogcat[planetary-computer] "
            f"(no module {error.name})"
        ) from error
    return sas
