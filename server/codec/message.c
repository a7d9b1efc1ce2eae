// The walk over a message's bytes that protobuf-c should make and does not: what it would allocate,
// whether wire types fit, whether text is text. Frames instead of recursion, so that depth is a
// limit.
#include "codec/message.h"

#include "adamd/json.h"
#include "codec/text.h"

#include <string.h>

enum {
    FIELDS_MAX = 48,      // of one message type; the largest of the schema has half of that
    REPEATED_MAX = 65536, // messages or strings in one repeated field: ADAMD_TENSORS_MAX
    VALUE_BYTES = 10,
    TAG_BYTES = 5,
    PIECE = 16, // what the arena rounds to
    // protobuf-c notes each member in 32 bytes, the first 16 on the stack and the rest in slabs
    // that double; our allocator takes nothing back.
    MEMBERS_FREE = 16,
    MEMBER_BYTES = 64,
    // A table of tensors with names of a few letters takes 20 times its encoded length.
    BUDGET_FACTOR = 24,
    BUDGET_BASE = 64 << 10,
};

enum wire { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_LENGTH = 2, WIRE_FIXED32 = 5 };

struct frame {
    const ProtobufCMessageDescriptor *type;
    const uint8_t *end;
    uint32_t counts[FIELDS_MAX];
    size_t members, unknown;
    size_t path_size;
};

struct scan {
    const uint8_t *at;
    struct frame frames[CODEC_DEPTH_MAX];
    unsigned depth; // frames in use
    size_t unknown, bytes;
    struct codec_path path;
    struct adamd_fault *fault;
};

static bool refuse(struct scan *scan, enum adamd_status status, const char *text) {
    (void)adamd_fail(scan->fault, status, scan->path.text, "%s%s%s", scan->path.text,
                     scan->path.size > 0 ? ": " : "", text);
    return false;
}

static struct frame *top(struct scan *scan) {
    return &scan->frames[scan->depth - 1];
}

// Of at most `bytes` bytes: ten for values, five for tags and lengths, as protobuf-c has it.
static bool read_varint(struct scan *scan, const uint8_t *end, unsigned bytes,
                        uint64_t *ret_value) {
    uint64_t value = 0;

    for (unsigned shift = 0; shift < 7 * bytes; shift += 7) {
        if (scan->at == end) {
            return refuse(scan, ADAMD_BAD_FIELD, "the message ends inside a number");
        }
        const uint8_t byte = *scan->at++;
        if (shift == 63 && byte > 1) {
            break;
        }
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *ret_value = value;
            return true;
        }
    }
    return refuse(scan, ADAMD_BAD_FIELD, "a number of too many bits");
}

static size_t round_piece(size_t bytes) {
    return bytes == 0 ? PIECE : (bytes + PIECE - 1) / PIECE * PIECE;
}

static bool enter(struct scan *scan, const ProtobufCMessageDescriptor *type, const uint8_t *end) {
    ADAMD_ASSERT(type->n_fields <= FIELDS_MAX);
    if (scan->depth == CODEC_DEPTH_MAX) {
        return refuse(scan, ADAMD_BAD_FIELD, "nested too deeply");
    }
    struct frame *frame = &scan->frames[scan->depth++];
    *frame = (struct frame){.type = type, .end = end, .path_size = scan->path.size};
    scan->bytes += round_piece(type->sizeof_message);
    return true;
}

static size_t element_size(const ProtobufCFieldDescriptor *field) {
    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_DOUBLE:
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return 8;
    default:
        return 4;
    }
}

// A message is whole: adds what its arrays and protobuf-c's notes on its members take.
static void leave(struct scan *scan) {
    const struct frame *frame = top(scan);

    for (unsigned i = 0; i < frame->type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &frame->type->fields[i];
        if (field->label == PROTOBUF_C_LABEL_REPEATED && frame->counts[i] > 0) {
            scan->bytes += round_piece(frame->counts[i] * element_size(field));
        }
    }
    if (frame->members > MEMBERS_FREE) {
        scan->bytes += frame->members * MEMBER_BYTES;
    }
    if (frame->unknown > 0) {
        scan->bytes += round_piece(frame->unknown * sizeof(ProtobufCMessageUnknownField));
    }
    scan->path.size = frame->path_size;
    scan->path.text[scan->path.size] = 0;
    scan->depth--;
}

static enum wire wire_of(ProtobufCType type) {
    switch (type) {
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return WIRE_FIXED32;
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return WIRE_FIXED64;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return WIRE_LENGTH;
    default:
        return WIRE_VARINT;
    }
}

static bool pass_bytes(struct scan *scan, const uint8_t *end, size_t size) {
    if ((size_t)(end - scan->at) < size) {
        return refuse(scan, ADAMD_BAD_FIELD, "the message ends inside a field");
    }
    scan->at += size;
    return true;
}

static bool check_enum(struct scan *scan, const ProtobufCFieldDescriptor *field, uint64_t value) {
    if (field->type != PROTOBUF_C_TYPE_ENUM) {
        return true;
    }
    const bool small = value <= INT32_MAX || value >= (uint64_t)INT64_MIN;
    if (!small ||
        protobuf_c_enum_descriptor_get_value(field->descriptor, (int)(int64_t)value) == NULL) {
        return refuse(scan, ADAMD_BAD_FIELD, "a value that this enum does not have");
    }
    return true;
}

// One number of a field's own wire type.
static bool pass_number(struct scan *scan, const ProtobufCFieldDescriptor *field,
                        const uint8_t *end) {
    uint64_t value = 0;

    switch (wire_of(field->type)) {
    case WIRE_FIXED32:
        return pass_bytes(scan, end, 4);
    case WIRE_FIXED64:
        return pass_bytes(scan, end, 8);
    default:
        return read_varint(scan, end, VALUE_BYTES, &value) && check_enum(scan, field, value);
    }
}

static bool read_length(struct scan *scan, size_t *ret_size) {
    uint64_t size = 0;
    const uint8_t *end = top(scan)->end;

    if (!read_varint(scan, end, TAG_BYTES, &size)) {
        return false;
    }
    if (size > (uint64_t)(end - scan->at)) {
        return refuse(scan, ADAMD_BAD_FIELD, "a length past the end of the message");
    }
    *ret_size = (size_t)size;
    return true;
}

static bool pass_packed(struct scan *scan, const ProtobufCFieldDescriptor *field, uint32_t *count) {
    size_t size = 0;

    if (!read_length(scan, &size)) {
        return false;
    }
    const uint8_t *end = scan->at + size;
    while (scan->at < end) {
        if (!pass_number(scan, field, end)) {
            return false;
        }
        ++*count;
    }
    return true;
}

// A string, bytes or a message. Messages are entered: what is in them comes next.
static bool pass_lengthy(struct scan *scan, const ProtobufCFieldDescriptor *field,
                         uint32_t *count) {
    size_t size = 0;
    const bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED;

    if (!read_length(scan, &size)) {
        return false;
    }
    if (++*count > REPEATED_MAX && repeated) {
        return refuse(scan, ADAMD_TOO_LARGE, "more than 65,536 elements");
    }
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        // protobuf-c would merge the two, by copying arrays: quadratic, and no serialiser asks for
        // it.
        if (*count > 1 && !repeated) {
            return refuse(scan, ADAMD_BAD_FIELD, "given twice");
        }
        return enter(scan, field->descriptor, scan->at + size);
    }
    if (field->type == PROTOBUF_C_TYPE_STRING && !adamd_utf8_valid(scan->at, size)) {
        return refuse(scan, ADAMD_BAD_FIELD, "not UTF-8, or with a NUL in it");
    }
    scan->bytes += round_piece(size + 1);
    scan->at += size;
    return true;
}

static bool pass_unknown(struct scan *scan, enum wire wire) {
    const uint8_t *start = scan->at;
    uint64_t ignored = 0;
    size_t size = 0;
    bool passed = false;

    if (++scan->unknown > CODEC_UNKNOWN_MAX) {
        return refuse(scan, ADAMD_BAD_FIELD, "too many fields that this version does not know");
    }
    top(scan)->unknown++;
    switch (wire) {
    case WIRE_VARINT:
        passed = read_varint(scan, top(scan)->end, VALUE_BYTES, &ignored);
        break;
    case WIRE_FIXED64:
        passed = pass_bytes(scan, top(scan)->end, 8);
        break;
    case WIRE_FIXED32:
        passed = pass_bytes(scan, top(scan)->end, 4);
        break;
    default:
        passed = read_length(scan, &size) && pass_bytes(scan, top(scan)->end, size);
        break;
    }
    scan->bytes += passed ? round_piece((size_t)(scan->at - start)) : 0;
    return passed;
}

static bool pass_known(struct scan *scan, unsigned index, enum wire wire) {
    struct frame *frame = top(scan);
    const ProtobufCFieldDescriptor *field = &frame->type->fields[index];
    const bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED;
    const size_t path_size = scan->path.size;

    codec_path_add(&scan->path, field->name);
    if (repeated && wire_of(field->type) == WIRE_LENGTH) {
        codec_path_index(&scan->path, frame->counts[index]);
    }
    if (wire_of(field->type) != wire) {
        // Numbers in a row may come packed or not, whatever the schema prefers.
        const bool packed = repeated && wire == WIRE_LENGTH;
        if (!packed) {
            return refuse(scan, ADAMD_BAD_FIELD, "encoded as another type than the field's");
        }
        if (!pass_packed(scan, field, &frame->counts[index])) {
            return false;
        }
    } else if (wire == WIRE_LENGTH) {
        if (!pass_lengthy(scan, field, &frame->counts[index])) {
            return false;
        }
    } else {
        frame->counts[index]++;
        if (!pass_number(scan, field, frame->end)) {
            return false;
        }
    }
    if (top(scan) == frame) { // else the path leads into the message that was entered
        scan->path.size = path_size;
        scan->path.text[path_size] = 0;
    } else {
        top(scan)->path_size = path_size;
    }
    return true;
}

static bool pass_field(struct scan *scan) {
    struct frame *frame = top(scan);
    uint64_t tag = 0;

    if (!read_varint(scan, frame->end, TAG_BYTES, &tag)) {
        return false;
    }
    const unsigned wire = (unsigned)(tag & 7);
    const uint64_t number = tag >> 3;
    if (number == 0 || number > 0x1fffffff) {
        return refuse(scan, ADAMD_BAD_FIELD, "a field number that cannot be");
    }
    if (wire != WIRE_VARINT && wire != WIRE_FIXED64 && wire != WIRE_LENGTH &&
        wire != WIRE_FIXED32) {
        return refuse(scan, ADAMD_BAD_FIELD, "a wire type that is not taken");
    }
    frame->members++;
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field(frame->type, (unsigned)number);
    if (field == NULL) {
        return pass_unknown(scan, (enum wire)wire);
    }
    return pass_known(scan, (unsigned)(field - frame->type->fields), (enum wire)wire);
}

enum adamd_status codec_scan(const ProtobufCMessageDescriptor *type, const void *bytes, size_t size,
                             size_t *ret_bytes, struct adamd_fault *fault) {
    static const uint8_t nothing[1];
    const uint8_t *start = size > 0 ? bytes : nothing;
    struct adamd_fault own;
    struct scan scan = {.at = start, .fault = fault != NULL ? fault : &own};

    if (size > CODEC_MESSAGE_MAX) {
        return adamd_fail(fault, ADAMD_TOO_LARGE, NULL, "a message of %zu bytes, at most %d", size,
                          CODEC_MESSAGE_MAX);
    }
    bool sound = enter(&scan, type, start + size);
    while (sound && scan.depth > 0) {
        if (scan.at == top(&scan)->end) {
            leave(&scan);
        } else {
            sound = pass_field(&scan);
        }
    }
    if (!sound) {
        return scan.fault->status;
    }
    if (scan.bytes > BUDGET_FACTOR * size + BUDGET_BASE) {
        return adamd_fail(fault, ADAMD_TOO_LARGE, NULL,
                          "a message that would take %zu bytes of memory for %zu", scan.bytes,
                          size);
    }
    *ret_bytes = scan.bytes;
    return ADAMD_OK;
}

enum adamd_status codec_unpack(const ProtobufCMessageDescriptor *type, const void *bytes,
                               size_t size, struct codec_arena *arena,
                               ProtobufCMessage **ret_message, struct adamd_fault *fault) {
    size_t budget = 0;
    const enum adamd_status status = codec_scan(type, bytes, size, &budget, fault);

    if (status != ADAMD_OK) {
        return status;
    }
    const size_t limit = arena->limit;
    if (limit == 0 || limit > arena->taken + budget) {
        arena->limit = arena->taken + budget;
    }
    ProtobufCAllocator allocator = codec_arena_allocator(arena);
    ProtobufCMessage *message = protobuf_c_message_unpack(type, &allocator, size, bytes);
    arena->limit = limit;
    if (message == NULL) {
        return adamd_fail_plain(fault, arena->over ? ADAMD_TOO_LARGE : ADAMD_NO_MEMORY);
    }
    *ret_message = message;
    return ADAMD_OK;
}

ProtobufCMessage *codec_message_new(struct codec_arena *arena,
                                    const ProtobufCMessageDescriptor *type) {
    ProtobufCMessage *message = codec_arena_alloc(arena, type->sizeof_message);

    if (message != NULL) {
        protobuf_c_message_init(type, message);
    }
    return message;
}
