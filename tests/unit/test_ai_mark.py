"""The mark that a model made an image, read back by tools that are not ours."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import c2pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image as Pillow

from jobs.blobs.s3 import S3Blobs
from jobs.contract.model_file import load_catalogue
from jobs.contract.parsing import parse_request
from jobs.contract.request_parts import FORMATS
from jobs.contract.resolve import resolve
from jobs.contract.spec import JobSpec
from jobs.errors import SettingsError
from jobs.settings import ROOT
from tests.helpers import tool_missing, wait_until
from tests.unit.finished import finished
from worker.messages import Pixels
from worker.pictures.ai_mark import EDITED, GENERATED
from worker.pictures.content_credentials import ContentCredentials, open_credentials
from worker.pictures.encoding import encode
from worker.pictures.spool import Spool
from worker.pictures.uploader import Finishing, Stored, ToStore

SIDE = 128
RGB = bytes(range(256)) * (SIDE * SIDE * 3 // 256)
FINISHED = finished(Pixels(width=SIDE, height=SIDE, data=RGB))
INPUT = {"input": f"{SIDE}x{SIDE}-{'0' * 64}"}
PEM = serialization.Encoding.PEM
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def spec_of(form: str, **more: Any) -> JobSpec:
    asked = parse_request({"prompt": "a red house", "output": {"format": form}} | more)
    catalogue = load_catalogue(ROOT / "models" / "models.toml")
    return resolve(asked, catalogue, draw_seed=lambda: 7, default_retention_s=3600)


def exiftool(file: Path) -> dict[str, Any]:
    """The tags of a file by exiftool, numbers and URIs as they stand."""
    tool = shutil.which("exiftool")
    if tool is None:
        tool_missing("no exiftool: `apt install libimage-exiftool-perl`")
    done = subprocess.run([tool, "-j", "-n", "-G1", file], check=True, capture_output=True)
    return json.loads(done.stdout)[0]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("output", "more", "kind"),
    [({}, {}, GENERATED), ({"metadata": False}, {}, GENERATED), ({}, {"image": INPUT}, EDITED)],
    ids=["from text", "without metadata", "from an image"],
)
def test_every_file_says_that_a_model_made_it(
    form: str, output: dict[str, Any], more: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    spec = spec_of(form, **more | {"output": {"format": form, **output}})
    file = tmp_path / f"a.{form}"
    file.write_bytes(encode(FINISHED, spec, seed=7, job_id="j"))

    said = exiftool(file)
    assert said["XMP-iptcExt:DigitalSourceType"] == kind
    assert said["XMP-xmp:CreatorTool"] == "Printworks"
    prompt_said = "red house" in json.dumps(said)
    assert prompt_said == output.get("metadata", True)


def test_the_mark_changes_no_pixel() -> None:
    made = encode(FINISHED, spec_of("png"), seed=7, job_id="j")

    assert Pillow.open(io.BytesIO(made)).tobytes() == RGB


def _name(common: str) -> x509.Name:
    parts = ((NameOID.COMMON_NAME, common), (NameOID.ORGANIZATION_NAME, "Example"))
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


def _certificate(
    common: str, key: PrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey, *, ca: bool
) -> bytes:
    now = dt.datetime.now(dt.UTC)
    usage = [not ca, False, False, False, False, ca, ca, False, False]
    made = (
        x509.CertificateBuilder()
        .subject_name(_name(common))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(x509.KeyUsage(*usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if not ca:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        made = made.add_extension(purposes, critical=False)
    return made.sign(issuer_key, hashes.SHA256()).public_bytes(PEM)


def certified(folder: Path, key: PrivateKey) -> tuple[Path, Path]:
    """The files of a certificate for `key`, by an authority of the test's own."""
    authority = ec.generate_private_key(ec.SECP256R1())
    chain, private = folder / "chain.pem", folder / "key.pem"
    leaf = _certificate("signer", key, "authority", authority, ca=False)
    chain.write_bytes(leaf + _certificate("authority", authority, "authority", authority, ca=True))
    private.write_bytes(
        key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, private


@pytest.fixture
def credentials(tmp_path: Path) -> ContentCredentials:
    made = open_credentials(*certified(tmp_path, ec.generate_private_key(ec.SECP256R1())))
    assert made
    return made


def manifest(data: bytes, content_type: str) -> dict[str, Any]:
    """The active manifest of a file, which must be valid, read by the library's own reader."""
    with c2pa.Reader(content_type, io.BytesIO(data)) as reader:
        assert reader.get_validation_state() == "Valid"
        read = json.loads(reader.json())
        # the test's authority is in nobody's list; nothing else may be wrong
        wrong = {status["code"] for status in read.get("validation_status", ())}
        assert wrong <= {"signingCredential.untrusted"}
        return read["manifests"][read["active_manifest"]]


@pytest.mark.parametrize("form", FORMATS)
def test_a_stored_image_is_signed_where_a_certificate_is_configured(
    form: str, credentials: ContentCredentials, blobs: S3Blobs, tmp_path: Path
) -> None:
    finishing = Finishing(
        blobs,
        threads=2,
        spool=Spool(None, name="w", max_bytes=10_000_000),
        credentials=credentials,
    )
    spec = spec_of(form)
    work = ToStore(
        image_id="i",
        job_id=f"j-{form}",
        tenant="t",
        index=0,
        seed=7,
        spec=spec,
        finished=FINISHED,
    )
    finishing.store(work)
    (stored,) = wait_until(finishing.done, "the image is stored")
    finishing.close()
    assert isinstance(stored, Stored)
    data = b"".join(blobs.open(stored.image.key).chunks())

    said = manifest(data, stored.image.content_type)
    (actions,) = (a["data"]["actions"] for a in said["assertions"] if "actions" in a["label"])
    assert [(a["action"], a["digitalSourceType"]) for a in actions] == [("c2pa.created", GENERATED)]
    assert said["claim_generator_info"][0]["name"] == "Printworks"
    assert stored.image.bytes == len(data)
    assert stored.image.pixel_sha256 == hashlib.sha256(RGB).hexdigest()
    if form == "png":
        assert Pillow.open(io.BytesIO(data)).tobytes() == RGB
    file = tmp_path / f"a.{form}"
    file.write_bytes(data)
    assert exiftool(file)["XMP-iptcExt:DigitalSourceType"] == GENERATED


def test_a_changed_pixel_breaks_the_signature(credentials: ContentCredentials) -> None:
    made = encode(FINISHED, spec_of("png"), seed=7, job_id="j")
    signed = bytearray(credentials.signed(made, "image/png", source_type=GENERATED))
    signed[-40] ^= 1

    with c2pa.Reader("image/png", io.BytesIO(bytes(signed))) as reader:
        assert reader.get_validation_state() == "Invalid"


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "Ed25519", "RSA"],
)
def test_each_kind_of_key_signs(key: PrivateKey, tmp_path: Path) -> None:
    made = open_credentials(*certified(tmp_path, key))

    assert made
    signed = made.signed(
        encode(FINISHED, spec_of("webp"), seed=7, job_id="j"),
        "image/webp",
        source_type=GENERATED,
    )
    assert manifest(signed, "image/webp")


def test_what_cannot_sign_is_an_error_at_start(tmp_path: Path) -> None:
    chain, private = certified(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "other").mkdir()
    _, other = certified(tmp_path / "other", ec.generate_private_key(ec.SECP256R1()))

    assert open_credentials(None, None) is None
    for files, words in (
        ((chain, None), "go together"),
        ((chain, tmp_path / "gone.pem"), "cannot be read"),
        ((chain, chain), "no private key"),
        ((private, private), "cannot sign"),
        ((chain, other), "cannot sign"),
    ):
        with pytest.raises(SettingsError, match=words):
            open_credentials(*files)
