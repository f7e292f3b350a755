"""Between the two passes of the second backward: see `triton_coefficients`, and `algebra` for the formulas."""

import triton
import triton.language as tl

from ganfuse.kernels.channel_norm.triton_backward_coefficients import (
    first_term,
    inverse_counts,
    over_set,
    put_carried,
    put_gradient,
)
from ganfuse.kernels.channel_norm.triton_coefficients import channels_of, parameter, sum_splits


@triton.jit
def second_term(
    grad, grad_x, h, h_x, h_grad, a, k, rstd, shift, su, sux, sh, shx, shu, sk, skx, inverse, inverse_variance,
):  # fmt: skip
    """What a term adds to the six planes of `algebra.Second`, and its ∂a."""
    w = shu - sh * su * inverse - shx * sux * inverse_variance
    sv = sk - rstd * (sh * sux + su * shx) * inverse_variance
    svx = skx - 2.0 * rstd * shx * sux * inverse_variance
    q_x = k - a * rstd * shx * inverse_variance
    x = -rstd * inverse_variance * (svx + rstd * w)
    q_linear = q_x * rstd
    q_constant = q_linear * shift - a * rstd * sh * inverse
    linear = x * rstd
    constant = linear * shift - rstd * sv * inverse
    on_a = rstd * (h_grad - grad * sh * inverse - grad_x * shx * inverse_variance)
    return q_linear, q_constant, rstd * q_x, -rstd * rstd * sux * inverse_variance, linear, constant, on_a


@triton.jit
def term_in_tile(grad, grad_x, h, h_x, h_grad, a, k, rstd, shift, inverse, inverse_variance, ACROSS: tl.constexpr):
    """`second_term` of a term whose set of rows lies within the tile."""
    return second_term(
        grad, grad_x, h, h_x, h_grad, a, k, rstd, shift,
        over_set(a * grad, ACROSS), over_set(a * grad_x, ACROSS), over_set(h, ACROSS), over_set(h_x, ACROSS),
        over_set(a * h_grad, ACROSS), over_set(k * grad, ACROSS), over_set(k * grad_x, ACROSS),
        inverse, inverse_variance,
    )  # fmt: skip


@triton.jit
def bends(partials, index, there, splits, rows, slope, q_linear, q_constant, ACC: tl.constexpr):
    """Σt and Σt·d of t = act''·dy·q, what silu adds to the gradient of z."""
    step = splits * rows
    e = sum_splits(partials + 5 * step, index, there, splits, rows, ACC)
    e_d = sum_splits(partials + 6 * step, index, there, splits, rows, ACC)
    e_dd = sum_splits(partials + 7 * step, index, there, splits, rows, ACC)
    e_h = sum_splits(partials + 8 * step, index, there, splits, rows, ACC)
    e_hd = sum_splits(partials + 9 * step, index, there, splits, rows, ACC)
    return slope * e_h + q_linear * e_d + q_constant * e, slope * e_hd + q_linear * e_dd + q_constant * e_d


@triton.jit
def norm_double_coefficients(
    partials, coefficients, gain, rho, gain_cotangent, bias_cotangent, rho_cotangent,
    second, on_gain, on_bias, on_rho,
    gain_stride, bias_stride, batch, channels, positions, width, splits,
    KIND: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_BIAS: tl.constexpr, SILU: tl.constexpr, UNBIASED: tl.constexpr,
    GAIN: tl.constexpr, BIAS: tl.constexpr, RHO: tl.constexpr,
    GAIN_PER_SAMPLE: tl.constexpr, BIAS_PER_SAMPLE: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The planes of `algebra.Second`, and the gradients of gain, bias and rho (where GAIN, BIAS, RHO)."""
    channel, channel_exists = channels_of(channels, width, BLOCK_C)
    lane = tl.arange(0, BLOCK_B)
    rows = batch * channels
    step = splits * rows
    MAIN: tl.constexpr = "group" if KIND == "mix" else KIND
    n, nv = inverse_counts(positions, batch, width, MAIN, UNBIASED, ACC)
    row_n, row_nv = inverse_counts(positions, batch, width, "row", UNBIASED, ACC)
    if KIND == "batch":
        su = tl.zeros((1, BLOCK_C), ACC)
        sux = tl.zeros((1, BLOCK_C), ACC)
        sh = tl.zeros((1, BLOCK_C), ACC)
        shx = tl.zeros((1, BLOCK_C), ACC)
        shu = tl.zeros((1, BLOCK_C), ACC)
        sk = tl.zeros((1, BLOCK_C), ACC)
        skx = tl.zeros((1, BLOCK_C), ACC)
        bent = tl.zeros((1, BLOCK_C), ACC)
        bent_x = tl.zeros((1, BLOCK_C), ACC)
        for start in range(0, batch, BLOCK_B):
            sample = start + lane
            there = (sample < batch)[:, None] & channel_exists[None, :]
            index = sample[:, None] * channels + channel[None, :]
            rstd = tl.load(coefficients + 3 * rows + index, mask=there, other=0.0)
            grad = sum_splits(partials, index, there, splits, rows, ACC)
            grad_x = sum_splits(partials + step, index, there, splits, rows, ACC) * rstd
            h = sum_splits(partials + 2 * step, index, there, splits, rows, ACC)
            h_x = sum_splits(partials + 3 * step, index, there, splits, rows, ACC) * rstd
            h_grad = sum_splits(partials + 4 * step, index, there, splits, rows, ACC)
            a = parameter(gain, gain_stride, sample, channel, there, 1.0, HAS_GAIN, ACC)
            k = parameter(gain_cotangent, gain_stride, sample, channel, there, 0.0, HAS_GAIN, ACC)
            su += tl.sum(a * grad, axis=0)[None, :]
            sux += tl.sum(a * grad_x, axis=0)[None, :]
            sh += tl.sum(h, axis=0)[None, :]
            shx += tl.sum(h_x, axis=0)[None, :]
            shu += tl.sum(a * h_grad, axis=0)[None, :]
            sk += tl.sum(k * grad, axis=0)[None, :]
            skx += tl.sum(k * grad_x, axis=0)[None, :]
        if SILU:
            for start in range(0, batch, BLOCK_B):
                sample = start + lane
                there = (sample < batch)[:, None] & channel_exists[None, :]
                index = sample[:, None] * channels + channel[None, :]
                rstd = tl.load(coefficients + 3 * rows + index, mask=there, other=0.0)
                slope = tl.load(coefficients + index, mask=there, other=0.0)
                a = parameter(gain, gain_stride, sample, channel, there, 1.0, HAS_GAIN, ACC)
                k = parameter(gain_cotangent, gain_stride, sample, channel, there, 0.0, HAS_GAIN, ACC)
                b = parameter(bias_cotangent, bias_stride, sample, channel, there, 0.0, HAS_BIAS, ACC)
                q_linear = (k - a * rstd * shx * nv) * rstd
                q_constant = b - a * rstd * sh * n
                t, td = bends(partials, index, there, splits, rows, slope, q_linear, q_constant, ACC)
                bent += tl.sum(a * t, axis=0)[None, :]
                bent_x += tl.sum(a * td * rstd, axis=0)[None, :]
    sum_gain = tl.zeros((BLOCK_C,), ACC)
    sum_bias = tl.zeros((BLOCK_C,), ACC)
    sum_rho = tl.zeros((BLOCK_C,), ACC)
    for start in range(0, batch, BLOCK_B):
        sample = start + lane
        there = (sample < batch)[:, None] & channel_exists[None, :]
        index = sample[:, None] * channels + channel[None, :]
        blank = tl.zeros(there.shape, ACC)
        rstd = tl.load(coefficients + 3 * rows + index, mask=there, other=0.0)
        slope = tl.load(coefficients + index, mask=there, other=0.0)
        grad = sum_splits(partials, index, there, splits, rows, ACC)
        grad_d = sum_splits(partials + step, index, there, splits, rows, ACC)
        h = sum_splits(partials + 2 * step, index, there, splits, rows, ACC)
        h_d = sum_splits(partials + 3 * step, index, there, splits, rows, ACC)
        h_grad = sum_splits(partials + 4 * step, index, there, splits, rows, ACC)
        a = parameter(gain, gain_stride, sample, channel, there, 1.0, HAS_GAIN, ACC)
        k = parameter(gain_cotangent, gain_stride, sample, channel, there, 0.0, HAS_GAIN, ACC)
        b = parameter(bias_cotangent, bias_stride, sample, channel, there, 0.0, HAS_BIAS, ACC)
        if KIND == "mix":
            share = parameter(rho, 0, sample, channel, there, 0.0, True, ACC)
            r = parameter(rho_cotangent, 0, sample, channel, there, 0.0, True, ACC)
            shift = tl.load(coefficients + 5 * rows + index, mask=there, other=0.0)
            row_rstd = tl.load(coefficients + 4 * rows + index, mask=there, other=0.0)
            other_x = (grad_d + shift * grad) * rstd
            row_x = grad_d * row_rstd
            other_a = a * (1.0 - share)
            row_a = a * share
            q_linear, q_constant, by_g, by_h, linear, constant, other = term_in_tile(
                grad, other_x, h, (h_d + shift * h) * rstd, h_grad, other_a, (1.0 - share) * k - a * r, rstd, shift,
                n, nv, "group",
            )  # fmt: skip
            q_linear2, q_constant2, by_g2, by_h2, linear2, constant2, row = term_in_tile(
                grad, row_x, h, h_d * row_rstd, h_grad, row_a, share * k + a * r, row_rstd, blank, row_n, row_nv, "row"
            )
            q_linear += q_linear2
            q_constant += q_constant2
            by_g += by_g2
            by_h += by_h2
            linear += linear2
            constant += constant2
        elif KIND == "given":
            q_linear = k * rstd
            q_constant = blank
            by_g = rstd * k
            by_h = blank
            linear = blank
            constant = blank
            on_a = rstd * h_grad
        elif KIND == "batch":
            q_linear, q_constant, by_g, by_h, linear, constant, on_a = second_term(
                grad, grad_d * rstd, h, h_d * rstd, h_grad, a, k, rstd, blank, su, sux, sh, shx, shu, sk, skx, n, nv
            )
        else:
            q_linear, q_constant, by_g, by_h, linear, constant, on_a = term_in_tile(
                grad, grad_d * rstd, h, h_d * rstd, h_grad, a, k, rstd, blank, n, nv, MAIN
            )
        q_constant += b
        on_b = blank
        if SILU:
            on_b, td = bends(partials, index, there, splits, rows, slope, q_linear, q_constant, ACC)
            if KIND == "mix":
                t_other = (td + shift * on_b) * rstd
                t_row = td * row_rstd
                more, slant = first_term(
                    on_b, t_other, other_a, rstd, shift, over_set(other_a * on_b, "group"),
                    over_set(other_a * t_other, "group"), n, nv,
                )  # fmt: skip
                more2, slant2 = first_term(
                    on_b, t_row, row_a, row_rstd, blank, row_a * on_b, row_a * t_row, row_n, row_nv
                )
                constant += more + more2
                linear += slant + slant2
                other += t_other
                row += t_row
            else:
                against = td * rstd
                on_a += against
                if KIND == "batch":
                    more, slant = first_term(on_b, against, a, rstd, blank, bent, bent_x, n, nv)
                    constant += more
                    linear += slant
                elif KIND != "given":
                    more, slant = first_term(
                        on_b, against, a, rstd, blank, over_set(a * on_b, MAIN), over_set(a * against, MAIN), n, nv
                    )
                    constant += more
                    linear += slant
        if KIND == "mix":
            # gain and rho also enter their own gradients, through Σ g·x̂ of the two terms.
            apart = row_x - other_x
            on_a = share * row + (1.0 - share) * other + r * apart
            on_r = a * (row - other) + k * apart
            sum_rho = put_gradient(on_rho, 0, sample, channel, there, on_r, sum_rho, False, RHO)
        sum_gain = put_gradient(on_gain, channels, sample, channel, there, on_a, sum_gain, GAIN_PER_SAMPLE, GAIN)
        sum_bias = put_gradient(on_bias, channels, sample, channel, there, on_b, sum_bias, BIAS_PER_SAMPLE, BIAS)
        tl.store(second + index, q_linear, mask=there)
        tl.store(second + rows + index, q_constant, mask=there)
        tl.store(second + 2 * rows + index, by_g, mask=there)
        tl.store(second + 3 * rows + index, by_h, mask=there)
        tl.store(second + 4 * rows + index, linear, mask=there)
        tl.store(second + 5 * rows + index, constant, mask=there)
    put_carried(on_gain, channel, channel_exists, sum_gain, GAIN_PER_SAMPLE, GAIN)
    put_carried(on_bias, channel, channel_exists, sum_bias, BIAS_PER_SAMPLE, BIAS)
    put_carried(on_rho, channel, channel_exists, sum_rho, False, RHO)
