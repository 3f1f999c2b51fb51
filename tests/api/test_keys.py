"""Who may come in, what they may do, and that nobody sees another's.

The table of routes is made from the OpenAPI document: a new route is held to it at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import pytest
from redis import Redis

from api.app import create_app
from api.settings import ApiSettings
from jobs.store import keys
from jobs.store.api_keys import NewKey, Scope, make_key
from tests.api.hand_worker import HandWorker
from tests.api.hostile_pictures import a_picture, encoded
from tests.api.serving import Served, serving

OPEN = {"/livez", "/readyz"}  # for balancers: they tell nothing about anybody
DOCUMENT = create_app(ApiSettings()).openapi()
ROUTES = [
    (method.upper(), path, operation)
    for path, verbs in DOCUMENT["paths"].items()
    for method, operation in verbs.items()
    if path not in OPEN
]
NAMES = [f"{method} {path}" for method, path, _ in ROUTES]
OF_A_JOB = [r for r in ROUTES if "{job_id}" in r[1]]


def put(redis_url: str, new: NewKey) -> NewKey:
    """Keep a key as the store does, in one command of a connection that lives for it."""
    with Redis.from_url(redis_url) as redis:
        redis.hset(keys.API_KEYS, new.key.id, new.key.model_dump_json())
    return new


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@dataclass
class Guarded:
    """An API that needs keys, and one key a tenant."""

    api: httpx2.Client
    redis_url: str
    acme: dict[str, str]
    other: dict[str, str]


@pytest.fixture(scope="module")
def guarded_server(api_settings: ApiSettings) -> Iterator[Served]:
    put(api_settings.redis_url, make_key(tenant="first"))  # or it would refuse to start
    with serving(api_settings.model_copy(update={"anonymous": "never"})) as served:
        yield served


@pytest.fixture
def guarded(guarded_server: Served, redis_url: str) -> Guarded:
    everything = tuple(Scope)
    acme = put(redis_url, make_key(tenant="acme", scopes=everything))
    other = put(redis_url, make_key(tenant="other", scopes=everything))
    return Guarded(guarded_server.client, redis_url, bearer(acme.secret), bearer(other.secret))


def call(
    api: httpx2.Client, method: str, path: str, headers: dict[str, str], **names: str
) -> httpx2.Response:
    filled = path
    for name in ("job_id", "image", "model_id", "key_id", "group_id", "input_id"):
        filled = filled.replace(f"{{{name}}}", names.get(name, "0"))
    has_body = method in {"POST", "PUT", "PATCH"}
    return api.request(method, filled, headers=headers, json={"prompt": "x"} if has_body else None)


@pytest.mark.parametrize(("method", "path", "operation"), ROUTES, ids=NAMES)
def test_every_route_declares_exactly_one_scope(method: str, path: str, operation: dict):
    (needed,) = operation["security"]

    assert len(needed["key"]) == 1
    assert Scope(needed["key"][0])


@pytest.mark.parametrize(("method", "path", "operation"), ROUTES, ids=NAMES)
def test_every_route_refuses_who_has_no_right(
    guarded: Guarded, method: str, path: str, operation: dict
):
    (scope,) = operation["security"][0]["key"]
    others = [s for s in Scope if s.value != scope]
    lacking = put(guarded.redis_url, make_key(tenant="acme", scopes=others))
    revoked = make_key(tenant="acme", scopes=tuple(Scope))
    put(
        guarded.redis_url,
        NewKey(
            revoked.secret,
            revoked.key.model_copy(update={"revoked_at": revoked.key.created_at}),
        ),
    )

    refused = {
        "no key": call(guarded.api, method, path, {}),
        "not a key": call(guarded.api, method, path, bearer("secret")),
        "unknown key": call(guarded.api, method, path, bearer(make_key(tenant="x").secret)),
        "wrong secret": call(guarded.api, method, path, bearer(lacking.secret[:-1] + "!")),
        "other scheme": call(guarded.api, method, path, {"authorization": "Basic YTpi"}),
        "revoked": call(guarded.api, method, path, bearer(revoked.secret)),
    }
    forbidden = call(guarded.api, method, path, bearer(lacking.secret))

    assert {name: a.status_code for name, a in refused.items()} == dict.fromkeys(refused, 401)
    assert all(a.headers["www-authenticate"] == "Bearer" for a in refused.values())
    assert forbidden.status_code == 403
    assert scope in forbidden.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "operation"), OF_A_JOB, ids=[f"{m} {p}" for m, p, _ in OF_A_JOB]
)
def test_another_tenants_job_is_missing_never_forbidden(
    guarded: Guarded, blobs, method: str, path: str, operation: dict
):
    job = guarded.api.post("/v1/jobs", json={"prompt": "a cat"}, headers=guarded.acme).json()
    worker = HandWorker(guarded.redis_url, blobs)
    worker.finish(worker.take())

    foreign = call(guarded.api, method, path, guarded.other, job_id=job["id"])
    never = call(
        guarded.api, method, path, guarded.other, job_id="019a0000-0000-7000-8000-000000000000"
    )

    assert foreign.status_code == never.status_code == 404
    assert foreign.json()["code"] == never.json()["code"]
    assert foreign.json()["detail"] == never.json()["detail"]


def test_a_listing_shows_the_callers_own(guarded: Guarded):
    for who, prompt in ((guarded.acme, "a cat"), (guarded.other, "a dog")):
        guarded.api.post("/v1/jobs", json={"prompt": prompt}, headers=who)

    listed = guarded.api.get("/v1/jobs", headers=guarded.acme).json()["jobs"]

    assert [job["resolved"]["prompt"] for job in listed] == ["a cat"]


def test_a_keys_own_quota_holds(guarded: Guarded):
    small = bearer(put(guarded.redis_url, make_key(tenant="small", max_open_jobs=1)).secret)

    first, second = (
        guarded.api.post("/v1/jobs", json={"prompt": "a cat"}, headers=small) for _ in range(2)
    )

    assert first.status_code == 202
    assert (second.status_code, second.json()["code"]) == (429, "tenant_limit")
    assert second.headers["retry-after"]


def test_a_key_is_not_in_the_store(guarded: Guarded, redis):
    made = put(guarded.redis_url, make_key(tenant="acme"))

    kept = b" ".join(redis.hvals("pw:api-keys"))

    assert made.key.id.encode() in kept
    assert made.secret.encode() not in kept
    assert made.secret.rsplit("_", 1)[1].encode() not in kept


def test_without_keys_a_key_that_is_sent_must_still_be_good(api: httpx2.Client):
    assert api.get("/v1/jobs", headers=bearer("pw_wrong")).status_code == 401


@pytest.mark.parametrize(
    ("host", "anonymous", "needed"),
    [
        ("127.0.0.1", "on-loopback", False),
        ("::1", "on-loopback", False),
        ("localhost", "on-loopback", False),
        ("0.0.0.0", "on-loopback", True),
        ("::", "on-loopback", True),
        ("unix", "on-loopback", True),  # what is before a Unix socket may be the whole world
        ("127.0.0.1", "never", True),
        ("0.0.0.0", "never", True),
        ("0.0.0.0", "from-anywhere", False),
    ],
)
def test_a_key_is_needed_wherever_others_can_come_from(host: str, anonymous: str, needed: bool):
    settings = ApiSettings.model_validate({"host": host, "anonymous": anonymous})

    assert settings.key_needed is needed


def test_an_administrator_makes_lists_rotates_and_revokes_keys(guarded: Guarded):
    api = guarded.api
    made = api.post(
        "/v1/keys", json={"tenant": "acme", "scopes": ["jobs:read"]}, headers=guarded.acme
    )
    secret, key_id = made.json()["secret"], made.json()["id"]

    used = api.get("/v1/jobs", headers=bearer(secret))
    listed = api.get("/v1/keys", headers=guarded.acme)
    successor = api.post(f"/v1/keys/{key_id}/rotate", headers=guarded.acme).json()
    both = [
        api.get("/v1/jobs", headers=bearer(s)).status_code for s in (secret, successor["secret"])
    ]
    revoked = api.delete(f"/v1/keys/{successor['id']}", headers=guarded.acme)
    after = api.get("/v1/jobs", headers=bearer(successor["secret"]))

    assert (made.status_code, used.status_code) == (201, 200)
    assert secret not in listed.text
    assert "digest" not in listed.text
    assert successor["scopes"] == ["jobs:read"]
    assert both == [200, 200]  # the old one works on for a day
    assert revoked.json()["revoked_at"]
    assert after.status_code == 401
    assert api.post("/v1/keys/none/rotate", headers=guarded.acme).json()["code"] == "key_not_found"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"tenant": "../x"}, "/tenant"),
        ({"scopes": ["root"]}, "/scopes/0"),
        ({"scopes": []}, "/scopes"),
        ({"tenan": "x"}, "/tenan"),
        ({"per_minute": True}, "/per_minute"),
    ],
)
def test_a_bad_key_request_is_named(guarded: Guarded, body: dict, pointer: str):
    answer = guarded.api.post("/v1/keys", json=body, headers=guarded.acme)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_a_rate_is_told_in_every_answer_and_held(guarded: Guarded):
    often = bearer(put(guarded.redis_url, make_key(tenant="often", per_minute=3)).secret)

    answers = [guarded.api.get("/v1/jobs", headers=often) for _ in range(5)]

    # a minute may end between two of them: then the count begins again
    assert [a.status_code for a in answers].count(429) in {0, 1, 2}
    assert all(a.headers["ratelimit-policy"] == '"minute";q=3;w=60' for a in answers)
    assert answers[0].headers["ratelimit"].startswith('"minute";r=')
    refused = [a for a in answers if a.status_code == 429]
    assert all(a.json()["code"] == "rate_limited" for a in refused)
    assert all(int(a.headers["retry-after"]) >= 1 for a in refused)


def test_pausing_is_rqs_own_flag(guarded: Guarded, redis):
    paused = guarded.api.post("/v1/queue/pause", headers=guarded.acme)
    seen, flag = guarded.api.get("/v1/queue", headers=guarded.acme), redis.exists("rq:suspended")
    guarded.api.post("/v1/queue/resume", headers=guarded.acme)

    assert paused.json() == {"paused": True}
    assert seen.json()["paused"] is True
    assert flag == 1
    assert redis.exists("rq:suspended") == 0


def test_an_operator_sees_the_workers(guarded: Guarded, blobs):
    HandWorker(guarded.redis_url, blobs).speak()

    (worker,) = guarded.api.get("/v1/workers", headers=guarded.acme).json()["workers"]

    assert worker["engine_ready"] is True
    assert worker["models"][0]["model"] == "demo"


@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("POST", "/cancel")])
def test_another_tenants_group_is_missing_too(guarded: Guarded, method: str, suffix: str):
    jobs = {"jobs": [{"prompt": "a cat"}]}
    group = guarded.api.post("/v1/job-groups", json=jobs, headers=guarded.acme).json()

    foreign = guarded.api.request(method, f"{group['url']}{suffix}", headers=guarded.other)
    own = guarded.api.get(group["url"], headers=guarded.acme)

    assert (foreign.status_code, foreign.json()["code"]) == (404, "group_not_found")
    assert own.json()["counts"] == {"queued": 1}


def test_an_input_is_its_tenants_alone(guarded: Guarded):
    png = encoded(a_picture(64, 64))
    view = guarded.api.post(
        "/v1/inputs", content=png, headers=guarded.acme | {"content-type": "image/png"}
    ).json()
    asked = {"prompt": "a", "image": {"input": view["id"]}}
    own = guarded.api.post("/v1/jobs", json=asked, headers=guarded.acme)
    path = f"/v1/inputs/{view['id']}"

    foreign = [
        guarded.api.get(path, headers=guarded.other),
        guarded.api.get(f"{path}/content", headers=guarded.other),
        guarded.api.delete(path, headers=guarded.other),
        guarded.api.post("/v1/jobs", json=asked, headers=guarded.other),
        guarded.api.post(
            "/v1/jobs",
            json={"prompt": "a", "image": {"job": own.json()["id"]}},
            headers=guarded.other,
        ),
    ]

    assert own.status_code == 202
    assert [a.status_code for a in foreign] == [404] * 5
    assert guarded.api.get(path, headers=guarded.acme).status_code == 200
