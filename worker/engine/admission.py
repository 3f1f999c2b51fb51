"""Admission: choose the next waiting image, by fair shares and urgency.

Owns the waiting line, the order of urgency, and the account of work served per key. Knows no
model and no tensor: work is seconds. Invariant: no image waits for ever. Fair between keys first
(a key with much work delays only itself), within a key by priority, then least remaining work,
with credit for age.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

from worker.messages import ImageRequest

# Least remaining work first gives the best mean wait where the device is full, and starves the
# long ones. Half a second of credit a second waited: a picture of 60 s of work is passed by
# short ones for 2 minutes at most.
AGE_CREDIT = 0.5
PRIORITY_STEP_S = 30.0  # waiting that long counts as one step of priority

Work = Callable[[ImageRequest], float]  # in seconds of the device


def level(request: ImageRequest, waited_s: float) -> float:
    """Return a request's priority, raised by one per 30 s of waiting."""
    return request.priority + waited_s // PRIORITY_STEP_S


def urgency(request: ImageRequest, *, remaining_s: float, waited_s: float) -> tuple[float, float]:
    """Return a sort key; the smallest is the most urgent."""
    return -level(request, waited_s), remaining_s - AGE_CREDIT * waited_s


class Shares:
    """Deficit round robin, one number per competitor: the least served so far is next.

    A competitor that was idle has no claim on the past: it re-enters at the minimum service total
    of the active ones.
    """

    def __init__(self) -> None:
        self._served: dict[Hashable, float] = {}

    def join(self, who: Hashable, others: Iterable[Hashable]) -> None:
        """Add a competitor, at the minimum of `others`, the active ones."""
        floor = min((self._served.get(other, 0.0) for other in others), default=0.0)
        self._served[who] = max(self._served.get(who, 0.0), floor)

    def charge(self, who: Hashable, amount: float) -> None:
        """Add to a competitor's service total."""
        self._served[who] = self.served(who) + amount

    def served(self, who: Hashable) -> float:
        """Return a competitor's service total so far."""
        return self._served.get(who, 0.0)

    def forget(self) -> None:
        """Reset all totals, when nobody competes any more."""
        self._served.clear()


@dataclass(frozen=True, slots=True)
class _Entry:
    request: ImageRequest
    since_s: float


class WaitingLine:
    """The images that were submitted and not started."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._entries: dict[str, _Entry] = {}
        self._by_key: defaultdict[str, dict[str, _Entry]] = defaultdict(dict)
        self._shares = Shares()  # by key, of work that was started

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._entries

    def __iter__(self) -> Iterator[ImageRequest]:
        return iter([entry.request for entry in self._entries.values()])

    def add(self, request: ImageRequest, now_s: float) -> None:
        """Add a request to the line."""
        if request.key not in self._by_key:
            self._shares.join(request.key, self._by_key)
        self._entries[request.id] = self._by_key[request.key][request.id] = _Entry(request, now_s)

    def remove(self, request_id: str) -> bool:
        """Remove a request from the line; False: it was not in the line."""
        entry = self._entries.pop(request_id, None)
        if entry is None:
            return False
        own = self._by_key[entry.request.key]
        del own[request_id]
        if not own:
            del self._by_key[entry.request.key]
        return True

    def take(
        self, now_s: float, may: Callable[[ImageRequest], bool] = lambda _: True
    ) -> tuple[ImageRequest, float] | None:
        """Remove and return the next request that `may` start, and its time of submission.

        None: no request may start.
        """
        for key in sorted(self._by_key, key=self._shares.served):
            able = [entry for entry in self._by_key[key].values() if may(entry.request)]
            if able:
                chosen = min(able, key=lambda entry: self._urgency(entry, now_s))
                self.remove(chosen.request.id)
                self.charge(key, self._work(chosen.request))
                if not self._entries:
                    self._shares.forget()
                return chosen.request, chosen.since_s
        return None

    def charge(self, key: str, work_s: float) -> None:
        """Count work that was done for a key."""
        self._shares.charge(key, work_s)

    def _urgency(self, entry: _Entry, now_s: float) -> tuple[float, float]:
        request, waited_s = entry.request, now_s - entry.since_s
        return urgency(request, remaining_s=self._work(request), waited_s=waited_s)
