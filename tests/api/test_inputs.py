"""Pictures to begin with, over HTTP: named, resized when told, held, erased."""

from __future__ import annotations

import base64
import json

import httpx2
import pytest
from PIL import Image
from redis import Redis

from jobs.blobs.s3 import BlobMissing, S3Blobs
from jobs.contract.input_images import input_id
from tests.api.hand_worker import HandWorker
from tests.api.hostile_pictures import a_picture, encoded
from tests.api.sending import ask, codes, pixels_of, sent, uri
from worker.janitor import Janitor
from worker.settings import WorkerSettings


def test_the_same_picture_is_one_input_however_it_comes(api: httpx2.Client):
    picture = a_picture(128, 96)
    by_upload = sent(api, picture)["id"]

    answers = [
        ask(api, image={"input": by_upload}),
        ask(api, image=uri(encoded(picture))),
        ask(api, image=uri(encoded(picture, "WEBP", lossless=True), "webp")),
        ask(api, image={"data": base64.b64encode(encoded(picture)).decode()}),
        ask(api, image=base64.urlsafe_b64encode(encoded(picture)).decode().rstrip("=")),
    ]

    assert [a.status_code for a in answers] == [202] * 5
    resolved = [a.json()["resolved"] for a in answers]
    assert [r["image"] for r in resolved] == [{"input": by_upload}] * 5
    assert [(r["width"], r["height"], r["strength"]) for r in resolved] == [(128, 96, 0.8)] * 5
    assert by_upload == input_id(128, 96, picture.tobytes())


def test_an_earlier_jobs_image_can_be_begun_with(api: httpx2.Client, worker: HandWorker):
    first = ask(api, n=2).json()
    early = ask(api, image={"job": first["id"]})
    worker.finish(worker.take(), encoded(a_picture(128, 128)))

    answer = ask(api, image={"job": first["id"], "index": 1})
    missing = ask(api, image={"job": first["id"], "index": 2})
    unknown = ask(api, image={"job": "019a0000-0000-7000-8000-000000000000"})
    api.delete(first["urls"]["self"])
    gone = ask(api, image={"job": first["id"]})

    assert (early.status_code, early.json()["code"]) == (404, "image_not_found")
    assert answer.json()["resolved"]["image"]["input"].startswith("128x128-")
    assert (missing.status_code, missing.json()["code"]) == (404, "image_not_found")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    assert (gone.status_code, gone.json()["code"]) == (410, "gone")


REFUSED_JOBS: dict[str, tuple[dict, list[tuple[str, str]]]] = {
    "a mask alone": ({"mask": "IMAGE"}, [("/mask", "conflict")]),
    "strength alone": ({"strength": 0.5}, [("/strength", "conflict")]),
    "resize alone": ({"resize": "cover"}, [("/resize", "conflict")]),
    "too little strength": ({"image": "IMAGE", "strength": 0.03}, [("/strength", "out_of_range")]),
    "no strength": ({"image": "IMAGE", "strength": 0}, [("/strength", "greater_than")]),
    "too much strength": ({"image": "IMAGE", "strength": 1.5}, [("/strength", "less_than_equal")]),
    "another size": ({"image": "IMAGE", "size": "64x64"}, [("/image", "size_differs")]),
    "no size of the model": ({"image": "ODD"}, [("/image", "illegal_size")]),
    "a mask of another size": ({"image": "IMAGE", "mask": "ODD"}, [("/mask", "size_differs")]),
    "an unknown way": ({"image": "IMAGE", "resize": "contain"}, [("/resize", "literal_error")]),
    "two ways at once": (
        {"image": {"data": "x", "input": "1x1-" + "0" * 64}},
        [("/image", "value_error")],
    ),
    "an unknown field": ({"image": {"url": "http://10.0.0.1/"}}, [("/image/url", "unknown_field")]),
    "an ID of nonsense": (
        {"image": {"input": "../../etc/passwd"}},
        [("/image/input", "string_pattern_mismatch")],
    ),
    "no base64": ({"image": "%%%"}, [("/image", "invalid_data")]),
    "an address": ({"image": "https://example.com/cat.png"}, [("/image", "invalid_data")]),
    "a data URI that is no base64": ({"image": "data:image/png,abc"}, [("/image", "invalid_data")]),
    "base64 of no picture": ({"image": "aGVsbG8="}, [("/image", "unknown_format")]),
    "an index without a job": ({"image": {"data": "x", "index": 1}}, [("/image", "value_error")]),
}


@pytest.mark.parametrize(("more", "expected"), REFUSED_JOBS.values(), ids=REFUSED_JOBS.keys())
def test_a_job_with_a_picture_is_refused_in_words(
    api: httpx2.Client, more: dict, expected: list[tuple[str, str]]
):
    known = {"IMAGE": uri(encoded(a_picture(128, 96))), "ODD": uri(encoded(a_picture(50, 34)))}
    asked = {n: known.get(v, v) if isinstance(v, str) else v for n, v in more.items()}

    answer = ask(api, **asked)

    assert answer.status_code == 422, answer.text
    assert codes(answer) == expected
    assert len(answer.content) <= 4096


def test_a_picture_is_resized_only_as_told(api: httpx2.Client):
    image = uri(encoded(a_picture(100, 50)))

    nearest = ask(api, image=image, resize="cover").json()["resolved"]
    covered = ask(api, image=image, resize="cover", size="64x64").json()["resolved"]
    stretched = ask(api, image=image, resize="stretch", size="64x64").json()["resolved"]

    assert (nearest["width"], nearest["height"], nearest["resize"]) == (128, 64, "cover")
    contents = [
        pixels_of(api.get(f"/v1/inputs/{r['image']['input']}/content").content)
        for r in (covered, stretched)
    ]
    assert [size for size, _ in contents] == [(64, 64)] * 2
    assert contents[0] != contents[1]
    again = ask(api, **{k: v for k, v in covered.items() if k not in ("prompt", "seed")}).json()
    assert again["resolved"]["image"] == covered["image"]


def test_a_large_picture_travels_inside_json(api: httpx2.Client):
    noise = Image.effect_noise((256, 256), 80).convert("RGB")
    first = uri(encoded(noise)).replace("/", "\\/")  # as PHP writes it
    second = base64.b64encode(encoded(noise)).decode()
    body = rf'{{"prompt": "a \"cat\"", "image": "{first}", "mask": "{second}"}}'
    assert len(body) > 200_000

    answer = api.post("/v1/jobs", content=body, headers={"content-type": "application/json"})

    resolved = answer.json()["resolved"]
    assert answer.status_code == 202
    assert resolved["image"] == resolved["mask"] == {"input": input_id(256, 256, noise.tobytes())}
    assert resolved["prompt"] == 'a "cat"'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (json.dumps({"prompt": "x" * 200_000}), 422),  # not a picture, and far too long
        (json.dumps({"prompt": "a", "image": "A" * 200_000})[:-2], 422),  # no end
        (json.dumps({"prompt": "a", "metadata": {f"k{i}": i for i in range(20_000)}}), 413),
        ('"' * 200_000, 413),
        ("[" * 200_000, 413),
    ],
)
def test_a_large_body_without_a_picture_is_refused_quickly(
    api: httpx2.Client, body: str, status: int
):
    answer = api.post("/v1/jobs", content=body, headers={"content-type": "application/json"})

    assert answer.status_code == status
    assert len(answer.content) <= 4096


def test_a_model_says_what_it_takes(api: httpx2.Client):
    assert api.get("/v1/models/demo").json()["inputs"] == ["image", "mask"]


def test_idempotency_looks_at_the_pixels(api: httpx2.Client):
    def keyed(data: bytes, key: str) -> httpx2.Response:
        body = {"prompt": "a", "image": uri(data)}
        return api.post("/v1/jobs", json=body, headers={"idempotency-key": key})

    first = keyed(encoded(a_picture(64, 64)), "k1")
    same = keyed(encoded(a_picture(64, 64), compress_level=0), "k1")
    other = keyed(encoded(a_picture(64, 64).rotate(90)), "k1")

    assert same.json()["id"] == first.json()["id"]
    assert same.headers["idempotency-replayed"] == "true"
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_a_group_takes_pictures_and_says_whose_is_wrong(api: httpx2.Client):
    good, bad = (
        {"prompt": "a", "image": uri(encoded(a_picture(64, 64)))},
        {
            "prompt": "a",
            "image": "aGVsbG8=",
        },
    )
    lost = {"prompt": "a", "image": {"input": "64x64-" + "0" * 64}}

    both = api.post("/v1/job-groups", json={"jobs": [good, good]})
    wrong = api.post("/v1/job-groups", json={"jobs": [good, bad]})
    missing = api.post("/v1/job-groups", json={"jobs": [good, lost]})

    assert both.status_code == 202
    assert codes(wrong) == [("/jobs/1/image", "unknown_format")]
    assert (missing.status_code, missing.json()["code"]) == (404, "input_not_found")
    assert len(api.get("/v1/jobs").json()["jobs"]) == 2


def test_a_dry_run_prices_the_steps_that_are_taken(api: httpx2.Client):
    image = uri(encoded(a_picture(128, 128)))
    half = {"prompt": "a", "image": image, "strength": 0.5, "steps": 20}

    whole = api.post("/v1/jobs?dry_run=true", json={"prompt": "a", "steps": 20}).json()
    part = api.post("/v1/jobs?dry_run=true", json=half).json()

    assert part["cost"] == whole["cost"] / 2


def test_head_says_what_get_would_of_an_inputs_pixels(api: httpx2.Client):
    url = sent(api, a_picture(64, 64))["url"]

    head, whole = api.head(url), api.get(url)

    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length", "etag"):
        assert head.headers[name] == whole.headers[name]


# --- how long they live


@pytest.fixture
def janitor(redis: Redis, redis_url: str, s3_settings: dict[str, str], blobs: S3Blobs) -> Janitor:
    settings = WorkerSettings.model_validate({"redis_url": redis_url, **s3_settings})
    return Janitor(settings, redis=redis, blobs=blobs)


def blob_names(redis: Redis, an_id: str) -> list[str]:
    return [
        f"inputs/{m.decode()}.png" for m in redis.zrange("pw:inputs", 0, -1) if an_id in m.decode()
    ]


@pytest.mark.parametrize("harm", ["lost", "cut short"])
def test_a14_a_picture_whose_object_was_lost_is_stored_again_when_it_is_sent_again(
    api: httpx2.Client, redis: Redis, blobs: S3Blobs, harm: str
):
    picture = a_picture(64, 64)
    view = sent(api, picture)
    (key,) = blob_names(redis, view["id"])
    stored = b"".join(blobs.open(key).chunks())
    waiting = api.post("/v1/jobs", json={"prompt": "a", "image": {"input": view["id"]}})
    if harm == "lost":
        blobs.delete([key])
    else:
        blobs.put(key, stored[:-9], "image/png")

    again = sent(api, picture)

    assert (waiting.status_code, again["id"]) == (202, view["id"])
    assert blob_names(redis, view["id"]) == [key]  # where the job that waits looks for it
    assert b"".join(blobs.open(key).chunks()) == stored


def end_upload(redis: Redis, an_id: str) -> None:
    """As if its hour had passed."""
    redis.zadd(f"pw:input:default/{an_id}:holds", {"upload": 1})
    for member in redis.zrange("pw:inputs", 0, -1):
        redis.zadd("pw:inputs", {member: 1})


def is_stored(blobs: S3Blobs, key: str) -> bool:
    try:
        blobs.open(key).close()
    except BlobMissing:
        return False
    return True


def test_an_upload_that_no_job_begins_with_is_erased(
    api: httpx2.Client, redis: Redis, blobs: S3Blobs, janitor: Janitor
):
    view = sent(api, a_picture(64, 64))
    (key,) = blob_names(redis, view["id"])
    janitor.erase_inputs()
    assert is_stored(blobs, key)

    end_upload(redis, view["id"])
    after = api.get(f"/v1/inputs/{view['id']}")
    janitor.erase_inputs()

    assert (after.status_code, after.json()["code"]) == (404, "input_not_found")
    assert not is_stored(blobs, key)
    assert not redis.exists(f"pw:input:default/{view['id']}", "pw:inputs")


def test_a_job_holds_its_input_until_its_record_goes(
    api: httpx2.Client, redis: Redis, blobs: S3Blobs, janitor: Janitor, worker: HandWorker
):
    view = sent(api, a_picture(64, 64))
    job = ask(api, image={"input": view["id"]}, retention_s=60).json()
    (key,) = blob_names(redis, view["id"])
    end_upload(redis, view["id"])
    janitor.erase_inputs()
    assert is_stored(blobs, key)

    worker.finish(worker.take())
    end_upload(redis, view["id"])
    janitor.erase_inputs()
    again = api.post(f"/v1/jobs/{job['id']}/rerun")
    held = redis.zscore(f"pw:input:default/{view['id']}:holds", job["id"]) or 0.0

    assert is_stored(blobs, key)
    assert again.status_code == 202
    assert held == pytest.approx(redis.time()[0] + 60, abs=30)


def test_deleting_a_job_erases_what_came_with_it_and_no_other_job_needs(
    api: httpx2.Client, redis: Redis, blobs: S3Blobs, worker: HandWorker
):
    jobs = [ask(api, image=uri(encoded(a_picture(64, 64)))).json() for _ in range(2)]
    an_id = jobs[0]["resolved"]["image"]["input"]
    (key,) = blob_names(redis, an_id)
    end_upload(redis, an_id)

    api.delete(jobs[0]["urls"]["self"])
    assert is_stored(blobs, key)
    api.delete(jobs[1]["urls"]["self"])

    assert not is_stored(blobs, key)
    assert not redis.exists(f"pw:input:default/{an_id}")


def test_an_erased_input_is_gone_for_all(api: httpx2.Client, redis: Redis, blobs: S3Blobs):
    view = sent(api, a_picture(64, 64))
    job = ask(api, image={"input": view["id"]}).json()
    (key,) = blob_names(redis, view["id"])

    erased = api.delete(f"/v1/inputs/{view['id']}")
    twice = api.delete(f"/v1/inputs/{view['id']}")
    rerun = api.post(f"/v1/jobs/{job['id']}/rerun")
    asked = ask(api, image={"input": view["id"]})

    assert (erased.status_code, twice.status_code) == (204, 404)
    assert (rerun.status_code, rerun.json()["code"]) == (410, "input_gone")
    assert (asked.status_code, asked.json()["code"]) == (404, "input_not_found")
    assert not is_stored(blobs, key)
    again = sent(api, a_picture(64, 64))
    assert again["id"] == view["id"]
    assert blob_names(redis, view["id"])[-1] != key


def test_bytes_that_were_never_registered_are_erased(
    redis: Redis, blobs: S3Blobs, janitor: Janitor
):
    member = "default/8x8-" + "1" * 64 + "/abcd"  # the API died between storing and registering
    blobs.put(f"inputs/{member}.png", b"x", "image/png")
    redis.zadd("pw:inputs", {member: 1})

    janitor.erase_inputs()

    assert not is_stored(blobs, f"inputs/{member}.png")
