/**
 * safetensors headers: the reader refuses whatever the reference refuses and what it only
 * discourages (duplicate names, floats as integers); the writer gives the reference's bytes. Bytes
 * in, bytes out: no files, no tensors' data.
 */
#ifndef ADAMD_SAFETENSORS_H
#define ADAMD_SAFETENSORS_H

#include "adamd/layout.h"

enum {
    ADAMD_SAFETENSORS_HEADER_MAX = 64 << 20, // the state of 65,536 tensors takes about 30 MB
    ADAMD_SAFETENSORS_ENTRIES_MAX = 8 * ADAMD_TENSORS_MAX,
    ADAMD_SAFETENSORS_NAME_MAX = 1024, // bytes; also of a metadata key
    ADAMD_SAFETENSORS_METADATA_MAX = 256,
};

/** Ascending by size, then as the format orders them: the writer sorts by this, descending. */
enum adamd_safetensors_type {
    ADAMD_ST_BOOL,
    ADAMD_ST_F4,
    ADAMD_ST_F6_E2M3,
    ADAMD_ST_F6_E3M2,
    ADAMD_ST_U8,
    ADAMD_ST_I8,
    ADAMD_ST_F8_E5M2,
    ADAMD_ST_F8_E4M3,
    ADAMD_ST_F8_E8M0,
    ADAMD_ST_F8_E4M3FNUZ,
    ADAMD_ST_F8_E5M2FNUZ,
    ADAMD_ST_I16,
    ADAMD_ST_U16,
    ADAMD_ST_F16,
    ADAMD_ST_BF16,
    ADAMD_ST_I32,
    ADAMD_ST_U32,
    ADAMD_ST_F32,
    ADAMD_ST_C64,
    ADAMD_ST_F64,
    ADAMD_ST_I64,
    ADAMD_ST_U64,
    ADAMD_ST_COUNT
};

/** "F32". Static storage. */
const char *adamd_safetensors_type_name(enum adamd_safetensors_type type);

/** Bits of one element: 4 to 64. */
unsigned adamd_safetensors_type_bits(enum adamd_safetensors_type type);

struct adamd_safetensors_entry {
    const char *name; // UTF-8, terminated, without NUL inside
    enum adamd_safetensors_type type;
    uint32_t rank;
    uint64_t shape[ADAMD_RANK_MAX];
    uint64_t begin, end; // bytes, from the start of the data section
};

struct adamd_safetensors_metadata {
    const char *key, *value;
};

/** A parsed header. Entries ascend by (begin, end) and tile the data section. */
struct adamd_safetensors {
    struct adamd_safetensors_entry *entries;
    size_t entry_count;
    struct adamd_safetensors_metadata *metadata;
    size_t metadata_count;
    uint64_t data_bytes; // length of the data section
    void *memory;        // what names and values point into
};

/**
 * Parses the `size` bytes of JSON that follow the eight length bytes. `file_bytes` is the length of
 * the whole file (UINT64_MAX: unknown, not checked). BAD_FIELD with the reference's name for the
 * fault in metadata "error" (HeaderTooLarge, InvalidOffset, ...), TOO_LARGE, NO_MEMORY.
 */
ADAMD_MUST_USE enum adamd_status adamd_safetensors_parse(const void *json, size_t size,
                                                         uint64_t file_bytes,
                                                         struct adamd_safetensors *ret_header,
                                                         struct adamd_fault *fault);
/** Takes anything from zeroed to whole. */
void adamd_safetensors_finish(struct adamd_safetensors *header);

/** The value of a key, or NULL. */
const char *adamd_safetensors_metadata_get(const struct adamd_safetensors *header, const char *key);

/**
 * Writes length and header for `entries`, whose begin and end are filled in: sorted by type
 * (descending) and name. `ret_bytes` is malloc'ed, a multiple of 8 long. NO_MEMORY, TOO_LARGE.
 */
ADAMD_MUST_USE enum adamd_status
adamd_safetensors_write(struct adamd_safetensors_entry *entries, size_t entry_count,
                        const struct adamd_safetensors_metadata *metadata, size_t metadata_count,
                        unsigned char **ret_bytes, size_t *ret_size, struct adamd_fault *fault);

#endif
