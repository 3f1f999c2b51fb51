"""Job IDs: UUIDv7 (RFC 9562 section 5.7), so that IDs sort by the time they were made.

Owns the bit layout. Time and chance are arguments. RQ breaks ties in its waiting lists by
job ID, so time order in the ID is what keeps first come first served.
"""

from __future__ import annotations

import re
import secrets
import time
import uuid

JOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def new_job_id(*, now_ms: int | None = None, random_bytes: bytes | None = None) -> str:
    """Return a new UUIDv7 as text. `now_ms`: Unix time in ms; `random_bytes`: 10 bytes."""
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    chance = int.from_bytes(random_bytes or secrets.token_bytes(10), "big")
    value = (now_ms & (2**48 - 1)) << 80 | chance & (2**80 - 1)
    value = value & ~(0xF << 76) | 0x7 << 76  # version 7
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant of RFC 9562
    return str(uuid.UUID(int=value))


def is_job_id(text: str) -> bool:
    """Return True if `text` has the form of our IDs: any other text never reaches Redis."""
    return JOB_ID.fullmatch(text) is not None
