"""The operator's content check of every image: after decoding, before encoding and upload.

Owns the interface, and the two ways to name a checker: `package.module:function`, or the URL of a
service. Must not know Redis or jobs' ends. Invariant: the check fails closed. Only True itself lets
an image through; an exception, a timeout or any other answer fails the job, by a code of its own.
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
    message="the image was refused by this service's content policy; change the prompt",
    retryable=False,
)
CHECK_FAILED = JobError(
    code="check_failed",
    message="the image could not be checked, so it is not stored; try again later",
    retryable=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A checker's argument: image, prompt, job, tenant. `rgb`: height x width x 3 bytes, by row."""

    rgb: bytes
    width: int  # px
    height: int  # px
    prompt: str
    job_id: str
    tenant: str


Checker = Callable[[Picture], bool]  # True: allowed. Called in several threads at once


class HttpChecker:
    """Checker that POSTs the image as PNG to a service, which answers 200, `{"allowed": BOOL}`.

    The prompt is not sent. No redirect is followed and no proxy of the environment is used.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        parts = urlsplit(url)
        if not parts.hostname:
            raise SettingsError(
                "PRINTWORKS_WORKER_IMAGE_CHECKER: the URL has no host; write http://HOST/PATH"
            )
        self._host, self._port = parts.hostname, parts.port
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._timeout_s = timeout_s

    def __call__(self, picture: Picture) -> bool:
        """Ask the service; True: allowed. Raises OSError, HTTPException, ValueError."""
        connection = self._kind(self._host, self._port, timeout=self._timeout_s)
        try:
            headers = {"content-type": "image/png", "printworks-job": picture.job_id}
            connection.request("POST", self._path, _png(picture), headers)
            response = connection.getresponse()
            body = response.read(MOST_ANSWER_BYTES)
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(f"the checker answered {response.status}")
        allowed = json.loads(body)["allowed"]
        if not isinstance(allowed, bool):
            raise ValueError("`allowed` is neither true nor false")
        return allowed


def checker_of(setting: str | None, *, timeout_s: float) -> Checker | None:
    """Return the checker that a setting names; None: no check. Raises SettingsError."""
    if not setting:
        return None
    if setting.startswith(("http://", "https://")):
        return HttpChecker(setting, timeout_s=timeout_s)
    module, _, name = setting.partition(":")
    try:
        checker: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"PRINTWORKS_WORKER_IMAGE_CHECKER: there is no {setting!r} ({error}); "
            "write package.module:function, or a URL"
        ) from None
    if not callable(checker):
        raise SettingsError(
            f"PRINTWORKS_WORKER_IMAGE_CHECKER: {setting!r} is not callable; name a function"
        )
    return cast("Checker", checker)


def refusal(checker: Checker | None, picture: Picture) -> JobError | None:
    """Run the check. Return the job's error, or None if the image is allowed."""
    if checker is None:
        return None
    try:
        allowed = checker(picture)
    except Exception as error:  # noqa: BLE001 - other people's code: fail closed at any error
        # log the type only: the message may hold the prompt
        fields = {"job_id": picture.job_id, "kind": type(error).__name__}
        log.warning("check.failed", extra=fields)
        return CHECK_FAILED
    if allowed is True:
        return None
    log.warning("check.refused", extra={"job_id": picture.job_id})
    return BLOCKED if allowed is False else CHECK_FAILED


def picture_of(pixels: Pixels, *, prompt: str, job_id: str, tenant: str) -> Picture:
    """Return the checker's argument for an image."""
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
