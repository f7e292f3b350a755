import pytest


@pytest.fixture(params=["reference", "eager", pytest.param("triton", marks=pytest.mark.interpreter)])
def backend(request):
    return request.param
