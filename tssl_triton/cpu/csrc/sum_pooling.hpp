// Sum pooling of images, its transpose, and pooling of bit-packed spikes. Comes after halves.hpp. Compiled once for each
// window size and pair of types: -DWINDOW_HEIGHT=2 -DWINDOW_WIDTH=2 -DSOURCE=Plain<float> -DTARGET=Plain<float>, and
// -DFUNCTION=add, spread or count.
#include <algorithm>
#include <cstdint>
#include <vector>

constexpr int64_t window_height = WINDOW_HEIGHT, window_width = WINDOW_WIDTH;

// Images in memory: rows of elements of `depth` numbers, all channels if these come last, else one.
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

// Pools one plane; `sums` is scratch for the sums of its columns.
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

// The transpose: writes each window's gradient, times `scale`, to all of its elements. `wide` is scratch for one image
// row of each row of windows.
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

template <class From, class T>
static void add(
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

template <class From, class T>
static void spread(
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

// Counts the spikes of a window for several steps at once: each step has a field of bits that can hold the count.
constexpr int64_t elements = window_height * window_width;
constexpr int FIELD = elements < 1 << 4 ? 4 : elements < 1 << 8 ? 8 : elements < 1 << 16 ? 16 : 32;
constexpr int TOGETHER = 32 / FIELD;

// The lowest n bits of every n fields.
constexpr uint32_t lowest(int n) {
    uint32_t all = 0;
    for (int k = 0; k < TOGETHER; k += n) all |= ((1u << n) - 1) << k * FIELD;
    return all;
}

// Moves each of the lowest bits to the start of its field: the upper half to the upper fields, then the same in each
// half.
template <int n = TOGETHER / 2>
static inline uint32_t apart(uint32_t bits) {
    if constexpr (n == 0) return bits;
    else return apart<n / 2>((bits | bits << n * (FIELD - 1)) & lowest(n));
}

// Pools bit-packed spikes of `steps` steps. `channels` is 1, or the number of planes of an image whose result is
// written with channels last.
template <class Word, class T>
static void count(
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

extern "C" void pool(
    const SOURCE::Memory* from, TARGET::Memory* to, int64_t planes, int64_t height, int64_t width, int64_t depth,
    int64_t steps, int64_t channels, double scale, int32_t threads
) {
    const Images x = {planes, height, width, depth};
    FUNCTION<SOURCE, TARGET>(from, to, x, steps, channels, (TARGET::Register)scale, threads);
}
