// Mean and biased variance of each channel from one read of memory, and optionally act(scale x + shift)
// beside it.
//
// Sums are taken of d = x - shift, where the shift is the mean of what was read before, and merged by Chan's
// rule in double precision. The first block aside, a block is at most kGrowth times as large as all before
// it: what cancels in sum d^2 - (sum d)^2 / n is then bounded by the between-block part of the variance, so
// no digits are lost however large |mean| is beside the deviation. The first shift is the mean of the first
// few values.
#pragma once

#include <vector>

#include "shape.hpp"
#include "simd.hpp"

namespace ddis::DDIS_ISA {

constexpr int64_t kGrowth = 4;
constexpr int64_t kBlock = 4096;  // elements a float32 accumulator set may take before it is merged
constexpr int64_t kPilot = 64;    // values whose mean is the first shift
constexpr int kMaxTile = 64;      // channels whose planes are measured together

// Chan's rule for sets of `before` and `added` values: what its sums are multiplied with, for all channels
// alike.
struct Merge {
    double share, spread;

    Merge(double before, double added) : share(added / (before + added)), spread(before * share) {}

    void operator()(double& mean, double& m2, double added_mean, double added_m2) const {
        const double gap = added_mean - mean;
        mean += gap * share;
        m2 += added_m2 + gap * gap * spread;
    }
};

// Moments of a part of a group: one per channel, all from `count` elements.
struct Partial {
    std::vector<double> mean, m2;
    double count = 0;

    explicit Partial(int64_t channels) : mean(channels), m2(channels) {}
};

// What happens to a value besides being measured: nothing, or y = act(scale x + shift).
struct Measure {
    static constexpr bool kWrites = false;
};

template <Activation kind, int W>
inline Floats<W> activate(Floats<W> z) {
    if constexpr (kind == Activation::kRelu) return z < 0.0f ? Floats<W>{} : z;
    if constexpr (kind == Activation::kSilu) return z * sigmoid<W>(z);
    return z;
}

template <Activation kind>
struct Apply {
    static constexpr bool kWrites = true;
    static constexpr Activation kActivation = kind;
    const float *scale, *shift;
    bool past_caches;
};

template <int W>
struct Sums {
    Floats<W> first{}, second{};  // of d and d^2
};

// One run of neighbours of one channel. A tail shorter than W is read again together with what stands before
// it.
template <int W, class Op, class T>
inline void run(const T* x, T* y, int64_t length, float shift, float k, float b, const Op& op,
                Sums<W>& sums) {
    constexpr int kUnroll = Op::kWrites ? 2 : 4;
    Sums<W> lanes[kUnroll];
    lanes[0] = sums;
    auto step = [&](int64_t i, Sums<W>& into, int from) {
        const Floats<W> v = load<W>(x + i);
        if constexpr (Op::kWrites) store<W>(y + i, activate<Op::kActivation, W>(v * k + b), op.past_caches);
        Floats<W> d = v - shift;
        if (from > 0) d = keep_from<W>(from, d);
        into.first += d;
        into.second += d * d;
    };
    int64_t i = 0;
    for (; i + kUnroll * W <= length; i += kUnroll * W)
        for (int u = 0; u < kUnroll; ++u) step(i + u * W, lanes[u], 0);
    for (; i + W <= length; i += W) step(i, lanes[0], 0);
    if (i < length) step(length - W, lanes[0], static_cast<int>(W - (length - i)));
    for (int u = 1; u < kUnroll; ++u) {
        lanes[0].first += lanes[u].first;
        lanes[0].second += lanes[u].second;
    }
    sums = lanes[0];
}

// The mean of about the first kPilot values of a run of at least W.
template <int W, class T>
float pilot_mean(const T* x, int64_t length) {
    const int64_t vectors = std::min(length, kPilot) / W;
    Floats<W> sum{};
    for (int64_t i = 0; i < vectors; ++i) sum += load<W>(x + i * W);
    return horizontal_sum<W>(sum) / static_cast<float>(vectors * W);
}

// Planar: a tile of channels, whose planes are neighbours, walks through the images together.
template <int W, class Op, class T>
void planar_tile(const T* x, T* y, const Shape& shape, Range images, Range tile, const Op& op, Partial& out) {
    const int64_t pixels = shape.pixels;
    float shift[kMaxTile];
    Sums<W> sums[kMaxTile];
    double count = 0;
    int64_t pending = 0;
    auto at = [&](int64_t image, int64_t channel) { return (image * shape.channels + channel) * pixels; };
    for (int64_t c = tile.begin; c < tile.end; ++c)
        shift[c - tile.begin] = pilot_mean<W>(x + at(images.begin, c), pixels);
    auto flush = [&] {
        const double n = static_cast<double>(pending), share = 1 / n;
        const Merge merge(count, n);
        for (int64_t c = tile.begin; c < tile.end; ++c) {
            Sums<W>& sum = sums[c - tile.begin];
            const double total = horizontal_sum<W>(sum.first), mean = total * share;
            const double m2 = std::max(horizontal_sum<W>(sum.second) - total * mean, 0.0);
            merge(out.mean[c], out.m2[c], shift[c - tile.begin] + mean, m2);
            shift[c - tile.begin] = static_cast<float>(out.mean[c]);
            sum = {};
        }
        count += n;
        pending = 0;
    };
    for (int64_t image = images.begin; image < images.end; ++image) {
        for (int64_t start = 0; start < pixels; start += kBlock) {
            const int64_t length = std::min(kBlock, pixels - start);
            if (pending > 0 && pending + length > std::min(kBlock, kGrowth * static_cast<int64_t>(count)))
                flush();
            for (int64_t c = tile.begin; c < tile.end; ++c) {
                const int64_t offset = at(image, c) + start;
                float k = 1, b = 0;
                if constexpr (Op::kWrites) k = op.scale[c], b = op.shift[c];
                run<W, Op>(x + offset, Op::kWrites ? y + offset : nullptr, length, shift[c - tile.begin], k,
                           b, op, sums[c - tile.begin]);
            }
            pending += length;
        }
    }
    flush();
}

template <int W, class Op, class T>
void planar(const T* x, T* y, const Shape& shape, Range images, Range channels, const Op& op, Partial& out) {
    // Many planes that fit a block, or one that does not: either way memory is walked in order for long.
    const int64_t tile = shape.pixels <= kBlock ? kMaxTile : 1;
    for (int64_t c = channels.begin; c < channels.end; c += tile)
        planar_tile<W>(x, y, shape, images, {c, std::min(c + tile, channels.end)}, op, out);
}

// Interleaved: vectors run across channels. The last vector of a row starts early so that it ends with the
// row; lanes hold their sums twice then, and `source` says where a channel's are. All arrays have W values
// per vector.
template <int W>
struct Columns {
    int64_t channels, vectors;
    std::vector<float> first, second, shift;
    std::vector<double> mean, m2;
    double count = 0;

    explicit Columns(int64_t channels)
        : channels(channels),
          vectors((channels + W - 1) / W),
          first(vectors * W),
          second(vectors * W),
          shift(vectors * W),
          mean(vectors * W),
          m2(vectors * W) {}

    int64_t column(int64_t vector) const { return std::min(vector * W, channels - W); }
    int64_t source(int64_t channel) const {
        const int64_t vector = channel / W;
        return vector * W + channel - column(vector);
    }
    template <class T>
    void start(const T* x, int64_t rows) {
        for (int64_t v = 0; v < vectors; ++v) {
            Floats<W> sum{};
            for (int64_t row = 0; row < rows; ++row) sum += load<W>(x + row * channels + column(v));
            store<W>(&shift[v * W], sum / static_cast<float>(rows));
        }
    }
    // Merge the sums of `pending` rows.
    void flush(int64_t pending) {
        const double n = static_cast<double>(pending), share = 1 / n;
        const Merge merge(count, n);
        float *first_at = first.data(), *second_at = second.data(), *shift_at = shift.data();
        double *mean_at = mean.data(), *m2_at = m2.data();
        for (int64_t i = 0; i < vectors * W; ++i) {
            const double total = first_at[i], m2_here = second_at[i] - total * (total * share);
            merge(mean_at[i], m2_at[i], shift_at[i] + total * share, m2_here < 0 ? 0 : m2_here);
            shift_at[i] = static_cast<float>(mean_at[i]);
            first_at[i] = second_at[i] = 0;
        }
        count += n;
    }
    void finish(Partial& out) const {
        for (int64_t c = 0; c < channels; ++c) {
            out.mean[c] = mean[source(c)];
            out.m2[c] = m2[source(c)];
        }
    }
};

// Some rows from `row` on, kTile vectors of each: their sums stay in registers from the first row to the
// last.
template <int W, int kTile, class Op, class T>
void tile_of(const T* x, T* y, Range rows, int64_t vector, const Op& op, Columns<W>& columns) {
    Floats<W> first[kTile], second[kTile], shift[kTile], k[kTile], b[kTile];
    int64_t column[kTile];
    float *first_at = columns.first.data() + vector * W, *second_at = columns.second.data() + vector * W;
    const float* shift_at = columns.shift.data() + vector * W;
    for (int v = 0; v < kTile; ++v) {
        column[v] = columns.column(vector + v);
        first[v] = load<W>(first_at + v * W), second[v] = load<W>(second_at + v * W);
        shift[v] = load<W>(shift_at + v * W);
        if constexpr (Op::kWrites) k[v] = load<W>(op.scale + column[v]), b[v] = load<W>(op.shift + column[v]);
    }
    // Parts of rows are no stream that a processor foresees. The last addresses are past the end: a hint
    // alone.
    const auto ahead = static_cast<uintptr_t>(2 * (rows.end - rows.begin) * columns.channels) * sizeof(T);
    for (int64_t row = rows.begin; row < rows.end; ++row)
        for (int v = 0; v < kTile; ++v) {
            const int64_t i = row * columns.channels + column[v];
            if constexpr (!Op::kWrites)
                __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(x + i) + ahead));
            const Floats<W> value = load<W>(x + i), d = value - shift[v];
            if constexpr (Op::kWrites)
                store<W>(y + i, activate<Op::kActivation, W>(value * k[v] + b[v]), op.past_caches);
            first[v] += d;
            second[v] += d * d;
        }
    for (int v = 0; v < kTile; ++v) {
        store<W>(first_at + v * W, first[v]);
        store<W>(second_at + v * W, second[v]);
    }
}

template <int W, class Op, class T>
void interleaved(const T* x, T* y, const Shape& shape, Range rows, const Op& op, Partial& out) {
    // What only reads takes half a row at a time; what also writes goes through memory nearly in order.
    constexpr int kTile = Op::kWrites ? 1 : 4;
    constexpr int64_t kPilotRows = 4, kFirstPending = 16, kMaxPending = 512;
    constexpr int64_t kBytes = 8192;  // of rows that are walked together: they stay in the first cache
    Columns<W> columns(shape.channels);
    columns.start(x + rows.begin * shape.channels, std::min(rows.end - rows.begin, kPilotRows));
    const int64_t fits = kBytes / (shape.channels * static_cast<int64_t>(sizeof(T)));
    const int64_t at_once = Op::kWrites ? 2 : std::clamp<int64_t>(fits, 4, 64);
    int64_t pending = 0;
    for (int64_t row = rows.begin; row < rows.end;) {
        const auto before = static_cast<int64_t>(columns.count);
        const int64_t enough = std::min(kMaxPending, std::max(kFirstPending, kGrowth * before));
        const Range some{row, std::min({rows.end, row + at_once, row + enough - pending})};
        int64_t vector = 0;
        for (; vector + kTile <= columns.vectors; vector += kTile)
            tile_of<W, kTile>(x, y, some, vector, op, columns);
        for (; vector < columns.vectors; ++vector) tile_of<W, 1>(x, y, some, vector, op, columns);
        pending += some.end - some.begin;
        row = some.end;
        if (pending < enough && row < rows.end) continue;
        columns.flush(pending);
        pending = 0;
    }
    columns.finish(out);
}

// One group: its parts side by side, then merged in a fixed order.
template <int W, class Op, class T>
void measure_group(const T* x, T* y, const Shape& shape, const Op& op, float* mean, float* var, int threads) {
    const int64_t rows = shape.count();
    const int across = shape.interleaved ? 1 : static_cast<int>(std::min<int64_t>(threads, shape.channels));
    const int64_t splittable = shape.interleaved ? rows : shape.images;
    const int along = static_cast<int>(std::min<int64_t>(threads / across, splittable));
    std::vector<Partial> partials(along, Partial(shape.channels));
    for (int i = 0; i < along; ++i) {  // here, as threads of other channels share a part
        const Range piece = share(splittable, i, along);
        partials[i].count = static_cast<double>((piece.end - piece.begin) * (rows / splittable));
    }
    parallel(across * along, [&](int part) {
        Partial& out = partials[part / across];
        const Range piece = share(splittable, part / across, along);
        if (shape.interleaved)
            interleaved<W>(x, y, shape, piece, op, out);
        else
            planar<W>(x, y, shape, piece, share(shape.channels, part % across, across), op, out);
        if constexpr (Op::kWrites) end_writes();
    });
    double count = partials[0].count;
    for (int i = 1; i < along; ++i) {
        const Merge merge(count, partials[i].count);
        for (int64_t c = 0; c < shape.channels; ++c)
            merge(partials[0].mean[c], partials[0].m2[c], partials[i].mean[c], partials[i].m2[c]);
        count += partials[i].count;
    }
    for (int64_t c = 0; c < shape.channels; ++c) {
        mean[c] = static_cast<float>(partials[0].mean[c]);
        var[c] = static_cast<float>(partials[0].m2[c] / count);
    }
}

template <int W, class Op, class T>
void measure_groups(const T* x, T* y, const Shape& shape, const Op& op, float* mean, float* var, int limit) {
    const int64_t arrays = Op::kWrites ? 2 : 1;
    const int threads = threads_for(arrays * shape.groups * shape.group_size(), limit);
    const bool by_group = shape.groups >= threads;
    const int parts = by_group ? threads : 1;
    parallel(parts, [&](int part) {
        const Range groups = share(shape.groups, part, parts);
        for (int64_t g = groups.begin; g < groups.end; ++g)
            measure_group<W>(x + g * shape.group_size(), Op::kWrites ? y + g * shape.group_size() : nullptr,
                             shape, op, mean + g * shape.channels, var + g * shape.channels,
                             by_group ? 1 : threads);
    });
}

// The widest vector that a run of neighbours fills at least once.
template <class Op, class T>
void measure(const T* x, T* y, const Shape& shape, const Op& op, float* mean, float* var, int limit) {
    const int64_t neighbours = shape.interleaved ? shape.channels : shape.pixels;
    if (neighbours >= kWidth)
        measure_groups<kWidth>(x, y, shape, op, mean, var, limit);
    else if (neighbours >= 4)
        measure_groups<4>(x, y, shape, op, mean, var, limit);
    else
        measure_groups<1>(x, y, shape, op, mean, var, limit);
}

}  // namespace ddis::DDIS_ISA
