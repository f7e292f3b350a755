"""What `ganfuse bench` measures: known costs, implementations that are right, shapes by name."""

import pytest
import torch

from ganfuse.bench import correctness, passes
from ganfuse.bench.catalogue import OPS, SHAPE_SETS, make_cases, make_subject, parse_site
from ganfuse.bench.subject import OURS, PASSES, REFERENCE, Case, as_list

CPU = torch.device("cpu")
SMALL = {
    "batch": 4, "channels": 8, "side": 8, "groups": 2, "group": 2, "d": 4, "e": 8, "key_side": 4,
    "layers": 2, "kernel": 3, "in": 4, "out": 8, "up": 2, "down": 1,
}  # fmt: skip


def small(op, dtype="fp32", layout="nchw", **changed):
    sizes = {name: {**SMALL, **changed}[name] for name in OPS[op][1]}
    return make_subject(Case("own", op, "small", sizes, dtype, layout), CPU)


@pytest.mark.parametrize(
    ("op", "forward_bytes", "forward_flops"),
    [
        # x read, y written, of 4·8·8·8 float32.
        ("bias_act", 2 * 4 * 2048, 0),
        # The statistics read x once more.
        ("batch_norm_act", 3 * 4 * 2048, 0),
        # q (4, 4, 64), k (4, 4, 16), v (4, 8, 16), the output (4, 8, 64), a log-sum-exp per query; d + e per pair.
        ("feature_attention", 4 * (1024 + 256 + 512 + 2048 + 256), 2 * 4 * 64 * 16 * (4 + 8)),
        # x (4, 4, 8, 8), y (4, 8, 8, 8), the weight (8, 4, 3, 3).
        ("modulated_conv2d", 4 * (1024 + 2048 + 288), 2 * 4 * 64 * 288),
        # 16 multiply-adds per low-resolution pixel and pair of channels; y at twice the resolution.
        ("upsample_conv2d", 4 * (1024 + 4 * 2048 + 288), 2 * 16 * 32 * 256),
        # Two matrices of 8 × 72: read three times, written once; u and v read and written.
        ("spectral_normalize", 4 * (4 * 2 * 576 + 2 * 2 * 80), 2 * 2 * 576 * 2),
    ],
)
def test_ops_of_known_cost_have_it(op, forward_bytes, forward_flops):
    cost = small(op).costs["forward"]
    assert (cost.bytes, cost.flops) == (forward_bytes, forward_flops)


@pytest.mark.parametrize("op", OPS)
def test_every_implementation_is_right_in_every_pass(op):
    subject = small(op)
    # Not the numbers of the inputs: the gradient of pixel_norm along its own input vanishes.
    torch.manual_seed(1)
    with torch.no_grad():
        grads = [torch.randn_like(y) for y in as_list(subject.implementations[OURS](*subject.inputs))]
    reference = subject.implementations[REFERENCE]
    wide, plain = (
        passes.calls(reference, *tensors, subject.penalised, second=True)
        for tensors in ((passes.wide(subject.inputs), passes.wide(grads)), (subject.inputs, grads))
    )
    assert set(subject.costs) == set(PASSES)
    for name, implementation in subject.implementations.items():
        made = passes.calls(implementation, subject.inputs, grads, subject.penalised, second=True)
        for which in PASSES:
            if name in ("SDPA", "SDPA flash") and which == "double backward":
                # PyTorch's fused attention is differentiable once, which a row of it says.
                with pytest.raises(RuntimeError, match="not implemented"):
                    passes.results_of(made[which])
                continue
            exact, rounded = passes.results_of(wide[which]), passes.results_of(plain[which])
            errors, wrong = passes.check(passes.results_of(made[which]), exact, rounded)
            assert not wrong, (name, which)
            assert errors


def test_downsampling_beside_the_depthwise_convolution():
    subject = small("upfirdn2d", up=1, down=2)
    ours, peer = (subject.implementations[name](*subject.inputs) for name in (OURS, "depthwise conv"))
    assert correctness.relative_error(peer.detach(), ours.detach()) < 1e-6


def test_samples_of_channels_last_maps_are_measured_in_their_layout():
    subject = small("feature_attention", dtype="bf16", layout="channels_last")
    assert all(x.is_contiguous(memory_format=torch.channels_last) and x.dtype == torch.bfloat16 for x in subject.inputs)


def test_a_result_that_should_vanish_and_does_not_is_wrong():
    nothing = {"0": torch.zeros(8, dtype=torch.float64)}
    assert passes.check({"0": torch.zeros(8)}, nothing, nothing)[1] == []
    assert "vanishes" in passes.check({"0": torch.ones(8)}, nothing, nothing)[1][0]
    assert "missing" in passes.check({}, {"0": torch.ones(8).double()}, nothing)[1][0]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_named_shapes_are_of_known_ops_and_one_of_each_op_comes_first(device):
    cases = make_cases([], [], ["fp32"], ["nchw"], torch.device(device))
    assert {case.op for case in cases} == set(OPS)
    assert [case.op for case in cases[: len(OPS)]] == list(OPS)
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        assert set(case.sizes) == set(OPS[case.op][1])
    assert {case.shape_set for case in cases} == set(SHAPE_SETS)


def test_shapes_of_ones_own():
    site = parse_site("bias_act:batch=3,side=5")
    (case,) = make_cases(["bias_act"], [], ["fp32"], ["nchw"], CPU, own=[site])
    assert dict(case.sizes) == {"batch": 3, "channels": 128, "side": 5}
    with pytest.raises(ValueError, match=r"unknown size of bias_act 'sid'.*did you mean 'side'"):
        parse_site("bias_act:sid=5")
    with pytest.raises(ValueError, match="side must be a positive integer, got '0'"):
        parse_site("bias_act:side=0")
    with pytest.raises(ValueError, match=r"unknown op 'bias_akt'.*did you mean 'bias_act'"):
        make_cases(["bias_akt"], [], ["fp32"], ["nchw"], CPU)
    with pytest.raises(ValueError, match="no shapes of ugatit-256 for pixel_norm"):
        make_cases(["pixel_norm"], ["ugatit-256"], ["fp32"], ["nchw"], CPU)
