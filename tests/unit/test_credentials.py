"""Credential schemes: the key of a request, as each dialect's clients send it."""

from __future__ import annotations

import base64

import pytest
from starlette.datastructures import Headers

from api.access.credentials import BEARER, CredentialScheme, CredentialSchemes

KEY = "pw_0123456789ab_secret"
EVERY = CredentialScheme(
    schemes=("bearer", "key", "token", "basic", ""), headers=("x-api-key",), placeholders=True
)


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": f"Bearer {KEY}"}, KEY),
        ({"authorization": f"bearer  {KEY} "}, KEY),
        ({"authorization": f"Key {KEY}"}, KEY),
        ({"authorization": f"Token {KEY}"}, KEY),
        ({"authorization": KEY}, KEY),
        ({"authorization": basic(f"user:{KEY}")}, KEY),
        ({"authorization": basic(f"{KEY}:")}, KEY),
        ({"authorization": basic(KEY)}, KEY),
        ({"x-api-key": KEY}, KEY),
        ({"authorization": "Basic %%%"}, None),
        ({"authorization": "Digest a=b"}, None),
        ({"authorization": "Bearer"}, "Bearer"),  # a bare key may be any word: unknown, so refused
        ({"authorization": ""}, None),
        ({}, None),
    ],
)
def test_a_key_is_read_wherever_the_scheme_says(headers: dict[str, str], key: str | None):
    assert EVERY.read(Headers(headers)) == key


@pytest.mark.parametrize("value", [KEY, f"Key {KEY}", basic(f"user:{KEY}"), "Bearer", "Bearer "])
def test_our_own_routes_read_bearer_only(value: str):
    headers = Headers({"authorization": value})

    assert BEARER.read(headers) is None
    assert BEARER.present(headers)  # and such a request is refused, not served without a key


def test_only_a_made_up_key_may_count_as_none():
    assert EVERY.may_be_none("sk-anything")
    assert not EVERY.may_be_none(KEY)
    assert not BEARER.may_be_none("sk-anything")


def test_the_longest_prefix_decides():
    schemes = CredentialSchemes({"/fal/": EVERY, "/fal/own/": BEARER})

    assert schemes.at("/fal/run") is EVERY
    assert schemes.at("/fal/own/run") is BEARER
    assert schemes.at("/v1/jobs") is BEARER
