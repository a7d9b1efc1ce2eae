// The writer of values: the pickle in the few opcodes that every reader knows, without a memo.
#include "adamd/crc32.h"
#include "formats/pt_write_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 1000 }; // items between one MARK and its end, as Python's pickler has it

void pt_put(struct pt_bytes *to, const void *from, size_t size) {
    if (!to->failed && to->capacity - to->size < size) {
        const size_t capacity = (to->size + size) * 2;
        unsigned char *grown = realloc(to->at, capacity);
        to->failed = grown == NULL;
        if (grown != NULL) {
            to->at = grown;
            to->capacity = capacity;
        }
    }
    if (!to->failed && size > 0) {
        memcpy(to->at + to->size, from, size);
        to->size += size;
    }
}

void pt_put_byte(struct pt_bytes *to, int byte) {
    const unsigned char value = (unsigned char)byte;
    pt_put(to, &value, 1);
}

void pt_put_text(struct pt_bytes *to, const char *text) {
    pt_put(to, text, strlen(text));
}

// Little-endian.
void pt_put_uint(struct pt_bytes *to, uint64_t value, size_t size) {
    unsigned char bytes[8];

    for (size_t i = 0; i < size; i++) {
        bytes[i] = (unsigned char)(value >> (8 * i));
    }
    pt_put(to, bytes, size);
}

// -------------------------------------------------------------------------------------- life

enum adamd_status adamd_pt_create(const char *folder, struct adamd_pt_writer **ret_writer) {
    struct adamd_pt_writer *writer = calloc(1, sizeof *writer);

    ADAMD_ASSERT(strlen(folder) > 0 && strlen(folder) <= PT_FOLDER_MAX);
    if (writer == NULL) {
        return ADAMD_NO_MEMORY;
    }
    writer->folder = strdup(folder);
    if (writer->folder == NULL) {
        free(writer);
        return ADAMD_NO_MEMORY;
    }
    pt_put_byte(&writer->pickle, 0x80);
    pt_put_byte(&writer->pickle, 2);
    *ret_writer = writer;
    return ADAMD_OK;
}

void adamd_pt_destroy(struct adamd_pt_writer *writer) {
    if (writer != NULL) {
        free(writer->folder);
        free(writer->pickle.at);
        free(writer->storages);
        free(writer->heads.at);
        free(writer->entries);
        free(writer->pieces);
        free(writer);
    }
}

// ------------------------------------------------------------------------------------- values

static void end_batch(struct adamd_pt_writer *writer, enum pt_container_kind kind) {
    static const char ends[] = {[PT_OPEN_DICT] = 'u', [PT_OPEN_LIST] = 'e', [PT_OPEN_TUPLE] = 't'};
    pt_put_byte(&writer->pickle, ends[kind]);
}

static uint64_t batch_of(enum pt_container_kind kind) {
    switch (kind) {
    case PT_OPEN_DICT:
        return 2 * (uint64_t)BATCH;
    case PT_OPEN_LIST:
        return BATCH;
    default:
        return UINT64_MAX;
    }
}

// Every value passes here first: the container that it goes into may need its MARK.
static void before_value(struct adamd_pt_writer *writer) {
    if (writer->depth == 0) {
        return;
    }
    struct pt_container *container = &writer->open[writer->depth - 1];
    const bool is_first = container->count % batch_of(container->kind) == 0;
    if (is_first && container->count > 0) {
        end_batch(writer, container->kind);
    }
    if (is_first) {
        pt_put_byte(&writer->pickle, '(');
    }
    container->count++;
}

static void begin(struct adamd_pt_writer *writer, enum pt_container_kind kind) {
    ADAMD_ASSERT(writer->depth < ADAMD_PT_DEPTH_MAX);
    writer->open[writer->depth++] = (struct pt_container){.kind = kind};
}

static void end(struct adamd_pt_writer *writer, enum pt_container_kind kind) {
    ADAMD_ASSERT(writer->depth > 0);
    const struct pt_container *container = &writer->open[--writer->depth];

    ADAMD_ASSERT(container->kind == kind && (kind != PT_OPEN_DICT || container->count % 2 == 0));
    if (container->count > 0) {
        end_batch(writer, kind);
    } else if (kind == PT_OPEN_TUPLE) {
        pt_put_byte(&writer->pickle, ')');
    }
}

static void put_global(struct adamd_pt_writer *writer, const char *module, const char *name) {
    pt_put_byte(&writer->pickle, 'c');
    pt_put_text(&writer->pickle, module);
    pt_put_byte(&writer->pickle, '\n');
    pt_put_text(&writer->pickle, name);
    pt_put_byte(&writer->pickle, '\n');
}

void adamd_pt_put_none(struct adamd_pt_writer *writer) {
    before_value(writer);
    pt_put_byte(&writer->pickle, 'N');
}

void adamd_pt_put_bool(struct adamd_pt_writer *writer, bool value) {
    before_value(writer);
    pt_put_byte(&writer->pickle, value ? 0x88 : 0x89);
}

// Of 33 to 64 bits: as few bytes as keep the sign.
static void put_long(struct pt_bytes *to, int64_t value) {
    size_t size = sizeof value;

    while (size > 1) {
        const int64_t above = value >> (8 * (size - 1) - 1);
        if (above != 0 && above != -1) {
            break;
        }
        size--;
    }
    pt_put_byte(to, 0x8a);
    pt_put_byte(to, (int)size);
    pt_put_uint(to, (uint64_t)value, size);
}

void adamd_pt_put_int(struct adamd_pt_writer *writer, int64_t value) {
    before_value(writer);
    if (value >= 0 && value <= UINT8_MAX) {
        pt_put_byte(&writer->pickle, 'K');
        pt_put_uint(&writer->pickle, (uint64_t)value, 1);
    } else if (value >= 0 && value <= UINT16_MAX) {
        pt_put_byte(&writer->pickle, 'M');
        pt_put_uint(&writer->pickle, (uint64_t)value, 2);
    } else if (value >= INT32_MIN && value <= INT32_MAX) {
        pt_put_byte(&writer->pickle, 'J');
        pt_put_uint(&writer->pickle, (uint64_t)value, 4);
    } else {
        put_long(&writer->pickle, value);
    }
}

void adamd_pt_put_float(struct adamd_pt_writer *writer, double value) {
    uint64_t bits = 0;

    before_value(writer);
    pt_put_byte(&writer->pickle, 'G');
    memcpy(&bits, &value, sizeof bits);
    for (int shift = 56; shift >= 0; shift -= 8) {
        pt_put_byte(&writer->pickle, (int)(bits >> shift & 0xFF));
    }
}

void adamd_pt_put_text_of(struct adamd_pt_writer *writer, const char *text, size_t size) {
    ADAMD_ASSERT(size <= ADAMD_PT_TEXT_MAX);
    before_value(writer);
    pt_put_byte(&writer->pickle, 'X');
    pt_put_uint(&writer->pickle, size, 4);
    pt_put(&writer->pickle, text, size);
}

void adamd_pt_put_text(struct adamd_pt_writer *writer, const char *text) {
    adamd_pt_put_text_of(writer, text, strlen(text));
}

void adamd_pt_begin_dict(struct adamd_pt_writer *writer) {
    before_value(writer);
    pt_put_byte(&writer->pickle, '}');
    begin(writer, PT_OPEN_DICT);
}

static void put_ordered(struct adamd_pt_writer *writer) {
    put_global(writer, "collections", "OrderedDict");
    pt_put_byte(&writer->pickle, ')');
    pt_put_byte(&writer->pickle, 'R');
}

void adamd_pt_begin_ordered(struct adamd_pt_writer *writer) {
    before_value(writer);
    put_ordered(writer);
    begin(writer, PT_OPEN_DICT);
}

void adamd_pt_end_dict(struct adamd_pt_writer *writer) {
    end(writer, PT_OPEN_DICT);
}

void adamd_pt_begin_list(struct adamd_pt_writer *writer) {
    before_value(writer);
    pt_put_byte(&writer->pickle, ']');
    begin(writer, PT_OPEN_LIST);
}

void adamd_pt_end_list(struct adamd_pt_writer *writer) {
    end(writer, PT_OPEN_LIST);
}

void adamd_pt_begin_tuple(struct adamd_pt_writer *writer) {
    before_value(writer);
    begin(writer, PT_OPEN_TUPLE);
}

void adamd_pt_end_tuple(struct adamd_pt_writer *writer) {
    end(writer, PT_OPEN_TUPLE);
}

void adamd_pt_begin_attributes(struct adamd_pt_writer *writer) {
    pt_put_byte(&writer->pickle, '}'); // an operand of BUILD, and no value of the container
    begin(writer, PT_OPEN_DICT);
}

void adamd_pt_end_attributes(struct adamd_pt_writer *writer) {
    end(writer, PT_OPEN_DICT);
    pt_put_byte(&writer->pickle, 'b');
}

// ------------------------------------------------------------------------------------ tensors

static struct pt_data *add_storage(struct adamd_pt_writer *writer) {
    if (writer->storage_count == writer->storage_capacity) {
        const size_t capacity = writer->storage_capacity == 0 ? 64 : writer->storage_capacity * 2;
        struct pt_data *grown = realloc(writer->storages, capacity * sizeof *grown);
        if (grown == NULL) {
            writer->pickle.failed = true;
            return NULL;
        }
        writer->storages = grown;
        writer->storage_capacity = capacity;
    }
    struct pt_data *storage = &writer->storages[writer->storage_count++];
    *storage = (struct pt_data){0};
    return storage;
}

static void put_persistent(struct adamd_pt_writer *writer, enum adamd_pt_dtype dtype,
                           uint64_t count) {
    char key[24];

    (void)snprintf(key, sizeof key, "%zu", writer->storage_count - 1);
    adamd_pt_begin_tuple(writer);
    adamd_pt_put_text(writer, "storage");
    before_value(writer);
    put_global(writer, "torch", pt_dtypes[dtype].storage);
    adamd_pt_put_text(writer, key);
    adamd_pt_put_text(writer, "cpu");
    adamd_pt_put_int(writer, (int64_t)count);
    adamd_pt_end_tuple(writer);
    pt_put_byte(&writer->pickle, 'Q');
}

// Row-major: the product of later sizes, with 0 counted as 1.
static void put_strides(struct adamd_pt_writer *writer, uint32_t rank, const uint64_t *shape) {
    adamd_pt_begin_tuple(writer);
    for (uint32_t i = 0; i < rank; i++) {
        uint64_t stride = 1;
        for (uint32_t k = i + 1; k < rank; k++) {
            stride *= shape[k] > 0 ? shape[k] : 1;
        }
        adamd_pt_put_int(writer, (int64_t)stride);
    }
    adamd_pt_end_tuple(writer);
}

static struct pt_data *put_tensor(struct adamd_pt_writer *writer, enum adamd_pt_dtype dtype,
                                  uint32_t rank, const uint64_t *shape) {
    struct pt_data *storage = add_storage(writer);
    uint64_t count = 1;

    ADAMD_ASSERT(pt_dtypes[dtype].storage != NULL && rank <= ADAMD_PT_RANK_MAX);
    if (storage == NULL) {
        before_value(writer); // counts, though nothing will come of the file
        return NULL;
    }
    for (uint32_t i = 0; i < rank; i++) {
        count *= shape[i];
    }
    storage->size = count * pt_dtypes[dtype].size;
    before_value(writer);
    put_global(writer, "torch._utils", "_rebuild_tensor_v2");
    begin(writer, PT_OPEN_TUPLE);
    put_persistent(writer, dtype, count);
    adamd_pt_put_int(writer, 0);
    adamd_pt_begin_tuple(writer);
    for (uint32_t i = 0; i < rank; i++) {
        adamd_pt_put_int(writer, (int64_t)shape[i]);
    }
    adamd_pt_end_tuple(writer);
    put_strides(writer, rank, shape);
    adamd_pt_put_bool(writer, false);
    before_value(writer);
    put_ordered(writer);
    end(writer, PT_OPEN_TUPLE);
    pt_put_byte(&writer->pickle, 'R');
    return storage;
}

void adamd_pt_put_tensor(struct adamd_pt_writer *writer, enum adamd_pt_dtype dtype, uint32_t rank,
                         const uint64_t *shape, const void *bytes) {
    struct pt_data *storage = put_tensor(writer, dtype, rank, shape);

    if (storage != NULL) {
        storage->bytes = bytes;
    }
}

void adamd_pt_put_small(struct adamd_pt_writer *writer, enum adamd_pt_dtype dtype, uint32_t rank,
                        const uint64_t *shape, const void *bytes) {
    struct pt_data *storage = put_tensor(writer, dtype, rank, shape);

    if (storage != NULL) {
        ADAMD_ASSERT(storage->size <= PT_SMALL_BYTES);
        memcpy(storage->small, bytes, (size_t)storage->size);
    }
}

bool adamd_pt_checksum(struct adamd_pt_writer *writer, uint64_t bytes) {
    while (writer->checked < writer->storage_count) {
        struct pt_data *storage = &writer->storages[writer->checked];
        const uint64_t left = storage->size - storage->checked;
        const uint64_t size = left < bytes ? left : bytes;
        storage->crc =
            adamd_crc32(storage->crc, pt_data_bytes(storage) + storage->checked, (size_t)size);
        storage->checked += size;
        bytes -= size;
        if (storage->checked < storage->size) {
            return false;
        }
        writer->checked++;
    }
    return true;
}
