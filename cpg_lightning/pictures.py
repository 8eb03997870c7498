"""Pictures of images, labels, predictions and scores."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cpg_lightning.data.class_info import IGNORED, ClassInfo, Colour

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PANELS = ("image", "label", "prediction", "boundary errors")
RIGHT, WRONG, WRONG_INSIDE, VOID = (70, 170, 90), (230, 40, 50), (240, 150, 60), (0, 0, 0)
BACKGROUND, INK = (255, 255, 255), (40, 40, 40)
TALLEST = 4  # largest height of a picture on a sheet, in widths of a panel
# Up to MOST_NAMES classes, a legend shows all of them. With more classes, it shows the MOST_SHOWN with the most pixels.
MOST_NAMES, MOST_SHOWN = 24, 48
# Largest number of classes of a confusion matrix in large print, and of one with numbers.
MOST_LARGE, MOST_NUMBERS = 40, 25
ERRORS = (("boundary right", RIGHT), ("boundary wrong", WRONG), ("wrong elsewhere", WRONG_INSIDE))


def colour_classes(classes: np.ndarray, palette: Sequence[Colour]) -> np.ndarray:
    """Map classes (H, W) to their colours, uint8 (H, W, 3). Other values are black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(palette)] = palette
    return table[classes.astype(np.uint8)]


def boundary_band(label: np.ndarray, radius: int) -> np.ndarray:
    """Pixels within Chebyshev distance ``radius`` of another class, bool (H, W). Ignored pixels form no boundary."""
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), dtype=np.uint8)
    label = label.astype(np.int16)
    void = label == IGNORED
    highest = cv2.dilate(np.where(void, np.int16(-1), label), kernel)
    lowest = cv2.erode(np.where(void, np.int16(32767), label), kernel)
    return (highest != lowest) & ~void


def boundary_errors(image: np.ndarray, label: np.ndarray, prediction: np.ndarray, radius: int = 3) -> np.ndarray:
    """Draw the errors of a prediction over the grey image.

    In the boundary band of the label, wrong pixels are red and correct pixels are green. Wrong pixels outside the band are
    orange.

    Args:
        image: RGB, uint8 (H, W, 3).
        label: Classes, or 255 for ignored pixels, which are drawn black, (H, W).
        prediction: Classes, (H, W).
        radius: Half width of the boundary band in pixels.

    Returns:
        RGB, uint8 (H, W, 3).
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2)
    picture = 96 + 0.5 * grey
    band, wrong = boundary_band(label, radius), prediction != label
    for where, colour, opacity in (
        (wrong, WRONG_INSIDE, 0.7),
        (band & ~wrong, RIGHT, 0.6),
        (band & wrong, WRONG, 0.85),
    ):
        picture[where] = (1 - opacity) * picture[where] + opacity * np.array(colour)
    picture[label == IGNORED] = VOID
    return picture.astype(np.uint8)


def comparison_sheet(
    rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    classes: ClassInfo,
    width: int = 320,
    titles: Sequence[str] = (),
) -> Image.Image:
    """Draw a sheet with one row per image: image | label | prediction | boundary errors, and a legend below.

    With many classes, the legend shows the classes with the most pixels on the sheet.

    Args:
        rows: Image, label and prediction of one size, as for :func:`boundary_errors`.
        classes: The classes, with their colours.
        width: Width of a panel in pixels.
        titles: Title above each row; no titles by default.
    """
    gap, line, font = 6, 26, ImageFont.load_default(15)
    sizes = [_size(image, width) for image, _, _ in rows]
    sheet_width = gap + len(PANELS) * (width + gap)
    shown = legend_classes([classes_of for _, *both in rows for classes_of in both], classes.num_classes)
    names = [(classes.names[index], classes.palette[index]) for index in shown]
    entries = _legend([*names, *ERRORS, ("ignored", VOID)], sheet_width, font)
    sheet_height = (
        line * (1 + len(titles)) + sum(height for _, height in sizes) + gap * len(rows) + line * (entries[-1][0] + 1)
    )
    sheet = Image.new("RGB", (sheet_width, sheet_height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(PANELS):
        draw.text((gap + column * (width + gap) + width / 2, line / 2), title, INK, font, anchor="mm")
    top = line
    for index, (size, (image, label, prediction)) in enumerate(zip(sizes, rows, strict=True)):
        if titles:
            title = _fitting(titles[index], sheet_width - 2 * gap, font)
            draw.text((gap, top + line / 2), title, INK, font, anchor="lm")
            top += line
        errors = boundary_errors(image, label, prediction)
        panels = (image, colour_classes(label, classes.palette), colour_classes(prediction, classes.palette), errors)
        for column, panel in enumerate(panels):
            resample = Image.Resampling.BILINEAR if column == 0 else Image.Resampling.NEAREST
            sheet.paste(Image.fromarray(panel).resize(size, resample), (gap + column * (width + gap), top))
        top += size[1] + gap
    _draw_legend(sheet, entries, top, line, font)
    return sheet


def confusion_picture(confusion: np.ndarray, class_names: Sequence[str]) -> Image.Image:
    """Draw a confusion matrix (C, C), each row as shares of the labelled pixels. Up to 25 classes, with numbers."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    large = len(class_names) <= MOST_LARGE
    inch, size = (0.28, None) if large else (0.1, 6)  # height of a row; of its name, in points
    side = 3.5 + inch * len(class_names)
    figure = _figure(side + 0.6, side)
    axes = figure.subplots()
    shown = axes.imshow(
        np.where(confusion.sum(axis=1, keepdims=True) > 0, shares, np.nan), cmap="magma_r", vmin=0, vmax=1
    )
    axes.set(xlabel="predicted", ylabel="labelled")
    names = [name.replace("$", r"\$") for name in class_names]  # no mathematics in names
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    if not large:  # names on all sides, and lines that lead to them
        axes.tick_params(top=True, labeltop=True, right=True, labelright=True)
        axes.vlines(np.arange(9.5, len(names), 10), -0.5, len(names) - 0.5, color="0.8", linewidth=0.4)
        axes.hlines(np.arange(9.5, len(names), 10), -0.5, len(names) - 0.5, color="0.8", linewidth=0.4)
    if len(class_names) <= MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.01:
                ink = "white" if share > 0.5 else "black"
                axes.text(
                    column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=ink, in_layout=False
                )
    figure.colorbar(shown, ax=axes, shrink=0.7, label="share of the labelled pixels")
    return _drawn(figure)


def trimap_picture(trimap: dict[int, float], overall: float) -> Image.Image:
    """Draw the mean IoU against the distance from the boundary in pixels. The axes are those of ``cpg report``."""
    figure = _figure(5.5, 3.6)
    axes = figure.subplots()
    places, values = [*map(str, trimap), "all"], [100 * value for value in (*trimap.values(), overall)]
    axes.plot(range(len(places)), values, marker="o", color="#0072B2")
    axes.set_xticks(range(len(places)), places)
    axes.set(xlabel="within this distance of the boundary, pixels", ylabel="mIoU, %", ylim=(0, 100))
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    return _drawn(figure)


def _figure(width: float, height: float) -> Any:
    """Return an empty figure. Width and height are in inches."""
    # Only here: most commands draw no figure. The canvas of Agg gives pixels without a file.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _drawn(figure: Any) -> Image.Image:
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")


def overlay(image: np.ndarray, mask: np.ndarray, palette: Sequence[Colour]) -> np.ndarray:
    """Draw classes (H, W) over an image, uint8 (H, W, 3), in their colours, darker at their boundaries."""
    blended = cv2.addWeighted(image, 0.5, colour_classes(mask, palette), 0.5, 0)
    blended[boundary_band(mask, 1)] //= 3
    return blended


def contact_sheet(
    crops: Sequence[tuple[np.ndarray, np.ndarray]],
    classes: ClassInfo,
    columns: int = 4,
    width: int = 260,
) -> Image.Image:
    """Draw a sheet of crops of one size, with a legend below. Beside each crop is the same crop with its labels over it.

    Args:
        crops: For each crop, the image, uint8 (H, W, 3) RGB, and the classes, (H, W).
        classes: The classes, with their colours.
        columns: Number of crops in a row.
        width: Width of a picture in pixels.
    """
    gap, line, font = 6, 26, ImageFont.load_default(15)
    size = _, height = _size(crops[0][0], width)
    sheet_width = gap + columns * (2 * width + 2 * gap)
    present = np.unique(np.concatenate([np.unique(mask) for _, mask in crops]))
    names = [(classes.names[label], classes.palette[label]) for label in present if label != IGNORED]
    entries = _legend([*names, ("ignored", VOID)], sheet_width, font)
    rows = -(-len(crops) // columns)
    bottom = gap + rows * (height + gap)
    sheet = Image.new("RGB", (sheet_width, bottom + line * (entries[-1][0] + 1)), BACKGROUND)
    for index, (image, mask) in enumerate(crops):
        row, column = divmod(index, columns)
        left, top = gap + column * (2 * width + 2 * gap), gap + row * (height + gap)
        for panel in (image, overlay(image, mask, classes.palette)):
            shrunk = cv2.resize(panel, size, interpolation=cv2.INTER_AREA)
            sheet.paste(Image.fromarray(shrunk), (left, top))
            left += width
    _draw_legend(sheet, entries, bottom, line, font)
    return sheet


def legend_classes(maps: Sequence[np.ndarray], num_classes: int) -> list[int]:
    """Return the classes of a legend, in order: all classes if they are few, else those with the most pixels in the maps."""
    if num_classes <= MOST_NAMES:
        return list(range(num_classes))
    pixels = np.stack([np.bincount(each.ravel(), minlength=256)[:num_classes] for each in maps]).sum(axis=0)
    largest = np.argsort(-pixels, kind="stable")[:MOST_SHOWN]
    return sorted(int(index) for index in largest if pixels[index])


def _size(picture: np.ndarray, width: int) -> tuple[int, int]:
    """Return the width and height of a picture in a panel. Very tall pictures are narrower than the panel."""
    factor = min(width / picture.shape[1], TALLEST * width / picture.shape[0])
    return max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor))


def _fitting(text: str, width: int, font: Font) -> str:
    """Shorten a text to one line of ``width`` pixels. The beginning is cut, because image names differ at their end."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    while font.getlength(text) > width:
        text = f"...{text.removeprefix('...')[1:]}"
    return text


def _draw_legend(
    sheet: Image.Image, entries: Sequence[tuple[int, int, str, Colour]], top: int, line: int, font: Font
) -> None:
    draw = ImageDraw.Draw(sheet)
    for row, left, name, colour in entries:
        middle = top + row * line + line / 2
        draw.rectangle((left, middle - 7, left + 14, middle + 7), colour)
        draw.text((left + 20, middle), name, INK, font, anchor="lm")


def _legend(names: Sequence[tuple[str, Colour]], width: int, font: Font) -> list[tuple[int, int, str, Colour]]:
    """Return row, left edge, name and colour of each entry, wrapped at ``width``."""
    entries, row, left = [], 0, 6
    for name, colour in names:
        length = 20 + round(font.getlength(name)) + 16
        if left + length > width:
            row, left = row + 1, 6
        entries.append((row, left, name, colour))
        left += length
    return entries
