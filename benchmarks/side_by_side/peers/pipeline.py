"""The pipeline of every peer: diffusers' own, plain; equal requests together, others in turn.

Run in a peer's environment: imports nothing of Printworks.
"""

import copy
import io
import os
import threading

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)

SCHEDULERS = {
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "ddim": DDIMScheduler,
    "unipc": UniPCMultistepScheduler,
}
GROUPED_BY = ("steps", "guidance", "sampler", "width", "height")


class Painter:
    """A diffusers pipeline, resident; `paint` makes several pictures."""

    def __init__(self):
        torch.set_num_threads(int(os.environ.get("THREADS", "2")))
        torch.set_grad_enabled(False)
        self.pipe = StableDiffusionPipeline.from_pretrained(
            os.environ["MODEL"], torch_dtype=torch.float32, safety_checker=None
        )
        self.pipe.set_progress_bar_config(disable=True)
        self.lock = threading.Lock()

    def paint(self, requests):
        """PNG bytes of each request. What has equal settings is one call of the pipeline."""
        groups = {}
        for index, asked in enumerate(requests):
            key = tuple(asked[name] for name in GROUPED_BY)
            groups.setdefault(key, []).append(index)
        made = [None] * len(requests)
        for indices in groups.values():
            for index, png in zip(indices, self._call([requests[i] for i in indices]), strict=True):
                made[index] = png
        return made

    def _call(self, alike):
        first = alike[0]
        pipe = self.with_sampler(first["sampler"])
        out = pipe(
            prompt=[asked["prompt"] for asked in alike],
            negative_prompt=[asked["negative_prompt"] for asked in alike],
            num_inference_steps=first["steps"],
            guidance_scale=first["guidance"],
            width=first["width"],
            height=first["height"],
            generator=[torch.Generator().manual_seed(asked["seed"]) for asked in alike],
        )
        return [self._png(image) for image in out.images]

    def with_sampler(self, name):
        """Return a pipeline on the same weights, with a scheduler of its own."""
        pipe = copy.copy(self.pipe)
        scheduler = SCHEDULERS[name].from_config(self.pipe.scheduler.config)
        pipe.register_modules(scheduler=scheduler)
        return pipe

    @staticmethod
    def _png(image):
        into = io.BytesIO()
        image.save(into, "PNG", compress_level=1)
        return into.getvalue()
