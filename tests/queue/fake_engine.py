"""An engine process without torch: it speaks the whole protocol, and dies where it is told to.

A prompt says what is to go wrong: "poison" kills the process at its third step, "fail" ends its
image, "flaky" fails it with an error worth a retry, "hang" stops the loop. Anything else is made:
pixels that depend on the seed alone. `STEP_S` is the time of one step of the whole batch.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections import deque
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import Any

from worker import messages as m
from worker.engine_link import EngineLink

ROOT = Path(__file__).resolve().parents[2]


class FakeEngine:
    """The loop: at most `batch` images at a time, one step for all, then the next."""

    def __init__(self, pipe: Any, *, step_s: float, batch: int) -> None:
        self.pipe, self.step_s, self.batch = pipe, step_s, batch
        self.waiting: deque[m.ImageRequest] = deque()
        self.live: dict[str, list[Any]] = {}  # request, calls done, images in them
        self.beat_at = 0.0

    def run(self) -> None:
        config: m.EngineConfig = self.pipe.recv()
        reports = tuple(
            m.ModelReport(
                model=entry.id,
                load_s=0.0,
                reproducibility="exact",
                lane_widths=(8,),
                samplers=entry.legal_samplers,
                fingerprint="engine=fake",
                image_steps_per_s=self.batch / self.step_s if self.step_s else None,
            )
            for entry in config.catalogue.models
        )
        self.pipe.send(m.Ready(models=reports))
        while self.hear():
            self.join()
            self.step()

    def hear(self) -> bool:
        idle = not (self.live or self.waiting)
        while wait([self.pipe], 0.2 if idle else 0):
            try:
                command = self.pipe.recv()
            except (EOFError, OSError):
                return False
            idle = False
            match command:
                case m.Submit(request=request):
                    self.waiting.append(request)
                case m.Cancel(id=id_):
                    self.drop(id_)
                case m.Stop():
                    return False
        if time.monotonic() - self.beat_at > 0.5:
            self.beat_at = time.monotonic()
            self.pipe.send(
                m.Beat(step_ms=self.step_s * 1e3, live=len(self.live), waiting=len(self.waiting))
            )
        return True

    def drop(self, id_: str) -> None:
        known = id_ in self.live or any(r.id == id_ for r in self.waiting)
        _, calls, _ = self.live.pop(id_, (None, 0, 0))
        self.waiting = deque(r for r in self.waiting if r.id != id_)
        if known:
            self.pipe.send(m.Canceled(id=id_, calls=calls))

    def join(self) -> None:
        while self.waiting and len(self.live) < self.batch:
            request = self.waiting.popleft()
            self.live[request.id] = [request, 0, 0]
            self.pipe.send(m.Started(id=request.id))

    def step(self) -> None:
        if not self.live:
            return
        time.sleep(self.step_s)  # noqa: TID251 - this is the work
        together = len(self.live)
        for id_, entry in list(self.live.items()):
            entry[1] += 1
            entry[2] += together
            request, calls, company = entry
            if not self.goes_wrong(request, calls):
                self.tell(request, calls, company / calls)
            if calls >= request.steps:
                self.live.pop(id_, None)

    def goes_wrong(self, request: m.ImageRequest, calls: int) -> bool:
        if "poison" in request.prompt and calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in request.prompt and calls == 3:
            time.sleep(3600)  # noqa: TID251 - a kernel that never returns
        late = request.deadline_s is not None and time.monotonic() > request.deadline_s
        if not late and request.prompt not in {"fail", "flaky"}:
            return False
        code = "deadline_exceeded" if late else "bad_latents"
        self.live.pop(request.id, None)
        self.pipe.send(
            m.Failed(
                id=request.id, code=code, message="told to", retryable=request.prompt == "flaky"
            )
        )
        return True

    def tell(self, request: m.ImageRequest, calls: int, company: float) -> None:
        if calls < request.steps:
            self.pipe.send(
                m.Progress(
                    id=request.id,
                    calls=calls,
                    expected_calls=request.steps,
                    steps=request.steps,
                    stage="denoising",
                )
            )
            if request.preview_every_s is not None:
                grey = m.Pixels(width=16, height=8, data=bytes([calls]) * (16 * 8 * 3))
                self.pipe.send(m.Preview(id=request.id, calls=calls, pixels=grey))
            return
        data = Random(request.seed).randbytes(request.width * request.height * 3)
        self.pipe.send(
            m.Finished(
                id=request.id,
                pixels=m.Pixels(width=request.width, height=request.height, data=data),
                encode_ms=0.0,
                denoise_ms=calls * self.step_s * 1e3,
                decode_ms=0.0,
                batch_size_mean=company,
                calls=calls,
                fingerprint="engine=fake",
                reproducibility="exact",
            )
        )


def fake_link(
    config: m.EngineConfig, *, step_s: float = 0.005, batch: int = 8, **options: Any
) -> EngineLink:
    """The real link, keeping a fake engine alive."""
    program = (sys.executable, str(Path(__file__)), str(step_s), str(batch))
    return EngineLink(config, program, **options)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    end = Connection(socket.socket(fileno=int(sys.argv[3])).detach())
    FakeEngine(end, step_s=float(sys.argv[1]), batch=int(sys.argv[2])).run()
