"""Maxima and means over windows of up to three dimensions, an element of the result in each lane."""

import triton
import triton.language as tl


@triton.jit
def span(
    o, SIZE: tl.constexpr, OUT: tl.constexpr, WINDOW: tl.constexpr, STRIDE: tl.constexpr,
    PADDING: tl.constexpr, DILATION: tl.constexpr,
):  # fmt: skip
    # The first element of window `o`, how many it has, and how many a mean counts with padding. Stride 0 is
    # adaptive: elements [floor(o * size / out), ceil((o + 1) * size / out)).
    if STRIDE == 0:
        first = o * SIZE // OUT
        count = ((o + 1) * SIZE + OUT - 1) // OUT - first
        padded = count
    else:
        first = o * STRIDE - PADDING
        count = o * 0 + WINDOW
        padded = tl.minimum(first + WINDOW, SIZE + PADDING) - first
    return first, count, padded


@triton.jit
def inside(first, count, t, SIZE: tl.constexpr, DILATION: tl.constexpr):
    # Where element t of a window lies, and whether it is one.
    at = first + t * DILATION
    return at, (t < count) & (at >= 0) & (at < SIZE)


@triton.jit
def there(first, count, SIZE: tl.constexpr, DILATION: tl.constexpr):
    # How many elements of a window there are.
    skipped = tl.where(first < 0, (-first + (DILATION - 1)) // DILATION, 0)
    reached = tl.where(first < SIZE, (SIZE - first + (DILATION - 1)) // DILATION, 0)
    return tl.maximum(tl.minimum(reached, count) - skipped, 0)


@triton.jit
def pooled(
    x, lanes, o0, o1, o2,
    MEAN: tl.constexpr, PADDED: tl.constexpr, DIVISOR: tl.constexpr,
    SIZE0: tl.constexpr, OUT0: tl.constexpr, WINDOW0: tl.constexpr, STRIDE0: tl.constexpr,
    PADDING0: tl.constexpr, DILATION0: tl.constexpr, STEP0: tl.constexpr, MOST0: tl.constexpr,
    SIZE1: tl.constexpr, OUT1: tl.constexpr, WINDOW1: tl.constexpr, STRIDE1: tl.constexpr,
    PADDING1: tl.constexpr, DILATION1: tl.constexpr, STEP1: tl.constexpr, MOST1: tl.constexpr,
    SIZE2: tl.constexpr, OUT2: tl.constexpr, WINDOW2: tl.constexpr, STRIDE2: tl.constexpr,
    PADDING2: tl.constexpr, DILATION2: tl.constexpr, STEP2: tl.constexpr, MOST2: tl.constexpr,
):  # fmt: skip
    # The result of windows (o0, o1, o2) of the planes at `x`, for `lanes` that have one. MOST is the number
    # of elements of the largest window along an axis.
    first0, count0, padded0 = span(o0, SIZE0, OUT0, WINDOW0, STRIDE0, PADDING0, DILATION0)
    first1, count1, padded1 = span(o1, SIZE1, OUT1, WINDOW1, STRIDE1, PADDING1, DILATION1)
    first2, count2, padded2 = span(o2, SIZE2, OUT2, WINDOW2, STRIDE2, PADDING2, DILATION2)
    neutral: tl.constexpr = 0.0 if MEAN else -float("inf")
    found = tl.full(o2.shape, neutral, tl.float32)
    for t in range(0, MOST0 * MOST1):
        at0, is0 = inside(first0, count0, t // MOST1, SIZE0, DILATION0)
        at1, is1 = inside(first1, count1, t % MOST1, SIZE1, DILATION1)
        line = x + (at0 * STEP0 + at1 * STEP1)
        row = tl.full(o2.shape, neutral, tl.float32)
        for t2 in range(0, MOST2):
            at2, is2 = inside(first2, count2, t2, SIZE2, DILATION2)
            value = tl.load(line + at2 * STEP2, mask=lanes & is0 & is1 & is2, other=neutral).to(tl.float32)
            row = row + value if MEAN else tl.maximum(row, value, propagate_nan=tl.PropagateNan.ALL)
        found = found + row if MEAN else tl.maximum(found, row, propagate_nan=tl.PropagateNan.ALL)
    if MEAN:
        elements = there(first0, count0, SIZE0, DILATION0) * there(first1, count1, SIZE1, DILATION1)
        elements = elements * there(first2, count2, SIZE2, DILATION2)
        if DIVISOR != 0:
            divisor = elements * 0 + DIVISOR
        elif PADDED:
            divisor = padded0 * padded1 * padded2
        else:
            divisor = elements
        # Where a window has no elements, their mean is 0.
        found = tl.where(elements == 0, 0.0, found / divisor.to(tl.float32))
    return found
