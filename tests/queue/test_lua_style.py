"""Lua scripts as Redis gets them: their files joined and constants filled in, read by luacheck."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

from jobs.store import scripts as store_scripts
from jobs.store.script_folder import ScriptFolder
from jobs.webhooks import scripts as webhook_scripts
from tests.helpers import tool_missing

FOLDERS = {"store": store_scripts.SCRIPTS, "webhooks": webhook_scripts.SCRIPTS}
GIVEN_BY_REDIS = ("redis", "KEYS", "ARGV", "cjson", "cmsgpack", "bit")
WARNING = re.compile(r"^.*?:(\d+):\d+-\d+: \(([EW]\d+)\) (.*)$")
UNUSED = "W211"


class Finding(NamedTuple):
    """A warning in the file that it is about. `top`: of a name of the whole file."""

    file: str
    line: int
    code: str
    words: str
    top: bool


def test_no_script_has_an_undefined_an_unused_or_a_shadowed_name(tmp_path: Path):
    luacheck = shutil.which("luacheck") or tool_missing("no luacheck: `apt install lua-check`")
    bad: set[str] = set()
    unused: dict[Finding, int] = defaultdict(int)
    users: dict[str, int] = defaultdict(int)
    for folder, source in FOLDERS.items():
        shared = {part for name in source.names for part, _ in source.parts(name)[:-1]}
        for name in set(source.names) - shared:
            path = tmp_path / f"{folder}.{name}.lua"
            path.write_text(source.load(name).text)
            for part, _ in source.parts(name):
                users[part] += 1
            for found in findings(luacheck, path, source.parts(name)):
                if found.code == UNUSED and found.top and found.file in shared:
                    unused[found] += 1
                else:
                    bad.add(f"{found.file}.lua:{found.line}: {found.code} {found.words}")
    # what one script leaves unused of a shared file is no fault, what all do is dead
    bad |= {
        f"{found.file}.lua:{found.line}: no script uses it: {found.words}"
        for found, n in unused.items()
        if n == users[found.file]
    }

    assert not sorted(bad)


def findings(luacheck: str, path: Path, parts: list[tuple[str, str]]) -> list[Finding]:
    """Return luacheck's findings in one joined script, by the files that it was joined from."""
    limits = ["--no-config", "--codes", "--ranges", "--no-color", "--no-max-line-length"]
    globals_ = ["--std", "lua51", "--read-globals", *GIVEN_BY_REDIS]
    command = [luacheck, str(path), "--formatter", "plain", *limits, *globals_]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode in (0, 1, 2), said.stderr  # 1: warnings, 2: errors of syntax
    lines = [
        (name, number, line)
        for name, text in parts
        for number, line in enumerate(text.split("\n"), 1)
    ]
    found = []
    for line in said.stdout.splitlines():
        match = WARNING.match(line)
        assert match, line
        name, number, source = lines[int(match[1]) - 1]
        found.append(Finding(name, number, match[2], match[3], source.startswith("local ")))
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_constant_is_filled_in(folder: str):
    source = FOLDERS[folder]

    assert not [n for n in source.names if re.search(r"@\w+@", source.load(n).text)]


def test_a_constant_without_a_value_is_refused_at_the_start(tmp_path: Path):
    (tmp_path / "one.lua").write_text("return @NO_SUCH_S@\n")

    with pytest.raises(LookupError, match=r"one\.lua: no value for @NO_SUCH_S@"):
        ScriptFolder(tmp_path, {})
