"""Loading a model from where its entry says, and nothing else.

Owns the arguments of `from_pretrained`: safetensors only, a pinned revision, no code from the
repository, no network unless the entry is a hub repository. Knows no batch. Invariant: what is
loaded is what the entry names, or ModelBroken says why not.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from jobs.catalogue import ModelEntry
from worker.engine.errors import ModelBroken
from worker.engine.model import Model
from worker.engine.profiles import find_profile
from worker.messages import EngineConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(entry: ModelEntry, config: EngineConfig) -> Model:
    """The model behind gates, on its device. Raises ModelBroken."""
    started_s = time.perf_counter()
    catalogue = config.catalogue
    folder = catalogue.path_of(entry)
    if folder is None and entry.revision is None:
        raise ModelBroken(
            f"model {entry.id!r}: {entry.source!r} is no folder below {catalogue.folder}, "
            "and a hub repository needs a pinned `revision`"
        )
    source = str(folder) if folder else entry.source
    pipeline = _pipeline(entry, source)
    profile = find_profile(entry.family, type(pipeline).__name__)
    model = Model(
        entry,
        pipeline.to(pick_device(config.device)),
        profile,
        folder=folder,
        state_dir=config.state_dir,
        self_test=config.self_test,
    )
    model.load_s = time.perf_counter() - started_s
    return model


def _pipeline(entry: ModelEntry, source: str) -> Any:
    # The class decides the profile, the profile what to load: so the index is read first.
    index = _read(DiffusionPipeline.load_config, source, revision=entry.revision)
    profile = find_profile(entry.family, str(index.get("_class_name")))
    return _read(
        DiffusionPipeline.from_pretrained,
        source,
        revision=entry.revision,
        variant=entry.variant,
        dtype=DTYPES[entry.dtype],
        use_safetensors=True,  # None, the default, falls back to pickle files
        trust_remote_code=False,
        **profile.load,
    )


def _read(function: Any, source: str, **arguments: Any) -> Any:
    try:
        return function(source, **arguments)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelBroken(f"{source}: {error}") from error


def pick_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, or the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
