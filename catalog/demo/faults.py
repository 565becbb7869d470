"""What a server of the look-alike archive does wrong on demand; nothing at first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from catalog.demo.http_connection import Request


@dataclass(slots=True)
class PagingFaults:
    """How a page differs from what it should be; all off."""

    repeat_last_item: bool = False
    """Every page after the first starts with the last item of the page before."""
    no_number_matched: bool = False


@dataclass(slots=True)
class Fault:
    """How the answer to one path differs from what it should be."""

    status: int | None = None
    """Answer with this and no more; a ``body`` goes with it."""
    body: bytes | None = None
    """Without ``status``: the file's bytes instead of its own (ranges and ETag are
    of these), or an API's answer, whatever it should be."""
    content_type: str | None = None
    truncate: int | None = None
    """Close the connection after so many bytes of the body, though more were announced."""
    delay_ms: float = 0
    times: int | None = None
    """Only the first so many requests; None is for ever."""


@dataclass(slots=True)
class Faults(PagingFaults):
    """Everything a server does wrong on demand; nothing at first."""

    latency_ms: float = 0
    """Before every answer."""
    paths: dict[str, Fault] = field(default_factory=dict)
    """Percent-decoded path → fault."""
    callback: Callable[[Request], Fault | None] | None = None
    """Asked where ``paths`` has nothing. Runs in the server's thread."""

    def reset(self) -> None:
        """Behave again."""
        self.repeat_last_item = self.no_number_matched = False
        self.latency_ms, self.callback = 0, None
        self.paths.clear()

    def of(self, request: Request) -> Fault | None:
        """The fault of this request, which counts as one of its ``times``."""
        fault = self.paths.get(request.path)
        if fault is None and self.callback is not None:
            fault = self.callback(request)
        if fault is None or fault.times is None:
            return fault
        if fault.times <= 0:
            return None
        fault.times -= 1
        return fault
