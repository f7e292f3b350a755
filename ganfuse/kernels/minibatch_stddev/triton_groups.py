"""Kernels. A *feature* of a group are `size` values in each of its samples, which one program reads BLOCK at a time.

Per value, over the group's samples: mean μ, d = x − μ, σ = sqrt(mean d² + eps).
"""

import triton
import triton.language as tl


@triton.jit
def _values(
    feature, size_units, channels, extra,
    BLOCK: tl.constexpr, UNIT: tl.constexpr, PER_FEATURE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Offsets of one block of a feature's values in a sample of x and of y (`extra` channels more), and their mask."""
    size = tl.cast(size_units, tl.int64) * UNIT
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if CHANNELS_LAST:
        pixel = e // PER_FEATURE
        offset_x = pixel * channels + feature * PER_FEATURE + e % PER_FEATURE
        if extra == 1:
            # One feature: the division cancels, and loads stay wide.
            offset_x = e
        offset_y = offset_x + pixel * extra
    else:
        offset_x = feature * size + e
        offset_y = offset_x
    return offset_x, offset_y, e < size


@triton.jit
def _mean(x, offsets, mask, group, step, BLOCK: tl.constexpr, ACC: tl.constexpr):
    total = tl.zeros((BLOCK,), ACC)
    for _ in range(group):
        total += tl.load(x + offsets, mask=mask, other=0.0).to(ACC)
        x += step
    return total / group


@triton.jit
def stddev_forward(
    x, y, sums, eps, eps_low, group, groups, size_units, channels, extra, sample_units,
    BLOCK: tl.constexpr, UNIT: tl.constexpr, SAMPLE_UNIT: tl.constexpr, PER_FEATURE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Copy x into y; sums[group, feature, chunk] = Σ σ of one block. Grid: chunks, features, groups."""
    sample = tl.cast(sample_units, tl.int64) * SAMPLE_UNIT
    size = tl.cast(size_units, tl.int64) * UNIT
    feature = tl.program_id(1)
    member = tl.program_id(2).to(tl.int64)
    offset_x, offset_y, mask = _values(feature, size_units, channels, extra, BLOCK, UNIT, PER_FEATURE, CHANNELS_LAST)
    x += member * (size * extra)
    y += member * sample
    step = groups * size * extra
    mean = _mean(x, offset_x, mask, group, step, BLOCK, ACC)
    squares = tl.zeros((BLOCK,), ACC)
    for _ in range(group):
        raw = tl.load(x + offset_x, mask=mask, other=0.0)
        tl.store(y + offset_y, raw, mask=mask)
        d = raw.to(ACC) - mean
        squares += d * d
        x += step
        y += groups * sample
    sigma = tl.sqrt(squares / group + (tl.cast(eps, ACC) + tl.cast(eps_low, ACC)))
    place = (member * extra + feature) * tl.num_programs(0) + tl.program_id(0)
    tl.store(sums + place, tl.sum(tl.where(mask, sigma, 0.0), 0))


@triton.jit
def stddev_fill(
    y, sums, chunks, groups, channels, pixels, extra, sample_units, scale, scale_low,
    BLOCK: tl.constexpr, CHUNKS: tl.constexpr, SAMPLE_UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Fill the extra channels of y with scale · Σ over chunks of sums. Grid: blocks of pixels, features, samples."""
    feature = tl.program_id(1).to(tl.int64)
    sample = tl.program_id(2).to(tl.int64)
    k = tl.arange(0, CHUNKS)
    row = ((sample % groups) * extra + feature) * chunks
    total = tl.sum(tl.load(sums + row + k, mask=k < chunks, other=0.0), 0)
    value = total * (tl.cast(scale, ACC) + tl.cast(scale_low, ACC))
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    y += sample * (tl.cast(sample_units, tl.int64) * SAMPLE_UNIT)
    if CHANNELS_LAST:
        offsets = p * (channels + extra) + channels + feature
    else:
        offsets = (channels + feature) * pixels + p
    filled = tl.zeros((BLOCK,), ACC) + value
    tl.store(y + offsets, filled.to(y.dtype.element_ty), mask=p < pixels)


@triton.jit
def stddev_backward(
    x, grad, weights, dx, eps, eps_low, group, groups, size_units, channels, extra, sample_units,
    BLOCK: tl.constexpr, UNIT: tl.constexpr, SAMPLE_UNIT: tl.constexpr, PER_FEATURE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dx = dy + t / (size · group) · d/σ, where t (weights) is the feature's summed gradient. Grid as the forward's."""
    sample = tl.cast(sample_units, tl.int64) * SAMPLE_UNIT
    size = tl.cast(size_units, tl.int64) * UNIT
    feature = tl.program_id(1)
    member = tl.program_id(2).to(tl.int64)
    offset_x, offset_y, mask = _values(feature, size_units, channels, extra, BLOCK, UNIT, PER_FEATURE, CHANNELS_LAST)
    x += member * (size * extra)
    dx += member * (size * extra)
    grad += member * sample
    step = groups * size * extra
    mean = _mean(x, offset_x, mask, group, step, BLOCK, ACC)
    squares = tl.zeros((BLOCK,), ACC)
    here = x
    for _ in range(group):
        d = tl.load(here + offset_x, mask=mask, other=0.0).to(ACC) - mean
        squares += d * d
        here += step
    sigma = tl.sqrt(squares / group + (tl.cast(eps, ACC) + tl.cast(eps_low, ACC)))
    factor = tl.load(weights + member * extra + feature) / (size * group).to(ACC) / sigma
    for _ in range(group):
        d = tl.load(x + offset_x, mask=mask, other=0.0).to(ACC) - mean
        g = tl.load(grad + offset_y, mask=mask, other=0.0).to(ACC)
        tl.store(dx + offset_x, (g + factor * d).to(dx.dtype.element_ty), mask=mask)
        x += step
        dx += step
        grad += groups * sample


@triton.jit
def stddev_double_backward(
    x, cotangent, weights, out_grad, out_x, sums,
    eps, eps_low, group, groups, size_units, channels, extra, sample_units,
    BLOCK: tl.constexpr, UNIT: tl.constexpr, SAMPLE_UNIT: tl.constexpr, PER_FEATURE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr, GRAD: tl.constexpr, INPUT: tl.constexpr,
):  # fmt: skip
    """For a cotangent h of dx: out_grad = h, with sums = Σ h·d/σ of a block for its extra channels, and
    out_x = t / (size · group) · ((h − mean h)/σ − mean(h·d) d/σ³). Grid as the forward's."""
    sample = tl.cast(sample_units, tl.int64) * SAMPLE_UNIT
    size = tl.cast(size_units, tl.int64) * UNIT
    feature = tl.program_id(1)
    member = tl.program_id(2).to(tl.int64)
    offset_x, offset_y, mask = _values(feature, size_units, channels, extra, BLOCK, UNIT, PER_FEATURE, CHANNELS_LAST)
    x += member * (size * extra)
    cotangent += member * (size * extra)
    out_x += member * (size * extra)
    out_grad += member * sample
    step = groups * size * extra
    mean = _mean(x, offset_x, mask, group, step, BLOCK, ACC)
    squares = tl.zeros((BLOCK,), ACC)
    total = tl.zeros((BLOCK,), ACC)
    product = tl.zeros((BLOCK,), ACC)
    x_here = x
    h_here = cotangent
    for _ in range(group):
        d = tl.load(x_here + offset_x, mask=mask, other=0.0).to(ACC) - mean
        raw = tl.load(h_here + offset_x, mask=mask, other=0.0)
        if GRAD:
            tl.store(out_grad + offset_y, raw.to(out_grad.dtype.element_ty), mask=mask)
            out_grad += groups * sample
        h = raw.to(ACC)
        squares += d * d
        total += h
        product += h * d
        x_here += step
        h_here += step
    variance = squares / group + (tl.cast(eps, ACC) + tl.cast(eps_low, ACC))
    sigma = tl.sqrt(variance)
    if GRAD:
        place = (member * extra + feature) * tl.num_programs(0) + tl.program_id(0)
        tl.store(sums + place, tl.sum(tl.where(mask, product / sigma, 0.0), 0))
    if INPUT:
        factor = tl.load(weights + member * extra + feature) / (size * group).to(ACC) / sigma
        of_d = product / group / variance
        for _ in range(group):
            d = tl.load(x + offset_x, mask=mask, other=0.0).to(ACC) - mean
            h = tl.load(cotangent + offset_x, mask=mask, other=0.0).to(ACC)
            result = factor * (h - total / group - of_d * d)
            tl.store(out_x + offset_x, result.to(out_x.dtype.element_ty), mask=mask)
            x += step
            cotangent += step
            out_x += step
