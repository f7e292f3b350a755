"""Names of kernels and operators, as profiles have them, to groups."""

import pytest

from ganfuse.bench import op_groups
from ganfuse.kernels import feature_attention, upfirdn2d  # noqa: F401  (their functions exist once they are imported)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64", "convolutions"),
        ("void cudnn::ops::nchwToNhwcKernel<float, float, float, false, true, (cudnnKernelDataType_t)2>", "copies"),
        ("nvjet_tst_128x64_64x6_1x2_h_bz_coopB_TNN", "matrix products"),
        ("void at::native::batch_norm_collect_statistics_kernel<at::native::InvStd, float>", "norms"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4>>", "optimiser and averages"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float>>", "reductions"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>", "copies"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "elementwise"),
        ("Memcpy HtoD (Pageable -> Device)", "copies"),
        ("triton_poi_fused_add_mul_0", "torch.compile"),
        ("something nobody has seen", "other"),
    ],
)  # fmt: skip
def test_kernels_of_others(name, group):
    assert op_groups.kernel_group(name) == group


def test_our_kernels_are_known_by_name():
    pytest.importorskip("triton")
    kernels = op_groups.our_kernels()
    assert kernels["attention_double_backward_query"] == "feature_attention"
    assert kernels["norm_apply"] == "channel_norm"
    assert kernels["upfirdn2d_phases"] == "upfirdn2d"
    assert op_groups.kernel_group("spectral_update") == "ganfuse: spectral_normalize"


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("aten::convolution_backward", "convolutions"),
        ("aten::addmm", "matrix products"),
        ("aten::dot", "matrix products"),
        ("aten::native_batch_norm_backward", "norms"),
        ("aten::_fused_adam_", "optimiser and averages"),
        ("aten::max_pool2d_with_indices", "resampling"),
        ("aten::_to_copy", "copies"),
        ("aten::to", "copies"),
        ("aten::linalg_vector_norm", "reductions"),
        ("aten::transpose", "views"),
        ("aten::detach", "views"),
        ("aten::leaky_relu_backward", "elementwise"),
        ("autograd::engine::evaluate_function: MulBackward0", "overhead"),
    ],
)
def test_operators(name, group):
    assert op_groups.cpu_group(name) == group


def test_our_functions_are_known_by_their_nodes_too():
    functions = op_groups.our_functions()
    assert functions["attention_forward"] == functions["attention_double_backward"] == "feature_attention"
    assert functions["_Upfirdn2dBackward"] == "upfirdn2d"
    assert "PositionalFunction" not in functions
    assert op_groups.our_op("ganfuse::attention_backward") == "feature_attention"
    assert op_groups.our_op("aten::mul") is None
