// Reading a torch tensor without copying it, in tens of nanoseconds.
//
// DLPack's C exchange API (DLPack 1.3, torch 2.10) hands out a tensor's pointer, sizes and strides through
// one function pointer that hangs on the tensor's type. An object without it is read through `__dlpack__`,
// which takes microseconds.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace ddis {

// A tensor on the CPU, alive as long as the call's arguments are.
struct View {
    nanobind::dlpack::dltensor tensor;
    nanobind::ndarray<nanobind::device::cpu> owner;  // only of a tensor that came through `__dlpack__`

    void* data() const { return static_cast<char*>(tensor.data) + tensor.byte_offset; }
    int rank() const { return tensor.ndim; }
    int64_t size(int axis) const { return tensor.shape[axis]; }
    int64_t stride(int axis) const { return tensor.strides[axis]; }
    int64_t elements() const {
        int64_t product = 1;
        for (int axis = 0; axis < rank(); ++axis) product *= size(axis);
        return product;
    }
};

// The part of DLPackExchangeAPI that is used here; the rest keeps its place.
struct ExchangeApi {
    struct {
        uint32_t major, minor;
        void* previous;
    } header;
    void *allocate, *managed_from_object, *object_from_managed;
    int (*view_from_object)(void* object, nanobind::dlpack::dltensor* out);
    void* current_stream;
};

// The API of a tensor type, or null. The type of the last tensor is remembered: there is but one in practice.
inline const ExchangeApi* exchange_api(PyTypeObject* type) noexcept {
    static PyTypeObject* known = nullptr;
    static const ExchangeApi* api = nullptr;
    if (type == known) return api;
    const ExchangeApi* found = nullptr;
    if (PyObject* capsule =
            PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__")) {
        found = static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
        if (found != nullptr && (found->header.major != 1 || found->view_from_object == nullptr))
            found = nullptr;
        Py_DECREF(capsule);
    }
    PyErr_Clear();
    known = type;
    api = found;
    return api;
}

}  // namespace ddis

namespace nanobind::detail {

template <>
struct type_caster<ddis::View> {
    NB_TYPE_CASTER(ddis::View, const_name("torch.Tensor"))

    bool from_python(handle source, uint8_t flags, cleanup_list* cleanup) noexcept {
        if (const ddis::ExchangeApi* api = ddis::exchange_api(Py_TYPE(source.ptr()))) {
            if (api->view_from_object(source.ptr(), &value.tensor) == 0)
                return value.tensor.device.device_type == device::cpu::value;
            PyErr_Clear();
            return false;
        }
        make_caster<decltype(value.owner)> slow;
        if (!slow.from_python(source, flags, cleanup)) return false;
        value.owner = slow.value;
        auto& owner = value.owner;
        value.tensor = {owner.data(),
                        {owner.device_type(), owner.device_id()},
                        static_cast<int32_t>(owner.ndim()),
                        owner.dtype(),
                        const_cast<int64_t*>(owner.shape_ptr()),
                        const_cast<int64_t*>(owner.stride_ptr()),
                        0};
        return true;
    }
};

}  // namespace nanobind::detail
