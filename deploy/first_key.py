"""A first API key, where the service asks for one: nobody could make it over HTTP.

Owns when it is made and where it is kept (the data folder's secrets). Standard library only.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

from deploy.bootstrap import ROOT
from deploy.data import DataFolder
from deploy.service import ServiceError

KEPT_AS = "api_key"
TIMEOUT_S = 10.0


def first_key(api_url: str, data: DataFolder, env: Mapping[str, str]) -> str | None:
    """A key that works, or None where none is needed: the one of last time, if it still does."""
    if _let_in(api_url, None):
        return None
    kept = data.secrets().get(KEPT_AS)
    if kept and _let_in(api_url, kept):
        return kept
    made = _make(env)
    data.keep_secret(KEPT_AS, made)
    return made


def _let_in(api_url: str, key: str | None) -> bool:
    parts = urlsplit(api_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        connection.request("GET", "/v1/models", headers=headers)
        return connection.getresponse().status != HTTPStatus.UNAUTHORIZED
    except OSError as error:
        raise ServiceError(f"the API does not answer: {error}") from None
    finally:
        connection.close()


def _make(env: Mapping[str, str]) -> str:
    argv = [sys.executable, "-m", "api", "keys", "create", "--name", "first"]
    made = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise ServiceError(f"no key could be made: {made.stderr.strip()}")
    return str(json.loads(made.stdout)["secret"])
