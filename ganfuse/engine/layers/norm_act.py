"""What norm layers share: the activation behind them, the check of their input, and taking over PyTorch's layers."""

from typing import TypedDict, TypeVar

from torch import Tensor, nn

from ganfuse.engine.layers.activation import check_activation, describe_activation

Layer = TypeVar("Layer", bound=nn.Module)


class Options(TypedDict):
    """What every norm's kernel is told of the layer."""

    eps: float
    activation: str
    negative_slope: float


class NormAct2d(nn.Module):
    """Base of norm layers with an activation; the sub-classes have `eps`."""

    eps: float
    activation: str
    negative_slope: float

    def _set_activation(self, activation: str, negative_slope: float) -> None:
        self.activation = check_activation(activation)
        self.negative_slope = negative_slope

    def _options(self) -> Options:
        return {"eps": self.eps, "activation": self.activation, "negative_slope": self.negative_slope}

    def _describe_activation(self) -> str:
        return describe_activation(self.activation, self.negative_slope)


def check_map(x: Tensor, channels: int) -> None:
    """Raise ValueError unless x is (B, channels, H, W)."""
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"x: expected (B, {channels}, H, W), got {tuple(x.shape)}")


def check_positive(**sizes: int) -> None:
    """Raise ValueError unless all are at least 1."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def take_over(new: Layer, module: nn.Module) -> Layer:
    """`new` with the parameters and buffers of `module`, the same objects, and in its mode."""
    new._parameters.update(module._parameters)
    new._buffers.update(module._buffers)
    return new.train(module.training)
