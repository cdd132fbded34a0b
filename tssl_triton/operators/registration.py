"""Operators that PyTorch's tools see as one node where they look, and plain function calls elsewhere.

``torch.library`` makes an operator of a function: compilers, dispatch modes and profilers then see a single node. Its
dispatcher and Python wrappers add some hundred microseconds to a call. An `Operator` therefore calls the function
directly, under the same autograd formula, unless something traces the call. Both ways run the same code and give the
same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from tssl_triton import _checks, _torch_private

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
        """Set the function that computes shapes and dtypes of the results, for tensors without data."""
        self._definition.register_fake(fake)
        return fake

    def register_autograd(self, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
        """Set the gradient, as ``torch.library.register_autograd`` does."""
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
        if kwargs or is_traced(tensors) or _torch_private.profiling():
            return self.registered(*args, **kwargs)
        if not torch.is_grad_enabled():
            return self._function(*args)  # type: ignore[call-arg]
        if not any(tensor.requires_grad for tensor in tensors):
            with torch.no_grad():
                return self._function(*args)  # type: ignore[call-arg]
        if self._differentiable is None:
            return self.registered(*args)  # it has no gradient, and its error says so
        return self._differentiable.apply(*args)


def operator(function: Callable[P, R]) -> Operator[P, R]:
    """Decorator: the `Operator` of a function."""
    return Operator(function)


def is_traced(tensors: Sequence[Tensor | None]) -> bool:
    """Whether a compiler, tracer, mode or transform should see operators as single nodes.

    Tensor subclasses and tensors on devices without an implementation (meta) count too: PyTorch dispatches on them.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    if _torch_private.dispatch_modes() or _torch_private.function_modes() or _torch_private.transforms_active():
        return True
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) not in _PLAIN or tensor.device.type not in _checks.DEVICES:
            return True
    return False


def differentiable(*tensors: Tensor | None) -> bool:
    """Whether autograd records operations on these tensors now."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def refuse_forward_mode(tensors: Sequence[Tensor | None]) -> None:
    """Raise NotImplementedError for a tensor with a tangent, which an operator would ignore silently."""
    if not _torch_private.forward_mode_active():
        return
    if any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise NotImplementedError(
            "spiking neurons are not differentiated in forward mode (torch.func.jvp, torch.autograd.forward_ad): a "
            "learning rule defines a gradient, which goes backwards; use backward() or torch.autograd.grad"
        )
