"""A job's Redis hash as the record that clients read."""

from __future__ import annotations

from jobs.contract.record import MOVES, RQ_STATUS, QueuePlace, Stage, Status
from jobs.contract.request_parts import Output
from jobs.contract.spec import JobSpec, Priority, Reproducibility
from jobs.store.keys import READ_FIELDS, HashField
from jobs.store.record_hash import record_of

SPEC = JobSpec(
    model="demo",
    prompt="a cat",
    negative_prompt="",
    width=128,
    height=96,
    steps=20,
    guidance_scale=4.0,
    seeds=(7, 8),
    sampler="euler",
    output=Output(),
    priority=Priority.NORMAL,
    deadline_s=None,
    retention_s=3600,
    reproducibility=Reproducibility.EXACT,
    metadata={"mine": [1, None, "x"]},
)


def fields_of(**changes: str) -> dict[str, str | None]:
    empty: dict[str, str | None] = dict.fromkeys(READ_FIELDS)
    return empty | {HashField.STATUS: "queued", HashField.SPEC: SPEC.model_dump_json()} | changes


def test_a_spec_survives_its_own_json():
    assert JobSpec.model_validate_json(SPEC.model_dump_json()) == SPEC


def test_cost_counts_images_steps_rows_and_pixels():
    assert SPEC.cost == 2 * 20 * 2 * 128 * 96 / 1e6
    assert SPEC.model_copy(update={"guidance_scale": 1.0}).cost == SPEC.cost / 2


def test_a_queued_job_waits_and_has_a_place():
    record = record_of("id", fields_of(), queue=QueuePlace(position=3, eta_seconds=1.5))

    assert (record.status, record.stage) == (Status.QUEUED, Stage.WAITING)
    assert record.queue == QueuePlace(position=3, eta_seconds=1.5)
    assert record.completed_at is None


def test_a_requeued_job_shows_no_old_start():
    record = record_of("id", fields_of(started_at="2026-11-01T10:00:00.000000Z"))

    assert record.started_at is None


def test_a_finished_job_expires_after_its_retention():
    done = fields_of(status="finished", ended_at="2026-11-01T10:00:00.000000Z", x_steps="40")

    record = record_of("id", done)

    assert record.status is Status.SUCCEEDED
    assert record.progress.fraction == 1.0
    assert record.completed_at
    assert record.expires_at
    assert (record.expires_at - record.completed_at).total_seconds() == 3600


def test_expired_is_what_our_scripts_noted_beside_rqs_canceled():
    assert record_of("id", fields_of(status="canceled")).status is Status.CANCELED
    assert record_of("id", fields_of(status="canceled", x_end="expired")).status is Status.EXPIRED


def test_every_word_of_rq_has_one_of_ours_and_every_move_a_target():
    assert all(record_of("id", fields_of(status=word)).status for word in RQ_STATUS)
    assert all(to in MOVES for ways in MOVES.values() for to in ways)
