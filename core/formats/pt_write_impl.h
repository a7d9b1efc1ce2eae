/** What the two halves of the writer of pt.h share: the pickle's and the archive's. */
#ifndef ADAMD_FORMATS_PT_WRITE_IMPL_H
#define ADAMD_FORMATS_PT_WRITE_IMPL_H

#include "formats/pt_impl.h"

enum { PT_SMALL_BYTES = 16, PT_ENTRY_NAME_MAX = 64, PT_FOLDER_MAX = 31 };

/** A growing piece of memory. After a failed allocation it takes no more. */
struct pt_bytes {
    unsigned char *at;
    size_t size, capacity;
    bool failed;
};

void pt_put(struct pt_bytes *to, const void *from, size_t size);
void pt_put_byte(struct pt_bytes *to, int byte);
void pt_put_text(struct pt_bytes *to, const char *text);
/** Little-endian. */
void pt_put_uint(struct pt_bytes *to, uint64_t value, size_t size);

struct pt_data {
    const void *bytes; // NULL: `small`
    uint64_t size, checked;
    uint32_t crc;
    unsigned char small[PT_SMALL_BYTES];
};

static inline const unsigned char *pt_data_bytes(const struct pt_data *data) {
    return data->bytes != NULL ? data->bytes : data->small;
}

enum pt_container_kind { PT_OPEN_DICT, PT_OPEN_LIST, PT_OPEN_TUPLE };

struct pt_container {
    enum pt_container_kind kind;
    uint64_t count; // of values: two a pair
};

/** What the central directory says of a record. */
struct pt_entry {
    char name[PT_ENTRY_NAME_MAX];
    uint64_t header, size;
    uint32_t crc;
};

struct adamd_pt_writer {
    char *folder;
    struct pt_bytes pickle;
    struct pt_container open[ADAMD_PT_DEPTH_MAX];
    size_t depth;
    struct pt_data *storages;
    size_t storage_count, storage_capacity, checked;
    // The archive, once it is finished.
    struct pt_bytes heads; // all that lies between the data of records
    struct pt_entry *entries;
    size_t entry_count;
    struct adamd_pt_piece *pieces; // those without bytes are the next of `heads`
    size_t piece_count;
    uint64_t place; // bytes of the archive so far
    char id[ADAMD_PT_SERIALIZATION_DIGITS + 1];
};

#endif
