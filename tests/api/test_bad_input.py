"""Bytes that must not hurt: every one is a short 4xx that echoes nothing."""

from __future__ import annotations

import json
import socket

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.serving import Served

JSON = {"content-type": "application/json"}
CANARY = "zqxcanary"
BODIES = {
    "nan": b'{"prompt":"a","guidance_scale":NaN}',
    "nan inside metadata": b'{"prompt":"a","metadata":{"x":NaN}}',
    "infinity": b'{"prompt":"a","metadata":{"x":-Infinity}}',
    "1e999": b'{"prompt":"a","guidance_scale":1e999}',
    "1e999 inside metadata": b'{"prompt":"a","metadata":{"x":1e999}}',
    "lone surrogate": b'{"prompt":"\\ud800"}',
    "lone surrogate in a key": b'{"prompt":"a","metadata":{"\\udc00":1}}',
    "bool as int": b'{"prompt":"a","n":true}',
    "text as int": b'{"prompt":"a","steps":"20"}',
    "float as int": b'{"prompt":"a","steps":20.0}',
    "duplicate keys": b'{"prompt":"a","prompt":"b"}',
    "duplicate keys inside": b'{"prompt":"a","metadata":{"x":1,"x":2}}',
    "utf-16": '{"prompt":"a"}'.encode("utf-16"),
    "utf-32": '{"prompt":"a"}'.encode("utf-32"),
    "byte order mark": b'\xef\xbb\xbf{"prompt":"a"}',
    "not utf-8": b'{"prompt":"\xff"}',
    "deep array": b"[" * 60_000,
    "deep object": b'{"prompt":"a","metadata":' + b'{"x":' * 9_000 + b"1" + b"}" * 9_001,
    "long integer": b'{"prompt":"a","seed":' + b"9" * 5_000 + b"}",
    "long integer inside": b'{"prompt":"a","metadata":{"x":' + b"9" * 4_299 + b"}}",
    "long fraction": b'{"prompt":"a","guidance_scale":1.' + b"1" * 60_000 + b"e5}",
    "wrong kind of seed": b'{"prompt":"a","seed":"x"}',
    "negative seed": b'{"prompt":"a","seed":-1}',
    "many unknown fields": json.dumps({f"x{k}": k for k in range(4_000)}).encode(),
    "long unknown field": json.dumps({"prompt": "a", CANARY * 5_000: 1}).encode(),
    "empty": b"",
    "null": b"null",
    "array": b"[]",
    "number": b"1",
    "text": b'"prompt"',
    "trailing": b'{"prompt":"a"} {}',
    "single quotes": b"{'prompt':'a'}",
    "comment": b'{"prompt":"a" /* why */}',
    "blank prompt": b'{"prompt":"   "}',
    "no prompt": b"{}",
    "null prompt": b'{"prompt":null}',
    "long prompt": json.dumps({"prompt": CANARY * 3_000}).encode(),
    "huge side": b'{"prompt":"a","width":99999999999,"height":64}',
    "half a size": b'{"prompt":"a","width":64}',
    "wild size": b'{"prompt":"a","size":"\xd9\xa1x\xd9\xa2"}',
    "zero ratio": b'{"prompt":"a","aspect_ratio":"0:0"}',
    "mad ratio": b'{"prompt":"a","aspect_ratio":"9999:1"}',
    "metadata too large": json.dumps({"prompt": "a", "metadata": {"x": "y" * 2_000}}).encode(),
    "metadata no object": b'{"prompt":"a","metadata":[1]}',
    "unknown sampler": b'{"prompt":"a","sampler":"../../etc"}',
    "unknown model": b'{"prompt":"a","model":"\\u0000"}',
    "too many": b'{"prompt":"a","n":10000000}',
    "seeds and n differ": b'{"prompt":"a","seed":[1,2],"n":3}',
    "a deadline of nothing": b'{"prompt":"a","deadline_s":0}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_bad_body_is_a_short_422_without_an_echo(api: httpx2.Client, body: bytes):
    answer = api.post("/v1/jobs", content=body, headers=JSON)

    problem = answer.json()
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["code"] == "invalid_request"
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["errors"]
    assert len(answer.content) <= 4096
    assert CANARY * 25 not in answer.text


ODD_BUT_GOOD = {
    "nul": "a\u0000b",
    "right to left": "\u202egnp.exe",
    "emoji": "👩‍🚀" * 20,
    "line breaks": "a\r\nX-Injected: 1",
    "markup": "<script>alert(1)</script>",
    "above the plane": "\U0010fffd",
}


@pytest.mark.parametrize("prompt", ODD_BUT_GOOD.values(), ids=ODD_BUT_GOOD.keys())
def test_an_odd_prompt_comes_back_as_it_went(api: httpx2.Client, prompt: str):
    answer = api.post("/v1/jobs", json={"prompt": prompt})

    again = api.get(answer.headers["location"])
    assert answer.status_code == 202
    assert again.json()["resolved"]["prompt"] == prompt


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["prompt", "seed", "n", "steps", "size", "output", "x"]), inner
                )
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
    )
)
def test_no_body_makes_a_5xx(api: httpx2.Client, body: bytes):
    answer = api.post("/v1/jobs?dry_run=true", content=body, headers=JSON)

    assert answer.status_code in {200, 422}


def test_a_body_over_the_limit_is_refused_before_it_is_read(api: httpx2.Client):
    declared = api.post("/v1/jobs", content=b"x" * 5_000_000, headers=JSON)

    assert declared.status_code == 413
    assert declared.json()["code"] == "payload_too_large"
    assert declared.headers["x-request-id"]


def test_a_chunked_body_is_cut_off_at_the_limit(api: httpx2.Client):
    def endless():
        for _ in range(40):
            yield b"x" * 8_192

    answer = api.post("/v1/jobs", content=endless(), headers=JSON)

    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json; charset=utf-8"}, 202),
        ({"content-type": "application/x-www-form-urlencoded"}, 202),  # what `curl -d` sends
        ({}, 202),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
    ],
)
def test_a_body_is_json_or_declared_as_nothing(
    api: httpx2.Client, headers: dict[str, str], status: int
):
    answer = api.post("/v1/jobs", content=b'{"prompt":"a"}', headers=headers)

    assert answer.status_code == status


def test_too_many_headers_are_refused(api: httpx2.Client):
    many = api.get("/v1/jobs", headers={f"x-{k}": "1" for k in range(150)})
    large = api.get("/v1/jobs", headers={"x-large": "y" * 20_000})

    assert many.status_code == large.status_code == 431


@pytest.mark.parametrize(
    ("query", "pointer", "hint"),
    [
        ("limt=3", "?limt", "did you mean 'limit'?"),
        ("limit=3&stauts=queued", "?stauts", "did you mean 'status'?"),
        ("limit=0", "?limit", ""),
        ("limit=abc", "?limit", ""),
        ("status=done", "?status", ""),
        ("%ff=1", "?", "known: "),
    ],
)
def test_a_wrong_query_parameter_is_named(api: httpx2.Client, query: str, pointer: str, hint: str):
    answer = api.get(f"/v1/jobs?{query}")

    (problem,) = answer.json()["errors"]
    assert answer.status_code == 422
    assert problem["pointer"].startswith(pointer)
    assert hint in problem["detail"]


def test_a_cursor_of_nonsense_is_refused(api: httpx2.Client):
    answer = api.get("/v1/jobs", params={"cursor": "+ [ ( \x00 nonsense"})

    assert answer.status_code == 422


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET /v1/jobs HTTP/9.9\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5, 6\r\n\r\nhello",
        b"GET /v1/\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%00/%ff%fe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /v1/jobs/%0d%0aX: HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)
def test_what_is_hardly_http_is_a_4xx(served: Served, raw: bytes):
    with socket.create_connection(served.address, timeout=5) as wire:
        wire.sendall(raw)
        answer = wire.recv(65_536)

    assert answer.startswith(b"HTTP/1.1 4")


def test_an_unknown_path_and_method_are_problems_too(api: httpx2.Client):
    missing, wrong = api.get("/v2/nothing"), api.put("/v1/jobs", json={})

    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert "GET" in wrong.headers["allow"]


def test_a_request_id_comes_back_and_a_bad_one_is_replaced(api: httpx2.Client):
    good = api.get("/livez", headers={"x-request-id": "order-17"})
    bad = api.get("/livez", headers={"x-request-id": "a b<script>"})

    assert good.headers["x-request-id"] == "order-17"
    assert "<" not in bad.headers["x-request-id"]


def test_every_answer_carries_the_security_headers(api: httpx2.Client):
    for answer in (api.get("/livez"), api.get("/nothing"), api.get("/v1/jobs")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
