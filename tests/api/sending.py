"""Sending pictures, and looking at what came of it; shared by the tests of inputs."""

from __future__ import annotations

import base64
import io

import httpx2
from PIL import Image

from tests.api.hostile_pictures import encoded

PNG = {"content-type": "image/png"}


def send(api: httpx2.Client, data: bytes, **query: str) -> httpx2.Response:
    return api.post("/v1/inputs", content=data, headers=PNG, params=query)


def sent(api: httpx2.Client, picture: Image.Image) -> dict:
    answer = send(api, encoded(picture))
    assert answer.status_code == 201, answer.text
    return answer.json()


def ask(api: httpx2.Client, **more: object) -> httpx2.Response:
    return api.post("/v1/jobs", json={"prompt": "a cat", "seed": 1, **more})


def uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def pixels_of(png: bytes) -> tuple[tuple[int, int], bytes]:
    with Image.open(io.BytesIO(png)) as picture:
        return picture.size, picture.convert("RGB").tobytes()


def codes(answer: httpx2.Response) -> list[tuple[str, str]]:
    return [(e["pointer"], e["code"]) for e in answer.json()["errors"]]
