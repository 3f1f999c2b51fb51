"""The operator's list of blocked words and phrases for prompts; off unless a file is named.

Owns the parsing and the matching. Must not know routes. Invariant: no response and no log line
names the entry that matched; an administrator gets its line number in the file.

A line is a word or a phrase; `#` begins a comment. It matches whole words, whatever their case,
width, accents' form and punctuation: `red_bicycle` and `Red  BICYCLE!` are `red bicycle`.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from pathlib import Path

from api.errors import PromptBlocked
from jobs.errors import Problem, SettingsError

MOST_ENTRIES = 100_000


class Policy:
    """A set of blocked entries; an empty one blocks nothing."""

    def __init__(self, entries: dict[str, int]) -> None:
        self._entries = entries  # normal form: line
        self._longest = max((entry.count(" ") + 1 for entry in entries), default=0)

    @classmethod
    def of(cls, path: Path | None) -> Policy:
        """Load the policy from the file, if one is named. Raises SettingsError if unreadable."""
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
        _tables()  # 0.2 s, at the start and not at the first prompt
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


REFUSED = "the prompt has a word or phrase that this service blocks; change the prompt"


def normal_form(text: str) -> str:
    """Return the words in normal form, one space between, for comparison."""
    marks, invisible = _tables()
    plain = unicodedata.normalize("NFKC", marks.sub(r"\1", text)).casefold()
    return " ".join(_BETWEEN.sub(" ", plain.translate(invisible)).split())


_BETWEEN = re.compile(r"[\W_]+")  # everything that is not str.isalnum
MOST_MARKS = 30  # on one letter: Unicode's Stream-Safe Text (UAX #15, section 13)


@functools.cache
def _tables() -> tuple[re.Pattern[str], dict[int, None]]:
    """Build a pattern of marks beyond `MOST_MARKS` per letter, and a table of invisible characters.

    Python sorts a letter's marks by insertion: 20,000 on one took 0.4 s. Joiners, soft hyphens and
    the like, put into a word, hide it from a plain comparison only.
    """
    every = [chr(point) for point in range(sys.maxunicode + 1)]
    mark = f"[{re.escape(''.join(c for c in every if unicodedata.combining(c)))}]"
    many = re.compile(f"({mark}{{{MOST_MARKS}}}){mark}+")
    return many, {ord(c): None for c in every if unicodedata.category(c) in ("Cf", "Mn")}
