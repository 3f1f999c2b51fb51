"""The API application: middleware, errors, routes, lifespan.

Owns their order and nothing else. Must not know how any of them works. Invariant: the
application is made by `create_app(settings)`; there is no module-level app and no global.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from api.dialects import dialect as dialect_tables
from api.dialects.dialect import Dialect
from api.dialects.registry import DIALECTS, chosen
from api.edge import openapi, problem
from api.edge.head_requests import HeadRequestMiddleware
from api.edge.request_edge import RequestEdgeMiddleware
from api.edge.tracing import TracingMiddleware
from api.edge.unknown_query import UnknownQueryMiddleware
from api.observability.metrics import Metrics
from api.routes import (
    events,
    groups,
    health,
    images,
    inputs,
    jobs,
    keys,
    models,
    operations,
    pages,
    usage,
    webhooks,
)
from api.services.container import open_services
from api.settings import ApiSettings
from jobs.contract.spec import JobRequest
from jobs.tracing.opening import open_tracing
from jobs.version import own_version

EXPOSED = (
    "location",
    "retry-after",
    "x-request-id",
    "etag",
    "ratelimit",
    "ratelimit-policy",
    "idempotency-replayed",
    "idempotency-expires",
)
DESCRIPTION = """Send a prompt and get a job at once; poll the job, wait for its end or follow its
events; download the images. The same request with the same random seed makes the same pixels.
Every error is `application/problem+json` with a stable `code`."""
TAGS = [
    {
        "name": "jobs",
        "description": "Generate images: send, follow, cancel, repeat and delete jobs.",
    },
    {"name": "images", "description": "Download a job's images."},
    {
        "name": "inputs",
        "description": "Upload input images for image-to-image, inpainting and ControlNet.",
    },
    {"name": "groups", "description": "Send, read and cancel up to 100 jobs together."},
    {"name": "models", "description": "Models, samplers and the queue."},
    {"name": "webhooks", "description": "Signed HTTP callbacks for the events of jobs and groups."},
    {"name": "keys", "description": "API keys: create, list, rotate, revoke."},
    {"name": "usage", "description": "Jobs and images by day and API key."},
    {
        "name": "operations",
        "description": "Workers, pause, drain, purge, statistics and metrics, for operators.",
    },
    {"name": "health", "description": "Probes for load balancers and orchestrators."},
]


def create_app(settings: ApiSettings, dialects: tuple[Dialect, ...] = DIALECTS) -> FastAPI:
    """Return the ASGI app; its lifespan opens and closes all services.

    Raises SettingsError if the settings name a dialect that does not exist.
    """
    served = chosen(settings, dialects)
    shapes = dialect_tables.error_shapes(served)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        await asyncio.to_thread(
            app.openapi
        )  # 0.2 s that the first bad request would take otherwise
        async with open_services(settings, app.state.metrics, app.state.tracing) as services:
            app.state.services = services
            yield
        await asyncio.to_thread(app.state.tracing.close)

    app = FastAPI(
        title="Printworks",
        version=own_version(),
        summary="Text-to-image as a service.",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        openapi_url="/openapi.json",
        redoc_url=None,
        docs_url=None,
        lifespan=lifespan,
        # spans and metrics of the framework would carry bodies, which are prompts
        telemetry={"tracing": False, "metrics": False, "logs": False},
        generate_unique_id_function=lambda route: route.name,  # the name in generated clients
    )
    app.state.metrics = Metrics()
    app.state.tracing = open_tracing(settings, "api")
    app.state.credentials = dialect_tables.credential_schemes(served)
    app.state.undocumented = dialect_tables.methods_by_path(served)
    for resource in (
        jobs,
        events,
        images,
        inputs,
        groups,
        models,
        webhooks,
        keys,
        usage,
        operations,
        health,
        pages,
    ):
        app.include_router(resource.router)
    app.include_router(operations.scraped)
    for each in served:
        # their documentation is the other service's; ours would list every job twice
        app.include_router(each.router, include_in_schema=False)
    problem.install(app, shapes)
    openapi.install(app, bodies=(JobRequest, groups.GroupRequest, keys.KeyRequest))
    app.add_middleware(UnknownQueryMiddleware, document=app.openapi, shapes=shapes)
    if settings.origins:
        allow_listed_origins(app, settings)
    if app.state.tracing.on:
        app.add_middleware(TracingMiddleware, tracing=app.state.tracing)
    app.add_middleware(HeadRequestMiddleware)
    app.add_middleware(
        RequestEdgeMiddleware,
        max_body_bytes=settings.max_body_bytes,
        larger_bodies={
            **dialect_tables.larger_bodies(served, settings),
            **settings.larger_bodies,
        },
        observe=app.state.metrics.observe,
        shapes=shapes,
    )
    return app


def allow_listed_origins(app: FastAPI, settings: ApiSettings) -> None:
    """Allow browser calls from the listed origins; no cookies, since the API has none."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.origins,
        allow_methods=("GET", "POST", "PATCH", "DELETE"),
        allow_headers=("authorization", "content-type", "idempotency-key", "prefer"),
        expose_headers=EXPOSED,
        max_age=600,
    )
