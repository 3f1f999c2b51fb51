"""LoRA adapters through the whole service: asked for over HTTP, told in the record."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from printworks import InvalidRequest, Job
from printworks.types import JobOptions

from tests.e2e.running import Up

pytestmark = pytest.mark.timeout(240)


def made(up: Up, *requests: JobOptions) -> list[Job]:
    """The jobs of these requests, together."""
    sent = [up.client.submit("a tree", steps=4, **request) for request in requests]
    return [up.client.wait(job.id, timeout_s=120) for job in sent]


def test_a_job_with_an_adapter_changes_no_bit_of_those_without(up: Up, tiny_models: Path) -> None:
    plain: JobOptions = {"seed": 1}
    dressed: JobOptions = {"seed": 1, "loras": [{"name": "ink", "scale": 0.8}]}
    digest = hashlib.sha256((tiny_models.parent / "loras/ink.safetensors").read_bytes()).hexdigest()

    (before,) = made(up, plain)
    styled, during, again = made(up, dressed, plain, dressed)
    (after,) = made(up, plain)

    hashes = [job.images[0].pixel_sha256 for job in (before, during, after)]
    assert len(set(hashes)) == 1
    assert styled.images[0].pixel_sha256 == again.images[0].pixel_sha256 != hashes[0]
    assert [(x.name, x.scale) for x in styled.resolved.loras] == [("ink", 0.8)]
    assert styled.fingerprint
    assert before.fingerprint
    assert styled.fingerprint["loras"] == f"ink@{digest[:12]}:0.8"
    assert before.resolved.loras == []
    assert "loras" not in before.fingerprint
    (listed,) = up.client.models()[0].loras
    assert (listed.name, listed.digest) == ("ink", digest)


def test_an_adapter_that_is_not_there_is_refused_with_the_nearest(up: Up) -> None:
    with pytest.raises(InvalidRequest, match="did you mean 'ink'"):
        up.client.submit("a tree", loras=[{"name": "inkk"}])
