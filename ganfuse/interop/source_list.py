"""The codebases whose checkpoints can be read, and which of their tensors are left out, and why."""

from ganfuse.interop.network import Source

__all__ = ["SOURCES"]

_PLAYERS = ("generator", "discriminator")

_LIST = (
    Source(
        "biggan-pytorch",
        "BigGAN-PyTorch (Brock): BigGAN, BigGAN-deep and SAGAN, both players",
        _PLAYERS,
        "biggan_pytorch",
        {
            r"(.*\.)?sv\d+": "singular values, kept for logs only",
            r"(.*\.)?u[1-9]\d*": "vectors of further singular values, which are not part of the norm",
            r"(.*\.)?num_batches_tracked": "a count that evaluation does not read",
        },
    ),
)
SOURCES = {source.name: source for source in _LIST}
