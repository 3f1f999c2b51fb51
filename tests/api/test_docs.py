"""docs/api.md is held to the code: every route, every error code, and none that is not."""

from __future__ import annotations

import re
from pathlib import Path

from api.app import create_app
from api.edge.problem import TABLE, shown
from api.errors import HttpError
from api.settings import ApiSettings
from jobs.errors import PrintworksError

DOCUMENT = create_app(ApiSettings()).openapi()


def told(root: Path) -> str:
    return (root / "docs/api.md").read_text(encoding="utf-8")


def test_every_route_is_told(root: Path):
    routes = {
        f"{method.upper()} {path}"
        for path, verbs in DOCUMENT["paths"].items()
        for method in verbs
        if not path.startswith("/v1/webhooks")  # docs/webhooks.md
    }
    named = set(re.findall(r"`((?:GET|POST|DELETE|PATCH) /[^ `]*)`", told(root)))

    assert named == routes


def test_every_error_is_told_with_its_status(root: Path):
    kinds = [*TABLE, *HttpError.__subclasses__(), PrintworksError]
    codes = {(kind.code, shown(kind).status) for kind in kinds}
    named = {
        (code, int(status))
        for line, status in re.findall(r"^\| (`[^|]+) \| (\d{3}) \|", told(root), re.MULTILINE)
        for code in re.findall(r"`(\w+)`", line)
    }

    assert named == codes
