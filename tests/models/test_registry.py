import pytest
import torch

from ganfuse.engine import registry as games
from ganfuse.models import create, list_models, model_info
from ganfuse.models.registry import register_model


@pytest.mark.parametrize("name", list_models())
def test_every_model_describes_itself(name):
    info = model_info(name)
    assert info.name == name
    assert info.summary
    assert info.paper
    assert info.url is None or info.url.startswith("https://arxiv.org/abs/")
    assert "resolution" in info.config or not info.resolutions


@pytest.mark.parametrize("name", list_models())
def test_every_model_builds_on_meta_for_each_resolution(name):
    for resolution in model_info(name).resolutions:
        with torch.device("meta"):
            game = create(name, resolution=resolution)
        assert game.name == name
        assert game.config == {**model_info(name).config, "resolution": resolution}
        assert all(parameter.is_meta for parameter in game.parameters())


def test_list_models_by_pattern():
    assert "sagan" in list_models()
    assert list_models("sag*") == ["sagan"]
    assert list_models("no such*") == []


def test_the_engine_builds_models_again_from_their_configuration():
    with torch.device("meta"):
        game = create("sagan", resolution=32, num_classes=10, width=4, channels=1)
        again = games.create(game.name, **game.config)
    assert again.config == game.config
    shapes = {name: tensor.shape for name, tensor in game.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in again.state_dict().items()}


def test_errors_name_the_nearest():
    with pytest.raises(ValueError, match="no model named 'sagn'; did you mean 'sagan'"):
        create("sagn")
    with pytest.raises(ValueError, match=r"no model named 'x'; models: .*sagan"):
        model_info("x")
    with pytest.raises(ValueError, match="no configuration key 'reslution'; did you mean 'resolution'"):
        create("sagan", reslution=32)


FLAGS = [(name, key) for name in list_models() for key, v in model_info(name).config.items() if isinstance(v, bool)]


@pytest.mark.parametrize(("name", "key"), FLAGS)
def test_a_word_is_not_taken_for_true(name, key):
    """flase would be, as every word that is not empty."""
    for value in ("flase", "no", 1, None):
        with pytest.raises(ValueError, match=f"^{key}: expected true or false, got {value!r}"), torch.device("meta"):
            create(name, **{key: value})


def test_registration_refuses_two_of_a_name_and_arguments_without_defaults():
    def sagan(*, width: int = 1):
        raise AssertionError("never built")

    def incomplete(*, width: int):
        raise AssertionError("never built")

    register = register_model(summary="s", paper="p")
    with pytest.raises(ValueError, match=r"'sagan' is registered already, by ganfuse\.models\.sagan\.sagan"):
        register(sagan)
    with pytest.raises(TypeError, match="keywords with defaults"):
        register(incomplete)
    assert "incomplete" not in list_models()
