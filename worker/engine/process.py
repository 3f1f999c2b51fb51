"""The engine's own process: read commands, tick, report; nothing else.

Owns the pipe to the control process and the loop. Knows no batch (the engine does) and no job.
Invariant: no signal but SIGKILL stops it in mid-tick: the parent says Stop.
"""

from __future__ import annotations

import logging
import os
import signal
import time
import warnings
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from worker.engine.batcher import Engine
from worker.engine.errors import EngineError, ModelBroken
from worker.engine.image_call import as_engine_error
from worker.engine.model import Model
from worker.engine.model_pool import Residency, pick_device
from worker.messages import (
    Beat,
    Cancel,
    Command,
    EngineConfig,
    Event,
    Fatal,
    ImageRequest,
    Loading,
    ModelReport,
    Ready,
    Stop,
    Submit,
    Unloadable,
)

log = logging.getLogger(__name__)

BEAT_EVERY_S = 0.5

if TYPE_CHECKING:
    Pipe = Connection[Event, EngineConfig | Command]


class EngineProcess:
    """The loop: commands in, events out, one tick between."""

    def __init__(self, pipe: Pipe, config: EngineConfig) -> None:
        self._pipe = pipe
        self._config = config
        self._engine = Engine([], max_live=config.max_live, room=self._room)
        self._residency = Residency(config, self._engine.busy, leave=self._engine.remove_model)
        self._broken: dict[str, EngineError] = {}
        self._told_s = 0.0
        self._told_preparing: str | None = None
        self._stopping = False

    def run(self) -> None:
        """Load the resident models, then serve until Stop."""
        self._tell([Ready(models=self._load_residents())])
        while not self._stopping:
            self._obey()
            self._tell(self._engine.tick())
            self._tell_of_preparing()
            self._beat()
        self._engine.close()

    def _load_residents(self) -> tuple[ModelReport, ...]:
        """Load the resident models that can be. Raises ModelBroken if no model can be served."""
        entries = self._config.catalogue.models
        loaded = [self._load_or_refuse(entry.id) for entry in entries if entry.resident]
        if not any(loaded) and len(loaded) == len(entries):
            raise ModelBroken("; ".join(map(str, self._broken.values())))
        return tuple(model.report() for model in loaded if model)

    def _load_or_refuse(self, model_id: str) -> Model | None:
        """Load a model; None if it cannot be loaded: its images then fail with the reason."""
        try:
            model = self._load(model_id)
        except torch.AcceleratorError:
            raise
        except Exception as raised:  # noqa: BLE001 - the fence around one model of several
            error = _in_words(raised)
            log.warning("engine.unloadable", extra={"model": model_id, "reason": str(error)})
            self._engine.refuse_model(model_id, error)
            self._broken[model_id] = error
            self._tell([Unloadable(model=model_id, message=str(error))])
            return None
        self._broken.pop(model_id, None)
        return model

    def _load(self, model_id: str) -> Model:
        self._tell([Loading(model=model_id, fraction=0.0)])
        model = self._residency.load(model_id)
        # Most of the time is spent by now, whatever the model: what is left is the self-test.
        self._tell([Loading(model=model_id, fraction=0.8)])
        self._engine.add_model(model)
        model.report()  # tests the default size
        self._tell([Loading(model=model_id, fraction=1.0)])
        return model

    def _obey(self) -> None:
        """Run all commands that came; sleep on the pipe while there is nothing to do."""
        timeout_s = BEAT_EVERY_S if self._engine.idle else 0.0
        while not self._stopping and self._pipe.poll(timeout_s):
            timeout_s = 0.0
            match self._pipe.recv():
                case Submit(request):
                    self._prepare(request)
                    self._engine.submit(request)
                case Cancel(request_id):
                    self._engine.cancel(request_id)
                case Stop():
                    self._stopping = True
                case EngineConfig():
                    raise AssertionError("the configuration comes once, first")

    def _prepare(self, request: ImageRequest) -> None:
        """Load the model, if not in memory; the parent gets Loading events, and waits."""
        if self._residency.find(request.model) is None:
            self._load_or_refuse(request.model)
            self._told_preparing = None  # "loaded" ended the parent's patience: it is told again

    def _tell_of_preparing(self) -> None:
        """Send Loading events during a preparation, whose duration is not known before."""
        now = self._engine.preparing
        if now == self._told_preparing:
            return
        if self._told_preparing is not None:
            self._tell([Loading(model=self._told_preparing, fraction=1.0)])
        if now is not None:
            self._tell([Loading(model=now, fraction=0.9)])
        self._told_preparing = now

    def _room(self) -> int:
        return self._residency.room

    def _beat(self) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s < BEAT_EVERY_S:
            return
        self._told_s = now_s
        engine = self._engine
        beat = Beat(step_ms=engine.step_ms, live=engine.live, waiting=engine.waiting)
        self._tell([beat])

    def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            self._pipe.send(event)


def _in_words(raised: Exception) -> EngineError:
    """Copy an error without its frames, which would keep the loaded parts in memory."""
    error = as_engine_error(raised)
    return type(error)(str(error))


def main(fd: int) -> int:
    """Serve over the socket `fd` until Stop; return the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ctrl-C reaches the whole terminal: the control process drains first, then says Stop.
        signal.signal(number, signal.SIG_IGN)
    quiet()
    pipe: Pipe = Connection(fd)
    try:
        config = pipe.recv()
        assert isinstance(config, EngineConfig)
        torch.set_num_threads(config.threads)
        choose_device(config.device)
        EngineProcess(pipe, config).run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return 0  # the parent is gone
    except EngineError as error:
        pipe.send(Fatal(code=error.code, message=str(error)))
        return 3
    except Exception as error:  # the process edge: say why, then go
        log.exception("engine.crashed")
        pipe.send(Fatal(code="internal", message=f"{type(error).__name__}: {error}"))
        return 4
    return 0


def choose_device(name: str) -> None:
    """Make a device the default of CUDA calls, and choose kernels by rule, not by timing.

    Left at GPU 0, a worker for GPU 1 would hold half a gigabyte there, too, and wait for it.
    """
    device = pick_device(name)
    torch.backends.cudnn.benchmark = False  # the fastest by the clock is another one each time
    if device.type == "cuda" and ":" in name:
        torch.cuda.set_device(device)


def quiet() -> None:
    """Silence the libraries' progress bars and notices, which do not belong in a log."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # four lines each time that memory is measured
    warnings.filterwarnings("ignore", module="torchsde")  # a rounding notice at every step
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
