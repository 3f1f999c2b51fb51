"""The commands of `python3 deploy`, and their help.

Owns the command line. A command runs twice: under the machine's Python, which installs, then
under the Python of `.venv`, which does the work. Knows no service by name.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from deploy import lock, newest
from deploy.bootstrap import ROOT, ensure
from deploy.installer import LOCK, InstallFailed
from deploy.options import Options

DESCRIPTION = """\
Printworks on one machine, with nothing but Python installed.

  python3 deploy up                 start all services, print the URLs, generate a first image
  python3 deploy up --once "a red house on a snowy field" -o house.png
                                    generate one image, stop all services
  python3 deploy test               all tests, on real servers (arguments go to pytest)
  python3 deploy check              style, types, import rules
  python3 deploy chaos              kill processes under load, and count lost jobs
  python3 deploy lock               update deploy/lock.txt to match pyproject.toml
  python3 deploy newest             test the newest versions that pyproject.toml allows

The first run makes .venv and installs (about a minute, and 350 MB without a GPU), in the
versions of deploy/lock.txt.
REDIS_URL and PRINTWORKS_S3_* are used, where set, instead of the embedded servers.
"""
PASSING_ON = ("test", "newest", "chaos")  # their arguments go to another program
CHECKS: dict[str, list[str]] = {
    "ruff": ["-m", "ruff", "check", "."],
    "format": ["-m", "ruff", "format", "--check", "."],
    "types": ["-m", "basedpyright"],
    "imports": ["-m", "importlinter.cli"],
}


def main(argv: Sequence[str]) -> int:
    """Run one command. Return the exit status."""
    arguments, rest = _parser().parse_known_args(argv)
    if rest and arguments.command not in PASSING_ON:
        _parser().error(f"unknown argument: {rest[0]}")
    try:
        if arguments.command == "lock":
            return _lock(arguments.upgrade)
        if arguments.command == "newest":
            _pytest(newest.install(ROOT), () if rest else newest.TELLING, rest)
        python = _python(arguments)
    except InstallFailed as failed:
        print(failed, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the next run continues the installation", file=sys.stderr)
        return 130
    if python != Path(sys.executable):
        _become(python, ROOT / "deploy", *argv)
    run: dict[str, Callable[[], int]] = {
        "up": lambda: _up(arguments),
        "test": lambda: _pytest(sys.executable, [], rest),
        "check": _check,
        "chaos": lambda: _chaos(rest),
    }
    return run[arguments.command]()


def _python(arguments: argparse.Namespace) -> Path:
    """Return the Python that runs the command, installed if need be. Raises InstallFailed."""
    if getattr(arguments, "no_install", False):
        return Path(sys.executable)
    return ensure(dev=arguments.command != "up")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 deploy",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start all services", allow_abbrev=False)
    up.add_argument("--port", type=_port, help="port of the API; 0: any free one (default 8000)")
    up.add_argument(
        "--data",
        type=Path,
        default=ROOT / "data",
        metavar="DIR",
        help="data folder: images, queue, secrets, logs (data/ in the clone)",
    )
    up.add_argument(
        "--workers", type=_workers, default=1, metavar="N", help="number of GPU workers (1)"
    )
    up.add_argument(
        "--no-first-picture", action="store_true", help="generate no image at the start"
    )
    up.add_argument(
        "--no-install", action="store_true", help="run in this Python, without installing"
    )
    up.add_argument("--once", metavar="PROMPT", help="generate this one image, then stop")
    up.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("out.png"),
        metavar="FILE",
        help="file of the image, with --once (out.png)",
    )
    # their help is shown without installing anything: pytest's own is one word away
    _passing_on(commands, "test", "all tests; arguments go to pytest", "-k cancel -x", "pytest")
    _passing_on(
        commands, "chaos", "kill processes under load", "--minutes 2 --seed 1", "tests.chaos"
    )
    commands.add_parser("check", help="style, types, import rules")
    lock_ = commands.add_parser("lock", help="update deploy/lock.txt to match pyproject.toml")
    lock_.add_argument(
        "--upgrade",
        nargs="*",
        metavar="NAME",
        help="upgrade these packages to the newest version; without names: all packages",
    )
    text = "test the newest versions that pyproject.toml allows; arguments go to pytest"
    _passing_on(commands, "newest", text, "tests/contract", "pytest")
    return parser


def _passing_on(commands: Any, name: str, text: str, example: str, module: str) -> None:
    """Add a command that passes its arguments on to another program."""
    epilog = f"For example: python3 deploy {name} {example}\n"
    epilog += f"All of its arguments: .venv/bin/python -m {module} --help"
    raw = argparse.RawDescriptionHelpFormatter
    usage = f"python3 deploy {name} [ARGUMENT ...]"
    commands.add_parser(
        name,
        help=text,
        description=text,
        usage=usage,
        epilog=epilog,
        formatter_class=raw,
        allow_abbrev=False,
    )


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError("give a port from 0 to 65535")
    return port


def _workers(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 64:
        raise argparse.ArgumentTypeError("give a number of workers from 1 to 64")
    return count


def _up(arguments: argparse.Namespace) -> int:
    from deploy.up import up  # noqa: PLC0415 - needs what was just installed

    return up(
        Options(
            port=arguments.port,
            data=arguments.data.expanduser().resolve(),
            workers=arguments.workers,
            first_picture=not arguments.no_first_picture,
            once=arguments.once,
            out=arguments.out.expanduser().resolve(),
        )
    )


def _lock(upgrade: list[str] | None) -> int:
    changed = lock.refresh(ROOT, upgrade)
    print("\n".join(changed) or f"{LOCK} is up to date")
    if changed:
        print(f"{LOCK}: {len(changed)} packages changed; the next `up`, `test` or `check` installs")
    return 0


def _pytest(python: str | Path, tests: Sequence[str], rest: Sequence[str]) -> NoReturn:
    """Run the tests, on at most 4 processes: each starts its own servers and imports torch."""
    processes = min(4, os.cpu_count() or 1)
    # in the order of tests/conftest.py, which puts the longest first
    spread = ["-n", str(processes), "--dist", "loadgroup", "--no-loadscope-reorder"]
    alone = any(argument.startswith("-n") or argument == "no:xdist" for argument in rest)
    os.chdir(ROOT)
    _become(python, "-m", "pytest", *([] if alone else spread), *tests, *rest)


def _check() -> int:
    """Run every check, even after a failure. Return 1 if any check failed."""
    failed: list[str] = []
    for name, argv in CHECKS.items():
        started = time.monotonic()
        code = subprocess.run([sys.executable, *argv], cwd=ROOT, check=False).returncode
        print(f"{name}: {'failed' if code else 'passed'} in {time.monotonic() - started:.1f} s")
        failed += [name] if code else []
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


def _chaos(rest: Sequence[str]) -> int:
    if (ROOT / "tests" / "chaos").exists():
        os.chdir(ROOT)
        _become(sys.executable, "-m", "tests.chaos", *rest)
    print("chaos is in the repository only: there is no tests/ here", file=sys.stderr)
    return 2


def _become(program: str | Path, *arguments: str | Path) -> NoReturn:
    """Replace this process with another program, which gets Ctrl-C and gives the exit status."""
    os.execv(program, [str(program), *map(str, arguments)])  # noqa: S606
