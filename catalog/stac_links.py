"""The links of a STAC API's answers, as far as they are followed, and as safe requests.

https://github.com/radiantearth/stac-api-spec/tree/v1.0.0/item-search#pagination
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from catalog.errors import SourceError, first_line
from catalog.stac_answer import Asked

log = logging.getLogger(__name__)

JSON_TYPE = "application/geo+json"
_FOLLOWED = ("search", "data")


def links(document: Mapping[str, Any], rel: str) -> Iterator[Mapping[str, Any]]:
    """Links of ``document`` of that relation; what is no link is passed over.

    Raises:
        SourceError: its links are no list: one that matters may be among them.
    """
    listed = document.get("links")
    if listed is None:
        return
    if not isinstance(listed, list):
        raise SourceError("does not answer as a STAC API: its links are no list")
    for link in listed:
        if isinstance(link, Mapping) and str(link.get("rel")).strip().lower() == rel:
            yield link


def next_request(page: Mapping[str, Any], url: str, first: Asked) -> Asked | None:
    """What the ``next`` link of a page asks for; None at the last page.

    A link's headers are not sent: what the requests carry is ours to say.

    Args:
        url: that the page came from.
        first: the request of the first page, which ``merge`` adds to.

    Raises:
        SourceError: neither GET nor POST, no address, or a body that is no object.
    """
    link = next(links(page, "next"), None)
    if link is None:
        return None
    method = link.get("method") or "GET"
    if not isinstance(method, str) or method.strip().upper() not in ("GET", "POST"):
        raise SourceError(
            f"names a next page by the method {first_line(str(method))!r}: only GET and POST are "
            "followed"
        )
    href = _absolute(link, url)
    if href is None:
        raise SourceError("names a next page without its address")
    if link.get("headers"):
        log.warning("the headers of a next link are not sent")
    if method.strip().upper() == "GET":
        return Asked("GET", href)
    body = link.get("body")
    if body is None:
        body = {}
    if not isinstance(body, Mapping):
        raise SourceError("names a next page with a body that is no object")
    merged = first.parameters if link.get("merge") is True else {}
    return Asked("POST", href, {**merged, **body})


def plain_landing(document: dict[str, Any], url: str) -> dict[str, Any]:
    """A landing page with the links that a search needs, absolute, POST first, and no others."""
    kept: list[dict[str, Any]] = []
    for rel in _FOLLOWED:
        for link in links(document, rel):
            href = _absolute(link, url)
            kind = link.get("type")
            method = str(link.get("method") or "GET").strip().upper()
            if href is None or method not in ("GET", "POST"):
                continue
            if isinstance(kind, str) and "json" not in kind.lower():
                continue
            kept.append({"rel": rel, "href": href, "type": JSON_TYPE, "method": method})
    kept.sort(key=lambda link: link["method"] != "POST")
    return document | {"links": kept}


def _absolute(link: Mapping[str, Any], url: str) -> str | None:
    href = link.get("href")
    if not isinstance(href, str) or not href.strip():
        return None
    try:
        absolute = urljoin(url, href.strip())
        parts, page = urlsplit(absolute), urlsplit(url)
        # A proxy ends TLS in front of an API that does not know: it is asked as it was.
        if (
            (parts.scheme, page.scheme) == ("http", "https")
            and parts.hostname == page.hostname
            and parts.port in (None, 80)
            and page.port in (None, 443)
        ):
            absolute = parts._replace(scheme="https", netloc=page.netloc).geturl()
    except ValueError:
        return None
    return absolute
