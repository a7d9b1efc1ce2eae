// From an exchange to a decoded request message, by either dialect.
#include "call.h"

#include "arguments.h"
#include "codec/json.h"
#include "codec/message.h"
#include "etag.h"
#include "range.h"

#include <stdlib.h>
#include <string.h>

enum { MODEL_ID_MAX = 63 };

// ----------------------------------------------------------------------------- names of resources

static struct served_model *find_model_id(struct server *server, const char *id, size_t length,
                                          const char *field, struct adamd_fault *fault) {
    char copy[MODEL_ID_MAX + 1] = "";

    if (length <= MODEL_ID_MAX) {
        memcpy(copy, id, length);
    }
    struct served_model *served = copy[0] != '\0' ? server_find(server, copy) : NULL;
    if (served == NULL) {
        (void)adamd_fail(fault, ADAMD_NOT_FOUND, field,
                         "there is no model \"%s\": GET /v1/models lists them, POST "
                         "/v1/models?model_id=… makes one",
                         show(copy[0] != '\0' ? copy : id).text);
    }
    return served;
}

struct served_model *find_model_named(struct server *server, const char *name, const char *field,
                                      struct adamd_fault *fault) {
    static const char prefix[] = "models/";

    if (strncmp(name, prefix, sizeof prefix - 1) != 0 || strchr(name + sizeof prefix - 1, '/')) {
        (void)adamd_fail(fault, ADAMD_BAD_FIELD, field, "%s must be \"models/{model}\"", field);
        return NULL;
    }
    const char *id = name + sizeof prefix - 1;
    return find_model_id(server, id, strlen(id), field, fault);
}

// "models/{model}<between>{what}": the model, and what stands behind.
static struct served_model *find_inner(struct server *server, const char *name, const char *between,
                                       const char **ret_inner, struct adamd_fault *fault) {
    static const char prefix[] = "models/";
    const char *id = name + sizeof prefix - 1;
    const char *middle = strncmp(name, prefix, sizeof prefix - 1) == 0 ? strstr(id, between) : NULL;

    if (middle == NULL || middle[strlen(between)] == '\0' ||
        strchr(middle + strlen(between), '/')) {
        *ret_inner = NULL;
        return NULL;
    }
    *ret_inner = middle + strlen(between);
    return find_model_id(server, id, (size_t)(middle - id), "name", fault);
}

struct served_model *find_worker_named(struct server *server, const char *name, const char *field,
                                       const char **ret_worker, struct adamd_fault *fault) {
    struct served_model *served = find_inner(server, name, "/workers/", ret_worker, fault);

    if (*ret_worker == NULL) {
        (void)adamd_fail(fault, ADAMD_BAD_FIELD, field,
                         "%s must be \"models/{model}/workers/{worker}\"", field);
    }
    return served;
}

struct served_model *find_group_named(struct server *server, const char *name, const char *field,
                                      uint32_t *ret_group, struct adamd_fault *fault) {
    const char *index = NULL;
    uint64_t group = 0;
    struct served_model *served = find_inner(server, name, "/groups/", &index, fault);

    if (index == NULL) {
        (void)adamd_fail(fault, ADAMD_BAD_FIELD, field,
                         "%s must be \"models/{model}/groups/{index}\"", field);
    }
    if (served == NULL) {
        return NULL;
    }
    const uint32_t count = adamd_model_info(served->model, 0).group_count;
    if (!parse_ordinal(index, &group)) {
        (void)adamd_fail(fault, ADAMD_BAD_FIELD, field, "a group's name is its index, not \"%s\"",
                         show(index).text);
        return NULL;
    }
    if (group >= count) {
        (void)adamd_fail(fault, ADAMD_NOT_FOUND, field, "there is no group %s: the model has %u",
                         show(index).text, (unsigned)count);
        return NULL;
    }
    *ret_group = (uint32_t)group;
    return served;
}

struct served_model *find_hook_named(struct server *server, const char *name, const char *field,
                                     uint64_t *ret_hook, struct adamd_fault *fault) {
    const char *hook = NULL;
    struct served_model *served = find_inner(server, name, "/hooks/", &hook, fault);

    if (hook == NULL) {
        (void)adamd_fail(fault, ADAMD_BAD_FIELD, field,
                         "%s must be \"models/{model}/hooks/{hook}\"", field);
    }
    if (served != NULL && !parse_ordinal(hook, ret_hook)) {
        (void)adamd_fail(fault, ADAMD_BAD_FIELD, field, "a hook's name is a number, not \"%s\"",
                         show(hook).text);
        return NULL;
    }
    return served;
}

struct served_model *find_model_of_path(struct exchange *exchange, struct adamd_fault *fault) {
    const char *id = exchange_segment(exchange, 0);

    return find_model_id(exchange_server(exchange), id, strlen(id), "model", fault);
}

// -------------------------------------------------------------------------------------- decoding

static enum adamd_status decode_body(struct call_frame *frame, const char *type_name,
                                     const ProtobufCMessageDescriptor *type,
                                     ProtobufCMessage **ret_message) {
    const size_t size_max = exchange_route(frame->exchange)->body_max;
    size_t size = 0;
    const unsigned char *bytes = exchange_collected(frame->exchange, &size);

    if (content_type_is(type_name, "application/proto")) {
        return codec_unpack(type, bytes, size, &frame->arena, ret_message, &frame->fault);
    }
    return codec_json_parse(type, (const char *)bytes, size, size_max, &frame->arena, ret_message,
                            &frame->fault);
}

static int decode_base64_digit(char c) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    const char *found = c != '\0' ? strchr(digits, c) : NULL;

    if (found != NULL) {
        return (int)(found - digits);
    }
    if (c == '-' || c == '+') {
        return 62;
    }
    return c == '_' || c == '/' ? 63 : -1;
}

// Connect's GET: URL-safe base64 without padding; the other alphabet and padding are taken too.
static bool decode_base64(const char *text, unsigned char *bytes, size_t *ret_size) {
    const size_t length = strcspn(text, "=");
    uint32_t bits = 0;
    unsigned held = 0;
    size_t size = 0;

    for (size_t i = 0; i < length; i++) {
        const int digit = decode_base64_digit(text[i]);
        if (digit < 0) {
            return false;
        }
        bits = bits << 6 | (uint32_t)digit;
        held += 6;
        if (held >= 8) {
            held -= 8;
            bytes[size++] = (unsigned char)(bits >> held);
        }
    }
    *ret_size = size;
    return length % 4 != 1 && strspn(text + length, "=") == strlen(text + length);
}

static enum adamd_status decode_get(struct call_frame *frame,
                                    const ProtobufCMessageDescriptor *type) {
    const char *encoding = exchange_parameter(frame->exchange, "encoding");
    const char *text = exchange_parameter(frame->exchange, "message");
    bool as_base64 = false;
    const unsigned char *bytes = (const unsigned char *)(text != NULL ? text : "");
    size_t size = strlen((const char *)bytes);

    if (argument_bool(frame->exchange, "base64", &as_base64, &frame->fault) != ADAMD_OK) {
        return frame->fault.status;
    }
    if (encoding == NULL || (strcmp(encoding, "json") != 0 && strcmp(encoding, "proto") != 0)) {
        return adamd_fail(&frame->fault, ADAMD_BAD_FIELD, "encoding",
                          "encoding must be json or proto");
    }
    if (as_base64) {
        unsigned char *decoded = codec_arena_alloc(&frame->arena, size + 1);
        if (decoded == NULL) {
            return adamd_fail_plain(&frame->fault, ADAMD_NO_MEMORY);
        }
        if (!decode_base64((const char *)bytes, decoded, &size)) {
            return adamd_fail(&frame->fault, ADAMD_BAD_FIELD, "message", "message is not base64");
        }
        bytes = decoded;
    }
    if (strcmp(encoding, "proto") == 0) {
        return codec_unpack(type, bytes, size, &frame->arena, &frame->request, &frame->fault);
    }
    return codec_json_parse(type, (const char *)bytes, size, CODEC_JSON_MAX, &frame->arena,
                            &frame->request, &frame->fault);
}

// A request without a body need not say what type it is of; curl -d names the type of a form.
static bool take_content_type(const struct exchange *exchange, const char **ret_type) {
    const char *type = exchange_header(exchange, "Content-Type");

    *ret_type = type;
    if (content_type_is(type, "application/json") || content_type_is(type, "application/proto")) {
        return true;
    }
    if (exchange_is_rpc(exchange)) {
        return false;
    }
    return type == NULL || content_type_is(type, "application/x-www-form-urlencoded") ||
           exchange_content_length(exchange) == 0;
}

static char **find_string(ProtobufCMessage *message, const char *name) {
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(message->descriptor, name);

    ADAMD_ASSERT(field != NULL && field->type == PROTOBUF_C_TYPE_STRING);
    return (char **)(void *)((char *)message + field->offset);
}

static bool bind_resource(struct call_frame *frame, enum call_resource resource) {
    const char *model = resource != CALL_NO_RESOURCE ? exchange_segment(frame->exchange, 0) : NULL;
    char *name = NULL;

    if (resource == CALL_NO_RESOURCE) {
        return true;
    }
    if (resource == CALL_WORKER_NAME || resource == CALL_GROUP_NAME) {
        name = codec_arena_format(&frame->arena, "models/%s/%s/%s", model,
                                  resource == CALL_GROUP_NAME ? "groups" : "workers",
                                  exchange_segment(frame->exchange, 1));
    } else if (resource == CALL_HOOK_NAME) {
        name = codec_arena_format(&frame->arena, "models/%s/hooks/%s", model,
                                  exchange_segment(frame->exchange, 1));
    } else {
        name = codec_arena_format(&frame->arena, "models/%s", model);
    }
    *find_string(frame->request, resource == CALL_PARENT ? "parent" : "name") = name;
    return name != NULL;
}

static enum adamd_status bind_body(struct call_frame *frame, const struct call *call,
                                   const char *type_name) {
    if (call->body != NULL && call->body[0] == '\0') {
        return decode_body(frame, type_name, call->request, &frame->request);
    }
    frame->request = codec_message_new(&frame->arena, call->request);
    if (frame->request == NULL) {
        return adamd_fail_plain(&frame->fault, ADAMD_NO_MEMORY);
    }
    if (call->body == NULL) {
        return ADAMD_OK;
    }
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(call->request, call->body);
    ADAMD_ASSERT(field != NULL && field->type == PROTOBUF_C_TYPE_MESSAGE);
    return decode_body(frame, type_name, field->descriptor,
                       (ProtobufCMessage **)(void *)((char *)frame->request + field->offset));
}

static enum adamd_status bind_rest(struct call_frame *frame, const struct call *call,
                                   const char *type_name) {
    const char *const *names = exchange_route(frame->exchange)->parameters;

    if (bind_body(frame, call, type_name) != ADAMD_OK) {
        return frame->fault.status;
    }
    if (!bind_resource(frame, call->resource)) {
        return adamd_fail_plain(&frame->fault, ADAMD_NO_MEMORY);
    }
    for (; names != NULL && *names != NULL; names++) {
        const char *text = exchange_parameter(frame->exchange, *names);
        if (text != NULL && codec_json_set(frame->request, *names, text, &frame->arena,
                                           &frame->fault) != ADAMD_OK) {
            return frame->fault.status;
        }
    }
    return ADAMD_OK;
}

static enum adamd_status decode_request(struct call_frame *frame, const struct call *call,
                                        const char *type_name) {
    if (!exchange_is_rpc(frame->exchange)) {
        return bind_rest(frame, call, type_name);
    }
    if (strcmp(exchange_route(frame->exchange)->method, "GET") == 0) {
        return decode_get(frame, call->request);
    }
    return decode_body(frame, type_name, call->request, &frame->request);
}

void call_end(struct exchange *exchange) {
    const struct call *call = exchange_route(exchange)->call;
    struct call_frame frame = {.exchange = exchange};
    const char *type_name = NULL;

    if (strcmp(exchange_route(exchange)->method, "GET") != 0 &&
        !take_content_type(exchange, &type_name)) {
        (void)adamd_fail(&frame.fault, ADAMD_BAD_FIELD, "Content-Type",
                         "this call takes application/json or application/proto");
        exchange_answer_problem(exchange, REASON_UNSUPPORTED_MEDIA_TYPE, &frame.fault);
        return;
    }
    if (call->drained && exchange_server(exchange)->draining) {
        exchange_answer_problem(exchange, REASON_DRAINING, NULL);
        return;
    }
    if (decode_request(&frame, call, type_name) != ADAMD_OK) {
        call_fail(&frame);
    } else {
        call->run(&frame);
    }
    codec_arena_finish(&frame.arena);
}

const struct handler call_handler = {.end = call_end};

// --------------------------------------------------------------------------------------- answers

void call_fail(struct call_frame *frame) {
    exchange_answer_fault(frame->exchange, &frame->fault);
}

void call_answer(struct call_frame *frame, const ProtobufCMessage *message) {
    if (message == NULL) {
        exchange_answer_problem(frame->exchange, REASON_NO_MEMORY, NULL);
        return;
    }
    exchange_answer_message(frame->exchange, 200, message);
}

enum adamd_status check_if_match(const struct exchange *exchange, const char *etag,
                                 struct adamd_fault *fault) {
    const char *header = exchange_header(exchange, "If-Match");

    if (header == NULL || tag_listed(header, etag)) {
        return ADAMD_OK;
    }
    (void)adamd_fail(fault, ADAMD_ETAG_MISMATCH, "If-Match",
                     "If-Match does not list the current ETag %s: read it again", etag);
    adamd_fault_tell(fault, "etag", "%s", etag);
    return ADAMD_ETAG_MISMATCH;
}

uint32_t page_size_of(uint32_t asked) {
    return asked == 0 || asked > CALL_PAGE_SIZE_MAX ? CALL_PAGE_SIZE_MAX : asked;
}
