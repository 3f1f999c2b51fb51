"""A fleet in virtual time on the real scripts: workers, their engines and clients are events.

Owns the virtual clock and the order of events. Every claim, beat, finish, reap and read is the
service's own Lua on a real server; only the script's one `clock()` reads the virtual time, so that
leases, ages and turns are as long as in service while hours pass in minutes. An engine steps eight
images together and costs nothing. The rhythm of asking is that of worker/control/claims.py.
"""

from __future__ import annotations

import heapq
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha1
from itertools import count
from random import Random
from typing import Any, TypeVar

from jobs.contract.reports import ModelPace, WorkerReport
from jobs.store import keys
from jobs.store.job_store import JobStore
from jobs.store.script_folder import Script
from jobs.store.scripts import Call, client_calls, worker_calls
from jobs.store.scripts.worker_calls import LEASE_S, Claimed, ClaimRules, Ending
from worker.control.claims import AGED_EVERY, AGED_S, ASK_S, IDLE_ASK_S

T = TypeVar("T")
NOW = "pw:probe"  # where the scripts find the virtual time, s; a key that the product has anyhow
REAL_CLOCK = "local t = redis.call('TIME')"
VIRTUAL_CLOCK = f"local at = redis.call('GET', '{NOW}'); local t = {{math.floor(at), at % 1 * 1e6}}"
BEGAN_S = 1_800_000_000.0
MOST_WAITING = 500
LINES = keys.queue_names("demo")
SLOTS, BATCH, STEP_S = 12, 8, 0.1  # a batch of eight, 30 steps of 0.1 s: 2.7 jobs/s a GPU
BEAT_S, REAP_S, TELL_S = 3.0, 1.0, 0.5
READS = 3  # a client's reads of a job: after the POST, in the middle, and of the end
DONE = Ending(word="succeeded", rq_status="finished", result={"type": 1}, fields={"x_images": "[]"})


class VirtualStore(JobStore):
    """The store, with the scripts' clock set by hand, and its calls counted by name.

    What needs no answer at once goes out with the next that does, in its order and with its own
    virtual time: a round trip each would measure how two processes take turns on a busy machine.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.server: Any = self.redis
        self.now_s = BEGAN_S
        self.calls: Counter[str] = Counter()
        self._waiting: list[tuple[float, Call[Any], Callable[[Any], None]]] = []
        self._known: set[str] = set()

    def defer(self, call: Call[T], heard: Callable[[T], None] = lambda _: None) -> None:
        """Run the call later, at the virtual time of now, and pass its answer on."""
        self._waiting.append((self.now_s, call, heard))
        if len(self._waiting) >= MOST_WAITING:
            self.flush()

    def run(self, call: Call[T]) -> T:
        answers: list[T] = []
        self.defer(call, answers.append)
        self.flush()
        return answers[0]

    def any_waits(self) -> bool:
        """BatchWorker.any_waits."""
        self.flush()
        self.calls["exists"] += 1
        return bool(self.server.exists(*(keys.rq_key("queue", q) for q in LINES)))

    def flush(self) -> None:
        """Run all that waits."""
        waiting, self._waiting = self._waiting, []
        for _, call, _ in waiting:
            self._load(call.script)
        if not waiting:
            return
        with self.redis.pipeline(transaction=False) as pipeline:
            at_s = 0.0
            for now_s, call, _ in waiting:
                if now_s != at_s:
                    pipeline.set(NOW, f"{now_s:.6f}")
                    at_s = now_s
                sha = virtual(call.script).sha
                pipeline.execute_command("EVALSHA", sha, len(call.keys), *call.keys, *call.args)
            said = [x for x in pipeline.execute() if x is not True]
        for (_, call, heard), reply in zip(waiting, said, strict=True):
            self.calls[call.script.name] += 1
            heard(call.parse(reply))

    def _load(self, script: Script) -> None:
        if script.name not in self._known:
            self.server.script_load(virtual(script).text)
            self._known.add(script.name)


@cache
def virtual(script: Script) -> Script:
    """Return the same script with the virtual clock."""
    if REAL_CLOCK not in script.text:
        return script
    text = script.text.replace(REAL_CLOCK, VIRTUAL_CLOCK)
    return Script(script.name, text, sha1(text.encode()).hexdigest())


@dataclass
class Worker:
    """The jobs of a simulated worker: those in the engine's batch, and those behind it."""

    name: str
    alive: bool = True
    held: dict[str, Claimed] = field(default_factory=dict[str, Claimed])
    stepping: int = 0
    behind: list[Claimed] = field(default_factory=list[Claimed])
    ask_at_s: float = 0.0
    since_aged: int = 0
    quiet: bool = False


@dataclass(order=True)
class Event:
    """Something that happens at a virtual time."""

    at_s: float
    order: int
    what: Callable[[], None] = field(compare=False)


class World:
    """Virtual time, and everybody who acts in it."""

    def __init__(self, store: VirtualStore, *, seed: int) -> None:
        self.store = store
        self.chance = Random(seed)
        self.workers: list[Worker] = []
        self.done: dict[str, tuple[float, float]] = {}  # job: queued for, s; ended at
        self.started: dict[str, float] = {}  # job: its first start
        self.reaped_at: list[float] = []
        self.on_done: Callable[[Claimed], None] = lambda _: None
        self._events: list[Event] = []
        self._orders = count()

    @property
    def now_s(self) -> float:
        return self.store.now_s

    def later(self, delay_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, Event(self.now_s + delay_s, next(self._orders), what))

    def run(self, seconds: float) -> None:
        """Let so much virtual time pass."""
        until = self.now_s + seconds
        while self._events and self._events[0].at_s <= until:
            event = heapq.heappop(self._events)
            self.store.now_s = event.at_s
            event.what()
        self.store.now_s = until
        self.store.flush()

    def clear(self) -> None:
        self._events.clear()
        self.workers.clear()

    # --- workers

    def add_workers(self, n: int) -> None:
        for k in range(n):
            worker = Worker(f"w{len(self.workers)}-{secrets.token_hex(4)}")
            self.workers.append(worker)
            self.later(self.chance.uniform(0, BEAT_S), lambda w=worker: self.beat(w))
            self.later(self.chance.uniform(0, REAP_S), lambda w=worker: self.reap(w))
            self.later(self.chance.uniform(0, IDLE_ASK_S) + k * 1e-6, lambda w=worker: self.ask(w))
            self.later(self.chance.uniform(0, TELL_S), lambda w=worker: self.tell(w))

    def ask(self, worker: Worker) -> None:
        """As Claiming.ask: while there is room, 20 ms after a gain and 80 ms after none."""
        if not worker.alive:
            return
        room = SLOTS - len(worker.held)
        if room <= 0:
            worker.ask_at_s = 0.0  # asks again when a place is free
            return
        if worker.quiet and not self.store.any_waits():
            worker.ask_at_s = self.now_s + IDLE_ASK_S
            self.later(IDLE_ASK_S, lambda: self.ask(worker))
            return
        aged = worker.since_aged >= AGED_EVERY - 1
        rules = ClaimRules(
            images=room,
            running=len(worker.held),
            size_classes=frozenset(_class(c) for c in worker.held.values()),
            aged_first_s=AGED_S if aged else None,
        )
        claimed = self.store.run(
            worker_calls.claim(
                worker.name,
                rules,
                queues=LINES,
                execution_ids=[secrets.token_hex(16) for _ in range(room)],
            )
        )
        worker.quiet = not claimed
        worker.since_aged = 0 if aged and claimed else worker.since_aged + len(claimed)
        for one in claimed:
            worker.held[one.lease.execution_id] = one
            self.started.setdefault(one.lease.job_id, self.now_s)
            worker.behind.append(one)
        self.fill(worker)
        worker.ask_at_s = self.now_s + (ASK_S if claimed else IDLE_ASK_S)
        self.later(worker.ask_at_s - self.now_s, lambda: self.ask(worker))

    def fill(self, worker: Worker) -> None:
        while worker.behind and worker.stepping < BATCH:
            one = worker.behind.pop(0)
            worker.stepping += 1
            steps = int(self.chance.uniform(10, 50))
            self.later(steps * STEP_S, lambda c=one: self.finish(worker, c))

    def finish(self, worker: Worker, claimed: Claimed) -> None:
        if not worker.alive:
            return
        worker.stepping -= 1
        del worker.held[claimed.lease.execution_id]
        ended_s = self.now_s
        call = worker_calls.finish(worker.name, claimed.lease, DONE)
        self.store.defer(call, lambda became: self.ended(claimed, became, ended_s))
        for _ in range(READS):
            self.read(claimed)
        self.on_done(claimed)
        self.fill(worker)
        if worker.ask_at_s < self.now_s:
            worker.ask_at_s = self.now_s
            self.later(0.0, lambda: self.ask(worker))

    def ended(self, claimed: Claimed, became: str, ended_s: float) -> None:
        if became == "ok":
            waited_s = self.started[claimed.lease.job_id] - float(claimed.fields["x_enq"])
            self.done[claimed.lease.job_id] = (waited_s, ended_s)

    def read(self, claimed: Claimed) -> None:
        tenant = claimed.fields["x_tenant"].decode()
        self.store.defer(client_calls.read(claimed.lease.job_id, tenant=tenant))

    def beat(self, worker: Worker) -> None:
        if not worker.alive:
            return
        leases = [c.lease for c in worker.held.values()]
        report = _report(worker)
        self.store.defer(worker_calls.beat(report, leases, worker_ttl_s=60, lease_s=LEASE_S))
        self.later(BEAT_S, lambda: self.beat(worker))

    def tell(self, worker: Worker) -> None:
        if not worker.alive:
            return
        if worker.held:
            told = [(c.lease, "denoising", 1, 30) for c in worker.held.values()]
            self.store.defer(worker_calls.progress(told))
        self.later(TELL_S, lambda: self.tell(worker))

    def reap(self, worker: Worker) -> None:
        if not worker.alive:
            return
        now_s = self.now_s
        call = worker_calls.reap(LINES, lease_s=0)
        self.store.defer(call, lambda back: self.reaped_at.extend([now_s] * len(back)))
        self.store.defer(worker_calls.expire())
        self.later(REAP_S, lambda: self.reap(worker))

    def kill(self, workers: list[Worker]) -> int:
        """Kill workers at once; return the number of jobs that they held."""
        for worker in workers:
            worker.alive = False
        return sum(len(w.held) for w in workers)


def _class(claimed: Claimed) -> str:
    return claimed.fields["x_class"].decode()


def _report(worker: Worker) -> WorkerReport:
    pace = ModelPace(
        model="demo",
        cost_per_s=2.0,
        running_cost=5.0,
        reproducibility="exact",
        fingerprint="simulated",
        image_steps_per_s=None,
    )
    return WorkerReport(
        name=worker.name, host="h", pid=1, engine_ready=True, draining=False,
        running=len(worker.held), images=len(worker.held), slots=SLOTS, step_ms=50.0,
        models=(pace,),
    )  # fmt: skip
