"""Verification of webhooks: sender, time and body are checked by the signature.

Owns the receiver's side of Standard Webhooks 1.0.0 (`v1`). Standard library only, so that this file
can be copied into a receiver as it is. Invariant: no body is parsed before its signature is
verified, and every refusal is InvalidWebhook.

    event = verify(request.body, request.headers, os.environ["WEBHOOK_SECRET"])
    if event["type"] == "job.succeeded": ...   # and answer 2xx within 15 s
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

TOLERANCE_S = 300  # between the receiver's clock and the sender's; an older request is a replay


class InvalidWebhook(Exception):
    """A webhook that failed verification. Answer 400, and do nothing."""


def verify(
    body: bytes,
    headers: Mapping[str, str],
    *secrets: str,
    now_s: float | None = None,
    tolerance_s: float = TOLERANCE_S,
) -> dict[str, Any]:
    """Return the event in `body`, signed with one of `secrets` (two during a rotation).

    `body`: the bytes as received, before any parsing. Deliveries may come twice and out of order:
    remember `headers["webhook-id"]`, and order a job's events by `event["data"]["seq"]`.
    Raises InvalidWebhook.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        event_id, stamp = given["webhook-id"], given["webhook-timestamp"]
        signatures = given["webhook-signature"]
    except KeyError as missing:
        raise InvalidWebhook(f"the header {missing.args[0]} is missing") from None
    _check_time(stamp, time.time() if now_s is None else now_s, tolerance_s)
    signed = f"{event_id}.{stamp}.".encode() + body
    expected = [hmac.digest(_key(secret), signed, hashlib.sha256) for secret in secrets]
    if not any(hmac.compare_digest(e, s) for s in _given(signatures) for e in expected):
        raise InvalidWebhook("no signature matches: check the secret, and pass the unparsed body")
    event: dict[str, Any] = json.loads(body)
    return event


def _check_time(stamp: str, now_s: float, tolerance_s: float) -> None:
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) < 16):
        raise InvalidWebhook("webhook-timestamp is not a time")
    if abs(now_s - int(stamp)) > tolerance_s:
        raise InvalidWebhook("too old or from the future: a replay, or check this machine's clock")


def _given(header: str) -> list[bytes]:
    """Return the `v1` signatures in the header; entries of other versions are ignored."""
    found: list[bytes] = []
    for part in header.split(" ")[:20]:
        version, _, text = part.partition(",")
        if version == "v1":
            try:
                found.append(base64.b64decode(text, validate=True))
            except (binascii.Error, ValueError):
                continue
    return found


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise ValueError("a webhook secret must be `whsec_` and base64") from None
