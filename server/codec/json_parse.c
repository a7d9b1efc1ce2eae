// ProtoJSON in. The document is first checked by the letter, then cJSON makes a tree of it, then
// the tree is read by the descriptor. cJSON alone would take trailing text, malformed UTF-8, a
// thousand levels and the first of two equal names.
#include "codec/json.h"

#include "adamd/json.h"
#include "codec/json_tree.h"
#include "codec/json_value.h"
#include "codec/message.h"

#include <adamd/v1/adamd.pb-c.h>
#include <math.h>
#include <string.h>

enum { INTEGERS_EXACT_BITS = 53 };

static bool read_message(struct json_reader *reader, const cJSON *object,
                         ProtobufCMessage *message);

static bool read_number(struct json_reader *reader, const ProtobufCFieldDescriptor *field,
                        double value, void *to) {
    switch (field->type) {
    case PROTOBUF_C_TYPE_DOUBLE:
    case PROTOBUF_C_TYPE_FLOAT:
        return isfinite(value) ? json_store_real(reader, field->type, value, to)
                               : json_refuse(reader, ADAMD_BAD_FIELD, "a number out of range");
    case PROTOBUF_C_TYPE_ENUM:
        return json_store_enum(reader, field->descriptor, value, to);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return json_refuse(reader, ADAMD_BAD_FIELD, "a string is expected");
    case PROTOBUF_C_TYPE_BOOL:
        return json_refuse(reader, ADAMD_BAD_FIELD, "true or false is expected");
    default:
        break;
    }
    if (floor(value) != value) {
        return json_refuse(reader, ADAMD_BAD_FIELD, "an integer is expected");
    }
    // Larger ones have lost bits already: cJSON holds doubles.
    if (fabs(value) > ldexp(1, INTEGERS_EXACT_BITS)) {
        return json_refuse(reader, ADAMD_BAD_FIELD, "write an integer of this size as a string");
    }
    return json_store_integer(reader, field->type, value < 0, (uint64_t)fabs(value), to);
}

// NOLINTNEXTLINE(misc-no-recursion): the document's depth was checked
static bool read_object(struct json_reader *reader, const ProtobufCFieldDescriptor *field,
                        const cJSON *item, void *to) {
    const ProtobufCMessageDescriptor *type = field->descriptor;

    if (field->type != PROTOBUF_C_TYPE_MESSAGE ||
        type == &google__protobuf__timestamp__descriptor ||
        type == &google__protobuf__duration__descriptor) {
        return json_refuse(reader, ADAMD_BAD_FIELD, "an object where a simple value is expected");
    }
    ProtobufCMessage *message = codec_message_new(reader->arena, type);
    if (message == NULL) {
        return json_refuse(reader, ADAMD_NO_MEMORY, "out of memory");
    }
    *(ProtobufCMessage **)to = message;
    return read_message(reader, item, message);
}

// NOLINTNEXTLINE(misc-no-recursion): as above
static bool read_value(struct json_reader *reader, const ProtobufCFieldDescriptor *field,
                       const cJSON *item, void *to) {
    if (cJSON_IsString(item)) {
        return json_read_text(reader, field, item->valuestring, to);
    }
    if (cJSON_IsNumber(item)) {
        return read_number(reader, field, item->valuedouble, to);
    }
    if (cJSON_IsBool(item)) {
        if (field->type != PROTOBUF_C_TYPE_BOOL) {
            return json_refuse(reader, ADAMD_BAD_FIELD,
                               "true and false are no value of this field");
        }
        *(protobuf_c_boolean *)to = cJSON_IsTrue(item) ? 1 : 0;
        return true;
    }
    if (cJSON_IsObject(item)) {
        return read_object(reader, field, item, to);
    }
    return json_refuse(reader, ADAMD_BAD_FIELD, "%s where one value is expected",
                       cJSON_IsArray(item) ? "an array" : "null");
}

// NOLINTNEXTLINE(misc-no-recursion): as above
static bool read_array(struct json_reader *reader, const ProtobufCFieldDescriptor *field,
                       const cJSON *array, ProtobufCMessage *message) {
    const size_t size = json_value_size(field->type);
    const size_t path_size = reader->path.size;
    unsigned char *base = (unsigned char *)message;
    size_t count = 0;

    if (!cJSON_IsArray(array)) {
        return json_refuse(reader, ADAMD_BAD_FIELD, "an array is expected");
    }
    for (const cJSON *item = array->child; item != NULL; item = item->next) {
        count++;
    }
    unsigned char *values = codec_arena_array(reader->arena, count, size);
    if (values == NULL) {
        return json_refuse(reader, ADAMD_NO_MEMORY, "out of memory");
    }
    size_t i = 0;
    for (const cJSON *item = array->child; item != NULL; item = item->next, i++) {
        codec_path_index(&reader->path, i);
        if (!read_value(reader, field, item, values + i * size)) {
            return false;
        }
        codec_path_cut(&reader->path, path_size);
    }
    memcpy(base + field->offset, &values, sizeof values);
    memcpy(base + field->quantifier_offset, &count, sizeof count);
    return true;
}

// NOLINTNEXTLINE(misc-no-recursion): as above
static bool read_member(struct json_reader *reader, const ProtobufCFieldDescriptor *field,
                        const cJSON *item, ProtobufCMessage *message) {
    if (cJSON_IsNull(item)) {
        return true; // as if it were left out
    }
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        return read_array(reader, field, item, message);
    }
    return json_claim(reader, message, field) &&
           read_value(reader, field, item, (unsigned char *)message + field->offset);
}

// NOLINTNEXTLINE(misc-no-recursion): as above
static bool read_message(struct json_reader *reader, const cJSON *object,
                         ProtobufCMessage *message) {
    const ProtobufCMessageDescriptor *type = message->descriptor;
    const size_t path_size = reader->path.size;
    uint64_t seen = 0;

    ADAMD_ASSERT(type->n_fields <= 64);
    for (const cJSON *item = object->child; item != NULL; item = item->next) {
        const ProtobufCFieldDescriptor *field = json_find_field(type, item->string);
        if (field == NULL) {
            return json_refuse_name(reader, type, item->string);
        }
        const uint64_t bit = UINT64_C(1) << (field - type->fields);
        codec_path_add(&reader->path, item->string);
        if ((seen & bit) != 0) {
            return json_refuse(reader, ADAMD_BAD_FIELD, "given twice");
        }
        seen |= bit;
        if (!read_member(reader, field, item, message)) {
            return false;
        }
        codec_path_cut(&reader->path, path_size);
    }
    return true;
}

enum adamd_status codec_json_tree(const char *text, size_t size, cJSON **ret_tree,
                                  struct adamd_fault *fault) {
    struct adamd_json json;

    adamd_json_init(&json, text, size, CODEC_JSON_DEPTH_MAX, CODEC_JSON_VALUES_MAX);
    if (!adamd_json_skip(&json) || !adamd_json_finish(&json)) {
        const size_t offset = size - (size_t)(json.end - json.at);
        (void)adamd_fail(fault, ADAMD_BAD_FIELD, NULL, "malformed JSON at byte %zu: %s", offset,
                         json.complaint);
        adamd_fault_tell(fault, "offset", "%zu", offset);
        return ADAMD_BAD_FIELD;
    }
    *ret_tree = cJSON_ParseWithLength(text, size);
    return *ret_tree != NULL ? ADAMD_OK : adamd_fail_plain(fault, ADAMD_NO_MEMORY);
}

static bool is_blank(const char *text, size_t size) {
    struct adamd_json json;

    adamd_json_init(&json, text, size, 1, 1);
    return adamd_json_finish(&json);
}

enum adamd_status codec_json_parse(const ProtobufCMessageDescriptor *type, const char *text,
                                   size_t size, size_t size_max, struct codec_arena *arena,
                                   ProtobufCMessage **ret_message, struct adamd_fault *fault) {
    struct adamd_fault own;
    struct json_reader reader = {.arena = arena, .fault = fault != NULL ? fault : &own};
    cJSON *tree = NULL;

    if (size > size_max) {
        return adamd_fail(fault, ADAMD_TOO_LARGE, NULL, "a document of %zu bytes, at most %zu",
                          size, size_max);
    }
    ProtobufCMessage *message = codec_message_new(arena, type);
    if (message == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    if (!is_blank(text, size)) {
        const enum adamd_status status = codec_json_tree(text, size, &tree, fault);
        if (status != ADAMD_OK) {
            return status;
        }
        const bool good = cJSON_IsObject(tree)
                              ? read_message(&reader, tree, message)
                              : json_refuse(&reader, ADAMD_BAD_FIELD, "an object is expected");
        cJSON_Delete(tree);
        if (!good) {
            return reader.fault->status;
        }
    }
    *ret_message = message;
    return ADAMD_OK;
}

static bool set_bool(struct json_reader *reader, const char *text, protobuf_c_boolean *to) {
    if (*text == 0 || strcmp(text, "true") == 0 || strcmp(text, "1") == 0) {
        *to = 1;
    } else if (strcmp(text, "false") == 0 || strcmp(text, "0") == 0) {
        *to = 0;
    } else {
        return json_refuse(reader, ADAMD_BAD_FIELD, "true or false is expected");
    }
    return true;
}

enum adamd_status codec_json_set(ProtobufCMessage *message, const char *name, const char *text,
                                 struct codec_arena *arena, struct adamd_fault *fault) {
    struct adamd_fault own;
    struct json_reader reader = {.arena = arena, .fault = fault != NULL ? fault : &own};
    const ProtobufCFieldDescriptor *field = json_find_field(message->descriptor, name);
    bool good = false;

    if (field == NULL) {
        (void)json_refuse_name(&reader, message->descriptor, name);
        return reader.fault->status;
    }
    codec_path_add(&reader.path, name);
    void *to = (unsigned char *)message + field->offset;
    if (field->label == PROTOBUF_C_LABEL_REPEATED || field->type == PROTOBUF_C_TYPE_BYTES) {
        (void)json_refuse(&reader, ADAMD_BAD_FIELD, "cannot be given in a query");
    } else if (!adamd_utf8_valid(text, strlen(text))) {
        (void)json_refuse(&reader, ADAMD_BAD_FIELD, "not UTF-8");
    } else if (json_claim(&reader, message, field)) {
        good = field->type == PROTOBUF_C_TYPE_BOOL ? set_bool(&reader, text, to)
                                                   : json_read_text(&reader, field, text, to);
    }
    return good ? ADAMD_OK : reader.fault->status;
}
