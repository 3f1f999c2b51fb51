"""Everything that can go wrong around a job, as one tree.

    PrintworksError
    ├── InvalidRequest        the request breaks the contract; carries every problem found
    ├── NotAdmitted           a good request that cannot be taken now
    │   ├── QueueFull         ours: the queue holds all it may
    │   ├── TenantLimit       theirs: this tenant has all it may have under way
    │   │   └── GroupTooLarge     and this group is more than that: it never fits
    │   ├── TooManyEndpoints  theirs: this tenant has all the endpoints it may have
    │   └── IdempotencyMismatch   the key was used for another request
    ├── JobMissing            no such job, for this tenant
    │   └── JobGone           there was one: it expired or was deleted
    ├── InputMissing          no such picture to begin with, for this tenant
    │   └── InputGone         there was one when the job was sent: it was erased since
    ├── StoreUnavailable      Redis is away, frozen or refuses to write
    │   ├── StorageFull       Redis has no memory or disk left to accept anything
    │   └── NotReplicated     it is done, but too few replicas confirmed that they have it
    ├── GroupMissing          no such group, for this tenant
    ├── KeyMissing            no such API key
    ├── KeyRotated            the API key has a successor already
    ├── EndpointMissing       no such webhook endpoint, for this tenant
    ├── DeliveryMissing       no such webhook delivery, or no more
    ├── TargetRefused         a URL or host that no webhook may call
    ├── SealingUnset          no key to encrypt webhook secrets under: no webhooks
    ├── SealBroken            a kept webhook secret cannot be decrypted
    ├── BlobsUnavailable      object storage is unavailable, or refuses
    │   └── BlobMissing       it has no such object (any more)
    └── SettingsError         a setting is misspelt, missing or impossible

The class carries the stable `code`; its HTTP status is in `api/edge/problem.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a request, and where (`pointer`: JSON pointer, RFC 6901)."""

    pointer: str
    code: str
    detail: str


class PrintworksError(Exception):
    """Root of the tree; `code` is stable and for programs, the message is for people."""

    code = "internal"
    retryable = False


class InvalidRequest(PrintworksError):
    """The request breaks the contract. `problems` names every field at fault."""

    code = "invalid_request"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.pointer or '/'}: {p.detail}" for p in self.problems))


class NotAdmitted(PrintworksError):
    """A good request that cannot be taken now."""

    code = "not_admitted"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class QueueFull(NotAdmitted):
    """The service has as much queued as it may hold."""

    code = "queue_full"


class TenantLimit(NotAdmitted):
    """This tenant has as many jobs under way as it may."""

    code = "tenant_limit"


class GroupTooLarge(TenantLimit):
    """More jobs at once than this tenant may have under way: sent again it fits no better."""

    retryable = False


class IdempotencyMismatch(NotAdmitted):
    """The idempotency key was used before, for another request."""

    code = "idempotency_key_reused"
    retryable = False


class JobMissing(PrintworksError):
    """There is no such job (for this tenant)."""

    code = "not_found"


class JobGone(JobMissing):
    """There was such a job; it expired or was deleted."""

    code = "gone"


class InputMissing(PrintworksError):
    """There is no such input (for this tenant): never sent, or its time is over."""

    code = "input_not_found"


class InputGone(InputMissing):
    """The picture that the job began with was erased."""

    code = "input_gone"


class StoreUnavailable(PrintworksError):
    """Redis is away, frozen, or refuses to write."""

    code = "store_unavailable"
    retryable = True


class StorageFull(StoreUnavailable):
    """Redis has no memory or disk left to accept anything."""

    code = "storage_full"


class NotReplicated(StoreUnavailable):
    """It is done on the primary, and too few replicas have it: a failover may forget it."""

    code = "not_replicated"


class GroupMissing(PrintworksError):
    """There is no such group (for this tenant)."""

    code = "group_not_found"


class KeyMissing(PrintworksError):
    """There is no key of that ID."""

    code = "key_not_found"


class KeyRotated(PrintworksError):
    """The key has a successor already: a second one would be a live key that nobody asked for."""

    code = "key_rotated"

    def __init__(self, key_id: str, successor: str | None) -> None:
        successor = successor or "a later key of the list"
        super().__init__(
            f"the key {key_id} was rotated already, and its time is not prolonged; its successor "
            f"is {successor}: where that one's secret was lost, rotate and then revoke it"
        )


class EndpointMissing(PrintworksError):
    """There is no such endpoint (for this tenant)."""

    code = "endpoint_not_found"


class DeliveryMissing(PrintworksError):
    """There is no such delivery, or no more."""

    code = "delivery_not_found"


class TooManyEndpoints(NotAdmitted):
    """The tenant has as many endpoints as it may."""

    code = "endpoint_limit"
    retryable = False


class TargetRefused(PrintworksError):
    """Not a URL or host that we may call. The same words for every inner address."""

    code = "target_refused"


class SealingUnset(PrintworksError):
    """This service has no key to keep secrets under, so it has no webhooks."""

    code = "webhooks_unavailable"


class SealBroken(PrintworksError):
    """A kept secret does not open: another key, or another endpoint's."""

    code = "webhook_secret_unreadable"


class BlobsUnavailable(PrintworksError):
    """The picture store is away, or refuses."""

    code = "blobs_unavailable"
    retryable = True


class BlobMissing(BlobsUnavailable):
    """There is no such object (any more)."""

    code = "blob_missing"
    retryable = False


class SettingsError(PrintworksError):
    """A setting is misspelt, missing or impossible; the message says which and what to do."""

    code = "settings"
