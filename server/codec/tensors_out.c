// Files over memory: a header that is made, and a vector over arenas that stay where they are.
#include "codec/tensors.h"

#include "adamd/pt.h"
#include "codec/files.h"
#include "codec/text.h"

#include <stdlib.h>
#include <string.h>

enum { LENGTH_BYTES = 8, ALIGNMENT = 8 };

void codec_file_finish(struct codec_file *file) {
    free(file->head);
    free(file->steps);
    free(file->vector);
    adamd_pt_destroy(file->writer);
    *file = (struct codec_file){0};
}

void codec_file_add(struct codec_file *file, const void *bytes, size_t size) {
    struct iovec *last = file->vector_count > 0 ? &file->vector[file->vector_count - 1] : NULL;

    file->size += size;
    if (size == 0) {
        return;
    }
    if (last != NULL && (const char *)last->iov_base + last->iov_len == (const char *)bytes) {
        last->iov_len += size;
        return;
    }
    file->vector[file->vector_count++] = (struct iovec){.iov_base = (void *)bytes, .iov_len = size};
}

void codec_file_add_tensor(struct codec_file *file, const struct adamd_tensor *tensor,
                           const unsigned char *arena) {
    codec_file_add(file, arena + tensor->offset, (size_t)adamd_tensor_bytes(tensor));
}

enum adamd_status codec_file_begin(struct codec_file *file, unsigned char *head, size_t head_size,
                                   size_t pieces) {
    *file = (struct codec_file){.head = head, .head_size = head_size};
    file->vector = calloc(pieces + 1, sizeof *file->vector);
    if (file->vector == NULL) {
        codec_file_finish(file);
        return ADAMD_NO_MEMORY;
    }
    codec_file_add(file, head, head_size);
    return ADAMD_OK;
}

enum adamd_status codec_file_slice(const struct codec_file *file, uint64_t offset, uint64_t size,
                                   struct iovec **ret_vector, size_t *ret_count) {
    struct iovec *vector = calloc(file->vector_count + 1, sizeof *vector);
    size_t count = 0;

    ADAMD_ASSERT(offset <= file->size && size <= file->size - offset);
    if (vector == NULL) {
        return ADAMD_NO_MEMORY;
    }
    for (size_t i = 0; i < file->vector_count && size > 0; i++) {
        const struct iovec *piece = &file->vector[i];
        if (offset >= piece->iov_len) {
            offset -= piece->iov_len;
            continue;
        }
        const size_t left = piece->iov_len - (size_t)offset;
        const size_t taken = left < size ? left : (size_t)size;
        vector[count++] =
            (struct iovec){.iov_base = (char *)piece->iov_base + offset, .iov_len = taken};
        size -= taken;
        offset = 0;
    }
    *ret_vector = vector;
    *ret_count = count;
    return ADAMD_OK;
}

enum adamd_status codec_raw_file(const struct adamd_layout *layout,
                                 const struct adamd_published *published, unsigned char *head,
                                 size_t head_size, struct codec_file *ret_file) {
    const enum adamd_status status =
        codec_file_begin(ret_file, head, head_size, layout->tensor_count);

    if (status != ADAMD_OK) {
        return status;
    }
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        codec_file_add_tensor(ret_file, &layout->tensors[i], published->host);
    }
    return ADAMD_OK;
}

// -------------------------------------------------------------------------------------- parameters

struct codec_plan {
    const struct adamd_layout *layout;
    uint32_t *order; // tensors as the file has them
    char *pairs;     // codec_pairs_list()
    char *members;   // of the header: "a":{…},"b":{…}
    size_t members_size;
};

// What the writer made, without length, braces and padding.
static bool take_members(struct codec_plan *plan, unsigned char *header, size_t size) {
    while (header[size - 1] == ' ') {
        size--;
    }
    plan->members_size = size - LENGTH_BYTES - 2;
    plan->members = malloc(plan->members_size + 1);
    if (plan->members != NULL) {
        memcpy(plan->members, header + LENGTH_BYTES + 1, plan->members_size);
    }
    free(header);
    return plan->members != NULL;
}

static enum adamd_status fill_plan(struct codec_plan *plan, struct adamd_safetensors_entry *entries,
                                   struct adamd_fault *fault) {
    const struct adamd_layout *layout = plan->layout;
    unsigned char *header = NULL;
    size_t size = 0;

    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        codec_entry_of(&entries[i], &layout->tensors[i], layout->tensors[i].key);
    }
    const enum adamd_status status =
        adamd_safetensors_write(entries, layout->tensor_count, NULL, 0, &header, &size, fault);
    if (status != ADAMD_OK) {
        return status;
    }
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        plan->order[i] =
            (uint32_t)adamd_layout_find(layout, entries[i].name, strlen(entries[i].name));
    }
    return take_members(plan, header, size) && codec_pairs_list(layout, &plan->pairs)
               ? ADAMD_OK
               : adamd_fail_plain(fault, ADAMD_NO_MEMORY);
}

enum adamd_status codec_plan_create(const struct adamd_layout *layout, struct codec_plan **ret_plan,
                                    struct adamd_fault *fault) {
    struct codec_plan *plan = calloc(1, sizeof *plan);
    struct adamd_safetensors_entry *entries =
        calloc((size_t)layout->tensor_count + 1, sizeof *entries);
    enum adamd_status status = ADAMD_NO_MEMORY;

    if (plan != NULL) {
        plan->layout = layout;
        plan->order = calloc((size_t)layout->tensor_count + 1, sizeof *plan->order);
    }
    if (plan == NULL || entries == NULL || plan->order == NULL) {
        (void)adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    } else {
        status = fill_plan(plan, entries, fault);
    }
    free(entries);
    if (status != ADAMD_OK) {
        codec_plan_destroy(plan);
        return status;
    }
    *ret_plan = plan;
    return ADAMD_OK;
}

void codec_plan_destroy(struct codec_plan *plan) {
    if (plan != NULL) {
        free(plan->order);
        free(plan->pairs);
        free(plan->members);
        free(plan);
    }
}

// Length, metadata, the plan's members, padding.
static unsigned char *make_header(const struct codec_plan *plan,
                                  const struct adamd_published *published, size_t *ret_size) {
    struct codec_text text = {0};
    size_t size = 0;

    codec_text_add(&text, "\0\0\0\0\0\0\0", LENGTH_BYTES);
    codec_text_put(&text, "{\"__metadata__\":{\"format\":\"pt\",\"adamd.version\":\"");
    codec_text_uint(&text, published->version);
    codec_text_put(&text, "\",\"adamd.generation\":\"");
    codec_text_uint(&text, published->generation);
    codec_text_put(&text, "\"");
    if (plan->pairs != NULL) {
        codec_text_put(&text, ",\"adamd.complex128\":");
        codec_text_quote(&text, plan->pairs);
    }
    codec_text_put(&text, plan->members_size > 0 ? "}," : "}");
    codec_text_add(&text, plan->members, plan->members_size);
    codec_text_put(&text, "}");
    while (!text.failed && text.size % ALIGNMENT != 0) {
        codec_text_put(&text, " ");
    }
    unsigned char *header = (unsigned char *)codec_text_end(&text, &size);
    for (unsigned i = 0; header != NULL && i < LENGTH_BYTES; i++) {
        header[i] = (unsigned char)((uint64_t)(size - LENGTH_BYTES) >> (8 * i));
    }
    *ret_size = size;
    return header;
}

enum adamd_status codec_parameters_file(const struct codec_plan *plan,
                                        const struct adamd_published *published,
                                        struct codec_file *ret_file) {
    const struct adamd_layout *layout = plan->layout;
    size_t size = 0;
    unsigned char *header = make_header(plan, published, &size);

    if (header == NULL) {
        return ADAMD_NO_MEMORY;
    }
    const enum adamd_status status = codec_file_begin(ret_file, header, size, layout->tensor_count);
    if (status != ADAMD_OK) {
        return status;
    }
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        codec_file_add_tensor(ret_file, &layout->tensors[plan->order[i]], published->host);
    }
    return ADAMD_OK;
}
