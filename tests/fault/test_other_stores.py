"""Other S3 stores than ours: what each refuses, in front of a real one that does the rest."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from redis import Redis

from api.settings import ApiSettings
from jobs.blobs.s3 import S3Blobs
from jobs.errors import BlobsUnavailable
from jobs.settings import RoleSettings
from jobs.store import keys
from tests.api.serving import serving
from tests.fault.s3_proxy import Answer, Asked, Rule, S3Proxy
from tests.queue.making import QUICK
from tests.queue.test_life import running
from tests.stores import self_signed
from worker.janitor import Janitor
from worker.settings import WorkerSettings

KEYS = [f"other/{name}.png" for name in "abc"]
KEPT = KEYS[1]


@contextmanager
def standing_before(
    settings: dict[str, str], rule: Rule, *, tls: Path | None = None
) -> Iterator[tuple[S3Blobs, S3Proxy]]:
    """The picture store behind one that refuses by `rule`."""
    context = self_signed(tls) if tls else None
    with S3Proxy(settings["s3_endpoint"], rule=rule, tls=context) as proxy:
        seen = RoleSettings.model_validate(settings | {"s3_endpoint": proxy.endpoint})
        yield S3Blobs(seen), proxy
        proxy.shutdown()


# --- what stores refuse


def wants_md5(asked: Asked) -> Answer | None:
    """MinIO before 2025-01, Ceph, PowerScale."""
    missing = asked.deletes_many and not asked.headers.get("content-md5")
    return (400, "MissingContentMD5") if missing else None


def knows_no_crc32(asked: Asked) -> Answer | None:
    """B2 and others, to whom these headers are strange."""
    strange = any("checksum" in name.lower() for name in asked.headers)
    return (400, "InvalidArgument") if strange else None


def deletes_one_at_a_time(status: int, code: str) -> Rule:
    """Stores without DeleteObjects, each with its own word for it."""
    return lambda asked: (status, code) if asked.deletes_many else None


def keeps_one(asked: Asked) -> Answer | None:
    """A policy on one object, told in the answer to the batch as S3 tells it."""
    if asked.method == "DELETE" and asked.path.endswith(KEPT):
        return 403, "AccessDenied"
    if not asked.deletes_many:
        return None
    named = [str(e.text) for e in ET.fromstring(asked.body).iter() if e.tag.endswith("Key")]
    if KEPT not in named:
        return None
    entries = "".join(f"<Error><Key>{k}</Key><Code>AccessDenied</Code></Error>" for k in named)
    return 200, f"<DeleteResult>{entries}</DeleteResult>"  # and erases none of them


def keeps_one_alone(asked: Asked) -> Answer | None:
    """The same of a store without DeleteObjects; another of its objects is broken."""
    if asked.deletes_many:
        return 501, "NotImplemented"
    if asked.method == "DELETE" and asked.path.endswith(KEPT):
        return 500, "InternalError"
    return None


def knows_no_trailers(asked: Asked) -> Answer | None:
    """OVH, Storj, R2, OCI, ONTAP."""
    encoded = "aws-chunked" in asked.headers.get("content-encoding", "")
    signed = asked.headers.get("x-amz-content-sha256", "")
    return (501, "NotImplemented") if encoded or "TRAILER" in signed else None


def may_not_list(asked: Asked) -> Answer | None:
    """A key with rights on objects alone: HEAD of the bucket, and what is missing, are 403."""
    bucket = asked.path.strip("/").count("/") == 0
    return (403, "AccessDenied") if asked.method == "HEAD" and bucket else None


# --- erasing


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(wants_md5, id="MissingContentMD5"),
        pytest.param(knows_no_crc32, id="no CRC32"),
        *(
            pytest.param(deletes_one_at_a_time(status, said), id=f"{status} {said[:20]}")
            for status, said in (
                (501, "NotImplemented"),
                (405, "MethodNotAllowed"),
                (400, "MissingContentMD5"),
                (403, "AccessDenied"),
                (404, "NoSuchKey"),
                (500, "InternalError"),
                (200, "<DeleteResult></DeleteResult>"),
                (200, "<html>welcome</html>"),
            )
        ),
    ],
)
def test_f3_pictures_are_erased_whatever_the_store_makes_of_a_batch(
    s3_settings: dict[str, str], blobs: S3Blobs, rule: Rule
):
    for key in KEYS:
        blobs.put(key, b"x", "image/png")

    with standing_before(s3_settings, rule) as (other, proxy):
        left = other.delete(KEYS)

    assert left == {}
    assert [blobs.size(key) for key in KEYS] == [None] * 3
    if rule in (wants_md5, knows_no_crc32):
        assert len(proxy.asked) == 1  # together, as on any other


@pytest.mark.parametrize(
    ("rule", "why"), [(keeps_one, "AccessDenied"), (keeps_one_alone, "InternalError")]
)
def test_f3_one_refused_picture_keeps_no_other(
    s3_settings: dict[str, str], blobs: S3Blobs, rule: Rule, why: str
):
    for key in KEYS:
        blobs.put(key, b"x", "image/png")

    with standing_before(s3_settings, rule) as (other, _):
        left = other.delete(KEYS)

    assert list(left) == [KEPT]
    assert why in left[KEPT]
    assert [blobs.size(key) for key in KEYS] == [None, 1, None]


def test_f3_a_store_that_asks_for_fewer_requests_is_not_asked_for_each(
    s3_settings: dict[str, str],
):
    with standing_before(s3_settings, lambda _: (503, "SlowDown")) as (other, proxy):
        left = other.delete([f"other/{k}" for k in range(50)])

    assert len(left) == 50
    assert len(proxy.asked) == 3  # one request, three attempts
    assert all("SlowDown" in why for why in left.values())


def test_f3_a_broken_store_is_given_up_before_each_key_was_tried_three_times(
    s3_settings: dict[str, str],
):
    def broken(asked: Asked) -> Answer | None:
        return (501, "NotImplemented") if asked.deletes_many else (500, "InternalError")

    with standing_before(s3_settings, broken) as (other, proxy):
        left = other.delete([f"other/{k}" for k in range(200)])

    assert len(left) == 200
    assert len(proxy.asked) < 100


def test_f3_what_is_due_and_not_erased_is_said(
    redis_url: str, redis: Redis, s3_settings: dict[str, str], caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    redis.zadd(keys.ERASE, {"acme/gone-1/1.png": 1, "acme/gone-2/2.png": 1})
    redis.zadd(keys.INPUTS, {"acme/8x8-0/blob": 1})

    def keeps_some(asked: Asked) -> Answer | None:
        deletes = asked.method == "DELETE" or asked.deletes_many
        return (403, "AccessDenied") if deletes and "gone-1" not in asked.path else None

    with (
        standing_before(s3_settings, keeps_some) as (other, proxy),
        serving_on(redis_url, s3_settings) as api,
    ):
        settings = WorkerSettings.model_validate({**s3_settings, "redis_url": redis_url})
        janitor = Janitor(settings, redis=redis, blobs=other)

        def look() -> None:
            """One look of the janitor, at everything."""
            for waiting in (keys.ERASE, keys.INPUTS):
                redis.zadd(waiting, dict.fromkeys(redis.zrange(waiting, 0, -1), 1), xx=True)
            janitor.erase()
            janitor.erase_inputs()
            janitor.sweep()

        nobody, without = overdue(api), degraded(api)
        look()
        look()
        refused, told = overdue(api), degraded(api)
        proxy.rule = lambda _: None
        look()
        done, well = overdue(api), degraded(api)

    assert nobody == {"pictures": 2, "inputs": 1}
    assert without["erase_pictures"].endswith("stored: 2; no janitor runs, or none keeps up")
    assert refused == {"pictures": 1, "inputs": 1}
    late_inputs = "input images overdue for deletion and still stored: 1; object storage"
    assert late_inputs in told["erase_inputs"]
    assert "AccessDenied" in told["erase_pictures"]
    assert (done, well) == ({"pictures": 0, "inputs": 0}, {})
    assert sorted(logged(caplog, "erase.refused")) == ["inputs", "pictures"]  # once, of two looks
    assert sorted(logged(caplog, "erase.caught_up")) == ["inputs", "pictures"]


def logged(caplog: pytest.LogCaptureFixture, message: str) -> list[str]:
    return [r.__dict__["kind"] for r in caplog.records if r.message == message]


def degraded(api: httpx2.Client) -> dict[str, str]:
    return api.get("/readyz").json()["degraded"]


@contextmanager
def serving_on(redis_url: str, s3_settings: dict[str, str]) -> Iterator[httpx2.Client]:
    settings = ApiSettings.model_validate({"redis_url": redis_url, **s3_settings})
    with serving(settings) as served:
        yield served.client


def overdue(api: httpx2.Client) -> dict[str, int]:
    """printworks_erase_overdue, by kind."""
    lines = [line for line in api.get("/metrics").text.splitlines() if "_erase_overdue{" in line]
    return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in lines}


def test_f3_the_whole_path_from_prompt_to_erased_on_another_store(
    redis_url: str, moto_settings: dict[str, str]
):
    shared = {f"PRINTWORKS_{name.upper()}": value for name, value in moto_settings.items()}
    environ = {"PRINTWORKS_REDIS_URL": redis_url, **shared, **QUICK}
    blobs = S3Blobs(RoleSettings.model_validate(moto_settings))

    with serving_on(redis_url, moto_settings) as api, running(environ):
        sent = api.post("/v1/jobs", json={"prompt": "a cat", "n": 3}, headers={"prefer": "wait=20"})
        job = sent.json()
        stored = [blobs.size(f"images/default/{job['id']}/{k}.png") for k in range(3)]
        picture = api.get(job["images"][2]["url"]).content
        redirected = api.get(job["images"][2]["url"], params={"redirect": "1"})
        elsewhere = httpx2.get(redirected.headers["location"]).content
        gone = api.delete(job["urls"]["self"])
        left = [blobs.size(f"images/default/{job['id']}/{k}.png") for k in range(3)]

    assert job["status"] == "succeeded"
    assert picture == elsewhere
    assert stored[2] == len(picture)
    assert (gone.status_code, left) == (204, [None] * 3)


# --- storing


def test_f3_pictures_are_stored_where_trailers_are_unknown(
    s3_settings: dict[str, str], blobs: S3Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "cert.pem"))

    with standing_before(s3_settings, knows_no_trailers, tls=tmp_path) as (other, proxy):
        other.put("other/tls.png", b"x" * 100_000, "image/png")

    headers = proxy.asked[0].headers
    assert blobs.size("other/tls.png") == 100_000
    assert len(headers["x-amz-content-sha256"]) == 64  # the store verifies it, of any kind
    assert headers["content-md5"]


def test_f3_a_store_that_is_not_trusted_says_what_to_set(
    s3_settings: dict[str, str], tmp_path: Path
):
    with (
        standing_before(s3_settings, lambda _: None, tls=tmp_path) as (other, _),
        pytest.raises(BlobsUnavailable, match=r"SSLError.*AWS_CA_BUNDLE"),
    ):
        other.check()


def test_f3_an_etag_that_is_no_md5_is_looked_behind(s3_settings: dict[str, str], blobs: S3Blobs):
    with standing_before(s3_settings, lambda _: None) as (other, proxy):
        proxy.set("opaque_etag")
        other.put("other/kms.png", b"encrypted at rest", "image/png")
        looked = [asked.method for asked in proxy.asked]
        proxy.set("wrong_etag")
        with pytest.raises(BlobsUnavailable, match="other bytes"):
            other.put("other/kms.png", b"encrypted at rest", "image/png")

    assert looked == ["PUT", "GET"]
    assert blobs.size("other/kms.png") == 17


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "SecondLevelDomainForbidden"),  # OSS
        (403, "PathStyleDomainForbidden"),  # COS
        (405, "VirtualHostDomainRequired"),  # OBS
    ],
)
def test_f3_a_store_that_wants_the_other_style_is_told_with_the_setting(
    s3_settings: dict[str, str], status: int, code: str
):
    with standing_before(s3_settings, lambda _: (status, code)) as (other, _):
        for ask in (other.check, lambda: other.put("a", b"b", "image/png")):
            with pytest.raises(BlobsUnavailable, match=rf"{code}; set PRINTWORKS_S3_ADDRESSING=v"):
                ask()


def test_f3_virtual_hosted_style_reaches_the_bucket_and_so_do_its_urls(
    moto_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    """Only a proxy knows the store's name: endpoints that are not loopback are reached by it."""
    monkeypatch.setenv("HTTP_PROXY", moto_settings["s3_endpoint"])
    monkeypatch.delenv("NO_PROXY", raising=False)
    named = {"s3_endpoint": "http://s3.eu-west-1.amazonaws.com", "s3_addressing": "virtual"}
    blobs = S3Blobs(RoleSettings.model_validate(moto_settings | named))

    blobs.put("other/virtual.png", b"virtual", "image/png")
    url = blobs.presign("other/virtual.png", content_type="image/png", file_name="v.png")
    with httpx2.Client(proxy=moto_settings["s3_endpoint"]) as client:
        fetched = client.get(url)

    assert url.startswith("http://printworks.s3.eu-west-1.amazonaws.com/other/virtual.png?")
    assert fetched.content == b"virtual"
    assert S3Blobs(RoleSettings.model_validate(moto_settings)).size("other/virtual.png") == 7
    assert blobs.delete(["other/virtual.png", "other/not.png"]) == {}


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTP_PROXY"])
def test_f2_an_inherited_proxy_does_not_stand_before_this_machine(
    s3_settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, proxy: str
):
    monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    S3Blobs(RoleSettings.model_validate(s3_settings)).check()


def test_f3_a_key_that_may_not_look_at_the_bucket_is_ready_if_it_can_store(
    s3_settings: dict[str, str], blobs: S3Blobs
):
    with standing_before(s3_settings, may_not_list) as (other, _):
        other.check()

    def may_nothing(asked: Asked) -> Answer:
        return 403, "AccessDenied"

    with (
        standing_before(s3_settings, may_nothing) as (other, _),
        pytest.raises(BlobsUnavailable, match=r"AccessDenied; give the key s3:GetObject"),
    ):
        other.check()
