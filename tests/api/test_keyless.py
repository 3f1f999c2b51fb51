"""Callers without a key: who is answered, and that nothing they do outlives their leave.

The table of routes is made from the OpenAPI document: a new route is held to it at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from api.app import create_app
from api.edge.request_edge import SAFE_METHODS
from api.settings import ApiSettings
from jobs.store.api_keys import Scope
from tests.api.serving import Served, as_operator, serving

DOCUMENT = create_app(ApiSettings()).openapi()
ROUTES = [
    (method.upper(), path, Scope(operation["security"][0]["key"][0]))
    for path, verbs in DOCUMENT["paths"].items()
    for method, operation in verbs.items()
    if "security" in operation
]
UNSAFE = [(method, path) for method, path, _ in ROUTES if method not in SAFE_METHODS]
LASTING = [(m, p) for m, p, scope in ROUTES if scope in {Scope.ADMIN, Scope.WEBHOOKS}]
EVIL = "https://evil.example"
LISTED = "https://studio.example"
# each is one way in which a page of somebody else's shows itself
FOREIGN = {
    "Origin": {"origin": EVIL},
    "a sandboxed or local page": {"origin": "null"},
    "a page on another port": {"origin": "http://127.0.0.1:1", "sec-fetch-site": "same-site"},
    "a name that begins like ours": {"origin": "http://127.0.0.1.evil.example"},
    "Origin of no form": {"origin": "http://["},
    "no Origin, cross-site": {"sec-fetch-site": "cross-site"},
    "no Origin, same-site": {"sec-fetch-site": "same-site"},
    "a word of a later browser": {"sec-fetch-site": "cross-device"},
}
PROXIED = {
    "forwarded": "for=203.0.113.9",
    "x-forwarded-for": "203.0.113.9",
    "x-forwarded-host": "pictures.example",
    "x-forwarded-proto": "https",
    "x-forwarded-server": "front",
    "x-real-ip": "203.0.113.9",
    "via": "1.1 front",
    "cf-connecting-ip": "203.0.113.9",
    "cf-ray": "0",
    "true-client-ip": "203.0.113.9",
    "x-client-ip": "203.0.113.9",
    "x-original-forwarded-for": "203.0.113.9",
    "fly-client-ip": "203.0.113.9",
    "cdn-loop": "front",
    "x-envoy-external-address": "203.0.113.9",
    "X-FORWARDED-FOR": "",
}


def ids(routes: list[tuple[str, str]]) -> list[str]:
    return [" ".join(route) for route in routes]


def filled(path: str) -> str:
    for name, value in {"job_id": "019a0000-0000-7000-8000-000000000000"}.items():
        path = path.replace(f"{{{name}}}", value)
    return path.replace("{", "").replace("}", "")


@pytest.fixture(scope="module")
def anywhere(api_settings: ApiSettings) -> Iterator[Served]:
    """An API that anybody who reaches it may send jobs to."""
    opened = {"anonymous": "from-anywhere", "hosts": "Studio.lan, ", "cors_origins": LISTED}
    public = {"public_url": "http://pictures.example:8000/pw"}
    with serving(api_settings.model_copy(update=opened | public)) as served:
        yield served


@pytest.mark.parametrize(("method", "path"), UNSAFE, ids=ids(UNSAFE))
def test_a_page_of_another_origin_changes_nothing(api: httpx2.Client, method: str, path: str):
    answers = {
        how: api.request(method, filled(path), headers=headers, json=body)
        for how, headers in FOREIGN.items()
        for body in (None, {"prompt": "a cat"})
    }

    told = {how: (a.status_code, a.json()["code"]) for how, a in answers.items()}
    assert told == dict.fromkeys(FOREIGN, (403, "origin_not_allowed"))


@pytest.mark.parametrize(("method", "path"), UNSAFE, ids=ids(UNSAFE))
def test_that_rule_is_for_pages_alone(
    served: Served, operator: httpx2.Client, method: str, path: str
):
    own = {"origin": served.url.upper().replace("HTTP", "http"), "sec-fetch-site": "same-origin"}
    keyed = {how: operator.request(method, filled(path), headers=h) for how, h in FOREIGN.items()}

    for headers in ({}, {"sec-fetch-site": "none"}, own):
        answer = served.client.request(method, filled(path), headers=headers)
        assert answer.json()["code"] != "origin_not_allowed"
    # with a key the browser's own word counts, and Origin does not: a proxy may rewrite Host
    for how, answer in keyed.items():
        refused = "sec-fetch-site" in FOREIGN[how]
        assert (answer.status_code == 403) is refused, how
        assert answer.status_code != 401


def test_a_page_of_a_listed_origin_may_send_jobs(anywhere: Served, redis_url: str):
    listed = {"origin": LISTED, "sec-fetch-site": "cross-site"}

    sent = anywhere.client.post("/v1/jobs", json={"prompt": "a cat"}, headers=listed)
    other = anywhere.client.post("/v1/jobs", json={"prompt": "a cat"}, headers={"origin": EVIL})
    keyed = anywhere.client.post(
        "/v1/jobs", json={"prompt": "a cat"}, headers=listed | as_operator(redis_url)
    )

    assert keyed.status_code == 202
    assert sent.status_code == 202
    assert (other.status_code, other.json()["code"]) == (403, "origin_not_allowed")


@pytest.mark.parametrize("name", PROXIED)
def test_what_came_through_a_proxy_is_nobodys_without_a_key(
    served: Served, anywhere: Served, redis_url: str, name: str
):
    through = {name: PROXIED[name]}
    for one in (served, anywhere):
        refused = one.client.get("/v1/jobs", headers=through)
        keyed = one.client.get("/v1/jobs", headers=through | as_operator(redis_url))

        assert (refused.status_code, keyed.status_code) == (401, 200)
        assert "through a proxy" in refused.json()["detail"]
        assert "python -m api keys create" in refused.json()["detail"]
        assert one.client.get("/livez", headers=through).status_code == 200  # a balancer's


def test_what_a_browser_and_a_program_send_is_no_sign_of_a_proxy(api: httpx2.Client):
    plain = {
        "user-agent": "Mozilla/5.0",
        "x-requested-with": "XMLHttpRequest",
        "x-request-id": "1",
        "traceparent": f"00-{'1' * 32}-{'2' * 16}-01",
        "sec-fetch-mode": "cors",
        "forward": "1",
        "dnt": "1",
    }

    assert api.get("/v1/jobs", headers=plain).status_code == 200


@pytest.mark.parametrize(
    ("host", "loopback", "everywhere"),
    [
        ("localhost:8000", True, True),
        ("LOCALHOST", True, True),
        ("printworks.localhost", True, True),
        ("127.0.0.1", True, True),
        ("127.8.0.1:1", True, True),
        ("[::1]:80", True, True),
        ("[::1]", True, True),
        ("198.51.100.7", False, True),
        ("198.51.100.7:8000", False, True),
        ("[2001:db8::1]", False, True),
        ("0.0.0.0:8000", False, True),
        ("studio.lan:8000", False, True),
        ("pictures.example:8000", False, True),
        ("evil.example", False, False),
        ("localhost.evil.example", False, False),
        ("127.0.0.1.evil.example", False, False),
        ("notlocalhost", False, False),
        ("2130706433", False, False),
        ("localhost:80:80", False, False),
        ("[::1", False, False),
        ("a" * 300, False, False),
    ],
)
def test_only_names_that_are_ours_are_answered_to(
    served: Served, anywhere: Served, redis_url: str, host: str, loopback: bool, everywhere: bool
):
    # DNS rebinding: evil.example points to 127.0.0.1, the browser still says its name
    for one, allowed in ((served, loopback), (anywhere, everywhere)):
        answer = one.client.get("/v1/jobs", headers={"host": host})
        keyed = one.client.get("/v1/jobs", headers={"host": host} | as_operator(redis_url))

        assert answer.status_code == (200 if allowed else 421)
        assert keyed.status_code == 200
        if not allowed:
            assert answer.json()["code"] == "host_not_allowed"
            assert "send a key" in answer.json()["detail"]


@pytest.mark.parametrize(("method", "path"), LASTING, ids=ids(LASTING))
def test_whatever_lasts_needs_a_key(
    served: Served, anywhere: Served, redis_url: str, method: str, path: str
):
    for one in (served, anywhere):
        refused = one.client.request(method, filled(path), json={"tenant": "evil"})

        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        assert "python -m api keys create --scope" in refused.json()["detail"]


def test_jobs_need_none(api: httpx2.Client, anywhere: Served):
    for one in (api, anywhere.client):
        sent = one.post("/v1/jobs", json={"prompt": "a cat"})

        assert sent.status_code == 202
        assert one.post(f"/v1/jobs/{sent.json()['id']}/cancel").status_code == 200
    assert api.get("/metrics").status_code == 200
    assert anywhere.client.get("/metrics").status_code == 401
