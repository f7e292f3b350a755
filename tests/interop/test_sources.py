"""What holds for all sources: strictness, safety, parts, wrappings, and how networks are called."""

import os
import re

import pytest
import torch

from ganfuse.interop import load, load_game, source_info, sources
from ganfuse.interop.importing import read_network
from ganfuse.interop.network import fill
from tests.interop.small_checkpoints import SMALL

OTHER = {"generator": "discriminator", "discriminator": "generator"}
EVERY = pytest.mark.parametrize(("source", "part"), SMALL, ids=lambda value: str(value))


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def floats(output):
    """Whatever a network gives, as one tensor."""
    parts = output if isinstance(output, tuple) else (output,)
    return torch.cat([part.flatten() for part in parts if isinstance(part, torch.Tensor)])


def test_each_network_has_a_small_checkpoint():
    published = {(name, part) for name in sources() for part in OTHER if part in source_info(name).parts}
    assert published == set(SMALL)


@EVERY
def test_a_bare_state_dict_and_how_it_is_called(source, part):
    small = SMALL[source, part]
    network = load(source, small.state())
    assert not network.training
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    arguments = small.inputs()
    with torch.no_grad():
        output = network(*arguments)
    assert torch.equal(floats(load(source, small.state(), part)(*arguments)), floats(output))
    if part == "generator":
        images = output if isinstance(output, torch.Tensor) else output[0]
        assert images.shape == (2, 3, small.image, small.image)
    if small.classes:
        with pytest.raises(ValueError, match="labels: this network has 5 classes and needs labels"):
            network(arguments[0])


@EVERY
def test_prefixes_and_wrappings(source, part):
    small = SMALL[source, part]
    state = small.state()
    wrapped = {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}
    arguments = small.inputs()
    with torch.no_grad():
        assert torch.equal(floats(load(source, wrapped)(*arguments)), floats(load(source, state)(*arguments)))


@EVERY
def test_another_part_is_refused(source, part):
    state = SMALL[source, part].state()
    with pytest.raises(ValueError, match=r"^part: "):
        load(source, state, OTHER[part])
    with pytest.raises(ValueError, match=f"part: {re.escape(source)} has .*, got 'encoder'"):
        load(source, state, "encoder")


def is_listed(source, key, state):
    """Whether a tensor is on the list of what is left out."""
    for entry in source_info(source).ignored:
        # All levels of the small checkpoints are trained; and the weight of a fused layer has the name of a filter.
        off = "has not reached" in entry.reason or (
            entry.compared and state[key].dim() == 4 and state[key].shape[1] > 1
        )
        if not off and re.fullmatch(entry.pattern, key) and (entry.beside is None or entry.beside in state):
            return True
    return False


@EVERY
def test_every_tensor_is_used_or_on_the_list(source, part):
    state = SMALL[source, part].state()
    for key in list(state)[:: max(1, len(state) // 6)]:
        lacking = {other: value for other, value in state.items() if other != key}
        if is_listed(source, key, state):
            load(source, lacking)
            continue
        with pytest.raises(ValueError, match=r"checkpoint: "):
            load(source, lacking)
    with pytest.raises(ValueError, match=r"not in the network: surplus\.weight"):
        load(source, {**state, "surplus.weight": torch.zeros(2)})


@EVERY
def test_a_mismatch_lists_both_sides(source, part):
    network = read_network(source, SMALL[source, part].state())
    key, _ = max(network.tensors.items(), key=lambda item: (item[1].dim() == 4, item[1].numel()))
    del network.tensors[key]
    network.tensors.update({"unknown": torch.zeros(1)})
    other = next(name for name, tensor in network.tensors.items() if tensor.dim() == 1 and name != "unknown")
    network.tensors[other] = torch.zeros(len(network.tensors[other]) + 1)
    with pytest.raises(ValueError, match="the weights do not fit") as raised:
        fill(network, source)
    message = str(raised.value)
    assert source in message
    assert f"not in the file: {key}" in message
    assert "not in the network: unknown" in message
    shape = tuple(network.tensors[other].shape)
    assert f"of another shape: {other} (file {shape}, network" in message


@EVERY
def test_a_malicious_file_runs_nothing(source, part, tmp_path):
    state = SMALL[source, part].state()
    marker = tmp_path / "executed"
    torch.save({**state, next(iter(state)): Malicious(marker)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="nothing in it was executed"):
        load(source, tmp_path / "weights.pth", part)
    torch.save({"state_dict": state, "args": Malicious(marker)}, tmp_path / "wrapped.pth")
    with pytest.raises(ValueError, match="nothing in it was executed"):
        load(source, tmp_path / "wrapped.pth", part)
    assert not marker.exists()


@pytest.mark.parametrize("source", [name for name in sources() if source_info(name).places])
def test_parts_by_the_networks_own_names(source):
    info = source_info(source)
    kinds = {place: "generator" if place.startswith("generator") else "discriminator" for place in info.places.values()}
    file = {name: SMALL[source, kinds[place]].state() for name, place in info.places.items()}
    for name, place in info.places.items():
        small = SMALL[source, kinds[place]]
        with torch.no_grad():
            own = floats(load(source, file, name)(*small.inputs()))
            assert torch.equal(own, floats(load(source, file[name])(*small.inputs())))
    with pytest.raises(ValueError, match="part: this file holds several networks"):
        load(source, file)
    with pytest.raises(ValueError, match="part: the file holds"):
        load(source, {name: file[name] for name in list(file)[:1]}, list(file)[-1])


@pytest.mark.parametrize("source", sources())
def test_unknown_keywords_are_answered_with_the_known_ones(source):
    known = source_info(source).keywords
    expected = f"takes {', '.join(known)}" if known else "reads all of it from the tensors' shapes"
    with pytest.raises(ValueError, match=f"depth: {re.escape(source)} {re.escape(expected)}"):
        load(source, SMALL[source, "generator"].state(), depth=3)


@pytest.mark.parametrize("source", [name for name in sources() if name != "sagan"])
def test_a_game_of_each(source):
    small = SMALL[source, "generator"]
    game = load_game(source, small.state())
    place = "generator" if small.latents else "generator_ab"
    expected = load(source, small.state())
    arguments = small.inputs()
    with torch.no_grad():
        assert torch.equal(floats(game.get_submodule(place)(*arguments)), floats(expected(*arguments)))
    if small.latents:
        assert game.sample(2).shape == (2, 3, small.image, small.image)
