// The Python edge: shapes and types are checked here, the GIL is released, nothing is copied.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <string>
#include <vector>

#include "shape.hpp"

namespace nb = nanobind;
using namespace ddis;

namespace {

using Data = nb::ndarray<nb::device::cpu>;
using Row = nb::ndarray<float, nb::c_contig, nb::device::cpu>;

const Kernels* active = find_kernels("auto");

Element element_of(const Data& x) {
    const nb::dlpack::dtype type = x.dtype();
    if (type == nb::dtype<float>()) return Element::kFloat;
    if (type.bits == 16 && type.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Float)) return Element::kHalf;
    if (type.bits == 16 && type.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Bfloat)) return Element::kBfloat;
    throw nb::type_error("expected float32, float16 or bfloat16");
}

// Are the axes, innermost first, one dense block?
template <class Axes>
bool dense(const Data& x, const Axes& axes) {
    int64_t stride = 1;
    for (int axis : axes) {
        const auto size = static_cast<int64_t>(x.shape(axis));
        if (size != 1 && x.stride(axis) != stride) return false;
        stride *= size;
    }
    return true;
}

// (N, C, *): planar if C-contiguous, interleaved if channels are innermost.
Shape shape_of(const Data& x, int64_t groups) {
    const int rank = static_cast<int>(x.ndim());
    if (rank < 2) throw nb::value_error("expected (N, C, *)");
    const auto images = static_cast<int64_t>(x.shape(0)), channels = static_cast<int64_t>(x.shape(1));
    if (x.size() == 0) throw nb::value_error("expected at least one element: an empty batch has no moments");
    if (groups < 1 || images % groups != 0) throw nb::value_error("expected groups that divide the batch");
    const int64_t pixels = static_cast<int64_t>(x.size()) / (images * channels);
    std::vector<int> planar, interleaved{1};
    for (int axis = rank - 1; axis >= 0; --axis) {
        planar.push_back(axis);
        if (axis != 1) interleaved.push_back(axis);
    }
    const bool is_planar = dense(x, planar);
    if (!is_planar && !dense(x, interleaved)) throw nb::value_error("expected a contiguous or channels_last tensor");
    return {groups, images / groups, channels, pixels, !is_planar || pixels == 1};
}

void same_memory(const Data& a, const Data& b) {
    bool same = a.ndim() == b.ndim() && a.dtype() == b.dtype();
    for (size_t axis = 0; same && axis < a.ndim(); ++axis)
        same = a.shape(axis) == b.shape(axis) && (a.shape(axis) == 1 || a.stride(axis) == b.stride(axis));
    if (!same) throw nb::value_error("expected tensors of one shape, dtype and memory format");
}

void expect_size(const Row& row, int64_t size) {
    if (static_cast<int64_t>(row.size()) != size) throw nb::value_error("expected one value per channel");
}

Activation activation_of(const std::string& name) {
    if (name == "none") return Activation::kNone;
    if (name == "relu") return Activation::kRelu;
    if (name == "silu") return Activation::kSilu;
    throw nb::value_error("expected activation none, relu or silu");
}

void channel_moments(const Data& x, const Row& mean, const Row& var, int64_t groups, int threads) {
    const Shape shape = shape_of(x, groups);
    expect_size(mean, groups * shape.channels);
    expect_size(var, groups * shape.channels);
    const Element element = element_of(x);
    nb::gil_scoped_release release;
    active->channel_moments(x.data(), element, shape, mean.data(), var.data(), threads);
}

void bn_act_moments(const Data& x, const Row& scale, const Row& shift, const std::string& activation, const Data& y,
                    const Row& mean, const Row& var, int64_t groups, int threads) {
    const Shape shape = shape_of(x, groups);
    same_memory(x, y);
    for (const Row& row : {scale, shift}) expect_size(row, shape.channels);
    for (const Row& row : {mean, var}) expect_size(row, groups * shape.channels);
    const Element element = element_of(x);
    const Activation kind = activation_of(activation);
    nb::gil_scoped_release release;
    active->bn_act_moments(x.data(), element, shape, scale.data(), shift.data(), kind, y.data(), mean.data(),
                           var.data(), threads);
}

void moments_backward(const Data& x, const Row& offset, const Row& slope, const Row& mean, const Data& gx,
                      int64_t groups, int threads) {
    const Shape shape = shape_of(x, groups);
    same_memory(x, gx);
    for (const Row& row : {offset, slope, mean}) expect_size(row, groups * shape.channels);
    const Element element = element_of(x);
    nb::gil_scoped_release release;
    active->moments_backward(x.data(), nullptr, element, shape, nullptr, nullptr, Activation::kNone, offset.data(),
                             slope.data(), mean.data(), gx.data(), threads);
}

void bn_act_moments_backward(const Data& x, const Data& gy, const Row& scale, const Row& shift,
                             const std::string& activation, const Row& offset, const Row& slope, const Row& mean,
                             const Data& gx, int64_t groups, int threads) {
    const Shape shape = shape_of(x, groups);
    same_memory(x, gy);
    same_memory(x, gx);
    for (const Row& row : {scale, shift}) expect_size(row, shape.channels);
    for (const Row& row : {offset, slope, mean}) expect_size(row, groups * shape.channels);
    const Element element = element_of(x);
    const Activation kind = activation_of(activation);
    nb::gil_scoped_release release;
    active->moments_backward(x.data(), gy.data(), element, shape, scale.data(), shift.data(), kind, offset.data(),
                             slope.data(), mean.data(), gx.data(), threads);
}

uint64_t plain_read(const Data& x, int threads) {
    const auto nbytes = static_cast<int64_t>(x.nbytes());
    nb::gil_scoped_release release;
    return active->plain_read(x.data(), nbytes, threads);
}

void use_instruction_set(const std::string& name) {
    const Kernels* found = find_kernels(name.c_str());
    if (found == nullptr) throw nb::value_error("not an instruction set of this processor");
    active = found;
}

}  // namespace

NB_MODULE(_cpu, m) {
    m.def("channel_moments", &channel_moments);
    m.def("bn_act_moments", &bn_act_moments);
    m.def("moments_backward", &moments_backward);
    m.def("bn_act_moments_backward", &bn_act_moments_backward);
    m.def("plain_read", &plain_read);
    m.def("instruction_set", [] { return std::string(active->name); });
    m.def("use_instruction_set", &use_instruction_set);
}
