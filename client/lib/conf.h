/**
 * The configuration of a client: texts in, checked values out.
 */
#ifndef ADAMD_CLIENT_CONF_H
#define ADAMD_CLIENT_CONF_H

#include "adamd/client.h"

#include <stdbool.h>
#include <sys/un.h>

enum { TIMEOUT_MAX_MS = 600000 };

/** Where the daemon is. */
struct endpoint {
    bool is_unix;
    char host[256]; // without brackets
    char port[6];
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    char authority[272]; // for the Host header
};

struct adamd_conf {
    struct endpoint endpoint;
    char model[64], worker[65];
    uint32_t timeout_ms, connect_timeout_ms, retry_backoff_ms, retry_backoff_max_ms;
    bool crc;
};

/** False if `text` is no endpoint; `*ret_why` then says why, in static storage. */
bool endpoint_parse(const char *text, struct endpoint *ret_endpoint, const char **ret_why);

#define MODEL_ID_RULE                                                                          \
    "expected a lower-case letter, then at most 62 lower-case letters, digits and dashes, no " \
    "dash "                                                                                    \
    "at the end"
#define WORKER_ID_RULE "expected 1 to 64 letters, digits, dots, underscores and dashes"

/** [a-z]([a-z0-9-]{0,61}[a-z0-9])? */
bool is_model_id(const char *text);
/** [A-Za-z0-9._-]{1,64} */
bool is_worker_id(const char *text);

#endif
