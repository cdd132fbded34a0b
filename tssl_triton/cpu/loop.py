"""A window of time as one C++ loop over neurons: what its PyTorch operations are, said once more in C++.

A window is a function on rows ``(N,)`` that does the same to every neuron. To compile it, it is run once on rows of one
element, and each operation that PyTorch sees becomes one statement of a loop's body; PyTorch itself has decided on the
types. The loop keeps all that the window computes between reading its rows and writing them in registers, and the
compiler makes vectors of it. The functions of `tssl_triton.cpu.neuron` thus stay the only place where the CPU's
mathematics
is written.

Arithmetic is PyTorch's to the bit, but for the exponential, which differs from it by an ulp or two, for reciprocals of
what is known to be positive, one in ten thousand of which differs by an ulp, and for subnormal numbers, which are 0.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tssl_triton.kernels.layout import arithmetic_dtype

from . import compiler as _cpp
from . import types as _halves
from .compiler import TYPES
from .sum_pooling import Sizes, SumPool, planes
from .types import HALVES

aten = torch.ops.aten


class Rows(NamedTuple):
    """Some rows of a tensor ``(R, N)`` whose rows are dense: ``first``, ``first + step``, ... ``length`` in all."""

    tensor: Tensor
    first: int
    length: int
    step: int = 1

    def spelled_out(self) -> list[Tensor]:
        """The rows as tensors ``(N,)``."""
        return [self.tensor[self.first + k * self.step] for k in range(self.length)]


class Pooled(NamedTuple):
    """Rows as images that lie in memory pooled, ``(R, N')``: the loop has them at full size, a few planes at a time.

    Those that are ``written`` are pooled before they are stored; of others each number is spread over its window.
    """

    tensor: Tensor
    first: int
    length: int
    written: bool
    pool: SumPool
    images: Sizes

    def spelled_out(self) -> list[Tensor]:
        """The rows at full size ``(N,)``; in what is written there is nothing yet."""
        if self.written:
            return list(self.tensor.new_empty(self.length, math.prod(self.images)))
        _, height, width, depth = self.images
        pooled = self._as_images(self.tensor[self.first : self.first + self.length], *self.pool.windows(height, width))
        dense = self.pool.spread(pooled, (len(pooled), depth, height, width))
        return list(dense.permute(0, 2, 3, 1).reshape(self.length, -1))

    def take(self, rows: Sequence[Tensor]) -> None:
        """Pool and store what has been written."""
        if self.written:
            _, height, width, _ = self.images
            dense = rows[0].new_empty(self.length, rows[0].numel())
            for row, values in zip(dense, rows, strict=True):  # not stacked: autocast would have a say in that
                row.copy_(values)
            sums = self.pool.sums(self._as_images(dense, height, width))
            target = self.tensor[self.first : self.first + self.length]
            target.copy_(sums.permute(0, 2, 3, 1).reshape(target.shape))

    def _as_images(self, rows: Tensor, height: int, width: int) -> Tensor:
        """Rows as ``(R * planes, depth, height, width)``."""
        return rows.reshape(-1, height, width, self.images.depth).permute(0, 3, 1, 2)


Argument = Rows | Pooled | Tensor | int | None
"""Of a window: rows, one row ``(N,)``, or a number that is the same for all neurons. One at most is `Pooled`."""

Kind = tuple[torch.dtype, int] | tuple[torch.dtype, int, SumPool, bool] | type
"""What the code of a window has to know of an argument; a row is one of one."""

WORTH_A_THREAD = 1 << 18
"""Statements, counted over all neurons, that a thread takes some five microseconds for: it takes as long to wake."""


def kind(argument: Argument) -> Kind:
    if isinstance(argument, Rows):
        return argument.tensor.dtype, argument.length
    if isinstance(argument, Pooled):
        return argument.tensor.dtype, argument.length, argument.pool, argument.written
    if argument is None or isinstance(argument, int):
        return type(argument)
    return argument.dtype, 1


class Loop:
    """A window compiled for arguments of some kinds.

    Args:
        window: takes lists of rows for `Rows`, rows for tensors, and 0-dimensional tensors for numbers.
        arguments: of one call; only their kinds matter.

    Raises:
        CompileError: if there is no compiler.
    """

    def __init__(self, window: Callable[..., None], arguments: Sequence[Argument]) -> None:
        source, self.statements = recorded(window, arguments)
        self.window = _cpp.library(source).window
        self.window.argtypes = [ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p]
        self.window.restype = None

    def __call__(self, arguments: Sequence[Argument]) -> None:
        """Run it on all neurons of the arguments, on as many threads as PyTorch uses and the work is worth."""
        Call(self, arguments)(*addresses(arguments))


class Call:
    """A loop's calls with arguments of the same sizes, which differ in nothing but where these are in memory.

    Args:
        loop: what is called.
        arguments: those of one call.
    """

    def __init__(self, loop: Loop, arguments: Sequence[Argument]) -> None:
        self._window = loop.window
        self._words: list[int] = []
        self._places: list[int] = []
        images: Sequence[int] = ()
        self._neurons = 0
        for argument in arguments:
            if argument is None:
                continue
            if isinstance(argument, int):
                self._words += argument, 0
                continue
            self._places.append(len(self._words))
            if isinstance(argument, Tensor):
                self._words += 0, 0
                continue
            width = argument.tensor.shape[1] * argument.tensor.itemsize
            step = argument.step if isinstance(argument, Rows) else 1
            self._words += argument.first * width, step * width
            if isinstance(argument, Rows):
                self._neurons = argument.tensor.shape[1]
            else:
                images = argument.images
        self._words += images
        self._array = ctypes.c_int64 * len(self._words)
        self._worth = 1 + self._neurons * loop.statements // WORTH_A_THREAD

    def __call__(self, *addresses: int) -> None:
        """Run it on what lies there: one address for each argument that is rows, or a row."""
        words = self._words.copy()
        for place, start in zip(self._places, addresses, strict=True):
            words[place] += start
        threads = self._worth if self._worth == 1 else min(self._worth, torch.get_num_threads())
        self._window(self._neurons, threads, self._array(*words))


def addresses(arguments: Sequence[Argument]) -> list[int]:
    """Where the tensors of arguments begin."""
    found = []
    for argument in arguments:
        if isinstance(argument, (Rows, Pooled)):
            found.append(argument.tensor.data_ptr())
        elif isinstance(argument, Tensor):
            found.append(argument.data_ptr())
    return found


def recorded(window: Callable[..., None], arguments: Sequence[Argument]) -> tuple[str, int]:
    """C++ that does what ``window`` does, and the number of its statements."""
    recorder = _Recorder()
    examples = [recorder.example(argument) for argument in arguments]
    with torch.no_grad(), recorder:
        window(*examples)
    return recorder.source(), len(recorder.body)


# --- recording --------------------------------------------------------------------------------------------------


@dataclass
class _Value:
    """A tensor that the window has come by, and what C++ calls it."""

    tensor: Tensor
    name: str

    def as_(self, dtype: torch.dtype) -> str:
        """The value converted to a type, as PyTorch converts it."""
        if dtype == self.tensor.dtype:
            return self.name
        if self.tensor.dtype == torch.bool:  # a choice and not a cast, of which GCC makes no vectors
            return f"({self.name} ? ({_halves.register(dtype)})1 : ({_halves.register(dtype)})0)"
        return _cast(self.name, dtype)


class _Recorder(TorchDispatchMode):
    """Writes a statement for each operation that runs under it."""

    def __init__(self) -> None:
        super().__init__()
        self.words = 0
        self.head: list[str] = []
        self.body: list[str] = []
        self._rows: dict[int, str] = {}  # where the rows of the arguments are in memory, by the tensor's id
        self._values: dict[int, _Value] = {}
        self._ranges: dict[int, Range] = {}
        self._examples: list[Tensor] = []  # held: a tensor's id is its own as long as it lives
        self._pooled: tuple[int, Pooled] | None = None

    def example(self, argument: Argument) -> Any:
        """What stands for an argument while the window is recorded; declares it in C++."""
        if argument is None:
            return None
        place = self.words
        self.words += 2
        if isinstance(argument, int):
            number = torch.zeros((), dtype=torch.int32)
            self.head.append(f"const int32_t a{place} = (int32_t)words[{place}];")
            self._values[id(number)] = _Value(number, f"a{place}")
            return number
        if isinstance(argument, Tensor):
            dtype, length = argument.dtype, 1
        else:
            dtype, length = argument.tensor.dtype, argument.length
        rows = [torch.zeros(1, dtype=dtype) for _ in range(length)]
        for k, row in enumerate(rows):
            name, stored = f"a{place}_{k}", _halves.memory(dtype)
            self.head.append(f"{stored}* const {name} = at<{stored}>(words + {place}, {k});")
            self._rows[id(row)] = f"{name}[n]"
        self._examples += rows
        if isinstance(argument, Pooled):
            self._pooled = place, argument
        return rows[0] if isinstance(argument, Tensor) else rows

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: PyTorch would import its compiler, a second or two, to keep it away from the method below."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Where PyTorch's dispatcher stands decides whether it takes composite operations apart itself.
        with self:
            result = func.decompose(*args, **(kwargs or {}))
        if result is not NotImplemented:
            return result
        result = func(*args, **(kwargs or {}))
        if func in (aten.copy_.default, aten.add_.Tensor):
            target, source = args[:2]
            dtype = target.dtype
            value = self._value(source).as_(dtype)
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
        """A tensor or number among an operation's arguments, as a value of ``dtype``."""
        return self._value(x).as_(dtype) if isinstance(x, Tensor) else _literal(x, dtype)

    def within(self, x: Tensor, dtype: torch.dtype, bounds: Range) -> str:
        """A value of ``dtype``, or the nearest within ``bounds``, where it may lie beyond these."""
        value, (least, most) = self._value(x).as_(dtype), self.range(x)
        value = value if least >= bounds[0] else f"at_least({value}, {_literal(bounds[0], dtype)})"
        return value if most <= bounds[1] else f"at_most({value}, {_literal(bounds[1], dtype)})"

    def range(self, x: Any) -> Range:
        """What an operation's argument can be, as far as that is known."""
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
        self.body.append(f"const {_halves.register(x.dtype)} {name} = {expression};")
        self._values[id(x)] = _Value(x, name)

    def _store(self, target: Tensor, value: str) -> None:
        self._note(target, value)
        name = self._values[id(target)].name
        stored = f"to_{HALVES[target.dtype]}({name})" if target.dtype in HALVES else name
        self.body.append(f"{self._rows[id(target)]} = {stored};")

    def source(self) -> str:
        part = PART.format(head="\n    ".join(self.head), body="\n        ".join(self.body))
        before = (LONG if len(self.body) >= LONG_BODY else "") + _halves.SOURCE + PRELUDE
        if self._pooled is None:
            return before + part + ALL
        place, argument = self._pooled
        dtype, written = argument.tensor.dtype, argument.written
        options = {
            "place": place,
            "length": argument.length,
            "end": self.words,
            "numbers": _halves.numbers(dtype),
            "scale": _literal(argument.pool.scale, arithmetic_dtype(dtype)),
        }
        moved = (AFTER if written else BEFORE).format(**options)
        tiles = TILES.format(
            before="" if written else moved,
            after=moved if written else "",
            rows="Register" if written else "Memory",
            **options,
        )
        return before + planes(argument.pool.size) + part + tiles


Range = tuple[float, float]
"""The least and the most that a value can be, unless it is no number."""

EVERYTHING: Range = (-math.inf, math.inf)
EXPONENTS: Range = (-87.0, 88.0)
"""What float32 has an exponential of, normal numbers all."""
INVERTIBLE: Range = (2.0**-125, 2.0**125)
"""What `inverse` below takes."""


def _range(func: Any, of: Sequence[Range], args: Any) -> Range:
    """What can come out of an operation on ``args`` in the ranges ``of``, as far as it takes no effort to know."""
    least, most = of[0]
    if func is aten.abs.default:
        return 0.0, math.inf
    if func is aten.neg.default:
        return -most, -least
    if func is aten.exp.default:
        return math.exp(max(least, EXPONENTS[0])), math.exp(most) if most < EXPONENTS[1] else math.inf
    if func is aten.add.Tensor:
        return least + of[1][0], most + of[1][1]
    if func is aten.mul.Tensor and isinstance(args[1], (int, float)) and args[1] > 0:
        return least * args[1], most * args[1]
    if func is aten.clamp.default:
        lowest, highest = _bounds(args)
        return max(least, lowest), min(most, highest)
    if func is aten.where.self:
        return min(of[1][0], of[2][0]), max(of[1][1], of[2][1])
    return EVERYTHING


def _bounds(args: Any) -> Range:
    """Those of a clamp."""
    lowest, highest = (*args, None)[1:3]
    return -math.inf if lowest is None else lowest, math.inf if highest is None else highest


def _cast(value: str, dtype: torch.dtype) -> str:
    """A value converted to a type."""
    return f"as_{HALVES[dtype]}({value})" if dtype in HALVES else f"({TYPES[dtype]}){value}"


def _literal(number: float | bool, dtype: torch.dtype) -> str:
    if not dtype.is_floating_point:
        return f"({TYPES[dtype]}){int(number)}"
    value = float(number)
    return _cast(f"({value.hex() if math.isfinite(value) else f'{math.copysign(1, value)} / 0.0'})", dtype)


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
    """The right side of the statement that an operation becomes."""
    dtype = result.dtype
    of = recorder.operand
    if options.get("alpha", 1) != 1:
        raise NotImplementedError(f"no C++ for {func} with alpha; write the product out")
    if func in _BINARY:
        return _cast(f"({_BINARY[func].format(of(args[0], dtype), of(args[1], dtype))})", dtype)
    if func in _COMPARISONS:
        common = torch.result_type(args[0], args[1])
        return _COMPARISONS[func].format(of(args[0], common), of(args[1], common))
    if func is aten.reciprocal.default and dtype == torch.float32 and recorder.range(args[0])[0] >= INVERTIBLE[0]:
        return f"inverse({recorder.within(args[0], dtype, INVERTIBLE)})"
    if func in _UNARY:
        result_of_one = _UNARY[func].format(of(args[0], dtype))
        return _cast(f"({result_of_one})", dtype) if dtype in HALVES else result_of_one
    if func is aten.exp.default:
        bounds = EVERYTHING if dtype == torch.float64 else EXPONENTS
        return _cast(f"exponential({recorder.within(args[0], dtype, bounds)})", dtype)
    if func is aten.where.self:
        return f"{of(args[0], torch.bool)} ? {of(args[1], dtype)} : {of(args[2], dtype)}"
    if func is aten.clamp.default:
        return recorder.within(args[0], dtype, _bounds(args))
    if func is aten.zeros_like.default:
        return _literal(0, dtype)
    if func is aten.scalar_tensor.default:
        return _literal(args[0], dtype)
    raise NotImplementedError(f"no C++ for {func}; add it to tssl_triton/cpu/loop.py")


LONG_BODY = 200
"""Statements from which on a body needs more registers than there are."""

# To find what is computed twice on some path only, GCC keeps values for longer, which a long body then has to spill.
LONG = """\
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-pre")
#endif
"""

PRELUDE = """\
#include <cmath>
#if defined(__SSE2__)
#include <xmmintrin.h>

// Numbers too small for a full mantissa count as 0 while one of these lives. What decays for hundreds of steps becomes
// that small, and processors of this kind take a hundred cycles for each.
struct Flushing {
    const unsigned before = _mm_getcsr();
    Flushing() { _mm_setcsr(before | 0x8040u); }
    ~Flushing() { _mm_setcsr(before); }
};
#else
struct Flushing {
    Flushing() {}
};
#endif

template <class T> static inline T absolute(T x) { return x < 0 ? -x : x; }
template <class T> static inline T at_least(T x, T lowest) { return x < lowest ? lowest : x; }
template <class T> static inline T at_most(T x, T highest) { return x > highest ? highest : x; }

// a b + c, rounded once where a processor does that; only what has no exact counterpart in PyTorch is worked out by it.
static inline float fused(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

static inline double exponential(double x) { return std::exp(x); }

// 2^k e^r with x = k log 2 + r, and for e^r the polynomial of Cephes' expf, for x from -87 to 88.
static inline float exponential(float x) {
    const float shifted = fused(x, 1.44269504f, 12582912.0f);  // 1.5 2^23: the integer nearest is in the last bits
    const float k = shifted - 12582912.0f;
    const float r = fused(k, 2.12194440e-4f, fused(k, -0.693359375f, x));
    float y = 1.9875691500e-4f;
    y = fused(y, r, 1.3981999507e-3f);
    y = fused(y, r, 8.3334519073e-3f);
    y = fused(y, r, 4.1665795894e-2f);
    y = fused(y, r, 1.6666665459e-1f);
    y = fused(y, r, 5.0000001201e-1f);
    y = fused(y, r * r, r) + 1.0f;
    return y * bits_of<float>((bits_of<int32_t>(shifted) + 127) << 23);
}

// 1 / x for x from 2^-125 to 2^125: the first guess is 5 % off, and each step cubes the error. A division would keep
// the processor for longer than all that.
static inline float inverse(float x) {
    float y = bits_of<float>(0x7ef311c7 - bits_of<int32_t>(x));
    float e = fused(-x, y, 1.0f);
    y = fused(y, fused(e, e, e), y);
    e = fused(-x, y, 1.0f);
    return fused(y, fused(e, e, e), y);
}

// Row k of an argument: `words` holds the address of the first and the bytes from one to the next.
template <class T> static inline T* at(const int64_t* words, int64_t k) {
    return reinterpret_cast<T*>(words[0] + k * words[1]);
}
"""

PART = """
static void part(int64_t first, int64_t end, const int64_t* words) {{
    const Flushing flushing;
    {head}
    #pragma omp simd
    for (int64_t n = first; n < end; ++n) {{
        {body}
    }}
}}
"""

ALL = """
extern "C" void window(int64_t neurons, int32_t threads, const int64_t* words) {
    const int64_t share = ((neurons + threads - 1) / threads + 63) / 64 * 64;  // whole vectors, whole lines of cache
    #pragma omp parallel for schedule(static) num_threads(threads) if(threads > 1)
    for (int32_t thread = 0; thread < threads; ++thread) {
        const int64_t first = thread * share, end = first + share;
        part(first, end < neurons ? end : neurons, words);
    }
}
"""

# `sums` are sums of columns, or a row of what is spread. As `part` counts neurons from the first of all, the address
# that it is given for a tile lies as far before it.
TILES = """
extern "C" void window(int64_t neurons, int32_t threads, const int64_t* words) {{
    const Images x = {{words[{end}], words[{end} + 1], words[{end} + 2], words[{end} + 3]}};
    const int64_t together = std::max<int64_t>(1, 1024 / x.plane()), tiles = (x.planes + together - 1) / together;
    #pragma omp parallel num_threads(threads) if(threads > 1)
    {{
        using Numbers = {numbers};
        std::vector<Numbers::Memory> dense({length} * together * x.plane());
        std::vector<Numbers::{rows}> sums(x.rows() * x.used());
        std::vector<int64_t> mine(words, words + {end});
        #pragma omp for schedule(static)
        for (int64_t tile = 0; tile < tiles; ++tile) {{
            const int64_t plane = tile * together, planes = std::min(together, x.planes - plane);
            const int64_t first = plane * x.plane(), size = planes * x.plane();
            mine[{place}] = reinterpret_cast<int64_t>(dense.data()) - first * (int64_t)sizeof(Numbers::Memory);
            mine[{place} + 1] = size * (int64_t)sizeof(Numbers::Memory);
            {before}
            part(first, first + size, mine.data());
            {after}
        }}
    }}
}}
"""

BEFORE = """
            for (int64_t k = 0; k < {length}; ++k) {{
                const Numbers::Memory* pooled = at<Numbers::Memory>(words + {place}, k) + plane * x.pooled();
                for (int64_t p = 0; p < planes; ++p)
                    spread_plane<Numbers>(
                        pooled + p * x.pooled(), dense.data() + k * size + p * x.plane(), x, {scale}, sums.data());
            }}
"""

AFTER = """
            for (int64_t k = 0; k < {length}; ++k) {{
                Numbers::Memory* pooled = at<Numbers::Memory>(words + {place}, k) + plane * x.pooled();
                for (int64_t p = 0; p < planes; ++p)
                    add_plane<Numbers, Numbers>(
                        dense.data() + k * size + p * x.plane(), pooled + p * x.pooled(), x, {scale}, sums.data());
            }}
"""
