"""Every item that answers a question: an answer that is not whole is mended, or not believed.

A search that ends early moves a watch's watermark beyond what it did not return, and ``--sync``
withdraws it. So where an API says that more items match than came, the question is asked again
for other stretches of time until they are there. Where it says nothing, and its last page is full,
what lies beyond that page is asked for once more: an item that had not come proves that pages are
missing. What cannot be mended is a ``SourceError``.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NoReturn

from catalog.errors import SourceError
from catalog.stac_answer import Asked
from catalog.stac_api import StacTransport, StatusError
from catalog.stac_pages import Question, pages
from catalog.unreadable import UnreadableItem

log = logging.getLogger(__name__)

MENDING = 5_000
"""Questions asked beside those that were meant, at most."""
_WINDOW = 65_536
_CIRCLES = 3
_PAGES = 10_000
_STALE = 200
_UNREADABLE = 10_000
_LARGEST = 10_000
_DEPTH = 48
"""Halves of halves: 2**48 seconds are more than all time."""


class Search:
    """One search: its questions one after another, each item once.

    Args:
        home: the API's name in errors.
        request: a question's arguments → the request of its first page.
        received: called with how many items each page has, and how many of them had come before.
    """

    def __init__(
        self,
        transport: StacTransport,
        home: str,
        request: Callable[[Mapping[str, Any]], Asked],
        received: Callable[[int, int], None],
    ) -> None:
        self._transport, self._home, self._request = transport, home, request
        self._received = received
        self._seen: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._open: list[Question] = []
        self._number = self._mended = self._usual = 0

    def ask(
        self,
        parameters: Mapping[str, Any],
        *,
        size: int,
        start: datetime | None,
        end: datetime | None,
        ids: Sequence[str],
    ) -> Iterator[dict[str, Any]]:
        """The items of one question that no earlier one gave; what is none is ``UnreadableItem``.

        Raises:
            SourceError: an answer that is not whole, or that has no end.
        """
        question = Question(parameters, self._next_number(), size, start, end, tuple(ids))
        yield from self._ask(question)

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _ask(self, question: Question) -> Iterator[dict[str, Any]]:
        usual = self._usual
        self._open.append(question)
        try:
            yield from self._read(question)
            # The first page of all can be compared with no other.
            usual = self._usual if usual or question.pages > 1 else 0
            if question.ids and len(question.found) == len(question.ids):
                return
            unnamed = bool(question.ids) and question.nameless > 0
            if question.missing > 0 or unnamed or question.may_go_on(usual):
                log.debug("%s: %d items more?", self._home, question.missing)
                yield from self._mend(question)
        finally:
            self._open.pop()

    def _within(self, question: Question) -> Iterator[dict[str, Any]]:
        """The pages of a question that mends another; whether they are whole is seen there."""
        self._mended += 1
        if self._mended > MENDING:
            self._fail(question)
        self._open.append(question)
        try:
            yield from self._read(question)
        finally:
            self._open.pop()

    def _read(self, question: Question) -> Iterator[dict[str, Any]]:
        """The pages of a question as they come."""
        marks: set[Any] = set()
        circles = stale = unreadable = 0
        for page in pages(self._transport, self._request(question.asked())):
            mark = (len(page.features), *map(_key, page.features[:1] + page.features[-1:]))
            circles += mark in marks and None not in mark and mark != (0,)
            if len(marks) >= _PAGES:
                marks.clear()
            marks.add(mark)
            question.turn(page)
            self._usual = max(self._usual, len(page.features))
            fresh = [item for item in page.features if self._is_new(question, item)]
            stale = 0 if fresh or not page.features else stale + 1
            self._received(len(page.features), len(page.features) - len(fresh))
            if circles >= _CIRCLES or stale >= _STALE:
                raise SourceError(f"{self._home} goes in circles: its pages repeat")
            for item in fresh:
                plain = item if isinstance(item, dict) else UnreadableItem("not a JSON object")
                unreadable = 0 if _may_be_read(plain) else unreadable + 1
                if unreadable >= _UNREADABLE:
                    raise SourceError(
                        f"{self._home} does not come to an end: none of its last {unreadable} "
                        "items can be read"
                    )
                yield plain
            # More than it says there is, by far: its pages are made up as they are asked for.
            if question.matched is not None and question.distinct > 2 * question.matched + 10_000:
                self._fail(question)
        question.end_pages()

    def _is_new(self, question: Question, item: Any) -> bool:
        """Whether an item had not come before; counts it for each question that is being asked."""
        key = _key(item)
        if key is None:
            question.distinct += 1
            question.nameless += 1
            return True
        before = self._seen.pop(key, 0)
        self._seen[key] = question.number
        if len(self._seen) > _WINDOW:
            self._seen.popitem(last=False)
        for asked in self._open:
            if before < asked.number:
                asked.distinct += 1
                if key[1] in asked.ids:
                    asked.found.add(key[1])
        question.note(item)
        return not before

    def _fail(self, question: Question) -> NoReturn:
        # Of a question within another the numbers say little.
        whole = self._open[0] if self._open and self._open[0].missing > 0 else question
        said = "and its last page is full, without a next one"
        if whole.missing:
            said = f"of {whole.distinct + whole.missing} that it says there are"
        raise SourceError(
            f"{self._home} gave {whole.distinct} items {said}: an incomplete answer is not "
            "believed; ask for less at once (a shorter --datetime, a --tile), or later"
        )

    def _mend(self, question: Question) -> Iterator[dict[str, Any]]:
        if len(self._open) > _DEPTH:
            self._fail(question)
        if question.ids:
            yield from self._by_ids(question)
        elif question.low is None or question.high is None:
            yield from self._in_larger_pages(question)
        elif question.missing > 0:
            yield from self._by_time(question)
        else:
            yield from self._beyond(question)

    def _by_ids(self, question: Question) -> Iterator[dict[str, Any]]:
        """Those that did not come, alone, until none of them comes: then none of them is there."""
        rest = [name for name in question.ids if name not in question.found]
        while rest:
            again = question.again(self._next_number(), ids=rest)
            yield from self._within(again)
            if again.strangers or again.nameless:
                raise SourceError(
                    f"{self._home} answers a question for ids with other items: it does not say "
                    "whether those asked for are there"
                )
            if not again.found and again.missing > 0:
                self._fail(again)
            if not again.found or (again.missing <= 0 and not again.may_go_on(self._usual)):
                return
            rest = [name for name in rest if name not in again.found]

    def _by_time(self, question: Question) -> Iterator[dict[str, Any]]:
        """The items that the API says there are, from other stretches of time."""
        assert question.low is not None
        assert question.high is not None
        grown = (question.first_matched or 0) < (question.matched or 0)
        # What is missing lies beyond the last page; what came while it was asked, before the first.
        older_first = question.last_first != grown
        for older in (older_first, not older_first):
            yield from self._go_on(question, older=older)
            if question.missing <= 0:
                return
        if question.high - question.low <= timedelta(seconds=2):
            yield from self._in_larger_pages(question)
            return
        middle = question.low + (question.high - question.low) / 2
        for start, end in ((question.low, middle), (middle, question.high)):
            yield from self._ask(question.narrowed(self._next_number(), start, end))
            if question.missing <= 0:
                return
        log.info(
            "%s says that %s items match; asked piece by piece it has %d",
            self._home, question.matched, question.distinct,
        )  # fmt: skip

    def _beyond(self, question: Question) -> Iterator[dict[str, Any]]:
        """What lies beyond a full last page, where nothing says that there is more."""
        if question.falls or question.rises:
            yield from self._go_on(question, older=question.last_first)
            return
        # In no order: half of the time in question has what had not come, if anything has.
        before = question.distinct
        yield from self._ask(question.narrowed(self._next_number(), end=question.middle))
        if question.distinct > before:
            yield from self._ask(question.narrowed(self._next_number(), start=question.middle))

    def _go_on(self, question: Question, *, older: bool) -> Iterator[dict[str, Any]]:
        """From the last item on, as often as that brings something new."""
        edge = question.low if older else question.high
        while edge is not None:
            before = question.distinct
            number = self._next_number()
            part = (
                question.narrowed(number, end=edge)
                if older
                else question.narrowed(number, start=edge)
            )
            yield from self._within(part)
            if part.strangers:
                # It does not heed the time that it is asked for.
                yield from self._in_larger_pages(question)
                return
            beyond = part.low if older else part.high
            if question.distinct == before:
                if part.missing > 0 or (part.last_page > 1 and part.may_go_on(self._usual)):
                    yield from self._in_larger_pages(part)
                return
            whole = part.missing <= 0 and not part.may_go_on(self._usual)
            if whole or (question.matched is not None and question.missing <= 0):
                return
            if beyond is None or abs(beyond - edge) < timedelta(seconds=1):
                yield from self._in_larger_pages(part)
                return
            edge = beyond

    def _in_larger_pages(self, question: Question) -> Iterator[dict[str, Any]]:
        """The whole question once more, in pages that are to have room for all; the last resort."""
        expected = question.distinct + max(question.missing, 0)
        size = min(_LARGEST, max(2 * question.size, expected + 1))
        larger = question.again(self._next_number(), size=size)
        before = question.distinct
        try:
            yield from self._within(larger)
        except StatusError:
            self._fail(question)
        if question.missing > 0 or larger.missing > 0:
            self._fail(question)
        # Pages that grow no longer though they may: the server cuts them, and says nothing.
        cut = larger.last_page <= question.last_page
        if question.matched is None and question.distinct > before and cut:
            self._fail(question)
        if larger.last_page == question.last_page >= question.size:
            self._fail(question)


def _key(item: Any) -> tuple[str, str] | None:
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return None
    return str(item.get("collection")), item["id"]


def _may_be_read(item: Mapping[str, Any]) -> bool:
    """Whether a document is a STAC item at a first glance."""
    return (
        not isinstance(item, UnreadableItem)
        and isinstance(item.get("id"), str)
        and isinstance(item.get("properties"), Mapping)
        and isinstance(item.get("assets"), Mapping)
    )
