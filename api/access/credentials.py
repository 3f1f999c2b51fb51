"""Credentials: where a request carries its API key, by path.

Owns the table of credential schemes: each dialect of another service reads keys as its clients
send them. Must not know keys or Redis. Invariant: a scheme reads and never decides; what it reads
is looked up like any key.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers

KEY_PREFIX = "pw_"


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialScheme:
    """Headers that may carry an API key.

    `schemes`: Authorization schemes in lower case, with `basic` for the password of RFC 7617, and
    `""` for a bare key. `headers`: other headers whose whole value is the key. `placeholders`:
    SDKs that refuse to start without any key send one that their user made up; where no key is
    needed such a key counts as none, instead of as an unknown one.
    """

    schemes: tuple[str, ...] = ("bearer",)
    headers: tuple[str, ...] = ()
    placeholders: bool = False

    def read(self, headers: Headers) -> str | None:
        """Return the key that `headers` carry, or None."""
        for name in self.headers:
            if value := headers.get(name, "").strip():
                return value
        return self._authorization(headers.get("authorization", "").strip())

    def present(self, headers: Headers) -> bool:
        """Return whether `headers` carry a key, readable or not."""
        return any(name in headers for name in ("authorization", *self.headers))

    def may_be_none(self, credentials: str) -> bool:
        """Return whether `credentials` count as no key where none is needed."""
        return self.placeholders and not credentials.startswith(KEY_PREFIX)

    def _authorization(self, value: str) -> str | None:
        first, _, rest = value.partition(" ")
        if not rest:
            return first if first and "" in self.schemes else None
        if first.lower() not in self.schemes:
            return None
        return _password(rest) if first.lower() == "basic" else rest.strip() or None


def _password(encoded: str) -> str | None:
    """Return the password of Basic credentials, else the user: tools ask for either."""
    try:
        user, _, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return password or user or None


BEARER = CredentialScheme()


@dataclass(frozen=True, slots=True)
class CredentialSchemes:
    """Credential schemes by path: the longest matching prefix, else Bearer."""

    by_prefix: Mapping[str, CredentialScheme] = field(default_factory=dict[str, CredentialScheme])

    def at(self, path: str) -> CredentialScheme:
        """Return the scheme of `path`."""
        fitting = [prefix for prefix in self.by_prefix if path.startswith(prefix)]
        return self.by_prefix[max(fitting, key=len)] if fitting else BEARER
