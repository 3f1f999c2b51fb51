"""Settings, read once from the environment and passed down; a misspelt setting is an error.

Owns the variables both roles share. Each role extends `RoleSettings` with its own prefix
(PRINTWORKS_API_, PRINTWORKS_WORKER_). Plain pydantic, because pydantic-settings uses the default
where a variable of the operating system is misspelt.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from jobs.errors import SettingsError
from jobs.s3_endpoints import Addressing, check_bucket, checked_endpoint

PREFIX = "PRINTWORKS_"
ROLE_PREFIXES = ("PRINTWORKS_API_", "PRINTWORKS_WORKER_")
CLIENT_VARIABLES = ("PRINTWORKS_URL", "PRINTWORKS_KEY")  # read by the command line only
AWS_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # the first that is set
WAIVABLE = ("no-aof", "eviction", "old-version")  # jobs/store/connection.py says what each risks
ROOT = Path(__file__).resolve().parent.parent


class RoleSettings(BaseModel):
    """Settings of every role: Redis, object storage, the model file, webhooks, traces."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    role_prefix: ClassVar[str] = ""

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="Redis or Valkey, 7.0 or later, AOF on, noeviction; REDIS_URL is read too; "
        "sentinels: `redis+sentinel://:password@host,host/name-of-the-primary/0`",
    )
    durability: Literal["primary", "replicated"] = Field(
        "primary",
        description="where an accepted job and its end are stored before the response; primary: "
        "on the primary; replicated: on replicas too (WAIT), else 503 `not_replicated`",
    )
    durability_replicas: int = Field(
        1, ge=1, le=8, description="number of replicas that must confirm, if durability=replicated"
    )
    redis_waive: str = Field(
        "",
        description="faults of Redis to accept, separated by commas: no-aof, eviction, old-version",
    )
    s3_endpoint: str | None = Field(
        None,
        description="S3 endpoint; AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL are read too; "
        "unset: AWS's own",
    )
    s3_public_endpoint: str | None = Field(
        None, description="S3 endpoint for clients, in presigned URLs; unset: s3_endpoint"
    )
    s3_region: str = Field("us-east-1", description="S3 region")
    s3_bucket: str = Field("printworks", description="S3 bucket of the images")
    s3_addressing: Addressing = Field(
        "auto",
        validate_default=True,
        description="path: endpoint/bucket; virtual: bucket.endpoint; auto: virtual for AWS and "
        "stores that accept nothing else (OSS, COS, OBS), path for all others",
    )
    s3_access_key: str | None = Field(
        None, description="S3 access key; unset: boto3's own chain of credentials"
    )
    s3_secret_key: SecretStr | None = Field(
        None, description="S3 secret key; goes with the access key"
    )
    models_file: Path = Field(ROOT / "models" / "models.toml", description="path of the model file")
    retention_s: int = Field(
        86_400,
        ge=60,
        le=30 * 86_400,
        description="seconds that an ended job and its images are kept",
    )
    webhook_key: SecretStr | None = Field(
        None,
        description="key that encrypts webhook secrets at rest: base64 of 32 bytes; several keys "
        "separated by commas: the first encrypts; unset: the service has no webhooks",
    )
    webhook_schemes: str = Field(
        "https", description="allowed schemes of webhook URLs; `https,http` allows plain HTTP too"
    )
    webhook_ports: str = Field(
        "443,8443",
        description="allowed ports of webhook URLs, separated by commas; 8000-8999 is a range",
    )
    webhook_networks: str = Field(
        "",
        description="non-public networks that webhooks may reach: CIDR, separated by commas",
    )
    otel_endpoint: str | None = Field(
        None,
        description="OTLP/HTTP collector for traces, such as http://collector:4318; needs the "
        "extra `otel`; unset: no traces are sent",
    )
    otel_share: float = Field(
        1.0, ge=0, le=1, description="share of traces to keep, if the caller began no trace"
    )

    @field_validator("s3_endpoint", "s3_public_endpoint")
    @classmethod
    def _endpoint_of_a_server(cls, value: str | None, info: ValidationInfo) -> str | None:
        if not value:
            return None
        return checked_endpoint(value, for_clients=info.field_name == "s3_public_endpoint")

    @field_validator("s3_addressing")
    @classmethod
    def _bucket_can_be_reached(cls, value: Addressing, info: ValidationInfo) -> Addressing:
        endpoint = info.data.get("s3_endpoint")
        for each in {endpoint, info.data.get("s3_public_endpoint") or endpoint}:
            check_bucket(info.data.get("s3_bucket", ""), value, each)
        return value

    @field_validator("redis_waive")
    @classmethod
    def _known_faults(cls, value: str) -> str:
        unknown = {word.strip() for word in value.split(",")} - {"", *WAIVABLE}
        if unknown:
            raise ValueError(f"unknown {sorted(unknown)}; waivable: {', '.join(WAIVABLE)}")
        return value

    @property
    def waived(self) -> frozenset[str]:
        """Faults of Redis that the operator accepts."""
        return frozenset(word.strip() for word in self.redis_waive.split(","))

    @property
    def replicas(self) -> int:
        """Number of replicas that must confirm a job and its end; 0: none."""
        return self.durability_replicas if self.durability == "replicated" else 0

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the environment. Raises SettingsError on an unknown or impossible variable."""
        environ = os.environ if environ is None else environ
        unknown = sorted(set(cls._ours(environ)) - cls.variables())
        if unknown:
            near = difflib.get_close_matches(unknown[0], cls.variables(), n=1)
            hint = f"did you mean {near[0]}?" if near else "see the settings table in the README"
            raise SettingsError(f"unknown setting {unknown[0]}; {hint}")
        try:
            return cls.model_validate(cls._values(environ))
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0]) if first["loc"] else ""
            raise SettingsError(f"setting {cls.variable(field)}: {first['msg']}") from None

    @classmethod
    def variables(cls) -> set[str]:
        """Return the names of all variables that this role reads."""
        return {cls.variable(name) for name in cls.model_fields} | set(CLIENT_VARIABLES)

    @classmethod
    def variable(cls, field: str) -> str:
        """Return the variable that sets `field`."""
        shared = field in RoleSettings.model_fields
        return f"{PREFIX if shared else cls.role_prefix}{field}".upper()

    @classmethod
    def _ours(cls, environ: Mapping[str, str]) -> list[str]:
        """Return Printworks' variables in `environ`, less those of the other roles."""
        others = tuple(p for p in ROLE_PREFIXES if p != cls.role_prefix)
        return [n for n in environ if n.startswith(PREFIX) and not n.startswith(others)]

    @classmethod
    def _values(cls, environ: Mapping[str, str]) -> dict[str, str]:
        values = {f: environ[v] for f in cls.model_fields if (v := cls.variable(f)) in environ}
        if "REDIS_URL" in environ:
            values.setdefault("redis_url", environ["REDIS_URL"])
        for name in AWS_ENDPOINTS:  # boto3 would read these by itself, past every check of ours
            if environ.get(name):
                values.setdefault("s3_endpoint", environ[name])
        return values
