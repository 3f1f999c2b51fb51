"""Training of the UNet with the text encoder: one objective, one loop, one state file.

Prediction is v; the loss of the nearly clean is damped (min-SNR, gamma 5), that of the things is
raised: they are a fifth of the picture and nine tenths of what the caption says. The raise falls to
nothing with the learning rate, as it makes things a little too large. A tenth of the captions is
empty, for guidance. Weights that are used are an exponential mean of those that are trained.

The text encoder learns to read first, from captions alone, and is asked what they say beside the
noise, too (reading.py says why).
Letters: B rows, C H W latents, L tokens, D text width.
"""

import csv
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from models.demo.recipe.captions import caption
from models.demo.recipe.dataset import Cache, labels_of
from models.demo.recipe.lanes import Lanes
from models.demo.recipe.network import BETAS, TRAIN_STEPS, build_text_encoder, build_unet
from models.demo.recipe.reading import Reader, learn_to_read
from models.demo.recipe.tokenizer import MAX_TOKENS, build_tokenizer

GAMMA: Final = 5.0
READER_WEIGHT: Final = 0.1
NOISY_POWER: Final = 1.5  # above 1: more of the noisiest steps, where it is decided what is shown
THING_WEIGHT: Final = 3.0  # of a cell full of a thing, over a cell of ground
THING_CELLS: Final = 11  # that a thing of middle size fills; a small one fills 5, a large one 20
EMPTY_SHARE: Final = 0.1
LEARNING_RATE: Final = 7e-4
WARMUP_STEPS: Final = 200
COOLDOWN: Final = 0.35  # the last part of a run's time, in which the learning rate falls to zero
EMA_DECAY: Final = 0.9985
ALL_PAIRS_AFTER: Final = 250_000  # pictures: words first, then which word belongs to which thing


class Denoiser(nn.Module):
    """The networks that are trained together; the reader is not shipped."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = build_tokenizer()
        self.unet = build_unet()
        self.text_encoder = build_text_encoder(self.tokenizer)
        self.reader = Reader(self.unet.config.block_out_channels[0] * 4)

    def forward(
        self, noisy: Tensor, steps: Tensor, tokens: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the predicted v (B, C, H, W), and the reader's loss."""
        text = self.text_encoder(tokens)[0]  # (B, L, D)
        misread = self.reader(self.unet.add_embedding(text), labels)
        return self.unet(noisy, steps, text, return_dict=False)[0], misread

    def tokens(self, captions: list[str]) -> Tensor:
        return self.tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        ).input_ids


def weights(cover: Tensor, labels: Tensor, raised: float) -> Tensor:
    """Return each cell's loss weight (B, 1, H, W): ground 1, middle-sized things 1 + raised.

    A small thing's cells weigh more, a large one's less, so that each is worth the same: of eleven
    wrong pictures nine had small things, which have a quarter of a large one's cells.
    """
    things = 1 + (labels[:, 4] >= 0).float()
    cells = cover.sum((1, 2)) / things
    evened = (THING_CELLS / cells.clamp(min=1)).clamp(0.5, 2.5)
    return (1 + raised * evened[:, None, None] * cover)[:, None]


@dataclass(frozen=True, slots=True)
class Chunk:
    """The pictures and captions of one replica in one step."""

    latents: Tensor  # (B, C, H, W)
    weight: Tensor  # (B, 1, H, W): of each cell in the loss
    noise: Tensor  # (B, C, H, W)
    steps: Tensor  # (B,)
    tokens: Tensor  # (B, L)
    labels: Tensor  # (B, 7): what the caption says, -1 where it says nothing


class Objective:
    """The weighted v loss of a chunk."""

    def __init__(self, device: str) -> None:
        schedule = DDPMScheduler(num_train_timesteps=TRAIN_STEPS, **BETAS)
        self._alphas = schedule.alphas_cumprod.to(device)
        # Half the time on a GPU; a CPU without bf16 units only emulates it.
        on_gpu = device.startswith("cuda")
        self._precision = torch.autocast("cuda", torch.bfloat16, enabled=on_gpu)

    def __call__(self, model: nn.Module, chunk: Chunk) -> Tensor:
        alpha = self._alphas[chunk.steps][:, None, None, None]
        signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
        noisy = signal * chunk.latents + sigma * chunk.noise
        target = signal * chunk.noise - sigma * chunk.latents
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with self._precision:
            guess, misread = model(noisy, chunk.steps, chunk.tokens, chunk.labels)
        weight = torch.clamp(GAMMA * (1 - alpha) / alpha, max=1.0)
        loss = (weight * chunk.weight * (guess.float() - target) ** 2).mean()
        return loss + READER_WEIGHT * misread.float()


class Training:
    """The state of a run, and its loop."""

    def __init__(self, cache: Cache, state: Path, *, device: str, lanes: int, batch: int) -> None:
        torch.manual_seed(0)
        self.device, self.state, self.cache = device, state, cache
        self.chunks, self.rows = (lanes, batch // lanes)
        self.model = Denoiser().to(device, memory_format=torch.channels_last).train()
        self.ema = [p.detach().clone() for p in self.model.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.steps_done = self.pictures_seen = self.resumed_at = 0
        self.rng = random.Random()
        self.lanes = Lanes(self.model, Objective(device), count=lanes)

    def run(
        self, minutes: float, *, every_minutes: float, on_snapshot: Callable[["Training"], None]
    ) -> None:
        """Train for so long; the state is saved however it ends."""
        try:
            self._loop(minutes, every_minutes, on_snapshot)
        finally:
            self.save()
        on_snapshot(self)

    def _loop(
        self, minutes: float, every_minutes: float, on_snapshot: Callable[["Training"], None]
    ) -> None:
        started = last = time.monotonic()
        mean = 0.0
        while (spent := (time.monotonic() - started) / (60 * minutes)) < 1:
            loss = self._step(spent)
            mean = loss if mean == 0 else 0.98 * mean + 0.02 * loss
            if self.steps_done % 25 == 0:
                self._report(mean, spent, time.monotonic() - started)
                self.cache.refresh()
            if time.monotonic() - last > every_minutes * 60:
                self.save()
                on_snapshot(self)
                last = time.monotonic()

    def _step(self, spent: float) -> float:
        warm = min(1.0, (self.steps_done + 1) / WARMUP_STEPS)
        rate = LEARNING_RATE * warm * min(1.0, (1 - spent) / COOLDOWN)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Raised as long as the learning rate is at its height.
        raised = (THING_WEIGHT - 1) * min(1.0, (1 - spent) / COOLDOWN)
        loss = self.lanes.step([self._chunk(raised) for _ in range(self.chunks)])
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self._average()
        self.steps_done += 1
        self.pictures_seen += self.chunks * self.rows
        return loss

    def _chunk(self, raised: float) -> Chunk:
        latents, cover, scenes = self.cache.batch(
            self.rows, self.rng, pairs=min(1.0, self.pictures_seen / ALL_PAIRS_AFTER)
        )
        captions = ["" if self.rng.random() < EMPTY_SHARE else caption(s, self.rng) for s in scenes]
        labels = torch.tensor([labels_of(scene) for scene in scenes])
        weight = weights(cover, labels, raised)
        said = torch.tensor([bool(text) for text in captions])
        labels = labels.masked_fill(~said[:, None], -1)
        # One step from each of B parts of the schedule: the loss is far less noisy.
        share = (torch.arange(self.rows) + torch.rand(self.rows)) / self.rows
        steps = ((1 - share**NOISY_POWER) * TRAIN_STEPS).long().clamp(max=TRAIN_STEPS - 1)
        return Chunk(
            latents.to(self.device),
            weight.to(self.device),
            torch.randn(latents.shape, device=self.device),
            steps.to(self.device),
            self.model.tokens(captions).to(self.device),
            labels.to(self.device),
        )

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(EMA_DECAY, (1 + self.steps_done) / (10 + self.steps_done))
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.model.parameters()], 1 - decay)

    def _report(self, loss: float, spent: float, seconds: float) -> None:
        rate = (self.pictures_seen - self.resumed_at) / max(seconds, 1)
        row = [self.steps_done, self.pictures_seen, round(loss, 5), round(spent, 4)]
        with (self.state / "loss.csv").open("a", newline="") as file:
            csv.writer(file).writerow(row)
        print(
            f"step {row[0]}  pictures {row[1]}  loss {row[2]}  time {row[3]:.0%}  {rate:.0f}/s",
            flush=True,
        )

    def averaged(self) -> Denoiser:
        """Return a copy with the averaged weights, on the CPU, ready for inference."""
        copy = Denoiser().eval()
        with torch.no_grad():
            for mine, mean in zip(copy.parameters(), self.ema, strict=True):
                mine.copy_(mean)
        return copy

    def read_first(self, *, anchored: bool) -> None:
        """Teach the text encoder what captions say, before the first picture."""
        report = partial(print, flush=True)
        learn_to_read(self.model, self.rng, anchored=anchored, report=report)
        self.ema = [p.detach().clone() for p in self.model.parameters()]

    def save(self) -> None:
        fresh = self.state / "denoiser.part"
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "steps_done": self.steps_done,
            "pictures_seen": self.pictures_seen,
        }
        torch.save(state, fresh)
        fresh.rename(self.state / "denoiser.pt")

    @torch.no_grad()
    def start_from(self, pipeline: StableDiffusionPipeline) -> None:
        """Begin with exported weights; how many pictures made them is not known."""
        self.model.unet.load_state_dict(pipeline.unet.state_dict())
        self.model.text_encoder.load_state_dict(pipeline.text_encoder.state_dict())
        self.ema = [p.detach().clone() for p in self.model.parameters()]
        self.pictures_seen = self.resumed_at = ALL_PAIRS_AFTER

    def resume(self) -> bool:
        """Go on from this folder's last state, if it has one."""
        path = self.state / "denoiser.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.ema = [p.to(self.device) for p in state["ema"]]
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps_done = state["steps_done"]
        self.pictures_seen = self.resumed_at = state["pictures_seen"]
        return True
