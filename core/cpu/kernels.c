// Which kernels were built, and which of them this machine can run.
#include "kernel.h"

#include "adamd/backend.h"

extern const struct kernel adamd_kernel_base;

static bool always(void) {
    return true;
}

#if defined(__x86_64__)
extern const struct kernel adamd_kernel_avx2, adamd_kernel_avx512;

// The builtin also asks whether the operating system keeps the wide registers.
static bool has_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#elif defined(__aarch64__)
extern const struct kernel adamd_kernel_neon; // every aarch64 has it
#endif

/** Fastest first; the last runs everywhere. */
static const struct {
    const struct kernel *kernel;
    bool (*runs_here)(void);
} built[] = {
#if defined(__x86_64__)
    {&adamd_kernel_avx512, has_avx512},
    {&adamd_kernel_avx2, has_avx2},
#elif defined(__aarch64__)
    {&adamd_kernel_neon, always},
#endif
    {&adamd_kernel_base, always},
};

enum { BUILT_COUNT = sizeof built / sizeof built[0] };

const struct kernel *const *kernels_here(void) {
    static const struct kernel *here[BUILT_COUNT + 1]; // the same at each call
    size_t count = 0;

    for (size_t i = 0; i < BUILT_COUNT; i++) {
        if (built[i].runs_here()) {
            here[count++] = built[i].kernel;
        }
    }
    return here;
}

const char *const *adamd_cpu_variants(void) {
    static const char *variants[BUILT_COUNT + 1];
    const struct kernel *const *here = kernels_here();

    for (size_t i = 0; here[i] != NULL; i++) {
        variants[i] = here[i]->variant;
    }
    return variants;
}
