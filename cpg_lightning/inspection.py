"""Statistics and problems of the images of a dataset."""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import cv2
import numpy as np
from torch.utils.data import Dataset

from cpg_lightning.data.class_info import IGNORED
from cpg_lightning.data.class_table import UNKNOWN
from cpg_lightning.data.dataset import FileDataset, SegmentationDataset
from cpg_lightning.data.header import GREY, PALETTE, WITH_ALPHA, read_header
from cpg_lightning.pictures import boundary_band

MOST_PROBLEMS = 20  # largest number of messages per split; all problems are counted
MODES = {GREY: "L", PALETTE: "P", WITH_ALPHA[GREY]: "LA", WITH_ALPHA[PALETTE]: "PA"}  # Pillow's names
# First words of libjpeg's messages about damage. Its other messages are harmless.
DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG", "Inconsistent progression", "Invalid SOS")


@dataclass
class Findings:
    """Statistics and problems of some images.

    Attributes:
        images: Number of images.
        pixels: Number of pixels of each label value, int64 (256).
        images_with: Number of images with each label value, int64 (256).
        pixels_beside: Number of labelled pixels in the images with each label value, int64 (256).
        boundary: Number of pixels of each label value next to another class, int64 (256).
        heights: Smallest and largest height in pixels.
        widths: Smallest and largest width in pixels.
        modes: Number of files of each mode.
        problems: Number of problems.
        messages: Messages of the first problems.
        suspicions: Messages about statistics that look wrong over all images; they count as problems.
        notes: Remarks that are not problems.
    """

    images: int = 0
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    images_with: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    pixels_beside: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    boundary: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    heights: tuple[int, int] = (2**31, 0)
    widths: tuple[int, int] = (2**31, 0)
    modes: Counter[str] = field(default_factory=Counter)
    problems: int = 0
    messages: list[str] = field(default_factory=list)
    suspicions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: "Findings") -> None:
        """Add the findings of other images."""
        self.images += other.images
        self.pixels += other.pixels
        self.images_with += other.images_with
        self.pixels_beside += other.pixels_beside
        self.boundary += other.boundary
        self.heights = min(self.heights[0], other.heights[0]), max(self.heights[1], other.heights[1])
        self.widths = min(self.widths[0], other.widths[0]), max(self.widths[1], other.widths[1])
        self.modes += other.modes
        self.problems += other.problems
        self.messages = (self.messages + other.messages)[:MOST_PROBLEMS]
        self.suspicions = self.suspicions + other.suspicions
        self.notes = self.notes + other.notes

    def wrong(self, message: str) -> None:
        """Add a problem."""
        self.add(Findings(problems=1, messages=[message]))

    def suspicious(self, message: str) -> None:
        """Add a suspicion."""
        self.add(Findings(problems=1, suspicions=[message]))


class Inspection(Dataset[Findings]):
    """Dataset of the findings of each image."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Findings:
        findings = Findings(images=1)
        try:
            with decoder_warnings() as damage:
                image, label, _ = self.dataset.read(index)
            findings.modes = self._modes(index)
        except (OSError, ValueError) as error:
            findings.wrong(str(error))
            return findings
        if damage:
            findings.wrong(
                f"expected a JPEG without damage, got one whose decoder says {damage[0]!r}: {self._image(index)}; replace it"
            )
        findings.heights, findings.widths = (image.shape[0],) * 2, (image.shape[1],) * 2
        if label is None:
            return findings
        mask = cv2.LUT(label, self.dataset.label_table)
        if (mask == UNKNOWN).any():
            findings.wrong(self.dataset.unknown(index, label))
        mask[mask == UNKNOWN] = IGNORED
        findings.pixels = np.bincount(label.ravel(), minlength=256)
        findings.images_with = (findings.pixels > 0).astype(np.int64)
        findings.pixels_beside = findings.images_with * int((mask != IGNORED).sum())
        band = boundary_band(mask, radius=1)
        findings.boundary = np.bincount(label[band], minlength=256)
        return findings

    def _image(self, index: int) -> str:
        return str(self.dataset.files[index][0] if isinstance(self.dataset, FileDataset) else index)

    def _modes(self, index: int) -> Counter[str]:
        if not isinstance(self.dataset, FileDataset):
            return Counter()
        modes: Counter[str] = Counter()
        for what, path in zip(("image", "label"), self.dataset.files[index], strict=True):
            header = None if path is None else read_header(self.dataset.tree.read(path))
            if header is not None:  # a .mat file has no header
                modes[f"{what} {MODES.get(header.layout, header.layout)}"] += 1
        return modes


@contextmanager
def decoder_warnings() -> Iterator[list[str]]:
    """Collect libjpeg's messages about damage, which it writes to the standard error stream without a file name.

    Other lines are written to the standard error stream afterwards.
    """
    damage: list[str] = []
    sys.stderr.flush()
    stream = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield damage
        finally:
            sys.stderr.flush()
            os.dup2(stream, 2)
            os.close(stream)
            file.seek(0)
            lines = file.read().decode(errors="replace").splitlines()
            damage += [line for line in lines if line.startswith(DAMAGE)]
            for line in lines:
                if line not in damage:
                    print(line, file=sys.stderr)


def sum_findings(findings: list[Findings]) -> Findings:
    """Return the sum of several findings."""
    total = Findings()
    for each in findings:
        total.add(each)
    return total
