"""Groups of runs that differ only in their seed, and the pairs of groups to compare."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cpg_lightning.studies.reading import FACTORS, Part
from cpg_lightning.studies.scores import EvaluatedRun

PLAIN = "ce"  # readable name of plain cross-entropy


@dataclass
class Group:
    """Runs of one experiment key.

    Attributes:
        key: Experiment key.
        label: Readable name, unique among the groups.
        short: Names of the parts in which the groups differ, such as ``lraspp, ce+cpg1``; unique among the groups.
        parts: The parts of the experiment, by factor.
        runs: Finished runs, by seed.
        unfinished: Seeds of unfinished runs.
    """

    key: str
    label: str
    parts: dict[str, Part]
    short: str = ""
    runs: dict[int, EvaluatedRun] = field(default_factory=dict)
    unfinished: set[int] = field(default_factory=set)

    @property
    def slug(self) -> str:
        """The label, usable in a file name."""
        return re.sub(r"[^\w.+-]", "_", self.label, flags=re.ASCII)[:80]

    def scores(self, score: str) -> dict[int, float]:
        """A score by seed, for the seeds that have it."""
        return {seed: run.scores[score] for seed, run in sorted(self.runs.items()) if score in run.scores}


@dataclass(frozen=True)
class Pair:
    """Two groups to compare; differences are b minus a. The name shows the difference, e.g. ``ce+cpg1 against ce``."""

    a: Group
    b: Group
    name: str


def grouped(runs: Iterable[EvaluatedRun]) -> tuple[list[Group], list[str]]:
    """The groups, sorted by label, and one sentence per run that is not used. Runs without scores are unfinished."""
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
            notes.append(f"{run.folder} is not used: it has the same key and the same seed {run.seed} as {used}")
        else:
            group.runs[run.seed] = each
    slugs = [group.slug.lower() for group in groups.values()]
    for group in list(groups.values()):
        if slugs.count(group.slug.lower()) > 1:
            group.label = f"{group.label[:60]} ({group.key[:8]})"
    _name_shortly(list(groups.values()))
    return sorted(groups.values(), key=lambda group: (group.label, group.key)), notes


def _name_shortly(groups: Sequence[Group]) -> None:
    varying = _varying(groups)
    names = [", ".join(group.parts[factor].name for factor in varying) for group in groups]
    for group, name in zip(groups, names, strict=True):
        group.short = name if name and names.count(name) == 1 else group.label


def _varying(groups: Iterable[Group]) -> list[str]:
    """The factors in which the groups differ."""
    listed = list(groups)
    return [factor for factor in FACTORS if len({group.parts[factor].digest for group in listed}) > 1]


def differing(a: Group, b: Group) -> list[str]:
    """The factors in which two groups differ."""
    return [factor for factor in FACTORS if a.parts[factor].digest != b.parts[factor].digest]


def families(groups: Sequence[Group]) -> list[tuple[str, list[tuple[str, Group]]]]:
    """Families of groups that differ only in their criterion: the title of each, and its groups with short labels."""
    found: dict[tuple[str, ...], list[Group]] = {}
    others = [factor for factor in FACTORS if factor != "criterion"]
    for group in groups:
        found.setdefault(tuple(group.parts[factor].digest for factor in others), []).append(group)
    varying = [factor for factor in _varying(groups) if factor in others]
    titled: list[tuple[str, list[tuple[str, Group]]]] = []
    for family in found.values():
        names = [family[0].parts[factor].name for factor in varying or ("data", "network")]
        criteria = [group.parts["criterion"].name for group in family]
        short = criteria if len(set(criteria)) == len(criteria) else [group.label for group in family]
        ordered = sorted(zip(short, family, strict=True), key=lambda each: (each[0] != PLAIN, each[0]))
        title = ", ".join(dict.fromkeys(names))
        same = any(title == other for other, _ in titled)  # different digests with the same names
        titled.append((f"{title} ({family[0].key[:8]})" if same else title, ordered))
    return titled


def chosen_pairs(
    groups: Sequence[Group], baseline: str | None = None, all_pairs: bool = False
) -> tuple[list[Pair], list[str]]:
    """The pairs (a, b) of groups to compare, and one sentence per group without a pair.

    By default, each group is compared with plain cross-entropy, all other parts being the same.

    Args:
        groups: The groups.
        baseline: Label or key of a group. The groups that differ from it in one factor are compared with it.
        all_pairs: Whether to compare all pairs that differ in one factor.

    Raises:
        ValueError: If the baseline does not exist.
    """
    if baseline is not None:
        bases = [_named(groups, baseline)]
    elif all_pairs:
        bases = list(groups)
    else:
        bases = [group for group in groups if group.parts["criterion"].name == PLAIN]
    varying = _varying(groups)
    pairs: list[Pair] = []
    for base in bases:
        for group in groups:
            factors = differing(base, group)
            fits = factors == ["criterion"] if baseline is None and not all_pairs else len(factors) == 1
            if fits and not any(pair.a is group and pair.b is base for pair in pairs):
                pairs.append(Pair(base, group, _pair_name(base, group, factors[0], varying)))
    return pairs, _not_compared(groups, bases, pairs)


def _pair_name(a: Group, b: Group, factor: str, varying: Sequence[str]) -> str:
    names = [group.parts[factor].name for group in (b, a)]
    if names[0] == names[1] or a.label in (a.short, b.short) or b.label == b.short:
        return f"{b.short} against {a.short}"
    shared = ", ".join(a.parts[other].name for other in varying if other != factor)
    return " against ".join(names) + (f" ({shared})" if shared else "")


def _not_compared(groups: Sequence[Group], bases: Sequence[Group], pairs: Sequence[Pair]) -> list[str]:
    compared = {group.key for pair in pairs for group in (pair.a, pair.b)}
    notes = []
    for group in groups:
        others = [base for base in bases if base is not group]
        if group.key in compared or len(groups) == 1 or (bases and not others):
            continue
        if not others:
            reason = f"no group has plain cross-entropy (criterion {PLAIN}); choose another baseline with --baseline"
        else:
            nearest = min(others, key=lambda base: len(differing(base, group)))
            reason = _difference(nearest, group)
        notes.append(f"{group.short} is not compared: {reason}")
    return notes


def _difference(base: Group, group: Group) -> str:
    factors = differing(base, group)
    if not factors:
        return (
            f"it has the same parts as {base.short} but another key, because another version of cpg_lightning wrote it"
        )
    remedy = "; --all_pairs compares them" if len(factors) == 1 else ""
    return f"it differs from {base.short} in {', '.join(factors)}{remedy}"


def _named(groups: Sequence[Group], name: str) -> Group:
    found = [group for group in groups if name in (group.label, group.short, group.key)]
    found = found or [group for group in groups if len(name) >= 4 and group.key.startswith(name)]
    if len(found) != 1:
        listed = "\n".join(f"  {group.label} (key {group.key})" for group in groups)
        raise ValueError(f"expected the baseline to be one of these groups, got {name!r}:\n{listed}")
    return found[0]
