// The objects that a pickle makes: their memory, what is checked once all of them are there, and
// how they are looked up.
#include "formats/pt_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 64 << 10, PIECE = 16, SMALLEST = 4 };

struct pt_block {
    struct pt_block *next;
    size_t size, used;
    size_t unused; // keeps what follows at 16
    unsigned char bytes[];
};

_Static_assert(sizeof(struct pt_block) % PIECE == 0, "pieces are aligned");

void *pt_alloc(struct pt_memory *memory, size_t bytes) {
    const size_t rounded = (bytes + PIECE - 1) / PIECE * PIECE;
    struct pt_block *block = memory->blocks;

    if (rounded < bytes || rounded > memory->limit - memory->taken) {
        memory->over = true;
        return NULL;
    }
    if (block == NULL || block->size - block->used < rounded) {
        const size_t size = rounded > BLOCK_BYTES ? rounded : BLOCK_BYTES;
        block = calloc(1, sizeof *block + size);
        if (block == NULL) {
            return NULL;
        }
        block->size = size;
        block->next = memory->blocks;
        memory->blocks = block;
    }
    void *piece = block->bytes + block->used;
    block->used += rounded;
    memory->taken += rounded;
    return piece;
}

void pt_free_all(struct pt_memory *memory) {
    while (memory->blocks != NULL) {
        struct pt_block *next = memory->blocks->next;
        free(memory->blocks);
        memory->blocks = next;
    }
}

// ---------------------------------------------------------------------------------------- making

struct adamd_pt_value *pt_value_new(struct adamd_pt_file *file, enum adamd_pt_kind kind) {
    struct adamd_pt_value *value = pt_alloc(&file->memory, sizeof *value);

    if (value == NULL) {
        (void)pt_refuse_memory(file);
        return NULL;
    }
    value->kind = kind;
    return value;
}

// Arrays double: one that is full has as many items as a power of two.
static bool is_full(size_t count) {
    return count == 0 || (count >= SMALLEST && (count & (count - 1)) == 0);
}

static void *grow(struct adamd_pt_file *file, const void *from, size_t count, size_t item) {
    const size_t capacity = count == 0 ? SMALLEST : count * 2;
    void *grown = pt_alloc(&file->memory, capacity * item);

    if (grown == NULL) {
        (void)pt_refuse_memory(file);
    } else if (count > 0) {
        memcpy(grown, from, count * item);
    }
    return grown;
}

bool pt_list_add(struct adamd_pt_file *file, struct adamd_pt_value *list,
                 const struct adamd_pt_value *item) {
    if (is_full(list->list.count)) {
        void *grown = grow(file, list->list.items, list->list.count, sizeof *list->list.items);
        if (grown == NULL) {
            return false;
        }
        list->list.items = grown;
    }
    list->list.items[list->list.count++] = item;
    return true;
}

bool pt_dict_add(struct adamd_pt_file *file, struct adamd_pt_value *dict,
                 const struct adamd_pt_value *key, const struct adamd_pt_value *value) {
    if (is_full(dict->dict.count)) {
        void *grown = grow(file, dict->dict.pairs, dict->dict.count, sizeof *dict->dict.pairs);
        if (grown == NULL) {
            return false;
        }
        dict->dict.pairs = grown;
    }
    dict->dict.pairs[dict->dict.count++] = (struct adamd_pt_pair){key, value};
    return true;
}

// ------------------------------------------------------------------------------------------ keys

// None, then numbers (True is 1, as in Python), then texts; in each by value.
static int rank_of(const struct adamd_pt_value *key) {
    return key->kind == ADAMD_PT_TEXT ? 2 : key->kind != ADAMD_PT_NONE;
}

static int64_t number_of(const struct adamd_pt_value *key) {
    return key->kind == ADAMD_PT_TRUTH ? key->truth : key->integer;
}

static int compare_texts(const char *a, size_t a_size, const char *b, size_t b_size) {
    const int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
    return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

static int compare_keys(const struct adamd_pt_value *a, const struct adamd_pt_value *b) {
    if (rank_of(a) != rank_of(b)) {
        return rank_of(a) < rank_of(b) ? -1 : 1;
    }
    if (a->kind == ADAMD_PT_TEXT) {
        return compare_texts(a->text.bytes, a->text.size, b->text.bytes, b->text.size);
    }
    if (a->kind == ADAMD_PT_NONE) {
        return 0;
    }
    return (number_of(a) > number_of(b)) - (number_of(a) < number_of(b));
}

// Equal keys keep the order in which they were set.
static int compare_pairs(const void *a, const void *b) {
    const struct adamd_pt_pair *left = *(const struct adamd_pt_pair *const *)a;
    const struct adamd_pt_pair *right = *(const struct adamd_pt_pair *const *)b;
    const int order = compare_keys(left->key, right->key);

    return order != 0 ? order : (left > right) - (left < right);
}

static void sort_pairs(struct adamd_pt_value *dict) {
    for (size_t i = 0; i < dict->dict.count; i++) {
        dict->dict.sorted[i] = &dict->dict.pairs[i];
    }
    qsort(dict->dict.sorted, dict->dict.count, sizeof *dict->dict.sorted, compare_pairs);
}

// A key that is set again keeps its place and has the last value, as in Python.
static bool merge_pairs(struct adamd_pt_value *dict) {
    const struct adamd_pt_pair **sorted = dict->dict.sorted;
    struct adamd_pt_pair *pairs = dict->dict.pairs;
    size_t kept = 0;
    size_t first = 0;

    for (size_t i = 1; i < dict->dict.count; i++) {
        if (compare_keys(sorted[first]->key, sorted[i]->key) != 0) {
            first = i;
            continue;
        }
        pairs[sorted[first] - pairs].value = sorted[i]->value;
        pairs[sorted[i] - pairs].value = NULL;
    }
    for (size_t i = 0; i < dict->dict.count; i++) {
        if (pairs[i].value != NULL) {
            pairs[kept++] = pairs[i];
        }
    }
    const bool merged = kept < dict->dict.count;
    dict->dict.count = kept;
    return merged;
}

static bool index_dict(struct adamd_pt_file *file, struct adamd_pt_value *dict) {
    const size_t count = dict->dict.count;

    dict->dict.sorted = pt_alloc(&file->memory, count * sizeof *dict->dict.sorted);
    if (dict->dict.sorted == NULL) {
        return pt_refuse_memory(file);
    }
    for (size_t i = 0; i < count; i++) {
        const enum adamd_pt_kind kind = dict->dict.pairs[i].key->kind;
        if (kind != ADAMD_PT_TEXT && kind != ADAMD_PT_INT && kind != ADAMD_PT_TRUTH &&
            kind != ADAMD_PT_NONE) {
            return pt_refuse(file, ADAMD_BAD_FIELD, NULL,
                             "data.pkl: a key of a dict is neither a text nor a whole number");
        }
    }
    sort_pairs(dict);
    if (merge_pairs(dict)) {
        sort_pairs(dict);
    }
    return true;
}

// ------------------------------------------------------------------------------------- the walk

// While it lasts, `mark` is OPEN, or DONE plus the height, or less: not yet seen.
enum { OPEN = PT_ORDERED + 1, DONE };

struct frame {
    struct adamd_pt_value *value;
    size_t next;
    uint32_t height;
};

static size_t child_count(const struct adamd_pt_value *value) {
    switch (value->kind) {
    case ADAMD_PT_LIST:
    case ADAMD_PT_TUPLE:
        return value->list.count;
    case ADAMD_PT_DICT:
        return value->dict.count;
    default:
        return 0;
    }
}

static struct adamd_pt_value *child_of(const struct adamd_pt_value *value, size_t i) {
    return (struct adamd_pt_value *)(value->kind == ADAMD_PT_DICT ? value->dict.pairs[i].value
                                                                  : value->list.items[i]);
}

static bool open_value(struct adamd_pt_file *file, struct frame *frame,
                       struct adamd_pt_value *value) {
    *frame = (struct frame){.value = value};
    if (value->kind == ADAMD_PT_INNER) {
        return pt_refuse(file, ADAMD_BAD_FIELD, NULL,
                         "data.pkl: a class or a bare storage stands where a value should");
    }
    value->mark = OPEN;
    return value->kind != ADAMD_PT_DICT || index_dict(file, value);
}

static bool refuse_depth(struct adamd_pt_file *file) {
    return pt_refuse(file, ADAMD_TOO_LARGE, NULL, "data.pkl: more than %d containers in each other",
                     ADAMD_PT_DEPTH_MAX);
}

// The next child of the top frame: true if it was opened, or is known already.
static bool descend(struct adamd_pt_file *file, struct frame *frames, size_t *depth) {
    struct frame *top = &frames[*depth - 1];
    struct adamd_pt_value *child = child_of(top->value, top->next++);

    if (child->kind != ADAMD_PT_INNER && child->mark == OPEN) {
        return pt_refuse(file, ADAMD_BAD_FIELD, NULL, "data.pkl: a container holds itself");
    }
    if (child->kind != ADAMD_PT_INNER && child->mark >= DONE) {
        const uint32_t height = child->mark - DONE;
        top->height = height + 1 > top->height ? height + 1 : top->height;
        return *depth + height < ADAMD_PT_DEPTH_MAX || refuse_depth(file);
    }
    if (*depth == ADAMD_PT_DEPTH_MAX) {
        return refuse_depth(file);
    }
    return open_value(file, &frames[(*depth)++], child);
}

static void close_value(struct frame *frames, size_t *depth) {
    const struct frame *done = &frames[--*depth];

    done->value->mark = DONE + done->height;
    if (*depth > 0 && frames[*depth - 1].height < done->height + 1) {
        frames[*depth - 1].height = done->height + 1;
    }
}

bool pt_values_check(struct adamd_pt_file *file, struct adamd_pt_value *root) {
    struct frame frames[ADAMD_PT_DEPTH_MAX];
    size_t depth = 1;

    if (!open_value(file, &frames[0], root)) {
        return false;
    }
    while (depth > 0) {
        if (frames[depth - 1].next == child_count(frames[depth - 1].value)) {
            close_value(frames, &depth);
        } else if (!descend(file, frames, &depth)) {
            return false;
        }
    }
    return true;
}

// -------------------------------------------------------------------------------------- looking up

static const struct adamd_pt_value *find_key(const struct adamd_pt_value *dict,
                                             const struct adamd_pt_value *key) {
    size_t begin = 0;
    size_t end = dict != NULL && dict->kind == ADAMD_PT_DICT ? dict->dict.count : 0;

    while (begin < end) {
        const size_t middle = begin + (end - begin) / 2;
        const int order = compare_keys(dict->dict.sorted[middle]->key, key);
        if (order == 0) {
            return dict->dict.sorted[middle]->value;
        }
        if (order < 0) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return NULL;
}

const struct adamd_pt_value *adamd_pt_get_text(const struct adamd_pt_value *dict, const char *key,
                                               size_t size) {
    const struct adamd_pt_value text = {.kind = ADAMD_PT_TEXT, .text = {key, size}};
    return find_key(dict, &text);
}

const struct adamd_pt_value *adamd_pt_get(const struct adamd_pt_value *dict, const char *key) {
    return adamd_pt_get_text(dict, key, strlen(key));
}

const struct adamd_pt_value *adamd_pt_get_int(const struct adamd_pt_value *dict, int64_t key) {
    const struct adamd_pt_value number = {.kind = ADAMD_PT_INT, .integer = key};
    return find_key(dict, &number);
}

bool adamd_pt_text_is(const struct adamd_pt_value *value, const char *text) {
    return value != NULL && value->kind == ADAMD_PT_TEXT && value->text.size == strlen(text) &&
           memcmp(value->text.bytes, text, value->text.size) == 0;
}

// The longest beginning of `path` that is a key and ends at a point or at the end.
static const struct adamd_pt_value *find_step(const struct adamd_pt_value *dict, const char *path,
                                              size_t *ret_size) {
    for (size_t size = strlen(path); size > 0; size--) {
        if (path[size] != '.' && path[size] != '\0') {
            continue;
        }
        const struct adamd_pt_value *value = adamd_pt_get_text(dict, path, size);
        if (value != NULL) {
            *ret_size = size;
            return value;
        }
    }
    return NULL;
}

static enum adamd_status fail_to_find(const struct adamd_pt_value *dict, const char *path,
                                      struct adamd_fault *fault) {
    char keys[160] = "";
    size_t filled = 0;

    if (dict->kind != ADAMD_PT_DICT) {
        return adamd_fail(fault, ADAMD_NOT_FOUND, "path", "there is no dict to find \"%.60s\" in",
                          path);
    }
    for (size_t i = 0; i < dict->dict.count && filled < 100; i++) {
        const struct adamd_pt_value *key = dict->dict.pairs[i].key;
        if (key->kind == ADAMD_PT_TEXT) {
            filled += (size_t)snprintf(keys + filled, sizeof keys - filled, "%s\"%.30s\"",
                                       filled > 0 ? ", " : "",
                                       pt_show(key->text.bytes, key->text.size).text);
        }
    }
    return adamd_fail(fault, ADAMD_NOT_FOUND, "path", "the file has no \"%.60s\", only %s", path,
                      filled > 0 ? keys : "keys that are no texts");
}

enum adamd_status adamd_pt_find(const struct adamd_pt_value *root, const char *path,
                                const struct adamd_pt_value **ret_value,
                                struct adamd_fault *fault) {
    const struct adamd_pt_value *value = root;

    if (strlen(path) > ADAMD_PT_PATH_MAX) {
        return adamd_fail(fault, ADAMD_TOO_LARGE, "path", "a path has at most %d bytes",
                          ADAMD_PT_PATH_MAX);
    }
    while (*path != '\0') {
        size_t size = 0;
        const struct adamd_pt_value *next = find_step(value, path, &size);
        if (next == NULL) {
            return fail_to_find(value, path, fault);
        }
        value = next;
        path += path[size] == '.' ? size + 1 : size;
    }
    *ret_value = value;
    return ADAMD_OK;
}
