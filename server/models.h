/** Models as the daemon serves them: made, shown, listened to. Loop thread only. */
#ifndef ADAMD_SERVER_MODELS_H
#define ADAMD_SERVER_MODELS_H

#include "codec/convert.h"
#include "exchange.h"
#include "server.h"

/** Letters, digits and inner hyphens, a letter first, at most 63. BAD_FIELD names model_id. */
ADAMD_MUST_USE enum adamd_status check_model_id(const char *id, struct adamd_fault *fault);

/** Whether one more of this name may be made: EXISTS, or TOO_LARGE past models_max. */
ADAMD_MUST_USE enum adamd_status check_room(struct server *server, const char *id,
                                            struct adamd_fault *fault);

/** What this daemon grants a model: slots, published copies, memory. */
void fill_grants(const struct server *server, struct adamd_model_spec *spec);

/** As above, and what core says. */
ADAMD_MUST_USE enum adamd_status served_create(struct server *server, const char *id,
                                               struct codec_creation *creation,
                                               struct served_model **ret_served,
                                               struct adamd_fault *fault);

/** Frees all models; no exchange may hold one any more. */
void served_finish(struct server *server);

/** The model as a message in the arena, its etag included; NULL for want of memory. */
Adamd__V1__Model *served_message(const struct served_model *served, struct codec_arena *arena,
                                 bool with_tensors);

/** Whether the `etag` field (may be empty; with or without quotes) and, over REST, If-Match name
 * what the model is now. ETAG_MISMATCH. */
ADAMD_MUST_USE enum adamd_status check_model_etag(const struct exchange *exchange,
                                                  const struct served_model *served,
                                                  const char *etag, struct adamd_fault *fault);

/** Nanoseconds since 1970. */
uint64_t clock_now_ns(void);

/** Options, policy, labels or name changed: for update_time. */
void served_touch(struct served_model *served);

#endif
