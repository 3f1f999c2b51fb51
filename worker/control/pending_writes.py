"""Job outcomes not yet written to Redis: ends, failures, returns to the queue.

Owns each outcome until Redis has it, however long Redis is unavailable. Knows RQ only through
rq_bridge. Invariant: each lease is settled once, by its first outcome; a lost lease never is.
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
    """Job outcomes not yet written to Redis."""

    def __init__(self, bridge: BatchWorker, at: Callable[[str], None]) -> None:
        self._bridge = bridge
        self._at = at
        self._ends: dict[Lease, Callable[[], bool]] = {}
        self._returns: dict[Lease, HandBackReason] = {}
        self._unconfirmed: set[Lease] = set()  # ends written, on too few replicas

    def __len__(self) -> int:
        return len(self._ends) + len(self._returns)

    @property
    def leases(self) -> list[Lease]:
        """Leases of the unwritten outcomes; they are renewed until written."""
        return [*self._ends, *self._returns]

    def finish(self, lease: Lease, ending: Ending) -> None:
        """Record that the job succeeded."""
        self._ends[lease] = lambda: self._bridge.finish(lease, ending)

    def fail(self, lease: Lease, error: JobError) -> None:
        """Record that the job failed with `error`."""
        self._ends[lease] = lambda: self._bridge.fail(lease, error)

    def stop(self, lease: Lease) -> None:
        """Record that an operator stopped the job; a no-op if a client canceled the job before."""
        self._ends[lease] = lambda: self._bridge.stop(lease)

    def hand_back(self, lease: Lease, why: HandBackReason) -> None:
        """Record that the job returns to its queue, and why."""
        self._returns[lease] = why

    def forget(self, lost: Collection[str]) -> None:
        """Drop the outcomes of lost leases: another worker runs these jobs.

        An end that too few replicas have is kept: that end itself removed the lease, and a failover
        may bring the lease back; then the end is written again and no image is generated twice.
        """
        gone = [lease for lease in self.leases if lease.both in lost]
        for lease in [lease for lease in gone if lease not in self._unconfirmed]:
            self._ends.pop(lease, None)
            self._returns.pop(lease, None)

    def write(self) -> None:
        """Write all outcomes. Raises StoreUnavailable; unwritten outcomes stay queued."""
        for lease, write in list(self._ends.items()):
            self._at("ending")
            try:
                written = write()
            except NotReplicated:
                self._unconfirmed.add(lease)
                raise
            self._at("ended")
            self._unconfirmed.discard(lease)
            del self._ends[lease]
            log.info("job.ended" if written else "job.not_ours", extra={"job_id": lease.job_id})
        for why in sorted(set(self._returns.values())):
            leases = [lease for lease, reason in self._returns.items() if reason == why]
            self._at("returning")
            for job_id, what in self._bridge.hand_back(leases, why).items():
                log.info("job.returned", extra={"job_id": job_id, "why": why, "became": what})
            for lease in leases:
                del self._returns[lease]
