"""Addresses of files as items write them: what one must be like, the key it stands for, and back.

A file is read twice by different clients: its header by obstore, its pixels by Icechunk through a
reference. Only what both take for the same file is accepted. Tried against obstore 0.11 and
icechunk 2.3 on directories, web servers and S3: obstore refuses keys with ``//``, ``.``, ``..`` and
control characters by a raw ValueError and takes slashes off both ends, while Icechunk resolves
``./``, keeps ``//`` on S3 and drops it elsewhere, and in a directory drops blanks at the end. All
other characters mean the same to both.

A reference holds no query and no fragment, so neither may be part of an href. What a known signer
has added (a signature and its fellows) is taken out; an href that needs anything else is refused.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes, urlsplit

from catalog.json_values import bounded
from catalog.printable import printable
from catalog.redaction import has_secrets, redacted

LONGEST = 2048
"""Bytes of an href; Earth Search's have some 120. S3 keys have 1024 at most."""
LONGEST_NAME = 255
"""Bytes of a file's name where it lies in a directory."""
_SHOWN = 120

_WEB = ("http://", "https://")
_FILE = "file://"
_WEB_SAFE = "/:@!$&()*+,;=~-._"
# What nearly all are, at a third of the time: nothing in it needs a second look.
_PLAIN = re.compile(
    r"(?:https?|s3)://[A-Za-z0-9][A-Za-z0-9.-]*+(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9_.~+-]++)++"
)
_MARKS = ("eyJ", "AKIA", "ASIA", "AIza", "ghp", "gho", "ghu", "ghs", "ghr")
"""Of what is a secret by its form alone, see ``redaction.py``."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENCODED_SLASH = re.compile("%2f", re.IGNORECASE)

# What a signer adds to an address, by the parameter that makes it a signed one; lower case.
# https://learn.microsoft.com/rest/api/storageservices/create-user-delegation-sas
# https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
# https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/private-content-signed-urls.html
# https://cloud.google.com/storage/docs/authentication/canonical-requests
_SIGNERS = {
    "sig": {
        "sig", "sv", "ss", "srt", "sp", "se", "st", "spr", "sr", "sip", "si", "skoid", "sktid",
        "skt", "ske", "sks", "skv", "saoid", "suoid", "scid", "sdd", "ses", "rscc", "rscd", "rsce",
        "rscl", "rsct",
    },
    "x-amz-signature": {
        "x-amz-signature", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires",
        "x-amz-signedheaders", "x-amz-security-token", "x-amz-content-sha256",
        "x-amz-checksum-mode", "x-amz-request-payer", "x-id",
    },
    "x-goog-signature": {
        "x-goog-signature", "x-goog-algorithm", "x-goog-credential", "x-goog-date",
        "x-goog-expires", "x-goog-signedheaders",
    },
    "signature": {
        "signature", "expires", "awsaccesskeyid", "x-amz-security-token", "key-pair-id", "policy",
        "googleaccessid",
    },
}  # fmt: skip


def checked_href(href: object) -> tuple[str, bool]:
    """An item's href without the signature that a signing client may have put on it, and whether
    there was one.

    Raises:
        ValueError: not an absolute http, https, s3 or file address of one file that references can
            name; one sentence says why and shows no secret.
    """
    if not isinstance(href, str) or not href:
        raise ValueError("no href")
    if len(href) > LONGEST or len(href.encode(errors="replace")) > LONGEST:
        raise ValueError(f"its href is longer than {LONGEST} bytes")
    if _PLAIN.fullmatch(href) and not any(mark in href for mark in _MARKS):
        return href, False
    web = href.startswith(_WEB)
    # A blank is the one white space that is printable; it may stand in keys and names of files.
    if not href.isprintable() or (web and " " in href):
        raise ValueError("its href holds white space or control characters")
    _check_authority(href)
    signed = False
    if web:
        address, _, query = href.partition("?")
        if query and "#" not in query and _is_signature(query):
            href, signed = address, True
    if "?" in href or "#" in href:
        raise ValueError(
            "its href has a query or a fragment, which references cannot carry"
            if web
            else "its href holds '?' or '#', which references cannot carry"
        )
    if has_secrets(href):
        raise ValueError("its href holds a secret")
    path = href.partition("://")[2].partition("/")[2]
    _check_key(_decoded(path) if not href.startswith("s3://") else path)
    return href, signed


def key_below(href: str, match: str) -> str | None:
    """The object-store key of ``href`` below the prefix ``match``; None where it is not below it.

    A key is decoded where the href is a web or file address; that of ``s3://bucket/key`` stands
    as it is.

    Raises:
        ValueError: it is below it, and its key is not one that a reference can name.
    """
    if href.startswith(_FILE) and match.startswith(_FILE):
        # However they are encoded: Path.as_uri() does, people do not.
        try:
            path, root = _decoded(_local(href)), _decoded(_local(match))
        except ValueError:
            return None
        if not path.startswith(root):
            return None
        if "?" in href or "#" in href:
            raise ValueError("its href holds '?' or '#', which references cannot carry")
        key = path[len(root) :]
        if any(len(name.encode()) > LONGEST_NAME for name in key.split("/")):
            raise ValueError(f"its href has a name of more than {LONGEST_NAME} bytes")
        if key.endswith(":"):  # taken for a drive, on every system
            raise ValueError("its href names no file")
    elif not href.startswith(match):
        return None
    else:
        key = href[len(match) :]
        if href.startswith(_WEB):
            if "?" in key or "#" in key:
                raise ValueError(
                    "its href has a query or a fragment, which references cannot carry"
                )
            key = _decoded(key)
    _check_key(key)
    return key


def address_of(key: str, match: str) -> str:
    """The inverse of ``key_below``: an href of ``key`` below ``match``."""
    if match.startswith(_WEB):
        return match + quote(key, safe=_WEB_SAFE)
    return match + (quote(key, safe="/") if match.startswith(_FILE) else key)


def check_root(url: str) -> None:
    """Of a source's url, below which obstore and icechunk are to find the same files.

    Icechunk decodes the address of a chunk, cuts off what looks like a query and compares the rest
    with the prefix of its container; so a prefix is decoded (``Source.container_url``), and may
    hold nothing that decoding it once more would change.

    Raises:
        ValueError: they would not; one clause says why.
    """
    path = url.partition("://")[2].partition("/")[2]
    plain = unquote(path)
    if not {"?", "#"}.isdisjoint(plain):
        raise ValueError("holds '?' or '#', which references cannot carry")
    if unquote(plain) != plain:
        raise ValueError("holds an encoded percent sign, which references cannot carry")
    if not {"", ".", ".."}.isdisjoint(plain.removesuffix("/").split("/")) and plain:
        raise ValueError("holds '//', '/./' or '/../'")
    if _CONTROL.search(plain):
        raise ValueError("holds control characters")


def shown_href(href: object) -> str | None:
    """For a message: without user, query and fragment, printable, and not long."""
    if not isinstance(href, str) or not href:
        return None
    plain, *behind = re.split(r"[?#]", href, maxsplit=1)
    scheme, mark, _ = plain.partition("://")
    start = f"{scheme if mark else ''}{mark}…"[-20:]
    # What stands before an @ may be a user, wherever a broken address has it.
    if "@" in plain:
        plain = f"{start}@{plain.rpartition('@')[2]}"
    elif any("@" in part for part in behind):
        plain = start
    return bounded(printable(redacted(plain[:LONGEST]), None), _SHOWN)


def _check_authority(href: str) -> None:
    wrong = "its href is not an absolute http, https, s3 or file address"
    try:
        parts = urlsplit(href)
        user = "@" in parts.netloc
        known = parts.scheme in ("http", "https", "s3", "file") and parts.path.strip("/") != ""
        # A port out of range raises where it is asked for.
        host = parts.hostname if parts.port is None or parts.scheme != "s3" else None
    except ValueError as error:
        raise ValueError(wrong) from error
    if user:
        raise ValueError("its href carries a user name or password")
    if parts.scheme == "file":
        known = known and parts.netloc in ("", "localhost")
    elif not host:
        known = False
    if not known or "\\" in parts.netloc or not href.startswith(f"{parts.scheme}://"):
        raise ValueError(wrong)
    if parts.scheme != "s3" and "\\" in href:
        raise ValueError("its href holds a backslash")


def _is_signature(query: str) -> bool:
    names = {name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)}
    return any(mark in names and names <= added for mark, added in _SIGNERS.items())


def _local(href: str) -> str:
    rest = href.removeprefix(_FILE)
    return re.split(r"[?#]", rest.removeprefix("localhost"), maxsplit=1)[0]


def _decoded(path: str) -> str:
    if "%" not in path:
        if not path.isascii():
            path.encode()  # half of a surrogate pair: UnicodeEncodeError is a ValueError
        return path
    if _ENCODED_SLASH.search(path):
        raise ValueError("its href holds an encoded slash, which is no separator")
    try:
        return unquote_to_bytes(path).decode()
    except UnicodeError:
        raise ValueError("its href is not UTF-8 where it is percent-encoded") from None


def _check_key(key: str) -> None:
    if not key or key.endswith("/"):
        raise ValueError("its href names no file")
    if key.endswith(" "):
        raise ValueError("its href ends in a blank, which leads to another file in a directory")
    if _CONTROL.search(key):
        raise ValueError("its href holds white space or control characters")
    if not {"", ".", ".."}.isdisjoint(key.split("/")):
        raise ValueError("its href holds '//', '/./' or '/../', which may lead to another file")
    if not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError:
            raise ValueError("its href holds half of a surrogate pair") from None
