"""The HTTP contract without any I/O: requests, meaning of answers, delays of retries.

Owns everything that the two clients share; the clients only send, read and sleep. Invariant: a
request that creates something carries an Idempotency-Key, so that a retry never creates a second
one, or is sent once.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from pydantic import ValidationError

from printworks.errors import (
    ApiError,
    Busy,
    FieldProblem,
    Gone,
    InvalidRequest,
    JobNotSucceeded,
    NotAllowed,
    NotFound,
    ServiceFault,
    Unreachable,
    WaitTimeout,
)
from printworks.types import Answer, Job

A = TypeVar("A", bound=Answer)
DEFAULT_URL = "http://127.0.0.1:8000"
ATTEMPTS = 5  # where the service says "later", and where it has never answered yet
PATIENT_ATTEMPTS = 8  # 32 s in all: a service that has answered before is being restarted
FIRST_DELAY_S = 0.25  # doubled each time
MAX_DELAY_S = 30.0
LONG_POLL_S = 30  # proxies cut a request that is silent for 60 s
# Until the first answer a client looks often, since small jobs take a second; then less so.
FIRST_LOOK_S, LAST_LOOK_S = 0.2, 1.0
TIMEOUT = httpx2.Timeout(10.0, read=LONG_POLL_S + 15.0)
_KINDS: dict[int, type[ApiError]] = {
    400: InvalidRequest,
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    410: Gone,
    413: InvalidRequest,
    415: InvalidRequest,
    421: NotAllowed,
    422: InvalidRequest,
    429: Busy,
    503: Busy,
}


class WaitPacing:
    """The pacing of one `wait`: long polls, pauses and the time limit."""

    def __init__(self, timeout_s: float | None, *, watched: bool) -> None:
        self._timeout_s = float("inf") if timeout_s is None else timeout_s
        self._until = time.monotonic() + self._timeout_s
        self._watched = watched
        self._look_s = FIRST_LOOK_S

    def held_s(self) -> int:
        """Return the seconds of the next long poll; 0 when every state is to be displayed."""
        return 0 if self._watched else int(max(0.0, min(self._left_s(), LONG_POLL_S)))

    def pause_s(self, job: Job) -> float:
        """Return the seconds until the next request. Raises WaitTimeout when no time is left."""
        left_s = self._left_s()
        if left_s <= 0:
            raise WaitTimeout(job, self._timeout_s)
        if not self._watched and left_s >= 1:
            return 0.0  # the service held the answer
        self._look_s = min(self._look_s * 1.1, LAST_LOOK_S)
        return min(self._look_s, left_s)

    def _left_s(self) -> float:
        return self._until - time.monotonic()


@dataclass(frozen=True, kw_only=True)
class Call:
    """One HTTP request, the same in every attempt."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Any = None  # sent as JSON
    content: bytes | None = None  # sent as it is
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    once: bool = False  # no retries: a second attempt could create a second object


def submit(prompt: str, options: Mapping[str, Any], *, idempotency_key: str | None) -> Call:
    """Submit a job. The random Idempotency-Key is made once and is the same in every attempt."""
    key = idempotency_key or str(uuid.uuid4())
    body = {"prompt": prompt, **{name: v for name, v in options.items() if v is not None}}
    return Call(method="POST", path="/v1/jobs", body=body, headers={"Idempotency-Key": key})


def upload(picture: str | Path | bytes, background: str | None) -> Call:
    """Upload an input image; the same image uploaded twice has one ID."""
    content = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    return Call(
        method="POST",
        path="/v1/inputs",
        query={"background": background} if background else {},
        content=content,
        headers={"Content-Type": "application/octet-stream"},
    )


def quote(prompt: str, options: Mapping[str, Any]) -> Call:
    """Validate a request and return its cost, without submitting a job."""
    call = submit(prompt, options, idempotency_key=None)
    return Call(method="POST", path=call.path, body=call.body, query={"dry_run": "true"})


def rerun(job_id: str) -> Call:
    """Repeat a job. As `submit`, with an Idempotency-Key of its own."""
    path = f"{_job(job_id)}/rerun"
    return Call(method="POST", path=path, headers={"Idempotency-Key": str(uuid.uuid4())})


def submit_group(jobs: Sequence[Mapping[str, Any]], webhook: Mapping[str, Any] | None) -> Call:
    """Submit jobs together; all are accepted or none."""
    body: dict[str, Any] = {"jobs": [{k: v for k, v in j.items() if v is not None} for j in jobs]}
    if webhook is not None:
        body["webhook"] = webhook
    key = str(uuid.uuid4())
    return Call(method="POST", path="/v1/job-groups", body=body, headers={"Idempotency-Key": key})


def group(group_id: str, verb: str = "") -> Call:
    """Read a group; with the verb `cancel`, cancel it."""
    path = _at("/v1/job-groups", group_id)
    return Call(method="POST", path=f"{path}/{verb}") if verb else Call(method="GET", path=path)


def input_image(input_id: str, *, method: str = "GET") -> Call:
    """Read an input image's record; or delete it."""
    return Call(method=method, path=_at("/v1/inputs", input_id))


def webhook(endpoint_id: str, *, method: str = "GET", verb: str = "", body: Any = None) -> Call:
    """Read, change or delete an endpoint; or do what `verb` says: test, rotate, deliveries."""
    path = _at("/v1/webhooks", endpoint_id) + (f"/{verb}" if verb else "")
    return Call(method=method, path=path, body=body, once=method == "POST")


def create_webhook(asked: Mapping[str, Any]) -> Call:
    """Register an endpoint; sent once, as its secret is in this answer only."""
    body = {name: value for name, value in asked.items() if value is not None}
    return Call(method="POST", path="/v1/webhooks", body=body, once=True)


def look(job_id: str, *, wait_s: int = 0) -> Call:
    """Read a job; with `wait_s`, at its end or after that many seconds."""
    return Call(method="GET", path=_job(job_id), query={"wait": str(wait_s)} if wait_s else {})


def usage(since: date | None, until: date | None, *, all_tenants: bool) -> Call:
    """Read usage by day and key."""
    asked = {"since": since, "until": until}
    query = {name: day.isoformat() for name, day in asked.items() if day is not None}
    return Call(method="GET", path="/v1/usage/tenants" if all_tenants else "/v1/usage", query=query)


def create_key(asked: Mapping[str, Any]) -> Call:
    """Create an API key."""
    body = {name: value for name, value in asked.items() if value is not None}
    return Call(method="POST", path="/v1/keys", body=body, once=True)


def rotate_key(key_id: str) -> Call:
    """Create a key's successor."""
    return Call(method="POST", path=f"{_key(key_id)}/rotate", once=True)


def revoke_key(key_id: str) -> Call:
    """Refuse a key."""
    return Call(method="DELETE", path=_key(key_id))


def listing(status: str | None, model: str | None, cursor: str | None, limit: int) -> Call:
    """Read one page of jobs."""
    asked = {"status": status, "model": model, "cursor": cursor, "limit": str(limit)}
    query = {name: value for name, value in asked.items() if value is not None}
    return Call(method="GET", path="/v1/jobs", query=query)


def cancel(job_id: str) -> Call:
    """Cancel a job."""
    return Call(method="POST", path=f"{_job(job_id)}/cancel")


def delete(job_id: str) -> Call:
    """Delete a job."""
    return Call(method="DELETE", path=_job(job_id))


def _job(job_id: str) -> str:
    """Return the path of a job. Raises NotFound for an ID that could lead to another path."""
    if not job_id or not all(c.isalnum() or c == "-" for c in job_id):
        raise NotFound("this is not a job ID; `list` shows your jobs", status=404, code="not_found")
    return f"/v1/jobs/{job_id}"


def _at(path: str, an_id: str) -> str:
    """Return the path of a thing. Raises NotFound for an ID that could lead to another path."""
    if not an_id or not all(c.isalnum() or c in "-_" for c in an_id):
        raise NotFound(f"{an_id!r} is not an ID", status=404, code="not_found")
    return f"{path}/{an_id}"


def _key(key_id: str) -> str:
    if not key_id or not key_id.isalnum():
        raise NotFound("this is not a key ID; `keys` lists them", status=404, code="not_found")
    return f"/v1/keys/{key_id}"


def obeys_proxies(url: str) -> bool:
    """Return whether HTTP_PROXY etc. apply to `url`: no proxy reaches this machine's loopback."""
    host = httpx2.URL(url).host
    return not (host in {"localhost", "::1"} or host.startswith("127."))


def headers(api_key: str | None) -> dict[str, str]:
    """Return the headers of every request."""
    sent = {"User-Agent": "printworks-python", "Accept": "application/json, image/*;q=0.9"}
    return sent | ({"Authorization": f"Bearer {api_key}"} if api_key else {})


def delay_s(
    attempt: int, outcome: httpx2.Response | httpx2.TransportError, *, known: bool
) -> float | None:
    """Return the seconds until the next attempt (the first is 0); None: no further attempt.

    `known`: the service has answered before, so that its address is right.
    """
    delay = FIRST_DELAY_S * 2**attempt * random.uniform(1.0, 1.25)  # noqa: S311 - spreads retries
    if isinstance(outcome, Exception):
        return delay if attempt + 1 < (PATIENT_ATTEMPTS if known else ATTEMPTS) else None
    if attempt + 1 >= ATTEMPTS or not _may_succeed_later(outcome):
        return None
    asked = outcome.headers.get("retry-after", "")
    return min(max(delay, float(asked) if asked.isdigit() else 0.0), MAX_DELAY_S)


def _may_succeed_later(answer: httpx2.Response) -> bool:
    if answer.status_code not in {408, 429, 500, 502, 503, 504}:
        return False
    # an answer without the service's own problem body comes from a proxy
    return bool(_problem(answer).get("retryable", answer.status_code in {502, 503, 504}))


def answer_of(outcome: httpx2.Response | httpx2.TransportError, url: str) -> httpx2.Response:
    """Return the successful outcome of a call. Raises Unreachable or an ApiError."""
    if isinstance(outcome, Exception):
        # with the address: the usual cause is a wrong one
        raise Unreachable(f"no answer from {url} ({outcome or type(outcome).__name__})")
    if not outcome.is_success:
        raise refusal_of(outcome)
    return outcome


def read(kind: type[A], answer: httpx2.Response) -> A:
    """Return the value in a successful answer. Raises ServiceFault for an unexpected answer."""
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError:
        raise ServiceFault(
            f"{answer.url} did not answer as Printworks does; check the address: is it another "
            "service?",
            status=answer.status_code,
            code="not_printworks",
        ) from None


def refusal_of(answer: httpx2.Response) -> ApiError:
    """Return the ApiError for an error answer."""
    problem = _problem(answer)
    status = answer.status_code
    kind = _KINDS.get(status, ServiceFault if status >= 500 else ApiError)
    problems = _field_problems(problem)
    detail = "; ".join(f"{p.pointer.lstrip('/')}: {p.detail}".lstrip(": ") for p in problems)
    return kind(
        detail or str(problem.get("detail") or f"the service answered {status}"),
        status=status,
        code=str(problem.get("code", f"http_{status}")),
        request_id=str(problem.get("request_id", "")),
        retryable=bool(problem.get("retryable", False)),
        problems=problems,
    )


def success_of(job: Job) -> Job:
    """Return a job that has succeeded. Raises JobNotSucceeded for any other status."""
    if job.status != "succeeded":
        raise JobNotSucceeded(job)
    return job


def _problem(answer: httpx2.Response) -> dict[str, Any]:
    """Return the problem body of an error answer; empty if a proxy answered something else."""
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _field_problems(problem: Mapping[str, Any]) -> list[FieldProblem]:
    try:
        return [FieldProblem.model_validate(item) for item in problem.get("errors", [])]
    except (ValidationError, TypeError):
        return []
