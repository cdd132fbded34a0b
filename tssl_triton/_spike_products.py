"""Products of spike trains with the weights of a fully connected layer on a CPU, from the spikes' bits.

A neuron that is silent for a whole window of time adds nothing to a product, forward or to the weights' gradient. So
both find out from the packed spikes who fires, sample by sample, and pass over everyone else: the dense spikes, four
bytes for each bit, are never in memory, and the work is in proportion to the share of neurons that fire at all. Where
that is large, a library's dense product is the faster one, and `product` and `weight_gradient` leave it to that.

Each sum is added up in one order, sample by sample and input by input, whatever the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from . import _cpp, _operators, _ops
from ._packed import Packed
from .kernels.layout import WINDOW, WORD

LEAST_ROWS = 400
"""Samples times steps of a window from which on the weights are worth being transposed for its product."""

LEAST_WORK = 1 << 23
"""Multiplications of a window's dense product from which on it takes longer than the calls around it."""

BUSY = 0.6
"""Share of a layer's neurons that fire in a window, on average over samples, from which on dense products are faster:
measured with 400 inputs and outputs, at T = 5 and on AVX-512."""


def product(packed: Packed, weight: Tensor, bias: Tensor | None, busy: float = BUSY) -> Tensor | None:
    """``(T, B, out)``, the product of spikes ``(T, B, *)`` with ``weight (out, in)``, plus ``bias``; None where a dense
    product is to be taken. Dropped-out spikes will do."""
    if not _fits(packed, weight) or (bias is not None and bias.dtype != weight.dtype):
        return None
    run = _Run.of(packed, weight, busy)
    if run is None:
        return None
    y = torch.empty(packed.steps, run.batch, run.outputs, dtype=weight.dtype)
    weight = weight.detach().contiguous()
    with _operators.shown("spike_product"):
        run.product(weight, y)
    return y if bias is None else y.add_(bias)


def weight_gradient(grad: Tensor, packed: Packed, weight: Tensor, busy: float = BUSY) -> Tensor | None:
    """``(out, in)``, the sum over steps and samples of ``grad (T, B, out)`` times spikes; None as for `product`."""
    if not _fits(packed, weight) or grad.dtype != weight.dtype:
        return None
    run = _Run.of(packed, weight, busy)
    if run is None:
        return None
    gradient = torch.empty_like(weight, memory_format=torch.contiguous_format)
    with _operators.shown("spike_weight_gradient"):
        run.gradient(grad.contiguous(), gradient)
    return gradient


def may_take(steps: int, batch: int, weight: Tensor) -> bool:
    """Whether products of so many steps and samples of spikes with such weights may be taken from bits."""
    rows = min(steps, WINDOW) * batch
    if rows < LEAST_ROWS or rows * weight.numel() < LEAST_WORK or weight.shape[1] >= 1 << (32 - WINDOW):
        return False
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and not _ops.interpreting()


def _fits(packed: Packed, weight: Tensor) -> bool:
    tensors = packed.tensors()
    if weight.device.type != "cpu" or _operators.followed([*tensors, weight]) or torch.is_autocast_enabled("cpu"):
        return False
    if not may_take(packed.steps, packed.words.shape[1], weight) or len(tensors) > 2:
        return False
    if any(step is not torch.mul for step, _ in packed.then):
        return False
    return all(x.is_contiguous() for x in tensors) and all(x.dtype == weight.dtype for x in tensors[1:])


class _Run:
    """The windows of a spike train, compiled, and sizes."""

    def __init__(self, windows: list[tuple[Any, int, int]], packed: Packed, weight: Tensor) -> None:
        self.batch = packed.words.shape[1]
        self.outputs, self.inputs = weight.shape
        self._windows, self._tensors = windows, packed.tensors()
        self._lists = torch.empty(self.batch, self.inputs + 1, dtype=torch.int32)

    @classmethod
    def of(cls, packed: Packed, weight: Tensor, busy: float) -> _Run | None:
        """None where there is no compiler, or where too many neurons fire."""
        words, steps = packed.words, packed.steps
        windows, active = [], 0
        for t in range(0, steps, WINDOW):
            length = min(WINDOW, steps - t)
            library = _cpp.compiled(functools.partial(_compiled, words.dtype, length))
            if library is None:
                return None
            place = words.data_ptr() + (t // WORD) * words[0].numel() * words.itemsize
            active += library.active(place, words[0].numel(), t % WORD)
            windows.append((library, place, t))
        if active > busy * words[0].numel() * len(windows):
            return None
        return cls(windows, packed, weight)

    def product(self, weight: Tensor, y: Tensor) -> None:
        scratch = self._floats(self.inputs * max(library.padded(self.outputs) for library, *_ in self._windows))
        for library, words, t in self._windows:
            window = y.data_ptr() + self._bytes_before(t)
            library.product(words, weight.data_ptr(), window, scratch.data_ptr(), *self._how(t))

    def gradient(self, grad: Tensor, gradient: Tensor) -> None:
        threads = torch.get_num_threads()
        scratch = self._floats(threads * self.inputs * max(library.padded(1) for library, *_ in self._windows))
        for library, words, t in self._windows:
            window = grad.data_ptr() + self._bytes_before(t)
            library.gradient(words, window, gradient.data_ptr(), scratch.data_ptr(), *self._how(t), t > 0)

    def _how(self, t: int) -> tuple[int, ...]:
        """What both functions take: factors of the spikes, room for lists, sizes, the first bit, threads."""
        factors = self._tensors[1].data_ptr() if len(self._tensors) > 1 else 0
        return factors, self._lists.data_ptr(), self.batch, self.inputs, self.outputs, t % WORD, torch.get_num_threads()

    def _bytes_before(self, t: int) -> int:
        return 4 * t * self.batch * self.outputs

    def _floats(self, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.float32)


@functools.cache
def _compiled(words: torch.dtype, steps: int) -> Any:
    """The functions below for one window of ``steps`` steps in words of a type."""
    source = SOURCE.replace("WORD", _cpp.TYPES[words]).replace("WINDOW", str(steps))
    library = _cpp.library(source, "-ffp-contract=fast")
    address, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    library.active.argtypes, library.active.restype = [address, size, number], size
    library.padded.argtypes, library.padded.restype = [size], size
    how = [address] * 6 + [size] * 3 + [number] * 2
    library.product.argtypes, library.product.restype = how, None
    library.gradient.argtypes, library.gradient.restype = [*how, number], None
    return library


SOURCE = """\
#include <algorithm>
#include <cstdint>
#include <cstring>
#ifdef _OPENMP
#include <omp.h>
static inline int64_t this_thread() { return omp_get_thread_num(); }
#else
static inline int64_t this_thread() { return 0; }
#endif

#if defined(__AVX512F__)
constexpr int64_t LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int64_t LANES = 8, REGISTERS = 16;
#else
constexpr int64_t LANES = 4, REGISTERS = 32;
#endif
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

using Word = WORD;
constexpr int64_t STEPS = WINDOW;
constexpr uint32_t PATTERNS = 1u << STEPS;

// A block of outputs is as many vectors as there are registers to sum all steps of them in.
constexpr int64_t WIDE = std::max<int64_t>(1, std::min<int64_t>(8, (REGISTERS - 6) / STEPS));
constexpr int64_t BLOCK = WIDE * LANES;
static inline int64_t blocks_of(int64_t outputs) { return (outputs + BLOCK - 1) / BLOCK; }

// The steps of a window as numbers, for each pattern of its bits.
struct Spelled {
    float spikes[PATTERNS][STEPS];
    Spelled() {
        for (uint32_t pattern = 0; pattern < PATTERNS; ++pattern)
            for (int64_t t = 0; t < STEPS; ++t) spikes[pattern][t] = (float)(pattern >> t & 1);
    }
};
static const Spelled spelled;

// Who fires in a window: 24 bits say which input, 8 bits when. A sample's list ends with the number of its entries.
using Active = uint32_t;
static inline int64_t input_of(Active who) { return who >> 8; }
static inline const float* spikes_of(Active who) { return spelled.spikes[who & 255]; }

static inline uint32_t pattern_of(Word word, int32_t bit) { return ((uint32_t)word >> bit) & (PATTERNS - 1); }

// Factors, where there are some, are those of dropout: one for all steps, and 0 is silence.
static inline void list(const Word* words, const float* factors, int64_t inputs, int32_t bit, Active* found) {
    uint32_t count = 0;
    for (int64_t j = 0; j < inputs; ++j) {
        const uint32_t pattern = pattern_of(words[j], bit);
        found[count] = (uint32_t)j << 8 | pattern;
        count += pattern != 0 && (!factors || factors[j] != 0);
    }
    found[inputs] = count;
}

static inline void lists_of(
    const Word* words, const float* factors, Active* lists, int64_t batch, int64_t inputs, int32_t bit
) {
    #pragma omp for schedule(static)
    for (int64_t b = 0; b < batch; ++b)
        list(words + b * inputs, factors ? factors + b * inputs : nullptr, inputs, bit, lists + b * (inputs + 1));
}

static inline Vector load(const float* from, int64_t there) {
    if (there >= LANES) return *(const Vector*)from;
    Vector x = {};
    for (int64_t n = 0; n < there; ++n) x[n] = from[n];
    return x;
}

static inline void store(float* to, Vector x, int64_t there) {
    if (there >= LANES) *(Vector*)to = x;
    else for (int64_t n = 0; n < there; ++n) to[n] = x[n];
}

// sums[v] += spike * x[v] of each step, for one block.
static inline void add(Vector (&sums)[WIDE], float spike, const Vector (&x)[WIDE]) {
    const Vector fired = spike - Vector{};
    #pragma GCC unroll 8
    for (int64_t v = 0; v < WIDE; ++v) sums[v] += fired * x[v];
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLES
#endif
#endif

// b[c][r] = a[r][c], or added to it.
template <bool more>
static inline void move(float from, float* to) { *to = more ? *to + from : from; }

template <bool more>
static inline void transpose(
    const float* a, int64_t row_a, float* b, int64_t row_b, int64_t rows, int64_t columns
) {
    int64_t done = 0;
#ifdef SHUFFLES
    for (; done + 4 <= rows; done += 4) {
        int64_t c = 0;
        for (; c + 4 <= columns; c += 4) {
            const float* from = a + done * row_a + c;
            float* to = b + c * row_b + done;
            const Four w = *(const Four*)from, x = *(const Four*)(from + row_a);
            const Four y = *(const Four*)(from + 2 * row_a), z = *(const Four*)(from + 3 * row_a);
            const Four wx = __builtin_shufflevector(w, x, 0, 4, 1, 5), yz = __builtin_shufflevector(y, z, 0, 4, 1, 5);
            const Four WX = __builtin_shufflevector(w, x, 2, 6, 3, 7), YZ = __builtin_shufflevector(y, z, 2, 6, 3, 7);
            const Four turned[4] = {
                __builtin_shufflevector(wx, yz, 0, 1, 4, 5), __builtin_shufflevector(wx, yz, 2, 3, 6, 7),
                __builtin_shufflevector(WX, YZ, 0, 1, 4, 5), __builtin_shufflevector(WX, YZ, 2, 3, 6, 7)};
            for (int i = 0; i < 4; ++i) {
                Four* const target = (Four*)(to + i * row_b);
                *target = more ? *target + turned[i] : turned[i];
            }
        }
        for (; c < columns; ++c)
            for (int64_t r = done; r < done + 4; ++r) move<more>(a[r * row_a + c], b + c * row_b + r);
    }
#endif
    for (int64_t r = done; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) move<more>(a[r * row_a + c], b + c * row_b + r);
}

// How many of `count` neurons fire in the window.
extern "C" int64_t active(const Word* words, int64_t count, int32_t bit) {
    int64_t found = 0;
    #pragma omp simd reduction(+ : found)
    for (int64_t n = 0; n < count; ++n) found += pattern_of(words[n], bit) != 0;
    return found;
}

// `outputs` rounded up to whole blocks.
extern "C" int64_t padded(int64_t outputs) { return blocks_of(outputs) * BLOCK; }

// y (STEPS, batch, outputs) from weight (outputs, inputs). `turned` has room for the weights transposed, block by
// block.
extern "C" void product(
    const Word* words, const float* weight, float* y, float* turned, const float* factors, Active* lists,
    int64_t batch, int64_t inputs, int64_t outputs, int32_t bit, int32_t threads
) {
    const int64_t blocks = blocks_of(outputs);
    #pragma omp parallel num_threads(threads)
    {
        lists_of(words, factors, lists, batch, inputs, bit);
        #pragma omp for schedule(static)
        for (int64_t o = 0; o < blocks * BLOCK; o += LANES) {
            float* const stripe = turned + o / BLOCK * BLOCK * inputs + o % BLOCK;
            if (o + LANES > outputs)  // sums of what is no output are nothing, and not of whatever was there before
                for (int64_t j = 0; j < inputs; ++j) *(Vector*)(stripe + j * BLOCK) = Vector{};
            const int64_t rows = std::min(LANES, outputs - o);
            if (rows > 0) transpose<false>(weight + o * inputs, inputs, stripe, BLOCK, rows, inputs);
        }
        #pragma omp for schedule(static)
        for (int64_t task = 0; task < batch * blocks; ++task) {
            const int64_t k = task / batch, b = task % batch;
            const Active* const who = lists + b * (inputs + 1);
            const int64_t count = who[inputs];
            Vector sums[STEPS][WIDE] = {};
            for (int64_t n = 0; n < count; ++n) {
                const float* row = turned + k * BLOCK * inputs + input_of(who[n]) * BLOCK;
                const float* spikes = spikes_of(who[n]);
                const float factor = factors ? factors[b * inputs + input_of(who[n])] : 1.0f;
                Vector w[WIDE];
                #pragma GCC unroll 8
                for (int64_t v = 0; v < WIDE; ++v) w[v] = *(const Vector*)(row + v * LANES);
                #pragma GCC unroll 8
                for (int64_t t = 0; t < STEPS; ++t) add(sums[t], factor * spikes[t], w);
            }
            #pragma GCC unroll 8
            for (int64_t t = 0; t < STEPS; ++t)
                #pragma GCC unroll 8
                for (int64_t v = 0; v < WIDE; ++v) {
                    const int64_t o = k * BLOCK + v * LANES;
                    if (o < outputs) store(y + (t * batch + b) * outputs + o, sums[t][v], outputs - o);
                }
        }
    }
}

// gradient (outputs, inputs) from grad (STEPS, batch, outputs), or added to it. A task is one block of outputs and one
// part of the inputs; `rows` has room for one block of each thread.
extern "C" void gradient(
    const Word* words, const float* grad, float* gradient, float* rows, const float* factors, Active* lists,
    int64_t batch, int64_t inputs, int64_t outputs, int32_t bit, int32_t threads, int32_t more
) {
    const int64_t blocks = blocks_of(outputs), parts = threads == 1 ? 1 : 1 + 4 * threads / blocks;
    #pragma omp parallel num_threads(threads)
    {
        lists_of(words, factors, lists, batch, inputs, bit);
        float* const sums = rows + this_thread() * BLOCK * inputs;
        #pragma omp for schedule(static)
        for (int64_t task = 0; task < blocks * parts; ++task) {
            const int64_t k = task / parts, part = task % parts;
            const int64_t first = part * inputs / parts, end = (part + 1) * inputs / parts;
            std::memset(sums, 0, (end - first) * BLOCK * sizeof(float));
            for (int64_t b = 0; b < batch; ++b) {
                const Active* const who = lists + b * (inputs + 1);
                const Active* const last = who + who[inputs];
                Vector errors[STEPS][WIDE];
                #pragma GCC unroll 8
                for (int64_t t = 0; t < STEPS; ++t)
                    #pragma GCC unroll 8
                    for (int64_t v = 0; v < WIDE; ++v) {
                        const int64_t o = k * BLOCK + v * LANES;
                        errors[t][v] = o < outputs ? load(grad + (t * batch + b) * outputs + o, outputs - o) : Vector{};
                    }
                for (const Active* n = std::lower_bound(who, last, (Active)(first << 8)); n < last; ++n) {
                    if (input_of(*n) >= end) break;
                    float* row = sums + (input_of(*n) - first) * BLOCK;
                    const float* spikes = spikes_of(*n);
                    const float factor = factors ? factors[b * inputs + input_of(*n)] : 1.0f;
                    Vector sum[WIDE];
                    #pragma GCC unroll 8
                    for (int64_t v = 0; v < WIDE; ++v) sum[v] = *(const Vector*)(row + v * LANES);
                    #pragma GCC unroll 8
                    for (int64_t t = 0; t < STEPS; ++t) add(sum, factor * spikes[t], errors[t]);
                    #pragma GCC unroll 8
                    for (int64_t v = 0; v < WIDE; ++v) *(Vector*)(row + v * LANES) = sum[v];
                }
            }
            float* const target = gradient + k * BLOCK * inputs + first;
            const int64_t columns = std::min(BLOCK, outputs - k * BLOCK);
            if (more) transpose<true>(sums, BLOCK, target, inputs, end - first, columns);
            else transpose<false>(sums, BLOCK, target, inputs, end - first, columns);
        }
    }
}
"""
