"""Dialect: the API of another image service, served beside our own for that service's clients.

Owns what the application must know of each: paths, routes, error shape, credentials, body limit.
Must not know any dialect. Invariant: a dialect has no second path to the queue; it translates to a
`JobRequest` and from a `JobRecord`, and api/submission sends its jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import APIRouter
from fastapi.routing import APIRoute

from api.access.credentials import BEARER, CredentialScheme, CredentialSchemes
from api.edge.problem import ErrorShape, ErrorShapes
from api.settings import ApiSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The API of another image service.

    `name`: its word in PRINTWORKS_API_DIALECTS. `prefixes`: all of its paths begin with one of
    them, and no path of ours or of another dialect does. `shape`: its errors. `large_paths`: paths
    (prefixes if they end in `/`) whose bodies hold images.
    """

    name: str
    prefixes: tuple[str, ...]
    router: APIRouter
    shape: ErrorShape
    credentials: CredentialScheme = BEARER
    large_paths: tuple[str, ...] = ()


def error_shapes(dialects: Sequence[Dialect]) -> ErrorShapes:
    """Return the error shapes of `dialects` by path."""
    return ErrorShapes({prefix: d.shape for d in dialects for prefix in d.prefixes})


def credential_schemes(dialects: Sequence[Dialect]) -> CredentialSchemes:
    """Return the credential schemes of `dialects` by path."""
    return CredentialSchemes({prefix: d.credentials for d in dialects for prefix in d.prefixes})


def methods_by_path(dialects: Sequence[Dialect]) -> list[tuple[str, frozenset[str]]]:
    """Return (path template, methods) of every route of `dialects`."""
    routes = [r for d in dialects for r in d.router.routes if isinstance(r, APIRoute)]
    return [(route.path, frozenset(route.methods or ())) for route in routes]


def larger_bodies(dialects: Sequence[Dialect], settings: ApiSettings) -> Mapping[str, int]:
    """Return the body limits, in bytes, of the paths of `dialects` that take images."""
    most = settings.image_json_bytes
    return {path: most for d in dialects for path in d.large_paths}
