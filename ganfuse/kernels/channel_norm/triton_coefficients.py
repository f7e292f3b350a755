"""What lies between the passes: one small launch each for forward, backward and second backward, on (B, C) numbers.

The formulas are those of `algebra`, and so are the names. A program has a block of channels (for "group" and "mix" one
group of them) and goes through the batch BLOCK_B samples at a time; nothing is left to sum over programs.
"""

import triton
import triton.language as tl


@triton.jit
def channels_of(channels, width, BLOCK_C: tl.constexpr):
    """(which channels, which of them exist) of this program: `width` from its first, at most BLOCK_C."""
    lane = tl.arange(0, BLOCK_C)
    channel = tl.program_id(0) * width + lane
    return channel, (lane < width) & (channel < channels)


@triton.jit
def parameter(pointer, stride, index_b, channel, there, MISSING: tl.constexpr, HAS: tl.constexpr, ACC: tl.constexpr):
    """(BLOCK_B, BLOCK_C) values of a (C,) (stride 0) or (B, C) parameter; MISSING where there is none."""
    if HAS:
        return tl.load(pointer + index_b[:, None] * stride + channel[None, :], mask=there, other=0.0).to(ACC)
    else:
        return tl.where(there, MISSING, 0.0).to(ACC)


@triton.jit
def sum_splits(partials, index, there, splits, step, ACC: tl.constexpr):
    """A partial sum, over the splits."""
    total = tl.zeros(there.shape, ACC)
    for split in range(splits):
        total += tl.load(partials + split * step + index, mask=there, other=0.0)
    return total


@triton.jit
def join_splits(partials, index, there, positions, splits, chunk, step, ACC: tl.constexpr):
    """Mean and centred square sum of rows from those of their chunks (Chan et al. 1979)."""
    mean = tl.zeros(there.shape, ACC)
    squares = tl.zeros(there.shape, ACC)
    for split in range(splits):
        begin = tl.cast(split, tl.int32) * chunk
        count = tl.cast(tl.minimum(positions - begin, chunk), ACC)
        before = tl.cast(begin, ACC)
        delta = tl.load(partials + split * step + index, mask=there, other=0.0) - mean
        share = count / (before + count)
        mean += delta * share
        squares += tl.load(partials + (splits + split) * step + index, mask=there, other=0.0)
        squares += delta * delta * (before * share)
    return mean, squares


@triton.jit
def inverse_std(squares, count, UNBIASED: tl.constexpr, EPS: tl.constexpr):
    """1/sqrt(variance + eps)."""
    if UNBIASED:
        count = tl.maximum(count - 1.0, 1.0)
    return 1.0 / tl.sqrt(squares / count + EPS)


@triton.jit
def norm_coefficients(
    partials, gain, bias, rho, mean, var, coefficients, moments, running_mean, running_var, momentum,
    gain_stride, bias_stride, batch, channels, positions, width, splits, chunk,
    KIND: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_BIAS: tl.constexpr, UNBIASED: tl.constexpr, EPS: tl.constexpr,
    UPDATE: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The planes of `allocation.SLOPE` and its neighbours, and `moments` for "batch"; as `algebra.forward`.

    UPDATE: running statistics move towards the moments by the way.
    """
    channel, channel_exists = channels_of(channels, width, BLOCK_C)
    lane = tl.arange(0, BLOCK_B)
    rows = batch * channels
    size = tl.cast(positions, ACC)
    if KIND == "given":
        set_mean = tl.load(mean + channel, mask=channel_exists, other=0.0).to(ACC)[None, :]
        set_rstd = 1.0 / tl.sqrt(tl.load(var + channel, mask=channel_exists, other=1.0).to(ACC) + EPS)[None, :]
    if KIND == "batch":
        set_mean = tl.zeros((1, BLOCK_C), ACC)
        set_squares = tl.zeros((1, BLOCK_C), ACC)
        for start in range(0, batch, BLOCK_B):
            sample = start + lane
            there = (sample < batch)[:, None] & channel_exists[None, :]
            index = sample[:, None] * channels + channel[None, :]
            row_mean, row_squares = join_splits(partials, index, there, positions, splits, chunk, rows, ACC)
            samples = tl.cast(tl.minimum(batch - start, BLOCK_B), ACC)
            before = tl.cast(start, ACC)
            tile_mean = tl.sum(row_mean, axis=0)[None, :] / samples
            apart = tl.where(there, row_mean - tile_mean, 0.0)
            delta = tile_mean - set_mean
            share = samples / (before + samples)
            set_mean += delta * share
            set_squares += tl.sum(row_squares + size * apart * apart, axis=0)[None, :]
            set_squares += delta * delta * (before * share * size)
        count = size * tl.cast(batch, ACC)
        set_rstd = inverse_std(set_squares, count, UNBIASED, EPS)
        out = moments + channel[None, :]
        tl.store(out, set_mean, mask=channel_exists[None, :])
        variance = set_squares / tl.maximum(count - 1.0, 1.0)
        tl.store(out + channels, variance, mask=channel_exists[None, :])
        tl.store(out + 2 * channels, tl.zeros_like(set_mean) + count, mask=channel_exists[None, :])
        if UPDATE:
            step = tl.cast(momentum, ACC)
            where = running_mean + channel[None, :]
            old = tl.load(where, mask=channel_exists[None, :], other=0.0)
            tl.store(where, old + step * (set_mean - old), mask=channel_exists[None, :])
            where = running_var + channel[None, :]
            old = tl.load(where, mask=channel_exists[None, :], other=0.0)
            tl.store(where, old + step * (variance - old), mask=channel_exists[None, :])
    for start in range(0, batch, BLOCK_B):
        sample = start + lane
        there = (sample < batch)[:, None] & channel_exists[None, :]
        index = sample[:, None] * channels + channel[None, :]
        a = parameter(gain, gain_stride, sample, channel, there, 1.0, HAS_GAIN, ACC)
        offset = parameter(bias, bias_stride, sample, channel, there, 0.0, HAS_BIAS, ACC)
        blank = tl.zeros(there.shape, ACC)
        if KIND == "given" or KIND == "batch":
            centre = blank + set_mean
            rstd = blank + set_rstd
            slope = a * rstd
        else:
            row_mean, row_squares = join_splits(partials, index, there, positions, splits, chunk, rows, ACC)
            centre = row_mean
            if KIND == "row":
                rstd = inverse_std(row_squares, size, UNBIASED, EPS)
                slope = a * rstd
            else:
                members = tl.cast(width, ACC)
                group_mean = tl.sum(row_mean, axis=1)[:, None] / members
                apart = tl.where(there, row_mean - group_mean, 0.0)
                squares = tl.sum(row_squares + size * apart * apart, axis=1)[:, None]
                rstd = blank + inverse_std(squares, size * members, UNBIASED, EPS)
                if KIND == "mix":
                    share = parameter(rho, 0, sample, channel, there, 0.0, True, ACC)
                    row_rstd = inverse_std(row_squares, size, UNBIASED, EPS)
                    other = a * (1.0 - share) * rstd
                    slope = a * share * row_rstd + other
                    offset += other * apart
                    tl.store(coefficients + 4 * rows + index, row_rstd, mask=there)
                    tl.store(coefficients + 5 * rows + index, apart, mask=there)
                else:
                    centre = blank + group_mean
                    slope = a * rstd
        tl.store(coefficients + index, slope, mask=there)
        tl.store(coefficients + rows + index, centre, mask=there)
        tl.store(coefficients + 2 * rows + index, offset, mask=there)
        tl.store(coefficients + 3 * rows + index, rstd, mask=there)
