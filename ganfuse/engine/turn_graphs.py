"""Losses and gradients of turns as CUDA graphs: one launch for the thousands of a turn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise

__all__ = ["TurnGraph", "Work"]

# What is set up at a first run (workspaces, tuned algorithms, compiled kernels) must be there before the capture.
_WARMUP = 3

Work = Callable[[Batch, Noise], Mapping[str, Tensor]]


class TurnGraph:
    """Forward and backward pass of a turn: the first times as they are, then captured once, then replayed.

    The gradients lie at the same addresses after every replay. Random numbers differ from replay to replay: the graph
    takes seed and offset from the generators at each one. What a loss decides in Python (a branch on a number that was
    read from the device, a probability that changes) cannot be captured or would be frozen.

    Args:
        name: of the turn, for errors.
        work: computes the losses of a batch, and the gradients into the parameters.
        parameters: those that get gradients.

    Attributes:
        captured: whether the graph is there.
    """

    def __init__(self, name: str, work: Work, parameters: Sequence[nn.Parameter]) -> None:
        self.captured = False
        self._name = name
        self._work = work
        self._parameters = list(parameters)
        self._plays = 0
        self._graph: Any = None
        self._batch: Batch | None = None
        self._values: dict[str, Tensor] = {}
        self._gradients: list[Tensor | None] = []

    def __call__(self, batch: Batch, noise: Noise) -> Mapping[str, Tensor]:
        """The losses; the gradients are in the parameters.

        Raises:
            RuntimeError: the turn does something that cannot be captured.
        """
        if self._plays < _WARMUP:
            self._plays += 1
            return self._aside(batch, noise)
        if not self.captured:
            self._capture(batch, noise)
        assert self._batch is not None
        for target, source in zip(_tensors(self._batch), _tensors(batch)):
            target.copy_(source)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients):
            parameter.grad = gradient
        return {name: value.clone() for name, value in self._values.items()}

    def _aside(self, batch: Batch, noise: Noise) -> Mapping[str, Tensor]:
        # On another stream, as captures are: else autograd would remember the usual one.
        stream: Any = torch.cuda.Stream(batch.images.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            values = self._work(batch, noise)
        torch.cuda.current_stream().wait_stream(stream)
        return values

    def _capture(self, batch: Batch, noise: Noise) -> None:
        present = {field.name: getattr(batch, field.name) for field in fields(batch)}
        self._batch = replace(
            batch, **{name: value.clone() for name, value in present.items() if isinstance(value, Tensor)}
        )
        for parameter in self._parameters:
            parameter.grad = None
        graph: Any = torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
        if noise.generator is not None:
            graph.register_generator_state(noise.generator)
        try:
            with torch.cuda.graph(graph):
                values = self._work(self._batch, noise)
        except RuntimeError as error:
            raise RuntimeError(
                f"cuda_graphs: turn {self._name!r} cannot be captured ({error}); train with cuda_graphs=False, or mark "
                "the turn as Turn(..., capturable=False)"
            ) from error
        self._graph = graph
        self._values = {name: value.detach() for name, value in values.items()}
        self._gradients = [parameter.grad for parameter in self._parameters]
        self.captured = True


def _tensors(batch: Batch) -> list[Tensor]:
    found = (getattr(batch, field.name) for field in fields(batch))
    return [value for value in found if isinstance(value, Tensor)]
