// The gradient of moments, alone or beside that of act(scale x + shift): one pass, elementwise.
//
//     gx = scale gy act'(scale x + shift) + offset + slope (x - mean)
//
// `x - mean` and not `slope x` with the rest folded into `offset`: that would cancel where |mean| >>
// deviation.
#pragma once

#include "moments.hpp"

namespace ddis::DDIS_ISA {

// The constants of one channel, or of W neighbouring ones.
template <int W>
struct Constants {
    Floats<W> k, b, offset, slope, mean;
};

struct Affine {
    static constexpr bool kReadsGradient = false;
};

template <Activation kind>
struct Through {
    static constexpr bool kReadsGradient = true;
    static constexpr Activation kActivation = kind;
};

// gy act'(z)
template <Activation kind, int W>
inline Floats<W> pull_back(Floats<W> gy, Floats<W> z) {
    if constexpr (kind == Activation::kRelu) return z <= 0.0f ? Floats<W>{} : gy;
    if constexpr (kind == Activation::kSilu) {
        const Floats<W> s = sigmoid<W>(z);
        return gy * (s * (1.0f + z * (1.0f - s)));
    }
    return gy;
}

template <int W, class Op, class T>
inline void gradient_at(const T* x, const T* gy, T* gx, const Constants<W>& at, bool past_caches) {
    const Floats<W> v = load<W>(x);
    Floats<W> g = at.slope * (v - at.mean) + at.offset;
    if constexpr (Op::kReadsGradient) g += at.k * pull_back<Op::kActivation, W>(load<W>(gy), v * at.k + at.b);
    store<W>(gx, g, past_caches);
}

struct Pointers {
    const float *scale, *shift, *offset, *slope, *mean;

    template <int W, class Op>
    Constants<W> vector_at(int64_t c) const {
        Constants<W> at{{}, {}, load<W>(offset + c), load<W>(slope + c), load<W>(mean + c)};
        if constexpr (Op::kReadsGradient) at.k = load<W>(scale + c), at.b = load<W>(shift + c);
        return at;
    }
    template <int W, class Op>
    Constants<W> spread(int64_t c) const {
        Constants<W> at{{}, {}, fill<W>(offset[c]), fill<W>(slope[c]), fill<W>(mean[c])};
        if constexpr (Op::kReadsGradient) at.k = fill<W>(scale[c]), at.b = fill<W>(shift[c]);
        return at;
    }
};

// A range of planes of one group.
template <int W, class Op, class T>
void planes(const T* x, const T* gy, T* gx, const Shape& shape, Range range, const Pointers& of) {
    const int64_t pixels = shape.pixels;
    const bool past_caches = shape.outgrows_caches(sizeof(T));
    for (int64_t plane = range.begin; plane < range.end; ++plane) {
        const Constants<W> at = of.spread<W, Op>(plane % shape.channels);
        const int64_t start = plane * pixels;
        auto step = [&](int64_t i) {
            gradient_at<W, Op>(x + start + i, Op::kReadsGradient ? gy + start + i : nullptr, gx + start + i,
                               at, past_caches);
        };
        int64_t i = 0;
        for (; i + W <= pixels; i += W) step(i);
        if (i < pixels) step(pixels - W);
    }
}

// A range of rows of one group.
template <int W, class Op, class T>
void rows(const T* x, const T* gy, T* gx, const Shape& shape, Range range, const Pointers& of) {
    const int64_t channels = shape.channels;
    const bool past_caches = shape.outgrows_caches(sizeof(T));
    for (int64_t row = range.begin; row < range.end; ++row) {
        auto step = [&](int64_t c) {
            const int64_t i = row * channels + c;
            gradient_at<W, Op>(x + i, Op::kReadsGradient ? gy + i : nullptr, gx + i, of.vector_at<W, Op>(c),
                               past_caches);
        };
        int64_t c = 0;
        for (; c + W <= channels; c += W) step(c);
        if (c < channels) step(channels - W);
    }
}

template <int W, class Op, class T>
void gradient(const T* x, const T* gy, T* gx, const Shape& shape, const Pointers& of, int limit) {
    const int64_t per_group = shape.interleaved ? shape.count() : shape.images * shape.channels;
    const int64_t arrays = Op::kReadsGradient ? 3 : 2;
    const int parts = threads_for(arrays * shape.groups * shape.group_size(), limit);
    parallel(parts, [&](int part) {
        const Range mine = share(shape.groups * per_group, part, parts);
        for (int64_t g = mine.begin / per_group; g * per_group < mine.end; ++g) {
            const Range range{std::max(mine.begin - g * per_group, int64_t{0}),
                              std::min(mine.end - g * per_group, per_group)};
            const int64_t start = g * shape.group_size(), c = g * shape.channels;
            const Pointers at{of.scale, of.shift, of.offset + c, of.slope + c, of.mean + c};
            const T* gy_at = Op::kReadsGradient ? gy + start : nullptr;
            if (shape.interleaved)
                rows<W, Op>(x + start, gy_at, gx + start, shape, range, at);
            else
                planes<W, Op>(x + start, gy_at, gx + start, shape, range, at);
        }
        end_writes();
    });
}

template <class Op, class T>
void differentiate(const T* x, const T* gy, T* gx, const Shape& shape, const Pointers& of, int limit) {
    const int64_t neighbours = shape.interleaved ? shape.channels : shape.pixels;
    if (neighbours >= kWidth)
        gradient<kWidth, Op>(x, gy, gx, shape, of, limit);
    else if (neighbours >= 4)
        gradient<4, Op>(x, gy, gx, shape, of, limit);
    else
        gradient<1, Op>(x, gy, gx, shape, of, limit);
}

}  // namespace ddis::DDIS_ISA
