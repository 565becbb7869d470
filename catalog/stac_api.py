"""The connection to a STAC API: retries, timeouts, and one clear line for what goes wrong."""

from __future__ import annotations

import dataclasses
import logging
import re
import time
import warnings
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import pystac
import requests
from pystac_client import Client
from pystac_client.errors import ClientTypeError
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from pystac_client.warnings import PystacClientWarning
from urllib3.exceptions import HTTPError

from catalog.errors import CatalogError, ConfigError, SourceError, UsageError, first_line
from catalog.page_json import NotJsonError, read_document
from catalog.patience import RETRIED, Patience, asked_pause
from catalog.stac_answer import PLAIN_BYTES, Asked, Hosts, read_beginning, read_body
from catalog.stac_links import plain_landing

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
_REDIRECT = frozenset({301, 302, 303, 307, 308})
_REDIRECTS = 6


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
        home: address of the API, as given by the user.
        timeout: seconds to wait for a connection, and for each piece of an answer.
        retries: of each request.
        hosts: others that its answers may lead to.
        headers: that the API wants to see; no other host is sent them.
    """

    def __init__(
        self,
        home: str,
        *,
        timeout: float,
        retries: int,
        hosts: Iterable[str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.requests = 0
        self._hosts = Hosts.of(home, hosts)
        self._own_headers = dict(headers or {})
        self._patience = dataclasses.replace(PATIENCE, retries=retries)
        super().__init__(timeout=timeout, max_retries=None)
        # What is asked for is what can be decoded within a bound.
        self.session.headers["Accept-Encoding"] = "gzip, deflate"

    def document(self, asked: Asked, *, most: int = PLAIN_BYTES) -> tuple[dict[str, Any], str]:
        """The JSON object that answers, and the address it came from after redirects.

        Args:
            most: bytes of the answer, decoded.

        Raises:
            SourceError: unreachable, not JSON, or an address that is not to be asked.
            StatusError, ConfigError: an HTTP error.
        """
        shown = redact_url(asked.url)
        # A page of a proxy that is in the way is not retried as often as a server that is busy.
        tries = min(self._patience.retries, 2)
        for retry in range(1, 2 + tries):
            body, url = self._ask(asked, most)
            try:
                document = read_document(body)
                break
            except NotJsonError as error:
                if retry > tries:
                    html = body.lstrip().startswith(b"<")
                    what = "an HTML page, not JSON" if html else f"something else, {error}"
                    raise SourceError(f"{shown} is not a STAC API: it answered {what}") from error
            time.sleep(self._patience.pause(retry))
        if not isinstance(document, dict):
            raise SourceError(f"{shown} is not a STAC API: its JSON is not an object")
        return document, url

    def read_json(self, source: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """A landing page, for pystac: its links are those that a search needs, and no others."""
        document, url = self.document(Asked("GET", str(source)))
        try:
            return plain_landing(document, url)
        except SourceError as error:
            raise SourceError(f"{redact_url(url)} {error}") from error

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        """pystac's own way to a file or an address that a document names: there is none."""
        raise SourceError(f"{redact_url(str(source))} is not opened: no part of a search")

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """As pystac-client asks; ``headers`` are left out."""
        body, _ = self._ask(Asked((method or "GET").upper(), href, parameters or {}), PLAIN_BYTES)
        return body.decode(errors="replace")

    def _ask(self, asked: Asked, most: int) -> tuple[bytes, str]:
        """The body of one answer and where it came from, after redirects and retries."""
        for _ in range(_REDIRECTS):
            answer = self._one(asked, most)
            if isinstance(answer, bytes):
                return answer, asked.url
            asked = answer
        raise SourceError(f"{redact_url(asked.url)} goes in circles: it redirects without end")

    def _one(self, asked: Asked, most: int) -> bytes | Asked:
        """The body of an answer, or where it redirects to; tried again as often as it may help."""
        self.requests += 1
        prepared = self._prepare(asked)
        retry = 0
        while True:
            retry += 1
            pause: float | None = None
            try:
                status, answered, body = self._send(prepared, most)
            except (requests.RequestException, HTTPError, OSError) as error:
                # A host that refuses connections, or fails at TLS, is not waited for as long
                # as one that is busy.
                absent = isinstance(error, requests.ConnectionError) and not _was_reset(error)
                if retry > min(self._patience.retries, 2 if absent else 99):
                    reason = _transport_reason(error)
                    raise SourceError(f"cannot reach {redact_url(asked.url)}: {reason}") from error
            except SourceError as error:
                raise SourceError(f"{redact_url(asked.url)}: {error}") from error
            else:
                if 200 <= status < 300:
                    return body
                if status in _REDIRECT and (place := answered.get("Location")):
                    return self._redirected(asked, str(prepared.url), status, place)
                if status not in RETRIED or retry > self._patience.retries:
                    raise _refused(asked.url, status, body.decode(errors="replace"))
                pause = asked_pause(answered.get("Retry-After"))
            if pause is None:
                pause = self._patience.pause(retry)
            log.debug("%s: retry %d in %.1f s", redact_url(asked.url), retry, pause)
            time.sleep(pause)

    def _prepare(self, asked: Asked) -> requests.PreparedRequest:
        given: dict[str, Any] = {"json" if asked.method == "POST" else "params": asked.parameters}
        try:
            prepared = self.session.prepare_request(
                requests.Request(asked.method, asked.url, **given)
            )
        except (requests.RequestException, ValueError) as error:
            said = first_line(error)
            raise SourceError(f"cannot reach {redact_url(asked.url)}: {said}") from error
        # What requests made of it is what is looked at: it is where the connection goes.
        if refusal := self._hosts.refusal(str(prepared.url)):
            raise SourceError(f"{self.home} {refusal}")
        if self._hosts.is_home(str(prepared.url)):
            prepared.headers.update(self._own_headers)
        return prepared

    def _redirected(self, asked: Asked, url: str, status: int, place: str) -> Asked:
        try:
            # http.client reads headers as Latin-1.
            target = urljoin(url, place.encode("latin-1", "replace").decode(errors="replace"))
            refusal = self._hosts.refusal(target)
        except ValueError:
            target, refusal = place, "leads to an address that is none"
        if refusal:
            raise SourceError(f"{redact_url(asked.url)} redirects, and {refusal}")
        # A search is the same question wherever it is asked: 301 and 302 keep it, as 307 does.
        if status == 303 or asked.method == "GET":
            return Asked("GET", target)
        return Asked(asked.method, target, asked.parameters)

    def _send(
        self, prepared: requests.PreparedRequest, most: int
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of one try.

        Its timeout ends a silence; one that lets a byte drop now and then is ended by ``WHOLE``.
        """
        ends = time.monotonic() + WHOLE * self._timeout
        settings = self.session.merge_environment_settings(str(prepared.url), {}, True, None, None)
        with self.session.send(
            prepared, timeout=self.timeout, allow_redirects=False, **settings
        ) as answer:
            good = 200 <= answer.status_code < 300
            body = (
                read_body(answer, most=most, ends=ends)
                if good
                else read_beginning(answer, ends=ends).encode()
            )
            return answer.status_code, answer.headers, body

    @property
    def home(self) -> str:
        """Scheme, host and port of the API."""
        scheme, host, port = self._hosts.home
        return f"{scheme}://{host}" + (f":{port}" if port not in (80, 443) else "")

    @property
    def _timeout(self) -> float:
        assert isinstance(self.timeout, (int, float))
        return float(self.timeout)


def open_api(
    url: str,
    *,
    timeout: float,
    retries: int,
    hosts: Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
) -> tuple[Client, StacTransport]:
    """The API whose landing page is at ``url``, and the transport of all its requests.

    Raises:
        UsageError: not an http(s) address.
        SourceError: unreachable, or no STAC API with an item search.
    """
    shown = redact_url(url)
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise UsageError(
            f"malformed STAC address {shown!r}: write one such as "
            "https://earth-search.aws.element84.com/v1"
        )
    transport = StacTransport(url, timeout=timeout, retries=retries, hosts=hosts, headers=headers)
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
        return f"its landing page has no {first_line(error)}"
    return first_line(" ".join(str(error).split()))[:200] or type(error).__name__


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
    return kind + first_line(re.sub(r"\[Errno -?\d+\] ", "", " ".join(text.split())))[:200]


def _server_message(body: str) -> str:
    """What an error answer says, on one line; nothing of an HTML page."""
    try:
        document: Any = pystac.StacIO.default().json_loads(body)
    except (ValueError, RecursionError):
        document = None if body.lstrip().startswith("<") else body
    if isinstance(document, dict):
        named = (document.get(key) for key in ("description", "detail", "message", "error"))
        document = next((value for value in named if value), None)
    return first_line(" ".join(str(document).split()))[:200] if document else ""
