"""Triton kernels of cross-entropy plus CPG. They upsample logits where these are needed, and store none of the result.

Sizes: B images, C classes, logits (h, w), target (H, W). The logits may have any strides. All other tensors are contiguous.
"""

# Triton compiles these functions. Annotations would be types of its own.
# ruff: noqa: ANN001, ANN201, ANN202, RUF005
# mypy: ignore-errors
import triton
import triton.language as tl

from .kernel_upsampling import axis_of, between, first_next_to, load, scatter, span, upsample

# One compiled kernel for all sizes: images of a validation have many.
SIZES = ["stride_b", "stride_c", "stride_h", "stride_w", "ignore_index", "C", "h", "w", "H", "W"]


@triton.jit(do_not_specialize=SIZES)
def normalise(
    logits,
    stride_b,
    stride_c,
    stride_h,
    stride_w,
    classes,  # int64 (B, H, W)
    class_weights,  # float32 (C)
    normaliser,  # out: log of the sum of exponentials, float32 (B, H, W)
    of_true,  # out: log probability of the true class, float32 (B, H, W)
    of_all,  # out: sum of the log probabilities, each times the weight of its class, float32 (B, H, W)
    C,
    h,
    w,
    H,
    W,
    SMOOTH: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    SAME_SIZE: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """The softmax of each pixel, as far as the loss needs it."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < H * W
    y, x = pixel // W, pixel % W
    image = logits + tl.program_id(1).to(tl.int64) * stride_b
    strides, axes = (stride_c, stride_h, stride_w), (axis_of(h, H, ALIGN_CORNERS), axis_of(w, W, ALIGN_CORNERS))
    place = tl.program_id(1).to(tl.int64) * H * W + pixel

    highest = tl.full((PIXELS,), float("-inf"), tl.float32)
    total, weighted, sum_of_weights = tl.zeros((PIXELS,), tl.float32), tl.zeros((PIXELS,), tl.float32), 0.0
    for channel in tl.range(0, C, loop_unroll_factor=4):
        value = upsample(image, strides, axes, channel, y, x, inside, SAME_SIZE)
        if SMOOTH:
            weight = tl.load(class_weights + channel)
            weighted += weight * value
            sum_of_weights += weight
        before, highest = highest, tl.maximum(highest, value)
        shift = tl.where(highest == float("-inf"), 0.0, highest)  # the difference of two infinities is no number
        total = total * tl.exp(before - shift) + tl.exp(value - shift)
    log_total = highest + tl.log(total)
    true = tl.load(classes + place, mask=inside, other=0)
    known = inside & (true >= 0) & (true < C)
    value = upsample(image, strides, axes, true, y, x, known, SAME_SIZE)
    tl.store(normaliser + place, log_total, mask=inside)
    tl.store(of_true + place, tl.where(known, value - log_total, float("nan")), mask=inside)
    if SMOOTH:
        tl.store(of_all + place, weighted - sum_of_weights * log_total, mask=inside)


@triton.jit
def _neighbour(lane, index, SIZE: tl.constexpr, SIDE: tl.constexpr):
    """The lane at an entry of the kernel around each lane; one of the tile, also where there is none."""
    lane += (index // SIZE - SIZE // 2) * SIDE + index % SIZE - SIZE // 2
    return tl.minimum(tl.maximum(lane, 0), SIDE * SIDE - 1)


@triton.jit
def _weights(index, SIZE: tl.constexpr, DENOMINATOR: tl.constexpr):
    """The vertical and the horizontal kernel at an entry, times their denominator: integers."""
    dy, dx = index // SIZE - SIZE // 2, index % SIZE - SIZE // 2
    squares = tl.maximum(dy * dy + dx * dx, 1)
    return DENOMINATOR * dy // squares, DENOMINATOR * dx // squares


@triton.jit(do_not_specialize=SIZES)
def compare(
    logits,
    stride_b,
    stride_c,
    stride_h,
    stride_w,
    target,  # int64 (B, H, W)
    normaliser,  # of ``normalise``
    squares,  # out: sum of the squared errors of each program, float32
    entries,  # out: their number, int32
    gradient,  # out: the part p_c g_c of the gradient, without its factor, float32 (B, C, h, w)
    inner,  # out: <g, p> of each pixel, without its factor, float32 (B, H, W)
    ignore_index,
    C,
    h,
    w,
    H,
    W,
    SIZE: tl.constexpr,
    DENOMINATOR: tl.constexpr,
    VOID_BORDERS: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    SAME_SIZE: tl.constexpr,
    SIDE: tl.constexpr,
):
    """CPG at the boundaries of a square tile of pixels, one class of the tile after another.

    A tile has a margin of two radii of the kernel on each side, which it shares with its neighbours: the errors of the
    windows around a pixel lie up to one radius away, and the windows reach as far again. Tiles cover the image and one
    radius beyond its border, where pixels are replicated.

    ``gradient`` and ``inner`` are of half the sum of the squared errors, and have to be zero before.
    """
    RADIUS: tl.constexpr = SIZE // 2
    STEP: tl.constexpr = SIDE - 4 * RADIUS
    tiles_across = (W + 2 * RADIUS + STEP - 1) // STEP
    lane = tl.arange(0, SIDE * SIDE)
    row, column = lane // SIDE, lane % SIDE
    y = tl.program_id(0) // tiles_across * STEP - 3 * RADIUS + row
    x = tl.program_id(0) % tiles_across * STEP - 3 * RADIUS + column
    exists = (y >= -RADIUS) & (y < H + RADIUS) & (x >= -RADIUS) & (x < W + RADIUS)
    in_image = (y >= 0) & (y < H) & (x >= 0) & (x < W)
    has_window = tl.minimum(tl.minimum(row, column), SIDE - 1 - tl.maximum(row, column)) >= RADIUS
    is_inner = tl.minimum(tl.minimum(row, column), SIDE - 1 - tl.maximum(row, column)) >= 2 * RADIUS
    y, x = tl.minimum(tl.maximum(y, 0), H - 1), tl.minimum(tl.maximum(x, 0), W - 1)

    image_index = tl.program_id(1).to(tl.int64)
    image, pixel = logits + image_index * stride_b, image_index * H * W + y * W + x
    strides, axes = (stride_c, stride_h, stride_w), (axis_of(h, H, ALIGN_CORNERS), axis_of(w, W, ALIGN_CORNERS))
    label = tl.load(target + pixel, mask=exists, other=ignore_index)
    label = tl.where(label == ignore_index, -1, label).to(tl.int32)
    sum_of_squares, number = tl.zeros((SIDE * SIDE,), tl.float32), tl.zeros((SIDE * SIDE,), tl.int32)
    if tl.min(label, axis=0) != tl.max(label, axis=0):
        differs, has_void = tl.zeros((SIDE * SIDE,), tl.int1), tl.zeros((SIDE * SIDE,), tl.int1)
        for index in range(SIZE * SIZE):
            other = tl.gather(label, _neighbour(lane, index, SIZE, SIDE), 0)
            differs |= other != label
            has_void |= other < 0
        is_centre = in_image & has_window & (label >= 0) & differs
        if not VOID_BORDERS:
            is_centre &= ~has_void
        log_total = tl.load(normaliser + pixel, mask=exists, other=0.0)
        inner_product = tl.zeros((SIDE * SIDE,), tl.float32)
        current = tl.min(tl.where((label >= 0) & (label < C), label, C), axis=0)
        while current < C:
            probability = tl.exp(upsample(image, strides, axes, current, y, x, exists, SAME_SIZE) - log_total)
            is_class = (label == current).to(tl.int32)
            true_down, true_across = tl.zeros((SIDE * SIDE,), tl.int32), tl.zeros((SIDE * SIDE,), tl.int32)
            down, across = tl.zeros((SIDE * SIDE,), tl.float32), tl.zeros((SIDE * SIDE,), tl.float32)
            for index in range(SIZE * SIZE):
                neighbour = _neighbour(lane, index, SIZE, SIDE)
                weight_down, weight_across = _weights(index, SIZE, DENOMINATOR)
                true, predicted = tl.gather(is_class, neighbour, 0), tl.gather(probability, neighbour, 0)
                true_down += weight_down * true
                true_across += weight_across * true
                down += weight_down * predicted
                across += weight_across * predicted
            is_down, is_across = is_centre & (true_down != 0), is_centre & (true_across != 0)
            down = tl.where(is_down, (down - true_down) / DENOMINATOR, 0.0)
            across = tl.where(is_across, (across - true_across) / DENOMINATOR, 0.0)
            sum_of_squares += tl.where(is_inner, down * down + across * across, 0.0)
            number += tl.where(is_inner, is_down.to(tl.int32) + is_across.to(tl.int32), 0)
            if WITH_GRADIENT:
                value = tl.zeros((SIDE * SIDE,), tl.float32)
                for index in range(SIZE * SIZE):
                    neighbour = _neighbour(lane, index, SIZE, SIDE)
                    weight_down, weight_across = _weights(index, SIZE, DENOMINATOR)
                    value -= weight_down * tl.gather(down, neighbour, 0) + weight_across * tl.gather(
                        across, neighbour, 0
                    )
                value = tl.where(exists & is_inner, value * probability / DENOMINATOR, 0.0)
                inner_product += value
                of_class = gradient + (image_index * C + current) * h * w
                scatter(of_class, axes, w, y, x, value, value != 0, SAME_SIZE)
            current = tl.min(tl.where((label > current) & (label < C), label, C), axis=0)
        if WITH_GRADIENT:
            tl.atomic_add(inner + pixel, inner_product, mask=inner_product != 0, sem="relaxed")
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(squares + program, tl.sum(sum_of_squares, axis=0))
    tl.store(entries + program, tl.sum(number, axis=0))


@triton.jit(do_not_specialize=SIZES)
def collect(
    logits,
    stride_b,
    stride_c,
    stride_h,
    stride_w,
    classes,  # int64 (B, H, W)
    class_weights,  # float32 (C)
    normaliser,  # of ``normalise``
    factor,  # factor of the probabilities of each pixel, float32 (B, H, W)
    true_weight,  # weight of the true class of each pixel, float32 (B, H, W)
    smooth_weight,  # weight of the sum over all classes, float32 (B, H, W)
    scale,  # factor of the gradient by ``compare``, float32 (1)
    gradient,  # in: the gradient by ``compare``; out: the sum, float32 (B, C, h, w)
    C,
    h,
    w,
    H,
    W,
    SMOOTH: tl.constexpr,
    WITH_CPG: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    SAME_SIZE: tl.constexpr,
    CELLS: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """The gradient of each logit: a sum over the pixels of the target between this logit and the next ones.

    A program has several classes, because they share what it reads of each pixel.
    """
    rows, columns = axis_of(h, H, ALIGN_CORNERS), axis_of(w, W, ALIGN_CORNERS)
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    inside = cell < h * w
    row, column = cell // w, cell % w
    first_class = tl.program_id(1) * CLASSES
    image = tl.program_id(2).to(tl.int64)
    place = image * H * W
    base = logits + image * stride_b + first_class * stride_c
    if SAME_SIZE:
        first_y, first_x, span_y, span_x = row, column, 1, 1
    else:
        first_y, first_x, span_y, span_x = (
            first_next_to(row, rows),
            first_next_to(column, columns),
            span(rows),
            span(columns),
        )

    totals = ()
    for _c in tl.static_range(CLASSES):
        totals = totals + (tl.zeros((CELLS,), tl.float32),)
    for dy in range(span_y):
        y = first_y + dy
        top, bottom, down = between(y, rows)
        is_y = inside & (y < H) & ((top == row) | (top + 1 == row))
        weight_y = tl.where(top == row, 1 - down, down)
        lines = ()
        for c in tl.static_range(CLASSES):
            of_class, mask = base + c * stride_c, is_y & (first_class + c < C)
            if SAME_SIZE:
                here = load(of_class + row * stride_h + column * stride_w, mask)
                lines = lines + ((here, here, here),)
            else:
                left, right = tl.maximum(column - 1, 0) * stride_w, tl.minimum(column + 1, w - 1) * stride_w
                upper, lower = of_class + top * stride_h, of_class + bottom * stride_h
                before = (1 - down) * load(upper + left, mask) + down * load(lower + left, mask)
                here = (1 - down) * load(upper + column * stride_w, mask) + down * load(lower + column * stride_w, mask)
                after = (1 - down) * load(upper + right, mask) + down * load(lower + right, mask)
                lines = lines + ((before, here, after),)
        for dx in range(span_x):
            x = first_x + dx
            near, _far, across = between(x, columns)
            is_pixel = is_y & (x < W) & ((near == column) | (near + 1 == column))
            weight = weight_y * tl.where(near == column, 1 - across, across)
            pixel = place + y * W + x
            log_total = tl.load(normaliser + pixel, mask=is_pixel, other=0.0)
            of_probability = tl.load(factor + pixel, mask=is_pixel, other=0.0)
            true = tl.load(classes + pixel, mask=is_pixel, other=0)
            of_true = tl.load(true_weight + pixel, mask=is_pixel, other=0.0)
            of_all = tl.load(smooth_weight + pixel, mask=is_pixel, other=0.0) if SMOOTH else 0.0
            sums = ()
            for c in tl.static_range(CLASSES):
                before, here, after = lines[c]
                if SAME_SIZE:
                    value = here
                else:
                    value = tl.where(near == column, here, before)
                    value += across * (tl.where(near == column, after, here) - value)
                part = tl.exp(value - log_total) * of_probability - tl.where(true == first_class + c, of_true, 0.0)
                if SMOOTH:
                    part -= of_all * tl.load(class_weights + first_class + c, mask=first_class + c < C, other=0.0)
                sums = sums + (totals[c] + tl.where(is_pixel, weight * part, 0.0),)
            totals = sums
    for c in tl.static_range(CLASSES):
        out = gradient + (image * C + first_class + c) * h * w + cell
        total, mask = totals[c], inside & (first_class + c < C)
        if WITH_CPG:
            total += tl.load(scale) * tl.load(out, mask=mask, other=0.0)
        tl.store(out, total, mask=mask)
