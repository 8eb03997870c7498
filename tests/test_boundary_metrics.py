"""Boundary IoU, boundary F1 and trimap IoU: the reference values, literal definitions, hand-computed cases, invariances."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from cpg_lightning.metrics import BoundaryF1Score, BoundaryIoU, ClassIoU, TrimapJaccardIndex, bands

C = 4  # classes of the maps that are drawn
MODES = ("pooled", "present", "gscnn")


def metrics(num_classes=C):
    return {
        "boundary_iou": BoundaryIoU(num_classes, 0.1),
        **{f"f1_{mode}": BoundaryF1Score(num_classes, (1, 2, 0.2), mode) for mode in MODES},
        "trimap": TrimapJaccardIndex(num_classes, (2, 0, 5)),
    }


def states_of(metric):
    return {name: getattr(metric, name) for name in metric._defaults}


def updated(metric, preds, target, device="cpu"):
    metric.to(device).update(*(torch.as_tensor(np.asarray(each)).long().to(device) for each in (preds, target)))
    return metric.cpu()


@st.composite
def maps(draw):
    """Predictions and targets of one odd size, with coherent regions and void."""
    number, height, width = draw(st.integers(1, 2)), draw(st.integers(1, 14)), draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    block = draw(st.sampled_from([1, 3, 6]))
    both = []
    for values in (range(C), [*range(C), 255]):
        small = rng.choice(list(values), (number, -(-height // block), -(-width // block)))
        both.append(small.repeat(block, axis=1).repeat(block, axis=2)[:, :height, :width])
    return both


def literal_boundary_iou(preds, target, ratio):
    """Erosion of each class's padded mask, as in the paper's code."""
    intersection, union = np.zeros(C, int), np.zeros(C, int)
    for pred, label in zip(preds, target, strict=True):
        width = max(1, round(ratio * math.hypot(*label.shape)))
        for c in range(C):
            bands = []
            for mask in (label == c, pred == c):
                padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
                eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
                bands.append(mask & (eroded == 0) & (label != 255))
            intersection[c] += (bands[0] & bands[1]).sum()
            union[c] += (bands[0] | bands[1]).sum()
    return intersection, union


def contour(mask):
    """Where a mask differs from its east, south or south-east neighbour, the frame repeated."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (padded[:-1, 1:] ^ mask) | (padded[1:, :-1] ^ mask) | (padded[1:, 1:] ^ mask)


def literal_f1_counts(preds, target, thresholds):
    counts = np.zeros((len(preds), len(thresholds), C, 4), int)
    for n, (pred, label) in enumerate(zip(preds, target, strict=True)):
        for t, threshold in enumerate(thresholds):
            distance = threshold if threshold >= 1 else math.ceil(threshold * math.hypot(*label.shape))
            for c in range(C):
                one, other = (contour((each == c) & (label != 255)) for each in (pred, label))
                for side, (mine, others) in enumerate(((one, other), (other, one))):
                    near = distance_transform_edt(~others) <= distance if others.any() else np.zeros_like(mine)
                    counts[n, t, c, 2 * side : 2 * side + 2] = (mine & near).sum(), mine.sum()
    return counts


def literal_trimap(preds, target, width):
    confmat = np.zeros((C, C), int)
    for pred, label in zip(preds, target, strict=True):
        seeds = np.zeros(label.shape, bool)
        for (y, x), value in np.ndenumerate(label):
            for other in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                inside = 0 <= other[0] < label.shape[0] and 0 <= other[1] < label.shape[1]
                if inside and value != 255 and label[other] not in (value, 255):
                    seeds[y, x] = True
        dilated = np.zeros(label.shape, bool)
        for y, x in zip(*seeds.nonzero(), strict=True):
            dilated[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1] = True
        counted = dilated & (label != 255)
        np.add.at(confmat, (label[counted], pred[counted]), 1)
    return confmat


class TestLiteralDefinitions:
    @settings(max_examples=150, deadline=None)
    @given(maps(), st.sampled_from([0.01, 0.1, 0.3]))
    def test_boundary_iou(self, device, both, ratio):
        metric = updated(BoundaryIoU(C, ratio, average="none"), *both, device)
        intersection, union = literal_boundary_iou(*both, ratio)
        assert (metric.intersection.tolist(), metric.union.tolist()) == (intersection.tolist(), union.tolist())
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(metric.compute(), intersection / union, rtol=1e-12)

    @settings(max_examples=150, deadline=None)
    @given(maps(), st.lists(st.sampled_from([0.05, 0.3, 1, 1.5, 2, 3, 5, 12, 1000]), min_size=1, max_size=4))
    def test_boundary_f1(self, device, both, thresholds):
        counts = literal_f1_counts(*both, thresholds)
        scores = []
        for image in [*counts, counts.sum(axis=0)]:
            with np.errstate(invalid="ignore"):
                precision, recall = image[..., 0] / image[..., 1], image[..., 2] / image[..., 3]
            f1 = np.nan_to_num(2 * precision * recall / np.maximum(precision + recall, 1e-12))
            scores.append(np.where(image[..., 1] + image[..., 3] > 0, f1, np.nan))
        images = np.array(scores[:-1])
        expected = {
            "pooled": mean(scores[-1], 1),
            "present": mean(mean(images, 0), 1),
            "gscnn": np.where(np.isnan(images), 1, images).mean(axis=(0, 2)),
        }
        for mode in MODES:
            metric = updated(BoundaryF1Score(C, thresholds, mode), *both, device)
            assert np.array_equal(metric.counts, counts.sum(axis=0))
            np.testing.assert_allclose(metric.compute(), expected[mode], rtol=1e-9, atol=1e-12)

    def test_distances_may_be_large(self, device):
        target, preds = np.zeros((2, 1, 90, 140), int)
        target[:, :30, :20] = preds[:, 70:, 120:] = target[:, 80:, :5] = preds[:, :4, 60:] = 1
        thresholds = (11, 12, 100, 127, 128, 150, 500)
        metric = updated(BoundaryF1Score(C, thresholds), preds, target, device)
        assert np.array_equal(metric.counts, literal_f1_counts(preds, target, thresholds).sum(axis=0))
        assert len(metric.compute().unique()) == 3

    @settings(max_examples=100, deadline=None)
    @given(maps(), st.lists(st.integers(0, 6), min_size=1, max_size=3, unique=True))
    def test_trimap(self, device, both, widths):
        metric = updated(TrimapJaccardIndex(C, widths), *both, device)
        expected = [literal_trimap(*both, width) for width in widths]
        assert metric.confmat.tolist() == [confmat.tolist() for confmat in expected]


def mean(values, axis):
    """The mean of what is not NaN, NaN if all is."""
    counted = (~np.isnan(values)).sum(axis=axis)
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=axis) / counted


class TestGoldenValues:
    @pytest.fixture(scope="class", params=["main", "crop", "edge"])
    def golden(self, request, real_data):
        path = real_data / "golden" / "boundary_metrics.npz"
        if not path.is_file():
            pytest.skip(f"no {path}")
        arrays = np.load(path)
        group = {
            name.removeprefix(f"{request.param}_"): arrays[name] for name in arrays if name.startswith(request.param)
        }
        return {**group, "num_classes": int(group["num_classes"])}

    def test_iou(self, device, golden):
        metric = updated(ClassIoU(golden["num_classes"]), golden["pred"], golden["target"], device)
        assert np.array_equal(metric.confmat, golden["confusion"])
        np.testing.assert_allclose(metric.compute(), golden["iou"], rtol=0, atol=1e-9)
        assert metric.compute().nanmean().item() == pytest.approx(float(golden["miou"]), abs=1e-9)

    @pytest.mark.parametrize("index", [0, 1])
    def test_boundary_iou(self, device, golden, index):
        metric = BoundaryIoU(golden["num_classes"], float(golden["biou_ratio"][index]))
        assert metric.width(*golden["target"].shape[1:]) == golden["biou_px"][index]
        updated(metric, golden["pred"], golden["target"], device)
        assert np.array_equal(metric.intersection, golden["biou_predkept_inter"][index].sum(axis=0))
        assert np.array_equal(metric.union, golden["biou_predkept_union"][index].sum(axis=0))
        assert metric.compute().item() == pytest.approx(float(golden["biou_predkept_mean"][index]), abs=1e-9)

    @pytest.mark.parametrize("mode", MODES)
    def test_boundary_f1(self, device, golden, mode):
        metric = BoundaryF1Score(golden["num_classes"], tuple(golden["f1_px"].tolist()), mode)
        updated(metric, golden["pred"], golden["target"], device)
        assert np.array_equal(metric.counts, golden["f1_counts"].sum(axis=1))
        np.testing.assert_allclose(metric.of_classes(), golden[f"f1_{mode}_class"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(metric.compute(), golden[f"f1_{mode}_mean"], rtol=0, atol=1e-9)

    def test_trimap(self, device, golden):
        metric = TrimapJaccardIndex(golden["num_classes"], tuple(golden["trimap_px"].tolist()))
        updated(metric, golden["pred"], golden["target"], device)
        assert np.array_equal(metric.confmat, golden["trimap_confusion"])
        np.testing.assert_allclose(metric.compute(), golden["trimap_miou"], rtol=0, atol=1e-9)

    def test_widths_are_rounded_as_in_the_official_code(self, real_data):
        arrays = np.load(real_data / "golden" / "boundary_metrics.npz")
        for size, f1, iou in zip(arrays["ratio_sizes"], arrays["ratio_px_f1"], arrays["ratio_px_biou"], strict=True):
            for ratio, f1_px, iou_px in zip(arrays["ratio_values"].tolist(), f1, iou, strict=True):
                assert BoundaryF1Score(2, (ratio,)).distances(*size.tolist()) == [f1_px]
                assert BoundaryIoU(2, ratio).width(*size.tolist()) == iou_px


def test_the_drawing_in_bands_matches_the_functions():
    lines = Path(bands.__file__).read_text().split("label map   ")[1].splitlines()[2:9]
    drawn = [np.array([line.split()[1:][7 * index : 7 * index + 7] for line in lines]) for index in range(4)]
    labels = torch.as_tensor(drawn[0] == "B")[None].to(torch.uint8)
    in_bands = [bands.mixed_blocks(labels)[0], bands.inner_bands(labels, 1), bands.two_sided_bands(labels, [1]) == 0]
    for drawing, band in zip(drawn[1:], in_bands, strict=True):
        assert (np.where(band[0], drawn[0], ".") == drawing).all()


class TestByHand:
    def squares(self, shift=0):
        target = torch.zeros(1, 40, 40, dtype=torch.int64)
        target[:, 10:30, 10:30] = 1
        return target.roll(shift, dims=2), target

    def test_boundary_iou_of_a_shifted_square(self):
        metric = BoundaryIoU(2, 2 / math.hypot(40, 40), average="none")
        assert metric.width(40, 40) == 2
        metric.update(*self.squares(2))
        # Bands of 2 around 20x20: 20² - 16² = 144 each. Shared: two sides of 2x18 less their corners, and those.
        both = 2 * 2 * 18
        assert metric.compute()[1] == pytest.approx(both / (2 * 144 - both))

    def test_f1_of_a_shifted_square(self):
        metric = BoundaryF1Score(2, (1, 2), "pooled")
        metric.update(*self.squares(2))
        # Of 80 contour pixels 20 a horizontal side are at most 1 from the other's, and one end each of a vertical side.
        assert metric.compute().tolist() == [pytest.approx(42 / 80), 1.0]

    @pytest.mark.parametrize("name", metrics())
    def test_a_perfect_prediction_scores_1(self, name):
        target = self.squares()[1]
        result = metrics(2)[name](target, target)
        assert torch.equal(result, torch.ones_like(result))

    @pytest.mark.parametrize("name", metrics())
    def test_the_score_is_nan_if_all_pixels_are_ignored(self, name):
        target = torch.full((1, 8, 8), 255)
        result = metrics()[name](torch.zeros_like(target), target)
        assert result.isnan().all() or (name == "f1_gscnn" and (result == 1).all())

    def test_the_image_border_is_a_boundary_only_in_boundary_iou(self):
        same = torch.zeros(1, 20, 20, dtype=torch.int64)
        assert BoundaryIoU(2, 0.05, average="none")(same, same).nan_to_num(-1).tolist() == [1, -1]
        assert BoundaryF1Score(2)(same, same).isnan().all()
        assert TrimapJaccardIndex(2)(same, same).isnan().all()

    def test_borders_of_ignored_regions_are_not_in_the_trimap(self):
        target = torch.zeros(1, 20, 20, dtype=torch.int64)
        target[:, :, 10:] = 255
        metric = TrimapJaccardIndex(2)
        metric.update(torch.zeros_like(target), target)
        assert metric.confmat.sum() == 0

    @pytest.mark.parametrize("name", metrics())
    def test_an_ignored_class_is_left_out(self, name):
        preds, target = self.squares(3)
        kept = {"boundary_iou": BoundaryIoU(3, 0.1, 0), "trimap": TrimapJaccardIndex(3, (2, 0, 5), 0)}
        metric = kept.get(name) or BoundaryF1Score(3, (1, 2, 0.2), name.removeprefix("f1_"), 0)
        moved = metric(preds + 1, target + 1)
        expected = metrics(3)[name]
        if name != "f1_gscnn":  # a mean over classes, of which one is there less
            torch.testing.assert_close(moved, expected(preds + 1, target + 1), equal_nan=True)


class TestInvariance:
    @pytest.mark.parametrize("name", metrics())
    @settings(max_examples=25, deadline=None)
    @given(both=maps(), seed=st.integers(0, 99))
    def test_scores_depend_neither_on_order_nor_on_batches(self, name, both, seed):
        rng = np.random.default_rng(seed)
        preds, target = (np.concatenate([each, each[::-1, ::-1], each[:, :, ::-1]]) for each in both)
        whole, parts = updated(metrics()[name], preds, target), metrics()[name]
        for index in rng.permutation(len(preds)):
            updated(parts, preds[index : index + 1], target[index : index + 1])
        for state, value in states_of(whole).items():
            torch.testing.assert_close(value, states_of(parts)[state], rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("name", metrics())
    def test_images_may_differ_in_size(self, name):
        rng = np.random.default_rng(0)
        metric = metrics()[name]
        for size in ((1, 9, 12), (2, 30, 7)):
            updated(metric, rng.integers(0, C, size), rng.integers(0, C, size))
        assert not metric.compute().isnan().any()

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
    @pytest.mark.parametrize("name", metrics())
    def test_any_integer_type_is_accepted(self, name, dtype):
        rng = torch.Generator().manual_seed(0)
        preds, target = (torch.randint(0, C, (1, 20, 20), generator=rng) for _ in range(2))
        assert torch.equal(metrics()[name](preds.to(dtype), target.to(dtype)), metrics()[name](preds, target))

    @pytest.mark.parametrize("name", [*metrics(), "iou"])
    def test_counts_are_integers_and_do_not_grow(self, name):
        metric = {**metrics(), "iou": ClassIoU(C)}[name]
        shapes = {state: value.shape for state, value in states_of(metric).items()}
        updated(metric, np.zeros((3, 9, 9)), np.zeros((3, 9, 9)))
        for state, value in states_of(metric).items():
            assert value.shape == shapes[state]
            assert value.dtype == (torch.float64 if state == "scores" else torch.int64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BoundaryIoU(0), "from 2 to 255 classes, got 0"),
        (lambda: BoundaryIoU(256), "from 2 to 255 classes, got 256"),
        (lambda: BoundaryIoU(3, 1.5), "fraction of the diagonal between 0 and 1, got 1.5"),
        (lambda: BoundaryIoU(3, average="micro"), "macro or none, got 'micro'"),
        (lambda: BoundaryF1Score(3, ()), "thresholds to be positive"),
        (lambda: BoundaryF1Score(3, (1, -2)), "thresholds to be positive"),
        (lambda: BoundaryF1Score(3, (1, math.inf)), "thresholds to be positive and finite"),
        (lambda: BoundaryF1Score(3, (math.nan,)), "thresholds to be positive and finite"),
        (lambda: BoundaryF1Score(3, mode="mean"), "pooled, present or gscnn, got 'mean'"),
        (lambda: TrimapJaccardIndex(3, (1.5,)), "whole numbers of pixels"),
        (lambda: TrimapJaccardIndex(3, (-1,)), "whole numbers of pixels"),
        (lambda: ClassIoU(3, absent="never"), "skip, skip_always or zero, got 'never'"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
