/**
 * Envelopes: a flag byte, the length of a message as four bytes big-endian, the message. All RPC
 * dialects share them; bodies of the types x-adamd-push and x-adamd-pull begin with one.
 *
 * The deframer is fed with whatever the network gives, split anywhere, and hands back one message
 * at a time and never a byte more than it took: what follows the last envelope is the caller's.
 */
#ifndef ADAMD_CODEC_ENVELOPE_H
#define ADAMD_CODEC_ENVELOPE_H

#include "adamd/status.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

enum {
    ENVELOPE_HEAD_SIZE = 5,
    ENVELOPE_SMALL_MAX = 64 << 10, // the usual limit of a message that is collected
    ENVELOPE_COMPRESSED = 1,       // flag; never taken
};

/** Zeroed but for `message_max` means: before the first envelope. */
struct deframer {
    size_t message_max; // a longer message is refused at its fifth byte
    unsigned char head[ENVELOPE_HEAD_SIZE];
    size_t head_filled;
    unsigned char *message; // malloc'ed; as large as the announced message
    size_t message_size, message_filled;
    bool handed_over; // the message was given to the caller: the next byte begins an envelope
};

/**
 * Takes bytes up to the end of one message. `*ret_used` is how many of `size` it took; where the
 * message became complete `*ret_message` points to it (inside the deframer, until the next call)
 * and
 * `*ret_size` is its length, else `*ret_message` is NULL and all bytes were taken. BAD_FIELD
 * (flags), TOO_LARGE, NO_MEMORY.
 */
ADAMD_MUST_USE enum adamd_status deframer_take(struct deframer *deframer, const void *data,
                                               size_t size, size_t *ret_used,
                                               const unsigned char **ret_message, size_t *ret_size,
                                               struct adamd_fault *fault);

/** True between two envelopes, and before the first: an end of the body here is no surprise. */
bool deframer_at_boundary(const struct deframer *deframer);

/** Takes anything from zeroed to whole. */
void deframer_finish(struct deframer *deframer);

/** The five bytes before a message of `size` bytes. */
void envelope_head(unsigned char head[ENVELOPE_HEAD_SIZE], uint32_t size);

/** The message in its envelope; malloc'ed. NO_MEMORY. */
ADAMD_MUST_USE enum adamd_status envelope_pack(const ProtobufCMessage *message,
                                               unsigned char **ret_bytes, size_t *ret_size);

#endif
