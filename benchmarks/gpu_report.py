"""Results of a run on a GPU: one JSON file and one page of tables, written anew after every row.

Owns the two files. Knows no torch. Invariant: a run that is killed leaves all rows that it had.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Report:
    """Facts about the machine, and tables of rows by name."""

    def __init__(self, facts: Row, file: Path | None) -> None:
        """`file`: where the JSON goes, and beside it the page; None: nowhere."""
        self._facts = facts
        self._file = file
        self._tables: dict[str, list[Row]] = {}
        self._titles: dict[str, str] = {}

    def add(self, table: str, title: str, row: Row) -> None:
        """Add one row; print and write it at once."""
        self._titles[table] = title
        self._tables.setdefault(table, []).append(row)
        print("   ", "  ".join(f"{k}={_cell(v)}" for k, v in row.items()), flush=True)
        self.write()

    def close(self, **facts: Any) -> None:
        """Write the last facts: duration, and whether the run is complete."""
        self._facts |= facts
        self.write()
        if self._file:
            print(f"\nwritten: {self._file} and {self._file.with_suffix('.md')}")

    def write(self) -> None:
        """Write both files, each in one atomic step."""
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        whole = {"facts": self._facts, "tables": self._tables}
        _replace(self._file, json.dumps(whole, indent=1, default=str) + "\n")
        _replace(self._file.with_suffix(".md"), self.markdown())

    def markdown(self) -> str:
        """Return the page of tables."""
        lines = ["# The engine on this device", "", "| what | is |", "|---|---|"]
        lines += [f"| {name} | {_cell(value)} |" for name, value in self._facts.items()]
        for table, rows in self._tables.items():
            columns = list(dict.fromkeys(name for row in rows for name in row))
            lines += ["", f"## {table}", self._titles[table], ""]
            lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
            lines += [f"| {' | '.join(_cell(row.get(c, '')) for c in columns)} |" for row in rows]
        return "\n".join(lines) + "\n"


def _replace(file: Path, text: str) -> None:
    beside = file.with_name(file.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(file)


def _cell(value: Any) -> str:
    match value:
        case float():
            return f"{value:.4g}"
        case dict():
            return ", ".join(f"{k}: {_cell(v)}" for k, v in value.items()) or "none"
        case list() | tuple():
            return " ".join(map(_cell, value)) or "none"
        case _:
            return str(value).replace("|", "/").replace("\n", " ")
