"""The first API key, with every scope, made beside the API: over HTTP only an admin can make one.

A caller without a key may submit jobs from this machine; webhooks, keys and the queue's control
need this key. Owns the creation of the key and its place (the data folder's secrets). Standard
library only.
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
SCOPES = ("jobs:read", "jobs:write", "webhooks", "metrics", "admin")
TIMEOUT_S = 10.0


def first_key(api_url: str, data: DataFolder, env: Mapping[str, str]) -> str:
    """Return a key of every scope: the last run's key, if it still works. Raises ServiceError."""
    kept = data.secrets().get(KEPT_AS)
    if kept and _let_in(api_url, kept):
        return kept
    made = _make(env)
    data.keep_secret(KEPT_AS, made)
    return made


def _let_in(api_url: str, key: str) -> bool:
    parts = urlsplit(api_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/v1/workers", headers={"Authorization": f"Bearer {key}"})
        refused = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)  # unknown; of another scope
        return connection.getresponse().status not in refused
    except OSError as error:
        raise ServiceError(f"the API does not answer: {error}") from None
    finally:
        connection.close()


def _make(env: Mapping[str, str]) -> str:
    scopes = [part for scope in SCOPES for part in ("--scope", scope)]
    argv = [sys.executable, "-m", "api", "keys", "create", "--name", "first", *scopes]
    made = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise ServiceError(f"no API key could be created: {made.stderr.strip()}")
    return str(json.loads(made.stdout)["secret"])
