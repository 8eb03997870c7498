"""Inference: windows, scales and mirrored images, around any callable."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from commands import EXPERIMENTS
from conftest import simulated
from hypothesis import given, settings
from hypothesis import strategies as st

from cpg_lightning import inference
from cpg_lightning.inference import Inference

C = 5


def pointwise(images):
    """A network that looks at each pixel alone: the same through any window."""
    weight = torch.linspace(-3, 3, 3 * C).view(C, 3, 1, 1)
    return F.conv2d(images, weight)


def local(images):
    """A network with a border, at stride 4."""
    torch.manual_seed(0)
    return F.conv2d(images, torch.randn(C, 3, 8, 8), stride=4, padding=2)


def images_of(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


class TestWindows:
    @settings(max_examples=80, deadline=None)
    @given(
        size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
        window=st.tuples(st.integers(1, 20), st.integers(1, 20)),
        share=st.floats(0.1, 1),
        at_once=st.integers(1, 5),
        strip=st.sampled_from([1, 500, 2**26]),
    )
    def test_windows_equal_the_whole_image_for_a_pixelwise_network(self, size, window, share, at_once, strip):
        images = images_of(2, 3, *size)
        stride = tuple(max(1, int(side * share)) for side in window)
        windowed = Inference(window=window, stride=stride, windows_at_once=at_once)
        before, inference.LARGEST_STRIP = inference.LARGEST_STRIP, strip
        try:
            got = windowed.probabilities(pointwise, images, size)
        finally:
            inference.LARGEST_STRIP = before
        torch.testing.assert_close(got, pointwise(images).softmax(dim=1))
        assert torch.equal(windowed.classes(pointwise, images, size), pointwise(images).argmax(dim=1))

    def test_overlaps_are_averaged(self):
        values = iter([0.0, 1.0])

        def network(images):
            first = torch.full((1, 1, *images.shape[-2:]), next(values))
            return torch.cat([first, torch.zeros_like(first)], dim=1)

        got = Inference(window=(2, 4), stride=(2, 2)).probabilities(network, images_of(1, 3, 2, 6), (2, 6))[0, 0, 0]
        one, other = 0.5, torch.tensor(1.0).sigmoid().item()
        torch.testing.assert_close(got, torch.tensor([one, one, *[(one + other) / 2] * 2, other, other]))

    @pytest.mark.parametrize(
        ("length", "window", "stride", "shifted", "padded"),
        [
            (10, 10, 5, [0], [0]),
            (7, 10, 5, [0], [0]),
            (11, 10, 5, [0, 1], [0, 5]),
            (20, 10, 5, [0, 5, 10], [0, 5, 10]),
            (22, 10, 10, [0, 10, 12], [0, 10, 20]),
        ],
    )
    def test_the_last_window_ends_with_the_image_or_is_padded(self, length, window, stride, shifted, padded):
        assert inference._starts(length, window, stride, "shift") == shifted
        assert inference._starts(length, window, stride, "pad") == padded

    def test_at_most_windows_at_once_are_forwarded_together(self):
        batches = []

        def network(images):
            batches.append(len(images))
            return pointwise(images)

        Inference(window=(8, 8), stride=(8, 8), windows_at_once=3).classes(network, images_of(1, 3, 8, 40), (8, 40))
        assert batches == [3, 2]

    def test_memory_does_not_grow_with_the_height(self):
        rows = []

        class Watched(inference._WindowedView):
            def _finish(self, first, last):
                total = super()._finish(first, last)
                rows.append(total.shape[2])
                return total

        before = inference._WindowedView, inference.LARGEST_STRIP
        inference._WindowedView, inference.LARGEST_STRIP = Watched, 8 * 16 * C
        try:
            Inference(window=(16, 16), stride=(8, 8)).classes(pointwise, images_of(1, 3, 640, 16), (640, 16))
        finally:
            inference._WindowedView, inference.LARGEST_STRIP = before
        assert max(rows) <= 34

    def test_windows_beyond_the_image_are_padded_with_the_given_colour(self):
        seen = []

        def network(images):
            seen.append(images)
            return pointwise(images)

        images = images_of(1, 3, 9, 12)
        padded = Inference(window=(16, 16), border="pad", pad_colour=(1, 2, 3))
        assert torch.equal(padded.classes(network, images, (9, 12)), pointwise(images).argmax(dim=1))
        assert torch.equal(seen[0][..., :9, :12], images)
        assert torch.equal(seen[0][0, :, 12, 15], torch.tensor([1.0, 2.0, 3.0]))
        assert Inference(window=(16, 16)).classes(network, images, (9, 12)).shape == (1, 9, 12)
        assert seen[1].shape[-2:] == (9, 12)

    def test_a_window_is_flipped_with_its_padding(self):
        seen = []

        def network(images):
            seen.append(images)
            return pointwise(images)

        Inference(window=(4, 16), border="pad", flip=True).classes(network, images_of(1, 3, 4, 12), (4, 12))
        assert torch.equal(seen[1], seen[0].flip(-1))
        assert torch.equal(seen[1][..., :4], torch.zeros(1, 3, 4, 4))


class TestWholeImage:
    @settings(max_examples=60, deadline=None)
    @given(
        size=st.tuples(st.integers(8, 30), st.integers(8, 30)),
        wanted=st.tuples(st.integers(1, 60), st.integers(1, 60)),
        align_corners=st.booleans(),
        strip=st.sampled_from([1, 700, 2**26]),
    )
    def test_scores_are_the_upsampled_logits(self, size, wanted, align_corners, strip):
        images = images_of(2, 3, *size)
        logits = F.interpolate(local(images), wanted, mode="bilinear", align_corners=align_corners)
        before, inference.LARGEST_STRIP = inference.LARGEST_STRIP, strip
        try:
            got = Inference().probabilities(local, images, wanted, align_corners)
            classes = Inference().classes(local, images, wanted, align_corners)
        finally:
            inference.LARGEST_STRIP = before
        torch.testing.assert_close(got, logits.softmax(dim=1), rtol=1e-4, atol=1e-5)
        assert torch.equal(classes, got.argmax(dim=1))

    def test_half_precision_logits_are_compared_in_full_precision(self):
        images = images_of(1, 3, 16, 16)
        logits = F.interpolate(local(images).bfloat16().float(), (40, 50), mode="bilinear")
        got = Inference().classes(lambda images: local(images).bfloat16(), images, (40, 50))
        assert torch.equal(got, logits.argmax(dim=1))


class TestOfficialScores:
    """The scores of HRNet-OCR's official code, with a small fixed network."""

    @pytest.fixture(scope="class")
    def golden(self, real_data):
        cases = json.loads((real_data / "golden" / "inference.json").read_text())["cases"]
        return cases, np.load(real_data / "golden" / "inference.npz")

    @pytest.mark.parametrize(
        ("file", "case"),
        [
            (file, f"{case}{flip}")
            for file, cases in (
                ("hrnet_ocr_cityscapes.yaml", ("cityscapes", "cityscapes_single")),
                ("hrnet_ocr_520.yaml", ("coco_wide", "coco_tall", "coco_single")),
            )
            for case in cases
            for flip in ("", "_flip")
        ],
    )
    def test_the_inference_files_give_the_official_scores(self, golden, file, case):
        cases, arrays = golden
        first, second, bias = (torch.tensor(arrays[name]) for name in ("w1", "w2", "b2"))
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

        def network(images):
            hidden = F.conv2d((images / 255 - mean) / std, first, stride=2, padding=2).relu()
            return F.conv2d(hidden, second, bias, stride=2, padding=2)

        options = yaml.safe_load((EXPERIMENTS / "inference" / file).read_text())["init_args"]
        options |= {"scales": cases[case]["scales"], "flip": cases[case]["flip"], "window": cases[case]["crop_size"]}
        if "long_side" in options:
            options |= {"long_side": cases[case]["base_size"], "stride": [2 * side // 3 for side in options["window"]]}
        else:
            options["stride"] = options["window"]
        images = torch.tensor(arrays[f"{case}_image"]).permute(2, 0, 1)[None]
        expected = torch.tensor(arrays[f"{case}_scores"])[None]
        official = Inference(**{**options, "window": tuple(options["window"]), "stride": tuple(options["stride"])})
        got = official.probabilities(network, images, expected.shape[-2:], align_corners=True)
        torch.testing.assert_close(got, expected / expected.sum(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)
        classes = official.classes(network, images, expected.shape[-2:], align_corners=True)
        two_largest = expected.topk(2, dim=1).values
        clear = two_largest[:, 0] - two_largest[:, 1] > 1e-4 * two_largest[:, 0]
        assert torch.equal(classes[clear], expected.argmax(dim=1)[clear])


class TestScalesAndFlips:
    def test_scores_of_a_flipped_image_are_flipped_back(self):
        images = images_of(1, 3, 12, 20)
        plain, flipped = (Inference(flip=flip).probabilities(pointwise, images, (12, 20)) for flip in (False, True))
        torch.testing.assert_close(plain, flipped)

    def test_a_flipped_image_gives_a_flipped_result(self):
        images = images_of(1, 3, 16, 24)
        both = Inference(flip=True)
        torch.testing.assert_close(
            both.probabilities(local, images.flip(-1), (16, 24)), both.probabilities(local, images, (16, 24)).flip(-1)
        )

    def test_softmax_averages_probabilities(self):
        images, size = images_of(1, 3, 16, 24), (16, 24)
        expected = 0
        for scale in (0.5, 1.0, 1.5):
            scaled = images
            if scale != 1:
                new = (int(16 * scale), int(24 * scale))
                scaled = F.interpolate(images, new, mode="bilinear", align_corners=False)
            for flip in (False, True):
                seen = local(scaled.flip(-1) if flip else scaled)
                seen = F.interpolate(seen, size, mode="bilinear", align_corners=True).softmax(dim=1)
                expected = expected + (seen.flip(-1) if flip else seen) / 6
        got = Inference(scales=(0.5, 1.0, 1.5), flip=True).probabilities(local, images, size, align_corners=True)
        torch.testing.assert_close(got, expected)

    def test_the_official_way_adds_exponentials_of_averaged_logits(self):
        images, size = images_of(1, 3, 16, 24), (16, 24)
        total = 0
        for scaled in (images, F.interpolate(images, (32, 48), mode="bilinear", align_corners=False)):
            logits = [
                F.interpolate(local(each), scaled.shape[-2:], mode="bilinear", align_corners=False)
                for each in (scaled, scaled.flip(-1))
            ]
            seen = ((logits[0] + logits[1].flip(-1)) / 2).exp()
            total = total + F.interpolate(seen, size, mode="bilinear", align_corners=False)
        official = Inference(scales=(1.0, 2.0), flip=True, average="exponential")
        torch.testing.assert_close(official.probabilities(local, images, size), total / total.sum(dim=1, keepdim=True))
        assert torch.equal(official.classes(local, images, size), total.argmax(dim=1))

    def test_large_logits_do_not_overflow(self):
        def network(images):
            return torch.tensor([200.0, -200.0]).view(1, 2, 1, 1).expand(1, 2, *images.shape[-2:])

        got = Inference(average="exponential").probabilities(network, images_of(1, 3, 4, 4), (4, 4))
        assert torch.equal(got.argmax(dim=1), torch.zeros(1, 4, 4, dtype=torch.int64))
        assert not got.isnan().any()

    def test_the_longer_side_can_be_given(self):
        sizes = []

        def network(images):
            sizes.append(tuple(images.shape[-2:]))
            return pointwise(images)

        Inference(scales=(0.5, 1.0), long_side=40).classes(network, images_of(1, 3, 12, 16), (12, 16))
        assert sizes == [(15, 20), (30, 40)]

    @settings(max_examples=40, deadline=None)
    @given(st.tuples(st.integers(1, 30), st.integers(1, 30)), st.tuples(st.integers(1, 30), st.integers(1, 30)))
    def test_the_result_has_the_requested_size(self, size, wanted):
        images = images_of(1, 3, *size)
        got = Inference(window=(7, 9)).probabilities(pointwise, images, wanted)
        expected = F.interpolate(pointwise(images).softmax(dim=1), wanted, mode="bilinear", align_corners=False)
        torch.testing.assert_close(got, expected / expected.sum(dim=1, keepdim=True))

    def test_windows_scales_and_flips_work_together(self):
        every = Inference((12, 16), (5, 7), 3, (0.75, 1.0, 1.25), flip=True, border="pad")
        got = every.probabilities(local, images_of(2, 3, 33, 47), (50, 61))
        assert got.shape == (2, C, 50, 61)
        np.testing.assert_allclose(got.sum(dim=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": (2, 2)}, "expected a window together with"),
        ({"border": "pad"}, "expected a window together with"),
        ({"window": (4, 4), "stride": (5, 4)}, "a stride of at most that"),
        ({"window": (0, 4)}, "a window of 1 or more pixels"),
        ({"scales": ()}, "scales to be positive"),
        ({"scales": (1, -1)}, "scales to be positive"),
        ({"long_side": 0}, "long_side to be 1 or more"),
        ({"scales": (1, float("nan"))}, "scales to be positive and finite"),
        ({"border": "reflect"}, "shift or pad, got 'reflect'"),
        ({"pad_colour": (0, 0, 256)}, "three RGB values from 0 to 255"),
        ({"windows_at_once": 0}, "windows_at_once to be 1 or more"),
        ({"average": "mean"}, "softmax or exponential, got 'mean'"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Inference(**options)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flip": True, "scales": (0.5, 1)},
        {"window": (24, 24), "windows_at_once": 2},
        {"window": (24, 24), "border": "pad", "pad_colour": (1, 2, 3)},
        {"long_side": 70, "average": "exponential"},
    ],
    ids=lambda options: next(iter(options), "whole"),
)
def test_the_host_waits_for_no_strip(options, align_corners, monkeypatch):
    monkeypatch.setattr(inference, "LARGEST_STRIP", 2000)
    with simulated() as counted:
        images = images_of(1, 3, 40, 56).to(counted.device)
        counted.reset()
        Inference(**options).classes(lambda images: images[:, :, ::4, ::4], images, (80, 112), align_corners)
    assert counted.launches > 0
    assert not counted.waits, counted.waits
