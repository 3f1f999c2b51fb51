"""Mutual TLS for the ports that SeaweedFS opens beside S3: access only with one certificate.

Owns one key and one certificate, which signs itself, and SeaweedFS's security file that names
them. Invariant: the key is readable for this user alone and is made anew at each start; a client
without the certificate gets no answer from the master, the volumes, the filer or any gRPC port.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

CERTIFICATE, KEY, SETTINGS = "certificate.pem", "key.pem", "security.toml"
GRPC_PARTS = ("client", "master", "volume", "filer", "s3", "admin", "worker")
HTTPS_PARTS = ("master", "volume", "filer", "admin")  # S3 alone is for others: it asks for keys
# A clock that was set wrongly must lock nobody out; the key itself lives as long as one start.
VALID = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2120, 1, 1, tzinfo=UTC))


def lock(folder: Path) -> Path:
    """Write key, certificate and `security.toml` into `folder`, and return `folder`.

    SeaweedFS must be started in `folder`: it reads `security.toml` from there. If it cannot read
    the file, its ports stay open, with a warning: tests/deploy/test_doors.py tries every port.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key, certificate = _pair()
    _write(folder / KEY, key)
    _write(folder / CERTIFICATE, certificate)
    _write(folder / SETTINGS, _settings(folder).encode())
    return folder


def _pair() -> tuple[bytes, bytes]:
    """Return a key and its certificate, as PEM. The installing Python has no `cryptography`."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "printworks")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), *VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(here, critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        certificate.public_bytes(serialization.Encoding.PEM),
    )


def _settings(folder: Path) -> str:
    """Return SeaweedFS's settings for mutual TLS with this certificate, for each of its parts."""
    # a JSON string is a TOML string: a folder's name may hold anything
    certificate, key = (json.dumps(str(folder.resolve() / name)) for name in (CERTIFICATE, KEY))
    shown, believed = f"cert = {certificate}\nkey = {key}\n", f"ca = {certificate}\n"
    return "".join(
        [
            f"[grpc]\n{believed}",
            *(f"[grpc.{part}]\n{shown}" for part in GRPC_PARTS),
            *(f"[https.{part}]\n{shown}{believed}" for part in HTTPS_PARTS),
            f"[https.client]\nenabled = true\n{shown}{believed}",
        ]
    )


def _write(file: Path, content: bytes) -> None:
    file.unlink(missing_ok=True)  # of an earlier start: its mode would stay
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
