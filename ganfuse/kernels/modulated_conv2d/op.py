"""The public function: checks, and the choice between forms."""

from collections.abc import Callable, Sequence

from torch import Tensor

from ganfuse.kernels.backend import exporting, resolve_backend
from ganfuse.kernels.checks import check_beside, check_nonempty, check_size, check_tensor, has_shape
from ganfuse.kernels.modulated_conv2d import forms, reference
from ganfuse.kernels.modulated_conv2d.forms import Epilogue
from ganfuse.kernels.modulated_conv2d.geometry import Geometry, output_size
from ganfuse.kernels.precision import to_autocast
from ganfuse.kernels.scaled_bias_act.op import make_attributes, triton_unsupported
from ganfuse.kernels.upfirdn2d.geometry import parse_padding
from ganfuse.kernels.upfirdn2d.op import check_filter

_BY_FORM: dict[str, Callable[..., Tensor]] = {
    "scaled": forms.scaled,
    "grouped": forms.grouped,
    "pointwise": forms.pointwise,
    "implicit_gemm": forms.implicit,
}


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused_modconv: bool | None = None,
    *,
    bias: Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    form: str = "auto",
    backend: str | None = None,
) -> Tensor:
    """Modulated convolution with noise, bias and activation: signature and meaning of StyleGAN2-ADA's operation.

    Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", section 2.2. Sample b has the weights
    ``w[o, i, k] = weight[o, i, k] · styles[b, i]``, demodulated ``w / sqrt(Σ_ik w² + 1e-8)``; its result is
    ``clamp(gain · act(conv(x) + noise + bias))``. Where maps are small beside weights, and on GPUs, no weights per
    sample are made: styles scale the input, and one pass over the result does all the rest. Differentiable any number
    of times; each derivative is made of PyTorch's convolutions and our passes.

    Args:
        x: (B, I, H, W), NCHW or channels_last. Under autocast, in its type.
        weight: (O, I, kh, kw), in x's type or float32.
        styles: (B, I), in x's type or float32.
        noise: (B, 1, H', W'), (1, 1, H', W') or (H', W') for a result of H' × W'; added after demodulation.
        up, down: integer factors of resampling, with `resample_filter`, before and after the convolution.
        padding: of the upsampled image, beside the filter's own: an integer, [x, y] or [left, right, top, bottom].
        resample_filter: float32, from `ganfuse.kernels.setup_filter`; None: a single 1.
        demodulate: divide by the norm of the sample's weights.
        flip_weight: False for convolution, True for correlation, which is what PyTorch calls convolution.
        fused_modconv: accepted, and ignored.
        bias: (O,), in x's type or float32.
        act, alpha, gain, clamp: as in `ganfuse.kernels.bias_act`.
        form: ``"auto"`` (also: the environment variable ``GANFUSE_MODULATED_CONV2D``), or by name what
            `ganfuse.kernels.modulated_conv2d.forms` describes; results agree but for rounding.
        backend: ``"auto"``, ``"reference"``, ``"eager"`` or ``"triton"``; None follows `ganfuse.use_backend`.

    Returns:
        (B, O, H', W') in x's type.

    Raises:
        ValueError: shapes, types or devices do not fit, `act` or `form` is unknown, or `backend` cannot run here.
    """
    op = "modulated_conv2d"
    for name, tensor, ndim in (("x", x, 4), ("weight", weight, 4), ("styles", styles, 2)):
        check_tensor(op, name, tensor, ndim=ndim)
    (x,) = to_autocast(x)
    check_nonempty(op, "x", x)
    check_nonempty(op, "weight", weight, first_dim=0)
    check_size(op, "weight.shape[1]", weight.shape[1], x.shape[1], "channels of x")
    if styles.shape != x.shape[:2]:
        raise ValueError(f"{op}: styles must have shape {tuple(x.shape[:2])}, (B, I) of x, got {tuple(styles.shape)}")
    make_attributes(op, act, alpha, gain, clamp)
    geometry = _check_geometry(op, up, down, padding, flip_weight, resample_filter)
    height, width = output_size(geometry, resample_filter, x.shape[2:], weight.shape[2:])
    if min(height, width) < 1:
        raise ValueError(
            f"{op}: weight of {weight.shape[2]}×{weight.shape[3]} and the filter must fit into x with its padding, "
            f"{x.shape[2]}×{x.shape[3]} gives a result of {height}×{width}"
        )
    shape = (x.shape[0], weight.shape[0], height, width)
    for name, small in (("weight", weight), ("styles", styles), ("noise", noise), ("bias", bias)):
        if small is not None:
            check_beside(op, name, small, x)
    if resample_filter is not None and resample_filter.device != x.device:
        raise ValueError(f"{op}: resample_filter must be on x's device, {x.device}, got {resample_filter.device}")
    if noise is not None:
        noise = _as_map(op, noise, shape)
    if bias is not None and bias.shape != (shape[1],):
        raise ValueError(f"{op}: bias must have shape ({shape[1]},), one per output, got {tuple(bias.shape)}")
    run = _BY_FORM[forms.choose(op, form, x, weight, geometry)]
    chosen = resolve_backend(
        op, backend, x.device, triton=lambda: triton_unsupported(x), eager=lambda: _eager_unsupported(x)
    )
    epilogue = Epilogue(noise, bias, act, alpha, gain, clamp)
    if exporting():
        # Weights of each sample's own make the batch a number of groups, which a graph of other runtimes cannot leave
        # open. This form is of PyTorch's own operators too.
        return forms.scaled(x, weight, styles, resample_filter, geometry, bool(demodulate), epilogue, backend)
    if chosen == "reference":
        return reference.modulated_conv2d(
            x, weight, styles, noise, resample_filter, bias, geometry, demodulate,
            *make_attributes(op, act, alpha, gain, clamp).definition(),
        )  # fmt: skip
    return run(x, weight, styles, resample_filter, geometry, bool(demodulate), epilogue, backend)


def _check_geometry(
    op: str, up: int, down: int, padding: int | Sequence[int], flip_weight: bool, f: Tensor | None
) -> Geometry:
    for name, factor in (("up", up), ("down", down)):
        if not isinstance(factor, int) or isinstance(factor, bool) or factor < 1:
            raise ValueError(f"{op}: {name} must be a positive integer, got {factor!r}")
    check_filter(op, f)
    return Geometry(up, down, parse_padding(op, padding), bool(flip_weight))


def _as_map(op: str, noise: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    batch, _, height, width = shape
    expected = ((batch, 1, height, width), (1, 1, height, width), (height, width))
    if not has_shape(noise, *expected):
        raise ValueError(
            f"{op}: noise must have shape {', '.join(map(str, expected[:2]))} or {expected[2]} for a result of "
            f"{shape}, got {tuple(noise.shape)}"
        )
    return noise if noise.ndim == 4 else noise[None, None]


def _eager_unsupported(x: Tensor) -> str | None:
    return None if x.device.type == "cpu" else "the eager form is written for CPUs"
