// The reader. First the JSON, once from front to back, with every name decoded into one pool; then
// the ranges, in the reference's order of checks and with its names for what is wrong.
#include "adamd/json.h"
#include "adamd/safetensors.h"
#include "formats/safetensors_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 16, TYPE_NAME_MAX = 16 };

struct parser {
    struct adamd_json json;
    const char *start;
    struct adamd_safetensors header;
    size_t entry_capacity;
    char *pool; // never full: a decoded name with its NUL is shorter than the quoted one
    enum adamd_status status;
    struct adamd_fault *fault;
};

static bool refuse_as(struct parser *parser, enum adamd_status status, const char *error,
                      const char *name, const char *text) {
    if (parser->status == ADAMD_OK) {
        parser->status = adamd_fail(parser->fault, status, name, "safetensors header: %s", text);
        adamd_fault_tell(parser->fault, "error", "%s", error);
    }
    return false;
}

static bool refuse_form(struct parser *parser, const char *name, const char *text) {
    return refuse_as(parser, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", name, text);
}

static bool refuse_size(struct parser *parser, const char *name, const char *text) {
    return refuse_as(parser, ADAMD_TOO_LARGE, "InvalidHeaderDeserialization", name, text);
}

static bool refuse_memory(struct parser *parser) {
    if (parser->status == ADAMD_OK) {
        parser->status = adamd_fail_plain(parser->fault, ADAMD_NO_MEMORY);
    }
    return false;
}

// Passes on what the JSON reader complains of, with the place.
static bool check_json(struct parser *parser, bool good) {
    if (!good && parser->status == ADAMD_OK) {
        const size_t offset = (size_t)(parser->json.at - parser->start);
        parser->status =
            adamd_fail(parser->fault, ADAMD_BAD_FIELD, NULL, "safetensors header, byte %zu: %s",
                       offset, parser->json.complaint);
        adamd_fault_tell(parser->fault, "error", "InvalidHeaderDeserialization");
    }
    return good;
}

static bool expect(struct parser *parser, char wanted) {
    return check_json(parser, adamd_json_expect(&parser->json, wanted));
}

static bool read_uint(struct parser *parser, uint64_t *ret_value) {
    return check_json(parser, adamd_json_uint(&parser->json, ret_value));
}

// Decodes a string into the pool.
static bool read_string(struct parser *parser, const char **ret_string) {
    struct adamd_json_slice slice;

    if (!check_json(parser, adamd_json_string(&parser->json, &slice))) {
        return false;
    }
    char *string = parser->pool;
    parser->pool += adamd_json_decode(slice, string);
    *parser->pool++ = 0;
    *ret_string = string;
    return true;
}

// A member's name and its colon; the name is cut short, since all that are looked for are short.
static bool read_member_name(struct parser *parser, char name[TYPE_NAME_MAX]) {
    struct adamd_json_slice slice;

    if (!check_json(parser, adamd_json_string(&parser->json, &slice))) {
        return false;
    }
    name[0] = 0;
    if (slice.size < TYPE_NAME_MAX) {
        name[adamd_json_decode(slice, name)] = 0;
    }
    return expect(parser, ':');
}

static bool read_type(struct parser *parser, struct adamd_safetensors_entry *entry) {
    struct adamd_json_slice slice;
    char name[TYPE_NAME_MAX] = "";

    if (!check_json(parser, adamd_json_string(&parser->json, &slice))) {
        return false;
    }
    if (slice.size < TYPE_NAME_MAX) {
        name[adamd_json_decode(slice, name)] = 0;
    }
    for (int type = 0; type < ADAMD_ST_COUNT; type++) {
        if (strcmp(name, adamd_safetensors_type_name((enum adamd_safetensors_type)type)) == 0) {
            entry->type = (enum adamd_safetensors_type)type;
            return true;
        }
    }
    return refuse_form(parser, entry->name, "dtype is none of the format's");
}

static bool read_shape(struct parser *parser, struct adamd_safetensors_entry *entry) {
    if (!expect(parser, '[')) {
        return false;
    }
    if (adamd_json_take(&parser->json, ']')) {
        return true;
    }
    do {
        if (entry->rank == ADAMD_RANK_MAX) {
            return refuse_size(parser, entry->name, "shape has more than 8 dimensions");
        }
        if (!read_uint(parser, &entry->shape[entry->rank++])) {
            return false;
        }
    } while (adamd_json_take(&parser->json, ','));
    return expect(parser, ']');
}

static bool read_offsets(struct parser *parser, struct adamd_safetensors_entry *entry) {
    if (!expect(parser, '[') || !read_uint(parser, &entry->begin)) {
        return false;
    }
    if (!adamd_json_take(&parser->json, ',')) {
        return refuse_form(parser, entry->name, "data_offsets are two numbers");
    }
    return read_uint(parser, &entry->end) && expect(parser, ']');
}

enum member { MEMBER_DTYPE = 1, MEMBER_SHAPE = 2, MEMBER_OFFSETS = 4, MEMBERS_ALL = 7 };

static unsigned member_of(const char *name) {
    if (strcmp(name, "dtype") == 0) {
        return MEMBER_DTYPE;
    }
    if (strcmp(name, "shape") == 0) {
        return MEMBER_SHAPE;
    }
    return strcmp(name, "data_offsets") == 0 ? MEMBER_OFFSETS : 0;
}

static bool read_member(struct parser *parser, struct adamd_safetensors_entry *entry,
                        unsigned *seen) {
    char name[TYPE_NAME_MAX];

    if (!read_member_name(parser, name)) {
        return false;
    }
    const unsigned member = member_of(name);
    if ((*seen & member) != 0) {
        return refuse_form(parser, entry->name, "a member is given twice");
    }
    *seen |= member;
    switch (member) {
    case MEMBER_DTYPE:
        return read_type(parser, entry);
    case MEMBER_SHAPE:
        return read_shape(parser, entry);
    case MEMBER_OFFSETS:
        return read_offsets(parser, entry);
    default: // the reference ignores what it does not know
        return check_json(parser, adamd_json_skip(&parser->json));
    }
}

static struct adamd_safetensors_entry *add_entry(struct parser *parser) {
    struct adamd_safetensors *header = &parser->header;

    if (header->entry_count == parser->entry_capacity) {
        const size_t capacity = parser->entry_capacity == 0 ? 64 : parser->entry_capacity * 2;
        struct adamd_safetensors_entry *entries =
            realloc(header->entries, capacity * sizeof *entries);
        if (entries == NULL) {
            (void)refuse_memory(parser);
            return NULL;
        }
        header->entries = entries;
        parser->entry_capacity = capacity;
    }
    struct adamd_safetensors_entry *entry = &header->entries[header->entry_count++];
    *entry = (struct adamd_safetensors_entry){0};
    return entry;
}

static bool read_members(struct parser *parser, struct adamd_safetensors_entry *entry,
                         unsigned *seen) {
    if (!expect(parser, '{')) {
        return false;
    }
    if (adamd_json_take(&parser->json, '}')) {
        return true;
    }
    do {
        if (!read_member(parser, entry, seen)) {
            return false;
        }
    } while (adamd_json_take(&parser->json, ','));
    return expect(parser, '}');
}

static bool read_entry(struct parser *parser, const char *name) {
    unsigned seen = 0;

    if (strlen(name) > ADAMD_SAFETENSORS_NAME_MAX) {
        return refuse_size(parser, NULL, "a name of more than 1,024 bytes");
    }
    if (parser->header.entry_count == ADAMD_SAFETENSORS_ENTRIES_MAX) {
        return refuse_size(parser, NULL, "too many tensors");
    }
    struct adamd_safetensors_entry *entry = add_entry(parser);
    if (entry == NULL) {
        return false;
    }
    entry->name = name;
    if (!read_members(parser, entry, &seen)) {
        return false;
    }
    return seen == MEMBERS_ALL ||
           refuse_form(parser, name, "dtype, shape and data_offsets are all required");
}

static bool read_pair(struct parser *parser) {
    struct adamd_safetensors *header = &parser->header;
    const char *key = NULL;
    const char *value = NULL;

    if (header->metadata_count == ADAMD_SAFETENSORS_METADATA_MAX) {
        return refuse_size(parser, "__metadata__", "more than 256 entries");
    }
    if (!read_string(parser, &key) || !expect(parser, ':') || !read_string(parser, &value)) {
        return false;
    }
    if (adamd_safetensors_metadata_get(header, key) != NULL) {
        return refuse_form(parser, "__metadata__", "a key is given twice");
    }
    header->metadata[header->metadata_count++] =
        (struct adamd_safetensors_metadata){.key = key, .value = value};
    return true;
}

static bool read_metadata(struct parser *parser) {
    struct adamd_safetensors *header = &parser->header;

    if (header->metadata != NULL) {
        return refuse_form(parser, "__metadata__", "given twice");
    }
    header->metadata = calloc(ADAMD_SAFETENSORS_METADATA_MAX, sizeof *header->metadata);
    if (header->metadata == NULL) {
        return refuse_memory(parser);
    }
    if (!expect(parser, '{') || adamd_json_take(&parser->json, '}')) {
        return parser->status == ADAMD_OK;
    }
    do {
        if (!read_pair(parser)) {
            return false;
        }
    } while (adamd_json_take(&parser->json, ','));
    return expect(parser, '}');
}

static bool read_named(struct parser *parser) {
    const char *name = NULL;

    if (!read_string(parser, &name) || !expect(parser, ':')) {
        return false;
    }
    return strcmp(name, "__metadata__") == 0 ? read_metadata(parser) : read_entry(parser, name);
}

static bool read_all(struct parser *parser) {
    if (!expect(parser, '{')) {
        return false;
    }
    if (adamd_json_take(&parser->json, '}')) {
        return true;
    }
    do {
        if (!read_named(parser)) {
            return false;
        }
    } while (adamd_json_take(&parser->json, ','));
    return expect(parser, '}');
}

static bool read_header(struct parser *parser) {
    return read_all(parser) && check_json(parser, adamd_json_finish(&parser->json));
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

// By sorting and not by a hash table, which a sender who knows the hash could make quadratic. Files
// are mostly written in order of names, and then nothing is sorted.
static bool check_names(struct parser *parser) {
    const struct adamd_safetensors *header = &parser->header;
    const size_t count = header->entry_count;
    size_t ascending = 1;

    while (ascending < count &&
           strcmp(header->entries[ascending - 1].name, header->entries[ascending].name) < 0) {
        ascending++;
    }
    if (ascending >= count) {
        return true;
    }
    const char **names = malloc(count * sizeof *names);
    if (names == NULL) {
        return refuse_memory(parser);
    }
    for (size_t i = 0; i < count; i++) {
        names[i] = header->entries[i].name;
    }
    qsort(names, count, sizeof *names, compare_names);
    const char *twice = NULL;
    for (size_t i = 1; i < count && twice == NULL; i++) {
        twice = strcmp(names[i - 1], names[i]) == 0 ? names[i] : NULL;
    }
    free(names);
    return twice == NULL || refuse_form(parser, twice, "a name is given twice");
}

static int compare_ranges(const void *a, const void *b) {
    const struct adamd_safetensors_entry *left = a;
    const struct adamd_safetensors_entry *right = b;

    if (left->begin != right->begin) {
        return left->begin < right->begin ? -1 : 1;
    }
    if (left->end != right->end) {
        return left->end < right->end ? -1 : 1;
    }
    return strcmp(left->name, right->name);
}

static void sort_entries(struct adamd_safetensors *header) {
    for (size_t i = 1; i < header->entry_count; i++) {
        if (compare_ranges(&header->entries[i - 1], &header->entries[i]) > 0) {
            qsort(header->entries, header->entry_count, sizeof *header->entries, compare_ranges);
            return;
        }
    }
}

static bool check_entry(struct parser *parser, const struct adamd_safetensors_entry *entry,
                        uint64_t begin) {
    uint64_t bits = 0;

    if (entry->begin != begin || entry->end < entry->begin) {
        return refuse_as(parser, ADAMD_BAD_FIELD, "InvalidOffset", entry->name,
                         "data_offsets leave a hole, overlap or run backwards");
    }
    if (!safetensors_bits(entry, &bits)) {
        return refuse_as(parser, ADAMD_BAD_FIELD, "ValidationOverflow", entry->name,
                         "the product of shape does not fit into 64 bits");
    }
    if (bits % 8 != 0) {
        return refuse_as(parser, ADAMD_BAD_FIELD, "MisalignedSlice", entry->name,
                         "the tensor does not end at a whole byte");
    }
    return entry->end - entry->begin == bits / 8 ||
           refuse_as(parser, ADAMD_BAD_FIELD, "TensorInvalidInfo", entry->name,
                     "data_offsets differ from what dtype and shape take");
}

static bool check_ranges(struct parser *parser, size_t json_bytes, uint64_t file_bytes) {
    struct adamd_safetensors *header = &parser->header;
    uint64_t end = 0;
    uint64_t whole = 0;

    for (size_t i = 0; i < header->entry_count; i++) {
        if (!check_entry(parser, &header->entries[i], end)) {
            return false;
        }
        end = header->entries[i].end;
    }
    header->data_bytes = end;
    if (__builtin_add_overflow(end, (uint64_t)json_bytes + 8, &whole) ||
        (file_bytes != UINT64_MAX && whole != file_bytes)) {
        return refuse_as(parser, ADAMD_BAD_FIELD, "MetadataIncompleteBuffer", NULL,
                         "the file is longer or shorter than its tensors");
    }
    return true;
}

static bool check_frame(struct parser *parser, const void *json, size_t size, uint64_t file_bytes) {
    if (size > ADAMD_SAFETENSORS_HEADER_MAX) {
        return refuse_as(parser, ADAMD_TOO_LARGE, "HeaderTooLarge", NULL, "more than 64 MiB");
    }
    if (file_bytes < (uint64_t)size + 8) {
        return refuse_as(parser, ADAMD_BAD_FIELD, "InvalidHeaderLength", NULL,
                         "its length is more than the file's");
    }
    if (!adamd_utf8_valid(json, size)) {
        return refuse_as(parser, ADAMD_BAD_FIELD, "InvalidHeader", NULL,
                         "not UTF-8, or with a NUL in it");
    }
    // The format demands it; the reference does not look.
    return (size > 0 && *(const char *)json == '{') ||
           refuse_form(parser, NULL, "it does not begin with '{'");
}

enum adamd_status adamd_safetensors_parse(const void *json, size_t size, uint64_t file_bytes,
                                          struct adamd_safetensors *ret_header,
                                          struct adamd_fault *fault) {
    struct parser parser = {.start = json, .fault = fault};

    if (check_frame(&parser, json, size, file_bytes)) {
        adamd_json_init(&parser.json, json, size, DEPTH_MAX, UINT64_MAX);
        parser.pool = malloc(size);
        parser.header.memory = parser.pool;
        (void)(parser.pool != NULL || refuse_memory(&parser));
    }
    if (parser.status != ADAMD_OK || !read_header(&parser) || !check_names(&parser)) {
        adamd_safetensors_finish(&parser.header);
        return parser.status;
    }
    sort_entries(&parser.header);
    if (!check_ranges(&parser, size, file_bytes)) {
        adamd_safetensors_finish(&parser.header);
        return parser.status;
    }
    *ret_header = parser.header;
    return ADAMD_OK;
}
