"""Who is next: which waiting image starts, and which live ones step when not all can.

Owns the waiting line and the order of urgency. Knows no model and no tensor: work is a number.
Invariant: nobody waits for ever. Fair between keys (least served first), then by priority, then
least remaining work, with age on everyone's side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from worker.messages import ImageRequest

# Least remaining work first gives the best mean wait where the device is full, and starves the
# long ones. Half a second of credit a second waited: a picture of 60 s of work is passed by
# short ones for 2 minutes at most.
AGE_CREDIT = 0.5
PRIORITY_STEP_S = 30.0  # waiting that long counts as one step of priority

Work = Callable[[ImageRequest], float]  # in megapixel-rows


def urgency(request: ImageRequest, *, remaining_s: float, waited_s: float) -> tuple[float, float]:
    """Sorts ascending: the smallest is the most urgent."""
    level = request.priority + waited_s // PRIORITY_STEP_S
    return -level, remaining_s - AGE_CREDIT * waited_s


@dataclass(frozen=True, slots=True)
class _Entry:
    request: ImageRequest
    since_s: float


class WaitingLine:
    """Images that were submitted and not started."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._entries: dict[str, _Entry] = {}
        self._served: dict[str, float] = {}  # work started so far, by key that waits or waited

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._entries

    def __iter__(self) -> Iterator[ImageRequest]:
        return iter([entry.request for entry in self._entries.values()])

    def add(self, request: ImageRequest, now_s: float) -> None:
        """Join the line."""
        if request.key not in {e.request.key for e in self._entries.values()}:
            # A key that was away has no claim on the past: it starts level with the least served.
            floor = min((self._served[k] for k in self._keys_waiting()), default=0.0)
            self._served[request.key] = max(self._served.get(request.key, 0.0), floor)
        self._entries[request.id] = _Entry(request, now_s)

    def remove(self, request_id: str) -> bool:
        """Leave the line; False: was not in it."""
        return self._entries.pop(request_id, None) is not None

    def take(self, now_s: float, pace_s: float) -> tuple[ImageRequest, float]:
        """The next to start, and since when it waited. `pace_s`: seconds a unit of work."""
        chosen = min(self._entries.values(), key=lambda e: self._order(e, now_s, pace_s))
        request = chosen.request
        del self._entries[request.id]
        self._served[request.key] += self._work(request)
        if not self._entries:
            self._served.clear()
        return request, chosen.since_s

    def _order(self, entry: _Entry, now_s: float, pace_s: float) -> tuple[float, float, float]:
        request = entry.request
        level, rest = urgency(
            request,
            remaining_s=self._work(request) * pace_s,
            waited_s=now_s - entry.since_s,
        )
        return level, self._served[request.key], rest

    def _keys_waiting(self) -> set[str]:
        return {entry.request.key for entry in self._entries.values()}
