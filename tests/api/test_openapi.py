"""The OpenAPI document: complete, true, and changed only on purpose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from api.app import create_app
from api.edge.openapi import answer_of
from api.edge.problem import TABLE, shown
from api.errors import HttpError
from api.settings import ApiSettings
from jobs.contract.spec import JobRequest

DOCUMENT = create_app(ApiSettings()).openapi()
OPERATIONS = [
    (f"{method.upper()} {path}", operation)
    for path, verbs in DOCUMENT["paths"].items()
    for method, operation in verbs.items()
]


def test_the_document_is_the_one_in_docs(root: Path):
    kept = json.loads((root / "docs/openapi.json").read_text(encoding="utf-8"))
    now = json.loads(json.dumps(DOCUMENT))
    kept["info"].pop("version")
    now["info"].pop("version")

    assert now == kept, "changed on purpose? `python -m api openapi > docs/openapi.json`"


def test_the_body_of_a_job_is_described_though_it_is_parsed_by_hand():
    body = DOCUMENT["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]

    assert body["schema"] == {"$ref": "#/components/schemas/JobRequest"}
    assert body["examples"]
    described = DOCUMENT["components"]["schemas"]["JobRequest"]["properties"]
    assert set(described) == set(JobRequest.model_fields)


def test_every_example_of_a_job_is_a_job():
    body = DOCUMENT["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]

    for example in body["examples"].values():
        JobRequest.model_validate(example["value"])


def references(value: object) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(v) for v in value.values()))
    if isinstance(value, list):
        return set().union(*(references(v) for v in value))
    return set()


def test_every_reference_leads_somewhere():
    there = {
        f"#/components/{kind}/{name}"
        for kind, named in DOCUMENT["components"].items()
        for name in named
    }

    assert references(DOCUMENT) <= there
    assert "#/components/schemas/HTTPValidationError" not in there  # FastAPI's, never sent


@pytest.mark.parametrize(("name", "operation"), OPERATIONS, ids=[n for n, _ in OPERATIONS])
def test_every_operation_says_what_it_does_and_how_it_fails(name: str, operation: dict):
    assert operation["summary"]
    assert operation["operationId"].islower()
    for status, declared in operation["responses"].items():
        answer = answer_of(DOCUMENT, declared)
        assert answer["description"], status
        if int(status) >= 400 and not name.endswith("/readyz"):
            assert "application/problem+json" in answer["content"], (status, answer)
    if operation.get("security"):
        assert {"401", "403", "422", "503"} <= set(operation["responses"])


def test_every_error_has_a_status_and_a_title():
    kinds = [*TABLE, *HttpError.__subclasses__()]

    assert all(400 <= shown(kind).status < 600 and shown(kind).title for kind in kinds)
    assert len({kind.code for kind in kinds}) >= len(kinds) - 2  # not_found is job and route
