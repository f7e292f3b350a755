"""A discriminator made of features and a linear map: what the small systems have in common."""

from torch import Tensor, nn

from ganfuse.engine.layers.minibatch_discrimination import MinibatchDiscrimination

__all__ = ["FeatureDiscriminator", "Features"]


class Features(nn.Module):
    """Base of networks from images (B, channels, resolution, resolution), and a condition, to (B, out_features).

    Attributes:
        resolution, channels: of the images.
        condition_features: length of the condition; 0 for a network that takes none.
        out_features: how many it computes.
    """

    resolution: int
    channels: int
    condition_features: int
    out_features: int

    def check_condition(self, condition: Tensor | None, batch: int) -> None:
        """Raises ValueError for a condition of another shape than (batch, condition_features)."""
        expected = (batch, self.condition_features) if self.condition_features else None
        got = None if condition is None else tuple(condition.shape)
        if got != expected:
            raise ValueError(f"condition: expected {expected}, got {got}")


class FeatureDiscriminator(nn.Module):
    """Images (B, channels, resolution, resolution) to logits (B,).

    Args:
        features: computed from the images.
        minibatch_kernels: features of minibatch discrimination that are appended to them; 0: none.
        bias: of the last layer.
    """

    def __init__(self, features: Features, *, minibatch_kernels: int = 0, bias: bool = True) -> None:
        super().__init__()
        self.features = features
        count = features.out_features
        self.minibatch = MinibatchDiscrimination(count, minibatch_kernels) if minibatch_kernels else None
        self.output = nn.Linear(count + minibatch_kernels, 1, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        h: Tensor = self.features(images)
        if self.minibatch is not None:
            h = self.minibatch(h)
        logits: Tensor = self.output(h)
        return logits.squeeze(1)
