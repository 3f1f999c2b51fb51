"""Registry of dialects: one line for each.

Owns the list and the choice by setting. Invariant: a name in the setting that no dialect has is an
error at start, not a dialect that is silently missing.
"""

from __future__ import annotations

import difflib

from api.dialects.dialect import Dialect
from api.settings import ApiSettings
from jobs.errors import SettingsError

DIALECTS: tuple[Dialect, ...] = ()


def chosen(settings: ApiSettings, dialects: tuple[Dialect, ...] = DIALECTS) -> tuple[Dialect, ...]:
    """Return the dialects that `settings` switch on. Raises SettingsError on an unknown name."""
    if settings.dialects.strip() == "all":
        return dialects
    by_name = {d.name: d for d in dialects}
    names = [name.strip() for name in settings.dialects.split(",") if name.strip()]
    unknown = [name for name in names if name not in by_name]
    if unknown:
        near = difflib.get_close_matches(unknown[0], by_name, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: all, {', '.join(by_name)}"
        raise SettingsError(f"setting PRINTWORKS_API_DIALECTS: unknown {unknown[0]!r}; {hint}")
    return tuple(by_name[name] for name in names)
