// The deframer collects one message at a time; memory for it is taken when its length is known and
// was found small enough.
#include "codec/envelope.h"

#include <stdlib.h>
#include <string.h>

static size_t take_bytes(unsigned char *to, size_t wanted, size_t *filled, const void *data,
                         size_t size) {
    const size_t count = wanted - *filled < size ? wanted - *filled : size;

    if (count > 0) {
        memcpy(to + *filled, data, count);
        *filled += count;
    }
    return count;
}

static void begin_envelope(struct deframer *deframer) {
    free(deframer->message);
    deframer->message = NULL;
    deframer->message_size = 0;
    deframer->message_filled = 0;
    deframer->head_filled = 0;
    deframer->handed_over = false;
}

static enum adamd_status read_head(struct deframer *deframer, struct adamd_fault *fault) {
    const unsigned char *head = deframer->head;
    const size_t size =
        (size_t)head[1] << 24 | (size_t)head[2] << 16 | (size_t)head[3] << 8 | head[4];

    if (head[0] != 0) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "envelope", "flags 0x%02x are not taken",
                          (unsigned)head[0]);
    }
    if (size > deframer->message_max) {
        return adamd_fail(fault, ADAMD_TOO_LARGE, "envelope", "a message of %zu bytes, at most %zu",
                          size, deframer->message_max);
    }
    deframer->message = malloc(size > 0 ? size : 1);
    if (deframer->message == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    deframer->message_size = size;
    return ADAMD_OK;
}

static enum adamd_status take_head(struct deframer *deframer, const void *data, size_t size,
                                   size_t *ret_used, struct adamd_fault *fault) {
    *ret_used = take_bytes(deframer->head, ENVELOPE_HEAD_SIZE, &deframer->head_filled, data, size);
    return deframer->head_filled == ENVELOPE_HEAD_SIZE ? read_head(deframer, fault) : ADAMD_OK;
}

enum adamd_status deframer_take(struct deframer *deframer, const void *data, size_t size,
                                size_t *ret_used, const unsigned char **ret_message,
                                size_t *ret_size, struct adamd_fault *fault) {
    size_t used = 0;

    if (deframer->handed_over) {
        begin_envelope(deframer);
    }
    if (deframer->message == NULL) {
        const enum adamd_status status = take_head(deframer, data, size, &used, fault);
        if (status != ADAMD_OK) {
            return status;
        }
    }
    *ret_message = NULL;
    *ret_size = 0;
    if (deframer->message != NULL) {
        const unsigned char *rest = used < size ? (const unsigned char *)data + used : data;
        used += take_bytes(deframer->message, deframer->message_size, &deframer->message_filled,
                           rest, size - used);
        deframer->handed_over = deframer->message_filled == deframer->message_size;
    }
    if (deframer->handed_over) {
        *ret_message = deframer->message;
        *ret_size = deframer->message_size;
    }
    *ret_used = used;
    return ADAMD_OK;
}

bool deframer_at_boundary(const struct deframer *deframer) {
    return deframer->handed_over || (deframer->head_filled == 0 && deframer->message == NULL);
}

void deframer_finish(struct deframer *deframer) {
    begin_envelope(deframer);
}

void envelope_head(unsigned char head[ENVELOPE_HEAD_SIZE], uint32_t size) {
    head[0] = 0;
    head[1] = (unsigned char)(size >> 24);
    head[2] = (unsigned char)(size >> 16);
    head[3] = (unsigned char)(size >> 8);
    head[4] = (unsigned char)size;
}

enum adamd_status envelope_pack(const ProtobufCMessage *message, unsigned char **ret_bytes,
                                size_t *ret_size) {
    const size_t size = protobuf_c_message_get_packed_size(message);

    if (size > UINT32_MAX) {
        return ADAMD_TOO_LARGE;
    }
    unsigned char *bytes = malloc(ENVELOPE_HEAD_SIZE + size);
    if (bytes == NULL) {
        return ADAMD_NO_MEMORY;
    }
    envelope_head(bytes, (uint32_t)size);
    (void)protobuf_c_message_pack(message, bytes + ENVELOPE_HEAD_SIZE);
    *ret_bytes = bytes;
    *ret_size = ENVELOPE_HEAD_SIZE + size;
    return ADAMD_OK;
}
