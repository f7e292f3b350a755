"""Kernels: tiles of pixels by channels, with whichever is contiguous in memory last.

Where all channels fit in a tile they are read once; else once for the sums and once more, from the cache, for the
result.
"""

import triton
import triton.language as tl


@triton.jit
def _pixels(
    batch_pixels, channels, pixels, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, CHANNELS_LAST: tl.constexpr
):  # fmt: skip
    """Of one program: first element, elements to the next block of channels, offsets of a tile, pixels, their mask.

    Channels innermost: pixels of all samples in one list. Pixels innermost: blocks of pixels of one sample.
    """
    pid = tl.program_id(0).to(tl.int64)
    p = tl.arange(0, BLOCK_P)
    c = tl.arange(0, BLOCK_C)
    if CHANNELS_LAST:
        pixel = pid * BLOCK_P
        first = pixel * channels
        step = tl.full((), BLOCK_C, tl.int64)
        offsets = p[:, None].to(tl.int64) * channels + c[None, :]
        left = batch_pixels - pixel
    else:
        blocks = tl.cdiv(pixels, BLOCK_P)
        sample = pid // blocks
        start = (pid % blocks) * BLOCK_P
        pixel = sample * pixels + start
        first = sample * channels * pixels + start
        step = BLOCK_C * pixels
        offsets = c[:, None].to(tl.int64) * pixels + p[None, :]
        left = pixels - start
    return first, step, offsets, pixel + p, p < left


@triton.jit
def _mask(
    in_pixels, left, BLOCK_C: tl.constexpr, CHANNELS_LAST: tl.constexpr, EVEN_P: tl.constexpr, EVEN_C: tl.constexpr
):
    """Which elements of a tile exist, when `left` channels are left."""
    in_channels = tl.arange(0, BLOCK_C) < left
    if CHANNELS_LAST:
        mask = in_pixels[:, None]
        if not EVEN_C:
            mask = mask & in_channels[None, :]
    elif EVEN_P:
        mask = in_channels[:, None]
    else:
        mask = in_channels[:, None] & in_pixels[None, :]
    return mask


@triton.jit
def _spread(per_pixel, CHANNELS_LAST: tl.constexpr):
    """A number per pixel, as a column or a row of the tile."""
    if CHANNELS_LAST:
        result = per_pixel[:, None]
    else:
        result = per_pixel[None, :]
    return result


@triton.jit
def pixel_norm_forward(
    x, y, rstd, eps, eps_low, batch_pixels, channel_units, pixel_units,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, UNIT_C: tl.constexpr, UNIT_P: tl.constexpr,
    EVEN_P: tl.constexpr, EVEN_C: tl.constexpr, ONE: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """y = r·x with r = 1 / sqrt(mean x² + eps), which is kept. One program: BLOCK_P pixels, all channels."""
    channels = tl.cast(channel_units, tl.int64) * UNIT_C
    pixels = tl.cast(pixel_units, tl.int64) * UNIT_P
    AXIS: tl.constexpr = 1 if CHANNELS_LAST else 0
    first, step, offsets, place, inside = _pixels(batch_pixels, channels, pixels, BLOCK_P, BLOCK_C, CHANNELS_LAST)
    x += first
    y += first
    squares = tl.zeros((BLOCK_P,), ACC)
    if ONE:
        mask = _mask(inside, channels, BLOCK_C, CHANNELS_LAST, EVEN_P, EVEN_C)
        v = tl.load(x + offsets, mask=mask, other=0.0).to(ACC)
        squares = tl.sum(v * v, AXIS)
    else:
        here = x
        for start in range(0, channels, BLOCK_C):
            mask = _mask(inside, channels - start, BLOCK_C, CHANNELS_LAST, EVEN_P, EVEN_C)
            v = tl.load(here + offsets, mask=mask, other=0.0).to(ACC)
            squares += tl.sum(v * v, AXIS)
            here += step
    r = tl.rsqrt(squares / channels + (tl.cast(eps, ACC) + tl.cast(eps_low, ACC)))
    tl.store(rstd + place, r, mask=inside)
    factor = _spread(r, CHANNELS_LAST)
    if ONE:
        tl.store(y + offsets, (v * factor).to(y.dtype.element_ty), mask=mask)
    else:
        for start in range(0, channels, BLOCK_C):
            mask = _mask(inside, channels - start, BLOCK_C, CHANNELS_LAST, EVEN_P, EVEN_C)
            v = tl.load(x + offsets, mask=mask, other=0.0).to(ACC)
            tl.store(y + offsets, (v * factor).to(y.dtype.element_ty), mask=mask)
            x += step
            y += step


@triton.jit
def pixel_norm_backward(
    x, grad, rstd, dot, dx, batch_pixels, channel_units, pixel_units,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, UNIT_C: tl.constexpr, UNIT_P: tl.constexpr,
    EVEN_P: tl.constexpr, EVEN_C: tl.constexpr, ONE: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dx = r·dy − r³ s·x with s = mean x·dy, which is kept as `dot`. One program: BLOCK_P pixels, all channels."""
    channels = tl.cast(channel_units, tl.int64) * UNIT_C
    pixels = tl.cast(pixel_units, tl.int64) * UNIT_P
    AXIS: tl.constexpr = 1 if CHANNELS_LAST else 0
    first, step, offsets, place, inside = _pixels(batch_pixels, channels, pixels, BLOCK_P, BLOCK_C, CHANNELS_LAST)
    x += first
    grad += first
    dx += first
    s = tl.zeros((BLOCK_P,), ACC)
    if ONE:
        mask = _mask(inside, channels, BLOCK_C, CHANNELS_LAST, EVEN_P, EVEN_C)
        v = tl.load(x + offsets, mask=mask, other=0.0).to(ACC)
        g = tl.load(grad + offsets, mask=mask, other=0.0).to(ACC)
        s = tl.sum(v * g, AXIS)
    else:
        x_here = x
        grad_here = grad
        for start in range(0, channels, BLOCK_C):
            mask = _mask(inside, channels - start, BLOCK_C, CHANNELS_LAST, EVEN_P, EVEN_C)
            v = tl.load(x_here + offsets, mask=mask, other=0.0).to(ACC)
            g = tl.load(grad_here + offsets, mask=mask, other=0.0).to(ACC)
            s += tl.sum(v * g, AXIS)
            x_here += step
            grad_here += step
    s = s / channels
    tl.store(dot + place, s, mask=inside)
    r = tl.load(rstd + place, mask=inside, other=0.0)
    of_grad = _spread(r, CHANNELS_LAST)
    of_x = _spread(-r * r * r * s, CHANNELS_LAST)
    if ONE:
        tl.store(dx + offsets, (of_grad * g + of_x * v).to(dx.dtype.element_ty), mask=mask)
    else:
        for start in range(0, channels, BLOCK_C):
            mask = _mask(inside, channels - start, BLOCK_C, CHANNELS_LAST, EVEN_P, EVEN_C)
            v = tl.load(x + offsets, mask=mask, other=0.0).to(ACC)
            g = tl.load(grad + offsets, mask=mask, other=0.0).to(ACC)
            tl.store(dx + offsets, (of_grad * g + of_x * v).to(dx.dtype.element_ty), mask=mask)
            x += step
            grad += step
            dx += step


@triton.jit
def _store_second(
    v, g, h, p, q, r, s, out_grad, out_x, mask,
    GRAD: tl.constexpr, INPUT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    r3 = r * r * r
    of_q = _spread(-r3 * q, CHANNELS_LAST)
    if GRAD:
        result = _spread(r, CHANNELS_LAST) * h + of_q * v
        tl.store(out_grad, result.to(out_grad.dtype.element_ty), mask=mask)
    if INPUT:
        of_x = _spread(-r3 * (p - 3.0 * r * r * s * q), CHANNELS_LAST)
        result = of_x * v + of_q * g + _spread(-r3 * s, CHANNELS_LAST) * h
        tl.store(out_x, result.to(out_x.dtype.element_ty), mask=mask)


@triton.jit
def pixel_norm_double_backward(
    x, grad, cotangent, rstd, dot, out_grad, out_x, batch_pixels, channel_units, pixel_units,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, UNIT_C: tl.constexpr, UNIT_P: tl.constexpr,
    EVEN_P: tl.constexpr, EVEN_C: tl.constexpr, ONE: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr,
    GRAD: tl.constexpr, INPUT: tl.constexpr,
):  # fmt: skip
    """For a cotangent h of dx, with p = mean h·dy and q = mean h·x: out_grad = r·h − r³ q·x and
    out_x = −r³ ((p − 3 r² s q)·x + q·dy + s·h). One program: BLOCK_P pixels, all channels."""
    channels = tl.cast(channel_units, tl.int64) * UNIT_C
    pixels = tl.cast(pixel_units, tl.int64) * UNIT_P
    AXIS: tl.constexpr = 1 if CHANNELS_LAST else 0
    first, step, offsets, place, inside = _pixels(batch_pixels, channels, pixels, BLOCK_P, BLOCK_C, CHANNELS_LAST)
    x += first
    grad += first
    cotangent += first
    out_grad += first
    out_x += first
    p = tl.zeros((BLOCK_P,), ACC)
    q = tl.zeros((BLOCK_P,), ACC)
    if ONE:
        mask = _mask(inside, channels, BLOCK_C, CHANNELS_LAST, EVEN_P, EVEN_C)
        v = tl.load(x + offsets, mask=mask, other=0.0).to(ACC)
        g = tl.load(grad + offsets, mask=mask, other=0.0).to(ACC)
        h = tl.load(cotangent + offsets, mask=mask, other=0.0).to(ACC)
        p = tl.sum(h * g, AXIS)
        q = tl.sum(h * v, AXIS)
    else:
        x_here = x
        grad_here = grad
        h_here = cotangent
        for start in range(0, channels, BLOCK_C):
            mask = _mask(inside, channels - start, BLOCK_C, CHANNELS_LAST, EVEN_P, EVEN_C)
            v = tl.load(x_here + offsets, mask=mask, other=0.0).to(ACC)
            g = tl.load(grad_here + offsets, mask=mask, other=0.0).to(ACC)
            h = tl.load(h_here + offsets, mask=mask, other=0.0).to(ACC)
            p += tl.sum(h * g, AXIS)
            q += tl.sum(h * v, AXIS)
            x_here += step
            grad_here += step
            h_here += step
    p = p / channels
    q = q / channels
    r = tl.load(rstd + place, mask=inside, other=0.0)
    s = tl.load(dot + place, mask=inside, other=0.0)
    if ONE:
        _store_second(v, g, h, p, q, r, s, out_grad + offsets, out_x + offsets, mask, GRAD, INPUT, CHANNELS_LAST)
    else:
        for start in range(0, channels, BLOCK_C):
            mask = _mask(inside, channels - start, BLOCK_C, CHANNELS_LAST, EVEN_P, EVEN_C)
            v = tl.load(x + offsets, mask=mask, other=0.0).to(ACC)
            g = tl.load(grad + offsets, mask=mask, other=0.0).to(ACC)
            h = tl.load(cotangent + offsets, mask=mask, other=0.0).to(ACC)
            _store_second(v, g, h, p, q, r, s, out_grad + offsets, out_x + offsets, mask, GRAD, INPUT, CHANNELS_LAST)
            x += step
            grad += step
            cotangent += step
            out_grad += step
            out_x += step
