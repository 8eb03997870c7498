"""Time and memory of the criterion, forward and backward, beside upsampling and cross-entropy in plain torch."""

import shutil
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from measure import Options, apart, gibibytes, heading, interleaved, milliseconds, peak, ratio, regions, row
from torch import Tensor

from cpg_lightning.losses import (
    ActiveBoundaryLoss,
    CrossEntropyCPGLoss,
    DiceLoss,
    JaccardLoss,
    KervadecBoundaryLoss,
    LovaszSoftmaxLoss,
    RMILoss,
    cpg_loss,
)

# Images, classes, height and width of the labels.
Shape = tuple[int, int, int, int]
SHAPES: dict[str, list[Shape]] = {
    "cpu": [(2, 19, 512, 1024), (2, 150, 520, 520), (2, 171, 520, 520)],
    "cuda": [(2, 19, 512, 1024), (12, 19, 512, 1024), (16, 150, 520, 520), (16, 171, 520, 520)],
}
STRIDES = (1, 4, 8)
DTYPES = {"cpu": [torch.float32], "cuda": [torch.float32, torch.bfloat16]}
REFERENCE, PUBLIC = "F.interpolate + F.cross_entropy", "CE + CPG"

Loss = Callable[[Tensor, Tensor], Tensor]


def reference(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the upsampled logits."""
    return F.cross_entropy(upsampled(logits, target).float(), target, ignore_index=255)


def definition(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus CPG of the upsampled logits, as defined."""
    large = upsampled(logits, target)
    return F.cross_entropy(large, target, ignore_index=255) + cpg_loss(large, target)


def upsampled(logits: Tensor, target: Tensor) -> Tensor:
    """Logits at the size of the target; at stride 1 they are."""
    if logits.shape[-2:] == target.shape[-2:]:
        return logits
    return F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=False)


LOSSES: dict[str, Loss] = {
    REFERENCE: reference,
    "CE by the same pass": CrossEntropyCPGLoss(cpg_weight=0),
    PUBLIC: CrossEntropyCPGLoss(),
    "k = 5": CrossEntropyCPGLoss(kernel_size=5),
    "k = 7": CrossEntropyCPGLoss(kernel_size=7),
}
OTHERS: dict[str, Loss] = {
    REFERENCE: reference,
    PUBLIC: CrossEntropyCPGLoss(),
    "Dice": DiceLoss(),
    "Jaccard": JaccardLoss(),
    "Lovász-softmax": LovaszSoftmaxLoss(),
    "RMI": RMILoss(),
    "active boundary": ActiveBoundaryLoss(),
    "Kervadec's boundary": KervadecBoundaryLoss(),
}
DEFINITIONS: dict[str, Loss] = {
    REFERENCE: reference,
    PUBLIC: CrossEntropyCPGLoss(),
    "definition": definition,
    # torch.compile needs a compiler: C++ for the CPU, and C for the launchers of a GPU's kernels.
    **({"definition, compiled": torch.compile(definition, dynamic=False)} if shutil.which("c++") else {}),
}
# By name, for processes of their own.
TABLES = {"criterion": LOSSES, "others": OTHERS, "definition": DEFINITIONS}


def problem(shape: Shape, stride: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits at a stride, and the target."""
    torch.manual_seed(0)
    images, classes, height, width = shape
    logits = torch.randn(images, classes, -(-height // stride), -(-width // stride), device=device, dtype=dtype)
    return logits.requires_grad_(), regions(images, classes, height, width).to(device)


def times(
    shape: Shape, stride: int, dtype: torch.dtype, device: torch.device, repetitions: int, of: str
) -> dict[str, list[float]]:
    """Seconds of each loss's forward and backward pass."""
    logits, target = problem(shape, stride, dtype, device)

    def call(loss: Loss) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(logits, target), logits)

    return interleaved({name: call(loss) for name, loss in TABLES[of].items()}, repetitions, device, warm_up=2)


def loss_peak(shape: Shape, stride: int, dtype: torch.dtype, device: torch.device, of: str, name: str) -> float:
    """Bytes of one forward and backward pass above its inputs, gradient included."""
    loss = TABLES[of][name]
    logits, target = problem(shape, stride, dtype, device)

    def call() -> None:
        torch.autograd.grad(loss(logits, target), logits)

    call()  # what is imported and compiled does not count
    return peak(call, device)


def measured(options: Options, shape: Shape, stride: int, dtype: torch.dtype, of: str) -> list[list[str]]:
    """The cells of a row of times, and of one of memory."""
    device = options.device
    names = list(TABLES[of])
    seconds = apart(device, times, shape, stride, dtype, device, options.repetitions, of, keep=True)
    peaks = {name: apart(device, loss_peak, shape, stride, dtype, device, of, name) for name in names}
    return [
        [milliseconds(seconds[REFERENCE]), *(ratio(seconds[name], seconds[REFERENCE]) for name in names[1:])],
        [gibibytes(peaks[REFERENCE]), *(f"{peaks[name] / peaks[REFERENCE]:.2f}" for name in names[1:])],
    ]


def table(options: Options) -> Iterator[str]:
    """A row of times and one of memory for each shape, stride and type; of the definition for the first shape alone."""
    yield "Forward and backward pass; all but the first column of numbers are ratios to it. Labels are drawn."
    shapes = SHAPES[options.device.type]
    yield from heading("logits", "", *DEFINITIONS)
    for stride in STRIDES[:2]:
        yield from rows(options, shapes[0], stride, torch.float32, "definition")
    yield from all_rows(options, shapes, "criterion")


def all_rows(options: Options, shapes: list[Shape], of: str) -> Iterator[str]:
    """A table: rows of each shape, stride and type."""
    yield from heading("logits", "", *TABLES[of])
    for shape in shapes:
        for stride in STRIDES:
            for dtype in DTYPES[options.device.type]:
                yield from rows(options, shape, stride, dtype, of)


def rows(options: Options, shape: Shape, stride: int, dtype: torch.dtype, of: str) -> Iterator[str]:
    """The two rows of a shape, stride and type; one where the device has not the memory for them."""
    images, classes, height, width = shape
    title = f"{images}x{classes}x{height}x{width}, stride {stride}, {str(dtype).removeprefix('torch.')}"
    try:
        for what, cells in zip(("time", "memory"), measured(options, shape, stride, dtype, of), strict=True):
            yield row(title, what, *cells)
    except torch.OutOfMemoryError:
        yield row(title, "more memory than the device has")
