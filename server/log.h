/**
 * Structured log on stderr: `time level component message key=value ...`, or the same as JSON
 * lines. One write(2) a line, so that lines never mix. There is one stderr in a process, and so one
 * log: level and format are the only state here that is not reached from struct server. Loop thread
 * only.
 */
#ifndef ADAMD_SERVER_LOG_H
#define ADAMD_SERVER_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LEVEL_DEBUG, LEVEL_INFO, LEVEL_WARN, LEVEL_ERROR };

struct log_field {
    const char *key;  // NULL ends the list
    const char *text; // NULL: the number counts
    uint64_t number;
};

static inline struct log_field log_text(const char *key, const char *text) {
    return (struct log_field){.key = key, .text = text != NULL ? text : "-"};
}

static inline struct log_field log_number(const char *key, uint64_t number) {
    return (struct log_field){.key = key, .number = number};
}

/** Until it is called: info, text. */
void log_init(enum log_level level, bool as_json);

bool log_wanted(enum log_level level);

/** `fields` ends with a zeroed one. Texts may hold anything: they are quoted and escaped. */
void log_write(enum log_level level, const char *component, const char *message,
               const struct log_field *fields);

/** log_event(LEVEL_INFO, "http", "listening", log_text("address", text), log_number("port", 7440))
 */
#define log_event(level, component, message, ...) \
    log_write(level, component, message, (const struct log_field[]){__VA_ARGS__, {0}})

enum { LOG_LINES_PER_SECOND_MAX = 10, LOG_PEERS_MAX = 256 };

/** What each peer may write: LOG_LINES_PER_SECOND_MAX lines. Peers share entries by hash. */
struct log_budget {
    uint64_t second[LOG_PEERS_MAX];
    uint32_t lines[LOG_PEERS_MAX], dropped[LOG_PEERS_MAX];
};

/**
 * Whether `peer` may write one more line now. What it wrote too much is told in one line when it
 * writes again in a later second.
 */
bool log_budget_take(struct log_budget *budget, const char *peer, uint64_t now_ms);

#endif
