"""The OpenAPI document: FastAPI's own, with hand-parsed bodies and error responses added.

Owns the request schema of a job (its body is parsed by hand, strictly, so FastAPI does not know
it), the problem responses, the examples. Must not know routes. Invariant: every response that a
route can give is declared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from api.edge.problem import MEDIA_TYPE, shown
from api.edge.request_edge import SAFE_METHODS
from api.errors import (
    BodyTimeout,
    Forbidden,
    HeadersTooLarge,
    HostNotAllowed,
    OriginNotAllowed,
    PayloadTooLarge,
    RateLimited,
    Unauthorized,
    UnsupportedMediaType,
)
from jobs.contract.spec import JobRequest
from jobs.errors import InvalidRequest, PrintworksError, StorageFull, StoreUnavailable

REF = "#/components/schemas/{model}"


class FieldProblem(BaseModel):
    """One problem of a request: its place, code and explanation."""

    pointer: str = Field(description="JSON pointer into the body, ?parameter or header.")
    code: str
    detail: str


class ProblemView(BaseModel):
    """An error (RFC 9457). `code` is stable; `detail` is for people."""

    model_config = ConfigDict(title="Problem")
    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    retryable: bool = Field(description="Whether the same request may succeed later.")
    errors: list[FieldProblem] = []


EXAMPLES: dict[str, Any] = {
    "least": {"summary": "Minimal", "value": {"prompt": "a red bicycle on a cobblestone street"}},
    "levers": {
        "summary": "With options",
        "value": {
            "prompt": "a red bicycle on a cobblestone street",
            "negative_prompt": "blurry",
            "aspect_ratio": "3:2",
            "steps": 30,
            "guidance_scale": 5.5,
            "seed": 42,
            "n": 2,
            "sampler": "dpmpp_2m",
            "output": {"format": "webp", "quality": 90},
            "metadata": {"order": "A-1001"},
        },
    },
}


def json_body(model: type[BaseModel], examples: dict[str, Any]) -> dict[str, Any]:
    """Return `openapi_extra=` of a route that parses its body by hand; `install` adds the model."""
    content = {"schema": {"$ref": REF.format(model=model.__name__)}, "examples": examples}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


JOB_REQUEST_BODY = json_body(JobRequest, EXAMPLES)


def problems(*kinds: type[PrintworksError]) -> dict[int | str, dict[str, Any]]:
    """Return `responses=` of a route: the errors that the route can give, by status."""
    codes: dict[int | str, list[type[PrintworksError]]] = {}
    for kind in kinds:
        codes.setdefault(shown(kind).status, []).append(kind)
    return {status: _declared(of_status) for status, of_status in codes.items()}


def _declared(kinds: list[type[PrintworksError]]) -> dict[str, Any]:
    first = kinds[0]
    example = {
        "type": f"urn:printworks:problem:{first.code}",
        "title": shown(first).title,
        "status": shown(first).status,
        "detail": (first.__doc__ or "").split("\n")[0],
        "instance": "/v1/jobs",
        "code": first.code,
        "request_id": "0f3e9d",
        "retryable": first.retryable,
    }
    return {
        "description": "; ".join(f"`{k.code}`: {shown(k).title}" for k in kinds),
        "content": {
            MEDIA_TYPE: {"schema": {"$ref": REF.format(model="Problem")}, "example": example}
        },
    }


# Errors of every route: parameters are strict, and Redis can be unavailable, or full when the
# requests of a key are counted.
COMMON = problems(
    Unauthorized,
    Forbidden,
    HostNotAllowed,
    InvalidRequest,
    RateLimited,
    HeadersTooLarge,
    StoreUnavailable,
    StorageFull,
)
UNSAFE = problems(Forbidden, OriginNotAllowed)
WITH_BODY = problems(BodyTimeout, PayloadTooLarge, UnsupportedMediaType)


def install(app: FastAPI, *, bodies: Sequence[type[BaseModel]]) -> None:
    """Make `app.openapi()` return the whole document, built at the first call.

    `bodies`: the models of bodies that are parsed by hand.
    """

    def build() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document(app, bodies)
        return app.openapi_schema

    app.openapi = build  # type: ignore[method-assign]


def document(app: FastAPI, bodies: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """Build the OpenAPI document of `app`."""
    whole = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    schemas = whole.setdefault("components", {}).setdefault("schemas", {})
    _, ours = models_json_schema(
        [(model, "validation") for model in (*bodies, ProblemView)], ref_template=REF
    )
    for name, schema in ours["$defs"].items():
        schemas.setdefault("Problem" if name == "ProblemView" else name, schema)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path in whole["paths"].values():
        for method, operation in path.items():
            _complete(method.upper(), operation)
    whole["components"]["responses"] = _shared(whole["paths"])
    return whole


def _shared(paths: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Replace each shared response by a reference; return the responses by name.

    Written out in each operation, they were 63 % of the document.
    """
    given: dict[str, list[dict[str, Any]]] = {}  # by the answer's JSON: the operations' own lists
    named: dict[str, str] = {}
    for path in paths.values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                if MEDIA_TYPE in answer.get("content", {}):
                    text = json.dumps(answer, sort_keys=True)
                    given.setdefault(text, []).append(operation["responses"])
                    codes = re.findall("`(.+?)`", answer["description"])
                    named[text] = "-".join([status, *codes])
    for text, lists in given.items():
        answer = json.loads(text)
        for answers in lists:
            answers.update(
                (status, {"$ref": f"#/components/responses/{named[text]}"})
                for status, there in answers.items()
                if there == answer
            )
    assert len({*named.values()}) == len(named), "two answers of one status and the same codes"
    return {named[text]: json.loads(text) for text in sorted(given, key=lambda t: named[t])}


def answer_of(whole: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """Return a declared response itself, even if an operation holds a reference."""
    name = answer.get("$ref", "").rpartition("/")[2]
    return whole["components"]["responses"][name] if name else answer


def _both(own: dict[str, Any] | None, common: dict[str, Any]) -> dict[str, Any]:
    """Merge a route's own response of a status with the common one: either can occur."""
    if own is None:
        return dict(common)
    titles = own["description"].split("; ")
    more = [one for one in common["description"].split("; ") if one not in titles]
    return own | {"description": "; ".join([*titles, *more])}


def _complete(method: str, operation: dict[str, Any]) -> None:
    """Add the responses that do not depend on the route."""
    answers = operation["responses"]
    framework = answers.get("422", {}).get("content", {}).get("application/json")
    if framework:  # FastAPI's own 422 does not exist here: errors.py translates it
        del answers["422"]
    common = COMMON if operation.get("security") else problems(HeadersTooLarge, InvalidRequest)
    if operation.get("security") and method not in SAFE_METHODS:
        common = common | UNSAFE
    if "requestBody" in operation:
        common = common | WITH_BODY
    for status, answer in common.items():
        answers[str(status)] = _both(answers.get(str(status)), answer)
    operation["responses"] = dict(sorted(answers.items()))
    for answer in operation["responses"].values():
        answer.setdefault("headers", {})["X-Request-Id"] = {
            "description": "Request ID, yours if you sent one; quote it when you ask for help.",
            "schema": {"type": "string"},
        }
