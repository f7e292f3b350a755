"""What cannot be proven safe is left, and what changes after the patch is noticed."""

import functools
import io
import pickle
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.interop import patch, unpatch
from ganfuse.interop.patches.comparing import compare, copied
from ganfuse.interop.patches.tracing import trace
from tests.interop.codebase_styles import (
    AttentiveTranslator,
    BigGenerator,
    ChildConditionalNorm,
    PatchCritic,
    PooledAttention,
    ResidualTranslator,
    shaken,
)


def chain(*more: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.ReLU(True), *more).double()


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8, dtype=torch.float64)


class Block(nn.Module):
    """A norm and an activation, called in a way that each test says."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = norm or nn.InstanceNorm2d(3)
        self.act = nn.ReLU(True)
        self.scale = 2.0
        self.seen: list[Any] = []


class Twice(Block):
    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return F.relu(h) + h


class InPlaceOfAlias(Block):
    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        self.act(h)
        return h * 2


class ByTraining(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) if self.training else self.norm(x)


class ByShape(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) if x.shape[2] > 4 else self.norm(x)


class ByChance(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) if random.random() < 0.5 else self.norm(x)


class ByTensorChance(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) if torch.rand(()) < 0.5 else self.norm(x)


class ByChanceWithin(Block):
    def forward(self, x: Tensor) -> Tensor:
        draws = [random.random() for _ in range(2)]
        return self.act(self.norm(x)) if draws[0] < draws[1] else self.norm(x)


class ByChild(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) if self.norm.track_running_stats else self.norm(x)


class ByModeOfAChild(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) if self.norm.training else self.norm(x)


class WithoutGrad(Block):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.act(self.norm(x))


class Decorated(Block):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x))


class ByType(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) if isinstance(x, Tensor) else x


class Keeping(Block):
    def forward(self, x: Tensor) -> Tensor:
        self.last = self.act(self.norm(x))
        return self.last


class Collecting(Block):
    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.norm(x))
        self.seen.append(h)
        return h


class ByGradMode(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) if torch.is_grad_enabled() else self.norm(x)


SETTING = {"on": True}


class ByGlobal(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) if SETTING["on"] else self.norm(x)


class Catching(Block):
    def forward(self, x: Tensor) -> Tensor:
        try:
            return self.act(self.norm(x))
        except RuntimeError:
            return x


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Twice, "used elsewhere"),
        (InPlaceOfAlias, "used elsewhere"),
        (ByTraining, "one thing in training and another in evaluation"),
        (ByChild, "reads track_running_stats of a child"),
        (ByModeOfAChild, "reads training of a child"),
        (ByShape, "cannot be traced"),
        (ByChance, "global random"),
        (ByChanceWithin, "global random"),
        (ByTensorChance, "does not come from its arguments"),
        (WithoutGrad, "with or try block"),
        (Decorated, "decorated"),
        (ByType, r"calls isinstance\(\)"),
        (Keeping, "sets self.last"),
        (Collecting, "self.seen, a list, whose contents may change"),
        (ByGradMode, "asks is_grad_enabled"),
        (ByGlobal, "global SETTING"),
        (Catching, "with or try block"),
    ],
)
def test_leaves_what_a_trace_does_not_tell(kind: type[Block], why: str) -> None:
    block = kind().double()
    before = copied(block)
    report = patch(block, verbose=False)
    assert not report.replaced
    assert len(report.left) == 1
    assert re.search(why, report.left[0].why), report.left[0].why
    assert type(block) is kind
    assert block.seen == []
    if kind not in (ByChance, ByChanceWithin, ByTensorChance):
        x = image()
        torch.testing.assert_close(block(x), before(x))


class Scaled(Block):
    def helper(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x))

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        y = self.helper(x) * self.scale
        return y if shift is None else y + shift


def test_an_attribute_that_changes_changes_the_result(caplog: pytest.LogCaptureFixture) -> None:
    block, x, shift = Scaled().double(), image(), image()
    report = patch(block, verbose=False)
    assert len(report.replaced) == 1
    first = block(x, shift)
    block.scale = 5.0
    torch.testing.assert_close(block(x, shift) - shift, 2.5 * (first - shift))
    assert "its attributes are others" in caplog.text
    assert any("its attributes are others" in entry.why for entry in report.left)


def test_arguments_left_out_or_named_go_the_old_way() -> None:
    block, x, shift = Scaled().double(), image(), image()
    plain = copied(block)
    patch(block, verbose=False)
    torch.testing.assert_close(block(x), plain(x))
    torch.testing.assert_close(block(x, shift=shift), plain(x, shift=shift))
    torch.testing.assert_close(block(x, shift), plain(x, shift))


@pytest.mark.parametrize("hooked", [1, 2])
def test_hooks_on_fused_children_run(hooked: int) -> None:
    model, seen = chain(), []
    plain = copied(model)
    patch(model, verbose=False)
    handle = model[hooked].register_forward_hook(lambda module, args, out: seen.append(out.detach().clone()))
    x = image()
    torch.testing.assert_close(model(x), plain(x))
    expected = plain[:2](x) if hooked == 1 else plain(x)
    torch.testing.assert_close(seen[0], expected.detach())
    handle.remove()
    model(x)
    assert len(seen) == 1


def test_hooks_that_are_there_before_run_too() -> None:
    model, seen = chain(), []
    model[1].register_forward_pre_hook(lambda module, args: seen.append(1))
    patch(model, verbose=False)
    model(image())
    assert seen == [1]


def test_hooks_of_all_modules_run() -> None:
    model, seen = chain(), []
    patch(model, verbose=False)
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: seen.append(type(module)))
    model(image())
    handle.remove()
    assert [kind.__name__ for kind in seen] == ["Conv2d", "InstanceNorm2d", "ReLU", "Sequential"]


def test_children_reached_in_another_way_are_what_they_were() -> None:
    model, x = chain(), image()
    plain = copied(model)
    patch(model, verbose=False)
    h, features = x, []
    for layer in model:
        h = layer(h)
        features.append(h.clone())
    torch.testing.assert_close(features[1], plain[1](plain[0](x)))
    torch.testing.assert_close(h, plain(x))


def test_a_shared_norm_and_a_shared_activation() -> None:
    norm, act = nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(0.1, True)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), norm, act, nn.Conv2d(4, 4, 1), norm, act, nn.Sequential(norm, nn.Conv2d(4, 2, 1), act)
    ).double()
    before = copied(model)
    report = patch(model, verbose=False)
    assert [entry.where for entry in report.replaced] == ["1", "1"]
    assert compare(before, model, (image(),), {}) is None


class ChangedBeforeConv(nn.Module):
    """What it enlarges is changed in place before the enlarged map is used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU(True)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        h = F.interpolate(x, scale_factor=2)
        self.act(x)
        return self.conv(h) + F.interpolate(x.mean(1, keepdim=True), scale_factor=2)


class ChangedBeforePool(ChangedBeforeConv):
    """What it convolves is changed in place before the result is used."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        h = self.conv(x)
        self.act(x)
        return F.avg_pool2d(h, 2) + F.avg_pool2d(x.mean(1, keepdim=True), 2)


@pytest.mark.parametrize("kind", [ChangedBeforeConv, ChangedBeforePool])
def test_inputs_that_change_in_place_afterwards(kind: type[nn.Module]) -> None:
    model = kind().double()
    plain = copied(model)
    assert len(patch(model, verbose=False).replaced) == 1
    with torch.no_grad():
        x = image()
        torch.testing.assert_close(model(x), plain(x))


def test_changes_of_children_are_noticed() -> None:
    x = image()
    for change in (
        lambda model: model.append(nn.Tanh()),
        lambda model: model.__setitem__(2, nn.Identity()),
        lambda model: model.__setitem__(2, nn.LeakyReLU(0.5)),
    ):
        model = chain()
        plain = copied(model)
        patch(model, verbose=False)
        change(model), change(plain)
        torch.testing.assert_close(model(x), plain(x))


def test_a_slope_that_changes_is_noticed() -> None:
    model = nn.Sequential(nn.InstanceNorm2d(3), nn.LeakyReLU(0.2)).double()
    patch(model, verbose=False)
    x = image()
    model[1].negative_slope = 0.7
    torch.testing.assert_close(model(x), F.leaky_relu(F.instance_norm(x), 0.7))


class MyNorm(nn.BatchNorm2d):
    """Inherits all that a call runs."""


class MyOtherNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def test_subclasses_count_as_what_they_run() -> None:
    model = nn.Sequential(MyNorm(3), nn.ReLU(), MyOtherNorm(3), nn.ReLU()).double()
    before = copied(model)
    report = patch(model, everywhere=True, verbose=False)
    assert [(entry.where, entry.what) for entry in report.replaced] == [("0", "MyNorm + ReLU")]
    assert [entry.where for entry in report.left] == ["2"]
    assert "a forward of its own" in report.left[0].why
    assert compare(before, model, (image(),), {}) is None


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("track", [True, False])
def test_running_statistics_move_as_before(momentum: float | None, track: bool) -> None:
    make = functools.partial(nn.BatchNorm2d, 3, momentum=momentum, track_running_stats=track)
    model = nn.Sequential(make(), nn.ReLU()).double()
    before = copied(model)
    patch(model, everywhere=True, verbose=False)
    for _ in range(3):
        x = image()
        torch.testing.assert_close(model(x), before(x))
    for key, value in before.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value)
    x = image()
    torch.testing.assert_close(model.eval()(x), before.eval()(x))


class Strided(PooledAttention):
    """Its keys and values are pooled by a factor of its own."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__(channels)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        phi, g = (F.max_pool2d(layer(x), self.factor).flatten(2) for layer in (self.phi, self.g))
        weights = torch.softmax(self.theta(x).flatten(2).transpose(1, 2) @ phi, dim=-1)
        return self.gamma * self.o((g @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])) + x


def test_each_setting_is_tried() -> None:
    model = shaken(nn.Sequential(Strided(8, 2), Strided(8, 4)))
    plain = copied(model)
    found = [entry.where for entry in patch(model, verbose=False).replaced if entry.what == "Strided"]
    assert found == ["0"]
    x = torch.randn(2, 8, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(model(x), plain(x))


@pytest.mark.parametrize("momentum", [0.3, None])
def test_statistics_that_are_held_for_a_while_are_held(momentum: float | None) -> None:
    model = shaken(ChildConditionalNorm(3, 5))
    model.bn.momentum = momentum
    before = copied(model)
    assert patch(model, verbose=False).replaced
    # As StudioGAN does with the generator's while it trains the discriminator.
    for track in (True, False, True):
        for each in (model, before):
            each.bn.track_running_stats = track
        args = image(), torch.randn(2, 5, dtype=torch.float64)
        torch.testing.assert_close(model(*args), before(*args))
        for key, value in before.state_dict().items():
            torch.testing.assert_close(model.state_dict()[key], value)


def test_instance_norms_with_running_statistics_are_left() -> None:
    report = patch(nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True), nn.ReLU()), verbose=False)
    assert not report.replaced
    assert "running statistics" in report.left[0].why


def test_errors_are_the_layers_own() -> None:
    model = nn.Sequential(nn.InstanceNorm2d(3), nn.ReLU())
    patch(model, verbose=False)
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        model(torch.randn(2, 3, 1, 1))
    unbatched = torch.randn(3, 4, 4)
    torch.testing.assert_close(model(unbatched), F.instance_norm(unbatched[None])[0].relu())


def test_pickles_hold_the_original_classes() -> None:
    model = shaken(AttentiveTranslator())
    patch(model, verbose=False)
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is AttentiveTranslator
    assert [type(module) for module in again.modules()] == [type(module) for module in AttentiveTranslator().modules()]
    assert not any("_ganfuse" in key for module in again.modules() for key in module.__dict__)
    x = image()
    torch.testing.assert_close(again(x), model(x))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=False)(x), model(x))
    assert patch(again, verbose=False).replaced


def test_pickles_of_models_with_batched_norms() -> None:
    torch.manual_seed(0)
    model = shaken(BigGenerator())
    patch(model, verbose=False)
    args = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    again = pickle.loads(pickle.dumps(model))
    assert compare(again, copied(model), args, {}) is None
    again = pickle.loads(pickle.dumps(model))
    report = patch(again, verbose=False)
    assert not [entry for entry in report.left if entry.what == "spectral norms"]
    assert compare(again, copied(model), args, {}) is None


def test_pickles_of_models_with_fused_norms_can_be_unpatched() -> None:
    model = nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)), nn.InstanceNorm2d(4), nn.ReLU()).double()
    hooks = type(next(iter(model[0]._forward_pre_hooks.values())))
    patch(model, verbose=False)
    again = pickle.loads(pickle.dumps(model))
    unpatch(again)
    assert not again._forward_pre_hooks
    assert [type(hook) for hook in again[0]._forward_pre_hooks.values()] == [hooks]
    assert compare(again, copied(model), (image(),), {}) is None


def test_parts_that_were_patched_by_themselves_go_back_with_the_whole() -> None:
    parts = [BigGenerator(), nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 4, 1)), nn.Tanh())]
    hooks = [[len(module._forward_pre_hooks) for module in part.modules()] for part in parts]
    for part in parts:
        patch(part, verbose=False)
    unpatch(nn.ModuleList(parts))
    assert [[len(module._forward_pre_hooks) for module in part.modules()] for part in parts] == hooks
    for part in parts:
        with pytest.raises(ValueError, match="is not patched"):
            unpatch(part)


def test_leave_spares_what_it_names() -> None:
    model = ResidualTranslator()
    report = patch(model, leave=("model.2", "model.7"), verbose=False)
    assert [entry.where for entry in report.replaced] == ["model.5", "model.9"]
    unpatch(model)
    with pytest.raises(ValueError, match="a list of names"):
        patch(model, leave="model.2")


def test_errors_name_the_target() -> None:
    model = ResidualTranslator()
    with pytest.raises(ValueError, match="ResidualTranslator is not patched"):
        unpatch(model)
    patch(model, verbose=False)
    with pytest.raises(ValueError, match="is patched already; unpatch it first"):
        patch(model)
    with pytest.raises(ValueError, match="cannot import 'no_such_codebase'"):
        patch("no_such_codebase")
    with pytest.raises(ValueError, match="a model, a module or its name, got int"):
        patch(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="check must be False, True or 'raise'"):
        patch(PatchCritic(), check="yes")  # type: ignore[arg-type]


def test_wrappers_are_looked_through() -> None:
    model = ResidualTranslator()
    wrapped = nn.DataParallel(model)
    assert len(patch(wrapped, verbose=False).replaced) == 4
    unpatch(wrapped)
    assert type(model.model) is nn.Sequential


def test_optimisers_and_loading_go_on() -> None:
    model = chain()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    patch(model, verbose=False)
    x = image()
    first = model(x).detach()
    model(x).square().mean().backward()
    optimiser.step()
    assert not torch.allclose(model(x), first)
    model.load_state_dict(state)
    torch.testing.assert_close(model(x), first)


def test_traces_do_not_change_the_module() -> None:
    model = Scaled()
    state = dict(model.__dict__)
    assert not isinstance(trace(model), str)
    assert type(model) is Scaled
    assert model.__dict__ == state


@pytest.mark.parametrize("make", [lambda: torch.jit.script(chain()), lambda: chain().to("meta")])
def test_models_that_cannot_run_are_no_error(make: Callable[[], nn.Module]) -> None:
    patch(make(), verbose=False)
