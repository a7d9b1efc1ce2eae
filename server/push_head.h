/** What a push says of itself, in the query or in its first envelope. */
#ifndef ADAMD_SERVER_PUSH_HEAD_H
#define ADAMD_SERVER_PUSH_HEAD_H

#include "codec/convert.h"
#include "exchange.h"
#include "server.h"

enum push_form {
    PUSH_RAW,         // application/octet-stream: all tensors, the head in the query
    PUSH_SAFETENSORS, // application/x-safetensors, or no type at all: the same head
    PUSH_FRAMED,      // application/x-adamd-push: the head in an envelope
    PUSH_UNKNOWN,
};

enum push_form push_form_of(const struct exchange *exchange);

/** The query as a header, in the arena. BAD_FIELD names the parameter. */
ADAMD_MUST_USE enum adamd_status push_head_of_query(struct exchange *exchange,
                                                    struct codec_arena *arena,
                                                    Adamd__V1__PushHeader **ret_header,
                                                    struct adamd_fault *fault);

/** A framed push says everything in its envelope: a query beside it would be a second opinion. */
ADAMD_MUST_USE enum adamd_status push_check_no_query(const struct exchange *exchange,
                                                     struct adamd_fault *fault);

/** What can be said of the pusher before the head is complete: UNKNOWN_WORKER, FENCED. */
ADAMD_MUST_USE enum adamd_status push_check_worker(const struct served_model *served,
                                                   const Adamd__V1__PushHeader *header,
                                                   struct adamd_fault *fault);

/** Tells a worker that is not registered how it becomes so. For every other fault it does nothing.
 */
void advise_registration(struct adamd_fault *fault, const struct served_model *served,
                         const char *worker);

#endif
