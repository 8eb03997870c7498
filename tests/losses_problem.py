"""Drawn problems for losses, their reference values, and all losses there are."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from cpg_lightning.losses import (
    ActiveBoundaryLoss,
    CrossEntropyCPGLoss,
    DiceLoss,
    JaccardLoss,
    KervadecBoundaryLoss,
    LovaszSoftmaxLoss,
    RMILoss,
    WeightedSum,
)


def losses():
    """Each loss by name, with each of its ways."""
    return {
        "ce": CrossEntropyCPGLoss(cpg_weight=0),
        "ce + cpg": CrossEntropyCPGLoss(),
        "cpg": CrossEntropyCPGLoss(ce_weight=0),
        **{f"dice over {over}": DiceLoss(over) for over in ("batch", "image", "class")},
        **{f"jaccard over {over}": JaccardLoss(over) for over in ("batch", "image", "class")},
        "lovasz": LovaszSoftmaxLoss(),
        "lovasz of images": LovaszSoftmaxLoss(per_image=True),
        "rmi": RMILoss(),
        "rmi of averages": RMILoss("average", 4, 4),
        "kervadec": KervadecBoundaryLoss(),
        "kervadec of two classes": KervadecBoundaryLoss([2, 1]),
        "active boundary": ActiveBoundaryLoss(max_N_ratio=0.2, detach=False),
        "sum": WeightedSum([CrossEntropyCPGLoss(), LovaszSoftmaxLoss(), DiceLoss()], [1, 0.5, 0.25]),
    }


def patches(generator, images, classes, height, width, patch, void=0.0):
    """Labels in patches of a side, some of the pixels ignored."""
    options = {"generator": generator, "device": generator.device}
    coarse = torch.randint(0, classes, (images, -(-height // patch), -(-width // patch)), **options)
    target = coarse.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, :height, :width].clone()
    return target.masked_fill_(torch.rand(target.shape, **options) < void, 255)


@st.composite
def problems(draw, smallest=1, largest=12):
    """Logits in float64 no larger than a target of patchy classes, none to all of it ignored."""
    images, classes = draw(st.integers(1, 3)), draw(st.integers(2, 5))
    height, width = draw(st.integers(smallest, largest)), draw(st.integers(smallest, largest))
    small = (height, width) if draw(st.booleans()) else (draw(st.integers(1, height)), draw(st.integers(1, width)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    # Not all classes need be in the labels.
    target = patches(
        generator,
        images,
        draw(st.integers(1, classes)),
        height,
        width,
        draw(st.integers(1, 5)),
        draw(st.sampled_from([0.0, 0.2, 1.0])),
    )
    if draw(st.booleans()):
        target[0] = 255
    scale = draw(st.sampled_from([0.1, 2.0, 10.0]))
    return scale * torch.randn(images, classes, *small, dtype=torch.float64, generator=generator), target


def upsampled(logits, target, align_corners=False):
    """Logits at the size of the target."""
    return F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=align_corners)


def value_and_gradient(loss, logits):
    """The value of a loss and its gradient by logits; 0 for one that does not depend on them."""
    (gradient,) = torch.autograd.grad(loss, logits, allow_unused=True, materialize_grads=True)
    return loss.detach(), gradient


def references(folder: Path, name: str):
    """A file of reference values."""
    return np.load(folder / "golden" / f"{name}.npz")


def check_reference(loss, logits, labels, value, gradient, align_corners=False, places=slice(None)):
    """Value and gradient, in float64 and float32, are those of a reference, which may have some places of the gradient."""
    for dtype, exact, gradient_exact in ((torch.float64, 1e-9, 1e-6), (torch.float32, 1e-6, 5e-5)):
        leaf = torch.tensor(logits, dtype=dtype, requires_grad=True)
        found, found_gradient = value_and_gradient(loss(leaf, torch.tensor(labels), align_corners), leaf)
        np.testing.assert_allclose(found.item(), value, rtol=exact, atol=exact if dtype == torch.float32 else 1e-15)
        largest = float(np.abs(gradient).max())
        np.testing.assert_allclose(
            found_gradient.flatten()[places], gradient.flatten(), rtol=0, atol=gradient_exact * largest
        )
