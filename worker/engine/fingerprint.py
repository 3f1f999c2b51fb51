"""What a picture's bits depend on beside its request, as one line of text.

Owns the list of those things. Knows no batch. Invariant: with one fingerprint, one request has
one picture; where anything below differs, so may the picture, and the line says why.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from jobs.catalogue import ModelEntry
from worker.engine.speed import words

READ_WHOLE_BYTES = 512 * 1024 * 1024  # 0.3 s of hashing; larger models have a hub revision


def fingerprint(entry: ModelEntry, folder: Path | None, pipeline: Any, device: str) -> str:
    """The line for one loaded model; `key=value`, joined by spaces."""
    facts = {
        "model": f"{entry.id}@{entry.revision or weights_hash(folder)}",
        "pipeline": type(pipeline).__name__,
        "dtype": entry.dtype,
        "device": device_class(device),
        "threads": torch.get_num_threads() if device == "cpu" else 0,
        "torch": torch.__version__,
        **(kernel_choice() if device.startswith("cuda") else {}),
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,  # the text encoders' code
        "noise": short_hash(repr(sorted(pipeline.scheduler.config.items()))),
    }
    if used := words(entry.speed):
        facts["speed"] = used
    return " ".join(f"{key}={value}" for key, value in facts.items())


def device_class(device: str) -> str:
    """What decides which kernels run: the GPU's name, or the CPU's vector instructions."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device).replace(" ", "-")
    return f"cpu-{platform.machine()}-{torch.backends.cpu.get_cpu_capability()}"


def kernel_choice() -> dict[str, object]:
    """What else decides which of NVIDIA's kernels run: libraries beside torch, and switches."""
    cudnn = torch.backends.cudnn
    switches = {
        "tf32-matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32-conv": cudnn.allow_tf32,  # on unless told otherwise
        "benchmark": cudnn.benchmark,  # tries kernels by the clock: other bits by chance
        "deterministic": cudnn.deterministic,
    }
    return {
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version(),
        "kernels": "+".join(name for name, on in switches.items() if on) or "plain",
    }


def short_hash(text: str | bytes) -> str:
    """Twelve hex digits: enough to tell configurations apart."""
    data = text.encode() if isinstance(text, str) else text
    return hashlib.sha256(data).hexdigest()[:12]


def tensors_hash(module: torch.nn.Module) -> str:
    """Of a network that is not the model's own: of its every tensor's name, shape and numbers."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        flat = tensor.detach().reshape(-1).contiguous().view(torch.uint8)
        digest.update(flat.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def weights_hash(folder: Path | None) -> str:
    """Of all files of a local model; of large ones the names, sizes and headers only."""
    if folder is None:
        return "unknown"
    files = sorted(p for p in folder.rglob("*") if p.suffix in {".json", ".safetensors", ".txt"})
    whole = sum(p.stat().st_size for p in files) <= READ_WHOLE_BYTES
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder)}:{path.stat().st_size};".encode())
        with path.open("rb") as file:
            digest.update(file.read() if whole else file.read(1024 * 1024))
    return digest.hexdigest()[:12]
