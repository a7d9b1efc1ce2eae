// What the commands of adamctl share.

#include "ctl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { REPLY_MAX = 64 << 20 };

void *must(void *memory) {
    if (memory == NULL) {
        fputs("error: out of memory\n", stderr);
        exit(EXIT_FAILED);
    }
    return memory;
}

static const char *hint_of(const char *reason) {
    static const struct {
        const char *reason, *hint;
    } hints[] = {
        {"CONNECTION", "is adamd running? --endpoint or ADAMD_ENDPOINT says where"},
        {"STALE", "pull the parameters and compute again, or raise step_policy.max_staleness"},
        {"EXISTS", "adamctl model get shows the one that has this name"},
        {"INITIALIZING", "give it parameters: adamctl state load FILE, or adamctl model "
                         "initialize"},
        {"PRECONDITION_REQUIRED", "adamctl state load --force replaces whatever there is"},
        {"NONFINITE", "adamctl model update --nonfinite skip counts such pushes as skipped"},
        {"LAYOUT_MISMATCH", "adamctl model get -o json shows the model's tensors"},
        {"PAUSED", "adamctl model resume"},
        {"UNKNOWN_WORKER", "adamctl worker list shows who is registered"},
        {"FENCED", "another instance registered this worker's name later"},
        {"BAD_ANSWER", "does adamd answer at this endpoint?"},
    };

    for (size_t i = 0; i < sizeof hints / sizeof hints[0]; i++) {
        if (strcmp(reason, hints[i].reason) == 0) {
            return hints[i].hint;
        }
    }
    return NULL;
}

static int exit_code_of(const struct adamd_error *error) {
    int status = error->http_status;

    if (error->retriable) {
        return status == 409 ? EXIT_CONFLICT : EXIT_UNAVAILABLE;
    }
    switch (status) {
    case 401:
    case 403:
        return EXIT_UNAUTHORISED;
    case 404:
        return EXIT_NOT_FOUND;
    case 409:
    case 412:
    case 428:
        return EXIT_CONFLICT;
    default:
        return EXIT_FAILED;
    }
}

static void print_error(const struct ctl *ctl, const char *message, const char *reason,
                        const char *hint) {
    bool colour = ctl->colour_stderr;

    fprintf(stderr, "%serror:%s %s", colour ? "\033[31m" : "", colour ? "\033[0m" : "", message);
    fprintf(stderr, reason != NULL ? " (%s)\n" : "\n%s", reason != NULL ? reason : "");
    if (hint != NULL) {
        fprintf(stderr, "hint: %s\n", hint);
    }
}

int fail(const struct ctl *ctl, struct adamd_error *error) {
    int code = exit_code_of(error);

    print_error(ctl, error->message, error->reason, hint_of(error->reason));
    adamd_error_destroy(error);
    return code;
}

int fail_usage(const struct ctl *ctl, const char *format, ...) {
    char message[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    print_error(ctl, message, NULL, "adamctl help shows commands and flags");
    return EXIT_USAGE;
}

int fail_here(const struct ctl *ctl, const char *format, ...) {
    char message[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    print_error(ctl, message, NULL, NULL);
    return EXIT_FAILED;
}

void say(const struct ctl *ctl, const char *format, ...) {
    va_list arguments;

    if (!ctl->quiet) {
        fflush(stdout); // in the order in which it was said
        va_start(arguments, format);
        vfprintf(stderr, format, arguments);
        va_end(arguments);
        fputc('\n', stderr);
    }
}

const char *ctl_flag(const struct ctl *ctl, const char *name) {
    return arguments_get(&ctl->arguments, name);
}

bool ctl_has(const struct ctl *ctl, const char *name) {
    return arguments_has(&ctl->arguments, name);
}

uint64_t ctl_deadline(const struct ctl *ctl) {
    return transport_deadline(ctl->transport, ctl->timeout_ms);
}

static struct adamd_error *receive_reply(void *arg, const struct http_head *head,
                                         struct connection *connection) {
    struct reply *reply = arg;

    reply_finish(reply); // of an attempt before
    reply->head = *head;
    return transport_collect(connection, REPLY_MAX, &reply->text, &reply->size);
}

int ctl_call(const struct ctl *ctl, const struct request *request, struct reply *ret_reply) {
    char *text = request->body != NULL ? must(cJSON_PrintUnformatted(request->body)) : NULL;
    const struct iovec body = {.iov_base = text, .iov_len = text != NULL ? strlen(text) : 0};
    const bool has_file = request->file != NULL;
    const struct call call = {
        .method = request->method,
        .target = request->target,
        .headers = has_file       ? "Content-Type: application/x-safetensors\r\n"
                   : text != NULL ? "Content-Type: application/json\r\n"
                                  : NULL,
        .body = has_file ? request->file : &body,
        .body_count = has_file || text != NULL ? 1 : 0,
        .has_body = has_file || text != NULL || strcmp(request->method, "POST") == 0,
        .once = request->once,
        .receive = receive_reply,
        .arg = ret_reply,
    };
    struct adamd_error *error = NULL;

    *ret_reply = (struct reply){.text = NULL};
    error = transport_call(ctl->transport, &call, ctl_deadline(ctl), NULL);
    cJSON_free(text);
    if (error == NULL) {
        ret_reply->json = cJSON_ParseWithLength(ret_reply->text, ret_reply->size);
    }
    if (error == NULL && ret_reply->json == NULL && !request->may_be_empty) {
        error = error_new("BAD_ANSWER", "the answer is not JSON");
    }
    if (error != NULL) {
        reply_finish(ret_reply);
        return fail(ctl, error);
    }
    return EXIT_OK;
}

void reply_finish(struct reply *reply) {
    free(reply->text);
    cJSON_Delete(reply->json);
    *reply = (struct reply){.text = NULL};
}

void reply_print(const struct reply *reply) {
    fwrite(reply->text, 1, reply->size, stdout);
    if (reply->size > 0 && reply->text[reply->size - 1] != '\n') {
        putchar('\n');
    }
}

// The id of the only model, or why there is none to choose.
static int only_model(const struct ctl *ctl, const struct reply *reply, char ret_model[64]) {
    const cJSON *models = cJSON_GetObjectItemCaseSensitive(reply->json, "models");
    const cJSON *first = cJSON_GetArrayItem(models, 0);
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(first, "name"));
    const char *slash = name != NULL ? strchr(name, '/') : NULL;

    if (cJSON_GetArraySize(models) > 1) {
        return fail_usage(ctl, "there are several models: name one with --model");
    }
    if (slash == NULL || strlen(slash + 1) > 63) {
        print_error(ctl, "there is no model", NULL, "adamctl model create makes one");
        return EXIT_NOT_FOUND;
    }
    snprintf(ret_model, 64, "%s", slash + 1);
    return EXIT_OK;
}

int ctl_model(const struct ctl *ctl, size_t word, char ret_model[64]) {
    const char *given = word < ctl->word_count ? ctl->words[word] : ctl_flag(ctl, "model");
    struct reply reply;
    int code = EXIT_OK;

    if (given != NULL && !is_model_id(given)) {
        return fail_usage(ctl, "%s is no model's name: %s", given, MODEL_ID_RULE);
    }
    if (given != NULL) {
        snprintf(ret_model, 64, "%s", given);
        return EXIT_OK;
    }
    code = ctl_call(ctl, &(struct request){.method = "GET", .target = "/v1/models"}, &reply);
    if (code == EXIT_OK) {
        code = only_model(ctl, &reply, ret_model);
        reply_finish(&reply);
    }
    return code;
}

int ctl_list(const struct ctl *ctl, const char *path, const char *member, ctl_print_fn *print) {
    char id[64], target[128];
    struct reply reply;
    int code = ctl_model(ctl, 0, id);

    if (code == EXIT_OK) {
        snprintf(target, sizeof target, "/v1/models/%s/%s", id, path);
        code = ctl_call(ctl, &(struct request){.method = "GET", .target = target}, &reply);
    }
    if (code != EXIT_OK) {
        return code;
    }
    if (ctl->json) {
        reply_print(&reply);
    } else {
        print(ctl, cJSON_GetObjectItemCaseSensitive(reply.json, member));
    }
    reply_finish(&reply);
    return EXIT_OK;
}

int ctl_confirm(const struct ctl *ctl, const char *format, ...) {
    char answer[16] = "";
    va_list arguments;

    if (ctl_has(ctl, "yes")) {
        return EXIT_OK;
    }
    if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO) || ctl_has(ctl, "no-input")) {
        return fail_usage(ctl, "this cannot be undone: it needs --yes where nobody can be asked");
    }
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputs(" [y/N] ", stderr);
    if (fgets(answer, sizeof answer, stdin) == NULL || (answer[0] != 'y' && answer[0] != 'Y')) {
        return fail_here(ctl, "not confirmed, nothing was done");
    }
    return EXIT_OK;
}

void append_format(char *target, size_t size, const char *format, ...) {
    size_t length = strlen(target);
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(target + length, size - length, format, arguments);
    va_end(arguments);
}

void append_encoded(char *target, size_t size, const char *value) {
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";

    for (; *value != '\0'; value++) {
        append_format(target, size, strchr(plain, *value) != NULL ? "%c" : "%%%02X",
                      (unsigned char)*value);
    }
}

bool parse_duration(const char *text, char *ret_text, size_t size) {
    char *unit = NULL;
    double value = strtod(text, &unit);
    double factor = strcmp(unit, "ms") == 0                     ? 1e-3
                    : strcmp(unit, "m") == 0                    ? 60
                    : unit[0] == '\0' || strcmp(unit, "s") == 0 ? 1
                                                                : -1;

    if (unit == text || factor < 0 || !(value >= 0) || value * factor > 1e9) {
        return false;
    }
    snprintf(ret_text, size, "%.3fs", value * factor);
    return true;
}
