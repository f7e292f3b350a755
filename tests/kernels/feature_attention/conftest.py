import pytest

from ganfuse.kernels.feature_attention import eager


@pytest.fixture(params=["stored", "fused", "blocks", pytest.param("triton", marks=pytest.mark.interpreter)])
def backend(request, monkeypatch):
    """Every implementation but the definition, whatever the machine and the size would choose.

    Eager that keeps the weights, eager over PyTorch's fused attention, eager a block of queries at a time, and
    interpreted Triton.
    """
    if request.param == "triton":
        return "triton"
    if request.param != "stored":
        monkeypatch.setattr(eager, "_STORED_PAIRS", 0)
        monkeypatch.setattr(eager, "_BLOCK_PAIRS", 100)
        monkeypatch.setattr(eager, "_prefers_blocks", lambda dtype: request.param == "blocks")
    return "eager"
