"""A picture that steers, through the whole service: sent, told in the record, followed."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image, ImageDraw
from printworks import InvalidRequest, Job
from printworks.types import ControlOptions, JobOptions

from tests.e2e.running import Up

pytestmark = pytest.mark.timeout(240)


def edges(side: int = 32, *, at: int = 8) -> bytes:
    """A white square's outline on black, as a PNG."""
    picture = Image.new("RGB", (side, side))
    ImageDraw.Draw(picture).rectangle((at, at, side - at, side - at), outline="white")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def made(up: Up, *requests: JobOptions) -> list[Job]:
    """The jobs of these requests, together."""
    sent = [up.client.submit("a tree", steps=4, seed=1, **request) for request in requests]
    return [up.client.wait(job.id, timeout_s=120) for job in sent]


def follows(picture: str, **more: float) -> JobOptions:
    control: ControlOptions = {"name": "edges", "image": {"input": picture}}
    return {"control": {**control, **more}}  # type: ignore[typeddict-item]


def test_a_steered_job_follows_its_picture_and_changes_no_bit_of_the_others(up: Up) -> None:
    one, other = up.client.upload(edges()).id, up.client.upload(edges(at=12)).id

    (before,) = made(up, {})
    led, during, otherwise, unheeded = made(
        up, follows(one), {}, follows(other), follows(one, scale=0.0)
    )

    hashes = [job.images[0].pixel_sha256 for job in (before, led, otherwise, unheeded)]
    assert during.images[0].pixel_sha256 == hashes[0]
    assert len(set(hashes[:3])) == 3
    assert led.resolved.control
    assert (led.resolved.control.name, led.resolved.control.image.input) == ("edges", one)
    assert led.fingerprint
    assert led.fingerprint["control"].startswith("edges@")
    assert before.resolved.control is None
    assert before.fingerprint
    assert "control" not in before.fingerprint
    assert up.client.models()[0].controls == ["edges"]


def test_what_was_resolved_makes_the_same_picture_again(up: Up) -> None:
    data = base64.b64encode(edges(64)).decode()
    control: ControlOptions = {"name": "edges", "image": data, "scale": 0.8, "end": 0.5}

    (first,) = made(up, {"control": control, "size": "32x32", "resize": "cover"})
    asked = first.resolved.model_dump(exclude={"prompt", "image", "mask", "strength"})
    again = up.client.wait(up.client.submit("a tree", **asked).id, timeout_s=120)

    assert first.resolved.control
    assert first.resolved.control.image.input.startswith("32x32-")
    assert (first.resolved.control.scale, first.resolved.control.end) == (0.8, 0.5)
    assert again.images[0].pixel_sha256 == first.images[0].pixel_sha256


def test_a_control_that_is_not_there_is_refused_with_the_nearest(up: Up) -> None:
    picture = up.client.upload(edges()).id

    with pytest.raises(InvalidRequest, match="did you mean 'edges'"):
        up.client.submit("a tree", control={"name": "edge", "image": {"input": picture}})
