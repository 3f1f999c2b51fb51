"""The role `gpu`: one engine process, and the control loop that feeds the engine.

Owns the wiring only. The engine chooses the device: on a CPU the role is the same. Invariant: no
job is taken before Redis is durable as configured and the engine is ready.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket

from jobs.blobs import open_blobs
from jobs.contract.model_file import Catalogue, load_catalogue
from jobs.errors import StoreUnavailable
from jobs.store import keys
from jobs.store.connection import connect
from jobs.store.job_store import JobStore
from jobs.tracing.opening import open_tracing
from worker.control.loop import ControlLoop
from worker.engine_environ import engine_environ
from worker.engine_link import EngineLink
from worker.main import Stop
from worker.messages import EngineConfig
from worker.pictures.content_check import checker_of
from worker.pictures.content_credentials import open_credentials
from worker.pictures.input_fetcher import Fetching
from worker.pictures.spool import Spool
from worker.pictures.uploader import Finishing
from worker.rq_bridge import BatchWorker
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

WAIT_FOR_REDIS_S = 1.0
MB = 1024 * 1024


def run(settings: WorkerSettings, stop: Stop) -> None:
    """Run the worker until stopped. Raises SettingsError."""
    catalogue = load_catalogue(settings.models_file)
    checker = checker_of(settings.image_checker, timeout_s=settings.image_checker_timeout_s)
    credentials = open_credentials(settings.c2pa_certificate, settings.c2pa_key)
    tracing = open_tracing(settings, "worker")
    models = [entry.id for entry in catalogue.models]
    link = EngineLink(
        _engine_config(settings, catalogue),
        quiet_s=settings.hang_s,
        environ=engine_environ(also=settings.engine_passes),
    )
    link.start()  # the engine imports torch for seconds: meanwhile wait for Redis
    if not wait_for_redis(settings, stop):
        link.stop(grace_s=0)
        return
    bridge = BatchWorker(
        [queue for model in models for queue in keys.queue_names(model)],
        name=settings.name or new_name(),
        connection=connect(settings.redis_url),
        lease_s=settings.lease_s,
        replicas=settings.replicas,
    )
    blobs = open_blobs(settings)
    finishing = Finishing(
        blobs,
        threads=settings.finish_threads,
        spool=Spool(settings.spool_dir, name=bridge.name, max_bytes=settings.spool_mb * MB),
        checker=checker,
        credentials=credentials,
        tracing=tracing,
    )
    control = ControlLoop(
        settings,
        bridge=bridge,
        link=link,
        finishing=finishing,
        fetching=Fetching(blobs),
        models=models,
    )
    stop.listen(control.stop)
    control.run()


def _engine_config(settings: WorkerSettings, catalogue: Catalogue) -> EngineConfig:
    return EngineConfig(
        catalogue=catalogue,
        threads=settings.threads,
        max_live=max(32, settings.slots),
        memory_bytes=settings.memory_mb * MB if settings.memory_mb else None,
        state_dir=settings.state_dir,
        device=settings.device,
        self_test=settings.self_test,
    )


def wait_for_redis(settings: WorkerSettings, stop: Stop) -> bool:
    """Wait for a usable Redis. Return False if asked to stop. Raises SettingsError if unfit."""
    last_reason = ""
    with JobStore(settings.redis_url) as store:
        while not stop.asked:
            try:
                store.check_server(waived=settings.waived)
            except StoreUnavailable as error:
                if str(error) != last_reason:  # loading a 20 GB file takes minutes: log once
                    last_reason = str(error)
                    log.warning("redis.awaited", extra={"reason": last_reason})
                stop.wait(WAIT_FOR_REDIS_S)
            else:
                return True
    return False


def new_name() -> str:
    """Return an unused worker name: RQ refuses a name whose worker was killed within the TTL."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
