/** Bodies of the type application/x-adamd-pull: envelopes, then the parameters of one version. */
#ifndef ADAMD_SERVER_FRAMED_H
#define ADAMD_SERVER_FRAMED_H

#include "codec/tensors.h"
#include "server.h"

#define ADAMD_PULL_TYPE "application/x-adamd-pull"
#define ADAMD_PUSH_TYPE "application/x-adamd-push"

/**
 * `first` (may be NULL) in an envelope, a PullHeader in another, then the tensors from where
 * `published` has them. NO_MEMORY.
 */
ADAMD_MUST_USE enum adamd_status framed_file(const struct served_model *served,
                                             const struct adamd_published *published,
                                             const ProtobufCMessage *first,
                                             struct codec_file *ret_file);

/** A PullHeader that says not modified, in its envelope; malloc'ed. NO_MEMORY. */
ADAMD_MUST_USE enum adamd_status framed_not_modified(const struct served_model *served,
                                                     uint64_t generation, uint64_t version,
                                                     unsigned char **ret_bytes, size_t *ret_size);

/**
 * How long a reader waits for a copy of a version that exists: all copies may be held by slow
 * readers of other versions. Generous to a copy that is being made on a busy machine, at 128 MiB a
 * second.
 */
uint64_t published_patience_ms(const struct served_model *served);

#endif
