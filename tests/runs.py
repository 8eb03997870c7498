"""Run folders as ``cpg fit`` writes them, with drawn numbers."""

import csv
import json
from hashlib import sha256

import numpy as np

WIDTHS = (1, 2, 3, 5, 10)


def parts_of(data="camvid", network="lraspp", criterion="ce", recipe="30 epochs", inference="whole"):
    """The parts of an experiment; the digest of each follows from its name."""
    names = {"data": data, "network": network, "criterion": criterion, "recipe": recipe, "inference": inference}
    return {factor: {"name": name, "digest": sha256(name.encode()).hexdigest()[:12]} for factor, name in names.items()}


def write_identity(folder, seed=0, key=None, name=None, version="0.1.0", **parts):
    """``experiment.json`` of a run that has started."""
    parts = parts_of(**parts)
    identity = {
        "version": 1,
        "key": key or sha256(json.dumps(parts).encode()).hexdigest()[:12],
        "name": name or "-".join(parts[factor]["name"] for factor in ("data", "network", "criterion")),
        "id": "0123abcd",
        "seed": seed,
        "parts": parts,
        "versions": {"cpg_lightning": version, "torch": "2.14.1", "lightning": "2.6.5"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.json").write_text(json.dumps(identity))


def write_summary(folder, scores):
    """``summary.json`` of a run that has finished, with scores of its last epoch by log key."""
    (folder / "summary.json").write_text(json.dumps({"epochs": 1, "steps": 1, "scores": scores}))


def write_metrics(folder, history):
    """``metrics.csv`` with scores by epoch, and a training loss between them."""
    names = sorted({name for scores in history.values() for name in scores})
    with (folder / "metrics.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["epoch", "step", "train/loss", *names])
        for epoch, scores in history.items():
            rows.writerow([epoch, 10 * epoch + 5, 0.5, *("" for _ in names)])
            rows.writerow([epoch, 10 * epoch + 10, "", *(scores.get(name, "") for name in names)])


def write_counts(folder, region, boundary=None, names=None, classes=None, **more):
    """``val-counts.npz`` of an evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "names": np.array(names or [f"image {index}" for index in range(len(region))]),
        "classes": np.array(classes or [f"class {index}" for index in range(region.shape[1])]),
        "region": region,
        **more,
    }
    if boundary is not None:
        arrays["boundary"] = boundary
    np.savez_compressed(folder / "val-counts.npz", **arrays)


def miou(counts):
    """The mean IoU of counts (N, C, 3), by a loop."""
    scores = []
    for index in range(counts.shape[1]):
        both, predicted, labelled = counts[:, index].sum(axis=0).tolist()
        if predicted + labelled - both:
            scores.append(both / (predicted + labelled - both))
    return sum(scores) / len(scores)


def labels(images=60, classes=5, seed=0):
    """Label pixels of each image and class, int64 (N, C); not every image has every class."""
    generator = np.random.default_rng(seed)
    return generator.integers(50, 400, (images, classes)) * (generator.random((images, classes)) < 0.8)


def counts_of(labelled, skill, seed):
    """Counts of a network that finds about a share ``skill`` of each class's pixels, int64 (N, C, 3)."""
    generator = np.random.default_rng(seed)
    both = generator.binomial(labelled, np.clip(skill + generator.normal(0, 0.05, labelled.shape), 0, 1))
    predicted = both + generator.binomial(labelled, 0.1)
    return np.stack([both, predicted, labelled], axis=-1)


def write_run(folder, seed=0, skill=0.7, epochs=6, labelled=None, noise=None, **identity):
    """A finished run with everything that there can be; ``noise`` is the seed of its numbers."""
    labelled = labels() if labelled is None else labelled
    noise = seed if noise is None else noise
    write_identity(folder, seed, **identity)
    region, boundary = counts_of(labelled, skill, noise), counts_of(labelled // 8, skill - 0.2, noise + 100)
    generator = np.random.default_rng(noise)
    last = {"val/mIoU": miou(region), "val/boundary_IoU": miou(boundary), "val/loss": 0.4}
    for width in WIDTHS:
        near = 0.02 * (10 - width) - 0.01 * skill * width / 10
        last[f"val/trimap_mIoU/{width}px"] = last["val/mIoU"] - near + generator.normal(0, 0.002)
        last[f"val/boundary_F1/{width}px"] = 0.4 + 0.03 * width + skill / 10 + generator.normal(0, 0.002)
    history = {}
    for epoch in range(epochs - 1):
        loss = 0.25 * np.exp(-4 * (epoch + 1) / epochs)
        history[epoch] = {"val/mIoU": last["val/mIoU"] - loss + generator.normal(0, 0.004), "val/loss": 0.5}
    write_metrics(folder, {**history, epochs - 1: last})
    write_summary(folder, last)
    write_counts(folder / "tables", region, boundary)
