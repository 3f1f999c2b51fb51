"""The operator's list of what a prompt may not ask for; off unless a file is named.

Owns the reading and the matching. Must not know routes. Invariant: neither an answer nor a log line
says which entry it was, but to an administrator, and to that one by its line in the file.

A line is a word or a phrase; `#` begins a comment. It matches whole words, whatever their case,
width, accents' form and punctuation: `red_bicycle` and `Red  BICYCLE!` are `red bicycle`.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

from api.errors import PromptBlocked
from jobs.errors import Problem, SettingsError

MOST_ENTRIES = 100_000


class Policy:
    """What is blocked; an empty one blocks nothing."""

    def __init__(self, entries: dict[str, int]) -> None:
        self._entries = entries  # normal form: line
        self._longest = max((entry.count(" ") + 1 for entry in entries), default=0)

    @classmethod
    def of(cls, path: Path | None) -> Policy:
        """From the file, if one is named. Raises SettingsError where it cannot be read."""
        if path is None:
            return cls({})
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"PRINTWORKS_API_BLOCKED_PROMPTS: {error}") from None
        normal = {normal_form(line.split("#")[0]): at for at, line in enumerate(lines, start=1)}
        normal.pop("", None)
        if not normal or len(normal) > MOST_ENTRIES:
            raise SettingsError(
                f"PRINTWORKS_API_BLOCKED_PROMPTS: {path} has {len(normal)} entries; "
                f"from 1 to {MOST_ENTRIES} are expected (unset it to block nothing)"
            )
        return cls(normal)

    def check(self, prompt: str) -> None:
        """Raise PromptBlocked if the prompt holds an entry. One look-up for each run of words."""
        if not self._entries:
            return
        words = normal_form(prompt).split(" ")
        for start in range(len(words)):
            for end in range(start + 1, min(start + self._longest, len(words)) + 1):
                line = self._entries.get(" ".join(words[start:end]))
                if line is not None:
                    raise PromptBlocked([Problem("/prompt", PromptBlocked.code, REFUSED)], line)


REFUSED = "this service does not make pictures of that"


def normal_form(text: str) -> str:
    """Words in one form, one space between: what is compared."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    kept = (c if c.isalnum() else "" if _invisible(c) else " " for c in plain)
    return " ".join("".join(kept).split())


def _invisible(character: str) -> bool:
    """Joiners, soft hyphens and the like: put into a word, they hide it from nobody but us."""
    return unicodedata.category(character) in ("Cf", "Mn")
