"""cpg report: what it reads, what it computes and what it says."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import counts_of, labels, miou, write_counts, write_identity, write_metrics, write_run, write_summary

from cpg_lightning.studies.analysis import analyse
from cpg_lightning.studies.document import as_markdown
from cpg_lightning.studies.groups import families
from cpg_lightning.studies.report import report
from cpg_lightning.studies.sections import sections
from cpg_lightning.studies.statistics import bootstrap_over_images, fine_grained, holm, paired_by_seed

PUBLIC = json.loads((Path(__file__).parent / "golden" / "paired_study.json").read_text())


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_study(folder):
    """Plain cross-entropy and two others, 3 seeds each, with everything that there can be."""
    for criterion, skill in (("ce", 0.60), ("ce+cpg1", 0.66), ("ce+dice", 0.60)):
        for seed in range(3):
            noise = seed + 10 * len(criterion)
            write_run(folder / f"{criterion}-{seed}", seed, skill, noise=noise, criterion=criterion)


@pytest.fixture
def study(tmp_path):
    """A study that the test may change."""
    write_study(tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study, and its report, which no test changes."""
    folder = tmp_path_factory.mktemp("whole")
    write_study(folder / "study")
    assert report([str(folder / "study"), "--output", str(folder / "report")]) == 0
    return folder / "study", folder / "report"


@pytest.fixture
def reported(tmp_path, capsys):
    """Runs the command; gives its status, what it printed in one line, and where it wrote."""

    def run(*arguments):
        folder = tmp_path / "report"
        status = report([*map(str, arguments), "--output", str(folder)])
        return status, " ".join(capsys.readouterr().out.split()), folder

    return run


def test_the_public_study_is_reproduced_from_its_12_folders(tmp_path, reported):
    for run in PUBLIC["runs"]:
        folder = tmp_path / "runs" / f"{run['group']}-{run['seed']}"
        write_identity(folder, run["seed"], name=run["group"], criterion=PUBLIC["groups"][run["group"]].lower())
        scores = ("mIoU", "boundary_f1_mean", "trimap_mIoU_mean")
        write_summary(folder, {f"val/{score}": run[score] for score in scores})
    status, printed, folder = reported(tmp_path / "runs", "--all_pairs")
    assert status == 0
    found = {(row["a"], row["b"], row["score"]): row for row in rows_of(folder / "comparisons.csv")}
    assert len(found) == len(PUBLIC["comparisons"]) == 18
    for expected in PUBLIC["comparisons"]:
        row = found[expected["a"], expected["b"], f"val/{expected['score']}"]
        for name in ("seeds", "difference", "low", "high", "t", "p", "p_holm"):
            assert float(row[name]) == pytest.approx(expected[name], rel=1e-9, abs=1e-9)
    assert printed.count("no conclusion from these seeds") == 5
    assert "ce+boundary against ce+dice+boundary: 3 seeds: +0.46 (95 % interval 0.29 to 0.63)" in printed


def test_groups_have_mean_and_standard_deviation_over_their_seeds(whole):
    study, folder = whole
    rows = {(row["group"], row["score"]): row for row in rows_of(folder / "groups.csv")}
    summaries = [json.loads((study / f"ce-{seed}" / "summary.json").read_text())["scores"] for seed in range(3)]
    for score in ("val/mIoU", "val/boundary_IoU", "val/boundary_F1/3px", "val/trimap_mIoU/10px"):
        row, values = rows["camvid-lraspp-ce", score], [each[score] for each in summaries]
        assert row["seeds"] == "3"
        assert float(row["mean"]) == pytest.approx(np.mean(values), rel=1e-12)
        assert float(row["std"]) == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    regions = [np.load(study / f"ce-{seed}" / "tables" / "val-counts.npz")["region"] for seed in range(3)]
    for score in ("mIoU^I", "mIoU^C", "mIoU^I_worst"):
        values = [fine_grained(region)[score] for region in regions]
        assert float(rows["camvid-lraspp-ce", f"val/{score}"]["mean"]) == pytest.approx(np.mean(values), rel=1e-12)


def test_each_group_is_compared_with_plain_cross_entropy_by_seed(whole):
    study, folder = whole
    rows = [row for row in rows_of(folder / "comparisons.csv") if row["score"] == "val/mIoU"]
    assert [(row["a"], row["b"]) for row in rows] == [
        ("camvid-lraspp-ce", "camvid-lraspp-ce+cpg1"),
        ("camvid-lraspp-ce", "camvid-lraspp-ce+dice"),
    ]
    scores = {
        criterion: [
            json.loads((study / f"{criterion}-{seed}" / "summary.json").read_text())["scores"]["val/mIoU"]
            for seed in range(3)
        ]
        for criterion in ("ce", "ce+cpg1", "ce+dice")
    }
    expected = [paired_by_seed(scores["ce"], scores[other]) for other in ("ce+cpg1", "ce+dice")]
    corrected = holm([each.p for each in expected])
    for row, result, p_holm in zip(rows, expected, corrected, strict=True):
        values = [result.difference, result.low, result.high, result.t, result.p, p_holm]
        names = ("difference", "low", "high", "t", "p", "p_holm")
        assert [float(row[name]) for name in names] == pytest.approx(values, rel=1e-9)


def test_networks_are_compared_by_image_from_their_counts(whole):
    study, folder = whole
    arrays = {
        criterion: [np.load(study / f"{criterion}-{seed}" / "tables" / "val-counts.npz") for seed in range(3)]
        for criterion in ("ce", "ce+cpg1")
    }
    rows = {(row["b"], row["score"]): row for row in rows_of(folder / "images.csv")}
    for score, name in (("val/mIoU", "region"), ("val/boundary_IoU", "boundary")):
        result = bootstrap_over_images(*(np.stack([each[name] for each in of]) for of in arrays.values()))
        row = rows["camvid-lraspp-ce+cpg1", score]
        assert (row["seeds"], row["images"]) == ("3", "60")
        values = [float(row[each]) for each in ("difference", "low", "high")]
        assert values == pytest.approx([result.difference, result.low, result.high], rel=1e-9)
        classes = [
            row
            for row in rows_of(folder / "classes.csv")
            if (row["b"], row["score"]) == ("camvid-lraspp-ce+cpg1", score)
        ]
        found = [[float(row[each]) for each in ("difference", "low_by_image", "high_by_image")] for row in classes]
        np.testing.assert_allclose(found, result.classes, rtol=1e-9)


def test_differences_of_classes_have_intervals_over_seeds(whole):
    study, folder = whole
    row = next(row for row in rows_of(folder / "classes.csv") if row["b"].endswith("cpg1"))
    iou = {}
    for criterion in ("ce", "ce+cpg1"):
        for seed in range(3):
            region = np.load(study / f"{criterion}-{seed}" / "tables" / "val-counts.npz")["region"]
            both, predicted, labelled = region[:, 0].sum(axis=0)
            iou.setdefault(criterion, []).append(both / (predicted + labelled - both))
    result = paired_by_seed(iou["ce"], iou["ce+cpg1"])
    values = [float(row[name]) for name in ("difference", "low_by_seed", "high_by_seed")]
    assert row["class"] == "class 0"
    assert values == pytest.approx([result.difference, result.low, result.high], rel=1e-9)


def test_images_in_another_order_are_matched_by_name(study):
    before = [each.result.low for each in analyse([study], draws=50).by_image]
    path = study / "ce+cpg1-1" / "tables" / "val-counts.npz"
    arrays = dict(np.load(path))
    for name in ("names", "region", "boundary"):
        arrays[name] = arrays[name][::-1]
    np.savez(path, **arrays)
    assert [each.result.low for each in analyse([study], draws=50).by_image] == before


def test_the_report_has_both_questions_and_every_picture(study, reported):
    status, printed, folder = reported(study)
    text = (folder / "report.md").read_text()
    assert status == 0
    assert text.startswith(f"# Report\n\nWritten by: cpg report {study} --output {folder}\n")
    for heading in ("Would new trainings differ?", "Do these trained networks differ on such images?"):
        assert f"## {heading} (mIoU)" in text
        assert heading in printed
    pictures = [line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert pictures == [
        "curves.png",
        "boundary.png",
        "classes_camvid-lraspp-ce+cpg1_against_camvid-lraspp-ce.png",
        "classes_camvid-lraspp-ce+dice_against_camvid-lraspp-ce.png",
    ]
    assert all((folder / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert str(folder / "report.md") in printed


def test_another_score_can_be_decisive(study, reported):
    _, printed, _ = reported(study, "--score", "boundary_IoU")
    assert "Would new trainings differ? (boundary_IoU)" in printed
    assert "on such images? (boundary_IoU)" in printed


def test_a_loss_is_no_percentage(whole):
    analysis = analyse(whole[:1], score="val/loss", draws=10)
    text = as_markdown(sections(analysis, "cpg report", []))
    assert "Differences are in the score's unit" in text
    assert "| ce+cpg1 against ce | loss | 3 | +0 |" in text
    assert {each.score for each in analysis.by_seed} > {"val/loss", "val/mIoU"}


def test_a_score_that_no_run_has_is_refused(whole):
    with pytest.raises(ValueError, match=r"expected the score to be one of .*val/boundary_IoU.*, got 'val/mIou'"):
        report([str(whole[0]), "--score", "mIou"])


def test_one_seed_allows_no_conclusion_about_new_trainings(tmp_path, reported):
    for criterion in ("ce", "ce+cpg1"):
        write_run(tmp_path / "runs" / criterion, 0, noise=len(criterion), criterion=criterion)
    _, printed, folder = reported(tmp_path / "runs")
    assert "one pair of runs allows no conclusion about new trainings" in printed
    assert rows_of(folder / "comparisons.csv")[0]["p"] == ""
    assert rows_of(folder / "groups.csv")[0]["std"] == ""


def test_fewer_than_50_images_are_warned_of(tmp_path, reported):
    for criterion in ("ce", "ce+cpg1"):
        write_run(tmp_path / "runs" / criterion, noise=len(criterion), labelled=labels(12), criterion=criterion)
    _, printed, _ = reported(tmp_path / "runs")
    assert "Warning: with fewer than 50 images such intervals are too narrow" in printed


def test_seeds_without_a_partner_are_not_compared(study, reported):
    (study / "ce+dice-2" / "summary.json").unlink()
    _, printed, folder = reported(study)
    assert "ce+dice against ce: 2 of 3 seeds (seed 2 without a finished partner)" in printed
    assert f"{study / 'ce+dice-2'}: not finished, 6 validations so far".replace(" ", "") in printed.replace(" ", "")
    seeds = {row["b"]: row["seeds"] for row in rows_of(folder / "comparisons.csv") if row["score"] == "val/mIoU"}
    assert seeds == {"camvid-lraspp-ce+cpg1": "3", "camvid-lraspp-ce+dice": "2"}


def test_runs_of_different_seeds_are_no_paired_comparison(tmp_path, reported):
    write_run(tmp_path / "runs" / "a", 0, criterion="ce")
    write_run(tmp_path / "runs" / "b", 1, criterion="ce+cpg1")
    _, printed, folder = reported(tmp_path / "runs")
    assert "ce and ce+cpg1 are not compared: they have no finished runs with the same seed" in printed
    assert rows_of(folder / "comparisons.csv") == []


def test_groups_that_differ_in_two_factors_are_listed_and_not_compared(study, reported):
    write_run(study / "other", 0, network="hrnet", criterion="ce+focal")
    _, printed, folder = reported(study)
    assert "hrnet, ce+focal is not compared: it differs from lraspp, ce in network, criterion" in printed
    assert "camvid-hrnet-ce+focal" in {row["group"] for row in rows_of(folder / "groups.csv")}
    assert not any("hrnet" in row["a"] + row["b"] for row in rows_of(folder / "comparisons.csv"))
    for options in ({"all_pairs": True}, {"baseline": "camvid-lraspp-ce"}):
        assert not any("hrnet" in each.pair.name for each in analyse([study], draws=10, **options).by_seed)


def test_any_group_can_be_the_baseline(study):
    write_run(study / "other", 0, network="hrnet", criterion="ce+dice")
    comparisons = analyse([study], baseline="camvid-lraspp-ce+dice", draws=10).by_seed
    assert [each.pair.name for each in comparisons if each.score == "val/mIoU"] == [
        "hrnet against lraspp (ce+dice)",
        "ce against ce+dice (lraspp)",
        "ce+cpg1 against ce+dice (lraspp)",
    ]
    with pytest.raises(ValueError, match="expected the baseline to be one of these groups, got 'ce-dice'"):
        analyse([study], baseline="ce-dice", draws=10)


def test_without_plain_cross_entropy_the_report_names_the_remedy(tmp_path, reported):
    for criterion in ("ce+cpg1", "ce+dice"):
        write_run(tmp_path / "runs" / criterion, criterion=criterion)
    _, printed, _ = reported(tmp_path / "runs")
    assert "no group has plain cross-entropy (criterion ce); choose another baseline with --baseline" in printed


def test_groups_of_one_name_are_distinguished_by_their_key(tmp_path, reported):
    for key in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        write_run(tmp_path / "runs" / key, key=key)
    _, printed, folder = reported(tmp_path / "runs")
    assert {row["group"] for row in rows_of(folder / "groups.csv")} == {
        "camvid-lraspp-ce (aaaaaaaa)",
        "camvid-lraspp-ce (bbbbbbbb)",
    }
    assert "but another key, because another version of cpg_lightning wrote it" in printed


def test_families_of_one_name_have_separate_pictures(tmp_path):
    for key, digest in (("aaaaaaaaaaaa", "1"), ("bbbbbbbbbbbb", "2")):
        write_run(tmp_path / key, key=key)
        path = tmp_path / key / "experiment.json"
        identity = json.loads(path.read_text())
        identity["parts"]["recipe"]["digest"] = digest
        path.write_text(json.dumps(identity))
    analysis = analyse([tmp_path], draws=10)
    assert [title for title, _ in families(analysis.groups)] == ["30 epochs", "30 epochs (bbbbbbbb)"]
    assert "it differs from camvid-lraspp-ce (aaaaaaaa) in recipe; --all_pairs compares them" in " ".join(
        analysis.notes
    )


def test_a_second_run_of_one_seed_is_not_used(study, reported):
    write_run(study / "zzz", 0, noise=77, criterion="ce")
    analysis = analyse([study], draws=10)
    assert len(analysis.finished) == 9
    assert f"{study / 'zzz'} is not used: it has the same key and the same seed 0 as {study / 'ce-0'}" in analysis.notes


def test_runs_of_other_data_and_versions_are_named(study):
    write_run(study / "other", 0, data="camvid-small", criterion="ce", version="0.2.0")
    notes = analyse([study], draws=10).notes
    assert any(note.startswith("the data are different: camvid (") and "camvid-small (" in note for note in notes)
    assert any(
        "versions of cpg_lightning are different: 0.1.0 in 9 runs" in note and "0.2.0 in 1 run of" in note
        for note in notes
    )


def test_groups_of_different_data_are_compared_with_a_warning(study):
    for seed in range(3):
        write_run(study / f"other-{seed}", seed, data="camvid-small", criterion="ce")
    analysis = analyse([study], baseline="camvid-lraspp-ce", draws=10)
    assert "camvid-small against camvid (ce)" in {each.pair.name for each in analysis.by_seed}
    warned = [note for note in analysis.notes if "evaluated on different data" in note]
    assert [note.split(":")[0] for note in warned] == ["camvid-small against camvid (ce)"]


def test_networks_evaluated_on_other_images_are_compared_only_by_seed(study):
    for seed in range(3):
        write_counts(study / f"ce+dice-{seed}" / "tables", *(2 * [counts_of(labels(30), 0.6, seed)]))
        region = np.load(study / f"ce+dice-{seed}" / "tables" / "val-counts.npz")["region"]
        write_summary(study / f"ce+dice-{seed}", {"val/mIoU": miou(region)})
    analysis = analyse([study], draws=10)
    assert (
        "ce+dice against ce: not compared by image: they were evaluated on different images (60 and 30)"
        in analysis.notes
    )
    assert {each.pair.name for each in analysis.by_image} == {"ce+cpg1 against ce"}
    assert {each.pair.name for each in analysis.by_seed} == {"ce+cpg1 against ce", "ce+dice against ce"}


def test_the_best_epoch_has_the_scores_that_were_logged(tmp_path, reported):
    for seed, values in enumerate([(0.5, 0.7, 0.6), (0.8, 0.6, 0.7)]):
        write_identity(tmp_path / "runs" / str(seed), seed)
        write_metrics(tmp_path / "runs" / str(seed), {epoch: {"val/mIoU": value} for epoch, value in enumerate(values)})
        write_summary(tmp_path / "runs" / str(seed), {"val/mIoU": values[-1], "val/boundary_IoU": 0.4})
    _, printed, folder = reported(tmp_path / "runs", "--best")
    assert "best epoch by val/mIoU" in printed
    assert "no counts of the best epoch 1" in printed
    assert [(row["score"], float(row["mean"])) for row in rows_of(folder / "groups.csv")] == [("val/mIoU", 0.75)]
    reported(tmp_path / "runs")
    assert float(rows_of(folder / "groups.csv")[0]["mean"]) == pytest.approx(0.65)


@pytest.mark.parametrize(("shift", "used"), [(0, True), (0.05, False)])
def test_the_best_epoch_takes_boundary_scores_and_counts_of_cpg_validate(tmp_path, shift, used):
    region = counts_of(labels(), 0.8, 1)
    folder = tmp_path / "run"
    write_identity(folder)
    write_metrics(folder, {0: {"val/mIoU": miou(region) + shift}, 1: {"val/mIoU": 0.3}})
    write_summary(folder, {"val/mIoU": 0.3, "val/boundary_IoU": 0.2})
    digest = json.loads((folder / "experiment.json").read_text())["parts"]["inference"]["digest"]
    others = ("val-best-ffffffff", f"val-best-{digest}-of_other_data", f"val-last-{digest}")
    for name, value in ((f"val-best-{digest[:8]}", 0.5), *((other, 0.9) for other in others)):
        write_counts(folder / "evaluations" / name / "tables", region)
        means = f"score,value\nmIoU,{miou(region)}\nboundary_IoU,{value}\n"
        (folder / "evaluations" / name / "tables" / "val-means.csv").write_text(means)
    (run,) = analyse([folder], best=True).finished
    assert run.epoch == 0
    assert (run.counts is not None) == used
    assert run.scores.get("val/boundary_IoU") == (0.5 if used else None)
    assert ("val/mIoU^I" in run.scores) == used
    assert any("is not used: its mIoU is" in note for note in run.notes) != used


def test_the_last_epoch_that_is_the_best_needs_no_evaluation(tmp_path):
    write_run(tmp_path / "run")
    (run,) = analyse([tmp_path / "run"], best=True).finished
    assert run.counts is not None
    assert run.notes == []


def test_counts_of_another_epoch_are_not_used(tmp_path):
    write_run(tmp_path / "run")
    write_counts(tmp_path / "run" / "tables", counts_of(labels(), 0.3, 5))
    (run,) = analyse([tmp_path / "run"]).finished
    assert run.counts is None
    assert "is not used: its counts give an mIoU of" in run.notes[0]


def test_absent_classes_follow_the_rule_of_the_dataset(tmp_path):
    region = counts_of(labels(), 0.7, 1)
    region[:, 2] = 0  # a class that no image has
    write_identity(tmp_path / "run")
    write_counts(tmp_path / "run" / "tables", region, absent=np.array("zero"))
    write_summary(tmp_path / "run", {"val/mIoU": miou(region) * 4 / 5})
    (run,) = analyse([tmp_path / "run"]).finished
    assert run.notes == []
    assert run.counts.absent == "zero"


def test_names_are_escaped_in_terminal_and_markdown(tmp_path, reported):
    for criterion in ("ce", "[bold]|x\x1b[31m\n"):
        write_run(tmp_path / "runs" / str(len(criterion)), criterion=criterion, name=f"../{criterion}")
    _, printed, folder = reported(tmp_path / "runs")
    assert "[bold]|x?[31m? against ce" in printed
    assert r"\[bold\]\|x?\[31m? against ce" in (folder / "report.md").read_text()
    assert {path.parent for path in tmp_path.rglob("*.png")} == {folder}


def test_neither_torch_nor_lightning_is_imported():
    script = (
        "import sys, types; package = types.ModuleType('cpg_lightning'); package.__path__ = sys.argv[1:]\n"
        "sys.modules['cpg_lightning'] = package\n"
        "import cpg_lightning.studies.report\n"
        "assert not {'torch', 'lightning', 'wandb'} & set(sys.modules)"
    )
    package = Path(__file__).parent.parent / "cpg_lightning"
    subprocess.run([sys.executable, "-c", script, str(package)], check=True, timeout=60)
