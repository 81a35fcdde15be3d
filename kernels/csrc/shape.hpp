// What the kernels know of a tensor: sizes, memory order, and how work is shared out. No Python, no torch.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ddis {

// A result so large has mostly left the caches, which other arrays go through too, before it is read again.
constexpr int64_t kCachedBytes = 4 << 20;
constexpr int64_t kLineBytes = 64;

// groups x images x channels x pixels, dense. Planar: pixels of a channel are neighbours (NCHW). Interleaved:
// channels of a pixel are neighbours (NHWC). Each group of images has statistics of its own.
struct Shape {
    int64_t groups, images, channels, pixels;
    bool interleaved;

    int64_t group_size() const { return images * channels * pixels; }
    int64_t count() const { return images * pixels; }
    // Large, and made of whole lines: a part of a line written past the caches costs more than it saves.
    bool outgrows_caches(int64_t element_bytes) const {
        const int64_t run = (interleaved ? channels : pixels) * element_bytes;
        return run % kLineBytes == 0 && groups * group_size() * element_bytes > kCachedBytes;
    }
};

enum class Element { kFloat, kHalf, kBfloat };
enum class Activation { kNone, kRelu, kSilu };

struct Range {
    int64_t begin, end;
};

inline Range share(int64_t total, int part, int parts) {
    return {total * part / parts, total * (part + 1) / parts};
}

// Reading or writing so many elements takes about 10 us: waking a sleeping thread for fewer costs more than
// it saves.
constexpr int64_t kElementsPerThread = 131072;

// elements: of all arrays that are read or written.
inline int threads_for(int64_t elements, int limit) {
    return static_cast<int>(std::clamp<int64_t>(elements / kElementsPerThread, 1, std::max(limit, 1)));
}

template <class Task>
void parallel(int parts, const Task& task) {
    if (parts <= 1) {
        task(0);
        return;
    }
#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int part = 0; part < parts; ++part) task(part);
}

// Moments that a network stored, its layers side by side, and how their gaps are weighed. Layer l owns the
// channels splits[l] to splits[l + 1]; weights holds (mean's, variance's) of each layer.
struct Alignment {
    int64_t groups, layers;
    const int64_t* splits;
    const float *stored_mean, *stored_var, *weights;
    bool squared;
};

// The maths of one instruction set. Pointers are to `element`s; everything per channel is float32.
struct Kernels {
    const char* name;
    // mean, var: (groups, channels), biased variance.
    void (*channel_moments)(const void* x, Element element, Shape shape, float* mean, float* var,
                            int threads);
    // y = act(scale x + shift), and the moments of x, from one read of x.
    void (*bn_act_moments)(const void* x, Element element, Shape shape, const float* scale,
                           const float* shift, Activation activation, void* y, float* mean, float* var,
                           int threads);
    // gx = scale gy act'(scale x + shift) + offset + slope (x - mean). Without gy (null) only the affine
    // part, and scale and shift are not read. offset, slope, mean: (groups, channels).
    void (*moments_backward)(const void* x, const void* gy, Element element, Shape shape, const float* scale,
                             const float* shift, Activation activation, const float* offset,
                             const float* slope, const float* mean, void* gx, int threads);
    // loss: (groups,), its gradient dmean, dvar: (groups, all channels), like mean and var.
    void (*alignment)(const Alignment& of, const float* mean, const float* var, float* loss, float* dmean,
                      float* dvar);
    void (*merge)(const float* mean_a, const float* var_a, double count_a, const float* mean_b,
                  const float* var_b, double count_b, int64_t channels, float* mean, float* var);
    // Reads all of x and does nothing with it: the limit that benchmarks compare with. Returns a sum of
    // words.
    uint64_t (*plain_read)(const void* x, int64_t nbytes, int threads);
};

const Kernels* kernels_plain();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
const Kernels* kernels_neon();

// The widest instruction set this processor has, or the one named; null if that is unknown or missing here.
const Kernels* find_kernels(const char* name);

}  // namespace ddis
