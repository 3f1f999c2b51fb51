"""The operator's check of every picture: after decoding, before anything is encoded or uploaded.

Owns the interface, and the two ways to name a checker: `package.module:function`, or the URL of a
service. Must not know Redis or jobs' ends. Invariant: it fails closed. Only a plain True lets a
picture through; an exception, a timeout or any other answer fails the job, by a code of its own.
"""

from __future__ import annotations

import http.client
import importlib
import io
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from PIL import Image

from jobs.contract.record import JobError
from jobs.errors import SettingsError
from worker.messages import Pixels

log = logging.getLogger(__name__)
MOST_ANSWER_BYTES = 4096
BLOCKED = JobError(
    code="image_blocked",
    message="the picture was refused by this service's content policy",
    retryable=False,
)
CHECK_FAILED = JobError(
    code="check_failed",
    message="the picture could not be checked, so it is not shown; try again later",
    retryable=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What a checker is shown. `rgb`: height x width x 3 bytes, row by row."""

    rgb: bytes
    width: int  # px
    height: int  # px
    prompt: str
    job_id: str
    tenant: str


Checker = Callable[[Picture], bool]  # True: may be shown. Called in threads, several at a time


class HttpChecker:
    """Asks a service: POST, the picture as PNG; the answer is 200 and `{"allowed": true}`, or not.

    The prompt is not sent. No redirect is followed and no proxy of the environment is used.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        parts = urlsplit(url)
        if not parts.hostname:
            raise SettingsError("PRINTWORKS_WORKER_IMAGE_CHECKER: the URL has no host")
        self._host, self._port = parts.hostname, parts.port
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._timeout_s = timeout_s

    def __call__(self, picture: Picture) -> bool:
        """Whether the service allows it. Raises OSError, HTTPException, ValueError."""
        connection = self._kind(self._host, self._port, timeout=self._timeout_s)
        try:
            headers = {"content-type": "image/png", "printworks-job": picture.job_id}
            connection.request("POST", self._path, _png(picture), headers)
            answer = connection.getresponse()
            said = answer.read(MOST_ANSWER_BYTES)
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(f"the checker answered {answer.status}")
        allowed = json.loads(said)["allowed"]
        if not isinstance(allowed, bool):
            raise ValueError("`allowed` is neither true nor false")
        return allowed


def checker_of(setting: str | None, *, timeout_s: float) -> Checker | None:
    """The checker that a setting names; None: none is wanted. Raises SettingsError."""
    if not setting:
        return None
    if setting.startswith(("http://", "https://")):
        return HttpChecker(setting, timeout_s=timeout_s)
    module, _, name = setting.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"PRINTWORKS_WORKER_IMAGE_CHECKER: there is no {setting!r} ({error}); "
            "it is package.module:function, or a URL"
        ) from None
    if not callable(found):
        raise SettingsError(f"PRINTWORKS_WORKER_IMAGE_CHECKER: {setting!r} cannot be called")
    return cast("Checker", found)


def refusal(checker: Checker | None, picture: Picture) -> JobError | None:
    """Why a picture must not be shown; None: it may."""
    if checker is None:
        return None
    try:
        allowed = checker(picture)
    except Exception as error:  # noqa: BLE001 - other people's code: whatever it raises, closed
        # its kind only: what it says may hold the prompt
        said = {"job_id": picture.job_id, "kind": type(error).__name__}
        log.warning("check.failed", extra=said)
        return CHECK_FAILED
    if allowed is True:
        return None
    log.warning("check.refused", extra={"job_id": picture.job_id})
    return BLOCKED if allowed is False else CHECK_FAILED


def picture_of(pixels: Pixels, *, prompt: str, job_id: str, tenant: str) -> Picture:
    """What the checker is shown of an image."""
    return Picture(
        rgb=pixels.data,
        width=pixels.width,
        height=pixels.height,
        prompt=prompt,
        job_id=job_id,
        tenant=tenant,
    )


def _png(picture: Picture) -> bytes:
    out = io.BytesIO()
    image = Image.frombytes("RGB", (picture.width, picture.height), picture.rgb)
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()
