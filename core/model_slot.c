// Memory of a model: what it takes from the backend, and the slots into which gradients are
// received. Slots are recycled: their pages are there.
#include "model_impl.h"

#include <stdlib.h>

enum status_limit { WITHIN, OVER };

static enum status_limit check_limit(const struct adamd_model *model, size_t bytes) {
    return model->resident_bytes_max != 0 &&
                   bytes > model->resident_bytes_max -
                               (model->resident_bytes < model->resident_bytes_max
                                    ? model->resident_bytes
                                    : model->resident_bytes_max)
               ? OVER
               : WITHIN;
}

enum adamd_status model_alloc(struct adamd_model *model, enum adamd_memory memory, bool limited,
                              struct adamd_buffer **ret_buffer) {
    return model_alloc_bytes(model, memory, limited, model->arena_bytes, ret_buffer);
}

enum adamd_status model_alloc_bytes(struct adamd_model *model, enum adamd_memory memory,
                                    bool limited, size_t bytes, struct adamd_buffer **ret_buffer) {
    enum adamd_status status;

    if (limited && check_limit(model, bytes) == OVER) {
        return ADAMD_BUSY;
    }
    status = adamd_backend_alloc(model->backend, memory, bytes, ret_buffer);
    if (status == ADAMD_OK) {
        model->resident_bytes += adamd_buffer_bytes(*ret_buffer);
    }
    return status;
}

void model_release(struct adamd_model *model, struct adamd_buffer *buffer) {
    if (buffer != NULL) {
        model->resident_bytes -= adamd_buffer_bytes(buffer);
        adamd_backend_free(model->backend, buffer);
    }
}

void arena_clear_gaps(const struct adamd_layout *layout, unsigned char *host) {
    uint64_t end = layout->arena_bytes;

    for (uint32_t i = layout->tensor_count; i > 0; i--) {
        const struct adamd_tensor *tensor = &layout->tensors[layout->by_offset[i - 1]];
        const uint64_t gap = tensor->offset + adamd_tensor_bytes(tensor);
        memset(host + gap, 0, (size_t)(end - gap));
        end = tensor->offset;
    }
}

// ------------------------------------------------------------------------------------------- slots

enum adamd_status slot_create(struct adamd_model *model, const struct adamd_layout *layout,
                              uint64_t layout_count, struct slot **ret_slot) {
    struct slot *slot = calloc(1, sizeof *slot);
    enum adamd_status status;

    if (slot == NULL) {
        return ADAMD_NO_MEMORY;
    }
    status =
        model_alloc_bytes(model, ADAMD_STAGING, true, model_arena_bytes(layout), &slot->buffer);
    if (status != ADAMD_OK) {
        free(slot);
        return status;
    }
    slot->host = adamd_buffer_host(slot->buffer);
    // A run may reach over the gaps between tensors: zeros there change nothing.
    arena_clear_gaps(layout, slot->host);
    slot->layout_count = layout_count;
    slot->holds = 1;
    model->slot_count++;
    *ret_slot = slot;
    return ADAMD_OK;
}

enum adamd_status slot_take(struct adamd_model *model, struct slot **ret_slot) {
    struct slot *slot = model->slots_free;

    if (slot != NULL) {
        model->slots_free = slot->next;
        model->slots_free_count--;
    } else {
        const enum adamd_status status =
            model->slot_count < model->slots_max
                ? slot_create(model, &model->layout, model->layout_count, &slot)
                : ADAMD_BUSY;
        if (status != ADAMD_OK) {
            return status;
        }
    }
    slot->next = NULL;
    slot->holds = 1;
    *ret_slot = slot;
    return ADAMD_OK;
}

void slot_hold(struct slot *slot) {
    if (slot != NULL) {
        slot->holds++;
    }
}

void slot_drop(struct adamd_model *model, struct slot *slot) {
    if (slot == NULL) {
        return;
    }
    ADAMD_ASSERT(slot->holds > 0);
    slot->holds--;
    if (slot->holds == 0 && slot->layout_count != model->layout_count) {
        slot_destroy(model, slot);
    } else if (slot->holds == 0) {
        slot->next = model->slots_free;
        model->slots_free = slot;
        model->slots_free_count++;
    }
}

void slot_destroy(struct adamd_model *model, struct slot *slot) {
    model_release(model, slot->buffer);
    model->slot_count--;
    free(slot);
}

void slots_outgrow(struct adamd_model *model) {
    while (model->slots_free != NULL) {
        struct slot *slot = model->slots_free;
        model->slots_free = slot->next;
        model->slots_free_count--;
        slot_destroy(model, slot);
    }
}

void slots_finish(struct adamd_model *model) {
    ADAMD_ASSERT(model->slots_free_count == model->slot_count);
    slots_outgrow(model);
}
