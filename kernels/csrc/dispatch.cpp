// Which instruction set this processor is served with.
#include <cstring>

#include "shape.hpp"

namespace ddis {

const Kernels* find_kernels(const char* name) {
    const bool any = std::strcmp(name, "auto") == 0;
    auto wanted = [&](const char* isa) { return any || std::strcmp(name, isa) == 0; };
#if defined(DDIS_X86)
    const bool halves = __builtin_cpu_supports("f16c") && __builtin_cpu_supports("fma");
    if (wanted("avx512") && halves && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        return kernels_avx512();
    if (wanted("avx2") && halves && __builtin_cpu_supports("avx2")) return kernels_avx2();
#elif defined(DDIS_ARM)
    if (wanted("neon")) return kernels_neon();
#endif
    return wanted("plain") ? kernels_plain() : nullptr;
}

}  // namespace ddis
