// Each parser takes the whole text or nothing; each printer's text reads back as the same value.
#include "config_value.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Digits at the start of `text`; `*ret_rest` is what follows. False without digits or past 2^63.
static bool take_number(const char *text, uint64_t *ret_number, const char **ret_rest) {
    uint64_t number = 0;
    const char *at = text;

    for (; *at >= '0' && *at <= '9'; at++) {
        if (number > (UINT64_C(1) << 63) / 10 - 1) {
            return false;
        }
        number = number * 10 + (uint64_t)(*at - '0');
    }
    *ret_number = number;
    *ret_rest = at;
    return at != text;
}

bool value_count(const char *text, uint64_t *ret_count) {
    const char *rest;
    uint64_t number;

    if (!take_number(text, &number, &rest) || *rest != '\0') {
        return false;
    }
    *ret_count = number;
    return true;
}

static uint64_t machine_memory(void) {
    return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

bool value_size(const char *text, uint64_t *ret_bytes) {
    static const struct {
        const char *suffix;
        unsigned shift;
    } units[] = {{"", 0}, {"K", 10}, {"M", 20}, {"G", 30}, {"T", 40}};
    const char *rest;
    uint64_t number;

    if (!take_number(text, &number, &rest)) {
        return false;
    }
    if (strcmp(rest, "%") == 0 && number <= 100) {
        *ret_bytes = machine_memory() / 100 * number;
        return true;
    }
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(rest, units[i].suffix) == 0 && number <= UINT64_MAX >> units[i].shift) {
            *ret_bytes = number << units[i].shift;
            return true;
        }
    }
    return false;
}

static const struct {
    const char *suffix;
    uint64_t ms;
} duration_units[] = {{"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};

enum { DURATION_UNITS = sizeof duration_units / sizeof duration_units[0] };

bool value_duration(const char *text, uint64_t *ret_ms) {
    const char *rest;
    uint64_t number;

    if (!take_number(text, &number, &rest)) {
        return false;
    }
    for (size_t i = 0; i < DURATION_UNITS; i++) {
        if (strcmp(rest, duration_units[i].suffix) == 0 &&
            number <= UINT64_MAX / duration_units[i].ms) {
            *ret_ms = number * duration_units[i].ms;
            return true;
        }
    }
    return false;
}

bool value_bool(const char *text, bool *ret_value) {
    if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) {
        return false;
    }
    *ret_value = text[0] == 't';
    return true;
}

static bool parse_unix(const char *path, struct config_listen *listen) {
    enum { SUN_PATH_MAX = 107 };

    listen->is_unix = true;
    listen->is_loopback = true;
    if (path[0] != '/' || strlen(path) > SUN_PATH_MAX) {
        return false;
    }
    memcpy(listen->address, path, strlen(path) + 1);
    return true;
}

static bool is_loopback(const char *address) {
    struct in_addr v4;

    if (inet_pton(AF_INET, address, &v4) == 1) {
        return ntohl(v4.s_addr) >> 24 == 127;
    }
    return strcmp(address, "::1") == 0;
}

static bool is_address(const char *text) {
    unsigned char bytes[sizeof(struct in6_addr)];
    return inet_pton(AF_INET, text, bytes) == 1 || inet_pton(AF_INET6, text, bytes) == 1;
}

bool value_listen(const char *text, struct config_listen *ret_listen) {
    struct config_listen listen = {.port = 0};
    uint64_t port;

    if (strncmp(text, "http=", 5) == 0) {
        text += 5;
    }
    if (strncmp(text, "unix:", 5) == 0) {
        *ret_listen = listen;
        return parse_unix(text + 5, ret_listen);
    }
    const char *colon = strrchr(text, ':');
    if (colon == NULL || !value_count(colon + 1, &port) || port > UINT16_MAX) {
        return false;
    }
    const bool in_brackets = text[0] == '[' && colon > text + 1 && colon[-1] == ']';
    const char *start = in_brackets ? text + 1 : text;
    const size_t size = (size_t)(colon - start) - (in_brackets ? 1 : 0);
    if (size >= sizeof listen.address) {
        return false;
    }
    memcpy(listen.address, start, size);
    if (strcmp(listen.address, "localhost") == 0) {
        snprintf(listen.address, sizeof listen.address, "127.0.0.1");
    }
    if (!is_address(listen.address)) {
        return false;
    }
    listen.port = (uint16_t)port;
    listen.is_loopback = is_loopback(listen.address);
    *ret_listen = listen;
    return true;
}

void print_size(uint64_t bytes, char *to, size_t size) {
    static const char suffixes[] = "KMG";
    unsigned unit = 0;

    while (unit < 3 && bytes > 0 && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    snprintf(to, size, "%" PRIu64 "%.*s", bytes, unit > 0, &suffixes[unit > 0 ? unit - 1 : 0]);
}

void print_duration(uint64_t ms, char *to, size_t size) {
    size_t unit = ms == 0 ? 2 : 0;

    while (ms % duration_units[unit].ms != 0) {
        unit++;
    }
    snprintf(to, size, "%" PRIu64 "%s", ms / duration_units[unit].ms, duration_units[unit].suffix);
}

void print_listen(const struct config_listen *listen, char *to, size_t size) {
    if (listen->is_unix) {
        snprintf(to, size, "http=unix:%s", listen->address);
    } else if (strchr(listen->address, ':') != NULL) {
        snprintf(to, size, "http=[%s]:%u", listen->address, listen->port);
    } else {
        snprintf(to, size, "http=%s:%u", listen->address, listen->port);
    }
}
