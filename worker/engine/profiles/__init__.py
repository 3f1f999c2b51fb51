"""The families, one small file each, and how one is found for a loaded pipeline."""

from __future__ import annotations

from importlib import import_module

from worker.engine.errors import ModelBroken
from worker.engine.profiles.aura_flow import AURA_FLOW
from worker.engine.profiles.base import Profile
from worker.engine.profiles.chroma import CHROMA
from worker.engine.profiles.cogview4 import COGVIEW4
from worker.engine.profiles.flux import FLUX
from worker.engine.profiles.flux2 import FLUX2
from worker.engine.profiles.flux2_klein import FLUX2_KLEIN
from worker.engine.profiles.lcm import LCM
from worker.engine.profiles.longcat_image import LONGCAT_IMAGE
from worker.engine.profiles.lumina2 import LUMINA2
from worker.engine.profiles.ovis_image import OVIS_IMAGE
from worker.engine.profiles.pixart import PIXART
from worker.engine.profiles.prx import PRX
from worker.engine.profiles.qwen_image import QWEN_IMAGE
from worker.engine.profiles.sana import SANA
from worker.engine.profiles.sd import STABLE_DIFFUSION
from worker.engine.profiles.sd3 import SD3
from worker.engine.profiles.sdxl import SDXL
from worker.engine.profiles.z_image import Z_IMAGE

# Of any pipeline that takes the word: else it would make another size than was asked for.
DEFAULT = Profile(name="auto", fixed={"use_resolution_binning": False})
PROFILES: tuple[Profile, ...] = (
    STABLE_DIFFUSION,
    SDXL,
    SD3,
    FLUX,
    PIXART,
    SANA,
    QWEN_IMAGE,
    Z_IMAGE,
    CHROMA,
    LUMINA2,
    COGVIEW4,
    AURA_FLOW,
    FLUX2,
    FLUX2_KLEIN,
    LCM,
    OVIS_IMAGE,
    PRX,
    LONGCAT_IMAGE,
)


def find_profile(family: str, pipeline_class: str) -> Profile:
    """Return the profile that a model entry names; `auto`: by the pipeline's class.

    `package.module:NAME` names a profile of your own: a family that is not ours, or (in the
    tests) one that breaks on purpose.
    """
    if ":" in family:
        return _imported(family)
    if family == "auto":
        return next((p for p in PROFILES if pipeline_class in p.pipelines), DEFAULT)
    found = next((p for p in PROFILES if p.name == family), None)
    if found is None:
        known = ", ".join(p.name for p in PROFILES)
        raise ModelBroken(f"no family {family!r}: use auto, {known}, or package.module:NAME")
    return found


def _imported(family: str) -> Profile:
    module, _, name = family.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ModelBroken(f"family {family!r} cannot be imported: {error}") from error
    if not isinstance(found, Profile):
        raise ModelBroken(f"family {family!r} is no Profile but {type(found).__name__}")
    return found
