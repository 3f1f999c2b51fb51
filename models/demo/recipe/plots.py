"""The two plots of the model card: effect of steps, guidance and sampler; loss over training."""

import csv
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

KINDS = ("object", "color", "ground", "all_three")


def plot_levers(figures: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), sharey=True, layout="constrained")
    for axis, lever in zip(axes[:2], ("guidance", "steps"), strict=True):
        rows = figures[lever]
        for kind in KINDS:
            axis.plot([row[lever] for row in rows], [row[kind] for row in rows], "o-", label=kind)
        axis.set_xlabel(lever)
    axes[1].set_xscale("log")
    rows = figures.get("samplers", [])
    for kind in KINDS:
        axes[2].plot([row["sampler"] for row in rows], [row[kind] for row in rows], "o")
    axes[0].set_ylabel("share right")
    axes[0].set_ylim(0, 1.02)
    axes[0].legend(fontsize=8)
    _save(figure, path)


def plot_loss(log: Path, path: Path) -> None:
    with log.open(newline="") as file:
        rows = [(int(row[1]), float(row[2])) for row in csv.reader(file)]
    figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
    axis.plot(*zip(*rows, strict=True))
    axis.set_xlabel("pictures")
    axis.set_ylabel("loss (running mean)")
    axis.set_yscale("log")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=80)
    plt.close(figure)
