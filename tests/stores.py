"""Picture stores to test on, and what each can be asked: SeaweedFS, and moto as another S3.

Owns moto's server and its way to refuse keys. One contract is held against both
(tests/contract/test_stores.py), since code that was written beside one store knows that one.
"""

from __future__ import annotations

import functools
import ipaddress
import ssl
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy.service import Service, free_port
from jobs.blobs.s3 import S3Blobs
from jobs.settings import RoleSettings

# moto asks for keys only after the first requests; `inf`: never, which is its default
NEVER, AT_ONCE = "inf", "0"
LOOPBACK = ipaddress.ip_address("127.0.0.1")


@dataclass(kw_only=True)
class Store:
    """A running S3 server: how to reach it, and whether it verifies presigned URLs."""

    name: str
    settings: dict[str, str]
    verifies_urls: bool
    refusing_keys: Callable[[], AbstractContextManager[None]]  # a context in which it looks at keys

    @functools.cached_property
    def blobs(self) -> S3Blobs:
        """Its bucket."""
        return S3Blobs(self.with_())

    def with_(self, **other: str) -> RoleSettings:
        """Its settings, with these in place of its own."""
        return RoleSettings.model_validate({**self.settings, **other})


def moto_service(folder: Path) -> Service:
    """A moto server on a free port, in memory."""
    port = free_port()
    return Service(
        name="moto",
        argv=[
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "moto.server",
            "-H",
            "127.0.0.1",
            "-p",
            str(port),
        ],
        log=folder / "moto.log",
        ready=lambda: _answers(port),
    )


def endpoint_of(moto: Service) -> str:
    """Return the URL that the server listens on."""
    return f"http://127.0.0.1:{moto.argv[-1]}"


@contextmanager
def moto_refusing(endpoint: str) -> Iterator[None]:
    """moto looks at keys within the block; it knows none."""
    _reset_auth(endpoint, AT_ONCE)
    try:
        yield
    finally:
        _reset_auth(endpoint, NEVER)


def _reset_auth(endpoint: str, after: str) -> None:
    url = f"{endpoint}/moto-api/reset-auth"
    headers = {"content-type": "text/plain"}  # as a form it would be read away
    with urllib.request.urlopen(urllib.request.Request(url, after.encode(), headers)):
        pass


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/data.json", timeout=1):
            return True
    except OSError:
        return False


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server's context for 127.0.0.1; `cert.pem` in the folder is what its clients must trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a store of the tests")])
    today = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(LOOPBACK)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    traditional = serialization.PrivateFormat.TraditionalOpenSSL
    secret = key.private_bytes(pem, traditional, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(secret)
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
