"""A STAC API over a list of items, behaving as Earth Search's does; pure: no sockets.

It has ``query``, ``sort`` and paging by ``next`` token, newest first. It ignores a
CQL2 ``filter`` without a word, as the real one does, and ``fields`` too. Unlike
the real ones, Planetary Computer's look-alike ignores ``filter`` although it says
it does not.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

import shapely
from shapely.geometry import shape

from catalog.demo.faults import PagingFaults

_API = "https://api.stacspec.org/v1.0.0"
_OGC = "http://www.opengis.net/spec"
EARTH_SEARCH_CONFORMANCE = (
    f"{_API}/core",
    f"{_API}/collections",
    f"{_API}/ogcapi-features",
    f"{_API}/item-search",
    f"{_API}/ogcapi-features#fields",
    f"{_API}/ogcapi-features#sort",
    f"{_API}/ogcapi-features#query",
    f"{_API}/item-search#fields",
    f"{_API}/item-search#sort",
    f"{_API}/item-search#query",
    f"{_OGC}/ogcapi-features-1/1.0/conf/core",
    f"{_OGC}/ogcapi-features-1/1.0/conf/oas30",
    f"{_OGC}/ogcapi-features-1/1.0/conf/geojson",
)
PLANETARY_COMPUTER_CONFORMANCE = (
    *(uri for uri in EARTH_SEARCH_CONFORMANCE if "ogcapi-features#" not in uri),
    "https://api.stacspec.org/v1.0.0-rc.2/item-search#filter",
    f"{_OGC}/ogcapi-features-3/1.0/conf/filter",
    f"{_OGC}/cql2/1.0/conf/cql2-text",
    f"{_OGC}/cql2/1.0/conf/cql2-json",
    f"{_OGC}/cql2/1.0/conf/basic-cql2",
)

GEOJSON = "application/geo+json"
JSON = "application/json"
_MAX_LIMIT = 10_000


class ApiError(Exception):
    """A request the API refuses.

    Args:
        status: HTTP status code.
    """

    def __init__(self, status: int, description: str) -> None:
        super().__init__(description)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content_type: str
    document: Any


class StacApi:
    """One API root.

    Args:
        root: its URL, without a last slash, as links name it.
        collections: id → collection.
        items: collection id → items; read at every request, so changes show at once.
    """

    def __init__(
        self,
        root: str,
        *,
        catalog_id: str,
        title: str,
        conformance: Sequence[str],
        collections: Mapping[str, dict[str, Any]],
        items: Mapping[str, list[dict[str, Any]]],
        faults: PagingFaults,
    ) -> None:
        self._root, self._id, self._title = root, catalog_id, title
        self._conformance = list(conformance)
        self._collections, self._items, self._faults = collections, items, faults

    def answer(self, method: str, path: str, query: str, body: bytes) -> Answer:
        """Answer one request.

        Args:
            path: below the root: ``""``, ``/search``, ``/collections/…``, still quoted.
            query: what followed ``?``.
        """
        try:
            return self._route(method, path.rstrip("/"), query, body)
        except ApiError as error:
            code = {400: "BadRequest", 404: "NotFound", 405: "MethodNotAllowed"}[error.status]
            return Answer(error.status, JSON, {"code": code, "description": str(error)})

    def _route(self, method: str, path: str, query: str, body: bytes) -> Answer:
        parts = [unquote(part) for part in path.split("/")[1:]]
        if parts == ["search"]:
            if method == "POST":
                return self._search(_json_object(body), post=True, url=f"{self._root}/search")
            return self._search(_from_query(query), post=False, url=f"{self._root}/search")
        if method not in ("GET", "HEAD"):
            raise ApiError(405, f"{method} is not allowed here")
        match parts:
            case []:
                return Answer(200, JSON, self._landing())
            case ["conformance"]:
                return Answer(200, JSON, {"conformsTo": self._conformance})
            case ["collections"]:
                links = [{"rel": "self", "type": JSON, "href": f"{self._root}/collections"}]
                found = list(self._collections.values())
                return Answer(200, JSON, {"collections": found, "links": links})
            case ["collections", collection]:
                return Answer(200, JSON, self._collection(collection))
            case ["collections", collection, "items"]:
                self._collection(collection)
                asked = _from_query(query) | {"collections": [collection]}
                url = f"{self._root}/collections/{collection}/items"
                return self._search(asked, post=False, url=url)
            case ["collections", collection, "items", item_id]:
                self._collection(collection)
                for item in self._items[collection]:
                    if item["id"] == item_id:
                        return Answer(200, GEOJSON, item)
                raise ApiError(404, "Item not found")
        raise ApiError(404, "Not Found")

    def _collection(self, collection_id: str) -> dict[str, Any]:
        try:
            return self._collections[collection_id]
        except KeyError:
            raise ApiError(404, "Collection not found") from None

    def _landing(self) -> dict[str, Any]:
        root = self._root
        links = [
            {"rel": "self", "type": JSON, "href": root},
            {"rel": "root", "type": JSON, "href": root},
            {"rel": "conformance", "type": JSON, "href": f"{root}/conformance"},
            {"rel": "data", "type": JSON, "href": f"{root}/collections"},
            {"rel": "search", "type": GEOJSON, "href": f"{root}/search", "method": "GET"},
            {"rel": "search", "type": GEOJSON, "href": f"{root}/search", "method": "POST"},
        ]
        links += [
            {"rel": "child", "type": GEOJSON, "href": f"{root}/collections/{collection}"}
            for collection in self._collections
        ]
        return {
            "stac_version": "1.0.0",
            "type": "Catalog",
            "id": self._id,
            "title": self._title,
            "description": "A look-alike for demonstration and tests. Its pixels are synthetic.",
            "links": links,
            "conformsTo": self._conformance,
        }

    def _search(self, asked: Mapping[str, Any], *, post: bool, url: str) -> Answer:
        matches = _matcher(asked)
        chosen = asked.get("collections") or list(self._items)
        if not _is_strings(chosen):
            raise ApiError(400, "Invalid collections, must be an array of strings")
        order = _order(asked.get("sortby"))
        limit = _limit(asked.get("limit"))
        found = [
            item
            for collection in dict.fromkeys(chosen)
            for item in self._items.get(collection, [])
            if matches(item)
        ]
        keys = {id(item): _sort_key(item, order) for item in found}
        compare = functools.cmp_to_key(functools.partial(_compare, order=order))
        found.sort(key=lambda item: compare(keys[id(item)]))
        start = 0
        if token := asked.get("next"):
            after = compare(_decode(token, len(order)))
            start = next(
                (i for i, item in enumerate(found) if compare(keys[id(item)]) > after), len(found)
            )
        page = found[start : start + limit]
        links: list[dict[str, Any]] = [{"rel": "root", "type": JSON, "href": self._root}]
        if start + limit < len(found):
            links.append(_next_link(asked, _encode(keys[id(page[-1])]), post=post, url=url))
        if self._faults.repeat_last_item and start:
            page = [found[start - 1], *page]
        document: dict[str, Any] = {
            "type": "FeatureCollection",
            "stac_version": "1.0.0",
            "stac_extensions": [],
            "context": {"limit": limit, "matched": len(found), "returned": len(page)},
            "numberMatched": len(found),
            "numberReturned": len(page),
            "features": page,
            "links": links,
        }
        if self._faults.no_number_matched:
            del document["numberMatched"], document["context"]
        return Answer(200, GEOJSON, document)


def _next_link(asked: Mapping[str, Any], token: str, *, post: bool, url: str) -> dict[str, Any]:
    link = {"rel": "next", "title": "Next page of Items", "type": GEOJSON}
    if post:
        body = {**asked, "next": token}
        return link | {"method": "POST", "href": url, "merge": False, "body": body}
    again = {
        name: _to_query(name, value)
        for name, value in asked.items()
        if not (name == "collections" and url.endswith("/items"))
    }
    return link | {"method": "GET", "href": f"{url}?{urlencode(again | {'next': token})}"}


def _to_query(name: str, value: Any) -> str:
    if name in ("query", "intersects", "filter") or isinstance(value, dict):
        return json.dumps(value)
    if name == "sortby" and not isinstance(value, str):
        return ",".join(
            ("-" if rule.get("direction") == "desc" else "+") + rule["field"] for rule in value
        )
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body or b"{}")
    except ValueError as error:
        raise ApiError(400, f"Invalid JSON body: {error}") from None
    if not isinstance(document, dict):
        raise ApiError(400, "Invalid body, must be an object")
    return document


def _from_query(query: str) -> dict[str, Any]:
    """The parameters of a GET search as those of a POST."""
    asked: dict[str, Any] = dict(parse_qsl(query))
    for name in ("ids", "collections"):
        if name in asked:
            asked[name] = asked[name].split(",")
    if "bbox" in asked:
        try:
            asked["bbox"] = [float(value) for value in asked["bbox"].split(",")]
        except ValueError:
            raise ApiError(400, "Invalid bbox") from None
    for name in ("query", "intersects"):
        if name in asked:
            asked[name] = _json_object(asked[name].encode())
    if "sortby" in asked:
        asked["sortby"] = [
            {"field": rule.lstrip("+- "), "direction": "desc" if rule[0] == "-" else "asc"}
            for rule in asked["sortby"].split(",")
            if rule
        ]
    return asked


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _limit(value: Any) -> int:
    if value is None:
        return 10
    try:
        limit = int(value)
    except (TypeError, ValueError):
        raise ApiError(400, "Invalid limit value") from None
    if limit < 1:
        raise ApiError(400, "Invalid limit value")
    return min(limit, _MAX_LIMIT)


# What an item must satisfy


def _matcher(asked: Mapping[str, Any]) -> Callable[[dict[str, Any]], bool]:
    tests: list[Callable[[dict[str, Any]], bool]] = []
    if (ids := asked.get("ids")) is not None:
        if not _is_strings(ids):
            raise ApiError(400, "Invalid ids, must be an array of strings")
        tests.append(lambda item: item["id"] in ids)
    if asked.get("bbox") is not None and asked.get("intersects") is not None:
        raise ApiError(400, "Expected bbox OR intersects, not both")
    if (bbox := asked.get("bbox")) is not None:
        tests.append(functools.partial(_intersects, area=_bbox(bbox)))
    if (geometry := asked.get("intersects")) is not None:
        try:
            area = shape(geometry)
        except (AttributeError, KeyError, TypeError, ValueError, shapely.errors.ShapelyError):
            raise ApiError(400, "Invalid intersects geometry") from None
        tests.append(functools.partial(_intersects, area=area))
    if (interval := asked.get("datetime")) is not None:
        start, end = _interval(interval)
        tests.append(lambda item: start <= _moment(item["properties"]["datetime"]) <= end)
    for field, rules in _query(asked.get("query")):
        tests.append(functools.partial(_satisfies, field=field, rules=rules))
    return lambda item: all(test(item) for test in tests)


def _bbox(value: Any) -> shapely.Geometry:
    numeric = isinstance(value, list) and all(isinstance(part, int | float) for part in value)
    if not numeric or len(value) not in (4, 6):
        raise ApiError(400, "Invalid bbox, must have 4 or 6 points")
    west, south, east, north = value if len(value) == 4 else (*value[:2], *value[3:5])
    if south > north:
        raise ApiError(400, "Invalid bbox, SW latitude must be less than NE latitude")
    if west > east:
        return shapely.union(
            shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)
        )
    return shapely.box(west, south, east, north)


def _intersects(item: dict[str, Any], area: shapely.Geometry) -> bool:
    return bool(item.get("geometry")) and shapely.intersects(shape(item["geometry"]), area)


def _interval(value: Any) -> tuple[datetime, datetime]:
    """Inclusive bounds of ``t``, ``a/b``, ``../b``, ``a/..``, ``/b`` and ``a/``."""
    if not isinstance(value, str):
        raise ApiError(400, "Invalid datetime")
    first, slash, last = value.partition("/")
    if not slash:
        last = first
    if first in ("", "..") and last in ("", ".."):
        raise ApiError(400, f"Invalid datetime {value!r}: both ends are open")
    start = _rfc3339(first) if first not in ("", "..") else datetime.min.replace(tzinfo=UTC)
    end = _rfc3339(last) if last not in ("", "..") else datetime.max.replace(tzinfo=UTC)
    if start > end:
        raise ApiError(400, f"Invalid datetime {value!r}: it ends before it starts")
    return start, end


def _rfc3339(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        raise ApiError(400, f"Invalid datetime {text!r}") from None
    if moment.tzinfo is None:
        raise ApiError(400, f"Invalid datetime {text!r}: not RFC 3339")
    return moment


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda value, other: value == other,
    "neq": lambda value, other: value != other,
    "lt": lambda value, other: value < other,
    "lte": lambda value, other: value <= other,
    "gt": lambda value, other: value > other,
    "gte": lambda value, other: value >= other,
    "in": lambda value, other: value in other,
    "startsWith": lambda value, other: str(value).startswith(other),
    "endsWith": lambda value, other: str(value).endswith(other),
    "contains": lambda value, other: other in value,
}
_RANGES = ("eq", "neq", "lt", "lte", "gt", "gte")


def _query(value: Any) -> Iterable[tuple[str, dict[str, Any]]]:
    if value is None:
        return []
    if not isinstance(value, dict) or not all(isinstance(rules, dict) for rules in value.values()):
        raise ApiError(400, "Invalid query, must be an object of objects")
    for rules in value.values():
        if unknown := set(rules) - set(_OPERATORS):
            raise ApiError(400, f"Invalid query operator {sorted(unknown)[0]!r}")
    return list(value.items())


def _satisfies(item: dict[str, Any], field: str, rules: Mapping[str, Any]) -> bool:
    value = _field(item, field)
    if value is None:
        return False
    for operator, other in rules.items():
        left, right = value, other
        if operator in _RANGES and isinstance(value, str) and isinstance(other, str):
            left, right = _comparable(value), _comparable(other)
        try:
            if not _OPERATORS[operator](left, right):
                return False
        except TypeError:
            return False
    return True


def _comparable(text: str) -> Any:
    """A date as a date, so that other spellings of one moment are equal; else the text."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _field(item: Mapping[str, Any], name: str) -> Any:
    name = name.removeprefix("properties.")
    return item[name] if name in ("id", "collection") else item["properties"].get(name)


# Order and pages

Order = tuple[tuple[str, bool], ...]
"""(field, descending), most significant first."""

_NEWEST_FIRST: Order = (("datetime", True), ("id", True), ("collection", True))


def _order(value: Any) -> Order:
    if not value:
        return _NEWEST_FIRST
    try:
        order = [(rule["field"], rule.get("direction", "asc") == "desc") for rule in value]
    except (TypeError, KeyError, AttributeError):
        raise ApiError(400, "Invalid sortby") from None
    # Ties are broken, or a page could begin anywhere.
    return (*order, *_NEWEST_FIRST[1:])


def _sort_key(item: Mapping[str, Any], order: Order) -> list[Any]:
    return [_field(item, field) for field, _ in order]


def _compare(left: list[Any], right: list[Any], order: Order) -> int:
    for a, b, (_, descending) in zip(left, right, order, strict=True):
        if a == b:
            continue
        if a is None or b is None:
            return 1 if a is None else -1
        try:
            before = a < b
        except TypeError:
            before = str(a) < str(b)
        return -1 if before != descending else 1
    return 0


def _encode(key: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def _decode(token: Any, length: int) -> list[Any]:
    try:
        key = json.loads(base64.urlsafe_b64decode(f"{token}==="))
    except ValueError:
        raise ApiError(400, "Invalid next token") from None
    if not isinstance(key, list) or len(key) != length:
        raise ApiError(400, "Invalid next token")
    return key
