"""ControlNets for tiny networks: random, but not silent, in the vendor's own classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_flux import FluxControlNetModel
from diffusers.models.controlnets.controlnet_qwenimage import QwenImageControlNetModel
from diffusers.models.controlnets.controlnet_sd3 import SD3ControlNetModel
from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline
from diffusers.pipelines.controlnet.pipeline_controlnet_img2img import (
    StableDiffusionControlNetImg2ImgPipeline,
)
from diffusers.pipelines.controlnet.pipeline_controlnet_inpaint import (
    StableDiffusionControlNetInpaintPipeline,
)
from diffusers.pipelines.controlnet.pipeline_controlnet_inpaint_sd_xl import (
    StableDiffusionXLControlNetInpaintPipeline,
)
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl import (
    StableDiffusionXLControlNetPipeline,
)
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl_img2img import (
    StableDiffusionXLControlNetImg2ImgPipeline,
)
from diffusers.pipelines.controlnet_sd3.pipeline_stable_diffusion_3_controlnet import (
    StableDiffusion3ControlNetPipeline,
)
from diffusers.pipelines.flux.pipeline_flux_controlnet import FluxControlNetPipeline
from diffusers.pipelines.flux.pipeline_flux_controlnet_image_to_image import (
    FluxControlNetImg2ImgPipeline,
)
from diffusers.pipelines.flux.pipeline_flux_controlnet_inpainting import (
    FluxControlNetInpaintPipeline,
)
from diffusers.pipelines.qwenimage.pipeline_qwenimage_controlnet import (
    QwenImageControlNetPipeline,
)

from tests.engine.families import flux, qwen_image, sd3
from tests.engine.more_families import whole_sdxl
from tests.engine.tiny import loud, tiny_pipeline


def tiny_control(unet: Any) -> ControlNetModel:
    return loud(
        ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=(64, 64), load_weights_from_unet=True
        )
    )


def _of_unet(pipeline: Any) -> Any:
    return tiny_control(pipeline.unet)


def _flux(pipeline: Any) -> Any:
    sizes = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 32}
    return loud(
        FluxControlNetModel.from_transformer(
            pipeline.transformer,
            **sizes,
            num_attention_heads=2,
            load_weights_from_transformer=False,
        )
    )


def _sd3(pipeline: Any) -> Any:
    known = {k: v for k, v in pipeline.transformer.config.items() if not k.startswith("_")}
    return loud(SD3ControlNetModel.from_config({**known, "num_layers": 1}))


def _qwen(pipeline: Any) -> Any:
    return loud(
        QwenImageControlNetModel.from_transformer(
            pipeline.transformer, num_layers=1, attention_head_dim=32, num_attention_heads=2,
            load_weights_from_transformer=False,
        )
    )  # fmt: skip


@dataclass(frozen=True)
class Steered:
    """A family with ControlNets: its tiny pipeline, a network for it, the vendor's pipelines."""

    build: Callable[[], Any]
    control: Callable[[Any], Any]
    text: Any
    samplers: tuple[str, ...]
    image: Any = None  # the vendor's pipelines that begin with a picture, or repaint one
    mask: Any = None

    def vendor(self, pipeline: Any, control: Any, cls: Any) -> Any:
        """That class around the same modules."""
        more = {} if self.build is not tiny_pipeline else {"requires_safety_checker": False}
        known = set(cls.__init__.__code__.co_varnames)
        parts = {name: part for name, part in pipeline.components.items() if name in known}
        made = cls(**parts, **more, controlnet=control)
        made.set_progress_bar_config(disable=True)
        if "encode_prompt" in vars(pipeline):  # what stands for the text encoders
            made.encode_prompt = pipeline.encode_prompt
        return made


DIFFUSION = ("ddim", "euler_a", "dpmpp_2m")
FLOW = ("flow_euler", "flow_lcm", "flow_euler")

STEERED: dict[str, Steered] = {
    "sd": Steered(
        tiny_pipeline, _of_unet, StableDiffusionControlNetPipeline, DIFFUSION,
        StableDiffusionControlNetImg2ImgPipeline, StableDiffusionControlNetInpaintPipeline,
    ),
    "sdxl": Steered(
        whole_sdxl, _of_unet, StableDiffusionXLControlNetPipeline, DIFFUSION,
        StableDiffusionXLControlNetImg2ImgPipeline, StableDiffusionXLControlNetInpaintPipeline,
    ),
    "flux": Steered(
        flux, _flux, FluxControlNetPipeline, FLOW,
        FluxControlNetImg2ImgPipeline, FluxControlNetInpaintPipeline,
    ),
    "sd3": Steered(sd3, _sd3, StableDiffusion3ControlNetPipeline, FLOW),
    "qwen_image": Steered(qwen_image, _qwen, QwenImageControlNetPipeline, FLOW),
}  # fmt: skip
