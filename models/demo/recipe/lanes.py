"""Gradients by several single-threaded replicas at once: data parallelism inside one process.

On a shared CPU one process with two OpenMP threads waits at every operation for whichever thread
was descheduled (5 pictures/s); two replicas that share their weights and meet once a step do not
(2 x 50). On a GPU there is one lane, and this file adds nothing.
"""

import copy
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Chunk = TypeVar("Chunk")


class Lanes(Generic[Chunk]):
    """`step(chunks)` adds up the gradients of `loss(model, chunk)` in the first replica."""

    def __init__(
        self, model: nn.Module, loss: Callable[[nn.Module, Chunk], Tensor], *, count: int
    ) -> None:
        self._loss = loss
        self.replicas = [model] + [_sharing(model) for _ in range(count - 1)]
        self._pool = ThreadPoolExecutor(count)

    def step(self, chunks: list[Chunk]) -> float:
        """Return the mean loss; the gradients are those of the mean over chunks."""
        waiting: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
        for chunk in chunks:
            waiting.put(chunk)
        for replica in self.replicas:
            replica.zero_grad(set_to_none=True)

        losses = self._pool.map(lambda replica: self._drain(replica, waiting), self.replicas)
        total = sum(losses)
        self._gather(len(chunks))
        return total / len(chunks)

    def _drain(self, replica: nn.Module, waiting: "queue.SimpleQueue[Chunk]") -> float:
        total = 0.0
        while True:
            try:
                chunk = waiting.get_nowait()
            except queue.Empty:
                return total
            loss = self._loss(replica, chunk)
            loss.backward()
            total += loss.item()

    def _gather(self, chunks: int) -> None:
        for parameters in zip(*(r.parameters() for r in self.replicas), strict=True):
            grads = [p.grad for p in parameters if p.grad is not None]
            if grads:
                total = grads[0]
                for grad in grads[1:]:
                    total += grad
                parameters[0].grad = total.div_(chunks)


def _sharing(model: nn.Module) -> nn.Module:
    replica = copy.deepcopy(model)
    with torch.no_grad():
        for mine, shared in zip(replica.parameters(), model.parameters(), strict=True):
            mine.data = shared.data
    return replica
