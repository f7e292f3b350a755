"""One op at one shape, ready to be measured: its inputs, its implementations, what each pass costs at the least."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ganfuse.kernels.cost import Cost

OURS = "ganfuse"
REFERENCE = "reference"
COMPILED = "compile"
# Of training steps: what `ganfuse train` does unless told.
DEFAULT = "default"

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
PASSES = {
    "forward": "the output, with no graph",
    "forward+backward": "the output and the gradients of all inputs",
    "double backward": "gradients of the gradients, given the graph of the backward",
}

Op = Callable[..., Any]
Sizes = Mapping[str, int]


class Draw:
    """Random tensors of one type and layout on one device, the same ones each time."""

    def __init__(self, dtype: str, layout: str, device: torch.device) -> None:
        self.dtype, self.layout, self.device = TYPES[dtype], LAYOUTS[layout], device
        self._generator = torch.Generator(device).manual_seed(0)

    def normal(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        """A float32 leaf: vectors, weights, noise."""
        x = torch.randn(shape, generator=self._generator, device=self.device)
        return x.mul_(std).add_(mean).requires_grad_()

    def map(self, *shape: int, std: float = 1.0) -> Tensor:
        """A leaf (B, C, H, W) in the type and the layout that are measured."""
        x = self.normal(*shape, std=std).detach()
        return x.to(self.dtype, memory_format=self.layout).requires_grad_()

    def weight(self, *shape: int) -> Tensor:
        """A leaf (O, I, kh, kw) in the type that is measured, of unit gain."""
        fan_in = torch.Size(shape[1:]).numel()
        return self.normal(*shape, std=fan_in**-0.5).detach().to(self.dtype).requires_grad_()


@dataclass(frozen=True)
class Subject:
    """Attributes:
    inputs: of every implementation, in order; leaves, but for those that need no gradient.
    implementations: by name, functions of the inputs; `OURS` and `REFERENCE` are among them. torch.compile of the
        reference is made by who measures.
    costs: of each pass; None where the op's cost.py has no formula.
    penalised: how many of the leading leaves the double backward takes gradients of: one, as R1 does, or more.
    independent: samples do not meet in the op, so that a few of them tell whether all are right.
    """

    inputs: list[Tensor]
    implementations: Mapping[str, Op]
    costs: Mapping[str, Cost | None]
    penalised: int = 1
    independent: bool = False


@dataclass(frozen=True)
class Site:
    """A place in a network where an op is used.

    Attributes:
        op: its name. name: of the place.
        sizes: arguments of the op's subject, on a GPU. on_cpu: what differs on a CPU; None leaves the site out there.
    """

    op: str
    name: str
    sizes: Sizes
    on_cpu: Sizes | None = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A site of a shape set in one type and layout."""

    shape_set: str
    op: str
    site: str
    sizes: Sizes
    dtype: str
    layout: str

    @property
    def name(self) -> str:
        return f"{self.op}/{self.shape_set}/{self.site}/{self.dtype}/{self.layout}"

    def record(self) -> dict[str, Any]:
        return {
            "kind": "case", "case": self.name, "op": self.op, "shapes": self.shape_set, "site": self.site,
            "sizes": dict(self.sizes), "dtype": self.dtype, "layout": self.layout,
        }  # fmt: skip


def passes_of(forward: Cost, backward: Cost, double_backward: Cost | None) -> dict[str, Cost | None]:
    """Costs by the names of `PASSES`."""
    return dict(zip(PASSES, (forward, forward + backward, double_backward)))


def with_backends(op: Op, device: torch.device, **peers: Op) -> dict[str, Op]:
    """Implementations of an op that takes ``backend=``, and peers. A GPU must run the kernels; a CPU what it has."""
    ours = "triton" if device.type == "cuda" else "auto"
    return {
        OURS: lambda *inputs: op(*inputs, backend=ours),
        REFERENCE: lambda *inputs: op(*inputs, backend="reference"),
        **peers,
    }


def as_list(outputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
