"""Operators that are PyTorch's own where anyone follows them, and plain function calls where nobody does.

``torch.library`` makes an operator of a function, which compilers, tracers, dispatch modes and profilers see as one
node. The way through its dispatcher and its Python wrappers takes some hundred microseconds a call, and a step of a
small network makes thirty calls. So an `Operator` asks first whether anyone is there to see it; if not, it calls the
function itself, under the same autograd formula. Both ways run the same code and give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

P = ParamSpec("P")
R = TypeVar("R")

NAMESPACE = "tssl_triton"

_PLAIN = (Tensor, nn.Parameter)


class Operator(Generic[P, R]):
    """An operator ``tssl_triton::name`` made of a function that changes none of its arguments.

    Attributes:
        registered: the operator as PyTorch knows it.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        self._function = function
        self._definition = torch.library.custom_op(f"{NAMESPACE}::{function.__name__}", function, mutates_args=())
        self.registered = getattr(getattr(torch.ops, NAMESPACE), function.__name__).default
        self._differentiable: type[torch.autograd.Function] | None = None
        self.__doc__ = function.__doc__

    def register_fake(self, fake: Callable[..., Any]) -> Callable[..., Any]:
        """Say what the results look like, for tensors without numbers."""
        self._definition.register_fake(fake)
        return fake

    def register_autograd(self, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
        """Give the operator a gradient, as ``torch.library.register_autograd`` does."""
        self._definition.register_autograd(backward, setup_context=setup_context)
        function = self._function

        def forward(ctx: Any, *args: Any) -> Any:
            output = function(*args)  # type: ignore[call-arg]
            setup_context(ctx, args, output)
            return output

        methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        self._differentiable = type(function.__name__, (torch.autograd.Function,), methods)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        refuse_forward_mode(tensors)
        if kwargs or followed(tensors) or torch.autograd._profiler_enabled():
            return self.registered(*args, **kwargs)
        if not torch.is_grad_enabled():
            return self._function(*args)  # type: ignore[call-arg]
        if not any(tensor.requires_grad for tensor in tensors):
            with torch.no_grad():
                return self._function(*args)  # type: ignore[call-arg]
        if self._differentiable is None:
            return self.registered(*args)  # its gradient is an error, and says so
        return self._differentiable.apply(*args)


def differentiable(*tensors: Tensor | None) -> bool:
    """Whether what is made of these now goes on a graph."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def operator(function: Callable[P, R]) -> Operator[P, R]:
    """Decorator: the `Operator` of a function."""
    return Operator(function)


def refuse_forward_mode(tensors: list[Tensor]) -> None:
    """Raise for a tensor with a tangent, which an operator would pass over in silence."""
    if forward_ad._current_level < 0:
        return
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise NotImplementedError(
            "spiking neurons are not differentiated in forward mode (torch.func.jvp, torch.autograd.forward_ad): a "
            "learning rule defines a gradient, which goes backwards; use backward() or torch.autograd.grad"
        )


def traced() -> bool:
    """Whether a compiler or tracer is to see the operators as they are."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def followed(tensors: list[Tensor]) -> bool:
    """Whether someone is to have the operator as one: a compiler, a mode, a transform, or a tensor that is not plain
    memory."""
    if (
        traced()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._are_functorch_transforms_active()
    ):
        return True
    plain = [tensor for tensor in tensors if type(tensor) in _PLAIN and not tensor.is_meta]
    return len(plain) < len(tensors)


def show(name: str, run: Callable[..., Any], *args: Any) -> Any:
    """What ``run`` returns for these arguments, in a block that a profiler sees as the operator of this name."""
    if torch.autograd._profiler_enabled():
        with torch.profiler.record_function(f"{NAMESPACE}::{name}"):
            return run(*args)
    return run(*args)
