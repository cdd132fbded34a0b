"""Sums over windows of spike trains, and their transpose.

On a CPU both are memory traffic alone, and PyTorch's own pooling moves it three to eight times as slowly as need be.
So they are C++ here, read once and written once; and where a pooled spike train is to be had again for backward, its
windows are counted from the bits, which are an eighth or less of what the spikes are. Without a C++ compiler strips of
a tensor are added up. The numbers are the same each way: first the rows of a window are summed, then its columns.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tssl_triton.kernels.layout import arithmetic_dtype

from . import compiler as _cpp
from . import types as _halves

REALS = (torch.float32, torch.float64, *_halves.HALVES)
"""Types whose windows are summed here; those of 16 bits in float32, and rounded once."""

Function = Literal["add", "spread", "count"]


@dataclass(frozen=True)
class SumPool:
    """``scale`` times the sum over each window of ``size``, for ``x (T, B, C, H, W)``; what fills none is left out."""

    size: tuple[int, int]
    scale: float

    def __call__(self, x: Tensor) -> Tensor:
        return _SumPool2d.apply(x, self)

    def of_bits(self, words: Tensor, steps: int, dtype: torch.dtype, last: bool = False) -> Tensor | None:
        """The pooled spikes from their packed form ``(words, B, C, H, W)``; None where that takes the dense ones.

        They have the memory format of the words, or with ``last`` channels last.
        """
        run = self._function("count", words, dtype)
        if run is None:
            return None
        images = words.flatten(0, 1)
        turned = last and images.is_contiguous()
        sums = self.pooled(images, words.shape[1] * steps, dtype, torch.channels_last if turned else None)
        run(images, sums, Sizes.of(words[0]), steps, images.shape[1] if turned else 1)
        return sums.unflatten(0, (steps, -1))

    def sums(self, x: Tensor) -> Tensor:
        """The pooled ``x (B, C, H, W)``."""
        if not _adds_here(x):
            return F.avg_pool2d(x, self.size, divisor_override=1).mul_(self.scale)
        run = self._function("add", x, x.dtype)
        if run is None:
            return (_strip_sums(x.to(arithmetic_dtype(x.dtype)), self.size) * self.scale).to(x.dtype)
        sums = self.pooled(x, len(x), x.dtype)
        run(x, sums, Sizes.of(x))
        return sums

    def spread(self, grad: Tensor, shape: Sequence[int]) -> Tensor:
        """The transpose of `sums`: each window's ``grad``, scaled, at each of its elements, ``shape`` in all."""
        if not _adds_here(grad):
            like = grad.new_empty(shape)  # only its shape matters: no memory is touched
            size = list(self.size)
            return torch.ops.aten.avg_pool2d_backward(grad * self.scale, like, size, size, [0, 0], False, True, 1)
        run = self._function("spread", grad, grad.dtype)
        if run is None:
            return _spread_strips(grad * self.scale, shape, self.size)
        spread = torch.empty(shape, dtype=grad.dtype, memory_format=memory_format(grad))
        run(grad, spread, Sizes.of(spread))
        return spread

    def windows(self, height: int, width: int) -> tuple[int, int]:
        """How many windows an image holds."""
        return height // self.size[0], width // self.size[1]

    def pooled(self, x: Tensor, batch: int, dtype: torch.dtype, order: torch.memory_format | None = None) -> Tensor:
        """What sums of ``batch`` images like ``x (B, C, H, W)`` go into, in the memory format of x or in ``order``."""
        _, channels, height, width = x.shape
        shape = batch, channels, *self.windows(height, width)
        return torch.empty(shape, dtype=dtype, device=x.device, memory_format=order or memory_format(x))

    def _function(self, function: Function, x: Tensor, dtype: torch.dtype) -> Callable[..., None] | None:
        """What calls the compiled function with tensors, to make something of ``dtype`` from x; None if x is not plain
        memory or there is no compiler."""
        if torch.compiler.is_compiling() or x.device.type != "cpu" or type(x) is not Tensor or dtype not in REALS:
            return None
        if not are_images(x.flatten(0, -4)):
            return None
        compiled = _cpp.compiled(lambda: _compiled(function, self.size, x.dtype, dtype))
        if compiled is None:
            return None

        def run(source: Tensor, target: Tensor, sizes: Sizes, steps: int = 1, channels: int = 1) -> None:
            places = source.data_ptr(), target.data_ptr()
            compiled(*places, *sizes, steps, channels, self.scale, torch.get_num_threads())

        return run


class Sizes(NamedTuple):
    """Images ``(B, C, H, W)`` as they lie in memory: ``(planes, H, W, depth)``; depth is C where channels are last."""

    planes: int
    height: int
    width: int
    depth: int

    @classmethod
    def of(cls, x: Tensor) -> Sizes:
        batch, channels, height, width = x.shape
        if x.is_contiguous():
            return cls(batch * channels, height, width, 1)
        return cls(batch, height, width, channels)


def are_images(x: Tensor) -> bool:
    """Whether ``x (B, C, H, W)`` is dense, channels first or last, and not empty."""
    return x.numel() > 0 and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))


def memory_format(x: Tensor) -> torch.memory_format:
    """Of images ``(B, C, H, W)`` that are dense in one or the other."""
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


class _SumPool2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: SumPool) -> Tensor:
        ctx.shape, ctx.pool = x.shape, pool
        return pool.sums(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Spread2d.apply(grad, ctx.pool, ctx.shape), None


class _Spread2d(torch.autograd.Function):
    """The transpose of `_SumPool2d`, whose transpose that is in turn."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, pool: SumPool, shape: torch.Size) -> Tensor:
        ctx.pool = pool
        steps, batch, *image = shape
        return pool.spread(grad.flatten(0, 1), (steps * batch, *image)).view(shape)

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Tensor, None, None]:
        return _SumPool2d.apply(x, ctx.pool), None, None


def _adds_here(x: Tensor) -> bool:
    """Whether windows of x are summed by this module."""
    return x.device.type == "cpu" and x.dtype in REALS


# --- without a compiler -----------------------------------------------------------------------------------------


def _strips(x: Tensor, dim: int, size: int) -> tuple[Tensor, ...]:
    """The first, second, ... element of each window of ``size`` along ``dim``, as views."""
    windows = x.shape[dim] // size
    return x.narrow(dim, 0, windows * size).unflatten(dim, (windows, size)).unbind(dim + 1)


def _strip_sums(x: Tensor, size: tuple[int, int]) -> Tensor:
    for dim, length in zip((2, 3), size, strict=True):
        x = functools.reduce(torch.add, _strips(x, dim, length))
    return x


def _spread_strips(grad: Tensor, shape: Sequence[int], size: tuple[int, int]) -> Tensor:
    for dim in (3, 2):
        length = size[dim - 2]
        wider = (*grad.shape[:dim], shape[dim], *grad.shape[dim + 1 :])
        filled = shape[dim] % length == 0
        spread = grad.new_empty(wider) if filled else grad.new_zeros(wider)
        for strip in _strips(spread, dim, length):
            strip.copy_(grad)
        grad = spread
    return grad


# --- compiled ---------------------------------------------------------------------------------------------------


@functools.cache
def _compiled(function: Function, size: tuple[int, int], source: torch.dtype, target: torch.dtype) -> Any:
    """One of the functions below, compiled for windows of ``size`` and these types."""
    entry = ENTRY.format(source=_halves.numbers(source), target=_halves.numbers(target))
    call = _cpp.library("".join((_halves.SOURCE, planes(size), FUNCTIONS[function], entry))).pool
    call.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 6, ctypes.c_double, ctypes.c_int32]
    call.restype = None
    return call


def planes(size: tuple[int, int]) -> str:
    """C++ that pools and spreads one plane of images in windows of ``size``."""
    return PLANES.replace("HEIGHT", str(size[0])).replace("WIDTH", str(size[1]))


PLANES = """\
#include <algorithm>
#include <cstdint>
#include <vector>

constexpr int64_t window_height = HEIGHT, window_width = WIDTH;

// Images as they lie in memory: an element is `depth` numbers, the channels where they come last and else one.
struct Images {
    int64_t planes, height, width, depth;
    int64_t rows() const { return height / window_height; }
    int64_t columns() const { return width / window_width; }
    int64_t row() const { return width * depth; }
    int64_t used() const { return columns() * window_width * depth; }
    int64_t plane() const { return height * row(); }
    int64_t pooled() const { return rows() * columns() * depth; }
    bool many(int64_t least) const { return planes * plane() > least; }
};

// The sums of all windows of a plane, times `scale`, from the sums of their columns.
template <class T>
static inline void add_columns(const Register<T>* sums, Memory<T>* out, Images x, Register<T> scale) {
    const int64_t windows = x.rows() * x.columns();
    if (x.depth == 1) {
        #pragma omp simd
        for (int64_t w = 0; w < windows; ++w) {
            Register<T> sum = sums[w * window_width];
            for (int64_t j = 1; j < window_width; ++j) sum += sums[w * window_width + j];
            out[w] = T::written(sum * scale);
        }
        return;
    }
    for (int64_t w = 0; w < windows; ++w) {
        const Register<T>* from = sums + w * window_width * x.depth;
        Memory<T>* to = out + w * x.depth;
        #pragma omp simd
        for (int64_t c = 0; c < x.depth; ++c) {
            Register<T> sum = from[c];
            for (int64_t j = 1; j < window_width; ++j) sum += from[j * x.depth + c];
            to[c] = T::written(sum * scale);
        }
    }
}

// One plane pooled; `sums` has room for the sums of its columns.
template <class From, class T>
static inline void add_plane(
    const Memory<From>* in, Memory<T>* out, Images x, Register<T> scale, Register<T>* sums
) {
    for (int64_t r = 0; r < x.rows(); ++r) {
        const Memory<From>* row = in + r * window_height * x.row();
        Register<T>* sum = sums + r * x.used();
        #pragma omp simd
        for (int64_t w = 0; w < x.used(); ++w) {
            Register<T> all = From::read(row[w]);
            for (int64_t i = 1; i < window_height; ++i) all += From::read(row[i * x.row() + w]);
            sum[w] = all;
        }
    }
    add_columns<T>(sums, out, x, scale);
}

// The transpose: each window's gradient, times `scale`, at each of its elements; `wide` has room for one row of each.
template <class T>
static inline void spread_plane(
    const Memory<T>* grad, Memory<T>* out, Images x, Register<T> scale, Memory<T>* wide
) {
    const int64_t windows = x.rows() * x.columns();
    if (x.depth == 1) {
        #pragma omp simd
        for (int64_t w = 0; w < windows; ++w) {
            const Memory<T> value = T::written(T::read(grad[w]) * scale);
            for (int64_t j = 0; j < window_width; ++j) wide[w * window_width + j] = value;
        }
    } else {
        for (int64_t w = 0; w < windows * window_width; ++w) {
            #pragma omp simd
            for (int64_t c = 0; c < x.depth; ++c)
                wide[w * x.depth + c] = T::written(T::read(grad[w / window_width * x.depth + c]) * scale);
        }
    }
    for (int64_t h = 0; h < x.rows() * window_height; ++h) {
        const Memory<T>* from = wide + h / window_height * x.used();
        Memory<T>* to = out + h * x.row();
        #pragma omp simd
        for (int64_t w = 0; w < x.used(); ++w) to[w] = from[w];
        for (int64_t w = x.used(); w < x.row(); ++w) to[w] = 0;
    }
    std::fill(out + x.rows() * window_height * x.row(), out + x.plane(), (Memory<T>)0);
}
"""

FUNCTIONS: dict[Function, str] = {
    "add": """
template <class From, class T>
static void run(
    const Memory<From>* in, Memory<T>* out, Images x, int64_t, int64_t, Register<T> scale, int32_t threads
) {
    #pragma omp parallel num_threads(threads) if(threads > 1 && x.many(1 << 15))
    {
        std::vector<Register<T>> sums(x.rows() * x.used());
        #pragma omp for schedule(static)
        for (int64_t plane = 0; plane < x.planes; ++plane)
            add_plane<From, T>(in + plane * x.plane(), out + plane * x.pooled(), x, scale, sums.data());
    }
}
""",
    "spread": """
template <class From, class T>
static void run(
    const Memory<T>* grad, Memory<T>* out, Images x, int64_t, int64_t, Register<T> scale, int32_t threads
) {
    #pragma omp parallel num_threads(threads) if(threads > 1 && x.many(1 << 15))
    {
        std::vector<Memory<T>> wide(x.rows() * x.used());
        #pragma omp for schedule(static)
        for (int64_t plane = 0; plane < x.planes; ++plane)
            spread_plane<T>(grad + plane * x.pooled(), out + plane * x.plane(), x, scale, wide.data());
    }
}
""",
    "count": """
// A window's spikes are counted at several steps at once: each step has a field of bits with room for all of them.
constexpr int64_t elements = window_height * window_width;
constexpr int FIELD = elements < 1 << 4 ? 4 : elements < 1 << 8 ? 8 : elements < 1 << 16 ? 16 : 32;
constexpr int TOGETHER = 32 / FIELD;

// The lowest n bits of each n fields.
constexpr uint32_t lowest(int n) {
    uint32_t all = 0;
    for (int k = 0; k < TOGETHER; k += n) all |= ((1u << n) - 1) << k * FIELD;
    return all;
}

// The lowest bits, each at the start of a field: half of them move to the upper fields, and so on in either half.
template <int n = TOGETHER / 2>
static inline uint32_t apart(uint32_t bits) {
    if constexpr (n == 0) return bits;
    else return apart<n / 2>((bits | bits << n * (FIELD - 1)) & lowest(n));
}

template <class Word, class T>
static void run(
    const Memory<Word>* words, Memory<T>* out, Images x, int64_t steps, int64_t channels, Register<T> scale,
    int32_t threads
) {
    #pragma omp parallel num_threads(threads) if(threads > 1 && x.many(1 << 13))
    {
        using Counts = Plain<uint32_t>;
        const int64_t size = channels * x.pooled();
        std::vector<uint32_t> fired(x.plane()), sums(x.rows() * x.used()), plane(x.pooled()), counts(size);
        #pragma omp for schedule(static)
        for (int64_t first = 0; first < x.planes; first += channels) {
            for (int64_t t = 0; t < steps; t += TOGETHER) {
                const int bit = t % 32;
                for (int64_t c = 0; c < channels; ++c) {
                    const Memory<Word>* from = words + ((t / 32) * x.planes + first + c) * x.plane();
                    #pragma omp simd
                    for (int64_t n = 0; n < x.plane(); ++n)
                        fired[n] = apart((uint32_t)from[n] >> bit & ((1u << TOGETHER) - 1));
                    add_plane<Counts, Counts>(fired.data(), plane.data(), x, 1, sums.data());
                    for (int64_t w = 0; w < x.pooled(); ++w) counts[w * channels + c] = plane[w];
                }
                for (int64_t k = 0; k < TOGETHER && t + k < steps; ++k) {
                    Memory<T>* to = out + ((t + k) * x.planes + first) * x.pooled();
                    #pragma omp simd
                    for (int64_t n = 0; n < size; ++n) {
                        const uint32_t count = counts[n] >> FIELD * k & (uint32_t)((1ull << FIELD) - 1);
                        to[n] = T::written((Register<T>)(int32_t)count * scale);
                    }
                }
            }
        }
    }
}
""",
}

# `steps` is of what `count` reads; `channels` is 1, or how many planes of an image it writes with channels last.
ENTRY = """
extern "C" void pool(
    const {source}::Memory* from, {target}::Memory* to, int64_t planes, int64_t height, int64_t width, int64_t depth,
    int64_t steps, int64_t channels, double scale, int32_t threads
) {{
    const Images x = {{planes, height, width, depth}};
    run<{source}, {target}>(from, to, x, steps, channels, ({target}::Register)scale, threads);
}}
"""
