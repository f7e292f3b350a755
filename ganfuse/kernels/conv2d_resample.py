"""Convolution between upsampling and downsampling with a filter, without computing what is thrown away.

StyleGAN2-ADA's ``conv2d_resample`` (Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data").
Filters and convolutions commute, which is all that is used here: a 1×1 kernel works at the lower resolution, zeros that
upsampling inserts are never multiplied (a transposed convolution, filtered afterwards), and of a convolution whose
result is thinned out only what remains is computed.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ganfuse.kernels.upfirdn2d import upfirdn2d
from ganfuse.kernels.upfirdn2d.geometry import Padding, filter_size, parse_padding


def conv2d_resample(
    x: Tensor,
    weight: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
    *,
    backend: str | None = None,
) -> Tensor:
    """Upsample with `f`, convolve with `weight`, downsample with `f`. Twice differentiable; no checks.

    Convolutions are PyTorch's own, which compute no gradient of the weight where nobody waits for it.

    Args:
        x: (B, I, H, W). weight: (O, I / groups, kh, kw), in x's type.
        f: a filter as `ganfuse.kernels.setup_filter` makes it; None: a single 1.
        up, down: integer factors.
        padding: around the upsampled image, before the filters' own, which keep the image in place: integer, [x, y] or
            [left, right, top, bottom].
        flip_weight: False for convolution, True for correlation, which is what PyTorch calls convolution.
        flip_filter: likewise for `f`.
        backend: of `upfirdn2d`; ``"reference"``: the definition, step by step.
    """
    kh, kw = weight.shape[2:]
    pad = total_padding(f, up, down, padding)

    def filtered(x: Tensor, up: int = 1, down: int = 1, padding: Sequence[int] = (0, 0, 0, 0)) -> Tensor:
        return upfirdn2d(x, f, up, down, padding, flip_filter, up**2, backend=backend)

    if backend != "reference" and up > 1 and not (kh == kw == 1 and down == 1):
        y, rest = _transposed(x, weight.flip(2, 3) if flip_weight else weight, up, pad, groups)
        y = upfirdn2d(y, f, 1, 1, rest, flip_filter, up**2, backend=backend)
        return filtered(y, down=down) if down > 1 else y
    if not flip_weight:
        weight = weight.flip(2, 3)
    if backend != "reference":
        if up > 1:
            return filtered(F.conv2d(x, weight, groups=groups), up=up, padding=pad)
        if down > 1 and kh == kw == 1:
            return F.conv2d(filtered(x, down=down, padding=pad), weight, groups=groups)
        if down > 1:
            return F.conv2d(filtered(x, padding=pad), weight, stride=down, groups=groups)
        if pad.left == pad.right >= 0 and pad.top == pad.bottom >= 0:
            return F.conv2d(x, weight, padding=(pad.top, pad.left), groups=groups)
    x = upfirdn2d(x, f if up > 1 else None, up, 1, pad, flip_filter, up**2, backend=backend)
    x = F.conv2d(x, weight, groups=groups)
    return filtered(x, down=down) if down > 1 else x


def total_padding(f: Tensor | None, up: int, down: int, padding: int | Sequence[int]) -> Padding:
    """The padding with that of the filters, which keeps the image in place."""
    left, right, top, bottom = parse_padding("conv2d_resample", padding)
    fh, fw = filter_size(f)
    if up > 1:
        left, right = left + (fw + up - 1) // 2, right + (fw - up) // 2
        top, bottom = top + (fh + up - 1) // 2, bottom + (fh - up) // 2
    if down > 1:
        left, right = left + (fw - down + 1) // 2, right + (fw - down) // 2
        top, bottom = top + (fh - down + 1) // 2, bottom + (fh - down) // 2
    return Padding(left, right, top, bottom)


def _transposed(x: Tensor, weight: Tensor, up: int, pad: Padding, groups: int) -> tuple[Tensor, Padding]:
    """The true convolution of the image with zeros inserted, and the padding that is left to do.

    That is what a transposed convolution is, but that it inserts no zeros after the last pixel, and pads by kernel − 1
    on every side.
    """
    kh, kw = weight.shape[2:]
    left, right = pad.left - (kw - 1), pad.right - (kw - up)
    top, bottom = pad.top - (kh - 1), pad.bottom - (kh - up)
    cut_x, cut_y = max(min(-left, -right), 0), max(min(-top, -bottom), 0)
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    kernel = weight.reshape(groups, outputs, inputs, kh, kw).transpose(1, 2)
    kernel = kernel.reshape(groups * inputs, outputs, kh, kw)
    y = F.conv_transpose2d(x, kernel, stride=up, padding=(cut_y, cut_x), groups=groups)
    return y, Padding(left + cut_x, right + cut_x, top + cut_y, bottom + cut_y)
