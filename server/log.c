// Log lines. Written whole with one write(2); a line that is too long is cut, never split.
#include "log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 2048 };

static struct {
    enum log_level level;
    bool as_json;
} settings = {.level = LEVEL_INFO};

static const char *const level_names[] = {"debug", "info", "warn", "error"};

// A line under construction. One byte is kept back for the line break.
struct line {
    char bytes[LINE_MAX_BYTES];
    size_t size;
};

void log_init(enum log_level level, bool as_json) {
    settings.level = level;
    settings.as_json = as_json;
}

bool log_wanted(enum log_level level) {
    return level >= settings.level;
}

static void put(struct line *line, const char *text) {
    const size_t room = sizeof line->bytes - 2 - line->size;
    size_t size = strlen(text);

    size = size < room ? size : room;
    memcpy(line->bytes + line->size, text, size);
    line->size += size;
}

// Escapes so that the text is one JSON string, which is also what the text format shows: nothing
// that a peer sends can forge a line or reach a terminal.
static void put_quoted(struct line *line, const char *text) {
    put(line, "\"");
    for (const unsigned char *byte = (const unsigned char *)text; *byte != '\0'; byte++) {
        char escaped[8] = {(char)*byte, '\0'};
        if (*byte == '"' || *byte == '\\') {
            snprintf(escaped, sizeof escaped, "\\%c", *byte);
        } else if (*byte < 0x20 || *byte >= 0x7f) {
            snprintf(escaped, sizeof escaped, "\\u%04x", *byte);
        }
        put(line, escaped);
    }
    put(line, "\"");
}

static bool is_plain(const char *text) {
    if (*text == '\0') {
        return false;
    }
    for (; *text != '\0'; text++) {
        if (*text <= ' ' || *text >= 0x7f || *text == '"' || *text == '\\' || *text == '=') {
            return false;
        }
    }
    return true;
}

static void put_time(struct line *line) {
    struct timespec now;
    struct tm parts;
    char text[32];
    char whole[40];

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(whole, sizeof whole, "%s.%03dZ", text, (int)(now.tv_nsec / 1000000));
    put(line, whole);
}

static void put_number(struct line *line, uint64_t number) {
    char text[24];

    snprintf(text, sizeof text, "%" PRIu64, number);
    put(line, text);
}

static void put_json(struct line *line, const char *level, const char *component,
                     const char *message, const struct log_field *fields) {
    put(line, "{\"ts\":\"");
    put_time(line);
    put(line, "\",\"level\":");
    put_quoted(line, level);
    put(line, ",\"component\":");
    put_quoted(line, component);
    put(line, ",\"msg\":");
    put_quoted(line, message);
    for (; fields->key != NULL; fields++) {
        put(line, ",");
        put_quoted(line, fields->key);
        put(line, ":");
        if (fields->text != NULL) {
            put_quoted(line, fields->text);
        } else {
            put_number(line, fields->number);
        }
    }
    put(line, "}");
}

static void put_plain(struct line *line, const char *level, const char *component,
                      const char *message, const struct log_field *fields) {
    put_time(line);
    put(line, " ");
    put(line, level);
    put(line, " ");
    put(line, component);
    put(line, " ");
    put(line, message);
    for (; fields->key != NULL; fields++) {
        put(line, " ");
        put(line, fields->key);
        put(line, "=");
        if (fields->text == NULL) {
            put_number(line, fields->number);
        } else if (is_plain(fields->text)) {
            put(line, fields->text);
        } else {
            put_quoted(line, fields->text);
        }
    }
}

void log_write(enum log_level level, const char *component, const char *message,
               const struct log_field *fields) {
    struct line line = {.size = 0};

    if (!log_wanted(level)) {
        return;
    }
    if (settings.as_json) {
        put_json(&line, level_names[level], component, message, fields);
    } else {
        put_plain(&line, level_names[level], component, message, fields);
    }
    line.bytes[line.size++] = '\n';
    // A log that cannot be written has nobody to tell.
    (void)!write(STDERR_FILENO, line.bytes, line.size);
}

// FNV-1a: only to spread peers over the entries.
static uint32_t hash_peer(const char *peer) {
    uint32_t hash = 2166136261U;

    for (; *peer != '\0'; peer++) {
        hash = (hash ^ (unsigned char)*peer) * 16777619U;
    }
    return hash;
}

bool log_budget_take(struct log_budget *budget, const char *peer, uint64_t now_ms) {
    const uint32_t entry = hash_peer(peer) % LOG_PEERS_MAX;

    if (budget->second[entry] != now_ms / 1000) {
        if (budget->dropped[entry] > 0) {
            log_event(LEVEL_WARN, "log", "lines left out", log_text("peer", peer),
                      log_number("lines", budget->dropped[entry]));
        }
        budget->second[entry] = now_ms / 1000;
        budget->lines[entry] = 0;
        budget->dropped[entry] = 0;
    }
    if (budget->lines[entry] >= LOG_LINES_PER_SECOND_MAX) {
        budget->dropped[entry]++;
        return false;
    }
    budget->lines[entry]++;
    return true;
}
