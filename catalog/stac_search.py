"""A question to a STAC API → its items, as served, page by page.

What an API does not declare is not asked of it (Earth Search ignores ``filter``
without a word and answers with everything), and what comes back is checked
against the question all the same.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any
from urllib.parse import quote

from pystac_client import Client
from pystac_client.warnings import PystacClientWarning

from catalog.errors import CatalogError, SourceError, UsageError, first_line
from catalog.parse import Box, format_datetime, parse_datetime
from catalog.stac_answer import Asked
from catalog.stac_api import FOREIGN_ERRORS, StacTransport, StatusError, open_api, redact_url
from catalog.stac_pages import Question, pages
from catalog.stac_query import StacQuery, item_judge
from catalog.stac_whole import Search

log = logging.getLogger(__name__)

PAGE = 100
"""Items asked for per page."""
_IDS_PER_SEARCH = 100
_TILES_PER_SEARCH = 200
_PATIENCE = 2_000


@dataclass(slots=True)
class SearchCounts:
    """What a search cost and what it threw away; filled as it goes."""

    requests: int = 0
    """HTTP requests made, without retries."""
    received: int = 0
    """Items in the answers."""
    repeated: int = 0
    """Items that an earlier page had already given."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Items that do not answer the question, by the part (``tiles``, ``datetime`` …)."""


def search_items(
    url: str,
    query: StacQuery,
    *,
    counts: SearchCounts | None = None,
    page_size: int = PAGE,
    timeout: float = 30.0,
    retries: int = 5,
    hosts: Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """The items that answer ``query``, as served, in the order of the API.

    Lazy: one page is held at a time, and nothing is asked before the first item is.
    An item repeated across pages (pages shift while an archive grows) is given once:
    the last 65 536 ids are remembered, far more than pages shift by, in some 15 MB;
    a repeat from further back would come through, and the crawl is idempotent. An entry
    that is no item is given as ``UnreadableItem``.

    Args:
        url: landing page of the API.
        counts: is filled in; also right when the search stops early.
        timeout: seconds to wait for a connection, and for each piece of an answer.
        retries: of each request that meets 429, 5xx or a broken connection, with
            growing pauses or those that ``Retry-After`` asks for.
        hosts: that the API's answers may lead to, beside its own: ``Settings.stac_hosts``.
        headers: that the API wants to see, of ``settings.stac_headers``.

    Raises:
        UsageError: no collection, an unknown one (the message lists what there is), a
            question that the API refuses, an address that is none.
        SourceError: unreachable, not a STAC API, an answer that is not one or is not whole
            (``stac_whole.py``), pages that go in circles, an address on another host, or
            an API that ignores the question.
    """
    counts = SearchCounts() if counts is None else counts
    client, transport = open_api(
        url, timeout=timeout, retries=retries, hosts=hosts, headers=headers
    )
    try:
        _check_collection(client, transport, query.collection)
        remaining = query.limit
        for item in _search(client, transport, query, counts, page_size):
            counts.requests = transport.requests
            yield item
            if remaining is not None:
                remaining -= 1
                if remaining == 0:
                    return
    except StatusError as error:
        if error.status in (400, 422):
            raise UsageError(f"the API refuses the question: {error}") from error
        raise
    except CatalogError:
        raise
    except FOREIGN_ERRORS as error:
        raise SourceError(
            f"{redact_url(url)} does not answer as a STAC API: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    finally:
        counts.requests = transport.requests
        transport.session.close()


def _check_collection(client: Client, transport: StacTransport, collection: str | None) -> None:
    link = client.get_single_link("data")
    listing = str(link.href if link else f"{str(client.self_href).rstrip('/')}/collections")
    if collection is not None:
        place, mark, asked = listing.partition("?")
        one = f"{place.rstrip('/')}/{quote(collection, safe='')}{mark}{asked}"
        try:
            transport.document(Asked("GET", one))
            return
        except StatusError as error:
            if error.status != 404:
                raise
    try:
        answer = transport.document(Asked("GET", listing))[0].get("collections")
    except StatusError:
        answer = None
    entries = answer if isinstance(answer, list) else []
    listed = [entry.get("id") for entry in entries if isinstance(entry, dict)]
    names = sorted(
        (name for name in listed if isinstance(name, str)),
        key=lambda name: ("sentinel-2" not in name, name),
    )
    if not names and collection is not None:
        # Some servers have a search but no collections to look at; the search will tell.
        return
    if collection in names:
        return
    shown = ", ".join(map(first_line, names[:20])) + (
        f" and {len(names) - 20} more" if len(names) > 20 else ""
    )
    what = "name a collection" if collection is None else f"unknown collection {collection!r}"
    raise UsageError(f"{what}; {_home(client)} has {shown or 'none'}")


def _search(
    client: Client,
    transport: StacTransport,
    query: StacQuery,
    counts: SearchCounts,
    page_size: int,
) -> Iterator[dict[str, Any]]:
    judge = item_judge(query)
    boxes = _boxes(query.bbox)
    filters = _Filters.of(client, transport, query, boxes)
    if query.limit is not None and filters.complete:
        page_size = min(page_size, query.limit)

    def received(items: int, repeated: int) -> None:
        counts.received += items
        counts.repeated += repeated

    search = Search(transport, _home(client), lambda asked: _request(client, asked), received)
    start, end = parse_datetime(query.datetime)
    for number, (box, ids, tiles) in enumerate(
        product(
            boxes,
            _chunks(query.ids, _IDS_PER_SEARCH),
            _chunks(query.tiles, _TILES_PER_SEARCH) if filters.tile_property else [()],
        )
    ):
        matched = unmatched = 0
        parameters = _parameters(query, box) | filters.arguments(tiles, query.max_cloud_cover)
        for item in search.ask(parameters, size=page_size, start=start, end=end, ids=ids):
            fault = judge(item)
            if fault is None:
                matched += 1
                unmatched = 0
                yield item
                continue
            counts.dropped[fault] += 1
            unmatched += 1
            if filters.complete and unmatched >= _PATIENCE * (10 if matched else 1):
                ignored = ", ".join(sorted(counts.dropped))
                raise SourceError(
                    f"{_home(client)} ignores part of the question ({ignored}): none of "
                    f"{'its last' if matched else 'its first'} {unmatched} items answers it"
                )
        log.debug("search %d: %d items", number + 1, matched)


def _request(client: Client, asked: Mapping[str, Any]) -> Asked:
    """The request of a search's first page."""
    methods = {
        str(link.extra_fields.get("method", "GET")) for link in client.links if link.rel == "search"
    }
    with warnings.catch_warnings():
        # The conformance classes have been looked at; an API without a link is tried.
        warnings.simplefilter("ignore", PystacClientWarning)
        search = client.search(method="GET" if methods == {"GET"} else "POST", **asked)
    return Asked(str(search.method), str(search.url), search.get_parameters())


def _parameters(query: StacQuery, box: Box | None) -> dict[str, Any]:
    asked: dict[str, Any] = {"collections": [query.collection]}
    if box is not None:
        asked["bbox"] = list(box)
    if query.intersects is not None:
        asked["intersects"] = dict(query.intersects)
    return asked


@dataclass(frozen=True, slots=True)
class _Filters:
    """How tile and cloud cover can be asked of this API."""

    extension: str | None
    """``filter`` (CQL2 as JSON), ``query``, or None."""
    tile_property: str | None
    cloud_property: str | None
    updated_since: str | None
    """RFC 3339; None where it was not asked, or where items do not say when they changed."""
    complete: bool
    """Nothing that was asked is left for us to check alone."""

    @classmethod
    def of(
        cls,
        client: Client,
        transport: StacTransport,
        query: StacQuery,
        boxes: list[Box | None],
    ) -> _Filters:
        """By what the API declares, and by what its own items call the properties.

        One item is fetched to see: asking for a property that a catalog does not have
        finds nothing, without an error.
        """
        wanted = (
            bool(query.tiles)
            or query.max_cloud_cover is not None
            or query.updated_since is not None
        )
        if not wanted or query.ids:
            return cls(None, None, None, None, complete=not wanted)
        classes = client.get_conforms_to()
        if client.conforms_to("FILTER") and any("cql2-json" in name for name in classes):
            extension = "filter"
        elif client.conforms_to("QUERY"):
            extension = "query"
        else:
            log.warning(
                "%s declares neither query nor filter: tile and cloud cover are checked here, "
                "item by item",
                _home(client),
            )
            return cls(None, None, None, None, complete=False)
        properties: Any = None
        for box in boxes:
            first = Question(_parameters(query, box), 0, 1, *parse_datetime(query.datetime))
            page = next(pages(transport, _request(client, first.asked()))).features
            if page and isinstance(page[0], dict):
                properties = page[0].get("properties")
                break
        properties = properties if isinstance(properties, dict) else {}
        tile = next((key for key in ("grid:code", "s2:mgrs_tile") if key in properties), None)
        cloud = "eo:cloud_cover" if "eo:cloud_cover" in properties else None
        return cls(
            extension,
            tile if query.tiles else None,
            cloud if query.max_cloud_cover is not None else None,
            format_datetime(query.updated_since)
            if query.updated_since and "updated" in properties
            else None,
            complete=bool(tile or not query.tiles) and bool(cloud or query.max_cloud_cover is None),
        )

    def arguments(self, tiles: Sequence[str], max_cloud_cover: float | None) -> dict[str, Any]:
        names = [_name(tile, self.tile_property) for tile in tiles]
        # Some catalogs pad the zone with a zero, others do not.
        names += [_name(tile.lstrip("0"), self.tile_property) for tile in tiles if tile[0] == "0"]
        if self.extension == "query":
            asked: dict[str, Any] = {}
            if self.tile_property and names:
                asked[self.tile_property] = {"eq": names[0]} if len(names) == 1 else {"in": names}
            if self.cloud_property:
                asked[self.cloud_property] = {"lte": max_cloud_cover}
            if self.updated_since:
                asked["updated"] = {"gte": self.updated_since}
            return {"query": asked} if asked else {}
        clauses: list[dict[str, Any]] = []
        if self.tile_property and names:
            prop = {"property": self.tile_property}
            clauses.append(
                {"op": "=", "args": [prop, names[0]]}
                if len(names) == 1
                else {"op": "in", "args": [prop, names]}
            )
        if self.cloud_property:
            clauses.append(
                {"op": "<=", "args": [{"property": self.cloud_property}, max_cloud_cover]}
            )
        if self.updated_since:
            since = {"timestamp": self.updated_since}
            clauses.append({"op": ">=", "args": [{"property": "updated"}, since]})
        if not clauses:
            return {}
        expression = clauses[0] if len(clauses) == 1 else {"op": "and", "args": clauses}
        return {"filter": expression, "filter_lang": "cql2-json"}


def _name(tile: str, tile_property: str | None) -> str:
    return f"MGRS-{tile}" if tile_property == "grid:code" else tile


def _boxes(bbox: Box | None) -> list[Box | None]:
    """A box over the antimeridian as two: not every API takes west > east as it is meant."""
    if bbox is None or bbox[0] <= bbox[2]:
        return [bbox]
    west, south, east, north = bbox
    return [(west, south, 180.0, north), (-180.0, south, east, north)]


def _chunks[T](values: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return [values[at : at + size] for at in range(0, len(values), size)] or [()]


def _key(item: Any) -> tuple[str, str] | None:
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return None
    return str(item.get("collection")), item["id"]


def _home(client: Client) -> str:
    return redact_url(str(client.self_href))
