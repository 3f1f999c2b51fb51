"""The environment of an engine process: its libraries' variables, and no secret."""

from __future__ import annotations

import pytest

from worker.engine_environ import engine_environ


@pytest.mark.parametrize(
    "name",
    [
        "PRINTWORKS_REDIS_URL",
        "PRINTWORKS_S3_SECRET_KEY",
        "PRINTWORKS_WEBHOOK_KEY",
        "REDIS_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SESSION_TOKEN",
        "NVIDIA_API_KEY",
        "TORCHHUB_TOKEN",
        "PYTHON_KEYRING_PASSWORD",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "SSH_AUTH_SOCK",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "SENTRY_DSN",
    ],
)
def test_a_secret_is_not_passed(name: str) -> None:
    assert name not in engine_environ({name: "x"})


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "HF_HOME",
        "HF_TOKEN",
        "CUDA_VISIBLE_DEVICES",
        "CUBLAS_WORKSPACE_CONFIG",
        "PYTORCH_CUDA_ALLOC_CONF",
        "OMP_NUM_THREADS",
        "TOKENIZERS_PARALLELISM",
        "LD_LIBRARY_PATH",
        "https_proxy",
        "XDG_CACHE_HOME",
    ],
)
def test_what_its_libraries_read_is_passed(name: str) -> None:
    assert engine_environ({name: "x"})[name] == "x"


def test_a_variable_that_the_operator_names_is_passed() -> None:
    assert engine_environ({"MY_PROFILE": "x"}, also=["MY_PROFILE"])["MY_PROFILE"] == "x"


def test_threads_sleep_unless_somebody_says_otherwise() -> None:
    assert engine_environ({})["OMP_WAIT_POLICY"] == "PASSIVE"
    assert engine_environ({"OMP_WAIT_POLICY": "ACTIVE"})["OMP_WAIT_POLICY"] == "ACTIVE"
