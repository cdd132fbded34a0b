"""Products of spike trains with the weights of a fully connected layer on a CPU, from the spikes' bits.

A neuron that is silent for a whole window of time adds nothing to a product, forward or to the weights' gradient. So
both find out from the packed spikes who fires, sample by sample, and pass over everyone else: the dense spikes, four
bytes for each bit, are never in memory, and the work is in proportion to the share of neurons that fire at all. Where
that is large, a library's dense product is the faster one, and `product` and `weight_gradient` leave it to that.

Inputs that fire at the same steps are added up together. Every sum has one order, whatever the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from tssl_triton.kernels.layout import WINDOW, WORD, word_dtype
from tssl_triton.operators import neuron as _ops
from tssl_triton.operators import registration as _operators
from tssl_triton.operators.records import Packed

from . import compiler as _cpp

MOST_LANES = 16
"""Numbers in the widest vector, by which scratch memory may be longer than what it is for."""

LEAST_ROWS = 400
"""Samples times steps of a window from which on the weights are worth being transposed for its product."""

LEAST_WORK = 1 << 23
"""Multiplications of a window's dense product from which on it takes longer than the calls around it."""

FEW = 64
"""Outputs up to which the weights' gradient is taken input by input, silent ones too: to find out who fires takes as
long as that."""

LEAST_SPIKES = 1 << 14
"""Inputs times samples times steps of a window from which on a gradient of few outputs takes longer from dense spikes,
which are to be made first."""


def busy(steps: int) -> float:
    """Share of neurons that fire in a window, on average over samples, from which on dense products are faster.

    The shorter a window, the less there is to pass over in each who is silent. Measured by ``python -m bench products``
    with 400 inputs and outputs on AVX-512.
    """
    return min(0.6, 0.15 + 0.1 * min(steps, WINDOW))


def product(
    packed: Packed,
    weight: Tensor,
    bias: Tensor | None,
    most: float | None = None,
    kept: list[Listed] | None = None,
    directly: bool = False,
) -> Tensor | None:
    """``(T, B, out)``, the product of spikes ``(T, B, *)`` with ``weight (out, in)``, plus ``bias``.

    None where a dense product is to be taken, as where more than a share ``most`` of neurons fires, which is `busy` if
    it is not given. Dropped-out spikes will do. Who fires is added to ``kept``, for the weights' gradient. That nobody
    follows may be known already: ``directly``.
    """
    if not _fits(packed, weight, directly) or (bias is not None and bias.dtype != weight.dtype):
        return None
    size = _size_of(packed, weight)  # which a tracer, who follows, must not see
    if not size.worth:
        return None
    found = _listed(size, packed, most, directly)
    if found is None:
        return None
    y = torch.empty(packed.steps, size.batch, size.outputs, dtype=weight.dtype)
    _operators.show("spike_product", found.product, _contiguous(weight), y, kept is not None)
    if kept is not None:
        kept.append(found)
    return y if bias is None else y.add_(bias)


def weight_gradient(
    grad: Tensor,
    packed: Packed,
    weight: Tensor,
    most: float | None = None,
    known: Listed | None = None,
    directly: bool = False,
) -> Tensor | None:
    """``(out, in)``, the sum over steps and samples of ``grad (T, B, out)`` times spikes; None as for `product`.

    What `product` has ``kept`` may be ``known``: then such spikes and weights do fit.
    """
    if grad.dtype != weight.dtype or not ((directly and known) or _fits(packed, weight, directly)):
        return None
    found: _Spikes | None = known
    if found is None:
        size = _size_of(packed, weight)
        if size.few:
            found = _of(_Spikes, size, packed, directly)
        elif size.worth:
            found = _listed(size, packed, most, directly)
    if found is None:
        return None
    gradient = torch.empty_like(weight, memory_format=torch.contiguous_format)
    _operators.show("spike_weight_gradient", found.gradient, _contiguous(grad), gradient)
    return gradient


def _contiguous(x: Tensor) -> Tensor:
    """x off the graph, in the order of its axes: itself, without a call of PyTorch's, where it lies so already."""
    return x if x.is_contiguous() else x.detach().contiguous()


class Sized(NamedTuple):
    """What of weights says whether they may be taken."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


def may_take(steps: int, batch: int, weight: Sized | Tensor) -> bool:
    """Whether products of so many steps and samples of spikes with such weights may be taken from bits."""
    return _size(steps, word_dtype(steps), batch, weight.shape, weight.dtype, weight.device).worth


class _Size:
    """What products have in common that differ in nothing but their numbers.

    Args:
        steps, words, batch: steps of spike trains, the type of their words, and samples.
        shape, dtype, device: of weights.

    Attributes:
        worth: whether the functions below take these weights, a product is large enough, and lists are not too large to
            be counted in 32 bits.
        few: whether they take them, and the weights' gradient is that of few outputs, and worth being taken.
    """

    def __init__(
        self, steps: int, words: torch.dtype, batch: int, shape: torch.Size, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.batch, (self.outputs, self.inputs) = batch, shape
        self._steps, self._words = steps, words
        self._windows: tuple[_Window, ...] | None = None
        taken = _ops.on_loops(device) and dtype == torch.float32 and self.inputs < 1 << (32 - WINDOW)
        rows = min(steps, WINDOW) * batch  # of a window's dense product
        large = rows >= LEAST_ROWS and rows * self.inputs * self.outputs >= LEAST_WORK
        self.worth = taken and large and batch * self.inputs < 1 << 31
        self.few = taken and self.outputs <= FEW and rows * self.inputs >= LEAST_SPIKES

    def windows(self) -> tuple[_Window, ...]:
        """Of their spikes, one after the other; compiled the first time.

        Raises:
            CompileError: if there is no compiler.
        """
        if self._windows is not None:
            return self._windows
        found = []
        for t in range(0, self._steps, WINDOW):
            library = _compiled(self._words, min(WINDOW, self._steps - t))
            before = t // WORD * self.batch * self.inputs * self._words.itemsize, 4 * t * self.batch * self.outputs
            found.append(_Window(library, *before, t % WORD, library.block()))
        self._windows = tuple(found)
        return self._windows


_size = functools.lru_cache(maxsize=256)(_Size)


def _size_of(packed: Packed, weight: Tensor) -> _Size:
    words = packed.words
    return _size(packed.steps, words.dtype, words.shape[1], weight.shape, weight.dtype, weight.device)


def _fits(packed: Packed, weight: Tensor, directly: bool) -> bool:
    """Whether these are spikes, dropped out at most, and nobody follows what becomes of them."""
    if not directly and _operators.followed([*packed.tensors(), weight]):
        return False
    if torch.is_autocast_enabled("cpu") or not packed.words.is_contiguous():
        return False
    if not packed.then:
        return True
    (function, factors), *others = packed.then
    dropped = not others and function is torch.mul and factors[0].dtype == weight.dtype
    return dropped and factors[0].is_contiguous()


Form = TypeVar("Form", bound="_Spikes")


def _of(form: type[Form], size: _Size, packed: Packed, directly: bool) -> Form | None:
    """Spikes in the form that products of a size take them in; None where there is no compiler."""
    windows = _cpp.compiled(size.windows, directly)
    sizes = size.batch, size.inputs, size.outputs, torch.get_num_threads()
    factors = packed.then[0][1][0] if packed.then else None
    return None if windows is None else form(windows, sizes, packed.words, factors)


def _listed(size: _Size, packed: Packed, most: float | None, directly: bool) -> Listed | None:
    """Who fires; None where too many do, or where there is no compiler."""
    found = _of(Listed, size, packed, directly)
    return found if found is not None and found.share <= (busy(packed.steps) if most is None else most) else None


class _Window(NamedTuple):
    """A window of spike trains of some size.

    Args:
        library: the functions below.
        words, y: where it begins, in bytes from where words and y begin.
        bit: its first step's in a word.
        block: outputs of a block.
    """

    library: Any
    words: int
    y: int
    bit: int
    block: int


class _Spikes:
    """Packed spikes, dropped out or not, window by window, and the gradient of few outputs' weights.

    Args:
        windows: of as many spikes.
        sizes: samples, inputs, outputs and threads.
        words: the spikes.
        factors: of dropout.
    """

    def __init__(
        self, windows: Sequence[_Window], sizes: tuple[int, int, int, int], words: Tensor, factors: Tensor | None
    ) -> None:
        self._windows, self._sizes, self._held = windows, sizes, (words, factors)
        self._factors = 0 if factors is None else factors.data_ptr()

    def gradient(self, grad: Tensor, gradient: Tensor) -> None:
        """Fill the gradient of weights from that of their product."""
        words, inputs = self._held[0].data_ptr(), self._sizes[1]
        scratch = torch.empty(inputs * MOST_LANES, dtype=torch.float32)
        for window in self._windows:
            places = grad.data_ptr() + window.y, gradient.data_ptr(), scratch.data_ptr()
            given = words + window.words, self._factors, *places, *self._sizes
            window.library.gradient_of_few(*given, window.bit, window.y > 0)


class Listed(_Spikes):
    """The same as a list of who fires for each window and sample, and products with these.

    Attributes:
        share: of inputs that fire in a window.
    """

    def __init__(
        self, windows: Sequence[_Window], sizes: tuple[int, int, int, int], words: Tensor, factors: Tensor | None
    ) -> None:
        super().__init__(windows, sizes, words, factors)
        batch, inputs, _, threads = sizes
        # Where each sample's list begins, and where the last one ends; and the lists, one after the other.
        self._lists = [torch.empty(batch + 1 + batch * inputs, dtype=torch.int32) for _ in windows]
        self._active = []
        scratch = torch.empty(batch * inputs, dtype=torch.int32)
        for window, lists in zip(windows, self._lists, strict=True):
            places = words.data_ptr() + window.words, self._factors, lists.data_ptr(), scratch.data_ptr()
            self._active.append(window.library.list_active(*places, batch, inputs, threads, window.bit))
        self.share = sum(self._active) / (len(windows) * batch * inputs)

    def product(self, weight: Tensor, y: Tensor, trim: bool) -> None:
        """Fill the product with weights; with ``trim`` the lists have no more memory afterwards than they take."""
        batch, inputs, outputs, _ = self._sizes
        scratch = torch.empty(inputs * (outputs + MOST_LANES), dtype=torch.float32)
        for k, window in enumerate(self._windows):
            lists = self._lists[k]
            if trim:
                self._lists[k] = torch.empty(batch + 1 + self._active[k], dtype=torch.int32)
            places = weight.data_ptr(), y.data_ptr() + window.y, scratch.data_ptr()
            window.library.product(lists.data_ptr(), self._lists[k].data_ptr(), self._factors, *places, *self._sizes)

    def gradient(self, grad: Tensor, gradient: Tensor) -> None:
        """Fill the gradient of weights from that of their product."""
        _, inputs, _, threads = self._sizes
        widest = self._windows[-1].block  # it has the fewest steps, if not as many as the others
        scratch = torch.empty(threads * inputs * widest, dtype=torch.float32)
        for window, lists in zip(self._windows, self._lists, strict=True):
            places = grad.data_ptr() + window.y, gradient.data_ptr(), scratch.data_ptr()
            window.library.gradient(lists.data_ptr(), self._factors, *places, *self._sizes, window.y > 0)


@functools.cache
def _compiled(words: torch.dtype, steps: int) -> Any:
    """The functions below for one window of ``steps`` steps in words of a type."""
    source = SOURCE.replace("WORD", _cpp.TYPES[words]).replace("WINDOW", str(steps))
    library = _cpp.library(source, "-ffp-contract=fast")
    address, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    of_product: list[Any] = [*[address] * 5, *[size] * 3, number]
    library.list_active.argtypes, library.list_active.restype = [*[address] * 4, size, size, number, number], size
    library.block.argtypes, library.block.restype = [], size
    library.product.argtypes, library.product.restype = [address, *of_product], None
    library.gradient.argtypes, library.gradient.restype = [*of_product, number], None
    library.gradient_of_few.argtypes, library.gradient_of_few.restype = [*of_product, number, number], None
    return library


SOURCE = """\
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

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

// The steps of a window as numbers, for each pattern of its bits.
struct Spelled {
    float spikes[PATTERNS][STEPS];
    Spelled() {
        for (uint32_t pattern = 0; pattern < PATTERNS; ++pattern)
            for (int64_t t = 0; t < STEPS; ++t) spikes[pattern][t] = (float)(pattern >> t & 1);
    }
};
static const Spelled spelled;

// Who fires in a window: 8 bits say when, 24 bits which input. A sample's list is in the order of these numbers, where
// inputs that fire at the same steps follow one another.
using Active = uint32_t;
static inline uint32_t pattern_of(Active who) { return who >> 24; }
static inline int64_t input_of(Active who) { return who & 0xffffff; }
static inline Active active(uint32_t pattern, int64_t input) { return pattern << 24 | (uint32_t)input; }

// The window's steps at which a neuron fires.
static inline uint32_t pattern_in(Word word, int32_t bit) { return (uint32_t)word >> bit & (PATTERNS - 1); }

// Where a sample's list begins, and the one before it ends.
static inline const Active* list_of(int64_t b, const Active* lists, int64_t batch) {
    return lists + batch + 1 + lists[b];
}

// Factors, where there are some, are those of dropout: one for all steps, and 0 is silence.
template <bool dropped>
static inline uint32_t found_in(const Word* words, const float* factors, int64_t inputs, int32_t bit, Active* found) {
    uint32_t count = 0;
    for (int64_t j = 0; j < inputs; ++j) {
        const uint32_t pattern = pattern_in(words[j], bit);
        found[count] = active(pattern, j);
        count += pattern != 0 && (!dropped || factors[j] != 0);
    }
    return count;
}

// By counting, which leaves inputs of one pattern as they come.
static inline void sort(const Active* from, Active* to, uint32_t count) {
    uint32_t places[PATTERNS] = {}, before = 0;
    for (uint32_t n = 0; n < count; ++n) ++places[pattern_of(from[n])];
    for (uint32_t& place : places) {
        const uint32_t size = place;
        place = before;
        before += size;
    }
    for (uint32_t n = 0; n < count; ++n) to[places[pattern_of(from[n])]++] = from[n];
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

// sums[v] += factor * x[v], for one block.
template <int64_t wide>
static inline void add(Vector (&sums)[wide], float factor, const Vector (&x)[wide]) {
    const Vector times = factor - Vector{};
    #pragma GCC unroll 8
    for (int64_t v = 0; v < wide; ++v) sums[v] += times * x[v];
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

// Fills `lists` of a window: where each sample's begins and where the last one ends, counted from what follows, and
// then all of them, one after the other; `unsorted` is room for (batch, inputs). Returns how many fire.
extern "C" int64_t list_active(
    const Word* words, const float* factors, Active* lists, Active* unsorted,
    int64_t batch, int64_t inputs, int32_t threads, int32_t bit
) {
    Active* const all = lists + batch + 1;
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < batch; ++b) {
        const int64_t first = b * inputs;
        lists[b + 1] = factors ? found_in<true>(words + first, factors + first, inputs, bit, unsorted + first)
                               : found_in<false>(words + first, factors, inputs, bit, unsorted + first);
    }
    lists[0] = 0;
    for (int64_t b = 0; b < batch; ++b) lists[b + 1] += lists[b];
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < batch; ++b) sort(unsorted + b * inputs, all + lists[b], lists[b + 1] - lists[b]);
    return lists[batch];
}

extern "C" int64_t block() { return WIDE * LANES; }

static inline int64_t vectors_of(int64_t outputs) { return (outputs + LANES - 1) / LANES; }

// run.template operator()<wide>() for a block that is so wide.
template <int64_t wide = WIDE, class Run>
static inline void block_of(int64_t vectors, Run run) {
    if constexpr (wide > 1) {
        if (vectors < wide) return block_of<wide - 1>(vectors, run);
    }
    run(std::integral_constant<int64_t, wide>{});
}

// y (STEPS, batch, outputs) from weight (outputs, inputs). `turned` has room for the weights transposed, block by
// block, with `outputs` rounded up to whole vectors. Inputs that fire at the same steps are added up first, and their
// sum then once to each of these. The lists are copied to `kept`, if they are not there.
extern "C" void product(
    const Active* lists, Active* kept, const float* factors, const float* weight, float* y, float* turned,
    int64_t batch, int64_t inputs, int64_t outputs, int32_t threads
) {
    const int64_t vectors = vectors_of(outputs), blocks = (vectors + WIDE - 1) / WIDE;
    if (kept != lists) std::memcpy(kept, lists, (batch + 1 + lists[batch]) * sizeof(Active));
    #pragma omp parallel num_threads(threads)
    {
        #pragma omp for schedule(static)
        for (int64_t vector = 0; vector < vectors; ++vector) {
            const int64_t k = ((vector + 1) * blocks - 1) / vectors;  // its block
            const int64_t first = vectors * k / blocks, row = (vectors * (k + 1) / blocks - first) * LANES;
            float* const stripe = turned + first * LANES * inputs + (vector - first) * LANES;
            const int64_t o = vector * LANES, rows = std::min(LANES, outputs - o);
            if (rows < LANES)  // sums of what is no output are nothing, and not of whatever was there before
                for (int64_t j = 0; j < inputs; ++j) *(Vector*)(stripe + j * row) = Vector{};
            transpose<false>(weight + o * inputs, inputs, stripe, row, rows, inputs);
        }
        #pragma omp for schedule(static)
        for (int64_t task = 0; task < batch * blocks; ++task) {
            const int64_t k = task / batch, b = task % batch;
            const int64_t first = vectors * k / blocks, end = vectors * (k + 1) / blocks;
            const float* const stripe = turned + first * LANES * inputs;
            block_of(end - first, [=](auto width) {
                constexpr int64_t wide = width;
                const Active* n = list_of(b, lists, batch);
                const Active* const last = list_of(b + 1, lists, batch);
                Vector sums[STEPS][wide] = {};
                while (n < last) {
                    const uint32_t pattern = pattern_of(*n);
                    Vector sum[wide] = {};
                    do {
                        const float* const row = stripe + input_of(*n) * wide * LANES;
                        Vector w[wide];
                        #pragma GCC unroll 8
                        for (int64_t v = 0; v < wide; ++v) w[v] = *(const Vector*)(row + v * LANES);
                        add(sum, factors ? factors[b * inputs + input_of(*n)] : 1.0f, w);
                    } while (++n < last && pattern_of(*n) == pattern);
                    #pragma GCC unroll 8
                    for (int64_t t = 0; t < STEPS; ++t) add(sums[t], spelled.spikes[pattern][t], sum);
                }
                #pragma GCC unroll 8
                for (int64_t t = 0; t < STEPS; ++t)
                    #pragma GCC unroll 8
                    for (int64_t v = 0; v < wide; ++v) {
                        const int64_t o = (first + v) * LANES;
                        store(y + (t * batch + b) * outputs + o, sums[t][v], outputs - o);
                    }
            });
        }
    }
}

// gradient (outputs, inputs) from grad (STEPS, batch, outputs), or added to it. Each task has some of the outputs, and
// `rows` room for a block of each. What the errors of a pattern's steps add up to serves all inputs of the pattern.
extern "C" void gradient(
    const Active* lists, const float* factors, const float* grad, float* gradient, float* rows,
    int64_t batch, int64_t inputs, int64_t outputs, int32_t threads, int32_t more
) {
    const int64_t vectors = vectors_of(outputs), tasks = std::min<int64_t>(threads, vectors);
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t task = 0; task < tasks; ++task) {
        float* const sums = rows + task * WIDE * LANES * inputs;
        const int64_t start = vectors * task / tasks, size = vectors * (task + 1) / tasks - start;
        const int64_t blocks = (size + WIDE - 1) / WIDE;
        for (int64_t k = 0; k < blocks; ++k) {
            const int64_t first = start + size * k / blocks, end = start + size * (k + 1) / blocks;
            block_of(end - first, [=](auto width) {
                constexpr int64_t wide = width;
                std::memset(sums, 0, inputs * wide * LANES * sizeof(float));
                for (int64_t b = 0; b < batch; ++b) {
                    const Active* n = list_of(b, lists, batch);
                    const Active* const last = list_of(b + 1, lists, batch);
                    Vector errors[STEPS][wide];
                    #pragma GCC unroll 8
                    for (int64_t t = 0; t < STEPS; ++t)
                        #pragma GCC unroll 8
                        for (int64_t v = 0; v < wide; ++v) {
                            const int64_t o = (first + v) * LANES;
                            errors[t][v] = load(grad + (t * batch + b) * outputs + o, outputs - o);
                        }
                    while (n < last) {
                        const uint32_t pattern = pattern_of(*n);
                        Vector error[wide] = {};
                        #pragma GCC unroll 8
                        for (int64_t t = 0; t < STEPS; ++t) add(error, spelled.spikes[pattern][t], errors[t]);
                        do {
                            float* const row = sums + input_of(*n) * wide * LANES;
                            Vector sum[wide];
                            #pragma GCC unroll 8
                            for (int64_t v = 0; v < wide; ++v) sum[v] = *(const Vector*)(row + v * LANES);
                            add(sum, factors ? factors[b * inputs + input_of(*n)] : 1.0f, error);
                            #pragma GCC unroll 8
                            for (int64_t v = 0; v < wide; ++v) *(Vector*)(row + v * LANES) = sum[v];
                        } while (++n < last && pattern_of(*n) == pattern);
                    }
                }
                float* const target = gradient + first * LANES * inputs;
                const int64_t columns = std::min(wide * LANES, outputs - first * LANES);
                if (more) transpose<true>(sums, wide * LANES, target, inputs, inputs, columns);
                else transpose<false>(sums, wide * LANES, target, inputs, inputs, columns);
            });
        }
    }
}

// gradient (outputs, inputs) of few outputs, or added to it. Whoever fires at the same steps of a sample has the same
// error: those of all patterns are added up first. Each task has some of the inputs, and `rows` a vector for each.
extern "C" void gradient_of_few(
    const Word* words, const float* factors, const float* grad, float* gradient, float* rows,
    int64_t batch, int64_t inputs, int64_t outputs, int32_t threads, int32_t bit, int32_t more
) {
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int32_t task = 0; task < threads; ++task) {
        const int64_t start = inputs * task / threads, size = inputs * (task + 1) / threads - start;
        float* const sums = rows + start * LANES;
        for (int64_t first = 0; first < outputs; first += LANES) {
            const int64_t here = std::min(LANES, outputs - first);
            std::memset(sums, 0, size * LANES * sizeof(float));
            for (int64_t b = 0; b < batch; ++b) {
                Vector errors[PATTERNS];
                errors[0] = Vector{};
                for (int64_t t = 0; t < STEPS; ++t) {
                    const Vector error = load(grad + (t * batch + b) * outputs + first, here);
                    for (uint32_t before = 0; before < 1u << t; ++before)
                        errors[(1u << t) + before] = errors[before] + error;
                }
                const int64_t from = b * inputs + start;
                for (int64_t j = 0; j < size; ++j) {
                    const Vector error = errors[pattern_in(words[from + j], bit)];
                    *(Vector*)(sums + j * LANES) += (factors ? factors[from + j] : 1.0f) * error;
                }
            }
            float* const target = gradient + first * inputs + start;
            if (more) transpose<true>(sums, LANES, target, inputs, size, here);
            else transpose<false>(sums, LANES, target, inputs, size, here);
        }
    }
}
"""
