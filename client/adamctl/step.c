// step, zero-grad, steps.

#include "commands.h"
#include "settings.h"
#include "table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_MAX_BYTES = 1 << 20 };

int run_step(const struct ctl *ctl) {
    char model[64], target[128], buffer[32];
    const char *version = ctl_flag(ctl, "expected-version");
    cJSON *body = must(cJSON_CreateObject()), *options = NULL;
    const cJSON *record = NULL;
    struct reply reply;
    int code = settings_options(ctl, &options);

    if (options != NULL) {
        cJSON_AddItemToObject(body, "options", options);
    }
    if (version != NULL) {
        must(cJSON_AddStringToObject(body, "expectedVersion", version));
    }
    if (code == EXIT_OK) {
        code = ctl_model(ctl, 0, model);
    }
    if (code == EXIT_OK) {
        snprintf(target, sizeof target, "/v1/models/%s:step", model);
        code =
            ctl_call(ctl,
                     &(struct request){
                         .method = "POST", .target = target, .body = body, .once = version == NULL},
                     &reply);
    }
    cJSON_Delete(body);
    if (code != EXIT_OK) {
        return code;
    }
    record = cJSON_GetObjectItemCaseSensitive(reply.json, "record");
    if (ctl->json) {
        reply_print(&reply);
    } else if (record == NULL) {
        puts("no parameter has a gradient: no step");
    } else {
        printf("version %.0f  grad norm %s  ", member_number(record, "version"),
               member_text(record, "gradNorm", buffer));
        printf("lr %s\n", member_text(record, "lr", buffer));
    }
    reply_finish(&reply);
    return EXIT_OK;
}

int run_zero_grad(const struct ctl *ctl) {
    char model[64], target[128];
    const char *set_to_none = ctl_flag(ctl, "set-to-none");
    cJSON *body = must(cJSON_CreateObject());
    struct reply reply;
    int code = ctl_model(ctl, 0, model);

    must(cJSON_AddBoolToObject(body, "setToNone",
                               set_to_none == NULL || strcmp(set_to_none, "true") == 0));
    if (code == EXIT_OK) {
        snprintf(target, sizeof target, "/v1/models/%s:zeroGrad", model);
        code = ctl_call(ctl, &(struct request){.method = "POST", .target = target, .body = body},
                        &reply);
    }
    cJSON_Delete(body);
    if (code == EXIT_OK) {
        if (ctl->json) {
            reply_print(&reply);
        }
        say(ctl, "the gradients of %s are gone", model);
        reply_finish(&reply);
    }
    return code;
}

// The records as they come, a line each.
struct follower {
    const struct ctl *ctl;
    const char *model;
    char target[256]; // written anew after each record, so that a new attempt goes on from there
    unsigned long long after;
    bool printed_head;
    char *line; // LINE_MAX_BYTES
    size_t size;
};

static void write_target(struct follower *follower) {
    const char *limit = ctl_flag(follower->ctl, "limit");

    snprintf(follower->target, sizeof follower->target, "/v1/models/%s/steps?after_version=%llu%s",
             follower->model, follower->after,
             ctl_has(follower->ctl, "follow") ? "&follow=true" : "");
    if (limit != NULL) {
        append_format(follower->target, sizeof follower->target, "&page_size=");
        append_encoded(follower->target, sizeof follower->target, limit);
    }
}

static void metrics_text(const cJSON *record, char text[TABLE_CELL_MAX]) {
    const cJSON *metric = NULL;
    char key[32], value[32];

    text[0] = '\0';
    cJSON_ArrayForEach(metric, cJSON_GetObjectItemCaseSensitive(record, "metrics")) {
        append_format(text, TABLE_CELL_MAX, "%s%s=%s", text[0] != '\0' ? " " : "",
                      member_text(metric, "key", key), member_text(metric, "value", value));
    }
}

static void print_record(struct follower *follower, const cJSON *record) {
    char norm[32], lr[32], time[32], metrics[TABLE_CELL_MAX];
    const char *when = member_text(record, "time", time);
    const char *clock = strchr(when, 'T');

    if (!follower->printed_head) {
        printf("%s%-10s %-12s %-7s %-12s %-10s %s%s\n", follower->ctl->colour ? "\033[1m" : "",
               "VERSION", "TIME", "CONTRIB", "GRAD NORM", "LR", "METRICS",
               follower->ctl->colour ? "\033[0m" : "");
        follower->printed_head = true;
    }
    metrics_text(record, metrics);
    printf("%-10.0f %-12.12s %-7d %-12s %-10s %s%s\n", member_number(record, "version"),
           clock != NULL ? clock + 1 : "-",
           cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(record, "contributions")),
           member_text(record, "gradNorm", norm), member_text(record, "lr", lr), metrics,
           cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(record, "skipped")) ? " skipped" : "");
}

static struct adamd_error *take_line(struct follower *follower) {
    cJSON *record = cJSON_ParseWithLength(follower->line, follower->size);

    if (record == NULL) {
        return error_new("BAD_ANSWER", "a record is not JSON");
    }
    if (follower->ctl->json) {
        fwrite(follower->line, 1, follower->size, stdout);
        putchar('\n');
    } else {
        print_record(follower, record);
    }
    fflush(stdout);
    follower->after = (unsigned long long)member_number(record, "version");
    follower->size = 0;
    cJSON_Delete(record);
    write_target(follower);
    return NULL;
}

static struct adamd_error *take_bytes(struct follower *follower, const char *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) {
        struct adamd_error *error = NULL;
        if (bytes[i] != '\n' && follower->size == LINE_MAX_BYTES) {
            return error_new("BAD_ANSWER", "a record is too long");
        }
        if (bytes[i] != '\n') {
            follower->line[follower->size++] = bytes[i];
        } else if (follower->size > 0) {
            error = take_line(follower);
        }
        if (error != NULL) {
            return error;
        }
    }
    return NULL;
}

static struct adamd_error *receive_records(void *arg, const struct http_head *head,
                                           struct connection *connection) {
    struct follower *follower = arg;
    char bytes[16384];

    (void)head;
    follower->size = 0; // half a line of an attempt before
    for (;;) {
        size_t size = 0;
        struct adamd_error *error =
            error_of_io(connection, connection_read(connection, bytes, sizeof bytes, &size));
        if (error == NULL) {
            error = take_bytes(follower, bytes, size);
        }
        if (error != NULL || size == 0) {
            return error;
        }
    }
}

int run_steps(const struct ctl *ctl) {
    char model[64];
    const char *after = ctl_flag(ctl, "after");
    struct follower follower = {.ctl = ctl, .model = model};
    const struct call call = {
        .method = "GET", .target = follower.target, .receive = receive_records, .arg = &follower};
    struct adamd_error *error = NULL;
    int code = EXIT_OK;

    if (after != NULL && (after[0] == '\0' || after[strspn(after, "0123456789")] != '\0')) {
        return fail_usage(ctl, "--after %s: expected a version", after);
    }
    code = ctl_model(ctl, 0, model);
    if (code != EXIT_OK) {
        return code;
    }
    follower.after = after != NULL ? strtoull(after, NULL, 10) : 0;
    follower.line = must(malloc(LINE_MAX_BYTES));
    write_target(&follower);
    error = transport_call(ctl->transport, &call,
                           ctl_has(ctl, "follow") ? UINT64_MAX : ctl_deadline(ctl), NULL);
    free(follower.line);
    return error != NULL ? fail(ctl, error) : EXIT_OK;
}
