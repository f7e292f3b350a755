import sys
import types

import pytest

from ganfuse.engine import registry
from tests.engine.toys import plain_game


@pytest.fixture(autouse=True)
def empty_registry(monkeypatch):
    monkeypatch.setattr(registry, "_builders", {})
    monkeypatch.setattr(registry, "_sources", [])


def build_toy(**config):
    return plain_game(name="toy", config=config, **config)


def test_create_hands_the_configuration_over():
    registry.register("toy", build_toy)
    game = registry.create("toy", generator_lr=0.5)
    assert game.config == {"generator_lr": 0.5}
    assert registry.names() == ["toy"]


def test_source_is_imported_at_the_first_look_up(monkeypatch):
    imported = []
    module = types.ModuleType("toy_models")

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name != "toy_models":
                return None
            from importlib.machinery import ModuleSpec

            return ModuleSpec(name, self)

        def create_module(self, spec):
            return module

        def exec_module(self, module):
            imported.append(module)
            registry.register("toy", build_toy)

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    registry.register_source("toy_models")
    registry.register_source("toy_models")
    assert imported == []
    assert registry.create("toy").name == "toy"
    registry.names()
    assert imported == [module]
    del sys.modules["toy_models"]


def test_unknown_name_suggests_the_nearest():
    registry.register("sagan", build_toy)
    with pytest.raises(ValueError, match="no game called 'sagam'; did you mean 'sagan'"):
        registry.create("sagam")
    with pytest.raises(ValueError, match="known names: sagan"):
        registry.create("xyz")


def test_name_taken_by_another_function():
    registry.register("toy", build_toy)
    registry.register("toy", build_toy)
    with pytest.raises(ValueError, match=r"'toy' is already registered, by .*build_toy"):
        registry.register("toy", plain_game)
