"""Downloads under way: pictures that are being sent, counted like streams.

Owns two counts. Knows neither HTTP nor the store. Invariant: each has a connection to the picture
store of its own for as long as its client takes, so there are never more than files allow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from api.errors import TooManyDownloads


class Downloads:
    """`most` in all; of one tenant, half of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_each = max(1, most // 2)
        self._of_tenant: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Downloads now."""
        return self._of_tenant.total()

    def check_room(self, tenant: str) -> None:
        """Raise TooManyDownloads if no more may begin."""
        if self.count >= self._most or self._of_tenant[tenant] >= self._most_each:
            raise TooManyDownloads("too many pictures are being sent to you", retry_after_s=2)

    @contextmanager
    def counted(self, tenant: str) -> Generator[None]:
        """Count one while the block runs."""
        self._of_tenant[tenant] += 1
        try:
            yield
        finally:
            self._of_tenant[tenant] -= 1
            if not self._of_tenant[tenant]:
                del self._of_tenant[tenant]
