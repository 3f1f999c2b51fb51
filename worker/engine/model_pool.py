"""Which models are in memory, and how one is loaded from where its entry says.

Owns the arguments of `from_pretrained` (safetensors only, a pinned revision, no code from the
repository, no network unless the entry is a hub repository) and the choice of who leaves when
memory is short: the least recently used, never one that is resident or at work. Knows no batch.
Invariants: what is loaded is what the entry names, or ModelBroken says why not; a model that
leaves is out of memory before the next is loaded.
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
    """The models in memory. `busy` tells whether a model has images under way."""

    def __init__(
        self,
        config: EngineConfig,
        busy: Callable[[str], bool],
        *,
        leave: Callable[[str], None] = lambda _: None,
        load: Callable[[ModelEntry, EngineConfig], Model] | None = None,
    ) -> None:
        """`leave` is told of each model that has to go, and keeps nothing of it."""
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
        """Bytes that are left for working in, beside the weights of all models."""
        return self._budget - self._held

    @property
    def _held(self) -> int:
        return sum(model.weight_bytes for model in self._models.values())

    def find(self, model_id: str) -> Model | None:
        """The model, if it is loaded; it counts as used."""
        if model_id in self._models:
            self._models.move_to_end(model_id)
        return self._models.get(model_id)

    def load(self, model_id: str) -> Model:
        """Load one; those that have to leave are gone before. Raises ModelBroken, and
        DeviceMemoryFull where there is no room, whoever leaves."""
        entry = self._config.catalogue.get(model_id)
        if entry is None:
            raise ModelBroken(f"model {model_id!r} is not in the model file")
        wanted = expected_bytes(entry, self._config.catalogue)
        self._make_room(wanted)
        model = self._loaded(entry, wanted)
        self._make_room(model.weight_bytes)  # by what came
        self._models[model_id] = model
        return model

    def _loaded(self, entry: ModelEntry, wanted: int) -> Model:
        """The model; where memory was too small after all, once more with all gone that may."""
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
        """The model, or the words of a device that is full."""
        try:
            return self._load(entry, self._config)
        except Exception as error:
            if not isinstance(error, DeviceMemoryFull) and not _ran_out(error):
                raise
            # Its frames hold what was loaded so far.
            for one in _chain(error):
                one.__traceback__ = None
            words = str(error)
        _give_back()
        return words

    def _make_room(self, wanted: int) -> None:
        """Let models go until so many bytes fit, the least recently used first."""
        for model_id in [*self._models]:
            if self._held + wanted <= self._budget:
                return
            if not self._models[model_id].entry.resident and not self._busy(model_id):
                self._drop(model_id)

    def _drop(self, model_id: str) -> None:
        """Let one go, from memory and not only from here: what is loaded next needs the room."""
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
    """To the device, what nobody holds any more; pipelines and their gates hold each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _ran_out(error: BaseException) -> bool:
    return any(ran_out(one) for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """It and its causes: a loader may wrap what the device said."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def expected_bytes(entry: ModelEntry, catalogue: Catalogue) -> int:
    """What a model's weights will take of memory, ControlNets included, by its files' headers.

    0 for a hub's repository of which nothing was downloaded yet: then only what came tells.
    """
    item_bytes = torch.empty(0, dtype=DTYPES[entry.dtype]).element_size()
    wanted = 0
    for part in (entry, *entry.controls.values()):
        if (folder := folder_of(part, catalogue)) is not None:
            left_out = _left_out(entry, folder) if part is entry else ()
            wanted += memory_of(files_of(folder, part.variant, left_out), item_bytes)
    return wanted


def _left_out(entry: ModelEntry, folder: Path) -> list[str]:
    """The parts that its family does not load."""
    index = _read(DiffusionPipeline.load_config, str(folder))
    profile = find_profile(entry.family, str(index.get("_class_name")))
    return [name for name, part in profile.load.items() if part is None]


def load_model(entry: ModelEntry, config: EngineConfig) -> Model:
    """The model behind gates, on its device. Raises ModelBroken, DeviceMemoryFull."""
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
    """Of all its files; [] before anything of a hub's repository is here."""
    folder = folder_of(entry, catalogue)
    return [stamp_of(path) for path in files_of(folder, entry.variant)] if folder else []


def _check_promised(entry: ModelEntry, profile: Profile) -> None:
    """Raise ModelBroken where the model file promises what the family has not."""
    family = f"model {entry.id!r}: the family {profile.name!r}"
    able = {"image": profile.image_to_image, "mask": profile.inpaint}
    if missing := [name for name in entry.inputs if able[name] is None]:
        raise ModelBroken(f"{family} begins with no {missing[0]}; take it out of `inputs`")
    if entry.controls and profile.control is None:
        raise ModelBroken(f"{family} takes no ControlNet; take `controls` out")
    led = {"image": profile.control_image_to_image, "mask": profile.control_inpaint}
    if entry.controls and (missing := [name for name in entry.inputs if led[name] is None]):
        raise ModelBroken(
            f"{family} begins with no {missing[0]} under a ControlNet; take one of the two out"
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
    """A folder or a hub repository, as diffusers takes it. Raises ModelBroken."""
    folder = catalogue.path_of(part)
    if folder is None and part.revision is None:
        raise ModelBroken(
            f"model {what}: {part.source!r} is no folder below {catalogue.folder}, "
            "and a hub repository needs a pinned `revision`"
        )
    return str(folder) if folder else part.source


def folder_of(part: ModelEntry | NetworkSource, catalogue: Catalogue) -> Path | None:
    """Where its files are on this machine: its folder, or a hub's snapshot of its revision."""
    if (folder := catalogue.path_of(part)) is not None:
        return folder
    try:
        found = snapshot_download(part.source, revision=part.revision, local_files_only=True)
    except (OSError, ValueError):  # not downloaded yet, or no repository's name
        return None
    return Path(found)


def _read(function: Any, source: str, **arguments: Any) -> Any:
    try:
        return function(source, **arguments)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if ran_out(error):
            raise
        raise ModelBroken(f"{source}: {error}") from error


def pick_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, or the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def device_budget(device: torch.device) -> int:
    """Bytes that the engine may use there: what there is, less a tenth."""
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        return cuda_budget(whole, free, torch.cuda.memory_reserved(device))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 9 // 10


def cuda_budget(whole: int, free: int, ours: int) -> int:
    """The same, of a device of `whole` bytes of which `ours` are torch's own here.

    What others hold (another process, a desktop, CUDA itself) may be more than the tenth: then it
    is left to them, and a twentieth to the holes between our own blocks.
    """
    others = whole - free - ours
    return min(whole * 9 // 10, max(0, whole - others - whole // 20))
