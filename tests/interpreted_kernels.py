"""Compares the GPU's kernels, run by Triton's interpreter on the CPU, with the pass over rows in float64.

Prints the largest differences of gradient, cross-entropy and CPG for each case that is named as JSON. Needs
TRITON_INTERPRET=1.
"""

import json
import sys

import torch

from cpg_lightning.losses.fused import gpu
from cpg_lightning.losses.fused.rows import Options, cross_entropy_cpg

SMALL, LARGE = (3, 4), (10, 13)
WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 0.25, 1.5])
CASES = {
    "a stride that is no integer": {"images": 2},
    "aligned corners": {"align_corners": True},
    "logits at target size": {"small": LARGE},
    "logits larger than the target": {"small": (20, 15)},
    "bfloat16, channels last": {"dtype": torch.bfloat16, "memory_format": torch.channels_last},
    "a kernel of 5 pixels": {"kernel_size": 5},
    "no boundaries of void": {"void_borders": False},
    "label smoothing and class weights": {"label_smoothing": 0.1, "weights": WEIGHTS},
    "hard examples": {"ohem_threshold": 0.3, "ohem_min_kept": 20, "weights": WEIGHTS},
    "the value alone": {"with_gradient": False},
    "cross-entropy alone": {"cpg_weight": 0.0},
    "infinite logits": {"infinite": True},
}


def differences(
    images=1,
    small=SMALL,
    dtype=torch.float32,
    memory_format=torch.contiguous_format,
    weights=None,
    align_corners=False,
    with_gradient=True,
    infinite=False,
    **options,
):
    """The largest difference of gradient, cross-entropy and CPG; infinite where only one of both is no number."""
    torch.manual_seed(0)
    logits = (3 * torch.randn(images, 5, *small)).to(dtype).contiguous(memory_format=memory_format)
    if infinite:
        logits[0, 0, 1, 1] = torch.inf
    labels = torch.randint(0, 5, (images, 4, 5)).repeat_interleave(3, 1).repeat_interleave(3, 2)
    target = labels[:, : LARGE[0], : LARGE[1]].contiguous()
    target[torch.rand(target.shape) < 0.05] = 255
    options = Options(255, **{"cpg_weight": 1.0, **options})
    found = gpu.cross_entropy_cpg(logits, target, weights, options, align_corners, with_gradient)
    weights = None if weights is None else weights.double()
    expected = cross_entropy_cpg(logits.double(), target, weights, options, align_corners, with_gradient)
    return [_difference(*pair) for pair in zip(found, expected, strict=True)]


def _difference(found, expected):
    if expected is None:
        return 0.0 if found is None else float("inf")
    if not torch.equal(found.isnan(), expected.isnan()):
        return float("inf")
    return (found - expected).nan_to_num().abs().max().item()


print(json.dumps({name: differences(**CASES[name]) for name in sys.argv[1:]}))
