"""Searching a small STAC API on the loopback, which misbehaves as asked."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import shapely

from catalog.errors import ConfigError, ItemError, SourceError, UsageError
from catalog.item import scene_from_item
from catalog.item_file import read_items
from catalog.stac_api import redact_url
from catalog.stac_query import StacQuery, item_judge
from catalog.stac_search import SearchCounts, search_items

ITEM_SEARCH = "https://api.stacspec.org/v1.0.0/item-search"
QUERY = f"{ITEM_SEARCH}#query"
FILTER = "https://api.stacspec.org/v1.0.0-rc.2/item-search#filter"
CQL2_JSON = "http://www.opengis.net/spec/cql2/1.0/conf/cql2-json"


def make_item(
    day: int, tile: str = "13TDE", *, cloud: float | None = 10, west: float = -106.0, **extra: Any
) -> dict[str, Any]:
    east = west + 1 if west + 1 <= 180 else west + 1 - 360
    ring = [[west, 40], [east, 40], [east, 41], [west, 41], [west, 40]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"S2A_T{tile}_202404{day:02}T174230_L2A",
        "collection": "sentinel-2-c1-l2a",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [west, 40, east, 41],
        "links": [],
        "assets": {},
        "properties": {
            "datetime": f"2024-04-{day:02}T17:52:57.105000Z",
            "grid:code": f"MGRS-{tile}",
            "eo:cloud_cover": cloud,
            # pystac's migration would turn this into proj:code.
            "proj:epsg": 32613,
        },
        **extra,
    }


class Api:
    """A STAC API with ``items``; ``answer`` may take over any request."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.conforms: list[str] = [ITEM_SEARCH, QUERY]
        self.collections = ["sentinel-2-c1-l2a", "naip"]
        self.page = 3
        self.obeys = True
        self.repeats = 0
        self.post = True
        self.bodies: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.answer: Callable[[str, str], tuple[int, str, dict[str, str]] | None] = lambda *_: None
        self.url = ""

    def landing(self) -> dict[str, Any]:
        def link(rel: str, path: str, **more: str) -> dict[str, str]:
            return {
                "rel": rel,
                "href": self.url + path,
                "type": "application/geo+json" if rel == "search" else "application/json",
                **more,
            }

        links = [link("self", ""), link("root", ""), link("data", "/collections")]
        links.append(link("search", "/search", method="GET"))
        if self.post:
            links.append(link("search", "/search", method="POST"))
        return {
            "type": "Catalog",
            "id": "test",
            "description": "test",
            "stac_version": "1.0.0",
            "conformsTo": self.conforms,
            "links": links,
        }

    def search(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.bodies.append(asked)
        found = sorted(self.items, key=lambda item: item["properties"]["datetime"], reverse=True)
        if self.obeys:
            for name, test in asked.get("query", {}).items():
                ((operator, value),) = test.items()
                found = [
                    item
                    for item in found
                    if {
                        "eq": lambda a, b: a == b,
                        "in": lambda a, b: a in b,
                        "lte": lambda a, b: a is not None and a <= b,
                    }[operator](item["properties"].get(name), value)
                ]
            if ids := asked.get("ids"):
                found = [item for item in found if item["id"] in ids]
            if box := asked.get("bbox"):
                area = shapely.box(*box)
                found = [
                    item
                    for item in found
                    if shapely.box(*item["bbox"]).intersects(area)
                    or (
                        item["bbox"][0] > item["bbox"][2]
                        and (box[2] >= item["bbox"][0] or box[0] <= item["bbox"][2])
                    )
                ]
        start = int(asked.get("token", "next:0").removeprefix("next:"))
        size = min(int(asked.get("limit", 10)), self.page)
        page = found[max(start - self.repeats, 0) if start else 0 : start + size]
        links = []
        if start + size < len(found):
            body = {**asked, "token": f"next:{start + size}"}
            links = [{"rel": "next", "href": f"{self.url}/search", "method": "POST", "body": body}]
        return {"type": "FeatureCollection", "features": page, "links": links}

    def respond(self, path: str, body: str) -> tuple[int, str, dict[str, str]]:
        self.requests.append(path)
        taken = self.answer(path, body)
        if taken is not None:
            return taken
        if path == "/":
            return 200, json.dumps(self.landing()), {}
        if path == "/collections":
            listed = [{"id": name} for name in self.collections]
            return 200, json.dumps({"collections": listed, "links": []}), {}
        if path.startswith("/collections/"):
            known = path.removeprefix("/collections/") in self.collections
            return (200 if known else 404), json.dumps({"description": "Collection not found"}), {}
        return 200, json.dumps(self.search(json.loads(body or "{}"))), {}


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            path = "/" + self.path.partition("?")[0].strip("/")
            status, text, headers = api.respond(path, body)
            data = text.encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(api: Api, counts: SearchCounts | None = None, **question: Any) -> list[dict[str, Any]]:
    query = StacQuery.parse(collection="sentinel-2-c1-l2a", **question)
    return list(search_items(api.url, query, counts=counts, timeout=5, retries=2))


def days(items: list[dict[str, Any]]) -> list[int]:
    return [int(item["properties"]["datetime"][8:10]) for item in items]


def test_pages_newest_first_as_served_each_item_once(api: Api) -> None:
    api.items = [make_item(day) for day in range(1, 11)]
    api.repeats = 1
    counts = SearchCounts()
    found = ask(api, counts)
    assert days(found) == list(range(10, 0, -1))
    assert found[0] == api.items[-1]
    assert counts.received == 13
    assert counts.repeated == 3
    assert counts.dropped == {}
    assert counts.requests == len(api.requests) == 1 + 1 + 4


def test_lazy_and_limited(api: Api) -> None:
    api.items = [make_item(day) for day in range(1, 11)]
    query = StacQuery.parse(collection="sentinel-2-c1-l2a")
    items = search_items(api.url, query)
    assert api.requests == []
    next(items)
    assert api.requests.count("/search") == 1
    items.close()  # type: ignore[attr-defined]
    assert days(ask(api, limit=4)) == [10, 9, 8, 7]
    assert api.bodies[-1]["limit"] == 4


def test_limit_counts_what_matches(api: Api) -> None:
    api.items = [make_item(day, cloud=day * 9) for day in range(1, 11)]
    api.conforms = [ITEM_SEARCH]
    assert days(ask(api, max_cloud_cover=30, limit=2)) == [3, 2]


def test_tile_and_cloud_go_in_the_query_extension(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    api.items = [make_item(day, tile, cloud=day) for day in (1, 2) for tile in ("13TDE", "1CCV")]
    counts = SearchCounts()
    assert len(ask(api, counts, tiles=["13TDE"], max_cloud_cover=1)) == 1
    assert api.bodies[-1]["query"] == {
        "grid:code": {"eq": "MGRS-13TDE"},
        "eo:cloud_cover": {"lte": 1},
    }
    assert counts.dropped == {}
    # Zones of one digit are asked in both spellings.
    assert len(ask(api, tiles=["01ccv"])) == 2
    assert api.bodies[-1]["query"] == {"grid:code": {"in": ["MGRS-01CCV", "MGRS-1CCV"]}}
    assert not any("filter" in body for body in api.bodies)
    assert caplog.records == []


def test_filter_only_where_it_is_declared(api: Api) -> None:
    api.conforms = [ITEM_SEARCH, FILTER, CQL2_JSON, QUERY]
    for name in ("13TDE", "13TDF"):
        item = make_item(1, name)
        item["properties"]["s2:mgrs_tile"] = item["properties"].pop("grid:code")[5:]
        api.items.append(item)
    assert len(ask(api, tiles="13TDE", max_cloud_cover=50)) == 1
    assert api.bodies[-1]["filter-lang"] == "cql2-json"
    assert api.bodies[-1]["filter"] == {
        "op": "and",
        "args": [
            {"op": "=", "args": [{"property": "s2:mgrs_tile"}, "13TDE"]},
            {"op": "<=", "args": [{"property": "eo:cloud_cover"}, 50]},
        ],
    }


def test_neither_query_nor_filter_is_checked_here(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    api.conforms = [ITEM_SEARCH]
    api.items = [make_item(day, tile) for day in (1, 2) for tile in ("13TDE", "13TDF")]
    counts = SearchCounts()
    with caplog.at_level(logging.WARNING):
        assert len(ask(api, counts, tiles="13TDE")) == 2
    assert "declares neither query nor filter" in caplog.text
    assert counts.dropped == {"tiles": 2}


def test_a_server_that_ignores_everything_is_not_believed(api: Api) -> None:
    api.obeys = False
    api.items = [
        make_item(1),
        make_item(2, cloud=90),
        make_item(3, cloud=None),
        make_item(4, "13TDF"),
        make_item(5, west=0.0),
        make_item(20),
        make_item(6, collection="naip"),
        make_item(7, geometry=None),
    ]
    counts = SearchCounts()
    found = ask(
        api, counts, tiles="13TDE", bbox="-107,39,-104,42", datetime="2024-04-01/2024-04-10",
        max_cloud_cover=50,
    )  # fmt: skip
    # What cannot be judged comes through: the border says what is wrong with it.
    assert days(found) == [7, 1]
    assert counts.dropped == {
        "collection": 1, "max_cloud_cover": 2, "tiles": 1, "bbox": 1, "datetime": 1,
    }  # fmt: skip


def test_a_server_that_ignores_the_question_is_left(api: Api) -> None:
    api.obeys = False
    api.page = 500
    api.items = [
        make_item(1, "13TDF", id=f"S2A_T13TDF_{number}_20240401T174230_L2A")
        for number in range(5000)
    ]
    with pytest.raises(SourceError, match=r"ignores part of the question \(tiles\)"):
        ask(api, tiles="13TDE")


def test_exact_ends_of_a_period(api: Api) -> None:
    api.items = [make_item(day) for day in (1, 2)]
    when = "2024-04-01T17:52:57.105Z/2024-04-02T17:52:57.104999Z"
    assert days(ask(api, datetime=when)) == [1]
    assert api.bodies[-1]["datetime"] == "2024-04-01T17:52:57Z/2024-04-02T17:52:58Z"
    assert days(ask(api, datetime="2024-04")) == [2, 1]
    assert api.bodies[-1]["datetime"] == "2024-04-01T00:00:00Z/2024-05-01T00:00:00Z"
    assert days(ask(api, datetime="2024-04-02/..")) == [2]
    assert api.bodies[-1]["datetime"] == "2024-04-02T00:00:00Z/.."


def test_over_the_antimeridian_each_side_is_asked_and_each_item_given_once(api: Api) -> None:
    api.items = [
        make_item(1, "60KWF", west=178.5),
        make_item(2, "01KAB", west=179.5),
        make_item(3, "01KBB", west=-179.5),
        make_item(4, west=0.0),
    ]
    found = ask(api, bbox=(178, 39, -178, 42))
    assert sorted(days(found)) == [1, 2, 3]
    assert [body["bbox"] for body in api.bodies] == [[178, 39, 180, 42], [-180, 39, -178, 42]]


def test_many_ids_go_in_several_searches(api: Api) -> None:
    api.items = [make_item(1, id=f"scene-{number}") for number in range(250)]
    api.page = 1000
    found = ask(api, ids=[f"scene-{number}" for number in range(0, 250)], tiles="13TDE")
    assert len(found) == 250
    assert [len(body["ids"]) for body in api.bodies] == [100, 100, 50]


def test_get_where_there_is_no_post(api: Api) -> None:
    api.post = False
    api.items = [make_item(1)]
    assert len(ask(api)) == 1


def test_unknown_collection_lists_what_there_is(api: Api) -> None:
    with pytest.raises(UsageError, match=r"unknown collection 'sentinel-9'.*-c1-l2a, naip"):
        list(search_items(api.url, StacQuery.parse(collection="sentinel-9")))
    with pytest.raises(UsageError, match=r"name a collection.*sentinel-2-c1-l2a, naip"):
        list(search_items(api.url, StacQuery.parse()))


def test_503_then_fine(api: Api) -> None:
    api.items = [make_item(1)]
    failures = iter([503, 429, None])

    def answer(path: str, _: str) -> tuple[int, str, dict[str, str]] | None:
        status = next(failures, None) if path == "/search" else None
        return (status, "busy", {"Retry-After": "0"}) if status else None

    api.answer = answer
    assert days(ask(api)) == [1]
    assert api.requests.count("/search") == 3


@pytest.mark.parametrize(
    ("path", "status", "body", "error", "message"),
    [
        ("/", 200, "<html>hello</html>", SourceError, "an HTML page, not JSON"),
        ("/", 200, "hello", SourceError, "not JSON"),
        ("/", 200, "[]", SourceError, "not an object"),
        ("/", 200, "{}", SourceError, "is not a STAC API"),
        ("/", 200, '{"type": "Feature", "id": 5}', SourceError, "is not a STAC API"),
        ("/", 404, "<h1>no</h1>", SourceError, "answered 404$"),
        ("/", 403, '{"message": "no key"}', ConfigError, "answered 403: no key .it wants cred"),
        ("/search", 400, '{"description": "bad\\n box"}', UsageError, "refuses.*400: bad box"),
        ("/search", 503, "busy", SourceError, "answered 503: busy"),
        ("/search", 200, "<html>", SourceError, "an HTML page, not JSON"),
        ("/search", 200, '{"features": 5}', SourceError, "without features"),
        ("/search", 200, '{"description": "sorry"}', SourceError, "without features"),
        ("/search", 200, '{"features": [5], "links": 5}', SourceError, "does not answer as"),
    ],
)
def test_bad_answers_are_one_clear_line(
    api: Api, path: str, status: int, body: str, error: type[Exception], message: str
) -> None:
    api.answer = lambda at, _: (status, body, {"Retry-After": "0"}) if at == path else None
    with pytest.raises(error, match=message) as caught:
        ask(api)
    assert "\n" not in str(caught.value)
    assert api.url in str(caught.value)


def test_a_static_catalog_has_no_search(api: Api) -> None:
    landing = {**api.landing(), "conformsTo": [], "links": []}
    api.answer = lambda path, _: (200, json.dumps(landing), {})
    with pytest.raises(SourceError, match="without a search"):
        ask(api)


def test_pages_that_go_in_circles(api: Api) -> None:
    api.items = [make_item(1)]
    link = {"rel": "next", "href": f"{api.url}/search", "method": "POST", "body": {}}
    page = json.dumps({"features": api.items, "links": [link]})
    api.answer = lambda path, _: (200, page, {}) if path == "/search" else None
    with pytest.raises(SourceError, match="goes in circles"):
        ask(api)


def test_an_empty_page_is_not_the_end(api: Api) -> None:
    def link(number: int) -> dict[str, Any]:
        body = {"token": number}
        return {"rel": "next", "href": f"{api.url}/search", "method": "POST", "body": body}

    answers: Iterator[dict[str, Any]] = iter(
        [
            {"features": [make_item(2)], "links": [link(1)]},
            {"features": [], "links": [link(2)]},
            {"features": [make_item(1)], "links": []},
        ]
    )
    api.answer = lambda path, _: (200, json.dumps(next(answers)), {}) if path == "/search" else None
    assert days(ask(api)) == [2, 1]
    empty = json.dumps({"features": [], "links": [link(1)]})
    api.answer = lambda path, _: (200, empty, {}) if path == "/search" else None
    with pytest.raises(SourceError, match="goes in circles"):
        ask(api)


def test_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://user:SECRET@127.0.0.1:{unused.getsockname()[1]}/?token=SECRET"
        with pytest.raises(SourceError, match=r"cannot reach .*: Connection refused$") as caught:
            list(search_items(url, StacQuery.parse(collection="x"), timeout=2, retries=0))
    assert "SECRET" not in str(caught.value)


def test_not_tls(api: Api) -> None:
    url = api.url.replace("http:", "https:")
    with pytest.raises(SourceError, match=r"TLS failure") as caught:
        list(search_items(url, StacQuery.parse(collection="x"), timeout=2, retries=0))
    assert isinstance(ssl.SSLError(), OSError)
    assert "\n" not in str(caught.value)


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SourceError, match=r"timed out|timeout"):
            list(search_items(url, StacQuery.parse(collection="x"), timeout=0.2, retries=0))


@pytest.mark.parametrize("url", ["catalog.json", "ftp://x/", "", "http://", "http://[x"])
def test_not_an_address(url: str) -> None:
    with pytest.raises(UsageError, match="malformed STAC address"):
        list(search_items(url, StacQuery.parse(collection="x")))


def test_redacted_addresses() -> None:
    assert redact_url("https://u:p@host:1/a?sig=S&se=2#f") == "https://host:1/a?sig=…&se=…"


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"datetime": "2024-13"}, "malformed datetime '2024-13'"),
        ({"datetime": 2024}, "malformed datetime 2024"),
        ({"bbox": "1,2,3"}, "malformed bbox"),
        ({"bbox": (0, 91, 1, 92)}, "latitudes lie within ±90"),
        ({"tiles": ["13TDE", "XX"]}, "malformed tile 'XX'"),
        ({"max_cloud_cover": 101}, "malformed cloud cover 101"),
        ({"max_cloud_cover": "many"}, "malformed cloud cover"),
        ({"intersects": {"type": "Circle"}}, "malformed geometry"),
        ({"intersects": {}, "bbox": "0,0,1,1"}, "not both"),
        ({"limit": 0}, "malformed limit 0"),
        ({"limit": "x"}, "malformed limit 'x'"),
        ({"ids": [""]}, "malformed item id ''"),
        ({"collection": ""}, "malformed collection ''"),
    ],
)
def test_wrong_questions(question: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        StacQuery.parse(**question)
    assert "\n" not in str(caught.value)


def test_questions_survive_json() -> None:
    area = {"type": "Point", "coordinates": [185, 0]}
    for query in (
        StacQuery.parse(),
        StacQuery.parse(collection="c", tiles="1ccv", datetime="2023", ids="a", limit=3),
        StacQuery.parse(bbox="170,0,-170,5", max_cloud_cover=20),
        StacQuery.parse(intersects={"type": "Feature", "geometry": area}),
    ):
        assert StacQuery.parse(**json.loads(json.dumps(query.as_dict()))) == query
    assert query.intersects == {"type": "Point", "coordinates": [-175.0, 0.0]}


def test_judging_by_geometry_and_id() -> None:
    area = {"type": "Point", "coordinates": [-105.5, 40.5]}
    assert item_judge(StacQuery.parse(intersects=area))(make_item(1)) is None
    assert item_judge(StacQuery.parse(intersects=area))(make_item(1, west=0)) == "intersects"
    assert item_judge(StacQuery.parse(ids=["x"]))(make_item(1)) == "ids"


ITEMS = [make_item(day) for day in range(1, 4)]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"type": "FeatureCollection", "features": ITEMS, "numberMatched": 3}),
        json.dumps({"links": [{"features": []}], "features": ITEMS}, indent=2),
        json.dumps(ITEMS, indent=1),
        "\n".join(map(json.dumps, ITEMS)) + "\n",
        "\ufeff" + "\r\n\r\n".join(map(json.dumps, ITEMS)),
        "".join("\x1e" + json.dumps(item) + "\n" for item in ITEMS),
    ],
)
@pytest.mark.parametrize("chunk", [1, 7, 1 << 18])
def test_items_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, chunk: int
) -> None:
    monkeypatch.setattr("catalog.item_file._CHUNK", chunk)
    (tmp_path / "items").write_text(text)
    assert list(read_items(tmp_path / "items")) == ITEMS


def test_one_item_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "item.json").write_text(json.dumps(ITEMS[0], indent=2))
    assert list(read_items(tmp_path / "item.json")) == ITEMS[:1]


@pytest.mark.parametrize(
    ("content", "message", "good"),
    [
        (b"", "holds no item", 0),
        (b'{"type": "FeatureCollection", "features": []}', "holds no item", 0),
        (json.dumps(ITEMS)[:-20].encode(), "not JSON after entry 2", 2),
        (json.dumps(ITEMS[0]).encode() + b"\n{oops", "not JSON after entry 1", 1),
        (b'[{"type": "Catalog"}]', "entry 1 is not a STAC item", 0),
        (b"\x1f\x8b\x08\x00", "is gzip: unpack it", 0),
        (b'{"type": "Feature", "id": "x", "n": NaN}', "entry 1 .*: NaN is not JSON", 0),
        (b"[5]", "entry 1 is not a STAC item", 0),
        (b"hello", "not JSON after entry 0", 0),
        (b'{"type": "Feature",}', "not JSON", 0),
        (b"[" * 100_000, "nested too deeply|not JSON", 0),
        (b"\xff\xfe\x00", "not UTF-8", 0),
        (None, "No such file", 0),
    ],
)
def test_files_that_are_not_items(
    tmp_path: Path, content: bytes | None, message: str, good: int
) -> None:
    path = tmp_path / "items.json"
    if content is not None:
        path.write_bytes(content)
    read: list[dict[str, Any]] = []
    with pytest.raises(UsageError, match=message) as caught:
        read.extend(read_items(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    items = read_items(path)
    assert [next(items) for _ in range(good)] == ITEMS[:good]


@pytest.mark.parametrize("kind", ["lines", "list", "collection"])
@pytest.mark.parametrize(
    "bad",
    [
        '{"type": "Feature", "id": "bad", "n": NaN}',
        '{"type": "Feature", "id": "bad", "n": {"x": [Infinity]}}',
        '{"type": "Feature", "id": "bad", "n": ' + "9" * 10_000 + "}",
        '{"type": "Feature", "id": "bad", "n": ' + "[" * 200_000 + "]" * 200_000 + "}",
        '{"type": "Feature", "id": "bad", "n": "\udcff"}',
        '{"type": "Feature", "id": "bad", oops}',
        '{"type": "Feature", "id": "bad", "n": [1,],}',
        '{"type": "Catalog", "id": "bad"}',
        "5",
        "null",
        "[]",
    ],
)
@pytest.mark.parametrize("chunk", [7, 1 << 18])
def test_one_bad_entry_of_a_file_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, bad: str, chunk: int
) -> None:
    if kind == "lines" and bad == "[]":
        pytest.skip("an empty list among lines holds nothing")
    if chunk == 7 and len(bad) > 1_000:
        pytest.skip("slow, and the same")
    monkeypatch.setattr("catalog.item_file._CHUNK", chunk)
    entries = [json.dumps(ITEMS[0]), bad, json.dumps(ITEMS[1]), bad, json.dumps(ITEMS[2])]
    text = {
        "lines": "\n".join(entries),
        "list": f"[{','.join(entries)}]",
        "collection": f'{{"features": [{",".join(entries)}], "links": []}}',
    }[kind]
    path = tmp_path / "items"
    path.write_text(text, errors="surrogateescape")
    found = list(read_items(path))
    assert [found[0], found[2], found[4]] == ITEMS
    for entry in (found[1], found[3]):
        with pytest.raises(ItemError):
            scene_from_item(entry)


def test_relative_hrefs_are_resolved(tmp_path: Path) -> None:
    hrefs = ["./B04.tif", "../a b/B04.tif", "/x/B04.tif", "https://h/B04.tif", "s3://b/k.tif"]
    assets: dict[str, Any] = {str(at): {"href": href} for at, href in enumerate(hrefs)}
    assets |= {"odd": 5, "none": {"href": None}}
    item = make_item(1, assets=assets)
    links = [5, {"rel": "self"}, {"rel": "self", "href": "https://stac.org/c/items/x.json"}]
    in_bucket = [{"rel": "self", "href": "s3://bucket/c/items/x.json"}]
    path = tmp_path / "items.ndjson"
    path.write_text(
        "\n".join(json.dumps(item | {"links": there}) for there in ([], links, in_bucket))
    )
    read = [
        [found["assets"][str(at)]["href"] for at in range(len(hrefs))] for found in read_items(path)
    ]
    here = tmp_path.as_uri()
    assert read == [
        [f"{here}/B04.tif", f"{here.rpartition('/')[0]}/a b/B04.tif", "file:///x/B04.tif",
         *hrefs[3:]],
        ["https://stac.org/c/items/B04.tif", "https://stac.org/c/a b/B04.tif",
         "https://stac.org/x/B04.tif", *hrefs[3:]],
        ["s3://bucket/c/items/B04.tif", "s3://bucket/c/a b/B04.tif", "s3://bucket/x/B04.tif",
         *hrefs[3:]],
    ]  # fmt: skip
