"""Pixel normalisation (Karras et al. 2018, "Progressive Growing of GANs", section 4.2)."""

from torch import Tensor, nn

from ganfuse.kernels import pixel_norm


class PixelNorm(nn.Module):
    """Divides the channels of every pixel, or of every latent vector, by their root mean square.

    Args:
        eps: added to the mean square; more than 0.

    Raises:
        ValueError: for an `eps` that is not positive, and an input of fewer than 2 dimensions.
    """

    def __init__(self, eps: float = 1e-8) -> None:
        super().__init__()
        if not eps > 0:
            raise ValueError(f"eps must be more than 0, got {eps!r}")
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) → (B, C, ...)."""
        return pixel_norm(x, eps=self.eps)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"
