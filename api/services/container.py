"""Services of one API process: settings, connections to Redis and S3, shared state.

Owns the opening and closing of all services, in order. Routes get them as `ServicesDep`.
Invariant: all services are open before the first request and closed after the last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import anyio
from fastapi import Depends, Request

from api.observability.metrics import Metrics
from api.observability.readiness import Readiness
from api.services.downloads import Downloads
from api.services.job_followers import JobFollowers
from api.services.prompt_policy import Policy
from api.settings import ApiSettings
from api.uploads.uploads import ImageUploads, open_intake
from jobs.blobs import BlobStore, open_blobs
from jobs.contract.model_file import Catalogue, load_catalogue
from jobs.errors import SettingsError, StoreUnavailable
from jobs.store.api_keys import KeyStore, open_redis
from jobs.store.groups import GroupStore
from jobs.store.job_store import AsyncJobStore
from jobs.store.usage import UsageStore
from jobs.tracing.spans import OFF, Tracing
from jobs.webhooks.service import Webhooks, open_webhooks

log = logging.getLogger(__name__)
# Threads that parse large JSON. Few: each holds the interpreter for 5 ms at a time, and the loop
# waits for all of them.
PARSERS = 2
BLOB_THREADS = 32  # as many as boto3 keeps connections; other threads stay free for other work


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """All services that a route may need."""

    settings: ApiSettings
    catalogue: Catalogue
    store: AsyncJobStore
    blobs: BlobStore
    blob_threads: anyio.CapacityLimiter
    parsers: anyio.CapacityLimiter
    keys: KeyStore
    following: JobFollowers
    downloads: Downloads
    readiness: Readiness
    webhooks: Webhooks
    metrics: Metrics
    groups: GroupStore
    intake: ImageUploads
    figures: UsageStore
    policy: Policy
    tracing: Tracing


@asynccontextmanager
async def open_services(
    settings: ApiSettings, metrics: Metrics, tracing: Tracing = OFF
) -> AsyncGenerator[Services]:
    """Open all services for the block. Raises SettingsError if the settings are unsafe."""
    async with AsyncExitStack() as stack:
        catalogue = load_catalogue(settings.models_file)
        store = AsyncJobStore(settings.redis_url, replicas=settings.replicas)
        stack.push_async_callback(store.aclose)
        redis = await stack.enter_async_context(open_redis(settings.redis_url))
        keys = KeyStore(redis)
        await check_before_start(settings, store, keys)
        blobs = await asyncio.to_thread(open_blobs, settings)
        blob_threads = anyio.CapacityLimiter(BLOB_THREADS)
        following = JobFollowers(
            store,
            keys.live,
            max_streams=settings.max_streams,
            max_tenant=settings.max_tenant_streams,
        )
        await stack.enter_async_context(following)
        intake = await stack.enter_async_context(open_intake(settings, store, blobs, blob_threads))
        webhooks = await stack.enter_async_context(open_webhooks(settings))
        yield Services(
            settings=settings,
            catalogue=catalogue,
            store=store,
            blobs=blobs,
            blob_threads=blob_threads,
            parsers=anyio.CapacityLimiter(PARSERS),
            keys=keys,
            following=following,
            downloads=Downloads(settings.max_downloads),
            readiness=Readiness(store, blobs, blob_threads, waived=settings.waived),
            webhooks=webhooks,
            metrics=metrics,
            groups=GroupStore(redis),
            intake=intake,
            figures=UsageStore(redis),
            policy=Policy.of(settings.blocked_prompts),
            tracing=tracing,
        )


async def check_before_start(settings: ApiSettings, store: AsyncJobStore, keys: KeyStore) -> None:
    """Refuse to start if jobs could be lost, or if a required key does not exist."""
    try:
        await store.check_server(waived=settings.waived)
        if settings.anonymous != "from-anywhere" and settings.key_needed and not await keys.any():
            raise SettingsError(
                f"listening on {settings.host} needs an API key, and none exists: create one with "
                "`python -m api keys create --scope admin --scope jobs:read --scope jobs:write`"
            )
    except StoreUnavailable as error:
        # Redis may start later than this process: start, and report it in /readyz
        log.warning("api.store_away", extra={"reason": str(error)})


def services_of(request: Request) -> Services:
    """Return the services of the app that serves this request."""
    services: Services = request.app.state.services
    return services


async def _services(request: Request) -> Services:
    return services_of(request)  # async, or FastAPI would run it in a thread


ServicesDep = Annotated[Services, Depends(_services)]
