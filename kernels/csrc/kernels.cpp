// Compiled once per instruction set, with DDIS_ISA naming the namespace and the table.
#include "alignment.hpp"
#include "backward.hpp"
#include "moments.hpp"

namespace ddis {
namespace DDIS_ISA {
namespace {

template <class Use>
void with_element(Element element, const Use& use) {
    switch (element) {
        case Element::kFloat:
            return use(float{});
        case Element::kHalf:
            return use(half{});
        case Element::kBfloat:
            return use(bfloat16{});
    }
}

void channel_moments(const void* x, Element element, Shape shape, float* mean, float* var, int threads) {
    with_element(element, [&](auto e) {
        using T = decltype(e);
        measure(static_cast<const T*>(x), static_cast<T*>(nullptr), shape, Measure{}, mean, var, threads);
    });
}

void bn_act_moments(const void* x, Element element, Shape shape, const float* scale, const float* shift,
                    Activation activation, void* y, float* mean, float* var, int threads) {
    with_element(element, [&](auto e) {
        using T = decltype(e);
        const bool past_caches = shape.outgrows_caches(sizeof(T));
        auto apply = [&](auto op) {
            measure(static_cast<const T*>(x), static_cast<T*>(y), shape, op, mean, var, threads);
        };
        switch (activation) {
            case Activation::kNone:
                return apply(Apply<Activation::kNone>{scale, shift, past_caches});
            case Activation::kRelu:
                return apply(Apply<Activation::kRelu>{scale, shift, past_caches});
            case Activation::kSilu:
                return apply(Apply<Activation::kSilu>{scale, shift, past_caches});
        }
    });
}

void moments_backward(const void* x, const void* gy, Element element, Shape shape, const float* scale,
                      const float* shift, Activation activation, const float* offset, const float* slope,
                      const float* mean, void* gx, int threads) {
    const Pointers of{scale, shift, offset, slope, mean};
    with_element(element, [&](auto e) {
        using T = decltype(e);
        auto through = [&](auto op) {
            differentiate<decltype(op)>(static_cast<const T*>(x), static_cast<const T*>(gy),
                                        static_cast<T*>(gx), shape, of, threads);
        };
        if (gy == nullptr) return through(Affine{});
        switch (activation) {
            case Activation::kNone:
                return through(Through<Activation::kNone>{});
            case Activation::kRelu:
                return through(Through<Activation::kRelu>{});
            case Activation::kSilu:
                return through(Through<Activation::kSilu>{});
        }
    });
}

uint64_t plain_read(const void* x, int64_t nbytes, int threads) {
    constexpr int kLanes = 4;
    const int64_t step = kLanes * kWidth * static_cast<int64_t>(sizeof(uint32_t)), steps = nbytes / step;
    const int parts = threads_for(nbytes / 4, threads);
    std::vector<uint64_t> sums(parts);
    parallel(parts, [&](int part) {
        Words<kWidth> lanes[kLanes] = {};
        const Range range = share(steps, part, parts);
        for (int64_t i = range.begin; i < range.end; ++i)
            for (int lane = 0; lane < kLanes; ++lane) {
                Words<kWidth> v;
                std::memcpy(&v, static_cast<const char*>(x) + i * step + lane * sizeof(v), sizeof(v));
                lanes[lane] += v;
            }
        for (int lane = 0; lane < kLanes; ++lane)
            for (int i = 0; i < kWidth; ++i) sums[part] += lanes[lane][i];
    });
    uint64_t sum = 0;
    for (uint64_t s : sums) sum += s;
    return sum;
}

}  // namespace
}  // namespace DDIS_ISA

#define DDIS_JOIN(a, b) a##b
#define DDIS_TABLE(isa) DDIS_JOIN(kernels_, isa)
#define DDIS_TEXT(isa) #isa
#define DDIS_NAME(isa) DDIS_TEXT(isa)

const Kernels* DDIS_TABLE(DDIS_ISA)() {
    static const Kernels table{
        DDIS_NAME(DDIS_ISA), DDIS_ISA::channel_moments, DDIS_ISA::bn_act_moments, DDIS_ISA::moments_backward,
        DDIS_ISA::alignment, DDIS_ISA::merge,           DDIS_ISA::plain_read};
    return &table;
}

}  // namespace ddis
