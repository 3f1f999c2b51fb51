"""Signing secrets at rest: AES-256-GCM under the operator's key.

Owns the encrypted form, `v1.` and base64 of nonce and ciphertext. Secrets must be decryptable
(each attempt signs with them), so a dump of Redis must not be enough. Invariant: a sealed secret
opens only for the endpoint that it was sealed for, under a key of the settings.
"""

from __future__ import annotations

import base64
import binascii
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from jobs.errors import SealBroken, SealingUnset, SettingsError

KEY_BYTES = 32
NONCE_BYTES = 12
FORM = "v1."


class SecretBox:
    """Encryption of secrets: the first key encrypts, any decrypts, so keys can be rotated."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._keys = keys
        self._ciphers = [AESGCM(key) for key in keys]

    @classmethod
    def of(cls, setting: SecretStr | None) -> SecretBox:
        """Read PRINTWORKS_WEBHOOK_KEY; unset: a box that cannot seal. Raises SettingsError."""
        texts = setting.get_secret_value().split(",") if setting else []
        try:
            keys = tuple(base64.b64decode(text.strip(), validate=True) for text in texts)
        except binascii.Error:
            keys = (b"",)
        if any(len(key) != KEY_BYTES for key in keys):
            raise SettingsError(
                "PRINTWORKS_WEBHOOK_KEY must be base64 of 32 bytes: `openssl rand -base64 32`"
            )
        return cls(keys)

    @property
    def able(self) -> bool:
        """True if there is a key."""
        return bool(self._ciphers)

    def seal(self, secret: str, *, owner: str, nonce: bytes | None = None) -> str:
        """Encrypt `secret` for the endpoint `owner`. `nonce`: NONCE_BYTES random bytes."""
        if not self._ciphers:
            raise SealingUnset("this service has no webhooks: PRINTWORKS_WEBHOOK_KEY is not set")
        drawn = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
        sealed = self._ciphers[0].encrypt(drawn, secret.encode(), owner.encode())
        return FORM + base64.b64encode(drawn + sealed).decode()

    def current(self, sealed: str, *, owner: str) -> bool:
        """Return True if the first key decrypts `sealed`: if all do, other keys can go."""
        try:
            SecretBox(self._keys[:1]).open(sealed, owner=owner)
        except SealBroken:
            return False
        return True

    def open(self, sealed: str, *, owner: str) -> str:
        """Decrypt the secret in `sealed`. Raises SealBroken."""
        raw = base64.b64decode(sealed.removeprefix(FORM))
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], owner.encode()).decode()
            except InvalidTag:
                continue
        raise SealBroken(
            f"the secret of {owner} cannot be decrypted: add the key that encrypted it to "
            "PRINTWORKS_WEBHOOK_KEY, or rotate the secret"
        )
