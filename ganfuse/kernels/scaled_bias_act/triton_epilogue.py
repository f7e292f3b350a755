"""y = f(scale·x + noise + bias), f(u) = clamp(gain · act(u)), and both its backwards, each one pass over the maps.

A program has ROWS channels of one sample and a chunk of their positions, BLOCK at a time; maps are cut and read as by
the norms (`channel_norm.triton_tiles`). Sums over positions leave one number per program and channel, sums over
channels one per program and position; both are added up afterwards, in a fixed order.
"""

import triton
import triton.language as tl

from ganfuse.kernels.bias_act.triton_activations import first_derivative, second_derivative, value
from ganfuse.kernels.bias_act.triton_pointwise import pin
from ganfuse.kernels.channel_norm.triton_tiles import (
    blank,
    existing,
    locate_rows,
    over_positions,
    point,
    read,
    spread,
    write,
)


@triton.jit
def per_channel(pointers, mask, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr):
    """One number per channel of the tile, to meet it."""
    return spread(tl.load(pointers, mask=mask, other=0.0).to(ACC), CHANNELS_LAST)


@triton.jit
def per_position(base, start, positions, BLOCK: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr):
    """One number per position of the tile, to meet it."""
    lane = tl.arange(0, BLOCK)
    values = tl.load(base + start + lane, mask=lane < positions - start, other=0.0).to(ACC)
    return spread(values, not CHANNELS_LAST)


@triton.jit
def over_channels(tile, CHANNELS_LAST: tl.constexpr):
    """Sums of a tile over the channels."""
    return over_positions(tile, not CHANNELS_LAST)


@triton.jit
def result(u, alpha, gain, limit, ACT: tl.constexpr, CLAMP: tl.constexpr):
    """f(u)."""
    y = value(u, alpha, ACT) * gain
    if CLAMP:
        # Comparisons that NaN fails, so that it stays.
        y = tl.where(y > limit, limit, tl.where(y < -limit, -limit, y))
    return y


@triton.jit
def within(u, tile, alpha, gain, limit, ACT: tl.constexpr, CLAMP: tl.constexpr):
    """`tile` where f is not cut off, 0 elsewhere."""
    if CLAMP:
        tile = tl.where(tl.abs(value(u, alpha, ACT) * gain) <= limit, tile, 0.0)
    return tile


@triton.jit
def epilogue_forward(
    x, y, scale, noise, b, x_batch, x_pitch, y_batch, y_pitch, noise_batch, batch, channels, positions, chunk,
    alpha, alpha_low, gain, gain_low, limit, limit_low,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr, EVEN_ROWS: tl.constexpr, ACC: tl.constexpr,
    SCALE: tl.constexpr, NOISE: tl.constexpr, BIAS: tl.constexpr, ACT: tl.constexpr, CLAMP: tl.constexpr,
):  # fmt: skip
    """y = f(scale·x + noise + b) on a chunk of ROWS channels."""
    if CHANNELS_LAST:
        channels = channels * UNIT
    else:
        positions = positions * UNIT
    index, sample, channel, exist = locate_rows(tl.program_id(0), batch, channels, ROWS, True)
    alpha, gain, limit = pin(alpha, alpha_low, ACC), pin(gain, gain_low, ACC), pin(limit, limit_low, ACC)
    if SCALE:
        s = per_channel(scale + index, exist, CHANNELS_LAST, ACC)
    if BIAS:
        offset = per_channel(b + channel, exist, CHANNELS_LAST, ACC)
    first = tl.program_id(1) * chunk
    for start in range(first, tl.minimum(first + chunk, positions), BLOCK):
        mask = existing(start, positions, exist, BLOCK, CHANNELS_LAST, EVEN, EVEN_ROWS)
        u = read(point(x, sample, channel, x_batch, x_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST), mask, ACC)
        if SCALE:
            u *= s
        if NOISE:
            u += per_position(noise + sample * noise_batch, start, positions, BLOCK, CHANNELS_LAST, ACC)
        if BIAS:
            u += offset
        pointers = point(y, sample, channel, y_batch, y_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST)
        write(pointers, result(u, alpha, gain, limit, ACT, CLAMP), mask)


@triton.jit
def epilogue_backward(
    x, grad, out, scale, noise, b, sums, noise_sums,
    x_batch, x_pitch, grad_batch, grad_pitch, out_batch, out_pitch, noise_batch, batch, channels, positions, chunk,
    splits, alpha, alpha_low, gain, gain_low, limit, limit_low,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr, EVEN_ROWS: tl.constexpr, ACC: tl.constexpr,
    SCALE: tl.constexpr, NOISE: tl.constexpr, BIAS: tl.constexpr, ACT: tl.constexpr, CLAMP: tl.constexpr,
    X_GRAD: tl.constexpr, SCALE_GRAD: tl.constexpr, NOISE_GRAD: tl.constexpr, BIAS_GRAD: tl.constexpr,
):  # fmt: skip
    """With g = f′(u)·grad: out = scale·g, and of a chunk of ROWS channels Σg·x and Σg, and Σg over channels.

    sums: (2, splits, B·C), Σg·x for the scale before Σg for the bias. noise_sums: (blocks of channels, B, positions).
    """
    if CHANNELS_LAST:
        channels = channels * UNIT
    else:
        positions = positions * UNIT
    index, sample, channel, exist = locate_rows(tl.program_id(0), batch, channels, ROWS, True)
    alpha, gain, limit = pin(alpha, alpha_low, ACC), pin(gain, gain_low, ACC), pin(limit, limit_low, ACC)
    if SCALE:
        s = per_channel(scale + index, exist, CHANNELS_LAST, ACC)
    if BIAS:
        offset = per_channel(b + channel, exist, CHANNELS_LAST, ACC)
    block = tl.program_id(0) % tl.cdiv(channels, ROWS)
    noise_sums += (block * batch + sample) * positions
    against_x = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
    total = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
    first = tl.program_id(1) * chunk
    for start in range(first, tl.minimum(first + chunk, positions), BLOCK):
        mask = existing(start, positions, exist, BLOCK, CHANNELS_LAST, EVEN, EVEN_ROWS)
        tile = read(point(x, sample, channel, x_batch, x_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST), mask, ACC)
        u = tile
        if SCALE:
            u = u * s
        if NOISE:
            u += per_position(noise + sample * noise_batch, start, positions, BLOCK, CHANNELS_LAST, ACC)
        if BIAS:
            u += offset
        pointers = point(grad, sample, channel, grad_batch, grad_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST)
        # 0 where there is nothing, and so is all that it is multiplied with.
        g = read(pointers, mask, ACC) * gain * first_derivative(u, alpha, ACT)
        g = within(u, g, alpha, gain, limit, ACT, CLAMP)
        if SCALE_GRAD:
            against_x += g * tile
        if BIAS_GRAD:
            total += g
        if NOISE_GRAD:
            lane = tl.arange(0, BLOCK)
            tl.store(noise_sums + start + lane, over_channels(g, CHANNELS_LAST), mask=lane < positions - start)
        if X_GRAD:
            if SCALE:
                g = g * s
            write(point(out, sample, channel, out_batch, out_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST), g, mask)
    rows = batch * channels
    at = tl.program_id(1) * rows + index
    if SCALE_GRAD:
        tl.store(sums + at, over_positions(against_x, CHANNELS_LAST), mask=exist)
    if BIAS_GRAD:
        tl.store(sums + splits * rows + at, over_positions(total, CHANNELS_LAST), mask=exist)


@triton.jit
def epilogue_double_backward(
    x, grad, h, out_grad, out_x, scale, noise, b, h_scale, h_noise, h_b, sums, noise_sums,
    x_batch, x_pitch, grad_batch, grad_pitch, h_batch, h_pitch, og_batch, og_pitch, ox_batch, ox_pitch,
    noise_batch, batch, channels, positions, chunk,
    splits, alpha, alpha_low, gain, gain_low, limit, limit_low,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr, EVEN_ROWS: tl.constexpr, ACC: tl.constexpr,
    SCALE: tl.constexpr, NOISE: tl.constexpr, BIAS: tl.constexpr, ACT: tl.constexpr, CLAMP: tl.constexpr,
    H_NOISE: tl.constexpr, H_BIAS: tl.constexpr, CURVED: tl.constexpr,
    GRAD_GRAD: tl.constexpr, X_GRAD: tl.constexpr, SCALE_GRAD: tl.constexpr, NOISE_GRAD: tl.constexpr,
    BIAS_GRAD: tl.constexpr,
):  # fmt: skip
    """With q = scale·h + h_scale·x + h_noise + h_b, g = f′(u)·grad and e = f″(u)·grad·q:

    out_grad = f′(u)·q and out_x = scale·e + h_scale·g; Σ(h·g + e·x) and Σe of a chunk, and Σe over channels, as the
    first backward leaves its sums.
    """
    if CHANNELS_LAST:
        channels = channels * UNIT
    else:
        positions = positions * UNIT
    index, sample, channel, exist = locate_rows(tl.program_id(0), batch, channels, ROWS, True)
    alpha, gain, limit = pin(alpha, alpha_low, ACC), pin(gain, gain_low, ACC), pin(limit, limit_low, ACC)
    if SCALE:
        s = per_channel(scale + index, exist, CHANNELS_LAST, ACC)
        s_cotangent = per_channel(h_scale + index, exist, CHANNELS_LAST, ACC)
    if BIAS:
        offset = per_channel(b + channel, exist, CHANNELS_LAST, ACC)
    if H_BIAS:
        offset_cotangent = per_channel(h_b + channel, exist, CHANNELS_LAST, ACC)
    block = tl.program_id(0) % tl.cdiv(channels, ROWS)
    noise_sums += (block * batch + sample) * positions
    for_scale = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
    total = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
    first = tl.program_id(1) * chunk
    for start in range(first, tl.minimum(first + chunk, positions), BLOCK):
        mask = existing(start, positions, exist, BLOCK, CHANNELS_LAST, EVEN, EVEN_ROWS)
        tile = read(point(x, sample, channel, x_batch, x_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST), mask, ACC)
        pointers = point(h, sample, channel, h_batch, h_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST)
        cotangent = read(pointers, mask, ACC)
        u = tile
        q = cotangent
        if SCALE:
            u = u * s
            q = q * s + s_cotangent * tile
        if NOISE:
            u += per_position(noise + sample * noise_batch, start, positions, BLOCK, CHANNELS_LAST, ACC)
        if H_NOISE:
            q += per_position(h_noise + sample * noise_batch, start, positions, BLOCK, CHANNELS_LAST, ACC)
        if BIAS:
            u += offset
        if H_BIAS:
            q += offset_cotangent
        factor = within(u, gain * first_derivative(u, alpha, ACT), alpha, gain, limit, ACT, CLAMP)
        if GRAD_GRAD:
            pointers = point(out_grad, sample, channel, og_batch, og_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST)
            write(pointers, factor * q, mask)
        if CURVED or SCALE:
            pointers = point(grad, sample, channel, grad_batch, grad_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST)
            dy = read(pointers, mask, ACC)
            on_x = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
            if SCALE:
                g = dy * factor
                on_x = s_cotangent * g
                if SCALE_GRAD:
                    for_scale += cotangent * g
            if CURVED:
                # Where there is nothing, the cotangents of noise and bias may be something, but dy is 0.
                e = within(u, dy * q * gain * second_derivative(u, ACT), alpha, gain, limit, ACT, CLAMP)
                if SCALE:
                    on_x += s * e
                    if SCALE_GRAD:
                        for_scale += e * tile
                else:
                    on_x = e
                if BIAS_GRAD:
                    total += e
                if NOISE_GRAD:
                    lane = tl.arange(0, BLOCK)
                    tl.store(noise_sums + start + lane, over_channels(e, CHANNELS_LAST), mask=lane < positions - start)
            if X_GRAD:
                pointers = point(out_x, sample, channel, ox_batch, ox_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST)
                write(pointers, on_x, mask)
    rows = batch * channels
    at = tl.program_id(1) * rows + index
    if SCALE_GRAD:
        tl.store(sums + at, over_positions(for_scale, CHANNELS_LAST), mask=exist)
    if BIAS_GRAD:
        tl.store(sums + splits * rows + at, over_positions(total, CHANNELS_LAST), mask=exist)
