// Models by name: what the daemon keeps of each beyond core.
#include "models.h"

#include "arguments.h"
#include "call.h"
#include "etag.h"
#include "followers.h"
#include "use.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

uint64_t clock_now_ns(void) {
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

enum adamd_status check_model_id(const char *id, struct adamd_fault *fault) {
    static const char inner[] = "abcdefghijklmnopqrstuvwxyz0123456789-";
    const size_t length = strlen(id);
    const bool fits = length >= 1 && length <= 63 && strspn(id, inner) == length && id[0] >= 'a' &&
                      id[0] <= 'z' && id[length - 1] != '-';

    if (!fits) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "model_id",
                          "model_id must be 1 to 63 of a-z, 0-9 and -, begin with a letter and not "
                          "end with -, unlike \"%s\"",
                          show(id).text);
    }
    return ADAMD_OK;
}

// Lists are paged by creation time, so no two models may share one.
static uint64_t choose_create_time(const struct server *server) {
    uint64_t time_ns = clock_now_ns();

    for (const struct served_model *at = server->models; at != NULL; at = at->next) {
        if (at->create_time_ns >= time_ns) {
            time_ns = at->create_time_ns + 1;
        }
    }
    return time_ns;
}

static void fill_uid(char uid[33]) {
    uint64_t random[2] = {0, 0};

    // 16 bytes are never cut short once the kernel's pool is filled; before that, time must do.
    if (getrandom(random, sizeof random, GRND_NONBLOCK) != (ssize_t)sizeof random) {
        random[0] = clock_now_ns();
    }
    codec_digest_text(random, uid);
}

static void append_model(struct server *server, struct served_model *served) {
    struct served_model **link = &server->models;

    while (*link != NULL) {
        link = &(*link)->next;
    }
    *link = served;
    server->model_count++;
}

enum adamd_status check_room(struct server *server, const char *id, struct adamd_fault *fault) {
    if (server_find(server, id) != NULL) {
        return adamd_fail(fault, ADAMD_EXISTS, "model_id", "there is a model \"%s\" already", id);
    }
    if (server->model_count >= server->config->models_max) {
        return adamd_fail(fault, ADAMD_TOO_LARGE, "model_id",
                          "this daemon holds at most %" PRIu64 " models",
                          server->config->models_max);
    }
    return ADAMD_OK;
}

void fill_grants(const struct server *server, struct adamd_model_spec *spec) {
    const uint64_t used = adamd_backend_resident(server->backend);
    const uint64_t limit = server->config->memory_max;

    spec->slots_max = (uint32_t)server->config->slots_max;
    spec->published_max = (uint32_t)server->config->published_max;
    spec->hook_registry = server->hooks;
    spec->resident_bytes_max = 0;
    if (limit != 0) {
        spec->resident_bytes_max = used < limit ? limit - used : 1;
    }
}

enum adamd_status served_create(struct server *server, const char *id,
                                struct codec_creation *creation, struct served_model **ret_served,
                                struct adamd_fault *fault) {
    enum adamd_status status = check_room(server, id, fault);
    struct served_model *served = NULL;

    if (status != ADAMD_OK) {
        return status;
    }
    served = calloc(1, sizeof *served);
    if (served == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    status = adamd_model_create(server->queue, &creation->spec, &served->model, fault);
    if (status != ADAMD_OK) {
        free(served);
        return status;
    }
    memcpy(served->id, id, strlen(id) + 1);
    memcpy(served->display_name, creation->display_name, sizeof served->display_name);
    memcpy(served->labels, creation->labels, sizeof served->labels);
    served->label_count = creation->label_count;
    served->defaults = creation->defaults;
    served->create_time_ns = choose_create_time(server);
    served->update_time_ns = served->create_time_ns;
    served->server = server;
    fill_uid(served->uid);
    append_model(server, served);
    adamd_model_listen(served->model, followers_wake, served);
    *ret_served = served;
    return ADAMD_OK;
}

void served_finish(struct server *server) {
    while (server->models != NULL) {
        struct served_model *served = server->models;
        server->models = served->next;
        server->model_count--;
        ADAMD_ASSERT(served->uses == NULL);
        served_free(served);
    }
}

Adamd__V1__Model *served_message(const struct served_model *served, struct codec_arena *arena,
                                 bool with_tensors) {
    const struct codec_model_view view = {
        .model = served->model,
        .id = served->id,
        .uid = served->uid,
        .display_name = served->display_name,
        .device = adamd_backend_name(served->server->backend),
        .state_reason = "",
        .labels = served->labels,
        .label_count = served->label_count,
        .defaults = &served->defaults,
        .create_time_ns = served->create_time_ns,
        .update_time_ns = served->update_time_ns,
        .now_ms = server_now_ms(served->server),
        .with_tensors = with_tensors,
    };
    Adamd__V1__Model *message = codec_model_message(arena, &view);
    const struct etag etag = etag_of_model(served);

    if (message != NULL) {
        message->etag = codec_arena_copy(arena, etag.text + 1, strlen(etag.text) - 2);
    }
    return message != NULL && message->etag != NULL ? message : NULL;
}

enum adamd_status check_model_etag(const struct exchange *exchange,
                                   const struct served_model *served, const char *etag,
                                   struct adamd_fault *fault) {
    const struct etag now = etag_of_model(served);
    const size_t length = strlen(now.text) - 2;
    const bool bare = strlen(etag) == length && memcmp(etag, now.text + 1, length) == 0;

    if (etag[0] != '\0' && !bare && strcmp(etag, now.text) != 0) {
        (void)adamd_fail(fault, ADAMD_ETAG_MISMATCH, "etag",
                         "etag is not the current one, %s: read the model again", now.text);
        adamd_fault_tell(fault, "etag", "%s", now.text);
        return ADAMD_ETAG_MISMATCH;
    }
    return exchange_is_rpc(exchange) ? ADAMD_OK : check_if_match(exchange, now.text, fault);
}

void served_touch(struct served_model *served) {
    served->update_time_ns = clock_now_ns();
}
