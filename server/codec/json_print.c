// ProtoJSON out. One walk over a message by its descriptor; nesting is the schema's, at most five.
#include "codec/json.h"

#include "codec/json_value.h"
#include "codec/text.h"

#include <adamd/v1/adamd.pb-c.h>
#include <string.h>

static void print_message(struct codec_text *text, const ProtobufCMessage *message, unsigned flags);

static void print_signed(struct codec_text *text, int64_t value) {
    if (value < 0) {
        codec_text_put(text, "-");
    }
    codec_text_uint(text, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

static void print_enum(struct codec_text *text, const ProtobufCEnumDescriptor *type, int value) {
    const ProtobufCEnumValue *known = protobuf_c_enum_descriptor_get_value(type, value);

    if (known != NULL) {
        codec_text_quote(text, known->name);
    } else {
        print_signed(text, value);
    }
}

// True if the message is one of those that JSON writes as text, and was.
static bool print_time(struct codec_text *text, const ProtobufCMessage *message) {
    char printed[CODEC_TIME_TEXT_MAX];
    bool representable = false;

    if (message->descriptor == &google__protobuf__timestamp__descriptor) {
        const Google__Protobuf__Timestamp *time = (const void *)message;
        representable = codec_timestamp_print(time->seconds, time->nanos, printed);
    } else if (message->descriptor == &google__protobuf__duration__descriptor) {
        const Google__Protobuf__Duration *time = (const void *)message;
        representable = codec_duration_print(time->seconds, time->nanos, printed);
    } else {
        return false;
    }
    codec_text_quote(text, representable ? printed : "");
    return true;
}

// A value of 32 bits or a double, which JSON writes as a number.
static void print_number(struct codec_text *text, ProtobufCType type, const void *from) {
    switch (type) {
    case PROTOBUF_C_TYPE_DOUBLE:
        codec_text_double(text, *(const double *)from);
        break;
    case PROTOBUF_C_TYPE_FLOAT:
        codec_text_float(text, *(const float *)from);
        break;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        codec_text_uint(text, *(const uint32_t *)from);
        break;
    default:
        print_signed(text, *(const int32_t *)from);
        break;
    }
}

// NOLINTNEXTLINE(misc-no-recursion): as deep as the schema, which a test bounds
static void print_value(struct codec_text *text, const ProtobufCFieldDescriptor *field,
                        const void *from, unsigned flags) {
    switch (field->type) {
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        codec_text_put(text, "\"");
        print_signed(text, *(const int64_t *)from);
        codec_text_put(text, "\"");
        break;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        codec_text_put(text, "\"");
        codec_text_uint(text, *(const uint64_t *)from);
        codec_text_put(text, "\"");
        break;
    case PROTOBUF_C_TYPE_BOOL:
        codec_text_put(text, *(const protobuf_c_boolean *)from ? "true" : "false");
        break;
    case PROTOBUF_C_TYPE_ENUM:
        print_enum(text, field->descriptor, *(const int *)from);
        break;
    case PROTOBUF_C_TYPE_STRING: {
        const char *string = *(char *const *)from;
        codec_text_quote(text, string != NULL ? string : "");
        break;
    }
    case PROTOBUF_C_TYPE_BYTES: {
        const ProtobufCBinaryData *bytes = from;
        codec_text_put(text, "\"");
        codec_text_base64(text, bytes->data, bytes->len, true);
        codec_text_put(text, "\"");
        break;
    }
    case PROTOBUF_C_TYPE_MESSAGE:
        print_message(text, *(ProtobufCMessage *const *)from, flags);
        break;
    default:
        print_number(text, field->type, from);
        break;
    }
}

static bool is_zero(const ProtobufCFieldDescriptor *field, const void *from) {
    static const unsigned char zeros[8];

    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING: {
        const char *string = *(char *const *)from;
        return string == NULL || *string == 0;
    }
    case PROTOBUF_C_TYPE_BYTES:
        return ((const ProtobufCBinaryData *)from)->len == 0;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE: // by its bits: minus zero is a value
        return memcmp(from, zeros, 8) == 0;
    default:
        return memcmp(from, zeros, 4) == 0;
    }
}

static bool is_printed(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
                       unsigned flags) {
    const unsigned char *base = (const unsigned char *)message;
    const unsigned char *member = base + field->offset;
    const bool defaults = (flags & CODEC_JSON_DEFAULTS) != 0;

    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        return defaults || *(const size_t *)(const void *)(base + field->quantifier_offset) > 0;
    }
    if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
        return *(const uint32_t *)(const void *)(base + field->quantifier_offset) == field->id;
    }
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        return *(ProtobufCMessage *const *)(const void *)member != NULL;
    }
    return defaults || !is_zero(field, member);
}

// NOLINTNEXTLINE(misc-no-recursion): as above
static void print_repeated(struct codec_text *text, const ProtobufCMessage *message,
                           const ProtobufCFieldDescriptor *field, unsigned flags) {
    const unsigned char *base = (const unsigned char *)message;
    const size_t count = *(const size_t *)(const void *)(base + field->quantifier_offset);
    const unsigned char *array = *(unsigned char *const *)(const void *)(base + field->offset);
    const size_t size = json_value_size(field->type);

    codec_text_put(text, "[");
    for (size_t i = 0; i < count; i++) {
        codec_text_put(text, i > 0 ? "," : "");
        print_value(text, field, array + i * size, flags);
    }
    codec_text_put(text, "]");
}

// NOLINTNEXTLINE(misc-no-recursion): as above
static void print_message(struct codec_text *text, const ProtobufCMessage *message,
                          unsigned flags) {
    const char *before = "{\"";
    char name[64];

    if (print_time(text, message)) {
        return;
    }
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        if (!is_printed(message, field, flags)) {
            continue;
        }
        codec_camel(field->name, name, sizeof name);
        codec_text_put(text, before);
        codec_text_put(text, name);
        codec_text_put(text, "\":");
        before = ",\"";
        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            print_repeated(text, message, field, flags);
        } else {
            print_value(text, field, (const unsigned char *)message + field->offset, flags);
        }
    }
    codec_text_put(text, before[0] == '{' ? "{}" : "}");
}

enum adamd_status codec_json_print(const ProtobufCMessage *message, unsigned flags, char **ret_text,
                                   size_t *ret_size) {
    struct codec_text text = {0};

    print_message(&text, message, flags);
    char *bytes = codec_text_end(&text, ret_size);
    if (bytes == NULL) {
        return ADAMD_NO_MEMORY;
    }
    *ret_text = bytes;
    return ADAMD_OK;
}
