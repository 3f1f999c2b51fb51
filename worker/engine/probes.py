"""Real model calls of every kind of request, for the self-test.

Owns which requests stand for a kind (text, picture, mask, ControlNet, LoRA) and how many of their
calls are looked at. Knows no batch. Invariant: no client's picture or prompt takes part.

Why not one call of a text request for all: a picture to begin with becomes latents that lie
otherwise in memory, and for those a convolution takes other kernels. And not the first call only:
what a sampler adds to them decides how they lie at the next.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch

from jobs.contract.model_file import ModelEntry
from jobs.contract.samplers import SAMPLERS
from worker.engine.errors import Dropped, PipelineFailed
from worker.engine.gates import Kind
from worker.engine.image_call import ImageCall
from worker.engine.profiles.base import Profile
from worker.engine.signatures import Packed, take_apart
from worker.messages import Control, ImageRequest, Pixels

MOST_CALLS = 4  # of one network: by then what is called has had its form twice
UNGUIDED = 1.0  # a row less, and in a few pipelines not a copy but the picture's own tensor
BEGUN = ("image", "mask")  # what a request may begin with


def begun(request: ImageRequest) -> str:
    """Return the kind of input that a request begins with, as a fingerprint word; "": text only."""
    if request.mask is not None:
        return " mask"
    return " image" if request.image is not None else ""


def stand_ins(
    entry: ModelEntry, width: int, height: int, like: ImageRequest | None, samplers: Sequence[str]
) -> list[ImageRequest]:
    """Return requests of the kind of `like` (None: text) at that size in px, guided and not."""
    kind = begun(like).strip() if like else ""
    control = like.control if like else None
    sampler = entry.defaults.sampler
    if kind and not SAMPLERS[sampler].from_image:
        sampler = next((name for name in samplers if SAMPLERS[name].from_image), sampler)
    return [
        ImageRequest(
            id="probe",
            model=entry.id,
            prompt="a red apple on a wooden table",
            width=width,
            height=height,
            steps=4,
            guidance_scale=guidance_scale,
            seed=0,
            sampler=sampler,
            image=_grey(width, height) if kind else None,
            mask=_half(width, height) if kind == "mask" else None,
            control=_blank(control, width, height) if control else None,
            # Files are tested, not scales; at 0 an adapter's own products would not show.
            loras=tuple(replace(lora, scale=1.0) for lora in like.loras) if like else (),
        )
        for guidance_scale in (max(2.0, entry.defaults.guidance_scale), UNGUIDED)
    ]


def example(entry: ModelEntry, kind: str) -> ImageRequest:
    """Return a request of the model's default size that begins with that kind of picture."""
    width, height = entry.defaults.width, entry.defaults.height
    text = stand_ins(entry, width, height, None, ())[0]
    mask = _half(width, height) if kind == "mask" else None
    return replace(text, image=_grey(width, height), mask=mask)


@torch.no_grad()
def first_calls(calls: Sequence[ImageCall], profile: Profile) -> list[Packed]:
    """Return a call of every form of each network, the first image's denoiser's last.

    Runs each image up to where nothing new comes, and drops it. Raises what the first one raised.
    """
    found: dict[tuple[Hashable, str], Packed] = {}
    own = _looked_at(calls[0], profile)
    for seen in (own, *(_looked_at(call, profile) for call in calls[1:])):
        new: dict[tuple[Hashable, str], Packed] = {}
        for packed in seen:
            key = packed.gate.number, packed.form.pattern
            if key not in found:
                new.setdefault(key, packed)
        found = {**new, **found}
    if not own:
        raise calls[0].error or PipelineFailed("the pipeline never called its denoiser")
    return sorted(found.values(), key=lambda packed: packed.gate.number == own[-1].gate.number)


def _looked_at(call: ImageCall, profile: Profile) -> list[Packed]:
    """Run an image until each network was called twice in one form; return its calls."""
    forms: dict[Hashable, list[str]] = {}
    found: list[Packed] = []
    call.start(0.0)
    while call.parked and call.parked.gate.kind is not Kind.DECODE:
        if call.parked.gate.kind is Kind.ROWS:
            packed = take_apart(call.parked, profile, call.memo)
            found.append(packed)
            forms.setdefault(packed.gate.number, []).append(packed.form.pattern)
            if all(map(_covered, forms.values())):
                break
        call.answer(call.parked.gate.run(**call.parked.arguments), batch_size=1)
    call.throw(Dropped())
    return found


def _covered(forms: Sequence[str]) -> bool:
    return len(forms) >= MOST_CALLS or (len(forms) > 1 and forms[-1] == forms[-2])


def _grey(width: int, height: int) -> Pixels:
    return Pixels(width=width, height=height, data=bytes([128]) * (width * height * 3))


def _half(width: int, height: int) -> Pixels:
    """White in its right half."""
    row = bytes(width // 2 * 3) + b"\xff" * ((width - width // 2) * 3)
    return Pixels(width=width, height=height, data=row * height)


def _blank(control: Control, width: int, height: int) -> Control:
    """Return the same ControlNet with a grey control image."""
    return Control(name=control.name, picture=_grey(width, height))
