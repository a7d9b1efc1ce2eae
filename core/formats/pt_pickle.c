// The pickle machine: protocol 2, the opcodes that torch.save writes, and nothing that it does not.
// Every pop is checked against the fence of the last MARK, every read against the end.
#include "formats/pt_impl.h"

#include <stdlib.h>
#include <string.h>

enum {
    STACK_FIRST = 1024,
    STACK_MAX = 1 << 20,
    MARKS_MAX = 1024,
    MEMO_MAX = 1 << 23,
    WORD_MAX = 128, // bytes of a GLOBAL's module or name
    SMALL_MIN = -1,
    SMALL_MAX = 255,
    PROTOCOL = 2,
};

struct machine {
    struct adamd_pt_file *file;
    const unsigned char *start, *at, *end;
    struct adamd_pt_value **stack;
    size_t count, capacity;
    size_t marks[MARKS_MAX]; // how many values were below
    size_t mark_count;
    struct adamd_pt_value **memo;
    size_t memo_capacity;
    // Many of these, all equal: one object each.
    struct adamd_pt_value *small[SMALL_MAX - SMALL_MIN + 1];
    struct adamd_pt_value *truths[2], *none;
    bool stopped;
};

static bool refuse(struct machine *machine, const char *text) {
    (void)pt_refuse(machine->file, ADAMD_BAD_FIELD, NULL, "data.pkl, byte %zu: %s",
                    (size_t)(machine->at - machine->start), text);
    return false;
}

static bool refuse_size(struct machine *machine, const char *text) {
    return pt_refuse(machine->file, ADAMD_TOO_LARGE, NULL, "data.pkl, byte %zu: %s",
                     (size_t)(machine->at - machine->start), text);
}

// ------------------------------------------------------------------------------- bytes and stack

static bool take(struct machine *machine, size_t size, const unsigned char **ret_bytes) {
    if (size > (size_t)(machine->end - machine->at)) {
        return refuse(machine, "it is cut off");
    }
    *ret_bytes = machine->at;
    machine->at += size;
    return true;
}

static bool take_number(struct machine *machine, size_t size, uint64_t *ret_number) {
    const unsigned char *bytes = NULL;
    uint64_t number = 0;

    if (!take(machine, size, &bytes)) {
        return false;
    }
    for (size_t i = size; i > 0; i--) {
        number = number << 8 | bytes[i - 1];
    }
    *ret_number = number;
    return true;
}

static bool push(struct machine *machine, struct adamd_pt_value *value) {
    if (value == NULL) {
        return false; // and was refused
    }
    if (machine->count == machine->capacity) {
        const size_t capacity = machine->capacity * 2;
        if (capacity > STACK_MAX) {
            return refuse_size(machine, "too many values at once");
        }
        struct adamd_pt_value **grown = realloc(machine->stack, capacity * sizeof *grown);
        if (grown == NULL) {
            return pt_refuse_memory(machine->file);
        }
        machine->stack = grown;
        machine->capacity = capacity;
    }
    machine->stack[machine->count++] = value;
    return true;
}

// What lies below the last MARK is out of reach.
static size_t fence(const struct machine *machine) {
    return machine->mark_count > 0 ? machine->marks[machine->mark_count - 1] : 0;
}

static bool need(struct machine *machine, size_t count) {
    return machine->count - fence(machine) >= count ||
           refuse(machine, "an opcode lacks its operands");
}

static struct adamd_pt_value *top_of(const struct machine *machine) {
    return machine->stack[machine->count - 1];
}

static bool push_items(struct machine *machine, struct adamd_pt_value *const *items, size_t count,
                       enum adamd_pt_kind kind) {
    struct adamd_pt_value *list = pt_value_new(machine->file, kind);

    if (list == NULL) {
        return false;
    }
    list->list.items = pt_alloc(&machine->file->memory, count * sizeof *list->list.items);
    if (list->list.items == NULL) {
        return pt_refuse_memory(machine->file);
    }
    for (size_t i = 0; i < count; i++) {
        list->list.items[i] = items[i];
    }
    list->list.count = count;
    return push(machine, list);
}

// The values since the last MARK, which goes with them; they stay readable until the next push.
static bool pop_mark(struct machine *machine, struct adamd_pt_value *const **ret_items,
                     size_t *ret_count) {
    if (machine->mark_count == 0) {
        return refuse(machine, "an opcode lacks its MARK");
    }
    const size_t below = machine->marks[--machine->mark_count];
    *ret_items = machine->stack + below;
    *ret_count = machine->count - below;
    machine->count = below;
    return true;
}

// ---------------------------------------------------------------------------------------- opcodes

typedef bool opcode_fn(struct machine *machine);

static bool on_protocol(struct machine *machine) {
    uint64_t protocol = 0;

    if (machine->at - machine->start != 1) {
        return refuse(machine, "a protocol is named twice");
    }
    if (!take_number(machine, 1, &protocol)) {
        return false;
    }
    return protocol == PROTOCOL ||
           pt_refuse(machine->file, ADAMD_UNSUPPORTED, NULL,
                     "data.pkl has pickle protocol %d: save it with torch.save's own, "
                     "pickle_protocol=2",
                     (int)protocol);
}

static bool on_newer(struct machine *machine) {
    return pt_refuse(
        machine->file, ADAMD_UNSUPPORTED, NULL,
        "data.pkl, byte %zu: an opcode of pickle protocol 4: save it with torch.save's "
        "own, pickle_protocol=2",
        (size_t)(machine->at - machine->start) - 1);
}

static bool on_stop(struct machine *machine) {
    if (machine->count != 1 || machine->mark_count != 0) {
        return refuse(machine, "it stops with more or less than one value");
    }
    machine->stopped = true;
    return machine->at == machine->end || refuse(machine, "there are bytes behind its end");
}

static bool on_mark(struct machine *machine) {
    if (machine->mark_count == MARKS_MAX) {
        return refuse_size(machine, "too many MARKs in each other");
    }
    machine->marks[machine->mark_count++] = machine->count;
    return true;
}

static bool on_none(struct machine *machine) {
    if (machine->none == NULL) {
        machine->none = pt_value_new(machine->file, ADAMD_PT_NONE);
    }
    return push(machine, machine->none);
}

static bool push_truth(struct machine *machine, bool truth) {
    if (machine->truths[truth] == NULL) {
        machine->truths[truth] = pt_value_new(machine->file, ADAMD_PT_TRUTH);
        if (machine->truths[truth] == NULL) {
            return false;
        }
        machine->truths[truth]->truth = truth;
    }
    return push(machine, machine->truths[truth]);
}

static bool on_true(struct machine *machine) {
    return push_truth(machine, true);
}

static bool on_false(struct machine *machine) {
    return push_truth(machine, false);
}

static bool push_int(struct machine *machine, int64_t integer) {
    const bool is_small = integer >= SMALL_MIN && integer <= SMALL_MAX;
    struct adamd_pt_value *value = is_small ? machine->small[integer - SMALL_MIN] : NULL;

    if (value == NULL) {
        value = pt_value_new(machine->file, ADAMD_PT_INT);
        if (value == NULL) {
            return false;
        }
        value->integer = integer;
        if (is_small) {
            machine->small[integer - SMALL_MIN] = value;
        }
    }
    return push(machine, value);
}

static bool on_int1(struct machine *machine) {
    uint64_t number = 0;
    return take_number(machine, 1, &number) && push_int(machine, (int64_t)number);
}

static bool on_int2(struct machine *machine) {
    uint64_t number = 0;
    return take_number(machine, 2, &number) && push_int(machine, (int64_t)number);
}

static bool on_int4(struct machine *machine) {
    uint64_t number = 0;
    return take_number(machine, 4, &number) && push_int(machine, (int32_t)(uint32_t)number);
}

static bool on_long(struct machine *machine) {
    uint64_t size = 0;
    const unsigned char *bytes = NULL;
    uint64_t number = 0;

    if (!take_number(machine, 1, &size) || !take(machine, (size_t)size, &bytes)) {
        return false;
    }
    if (size > sizeof number) {
        struct adamd_pt_value *big = pt_value_new(machine->file, ADAMD_PT_BIG_INT);
        if (big != NULL) {
            big->text.bytes = (const char *)bytes;
            big->text.size = (size_t)size;
        }
        return push(machine, big);
    }
    const bool is_negative = size > 0 && bytes[size - 1] >= 0x80;
    number = is_negative ? UINT64_MAX : 0;
    for (size_t i = (size_t)size; i > 0; i--) {
        number = number << 8 | bytes[i - 1];
    }
    return push_int(machine, (int64_t)number);
}

static bool on_float(struct machine *machine) {
    const unsigned char *bytes = NULL;
    uint64_t bits = 0;

    if (!take(machine, 8, &bytes)) {
        return false;
    }
    for (int i = 0; i < 8; i++) { // big-endian, unlike all else
        bits = bits << 8 | bytes[i];
    }
    struct adamd_pt_value *value = pt_value_new(machine->file, ADAMD_PT_FLOAT);
    if (value != NULL) {
        memcpy(&value->number, &bits, sizeof bits);
    }
    return push(machine, value);
}

static bool on_text(struct machine *machine) {
    uint64_t size = 0;
    const unsigned char *bytes = NULL;

    if (!take_number(machine, 4, &size)) {
        return false;
    }
    if (size > ADAMD_PT_TEXT_MAX) {
        return refuse_size(machine, "a text of more than 1 MiB");
    }
    if (!take(machine, (size_t)size, &bytes)) {
        return false;
    }
    struct adamd_pt_value *value = pt_value_new(machine->file, ADAMD_PT_TEXT);
    if (value != NULL) {
        value->text.bytes = (const char *)bytes;
        value->text.size = (size_t)size;
    }
    return push(machine, value);
}

static bool on_empty_dict(struct machine *machine) {
    return push(machine, pt_value_new(machine->file, ADAMD_PT_DICT));
}

static bool on_empty_list(struct machine *machine) {
    return push(machine, pt_value_new(machine->file, ADAMD_PT_LIST));
}

static bool on_empty_tuple(struct machine *machine) {
    return push_items(machine, NULL, 0, ADAMD_PT_TUPLE);
}

static bool on_tuple(struct machine *machine) {
    struct adamd_pt_value *const *items = NULL;
    size_t count = 0;

    return pop_mark(machine, &items, &count) && push_items(machine, items, count, ADAMD_PT_TUPLE);
}

static bool push_tuple(struct machine *machine, size_t count) {
    if (!need(machine, count)) {
        return false;
    }
    machine->count -= count;
    return push_items(machine, machine->stack + machine->count, count, ADAMD_PT_TUPLE);
}

static bool on_tuple1(struct machine *machine) {
    return push_tuple(machine, 1);
}

static bool on_tuple2(struct machine *machine) {
    return push_tuple(machine, 2);
}

static bool on_tuple3(struct machine *machine) {
    return push_tuple(machine, 3);
}

static bool add_items(struct machine *machine, struct adamd_pt_value *const *items, size_t count) {
    if (!need(machine, 1)) {
        return false;
    }
    if (top_of(machine)->kind != ADAMD_PT_LIST) {
        return refuse(machine, "something is appended to what is no list");
    }
    for (size_t i = 0; i < count; i++) {
        if (!pt_list_add(machine->file, top_of(machine), items[i])) {
            return false;
        }
    }
    return true;
}

static bool add_pairs(struct machine *machine, struct adamd_pt_value *const *items, size_t count) {
    if (!need(machine, 1)) {
        return false;
    }
    if (top_of(machine)->kind != ADAMD_PT_DICT || count % 2 != 0) {
        return refuse(machine, "pairs are set in what is no dict, or a value is missing");
    }
    for (size_t i = 0; i < count; i += 2) {
        if (!pt_dict_add(machine->file, top_of(machine), items[i], items[i + 1])) {
            return false;
        }
    }
    return true;
}

static bool on_append(struct machine *machine) {
    if (!need(machine, 2)) {
        return false;
    }
    machine->count--;
    return add_items(machine, machine->stack + machine->count, 1);
}

static bool on_appends(struct machine *machine) {
    struct adamd_pt_value *const *items = NULL;
    size_t count = 0;

    return pop_mark(machine, &items, &count) && add_items(machine, items, count);
}

static bool on_set_item(struct machine *machine) {
    if (!need(machine, 3)) {
        return false;
    }
    machine->count -= 2;
    return add_pairs(machine, machine->stack + machine->count, 2);
}

static bool on_set_items(struct machine *machine) {
    struct adamd_pt_value *const *items = NULL;
    size_t count = 0;

    return pop_mark(machine, &items, &count) && add_pairs(machine, items, count);
}

// ----------------------------------------------------------------------------------- the memo

static bool grow_memo(struct machine *machine, uint64_t index) {
    size_t capacity = machine->memo_capacity == 0 ? 1024 : machine->memo_capacity;

    // A number that is far beyond the file's own length only takes memory.
    if (index >= MEMO_MAX || index > (uint64_t)(machine->end - machine->start)) {
        return refuse_size(machine, "a memo's number is too large");
    }
    while (capacity <= index) {
        capacity *= 2;
    }
    struct adamd_pt_value **grown = realloc(machine->memo, capacity * sizeof *grown);
    if (grown == NULL) {
        return pt_refuse_memory(machine->file);
    }
    memset(grown + machine->memo_capacity, 0, (capacity - machine->memo_capacity) * sizeof *grown);
    machine->memo = grown;
    machine->memo_capacity = capacity;
    return true;
}

static bool put_memo(struct machine *machine, size_t width) {
    uint64_t index = 0;

    if (!take_number(machine, width, &index) || !need(machine, 1)) {
        return false;
    }
    if (index >= machine->memo_capacity && !grow_memo(machine, index)) {
        return false;
    }
    machine->memo[index] = top_of(machine);
    return true;
}

static bool get_memo(struct machine *machine, size_t width) {
    uint64_t index = 0;

    if (!take_number(machine, width, &index)) {
        return false;
    }
    if (index >= machine->memo_capacity || machine->memo[index] == NULL) {
        return refuse(machine, "a memo that was never set is asked for");
    }
    return push(machine, machine->memo[index]);
}

static bool on_put(struct machine *machine) {
    return put_memo(machine, 1);
}

static bool on_long_put(struct machine *machine) {
    return put_memo(machine, 4);
}

static bool on_get(struct machine *machine) {
    return get_memo(machine, 1);
}

static bool on_long_get(struct machine *machine) {
    return get_memo(machine, 4);
}

// --------------------------------------------------------------------------------- calls

static bool take_word(struct machine *machine, const char **ret_word, size_t *ret_size) {
    const size_t left = (size_t)(machine->end - machine->at);
    const unsigned char *end = memchr(machine->at, '\n', left < WORD_MAX ? left : WORD_MAX);

    if (end == NULL) {
        return refuse(machine, "a name is too long or has no end");
    }
    *ret_word = (const char *)machine->at;
    *ret_size = (size_t)(end - machine->at);
    machine->at = end + 1;
    return true;
}

static bool on_global(struct machine *machine) {
    const char *module = NULL;
    const char *name = NULL;
    size_t module_size = 0;
    size_t name_size = 0;
    struct adamd_pt_value *value = NULL;

    return take_word(machine, &module, &module_size) && take_word(machine, &name, &name_size) &&
           pt_global_find(machine->file, module, module_size, name, name_size, &value) &&
           push(machine, value);
}

static bool on_reduce(struct machine *machine) {
    struct adamd_pt_value *value = NULL;

    if (!need(machine, 2)) {
        return false;
    }
    machine->count -= 2;
    return pt_call(machine->file, machine->stack[machine->count],
                   machine->stack[machine->count + 1], &value) &&
           push(machine, value);
}

static bool on_persistent(struct machine *machine) {
    struct adamd_pt_value *value = NULL;

    if (!need(machine, 1)) {
        return false;
    }
    machine->count--;
    return pt_persistent(machine->file, machine->stack[machine->count], &value) &&
           push(machine, value);
}

// A model's dict has an attribute `_metadata` with its modules' versions: no part of the state.
static bool on_build(struct machine *machine) {
    if (!need(machine, 2)) {
        return false;
    }
    const struct adamd_pt_value *attributes = machine->stack[--machine->count];
    const struct adamd_pt_value *object = top_of(machine);
    return (attributes->kind == ADAMD_PT_DICT && object->kind == ADAMD_PT_DICT &&
            object->mark == PT_ORDERED) ||
           refuse(machine, "attributes are set on something else than an OrderedDict");
}

static opcode_fn *const opcodes[256] = {
    [0x80] = on_protocol,  ['.'] = on_stop,       ['('] = on_mark,        ['N'] = on_none,
    [0x88] = on_true,      [0x89] = on_false,     ['K'] = on_int1,        ['M'] = on_int2,
    ['J'] = on_int4,       [0x8a] = on_long,      ['G'] = on_float,       ['X'] = on_text,
    ['}'] = on_empty_dict, [']'] = on_empty_list, [')'] = on_empty_tuple, ['t'] = on_tuple,
    [0x85] = on_tuple1,    [0x86] = on_tuple2,    [0x87] = on_tuple3,     ['a'] = on_append,
    ['e'] = on_appends,    ['s'] = on_set_item,   ['u'] = on_set_items,   ['q'] = on_put,
    ['r'] = on_long_put,   ['h'] = on_get,        ['j'] = on_long_get,    ['c'] = on_global,
    ['R'] = on_reduce,     ['Q'] = on_persistent, ['b'] = on_build,       [0x95] = on_newer,
    [0x8c] = on_newer,     [0x8d] = on_newer,     [0x8e] = on_newer,      [0x8f] = on_newer,
    [0x90] = on_newer,     [0x91] = on_newer,     [0x92] = on_newer,      [0x93] = on_newer,
    [0x94] = on_newer,
};

static bool run_opcode(struct machine *machine) {
    const unsigned char *opcode = NULL;

    if (!take(machine, 1, &opcode)) {
        return false;
    }
    if (machine->at - machine->start == 1 && *opcode != 0x80) {
        return refuse(machine, "it does not begin with its protocol");
    }
    if (opcodes[*opcode] == NULL) {
        return pt_refuse(machine->file, ADAMD_BAD_FIELD, NULL,
                         "data.pkl, byte %zu: opcode 0x%02x is none that a state needs",
                         (size_t)(machine->at - machine->start) - 1, *opcode);
    }
    return opcodes[*opcode](machine);
}

bool pt_pickle_run(struct adamd_pt_file *file, const unsigned char *bytes, size_t size,
                   struct adamd_pt_value **ret_value) {
    struct machine *machine = calloc(1, sizeof *machine);
    bool good = true;

    if (machine == NULL) {
        return pt_refuse_memory(file);
    }
    machine->stack = malloc(STACK_FIRST * sizeof *machine->stack);
    if (machine->stack == NULL) {
        free(machine);
        return pt_refuse_memory(file);
    }
    machine->capacity = STACK_FIRST;
    machine->file = file;
    machine->start = machine->at = bytes;
    machine->end = bytes + size;
    while (good && !machine->stopped) {
        good = run_opcode(machine);
    }
    if (good) {
        *ret_value = top_of(machine);
    }
    free(machine->stack);
    free(machine->memo);
    free(machine);
    return good;
}
