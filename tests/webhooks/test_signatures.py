"""T47, T48: what we sign verifies in the libraries that receivers use; what was touched does not.

Our own helper (client/printworks/webhooks.py), `standardwebhooks` and `svix`, all three.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable

import pytest
import standardwebhooks
import svix.webhooks
from printworks.webhooks import InvalidWebhook, verify

from jobs.store.connection import connect
from jobs.webhooks import keys
from jobs.webhooks.endpoints import MAX_SECRETS
from jobs.webhooks.signing import new_secret, signature, signed_headers
from tests.webhooks.desk import CANARY, Desk
from tests.webhooks.receivers import Receiver

Verifier = Callable[[str, bytes, dict[str, str]], dict]
HOUR = 3600


def by_helper(secret: str, body: bytes, headers: dict[str, str]) -> dict:
    return verify(body, headers, secret)


def by_standard(secret: str, body: bytes, headers: dict[str, str]) -> dict:
    return standardwebhooks.Webhook(secret).verify(body, headers)


def by_svix(secret: str, body: bytes, headers: dict[str, str]) -> dict:
    svix_headers = {k.replace("webhook-", "svix-"): v for k, v in headers.items()}
    svix.webhooks.Webhook(secret).verify(body, svix_headers)
    svix.webhooks.Webhook(secret).verify(body, headers)  # returns nothing in 2.9
    return json.loads(body)


EVERY = pytest.mark.parametrize("verifier", [by_helper, by_standard, by_svix])
# standardwebhooks 1.1.0 answers a malformed header with a plain ValueError
REFUSAL = (
    InvalidWebhook,
    standardwebhooks.WebhookVerificationError,
    svix.webhooks.WebhookVerificationError,
    ValueError,
)


def refused(verifier: Verifier, secret: str, body: bytes, headers: dict[str, str]) -> bool:
    try:
        verifier(secret, body, headers)
    except REFUSAL:
        return True
    return False


def signed(secret: str, body: bytes, *, age_s: float = 0) -> dict[str, str]:
    stamp = int(time.time() - age_s)
    return signed_headers([secret], event_id="msg_1", timestamp_s=stamp, body=body)


@pytest.mark.anyio
@EVERY
async def test_what_arrives_verifies_in_the_libraries_that_receivers_use(
    desk: Desk, verifier: Verifier
):
    async with Receiver() as receiver:
        _, secret = await desk.register(receiver.url)
        job_id = desk.job_ends()
        await desk.deliver()

    (got,) = receiver.got
    event = verifier(secret, got.body, got.headers)
    assert event["type"] == "job.canceled"
    assert event["data"]["id"] == job_id
    assert got.headers["content-type"] == "application/json"
    assert "." not in got.id
    assert CANARY.encode() not in got.body
    assert len(got.body) < 20_000


@EVERY
def test_what_was_touched_is_refused(verifier: Verifier):
    secret, body = new_secret(), b'{"type":"job.succeeded"}'
    good = signed(secret, body)
    forged = signed(new_secret(), body)
    late = str(int(good["webhook-timestamp"]) + 1)
    attempts = {
        "body": (body.replace(b"succeeded", b"failed"), good),
        "trailing byte": (body + b"\n", good),
        "id": (body, good | {"webhook-id": "msg_2"}),
        "timestamp": (body, good | {"webhook-timestamp": late}),
        "another's secret": (body, forged),
        "replayed after 5 min": (body, signed(secret, body, age_s=301)),
        "from the future": (body, signed(secret, body, age_s=-302)),
        "no signature": (body, {k: v for k, v in good.items() if k != "webhook-signature"}),
        "empty signature": (body, good | {"webhook-signature": ""}),
        "no comma": (body, good | {"webhook-signature": "v1"}),
        "two commas": (body, good | {"webhook-signature": good["webhook-signature"] + ",x"}),
        "not base64": (body, good | {"webhook-signature": "v1,%%%%"}),
        "a version unknown": (body, good | {"webhook-signature": "v2,AAAA"}),
        "a time that is none": (body, good | {"webhook-timestamp": "soon"}),
    }

    believed = [name for name, (b, h) in attempts.items() if not refused(verifier, secret, b, h)]

    assert verifier(secret, body, good) == json.loads(body)
    assert not believed
    print(f"T48 {verifier.__name__}: {len(attempts)} of {len(attempts)} refused")


def test_a_signature_is_the_one_that_the_standard_gives_as_its_example():
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    given = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

    made = signature(
        secret, event_id="msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp_s=1614265330, body=body
    )

    assert made == given


@pytest.mark.anyio
async def test_a_rotation_overlaps_a_day_and_then_the_old_secret_signs_no_more(desk: Desk):
    async with Receiver() as receiver:
        endpoint, old = await desk.register(receiver.url)
        new = await desk.stores.endpoints.rotate(endpoint)

        for hours in (0, 23, 25):
            desk.now_s += hours * HOUR
            desk.job_ends()
            await desk.deliver()
            desk.now_s -= hours * HOUR
        during, before, after = receiver.got

    def holds(secret: str, got, hours: float) -> bool:
        try:
            verify(got.body, got.headers, secret, now_s=desk.now_s + hours * HOUR)
        except InvalidWebhook:
            return False
        return True

    assert [holds(new, g, h) for g, h in ((during, 0), (before, 23), (after, 25))] == [True] * 3
    assert [holds(old, g, h) for g, h in ((during, 0), (before, 23), (after, 25))] == [
        True,
        True,
        False,
    ]
    print("T47: old and new verify at 0 h and 23 h, old refused at 25 h")


@pytest.mark.anyio
async def test_a_leaked_secret_is_gone_at_once_and_ten_at_most_sign(desk: Desk):
    async with Receiver() as receiver:
        endpoint, _ = await desk.register(receiver.url)
        for _ in range(MAX_SECRETS + 5):
            await desk.stores.endpoints.rotate(await desk.endpoint(endpoint))
        many = await desk.endpoint(endpoint)
        last = await desk.stores.endpoints.rotate(many, overlap_s=0)
        desk.job_ends()
        await desk.deliver()

    (got,) = receiver.got
    assert len(many.secrets) == MAX_SECRETS
    assert len(got.headers["webhook-signature"].split(" ")) == 1
    assert verify(got.body, got.headers, last, now_s=desk.now_s)


@pytest.mark.anyio
async def test_a_dump_of_redis_gives_no_secret_away(desk: Desk):
    endpoint, secret = await desk.register("http://127.0.0.1:1/")
    again = await desk.stores.endpoints.rotate(endpoint)

    with connect(desk.redis_url) as raw:  # DUMP is binary
        dump = b"".join(raw.dump(key) or b"" for key in raw.keys("*"))
    text = str(await desk.redis.hgetall(keys.endpoint(endpoint.id)))

    for made in (secret, again):
        assert made.removeprefix("whsec_") not in text
        assert made.removeprefix("whsec_").encode() not in dump
        assert base64.b64decode(made.removeprefix("whsec_")) not in dump
