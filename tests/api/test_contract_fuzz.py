"""T55: what is sent is made from the OpenAPI document, and every answer is one that it declares.

schemathesis reads the document as a stranger would: right and wrong bodies, parameters and headers
of every operation. What it cannot make (bytes that are no JSON, odd framing) is in
test_bad_input.py. Deterministic: the same cases in every run.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from redis import Redis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.app import create_app
from api.edge.openapi import answer_of
from api.edge.problem import MEDIA_TYPE
from api.settings import ApiSettings
from deploy import servers
from tests.api.serving import Served, as_operator, serving

DOCUMENT = create_app(ApiSettings()).openapi()
every, some = (schemathesis.openapi.from_dict(DOCUMENT) for _ in range(2))
some.config.phases.coverage.enabled = False  # every boundary of every field: 2,000 cases, `slow`
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
CASES = 8  # an operation
DELIBERATE = {501, 503}  # no webhooks here; no worker, so never ready


@pytest.fixture(scope="module")
def impatient(valkey_server: servers.Valkey, s3_settings: dict[str, str]) -> Iterator[Served]:
    """An API that holds no answer back, however long a case asks it to."""
    short = {"max_wait_s": 0, "body_timeout_s": 1}
    asked = {"redis_url": valkey_server.url, **s3_settings, **short}
    with Redis.from_url(valkey_server.url) as redis:
        redis.flushall()
        with serving(ApiSettings.model_validate(asked)) as served:
            yield served
        redis.flushall()


@pytest.fixture(scope="module")
def session(impatient: Served) -> Iterator[requests.Session]:
    """One connection for all cases, of a caller who may do everything."""
    with requests.Session() as session:
        session.headers.update(as_operator(impatient.services.settings.redis_url))
        yield session


STEADY = settings(
    max_examples=CASES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def held_to_the_document(case: schemathesis.Case, url: str, session: requests.Session) -> None:
    answer = case.call(base_url=url, session=session)
    case.validate_response(answer, checks=CHECKS)
    if answer.headers["content-type"][0].startswith(MEDIA_TYPE):
        raw = case.operation.definition.raw["responses"][str(answer.status_code)]
        declared = answer_of(case.operation.schema.raw_schema, raw)
        assert f"`{answer.json()['code']}`" in declared["description"]
    if answer.status_code not in DELIBERATE:
        case.validate_response(answer, checks=[not_a_server_error])


@some.parametrize()
@STEADY
def test_t55_no_undocumented_answer_and_no_fault_of_ours(
    case, impatient: Served, session: requests.Session
):
    held_to_the_document(case, impatient.url, session)


def test_every_operation_is_asked():
    operations = {f"{m.upper()} {p}" for p, verbs in DOCUMENT["paths"].items() for m in verbs}

    assert {found.ok().label for found in some.get_all_operations()} == operations


def test_every_example_of_a_body_is_accepted(impatient: Served, session: requests.Session):
    shown = [
        (path, example["value"])
        for path, verbs in DOCUMENT["paths"].items()
        for content in verbs.get("post", {}).get("requestBody", {}).get("content", {}).values()
        for example in content.get("examples", {}).values()
    ]

    answers = [session.post(f"{impatient.url}{path}", json=body) for path, body in shown]

    assert len(shown) >= 4
    assert [a.text for a in answers if a.status_code >= 400] == []


@pytest.mark.slow
@every.parametrize()
@STEADY
def test_t55_the_same_with_every_boundary_of_the_document(
    case, impatient: Served, session: requests.Session
):
    held_to_the_document(case, impatient.url, session)
