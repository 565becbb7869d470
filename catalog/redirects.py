"""File servers that send on to another host: refused, since references would be read there.

obstore follows redirects and does not say so, and has no option against it. But what goes to a
host for which a proxy is set goes to the proxy: with one on which nothing can listen, and the
source's own hosts left out of it, a redirect ends there, before the other host's name is even
looked up. (Nothing of this can be told to icechunk, which reads the pixels later: a server that
begins to redirect after the crawl is followed, and there only the references' checksums protect.)
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import requests

NOWHERE = "http://127.0.0.1:0"
"""No program can listen at port 0: refused at once, by the machine itself."""
_MET = re.compile(
    r"127\.0\.0\.1:0\b|kind: Redirect\b|\bBadScheme\b|Received redirect|status code: 30[12378]"
)
_FURTHEST = 10
"""Redirects that are followed to find where they lead."""


def guard(url: str, hosts: Collection[str]) -> dict[str, str]:
    """obstore's client options that keep requests at the host of ``url`` (and below it) and at
    ``hosts``; none where the environment's own proxy is needed to get there."""
    parts = urlsplit(url)
    own = parts.hostname or ""
    proxies = getproxies_environment()
    if {parts.scheme, "all"} & proxies.keys() and not proxy_bypass(own):
        return {}
    return {"proxy_url": NOWHERE, "proxy_excludes": ",".join(sorted({own, *hosts}))}


def was_redirected(text: str) -> bool:
    """Whether an error of obstore says that a redirect was refused, or led nowhere."""
    return _MET.search(text) is not None


def refusal(url: str, hosts: Collection[str], timeout: tuple[float, float]) -> str:
    """What to say of a server that redirects ``url`` to elsewhere, naming the host.

    Args:
        hosts: that may be redirected to, besides the one of ``url``.
        timeout: seconds to connect, and to answer, of each request.
    """
    there = url
    try:
        for _ in range(_FURTHEST):
            with requests.get(
                there,
                headers={"Range": "bytes=0-0"},
                allow_redirects=False,
                stream=True,
                timeout=timeout,
            ) as answer:
                to = answer.headers.get("Location")
            if not to:
                break
            there = urljoin(there, to)
            parts = urlsplit(there)
            if parts.scheme not in ("http", "https"):
                return f"its server sends on to {_shown(parts.scheme)}:, which is not followed"
            host = parts.hostname or ""
            if host not in {urlsplit(url).hostname, *hosts}:
                origin = f"{parts.scheme}://{_shown(parts.netloc.rpartition('@')[2])}/"
                return (
                    f"its server sends on to another host, {_shown(host)}, and references would "
                    "be read there: to allow it, add a [[sources]] table with match and url = "
                    f"{origin!r} to cogcat.toml, then run `cogcat init`"
                )
    except (requests.RequestException, OSError, ValueError):
        return "its server sends on to another place, which is not followed"
    return "its server sends on, and never to the file"


def _shown(name: str) -> str:
    return name[:255] if name.isascii() and name.isprintable() else "one without a proper name"
