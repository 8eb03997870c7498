"""What is in the images of a dataset, and what is wrong with them."""

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

MOST_PROBLEMS = 20  # shown of a split; all are counted
MODES = {GREY: "L", PALETTE: "P", WITH_ALPHA[GREY]: "LA", WITH_ALPHA[PALETTE]: "PA"}  # as Pillow calls them
# The first words of libjpeg's messages about damage; its other messages are about harmless things.
DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG", "Inconsistent progression", "Invalid SOS")


@dataclass
class Findings:
    """What is in some images, and what is wrong with them.

    Attributes:
        images: Number of images.
        pixels: Pixels of each label value, int64 (256).
        images_with: Images that have each label value, int64 (256).
        pixels_beside: Labelled pixels of the images that have each label value, int64 (256).
        boundary: Pixels of each label value next to another class, int64 (256).
        heights: Smallest and largest height in pixels.
        widths: Smallest and largest width in pixels.
        modes: Number of files of each mode.
        problems: How often something is wrong.
        messages: The first of the problems.
        suspicions: What looks wrong over all images together; these are problems too.
        notes: What is worth knowing, and not wrong.
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
        """Add what is in other images."""
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
        """Add something that is wrong."""
        self.add(Findings(problems=1, messages=[message]))

    def suspicious(self, message: str) -> None:
        """Add something that looks wrong."""
        self.add(Findings(problems=1, suspicions=[message]))


class Inspection(Dataset[Findings]):
    """What is in each image of a dataset."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Findings:
        findings = Findings(images=1)
        try:
            with decoder_warnings() as said:
                image, label, _ = self.dataset.read(index)
            findings.modes = self._modes(index)
        except (OSError, ValueError) as error:
            findings.wrong(str(error))
            return findings
        if said:
            findings.wrong(
                f"expected a JPEG without damage, got one whose decoder says {said[0]!r}: {self._image(index)}; replace it"
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
            if header is not None:  # a .mat has none
                modes[f"{what} {MODES.get(header.layout, header.layout)}"] += 1
        return modes


@contextmanager
def decoder_warnings() -> Iterator[list[str]]:
    """Collects the messages of libjpeg about damage, which it writes to the standard error stream alone, without a file's name.

    All else that is written there goes on to it afterwards.
    """
    said: list[str] = []
    sys.stderr.flush()
    stream = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            sys.stderr.flush()
            os.dup2(stream, 2)
            os.close(stream)
            file.seek(0)
            lines = file.read().decode(errors="replace").splitlines()
            said += [line for line in lines if line.startswith(DAMAGE)]
            for line in lines:
                if line not in said:
                    print(line, file=sys.stderr)


def summed(findings: list[Findings]) -> Findings:
    """All findings as one."""
    total = Findings()
    for each in findings:
        total.add(each)
    return total
