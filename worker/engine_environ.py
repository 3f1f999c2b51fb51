"""Environment of the engine process: variables of torch, diffusers and the hub, and no secrets.

Owns the allowlist. The engine process runs model code and reads every model's files, so it gets
neither Redis's URL, S3's keys nor the webhook key, and of the terminal's other variables (a cloud's
keys, a database's URL) only those named here. Invariant: an allowlist, never a denylist.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = re.compile(
    r"""
      PATH | HOME | USER | LOGNAME | SHELL | HOSTNAME | LANG | LANGUAGE | LC_.* | TZ
    | TMPDIR | TEMP | TMP | XDG_.* | VIRTUAL_ENV | CONDA_PREFIX | PYTHON.*
    | LD_LIBRARY_PATH | LD_PRELOAD | DYLD_(FALLBACK_)?LIBRARY_PATH | GLIBC_TUNABLES | (MI)?MALLOC_.*
    | CC | CXX | CPATH | LIBRARY_PATH | C_INCLUDE_PATH | MAX_JOBS           # torch.compile builds
    | SSL_CERT_(FILE|DIR) | (REQUESTS|CURL)_CA_BUNDLE                       # a hub's certificate
    | (HTTP|HTTPS|ALL|NO)_PROXY | (http|https|all|no)_proxy
    | (HF|HUGGINGFACE|HUGGING_FACE|TRANSFORMERS|DIFFUSERS|ACCELERATE|TOKENIZERS|SAFETENSORS)_.*
    | (TORCH|PYTORCH|ATEN|TRITON|KINETO|BNB|BITSANDBYTES).*
    | (CUDA|CUBLAS|CUDNN|NVIDIA|NCCL|NVRTC|NVPL).*
    | (HIP|HSA|ROCM|ROCR|AMD|MIOPEN|ZE|SYCL|ONEAPI)_.* | GPU_DEVICE_ORDINAL
    | (OMP|GOMP|KMP|MKL|OPENBLAS|DNNL|ONEDNN)_.*
    """,
    re.VERBOSE,
)
HUB = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_")  # private repositories need a token
SECRET = re.compile(r"(^|_)(API_?KEY|KEY|SECRET|TOKEN|PASS(WORD|WD)?|CREDENTIALS?|AUTH)(_|$)")


def engine_environ(
    environ: Mapping[str, str] = os.environ, also: Collection[str] = ()
) -> dict[str, str]:
    """Return the engine process's part of `environ`; `also`: names that the operator adds.

    PYTHONPATH begins with this project's folder, so that its packages are found uninstalled, too.
    """
    # libgomp's threads spin while they wait for each other. Where anything else wants the cores, a
    # model call then took 12 to 30 times as long (measured: 2 threads, load 10); sleeping, 1 to 2.
    passed = {"OMP_WAIT_POLICY": "PASSIVE"}
    passed |= {n: value for n, value in environ.items() if n in also or _needed(n)}
    theirs = environ.get("PYTHONPATH", "")
    return passed | {"PYTHONPATH": os.pathsep.join(p for p in (str(ROOT), theirs) if p)}


def _needed(name: str) -> bool:
    """Return True for a variable of the engine's libraries that is no secret, the hub's apart."""
    of_libraries = NEEDED.fullmatch(name) is not None
    return of_libraries and (name.startswith(HUB) or not SECRET.search(name.upper()))
