"""The contract of object storage, on two S3 servers."""

from __future__ import annotations

import httpx2
import pytest

from jobs.blobs.s3 import S3Blobs
from jobs.errors import BlobMissing, BlobsUnavailable
from tests.stores import Store

PICTURE = b"\x89PNG of the contract" * 10_000  # more than one chunk


@pytest.fixture
def there(s3_store: Store) -> S3Blobs:
    s3_store.blobs.put("contract/a.png", PICTURE, "image/png")
    return s3_store.blobs


def test_what_is_put_is_read_whole_and_in_part(there: S3Blobs):
    whole = there.open("contract/a.png")
    part = there.open("contract/a.png", "bytes=2-5")
    last = there.open("contract/a.png", "bytes=-3")

    assert (whole.content_type, whole.length) == ("image/png", len(PICTURE))
    assert whole.etag
    assert b"".join(whole.chunks()) == PICTURE
    assert (b"".join(part.chunks()), part.length) == (PICTURE[2:6], 4)
    assert part.content_range == f"bytes 2-5/{len(PICTURE)}"
    assert b"".join(last.chunks()) == PICTURE[-3:]


def test_a_size_is_told_without_the_bytes(there: S3Blobs):
    assert there.size("contract/a.png") == len(PICTURE)
    assert there.size("contract/nothing.png") is None


def test_an_empty_object_is_an_object(there: S3Blobs):
    there.put("contract/empty", b"", "text/plain")

    assert there.size("contract/empty") == 0


def test_what_is_not_there_is_missing(there: S3Blobs):
    with pytest.raises(BlobMissing):
        there.open("contract/nothing.png")


@pytest.mark.parametrize("others", [0, 1, 1_200], ids=["one", "two", "more than a request takes"])
def test_keys_are_deleted_and_the_missing_do_not_matter(there: S3Blobs, others: int):
    keys = ["contract/a.png", *(f"contract/nothing-{k}.png" for k in range(others))]

    left = there.delete(keys)

    assert left == {}
    assert there.size("contract/a.png") is None
    assert there.delete([]) == {}


def test_a_bucket_that_keeps_versions_keeps_none_of_what_was_erased(s3_store: Store):
    blobs = S3Blobs(s3_store.with_(s3_bucket="versions"))
    blobs.ensure_bucket()
    versioning = {"Status": "Enabled"}
    blobs._client.put_bucket_versioning(Bucket="versions", VersioningConfiguration=versioning)
    for key in ("a.png", "b.png", "b.png", "a.png.other"):
        blobs.put(key, PICTURE, "image/png")

    left = blobs.delete(["a.png", "b.png", "nothing.png"])

    listed = blobs._client.list_object_versions(Bucket="versions")
    stored = [
        entry["Key"] for kind in ("Versions", "DeleteMarkers") for entry in listed.get(kind, ())
    ]
    assert (left, stored) == ({}, ["a.png.other"])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_presigned_url_reads_one_object_under_its_name(
    s3_store: Store, there: S3Blobs, method: str
):
    url = there.presign(
        "contract/a.png", content_type="image/png", file_name="j-0.png", method=method
    )

    answer = httpx2.request(method, url)
    other = httpx2.request({"GET": "HEAD", "HEAD": "GET"}[method], url)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == (PICTURE if method == "GET" else b"")
    if method == "GET" or s3_store.name != "moto":  # moto names no file to a HEAD
        assert answer.headers["content-disposition"] == 'inline; filename="j-0.png"'
    if s3_store.verifies_urls:
        assert other.status_code == 403  # the method is signed


def test_the_bucket_answers(there: S3Blobs):
    there.check()


def test_a_wrong_key_is_told_with_what_to_check(s3_store: Store):
    blobs = S3Blobs(s3_store.with_(s3_access_key="AKIANOBODY", s3_secret_key="wrong"))

    with s3_store.refusing_keys():
        for ask in (blobs.check, lambda: blobs.put("a", b"b", "image/png")):
            with pytest.raises(
                BlobsUnavailable, match=r"InvalidAccessKeyId; check PRINTWORKS_S3_ACCESS_KEY"
            ):
                ask()


def test_a_missing_bucket_is_told_and_is_no_missing_picture(s3_store: Store):
    blobs = S3Blobs(s3_store.with_(s3_bucket="nowhere"))

    with pytest.raises(BlobsUnavailable, match=r"no such bucket.*PRINTWORKS_S3_BUCKET"):
        blobs.check()
    with pytest.raises(BlobsUnavailable, match=r"NoSuchBucket.*PRINTWORKS_S3_BUCKET") as told:
        blobs.open("contract/a.png")
    assert not isinstance(told.value, BlobMissing)  # or a job would fail for a misspelt setting
    assert list(blobs.delete(["a", "b"])) == ["a", "b"]


def test_a_store_that_nobody_answers_for_is_away():
    nobody = Store(name="none", settings={}, verifies_urls=False, refusing_keys=lambda: None)
    blobs = S3Blobs(
        nobody.with_(s3_endpoint="http://127.0.0.1:9", s3_access_key="a", s3_secret_key="b")
    )

    with pytest.raises(BlobsUnavailable, match="is unavailable: EndpointConnectionError"):
        blobs.check()
    assert "is unavailable" in blobs.delete(["a", "b"])["b"]
