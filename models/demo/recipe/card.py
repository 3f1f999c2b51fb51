"""The model card: every figure in it comes from evaluation.json.

README.md beside the weights is what `card` makes of that file; a test holds the two together.
Only the prose about failures is written by hand, after looking at pictures: failures.md.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

WEIGHTS: Final = Path(__file__).parents[1]
EVALUATION: Final = WEIGHTS / "evaluation.json"
TEMPLATE: Final = Path(__file__).with_name("card.md")
FAILURES: Final = Path(__file__).with_name("failures.md")

# The bars of the demo model: figure of the held-out prompts, and the least it should be.
BARS: Final = (("object", 0.90), ("color", 0.90), ("ground", 0.95), ("all_three", 0.80))
PAIR_BAR: Final = 0.60
PSNR_BAR: Final = 28.0
LEVERS: Final = (
    ("Guidance", "guidance", "guidance"),
    ("Steps", "steps", "steps"),
    ("Samplers", "samplers", "sampler"),
    ("Other shapes (height, width)", "shapes", "shape"),
)
KINDS: Final = ("object", "color", "ground", "size", "all_three")
Figures = dict[str, Any]


def card(figures: Figures, failures: str) -> str:
    return TEMPLATE.read_text().format(
        **figures["defaults"],
        **figures["model"],
        **figures["training"],
        bars=_bars(figures),
        levers=_levers(figures),
        failures=failures,
    )


def committed_card() -> str:
    return card(json.loads(EVALUATION.read_text()), FAILURES.read_text())


def _bars(figures: Figures) -> str:
    held, seen, pairs = figures["held_out"], figures["seen"], figures["pairs"]
    bars = dict(BARS)
    rows = [
        (
            kind.replace("_", " "),
            _share(held[kind]),
            _share(seen[kind]),
            _bar(held, bars, kind),
        )
        for kind in KINDS
    ]
    vae, both = figures["vae"]["psnr_db"], pairs["both_objects"]
    judge = {kind: _share(value) for kind, value in figures["judge"]["accuracy"].items()}
    return (
        f"Share of images that are right: default settings, {held['prompts']} prompts of held-out "
        f"triples and {seen['prompts']} of seen ones.\n"
        + _table(("right", "held out", "seen", "bar"), rows)
        + f"\n- Two objects ({pairs['prompts']} prompts): both objects {_share(both)}"
        f" (bar {_share(PAIR_BAR)}: {_met(both, PAIR_BAR)}), with both colours"
        f" {_share(pairs['both_objects_and_colors'])}, from left to right as they were named"
        f" {_share(pairs['in_order'])}, ground {_share(pairs['ground'])}.\n"
        f"- VAE: PSNR {vae:.1f} dB on held-out scenes (bar {PSNR_BAR:.0f}:"
        f" {_met(vae, PSNR_BAR)}).\n"
        f"- The judge, on {figures['judge']['scenes']} fresh rendered scenes: object"
        f" {judge['object']}, colour {judge['color']}, ground {judge['ground']}, size"
        f" {judge['size']}; of two objects, {judge['left_object']} and"
        f" {judge['right_object']}. Its errors count as the model's.\n"
    )


def _levers(figures: Figures) -> str:
    measured = [row for row in LEVERS if row[1] in figures]
    missing = [row[0].lower() for row in LEVERS if row[1] not in figures]
    few = figures["guidance"][0]["prompts"]
    return (
        f"\n## Settings\nEach row: {few} held-out prompts; "
        "the other settings have their defaults.\n"
        + "".join(
            f"\n### {title}\n" + _table((lever, *KINDS), _rows(figures[name], lever))
            for title, name, lever in measured
        )
        + "\n![Quality by guidance, steps and sampler](levers.png)\n\n"
        + (f"- Not measured for these weights: {', '.join(missing)}.\n" if missing else "")
        + _negative(figures["negative"])
        + _diversity(figures["diversity"])
    )


def _negative(row: Figures) -> str:
    return (
        f"- Negative prompt: with no colour asked for, {_share(row['share'])} of"
        f" {row['prompts']} images were {row['color']}; with the negative prompt"
        f' "{row["color"]}", {_share(row["share_when_negative"])}.\n'
    )


def _diversity(row: Figures) -> str:
    return (
        f"- Seeds: {row['seeds']} images of each of {row['prompts']} prompts are"
        f" {row['rms_distance_mean']} grey levels (of 255) apart on average, the nearest two"
        f" {row['rms_distance_least']} (root mean square of 32x32 thumbnails).\n"
    )


def _rows(rows: Iterable[Figures], lever: str) -> list[tuple[str, ...]]:
    return [(_value(row[lever]), *(_share(row[kind]) for kind in KINDS)) for row in rows]


def _value(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else f"{value}"


def _bar(held: Figures, bars: dict[str, float], kind: str) -> str:
    return f"{_share(bars[kind])}: {_met(held[kind], bars[kind])}" if kind in bars else "-"


def _met(value: float, bar: float) -> str:
    return "reached" if value >= bar else "**not reached**"


def _share(value: float) -> str:
    return f"{value:.1%}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
