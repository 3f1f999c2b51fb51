"""T44: a receiver may do what it likes: an attempt ends in time, reads little, and is classified.

Limits are the product's, scaled by 10 (15 s are 1.5 s here); the product's own are asserted.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from jobs.webhooks.ssrf_guard import EgressRules, resolver
from tests.certificates import certificate
from tests.webhooks import receivers as r
from tests.webhooks.desk import Desk
from worker.courier.http_sender import (
    Limits,
    Outcome,
    WebhookRequest,
    WebhookResponse,
    WebhookSender,
    open_sender,
)

pytestmark = pytest.mark.anyio
QUICK = Limits(total_s=1.5, connect_s=0.5, answer_s=0.25)
CASES: list[tuple[str, Callable[[], r.Receiver], Outcome]] = [
    ("slow, 14 s of 15", lambda: r.Slow(1.2), Outcome.DELIVERED),
    ("slow, 16 s of 15", lambda: r.Slow(1.7), Outcome.TIMEOUT),
    ("says nothing", r.Silent, Outcome.TIMEOUT),
    ("trickles a header", r.TricklingHead, Outcome.TIMEOUT),
    ("trickles a body", r.TricklingBody, Outcome.DELIVERED),
    ("1 GB of body", r.Endless, Outcome.REFUSED),
    ("gzip bomb", r.GzipBomb, Outcome.DELIVERED),
    ("10 MB of headers", r.HugeHead, Outcome.NOT_HTTP),
    ("garbage", r.Garbage, Outcome.NOT_HTTP),
    ("reset", r.Resetting, Outcome.UNREACHABLE),
    ("closes", r.Hanging, Outcome.NOT_HTTP),
]


@pytest.fixture
async def sender(loopback: EgressRules, tls: ssl.SSLContext):
    async with open_sender(loopback, resolver(), agent="test", limits=QUICK, tls=tls) as made:
        yield made


async def timed(sender: WebhookSender, url: str) -> tuple[WebhookResponse, float, float]:
    """The answer, the seconds and the MB that it took."""
    process = psutil.Process()
    before, started = process.memory_info().rss, time.monotonic()
    answer = await sender.post(
        WebhookRequest(url=url, event="msg_1", body=b"{}", secrets=("whsec_AAAA",), timestamp_s=1)
    )
    return answer, time.monotonic() - started, (process.memory_info().rss - before) / 1e6


def test_the_limits_of_the_product_are_those_of_the_contract():
    assert Limits() == Limits(total_s=15, connect_s=5, answer_s=2, most_bytes=65_536)


@pytest.mark.parametrize(("name", "make", "outcome"), CASES, ids=[c[0] for c in CASES])
async def test_whatever_it_does_the_attempt_ends_and_is_named(
    sender: WebhookSender, name: str, make: Callable[[], r.Receiver], outcome: Outcome
):
    async with make() as receiver:
        answer, took_s, grew_mb = await timed(sender, receiver.url)

        assert answer.outcome is outcome
        assert took_s < 5  # 1.5 s and 0.25 s, on a machine that may be busy
        assert grew_mb < 16
        assert len(answer.text.encode()) <= 3 * 1024  # 1 KiB of bytes; each odd one is shown as 3
        if isinstance(receiver, r.Endless):
            assert receiver.sent < 16e6  # what the kernel's buffers took
        print(f"T44 {name}: {answer.outcome}, {took_s:.2f} s, {grew_mb:+.1f} MB")


async def test_nobody_there_is_unreachable(sender: WebhookSender):
    async with r.Receiver() as receiver:
        url = receiver.url

    answer, took_s, _ = await timed(sender, url)

    assert answer.outcome is Outcome.UNREACHABLE
    assert took_s < 2


@pytest.mark.parametrize(
    ("name", "trusted", "outcome"),
    [
        ("127.0.0.1", True, Outcome.DELIVERED),
        ("127.0.0.1", False, Outcome.UNREACHABLE),
        ("other.example", True, Outcome.UNREACHABLE),
    ],
    ids=["right", "nobody's authority", "wrong host"],
)
async def test_tls_is_verified_against_the_host_of_the_url(
    tmp_path: Path, loopback: EgressRules, name: str, trusted: bool, outcome: Outcome
):
    cert, key = certificate(tmp_path, name)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(cert, key)
    ours = ssl.create_default_context(cafile=str(cert)) if trusted else ssl.create_default_context()

    async with (
        r.Receiver(tls=theirs) as receiver,
        open_sender(loopback, resolver(), agent="test", limits=QUICK, tls=ours) as sender,
    ):
        answer, _, _ = await timed(sender, receiver.url)

    assert answer.outcome is outcome
    print(f"T44 TLS for {name}, trusted={trusted}: {answer.outcome}")


async def test_the_log_keeps_the_head_of_an_answer_and_no_control_characters(desk: Desk):
    async with r.Answering(500, body=b"\x1b[31mno\x00" + b"x" * 5000) as receiver:
        endpoint, _ = await desk.register(receiver.url)
        desk.job_ends()
        await desk.deliver()

        (line,) = (await desk.only(endpoint)).log
        assert line.status == 500
        assert len(line.answer) == 1024
        assert "\x1b" not in line.answer
        assert "\x00" not in line.answer


async def test_a_deaf_receiver_holds_up_nobody_in_the_same_round(desk: Desk, sender: WebhookSender):
    async with r.Silent() as deaf, r.Receiver() as good:
        await desk.register(deaf.url)
        await desk.register(good.url)
        desk.job_ends()

        courier = desk.a_courier(sender=sender)
        await courier.round()
        await good.until(1)
        await courier.landed()

        assert (deaf.accepted, len(good.got)) == (1, 1)


async def test_a_fault_of_ours_is_a_failed_attempt_and_nobody_elses(desk: Desk):
    class Faulty(WebhookSender):
        async def post(self, letter: WebhookRequest) -> WebhookResponse:
            if "bad" in letter.url:
                raise RuntimeError("as no library promises not to")
            return await desk.sender.post(letter)

    async with r.Receiver() as receiver:
        bad, _ = await desk.register(f"{receiver.url}/bad")
        good, _ = await desk.register(receiver.url)
        desk.job_ends()
        courier = desk.a_courier(sender=Faulty.__new__(Faulty))
        await courier.round()
        await courier.landed()

        assert [line.outcome for line in (await desk.only(bad)).log] == ["broken"]
        assert (await desk.only(good)).state == "delivered"
