// Reaches adamd_pt_read, adamd_pt_get, adamd_pt_number, adamd_pt_copy, adamd_pt_put_*,
// adamd_pt_finish. The input is a file, or, if it begins as a pickle, the data.pkl of one with two
// storages.
// Oracle: what is read lies inside the file; it is acyclic and no deeper than it may be; every key
// is found; and it is written as a file that reads as the same.
#include "fuzz.h"

#include "adamd/pt.h"

#include <stdlib.h>
#include <string.h>

enum { VALUES_MAX = 2000, COPY_MAX = 1 };

struct output {
    unsigned char *bytes;
    size_t size;
};

static void put(struct output *output, const void *bytes, size_t size) {
    if (size > 0) {
        memcpy(output->bytes + output->size, bytes, size);
    }
    output->size += size;
}

static void put_uint(struct output *output, uint64_t value, size_t size) {
    for (size_t i = 0; i < size; i++) {
        const unsigned char byte = (unsigned char)(i < 8 ? value >> (8 * i) : 0);
        put(output, &byte, 1);
    }
}

// Without checksums, which are not looked at.
static void put_header(struct output *output, bool central, const char *name, size_t size,
                       size_t offset) {
    put_uint(output, central ? 0x02014b50 : 0x04034b50, 4);
    put_uint(output, 0, central ? 16 : 14);
    put_uint(output, size, 4);
    put_uint(output, size, 4);
    put_uint(output, strlen(name), 2);
    put_uint(output, 0, central ? 12 : 2);
    if (central) {
        put_uint(output, offset, 4);
    }
    put(output, name, strlen(name));
}

static struct output wrap(const uint8_t *data, size_t size) {
    static const unsigned char storage[24] = {0, 0, 128, 63, 0, 0, 0, 64};
    const struct {
        const char *name;
        const void *bytes;
        size_t size;
    } records[] = {{"x/data.pkl", data, size},
                   {"x/data/0", storage, sizeof storage},
                   {"x/data/1", storage, 16},
                   {"x/version", "3\n", 2}};
    struct output output = {malloc(size + 1024), 0};
    size_t offsets[4];

    ADAMD_ASSERT(output.bytes != NULL);
    for (int i = 0; i < 4; i++) {
        offsets[i] = output.size;
        put_header(&output, false, records[i].name, records[i].size, 0);
        put(&output, records[i].bytes, records[i].size);
    }
    const size_t directory = output.size;
    for (int i = 0; i < 4; i++) {
        put_header(&output, true, records[i].name, records[i].size, offsets[i]);
    }
    const size_t end = output.size;
    put_uint(&output, 0x06054b50, 4);
    put_uint(&output, 0, 4);
    put_uint(&output, 4, 2);
    put_uint(&output, 4, 2);
    put_uint(&output, end - directory, 4);
    put_uint(&output, directory, 4);
    put_uint(&output, 0, 2);
    return output;
}

struct walk {
    const uint8_t *bytes;
    size_t size;
    size_t left; // values that may still be visited: a shared one has many paths to it
    struct adamd_pt_writer *writer;
    struct {
        const struct adamd_pt_value *value;
        size_t next;
    } stack[ADAMD_PT_DEPTH_MAX];
    size_t depth;
};

static void check_tensor(const struct walk *walk, const struct adamd_pt_tensor *tensor) {
    unsigned char element[2 * 16];
    const uint64_t count = tensor->count < COPY_MAX ? tensor->count : COPY_MAX;
    const unsigned char *end = walk->bytes + walk->size;

    ADAMD_ASSERT(tensor->storage->size == 0 ||
                 (tensor->storage->bytes >= walk->bytes &&
                  tensor->storage->size <= (uint64_t)(end - tensor->storage->bytes)));
    ADAMD_ASSERT(tensor->storage->tensor_count > 0);
    adamd_pt_copy(tensor, 0, count, tensor->dtype, element);
    adamd_pt_copy(tensor, tensor->count - count, count, tensor->dtype, element);
    if (adamd_pt_dtype_class(tensor->dtype) == ADAMD_PT_CLASS_REAL) {
        adamd_pt_copy(tensor, 0, count, ADAMD_PT_BFLOAT16, element);
        adamd_pt_copy(tensor, 0, count, ADAMD_PT_FLOAT64, element);
    }
    const uint64_t one[] = {count > 0 ? 1 : 0};
    if (tensor->dtype < ADAMD_PT_UINT16) {
        adamd_pt_put_small(walk->writer, tensor->dtype, 1, one, element);
    } else {
        adamd_pt_put_none(walk->writer);
    }
}

static void put_scalar(const struct walk *walk, const struct adamd_pt_value *value) {
    double number = 0;

    (void)adamd_pt_number(value, &number);
    switch (value->kind) {
    case ADAMD_PT_TRUTH:
        adamd_pt_put_bool(walk->writer, value->truth);
        break;
    case ADAMD_PT_INT:
        adamd_pt_put_int(walk->writer, value->integer);
        break;
    case ADAMD_PT_FLOAT:
        adamd_pt_put_float(walk->writer, value->number);
        break;
    case ADAMD_PT_TEXT:
        adamd_pt_put_text_of(walk->writer, value->text.bytes, value->text.size);
        break;
    case ADAMD_PT_TENSOR:
        check_tensor(walk, value->tensor);
        break;
    default:
        adamd_pt_put_none(walk->writer);
        break;
    }
}

static size_t children(const struct adamd_pt_value *value) {
    return value->kind == ADAMD_PT_DICT ? value->dict.count : value->list.count;
}

static void visit(struct walk *walk, const struct adamd_pt_value *value) {
    ADAMD_ASSERT(value->kind < ADAMD_PT_INNER);
    const bool is_dict = value->kind == ADAMD_PT_DICT;

    if (walk->left == 0 ||
        (!is_dict && value->kind != ADAMD_PT_LIST && value->kind != ADAMD_PT_TUPLE)) {
        put_scalar(walk, walk->left == 0 ? &(struct adamd_pt_value){0} : value);
        return;
    }
    walk->left--;
    ADAMD_ASSERT(walk->depth < ADAMD_PT_DEPTH_MAX);
    walk->stack[walk->depth].value = value;
    walk->stack[walk->depth++].next = 0;
    if (is_dict) {
        adamd_pt_begin_dict(walk->writer);
    } else if (value->kind == ADAMD_PT_LIST) {
        adamd_pt_begin_list(walk->writer);
    } else {
        adamd_pt_begin_tuple(walk->writer);
    }
}

static void leave(struct walk *walk) {
    const struct adamd_pt_value *value = walk->stack[--walk->depth].value;

    if (value->kind == ADAMD_PT_DICT) {
        adamd_pt_end_dict(walk->writer);
    } else if (value->kind == ADAMD_PT_LIST) {
        adamd_pt_end_list(walk->writer);
    } else {
        adamd_pt_end_tuple(walk->writer);
    }
}

static void check_key(const struct adamd_pt_value *dict, const struct adamd_pt_pair *pair) {
    const struct adamd_pt_value *key = pair->key;

    if (key->kind == ADAMD_PT_TEXT) {
        ADAMD_ASSERT(adamd_pt_get_text(dict, key->text.bytes, key->text.size) == pair->value);
    } else if (key->kind == ADAMD_PT_INT) {
        ADAMD_ASSERT(adamd_pt_get_int(dict, key->integer) == pair->value);
    }
}

// Every value, and a copy of all of it into the writer.
static size_t walk_all(struct walk *walk, const struct adamd_pt_value *root) {
    visit(walk, root);
    while (walk->depth > 0) {
        const struct adamd_pt_value *value = walk->stack[walk->depth - 1].value;
        const size_t i = walk->stack[walk->depth - 1].next++;
        if (i == children(value)) {
            leave(walk);
        } else if (value->kind == ADAMD_PT_DICT) {
            check_key(value, &value->dict.pairs[i]);
            put_scalar(walk, value->dict.pairs[i].key);
            visit(walk, value->dict.pairs[i].value);
        } else {
            visit(walk, value->list.items[i]);
        }
    }
    return VALUES_MAX - walk->left;
}

static size_t copy_file(const uint8_t *bytes, size_t size, const struct adamd_pt_file *file,
                        struct adamd_pt_writer **ret_writer) {
    struct walk walk = {.bytes = bytes, .size = size, .left = VALUES_MAX};

    ADAMD_ASSERT(adamd_pt_create("archive", &walk.writer) == ADAMD_OK);
    *ret_writer = walk.writer;
    return walk_all(&walk, adamd_pt_root(file));
}

static void check_written(struct adamd_pt_writer *writer, size_t values) {
    static const struct adamd_pt_limits limits;
    const struct adamd_pt_piece *pieces = NULL;
    struct adamd_pt_file *file = NULL;
    struct adamd_pt_writer *again = NULL;
    struct output output = {0};
    size_t count = 0;
    size_t size = 0;

    while (!adamd_pt_checksum(writer, 7)) {
    }
    ADAMD_ASSERT(adamd_pt_finish(writer, &pieces, &count) == ADAMD_OK);
    for (size_t i = 0; i < count; i++) {
        size += pieces[i].size;
    }
    output.bytes = malloc(size);
    ADAMD_ASSERT(output.bytes != NULL);
    for (size_t i = 0; i < count; i++) {
        put(&output, pieces[i].bytes, pieces[i].size);
    }
    ADAMD_ASSERT(adamd_pt_read(output.bytes, size, &limits, &file, NULL) == ADAMD_OK);
    ADAMD_ASSERT(copy_file(output.bytes, size, file, &again) == values);
    adamd_pt_destroy(again);
    adamd_pt_close(file);
    free(output.bytes);
}

static void run(const uint8_t *bytes, size_t size) {
    const struct adamd_pt_limits limits = {.skip_crc = true, .expanded_bytes_max = 1 << 16};
    struct adamd_pt_file *file = NULL;
    struct adamd_pt_writer *writer = NULL;
    struct adamd_fault fault = {0};
    const enum adamd_status status = adamd_pt_read(bytes, size, &limits, &file, &fault);

    if (status != ADAMD_OK) {
        ADAMD_ASSERT(fault.status == status && fault.message[0] != 0 && file == NULL);
        return;
    }
    const size_t values = copy_file(bytes, size, file, &writer);
    check_written(writer, values);
    adamd_pt_destroy(writer);
    adamd_pt_close(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    (void)adamd_pt_begins(data, size);
    run(data, size);
    if (size > 0 && data[0] == 0x80) {
        struct output output = wrap(data, size);
        run(output.bytes, output.size);
        free(output.bytes);
    }
    return 0;
}
