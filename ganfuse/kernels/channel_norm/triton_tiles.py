"""What the norms' kernels share: where rows are, loading and storing tiles, activations.

A *row* is the H·W positions of one channel of one sample. A program works on ROWS rows, a chunk of their positions,
BLOCK positions at a time. In NCHW a tile is (ROWS, BLOCK), in channels_last (BLOCK, ROWS): the contiguous axis last.
Strides and the length of the contiguous axis come divided by UNIT: that tells the compiler how far addresses and masks
are aligned, which is what wide loads hang on where they are not multiples of 16.
"""

import triton
import triton.language as tl


@triton.jit
def locate_rows(block, batch, channels, ROWS: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """(first index into (B, C) planes plus which, sample, channel, which exist) of a block of rows."""
    lane = tl.arange(0, ROWS)
    if CHANNELS_LAST:
        blocks = tl.cdiv(channels, ROWS)
        sample = block // blocks
        channel = (block % blocks) * ROWS + lane
        return sample * channels + channel, sample.to(tl.int64), channel, channel < channels
    else:
        row = block * ROWS + lane
        return row, (row // channels).to(tl.int64), row % channels, row < batch * channels


@triton.jit
def point(
    base, sample, channel, stride_batch, pitch, start,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Pointers of the tile at position `start` of the rows."""
    lane = tl.arange(0, BLOCK)
    if CHANNELS_LAST:
        first = base + sample * (stride_batch * UNIT) + tl.cast(start, tl.int64) * (pitch * UNIT)
        return first + lane[:, None] * (pitch * UNIT) + channel[None, :]
    else:
        first = sample * (stride_batch * UNIT) + channel.to(tl.int64) * (pitch * UNIT)
        return base + start + first[:, None] + lane[None, :]


@triton.jit
def existing(
    start, positions, rows_exist,
    BLOCK: tl.constexpr, CHANNELS_LAST: tl.constexpr, EVEN: tl.constexpr, EVEN_ROWS: tl.constexpr,
):  # fmt: skip
    """Which elements of the tile at `start` exist; None if all do."""
    left = tl.arange(0, BLOCK) < positions - start
    if EVEN and EVEN_ROWS:
        return None
    elif EVEN:
        return spread(rows_exist, CHANNELS_LAST)
    elif EVEN_ROWS:
        return spread(left, not CHANNELS_LAST)
    else:
        return spread(rows_exist, CHANNELS_LAST) & spread(left, not CHANNELS_LAST)


@triton.jit
def spread(v, CHANNELS_LAST: tl.constexpr):
    """One number per row, to meet a tile."""
    if CHANNELS_LAST:
        return v[None, :]
    else:
        return v[:, None]


@triton.jit
def over_positions(tile, CHANNELS_LAST: tl.constexpr):
    """Sums of a tile over the positions."""
    if CHANNELS_LAST:
        return tl.sum(tile, axis=0)
    else:
        return tl.sum(tile, axis=1)


@triton.jit
def blank(ROWS: tl.constexpr, BLOCK: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr):
    """A tile of zeros."""
    if CHANNELS_LAST:
        return tl.zeros((BLOCK, ROWS), ACC)
    else:
        return tl.zeros((ROWS, BLOCK), ACC)


@triton.jit
def read(pointers, mask, ACC: tl.constexpr):
    """A tile in the accumulator's type, 0 where there is nothing, whatever the memory there holds."""
    if mask is None:
        return tl.load(pointers).to(ACC)
    else:
        return tl.load(pointers, mask=mask, other=0.0).to(ACC)


@triton.jit
def read_noise(
    noise, sample, start, positions, mask,
    BLOCK: tl.constexpr, CHANNELS_LAST: tl.constexpr, EVEN: tl.constexpr, NOISE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The noise at a tile's positions, dense over them; NOISE is "own" maps of the samples, or "shared"."""
    lane = tl.arange(0, BLOCK)
    left = None if EVEN else spread(lane < positions - start, not CHANNELS_LAST)
    if CHANNELS_LAST:
        pointers = noise + start + lane[:, None]
        if NOISE == "own":
            pointers += sample * positions
        return read(pointers, left, ACC)
    else:
        pointers = noise + start + lane[None, :]
        if NOISE == "own":
            return read(pointers + (sample * positions)[:, None], mask, ACC)
        else:
            return read(pointers, left, ACC)


@triton.jit
def channel_vector(v, channel, rows_exist, THERE: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr):
    """A (C,) vector at the rows' channels, to meet a tile; 0 where there is none."""
    if THERE:
        return spread(tl.load(v + channel, mask=rows_exist, other=0.0).to(ACC), CHANNELS_LAST)
    else:
        return tl.cast(0.0, ACC)


@triton.jit
def read_input(
    x, noise, strength, shift, sample, channel, x_batch, x_pitch, start, positions, mask,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr, EVEN: tl.constexpr,
    ACC: tl.constexpr, NOISE: tl.constexpr, PROLOGUE: tl.constexpr, PROLOGUE_SLOPE: tl.constexpr,
):  # fmt: skip
    """(u, prologue'(w), noise) of the tile at `start`: u = prologue(w), w = x + strength·noise + shift.

    Without a prologue u is x, and the noise is for after the affine map; 0 where there is none. Of elements that do
    not exist u is 0, and so is the slope of the prologue.
    """
    u = read(point(x, sample, channel, x_batch, x_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST), mask, ACC)
    n = tl.cast(0.0, ACC)
    bent = tl.cast(1.0, ACC)
    if NOISE != "":
        n = read_noise(noise, sample, start, positions, mask, BLOCK, CHANNELS_LAST, EVEN, NOISE, ACC)
    if PROLOGUE != "":
        w = u + (strength * n + shift)
        u = activated(w, PROLOGUE, PROLOGUE_SLOPE)
        bent = activation_slope(w, PROLOGUE, PROLOGUE_SLOPE)
        if mask is not None:
            u = tl.where(mask, u, 0.0)
            bent = tl.where(mask, bent, 0.0)
    return u, bent, n


@triton.jit
def write(pointers, tile, mask):
    """Store what exists of a tile, in the type of the memory."""
    if mask is None:
        tl.store(pointers, tile.to(pointers.dtype.element_ty))
    else:
        tl.store(pointers, tile.to(pointers.dtype.element_ty), mask=mask)


@triton.jit
def sigmoid(z):
    """1/(1 + exp(−z)), from exponentials of numbers at most 0."""
    small = tl.exp(-tl.abs(z))
    return tl.where(z >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def activated(z, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr):
    """act(z)."""
    if ACTIVATION == "relu":
        # Not maximum(z, 0): that need not carry a NaN.
        return tl.where(z <= 0, 0.0, z)
    elif ACTIVATION == "leaky_relu":
        return tl.where(z > 0, z, z * SLOPE)
    elif ACTIVATION == "silu":
        return z * sigmoid(z)
    else:
        return z


@triton.jit
def activation_slope(z, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr):
    """act'(z)."""
    one = tl.zeros_like(z) + 1.0
    if ACTIVATION == "relu":
        return tl.where(z > 0, one, 0.0)
    elif ACTIVATION == "leaky_relu":
        # Not a choice of two numbers: that would be made in float32.
        return tl.where(z > 0, one, one * SLOPE)
    elif ACTIVATION == "silu":
        s = sigmoid(z)
        return s * (1.0 + z * (1.0 - s))
    else:
        return one


@triton.jit
def silu_bend(z):
    """silu''(z)."""
    s = sigmoid(z)
    return s * (1.0 - s) * (2.0 + z * (1.0 - 2.0 * s))
