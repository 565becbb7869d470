"""The connection to a STAC API: retries, timeouts, and one clear line for what goes wrong."""

from __future__ import annotations

import dataclasses
import logging
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import pystac
import requests
from pystac_client import Client
from pystac_client.errors import ClientTypeError
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from pystac_client.warnings import PystacClientWarning
from urllib3.exceptions import HTTPError

from catalog.errors import CatalogError, ConfigError, SourceError, UsageError
from catalog.patience import RETRIED, Patience, asked_pause

log = logging.getLogger(__name__)

# What pystac and pystac-client let out when a document is not what its type says.
FOREIGN_ERRORS = (
    APIError,
    ClientTypeError,
    pystac.STACError,
    AttributeError,
    KeyError,
    RecursionError,
    TypeError,
    ValueError,
)
PATIENCE = Patience(first=0.5, longest=30.0)
WHOLE = 4
"""Times the timeout: how long one answer may take as a whole."""


class StatusError(SourceError):
    """The API answered with an HTTP error, after the retries that its status allows."""

    def __init__(self, message: str, status: int) -> None:
        self.status = status
        super().__init__(message)


def redact_url(url: str) -> str:
    """``url`` without user name and password, and with the values of its query hidden."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        query = re.sub(r"=[^&]*", "=…", parts.query)
        return parts._replace(netloc=host, query=query, fragment="").geturl()
    except ValueError:
        return url.partition("?")[0].rpartition("@")[2]


class StacTransport(StacApiIO):
    """pystac-client's requests, counted, patient, and failing as ``SourceError``.

    Args:
        timeout: seconds to wait for a connection, and for each piece of an answer.
        retries: of each request.
    """

    def __init__(self, *, timeout: float, retries: int) -> None:
        self.requests = 0
        self._patience = dataclasses.replace(PATIENCE, retries=retries)
        super().__init__(timeout=timeout, max_retries=None)

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        self.requests += 1
        method = (method or "GET").upper()
        given: dict[str, Any] = {"json" if method == "POST" else "params": parameters}
        try:
            prepared = self.session.prepare_request(
                requests.Request(method, href, headers=headers, **given)
            )
        except (requests.RequestException, ValueError) as error:
            raise SourceError(f"cannot reach {redact_url(href)}: {error}") from error
        retry = 0
        while True:
            retry += 1
            pause: float | None = None
            try:
                status, answered, body = self._send(prepared)
            except (requests.RequestException, HTTPError, OSError) as error:
                # A host that refuses connections, or fails at TLS, is not waited for as long
                # as one that is busy.
                absent = isinstance(error, requests.ConnectionError) and not _was_reset(error)
                if retry > min(self._patience.retries, 2 if absent else 99):
                    reason = _transport_reason(error)
                    raise SourceError(f"cannot reach {redact_url(href)}: {reason}") from error
            else:
                if 200 <= status < 300:
                    return body
                if status not in RETRIED or retry > self._patience.retries:
                    raise _refused(href, status, body)
                pause = asked_pause(answered.get("Retry-After"))
            if pause is None:
                pause = self._patience.pause(retry)
            log.debug("%s: retry %d in %.1f s", redact_url(href), retry, pause)
            time.sleep(pause)

    def _send(self, prepared: requests.PreparedRequest) -> tuple[int, Mapping[str, str], str]:
        """Status, headers and body of one try.

        Its timeout ends a silence; one that lets a byte drop now and then is ended by ``WHOLE``.
        """
        ends = time.monotonic() + WHOLE * self._timeout
        settings = self.session.merge_environment_settings(str(prepared.url), {}, True, None, None)
        with self.session.send(prepared, timeout=self.timeout, **settings) as answer:
            pieces: list[bytes] = []
            while piece := answer.raw.read1(65_536, decode_content=True):
                pieces.append(piece)
                if time.monotonic() > ends:
                    raise requests.Timeout("the answer does not come to its end: timed out")
            return answer.status_code, answer.headers, b"".join(pieces).decode(errors="replace")

    @property
    def _timeout(self) -> float:
        assert isinstance(self.timeout, (int, float))
        return float(self.timeout)

    def read_json(self, source: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        href = redact_url(source.href if isinstance(source, pystac.Link) else str(source))
        # A page of a proxy that is in the way is not retried as often as a server that is busy.
        for retry in range(1, 2 + min(self._patience.retries, 2)):
            text = self.read_text(source, *args, **kwargs)
            try:
                document = self.json_loads(text)
                break
            except (ValueError, RecursionError) as error:
                if retry > min(self._patience.retries, 2):
                    html = text.lstrip().startswith("<")
                    what = "an HTML page" if html else "something else"
                    raise SourceError(
                        f"{href} is not a STAC API: it answered {what}, not JSON"
                    ) from error
            time.sleep(self._patience.pause(retry))
        if not isinstance(document, dict):
            raise SourceError(f"{href} is not a STAC API: its JSON is not an object")
        return document

    def get_pages(
        self, url: str, method: str | None = None, parameters: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The answers to one search, each with a list of features, to the last ``next`` link.

        Unlike pystac-client's, an answer that is no feature collection is not the end of
        the results but an error, and an empty page with a ``next`` link is not the end.
        """
        page = self.read_json(url, method=method, parameters=parameters)
        followed: dict[str, Any] | None = None
        while True:
            features = page.get("features")
            if not isinstance(features, list):
                raise SourceError(f"{redact_url(url)} answered a search without features")
            yield page
            link = next((link for link in page.get("links", []) if link["rel"] == "next"), None)
            if link is None:
                return
            if not features and link == followed:
                raise SourceError(f"{redact_url(url)} goes in circles: its pages repeat")
            followed = link
            page = self.read_json(pystac.Link.from_dict(link), parameters=parameters)


def open_api(url: str, *, timeout: float, retries: int) -> tuple[Client, StacTransport]:
    """The API whose landing page is at ``url``, and the transport of all its requests.

    Raises:
        UsageError: not an http(s) address.
        SourceError: unreachable, or no STAC API with an item search.
    """
    shown = redact_url(url)
    try:
        known = urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
    except ValueError:
        known = False
    if not known:
        raise UsageError(
            f"malformed STAC address {shown!r}: write one such as "
            "https://earth-search.aws.element84.com/v1"
        )
    transport = StacTransport(timeout=timeout, retries=retries)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PystacClientWarning)
            # The timeout again: opening sets the transport's to what is given here.
            client = Client.open(url, stac_io=transport, timeout=timeout)
        if not isinstance(client, Client):
            raise TypeError(f"its type is {type(client).__name__}, not a catalog")
        classes = client.extra_fields.get("conformsTo")
        client.set_conforms_to(
            [name for name in classes if isinstance(name, str)] if isinstance(classes, list) else []
        )
        if not client.conforms_to("ITEM_SEARCH"):
            if not any(link.rel == "search" for link in client.links):
                raise SourceError(f"{shown} is a STAC catalog without a search; give its API")
            client.add_conforms_to("ITEM_SEARCH")
    except CatalogError:
        raise
    except FOREIGN_ERRORS as error:
        raise SourceError(f"{shown} is not a STAC API: {_one_line(error)}") from error
    return client, transport


def _one_line(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"its landing page has no {error}"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _refused(href: str, status: int, body: str) -> CatalogError:
    said = _server_message(body)
    line = f"{redact_url(href)} answered {status}{': ' if said else ''}{said}"
    if status in (401, 403):
        return ConfigError(f"{line} (it wants credentials)")
    return StatusError(line, status)


def _was_reset(error: requests.ConnectionError) -> bool:
    """True where there was a connection, and it broke: worth more tries than none at all."""
    text = str(error)
    return not isinstance(error, (requests.exceptions.SSLError, requests.ConnectTimeout)) and (
        "Connection aborted" in text or "Connection broken" in text or "reset" in text
    )


def _transport_reason(error: BaseException) -> str:
    """The innermost cause, in few words: ``Connection refused``."""
    kind = "TLS failure: " if isinstance(error, requests.exceptions.SSLError) else ""
    inner: BaseException = error
    while True:
        reason = getattr(inner, "reason", None)
        deeper = reason if isinstance(reason, BaseException) else next(iter(inner.args), None)
        if not isinstance(deeper, BaseException):
            break
        inner = deeper
    text = str(inner).rsplit(": ", 1)[-1] or type(inner).__name__
    return kind + re.sub(r"\[Errno -?\d+\] ", "", " ".join(text.split()))[:200]


def _server_message(body: str) -> str:
    """What an error answer says, on one line; nothing of an HTML page."""
    try:
        document: Any = pystac.StacIO.default().json_loads(body)
    except (ValueError, RecursionError):
        document = None if body.lstrip().startswith("<") else body
    if isinstance(document, dict):
        named = (document.get(key) for key in ("description", "detail", "message", "error"))
        document = next((value for value in named if value), None)
    return " ".join(str(document).split())[:200] if document else ""
