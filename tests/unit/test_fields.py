"""Every field of a request means something: none can be accepted and lost on its way.

A new field fails here until it has another value below and is resolved, sent to the engine or
named as not for it, repeated in `resolved`, and written into files or named as not for them.
"""

from __future__ import annotations

from typing import Any

import pytest

from api.views.jobs import NOT_RESOLVED, resolved_of
from jobs.contract.input_images import input_id
from jobs.contract.model_file import Catalogue, Defaults, Limits, ModelEntry, NetworkSource
from jobs.contract.parsing import parse_request
from jobs.contract.request_parts import Control, JobWebhook, LoraChoice, Output
from jobs.contract.resolve import resolve
from jobs.contract.spec import JobRequest, JobSpec, Priority, Reproducibility
from jobs.store.scripts.worker_calls import Lease
from tests.unit.finished import finished
from worker.control.held_job import NOT_FOR_THE_ENGINE, HeldJob
from worker.messages import Pixels
from worker.pictures.encoding import NOT_IN_FILES, metadata

FIRST, SECOND = input_id(128, 128, b"first"), input_id(128, 128, b"second")
PICTURE = {"input": FIRST}
HOOK = {"url": "https://receiver.example/hook"}
# Of each field of a request: what is said besides it, and another value than it has then.
OTHER_REQUESTS: dict[str, tuple[dict[str, Any], Any]] = {
    "prompt": ({}, "a dog"),
    "negative_prompt": ({}, "blurred"),
    "model": ({}, "second"),
    "width": ({"height": 128, "width": 128}, 160),
    "height": ({"height": 128, "width": 128}, 160),
    "size": ({}, "160x96"),
    "aspect_ratio": ({}, "3:2"),
    "steps": ({}, 7),
    "guidance_scale": ({}, 2.5),
    "seed": ({}, 8),
    "n": ({}, 2),
    "sampler": ({}, "euler"),
    "loras": ({}, [{"name": "ink", "scale": 0.5}]),
    "control": ({}, {"name": "edges", "image": PICTURE}),
    "image": ({}, PICTURE),
    "mask": ({"image": PICTURE}, {"input": SECOND}),
    "strength": ({"image": PICTURE}, 0.5),
    "resize": ({"image": PICTURE, "size": "160x96", "resize": "cover"}, "stretch"),
    "output": ({}, {"format": "webp", "quality": 80}),
    "preview": ({}, True),
    "priority": ({}, "high"),
    "deadline_s": ({}, 60.0),
    "retention_s": ({}, 120),
    "reproducibility": ({}, "fast"),
    "metadata": ({}, {"mine": 1}),
    "webhook": ({}, HOOK),
}
OTHER_SPECS: dict[str, Any] = {
    "prompt": "a dog",
    "negative_prompt": "blurred",
    "model": "second",
    "width": 160,
    "height": 160,
    "steps": 7,
    "guidance_scale": 2.5,
    "seeds": (8,),
    "sampler": "euler",
    "loras": (LoraChoice(name="ink"),),
    "control": Control(name="edges", image=SECOND, scale=1.0, start=0.0, end=1.0),
    "image": SECOND,
    "mask": SECOND,
    "strength": 0.5,
    "resize": "cover",
    "output": Output(format="webp"),
    "preview": True,
    "priority": Priority.HIGH,
    "deadline_s": 60.0,
    "retention_s": 120,
    "reproducibility": Reproducibility.FAST,
    "metadata": {"mine": 1},
    "webhook": JobWebhook(**HOOK),
}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("models")
    (folder / "loras").mkdir()
    (folder / "loras" / "ink.safetensors").write_bytes(b"ink")
    first = ModelEntry(
        id="first",
        source="x",
        loras="loras",
        controls={"edges": NetworkSource(source="e")},
        inputs=("image", "mask"),
        limits=Limits(side_multiple=32),
        defaults=Defaults(width=128, height=128),
    )
    return Catalogue(models=(first, first.model_copy(update={"id": "second"})), folder=folder)


def spec_of(catalogue: Catalogue, **request: Any) -> JobSpec:
    asked = parse_request({"prompt": "a cat"} | request)
    return resolve(asked, catalogue, draw_seed=lambda: 7, default_retention_s=3600)


@pytest.fixture(scope="module")
def spec(catalogue: Catalogue) -> JobSpec:
    """A spec in which every part that can be is there."""
    edges = {"name": "edges", "image": PICTURE}
    return spec_of(catalogue, image=PICTURE, mask=PICTURE, control=edges)


def test_each_field_of_a_request_and_of_a_spec_has_another_value_here():
    assert set(OTHER_REQUESTS) == set(JobRequest.model_fields)
    assert set(OTHER_SPECS) == set(JobSpec.model_fields)


@pytest.mark.parametrize("name", OTHER_REQUESTS)
def test_another_value_of_a_field_makes_another_spec(name: str, catalogue: Catalogue):
    besides, value = OTHER_REQUESTS[name]

    assert spec_of(catalogue, **besides) != spec_of(catalogue, **besides | {name: value})


@pytest.mark.parametrize("name", OTHER_SPECS)
def test_another_value_of_a_spec_asks_the_engine_for_something_else(name: str, spec: JobSpec):
    other = spec.model_copy(update={name: OTHER_SPECS[name]})

    assert (asked_of(spec) == asked_of(other)) == (name in NOT_FOR_THE_ENGINE)


@pytest.mark.parametrize("name", OTHER_SPECS)
def test_another_value_of_a_spec_is_said_in_resolved(name: str, spec: JobSpec):
    other = spec.model_copy(update={name: OTHER_SPECS[name]})

    assert (resolved_of(spec) == resolved_of(other)) == (name in NOT_RESOLVED)


@pytest.mark.parametrize("name", OTHER_SPECS)
def test_another_value_of_a_spec_is_written_into_its_files(name: str, spec: JobSpec):
    other = spec.model_copy(update={name: OTHER_SPECS[name]})

    # the picture's own seed stands in the file, not those of the job
    assert (about(spec) == about(other)) == (name in NOT_IN_FILES)


def asked_of(spec: JobSpec) -> object:
    """The engine's request for a spec's first image."""
    lease = Lease(execution_id="e", job_id="j", queue="q")
    held = HeldJob(
        lease=lease,
        spec=spec,
        tenant="t",
        solo=False,
        attempts=1,
        retries_left=0,
        queue_ms=0.0,
        stop_at_s=0.0,
        deadline_s=spec.deadline_s,  # a worker reads it from the job's hash, in its own clock
        pictures={FIRST: _pixels(b"a"), SECOND: _pixels(b"b")},
    )
    return held.request(held.images[0])


def about(spec: JobSpec) -> dict[str, Any]:
    """The metadata of a file of this spec."""
    return metadata(finished(_pixels(b"a")), spec, seed=7, job_id="j")


def _pixels(one: bytes) -> Pixels:
    return Pixels(width=1, height=1, data=one * 3)
