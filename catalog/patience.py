"""How long to wait before a request is made again: growing, scattered, or as the server asks.

The statuses and headers are RFC 9110's (15.6.4, 10.2.3) and RFC 6585's (4).
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses of a server that may answer the same request later."""
LONGEST_ASKED = 120.0
"""Seconds: no server is waited for any longer, whatever it asks for."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a request is made again, and after which pauses."""

    retries: int = 5
    first: float = 0.25
    """Seconds of the first pause, at least half of it; the second is twice as long …"""
    longest: float = 15.0

    def pause(self, retry: int) -> float:
        """Seconds before retry number ``retry`` (from 1). Scattered over half of the pause, so that
        many that failed together do not come back together."""
        whole = min(self.longest, self.first * 2.0 ** min(retry - 1, 30))
        return whole * random.uniform(0.5, 1.0)


def asked_pause(retry_after: str | None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for: a number of them, or a date."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdecimal():
        return min(float(text), LONGEST_ASKED)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(0.0, moment.timestamp() - time.time()), LONGEST_ASKED)
