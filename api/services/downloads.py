"""Limits on simultaneous image downloads, in all and per tenant.

Owns two counts. Knows neither HTTP nor the store. Invariant: each download has a connection to
object storage of its own while it lasts, so there are never more than open files allow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from api.errors import TooManyDownloads


class Downloads:
    """Counts of downloads: at most `most` in all, half of them per tenant."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_each = max(1, most // 2)
        self._of_tenant: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Number of downloads now."""
        return self._of_tenant.total()

    def check_room(self, tenant: str) -> None:
        """Raise TooManyDownloads if no more may begin."""
        if self.count >= self._most or self._of_tenant[tenant] >= self._most_each:
            raise TooManyDownloads(
                "too many of your downloads are open; try again when one has ended", retry_after_s=2
            )

    @contextmanager
    def counted(self, tenant: str) -> Generator[None]:
        """Count one download while the block runs."""
        self._of_tenant[tenant] += 1
        try:
            yield
        finally:
            self._of_tenant[tenant] -= 1
            if not self._of_tenant[tenant]:
                del self._of_tenant[tenant]
