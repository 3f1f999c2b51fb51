"""Retry schedule of deliveries, and the time after which a failing endpoint is disabled.

Owns the table of waits. Pure: time and chance are arguments. Invariant: ten attempts at most, over
75.6 h before jitter, and a receiver's Retry-After never makes an attempt sooner than the table.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime

HOUR_S = 3600
# The wait before attempt 1, 2, ... 10, in s: Standard Webhooks' own table.
WAITS_S = (0, 5, 300, 1800, *(h * HOUR_S for h in (2, 5, 10, 14, 20, 24)))
MAX_ATTEMPTS = len(WAITS_S)
JITTER = 0.2  # each wait is 0.8 to 1.2 of the table's: retries do not reach a receiver all at once
DISABLE_AFTER_S = 120 * HOUR_S  # of nothing but failures
HEEDED = frozenset({429, 502, 503, 504})  # statuses whose Retry-After is respected


def wait_s(attempts: int, *, chance: float, retry_after_s: float | None = None) -> float | None:
    """Return the seconds until the next attempt after `attempts` failed ones; None: no more.

    `chance`: from 0 to 1. `retry_after_s`: the receiver's Retry-After, limited to one to two times
    the table's wait, so that no receiver can hurry us or put us off for ever.
    """
    if attempts >= MAX_ATTEMPTS:
        return None
    base = float(WAITS_S[attempts])
    if retry_after_s is not None:
        return min(max(retry_after_s, base), 2 * base)
    return base * (1 - JITTER + 2 * JITTER * chance)


def retry_after_s(status: int, header: str | None, *, now_s: float) -> float | None:
    """Parse a Retry-After header to seconds from `now_s`; None: absent or not respected."""
    if status not in HEEDED or not header:
        return None
    text = header.strip()[:64]
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_s)
    except (ValueError, OverflowError, OSError):
        return None
