"""Whole training steps: their rhythm, their profiles, variants that are wrong or have no meaning."""

import types

import pytest
import torch
from torch.autograd import DeviceType

from ganfuse.bench import records, training, training_table, training_variants
from ganfuse.bench.training_profile import StepProfile, covering_steps, period_of, plays_per_step, summarise, typical
from ganfuse.bench.training_variants import NotApplicableError, parse_variants
from ganfuse.engine.game import Turn
from ganfuse.models import create

CPU = torch.device("cpu")


def turns(*each):
    return [Turn("player", lambda batch, noise: {}, **settings) for settings in each]


def test_lazy_turns_give_the_rhythm():
    lazy = turns({"name": "d", "repeats": 2}, {"name": "r1", "every": 16}, {"name": "path", "every": 4})
    assert period_of(lazy) == 16
    assert plays_per_step(lazy) == {"d": 2.0, "r1": 1 / 16, "path": 1 / 4}
    assert covering_steps(lazy) == [16]
    alternating = turns({"name": "d", "when": lambda s: s % 3 == 0}, {"name": "g", "when": lambda s: s % 3 != 0})
    assert period_of(alternating) == 3
    assert plays_per_step(alternating) == pytest.approx({"d": 1 / 3, "g": 2 / 3})
    assert sorted(step % 3 == 0 for step in covering_steps(alternating)) == [False, True]
    assert "rare" not in plays_per_step(turns({"name": "d"}, {"name": "rare", "every": 100}))


class Event:
    def __init__(self, name, start, end, *, gpu=False, own=None, parent=None):
        self.name, self.cpu_parent = name, parent
        self.device_type = DeviceType.CUDA if gpu else DeviceType.CPU
        self.self_cpu_time_total = end - start if own is None else own
        self.time_range = types.SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)


def test_a_lazy_turn_counts_by_how_often_it_is_played():
    step = Event("bench: step", 0, 9000, own=0)
    data = Event("bench: data", 0, 1000, own=0, parent=step)
    d = Event("bench: turn d", 1000, 5000, own=0, parent=step)
    r1 = Event("bench: turn r1", 5000, 9000, own=0, parent=step)
    norm = Event("attention_forward", 1000, 2000, own=200, parent=d)
    events = [
        step, data, d, r1, norm,
        Event("aten::stack", 0, 1000, parent=data),
        Event("aten::bmm", 1000, 1800, parent=norm),
        Event("aten::mul", 2000, 4000, parent=d),
        Event("aten::_fused_adam_", 4000, 5000, parent=Event("Optimizer.step#Adam.step", 4000, 5000, parent=d)),
        Event("aten::convolution_backward", 5000, 9000, parent=r1),
    ]  # fmt: skip
    profile = summarise(events, {"d": 1.0, "r1": 1 / 16}, steps=1, gpu=False)
    groups = {group: round(ms, 6) for group, ms in profile.groups.items() if ms}
    assert groups == {
        "data": 1.0, "ganfuse: feature_attention": 1.0, "elementwise": 2.0, "optimiser and averages": 1.0,
        "convolutions": 0.25,
    }  # fmt: skip
    assert profile.ours == pytest.approx(1 / 5.25)
    assert profile.turns["r1"] == {"played": 1 / 16, "ms": 4.0, "launches": None}
    assert profile.data_ms == 1.0


def test_what_another_program_takes_in_one_profile_is_left_out():
    turns = {"d": {"played": 1.0, "ms": 3.0, "launches": 7}}
    calm = StepProfile({"convolutions": 2.0, "copies": 1.0}, turns, 0.5)
    disturbed = StepProfile({"convolutions": 2.0, "copies": 9.0}, {"d": turns["d"] | {"ms": 11.0}}, 0.5)
    assert typical([calm, disturbed, calm]) == calm


def test_on_a_gpu_kernels_count_and_the_hosts_ranges_do_not():
    pytest.importorskip("triton")
    events = [
        Event("bench: turn d", 1000, 5000),
        # Called as the function that launches it is.
        Event("attention_forward", 1100, 1200),
        Event("Optimizer.step#Adam.step", 3000, 4000),
        Event("bench: turn d", 1000, 5000, gpu=True),
        Event("Optimizer.step#Adam.step", 3000, 4000, gpu=True),
        Event("attention_forward", 1500, 2500, gpu=True),
        Event("sm90_xmma_wgrad", 2500, 3000, gpu=True),
        Event("Memcpy HtoD (Pageable -> Device)", 100, 600, gpu=True),
    ]
    profile = summarise(events, {"d": 1.0}, steps=1, gpu=True)
    assert profile.groups == {"ganfuse: feature_attention": 1.0, "convolutions": 0.5, "copies": 0.5}
    assert profile.turns["d"] == {"played": 1.0, "ms": 1.5, "launches": 2}


def test_variants_are_features_in_any_combination():
    default, half = parse_variants(["bf16+accumulation=4", "default"])
    assert (default.name, default.options, default.backend) == ("default", {}, "auto")
    assert half.options == {"precision": "bf16", "accumulation": 4}
    assert parse_variants(["reference"])[1].backend == "reference"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bf17", "unknown feature 'bf17'"),
        ("bf16+fp16", "bf16 and fp16 exclude each other"),
        ("accumulation=1", "at least 2 micro-batches"),
    ],
)
def test_what_is_no_variant_is_said(text, message):
    with pytest.raises(ValueError, match=message):
        parse_variants([text])


class Data:
    """Eight grey images."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.full((1, 8, 8), 16 * index, dtype=torch.uint8), 0


def subject(game):
    options = {"batch_size": 4, "device": "cpu", "progress": False}
    return training.Subject("train/tiny", "tiny", {"batch": 4}, game, Data(), options)


def tiny():
    torch.manual_seed(0)
    return create("gan", resolution=8, channels=1, width=8)


def measured(path, game, variants, **options):
    results = records.ResultFile(path, records.header("train", CPU, "test", folder="bench"))
    said = []
    rows = training.measure_training(
        subject(game), parse_variants(variants), results, CPU, seconds=60, rounds=2, say=said.append, **options
    )
    return {row["provider"]: row for row in rows}, said


def test_variants_are_measured_beside_the_default(tmp_path):
    rows, _ = measured(tmp_path / "a.jsonl", tiny, ["accumulation", "separate_spectral_norms", "cuda_graphs"])
    row = rows["default"]
    assert row["status"] == "ok"
    assert row["images_per_second"] == pytest.approx(4e3 / row["ms"])
    assert row["peak_bytes"] > row["held_bytes"] > 0
    assert row["turns"]["discriminator"]["played"] == 1.0
    assert sum(row["groups"].values()) == pytest.approx(row["profiled_ms"])
    assert len(rows["accumulation"]["round_ms"]) == 2
    assert "separate by default" in rows["separate_spectral_norms"]["reason"]
    assert "GPU" in rows["cuda_graphs"]["reason"]
    assert {rows[name]["status"] for name in ("separate_spectral_norms", "cuda_graphs")} == {"refused"}
    columns, lines = training_table.filled(list(records.joined_rows(records.read(tmp_path / "a.jsonl"))))
    assert "GPU busy" not in columns
    assert [line[0] for line in lines] == ["default", "accumulation", "separate_spectral_norms", "cuda_graphs"]

    again, said = measured(tmp_path / "a.jsonl", tiny, ["accumulation"])
    assert again == {}
    assert said == ["all of train/tiny is there"]


def test_a_variant_whose_losses_are_others_gets_no_time(tmp_path, monkeypatch):
    # As a wrong kernel would: the reference sees other weights.
    made = training_variants.Variant.trainer

    def planted(self, game, *args):
        if self.backend == "reference":
            with torch.no_grad():
                for parameter in game.discriminator.parameters():
                    parameter.mul_(3.0)
        return made(self, game, *args)

    monkeypatch.setattr(training_variants.Variant, "trainer", planted)
    rows, _ = measured(tmp_path / "a.jsonl", tiny, ["reference"])
    assert rows["default"]["status"] == "ok"
    assert rows["reference"]["status"] == "wrong"
    assert "by default" in rows["reference"]["reason"]
    assert "ms" not in rows["reference"]


def test_a_profiler_that_does_not_work_takes_nothing_from_the_times(tmp_path, monkeypatch):
    def refuse(trainer):
        raise RuntimeError("no such counters")

    monkeypatch.setattr(training, "profile_training", refuse)
    rows, _ = measured(tmp_path / "a.jsonl", tiny, ["plain_optimizer"])
    assert rows["default"]["status"] == "ok"
    found = list(records.joined_rows(records.read(tmp_path / "a.jsonl")))
    assert training_table.reasons(found)[-1] == "default: no profile: no such counters"
    assert training_table.group_rows(found) == ([], [])
    assert "in ganfuse" not in training_table.filled(found)[0]


def test_features_that_change_nothing_say_so():
    def trainer(tmp, text, game):
        return parse_variants([text])[1].trainer(game, Data(), tmp, {"batch_size": 4, "device": "cpu"})

    with pytest.raises(NotApplicableError, match="no spectral norms to fuse"):
        trainer("/nonexistent/run", "fused_spectral_norms", tiny())
    with pytest.raises(NotApplicableError, match="separate by default"):
        trainer("/nonexistent/run", "separate_spectral_norms", tiny())
    with pytest.raises(NotApplicableError, match="no fused form"):
        trainer("/nonexistent/run", "plain_optimizer", tiny())
    plain = trainer("/nonexistent/run", "plain_optimizer", create("dcgan", resolution=28, channels=1, width=2))
    groups = [group for optimizer in plain.turn_runner.optimizers.values() for group in optimizer.param_groups]
    assert [group["fused"] for group in groups] == [None] * len(groups)
    assert groups
