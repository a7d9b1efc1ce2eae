// Scalars from text, with the range of each type.
#include "codec/json_value.h"

#include "adamd/json.h"
#include "codec/json.h"
#include "codec/message.h"

#include <adamd/v1/adamd.pb-c.h>
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool json_refuse(struct json_reader *reader, enum adamd_status status, const char *format, ...) {
    char message[sizeof reader->fault->message];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    (void)adamd_fail(reader->fault, status, reader->path.text, "%s%s%s", reader->path.text,
                     reader->path.size > 0 ? ": " : "", message);
    return false;
}

const ProtobufCFieldDescriptor *json_find_field(const ProtobufCMessageDescriptor *type,
                                                const char *name) {
    for (unsigned i = 0; i < type->n_fields; i++) {
        if (codec_name_is(name, type->fields[i].name)) {
            return &type->fields[i];
        }
    }
    return NULL;
}

bool json_refuse_name(struct json_reader *reader, const ProtobufCMessageDescriptor *type,
                      const char *name) {
    enum { FAR = 4 };
    const bool snake = strchr(name, '_') != NULL;
    size_t nearest = FAR;
    char guess[64] = "";

    for (unsigned i = 0; i < type->n_fields; i++) {
        char camel[64];
        codec_camel(type->fields[i].name, camel, sizeof camel);
        const char *candidate = snake ? type->fields[i].name : camel;
        const size_t distance = codec_distance(name, candidate, FAR);
        if (distance < nearest && distance < strlen(candidate)) {
            nearest = distance;
            (void)snprintf(guess, sizeof guess, "%s", candidate);
        }
    }
    codec_path_add(&reader->path, name);
    return guess[0] != 0
               ? json_refuse(reader, ADAMD_BAD_FIELD,
                             "there is no field of this name; did you mean \"%s\"?", guess)
               : json_refuse(reader, ADAMD_BAD_FIELD, "there is no field of this name");
}

size_t json_value_size(ProtobufCType type) {
    switch (type) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    default:
        return 4;
    }
}

bool json_store_integer(struct json_reader *reader, ProtobufCType type, bool negative,
                        uint64_t magnitude, void *to) {
    const bool is_unsigned = type == PROTOBUF_C_TYPE_UINT32 || type == PROTOBUF_C_TYPE_FIXED32 ||
                             type == PROTOBUF_C_TYPE_UINT64 || type == PROTOBUF_C_TYPE_FIXED64;
    const bool wide = json_value_size(type) == 8;
    uint64_t max = wide ? UINT64_MAX : UINT32_MAX;

    if (!is_unsigned) {
        max = max / 2 + (negative ? 1 : 0);
    } else if (negative && magnitude != 0) {
        return json_refuse(reader, ADAMD_BAD_FIELD, "a negative number");
    }
    if (magnitude > max) {
        return json_refuse(reader, ADAMD_BAD_FIELD, "a number out of range");
    }
    const uint64_t value = negative ? 0 - magnitude : magnitude;
    if (wide) {
        memcpy(to, &value, sizeof value);
    } else {
        const uint32_t narrow = (uint32_t)value;
        memcpy(to, &narrow, sizeof narrow);
    }
    return true;
}

bool json_store_real(struct json_reader *reader, ProtobufCType type, double value, void *to) {
    if (type == PROTOBUF_C_TYPE_DOUBLE) {
        memcpy(to, &value, sizeof value);
        return true;
    }
    if (isfinite(value) && fabs(value) > (double)FLT_MAX) {
        return json_refuse(reader, ADAMD_BAD_FIELD, "a number out of range");
    }
    const float narrow = (float)value;
    memcpy(to, &narrow, sizeof narrow);
    return true;
}

bool json_store_enum(struct json_reader *reader, const ProtobufCEnumDescriptor *type, double value,
                     void *to) {
    const bool integral = value >= INT32_MIN && value <= INT32_MAX && floor(value) == value;

    if (!integral || protobuf_c_enum_descriptor_get_value(type, (int)value) == NULL) {
        return json_refuse(reader, ADAMD_BAD_FIELD, "%s has no value %g", type->short_name, value);
    }
    *(int *)to = (int)value;
    return true;
}

static bool read_integer(struct json_reader *reader, ProtobufCType type, const char *string,
                         void *to) {
    const bool negative = string[0] == '-';
    struct adamd_json json;
    uint64_t magnitude = 0;

    adamd_json_init(&json, string + negative, strlen(string + negative), 1, 1);
    if (string[negative] < '0' || string[negative] > '9' || !adamd_json_uint(&json, &magnitude) ||
        json.at != json.end) {
        return json_refuse(reader, ADAMD_BAD_FIELD, "not an integer in range: \"%.40s\"", string);
    }
    return json_store_integer(reader, type, negative, magnitude, to);
}

static bool read_real(struct json_reader *reader, ProtobufCType type, const char *string,
                      void *to) {
    struct adamd_json json;
    struct adamd_json_slice slice;

    if (strcmp(string, "NaN") == 0) {
        return json_store_real(reader, type, (double)NAN, to);
    }
    if (strcmp(string, "Infinity") == 0 || strcmp(string, "-Infinity") == 0) {
        return json_store_real(reader, type,
                               string[0] == '-' ? -(double)INFINITY : (double)INFINITY, to);
    }
    adamd_json_init(&json, string, strlen(string), 1, 1);
    if (!adamd_json_number(&json, &slice) || slice.text != string || json.at != json.end) {
        return json_refuse(reader, ADAMD_BAD_FIELD, "not a number: \"%.40s\"", string);
    }
    const double value = strtod(string, NULL);
    return isfinite(value) ? json_store_real(reader, type, value, to)
                           : json_refuse(reader, ADAMD_BAD_FIELD, "a number out of range");
}

static bool read_enum(struct json_reader *reader, const ProtobufCEnumDescriptor *type,
                      const char *string, void *to) {
    const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value_by_name(type, string);

    if (value == NULL) {
        const char *example = type->n_values > 1 ? type->values[1].name : type->values[0].name;
        return json_refuse(reader, ADAMD_BAD_FIELD, "no value of %s: \"%.40s\" (one is %s)",
                           type->short_name, string, example);
    }
    *(int *)to = value->value;
    return true;
}

static bool refuse_memory(struct json_reader *reader) {
    return json_refuse(reader, ADAMD_NO_MEMORY, "out of memory");
}

static bool read_bytes(struct json_reader *reader, const char *string, ProtobufCBinaryData *to) {
    const size_t size = strlen(string);

    if (size > (size_t)CODEC_JSON_BYTES_MAX * 4 / 3 + 4) {
        return json_refuse(reader, ADAMD_TOO_LARGE, "more than 65,536 bytes in JSON");
    }
    to->data = codec_arena_alloc(reader->arena, size / 4 * 3 + 3);
    if (to->data == NULL) {
        return refuse_memory(reader);
    }
    if (!codec_base64_decode(string, size, to->data, &to->len)) {
        return json_refuse(reader, ADAMD_BAD_FIELD, "not base64");
    }
    return to->len <= CODEC_JSON_BYTES_MAX ||
           json_refuse(reader, ADAMD_TOO_LARGE, "more than 65,536 bytes in JSON");
}

// Timestamp and Duration have the same members, but not the same C type.
static bool read_time(struct json_reader *reader, const ProtobufCMessageDescriptor *type,
                      const char *string, void *to) {
    int64_t seconds = 0;
    int32_t nanos = 0;
    ProtobufCMessage *message = NULL;

    if (type == &google__protobuf__timestamp__descriptor) {
        if (!codec_timestamp_parse(string, &seconds, &nanos)) {
            return json_refuse(reader, ADAMD_BAD_FIELD,
                               "not a time such as \"2026-01-31T12:00:00Z\": \"%.40s\"", string);
        }
        Google__Protobuf__Timestamp *time =
            CODEC_NEW(reader->arena, Google__Protobuf__Timestamp, google__protobuf__timestamp);
        if (time != NULL) {
            time->seconds = seconds;
            time->nanos = nanos;
            message = &time->base;
        }
    } else if (type == &google__protobuf__duration__descriptor) {
        if (!codec_duration_parse(string, &seconds, &nanos)) {
            return json_refuse(reader, ADAMD_BAD_FIELD,
                               "not a duration such as \"1.5s\": \"%.40s\"", string);
        }
        Google__Protobuf__Duration *time =
            CODEC_NEW(reader->arena, Google__Protobuf__Duration, google__protobuf__duration);
        if (time != NULL) {
            time->seconds = seconds;
            time->nanos = nanos;
            message = &time->base;
        }
    } else {
        return json_refuse(reader, ADAMD_BAD_FIELD, "an object is expected");
    }
    *(ProtobufCMessage **)to = message;
    return message != NULL || refuse_memory(reader);
}

bool json_read_text(struct json_reader *reader, const ProtobufCFieldDescriptor *field,
                    const char *string, void *to) {
    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING:
        *(char **)to = codec_arena_copy(reader->arena, string, strlen(string));
        return *(char **)to != NULL || refuse_memory(reader);
    case PROTOBUF_C_TYPE_BYTES:
        return read_bytes(reader, string, to);
    case PROTOBUF_C_TYPE_ENUM:
        return read_enum(reader, field->descriptor, string, to);
    case PROTOBUF_C_TYPE_MESSAGE:
        return read_time(reader, field->descriptor, string, to);
    case PROTOBUF_C_TYPE_DOUBLE:
    case PROTOBUF_C_TYPE_FLOAT:
        return read_real(reader, field->type, string, to);
    case PROTOBUF_C_TYPE_BOOL:
        return json_refuse(reader, ADAMD_BAD_FIELD, "true or false is expected");
    default:
        return read_integer(reader, field->type, string, to);
    }
}

bool json_claim(struct json_reader *reader, ProtobufCMessage *message,
                const ProtobufCFieldDescriptor *field) {
    if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) == 0) {
        return true;
    }
    void *member = (unsigned char *)message + field->quantifier_offset;
    uint32_t *which = member;
    if (*which != 0 && *which != field->id) {
        return json_refuse(reader, ADAMD_BAD_FIELD, "only one of its oneof can be set");
    }
    *which = field->id;
    return true;
}
