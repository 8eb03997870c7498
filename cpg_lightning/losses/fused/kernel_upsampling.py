"""Bilinear upsampling in Triton kernels, and its adjoint.

An axis is ``(first, step, denominator, small)``: position i of the target lies at ``(first + i * step) / denominator`` of the
``small`` positions of the logits, clamped, as in :mod:`.upsampling`.
"""

# Triton compiles these functions. Annotations would be types of its own.
# ruff: noqa: ANN001, ANN201
# mypy: ignore-errors
import triton
import triton.language as tl


@triton.jit
def axis_of(small, large, ALIGN_CORNERS: tl.constexpr):
    """The axis of the rows or of the columns: sizes of the logits and of the target."""
    if ALIGN_CORNERS:
        first, step, denominator = 0, tl.maximum(small - 1, 1), tl.maximum(large - 1, 1)
    else:
        first, step, denominator = small - large, 2 * small, 2 * large
    return first, step, denominator, small


@triton.jit
def between(position, axis):
    """The two positions of the logits around a position of the target, and the weight of the second."""
    first, step, denominator, small = axis
    numerator = tl.minimum(tl.maximum(first + position * step, 0), (small - 1) * denominator)
    lower = numerator // denominator
    fraction = (numerator - lower * denominator).to(tl.float32) / denominator.to(tl.float32)
    return lower, tl.minimum(lower + 1, small - 1), fraction


@triton.jit
def load(pointer, mask):
    """Numbers in float32, 0 outside the mask."""
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def upsample(image, strides, axes, channel, y, x, mask, SAME_SIZE: tl.constexpr):
    """Logits of the classes ``channel`` at the pixels (y, x) of the target, in float32; 0 outside the mask."""
    stride_c, stride_h, stride_w = strides
    base = image + channel * stride_c
    if SAME_SIZE:
        value = load(base + y * stride_h + x * stride_w, mask)
    else:
        top, bottom, down = between(y, axes[0])
        left, right, across = between(x, axes[1])
        upper = (1 - across) * load(base + top * stride_h + left * stride_w, mask)
        upper += across * load(base + top * stride_h + right * stride_w, mask)
        lower = (1 - across) * load(base + bottom * stride_h + left * stride_w, mask)
        lower += across * load(base + bottom * stride_h + right * stride_w, mask)
        value = (1 - down) * upper + down * lower
    return value


@triton.jit
def scatter(gradient, axes, w, y, x, value, mask, SAME_SIZE: tl.constexpr):
    """The adjoint of the upsampling at single pixels: add a value to the gradient of the logits of a class."""
    if SAME_SIZE:
        tl.atomic_add(gradient + y * w + x, value, mask=mask, sem="relaxed")
    else:
        top, bottom, down = between(y, axes[0])
        left, right, across = between(x, axes[1])
        tl.atomic_add(gradient + top * w + left, (1 - down) * (1 - across) * value, mask=mask, sem="relaxed")
        tl.atomic_add(gradient + top * w + right, (1 - down) * across * value, mask=mask, sem="relaxed")
        tl.atomic_add(gradient + bottom * w + left, down * (1 - across) * value, mask=mask, sem="relaxed")
        tl.atomic_add(gradient + bottom * w + right, down * across * value, mask=mask, sem="relaxed")


@triton.jit
def span(axis):
    """The number of positions of the target that are next to a position of the logits, at most."""
    _, step, denominator, _ = axis
    return (2 * denominator + step - 1) // step


@triton.jit
def first_next_to(position, axis):
    """The first position of the target next to a position of the logits."""
    first, step, denominator, _ = axis
    distance = (position - 1) * denominator - first
    return tl.where(position == 0, 0, tl.maximum((distance + step - 1) // step, 0))
