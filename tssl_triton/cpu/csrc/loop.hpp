// Functions that a generated loop calls, and `window`, which runs the loop on several threads. Comes after halves.hpp
// and before the generated function `part`.
#include <cmath>
#if defined(__SSE2__)
#include <xmmintrin.h>

// While an object of this type lives, subnormal numbers count as 0. Values that decay for hundreds of steps become
// subnormal, and x86 processors take about a hundred cycles for each.
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

// a b + c, rounded once where the processor has such an instruction. Used only for functions whose results differ from
// PyTorch's anyway.
static inline float fused(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

static inline double exponential(double x) { return std::exp(x); }

// e^x = 2^k e^r with x = k log 2 + r, and Cephes' expf polynomial for e^r; x from -87 to 88.
static inline float exponential(float x) {
    const float shifted = fused(x, 1.44269504f, 12582912.0f);  // 1.5 2^23: the nearest integer is in the last bits
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

// 1 / x for x from 2^-125 to 2^125, faster than a division: a first guess within 5 %, then two steps that each cube
// the error.
static inline float inverse(float x) {
    float y = bits_of<float>(0x7ef311c7 - bits_of<int32_t>(x));
    float e = fused(-x, y, 1.0f);
    y = fused(y, fused(e, e, e), y);
    e = fused(-x, y, 1.0f);
    return fused(y, fused(e, e, e), y);
}

// Row k of an argument. `place` holds two numbers: the first row's offset from the tensor's address, and the distance
// from one row to the next, both in bytes.
template <class T> static inline T* row(int64_t address, const int64_t* place, int64_t k) {
    return reinterpret_cast<T*>(address + place[0] + k * place[1]);
}

// The generated loop over neurons `first` to `end`. `addresses` has one entry for each tensor; `places` has two for
// each argument, of which a number uses the first.
static void part(int64_t first, int64_t end, const int64_t* addresses, const int64_t* places);

extern "C" void window(int64_t neurons, int32_t threads, const int64_t* addresses, const int64_t* places) {
    const int64_t share = ((neurons + threads - 1) / threads + 63) / 64 * 64;  // whole vectors and cache lines
    #pragma omp parallel for schedule(static) num_threads(threads) if(threads > 1)
    for (int32_t thread = 0; thread < threads; ++thread) {
        const int64_t first = thread * share, end = first + share;
        part(first, end < neurons ? end : neurons, addresses, places);
    }
}
