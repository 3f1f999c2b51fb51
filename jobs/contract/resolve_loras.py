"""Checks of a request's LoRA adapters against the model's folder.

Owns the rules of `loras`. Invariant: an adapter that is not in the folder is refused with the
nearest name that is; nothing that a client wrote becomes a path.
"""

from __future__ import annotations

import difflib

from jobs.contract.model_file import Catalogue, ModelEntry
from jobs.contract.request_parts import LoraChoice
from jobs.contract.spec import JobRequest
from jobs.errors import Problem


def check_loras(
    request: JobRequest, catalogue: Catalogue, entry: ModelEntry, problems: list[Problem]
) -> tuple[LoraChoice, ...]:
    """Return the adapters of a request; appends faults to `problems`."""
    if not request.loras:
        return ()
    shelf = catalogue.loras_of(entry)
    if shelf is None:
        able = [m.id for m in catalogue.models if m.loras is not None]
        others = f"these do: {', '.join(able)}" if able else "no model here does"
        problems.append(Problem("/loras", "not_taken", f"{entry.id} takes no LoRA; {others}"))
        return ()
    known = shelf.names()
    seen: set[str] = set()
    for index, lora in enumerate(request.loras):
        pointer = f"/loras/{index}/name"
        if lora.name not in known:
            problems.append(Problem(pointer, "unknown_lora", _hint(lora.name, known)))
        elif lora.name in seen:
            problems.append(Problem(pointer, "duplicate", "name each LoRA once, with one scale"))
        seen.add(lora.name)
    return request.loras


def _hint(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"no such LoRA; {hint}LoRAs of this model: {', '.join(known) or 'none'}"
