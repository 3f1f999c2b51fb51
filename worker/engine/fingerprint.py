"""The fingerprint: all that an image's bits depend on beside its request, as one line of text.

Owns the list of those things. Knows no batch. Invariant: with one fingerprint, one request has
one picture; where anything below differs, so may the picture, and the line says why.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch.backends import cuda, cudnn, mkldnn

from jobs.contract.model_file import ModelEntry
from worker.engine.accelerations import words

# Raised by whoever changes the engine so that a picture gets other bits.
ENGINE = 2

# Code that makes bits beside torch's, diffusers' and transformers': numbers of schedules and of
# noise, words to tokens, pictures to begin with, adapters, other kernels.
LIBRARIES = (
    "numpy", "scipy", "torchsde", "tokenizers", "sentencepiece", "pillow", "peft", "accelerate",
    "triton", "bitsandbytes", "xformers", "flash-attn", "flash-attn-3", "sageattention", "aiter",
)  # fmt: skip
# Read by torch, its libraries and diffusers before anything of ours runs.
VARIABLES = (
    "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_BLAS_PREFER_HIPBLASLT", "TORCH_CUDNN_V8_API_DISABLED", "TORCH_CUDNN_DETERMINISTIC",
    "TORCH_CUDNN_USE_HEURISTIC_MODE_B", "CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE",
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DYNAMIC", "OMP_DYNAMIC",
    "ATEN_CPU_CAPABILITY", "DIFFUSERS_ATTN_BACKEND",
)  # fmt: skip
CPU_FIELDS = frozenset(
    {"vendor_id", "cpu family", "model", "stepping"}
    | {"CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision"}
)
VECTORS = ("avx", "amx", "fma", "f16c", "asimd", "sve", "sme", "bf16", "i8mm")


def fingerprint(entry: ModelEntry, weights: str, pipeline: Any, device: str) -> str:
    """Return the fingerprint of one loaded model: `key=value`, joined by spaces.

    `weights`: what its files or tensors hold, as a digest.
    """
    facts = {
        "model": f"{entry.id}@{weights[:12]}",
        **({"variant": entry.variant} if entry.variant else {}),
        "pipeline": type(pipeline).__name__,
        "dtype": entry.dtype,
        "device": device_class(device),
        "threads": torch.get_num_threads() if device == "cpu" else 0,
        "engine": ENGINE,
        "torch": torch.__version__,
        "build": short_hash(torch.__config__.show()),  # with which MKL, oneDNN, architectures
        **kernel_choice(device),
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,  # the text encoders' code
        "with": "+".join(f"{name}-{found}" for name, found in libraries().items()),
        "noise": short_hash(repr(sorted(pipeline.scheduler.config.items()))),
    }
    if used := words(entry.speed):
        facts["speed"] = used
    return " ".join(f"{key}={value}" for key, value in facts.items())


def device_class(device: str) -> str:
    """Return the GPU's name, or the CPU's kind and vector instructions: they choose kernels."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device).replace(" ", "-")
    return f"cpu-{platform.machine()}-{torch.backends.cpu.get_cpu_capability()}-{_processor()}"


def _processor() -> str:
    """Return a short hash of the processor's kind.

    torch's own name for it has neither AMX nor cache sizes, by which oneDNN and MKL choose.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return short_hash(platform.processor())
    fields = {k.strip(): v.strip() for k, _, v in (row.partition(":") for row in text.split("\n"))}
    vectors = fields.get("flags", fields.get("Features", "")).split()
    known = [f"{name}:{fields[name]}" for name in sorted(CPU_FIELDS & fields.keys())]
    return short_hash(repr((known, sorted(v for v in vectors if v.startswith(VECTORS)))))


def libraries() -> dict[str, str]:
    """Return the installed libraries that make bits, and their versions."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch refuses to say once a backend was told apart; those are told
        return "by-backend"


def _precision(backend: Any, operation: str | None = None) -> str:
    """Return a backend's float32 precision; `none`, the default, means IEEE."""
    precision = str((getattr(backend, operation) if operation else backend).fp32_precision)
    return "ieee" if precision == "none" else precision


def _word(value: str) -> str:
    """Return a variable's value as one word of the line."""
    return re.sub(r"[^\w.:,-]", "_", value) or "empty"


# Switches of torch, as they are unless somebody turned them (torch 2.13).
SWITCHES: dict[str, tuple[Callable[[], object], object]] = {
    "matmul-precision": (_matmul_precision, "highest"),
    "deterministic": (torch.are_deterministic_algorithms_enabled, False),
    "math-sdp": (cuda.math_sdp_enabled, True),
    "flash-sdp": (cuda.flash_sdp_enabled, True),
    "efficient-sdp": (cuda.mem_efficient_sdp_enabled, True),
    "cudnn-sdp": (cuda.cudnn_sdp_enabled, True),
    "reduced-math-sdp": (cuda.fp16_bf16_reduction_math_sdp_allowed, False),
    "mkldnn": (lambda: mkldnn.enabled, True),
    "mkldnn-deterministic": (lambda: mkldnn.deterministic, False),
    "mkldnn-precision": (lambda: _precision(mkldnn), "ieee"),
    "mkldnn-matmul-precision": (lambda: _precision(mkldnn, "matmul"), "ieee"),
    "mkldnn-conv-precision": (lambda: _precision(mkldnn, "conv"), "ieee"),
}
CUDA_SWITCHES: dict[str, tuple[Callable[[], object], object]] = {
    "cuda-matmul-precision": (lambda: _precision(cuda, "matmul"), "ieee"),
    "cudnn-conv-precision": (lambda: _precision(cudnn, "conv"), "tf32"),
    "cudnn": (lambda: cudnn.enabled, True),
    "benchmark": (lambda: cudnn.benchmark, False),  # tries kernels by the clock: bits by chance
    "cudnn-deterministic": (lambda: cudnn.deterministic, False),
    "fp16-reduction": (lambda: cuda.matmul.allow_fp16_reduced_precision_reduction, True),
    "bf16-reduction": (lambda: cuda.matmul.allow_bf16_reduced_precision_reduction, True),
    "fp16-accumulation": (lambda: cuda.matmul.allow_fp16_accumulation, False),
    "blas": (lambda: str(cuda.preferred_blas_library()), "_BlasBackend.Cublas"),
    "linalg": (lambda: str(cuda.preferred_linalg_library()), "_LinalgBackend.Default"),
}


def kernel_choice(device: str) -> dict[str, object]:
    """Return what else chooses kernels: libraries beside torch, switches, the environment."""
    gpu = device.startswith("cuda")
    switches = SWITCHES | (CUDA_SWITCHES if gpu else {})
    now = {name: (read(), usual) for name, (read, usual) in switches.items()}
    turned = [f"{name}:{value}" for name, (value, usual) in now.items() if value != usual]
    turned += [f"{name}:{_word(os.environ[name])}" for name in VARIABLES if name in os.environ]
    told: dict[str, object] = {"kernels": "+".join(turned) or "usual"}
    return _nvidia() | told if gpu else told


def _nvidia() -> dict[str, object]:
    # pip may bring another cuBLAS or cuDNN than torch was built with.
    installed = [(d.name, d.version) for d in distributions() if str(d.name).startswith("nvidia-")]
    return {
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version(),
        "nvidia": short_hash(repr(sorted(installed))),
    }


def short_hash(text: str | bytes) -> str:
    """Return twelve hex digits of SHA-256: enough to tell configurations apart."""
    data = text.encode() if isinstance(text, str) else text
    return hashlib.sha256(data).hexdigest()[:12]


def tensors_hash(module: torch.nn.Module) -> str:
    """Return a hash of a network without files: its settings and every tensor's bytes."""
    digest = hashlib.sha256(f"{type(module).__name__}:{_settings(module)};".encode())
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        flat = tensor.detach().reshape(-1).contiguous().view(torch.uint8)
        digest.update(flat.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _settings(part: Any) -> str:
    """Return a part's configuration, without its source path."""
    config: Any = getattr(part, "config", None)
    if config is None:
        return ""
    items = config.items() if isinstance(config, dict) else config.to_dict().items()
    return repr(sorted((k, repr(v)) for k, v in items if not k.startswith("_")))


def parts_hash(pipeline: Any) -> str:
    """Return a hash of all parts of a pipeline that was made in memory."""
    said = {
        name: tensors_hash(part) if isinstance(part, torch.nn.Module) else _said(part)
        for name, part in pipeline.components.items()
    }
    return short_hash(repr(sorted(said.items())))


def _said(part: Any) -> str:
    """Describe a part without tensors: a tokenizer's vocabulary or a configuration."""
    if hasattr(part, "get_vocab"):
        return short_hash(repr(sorted(part.get_vocab().items())))
    return _settings(part)
