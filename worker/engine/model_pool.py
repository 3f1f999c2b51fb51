"""The models in memory: load one from its entry's source, unload the least recently used.

Owns the arguments of `from_pretrained` (safetensors only, a pinned revision, no code from the
repository, no network unless the entry is a hub repository) and the choice of a model to
unload when memory is short: the least recently used, never one that is resident or busy.
Knows no batch. Invariants: the loaded files are those that the entry names, or ModelBroken says
why not; an unloaded model is out of memory before the next is loaded.
"""

from __future__ import annotations

import gc
import logging
import os
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.models.auto_model import AutoModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub import snapshot_download

from jobs.contract.model_file import Catalogue, ModelEntry, NetworkSource
from worker.engine.accelerations import apply, quantization
from worker.engine.errors import DeviceMemoryFull, ModelBroken
from worker.engine.memory import ran_out
from worker.engine.model import Extras, Model
from worker.engine.model_files import files_of, memory_of, stamp_of
from worker.engine.profiles import find_profile
from worker.engine.profiles.base import Profile
from worker.messages import EngineConfig

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Residency:
    """The models in memory. `busy` returns whether a model has images under way."""

    def __init__(
        self,
        config: EngineConfig,
        busy: Callable[[str], bool],
        *,
        leave: Callable[[str], None] = lambda _: None,
        load: Callable[[ModelEntry, EngineConfig], Model] | None = None,
    ) -> None:
        """Create an empty pool; `leave` is called before each unload and drops its references."""
        self._config = config
        self._busy = busy
        self._leave = leave
        self._load = load or load_model
        self._device = pick_device(config.device)
        self._models: OrderedDict[str, Model] = OrderedDict()  # least recently used first

    @property
    def _budget(self) -> int:
        return self._config.memory_bytes or device_budget(self._device)

    @property
    def room(self) -> int:
        """Bytes left for model calls, beside the weights of all models."""
        return self._budget - self._held

    @property
    def _held(self) -> int:
        return sum(model.weight_bytes for model in self._models.values())

    def find(self, model_id: str) -> Model | None:
        """Return a model if it is loaded, and mark it as used."""
        if model_id in self._models:
            self._models.move_to_end(model_id)
        return self._models.get(model_id)

    def load(self, model_id: str) -> Model:
        """Load a model, after unloading others if memory is short.

        Raises ModelBroken; DeviceMemoryFull if memory is too small whatever is unloaded.
        """
        entry = self._config.catalogue.get(model_id)
        if entry is None:
            raise ModelBroken(
                f"model {model_id!r} is not in the model file: add it, or use a model that is"
            )
        wanted = expected_bytes(entry, self._config.catalogue)
        self._make_room(wanted)
        model = self._loaded(entry, wanted)
        self._make_room(model.weight_bytes)  # its real size
        self._models[model_id] = model
        return model

    def _loaded(self, entry: ModelEntry, wanted: int) -> Model:
        """Load a model; if memory is full after all, unload every model that may go and retry."""
        full = self._tried(entry)
        if isinstance(full, Model):
            return full
        log.warning("engine.no_room_to_load", extra={"model": entry.id, "error": full})
        self._make_room(self._budget + 1)
        again = self._tried(entry)
        if isinstance(again, Model):
            return again
        others = ", ".join(self._models) or "nothing else"
        raise DeviceMemoryFull(
            f"model {entry.id!r} (about {wanted >> 20} MiB of weights) does not fit into the "
            f"device's memory beside {others}: keep fewer models resident, use a smaller dtype or "
            f"`quantize`, or a device with more memory ({again})"
        )

    def _tried(self, entry: ModelEntry) -> Model | str:
        """Return the model, or the error message of a full device."""
        try:
            return self._load(entry, self._config)
        except Exception as error:
            if not isinstance(error, DeviceMemoryFull) and not _ran_out(error):
                raise
            # The error's frames hold the parts loaded so far.
            for one in _chain(error):
                one.__traceback__ = None
            message = str(error)
        _give_back()
        return message

    def _make_room(self, wanted: int) -> None:
        """Unload models, the least recently used first, until `wanted` bytes fit."""
        for model_id in [*self._models]:
            if self._held + wanted <= self._budget:
                return
            if not self._models[model_id].entry.resident and not self._busy(model_id):
                self._drop(model_id)

    def _drop(self, model_id: str) -> None:
        """Unload a model and free its memory, which the next model needs."""
        log.info("engine.model_dropped", extra={"model": model_id})
        self._leave(model_id)
        model = self._models.pop(model_id)
        model.close()
        gone = weakref.ref(model)
        del model
        _give_back()
        if gone() is not None:
            log.error("engine.model_kept", extra={"model": model_id})


def _give_back() -> None:
    """Free unreferenced device memory; pipelines and their gates are reference cycles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _ran_out(error: BaseException) -> bool:
    return any(ran_out(one) for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes: a loader may wrap the device's error."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def expected_bytes(entry: ModelEntry, catalogue: Catalogue) -> int:
    """Return the bytes of a model's weights, ControlNets included, by its files' headers.

    0 for a hub repository that is not downloaded yet: its size is known after loading.
    """
    item_bytes = torch.empty(0, dtype=DTYPES[entry.dtype]).element_size()
    wanted = 0
    for part in (entry, *entry.controls.values()):
        if (folder := folder_of(part, catalogue)) is not None:
            left_out = _left_out(entry, folder) if part is entry else ()
            wanted += memory_of(files_of(folder, part.variant, left_out), item_bytes)
    return wanted


def _left_out(entry: ModelEntry, folder: Path) -> list[str]:
    """Return the parts that the family does not load."""
    index = _read(DiffusionPipeline.load_config, str(folder))
    profile = find_profile(entry.family, str(index.get("_class_name")))
    return [name for name, part in profile.load.items() if part is None]


def load_model(entry: ModelEntry, config: EngineConfig) -> Model:
    """Load a model behind gates, on its device. Raises ModelBroken, DeviceMemoryFull."""
    try:
        return _load_model(entry, config)
    except Exception as error:
        if not _ran_out(error):
            raise
        raise DeviceMemoryFull(
            f"the device's memory is too small for the weights of model {entry.id!r}: {error}"
        ) from error


def _load_model(entry: ModelEntry, config: EngineConfig) -> Model:
    started_s = time.perf_counter()
    catalogue = config.catalogue
    before = _stamps(entry, catalogue)
    pipeline = _pipeline(entry, _source(entry, entry.id, catalogue))
    profile = find_profile(entry.family, type(pipeline).__name__)
    _check_promised(entry, profile)
    apply(entry.speed, pipeline, profile)
    model = Model(
        entry,
        pipeline.to(pick_device(config.device)),
        profile,
        extras=Extras(
            folder=folder_of(entry, catalogue),
            controls={name: _control(name, entry, config) for name in entry.controls},
            loras=catalogue.loras_of(entry),
        ),
        state_dir=config.state_dir,
        self_test=config.self_test,
    )
    if before and before != _stamps(entry, catalogue):
        # The fingerprint is of the files, so they must be those that were loaded.
        raise ModelBroken(
            f"the files of model {entry.id!r} changed while they were read: try again"
        )
    model.load_s = time.perf_counter() - started_s
    return model


def _stamps(entry: ModelEntry, catalogue: Catalogue) -> list[list[int]]:
    """Return the stamps of all its files; [] before a hub repository is downloaded."""
    folder = folder_of(entry, catalogue)
    return [stamp_of(path) for path in files_of(folder, entry.variant)] if folder else []


def _check_promised(entry: ModelEntry, profile: Profile) -> None:
    """Raise ModelBroken if the model file offers an input that the family does not support."""
    family = f"model {entry.id!r}: the family {profile.name!r}"
    able = {"image": profile.image_to_image, "mask": profile.inpaint}
    if missing := [name for name in entry.inputs if able[name] is None]:
        raise ModelBroken(
            f"{family} begins with no {missing[0]}: remove {missing[0]!r} from `inputs`"
        )
    if entry.controls and profile.control is None:
        raise ModelBroken(f"{family} takes no ControlNet: remove `controls`")
    led = {"image": profile.control_image_to_image, "mask": profile.control_inpaint}
    if entry.controls and (missing := [name for name in entry.inputs if led[name] is None]):
        raise ModelBroken(
            f"{family} begins with no {missing[0]} under a ControlNet: remove {missing[0]!r} from "
            "`inputs`, or remove `controls`"
        )


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
        quantization_config=quantization(entry.speed, profile),
        **profile.load,
    )


def _control(name: str, entry: ModelEntry, config: EngineConfig) -> Any:
    part = entry.controls[name]
    control = _read(
        AutoModel.from_pretrained,
        _source(part, f"{entry.id}, control {name}", config.catalogue),
        revision=part.revision,
        variant=part.variant,
        dtype=DTYPES[entry.dtype],
        use_safetensors=True,
        trust_remote_code=False,
    )
    return control.to(pick_device(config.device)).eval()


def _source(part: ModelEntry | NetworkSource, what: str, catalogue: Catalogue) -> str:
    """Return a folder or a hub repository, as diffusers takes it. Raises ModelBroken."""
    folder = catalogue.path_of(part)
    if folder is None and part.revision is None:
        raise ModelBroken(
            f"model {what}: {part.source!r} is no folder below {catalogue.folder}, "
            "and a hub repository needs a pinned `revision`"
        )
    return str(folder) if folder else part.source


def folder_of(part: ModelEntry | NetworkSource, catalogue: Catalogue) -> Path | None:
    """Return the local folder of a part: its own, or a hub's snapshot; None: no files yet."""
    if (folder := catalogue.path_of(part)) is not None:
        return folder
    try:
        folder_name = snapshot_download(part.source, revision=part.revision, local_files_only=True)
    except (OSError, ValueError):  # not downloaded yet, or no repository's name
        return None
    return Path(folder_name)


def _read(function: Any, source: str, **arguments: Any) -> Any:
    try:
        return function(source, **arguments)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if ran_out(error):
            raise
        raise ModelBroken(f"{source}: {error}") from error


def pick_device(name: str) -> torch.device:
    """Return the named device; `auto` is the first CUDA device, or the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def device_budget(device: torch.device) -> int:
    """Return the bytes that the engine may use on a device: all of it less a tenth."""
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        return cuda_budget(whole, free, torch.cuda.memory_reserved(device))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 9 // 10


def cuda_budget(whole: int, free: int, ours: int) -> int:
    """Return the budget of a GPU with `whole` bytes, `ours` of them held by torch here.

    Other holders (another process, a desktop, CUDA itself) may have more than the tenth: then
    their bytes are left out, and a twentieth for the holes between our own blocks.
    """
    others = whole - free - ours
    return min(whole * 9 // 10, max(0, whole - others - whole // 20))
