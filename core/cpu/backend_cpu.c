// The CPU as a device: operations become jobs of a thread pool, which runs them in order. Memory is
// mapped by the caller and populated by the pool in the background, for that takes a tenth of a
// second per GiB, and on a virtual machine whose host has to find the pages, ten.
#define _GNU_SOURCE
#include "adamd/backend_impl.h"
#include "kernel.h"
#include "pass.h"
#include "pool.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    SLICE_BYTES = 256 * 1024,          // of what goes over one range, a unit
    POPULATE_BYTES = 2 * 1024 * 1024,  // a unit
    HUGE_PAGE_BYTES = 2 * 1024 * 1024, // on every system where there are some
};

struct cpu_backend {
    struct adamd_backend base;
    struct adamd_backend_ops ops; // with this backend's name
    char name[32];
    const struct kernel *kernel;
    struct pool *pool;
    atomic_uint_fast64_t completed;
};

/** Populated and freed by background jobs of its own, which keep their order. */
struct cpu_buffer {
    struct adamd_buffer base;
    size_t mapped_bytes;
    void *mapped;
    atomic_bool freed; // populate no further
    struct job populate, unmap;
};

struct cpu_op {
    struct job job;
    struct cpu_backend *backend;
    struct adamd_op op;
    struct pass *pass; // where it has runs
};

#define CONTAINER_OF(pointer, type, member) \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

static struct cpu_backend *from_base(struct adamd_backend *base) {
    return CONTAINER_OF(base, struct cpu_backend, base);
}

static size_t slices(size_t bytes, size_t slice) {
    return bytes == 0 ? 1 : (bytes - 1) / slice + 1;
}

// The `unit`-th slice of `bytes`: its length; `ret_offset` is where it begins.
static size_t slice_at(size_t bytes, size_t slice, size_t unit, size_t *ret_offset) {
    *ret_offset = unit * slice;
    return bytes - *ret_offset < slice ? bytes - *ret_offset : slice;
}

// ------------------------------------------------------------------------------------------ memory

// Populating changes no content, so the host may write meanwhile. Where the kernel cannot do it,
// the pages come when they are touched.
static void run_populate(struct job *job, size_t unit) {
#ifdef MADV_POPULATE_WRITE
    const struct cpu_buffer *buffer = CONTAINER_OF(job, struct cpu_buffer, populate);
    size_t offset = 0;
    const size_t bytes = slice_at(buffer->mapped_bytes, POPULATE_BYTES, unit, &offset);
    if (!atomic_load(&buffer->freed)) {
        (void)madvise((char *)buffer->mapped + offset, bytes, MADV_POPULATE_WRITE);
    }
#else
    (void)job;
    (void)unit;
#endif
}

static void finish_populate(struct job *job) {
    (void)job;
}

static void run_unmap(struct job *job, size_t unit) {
    const struct cpu_buffer *buffer = CONTAINER_OF(job, struct cpu_buffer, unmap);
    (void)unit;
    (void)munmap(buffer->mapped, buffer->mapped_bytes);
}

static void finish_unmap(struct job *job) {
    free(CONTAINER_OF(job, struct cpu_buffer, unmap));
}

// Large buffers begin at a huge page's boundary; what was mapped around them is given back.
static void *map(size_t bytes) {
    const size_t spare = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 0;
    char *mapped =
        mmap(NULL, bytes + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (mapped == MAP_FAILED || spare == 0) {
        return mapped == MAP_FAILED ? NULL : mapped;
    }
    const size_t before = (HUGE_PAGE_BYTES - (uintptr_t)mapped % HUGE_PAGE_BYTES) % HUGE_PAGE_BYTES;
    if (before > 0) {
        (void)munmap(mapped, before);
    }
    if (spare - before > 0) {
        (void)munmap(mapped + before + bytes, spare - before);
    }
    (void)madvise(mapped + before, bytes, MADV_HUGEPAGE);
    return mapped + before;
}

static enum adamd_status cpu_alloc(struct adamd_backend *base, enum adamd_memory memory,
                                   size_t bytes, struct adamd_buffer **ret_buffer) {
    const size_t round = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 4096;
    struct cpu_buffer *buffer = calloc(1, sizeof *buffer);

    (void)memory; // the host sees both kinds
    if (buffer == NULL || bytes > SIZE_MAX - 2 * (size_t)HUGE_PAGE_BYTES) {
        free(buffer);
        return ADAMD_NO_MEMORY;
    }
    buffer->mapped_bytes = (bytes + round - 1) / round * round;
    buffer->mapped = map(buffer->mapped_bytes);
    if (buffer->mapped == NULL) {
        free(buffer);
        return ADAMD_NO_MEMORY;
    }
    atomic_init(&buffer->freed, false);
    buffer->base.bytes = bytes;
    buffer->base.host = buffer->mapped;
    buffer->populate = (struct job){.unit_count = slices(buffer->mapped_bytes, POPULATE_BYTES),
                                    .run = run_populate,
                                    .finish = finish_populate,
                                    .background = true};
    buffer->unmap =
        (struct job){.unit_count = 1, .run = run_unmap, .finish = finish_unmap, .background = true};
    pool_submit(from_base(base)->pool, &buffer->populate);
    *ret_buffer = &buffer->base;
    return ADAMD_OK;
}

// Unmapping a GiB takes its time too, and the pages may still be on their way.
static void cpu_free(struct adamd_backend *base, struct adamd_buffer *buffer) {
    struct cpu_buffer *freed = CONTAINER_OF(buffer, struct cpu_buffer, base);

    atomic_store(&freed->freed, true);
    pool_submit(from_base(base)->pool, &freed->unmap);
}

// -------------------------------------------------------------------------------------- operations

static struct cpu_op *op_of(struct job *job) {
    return CONTAINER_OF(job, struct cpu_op, job);
}

static void run_pass(struct job *job, size_t unit) {
    pass_run(op_of(job)->pass, unit);
}

static void run_copy(struct job *job, size_t unit) {
    const struct adamd_copy *copy = &op_of(job)->op.copy;
    size_t offset = 0;
    const size_t bytes = slice_at((size_t)copy->bytes, SLICE_BYTES, unit, &offset);
    memcpy((char *)copy->to->host + copy->to_offset + offset,
           (const char *)copy->from->host + copy->from_offset + offset, bytes);
}

static void run_fill(struct job *job, size_t unit) {
    const struct adamd_fill *fill = &op_of(job)->op.fill;
    size_t offset = 0;
    const size_t bytes = slice_at((size_t)fill->bytes, SLICE_BYTES, unit, &offset);
    memset((char *)fill->to->host + fill->offset + offset, 0, bytes);
}

// The `unit`-th slice of `count` reals at `offset`: how many, and `ret_at` where.
static size_t reals_at(uint64_t offset, uint64_t count, enum adamd_dtype dtype, size_t unit,
                       uint64_t *ret_at) {
    const size_t size = adamd_dtype_size(dtype);
    size_t begin = 0;
    const size_t reals = slice_at((size_t)count, SLICE_BYTES / size, unit, &begin);

    *ret_at = offset + (uint64_t)begin * size;
    return reals;
}

static void run_accumulate(struct job *job, size_t unit) {
    const struct cpu_op *op = op_of(job);
    const struct adamd_accumulate *accumulate = &op->op.accumulate;
    uint64_t at = 0;
    const size_t count =
        reals_at(accumulate->offset, accumulate->count, accumulate->dtype, unit, &at);
    op->backend->kernel->loops[accumulate->dtype]->add((char *)accumulate->to->host + at,
                                                       (char *)accumulate->from->host + at, count);
}

static void run_blend(struct job *job, size_t unit) {
    const struct cpu_op *op = op_of(job);
    const struct adamd_blend *blend = &op->op.blend;
    uint64_t at = 0;
    const size_t count = reals_at(blend->offset, blend->count, blend->dtype, unit, &at);
    op->backend->kernel->loops[blend->dtype]->blend(
        (char *)blend->to->host + at, (char *)blend->from->host + at, blend->weight, count);
}

static void run_scale(struct job *job, size_t unit) {
    const struct cpu_op *op = op_of(job);
    const struct adamd_scale *scale = &op->op.scale;
    const struct kernel_loops *loops = op->backend->kernel->loops[scale->dtype];
    uint64_t at = 0;
    const size_t count = reals_at(scale->offset, scale->count, scale->dtype, unit, &at);
    char *to = (char *)scale->to->host + at;
    if (scale->divides) {
        loops->divide(to, scale->factor, count);
    } else {
        loops->scale(to, scale->factor, count);
    }
}

static void run_clamp(struct job *job, size_t unit) {
    const struct cpu_op *op = op_of(job);
    const struct adamd_clamp *clamp = &op->op.clamp;
    uint64_t at = 0;
    const size_t count = reals_at(clamp->offset, clamp->count, clamp->dtype, unit, &at);
    op->backend->kernel->loops[clamp->dtype]->clamp((char *)clamp->to->host + at, clamp->limit,
                                                    count);
}

static void finish_op(struct job *job) {
    struct cpu_op *op = op_of(job);
    struct cpu_backend *backend = op->backend;

    if (op->pass != NULL) {
        pass_finish(op->pass);
        pass_destroy(op->pass);
    }
    free(op);
    atomic_fetch_add(&backend->completed, 1);
    if (backend->base.notify != NULL) {
        backend->base.notify(backend->base.notify_arg);
    }
}

static void slice(struct cpu_op *op, void (*run)(struct job *job, size_t unit), uint64_t count,
                  size_t size) {
    op->job.run = run;
    op->job.unit_count = slices((size_t)count, SLICE_BYTES / size);
}

// False if out of memory.
static bool prepare(struct cpu_op *op) {
    const struct adamd_op *what = &op->op;

    switch (what->kind) {
    case ADAMD_OP_STEP:
    case ADAMD_OP_MEAN:
    case ADAMD_OP_NORM:
    case ADAMD_OP_DIFFERENTIATE:
        op->pass = pass_create(what, op->backend->kernel);
        op->job.run = run_pass;
        op->job.unit_count = op->pass == NULL ? 0 : pass_units(op->pass);
        return op->pass != NULL;
    case ADAMD_OP_COPY:
        slice(op, run_copy, what->copy.bytes, 1);
        return true;
    case ADAMD_OP_FILL:
        slice(op, run_fill, what->fill.bytes, 1);
        return true;
    case ADAMD_OP_ACCUMULATE:
        slice(op, run_accumulate, what->accumulate.count, adamd_dtype_size(what->accumulate.dtype));
        return true;
    case ADAMD_OP_BLEND:
        slice(op, run_blend, what->blend.count, adamd_dtype_size(what->blend.dtype));
        return true;
    case ADAMD_OP_SCALE:
        slice(op, run_scale, what->scale.count, adamd_dtype_size(what->scale.dtype));
        return true;
    case ADAMD_OP_CLAMP:
        slice(op, run_clamp, what->clamp.count, adamd_dtype_size(what->clamp.dtype));
        return true;
    }
    return false;
}

static enum adamd_status cpu_submit(struct adamd_backend *base, const struct adamd_op *what) {
    struct cpu_op *op = calloc(1, sizeof *op);

    if (op == NULL) {
        return ADAMD_NO_MEMORY;
    }
    op->backend = from_base(base);
    op->op = *what;
    op->job.finish = finish_op;
    if (!prepare(op)) {
        free(op);
        return ADAMD_NO_MEMORY;
    }
    pool_submit(op->backend->pool, &op->job);
    return ADAMD_OK;
}

static enum adamd_status cpu_completed(struct adamd_backend *base, uint64_t *ret_count) {
    *ret_count = atomic_load(&from_base(base)->completed);
    return ADAMD_OK;
}

static unsigned cpu_threads(const struct adamd_backend *base) {
    return pool_threads(((const struct cpu_backend *)base)->pool);
}

static void cpu_destroy(struct adamd_backend *base) {
    struct cpu_backend *backend = from_base(base);

    if (backend->pool != NULL) {
        pool_drain(backend->pool);
        adamd_backend_free_all(base);
        pool_destroy(backend->pool);
    }
    free(backend);
}

static const struct adamd_backend_ops cpu_ops = {
    .name = "cpu",
    .alloc = cpu_alloc,
    .free = cpu_free,
    .submit = cpu_submit,
    .completed = cpu_completed,
    .threads = cpu_threads,
    .destroy = cpu_destroy,
};

static unsigned count_cpus(void) {
    cpu_set_t cpus;

    // Fails where there are more CPUs than the set holds.
    if (sched_getaffinity(0, sizeof cpus, &cpus) != 0) {
        return POOL_THREADS_MAX;
    }
    return (unsigned)CPU_COUNT(&cpus);
}

static const struct kernel *find_kernel(const char *variant) {
    const struct kernel *const *kernel = kernels_here();

    while (variant != NULL && *kernel != NULL && strcmp((*kernel)->variant, variant) != 0) {
        kernel++;
    }
    return *kernel;
}

struct adamd_backend *adamd_cpu_backend_create(const char *variant, unsigned threads,
                                               adamd_notify_fn *notify, void *notify_arg) {
    const struct kernel *kernel = find_kernel(variant);
    const unsigned wanted = threads > 0 ? threads : count_cpus();
    struct cpu_backend *backend = kernel == NULL ? NULL : calloc(1, sizeof *backend);

    if (backend == NULL) {
        return NULL;
    }
    (void)snprintf(backend->name, sizeof backend->name, "cpu-%s", kernel->variant);
    backend->ops = cpu_ops;
    backend->ops.name = backend->name;
    backend->kernel = kernel;
    atomic_init(&backend->completed, 0);
    adamd_backend_init(&backend->base, &backend->ops, notify, notify_arg);
    backend->pool = pool_create(wanted < POOL_THREADS_MAX ? wanted : POOL_THREADS_MAX);
    if (backend->pool == NULL) {
        adamd_backend_destroy(&backend->base);
        return NULL;
    }
    return &backend->base;
}
