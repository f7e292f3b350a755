import pytest
import torch


@pytest.fixture
def float32_settings():
    """How PyTorch multiplies float32 matrices, by either of its settings, as it was before the test."""
    matmul = torch.backends.cuda.matmul
    before = getattr(matmul, "fp32_precision", None)
    yield matmul
    torch.set_float32_matmul_precision("highest")
    if before is not None:
        matmul.fp32_precision = before
