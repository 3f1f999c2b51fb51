"""Errors of jobs and their services, as one tree.

    PrintworksError
    ├── InvalidRequest        the request breaks the contract; carries every problem found
    ├── NotAdmitted           a valid request that cannot be accepted now
    │   ├── QueueFull         the service's limit: the queue is full
    │   ├── TenantLimit       the tenant's limit: too many unfinished jobs
    │   │   └── GroupTooLarge     the group alone is larger than the tenant's limit
    │   ├── TooManyEndpoints  the tenant's limit: too many webhook endpoints
    │   └── IdempotencyMismatch   the key was used for another request
    ├── JobMissing            no such job, for this tenant
    │   └── JobGone           the job existed, and has expired or was deleted
    ├── InputMissing          no such input image, for this tenant
    │   └── InputGone         the input image was erased after the job was sent
    ├── StoreUnavailable      Redis is unavailable, frozen or refuses to write
    │   ├── StorageFull       Redis has no memory or disk left to accept anything
    │   └── NotReplicated     written on the primary, but too few replicas confirmed
    ├── GroupMissing          no such group, for this tenant
    ├── KeyMissing            no such API key
    ├── KeyRotated            the API key has a successor already
    ├── EndpointMissing       no such webhook endpoint, for this tenant
    ├── DeliveryMissing       no such webhook delivery, or no longer
    ├── TargetRefused         a URL or host that no webhook may call
    ├── SealingUnset          no key to encrypt webhook secrets with: no webhooks
    ├── SealBroken            a stored webhook secret cannot be decrypted
    ├── BlobsUnavailable      object storage is unavailable, or refuses
    │   └── BlobMissing       object storage has no such object, or no longer
    └── SettingsError         a setting is misspelt, missing or impossible

The class carries the stable `code`; its HTTP status is in `api/edge/problem.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault in a request and its location (`pointer`: JSON pointer, RFC 6901)."""

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
    """The request is valid but cannot be accepted now."""

    code = "not_admitted"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class QueueFull(NotAdmitted):
    """The queue is full; send the request again later."""

    code = "queue_full"


class TenantLimit(NotAdmitted):
    """This tenant has reached its limit of unfinished jobs; wait until some have ended."""

    code = "tenant_limit"


class GroupTooLarge(TenantLimit):
    """The group has more jobs than this tenant's limit of unfinished jobs; send a smaller one."""

    retryable = False


class IdempotencyMismatch(NotAdmitted):
    """The idempotency key was used before for another request; use a new key."""

    code = "idempotency_key_reused"
    retryable = False


class JobMissing(PrintworksError):
    """There is no such job (for this tenant)."""

    code = "not_found"


class JobGone(JobMissing):
    """The job existed, and has expired or was deleted."""

    code = "gone"


class InputMissing(PrintworksError):
    """There is no such input image (for this tenant), or its time is over; upload the image."""

    code = "input_not_found"


class InputGone(InputMissing):
    """The job's input image was erased; send the image again."""

    code = "input_gone"


class StoreUnavailable(PrintworksError):
    """Redis is unavailable, frozen, or refuses to write."""

    code = "store_unavailable"
    retryable = True


class StorageFull(StoreUnavailable):
    """Redis has no memory or disk left to accept anything."""

    code = "storage_full"


class NotReplicated(StoreUnavailable):
    """The write is on the primary but on too few replicas: a failover may lose the write."""

    code = "not_replicated"


class GroupMissing(PrintworksError):
    """There is no such group (for this tenant)."""

    code = "group_not_found"


class KeyMissing(PrintworksError):
    """There is no API key with this ID."""

    code = "key_not_found"


class KeyRotated(PrintworksError):
    """The API key has a successor already: a second one would be a live key nobody asked for."""

    code = "key_rotated"

    def __init__(self, key_id: str, successor: str | None) -> None:
        successor = successor or "a later key of the list"
        super().__init__(
            f"the key {key_id} was rotated already, and its time is not prolonged; its successor "
            f"is {successor}: if the successor's secret was lost, rotate the successor, then "
            "revoke it"
        )


class EndpointMissing(PrintworksError):
    """There is no such webhook endpoint (for this tenant)."""

    code = "endpoint_not_found"


class DeliveryMissing(PrintworksError):
    """There is no such webhook delivery, or no longer."""

    code = "delivery_not_found"


class TooManyEndpoints(NotAdmitted):
    """The tenant has reached its limit of webhook endpoints; delete one first."""

    code = "endpoint_limit"
    retryable = False


class TargetRefused(PrintworksError):
    """The URL or host is not one that a webhook may call. Same words for every inner address."""

    code = "target_refused"


class SealingUnset(PrintworksError):
    """This service has no key to encrypt webhook secrets with, so it has no webhooks."""

    code = "webhooks_unavailable"


class SealBroken(PrintworksError):
    """A stored webhook secret cannot be decrypted: other key, or another endpoint's secret."""

    code = "webhook_secret_unreadable"


class BlobsUnavailable(PrintworksError):
    """Object storage is unavailable, or refuses."""

    code = "blobs_unavailable"
    retryable = True


class BlobMissing(BlobsUnavailable):
    """Object storage has no such object, or no longer."""

    code = "blob_missing"
    retryable = False


class SettingsError(PrintworksError):
    """A setting is misspelt, missing or impossible; the message names the setting and the fix."""

    code = "settings"
