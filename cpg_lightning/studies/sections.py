"""The sections of a report."""

import math
import re
from collections.abc import Sequence

import numpy as np

from cpg_lightning.studies import wording
from cpg_lightning.studies.analysis import Analysis
from cpg_lightning.studies.document import Block, Heading, Picture, Table, Text
from cpg_lightning.studies.groups import Group, families
from cpg_lightning.studies.scores import BOUNDARY_IOU, FRACTION, MIOU, shown

MOST_CLASSES = 20  # in a table; classes.csv has all


def sections(analysis: Analysis, command: str, pictures: Sequence[Picture]) -> list[Block]:
    """The complete report, including the command that wrote it."""
    drawn: list[Block] = [Heading("Pictures"), *pictures] if pictures else []
    written: list[Block] = [Heading("Report", 1), Text([f"Written by: {command}"])]
    return [*written, *answers(analysis), *_classes(analysis), *drawn, *notes(analysis)]


def answers(analysis: Analysis) -> list[Block]:
    """The scores and the conclusions."""
    return [*_head(analysis), *_scores(analysis), *_by_seed(analysis), *_by_image(analysis), *_both(analysis)]


def notes(analysis: Analysis) -> list[Block]:
    """The section on missing or unequal data; empty if there are none."""
    if not analysis.notes:
        return []
    return [Heading("Missing or unequal data"), Text(analysis.notes, points=True)]


def _head(analysis: Analysis) -> list[Block]:
    runs, groups = len(analysis.finished), sum(bool(group.runs) for group in analysis.groups)
    found = f"{runs} finished run{'s'[: runs != 1]} in {groups} group{'s'[: groups != 1]}."
    epoch = "Scores are of each run's last epoch."
    if analysis.best:
        epoch = (
            f"Scores are of each run's best epoch by {MIOU}. The epoch is chosen with the same images as the scores, "
            "so the scores are a little too high."
        )
    explained = f"A group is one experiment over several seeds. {epoch} IoU and F1 are in percent."
    return [Text([f"{found} {explained}"]), Heading("Groups"), *_groups(analysis.groups)]


def _groups(groups: Sequence[Group]) -> list[Block]:
    """The names and the seeds of each group."""
    seeds_of_family = {
        group.key: {seed for _, each in family for seed in (*each.runs, *each.unfinished)}
        for _, family in families(groups)
        for _, group in family
    }
    rows = []
    for group in groups:
        missing = seeds_of_family[group.key] - {*group.runs, *group.unfinished}
        seeds = [", ".join(map(str, sorted(each))) or "-" for each in (group.runs, group.unfinished, missing)]
        rows.append([group.short, *seeds])
    experiments = [[group.short, group.label, group.key] for group in groups]
    return [
        Table(["group", "seeds", "not finished", "missing"], rows, left=4),
        Table(["group", "experiment", "key"], experiments, left=3, in_terminal=False),
    ]


def _scores(analysis: Analysis) -> list[Block]:
    """Mean and standard deviation of all scores, split into narrow tables."""
    tables: dict[str, list[str]] = {}
    for score in analysis.scores:
        main = score in (analysis.scores[0], MIOU, BOUNDARY_IOU)
        tables.setdefault("main" if main else re.split(r"[/^]", score)[1], []).append(score)
    explained = (
        "Mean and standard deviation over seeds. mIoU^I is the mean IoU of each image, averaged over images. mIoU^C is the mean "
        "IoU of each class over images, averaged over classes. mIoU^I_worst is the mean of mIoU^I over the worst 5 % of the "
        "images (Wang et al., 2023)."
    )
    blocks: list[Block] = [Heading("Scores"), Text([explained])]
    for name, scores in tables.items():
        rows = [
            [group.short, *(_mean_and_deviation(group, score) for score in scores)]
            for group in analysis.groups
            if group.runs
        ]
        blocks.append(Table(["group", *map(_short, scores)], rows, in_terminal=name in ("main", "mIoU")))
    return blocks


def _mean_and_deviation(group: Group, score: str) -> str:
    values = list(group.scores(score).values())
    if not values:
        return "-"
    text = shown(score, float(np.mean(values)))
    if len(values) > 1:
        text += f" ± {shown(score, float(np.std(values, ddof=1)))}"
    return text if len(values) == len(group.runs) else f"{text} ({len(values)} of {len(group.runs)} seeds)"


def _by_seed(analysis: Analysis) -> list[Block]:
    primary = [each for each in analysis.by_seed if each.score == analysis.scores[0]]
    blocks: list[Block] = [Heading(f"{wording.BY_SEED} ({_short(analysis.scores[0])})")]
    if not primary:
        return [*blocks, Text(["No two groups can be compared."])]
    rows = [
        [
            each.pair.name,
            _short(each.score),
            wording.seeds_of(each),
            shown(each.score, each.result.difference, sign=True),
            _interval(each.score, each.result.low, each.result.high),
            *(_number(value) for value in (each.result.t, each.result.p, each.p_holm)),
        ]
        for each in analysis.by_seed
    ]
    columns = ["comparison", "score", "seeds", "difference", "95 % interval", "t", "p", "p (Holm)"]
    unit = "percentage points" if FRACTION.fullmatch(analysis.scores[0]) else "the score's unit"
    return [
        *blocks,
        Text([f"{wording.BY_SEED_METHOD} Differences are in {unit}."]),
        Text([wording.seed_conclusion(each) for each in primary], points=True),
        *([Text([wording.OTHER_SCORES])] if len(analysis.scores) > 1 else []),
        Table(columns, rows, left=2, in_terminal=False),
    ]


def _by_image(analysis: Analysis) -> list[Block]:
    if not analysis.by_image:
        return []
    rows = [
        [
            each.pair.name,
            _short(each.score),
            str(len(each.seeds)),
            str(each.result.images),
            shown(each.score, each.result.difference, sign=True),
            _interval(each.score, each.result.low, each.result.high),
        ]
        for each in analysis.by_image
    ]
    columns = ["comparison", "score", "seeds", "images", "difference", "95 % interval"]
    primary = analysis.primary_by_image
    return [
        Heading(f"{wording.BY_IMAGE} ({_short(primary[0].score)})"),
        Text([wording.BY_IMAGE_METHOD]),
        Text([wording.image_conclusion(each) for each in primary], points=True),
        Table(columns, rows, left=2, in_terminal=False),
    ]


def _both(analysis: Analysis) -> list[Block]:
    """The joint conclusion from both comparisons."""
    meanings: dict[str, list[str]] = {}
    for by_seed in analysis.by_seed:
        for by_image in analysis.by_image:
            if by_seed.score == by_image.score == analysis.scores[0] and by_seed.pair is by_image.pair:
                meanings.setdefault(wording.agreement(by_seed, by_image), []).append(by_seed.pair.name)
    lines = [f"{meaning}: {'; '.join(names)}." for meaning, names in meanings.items()]
    return [Heading("Both answers together"), Text(lines, points=True)] if lines else []


def _classes(analysis: Analysis) -> list[Block]:
    blocks: list[Block] = []
    for each in analysis.primary_by_image:
        values = each.result.classes
        known = np.flatnonzero(~np.isnan(values[:, 0]))
        order = known[np.argsort(-np.abs(values[known, 0]), kind="stable")][:MOST_CLASSES]
        rows = [
            [
                each.classes[index],
                shown(each.score, values[index, 0], sign=True),
                _interval(each.score, *each.by_seed[index, 1:]),
                _interval(each.score, *values[index, 1:]),
            ]
            for index in order
        ]
        title = f"{each.pair.name}, {_short(each.score)}"
        if len(order) < len(known):
            title += f"; the {len(order)} of {len(known)} classes with the largest differences, all are in classes.csv"
        columns = ["class", "difference", "interval over seeds", "interval over images"]
        blocks += [Text([title]), Table(columns, rows)]
    if not blocks:
        return []
    explained = (
        "The intervals are not corrected for the number of classes. Among 20 classes without a difference, about one interval "
        "excludes 0."
    )
    return [Heading("Classes"), Text([explained]), *blocks]


def _interval(score: str, low: float, high: float) -> str:
    return "-" if math.isnan(low) else f"{shown(score, low)} to {shown(score, high)}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _short(score: str) -> str:
    return re.sub("^val/", "", score)
