"""The client's types say what the service says: held against its OpenAPI document."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from printworks import AsyncClient, Client, types
from printworks.errors import FieldProblem
from printworks.types import JobOptions, OutputOptions, PictureOptions, WebhookOptions

from api.views.jobs import Quote


@pytest.fixture(scope="module")
def schemas(root: Path) -> dict[str, Any]:
    """The schemas of the document; tests/api holds it against the service itself."""
    document = json.loads((root / "docs" / "openapi.json").read_text())["components"]["schemas"]
    return {"Quote": Quote.model_json_schema(), **document}  # a dry run's answer: not declared


# the client's name of a type, and the document's
SAME: dict[type[Any], str] = {
    types.Job: "Job",
    types.JobPage: "JobPage",
    types.Image: "ImageView",
    types.Resolved: "Resolved",
    types.Picture: "PictureView",
    types.Input: "InputView",
    types.Output: "Output",
    types.Progress: "Progress",
    types.QueuePlace: "QueueView",
    types.JobError: "JobError",
    types.Urls: "Urls",
    types.Quote: "Quote",
    types.Model: "ModelView",
    types.ModelList: "ModelList",
    types.Limits: "Limits",
    types.Defaults: "Defaults",
    types.Sampler: "SamplerView",
    types.SamplerList: "SamplerList",
    FieldProblem: "FieldProblem",
}


@pytest.mark.parametrize("ours", SAME, ids=lambda kind: kind.__name__)
def test_a_type_has_the_fields_that_the_service_sends(
    ours: type[Any], schemas: dict[str, Any]
) -> None:
    assert set(ours.model_fields) == set(schemas[SAME[ours]]["properties"])


@pytest.mark.parametrize("ours", SAME, ids=lambda kind: kind.__name__)
def test_a_field_that_may_be_null_is_typed_so(ours: type[Any], schemas: dict[str, Any]) -> None:
    theirs = {n: _may_be_null(s) for n, s in schemas[SAME[ours]]["properties"].items()}
    own = {n: _may_be_null(s) for n, s in ours.model_json_schema()["properties"].items()}

    assert own == theirs


# What identifies a thing, or is all of an answer: without it, it is no answer of this service.
REQUIRED: dict[type[Any], set[str]] = {
    types.Job: {"id", "status"},
    types.JobPage: {"jobs"},
    types.Image: {"index"},
    types.Input: {"id"},
    types.JobError: {"code"},
    types.Model: {"id"},
    types.ModelList: {"models"},
    types.Sampler: {"id"},
    types.SamplerList: {"samplers"},
    FieldProblem: {"pointer", "code", "detail"},
}


@pytest.mark.parametrize("ours", SAME, ids=lambda kind: kind.__name__)
def test_a_service_of_an_older_release_is_read_whatever_it_does_not_say_yet(
    ours: type[Any],
) -> None:
    needed = {name for name, field in ours.model_fields.items() if field.is_required()}

    assert needed == REQUIRED.get(ours, set())


def test_a_service_of_a_newer_release_is_read_whatever_it_says_besides() -> None:
    job = {"id": "0197", "status": "dreaming", "resolved": {"prompt": "a cat", "later": 1}}

    read = types.Job.model_validate(job | {"later": {"than": "this"}})

    assert (read.status, read.final, read.resolved.prompt) == ("dreaming", False, "a cat")


def _may_be_null(schema: dict[str, Any]) -> bool:
    return any(choice.get("type") == "null" for choice in schema.get("anyOf", []))


def test_the_options_of_a_job_are_those_of_the_request(schemas: dict[str, Any]) -> None:
    asked = set(schemas["JobRequest"]["properties"])

    assert {"prompt", *JobOptions.__annotations__} == asked
    assert set(OutputOptions.__annotations__) == set(schemas["Output"]["properties"])
    assert set(PictureOptions.__annotations__) == set(schemas["Picture"]["properties"])
    assert set(WebhookOptions.__annotations__) == set(schemas["JobWebhook"]["properties"])


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    def public(kind: type[Any]) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {n: list(inspect.signature(m).parameters) for n, m in methods if n[0] != "_"}

    assert public(Client) == public(AsyncClient)


def test_the_synchronous_client_is_the_asynchronous_one_translated(root: Path) -> None:
    asked = [sys.executable, str(root / "client/generate_sync.py"), "--check"]

    done = subprocess.run(asked, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tree_drawn_in_errors_is_the_tree() -> None:
    from printworks import errors

    drawn = {
        line.split("── ")[1].split()[0] for line in errors.__doc__.splitlines() if "──" in line
    }
    real = {
        name
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.PrintworksError)
    }

    assert drawn | {"PrintworksError"} == real


def test_the_client_is_typed_for_those_who_install_it() -> None:
    assert Path(inspect.getfile(types)).with_name("py.typed").exists()
