"""Between the two passes of the first backward: see `triton_coefficients`."""

import triton
import triton.language as tl

from ganfuse.kernels.channel_norm.triton_coefficients import channels_of, parameter, sum_splits


@triton.jit
def inverse_counts(positions, batch, width, ACROSS: tl.constexpr, UNBIASED: tl.constexpr, ACC: tl.constexpr):
    """1/N and 1/N' of a term over "row", "group" or "batch" (the others give no statistics)."""
    count = tl.cast(positions, ACC)
    if ACROSS == "group":
        count = count * tl.cast(width, ACC)
    elif ACROSS == "batch":
        count = count * tl.cast(batch, ACC)
    inverse = 1.0 / count
    if UNBIASED:
        return inverse, 1.0 / tl.maximum(count - 1.0, 1.0)
    else:
        return inverse, inverse


@triton.jit
def over_set(v, ACROSS: tl.constexpr):
    """Sums over the term's set of rows, where it lies within the tile."""
    if ACROSS == "group":
        return tl.sum(v, axis=1)[:, None]
    else:
        return v


@triton.jit
def first_term(ones, against, a, rstd, shift, total, total_against, inverse, inverse_variance):
    """(constant, linear) that a term adds to dx."""
    linear = -rstd * rstd * total_against * inverse_variance
    return linear * shift - rstd * total * inverse, linear


@triton.jit
def put_gradient(
    out, stride, sample, channel, there, gradient, carried, PER_SAMPLE: tl.constexpr, WANTED: tl.constexpr
):
    """Store a (B, C) gradient, or add it to what goes to a (C,) one at the end."""
    if WANTED:
        if PER_SAMPLE:
            where = out + sample[:, None] * stride + channel[None, :]
            tl.store(where, gradient.to(out.dtype.element_ty), mask=there)
        else:
            carried += tl.sum(tl.where(there, gradient, 0.0), axis=0)
    return carried


@triton.jit
def put_carried(out, channel, channel_exists, carried, PER_SAMPLE: tl.constexpr, WANTED: tl.constexpr):
    """Store a (C,) gradient."""
    if WANTED and not PER_SAMPLE:
        tl.store(out + channel, carried.to(out.dtype.element_ty), mask=channel_exists)


@triton.jit
def sum_of_dx(partials, index, there, splits, rows, slope, constant, linear, ACC: tl.constexpr):
    """Σ dx of rows behind a prologue, or Σ dx·noise, from the three sums that `norm_sums` leaves for it."""
    step = splits * rows
    against = sum_splits(partials, index, there, splits, rows, ACC)
    bents = sum_splits(partials + step, index, there, splits, rows, ACC)
    bents_d = sum_splits(partials + 2 * step, index, there, splits, rows, ACC)
    return slope * against + (constant * bents + linear * bents_d)


@triton.jit
def norm_backward_coefficients(
    partials, coefficients, gain, rho, linears, on_gain, on_bias, on_rho, on_strength, on_shift,
    gain_stride, bias_stride, batch, channels, positions, width, splits,
    KIND: tl.constexpr, HAS_GAIN: tl.constexpr, UNBIASED: tl.constexpr,
    GAIN: tl.constexpr, BIAS: tl.constexpr, RHO: tl.constexpr, STRENGTH: tl.constexpr, SHIFT: tl.constexpr,
    PROLOGUE: tl.constexpr, GAIN_PER_SAMPLE: tl.constexpr, BIAS_PER_SAMPLE: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """(constant, linear) of dx, and the gradients of gain, bias, rho, the noise's strength and the prologue's bias.

    Those where GAIN, BIAS, RHO, STRENGTH and SHIFT. PROLOGUE says which sums `norm_sums` left.
    """
    channel, channel_exists = channels_of(channels, width, BLOCK_C)
    lane = tl.arange(0, BLOCK_B)
    rows = batch * channels
    step = splits * rows
    MAIN: tl.constexpr = "group" if KIND == "mix" else KIND
    inverse, inverse_variance = inverse_counts(positions, batch, width, MAIN, UNBIASED, ACC)
    total = tl.zeros((1, BLOCK_C), ACC)
    total_against = tl.zeros((1, BLOCK_C), ACC)
    if KIND == "batch":
        for start in range(0, batch, BLOCK_B):
            sample = start + lane
            there = (sample < batch)[:, None] & channel_exists[None, :]
            index = sample[:, None] * channels + channel[None, :]
            a = parameter(gain, gain_stride, sample, channel, there, 1.0, HAS_GAIN, ACC)
            total += tl.sum(a * sum_splits(partials, index, there, splits, rows, ACC), axis=0)[None, :]
            centred = sum_splits(partials + step, index, there, splits, rows, ACC)
            rstd = tl.load(coefficients + 3 * rows + index, mask=there, other=0.0)
            total_against += tl.sum(a * centred * rstd, axis=0)[None, :]
    sum_gain = tl.zeros((BLOCK_C,), ACC)
    sum_bias = tl.zeros((BLOCK_C,), ACC)
    sum_rho = tl.zeros((BLOCK_C,), ACC)
    sum_strength = tl.zeros((BLOCK_C,), ACC)
    sum_shift = tl.zeros((BLOCK_C,), ACC)
    for start in range(0, batch, BLOCK_B):
        sample = start + lane
        there = (sample < batch)[:, None] & channel_exists[None, :]
        index = sample[:, None] * channels + channel[None, :]
        ones = sum_splits(partials, index, there, splits, rows, ACC)
        centred = sum_splits(partials + step, index, there, splits, rows, ACC)
        rstd = tl.load(coefficients + 3 * rows + index, mask=there, other=0.0)
        a = parameter(gain, gain_stride, sample, channel, there, 1.0, HAS_GAIN, ACC)
        blank = tl.zeros(there.shape, ACC)
        if KIND == "mix":
            share = parameter(rho, 0, sample, channel, there, 0.0, True, ACC)
            shift = tl.load(coefficients + 5 * rows + index, mask=there, other=0.0)
            row_rstd = tl.load(coefficients + 4 * rows + index, mask=there, other=0.0)
            other = (centred + shift * ones) * rstd
            row = centred * row_rstd
            b = a * (1.0 - share)
            constant, linear = first_term(
                ones, other, b, rstd, shift, over_set(b * ones, "group"), over_set(b * other, "group"),
                inverse, inverse_variance,
            )  # fmt: skip
            b = a * share
            n, nv = inverse_counts(positions, batch, width, "row", UNBIASED, ACC)
            more, slant = first_term(ones, row, b, row_rstd, blank, b * ones, b * row, n, nv)
            constant += more
            linear += slant
            against = share * row + (1.0 - share) * other
            sum_rho = put_gradient(on_rho, 0, sample, channel, there, a * (row - other), sum_rho, False, RHO)
        else:
            against = centred * rstd
            if KIND == "given":
                constant = blank
                linear = blank
            else:
                if KIND == "batch":
                    su = total
                    sux = total_against
                else:
                    su = over_set(a * ones, MAIN)
                    sux = over_set(a * against, MAIN)
                constant, linear = first_term(ones, against, a, rstd, blank, su, sux, inverse, inverse_variance)
        sum_gain = put_gradient(on_gain, channels, sample, channel, there, against, sum_gain, GAIN_PER_SAMPLE, GAIN)
        sum_bias = put_gradient(on_bias, channels, sample, channel, there, ones, sum_bias, BIAS_PER_SAMPLE, BIAS)
        if PROLOGUE:
            slope = tl.load(coefficients + index, mask=there, other=0.0)
            if SHIFT:
                total_p = sum_of_dx(partials + 2 * step, index, there, splits, rows, slope, constant, linear, ACC)
                sum_shift = put_gradient(on_shift, 0, sample, channel, there, total_p, sum_shift, False, SHIFT)
            if STRENGTH:
                total_n = sum_of_dx(partials + 5 * step, index, there, splits, rows, slope, constant, linear, ACC)
                sum_strength = put_gradient(
                    on_strength, 0, sample, channel, there, total_n, sum_strength, False, STRENGTH
                )
        elif STRENGTH:
            total_n = sum_splits(partials + 2 * step, index, there, splits, rows, ACC)
            sum_strength = put_gradient(on_strength, 0, sample, channel, there, total_n, sum_strength, False, STRENGTH)
        tl.store(linears + index, constant, mask=there)
        tl.store(linears + rows + index, linear, mask=there)
    put_carried(on_gain, channel, channel_exists, sum_gain, GAIN_PER_SAMPLE, GAIN)
    put_carried(on_bias, channel, channel_exists, sum_bias, BIAS_PER_SAMPLE, BIAS)
    put_carried(on_rho, channel, channel_exists, sum_rho, False, RHO)
    put_carried(on_strength, channel, channel_exists, sum_strength, False, STRENGTH)
    put_carried(on_shift, channel, channel_exists, sum_shift, False, SHIFT)
