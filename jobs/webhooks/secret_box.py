"""Signing secrets at rest: AES-256-GCM under the operator's key.

Owns the sealed form, `v1.` and base64 of nonce and ciphertext. They must be kept in a form that
opens (each attempt signs with them), so a dump of Redis must not be enough. Invariant: a sealed
secret opens only for the endpoint that it was sealed for, under a key of the settings.
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
    """Seals with the first key, opens with any: so the key itself can be rotated."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._keys = keys
        self._ciphers = [AESGCM(key) for key in keys]

    @classmethod
    def of(cls, setting: SecretStr | None) -> SecretBox:
        """From PRINTWORKS_WEBHOOK_KEY. Raises SettingsError; unset gives one that cannot seal."""
        texts = setting.get_secret_value().split(",") if setting else []
        try:
            keys = tuple(base64.b64decode(text.strip(), validate=True) for text in texts)
        except binascii.Error:
            keys = (b"",)
        if any(len(key) != KEY_BYTES for key in keys):
            raise SettingsError(
                "PRINTWORKS_WEBHOOK_KEY is base64 of 32 bytes: `openssl rand -base64 32`"
            )
        return cls(keys)

    @property
    def able(self) -> bool:
        """Whether there is a key."""
        return bool(self._ciphers)

    def seal(self, secret: str, *, owner: str, nonce: bytes | None = None) -> str:
        """`secret`, to be kept for the endpoint `owner`. `nonce`: NONCE_BYTES of chance."""
        if not self._ciphers:
            raise SealingUnset("this service has no webhooks: PRINTWORKS_WEBHOOK_KEY is not set")
        drawn = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
        sealed = self._ciphers[0].encrypt(drawn, secret.encode(), owner.encode())
        return FORM + base64.b64encode(drawn + sealed).decode()

    def current(self, sealed: str, *, owner: str) -> bool:
        """Whether the first key seals it: if all are so, the others can go."""
        try:
            SecretBox(self._keys[:1]).open(sealed, owner=owner)
        except SealBroken:
            return False
        return True

    def open(self, sealed: str, *, owner: str) -> str:
        """The secret in `sealed`. Raises SealBroken."""
        raw = base64.b64decode(sealed.removeprefix(FORM))
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], owner.encode()).decode()
            except InvalidTag:
                continue
        raise SealBroken(f"the secret of {owner} does not open with PRINTWORKS_WEBHOOK_KEY")
