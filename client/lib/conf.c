// The configuration of a client.

#include "conf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char letters[] = "abcdefghijklmnopqrstuvwxyz";

bool is_model_id(const char *text) {
    size_t length = strlen(text);

    return length >= 1 && length <= 63 && strchr(letters, text[0]) != NULL &&
           strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-") == length &&
           text[length - 1] != '-';
}

bool is_worker_id(const char *text) {
    size_t length = strlen(text);

    return length >= 1 && length <= 64 &&
           strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") ==
               length;
}

static bool parse_unix(const char *path, struct endpoint *endpoint, const char **ret_why) {
    if (path[0] != '/') {
        *ret_why = "a Unix socket has an absolute path: unix:/PATH";
        return false;
    }
    if (strlen(path) >= sizeof endpoint->path) {
        *ret_why = "the path is too long for a Unix socket";
        return false;
    }
    endpoint->is_unix = true;
    snprintf(endpoint->path, sizeof endpoint->path, "%s", path);
    snprintf(endpoint->authority, sizeof endpoint->authority, "localhost");
    return true;
}

static bool parse_port(const char *text, char port[6]) {
    size_t length = strspn(text, "0123456789");
    long value = 0;

    if (length == 0 || length > 5 || strspn(text + length, "/") != strlen(text + length) ||
        strlen(text + length) > 1) {
        return false;
    }
    value = strtol(text, NULL, 10);
    if (value < 1 || value > 65535) {
        return false;
    }
    snprintf(port, 6, "%u", (unsigned)value & 0xffffu);
    return true;
}

// HOST:PORT, [IPV6]:PORT, HOST (then adamd's port).
static bool parse_http(const char *rest, struct endpoint *endpoint, const char **ret_why) {
    bool bracketed = rest[0] == '[';
    const char *host = bracketed ? rest + 1 : rest;
    size_t length = strcspn(host, bracketed ? "]" : ":/");
    const char *after = host + length;

    *ret_why = "expected http://HOST:PORT";
    if (length == 0 || length >= sizeof endpoint->host || (bracketed && *after != ']') ||
        strcspn(host, "@?# \t\r\n%") < length) {
        return false;
    }
    after += bracketed ? 1 : 0;
    memcpy(endpoint->host, host, length);
    snprintf(endpoint->port, sizeof endpoint->port, "7440");
    if (*after == ':' ? !parse_port(after + 1, endpoint->port)
                      : *after != '\0' && strcmp(after, "/") != 0) {
        return false;
    }
    snprintf(endpoint->authority, sizeof endpoint->authority, bracketed ? "[%s]:%s" : "%s:%s",
             endpoint->host, endpoint->port);
    return true;
}

bool endpoint_parse(const char *text, struct endpoint *ret_endpoint, const char **ret_why) {
    struct endpoint endpoint = {0};
    bool fits = false;

    if (strncmp(text, "unix:", 5) == 0) {
        fits = parse_unix(text + 5, &endpoint, ret_why);
    } else if (strncmp(text, "http://", 7) == 0) {
        fits = parse_http(text + 7, &endpoint, ret_why);
    } else {
        *ret_why = strncmp(text, "https://", 8) == 0 ? "TLS is not supported, use http:// or unix:"
                                                     : "expected http://HOST:PORT or unix:/PATH";
    }
    if (fits) {
        *ret_endpoint = endpoint;
    }
    return fits;
}

static bool parse_ms(const char *value, uint32_t least, uint32_t *ret_ms) {
    size_t length = strspn(value, "0123456789");
    unsigned long ms = 0;

    if (length == 0 || length > 7 || value[length] != '\0') {
        return false;
    }
    ms = strtoul(value, NULL, 10);
    if (ms < least || ms > TIMEOUT_MAX_MS) {
        return false;
    }
    *ret_ms = (uint32_t)ms;
    return true;
}

static bool parse_switch(const char *value, bool *ret_on) {
    bool on = strcmp(value, "on") == 0;

    if (!on && strcmp(value, "off") != 0) {
        return false;
    }
    *ret_on = on;
    return true;
}

// NULL, or why not.
static const char *set_value(struct adamd_conf *conf, const char *key, const char *value) {
    const struct {
        const char *key;
        uint32_t least, *where;
    } times[] = {
        {"timeout_ms", 1, &conf->timeout_ms},
        {"connect_timeout_ms", 1, &conf->connect_timeout_ms},
        {"retry_backoff_ms", 1, &conf->retry_backoff_ms},
        {"retry_backoff_max_ms", 1, &conf->retry_backoff_max_ms},
    };
    const char *why = NULL;

    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        if (strcmp(key, times[i].key) == 0) {
            return parse_ms(value, times[i].least, times[i].where)
                       ? NULL
                       : "expected milliseconds from 1 to 600000";
        }
    }
    if (strcmp(key, "endpoint") == 0) {
        return endpoint_parse(value, &conf->endpoint, &why) ? NULL : why;
    }
    if (strcmp(key, "crc") == 0) {
        return parse_switch(value, &conf->crc) ? NULL : "expected on or off";
    }
    if (strcmp(key, "model") == 0 && is_model_id(value)) {
        snprintf(conf->model, sizeof conf->model, "%s", value);
        return NULL;
    }
    if (strcmp(key, "worker") == 0 && is_worker_id(value)) {
        snprintf(conf->worker, sizeof conf->worker, "%s", value);
        return NULL;
    }
    return strcmp(key, "model") == 0    ? MODEL_ID_RULE
           : strcmp(key, "worker") == 0 ? WORKER_ID_RULE
                                        : "there is no such key";
}

adamd_conf_t *adamd_conf_new(void) {
    struct adamd_conf *conf = calloc(1, sizeof *conf);
    const char *why = NULL;

    if (conf != NULL) {
        *conf = (struct adamd_conf){.timeout_ms = 60000,
                                    .connect_timeout_ms = 5000,
                                    .retry_backoff_ms = 100,
                                    .retry_backoff_max_ms = 30000};
        (void)endpoint_parse("http://127.0.0.1:7440", &conf->endpoint, &why);
    }
    return conf;
}

int adamd_conf_set(adamd_conf_t *conf, const char *key, const char *value, char *errstr,
                   size_t errstr_size) {
    const char *why = NULL;

    if (key == NULL || value == NULL) {
        why = "key and value are required";
    } else {
        why = set_value(conf, key, value);
    }
    if (why != NULL && errstr != NULL && errstr_size > 0) {
        snprintf(errstr, errstr_size, "%s=%s: %s", key != NULL ? key : "",
                 value != NULL ? value : "", why);
    }
    return why == NULL ? 0 : -1;
}

void adamd_conf_destroy(adamd_conf_t *conf) {
    free(conf);
}
