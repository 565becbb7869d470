"""Secrets in text and in addresses: which words are one, and what is left without them.

Two users. An address that is about to be kept (a STAC API, a source, a repository, an href, a
cluster) goes through ``has_secrets`` or ``without_secrets`` at the border: no secret is stored.
What is about to be said (messages, logs, tracebacks) goes through ``redacted``, which knows the
same names in the forms that libraries write them in::

    https://user:password@host/      user names alone, several @, and databases' with a typo
    ?api_key=…  ?Key=…  ?sig=…       percent-encoded and in upper case
    "token": "…"  ('token', '…')     JSON and Python
    Authorization: Bearer …          headers
    PGPASSWORD=…  AccountKey=…       environments, connection strings
    <Token>…</Token>                 XML
    eyJhbGci….eyJzdWIi….c2ln…        tokens whose form says what they are

Each expression goes through a text once, so that long ones take time in proportion.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

LONGEST = 100_000
"""Characters of one message that are looked at, and shown, at most: for those who call this."""

# Names are compared in lower case, without what is not a letter or digit.
_PARTS = re.compile(
    "token|secret|passw|passphrase|signature|credential|api_?key|accesskey|accountkey|"
    "subscriptionkey|sharedkey|privatekey|clientkey|functionskey|authkey|authorization|cookie|"
    "sessionid|jwt|keypairid"
)
_WHOLE = {"sig", "pwd", "pass", "sas", "hdnea", "hdnts", "hmac", "bearer", "pw", "passcode"}
# Honest words elsewhere: secrets only as a parameter of an address, or as a key in a document.
_IN_QUERY = {"key", "code", "auth", "user", "username", "userid", "login", "sid", "session"}
_IN_DOCUMENT = {"auth", "user", "username", "login"}

_NAME = r"[\w.%~+$\[\]-]"
_PAIR = re.compile(
    rf"""(?P<name>(?<!{_NAME}){_NAME}++)
         (?P<quote>\\{{0,9}}["']?)
         (?P<sep>\s{{0,9}}(?:[=:]|,(?=\s?\\{{0,9}}["']))\s{{0,9}})""",
    re.VERBOSE,
)
_QUOTED = re.compile(r"""(?P<open>b?(?P<quote>\\{0,9}["']))(?P<text>.*?)(?:(?P=quote)|$)""", re.S)
_WORD = re.compile(r"""[^&\s"<>]*""")
_LINE = re.compile(r"""[^"'\r\n]*""")
_SCHEME = re.compile(r"(?i)(?:bearer|basic|digest|negotiate|token|apikey)\s+")
_TRAILING = "'),.;:]}`\\"
_LOOKS_RANDOM = re.compile(r"(?=[^&\s\"'<>]{6})[^&\s\"'<>]*?(?:\d|[a-z][A-Z])")
_XML = re.compile(r"(<([\w:.-]+)>)([^<>]+)(?=<)")
_RUN = re.compile(r"[^\s\"<>]+")

_AUTHORITY = r"[^\s/?#\"<>\\]"
_USERS = (
    # A database's address, however it is mistyped: to its last @.
    re.compile(
        r"(?i)(\b(?:postgres(?:ql)?|mysql|mariadb|mssql|oracle|redis|amqp|mongodb)s?(?:\+\w{1,30})?"
        r"(?::/{0,3}+|//))(?!user@host\b)[^\s\"<>]{0,1000}@"
    ),
    # A password with a slash or a question mark: what follows the colon is no port.
    re.compile(
        r"(\w:[/\\]{2,3})[^\s/?#@:\"<>]*:(?!\d*(?:[/?#\s\"'<>,)]|$))[^\s\"<>]{0,500}@"
    ),
    re.compile(rf"(?i)(\w:[/\\]{{2,3}}+)(?!user@host\b){_AUTHORITY}*@"),
    # Without its slashes, or without a scheme.
    re.compile(r"(\w:/)[^\s/?#\"<>@:]+:[^\s/\"<>]*@"),
    re.compile(r"(^|[\s\"'(=])[A-Za-z][^\s/?#\"'<>@:=(]*:[^\s/\"'<>:]+@(?=\w)"),
)  # fmt: skip
_BARE = re.compile(
    r"""\beyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)?     # JSON web token
      | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b              # AWS's key ids
      | \bgh[pousr]_\w{20,} | \bAIza[\w-]{30,}     # GitHub's, Google's""",
    re.VERBOSE,
)
_BEARER = re.compile(r"(?i)\b(?P<scheme>bearer|basic)(?P<gap>\s{1,3})(?P<token>[\w.~+/=-]{6,})")
_SUSPECT = re.compile(r"[@?=%;#\s\"<>\\]|eyJ|AKIA|ASIA|AIza|gh[pousr]_")
# One of these is in every text that has something to leave out: most have none.
_SIGNS = (
    "@", "%", "token", "secret", "pass", "sig", "cred", "key", "auth", "cookie", "session", "jwt",
    "pw", "sas", "hdn", "hmac", "bearer", "basic", "code", "user", "login", "sid", "eyj", "akia",
    "asia", "aiza", "gho_", "ghp_", "ghs_", "ghu_", "ghr_",
)  # fmt: skip


def is_secret_name(name: str, *, in_query: bool = False) -> bool:
    """Whether what a parameter, header, key or variable of this name holds is a secret.

    Args:
        in_query: it is a parameter of an address, where ``key`` and ``user`` are no honest words.
    """
    bare = re.sub(r"[\W_]", "", _decoded(name).lower())
    if bare in _WHOLE or _PARTS.search(bare):
        return True
    return in_query and bare in _IN_QUERY


def redacted(text: str) -> str:
    """``text`` with ``…`` for signatures, tokens, keys, passwords and names of users in it."""
    lower = text.lower()
    if not any(sign in lower for sign in _SIGNS):
        return text
    if "%" in text:
        text = _RUN.sub(_without_encoded, text)
    return _plainly_redacted(text)


def without_secrets(url: str) -> str:
    """An address without its user name, password, and the parameters whose names say secret.

    What is left is as it was, byte by byte. What is no parameter (a token in a path that says so)
    becomes ``…``, so that the address leads nowhere rather than gives it away.
    """
    if not _SUSPECT.search(url):
        return url
    address, mark, fragment = url.partition("#")
    address, question, query = address.partition("?")
    scheme, slashes, rest = address.partition("://")
    if slashes:
        authority, slash, path = rest.partition("/")
        address = f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
    for separator, pairs in ((question, query), (mark, fragment)):
        honest = [pair for pair in pairs.split("&") if _is_honest(pair)]
        if separator and (honest or not pairs):
            address += separator + "&".join(honest)
    return redacted(address)


def has_secrets(url: str) -> bool:
    """Whether an address holds what must not be kept."""
    return _SUSPECT.search(url) is not None and without_secrets(url) != url


def _is_honest(pair: str) -> bool:
    decoded = _decoded(pair)
    name = decoded.partition("=")[0]
    return not is_secret_name(name, in_query=True) and redacted(decoded) == decoded


def _plainly_redacted(text: str) -> str:
    if "@" in text:
        for users in _USERS:
            text = users.sub(r"\1…@", text)
    return _BARE.sub("…", _BEARER.sub(_without_bearer, _without_values(text)))


def _decoded(text: str) -> str:
    for _ in range(3):
        if "%" not in text:
            break
        text = unquote(text)
    return text


def _without_encoded(found: re.Match[str]) -> str:
    """A run of characters as it is, or decoded where only that shows its secrets."""
    run = found[0]
    if "%" not in run:
        return run
    # First as it stands: an encoded character may be part of a password.
    plain = _plainly_redacted(run)
    decoded = _decoded(plain)
    hidden = _plainly_redacted(decoded)
    return plain if hidden == decoded else hidden


def _without_values(text: str) -> str:
    """``name=value`` and its like: names are judged, values left out."""
    text = _XML.sub(lambda tag: f"{tag[1]}…" if is_secret_name(tag[2]) else tag[0], text)
    done: list[str] = []
    at = 0
    while found := _PAIR.search(text, at):
        done.append(text[at : found.end()])
        at = found.end()
        if _is_secret(text, found):
            value, at = _value_left_out(text, found)
            done.append(value)
    done.append(text[at:])
    return "".join(done)


def _is_secret(text: str, found: re.Match[str]) -> bool:
    name, separator = found["name"], found["sep"].strip()
    if separator == "=":
        return is_secret_name(
            name, in_query=text[found.start() - 1 : found.start()] in tuple("?&;#")
        )
    if found["quote"]:
        return is_secret_name(name) or (separator == ":" and name.lower() in _IN_DOCUMENT)
    if separator == ":" and is_secret_name(name):
        return _is_header(name) or _LOOKS_RANDOM.match(text, found.end()) is not None
    return False


def _is_header(name: str) -> bool:
    return "-" in name or name.lower() in ("authorization", "cookie")


def _value_left_out(text: str, found: re.Match[str]) -> tuple[str, int]:
    """What stands for the value behind a name, and where the text goes on."""
    start = found.end()
    if quoted := _QUOTED.match(text, start):
        return f"{quoted['open']}…{quoted['quote']}", quoted.end()
    if found["sep"].strip() == ":" and not found["quote"] and _is_header(found["name"]):
        value = _LINE.match(text, start)
    else:
        scheme = _SCHEME.match(text, start)
        value = _WORD.match(text, scheme.end() if scheme else start)
    assert value is not None
    end = value.end()
    for pair in _PAIR.finditer(text, start, end):
        # A header's line ends where a quotation begins, whose name is to be judged with it.
        if pair.end() == end and text[end : end + 1] in tuple("\"'"):
            end = pair.start()
    if end == start:
        return "", start
    # What closes a sentence or a bracket around the address is not part of it.
    kept = text[start:end].rstrip(_TRAILING)
    return "…", start + len(kept)


def _without_bearer(found: re.Match[str]) -> str:
    if _LOOKS_RANDOM.match(found["token"]) or len(found["token"]) > 20:
        return f"{found['scheme']}{found['gap']}…"
    return found[0]
