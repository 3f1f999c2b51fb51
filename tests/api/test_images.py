"""Pictures over HTTP: whole, in part, not again, by another URL, not after deletion."""

from __future__ import annotations

import httpx2
import pytest

from tests.api.hand_worker import HandWorker
from tests.api.serving import Served


def made(api: httpx2.Client, worker: HandWorker, **request: object) -> tuple[dict, list[bytes]]:
    """A job that has succeeded, and the bytes it stored."""
    location = api.post("/v1/jobs", json={"prompt": "a cat", **request}).headers["location"]
    stored = worker.finish(worker.take())
    return api.get(location).json(), stored


def test_a_picture_is_streamed_as_it_was_stored(api: httpx2.Client, worker: HandWorker):
    job, stored = made(api, worker, n=2, seed=7)

    answers = [api.get(image["url"]) for image in job["images"]]

    assert job["status"] == "succeeded"
    assert [image["seed"] for image in job["images"]] == [7, 8]
    assert [a.content for a in answers] == stored
    assert answers[0].headers["content-type"] == "image/png"
    assert answers[0].headers["content-disposition"] == f'inline; filename="{job["id"]}-0.png"'
    assert answers[0].headers["x-content-type-options"] == "nosniff"
    assert "key" not in job["images"][0]


def test_the_name_may_end_in_what_the_picture_is(api: httpx2.Client, worker: HandWorker):
    job, (stored,) = made(api, worker, output={"format": "jpeg"})
    url = job["images"][0]["url"]

    assert api.get(f"{url}.jpg").content == api.get(f"{url}.jpeg").content == stored
    assert api.get(f"{url}.png").json()["code"] == "image_not_found"


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-3", 206, slice(0, 4)),
        ("bytes=4-", 206, slice(4, None)),
        ("bytes=-3", 206, slice(-3, None)),
        ("bytes=2-99999", 206, slice(2, None)),
        ("bytes=0-0,3-4", 200, slice(None)),
        ("bytes=5-2", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
    ],
)
def test_a_range_gives_that_part(
    api: httpx2.Client, worker: HandWorker, asked: str, status: int, part: slice
):
    job, (stored,) = made(api, worker)

    answer = api.get(job["images"][0]["url"], headers={"range": asked})

    assert answer.status_code == status
    assert answer.content == stored[part]
    assert answer.headers["accept-ranges"] == "bytes"


def test_a_range_outside_is_told_the_size(api: httpx2.Client, worker: HandWorker):
    job, (stored,) = made(api, worker)

    answer = api.get(job["images"][0]["url"], headers={"range": "bytes=9999-"})

    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(stored)}"


def test_an_etag_saves_the_bytes_and_an_old_one_gives_the_whole(
    api: httpx2.Client, worker: HandWorker
):
    job, (stored,) = made(api, worker)
    url = job["images"][0]["url"]
    tag = api.get(url).headers["etag"]

    same = api.get(url, headers={"if-none-match": tag})
    part = api.get(url, headers={"range": "bytes=0-1", "if-range": tag})
    whole = api.get(url, headers={"range": "bytes=0-1", "if-range": '"old"'})

    assert (same.status_code, same.content) == (304, b"")
    assert (part.status_code, part.content) == (206, stored[:2])
    assert (whole.status_code, whole.content) == (200, stored)


def test_a_redirect_needs_no_key_and_reads_one_object(api: httpx2.Client, worker: HandWorker):
    job, (stored,) = made(api, worker)

    answer = api.get(job["images"][0]["url"], params={"redirect": "1"})

    target = answer.headers["location"]
    assert answer.status_code == 302
    assert "X-Amz-Expires=600" in target
    assert httpx2.get(target).content == stored
    assert httpx2.get(target.replace("/0.png", "/1.png")).status_code == 403
    assert httpx2.put(target, content=b"mine").status_code == 403
    altered = {
        "a longer life": target.replace("X-Amz-Expires=600", "X-Amz-Expires=6000"),
        "another type": target.replace("image%2Fpng", "text%2Fhtml"),
        "another signature": target[:-1] + ("0" if target[-1] != "0" else "1"),
    }
    assert all(url != target for url in altered.values())
    answers = {name: httpx2.get(url).status_code for name, url in altered.items()}
    assert answers == dict.fromkeys(altered, 403)
    print(f"T60: one object, 600 s, {len(altered) + 2} alterations, all 403")


def test_f15_a_picture_is_saved_under_its_name_and_head_is_sent_on_as_get_is(
    api: httpx2.Client, worker: HandWorker
):
    job, (stored,) = made(api, worker)
    url = job["images"][0]["url"]

    got = api.get(url, params={"redirect": "1"})
    asked = api.head(url, params={"redirect": "1"})
    head = httpx2.head(asked.headers["location"])

    whole = httpx2.get(got.headers["location"])
    assert (asked.status_code, asked.content, head.status_code) == (302, b"", 200)
    assert head.headers["content-length"] == str(len(stored))
    for answer in (whole, head):
        assert answer.headers["content-type"] == "image/png"
        named = f'inline; filename="{job["id"]}-0.png"'
        assert answer.headers["content-disposition"] == named
    assert httpx2.get(got.headers["location"].replace("-0.png", "-0.html")).status_code == 403


@pytest.mark.parametrize(
    "prompt", ["a\r\nSet-Cookie: x=1", '"; filename="evil.html', "../../etc", "\u202egpj.exe", "🦉"]
)
def test_t57_names_of_files_and_blobs_are_made_by_the_service(
    api: httpx2.Client, worker: HandWorker, prompt: str
):
    job = api.post("/v1/jobs", json={"prompt": prompt}).json()
    worker.finish(worker.take())

    answer = api.get(f"/v1/jobs/{job['id']}/images/0")
    target = api.get(f"/v1/jobs/{job['id']}/images/0?redirect=1").headers["location"]

    named = f'inline; filename="{job["id"]}-0.png"'
    assert answer.headers["content-disposition"] == named
    assert "set-cookie" not in answer.headers
    assert f"/images/default/{job['id']}/0.png?" in target


def test_a_picture_that_is_not_there_says_why(api: httpx2.Client, worker: HandWorker):
    waiting = api.post("/v1/jobs", json={"prompt": "a cat"}).json()

    early = api.get(f"{waiting['urls']['self']}/images/0")
    worker.fail(worker.take())
    failed = api.get(f"{waiting['urls']['self']}/images/0")

    assert early.json()["code"] == failed.json()["code"] == "image_not_found"
    assert "queued" in early.json()["detail"]
    assert "failed" in failed.json()["detail"]
    assert api.get(f"{waiting['urls']['self']}/images/..%2f0").status_code == 404


def test_deleting_a_job_erases_its_pictures(served: Served, api: httpx2.Client, worker: HandWorker):
    job, _ = made(api, worker)
    presigned = api.get(job["images"][0]["url"], params={"redirect": "1"}).headers["location"]

    api.delete(job["urls"]["self"])

    assert api.get(job["images"][0]["url"]).status_code == 410
    assert httpx2.get(presigned).status_code == 404


def test_head_says_what_get_would_without_the_bytes(api: httpx2.Client, worker: HandWorker):
    job, (stored,) = made(api, worker)
    url = job["images"][0]["url"]

    head, whole = api.head(url), api.get(url)

    said = ("content-type", "content-length", "etag", "accept-ranges", "content-disposition")
    assert (head.status_code, head.content) == (200, b"")
    assert [head.headers[n] for n in said] == [whole.headers[n] for n in said]
    assert head.headers["content-length"] == str(len(stored))
    assert api.head(f"{url}7").status_code == 404
