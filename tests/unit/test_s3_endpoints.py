"""S3 endpoints: what can never work is refused at the start, and what follows from the rest."""

from __future__ import annotations

import pytest

from jobs.blobs.s3 import S3Blobs
from jobs.errors import SettingsError
from jobs.s3_endpoints import addressing_of, is_loopback
from jobs.settings import RoleSettings

KEYS = {"PRINTWORKS_S3_ACCESS_KEY": "a", "PRINTWORKS_S3_SECRET_KEY": "b"}


def load(**s3: str) -> RoleSettings:
    return RoleSettings.load(KEYS | {f"PRINTWORKS_S3_{name.upper()}": v for name, v in s3.items()})


def url_of(**s3: str) -> str:
    """A presigned URL of a.png, without its query."""
    signed = S3Blobs(load(**s3)).presign("a.png", content_type="image/png", file_name="a.png")
    return signed.partition("?")[0]


@pytest.mark.parametrize("name", ["endpoint", "public_endpoint"])
@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("minio:9000", "write http://host:port"),
        ("ftp://minio", "write http://host:port"),
        ("https://", "write http://host:port"),
        ("http://me:hush@minio", "no user or password belongs in the URL"),
        ("http://minio?x=1", "nothing may follow the path"),
        ("http://minio:99999", "Port out of range"),
        ("http://minio:0", "port 0"),
        ("http://mi nio", "a space"),
    ],
)
def test_what_is_no_address_of_a_server_is_refused(name: str, url: str, why: str):
    with pytest.raises(SettingsError, match=f"PRINTWORKS_S3_{name.upper()}: .*{why}") as told:
        load(**{name: url})
    assert "hush" not in str(told.value)


@pytest.mark.parametrize("url", ["https://pics.example/s3/", "https://pics.example/s3"])
def test_f3_clients_cannot_be_sent_behind_a_prefix(url: str):
    with pytest.raises(SettingsError, match=r"S3_PUBLIC_ENDPOINT: .*'/s3'.*SignatureDoesNotMatch"):
        load(endpoint="http://minio:9000", public_endpoint=url)


def test_a_last_slash_means_nothing_and_nothing_means_unset():
    settings = load(endpoint="http://minio:9000/", public_endpoint="https://pics.example//")

    assert settings.s3_endpoint == "http://minio:9000"
    assert settings.s3_public_endpoint == "https://pics.example"
    assert load(endpoint="", public_endpoint="").s3_endpoint is None


def test_endpoints_that_boto3_would_read_by_itself_are_read_and_checked_here():
    aws = {"AWS_ENDPOINT_URL_S3": "http://one:1/", "AWS_ENDPOINT_URL": "http://two:2"}
    ours = {"PRINTWORKS_S3_ENDPOINT": "http://three:3"}

    assert RoleSettings.load(aws).s3_endpoint == "http://one:1"
    assert RoleSettings.load(aws | ours).s3_endpoint == "http://three:3"
    with pytest.raises(SettingsError, match=r"PRINTWORKS_S3_ENDPOINT: .*two:2"):
        RoleSettings.load({"AWS_ENDPOINT_URL": "two:2"})


def test_a_store_may_serve_under_a_path_of_its_own():
    assert (
        load(endpoint="https://store.example/v1/s3/").s3_endpoint == "https://store.example/v1/s3"
    )


@pytest.mark.parametrize(
    ("s3", "url"),
    [
        ({"endpoint": "http://minio:9000"}, "http://minio:9000/pics/a.png"),
        ({"endpoint": "http://minio:9000/"}, "http://minio:9000/pics/a.png"),
        ({"endpoint": "http://[::1]:9000"}, "http://[::1]:9000/pics/a.png"),
        (
            {"endpoint": "https://minio:9000", "addressing": "virtual"},
            "https://pics.minio:9000/a.png",
        ),
        (
            {"endpoint": "http://s3", "public_endpoint": "https://x.example/"},
            "https://x.example/pics/a.png",
        ),
        (
            {"endpoint": "https://oss-cn-hangzhou.aliyuncs.com"},
            "https://pics.oss-cn-hangzhou.aliyuncs.com/a.png",
        ),
        (
            {"endpoint": "https://cos.ap-guangzhou.myqcloud.com", "addressing": "path"},
            "https://cos.ap-guangzhou.myqcloud.com/pics/a.png",
        ),
        ({"region": "eu-west-1"}, "https://pics.s3.eu-west-1.amazonaws.com/a.png"),
        (
            {"region": "eu-west-1", "addressing": "path"},
            "https://s3.eu-west-1.amazonaws.com/pics/a.png",
        ),
        (
            {"region": "eu-west-1", "bucket": "pics.example"},
            "https://s3.eu-west-1.amazonaws.com/pics.example/a.png",
        ),
        (
            {"endpoint": "https://minio", "bucket": "pics.example"},
            "https://minio/pics.example/a.png",
        ),
        (
            {"endpoint": "http://minio", "bucket": "pics.example", "addressing": "virtual"},
            "http://pics.example.minio/a.png",
        ),
    ],
)
def test_f3_presigned_urls_are_right_in_both_styles(
    s3: dict[str, str], url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)

    assert url_of(**{"bucket": "pics", **s3}) == url


@pytest.mark.parametrize(
    ("s3", "why"),
    [
        ({"endpoint": "https://minio", "bucket": "pics.example"}, "has dots"),
        (
            {"endpoint": "http://s3", "public_endpoint": "https://x", "bucket": "pics.example"},
            "has dots",
        ),
        ({"bucket": "pics.example"}, "has dots"),
        ({"endpoint": "http://minio", "bucket": "My_Pics"}, "lower case"),
        ({"endpoint": "http://10.0.0.7:9000"}, "an IP address"),
        ({"endpoint": "http://[::1]:9000"}, "an IP address"),
    ],
)
def test_f3_a_bucket_that_cannot_be_a_host_name_is_refused_where_it_must_be_one(
    s3: dict[str, str], why: str
):
    with pytest.raises(SettingsError, match=f"PRINTWORKS_S3_ADDRESSING: .*{why}.*`path`"):
        load(**{"bucket": "pics", "addressing": "virtual", **s3})


def test_f3_a_store_that_takes_virtual_style_alone_is_known_by_its_name():
    with pytest.raises(SettingsError, match="has dots"):
        load(endpoint="https://obs.eu-west-101.myhuaweicloud.com", bucket="pics.example")
    assert addressing_of("auto", "https://aliyuncs.com.example", "pics") == "path"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.9.9.9",
        "127.1",
        "2130706433",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "s3.localhost",
        "0.0.0.0",
        "[::]",
    ],
)
def test_f2_this_machine_is_known_however_it_is_written(host: str):
    assert is_loopback(f"http://{host}:8333")


@pytest.mark.parametrize("host", ["10.0.0.1", "minio", "localhost.example", "[fe80::1]", "128.1"])
def test_f2_other_machines_are_not(host: str):
    assert not is_loopback(f"http://{host}:8333")
