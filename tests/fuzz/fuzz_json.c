// Reaches codec_json_parse, codec_json_print, adamd_json_*, codec_timestamp_*, codec_duration_*,
// codec_base64_decode. The first byte chooses the message type.
// Oracle: what is accepted, printed and parsed again has the same encoding and prints the same.
#include "fuzz.h"

#include "codec/json.h"

#include <adamd/v1/adamd.pb-c.h>
#include <stdlib.h>
#include <string.h>

static const ProtobufCMessageDescriptor *const types[] = {
    &adamd__v1__create_model_request__descriptor,
    &adamd__v1__model__descriptor,
    &adamd__v1__update_model_request__descriptor,
    &adamd__v1__push_gradients_request__descriptor,
    &adamd__v1__register_worker_request__descriptor,
    &adamd__v1__step_record__descriptor,
    &adamd__v1__error_info__descriptor,
    &adamd__v1__optim_step_request__descriptor,
};

static char *print(const ProtobufCMessage *message, unsigned flags, size_t *ret_size) {
    char *text = NULL;
    ADAMD_ASSERT(codec_json_print(message, flags, &text, ret_size) == ADAMD_OK);
    ADAMD_ASSERT(strlen(text) == *ret_size);
    return text;
}

static void check_again(const ProtobufCMessage *message, unsigned flags) {
    struct codec_arena arena = {0};
    ProtobufCMessage *back = NULL;
    size_t size = 0;
    size_t again_size = 0;
    char *text = print(message, flags, &size);
    const size_t packed = protobuf_c_message_get_packed_size(message);

    ADAMD_ASSERT(codec_json_parse(message->descriptor, text, size, (size_t)64 << 20, &arena, &back,
                                  NULL) == ADAMD_OK);
    char *again = print(back, flags, &again_size);
    ADAMD_ASSERT(size == again_size && memcmp(text, again, size) == 0);
    ADAMD_ASSERT(protobuf_c_message_get_packed_size(back) == packed);
    free(text);
    free(again);
    codec_arena_finish(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct codec_arena arena = {0};
    ProtobufCMessage *message = NULL;
    struct adamd_fault fault = {0};

    if (size == 0) {
        return 0;
    }
    const ProtobufCMessageDescriptor *type = types[data[0] % (sizeof types / sizeof types[0])];
    const enum adamd_status status = codec_json_parse(type, (const char *)data + 1, size - 1,
                                                      CODEC_JSON_MAX, &arena, &message, &fault);
    ADAMD_ASSERT((status == ADAMD_OK) == (message != NULL));
    if (status == ADAMD_OK) {
        check_again(message, 0);
        check_again(message, CODEC_JSON_DEFAULTS);
    } else {
        ADAMD_ASSERT(fault.status == status && fault.message[0] != 0);
    }
    codec_arena_finish(&arena);
    return 0;
}
