"""The pictures of reports: what is drawn where, and 800 pixels wide."""

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cpg_lightning.studies.plots import Curve, boundary_distance, class_differences, curves_over_epochs, save


def curve(label, seeds=3, epochs=5):
    return Curve(label, range(epochs), np.random.default_rng(len(label)).random((seeds, epochs)))


def texts(figure: Figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


@pytest.mark.parametrize("panels", [1, 2, 5])
def test_pictures_are_800_pixels_wide(tmp_path, panels):
    figure = curves_over_epochs(
        {f"network {index}": [curve("ce"), curve("ce+cpg1")] for index in range(panels)}, "mIoU"
    )
    save(figure, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width == 800
        assert picture.height <= 450 * -(-panels // 2)


def test_curves_are_means_over_seeds_with_a_band_of_one_standard_deviation():
    drawn = curve("ce")
    (axes,) = curves_over_epochs({"network": [drawn]}, "mIoU, %").axes
    (line,), (band,) = axes.lines, axes.collections
    mean, deviation = drawn.scores.mean(axis=0), drawn.scores.std(axis=0, ddof=1)
    np.testing.assert_allclose(line.get_ydata(), mean)
    edges = band.get_paths()[0].vertices[:, 1]
    assert (edges.min(), edges.max()) == pytest.approx(((mean - deviation).min(), (mean + deviation).max()))


def test_one_seed_has_no_band():
    (axes,) = curves_over_epochs({"network": [curve("ce", seeds=1)]}, "mIoU").axes
    edges = axes.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose(np.unique(edges), np.unique(axes.lines[0].get_ydata()))


def test_the_legend_has_the_number_of_seeds():
    panels = {"a": [curve("ce"), curve("ce+cpg1")], "b": [curve("ce", seeds=1), curve("ce+dice", seeds=1)]}
    assert {"ce (1 to 3 seeds)", "ce+cpg1 (3 seeds)", "ce+dice (1 seed)"} <= set(
        texts(curves_over_epochs(panels, "mIoU"))
    )


def test_the_first_epochs_do_not_squeeze_the_last():
    scores = np.array([[10.0, 40, 58, 59, 60, 61, 62, 63]])
    (axes,) = curves_over_epochs({"network": [Curve("ce", range(8), scores)]}, "mIoU").axes
    assert axes.get_ylim()[0] == 58


def test_a_criterion_looks_the_same_in_each_panel():
    panels = {"a": [curve("ce"), curve("ce+cpg1")], "b": [curve("ce+cpg1")]}
    first, second = curves_over_epochs(panels, "mIoU").axes
    assert first.lines[1].get_color() == second.lines[0].get_color() != first.lines[0].get_color()


def test_distances_are_the_labels_of_the_axis():
    figure = boundary_distance({"network": [curve("ce", epochs=3), curve("ce+cpg1", epochs=3)]}, ["1", "10", "all"])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "10", "all"]


def differences(classes):
    by_image = np.stack([np.linspace(-3, 5, classes), np.linspace(-5, 3, classes), np.linspace(-1, 7, classes)], axis=1)
    return by_image * [1, 1.5, 1.5], by_image


def test_the_largest_gain_is_at_the_top_and_classes_without_a_value_are_left_out():
    by_seed, by_image = differences(5)
    by_image[2] = np.nan
    figure = class_differences("ce+cpg1 against ce", list("abcde"), by_seed, by_image, seeds=3)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b", "d", "e"]
    assert [bar.get_width() for bar in figure.axes[0].patches] == by_image[[0, 1, 3, 4], 0].tolist()
    assert {"95 % interval over images", "95 % interval over 3 seeds"} <= set(texts(figure))


def test_of_many_classes_the_largest_differences_are_drawn_with_a_note():
    figure = class_differences("title", [f"class {index}" for index in range(171)], *differences(171), seeds=3)
    assert len(figure.axes[0].patches) == 25
    assert any("25 of 171 classes, the largest differences" in text for text in texts(figure))


def test_one_seed_has_no_interval_over_seeds():
    by_seed, by_image = differences(3)
    by_seed[:, 1:] = np.nan
    assert not any(
        "seed" in text for text in texts(class_differences("title", list("abc"), by_seed, by_image, seeds=1))
    )


def test_an_interval_of_few_seeds_does_not_squeeze_the_bars():
    by_seed, by_image = differences(5)
    figure = class_differences("title", list("abcde"), by_seed * 100, by_image, seeds=2)
    low, high = figure.axes[0].get_xlim()
    assert max(-low, high) <= 2.5 * np.abs(by_image).max()


def test_names_are_not_set_as_mathematics(tmp_path):
    save(curves_over_epochs({r"$\broken{$": [curve(r"ce $\none$")]}, "mIoU"), tmp_path / "curves.png")
    save(class_differences(r"$\broken{$", [r"$\none$", "b", "c"], *differences(3), seeds=3), tmp_path / "classes.png")


def test_no_global_figure_is_used():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    curves_over_epochs({"network": [curve("ce")]}, "mIoU")
    assert plt.get_fignums() == before
