"""Analysis of run folders: groups, scores and comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cpg_lightning.studies.comparisons import ImageComparison, SeedComparison, compare_by_image, compare_by_seed
from cpg_lightning.studies.groups import Group, chosen_pairs, differing, grouped
from cpg_lightning.studies.reading import Run, read_runs
from cpg_lightning.studies.scores import MIOU, EvaluatedRun, evaluated, reported_scores


@dataclass
class Analysis:
    """Groups, scores and comparisons of the runs in some folders.

    Attributes:
        groups: Groups of runs that differ only in their seed.
        scores: Log keys of the scores, the primary one first.
        best: Whether scores are of each run's best epoch instead of its last.
        by_seed: Comparisons by seed, for all scores.
        by_image: Comparisons by image, for mIoU and boundary IoU.
        notes: Missing or unequal data, one sentence each.
    """

    groups: list[Group]
    scores: list[str]
    best: bool
    by_seed: list[SeedComparison]
    by_image: list[ImageComparison]
    notes: list[str]

    @property
    def finished(self) -> list[EvaluatedRun]:
        """The finished runs of all groups."""
        return [run for group in self.groups for run in group.runs.values()]

    @property
    def primary_by_image(self) -> list[ImageComparison]:
        """The comparisons by image of the primary score, or of mIoU if the primary score has none."""
        of_primary = [each for each in self.by_image if each.score == self.scores[0]]
        return of_primary or [each for each in self.by_image if each.score == MIOU]


def analyse(
    folders: Sequence[str | Path],
    score: str = MIOU,
    baseline: str | None = None,
    best: bool = False,
    all_pairs: bool = False,
    draws: int = 10_000,
) -> Analysis:
    """Read runs, group them by their experiment and compare the groups.

    Args:
        folders: Run folders, or folders that contain run folders.
        score: Log key of the primary score.
        baseline: Group that others are compared with; see :func:`~cpg_lightning.studies.groups.chosen_pairs`.
        best: Whether scores are of each run's best epoch by ``val/mIoU`` instead of its last.
        all_pairs: Whether to compare all groups that differ in one factor.
        draws: Number of bootstrap draws.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: If there is no run, or the score or the baseline does not exist.
    """
    runs, notes = read_runs(folders)
    chosen = [evaluated(run, best) if run.scores is not None else EvaluatedRun(run, None, {}) for run in runs]
    for each in chosen:
        if each.run.scores is None:
            notes.append(f"{each.run.folder}: not finished, {_progress(each.run)}; it is not used")
        notes.extend(each.notes)
    groups, unused = grouped(chosen)
    notes += [*unused, *_unequal(groups)]
    finished = [run for group in groups for run in group.runs.values()]
    names = sorted({name for run in finished for name in run.scores})
    if finished and score not in names:
        raise ValueError(f"expected the score to be one of {', '.join(names) or 'none'}, got {score!r}")
    pairs, pair_notes = chosen_pairs([group for group in groups if group.runs], baseline, all_pairs)
    for pair in pairs:
        if differing(pair.a, pair.b) == ["data"]:
            pair_notes.append(
                f"{pair.name}: the groups were evaluated on different data, so their scores may not be comparable"
            )
    scores = reported_scores(finished, score)
    by_seed, unpaired = compare_by_seed(pairs, scores)
    by_image, uncounted = compare_by_image(pairs, draws)
    return Analysis(groups, scores, best, by_seed, by_image, [*notes, *pair_notes, *unpaired, *uncounted])


def _progress(run: Run) -> str:
    epochs = len(run.history.get(MIOU, {}))
    return f"{epochs} validation{'s'[: epochs != 1]} so far"


def _unequal(groups: Sequence[Group]) -> list[str]:
    """Differences of data or package versions between runs, one sentence each."""
    notes = []
    data: dict[str, list[str]] = {}
    for group in groups:
        part = group.parts["data"]
        data.setdefault(f"{part.name} ({part.digest[:8]})", []).append(group.label)
    if len(data) > 1:
        notes.append("the data are different: " + "; ".join(f"{name}: {', '.join(of)}" for name, of in data.items()))
    runs = [(group, run.run) for group in groups for run in group.runs.values()]
    for package in sorted({package for _, run in runs for package in run.versions}):
        versions: dict[str, list[str]] = {}
        for group, run in runs:
            versions.setdefault(run.versions.get(package, "unknown"), []).append(group.label)
        if len(versions) > 1:
            listed = (
                f"{version} in {len(of)} run{'s'[: len(of) > 1]} of {', '.join(dict.fromkeys(of))}"
                for version, of in versions.items()
            )
            notes.append(f"the versions of {package} are different: {'; '.join(listed)}")
    return notes
