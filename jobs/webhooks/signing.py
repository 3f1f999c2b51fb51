"""Signatures of webhooks: Standard Webhooks 1.0.0, symmetric (`v1`, HMAC-SHA256).

Owns secrets' form and the three headers. Receivers verify, with client/printworks/webhooks.py or
any Standard Webhooks library. Invariant: the signed bytes are the sent bytes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets as chance
from collections.abc import Sequence

SECRET_PREFIX = "whsec_"  # noqa: S105 - what secrets start with, so that scanners know them
SECRET_BYTES = 32  # the standard asks for 24 to 64


def new_secret(random_bytes: bytes | None = None) -> str:
    """Make a signing secret, which its owner sees once. `random_bytes`: SECRET_BYTES bytes."""
    drawn = chance.token_bytes(SECRET_BYTES) if random_bytes is None else random_bytes
    return SECRET_PREFIX + base64.b64encode(drawn).decode()


def signature(secret: str, *, event_id: str, timestamp_s: int, body: bytes) -> str:
    """Return `v1,` and the base64 of HMAC-SHA256 over `event_id.timestamp.body`."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    signed = f"{event_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def signed_headers(
    secrets: Sequence[str], *, event_id: str, timestamp_s: int, body: bytes
) -> dict[str, str]:
    """Return an attempt's headers. Every live secret signs, so that a rotation has no gap."""
    made = [signature(s, event_id=event_id, timestamp_s=timestamp_s, body=body) for s in secrets]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(made),
    }
