"""Groups of runs that differ in their seed alone, and which of them are compared."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cpg_lightning.studies.reading import FACTORS, Part
from cpg_lightning.studies.scores import EvaluatedRun

PLAIN = "ce"  # the readable name of plain cross-entropy


@dataclass
class Group:
    """Runs of one experiment key.

    Attributes:
        key: Experiment key.
        label: Readable name, different from those of other groups.
        parts: The parts of the experiment, by factor.
        runs: Finished runs, by seed.
        unfinished: Seeds whose run has not finished.
    """

    key: str
    label: str
    parts: dict[str, Part]
    runs: dict[int, EvaluatedRun] = field(default_factory=dict)
    unfinished: set[int] = field(default_factory=set)

    @property
    def slug(self) -> str:
        """The label as a part of a file's name."""
        return re.sub(r"[^\w.+-]", "_", self.label, flags=re.ASCII)[:80]

    def scores(self, score: str) -> dict[int, float]:
        """A score of each seed that has it."""
        return {seed: run.scores[score] for seed, run in sorted(self.runs.items()) if score in run.scores}


def grouped(runs: Iterable[EvaluatedRun]) -> tuple[list[Group], list[str]]:
    """The groups, by label, and which runs are not used, a sentence each. Runs without scores are unfinished."""
    groups: dict[str, Group] = {}
    notes = []
    for each in sorted(runs, key=lambda each: (each.run.scores is None, str(each.run.folder))):
        run = each.run
        group = groups.setdefault(run.key, Group(run.key, run.name, run.parts))
        if run.scores is None:
            if run.seed not in group.runs:
                group.unfinished.add(run.seed)
        elif run.seed in group.runs:
            used = group.runs[run.seed].run.folder
            notes.append(f"{run.folder} is not used: it has the key and the seed {run.seed} of {used}")
        else:
            group.runs[run.seed] = each
    slugs = [group.slug.lower() for group in groups.values()]
    for group in list(groups.values()):
        if slugs.count(group.slug.lower()) > 1:
            group.label = f"{group.label[:60]} ({group.key[:8]})"
    return sorted(groups.values(), key=lambda group: (group.label, group.key)), notes


def differing(a: Group, b: Group) -> list[str]:
    """The factors in which two groups differ."""
    return [factor for factor in FACTORS if a.parts[factor].digest != b.parts[factor].digest]


def families(groups: Sequence[Group]) -> list[tuple[str, list[tuple[str, Group]]]]:
    """The groups that differ in their criterion alone: a title for each family, and its groups with short labels."""
    found: dict[tuple[str, ...], list[Group]] = {}
    others = [factor for factor in FACTORS if factor != "criterion"]
    for group in groups:
        found.setdefault(tuple(group.parts[factor].digest for factor in others), []).append(group)
    varying = [factor for factor in others if len({group.parts[factor].digest for group in groups}) > 1]
    titled = []
    for family in found.values():
        names = [family[0].parts[factor].name for factor in varying or ("data", "network")]
        criteria = [group.parts["criterion"].name for group in family]
        short = criteria if len(set(criteria)) == len(criteria) else [group.label for group in family]
        ordered = sorted(zip(short, family, strict=True), key=lambda each: (each[0] != PLAIN, each[0]))
        titled.append((", ".join(dict.fromkeys(names)), ordered))
    return titled


def chosen_pairs(
    groups: Sequence[Group], baseline: str | None = None, all_pairs: bool = False
) -> tuple[list[tuple[Group, Group]], list[str]]:
    """The pairs (a, b) of groups that are compared, and which groups are in none, a sentence each.

    By default each group is compared with plain cross-entropy of the same other parts.

    Args:
        groups: The groups.
        baseline: Label or key of a group that each group is compared with that differs from it in one factor.
        all_pairs: Compare all pairs that differ in one factor.

    Raises:
        ValueError: If there is no such baseline.
    """
    if baseline is not None:
        bases = [_named(groups, baseline)]
    elif all_pairs:
        bases = list(groups)
    else:
        bases = [group for group in groups if group.parts["criterion"].name == PLAIN]
    pairs: list[tuple[Group, Group]] = []
    for base in bases:
        for group in groups:
            factors = differing(base, group)
            fits = factors == ["criterion"] if baseline is None and not all_pairs else len(factors) == 1
            if fits and (group, base) not in pairs:
                pairs.append((base, group))
    return pairs, _not_compared(groups, bases, pairs)


def _not_compared(groups: Sequence[Group], bases: Sequence[Group], pairs: Sequence[tuple[Group, Group]]) -> list[str]:
    compared = {group.key for pair in pairs for group in pair}
    notes = []
    for group in groups:
        others = [base for base in bases if base is not group]
        if group.key in compared or not groups[1:]:
            continue
        if not others:
            notes.append(
                f"{group.label} is not compared: no other group is plain cross-entropy (criterion {PLAIN}); "
                "--baseline names another one"
            )
            continue
        nearest = min(others, key=lambda base: len(differing(base, group)))
        factors = differing(nearest, group)
        reason = f"differs from {nearest.label} in {', '.join(factors)}"
        if not factors:
            reason = f"has the parts of {nearest.label}, but another key: it was run by another version"
        notes.append(f"{group.label} is not compared: it {reason}")
    return notes


def _named(groups: Sequence[Group], name: str) -> Group:
    found = [group for group in groups if name in (group.label, group.key)]
    found = found or [group for group in groups if len(name) >= 4 and group.key.startswith(name)]
    if len(found) != 1:
        listed = "\n".join(f"  {group.label} (key {group.key})" for group in groups)
        raise ValueError(f"expected the baseline to be one of these groups, got {name!r}:\n{listed}")
    return found[0]
