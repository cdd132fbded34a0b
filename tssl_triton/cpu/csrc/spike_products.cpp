// Products of bit-packed spikes with the weights of a fully connected layer, and the weights' gradient. Compiled once
// for each number of steps in a window and type of words: -DWINDOW=8 -DWORD=uint8_t.
//
// Most of the time goes into adding vectors of weights or errors. Inputs of a sample that fire at the same steps have
// the same pattern of bits, and their vectors are added only once for the whole pattern. Every sum has one order,
// whatever the number of threads.
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

// A block of outputs has as many vectors as fit into registers with one sum per step.
constexpr int64_t WIDE = std::max<int64_t>(1, std::min<int64_t>(8, (REGISTERS - 6) / STEPS));

// The spikes of a window as numbers, for each pattern of its bits.
struct Patterns {
    float spikes[PATTERNS][STEPS];
    Patterns() {
        for (uint32_t pattern = 0; pattern < PATTERNS; ++pattern)
            for (int64_t t = 0; t < STEPS; ++t) spikes[pattern][t] = (float)(pattern >> t & 1);
    }
};
static const Patterns patterns;

// An active input of a window: its pattern in 8 bits, its index in 24. A sample's list is sorted by these numbers, so
// that inputs with the same pattern are adjacent.
using Active = uint32_t;
static inline uint32_t pattern_of(Active entry) { return entry >> 24; }
static inline int64_t input_of(Active entry) { return entry & 0xffffff; }
static inline Active active(uint32_t pattern, int64_t input) { return pattern << 24 | (uint32_t)input; }

// The steps of the window at which a neuron fires, as bits.
static inline uint32_t pattern_in(Word word, int32_t bit) { return (uint32_t)word >> bit & (PATTERNS - 1); }

// Start of a sample's list, which is the end of the list before it. `lists` has batch + 1 offsets, then all lists.
static inline const Active* list_of(int64_t b, const Active* lists, int64_t batch) {
    return lists + batch + 1 + lists[b];
}

// Writes a sample's active inputs to `found`. Factors, if any, are those of dropout, one for all steps; an input with a
// factor of 0 is not active.
template <bool dropped>
static inline uint32_t find_active(const Word* words, const float* factors, int64_t inputs, int32_t bit, Active* found) {
    uint32_t count = 0;
    for (int64_t j = 0; j < inputs; ++j) {
        const uint32_t pattern = pattern_in(words[j], bit);
        found[count] = active(pattern, j);
        count += pattern != 0 && (!dropped || factors[j] != 0);
    }
    return count;
}

// A stable counting sort by pattern.
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

static inline Vector load(const float* from, int64_t count) {
    if (count >= LANES) return *(const Vector*)from;
    Vector x = {};
    for (int64_t n = 0; n < count; ++n) x[n] = from[n];
    return x;
}

static inline void store(float* to, Vector x, int64_t count) {
    if (count >= LANES) *(Vector*)to = x;
    else for (int64_t n = 0; n < count; ++n) to[n] = x[n];
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

// b[c][r] = a[r][c], or += with `accumulate`.
template <bool accumulate>
static inline void move(float from, float* to) { *to = accumulate ? *to + from : from; }

template <bool accumulate>
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
            const Four columns_of[4] = {
                __builtin_shufflevector(wx, yz, 0, 1, 4, 5), __builtin_shufflevector(wx, yz, 2, 3, 6, 7),
                __builtin_shufflevector(WX, YZ, 0, 1, 4, 5), __builtin_shufflevector(WX, YZ, 2, 3, 6, 7)};
            for (int i = 0; i < 4; ++i) {
                Four* const target = (Four*)(to + i * row_b);
                *target = accumulate ? *target + columns_of[i] : columns_of[i];
            }
        }
        for (; c < columns; ++c)
            for (int64_t r = done; r < done + 4; ++r) move<accumulate>(a[r * row_a + c], b + c * row_b + r);
    }
#endif
    for (int64_t r = done; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) move<accumulate>(a[r * row_a + c], b + c * row_b + r);
}

// Lists the active inputs of a window in `lists`: for each sample the offset of its list, then the end of the last
// list, then the lists. `unsorted` is scratch (batch, inputs). Returns the number of active inputs.
extern "C" int64_t list_active(
    const Word* words, const float* factors, Active* lists, Active* unsorted,
    int64_t batch, int64_t inputs, int32_t threads, int32_t bit
) {
    Active* const all = lists + batch + 1;
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < batch; ++b) {
        const int64_t first = b * inputs;
        lists[b + 1] = factors ? find_active<true>(words + first, factors + first, inputs, bit, unsorted + first)
                               : find_active<false>(words + first, factors, inputs, bit, unsorted + first);
    }
    lists[0] = 0;
    for (int64_t b = 0; b < batch; ++b) lists[b + 1] += lists[b];
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < batch; ++b) sort(unsorted + b * inputs, all + lists[b], lists[b + 1] - lists[b]);
    return lists[batch];
}

// Outputs in the widest block.
extern "C" int64_t block() { return WIDE * LANES; }

static inline int64_t vectors_of(int64_t outputs) { return (outputs + LANES - 1) / LANES; }

// Calls `run` with the width of a block, in vectors, as a compile-time constant.
template <int64_t wide = WIDE, class Run>
static inline void block_of(int64_t vectors, Run run) {
    if constexpr (wide > 1) {
        if (vectors < wide) return block_of<wide - 1>(vectors, run);
    }
    run(std::integral_constant<int64_t, wide>{});
}

// y (STEPS, batch, outputs) from weight (outputs, inputs). `transposed` is scratch for the transposed weights, block by
// block, with `outputs` rounded up to whole vectors. The weights of a pattern's inputs are added first, then their sum
// to each of the pattern's steps.
extern "C" void product(
    const Active* lists, const float* factors, const float* weight, float* y, float* transposed,
    int64_t batch, int64_t inputs, int64_t outputs, int32_t threads
) {
    const int64_t vectors = vectors_of(outputs), blocks = (vectors + WIDE - 1) / WIDE;
    #pragma omp parallel num_threads(threads)
    {
        #pragma omp for schedule(static)
        for (int64_t vector = 0; vector < vectors; ++vector) {
            const int64_t k = ((vector + 1) * blocks - 1) / vectors;  // its block
            const int64_t first = vectors * k / blocks, row = (vectors * (k + 1) / blocks - first) * LANES;
            float* const stripe = transposed + first * LANES * inputs + (vector - first) * LANES;
            const int64_t o = vector * LANES, rows = std::min(LANES, outputs - o);
            if (rows < LANES)  // the last vector's unused lanes must not sum uninitialised memory
                for (int64_t j = 0; j < inputs; ++j) *(Vector*)(stripe + j * row) = Vector{};
            transpose<false>(weight + o * inputs, inputs, stripe, row, rows, inputs);
        }
        #pragma omp for schedule(static)
        for (int64_t task = 0; task < batch * blocks; ++task) {
            const int64_t k = task / batch, b = task % batch;
            const int64_t first = vectors * k / blocks, end = vectors * (k + 1) / blocks;
            const float* const stripe = transposed + first * LANES * inputs;
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
                    for (int64_t t = 0; t < STEPS; ++t) add(sums[t], patterns.spikes[pattern][t], sum);
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

// gradient (outputs, inputs) from grad (STEPS, batch, outputs), or += with `accumulate`. Each task takes some of the
// outputs; `rows` is scratch for one block per task. The errors of a pattern's steps are added once for all its inputs.
extern "C" void gradient(
    const Active* lists, const float* factors, const float* grad, float* gradient, float* rows,
    int64_t batch, int64_t inputs, int64_t outputs, int32_t threads, int32_t accumulate
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
                        for (int64_t t = 0; t < STEPS; ++t) add(error, patterns.spikes[pattern][t], errors[t]);
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
                if (accumulate) transpose<true>(sums, wide * LANES, target, inputs, inputs, columns);
                else transpose<false>(sums, wide * LANES, target, inputs, inputs, columns);
            });
        }
    }
}

// gradient (outputs, inputs) for few outputs, or += with `accumulate`. The errors of all patterns are added first; each
// input then looks its own up. Each task takes some of the inputs; `rows` is scratch for one vector per input.
extern "C" void gradient_of_few(
    const Word* words, const float* factors, const float* grad, float* gradient, float* rows,
    int64_t batch, int64_t inputs, int64_t outputs, int32_t threads, int32_t bit, int32_t accumulate
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
            if (accumulate) transpose<true>(sums, LANES, target, inputs, size, here);
            else transpose<false>(sums, LANES, target, inputs, size, here);
        }
    }
}
