"""The pictures show what is where."""

import numpy as np
import pytest

from cpg_lightning.callbacks.examples import shrink
from cpg_lightning.data import ClassInfo
from cpg_lightning.pictures import (
    RIGHT,
    VOID,
    WRONG,
    WRONG_INSIDE,
    boundary_band,
    boundary_errors,
    colour_classes,
    comparison_sheet,
    confusion_picture,
    contact_sheet,
    legend_classes,
    trimap_picture,
)


@pytest.fixture
def label():
    """Class 0 left, class 1 right, ignored rows at the bottom."""
    label = np.zeros((20, 30), dtype=np.uint8)
    label[:, 15:] = 1
    label[16:] = 255
    return label


def nearest(pixel):
    """Which of the colours of the error map a pixel is closest to, or the grey of the image."""
    colours = {"right": RIGHT, "wrong": WRONG, "wrong inside": WRONG_INSIDE, "void": VOID, "image": (96, 96, 96)}
    return min(colours, key=lambda name: np.abs(np.array(colours[name]) - pixel).sum())


def test_the_band_lies_on_both_sides_of_a_boundary_and_never_at_void(label):
    band = boundary_band(label, radius=3)
    assert np.flatnonzero(band.any(axis=0)).tolist() == list(range(12, 18))
    assert np.flatnonzero(band.any(axis=1)).tolist() == list(range(16))


def test_errors_are_told_apart_by_where_they_are(label):
    prediction = label.copy()
    prediction[0, 14] = 1
    prediction[0, 2] = 1
    prediction[16:] = 0
    errors = boundary_errors(np.zeros((20, 30, 3), np.uint8), label, prediction)
    found = {
        name: nearest(errors[at])
        for name, at in {"a": (0, 14), "b": (0, 2), "c": (5, 14), "d": (5, 2), "e": (18, 2)}.items()
    }
    assert found == {"a": "wrong", "b": "wrong inside", "c": "right", "d": "image", "e": "void"}


def test_classes_have_their_colours_and_void_is_black(label):
    picture = colour_classes(label, [(1, 2, 3), (4, 5, 6)])
    assert [picture[at].tolist() for at in ((0, 0), (0, 29), (19, 0))] == [[1, 2, 3], [4, 5, 6], [0, 0, 0]]


@pytest.mark.parametrize("classes", [2, 171])
def test_a_sheet_has_a_row_an_image_and_a_column_a_view(label, classes):
    rows = [
        (np.full((20, 30, 3), 200, np.uint8), label, label),
        (np.full((40, 30, 3), 90, np.uint8), *[np.zeros((40, 30), np.uint8)] * 2),
    ]
    sheet = comparison_sheet(rows, ClassInfo.numbered(classes), width=60)
    assert sheet.width == 6 + 4 * 66
    pixels = np.array(sheet)
    assert pixels[26 + 20, 6 + 30].tolist() == [200] * 3
    assert pixels[26 + 40 + 6 + 40, 6 + 30].tolist() == [90] * 3
    assert pixels[26 + 20, 6 + 66 + 10].tolist() == list(ClassInfo.numbered(classes).palette[0])


@pytest.mark.parametrize("shape", [(1, 4000), (4000, 1)])
def test_very_wide_and_very_tall_images_fit_their_panels(shape):
    classes, mask, image = ClassInfo.numbered(2), np.zeros(shape, np.uint8), np.zeros((*shape, 3), np.uint8)
    rows, legend = 26 + 4 * 60 + 2 * 6, 4 * 26
    assert comparison_sheet([(image, mask, mask)], classes, width=60).height <= rows + legend
    assert contact_sheet([(image, mask)], classes, width=60).height <= rows + legend
    assert sorted(shrink(image).shape) == [1, 3, 1024]


@pytest.mark.parametrize("title", ["val_000, mIoU 0.531", 50 * "a long name ", "two\nlines\udcff"])
def test_a_title_stands_above_its_row_and_never_beside_the_sheet(label, title):
    rows = [(np.full((20, 30, 3), 200, np.uint8), label, label)] * 2
    without, titled = (comparison_sheet(rows, ClassInfo.numbered(2), 60, titles) for titles in ((), (title, title)))
    assert titled.size == (without.width, without.height + 2 * 26)
    pixels = np.array(titled)
    for row in range(2):
        top = 26 + row * (26 + 40 + 6)
        assert (pixels[top : top + 26] != 255).any()
        assert (pixels[top : top + 26, -6:] == 255).all()
        assert pixels[top + 26 + 20, 6 + 30].tolist() == [200] * 3


def test_the_legend_of_many_classes_has_the_largest_of_the_pictures(label):
    assert legend_classes([label], 24) == list(range(24))
    assert legend_classes([label, np.full((5, 5), 99, np.uint8)], 171) == [0, 1, 99]
    every = np.arange(171, dtype=np.uint8).repeat(np.arange(171))
    assert legend_classes([every], 171) == list(range(171 - 48, 171))


@pytest.mark.parametrize(("classes", "pixels"), [(11, 30), (171, 10)])
def test_a_confusion_matrix_has_room_for_the_name_of_each_class(classes, pixels):
    names = [f"class ${number}" for number in range(classes)]
    picture = confusion_picture(np.eye(classes, dtype=int), names)
    (rows,) = (np.array(picture).sum(axis=2) == 0).any(axis=1).nonzero()  # the diagonal is black
    assert picture.width > pixels * classes
    assert rows[-1] - rows[0] > pixels * classes


def test_the_curve_around_boundaries_starts_at_zero():
    low, high = (np.array(trimap_picture({1: value, 3: value}, value)) for value in (0.1, 0.9))
    places = [
        np.flatnonzero((each[:, 200:-20] == [0, 114, 178]).all(axis=2).any(axis=1)).mean() for each in (low, high)
    ]
    assert places[0] - places[1] > 0.6 * len(low)
