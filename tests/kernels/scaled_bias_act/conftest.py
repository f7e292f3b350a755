import pytest


@pytest.fixture(params=["eager", pytest.param("triton", marks=pytest.mark.interpreter)])
def backend(request):
    """Each implementation but the definition: the CPU form, and interpreted Triton."""
    return request.param
