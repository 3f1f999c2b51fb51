"""What is still to be written about jobs that are over here: ends, failures, returns.

Owns it until Redis has it; while Redis is away it waits. Knows RQ only as the bridge. Invariant:
each lease is settled once, by its first settlement, and a lost one never.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from jobs.contract.record import JobError
from jobs.errors import NotReplicated
from jobs.store.scripts.worker_calls import Ending, HandBackReason, Lease
from worker.rq_bridge import BatchWorker

log = logging.getLogger(__name__)


class Settling:
    """The jobs between their last step here and the line in Redis that says so."""

    def __init__(self, bridge: BatchWorker, at: Callable[[str], None]) -> None:
        self._bridge = bridge
        self._at = at
        self._ends: dict[Lease, Callable[[], bool]] = {}
        self._returns: dict[Lease, HandBackReason] = {}
        self._unconfirmed: set[Lease] = set()  # ends written, and too few replicas have them

    def __len__(self) -> int:
        return len(self._ends) + len(self._returns)

    @property
    def leases(self) -> list[Lease]:
        """They are still ours, and renewed, until written."""
        return [*self._ends, *self._returns]

    def finish(self, lease: Lease, ending: Ending) -> None:
        """It is done."""
        self._ends[lease] = lambda: self._bridge.finish(lease, ending)

    def fail(self, lease: Lease, error: JobError) -> None:
        """It cannot be done."""
        self._ends[lease] = lambda: self._bridge.fail(lease, error)

    def stop(self, lease: Lease) -> None:
        """An operator ended it, or a client did and this is a no-op."""
        self._ends[lease] = lambda: self._bridge.stop(lease)

    def hand_back(self, lease: Lease, why: HandBackReason) -> None:
        """Somebody else shall do it."""
        self._returns[lease] = why

    def forget(self, lost: Collection[str]) -> None:
        """These leases are gone: nothing is ours to write.

        Save where our own end took the lease away and a failover may still forget that end: then
        the lease is there again, and the picture need not be made again.
        """
        gone = [lease for lease in self.leases if lease.both in lost]
        for lease in [lease for lease in gone if lease not in self._unconfirmed]:
            self._ends.pop(lease, None)
            self._returns.pop(lease, None)

    def write(self) -> None:
        """Write all. Raises StoreUnavailable; what is not written yet stays."""
        for lease, write in list(self._ends.items()):
            self._at("ending")
            try:
                kept = write()
            except NotReplicated:
                self._unconfirmed.add(lease)
                raise
            self._at("ended")
            self._unconfirmed.discard(lease)
            del self._ends[lease]
            log.info("job.ended" if kept else "job.not_ours", extra={"job_id": lease.job_id})
        for why in sorted(set(self._returns.values())):
            leases = [lease for lease, reason in self._returns.items() if reason == why]
            self._at("returning")
            for job_id, what in self._bridge.hand_back(leases, why).items():
                log.info("job.returned", extra={"job_id": job_id, "why": why, "became": what})
            for lease in leases:
                del self._returns[lease]
