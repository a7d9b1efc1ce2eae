/**
 * What the operator may set. Each setting is written once, in the table of config.c, with its name,
 * default and range; flags, environment (ADAMD_…), file and --print-config are readings of that
 * table. Precedence: flag, environment, file, default.
 */
#ifndef ADAMD_SERVER_CONFIG_H
#define ADAMD_SERVER_CONFIG_H

#include "adamd/status.h"
#include "log.h"

#include <stdbool.h>
#include <stdio.h>

enum {
    CONFIG_TEXT_MAX = 256,
    CONFIG_LISTEN_MAX = 8,
    CONFIG_SETTINGS_MAX = 40,
    CONFIG_PLUGINS_MAX = 16,
    CONFIG_PLUGIN_NAME_MAX = 31,
};

enum config_origin { ORIGIN_DEFAULT, ORIGIN_FILE, ORIGIN_ENVIRONMENT, ORIGIN_FLAG };

/** Where to listen. */
struct config_listen {
    bool is_unix;
    char address[CONFIG_TEXT_MAX]; // "127.0.0.1", "::1", or a path
    uint16_t port;                 // 0: the system chooses
    bool is_loopback;              // a Unix socket is
};

/** A shared object with a hook in it: `plugin.NAME = /PATH.so`. */
struct config_plugin {
    char name[CONFIG_PLUGIN_NAME_MAX + 1];
    char path[CONFIG_TEXT_MAX];
    enum config_origin origin;
};

struct config {
    struct config_listen listens[CONFIG_LISTEN_MAX];
    uint64_t listen_count;
    char port_file[CONFIG_TEXT_MAX]; // "": none. Gets the port of the first TCP listener
    bool insecure_bind;

    struct config_plugin plugins[CONFIG_PLUGINS_MAX];
    uint64_t plugin_count;

    char device[CONFIG_TEXT_MAX];      // auto, cpu
    char cpu_variant[CONFIG_TEXT_MAX]; // "": the fastest
    uint64_t threads;                  // 0: one for each CPU

    uint64_t slots_max, published_max, models_max; // per model, per model, in all
    uint64_t memory_max;                           // bytes; of all models

    uint64_t connections_max;
    uint64_t connections_per_address_max; // 0: 64 for others, connections_max for this host

    uint64_t header_timeout_ms, idle_timeout_ms;
    uint64_t body_timeout_ms, response_timeout_ms; // at least; see min_rate
    uint64_t min_rate;                             // bytes a second
    uint64_t wait_timeout_ms; // a waiting answer, without the client's deadline
    uint64_t connection_age_ms;
    uint64_t drain_limit_ms;

    uint64_t log_level;  // enum log_level
    uint64_t log_format; // 1: json

    enum config_origin origins[CONFIG_SETTINGS_MAX]; // by row of the table
};

enum config_action {
    CONFIG_USAGE,
    CONFIG_RUN,
    CONFIG_CHECK,
    CONFIG_PRINT,
    CONFIG_VERSION,
    CONFIG_HELP
};

/**
 * Reads flags, environment and file (`--config`, ADAMD_CONFIG) and checks all of it. BAD_FIELD
 * names the setting, the place and, for an unknown name, the nearest one; TOO_LARGE, NO_MEMORY.
 * `ret_action` is CONFIG_USAGE where it is the command line that is wrong.
 */
ADAMD_MUST_USE enum adamd_status config_init(struct config *config, int argc, char *const *argv,
                                             char *const *environment,
                                             enum config_action *ret_action,
                                             struct adamd_fault *fault);

/** One setting, as if it stood in a file: for tests. `name` is "section.key" or "key". */
ADAMD_MUST_USE enum adamd_status config_set(struct config *config, const char *name,
                                            const char *value, enum config_origin origin,
                                            struct adamd_fault *fault);

/** Whether `key` is a setting, or so near to one that it must be meant for one. */
bool config_resembles(const char *key);

/** All defaults. */
void config_default(struct config *config);

/** `text` is the content of a file, which is cut up on the way. */
ADAMD_MUST_USE enum adamd_status config_read(struct config *config, char *text,
                                             struct adamd_fault *fault);

/** What the settings say together: addresses, device. */
ADAMD_MUST_USE enum adamd_status config_check(const struct config *config,
                                              struct adamd_fault *fault);

/** Every setting with its value and origin, as a file that could be read again. */
void config_print(const struct config *config, FILE *to);
void config_help(FILE *to);

#endif
