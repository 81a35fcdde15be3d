// Vectors of W floats, written once with the compiler's vector extension (gcc, clang) and compiled once per
// instruction set: the flags of the translation unit decide what `+` becomes. Only float16 and writes
// past the caches need intrinsics on x86.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__F16C__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace ddis::DDIS_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

using half = _Float16;
struct bfloat16 {
    uint16_t bits;
};

template <class E, int W>
struct VectorOf {
    typedef E type __attribute__((vector_size(W * sizeof(E))));
};
template <int W>
using Floats = typename VectorOf<float, W>::type;
template <int W>
using Ints = typename VectorOf<int32_t, W>::type;
template <int W>
using Words = typename VectorOf<uint32_t, W>::type;
template <int W>
using Shorts = typename VectorOf<uint16_t, W>::type;
template <int W>
using Halves = typename VectorOf<half, W>::type;

template <class To, class From>
inline To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

template <int W>
inline Floats<W> fill(float value) {
    return value - Floats<W>{};
}

template <int W>
inline Floats<W> load(const float* from) {
    Floats<W> v;
    std::memcpy(&v, from, sizeof(v));
    return v;
}

template <int W>
inline void store(float* to, Floats<W> v) {
    std::memcpy(to, &v, sizeof(v));
}

template <int W>
inline Floats<W> load(const bfloat16* from) {
    Shorts<W> bits;
    std::memcpy(&bits, from, sizeof(bits));
    return bit_cast<Floats<W>>(__builtin_convertvector(bits, Words<W>) << 16);
}

// Rounds to nearest, ties to even, as torch does; a NaN stays one.
template <int W>
inline void store(bfloat16* to, Floats<W> v) {
    const auto wide = bit_cast<Words<W>>(v);
    const Words<W> rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
    const Words<W> bits = v == v ? rounded : (wide >> 16) | 0x40;
    const auto narrow = __builtin_convertvector(bits, Shorts<W>);
    std::memcpy(to, &narrow, sizeof(narrow));
}

template <int W>
inline Floats<W> load(const half* from) {
#if defined(__AVX512F__)
    if constexpr (W == 16) return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#endif
#if defined(__F16C__)
    if constexpr (W == 8) return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    if constexpr (W == 4) return _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#endif
    Halves<W> v;
    std::memcpy(&v, from, sizeof(v));
    return __builtin_convertvector(v, Floats<W>);
}

template <int W>
inline void store(half* to, Floats<W> v) {
#if defined(__AVX512F__)
    if constexpr (W == 16) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
        return;
    }
#endif
#if defined(__F16C__)
    if constexpr (W == 8) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
        return;
    }
    if constexpr (W == 4) {
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
        return;
    }
#endif
    const auto narrow = __builtin_convertvector(v, Halves<W>);
    std::memcpy(to, &narrow, sizeof(narrow));
}

// Whole lines written past the caches need not be read first: a third less traffic for what reads x and
// writes y. Only where the address allows it, and followed by `end_writes`.
template <int W, class T>
inline void store(T* to, Floats<W> v, [[maybe_unused]] bool past_caches) {
#if defined(__AVX2__)
    if constexpr (std::is_same_v<T, float> && W == kWidth)
        if (past_caches && reinterpret_cast<uintptr_t>(to) % sizeof(v) == 0) {
#if defined(__AVX512F__)
            _mm512_stream_ps(to, v);
#else
            _mm256_stream_ps(to, v);
#endif
            return;
        }
#endif
    store<W>(to, v);
}

// Before another thread reads what was written past the caches.
inline void end_writes() {
#if defined(__AVX2__)
    _mm_sfence();
#endif
}

template <int W>
inline float horizontal_sum(Floats<W> v) {
    if constexpr (W == 1) {
        return v[0];
    } else {
        Floats<W / 2> halves[2];
        std::memcpy(halves, &v, sizeof(v));
        return horizontal_sum<W / 2>(halves[0] + halves[1]);
    }
}

// Zero in the lanes before `first`.
template <int W>
inline Floats<W> keep_from(int first, Floats<W> v) {
    Ints<W> lane;
    for (int i = 0; i < W; ++i) lane[i] = i;
    return lane >= first ? v : Floats<W>{};
}

// exp(x) within 2 ulp for |x| < 87, by 2^n * p(r) with Cephes' polynomial on |r| <= ln(2)/2. Saturates
// beyond.
template <int W>
inline Floats<W> exponential(Floats<W> x) {
    x = x > 87.0f ? fill<W>(87.0f) : x;
    x = x < -87.0f ? fill<W>(-87.0f) : x;
    const Floats<W> scaled = x * 1.44269504f;
    const Ints<W> n =
        __builtin_convertvector(scaled + (scaled < 0.0f ? fill<W>(-0.5f) : fill<W>(0.5f)), Ints<W>);
    const Floats<W> whole = __builtin_convertvector(n, Floats<W>);
    const Floats<W> r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    Floats<W> p = fill<W>(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * bit_cast<Floats<W>>((n + 127) << 23);
}

template <int W>
inline Floats<W> sigmoid(Floats<W> z) {
    const Floats<W> s = 1.0f / (1.0f + exponential<W>(-z));
    return z < -87.0f ? Floats<W>{} : s;  // where the exponential saturates
}

}  // namespace ddis::DDIS_ISA
