"""STAC APIs that lie: what they have is found whole, or the search ends with an error."""

from __future__ import annotations

import gzip
import json
import logging
import random
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lying_api import COLLECTION, Json, LyingApi, item, serving

from catalog import stac_answer, stac_api, stac_pages, stac_whole
from catalog.errors import CatalogError, ItemError, SourceError
from catalog.item import scene_from_item
from catalog.patience import Patience
from catalog.stac_query import StacQuery
from catalog.stac_search import SearchCounts, search_items
from catalog.unreadable import UnreadableItem


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[LyingApi]:
    monkeypatch.setattr(stac_api, "PATIENCE", Patience(first=0.001, longest=0.001))
    with serving(LyingApi()) as made:
        yield made


def have(api: LyingApi, count: int, *, cap: int = 100, total: bool = True) -> LyingApi:
    fresh = LyingApi(count, cap=cap, total=total)
    api.items, api.cap, api.total = fresh.items, cap, total
    return api


def ask(api: LyingApi, *, size: int = 100, **how: Any) -> list[Json]:
    question = {name: how.pop(name) for name in ("ids", "limit", "datetime") if name in how}
    query = StacQuery.parse(collection=COLLECTION, **question)
    return list(search_items(api.url, query, page_size=size, timeout=5, retries=1, **how))


def names(items: list[Json]) -> list[str]:
    return sorted(str(one.get("id")) for one in items)


def without_next(asked: Json, page: Json) -> Json:
    return page | {"links": []}


def told(**members: Any) -> Callable[[Json, Json], Json]:
    """A page that says something else of itself."""
    return lambda asked, page: page | members


def both(*lies: Callable[[Json, Json], Json]) -> Callable[[Json, Json], Json]:
    def lie(asked: Json, page: Json) -> Json:
        for one in lies:
            page = one(asked, page)
        return page

    return lie


def at_token(token: int, lie: Callable[[Json, Json], Any]) -> Callable[[Json, Json], Any]:
    return lambda asked, page: lie(asked, page) if asked.get("token", 0) == token else page


def once(lie: Callable[[Json, Json], Any]) -> Callable[[Json, Json], Any]:
    done: list[int] = []

    def first(asked: Json, page: Json) -> Any:
        if done:
            return page
        done.append(1)
        return lie(asked, page)

    return first


def shuffled(api: LyingApi) -> None:
    random.Random(5).shuffle(api.items)


def as_context(asked: Json, page: Json) -> Json:
    matched = page.pop("numberMatched")
    return page | {"context": {"matched": matched, "returned": len(page["features"])}}


def of_its_page(asked: Json, page: Json) -> Json:
    return page | {"numberMatched": len(page["features"])}


def window(most: int) -> Callable[[Json, Json], Json]:
    """Elasticsearch's: no page beyond the first so many items, and no count beyond them."""

    def lie(asked: Json, page: Json) -> Json:
        if asked.get("token", 0) + len(page["features"]) >= most:
            page = page | {"links": []}
        return page | {"numberMatched": min(page["numberMatched"], most)}

    return lie


def lacking(number: int, *, always: bool) -> Callable[[Json, Json], Json]:
    """One item is left out, of all answers or of all but those for a shorter time."""
    gone = item(number)["id"]

    def lie(asked: Json, page: Json) -> Json:
        if always or "datetime" not in asked:
            page["features"] = [one for one in page["features"] if one["id"] != gone]
        return page

    return lie


Setup = Callable[[LyingApi], None]


def lying(lie: Callable[[Json, Json], Any]) -> Setup:
    return lambda api: setattr(api, "lie", lie)


def all_of(*setups: Setup) -> Setup:
    return lambda api: [setup(api) for setup in setups] and None


HONEST: dict[str, tuple[int, int, bool, Setup, int]] = {
    # items, longest page, total known, what else is odd, searches that it takes
    "one page": (40, 100, True, lambda api: None, 1),
    "one full page": (100, 100, True, lambda api: None, 2),
    "two full pages": (200, 100, True, lambda api: None, 2),
    "oldest first": (130, 100, True, lambda api: api.items.reverse(), 2),
    "nothing": (0, 100, True, lambda api: None, 1),
    "nothing, no total": (0, 100, False, lambda api: None, 1),
    "two, no total": (2, 100, False, lambda api: None, 1),
    "a short last page, no total": (130, 100, False, lambda api: None, 2),
    "a full last page, no total": (200, 100, False, lambda api: None, 3),
    "a full page, no total": (100, 100, False, lambda api: None, 2),
    "the server's own size, no total": (30, 10, False, lambda api: None, 4),
    "one page of its own size, no total": (10, 10, False, lambda api: None, 2),
    "in no order, no total": (100, 100, False, shuffled, 2),
    "a total as text": (130, 100, True, lying(lambda a, p: p | {"numberMatched": "130"}), 2),
    "a total that shrinks": (130, 100, True, lying(at_token(0, told(numberMatched=140))), 2),
    "a total that is less": (130, 100, True, lying(told(numberMatched=3)), 2),
    "a total that is -1": (130, 100, True, lying(told(numberMatched=-1)), 2),
    "a total that is null": (130, 100, True, lying(told(numberMatched=None)), 2),
    "a total that is a list": (130, 100, True, lying(told(numberMatched=[])), 2),
    "a total that is true": (130, 100, True, lying(told(numberMatched=True)), 2),
    "a total that is NaN": (130, 100, True, lying(told(numberMatched=float("nan"))), 2),
    "numberReturned is text": (130, 100, True, lying(told(numberReturned="many")), 2),
    "numberReturned is more, total known": (130, 100, True, lying(told(numberReturned=500)), 2),
    "a total of its page, no next": (3, 100, True, lying(of_its_page), 1),
}


@pytest.mark.parametrize("name", HONEST)
def test_what_is_whole_costs_one_more_request_at_most(api: LyingApi, name: str) -> None:
    count, cap, total, setup, searches = HONEST[name]
    setup(have(api, count, cap=cap, total=total))
    counts = SearchCounts()
    found = ask(api, counts=counts)
    assert names(found) == names(api.items)
    assert len(api.searches) == searches
    assert counts.requests == searches + 2


HEALED: dict[str, tuple[int, int, bool, Setup]] = {
    "no next link": (130, 100, True, lying(without_next)),
    "no next link, oldest first": (
        130, 100, True, all_of(lying(without_next), lambda api: api.items.reverse())),
    "no next link, in no order": (130, 100, True, all_of(lying(without_next), shuffled)),
    "no next link, no total": (130, 100, False, lying(without_next)),
    "no next link, no total, oldest first": (
        130, 100, False, all_of(lying(without_next), lambda api: api.items.reverse())),
    "no next link, no total, in no order": (130, 100, False, all_of(lying(without_next), shuffled)),
    "no next link, a total of the page": (130, 100, True, lying(both(of_its_page, without_next))),
    "no next link, many pages": (1030, 100, True, lying(without_next)),
    "no next link, many pages, no total": (1030, 100, False, lying(without_next)),
    "no next link, the total in a context": (130, 100, True, lying(both(without_next, as_context))),
    "no next link, total under an old name": (
        130, 100, True, lying(both(
            without_next,
            lambda a, p: {k: v for k, v in p.items() if k != "numberMatched"}
            | {"search:metadata": {"matched": p["numberMatched"]}}))),
    "the second next link is lost": (450, 100, True, lying(at_token(100, without_next))),
    "the second next link is lost, no total": (450, 100, False, lying(at_token(100, without_next))),
    "pages cut at 10, no next": (130, 10, True, lying(without_next)),
    "pages cut at 10, no next, no total": (130, 10, False, lying(without_next)),
    "pages cut at 10 and one next link lost, no total": (
        130, 10, False, lying(at_token(50, without_next))),
    "pages end at a window of 1000": (1500, 100, True, lying(window(1000))),
    "an item is left out of the middle": (130, 100, True, lying(lacking(60, always=False))),
    "an item is left out, no total, numberReturned": (
        130, 100, False, lying(lambda a, p: lacking(60, always=False)(
            a, p | {"numberReturned": len(p["features"])}))),
    "an empty first page": (130, 100, True, lying(once(told(features=[], links=[])))),
    "an empty page amid others": (
        330, 100, True, lying(once(at_token(100, told(features=[]))))),
    "a total that grows while it is asked": (
        230, 100, True, lying(at_token(200, lambda a, p: p | {"numberMatched": 230}))),
}  # fmt: skip


@pytest.mark.parametrize("name", HEALED)
def test_what_is_missing_is_asked_for(api: LyingApi, name: str) -> None:
    count, cap, total, setup = HEALED[name]
    setup(have(api, count, cap=cap, total=total))
    found = ask(api)
    assert names(found) == names(api.items)


def test_an_item_that_arrives_while_pages_are_read(api: LyingApi) -> None:
    have(api, 130)
    pages: list[int] = []

    def arrives(asked: Json, page: Json) -> Json:
        pages.append(1)
        if len(pages) == 1:
            api.items.insert(0, item(500))
        return page

    api.lie = arrives
    assert len(ask(api)) == 131
    # The item beyond the first page, where newest come first, is one question away.
    assert len(api.searches) == 3


REFUSED: dict[str, tuple[int, Setup, str]] = {
    "an item is never given": (130, lying(lacking(60, always=True)), "129 items of 130"),
    "a total that is far too much": (130, lying(told(numberMatched=500)), "130 items of 500"),
    "always the same page": (
        130, lying(lambda a, p: told(features=api_items(100), links=[], numberMatched=130)(a, p)),
        "100 items of 130"),
    "no total, no next, no heed of time": (
        130, lying(lambda a, p: {"features": api_items(100), "links": []}), "page is full"),
    "always empty": (130, lying(told(features=[], links=[])), "0 items of 130"),
    "numberReturned is more": (
        50, lying(lambda a, p: {"features": p["features"], "numberReturned": 99}), "of 99 "),
    "features are an object": (9, lying(told(features={"0": 1})), "without features"),
    "features are null": (9, lying(told(features=None)), "without features"),
    "a page is a list": (9, lying(lambda a, p: [p]), "not an object"),
    "links are an object": (9, lying(told(links={"next": "x"})), "links are no list"),
    "links are text": (9, lying(told(links="next")), "links are no list"),
    "pages that shift for ever": (
        9, lying(lambda a, p: following(p, a, features=[item(1), item(2)])), "in circles"),
    "empty pages for ever": (
        9, lying(lambda a, p: following(p, a, features=[], numberMatched=9)), "in circles"),
    "items of junk for ever": (
        9, lying(lambda a, p: following(p, a, features=[1, None, "x", []] * 25)), "no.* end"),
    "items of junk with names for ever": (
        9, lying(lambda a, p: following(p, a, features=junk(a))), "does not come to an end"),
    "items for ever, though it says 9": (
        9, lying(lambda a, p: following(p, a, features=made_up(a), numberMatched=9)), "of 9 that"),
}  # fmt: skip


def api_items(count: int) -> list[Json]:
    return [item(number) for number in reversed(range(count))]


def following(page: Json, asked: Json, **members: Any) -> Json:
    """A page with a next link that leads to yet another."""
    token = int(asked.get("token", 0)) + 1
    body = {**asked, "token": token}
    return {"links": [{"rel": "next", "href": "/search", "method": "post", "body": body}]} | members


def junk(asked: Json) -> list[Json]:
    return [{"id": f"{asked.get('token', 0)}-{number}"} for number in range(500)]


def made_up(asked: Json) -> list[Json]:
    return [item(500 * int(asked.get("token", 0)) + number) for number in range(500)]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_whole_is_not_believed(api: LyingApi, name: str) -> None:
    count, setup, message = REFUSED[name]
    setup(have(api, count))
    with pytest.raises(SourceError, match=message) as caught:
        ask(api)
    assert "\n" not in str(caught.value)
    assert len(api.asked) < 400


IDS = [item(number)["id"] for number in range(120)]


@pytest.mark.parametrize(
    ("count", "cap", "total", "lie", "found"),
    [
        (120, 100, True, lambda a, p: p, 120),
        (118, 100, True, lambda a, p: p, 118),
        (118, 100, False, lambda a, p: p, 118),
        (0, 100, True, lambda a, p: p, 0),
        (120, 10, True, without_next, 120),
        (120, 10, False, without_next, 120),
        (113, 10, False, without_next, 113),
        (120, 100, True, once(told(features=[], links=[])), 120),
        (120, 100, True, told(features=[], links=[]), None),
        (120, 100, False, told(features=api_items(130)[:4], links=[]), None),
        (120, 100, True, lambda a, p: p | {"features": [1]}, None),
        (120, 100, False, lambda a, p: p | {"features": [{"id": 5}], "links": []}, None),
    ],
)
def test_ids_that_are_not_there_and_ids_that_did_not_come(
    api: LyingApi, count: int, cap: int, total: bool, lie: Any, found: int | None
) -> None:
    have(api, count, cap=cap, total=total).lie = lie
    if found is None:
        with pytest.raises(SourceError):
            ask(api, ids=IDS)
    else:
        assert len(ask(api, ids=IDS)) == found


def test_a_limit_asks_for_no_more(api: LyingApi) -> None:
    have(api, 130, total=False).lie = without_next
    assert len(ask(api, limit=100)) == 100
    assert len(api.searches) == 1


def other_than(url: str) -> str:
    return url.replace("127.0.0.1", "localhost")


NEXT: dict[str, tuple[Callable[[str], Json], str | None]] = {
    "relative": (lambda url: {"href": "search?token=100"}, None),
    "relative to the host": (lambda url: {"href": "/search?token=100"}, None),
    "only a query": (lambda url: {"href": "?token=100"}, None),
    "lower case post": (
        lambda url: {"href": "/search", "method": "post", "body": {"token": 100}}, None),
    "post that merges": (
        lambda url: {"href": url + "/search", "method": "POST", "merge": True,
                     "body": {"token": 100}}, None),
    "method null": (lambda url: {"href": "?token=100", "method": None}, None),
    "headers of its own": (
        lambda url: {"href": "?token=100", "headers": {"Authorization": "Bearer x", "X-A": "b"}},
        None),
    "rel in capitals": (lambda url: {"rel": "NEXT", "href": "?token=100"}, None),
    "DELETE": (lambda url: {"href": "/search", "method": "DELETE"}, "method 'DELETE'"),
    "put": (lambda url: {"href": "/search", "method": "put"}, "method 'put'"),
    "PATCH": (lambda url: {"href": "/search", "method": "PATCH"}, "method 'PATCH'"),
    "a method that is a list": (lambda url: {"href": "/search", "method": ["GET"]}, "method"),
    "a method with a line in it": (
        lambda url: {"href": "/search", "method": "GET / HTTP/1.1\r\nX: y"}, "method"),
    "a body that is text": (
        lambda url: {"href": "/search", "method": "POST", "body": "x"}, "no object"),
    "no address": (lambda url: {}, "without its address"),
    "an address that is a number": (lambda url: {"href": 5}, "without its address"),
    "another host": (lambda url: {"href": other_than(url) + "/search"}, "another host, localhost:"),
    "another host without a scheme": (lambda url: {"href": "//example.org/x"}, "example.org"),
    "another port": (lambda url: {"href": "http://127.0.0.1:1/search"}, "127.0.0.1:1"),
    "a name before the host": (
        lambda url: {"href": f"http://127.0.0.1:80@localhost:{url[-4:]}/"}, "another host"),
    "the metadata service": (
        lambda url: {"href": "http://169.254.169.254/latest"}, 'stac_hosts = \\["169.254.169.254'),
    "a file": (lambda url: {"href": "file:///etc/passwd"}, "'file', not http"),
    "a file by FTP": (lambda url: {"href": "ftp://127.0.0.1/x"}, "'ftp', not http"),
    "data": (lambda url: {"href": "data:application/json,{}"}, "not http|cannot reach"),
    "no host": (lambda url: {"href": "http:///search"}, "circles"),
    "a broken address": (lambda url: {"href": "http://[x"}, "without its address"),
}  # fmt: skip


@pytest.mark.parametrize("name", NEXT)
def test_next_links(api: LyingApi, name: str) -> None:
    link, message = NEXT[name]
    have(api, 130)
    odd = [5, None, [], {}, {"href": "x"}, {"rel": None}, {"rel": ["next"]}, {"rel": "prev"}]
    api.lie = lambda asked, page: (
        page if asked.get("token") else page | {"links": [*odd, {"rel": "next"} | link(api.url)]}
    )
    if message is None:
        assert names(ask(api)) == names(api.items)
        assert not {"Authorization", "X-A"} & set(api.headers[-1])
    else:
        with pytest.raises(SourceError, match=message) as caught:
            ask(api)
        assert "\n" not in str(caught.value)
        assert "\r" not in str(caught.value)
    assert {method for method, _, _ in api.asked} <= {"GET", "POST"}


def test_headers_of_a_link_are_said_to_be_left_out(
    api: LyingApi, caplog: pytest.LogCaptureFixture
) -> None:
    have(api, 130)
    link = {"rel": "next", "href": "?token=100", "headers": {"Cookie": "x"}}
    api.lie = at_token(0, told(links=[link]))
    with caplog.at_level(logging.WARNING):
        ask(api)
    assert "headers of a next link are not sent" in caplog.text


def test_another_host_that_settings_name(api: LyingApi) -> None:
    have(api, 130)
    place = other_than(api.url)
    api.lie = at_token(
        0, lambda a, p: told(links=[{"rel": "next", "href": f"{place}/search?token=100"}])(a, p)
    )
    with pytest.raises(SourceError, match="stac_hosts") as caught:
        ask(api)
    named = str(caught.value).partition('["')[2].partition('"]')[0]
    assert named == place.removeprefix("http://")
    for hosts in ([named], ["localhost"], [place]):
        assert names(ask(api, hosts=hosts)) == names(api.items)
    for hosts in (["localhost:1"], ["example.org"], ["ocalhost"]):
        with pytest.raises(SourceError, match="another host"):
            ask(api, hosts=hosts)


@pytest.mark.parametrize("rel", ["search", "data"])
@pytest.mark.parametrize(
    "href",
    [
        "file:///etc/hostname",
        "ftp://localhost/x",
        "http://169.254.169.254/x",
        "http://localhost:9/x",
    ],
)
def test_the_landing_page_leads_nowhere_else(api: LyingApi, rel: str, href: str) -> None:
    have(api, 3)
    link = {"rel": rel, "href": href, "type": "application/json"}
    api.landing = lambda page: (
        page | {"links": [link, *(kept for kept in page["links"] if kept["rel"] != rel)]}
    )
    with pytest.raises(CatalogError) as caught:
        ask(api)
    assert "\n" not in str(caught.value)
    assert "leads to" in str(caught.value)


def test_an_item_for_a_landing_page_opens_nothing(api: LyingApi) -> None:
    link = {"rel": "collection", "href": "file:///etc/hostname"}
    api.landing = lambda page: item(1, links=[link, {"rel": "root", "href": "/etc/hostname"}])
    with pytest.raises(SourceError, match="is not a STAC API"):
        ask(api)


def test_relative_links_of_a_landing_page(api: LyingApi) -> None:
    have(api, 130)
    odd: list[Any] = [5, {}, {"rel": "search"}, {"rel": "search", "href": "x", "method": "PUT"}]
    odd.append({"rel": "search", "href": "page.html", "type": "text/html"})
    api.landing = lambda page: (
        page
        | {
            "links": [
                *odd,
                {"rel": "search", "href": "./search"},
                {"rel": "data", "href": "collections/"},
            ]
        }
    )
    assert len(ask(api)) == 130


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", ["/", f"/collections/{COLLECTION}", "/search"])
def test_redirects_to_other_hosts_are_not_followed(api: LyingApi, path: str, status: int) -> None:
    have(api, 3)
    for place in (other_than(api.url), "http://127.0.0.1:9", "file:///etc/hostname"):
        there = f"{place}{path}"
        api.other = lambda at, there=there: (
            (status, {"Location": there}, b"") if at == path else None
        )
        with pytest.raises(SourceError, match=r"redirects, and leads to"):
            ask(api)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_on_its_own_host_keep_the_question(api: LyingApi, status: int) -> None:
    have(api, 130)
    api.other = lambda path: {
        "/": (status, {"Location": "/v1/"}, b""),
        "/v1": api.root(),
        "/search": (status, {"Location": "find"}, b""),
        "/find": api.page(api.asked[-1][2]),
    }.get(path)
    assert len(ask(api)) == 130
    assert api.asked[-1][0] == "POST"
    api.other = lambda path: (status, {"Location": path}, b"")
    with pytest.raises(SourceError, match="redirects without end"):
        ask(api)


def test_tls_is_not_left() -> None:
    hosts = stac_answer.Hosts.of("https://stac.example.org/v1", ["other.example.org"])
    for url in (
        "https://stac.example.org/search",
        "https://other.example.org:8443/",
        "https://STAC.example.org./",
    ):
        assert hosts.refusal(url) is None
    for url in ("http://stac.example.org/", "https://stac.example.org:8443/"):
        assert "stac_hosts" in str(hosts.refusal(url))
    assert 'stac_hosts = ["http://other.example.org"]' in str(
        hosts.refusal("http://other.example.org/")
    )
    allowed = stac_answer.Hosts.of("https://a.org", ["http://other.example.org"])
    assert allowed.refusal("http://other.example.org/x") is None
    up = stac_answer.Hosts.of("http://stac.example.org/v1")
    assert up.refusal("https://stac.example.org/search") is None
    assert up.refusal("https://stac.example.org.evil.net/")


def bomb(kind: str, size: int) -> bytes:
    flags = {"gzip": 31, "deflate": 15, "raw": -15}[kind]
    packer = zlib.compressobj(9, zlib.DEFLATED, flags)
    zeros = bytes(1 << 20).replace(b"\0", b" ")
    return b"".join([packer.compress(zeros) for _ in range(size >> 20)] + [packer.flush()])


@pytest.mark.parametrize("path", ["/", f"/collections/{COLLECTION}", "/search"])
@pytest.mark.parametrize("kind", ["gzip", "deflate", "raw", "endless", "members"])
def test_bombs_and_bodies_without_end(
    api: LyingApi, monkeypatch: pytest.MonkeyPatch, path: str, kind: str
) -> None:
    monkeypatch.setattr("catalog.stac_pages.PAGE_BYTES", 4 << 20)
    monkeypatch.setattr("catalog.stac_api.StacTransport.document.__kwdefaults__", {"most": 2 << 20})
    have(api, 3)

    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 65_536

    body: Any = endless
    headers = {}
    if kind == "members":
        body = gzip.compress(b"") * 5_000
    elif kind != "endless":
        body = bomb(kind, 64 << 20)
        assert len(body) < 100_000
    if kind != "endless":
        headers = {
            "Content-Encoding": "gzip" if kind == "members" else kind.replace("raw", "deflate")
        }
    api.other = lambda at: (200, headers, body) if at == path else None
    with pytest.raises(SourceError, match="answered with more than"):
        ask(api)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip, gzip", "compress", "x"])
def test_encodings_that_were_not_asked_for(api: LyingApi, encoding: str) -> None:
    have(api, 3)
    api.lie = lambda asked, page: (200, {"Content-Encoding": encoding}, b"\x1f\x8b" * 50)
    with pytest.raises(SourceError, match="not asked for"):
        ask(api)
    assert {headers["Accept-Encoding"] for headers in api.headers} == {"gzip, deflate"}


@pytest.mark.parametrize("kind", ["gzip", "x-gzip", "deflate", "raw", "members", "identity"])
def test_encodings_that_are_understood(api: LyingApi, kind: str) -> None:
    have(api, 130)

    def packed(asked: Json, page: Json) -> Any:
        data = json.dumps(page).encode()
        raw = zlib.compressobj(wbits=-15)
        body = {
            "deflate": zlib.compress(data),
            "raw": raw.compress(data) + raw.flush(),
            "members": gzip.compress(data[:99]) + gzip.compress(data[99:]),
            "identity": data,
        }.get(kind, gzip.compress(data))
        name = {"raw": "deflate", "members": "gzip"}.get(kind, kind)
        return 200, {"Content-Encoding": name}, body

    api.lie = packed
    assert len(ask(api)) == 130


@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_bodies_that_break_off(api: LyingApi, part: float) -> None:
    have(api, 30)

    def cut(asked: Json, page: Json) -> Any:
        whole = gzip.compress(json.dumps(page).encode())
        return 200, {"Content-Encoding": "gzip"}, whole[: int(len(whole) * part)]

    api.lie = cut
    with pytest.raises(
        SourceError, match=r"breaks off|Connection broken|not as encoded|not a STAC API"
    ):
        ask(api)
    api.lie = once(cut)
    assert len(ask(api)) == 30


def test_a_length_that_is_not_so(api: LyingApi) -> None:
    have(api, 30)
    api.lie = lambda a, p: (200, {"Content-Length": "10"}, json.dumps(p).encode())
    with pytest.raises(SourceError):
        ask(api)


def test_an_error_answer_is_not_read_to_its_end(api: LyingApi) -> None:
    have(api, 3)
    api.lie = lambda a, p: (404, {"Content-Encoding": "gzip"}, bomb("gzip", 64 << 20))
    with pytest.raises(SourceError, match=r"answered 404$"):
        ask(api)


SPOILED: dict[str, str] = {
    "NaN": '{"type": "Feature", "id": "bad", "properties": {"x": NaN}}',
    "Infinity": '{"id": "bad", "bbox": [-Infinity, Infinity]}',
    "a number beyond all": '{"id": "bad", "x": 1e999}',
    "a million digits": '{"id": "bad", "x": ' + "9" * 1_000_000 + "}",
    "a thousand deep": '{"id": "bad", "x": ' + "[" * 2_000 + "]" * 2_000 + "}",
    "a hundred thousand deep": '{"id": "bad", "x": ' + '{"a":' * 100_000 + "1" + "}" * 100_001,
    "half a character": '{"id": "bad", "x": "\\ud83d"}',
    "a control character": '{"id": "bad", "x": "\x01"}',
    "no UTF-8": '{"id": "bad", "x": "\udcff"}',
    "a comma too many": '{"id": "bad", "x": [1,],}',
    "no quotes": '{"id": "bad", x: 1}',
    "a word": '{"id": "bad", "x": undefined}',
    "single quotes": "{\"id\": \"bad\", 'x': 'y'}",
    "a comment": '{"id": "bad" /* x */}',
}


@pytest.mark.parametrize("name", SPOILED)
def test_one_item_that_cannot_be_read_fails_alone(api: LyingApi, name: str) -> None:
    have(api, 130)

    def spoil(asked: Json, page: Json) -> Any:
        text = json.dumps(page)
        first, second = text.index('{"type": "Feature"'), text.rindex('{"type": "Feature"')
        text = (
            f"{text[:first]}{SPOILED[name]}, {text[first:second]}{SPOILED[name]}, {text[second:]}"
        )
        return (
            200,
            {},
            text.replace('"numberMatched": 130', '"numberMatched": 131').encode(
                errors="surrogateescape"
            ),
        )

    api.lie = spoil
    started = time.monotonic()
    found = ask(api)
    assert time.monotonic() - started < 20
    good = [one for one in found if not isinstance(one, UnreadableItem)]
    bad = [one for one in found if isinstance(one, UnreadableItem)]
    assert names(good) == names(api.items)
    assert [one["id"] for one in bad] == ["bad"]
    with pytest.raises(ItemError, match=r"^bad: ") as caught:
        scene_from_item(bad[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", [5, None, "item", [], True, 1.5])
def test_entries_that_are_no_objects_are_failures_too(api: LyingApi, entry: Any) -> None:
    have(api, 3)
    api.lie = lambda asked, page: (
        page | {"features": [*page["features"], entry], "numberMatched": 4}
    )
    found = ask(api)
    assert names(found[:3]) == names(api.items)
    with pytest.raises(ItemError, match="not a JSON object"):
        scene_from_item(found[3])


@pytest.mark.parametrize(
    "text",
    [
        '{"features": [', '{"features": [{"id": "x"', '{"features": [{]}]}', '{"features": [,,]}',
        '{"features": [NaN], "links": [', "[" * 100_000, '"' + '\\"' * 100_000, "", "NaN", "{", "}",
        '{"features": [{"a": NaN}], "numberMatched": x}',
    ],
)  # fmt: skip
def test_pages_that_cannot_be_taken_apart(api: LyingApi, text: str) -> None:
    have(api, 3)
    api.lie = lambda asked, page: text
    with pytest.raises(SourceError, match="not a STAC API"):
        ask(api)


def test_too_many_values_are_not_made(api: LyingApi) -> None:
    have(api, 3)
    api.lie = lambda asked, page: '{"features": [' + "[]," * 3_000_000 + "[]]}"
    started = time.monotonic()
    with pytest.raises(SourceError, match="more than 3,000,000 values"):
        ask(api, size=99)
    assert time.monotonic() - started < 20


def test_constants_say_what_they_are_for() -> None:
    assert stac_pages.EMPTY_PAGES < stac_whole.MENDING
