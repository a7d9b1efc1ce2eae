// The writer: the reference's order of tensors, its compact JSON, its padding.
#include "adamd/safetensors.h"
#include "formats/safetensors_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH_BYTES = 8, ALIGNMENT = 8 };

struct output {
    unsigned char *bytes;
    size_t size, capacity;
    bool failed;
};

static void put_bytes(struct output *output, const void *bytes, size_t size) {
    if (!output->failed && output->capacity - output->size < size) {
        const size_t capacity = (output->size + size) * 2;
        unsigned char *grown = realloc(output->bytes, capacity);
        output->failed = grown == NULL;
        if (grown != NULL) {
            output->bytes = grown;
            output->capacity = capacity;
        }
    }
    if (!output->failed) {
        memcpy(output->bytes + output->size, bytes, size);
        output->size += size;
    }
}

static void put_text(struct output *output, const char *text) {
    put_bytes(output, text, strlen(text));
}

static void put_escape(struct output *output, unsigned char c) {
    static const char named[] = "\"\\\b\f\n\r\t";
    static const char letters[] = "\"\\bfnrt";
    const char *found = strchr(named, c);
    char escape[8];

    if (found != NULL) {
        (void)snprintf(escape, sizeof escape, "\\%c", letters[found - named]);
    } else {
        (void)snprintf(escape, sizeof escape, "\\u%04x", c);
    }
    put_text(output, escape);
}

static void put_string(struct output *output, const char *string) {
    put_text(output, "\"");
    while (*string != 0) {
        size_t plain = 0;
        while ((unsigned char)string[plain] >= 0x20 && string[plain] != '"' &&
               string[plain] != '\\') {
            plain++;
        }
        put_bytes(output, string, plain);
        string += plain;
        if (*string != 0) {
            put_escape(output, (unsigned char)*string++);
        }
    }
    put_text(output, "\"");
}

static void put_uint(struct output *output, uint64_t value) {
    char digits[24];
    const int size = snprintf(digits, sizeof digits, "%" PRIu64, value);
    put_bytes(output, digits, (size_t)size);
}

static int compare_entries(const void *a, const void *b) {
    const struct adamd_safetensors_entry *left = a;
    const struct adamd_safetensors_entry *right = b;

    if (left->type != right->type) {
        return left->type > right->type ? -1 : 1;
    }
    return strcmp(left->name, right->name);
}

// Begin and end of each, in the order in which they now stand.
static enum adamd_status place_entries(struct adamd_safetensors_entry *entries, size_t count,
                                       struct adamd_fault *fault) {
    uint64_t at = 0;

    for (size_t i = 0; i < count; i++) {
        struct adamd_safetensors_entry *entry = &entries[i];
        uint64_t bits = 0;
        entry->begin = at;
        if (!safetensors_bits(entry, &bits) || bits % 8 != 0 ||
            __builtin_add_overflow(at, bits / 8, &at)) {
            return adamd_fail(fault, ADAMD_TOO_LARGE, entry->name, "the tensor has no whole size");
        }
        entry->end = at;
    }
    return ADAMD_OK;
}

static void put_entry(struct output *output, const struct adamd_safetensors_entry *entry) {
    put_string(output, entry->name);
    put_text(output, ":{\"dtype\":\"");
    put_text(output, adamd_safetensors_type_name(entry->type));
    put_text(output, "\",\"shape\":[");
    for (uint32_t i = 0; i < entry->rank; i++) {
        put_text(output, i > 0 ? "," : "");
        put_uint(output, entry->shape[i]);
    }
    put_text(output, "],\"data_offsets\":[");
    put_uint(output, entry->begin);
    put_text(output, ",");
    put_uint(output, entry->end);
    put_text(output, "]}");
}

static void put_metadata(struct output *output, const struct adamd_safetensors_metadata *metadata,
                         size_t count) {
    put_text(output, "\"__metadata__\":{");
    for (size_t i = 0; i < count; i++) {
        put_text(output, i > 0 ? "," : "");
        put_string(output, metadata[i].key);
        put_text(output, ":");
        put_string(output, metadata[i].value);
    }
    put_text(output, "}");
}

static void store_length(unsigned char *to, uint64_t length) {
    for (unsigned i = 0; i < LENGTH_BYTES; i++) {
        to[i] = (unsigned char)(length >> (8 * i));
    }
}

enum adamd_status adamd_safetensors_write(struct adamd_safetensors_entry *entries,
                                          size_t entry_count,
                                          const struct adamd_safetensors_metadata *metadata,
                                          size_t metadata_count, unsigned char **ret_bytes,
                                          size_t *ret_size, struct adamd_fault *fault) {
    struct output output = {0};

    if (entry_count > 1) {
        qsort(entries, entry_count, sizeof *entries, compare_entries);
    }
    const enum adamd_status status = place_entries(entries, entry_count, fault);
    if (status != ADAMD_OK) {
        return status;
    }
    put_bytes(&output, "\0\0\0\0\0\0\0", LENGTH_BYTES);
    put_text(&output, "{");
    if (metadata_count > 0) {
        put_metadata(&output, metadata, metadata_count);
    }
    for (size_t i = 0; i < entry_count; i++) {
        put_text(&output, i > 0 || metadata_count > 0 ? "," : "");
        put_entry(&output, &entries[i]);
    }
    put_text(&output, "}");
    while (!output.failed && output.size % ALIGNMENT != 0) {
        put_text(&output, " ");
    }
    if (output.failed || output.size - LENGTH_BYTES > ADAMD_SAFETENSORS_HEADER_MAX) {
        free(output.bytes);
        return adamd_fail_plain(fault, output.failed ? ADAMD_NO_MEMORY : ADAMD_TOO_LARGE);
    }
    store_length(output.bytes, output.size - LENGTH_BYTES);
    *ret_bytes = output.bytes;
    *ret_size = output.size;
    return ADAMD_OK;
}
