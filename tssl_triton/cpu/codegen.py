"""Writes a window of time as one C++ loop over neurons, from the PyTorch operations that it runs.

A window is a function of rows ``(N,)`` that is elementwise over neurons. It is run once on rows of one element under a
dispatch mode, which turns each operation into a statement of the loop's body; PyTorch has resolved the types by then.
The loop keeps all values between reading and writing rows in registers, and the compiler vectorises it. So the CPU's
mathematics is written once, in `tssl_triton.cpu.steps`.

Results are PyTorch's bit for bit, with three exceptions: exponentials differ by an ulp or two; reciprocals of float32
values known to be positive differ by an ulp in one case in ten thousand; and subnormal numbers are 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tssl_triton._torch_private import DispatchMode

from .arguments import Signature
from .compiler import read_source
from .types import HALVES, cast, literal, memory, register

aten = torch.ops.aten

LONG_BODY = 200
"""Statements from which on a loop needs more registers than there are."""

# GCC's partial redundancy elimination keeps values alive for longer, and a long body then has to spill them.
LONG = """\
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-pre")
#endif
"""

PART = """
static void part(int64_t first, int64_t end, const int64_t* addresses, const int64_t* places) {{
    const Flushing flushing;
    {head}
    #pragma omp simd
    for (int64_t n = first; n < end; ++n) {{
        {body}
    }}
}}
"""


def recorded(window: Callable[..., None], signatures: Sequence[Signature]) -> tuple[str, int]:
    """The C++ source of ``window`` for such arguments, and the number of statements in its loop."""
    recorder = _Recorder()
    examples = [recorder.example(signature) for signature in signatures]
    with torch.no_grad(), recorder:
        window(*examples)
    part = PART.format(head="\n    ".join(recorder.head), body="\n        ".join(recorder.body))
    long = LONG if len(recorder.body) >= LONG_BODY else ""
    return long + read_source("halves.hpp", "loop.hpp") + part, len(recorder.body)


# --- ranges -----------------------------------------------------------------------------------------------------

Range = tuple[float, float]
"""Bounds of a value that is not NaN."""

EVERYTHING: Range = (-math.inf, math.inf)
EXPONENTS: Range = (-87.0, 88.0)
"""Where the exponential of a float32 is a normal number."""
INVERTIBLE: Range = (2.0**-125, 2.0**125)
"""Arguments of the C++ function ``inverse``."""


def _range(func: Any, ranges: Sequence[Range], args: Any) -> Range:
    """Bounds of an operation's result, from those of its arguments ``args``."""
    least, most = ranges[0]
    if func is aten.abs.default:
        return 0.0, math.inf
    if func is aten.neg.default:
        return -most, -least
    if func is aten.exp.default:
        return math.exp(max(least, EXPONENTS[0])), math.exp(most) if most < EXPONENTS[1] else math.inf
    if func is aten.add.Tensor:
        return least + ranges[1][0], most + ranges[1][1]
    if func is aten.mul.Tensor and isinstance(args[1], (int, float)) and args[1] > 0:
        return least * args[1], most * args[1]
    if func is aten.clamp.default:
        lowest, highest = _clamp_bounds(args)
        return max(least, lowest), min(most, highest)
    if func is aten.where.self:
        return min(ranges[1][0], ranges[2][0]), max(ranges[1][1], ranges[2][1])
    return EVERYTHING


def _clamp_bounds(args: Any) -> Range:
    lowest, highest = (*args, None)[1:3]
    return -math.inf if lowest is None else lowest, math.inf if highest is None else highest


# --- recording --------------------------------------------------------------------------------------------------


@dataclass
class _Value:
    """A tensor of the recorded window, and its name in C++."""

    tensor: Tensor
    name: str

    def as_(self, dtype: torch.dtype) -> str:
        """The value converted to a type, as PyTorch converts it."""
        if dtype == self.tensor.dtype:
            return self.name
        if self.tensor.dtype == torch.bool:  # GCC does not vectorise casts of bool
            return f"({self.name} ? ({register(dtype)})1 : ({register(dtype)})0)"
        return cast(self.name, dtype)


class _Recorder(DispatchMode):
    """Writes a statement for each operation that runs under it."""

    def __init__(self) -> None:
        super().__init__()
        self.head: list[str] = []
        self.body: list[str] = []
        self._arguments = self._tensors = 0
        self._rows: dict[int, str] = {}  # C++ for the element of each row argument, by the tensor's id
        self._values: dict[int, _Value] = {}
        self._ranges: dict[int, Range] = {}
        self._examples: list[Tensor] = []  # keeps rows alive, so that their ids stay unique

    def example(self, signature: Signature) -> Any:
        """A tensor, or a list of them, to record the window with; declares the argument in C++."""
        if signature is None:
            return None
        k = self._arguments
        self._arguments += 1
        if signature == "number":
            number = torch.zeros((), dtype=torch.int32, device="cpu")
            self.head.append(f"const int32_t a{k} = (int32_t)places[{2 * k}];")
            self._values[id(number)] = _Value(number, f"a{k}")
            return number
        dtype, length = signature
        rows = [torch.zeros(1, dtype=dtype, device="cpu") for _ in range(length)]
        for t, row in enumerate(rows):
            name, stored = f"a{k}_{t}", memory(dtype)
            place = f"addresses[{self._tensors}], places + {2 * k}, {t}"
            self.head.append(f"{stored}* const {name} = row<{stored}>({place});")
            self._rows[id(row)] = f"{name}[n]"
        self._tensors += 1
        self._examples += rows
        return rows

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: otherwise PyTorch imports its compiler, in a second or two, to keep it out of the method below."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Composite operations arrive decomposed or not, depending on the state of PyTorch's dispatcher.
        with self:
            result = func.decompose(*args, **(kwargs or {}))
        if result is not NotImplemented:
            return result
        result = func(*args, **(kwargs or {}))
        if func in (aten.copy_.default, aten.add_.Tensor):
            target, source = args[:2]
            value = self._value(source).as_(target.dtype)
            if func is aten.add_.Tensor:
                value = f"{self._value(target).name} + {value}"
            self._store(target, value)
        elif func is aten.detach.default:
            self._values[id(result)] = _Value(result, self._value(args[0]).name)
        else:
            self._note(result, _expression(func, self, args, kwargs or {}, result))
            self._ranges[id(result)] = _range(func, [self.range(x) for x in args], args)
        return result

    def operand(self, x: Any, dtype: torch.dtype) -> str:
        """C++ for an operation's argument, a tensor or a number, as a value of ``dtype``."""
        return self._value(x).as_(dtype) if isinstance(x, Tensor) else literal(x, dtype)

    def within(self, x: Tensor, dtype: torch.dtype, bounds: Range) -> str:
        """C++ for the value as ``dtype``, clamped to ``bounds`` unless its range is known to be inside them."""
        value, (least, most) = self._value(x).as_(dtype), self.range(x)
        value = value if least >= bounds[0] else f"at_least({value}, {literal(bounds[0], dtype)})"
        return value if most <= bounds[1] else f"at_most({value}, {literal(bounds[1], dtype)})"

    def range(self, x: Any) -> Range:
        """Known bounds of an operation's argument."""
        if isinstance(x, Tensor):
            return self._ranges.get(id(x), EVERYTHING)
        return (x, x) if isinstance(x, (int, float)) else EVERYTHING

    def _value(self, x: Tensor) -> _Value:
        if id(x) not in self._values:
            row = self._rows[id(x)]
            self._note(x, f"from_{HALVES[x.dtype]}({row})" if x.dtype in HALVES else row)
        return self._values[id(x)]

    def _note(self, x: Tensor, expression: str) -> None:
        name = f"v{len(self.body)}"
        self.body.append(f"const {register(x.dtype)} {name} = {expression};")
        self._values[id(x)] = _Value(x, name)

    def _store(self, target: Tensor, value: str) -> None:
        self._note(target, value)
        name = self._values[id(target)].name
        stored = f"to_{HALVES[target.dtype]}({name})" if target.dtype in HALVES else name
        self.body.append(f"{self._rows[id(target)]} = {stored};")


# --- operations -------------------------------------------------------------------------------------------------

_BINARY = {
    aten.add.Tensor: "{} + {}",
    aten.sub.Tensor: "{} - {}",
    aten.rsub.Scalar: "{1} - {0}",
    aten.mul.Tensor: "{} * {}",
    aten.div.Tensor: "{} / {}",
    aten.bitwise_and.Tensor: "{} & {}",
    aten.bitwise_and.Scalar: "{} & {}",
    aten.bitwise_or.Tensor: "{} | {}",
    aten.__and__.Tensor: "{} & {}",
    aten.__and__.Scalar: "{} & {}",
    aten.__or__.Tensor: "{} | {}",
    aten.__lshift__.Scalar: "{} << {}",
    aten.__lshift__.Tensor: "{} << {}",
    aten.__rshift__.Scalar: "{} >> {}",
    aten.__rshift__.Tensor: "{} >> {}",
}
_COMPARISONS = {
    aten.eq.Scalar: "{} == {}",
    aten.ne.Scalar: "{} != {}",
    aten.lt.Scalar: "{} < {}",
    aten.gt.Scalar: "{} > {}",
    aten.lt.Tensor: "{} < {}",
    aten.gt.Tensor: "{} > {}",
}
_UNARY = {
    aten.neg.default: "-{}",
    aten.reciprocal.default: "1 / {}",
    aten.abs.default: "absolute({})",
    aten._to_copy.default: "{}",
}


def _expression(func: Any, recorder: _Recorder, args: Any, options: Any, result: Tensor) -> str:
    """C++ for the result of an operation."""
    dtype = result.dtype
    operand = recorder.operand
    if options.get("alpha", 1) != 1:
        raise NotImplementedError(f"no C++ for {func} with alpha; write the product out")
    if func in _BINARY:
        return cast(f"({_BINARY[func].format(operand(args[0], dtype), operand(args[1], dtype))})", dtype)
    if func in _COMPARISONS:
        common = torch.result_type(args[0], args[1])
        return _COMPARISONS[func].format(operand(args[0], common), operand(args[1], common))
    if func is aten.reciprocal.default and dtype == torch.float32 and recorder.range(args[0])[0] >= INVERTIBLE[0]:
        return f"inverse({recorder.within(args[0], dtype, INVERTIBLE)})"
    if func in _UNARY:
        value = _UNARY[func].format(operand(args[0], dtype))
        return cast(f"({value})", dtype) if dtype in HALVES else value
    if func is aten.exp.default:
        bounds = EVERYTHING if dtype == torch.float64 else EXPONENTS
        return cast(f"exponential({recorder.within(args[0], dtype, bounds)})", dtype)
    if func is aten.where.self:
        return f"{operand(args[0], torch.bool)} ? {operand(args[1], dtype)} : {operand(args[2], dtype)}"
    if func is aten.clamp.default:
        return recorder.within(args[0], dtype, _clamp_bounds(args))
    if func is aten.zeros_like.default:
        return literal(0, dtype)
    if func is aten.scalar_tensor.default:
        return literal(args[0], dtype)
    raise NotImplementedError(f"no C++ for {func}; add it to tssl_triton/cpu/codegen.py")
