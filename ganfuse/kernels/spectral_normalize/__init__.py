"""Spectral normalisation of many weights at once."""

from ganfuse.kernels.spectral_normalize.op import Normalised, normalise_batch, spectral_normalize

__all__ = ["Normalised", "normalise_batch", "spectral_normalize"]
