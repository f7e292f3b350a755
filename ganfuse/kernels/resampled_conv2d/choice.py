"""Which form runs: both resolutions one after the other, or the low one alone with a folded kernel."""

import difflib
import os

import torch
from torch import Tensor

from ganfuse.kernels.precision import arithmetic_dtype

FORMS = ("auto", "plain", "folded")
# A private question: without an answer, the rule that folds least.
_HAS_AMX = bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)())


def checked_form(name: str, origin: str) -> str:
    """`name` itself; ValueError, with the nearest name, if it is no form."""
    if name not in FORMS:
        near = difflib.get_close_matches(str(name), FORMS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"{origin} must be one of {', '.join(map(repr, FORMS))}, got {name!r}{hint}")
    return name


_default = checked_form(os.environ.get("GANFUSE_CONV_FORM", "auto").strip().lower() or "auto", "GANFUSE_CONV_FORM")


def folds(form: str | None, x: Tensor, weight: Tensor, height: int, width: int) -> bool:
    """Whether a call takes the folded form.

    1×1 kernels always do, for they have nothing to fold. A fold of 3×3 saves 20 of 36 multiply-adds per pixel of low
    resolution and pair of channels, and costs some 100 bytes of traffic per pair, so what decides is the number of
    pixels in the batch, B·H·W:

    * float32, float64 on CPUs: from 128 on, where Cin·Cout ≤ 512·B·H·W. Measured with 32 to 512 channels on one core:
      half of the plain form's speed at 16 pixels, ahead at 256, about twice as fast from 2000 on; 512×512 kernels are
      about even at 256.
    * float16, bfloat16 on CPUs: from 256 on, where Cin·Cout ≤ 1024·B·H·W. On a core that multiplies in bfloat16 at half
      its speed in float32, folded kernels of 64 to 512 channels are 1.3 to 1.5 times as fast there, and even at 100
      pixels; on one that is three times as fast in bfloat16 it should be about even. With AMX where Cin·Cout ≤ 8·B·H·W,
      for products cost so little there that folding 512×256 kernels for 1024 pixels took up to three times what it
      saved.
    * elsewhere: from 1024 on. Not measured yet: by bytes and FLOPs of an H200 the traffic of the fold is worth the
      arithmetic of 250 pixels, and strided kernels run further below the peak than plain ones.

    Args:
        form: the call's; None follows the environment variable ``GANFUSE_CONV_FORM``.
        x: the input.
        weight: (Cout, Cin, k, k).
        height, width: of the low resolution.
    """
    form = _default if form is None else checked_form(form, "form")
    if form != "auto":
        return form == "folded"
    if weight.shape[-1] == 1:
        return True
    pixels = x.shape[0] * height * width
    if x.device.type != "cpu":
        return bool(pixels >= 1024)
    pairs = weight.shape[0] * weight.shape[1]
    if arithmetic_dtype(x) not in (torch.float16, torch.bfloat16):
        return bool(pixels >= 128 and pairs <= 512 * pixels)
    return bool(pairs <= 8 * pixels if _HAS_AMX else pixels >= 256 and pairs <= 1024 * pixels)
