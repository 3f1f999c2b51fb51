"""Requests made to keep a server busy, one a row: each grows with `size`, in bytes, and is refused.

Owns what the test of growth and benchmarks/event_loop.py send. All are within the limits of their
route: larger ones are not read.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable
from dataclasses import dataclass, field

JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=x"}
SMALL, LARGE, FILE = 60_000, 15_000_000, 10_000_000  # bytes that the routes take
QUERY = 14_000


@dataclass(frozen=True, slots=True)
class Hostile:
    """One request; `body` and `query` are made for a size in bytes."""

    path: str
    most: int
    body: Callable[[int], bytes] = lambda _: b""
    query: Callable[[int], str] = lambda _: ""
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))
    chunk: bool = False  # sent in chunks of one byte
    method: str = "POST"


def repeated(head: bytes, unit: bytes, tail: bytes) -> Callable[[int], bytes]:
    """`head`, then `unit` as often as fits, then `tail`."""
    return lambda size: head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail


def listed(head: bytes, item: bytes, tail: bytes) -> Callable[[int], bytes]:
    """The same, with commas between."""

    def made(size: int) -> bytes:
        many = (size - len(head) - len(tail)) // (len(item) + 1)
        return head + b",".join([item] * max(1, many)) + tail

    return made


def names(size: int, *, twice: bool = False) -> str:
    """Members of an object, each of another name; the last stands twice, if that is asked."""
    many = [f'"{k}":1' for k in range(size // 9)]
    return ",".join([*many, many[-1]] if twice else many)


def doubled(head: str, tail: str) -> Callable[[int], bytes]:
    return lambda size: (head + names(size, twice=True) + tail).encode()


def _nested(size: int) -> bytes:
    return b'{"prompt":"a","metadata":{"x":[' + b",".join([b"[" * 180 + b"]" * 180] * (size // 361))


def _form_of(part: bytes) -> Callable[[int], bytes]:
    return lambda size: part * (size // len(part))


def send(address: tuple[str, int], hostile: Hostile, size: int) -> int:
    """Send one, by Python's own client; the status of its answer, which is short."""
    wire = http.client.HTTPConnection(*address, timeout=60)
    query, body = hostile.query(size), hostile.body(size)
    path = f"{hostile.path}?{query}" if query else hostile.path
    headers = dict(hostile.headers)
    if hostile.chunk:
        headers["transfer-encoding"] = "chunked"
        body = b"1\r\n1\r\n" * len(body) + b"0\r\n\r\n"
    try:
        wire.request(hostile.method, path, body=body, headers=headers)
        answer = wire.getresponse()
        told = answer.read()
        assert answer.status == 200 or len(told) <= 4_096, told[:200]
        return answer.status
    finally:
        wire.close()


FILE_HEAD = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n'
HOSTILE: dict[str, Hostile] = {
    "a name twice, of a job": Hostile("/v1/jobs", SMALL, doubled("{", "}")),
    "a name twice, in metadata": Hostile(
        "/v1/jobs", SMALL, doubled('{"prompt":"a","metadata":{', "}}")
    ),
    "a name twice, of a group": Hostile("/v1/job-groups", SMALL, doubled("{", "}")),
    "a name twice, of a key": Hostile("/v1/keys", SMALL, doubled("{", "}")),
    "unknown fields": Hostile(
        "/v1/jobs", SMALL, lambda size: b'{"prompt":"a",' + names(size).encode() + b"}"
    ),
    "unknown fields of a key": Hostile(
        "/v1/keys", SMALL, lambda size: b"{" + names(size).encode() + b"}"
    ),
    "one long unknown field": Hostile(
        "/v1/jobs", SMALL, repeated(b'{"prompt":"a","', b"ab", b'":1}')
    ),
    "wrong adapters": Hostile("/v1/jobs", SMALL, listed(b'{"prompt":"a","loras":[', b"1", b"]}")),
    "empty adapters": Hostile("/v1/jobs", SMALL, listed(b'{"prompt":"a","loras":[', b"{}", b"]}")),
    "wrong seeds": Hostile("/v1/jobs", SMALL, listed(b'{"prompt":"a","seed":[', b"[]", b"]}")),
    "wrong events": Hostile(
        "/v1/jobs",
        SMALL,
        listed(b'{"prompt":"a","webhook":{"url":"https://a.bc","events":[', b"1", b"]}}"),
    ),
    "wrong scopes": Hostile("/v1/keys", SMALL, listed(b'{"tenant":"a","scopes":[', b"1", b"]}")),
    "wrong jobs": Hostile("/v1/job-groups", SMALL, listed(b'{"jobs":[', b"1", b"]}")),
    "empty jobs": Hostile("/v1/job-groups", SMALL, listed(b'{"jobs":[', b"{}", b"]}")),
    "numbers in metadata": Hostile(
        "/v1/jobs", SMALL, listed(b'{"prompt":"a","metadata":{"x":[', b"1.5", b"]}}")
    ),
    "long integers": Hostile(
        "/v1/jobs", SMALL, listed(b'{"prompt":"a","metadata":{"x":[', b"9" * 4_200, b"]}}")
    ),
    "a long fraction": Hostile(
        "/v1/jobs", SMALL, repeated(b'{"prompt":"a","guidance_scale":1.', b"1", b"e999}")
    ),
    "objects in metadata": Hostile(
        "/v1/jobs", SMALL, listed(b'{"prompt":"a","metadata":{"x":[', b"{}", b"]}}")
    ),
    "nested as deep as it goes": Hostile("/v1/jobs", SMALL, lambda size: _nested(size) + b"]}}"),
    "nested without an end": Hostile("/v1/jobs", SMALL, repeated(b"", b"[", b"")),
    "unicode escapes": Hostile("/v1/jobs", SMALL, repeated(b'{"prompt":"', b"\\u0301", b'"}')),
    "a prompt of marks": Hostile(
        "/v1/jobs", SMALL, repeated(b'{"prompt":"a', "\u0301\u0316".encode(), b'"}')
    ),
    "a long webhook": Hostile(
        "/v1/jobs", SMALL, repeated(b'{"prompt":"a","webhook":{"url":"https://', b"a.", b'"}}')
    ),
    "escaped quotes": Hostile(
        "/v1/jobs", LARGE, repeated(b'{"prompt":"a","image":"', b'\\"', b'"}')
    ),
    "backslashes": Hostile("/v1/jobs", LARGE, repeated(b'{"prompt":"a","image":"', b"\\\\", b'"}')),
    "a string without an end": Hostile("/v1/jobs", LARGE, repeated(b'{"image":"', b"\\\\", b'\\"')),
    "a large prompt": Hostile("/v1/jobs", LARGE, repeated(b'{"prompt":"', b"ab", b'"}')),
    "many pictures": Hostile(
        "/v1/jobs", LARGE, listed(b'{"prompt":"a","image":[', b'"' + b"A" * 32_800 + b'"', b"]}")
    ),
    "base64 of no picture": Hostile(
        "/v1/jobs", LARGE, repeated(b'{"prompt":"a","image":"', b"A", b'"}')
    ),
    "empty parts": Hostile("/v1/inputs", FILE, _form_of(b"--x\r\n\r\n\r\n"), headers=dict(FORM)),
    "headers of a part": Hostile(
        "/v1/inputs", FILE, repeated(b"--x\r\n", b"a:\r\n", b""), headers=dict(FORM)
    ),
    "line ends in a file": Hostile(
        "/v1/inputs", FILE, repeated(FILE_HEAD, b"\r\n", b"\r\n--x--\r\n"), headers=dict(FORM)
    ),
    "almost boundaries": Hostile(
        "/v1/inputs", FILE, repeated(FILE_HEAD, b"\r\n--", b"\r\n--x--\r\n"), headers=dict(FORM)
    ),
    "dashes before a form": Hostile(
        "/v1/inputs", FILE, repeated(b"", b"-", b""), headers=dict(FORM)
    ),
    "a file of zeros": Hostile(
        "/v1/inputs", FILE, repeated(b"", b"\0", b""), headers={"content-type": "image/png"}
    ),
    "markers of a JPEG": Hostile(
        "/v1/inputs",
        FILE,
        repeated(b"\xff\xd8\xff\xe0", b"\xff", b"\0"),
        headers={"content-type": "image/jpeg"},
    ),
    "chunks of one byte": Hostile("/v1/job-groups", SMALL, repeated(b"", b"1", b""), chunk=True),
    "unknown parameters": Hostile(
        "/v1/jobs",
        QUERY,
        query=lambda size: "&".join(f"a{k}" for k in range(size // 6)),
        method="GET",
    ),
    "a long cursor": Hostile(
        "/v1/jobs", QUERY, query=lambda size: f"cursor={'0' * size}", method="GET"
    ),
    "a query of nothing": Hostile("/livez", QUERY, query=lambda size: "&" * size, method="GET"),
    "many headers": Hostile(
        "/livez", 30_000, method="GET", headers={f"a{k}": "" for k in range(4_000)}
    ),
    "a long Prefer": Hostile("/v1/jobs", QUERY, headers={"prefer": "wait " * 2_800}, method="GET"),
    "a long Idempotency-Key": Hostile(
        "/v1/jobs",
        QUERY,
        lambda _: b'{"prompt":"a"}',
        headers={"idempotency-key": '"' + '\\"' * 7_000},
    ),
    "a long traceparent": Hostile(
        "/v1/jobs", QUERY, headers={"traceparent": "00-" + "0" * 14_000}, method="GET"
    ),
    "many ETags": Hostile(
        "/v1/jobs/019a0000-0000-7000-8000-000000000000",
        QUERY,
        headers={"if-none-match": 'W/"a",' * 2_300},
        method="GET",
    ),
}
