"""Generation of one image through the API, as any client would, with the standard library alone.

Owns the little of the HTTP contract that `up` needs; the real client is `printworks`.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from deploy.service import ServiceError

WAIT_S = 1  # a long poll: the API answers at once when the job ends
FINAL = {"succeeded", "failed", "canceled", "expired"}


class NoPicture(ServiceError):
    """The service refused the request, or the job did not succeed."""


def make_picture(
    api_url: str, api_key: str | None, request: dict[str, Any], out: Path
) -> Iterator[dict[str, Any]]:
    """Submit `request`, yield the job until it ends, and save its first image as `out`.

    Raises NoPicture.
    """
    job = _call(f"{api_url}/v1/jobs", api_key, request)
    while job["status"] not in FINAL:
        yield job
        job = _call(f"{job['urls']['self']}?wait={WAIT_S}", api_key)
    if job["status"] != "succeeded":
        error = job["error"] or {"message": "no reason given"}
        raise NoPicture(f"job {job['id']} {job['status']}: {error['message']}")
    with _open(job["images"][0]["url"], api_key) as answer:
        picture = answer.read()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(picture)


def _call(url: str, api_key: str | None, body: dict[str, Any] | None = None) -> dict[str, Any]:
    with _open(url, api_key, body) as answer:
        return json.load(answer)


def _open(url: str, api_key: str | None, body: dict[str, Any] | None = None) -> Any:
    headers = {"Content-Type": "application/json"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers)  # noqa: S310 - ours
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
    try:
        return opener.open(request, timeout=30)
    except urllib.error.HTTPError as error:
        raise NoPicture(_refusal(error)) from None
    except OSError as error:
        raise NoPicture(f"the API does not answer: {error}") from None


def _refusal(error: urllib.error.HTTPError) -> str:
    """Return the message of a problem+json answer."""
    try:
        problem = json.loads(error.read())
        details = [f"{e['pointer']}: {e['detail']}" for e in problem.get("errors", [])]
        return "; ".join(details) or str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the API answered {error.code} {HTTPStatus(error.code).phrase}"
