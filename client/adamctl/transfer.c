// push, pull, state save, state load, differentiate: what moves tensors.

#include "commands.h"
#include "file.h"
#include "table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TARGET_MAX = 2048 };

// Who pushes: a registration of our own, or one that the flags name.
struct pusher {
    char model[64];
    const char *worker;
    char epoch[24], sequence[24];
    bool registered_here;
};

static int register_pusher(const struct ctl *ctl, struct pusher *pusher) {
    char target[TARGET_MAX] = "", nonce[33], buffer[32];
    struct reply reply;
    int code = EXIT_OK;

    if (!random_text(nonce)) {
        return fail_here(ctl, "the system has no random numbers");
    }
    append_format(target, sizeof target, "/v1/models/%s/workers?worker_id=%s&nonce=%s",
                  pusher->model, pusher->worker, nonce);
    code = ctl_call(ctl, &(struct request){.method = "POST", .target = target}, &reply);
    if (code == EXIT_OK) {
        snprintf(pusher->epoch, sizeof pusher->epoch, "%s",
                 member_text(reply.json, "epoch", buffer));
        snprintf(pusher->sequence, sizeof pusher->sequence, "1");
        pusher->registered_here = true;
        reply_finish(&reply);
    }
    return code;
}

// A worker that stayed would be waited for by the next round.
static void deregister_pusher(const struct ctl *ctl, const struct pusher *pusher) {
    char target[TARGET_MAX] = "";
    const struct call call = {.method = "DELETE", .target = target};

    append_format(target, sizeof target, "/v1/models/%s/workers/%s?epoch=%s", pusher->model,
                  pusher->worker, pusher->epoch);
    adamd_error_destroy(transport_call(ctl->transport, &call, ctl_deadline(ctl), NULL));
}

static int find_pusher(const struct ctl *ctl, struct pusher *pusher) {
    const char *epoch = ctl_flag(ctl, "epoch"), *sequence = ctl_flag(ctl, "sequence");
    int code = ctl_model(ctl, ctl->word_count, pusher->model);

    pusher->worker = ctl_flag(ctl, "worker") != NULL ? ctl_flag(ctl, "worker") : "adamctl";
    if (code != EXIT_OK) {
        return code;
    }
    if (!is_worker_id(pusher->worker)) {
        return fail_usage(ctl, "--worker %s: %s", pusher->worker, WORKER_ID_RULE);
    }
    if ((epoch == NULL) != (sequence == NULL)) {
        return fail_usage(ctl, "--epoch and --sequence go together");
    }
    if (epoch == NULL) {
        return register_pusher(ctl, pusher);
    }
    snprintf(pusher->epoch, sizeof pusher->epoch, "%s", epoch);
    snprintf(pusher->sequence, sizeof pusher->sequence, "%s", sequence);
    return EXIT_OK;
}

// name=value, appended as &name=value.
static void append_parameter(char *target, const char *name, const char *value) {
    if (value != NULL) {
        append_format(target, TARGET_MAX, "&%s=", name);
        append_encoded(target, TARGET_MAX, value);
    }
}

static int append_metrics(const struct ctl *ctl, char *target) {
    for (size_t i = 0; i < ctl->arguments.flag_count; i++) {
        const char *value = ctl->arguments.flags[i].value;
        size_t size = strcspn(value, "=");
        char name[96] = "metric.";
        if (strcmp(ctl->arguments.flags[i].name, "metric") != 0) {
            continue;
        }
        if (size == 0 || size > 64 || value[size] != '=') {
            return fail_usage(ctl, "--metric %s: expected KEY=NUMBER", value);
        }
        snprintf(name + strlen(name), sizeof name - strlen(name), "%.*s", (int)size, value);
        append_format(target, TARGET_MAX, "&");
        append_encoded(target, TARGET_MAX, name);
        append_format(target, TARGET_MAX, "=");
        append_encoded(target, TARGET_MAX, value + size + 1);
    }
    return EXIT_OK;
}

static struct adamd_error *receive_text(void *arg, const struct http_head *head,
                                        struct connection *connection) {
    struct reply *reply = arg;

    reply_finish(reply);
    reply->head = *head;
    return transport_collect(connection, 1 << 20, &reply->text, &reply->size);
}

static void print_outcome(const struct ctl *ctl, const struct reply *reply) {
    char outcome[32], buffer[32];
    cJSON *json = cJSON_ParseWithLength(reply->text, reply->size);
    bool duplicate = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "duplicate"));

    if (ctl->json) {
        reply_print(reply);
    } else {
        enum_text(member_text(json, "outcome", buffer), "PUSH_OUTCOME_", outcome);
        printf("%s%s  version %.0f", outcome, duplicate ? " (duplicate)" : "",
               member_number(json, "version"));
        if (strcmp(outcome, "applied") == 0) {
            printf("  contributors %.0f  grad norm %s  staleness %.0f",
                   member_number(json, "contributors"), member_text(json, "gradNorm", buffer),
                   member_number(json, "staleness"));
        }
        putchar('\n');
    }
    cJSON_Delete(json);
}

static int send_push(const struct ctl *ctl, const struct pusher *pusher, const struct file *file) {
    char target[TARGET_MAX] = "";
    struct reply reply = {.text = NULL};
    const struct iovec body = {.iov_base = file->bytes, .iov_len = file->size};
    const struct call call = {.method = "POST",
                              .target = target,
                              .headers = "Content-Type: application/x-safetensors\r\n",
                              .body = &body,
                              .body_count = 1,
                              .has_body = true,
                              .receive = receive_text,
                              .arg = &reply};
    struct adamd_error *error = NULL;
    int code = EXIT_OK;

    append_format(target, sizeof target, "/v1/models/%s/gradients?worker=%s", pusher->model,
                  pusher->worker);
    append_parameter(target, "epoch", pusher->epoch);
    append_parameter(target, "sequence", pusher->sequence);
    append_parameter(target, "base_version", ctl_flag(ctl, "base-version"));
    append_parameter(target, "weight", ctl_flag(ctl, "weight"));
    append_parameter(target, "replace", ctl_has(ctl, "replace") ? "true" : NULL);
    code = append_metrics(ctl, target);
    if (code != EXIT_OK) {
        return code;
    }
    error = transport_call(ctl->transport, &call, ctl_deadline(ctl), NULL);
    if (error != NULL) {
        code = fail(ctl, error);
    } else {
        print_outcome(ctl, &reply);
    }
    reply_finish(&reply);
    return code;
}

int run_push(const struct ctl *ctl) {
    struct file file = {.size = 0};
    struct pusher pusher = {.worker = NULL};
    cJSON *header = NULL;
    int code = EXIT_OK;

    if (ctl->word_count != 1) {
        return fail_usage(ctl, "expected: adamctl push FILE.safetensors");
    }
    code = file_open(ctl, ctl->words[0], &file);
    if (code == EXIT_OK) {
        code = file_header(ctl, ctl->words[0], &file, &header);
        cJSON_Delete(header);
    }
    if (code == EXIT_OK) {
        code = find_pusher(ctl, &pusher);
    }
    if (code == EXIT_OK) {
        code = send_push(ctl, &pusher, &file);
    }
    if (pusher.registered_here) {
        deregister_pusher(ctl, &pusher);
    }
    file_close(&file);
    return code;
}

static void say_received(const struct ctl *ctl, const char *what, const char *model,
                         const struct download *download) {
    char bytes[32];

    bytes_text((double)download->bytes, bytes);
    say(ctl, "%s of %s at version %llu, generation %llu: %s%s%s", what, model,
        (unsigned long long)download->head.version, (unsigned long long)download->head.generation,
        bytes, download->path != NULL ? " in " : "", download->path != NULL ? download->path : "");
}

int run_pull(const struct ctl *ctl) {
    char model[64], target[TARGET_MAX] = "", wait[48] = "60.000s";
    struct download download = {.path = ctl_flag(ctl, "output")};
    const char *given_wait = ctl_flag(ctl, "wait"), *version = ctl_flag(ctl, "min-version");
    int code = EXIT_OK;

    if (given_wait != NULL && !parse_duration(given_wait, wait, sizeof wait)) {
        return fail_usage(ctl, "--wait %s: expected a time: 500ms, 5s, 2m", given_wait);
    }
    code = ctl_model(ctl, 0, model);
    if (code != EXIT_OK) {
        return code;
    }
    append_format(target, sizeof target, "/v1/models/%s/parameters?format=safetensors", model);
    append_parameter(target, "min_version", version);
    append_parameter(target, "wait", version != NULL ? wait : NULL);
    code = file_download(ctl, target, &download);
    if (code == EXIT_OK) {
        say_received(ctl, "parameters", model, &download);
    }
    return code;
}

int run_state_save(const struct ctl *ctl) {
    char model[64], target[TARGET_MAX] = "";
    struct download download = {.path =
                                    ctl->word_count > 0 ? ctl->words[0] : ctl_flag(ctl, "output")};
    int code = ctl_model(ctl, 1, model);

    if (code != EXIT_OK) {
        return code;
    }
    append_format(target, sizeof target, "/v1/models/%s/state", model);
    code = file_download(ctl, target, &download);
    if (code == EXIT_OK) {
        say_received(ctl, "state", model, &download);
    }
    return code;
}

static int send_state(const struct ctl *ctl, const char *model, const struct file *file) {
    char target[TARGET_MAX] = "", buffer[32];
    struct reply reply = {.text = NULL};
    const struct iovec body = {.iov_base = file->bytes, .iov_len = file->size};
    const struct call call = {.method = "PUT",
                              .target = target,
                              .headers = "Content-Type: application/x-safetensors\r\n",
                              .body = &body,
                              .body_count = 1,
                              .has_body = true,
                              .receive = receive_text,
                              .arg = &reply};
    struct adamd_error *error = NULL;

    append_format(target, sizeof target, "/v1/models/%s/state%s", model,
                  ctl_has(ctl, "force") ? "?force=true" : "");
    error = transport_call(ctl->transport, &call, ctl_deadline(ctl), NULL);
    if (error != NULL) {
        return fail(ctl, error);
    }
    if (ctl->json) {
        reply_print(&reply);
    }
    reply.json = cJSON_ParseWithLength(reply.text, reply.size);
    say(ctl, "%s is at version %s, generation %s", model,
        member_text(reply.json, "version", buffer), member_text(reply.json, "generation", buffer));
    reply_finish(&reply);
    return EXIT_OK;
}

int run_state_load(const struct ctl *ctl) {
    char model[64];
    struct file file = {.size = 0};
    int code = EXIT_OK;

    if (ctl->word_count < 1 || ctl->word_count > 2) {
        return fail_usage(ctl, "expected: adamctl state load FILE [MODEL]");
    }
    code = ctl_model(ctl, 1, model);
    if (code == EXIT_OK) {
        code = file_open(ctl, ctl->words[0], &file);
    }
    if (code == EXIT_OK && ctl_has(ctl, "force")) {
        code = ctl_confirm(ctl, "Replace all state of %s?", model);
    }
    if (code == EXIT_OK) {
        code = send_state(ctl, model, &file);
    }
    file_close(&file);
    return code;
}

int run_differentiate(const struct ctl *ctl) {
    const char *version = ctl_flag(ctl, "expected-version");
    char model[64], target[TARGET_MAX] = "";
    struct file file = {.size = 0};
    struct download download = {.path = ctl_flag(ctl, "output"), .sent = &file};
    cJSON *header = NULL;
    int code = EXIT_OK;

    if (ctl->word_count < 1 || ctl->word_count > 2) {
        return fail_usage(ctl, "expected: adamctl differentiate FILE [MODEL] -o FILE");
    }
    code = ctl_model(ctl, 1, model);
    if (code == EXIT_OK) {
        code = file_open(ctl, ctl->words[0], &file);
    }
    if (code == EXIT_OK) {
        code = file_header(ctl, ctl->words[0], &file, &header);
        cJSON_Delete(header);
    }
    append_format(target, sizeof target, "/v1/models/%s:differentiate", model);
    if (version != NULL) {
        append_format(target, sizeof target, "?version=");
        append_encoded(target, sizeof target, version);
    }
    if (code == EXIT_OK) {
        code = file_download(ctl, target, &download);
    }
    if (code == EXIT_OK) {
        say_received(ctl, "cotangents", model, &download);
    }
    file_close(&file);
    return code;
}
