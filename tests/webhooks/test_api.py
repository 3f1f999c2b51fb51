"""Webhooks as a tenant meets them: register, be told, look, rotate, redeliver; over real HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from printworks.webhooks import InvalidWebhook, verify

from api.settings import ApiSettings
from deploy import servers
from jobs.store.api_keys import Scope, make_key, open_keystore
from jobs.webhooks.endpoints import MAX_ENDPOINTS
from tests.api.serving import as_operator, serving
from tests.webhooks.desk import Desk
from tests.webhooks.receivers import Answering, Receiver

pytestmark = pytest.mark.anyio
JOB = {"prompt": "a red bicycle", "seed": 7}


async def registered(api: httpx2.AsyncClient, url: str, **fields: Any) -> dict[str, Any]:
    answer = await api.post("/v1/webhooks", json={"url": url, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def ended(api: httpx2.AsyncClient, **fields: Any) -> str:
    """A job that was sent and canceled."""
    answer = await api.post("/v1/jobs", json=JOB | fields)
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    await api.post(f"/v1/jobs/{job_id}/cancel")
    return job_id


def problem(answer: httpx2.Response) -> tuple[int, str, str]:
    """Status, pointer and code of the first problem."""
    first = answer.json()["errors"][0]
    return answer.status_code, first["pointer"], first["code"]


async def test_register_be_told_verify_and_look(api: httpx2.AsyncClient, desk: Desk):
    async with Receiver() as receiver:
        made = await registered(api, receiver.url, description="orders")
        job_id = await ended(api)
        await desk.deliver()
        path = f"/v1/webhooks/{made['id']}"
        seen = (await api.get(path)).json()
        (listed,) = (await api.get(f"{path}/deliveries")).json()["deliveries"]
        detail = (await api.get(f"{path}/deliveries/{listed['id']}")).json()

    (got,) = receiver.got
    event = verify(got.body, got.headers, made["secret"])
    assert event["data"]["id"] == job_id
    assert made["secret"].startswith("whsec_")
    assert "secret" not in seen
    assert (seen["state"], seen["secrets"]) == ("enabled", 1)
    assert (listed["id"], listed["state"], listed["job_id"]) == (got.id, "delivered", job_id)
    assert detail["payload"] == event
    assert [line["status"] for line in detail["log"]] == [200]


async def test_what_succeeded_is_told_with_its_pictures_and_no_url(
    api: httpx2.AsyncClient, desk: Desk
):
    async with Receiver() as receiver:
        await registered(api, receiver.url)
        desk.succeed(tenant="default", seeds=tuple(range(64)))
        await desk.deliver()

    (got,) = receiver.got
    data = got.event["data"]
    assert (data["status"], data["seed"], data["seq"], data["error"]) == ("succeeded", 0, 1, None)
    assert set(data["images"][63]) == {
        "index",
        "seed",
        "width",
        "height",
        "content_type",
        "pixel_sha256",
        "path",
    }
    assert data["images"][63]["path"] == f"/v1/jobs/{data['id']}/images/63"
    assert data["timings"]["denoise_ms"] == 12.5
    assert len(got.body) < 20_000
    print(f"the largest body there is, 64 pictures: {len(got.body)} bytes")


async def test_a_failure_is_told_by_its_code_and_not_its_words(api: httpx2.AsyncClient, desk: Desk):
    async with Receiver() as receiver:
        await registered(api, receiver.url, events=["job.failed", "job.started"])
        desk.fail(tenant="default")
        for _ in range(2):
            await desk.deliver()

    started, failed = sorted(receiver.got, key=lambda g: g.event["data"]["seq"])
    assert (started.event["type"], started.event["data"]["status"]) == ("job.started", "running")
    assert failed.event["data"]["error"] == {"code": "degenerate_output", "retryable": False}


async def test_a_job_may_have_its_own_url_of_a_registered_origin(
    api: httpx2.AsyncClient, desk: Desk
):
    async with Receiver() as receiver, Receiver() as stranger:
        made = await registered(api, receiver.url, events=["job.failed"])
        own = receiver.url + "/orders/1"
        job_id = await ended(api, webhook={"url": own})
        quiet = await ended(api, webhook={"url": own, "events": ["job.succeeded"]})
        await desk.deliver()
        foreign = await api.post("/v1/jobs", json=JOB | {"webhook": {"url": stranger.url}})
        dry = await api.post("/v1/jobs?dry_run=true", json=JOB | {"webhook": {"url": stranger.url}})

    (got,) = receiver.got
    assert got.path == "/hook/orders/1"
    assert verify(got.body, got.headers, made["secret"])["data"]["id"] == job_id != quiet
    assert problem(foreign) == (422, "/webhook/url", "origin_not_registered")
    assert problem(dry) == problem(foreign)
    assert not stranger.accepted


async def test_an_endpoint_and_a_job_of_the_same_url_are_told_once(
    api: httpx2.AsyncClient, desk: Desk
):
    async with Receiver() as receiver:
        await registered(api, receiver.url)
        await ended(api, webhook={"url": receiver.url})
        for _ in range(2):
            await desk.deliver()

    assert len(receiver.got) == 1


async def test_rotation_by_the_api_signs_with_both_and_with_one_after_a_leak(
    api: httpx2.AsyncClient, desk: Desk
):
    async with Receiver() as receiver:
        made = await registered(api, receiver.url)
        path = f"/v1/webhooks/{made['id']}"
        second = (await api.post(f"{path}/rotate", json={})).json()["secret"]
        await ended(api)
        await desk.deliver()
        third = (await api.post(f"{path}/rotate", json={"overlap_s": 0})).json()["secret"]
        await ended(api)
        await desk.deliver()

    both, one = receiver.got
    assert verify(both.body, both.headers, made["secret"])
    assert verify(both.body, both.headers, second)
    assert verify(one.body, one.headers, third)
    with pytest.raises(InvalidWebhook):
        verify(one.body, one.headers, made["secret"], second)


async def test_test_events_and_redelivery(api: httpx2.AsyncClient, desk: Desk):
    async with Answering(500, 200) as receiver:
        made = await registered(api, receiver.url)
        path = f"/v1/webhooks/{made['id']}"
        sent = await api.post(f"{path}/test")
        desk.catch_up()
        await desk.deliver()
        one = f"{path}/deliveries/{sent.json()['id']}"
        failed = (await api.get(one)).json()
        again = await api.post(f"{one}/redeliver")
        desk.catch_up()
        await desk.deliver()
        done = (await api.get(one)).json()

    assert (sent.status_code, sent.json()["state"], sent.json()["type"]) == (
        202,
        "pending",
        "webhook.test",
    )
    assert (failed["state"], failed["attempts"]) == ("pending", 1)
    assert (again.status_code, again.json()["attempts"]) == (202, 0)
    assert (done["state"], [line["status"] for line in done["log"]]) == ("delivered", [500, 200])
    first, second = receiver.got
    assert (first.id, first.body) == (second.id, second.body)


async def test_disabled_by_hand_holds_and_enabling_sends(api: httpx2.AsyncClient, desk: Desk):
    async with Receiver() as receiver, Receiver() as moved:
        made = await registered(api, receiver.url)
        path = f"/v1/webhooks/{made['id']}"
        off = (await api.patch(path, json={"state": "disabled"})).json()
        await ended(api)
        await desk.deliver()
        (held,) = (await api.get(f"{path}/deliveries")).json()["deliveries"]
        on = (await api.patch(path, json={"state": "enabled", "url": moved.url})).json()
        await desk.deliver()

    assert (off["state"], off["reason"]) == ("disabled", "by_hand")
    assert (held["state"], held["next_attempt_at"]) == ("held", None)
    assert (on["state"], on["reason"], on["url"]) == ("enabled", None, moved.url)
    assert (len(receiver.got), len(moved.got)) == (0, 1)


async def test_a_deleted_endpoint_is_sent_nothing_more(api: httpx2.AsyncClient, desk: Desk):
    async with Receiver() as receiver:
        made = await registered(api, receiver.url)
        await ended(api)
        await desk.stores.outbox.spread()

        assert (await api.delete(f"/v1/webhooks/{made['id']}")).status_code == 204
        await ended(api)
        await desk.deliver()

        assert not receiver.accepted
        assert (await api.get("/v1/webhooks")).json() == {"endpoints": []}
        assert not await desk.redis.keys("pw:endpoint*")
        assert not await desk.redis.keys("pw:d*:we_*")


async def test_deliveries_page_newest_first_and_by_state(api: httpx2.AsyncClient, desk: Desk):
    async with Answering(500, 200) as receiver:
        made = await registered(api, receiver.url)
        jobs = [await ended(api) for _ in range(7)]
        for _ in range(4):
            await desk.deliver()
        path = f"/v1/webhooks/{made['id']}/deliveries"
        found: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            query = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
            page = (await api.get(path, params=query)).json()
            found += [d["job_id"] for d in page["deliveries"]]
            cursor = page["next_cursor"]
        pending = (await api.get(path, params={"state": "pending"})).json()["deliveries"]

    assert found == jobs[::-1]
    assert [d["attempts"] for d in pending] == [1]


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"url": "ftp://127.0.0.1/"}, "/url", "target_refused"),
        ({"url": "http://10.0.0.1:8443/"}, "/url", "target_refused"),
        ({"url": "http://nowhere.invalid:8443/"}, "/url", "target_refused"),
        ({"url": "http://u:p@127.0.0.1:8443/"}, "/url", "target_refused"),
        ({"url": "x" * 3000}, "/url", "string_too_long"),
        ({"url": 7}, "/url", "string_type"),
        ({"url": "http://127.0.0.1:8443/", "events": []}, "/events", "too_short"),
        (
            {"url": "http://127.0.0.1:8443/", "events": ["job.exploded"]},
            "/events/0",
            "literal_error",
        ),
        ({"url": "http://127.0.0.1:8443/", "evnets": []}, "/evnets", "unknown_field"),
        ({}, "/url", "missing"),
    ],
)
async def test_a_wrong_registration_is_refused_with_its_place(
    api: httpx2.AsyncClient, body: dict[str, Any], pointer: str, code: str
):
    assert problem(await api.post("/v1/webhooks", json=body)) == (422, pointer, code)


async def test_an_id_that_is_none_and_a_cursor_that_is_none(api: httpx2.AsyncClient):
    made = await registered(api, "http://127.0.0.1:8443/")
    path = f"/v1/webhooks/{made['id']}"

    codes = [
        (await api.get("/v1/webhooks/we_x")).json()["code"],
        (await api.get(f"{path}/deliveries/msg_x")).json()["code"],
        (await api.get(f"{path}/deliveries/msg_{'0' * 34}")).json()["code"],
        (await api.get(f"{path}/deliveries", params={"cursor": "(msg_"})).json()["code"],
    ]

    assert codes == [
        "endpoint_not_found",
        "delivery_not_found",
        "delivery_not_found",
        "invalid_request",
    ]


async def test_fifty_endpoints_are_the_most(api: httpx2.AsyncClient, desk: Desk):
    for i in range(MAX_ENDPOINTS):
        await desk.register(f"http://127.0.0.1:8443/{i}", tenant="default")

    answer = await api.post("/v1/webhooks", json={"url": "http://127.0.0.1:8443/"})

    assert (answer.status_code, answer.json()["code"]) == (422, "endpoint_limit")


async def test_metrics_count_every_attempt_and_name_no_tenant(api: httpx2.AsyncClient, desk: Desk):
    async with Answering(500, 200) as receiver:
        made = await registered(api, receiver.url)
        for _ in range(3):
            await ended(api)
        for _ in range(3):
            await desk.deliver()
        await ended(api)
        text = (await api.get("/metrics")).text

    ours = (line for line in text.splitlines() if line.startswith("printworks_webhook"))
    found = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in ours)}
    assert found['printworks_webhook_attempts_total{outcome="delivered"}'] == 2
    assert found['printworks_webhook_attempts_total{outcome="refused"}'] == 1
    assert found["printworks_webhook_outbox"] == 1
    assert made["id"] not in text


async def test_another_tenants_endpoint_is_missing(api: httpx2.AsyncClient, desk: Desk):
    endpoint, _ = await desk.register("http://127.0.0.1:8443/", tenant="theirs")
    event = await desk.put(endpoint)
    async with open_keystore(desk.redis_url) as keys:
        new = make_key(tenant="ours", scopes=[Scope.WEBHOOKS])
        await keys.add(new.key)
    headers = {"authorization": f"Bearer {new.secret}"}
    path = f"/v1/webhooks/{endpoint.id}"
    calls = [
        ("GET", path),
        ("PATCH", path),
        ("DELETE", path),
        ("POST", f"{path}/rotate"),
        ("POST", f"{path}/test"),
        ("GET", f"{path}/deliveries"),
        ("GET", f"{path}/deliveries/{event}"),
        ("POST", f"{path}/deliveries/{event}/redeliver"),
    ]

    answers = [await api.request(verb, url, headers=headers, json={}) for verb, url in calls]

    assert {a.status_code for a in answers} == {404}
    assert (await api.get("/v1/webhooks", headers=headers)).json() == {"endpoints": []}
    assert (await desk.endpoint(endpoint)).state == "enabled"


async def test_without_a_key_of_the_operator_there_are_no_webhooks(
    valkey_server: servers.Valkey, s3_settings: dict[str, str], redis_url: str
):
    settings = ApiSettings.model_validate({"redis_url": redis_url, **s3_settings})

    def ask() -> tuple[httpx2.Response, httpx2.Response]:
        with serving(settings) as served:
            body = {"url": "https://example.com/"}
            return (
                served.client.post("/v1/webhooks", json=body, headers=as_operator(redis_url)),
                served.client.post("/v1/jobs", json=JOB | {"webhook": body}),
            )

    endpoint, job = await asyncio.to_thread(ask)

    assert (endpoint.status_code, endpoint.json()["code"]) == (501, "webhooks_unavailable")
    assert problem(job) == (422, "/webhook", "webhooks_unavailable")
