/**
 * Protobuf messages from strangers. protobuf-c checks neither memory nor text: a first walk over
 * the bytes bounds what unpacking would take, a second one over the message looks at its strings
 * and enums.
 */
#ifndef ADAMD_CODEC_MESSAGE_H
#define ADAMD_CODEC_MESSAGE_H

#include "codec/arena.h"

enum {
    CODEC_MESSAGE_MAX = 16 << 20, // whatever the caller's limit is
    CODEC_UNKNOWN_MAX = 64,       // fields that this version does not know
    CODEC_DEPTH_MAX = 8,          // more than any message of the schema has
};

/**
 * Unpacks `size` bytes as a `type`. The message and all of it live in `arena`, which may grow by at
 * most 24 times `size` and 64 KiB. BAD_FIELD (names the field), TOO_LARGE, NO_MEMORY.
 */
ADAMD_MUST_USE enum adamd_status
codec_unpack(const ProtobufCMessageDescriptor *type, const void *bytes, size_t size,
             struct codec_arena *arena, ProtobufCMessage **ret_message, struct adamd_fault *fault);

/**
 * The first of these walks alone: what unpacking would allocate, at most, or the fault. For tests
 * and for those who only want to know whether the bytes are sound.
 */
ADAMD_MUST_USE enum adamd_status codec_scan(const ProtobufCMessageDescriptor *type,
                                            const void *bytes, size_t size, size_t *ret_bytes,
                                            struct adamd_fault *fault);

/** An empty message in the arena, initialised; NULL without memory. */
ProtobufCMessage *codec_message_new(struct codec_arena *arena,
                                    const ProtobufCMessageDescriptor *type);

/** CODEC_NEW(arena, Adamd__V1__Model, adamd__v1__model): a typed codec_message_new(). */
#define CODEC_NEW(arena, type, prefix) \
    ((type *)(void *)codec_message_new((arena), &prefix##__descriptor))

#endif
