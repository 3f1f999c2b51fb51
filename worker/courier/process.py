"""The role `courier`: wires settings, signals, stores and sender.

Owns the wiring and nothing else. Invariant: after SIGTERM the courier claims nothing new, waits for
the attempts under way (15 s at most), and leaves nothing that another courier would not do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor

from jobs.errors import EndpointMissing, SealBroken, SettingsError, StoreUnavailable
from jobs.settings import RoleSettings
from jobs.store.connection import connect_async
from jobs.tracing.opening import open_tracing
from jobs.version import own_version
from jobs.webhooks.deliveries import Deliveries
from jobs.webhooks.endpoints import Endpoints
from jobs.webhooks.outbox import Outbox
from jobs.webhooks.secret_box import SecretBox
from jobs.webhooks.ssrf_guard import EgressRules, resolver
from worker.courier.courier import AWAY_S, SLOTS, Courier, Stores
from worker.courier.http_sender import open_sender
from worker.main import Stop

log = logging.getLogger(__name__)


def run(settings: RoleSettings, stop: Stop) -> None:
    """Run the courier until stopped. Raises SettingsError."""
    asyncio.run(_run(settings, stop))


async def _run(settings: RoleSettings, stop: Stop) -> None:
    sealing, egress = SecretBox.of(settings.webhook_key), EgressRules.of(settings)
    tracing = open_tracing(settings, "courier")
    if not sealing.able:
        raise SettingsError(
            "a courier needs PRINTWORKS_WEBHOOK_KEY: make one with `openssl rand -base64 32`"
        )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wake() -> None:
        loop.call_soon_threadsafe(stopping.set)  # called in a signal handler: wake the loop

    stop.listen(wake)
    # a thread for each attempt: a DNS server that never answers must not block other names
    with ThreadPoolExecutor(2 * SLOTS, thread_name_prefix="dns") as threads:
        async with (
            contextlib.aclosing(connect_async(settings.redis_url)) as redis,
            open_sender(egress, resolver(threads), agent=f"Printworks/{own_version()}") as sender,
        ):
            endpoints = Endpoints(redis, sealing)
            stores = Stores(
                outbox=Outbox(redis, endpoints, egress),
                endpoints=endpoints,
                deliveries=Deliveries(redis),
            )
            await reseal(endpoints, stopping)
            log.info("courier.ready")
            try:
                await Courier(stores, sender, tracing=tracing).run(stopping)
            finally:
                await asyncio.to_thread(tracing.close)


async def reseal(endpoints: Endpoints, stopping: asyncio.Event) -> None:
    """Re-encrypt the secrets with NEW once PRINTWORKS_WEBHOOK_KEY is `NEW,OLD`, so OLD can go.

    Waits while Redis is unavailable or loading: nothing re-encrypts the secrets later.
    """
    last_reason = ""
    while not stopping.is_set():
        try:
            changed = await endpoints.reseal()
        except StoreUnavailable as error:
            if str(error) != last_reason:
                last_reason = str(error)
                log.warning("courier.store_away", extra={"reason": last_reason})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), AWAY_S)
        except (EndpointMissing, SealBroken) as error:
            log.warning("courier.not_resealed", extra={"reason": str(error)})
            return
        else:
            if changed:
                log.info("courier.resealed", extra={"endpoints": changed})
            return
