/** Entity tags: which generation, version and configuration of a model an answer shows. */
#ifndef ADAMD_SERVER_ETAG_H
#define ADAMD_SERVER_ETAG_H

#include "exchange.h"
#include "server.h"

struct etag {
    char text[96]; // with its quotes
};

/** "g1.v42.c3": the model, its options, policy and labels. */
struct etag etag_of_model(const struct served_model *served);
/** "g1.v42.st": parameters of one version in one format. */
struct etag etag_of_version(const struct served_model *served, uint64_t generation,
                            uint64_t version, const char *format);
/** "g1.v42.c3.state": options are a part of the state. */
struct etag etag_of_state(const struct served_model *served, uint64_t generation, uint64_t version);

/** Adds Adamd-Generation, Adamd-Version and ETag. */
void add_version_headers(struct exchange *exchange, uint64_t generation, uint64_t version,
                         const struct etag *etag);

#endif
