// float16 and bfloat16: integers in memory, floats in registers. C++17 has no such types, and GCC 12 does not vectorise
// the compilers' own. A value is a float that the narrow type can represent; it is converted when read, rounded and
// stored.
#include <cstdint>
#include <cstring>

template <class To, class From> static inline To bits_of(From x) {
    static_assert(sizeof(To) == sizeof(From), "the same number of bits");
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}

// `as_*` rounds to nearest, ties to even, like PyTorch, and keeps NaN. `to_*` returns the bits of a float that is
// already rounded. Conditional expressions instead of branches let the compiler vectorise.
static inline float from_bfloat16(uint16_t bits) { return bits_of<float>((uint32_t)bits << 16); }
static inline uint16_t to_bfloat16(float x) { return (uint16_t)(bits_of<uint32_t>(x) >> 16); }
static inline float as_bfloat16(float x) {
    const uint32_t bits = bits_of<uint32_t>(x);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    return bits_of<float>(x != x ? 0x7fc00000u : rounded);
}

// Below 2^-14 a float16 is a multiple of 2^-24, which is also the spacing of floats between 1/2 and 1.
static inline float from_float16(uint16_t half) {
    const uint32_t size = half & 0x7fffu, normal = (size << 13) + (112u << 23);
    const uint32_t all = size >= 0x7c00u ? normal + (112u << 23) : normal;
    const uint32_t bits = size < 0x400u ? bits_of<uint32_t>((float)(int32_t)size * 0x1p-24f) : all;
    return bits_of<float>(bits | (uint32_t)(half & 0x8000u) << 16);
}
static inline float as_float16(float x) {
    const uint32_t bits = bits_of<uint32_t>(x), size = bits & 0x7fffffffu;
    const uint32_t normal = (size + 0xfffu + ((size >> 13) & 1u)) & 0xffffe000u;
    const uint32_t small = bits_of<uint32_t>((bits_of<float>(size) + 0.5f) - 0.5f);
    const uint32_t finite = size < 0x38800000u ? small : normal;
    const uint32_t all = size >= 0x477ff000u ? 0x7f800000u : finite;  // 65520 and above round to infinity
    return bits_of<float>((size > 0x7f800000u ? 0x7fc00000u : all) | (bits & 0x80000000u));
}
static inline uint16_t to_float16(float x) {
    const uint32_t bits = bits_of<uint32_t>(x), size = bits & 0x7fffffffu;
    const uint32_t normal = (size - (112u << 23)) >> 13;
    const uint32_t small = (uint32_t)(int32_t)(bits_of<float>(size < 0x38800000u ? size : 0u) * 0x1p24f);
    const uint32_t finite = size < 0x38800000u ? small : normal;
    const uint32_t all = size > 0x7f800000u ? 0x7e00u : size == 0x7f800000u ? 0x7c00u : finite;
    return (uint16_t)(all | (bits >> 16 & 0x8000u));
}

// How a type is stored in memory, held in registers, and converted from one to the other.
template <class T> struct Plain {
    using Memory = T;
    using Register = T;
    static inline T read(T x) { return x; }
    static inline T written(T x) { return x; }
};
template <class T> using Memory = typename T::Memory;
template <class T> using Register = typename T::Register;
struct Halves_float16 {
    using Memory = uint16_t;
    using Register = float;
    static inline float read(uint16_t x) { return from_float16(x); }
    static inline uint16_t written(float x) { return to_float16(as_float16(x)); }
};
struct Halves_bfloat16 {
    using Memory = uint16_t;
    using Register = float;
    static inline float read(uint16_t x) { return from_bfloat16(x); }
    static inline uint16_t written(float x) { return to_bfloat16(as_bfloat16(x)); }
};
