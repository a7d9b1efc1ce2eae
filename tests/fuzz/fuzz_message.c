// Reaches codec_scan, codec_unpack, codec_arena_*, protobuf_c_message_unpack. The first byte
// chooses the message type. Oracle: unpacking never takes more than the scan announced, and
// succeeds where the scan does; what was unpacked, packed and unpacked again is the same.
#include "fuzz.h"

#include "codec/json.h"
#include "codec/message.h"

#include <adamd/v1/adamd.pb-c.h>
#include <stdlib.h>
#include <string.h>

static const ProtobufCMessageDescriptor *const types[] = {
    &adamd__v1__push_header__descriptor,
    &adamd__v1__create_model_request__descriptor,
    &adamd__v1__update_model_request__descriptor,
    &adamd__v1__push_gradients_request__descriptor,
    &adamd__v1__register_worker_request__descriptor,
    &adamd__v1__optim_step_request__descriptor,
    &adamd__v1__pull_parameters_request__descriptor,
    &adamd__v1__list_steps_response__descriptor,
    &adamd__v1__server__descriptor,
};

static unsigned char *pack(const ProtobufCMessage *message, size_t *ret_size) {
    *ret_size = protobuf_c_message_get_packed_size(message);
    unsigned char *bytes = malloc(*ret_size + 1);

    ADAMD_ASSERT(bytes != NULL);
    ADAMD_ASSERT(protobuf_c_message_pack(message, bytes) == *ret_size);
    return bytes;
}

static void check_again(const ProtobufCMessage *message) {
    struct codec_arena arena = {0};
    ProtobufCMessage *back = NULL;
    size_t size = 0;
    size_t again_size = 0;
    char *text = NULL;
    unsigned char *bytes = pack(message, &size);

    ADAMD_ASSERT(codec_unpack(message->descriptor, bytes, size, &arena, &back, NULL) == ADAMD_OK);
    unsigned char *again = pack(back, &again_size);
    ADAMD_ASSERT(size == again_size && memcmp(bytes, again, size) == 0);
    // Whatever a stranger sends can be shown to an operator.
    ADAMD_ASSERT(codec_json_print(message, CODEC_JSON_DEFAULTS, &text, &size) == ADAMD_OK);
    free(text);
    free(bytes);
    free(again);
    codec_arena_finish(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct codec_arena arena = {0};
    struct adamd_fault fault = {0};
    ProtobufCMessage *message = NULL;
    size_t bound = 0;

    if (size == 0) {
        return 0;
    }
    const ProtobufCMessageDescriptor *type = types[data[0] % (sizeof types / sizeof types[0])];
    const enum adamd_status scanned = codec_scan(type, data + 1, size - 1, &bound, &fault);
    const enum adamd_status status =
        codec_unpack(type, data + 1, size - 1, &arena, &message, &fault);
    ADAMD_ASSERT(status == scanned);
    ADAMD_ASSERT((status == ADAMD_OK) == (message != NULL));
    if (status == ADAMD_OK) {
        ADAMD_ASSERT(arena.taken <= bound && !arena.over);
        ADAMD_ASSERT(bound <= 24 * size + (64 << 10));
        check_again(message);
    } else {
        ADAMD_ASSERT(arena.taken == 0 && fault.message[0] != 0);
    }
    codec_arena_finish(&arena);
    return 0;
}
