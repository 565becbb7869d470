"""Which words are secrets, in text and in addresses, and what is left without them."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from catalog.redaction import has_secrets, redacted, without_secrets

# § stands for the secret.
TOLD = [
    "https://§@host/a",
    "https://user:§@host/a",
    "HTTPS://§:§@HOST/a",
    "https://a:§@§@host/a",
    "https://a:§/§@host/a",
    "https://a:§?§#§@host/a",
    "https://a:§'§(§)@host:1/a",
    "https:/a:§@host/a",
    r"https:\\a:§@host\a",
    "https%3A%2F%2Fa%3A§%40host%2Fa",
    "https%253A%252F%252Fa%253A§%2540host",
    "x https://h/?next=https%3A%2F%2Fh%2F%3Ftoken%3D§ y",
    "s3://§:§@bucket/key",
    "postgres://u:p@§@host/db",
    "postgresql:/u:§@h/db",
    "postgresql:u:§@h/db",
    "postgres//u:§@h/db",
    "postgresql+psycopg://§@h/db",
    "postgres://u:1/§@h/db",
    "mysql+pymysql://u:§?§@h/db",
    "sqlite:///x.db?password=§",
    "postgresql:///db?user=§&password=§&host=h",
    "tcp://u:§@host:8786",
    "no scheduler answers at 'u:§@host:8786'",
    "?sig=§",
    "?a=1&SIG=§&b=2",
    "https://h/a?api_key=§",
    "https://h/a?apikey=§",
    "https://h/a?API-KEY=§",
    "https://h/a?key=§",
    "https://h/a?auth=§",
    "https://h/a?code=§",
    "https://h/a?access_token=§#x",
    "https://h/a?%74oken=§",
    "https://h/a?to%6ben=§",
    "https://h/a?token%3D§",
    "https://h/a?subscription-key=§",
    "https://h/a?X-Amz-Security-Token=§&X-Amz-Signature=§&X-Amz-Credential=§",
    "https://h/a?AWSAccessKeyId=§&Signature=§",
    "https://h/a#access_token=§",
    "https://h/a;token=§/b",
    "(https://h/a?token=§)",
    "'https://h/a?token=§': malformed",
    "token=§§'§(§)§",
    '{"token": "§"}',
    '{"error": "bad", "access_token":"§", "code": 3}',
    r'{\"token\": \"§\"}',
    "{'api_key': '§', 'x': 1}",
    "{'Authorization': 'Bearer §'}",
    "[('X-Api-Key', '§'), ('Accept', 'x')]",
    "{b'authorization': b'Basic §'}",
    "Authorization: Bearer §",
    "authorization: Basic §",
    "Authorization: § §",
    "> Proxy-Authorization: Digest username=§, response=§",
    "X-Api-Key: §",
    "Ocp-Apim-Subscription-Key: §",
    "x-amz-security-token: §",
    "Cookie: a=§; b=§",
    "Set-Cookie: session=§",
    "Bearer §",
    "bearer § is no token",
    "AWS_SECRET_ACCESS_KEY=§",
    "PGPASSWORD=§",
    "COGCAT_STAC_AUTHORIZATION=Bearer §",
    "host=h user=x password=§ dbname=d",
    "password = '§ §'",
    "AccountName=x;AccountKey=§==;EndpointSuffix=y",
    "token: §",
    "<Error><Token>§</Token><AWSAccessKeyId>§</AWSAccessKeyId></Error>",
]  # fmt: skip
SECRET = "hUnter2Zq9xK"


@pytest.mark.parametrize("form", TOLD)
def test_a_secret_is_left_out(form: str) -> None:
    text = form.replace("§", SECRET)
    said = redacted(f"GET {text} failed")
    assert SECRET not in said, said
    assert "…" in said
    assert said.startswith("GET ")
    assert redacted(said) == said


HONEST = [
    "https://host:8080/a/b?limit=10&bbox=1,2,3,4",
    "s3://bucket/a@b/c.tif",
    "https://host/@scope/x",
    "https://host:80/a@b",
    "file:///home/a@b/c.db",
    "sqlite:////tmp/x.db",
    "write sqlite:///path/to/file.db or postgresql://user@host/name",
    "unknown key 'token' in [[sources]] 1",
    "malformed token: it is of another catalog",
    "page token of another catalog",
    "filter: eo:key = 3 and key=eo:cloud_cover",
    "?list-type=2&prefix=a/b&key-marker=x&max-keys=3",
    "Bearer authentication is required",
    "Basic authentication failed",
    "password authentication failed for a role",
    '{"code": "NotFound", "description": "no such collection"}',
    "2023-12-01T10:20:30Z: band red: 3 samples",
    "S2B_10TFR_20231223_0_L2A red: the file is missing (https://h/B04.tif)",
    "no such key: sentinel-s2-l2a/tiles/10/T/FR/B04.tif",
    "keys=1, monkey=2, author=x, secretary",
    "mailto a@b.c",
    "git@github.com:o/r",
    "vcc://earth-search-c1/10/T/FR/B04.tif",
    "ratio 1:2@3",
    "see https://h/a?versionId=abc (b)",
]  # fmt: skip


@pytest.mark.parametrize("text", HONEST)
def test_what_is_honest_stays(text: str) -> None:
    # "secretary" and "secret" are one word to a machine; only a value beside it is left out.
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("url", "left"),
    [
        ("https://u:p@host:1/a?sig=S&se=2#f", "https://host:1/a?se=2#f"),
        ("https://u@host", "https://host"),
        ("https://u:p@q@host/", "https://host/"),
        ("https://host/a?api_key=S", "https://host/a"),
        ("https://host/a?x=1&api_key=S&y=%20", "https://host/a?x=1&y=%20"),
        ("https://host/a?key=S#token=S", "https://host/a"),
        ("https://host/a?next=https%3A%2F%2Fu%3Ap%40h&b=1", "https://host/a?b=1"),
        ("https://host/a;token=S/b?c=1", "https://host/a;token=…"),
        ("https://host/a?", "https://host/a?"),
        ("https://host/a b/ö%20.tif", "https://host/a b/ö%20.tif"),
        ("s3://k:s@bucket/p", "s3://bucket/p"),
        ("/a/plain@path", "/a/plain@path"),
        ("tcp://h:8786", "tcp://h:8786"),
    ],
)
def test_addresses(url: str, left: str) -> None:
    assert without_secrets(url) == left
    assert has_secrets(url) == (url != left)
    assert without_secrets(left) == left


FORMS = st.sampled_from(TOLD)


@example(["Authorization: Bearer §", "password = '§ §'"])
@example(["Cookie: a=§; b", "x = '1', token='§ §'"])
@given(
    st.lists(
        st.one_of(
            FORMS,
            st.sampled_from(HONEST),
            st.text(st.characters(exclude_characters="§"), max_size=20),
        ),
        max_size=6,
    )
)
def test_among_other_words(parts: list[str]) -> None:
    text = " ".join(part.replace("§", SECRET) for part in parts)
    said = redacted(text)
    assert SECRET not in said
    assert redacted(said) == said


@pytest.mark.parametrize(
    "unit",
    ["a", "=", ":", "/", "@", "%3A%2F%2F", "://", "://a:b", "token=", "token='", '"token": ',
     "token=\\'", "a=b&", "Bearer ", "eyJaaaaa.", "<token>", "postgres://", "a:", "x://a:b@", "%25",
     "token: ", "'a','", " a:b@", "\\", "user:/a:b"],
)  # fmt: skip
def test_time_is_in_proportion(unit: str) -> None:
    for tail in ("", "@", "'", "@h"):
        text = (unit * 100_000)[:100_000] + tail
        begin = time.process_time()
        redacted(text)
        assert time.process_time() - begin < 1.5
