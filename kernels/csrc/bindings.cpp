// The Python edge: shapes and types are checked here, the GIL is released, nothing is copied.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>

#include "exchange.hpp"
#include "shape.hpp"

namespace nb = nanobind;
using namespace ddis;

namespace {

const Kernels* active = find_kernels("auto");

[[noreturn]] void refuse(const std::string& wrong) { throw nb::value_error(wrong.c_str()); }

Element element_of(const View& x) {
    const nb::dlpack::dtype type = x.tensor.dtype;
    const auto is = [&](nb::dlpack::dtype_code code, int bits) {
        return type.code == static_cast<uint8_t>(code) && type.bits == bits && type.lanes == 1;
    };
    if (is(nb::dlpack::dtype_code::Float, 32)) return Element::kFloat;
    if (is(nb::dlpack::dtype_code::Float, 16)) return Element::kHalf;
    if (is(nb::dlpack::dtype_code::Bfloat, 16)) return Element::kBfloat;
    const std::string what = "a tensor has a dtype of " + std::to_string(type.bits) + " bits";
    throw nb::type_error((what + ", expected float32, float16 or bfloat16: convert it first.").c_str());
}

// Is x one block of memory, with its axes in C order or with the channels innermost?
bool is_dense(const View& x, bool channels_innermost) {
    int64_t stride = 1;
    const auto next = [&](int axis) {
        if (x.size(axis) != 1 && x.stride(axis) != stride) return false;
        stride *= x.size(axis);
        return true;
    };
    if (channels_innermost && !next(1)) return false;
    for (int axis = x.rank() - 1; axis >= 2; --axis)
        if (!next(axis)) return false;
    return (channels_innermost || next(1)) && next(0);
}

// (N, C, *): planar if C-contiguous, interleaved if channels are innermost.
Shape shape_of(const View& x, int64_t groups) {
    if (x.rank() < 2)
        refuse("a tensor has " + std::to_string(x.rank()) + " axes, expected (N, C, *): add those it lacks.");
    if (x.elements() == 0)
        refuse(
            "a tensor is empty, expected at least one element: an empty batch has no moments. Pass another.");
    const int64_t images = x.size(0), channels = x.size(1), pixels = x.elements() / (images * channels);
    if (groups < 1 || images % groups != 0)
        refuse("groups is " + std::to_string(groups) + " and the batch " + std::to_string(images) +
               ", expected groups that divide the batch: pass 1, or as many as there are images.");
    const bool planar = is_dense(x, false);
    if (!planar && !is_dense(x, true))
        refuse(
            "a tensor is not one block of memory, expected a contiguous or channels_last tensor: copy it "
            "first.");
    return {groups, images / groups, channels, pixels, !planar || pixels == 1};
}

void expect_like(const View& x, const View& other) {
    bool same = x.rank() == other.rank() && element_of(x) == element_of(other);
    for (int axis = 0; same && axis < x.rank(); ++axis)
        same =
            x.size(axis) == other.size(axis) && (x.size(axis) == 1 || x.stride(axis) == other.stride(axis));
    if (!same)
        refuse(
            "two tensors differ, expected tensors of one shape, dtype and memory format: use "
            "torch.empty_like.");
}

// The floats of a dense row of a known length.
float* row(const View& values, int64_t length) {
    int64_t stride = 1;
    bool dense = values.elements() == length;
    for (int axis = values.rank() - 1; dense && axis >= 0; stride *= values.size(axis), --axis)
        dense = values.size(axis) == 1 || values.stride(axis) == stride;
    if (!dense || element_of(values) != Element::kFloat)
        refuse("a tensor has " + std::to_string(values.elements()) +
               " values, expected one float32 per channel, " + std::to_string(length) +
               " in all, dense: convert it, and copy it if it has gaps.");
    return static_cast<float*>(values.data());
}

Activation activation_of(const std::string& name) {
    if (name == "none") return Activation::kNone;
    if (name == "relu") return Activation::kRelu;
    if (name == "silu") return Activation::kSilu;
    refuse("activation is '" + name + "', expected activation none, relu or silu: name one.");
}

void channel_moments(const View& x, const View& mean, const View& var, int64_t groups, int threads) {
    const Shape shape = shape_of(x, groups);
    const int64_t channels = groups * shape.channels;
    const Element element = element_of(x);
    float *mean_at = row(mean, channels), *var_at = row(var, channels);
    nb::gil_scoped_release release;
    active->channel_moments(x.data(), element, shape, mean_at, var_at, threads);
}

void bn_act_moments(const View& x, const View& scale, const View& shift, const std::string& activation,
                    const View& y, const View& mean, const View& var, int64_t groups, int threads) {
    const Shape shape = shape_of(x, groups);
    const int64_t channels = groups * shape.channels;
    const Element element = element_of(x);
    const Activation kind = activation_of(activation);
    expect_like(x, y);
    const float *k = row(scale, shape.channels), *b = row(shift, shape.channels);
    float *mean_at = row(mean, channels), *var_at = row(var, channels);
    nb::gil_scoped_release release;
    active->bn_act_moments(x.data(), element, shape, k, b, kind, y.data(), mean_at, var_at, threads);
}

void moments_backward(const View& x, const View& offset, const View& slope, const View& mean, const View& gx,
                      int64_t groups, int threads) {
    const Shape shape = shape_of(x, groups);
    const int64_t channels = groups * shape.channels;
    const Element element = element_of(x);
    expect_like(x, gx);
    const float *a = row(offset, channels), *b = row(slope, channels), *m = row(mean, channels);
    nb::gil_scoped_release release;
    active->moments_backward(x.data(), nullptr, element, shape, nullptr, nullptr, Activation::kNone, a, b, m,
                             gx.data(), threads);
}

void bn_act_moments_backward(const View& x, const View& gy, const View& scale, const View& shift,
                             const std::string& activation, const View& offset, const View& slope,
                             const View& mean, const View& gx, int64_t groups, int threads) {
    const Shape shape = shape_of(x, groups);
    const int64_t channels = groups * shape.channels;
    const Element element = element_of(x);
    const Activation kind = activation_of(activation);
    expect_like(x, gy);
    expect_like(x, gx);
    const float *k = row(scale, shape.channels), *shift_at = row(shift, shape.channels);
    const float *a = row(offset, channels), *b = row(slope, channels), *m = row(mean, channels);
    nb::gil_scoped_release release;
    active->moments_backward(x.data(), gy.data(), element, shape, k, shift_at, kind, a, b, m, gx.data(),
                             threads);
}

// mean, var: (G, all channels), dense; splits: (layers + 1,) int64; weights: (layers, 2).
void alignment(const View& mean, const View& var, const View& stored_mean, const View& stored_var,
               const View& splits, const View& weights, bool squared, const View& loss, const View& dmean,
               const View& dvar) {
    const int64_t groups = loss.elements(), layers = splits.elements() - 1;
    const auto* at = static_cast<const int64_t*>(splits.data());
    if (splits.tensor.dtype.bits != 64 || layers < 0)
        refuse("splits has " + std::to_string(splits.elements()) + " values of " +
               std::to_string(splits.tensor.dtype.bits) +
               " bits, expected int64 splits, at least one: convert it.");
    for (int64_t l = 0; l <= layers; ++l)
        if (at[l] < (l == 0 ? 0 : at[l - 1]) || (l == 0 && at[0] != 0))
            refuse("splits[" + std::to_string(l) + "] is " + std::to_string(at[l]) +
                   ", expected splits that start at 0 and do not fall: pass running sums of the layers' "
                   "channels.");
    const int64_t width = at[layers], all = groups * width;
    const Alignment of{
        groups, layers, at, row(stored_mean, width), row(stored_var, width), row(weights, 2 * layers),
        squared};
    active->alignment(of, row(mean, all), row(var, all), row(loss, groups), row(dmean, all), row(dvar, all));
}

void merge_moments(const View& mean_a, const View& var_a, double count_a, const View& mean_b,
                   const View& var_b, double count_b, const View& mean, const View& var) {
    const int64_t n = mean.elements();
    active->merge(row(mean_a, n), row(var_a, n), count_a, row(mean_b, n), row(var_b, n), count_b, n,
                  row(mean, n), row(var, n));
}

uint64_t plain_read(const View& x, int threads) {
    const int64_t nbytes = x.elements() * x.tensor.dtype.bits / 8;
    nb::gil_scoped_release release;
    return active->plain_read(x.data(), nbytes, threads);
}

void use_instruction_set(const std::string& name) {
    const Kernels* found = find_kernels(name.c_str());
    if (found == nullptr) {
        std::string known = "auto";
        for (const char* one : {"avx512", "avx2", "neon", "plain"})
            if (find_kernels(one) != nullptr) known += std::string(", ") + one;
        refuse("instruction set is '" + name + "', expected one of " + known +
               ": name one of this processor.");
    }
    active = found;
}

}  // namespace

NB_MODULE(_cpu, m) {
    m.def("channel_moments", &channel_moments);
    m.def("bn_act_moments", &bn_act_moments);
    m.def("moments_backward", &moments_backward);
    m.def("bn_act_moments_backward", &bn_act_moments_backward);
    m.def("alignment", &alignment);
    m.def("merge_moments", &merge_moments);
    m.def("plain_read", &plain_read);
    m.def("instruction_set", [] { return std::string(active->name); });
    m.def("use_instruction_set", &use_instruction_set);
}
