"""Content credentials: a C2PA manifest, signed with the operator's certificate, in each image file.

Owns the manifest and the signature, by the library c2pa-python (extra `c2pa`). Must not know jobs
or storage. Invariants: a certificate or key that cannot sign is an error at start, not a fault of
the first image; the pixels of a signed file are those of the unsigned one.
"""

from __future__ import annotations

import importlib
import io
import json
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from PIL import Image as Pillow

from jobs.errors import SettingsError
from jobs.version import own_version
from worker.pictures.ai_mark import GENERATED

# no thumbnail in the manifest: it was ten times the file, and shows what the file itself shows
_OPTIONS: dict[str, Any] = {"builder": {"thumbnail": {"enabled": False}}}
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


class ContentCredentials:
    """A certificate chain and its key, PEM each; signs files. Safe to use from several threads."""

    def __init__(self, chain: bytes, key: bytes, algorithm: str) -> None:
        self._chain, self._key, self._algorithm = chain, key, algorithm
        self._c2pa = _library()

    def signed(self, data: bytes, content_type: str, *, source_type: str) -> bytes:
        """Return the file with a signed manifest: 3 KB more, in about 15 ms."""
        into = io.BytesIO()
        options = self._c2pa.Settings.from_dict(_OPTIONS)
        context = self._c2pa.Context(settings=options)
        with self._c2pa.Builder(_manifest(source_type), context) as builder:
            builder.sign(self._signer(), content_type, io.BytesIO(data), into)
        return into.getvalue()

    def _signer(self) -> Any:
        info = (self._algorithm.encode(), self._chain, self._key, None)  # None: no time stamp
        return self._c2pa.Signer.from_info(self._c2pa.C2paSignerInfo(*info))


def _manifest(source_type: str) -> str:
    """Return the manifest: made by this service, from a model (C2PA 2.1, c2pa.actions.v2)."""
    action = {"action": "c2pa.created", "digitalSourceType": source_type}
    return json.dumps(
        {
            "claim_generator_info": [{"name": "Printworks", "version": own_version()}],
            "assertions": [{"label": "c2pa.actions", "data": {"actions": [action]}}],
        }
    )


def open_credentials(certificate: Path | None, key: Path | None) -> ContentCredentials | None:
    """Return the credentials of two PEM files; None if neither is set. Raises SettingsError.

    `certificate`: the signing certificate first, then its issuers. An image is signed on trial.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise SettingsError(
            "PRINTWORKS_WORKER_C2PA_CERTIFICATE and PRINTWORKS_WORKER_C2PA_KEY go together"
        )
    private = _read(key)
    made = ContentCredentials(_read(certificate), private, _algorithm(private, key))
    blank = io.BytesIO()
    Pillow.new("RGB", (8, 8)).save(blank, "PNG")
    try:
        made.signed(blank.getvalue(), "image/png", source_type=GENERATED)
    except _library().C2paError as error:
        raise SettingsError(f"{certificate} and {key} cannot sign images: {error}") from None
    return made


def _library() -> Any:
    """Import c2pa-python, which is loaded only where it is used. Raises SettingsError."""
    try:
        return importlib.import_module("c2pa")
    except ImportError:
        raise SettingsError(
            "content credentials need the extra c2pa: pip install -c deploy/lock.txt '.[c2pa]'"
        ) from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error}") from None


def _algorithm(pem: bytes, file: Path) -> str:
    """Return C2PA's name of the algorithm that fits a private key, read from `file`."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{file} is no private key in PEM without password: {error}") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    raise SettingsError(f"{file}: use an EC (P-256, P-384, P-521), Ed25519 or RSA key")
