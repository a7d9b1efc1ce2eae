// The client's handle, and the rules of options and results.

#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint32_t adamd_version(void) {
    return ADAMD_CLIENT_VERSION;
}

const char *adamd_version_string(void) {
    return "0.1.0";
}

adamd_client_t *adamd_client_new(adamd_conf_t *conf, char *errstr, size_t errstr_size) {
    struct adamd_client *client = calloc(1, sizeof *client);
    struct transport *transport = client != NULL ? transport_create(conf) : NULL;

    if (transport == NULL) {
        free(client);
        if (errstr != NULL && errstr_size > 0) {
            snprintf(errstr, errstr_size, "out of memory, or of random numbers");
        }
        return NULL;
    }
    client->transport = transport;
    client->conf = *conf;
    adamd_conf_destroy(conf);
    return client;
}

void adamd_client_destroy(adamd_client_t *client) {
    if (client != NULL) {
        transport_destroy(client->transport);
        free(client);
    }
}

struct resource_name name_of_model(const char *model) {
    struct resource_name name;

    snprintf(name.text, sizeof name.text, "models/%s", model);
    return name;
}

struct resource_name name_of_worker(const struct adamd_session *session) {
    struct resource_name name;

    snprintf(name.text, sizeof name.text, "models/%s/workers/%s", session->model, session->worker);
    return name;
}

static size_t size_of(const void *sized) {
    size_t size = 0;

    memcpy(&size, sized, sizeof size);
    return size;
}

struct adamd_error *take_options(void *local, const void *given) {
    size_t size = size_of(local), given_size = given != NULL ? size_of(given) : 0;

    if (given == NULL) {
        return NULL;
    }
    if (given_size <= sizeof size) {
        return error_argument("size",
                              "options start with their _INIT macro, which sets their size");
    }
    memcpy(local, given, given_size < size ? given_size : size);
    memcpy(local, &size, sizeof size);
    return NULL;
}

void give_result(const void *local, void *result) {
    size_t size = size_of(local), room = result != NULL ? size_of(result) : 0;

    if (room > sizeof size) {
        memcpy((char *)result + sizeof size, (const char *)local + sizeof size,
               (room < size ? room : size) - sizeof size);
    }
}

struct adamd_error *take_model(const struct adamd_client *client, const char *given,
                               const char **ret_model) {
    const char *model = given != NULL ? given : client->conf.model;

    if (model[0] == '\0') {
        return error_argument("model", "no model: name one, or set it in the configuration");
    }
    if (!is_model_id(model)) {
        return error_argument("model", "%s", MODEL_ID_RULE);
    }
    *ret_model = model;
    return NULL;
}

bool add_bytes(uint64_t *total, uint64_t bytes) {
    if (bytes > SIZE_MAX - *total) {
        return false;
    }
    *total += bytes;
    return true;
}
