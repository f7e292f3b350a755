"""What a module's forward does with its children, where that is the same in every call; else why it is not known.

`torch.fx` records one run of the forward on symbols. That stands for all runs only if nothing else decided what ran. So
everything that the forward reads besides its arguments is recorded too, and guarded or refused: attributes of the
module that are numbers, texts or functions of PyTorch are compared again at each call, other objects are refused, as
are attributes and methods of its children, global variables that are not PyTorch's, operations on tensors that do not
come from the arguments, assignments to attributes, ``with`` and ``try`` blocks, decorated forwards and tests of types.
"""

import builtins
import dis
import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ganfuse.interop.patches.swapping import original_class

__all__ = ["Traced", "children_of", "same", "trace"]

_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)
# What tells symbols from tensors, or asks for a state that tracing does not see.
_BUILTINS = {
    "isinstance",
    "type",
    "hasattr",
    "getattr",
    "setattr",
    "callable",
    "id",
    "print",
    "globals",
    "locals",
    "vars",
}
_QUESTIONS = {
    "is_grad_enabled", "is_autocast_enabled", "is_inference_mode_enabled", "is_scripting", "is_tracing", "is_compiling",
    "is_exporting", "get_default_dtype", "is_available", "is_initialized", "get_rank", "get_world_size", "_C",
    "is_deterministic_algorithms_enabled", "device_count", "current_device", "seed", "initial_seed", "checkpoint",
}  # fmt: skip
_BLOCKS = {
    "SETUP_WITH",
    "BEFORE_WITH",
    "SETUP_ASYNC_WITH",
    "BEFORE_ASYNC_WITH",
    "LOAD_SPECIAL",
    "SETUP_FINALLY",
    "PUSH_EXC_INFO",
    "YIELD_VALUE",
}
_STORES = {"STORE_GLOBAL", "STORE_DEREF", "DELETE_ATTR"}


class Traced(NamedTuple):
    """What a forward does, and what that depends on.

    Attributes:
        graph: whose calls of modules name children of the module, at any depth.
        reads: attributes of the module that the forward read, with the values that they had.
    """

    graph: fx.Graph
    reads: tuple[tuple[str, Any], ...]


class _Refused(Exception):
    """Why a trace does not stand for all calls."""


def trace(module: nn.Module) -> Traced | str:
    """The calls that `module.forward` makes, or why they are not known."""
    kind = original_class(module)
    guards: dict[str, Any] = {}
    seen: set[Any] = set()
    try:
        _check_function(kind.forward, seen)
        graph = _record(module, guards, seen)
    except _Refused as reason:
        return str(reason)
    except Exception as error:
        text = str(error).splitlines()
        return f"its forward cannot be traced ({type(error).__name__}: {text[0] if text else 'no message'})"
    if any(node.op == "get_attr" and "_tensor_constant" in str(node.target) for node in graph.nodes):
        return "its forward makes tensors of its own"
    return Traced(graph, tuple(guards.items()))


def children_of(module: nn.Module, depth: int = 3) -> tuple[Any, ...]:
    """Names and original classes of the children, and of theirs where a forward may index into them."""
    return tuple(
        (
            name,
            None if child is None else original_class(child),
            children_of(child, depth - 1)
            if depth and isinstance(child, (nn.ModuleList, nn.ModuleDict, nn.Sequential))
            else (),
        )
        for name, child in module._modules.items()
    )


def same(value: Any, before: Any) -> bool:
    """Whether what a forward reads is what it was, in a copy of the module too."""
    if value is before:
        return True
    if isinstance(value, functools.partial) and isinstance(before, functools.partial):
        return (value.func, value.args, value.keywords) == (before.func, before.args, before.keywords)
    return type(value) is type(before) and bool(value == before)


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


class _NothingRuns(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise _Refused(f"its forward computes something that does not come from its arguments ({func})")


def _record(module: nn.Module, guards: dict[str, Any], seen: set[Any]) -> fx.Graph:
    """Trace, with every attribute that is read checked before it can do anything, and noted in `guards`."""
    kind, original = type(module), original_class(module)
    ours = set(dir(nn.Module)) - {"training"}
    active = False

    class Recorder(kind):  # type: ignore[valid-type,misc,no-untyped-call]
        def __getattribute__(self, name: str) -> Any:
            nonlocal active
            value = super().__getattribute__(name)
            if active and not name.startswith("__") and name not in ours and name not in _INTERNAL:
                active = False
                if _guarded(original, name, value, seen):
                    guards[name] = value
                active = True
            return value

        def __setattr__(self, name: str, value: Any) -> None:
            if active:
                raise _Refused(f"its forward sets self.{name}")
            super().__setattr__(name, value)

    def watched(kind: type[nn.Module]) -> type[nn.Module]:
        class Watched(kind):  # type: ignore[valid-type,misc]
            def __getattribute__(self, name: str) -> Any:
                value = super().__getattribute__(name)
                inherited = name.startswith("__") or name in ours or name in _INTERNAL
                # Containers' own methods, such as those that give their items.
                if active and not inherited and not _is_torch(getattr(value, "__func__", None)):
                    raise _Refused(f"its forward reads {name} of a child, which is not compared at each call")
                return value

            def __setattr__(self, name: str, value: Any) -> None:
                if active:
                    raise _Refused(f"its forward sets {name} of a child")
                super().__setattr__(name, value)

        return Watched

    children = {child: type(child) for child in module.modules() if child is not module}
    kinds = {kind: watched(kind) for kind in set(children.values()) if not issubclass(kind, torch.jit.ScriptModule)}
    try:
        for child, own in children.items():
            child.__class__ = kinds.get(own, own)
        module.__class__ = Recorder
        active = True
        with _NothingRuns():  # type: ignore[no-untyped-call]
            graph = _Tracer().trace(module)
    finally:
        active = False
        module.__class__ = kind
        for child, own in children.items():
            child.__class__ = own
    return graph


_INTERNAL = {
    "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_forward_hooks", "_forward_pre_hooks",
    "_backward_hooks", "_backward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs", "_is_full_backward_hook", "_state_dict_hooks", "_load_state_dict_pre_hooks",
    "_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_compiled_call_impl", "_get_item_by_idx", "_ganfuse_site",
    "_ganfuse_original",
}  # fmt: skip


def _guarded(kind: type[nn.Module], name: str, value: Any, seen: set[Any]) -> bool:
    """Whether an attribute that was read must be compared at each call; refuses what cannot be."""
    if name == "training":
        raise _Refused("its forward does one thing in training and another in evaluation")
    if isinstance(value, types.MethodType) and value.__func__ is getattr(kind, name, None):
        _check_function(value.__func__, seen)
        return False
    _check_value(f"self.{name}", value, seen)
    return True


def _check_value(what: str, value: Any, seen: set[Any]) -> None:
    if isinstance(value, _PLAIN) or _is_torch(value):
        return
    if isinstance(value, tuple):
        for item in value:
            _check_value(what, item, seen)
    elif isinstance(value, functools.partial):
        for item in (value.func, *value.args, *value.keywords.values()):
            _check_value(what, item, seen)
    elif isinstance(value, types.FunctionType):
        _check_function(value, seen)
    else:
        raise _Refused(f"its forward reads {what}, a {type(value).__name__}, whose contents may change")


def _is_torch(value: Any) -> bool:
    if isinstance(value, types.ModuleType):
        return value.__name__.split(".")[0] in ("torch", "math")
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, type)):
        home = getattr(value, "__module__", None) or getattr(getattr(value, "__self__", None), "__name__", "")
        return str(home).split(".")[0] in ("torch", "math")
    return False


def _check_function(function: Callable[..., Any], seen: set[Any]) -> None:
    """Refuse a function of which a trace may not tell the whole."""
    if function in seen:
        return
    seen.add(function)
    name = getattr(function, "__name__", "forward")
    if not isinstance(function, types.FunctionType) or hasattr(function, "__wrapped__"):
        raise _Refused(f"its {name} is decorated")
    if _is_torch(function):
        return
    _check_code(function.__code__, name)
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        if variable != "__class__":
            _check_value(f"the enclosing {variable}", cell.cell_contents, seen)
    for variable in _globals_read(function.__code__):
        if variable in function.__globals__:
            value = function.__globals__[variable]
            if isinstance(value, types.FunctionType):
                _check_value(f"the global {variable}", value, seen)
            elif not _is_torch(value):
                raise _Refused(f"its {name} reads the global {variable}")
        elif variable in _BUILTINS:
            raise _Refused(f"its {name} calls {variable}()")


def _globals_read(code: types.CodeType) -> set[str]:
    """Names of global variables and builtins that a code reads, and the functions and comprehensions in it."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname.startswith(("LOAD_GLOBAL", "LOAD_NAME"))}
    return names.union(*(_globals_read(part) for part in code.co_consts if isinstance(part, types.CodeType)))


def _check_code(code: types.CodeType, name: str) -> None:
    for instruction in dis.get_instructions(code):
        if instruction.opname in _BLOCKS:
            raise _Refused(f"its {name} has a with or try block, or is a generator")
        if instruction.opname in _STORES and instruction.argval != "__class__":
            raise _Refused(f"its {name} sets {instruction.argval}")
        if instruction.argval in _QUESTIONS and instruction.opname.startswith(
            ("LOAD_ATTR", "LOAD_METHOD", "LOAD_GLOBAL")
        ):
            raise _Refused(f"its {name} asks {instruction.argval}")
        if instruction.opname.startswith("IMPORT"):
            raise _Refused(f"its {name} imports something")
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _check_code(constant, name)


assert vars(builtins).keys() >= _BUILTINS
