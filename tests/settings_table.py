"""The settings as the README shows them: one row a variable. The house test compares."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from api.settings import ApiSettings
from jobs.settings import ROOT, RoleSettings
from worker.settings import WorkerSettings


def rows() -> list[str]:
    """The table, line by line."""
    table = ["| variable | default | meaning |", "|---|---|---|"]
    seen: set[str] = set()
    for role in (RoleSettings, ApiSettings, WorkerSettings):
        for name, field in role.model_fields.items():
            variable = role.variable(name)
            if variable not in seen:
                seen.add(variable)
                table.append(f"| `{variable}` | {shown(field.default)} | {field.description} |")
    return table


def shown(default: object) -> str:
    if default is None or default is PydanticUndefined or isinstance(default, SecretStr):
        return ""
    if isinstance(default, Path) and default.is_relative_to(ROOT):
        return f"`{default.relative_to(ROOT)}`"
    return f"`{default}`" if default != "" else ""
