"""Retries and refusals, on answers written here: a transport in place of a network."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from printworks import (
    ApiError,
    AsyncClient,
    Busy,
    Client,
    Gone,
    InvalidRequest,
    JobNotSucceeded,
    NotAllowed,
    NotFound,
    ServiceFault,
    Unreachable,
    WaitTimeout,
    protocol,
)

Answer = Callable[[httpx2.Request], httpx2.Response]


def a_job(**more: Any) -> dict[str, Any]:
    """A job as the service sends it."""
    resolved = {
        "model": "demo",
        "prompt": "a red bicycle",
        "negative_prompt": "",
        "width": 128,
        "height": 128,
        "steps": 25,
        "guidance_scale": 4.0,
        "seed": [7],
        "n": 1,
        "sampler": "ddim",
        "image": None,
        "mask": None,
        "strength": None,
        "resize": None,
        "loras": [],
        "control": None,
        "preview": False,
        "output": {"format": "png", "quality": None, "metadata": True},
        "priority": "normal",
        "deadline_s": None,
        "retention_s": 86400,
        "reproducibility": "exact",
        "metadata": {},
    }
    times = dict.fromkeys(("created_at", "started_at", "completed_at", "expires_at"))
    known = {
        "id": "0191",
        "status": "queued",
        "stage": "waiting",
        "queue": None,
        "progress": {"step": 0, "steps": 25, "fraction": 0.0},
        "images": [],
        "resolved": resolved,
        "reproducibility": None,
        "fingerprint": None,
        "metrics": {},
        "error": None,
        "urls": {"self": "/v1/jobs/0191", "events": "", "cancel": ""},
    }
    return {**times, **known, **more}


def a_problem(status: int, code: str = "no", *, retryable: bool = False, **more: Any) -> Answer:
    body = {"code": code, "detail": "no", "retryable": retryable, "request_id": "r1", **more}
    return lambda _: httpx2.Response(status, json=body)


def refused(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("Connection refused")


class Script:
    """Answers in the order given, the last one for ever; keeps the requests."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return answer(request)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delays a hundredth as long."""
    monkeypatch.setattr(protocol, "FIRST_DELAY_S", protocol.FIRST_DELAY_S / 100)
    monkeypatch.setattr(protocol, "FIRST_LOOK_S", protocol.FIRST_LOOK_S / 100)


def client(script: Script) -> Client:
    return Client("http://service", "pw_key", transport=httpx2.MockTransport(script))


def accepted(_: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(202, json=a_job())


@pytest.mark.parametrize(
    "failure",
    [refused, a_problem(503, "queue_full", retryable=True), lambda _: httpx2.Response(502)],
    ids=["no connection", "queue full", "a proxy's 502"],
)
def test_a_request_is_sent_again_with_the_same_idempotency_key(failure: Answer) -> None:
    script = Script(failure, failure, accepted)

    with client(script) as printworks:
        job = printworks.submit("a red bicycle", steps=30)

    keys = [request.headers["idempotency-key"] for request in script.requests]
    assert job.id == "0191"
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert uuid.UUID(keys[0]).version == 4
    assert json.loads(script.requests[0].content) == {"prompt": "a red bicycle", "steps": 30}
    assert script.requests[0].headers["authorization"] == "Bearer pw_key"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, NotAllowed),
        (403, NotAllowed),
        (404, NotFound),
        (410, Gone),
        (413, InvalidRequest),
        (422, InvalidRequest),
        (429, Busy),
        (500, ServiceFault),
        (418, ApiError),
    ],
)
def test_a_refusal_is_raised_at_once_as_its_class(status: int, kind: type[ApiError]) -> None:
    script = Script(a_problem(status, "why"))

    with client(script) as printworks, pytest.raises(kind) as raised:
        printworks.get("0191")

    assert type(raised.value) is kind
    assert (raised.value.status, raised.value.code) == (status, "why")
    assert raised.value.request_id == "r1"
    assert len(script.requests) == 1


def test_a_refusal_names_every_field_at_fault() -> None:
    problems = [
        {"pointer": "/steps", "code": "too_many", "detail": "at most 100"},
        {"pointer": "/size", "code": "illegal", "detail": "try 128x128"},
    ]

    with (
        client(Script(a_problem(422, errors=problems))) as printworks,
        pytest.raises(InvalidRequest, match="steps: at most 100; size: try 128x128") as raised,
    ):
        printworks.submit("x")

    assert [problem.pointer for problem in raised.value.problems] == ["/steps", "/size"]


def test_a_service_that_never_answers_is_unreachable() -> None:
    script = Script(refused)

    with client(script) as printworks, pytest.raises(Unreachable, match="http://service"):
        printworks.models()

    assert len(script.requests) == protocol.ATTEMPTS


def test_a_service_that_has_answered_before_is_waited_for_longer() -> None:
    script = Script(accepted, refused)

    with client(script) as printworks:
        printworks.submit("a red bicycle")
        with pytest.raises(Unreachable):
            printworks.get("0191")

    assert len(script.requests) == 1 + protocol.PATIENT_ATTEMPTS


def test_another_service_is_recognised() -> None:
    script = Script(lambda _: httpx2.Response(200, text="<html>"))

    with client(script) as printworks, pytest.raises(ServiceFault, match="another service"):
        printworks.get("0191")


def test_an_id_that_leads_elsewhere_is_never_sent() -> None:
    script = Script(accepted)

    with client(script) as printworks, pytest.raises(NotFound):
        printworks.get("../../v1/webhooks")

    assert not script.requests


def test_waiting_tells_every_look_and_ends_with_the_job() -> None:
    running = a_job(status="running", stage="denoising")
    done = a_job(status="succeeded", stage=None)
    script = Script(*(lambda _, j=job: httpx2.Response(200, json=j) for job in (running, done)))
    seen: list[str] = []

    with client(script) as printworks:
        job = printworks.wait("0191", on_look=lambda job: seen.append(job.status))

    assert job.final
    assert seen == ["running", "succeeded"]


def test_waiting_unwatched_is_done_by_the_service() -> None:
    script = Script(lambda _: httpx2.Response(200, json=a_job(status="failed", stage=None)))

    with client(script) as printworks, pytest.raises(JobNotSucceeded, match="job 0191 failed"):
        protocol.success_of(printworks.wait("0191"))

    assert script.requests[0].url.params["wait"] == str(protocol.LONG_POLL_S)


def test_waiting_ends_in_time_and_says_how_the_job_stands() -> None:
    with (
        client(Script(lambda _: httpx2.Response(200, json=a_job()))) as printworks,
        pytest.raises(WaitTimeout, match=r"still queued after 0\.05 s") as raised,
    ):
        printworks.wait("0191", timeout_s=0.05)

    assert raised.value.job.status == "queued"


def test_a_status_and_a_field_of_a_newer_service_break_nothing() -> None:
    newer = a_job(status="paused", mood="serene")

    with client(Script(lambda _: httpx2.Response(200, json=newer))) as printworks:
        assert not printworks.get("0191").final


def test_deleting_what_is_gone_is_no_error() -> None:
    with client(Script(refused, a_problem(410, "gone"))) as printworks:
        printworks.delete("0191")


def test_a_listing_goes_on_page_after_page() -> None:
    pages = [
        {"jobs": [a_job(id="3"), a_job(id="2")], "next_cursor": "c"},
        {"jobs": [a_job(id="1")], "next_cursor": None},
    ]
    script = Script(*(lambda _, p=page: httpx2.Response(200, json=p) for page in pages))

    with client(script) as printworks:
        ids = [job.id for job in printworks.jobs(status="succeeded")]

    assert ids == ["3", "2", "1"]
    assert script.requests[1].url.params["cursor"] == "c"


@pytest.mark.anyio
async def test_the_asynchronous_client_does_the_same() -> None:
    script = Script(refused, accepted, lambda _: httpx2.Response(200, json=a_job(status="failed")))

    async with AsyncClient("http://service", transport=httpx2.MockTransport(script)) as printworks:
        with pytest.raises(JobNotSucceeded):
            await printworks.generate("a red bicycle")

    keys = [request.headers.get("idempotency-key") for request in script.requests]
    assert keys[0] == keys[1] is not None
    assert keys[2] is None


@pytest.mark.anyio
async def test_a_key_is_asked_for_once_since_a_second_attempt_would_make_a_second_key() -> None:
    script = Script(refused)

    with client(script) as waiting, pytest.raises(Unreachable):
        waiting.create_key(tenant="acme")
    async with AsyncClient("http://service", transport=httpx2.MockTransport(script)) as printworks:
        with pytest.raises(Unreachable):
            await printworks.rotate_key("0191")

    assert [r.url.path for r in script.requests] == ["/v1/keys", "/v1/keys/0191/rotate"]


@pytest.fixture
def anyio_backend() -> str:
    """One backend is enough: the code has no asyncio of its own."""
    return "asyncio"


@pytest.mark.parametrize(
    ("url", "proxied"),
    [
        ("http://127.0.0.1:8000", False),
        ("http://localhost", False),
        ("https://pictures.example", True),
    ],
)
def test_a_proxy_is_never_asked_for_this_machine(url: str, proxied: bool) -> None:
    assert protocol.obeys_proxies(url) is proxied
