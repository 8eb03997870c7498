"""Plots of studies: scores over epochs, class differences, and mIoU against the distance from the boundary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cpg_lightning.studies.statistics import Array

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, DPI = 8, 100  # inches, dots per inch: 800 pixels
# Okabe and Ito's colours, which are distinct for colour-blind people. Line styles and markers differ too.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX"
MOST_CLASSES = 25  # in one picture


@dataclass(frozen=True)
class Curve:
    """Scores of a group.

    Attributes:
        label: Name of the group.
        x: Position of each score, (K): an epoch, or an index.
        scores: One row per seed, float64 (S, K); NaN for a missing score.
    """

    label: str
    x: Sequence[float]
    scores: Array


Panels = Mapping[str, Sequence[Curve]]  # by title


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, 800 pixels wide."""
    figure.savefig(path, dpi=DPI, format="png")


def curves_over_epochs(panels: Panels, score: str) -> Figure:
    """Mean over seeds at each epoch, with bands of one standard deviation. Low scores of early epochs are cut off."""
    figure, places = _panels(panels)
    styles = _styles(panels)
    for axes, curves in zip(places, panels.values(), strict=True):
        lowest = np.inf
        for curve in curves:
            colour, line, _ = styles[curve.label]
            mean, deviation = _mean_and_deviation(curve.scores)
            axes.plot(curve.x, mean, color=colour, linestyle=line, label=curve.label)
            axes.fill_between(curve.x, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)
            lowest = min(lowest, float((mean - deviation)[len(mean) // 4 :].min()))
        axes.locator_params(axis="x", integer=True)
        axes.set_ylim(bottom=max(axes.get_ylim()[0], lowest))
        axes.set(xlabel="epoch", ylabel=score)
    _add_legend(figure, panels)
    return figure


def boundary_distance(panels: Panels, places: Sequence[str]) -> Figure:
    """MIoU of the pixels within several distances of the boundary: mean over seeds and one standard deviation.

    Args:
        panels: Curves whose x are indices of ``places``.
        places: Labels of the distances, such as "1", "3", "all".
    """
    figure, all_axes = _panels(panels)
    styles = _styles(panels)
    for axes, curves in zip(all_axes, panels.values(), strict=True):
        for index, curve in enumerate(curves):
            colour, line, marker = styles[curve.label]
            mean, deviation = _mean_and_deviation(curve.scores)
            offset = 0.06 * (index - (len(curves) - 1) / 2)  # keeps error bars apart
            axes.errorbar(
                np.add(curve.x, offset),
                mean,
                deviation,
                color=colour,
                linestyle=line,
                marker=marker,
                markersize=5,
                capsize=3,
                label=curve.label,
            )
        axes.set_xticks(range(len(places)), places)
        axes.set(xlabel="within this distance of the boundary, pixels", ylabel="mIoU, %")
    _add_legend(figure, panels)
    return figure


def class_differences(title: str, classes: Sequence[str], by_seed: Array, by_image: Array, seeds: int) -> Figure:
    """Bar chart of the difference of each class, the largest value at the top, with both intervals.

    Args:
        title: Title of the comparison.
        classes: Names of the classes.
        by_seed: Difference, lower and upper end of its interval over seeds, percentage points (C, 3); NaN without an
            interval.
        by_image: Difference, lower and upper end of its bootstrap interval over images, percentage points (C, 3).
        seeds: Number of seeds.
    """
    known = np.flatnonzero(~np.isnan(by_image[:, 0]))
    chosen = known[np.argsort(-np.abs(by_image[known, 0]), kind="stable")][:MOST_CLASSES]
    chosen = chosen[np.argsort(by_image[chosen, 0], kind="stable")]
    figure = _figure(WIDTH, 1.9 + 0.3 * len(chosen))
    axes = _plain(figure.subplots())
    rows, values = np.arange(len(chosen)), by_image[chosen]
    axes.barh(rows, values[:, 0], color=np.where(values[:, 0] < 0, "#E8B08C", "#8CB8D8"), height=0.7)
    axes.hlines(rows - 0.15, *values[:, 1:].T, color="#D55E00", linewidth=1.5, label="95 % interval over images")
    if seeds > 1:
        label = f"95 % interval over {seeds} seeds"
        axes.hlines(rows + 0.15, *by_seed[chosen, 1:].T, color="#000000", linewidth=2.5, label=label)
    axes.axvline(0, color="0.3", linewidth=0.8)
    # With few seeds, an interval can be so wide that it hides all other values. It is then cut at the edge.
    reach = max(2.5 * float(np.nanmax(np.abs(values), initial=0)), 0.1)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -reach), min(high, reach))
    axes.set_yticks(rows, [_literal(classes[index]) for index in chosen])
    axes.set_ylim(-0.6, len(chosen) - 0.4)
    left_out = f" ({len(chosen)} of {len(known)} classes, the largest differences)" if len(chosen) < len(known) else ""
    axes.set(xlabel=f"difference of IoU, percentage points{left_out}")
    axes.set_title(_literal(title), fontsize=11)
    axes.grid(axis="x", color="0.9")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _figure(width: float, height: float) -> Figure:
    """An empty figure; width and height are in inches."""
    from matplotlib.figure import Figure  # only here: few commands draw

    return Figure((width, height), layout="constrained")


def _panels(panels: Panels) -> tuple[Figure, list[Axes]]:
    """A figure with axes for each panel, two per row."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure(WIDTH, 3.9 * rows + 0.4)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[len(panels) :]:
        spare.remove()
    for each, title in zip(axes, panels, strict=False):
        _plain(each).set_title(_literal(title), fontsize=11)
        each.grid(color="0.9")
    return figure, axes[: len(panels)]


def _plain(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return axes


def _styles(panels: Panels) -> dict[str, tuple[str, str, str]]:
    """Colour, line style and marker of each label, the same in all panels."""
    labels = dict.fromkeys(curve.label for curves in panels.values() for curve in curves)
    return {
        label: (COLOURS[index % len(COLOURS)], STYLES[index % len(STYLES)], MARKERS[index % len(MARKERS)])
        for index, label in enumerate(labels)
    }


def _mean_and_deviation(scores: Array) -> tuple[Array, Array]:
    """Mean and standard deviation over the seeds; the deviation is 0 for one seed."""
    mean = scores.mean(axis=0)
    return mean, scores.std(axis=0, ddof=1) if len(scores) > 1 else np.zeros_like(mean)


def _add_legend(figure: Figure, panels: Panels) -> None:
    """One legend below all panels, with the number of seeds of each label."""
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    names = []
    for label in handles:
        seeds = sorted({len(curve.scores) for curves in panels.values() for curve in curves if curve.label == label})
        number = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        names.append(f"{_literal(label)} ({number} seed{'s'[: seeds[-1] > 1]})")
    figure.legend(list(handles.values()), names, loc="outside lower center", ncols=min(3, len(names)), frameon=False)


def _literal(text: str) -> str:
    """The text without matplotlib's math mode."""
    return text.replace("$", r"\$")
