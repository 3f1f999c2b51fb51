"""The families, one small file each, and how one is found for a loaded pipeline."""

from __future__ import annotations

from importlib import import_module

from worker.engine.errors import ModelBroken
from worker.engine.profiles.base import Profile
from worker.engine.profiles.sd import STABLE_DIFFUSION

DEFAULT = Profile(name="auto")
PROFILES: tuple[Profile, ...] = (STABLE_DIFFUSION,)


def find_profile(family: str, pipeline_class: str) -> Profile:
    """The profile a model entry names; `auto` asks the pipeline's class.

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
        raise ModelBroken(f"no family {family!r}; known: auto, {known}, or package.module:NAME")
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
