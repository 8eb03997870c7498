"""``cpg report``: comparison of many runs."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from cpg_lightning.studies import plots
from cpg_lightning.studies.analysis import Analysis, analyse
from cpg_lightning.studies.document import Picture, Row, as_markdown, print_document, write_csv
from cpg_lightning.studies.groups import families
from cpg_lightning.studies.plots import Curve
from cpg_lightning.studies.scores import FRACTION, MIOU, TRIMAP
from cpg_lightning.studies.sections import answers, notes, sections


def report(arguments: Sequence[str]) -> int:
    """Compare runs: ``cpg report FOLDERS... [options]``.

    Prints the conclusions, and writes ``report.md``, its pictures, and the numbers as CSV: ``groups.csv``,
    ``comparisons.csv`` (by seed), ``images.csv`` (by image) and ``classes.csv``.

    Args:
        arguments: The arguments after the command's name.

    Returns:
        The exit status: 1 if no run has finished, else 0.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: If there is no run, or the score or the baseline does not exist.
    """
    options = _parser().parse_args(arguments)
    score = options.score if options.score.startswith("val/") else f"val/{options.score}"
    analysis = analyse(options.folders, score, options.baseline, options.best, options.all_pairs)
    console = Console(emoji=False)
    if not analysis.finished:
        print_document(notes(analysis), console)
        console.print("No run has finished: there is nothing to report.")
        return 1
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["cpg", "report", *arguments])
    document = as_markdown(sections(analysis, command, draw(analysis, folder)))
    (folder / "report.md").write_text(document, encoding="utf-8")
    write_tables(analysis, folder)
    print_document([*answers(analysis), *notes(analysis)], console)
    console.print(
        f"report with pictures, and CSV files beside it: {folder / 'report.md'}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return 0


def write_tables(analysis: Analysis, folder: Path) -> None:
    """Write the numbers as CSV, in the unit of each score."""
    groups: list[Row] = []
    for group in analysis.groups:
        for score in analysis.scores:
            values = list(group.scores(score).values())
            if values:
                deviation = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
                groups.append((group.label, score, len(values), float(np.mean(values)), deviation))
    write_csv(folder / "groups.csv", ("group", "score", "seeds", "mean", "std"), groups)
    seeds: list[Row] = []
    for each in analysis.by_seed:
        by_seed = each.result
        interval = (by_seed.difference, by_seed.low, by_seed.high)
        p_values = (by_seed.t, by_seed.p, each.p_holm)
        seeds.append((each.pair.a.label, each.pair.b.label, each.score, by_seed.seeds, *interval, *p_values))
    columns = ("a", "b", "score", "seeds", "difference", "low", "high")
    write_csv(folder / "comparisons.csv", (*columns, "t", "p", "p_holm"), seeds)
    images: list[Row] = []
    classes: list[Row] = []
    for one in analysis.by_image:
        start, result = (one.pair.a.label, one.pair.b.label, one.score), one.result
        images.append((*start, len(one.seeds), result.images, result.difference, result.low, result.high))
        for name, by_image, over_seeds in zip(one.classes, result.classes, one.by_seed, strict=True):
            classes.append((*start, name, *map(float, (*by_image[:1], *over_seeds[1:], *by_image[1:]))))
    write_csv(folder / "images.csv", (*columns[:4], "images", *columns[4:]), images)
    intervals = ("low_by_seed", "high_by_seed", "low_by_image", "high_by_image")
    write_csv(folder / "classes.csv", (*columns[:3], "class", "difference", *intervals), classes)


def draw(analysis: Analysis, folder: Path) -> list[Picture]:
    """Draw the plots for which there are data."""
    score = analysis.scores[0]
    pictures = []
    if panels := _histories(analysis, score):
        unit = ", %" if FRACTION.fullmatch(score) else ""
        plots.save(plots.curves_over_epochs(panels, score.removeprefix("val/") + unit), folder / "curves.png")
        caption = f"{score} at each epoch: mean over seeds, and bands of one standard deviation."
        caption += " Low scores of the first epochs are cut off."
        pictures.append(Picture("curves.png", caption))
    widths = sorted({int(found[1]) for name in analysis.scores if (found := TRIMAP.fullmatch(name))})
    if panels := _distances(analysis, widths):
        figure = plots.boundary_distance(panels, [*map(str, widths), "all"])
        plots.save(figure, folder / "boundary.png")
        caption = "mIoU of the pixels near boundaries, and of all: mean over seeds with one standard deviation."
        pictures.append(Picture("boundary.png", caption))
    for each in analysis.primary_by_image:
        title = f"{each.pair.name}: {each.score.removeprefix('val/')}"
        by_seed, by_image = 100 * each.by_seed, 100 * each.result.classes
        file = f"classes_{each.pair.b.slug}_against_{each.pair.a.slug}.png"
        plots.save(plots.class_differences(title, each.classes, by_seed, by_image, len(each.seeds)), folder / file)
        pictures.append(Picture(file, f"IoU of each class, {each.pair.name}: mean difference over seeds."))
    return pictures


def _histories(analysis: Analysis, score: str) -> dict[str, list[Curve]]:
    """The score of each group at the epochs that all runs of the group have."""
    panels: dict[str, list[Curve]] = {}
    scale = 100 if FRACTION.fullmatch(score) else 1
    for title, family in families([group for group in analysis.groups if group.runs]):
        for label, group in family:
            histories = [history for each in group.runs.values() if (history := each.run.history.get(score))]
            epochs = sorted(set.intersection(*map(set, histories))) if histories else []
            if epochs:
                values = np.array([[history[epoch] for epoch in epochs] for history in histories])
                panels.setdefault(title, []).append(Curve(label, epochs, scale * values))
    return panels


def _distances(analysis: Analysis, widths: Sequence[int]) -> dict[str, list[Curve]]:
    """The mIoU of each group within bands around the boundary and over all pixels, for runs that have all scores."""
    panels: dict[str, list[Curve]] = {}
    names = [*(f"val/trimap_mIoU/{width}px" for width in widths), MIOU]
    for title, family in families([group for group in analysis.groups if group.runs]) if widths else []:
        for label, group in family:
            rows = [
                [run.scores[name] for name in names] for run in group.runs.values() if run.scores.keys() >= {*names}
            ]
            if rows:
                panels.setdefault(title, []).append(Curve(label, range(len(names)), 100 * np.array(rows)))
    return panels


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cpg report",
        description="Compare groups of runs: scores, differences by seed and by image, and conclusions.",
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="folder of a run, or a folder that contains runs")
    parser.add_argument(
        "--output", default="report", metavar="FOLDER", help="output folder of the report (default: %(default)s)"
    )
    parser.add_argument("--score", default=MIOU, help="the primary score (default: %(default)s)")
    parser.add_argument(
        "--baseline",
        metavar="GROUP",
        help="name or key of a group. Groups that differ from it in only one of data, network, criterion, recipe and inference "
        "are compared with it (default: the group with plain cross-entropy and the same other parts)",
    )
    parser.add_argument(
        "--all_pairs", action="store_true", help="compare all groups that differ in only one of these parts"
    )
    parser.add_argument("--best", action="store_true", help=f"use each run's best epoch by {MIOU}, not its last")
    return parser
