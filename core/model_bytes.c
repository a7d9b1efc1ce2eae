// The bytes of a push on their way from wire order to their place in the slot.
#include "model_impl.h"

#include "adamd/crc32c.h"

#include <stdlib.h>

enum { BLOCK_BYTES = 16384 }; // copied, then scanned while it is in the first-level cache

// Copies to the byte `begin` of `tensor`. A real that was split between two pieces is scanned with
// its second.
static void receive(struct gradient *gradient, const struct adamd_tensor *tensor, uint64_t begin,
                    const unsigned char *data, size_t size) {
    unsigned char *host = gradient->slot->host;
    const enum adamd_dtype dtype = adamd_dtype_real(tensor->dtype);
    const size_t real = adamd_dtype_size(dtype);
    uint64_t offset = tensor->offset + begin; // tensors begin at a real's boundary

    while (size > 0) {
        const size_t block = size < BLOCK_BYTES ? size : BLOCK_BYTES;
        const uint64_t first = offset / real;
        const uint64_t end = (offset + block) / real;
        memcpy(host + offset, data, block);
        gradient->max_top[dtype] =
            scan_reals(dtype, host + first * real, (size_t)(end - first), gradient->max_top[dtype]);
        offset += block;
        data += block;
        size -= block;
    }
}

static enum adamd_status check_size(const struct gradient *gradient, size_t size,
                                    struct adamd_fault *fault) {
    if (size > gradient->byte_size - gradient->received) {
        adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "byte_size",
                   "the body is longer than the %llu bytes of the pushed tensors",
                   (unsigned long long)gradient->byte_size);
        return ADAMD_LAYOUT_MISMATCH;
    }
    return ADAMD_OK;
}

static void count_bytes(struct gradient *gradient, const void *data, size_t size) {
    gradient->received += size;
    if (gradient->crc32c != 0) {
        gradient->crc_running = adamd_crc32c(gradient->crc_running, data, size);
    }
}

// What the handle's gradient died of while its body was on the way.
static enum adamd_status tell_end(const struct adamd_push *push, struct adamd_fault *fault) {
    if (fault != NULL) {
        *fault = push->fault;
    }
    return push->status;
}

static bool is_receiving(const struct adamd_push *push) {
    return push->gradient != NULL && push->gradient->state == RECEIVING;
}

enum adamd_status adamd_push_append(struct adamd_push *push, const void *data, size_t size,
                                    struct adamd_fault *fault) {
    struct gradient *gradient = push->gradient;
    const unsigned char *bytes = data;
    enum adamd_status status;

    if (gradient == NULL) {
        return tell_end(push, fault);
    }
    ADAMD_ASSERT(is_receiving(push) && gradient->written == NULL);
    status = check_size(gradient, size, fault);
    if (status != ADAMD_OK) {
        return status;
    }
    count_bytes(gradient, data, size);
    while (size > 0) {
        const uint32_t i =
            gradient->tensors == NULL ? gradient->cursor : gradient->tensors[gradient->cursor];
        const struct adamd_tensor *tensor = &push->model->layout.tensors[i];
        const uint64_t left = adamd_tensor_bytes(tensor) - gradient->cursor_bytes;
        const size_t part = size < left ? size : (size_t)left;
        receive(gradient, tensor, gradient->cursor_bytes, bytes, part);
        gradient->cursor_bytes += part;
        bytes += part;
        size -= part;
        if (part == left) {
            gradient->cursor++;
            gradient->cursor_bytes = 0;
        }
    }
    return ADAMD_OK;
}

static enum adamd_status check_write(const struct adamd_push *push, uint32_t tensor, size_t size,
                                     struct adamd_fault *fault) {
    const struct adamd_layout *layout = &push->model->layout;
    const struct gradient *gradient = push->gradient;

    if (tensor >= layout->tensor_count || !gradient_has(gradient, tensor)) {
        return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "tensors",
                          "tensor %u is not among the pushed ones", tensor);
    }
    if (size > adamd_tensor_bytes(&layout->tensors[tensor]) - gradient->written[tensor]) {
        return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "tensors",
                          "the bytes of tensor %.128s are more than its %llu elements",
                          layout->tensors[tensor].key,
                          (unsigned long long)layout->tensors[tensor].count);
    }
    return ADAMD_OK;
}

enum adamd_status adamd_push_write(struct adamd_push *push, uint32_t tensor, const void *data,
                                   size_t size, struct adamd_fault *fault) {
    struct gradient *gradient = push->gradient;
    enum adamd_status status;

    if (gradient == NULL) {
        return tell_end(push, fault);
    }
    ADAMD_ASSERT(is_receiving(push) && gradient->cursor == 0 && gradient->cursor_bytes == 0);
    if (gradient->written == NULL) {
        gradient->written = calloc(push->model->layout.tensor_count, sizeof gradient->written[0]);
        if (gradient->written == NULL) {
            return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
        }
    }
    status = check_write(push, tensor, size, fault);
    if (status != ADAMD_OK || size == 0) {
        return status;
    }
    count_bytes(gradient, data, size);
    receive(gradient, &push->model->layout.tensors[tensor], gradient->written[tensor], data, size);
    gradient->written[tensor] += size;
    return ADAMD_OK;
}
