"""What is taken for a picture and what is not, each row of hostile_pictures.py over HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import httpx2
import pytest

from tests.api.hostile_pictures import REFUSED, TAKEN, a_picture, encoded, transparent
from tests.api.sending import codes, pixels_of, send
from tests.api.serving import Served


@pytest.mark.parametrize(("make", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_a_hostile_picture_is_a_short_422(api: httpx2.Client, make: Callable[[], bytes], code: str):
    answer = send(api, make())

    assert answer.status_code == 422, answer.text
    assert codes(answer) == [("", code)]
    assert len(answer.content) <= 1024


@pytest.mark.parametrize(("make", "size", "changes"), TAKEN.values(), ids=TAKEN.keys())
def test_a_picture_of_the_world_becomes_plain_pixels(
    api: httpx2.Client, make: Callable[[], bytes], size: tuple[int, int], changes: list[str]
):
    answer = send(api, make())
    view = answer.json()
    stored = api.get(view["url"])

    assert answer.status_code == 201, answer.text
    assert (view["width"], view["height"], view["changes"]) == (*size, changes)
    assert pixels_of(stored.content)[0] == size
    assert view["pixel_sha256"] == hashlib.sha256(pixels_of(stored.content)[1]).hexdigest()
    assert view["id"] == f"{size[0]}x{size[1]}-{view['pixel_sha256']}"


def test_nothing_but_pixels_is_kept_of_what_was_sent(api: httpx2.Client):
    for name in ("turned, with a place in it", "a text", "a zip behind it", "a colour profile"):
        stored = api.get(send(api, TAKEN[name][0]()).json()["url"]).content

        chunks = {stored[at + 4 : at + 8] for at in chunk_starts(stored)}
        assert chunks == {b"IHDR", b"IDAT", b"IEND"}, name


def chunk_starts(png: bytes) -> list[int]:
    starts, at = [], 8
    while at < len(png):
        starts.append(at)
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    return starts


def test_sixteen_bits_lose_their_lower_eight(api: httpx2.Client):
    stored = api.get(send(api, TAKEN["16 bits of grey"][0]()).json()["url"]).content

    assert pixels_of(stored)[1][: 48 * 3 : 3] == bytes(range(48))


def test_transparency_is_laid_on_the_colour_that_is_said(api: httpx2.Client):
    view = send(api, transparent(), background="#000000").json()
    bad = send(api, transparent(), background="white")

    assert view["changes"] == ["flattened_on_#000000"]
    assert pixels_of(api.get(view["url"]).content)[1][:3] == bytes((94, 14, 28))
    assert codes(bad) == [("?background", "string_pattern_mismatch")]


def test_a_form_brings_the_same_as_a_body(api: httpx2.Client):
    data = encoded(a_picture())

    form = api.post("/v1/inputs", files={"file": ("../../cat.png", data, "image/png")})
    none = api.post("/v1/inputs", files={"note": (None, "no file")})

    assert form.status_code == 201
    assert form.json()["id"] == send(api, data).json()["id"]
    assert codes(none) == [("", "no_file")]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "image/gif"}, 415),
        ({"content-type": "text/plain"}, 415),
        ({}, 415),
        ({"content-type": "application/octet-stream"}, 201),
    ],
)
def test_only_what_is_declared_as_a_picture_is_read(
    api: httpx2.Client, headers: dict[str, str], status: int
):
    assert (
        api.post("/v1/inputs", content=encoded(a_picture()), headers=headers).status_code == status
    )


def test_a_file_over_the_limit_is_refused(served: Served, api: httpx2.Client):
    most = served.services.settings.max_input_bytes

    inside = send(api, b"\xff" * (most + 10))
    beyond = send(api, b"\xff" * (most + 100_000))

    assert codes(inside) == [("", "too_large")]
    assert beyond.status_code == 413
