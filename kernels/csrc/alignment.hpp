// The alignment loss of a whole network from its moments, and its gradient with respect to them.
#pragma once

#include <cmath>

#include "shape.hpp"
#include "simd.hpp"

namespace ddis::DDIS_ISA {

// sum of (a - b)^2 in double precision, in lanes that vectorise.
inline double squared_distance(const float* a, const float* b, int64_t length) {
    constexpr int kLanes = 8;
    double lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= length; i += kLanes)
        for (int lane = 0; lane < kLanes; ++lane) {
            const double gap = static_cast<double>(a[i + lane]) - b[i + lane];
            lanes[lane] += gap * gap;
        }
    for (; i < length; ++i)
        lanes[0] += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    double sum = 0;
    for (double lane : lanes) sum += lane;
    return sum;
}

// One norm of one layer: returns its term and writes d term / d measured.
inline double alignment_term(const float* measured, const float* stored, int64_t channels, double weight,
                             bool squared, float* gradient) {
    const double square = squared_distance(measured, stored, channels), norm = std::sqrt(square);
    const double per_gap = squared ? 2 * weight * weight : norm > 0 ? weight / norm : 0;
    for (int64_t c = 0; c < channels; ++c)
        gradient[c] = static_cast<float>(per_gap * (static_cast<double>(measured[c]) - stored[c]));
    return squared ? weight * weight * square : weight * norm;
}

inline void alignment(const Alignment& of, const float* mean, const float* var, float* loss, float* dmean,
                      float* dvar) {
    const int64_t width = of.splits[of.layers];
    for (int64_t g = 0; g < of.groups; ++g) {
        double sum = 0;
        for (int64_t layer = 0; layer < of.layers; ++layer) {
            const int64_t begin = of.splits[layer], channels = of.splits[layer + 1] - begin,
                          at = g * width + begin;
            sum += alignment_term(mean + at, of.stored_mean + begin, channels, of.weights[2 * layer],
                                  of.squared, dmean + at);
            sum += alignment_term(var + at, of.stored_var + begin, channels, of.weights[2 * layer + 1],
                                  of.squared, dvar + at);
        }
        loss[g] = static_cast<float>(sum);
    }
}

// Chan's rule: moments of two sets from the moments of each.
inline void merge(const float* mean_a, const float* var_a, double count_a, const float* mean_b,
                  const float* var_b, double count_b, int64_t channels, float* mean, float* var) {
    const double share = count_b / (count_a + count_b);
    for (int64_t c = 0; c < channels; ++c) {
        const double gap = static_cast<double>(mean_b[c]) - mean_a[c];
        mean[c] = static_cast<float>(mean_a[c] + gap * share);
        var[c] =
            static_cast<float>(var_a[c] * (1 - share) + var_b[c] * share + gap * gap * share * (1 - share));
    }
}

}  // namespace ddis::DDIS_ISA
