"""The pages of one question to a STAC API, and what they say of how much there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from catalog.errors import ItemError, SourceError
from catalog.item import time_of_item
from catalog.json_values import whole
from catalog.parse import format_datetime
from catalog.stac_answer import PAGE_BYTES, Asked
from catalog.stac_api import StacTransport, redact_url
from catalog.stac_links import next_request

EMPTY_PAGES = 100
"""Pages without an item in a row, each with a ``next`` link, after which nothing is expected."""
_SECOND = timedelta(seconds=1)
_SHORTEST = 3
"""Items: no server makes its pages shorter of its own accord, so fewer are all there is."""
_ROUND = 1_000
"""Counts of matches that are a multiple of it may be where counting stops (Elasticsearch's at
10 000)."""


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to a search."""

    features: list[Any]
    matched: int | None
    """How many items answer the question in all, as far as the API says so."""
    returned: int
    """How many this page has, by what it says or by what it holds, whichever is more."""
    last: bool


@dataclass(slots=True)
class Question:
    """A question, and what has come of it. Those that mend it are asked within it, and what they
    bring counts for it too."""

    parameters: Mapping[str, Any]
    """As asked, without ``datetime``, ``ids`` and ``limit``."""
    number: int
    """Later questions have greater ones."""
    size: int
    """Items asked for per page."""
    start: datetime | None = None
    end: datetime | None = None
    """Of acquisitions, inclusive; None where open."""
    ids: tuple[str, ...] = ()

    distinct: int = 0
    """Items that came, each counted once."""
    nameless: int = 0
    """Of them those without an id, which cannot be known again."""
    found: set[str] = field(default_factory=set)
    """Those of ``ids`` that came."""
    strangers: int = 0
    """Items of its own pages that answer another question: of another id or time."""
    first_matched: int | None = None
    matched: int | None = None
    """By the last answer that says it."""
    lost: int = 0
    """Items that its pages say they have, and have not."""
    pages: int = 0
    last_page: int = 0
    low: datetime | None = None
    high: datetime | None = None
    """First and last time of acquisition of what came."""
    falls: bool = True
    rises: bool = True
    """Whether the times came in that order."""
    _times: list[datetime] = field(default_factory=list)
    _expected: int = 0

    def narrowed(
        self, number: int, start: datetime | None = None, end: datetime | None = None
    ) -> Question:
        """The same between ``start`` and ``end``, as far as they lie within it."""
        starts = [moment for moment in (self.start, start) if moment is not None]
        ends = [moment for moment in (self.end, end) if moment is not None]
        return Question(
            self.parameters,
            number,
            self.size,
            max(starts, default=None),
            min(ends, default=None),
            self.ids,
        )

    def again(self, number: int, *, size: int | None = None, ids: Iterable[str] = ()) -> Question:
        """The same in pages of another size, or for other ids."""
        return Question(
            self.parameters,
            number,
            size or self.size,
            self.start,
            self.end,
            tuple(ids) or self.ids,
        )

    def asked(self) -> dict[str, Any]:
        """As arguments of pystac-client's ``Client.search``."""
        asked = dict(self.parameters) | {"limit": self.size}
        if self.start is not None or self.end is not None:
            asked["datetime"] = interval(self.start, self.end)
        if self.ids:
            asked["ids"] = list(self.ids)
        return asked

    def turn(self, page: Page) -> None:
        """Notes what a page says; its items follow."""
        self.pages += 1
        self.last_page = len(page.features)
        self.lost += page.returned - len(page.features)
        if page.matched is not None:
            self.matched = page.matched
            if self.first_matched is None:
                self.first_matched = page.matched
        self._times = self._times[-1:]

    def note(self, item: Mapping[str, Any]) -> None:
        """Notes an item of a page of its own, whether or not it had come before."""
        self.strangers += bool(self.ids) and item.get("id") not in self.ids
        when = moment_of(item)
        if when is None:
            return
        if self._times:
            self.falls = self.falls and when <= self._times[-1]
            self.rises = self.rises and when >= self._times[-1]
        self._times.append(when)
        self.low = when if self.low is None else min(self.low, when)
        self.high = when if self.high is None else max(self.high, when)
        early = self.start is not None and when < self.start - _SECOND
        late = self.end is not None and when > self.end + _SECOND
        self.strangers += early or late

    def end_pages(self) -> None:
        """Notes that its own pages have come to their end."""
        self._expected = self.distinct + self.lost if self.lost else 0

    @property
    def last_first(self) -> bool:
        """Whether the newest come first, as they do where nothing shows otherwise."""
        return self.falls or not self.rises

    @property
    def middle(self) -> datetime | None:
        """The time that half of its last page lies before."""
        return sorted(self._times)[len(self._times) // 2] if self._times else None

    @property
    def missing(self) -> int:
        """Items that the API says there are, and that have not come; negative for more than it
        says, 0 where it says nothing."""
        if self.matched is not None:
            return self.matched - self.distinct
        return max(self._expected - self.distinct, 0)

    def may_go_on(self, usual: int) -> bool:
        """Whether its last page looks as if more should follow: it is full, and nothing that the
        API says shows that it is the last.

        Args:
            usual: items of the longest page that others had; 0 where there was none. A server may
                make pages shorter than what it is asked for, and say so nowhere.
        """
        if not self.last_page or (self.ids and len(self.found) == len(self.ids)):
            return False
        if self.matched is not None:
            full = self.last_page >= self.size
            of_page = self.pages == 1 and self.matched == self.last_page
            rounded = self.matched >= _ROUND and self.matched % _ROUND == 0
            return (full and (of_page or self.missing < 0)) or (rounded and self.missing <= 0)
        return self.last_page >= min(self.size, max(usual, _SHORTEST))


def pages(transport: StacTransport, first: Asked) -> Iterator[Page]:
    """The answers to one search, to the last ``next`` link.

    An answer that is no feature collection is no end of the results but an error, and an empty
    page with a ``next`` link is no end either.

    Raises:
        SourceError: no answer, none to a search, or pages that lead nowhere.
    """
    asked: Asked | None = first
    empty = 0
    while asked is not None:
        document, url = transport.document(asked, most=PAGE_BYTES)
        features = document.get("features")
        shown = redact_url(asked.url)
        if not isinstance(features, list):
            raise SourceError(f"{shown} answered a search without features")
        try:
            following = next_request(document, url, first)
        except SourceError as error:
            raise SourceError(f"{shown} {error}") from error
        returned = whole(document.get("numberReturned"), 10**9) or 0
        yield Page(features, _matched(document), max(returned, len(features)), following is None)
        empty = 0 if features else empty + 1
        if (not features and following == asked) or empty >= EMPTY_PAGES:
            raise SourceError(f"{shown} goes in circles: its pages repeat, or are empty")
        asked = following


def _matched(page: Mapping[str, Any]) -> int | None:
    """``numberMatched`` of OGC API – Features, ``context.matched`` of STAC's context extension,
    ``search:metadata`` of STAC API 0.8."""
    said = [page.get(name) for name in ("numberMatched", "numMatched", "number_matched")]
    for name in ("context", "search:metadata"):
        if isinstance(part := page.get(name), Mapping):
            said.append(part.get("matched"))
    for value in said:
        if isinstance(value, str) and value.isascii() and value.isdecimal():
            value = float(value[:30])
        if (number := whole(value, 10**12)) is not None:
            return number
    return None


def moment_of(item: Any) -> datetime | None:
    """When an item was acquired, as far as it says so."""
    try:
        return time_of_item(item) if isinstance(item, Mapping) else None
    except ItemError:
        return None


def interval(start: datetime | None, end: datetime | None) -> str:
    """An interval of whole seconds around the one meant: some APIs know no fractions.

    The items beyond the exact ends are dropped here.
    """
    if start is not None:
        start = start.replace(microsecond=0)
    if end is not None and end.microsecond:
        try:
            end = end.replace(microsecond=0) + _SECOND
        except OverflowError:
            end = end.replace(microsecond=0)
    first, last = (".." if moment is None else format_datetime(moment) for moment in (start, end))
    return f"{first}/{last}"
