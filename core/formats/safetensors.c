// What reading and writing have in common: the types, and looking into a header.
#include "adamd/safetensors.h"
#include "formats/safetensors_impl.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    unsigned bits;
} types[ADAMD_ST_COUNT] = {
    [ADAMD_ST_BOOL] = {"BOOL", 8},
    [ADAMD_ST_F4] = {"F4", 4},
    [ADAMD_ST_F6_E2M3] = {"F6_E2M3", 6},
    [ADAMD_ST_F6_E3M2] = {"F6_E3M2", 6},
    [ADAMD_ST_U8] = {"U8", 8},
    [ADAMD_ST_I8] = {"I8", 8},
    [ADAMD_ST_F8_E5M2] = {"F8_E5M2", 8},
    [ADAMD_ST_F8_E4M3] = {"F8_E4M3", 8},
    [ADAMD_ST_F8_E8M0] = {"F8_E8M0", 8},
    [ADAMD_ST_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [ADAMD_ST_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
    [ADAMD_ST_I16] = {"I16", 16},
    [ADAMD_ST_U16] = {"U16", 16},
    [ADAMD_ST_F16] = {"F16", 16},
    [ADAMD_ST_BF16] = {"BF16", 16},
    [ADAMD_ST_I32] = {"I32", 32},
    [ADAMD_ST_U32] = {"U32", 32},
    [ADAMD_ST_F32] = {"F32", 32},
    [ADAMD_ST_C64] = {"C64", 64},
    [ADAMD_ST_F64] = {"F64", 64},
    [ADAMD_ST_I64] = {"I64", 64},
    [ADAMD_ST_U64] = {"U64", 64},
};

const char *adamd_safetensors_type_name(enum adamd_safetensors_type type) {
    ADAMD_ASSERT((unsigned)type < ADAMD_ST_COUNT);
    return types[type].name;
}

unsigned adamd_safetensors_type_bits(enum adamd_safetensors_type type) {
    ADAMD_ASSERT((unsigned)type < ADAMD_ST_COUNT);
    return types[type].bits;
}

bool safetensors_bits(const struct adamd_safetensors_entry *entry, uint64_t *ret_bits) {
    uint64_t count = 1;
    bool overflow = false;

    for (uint32_t i = 0; i < entry->rank; i++) {
        overflow |= __builtin_mul_overflow(count, entry->shape[i], &count);
    }
    overflow |= __builtin_mul_overflow(count, types[entry->type].bits, ret_bits);
    return !overflow;
}

void adamd_safetensors_finish(struct adamd_safetensors *header) {
    free(header->entries);
    free(header->metadata);
    free(header->memory);
    *header = (struct adamd_safetensors){0};
}

const char *adamd_safetensors_metadata_get(const struct adamd_safetensors *header,
                                           const char *key) {
    for (size_t i = 0; i < header->metadata_count; i++) {
        if (strcmp(header->metadata[i].key, key) == 0) {
            return header->metadata[i].value;
        }
    }
    return NULL;
}
