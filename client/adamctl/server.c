// status, health, raw: what concerns the daemon as a whole.

#include "commands.h"
#include "file.h"
#include "table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// Seconds since an RFC 3339 time in UTC; -1 if it is none.
static double age_of(const char *text) {
    int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0;
    long days = 0;

    // NOLINTNEXTLINE(cert-err34-c): a field that does not fit makes the age wrong, nothing else
    if (sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d", &year, &month, &day, &hour, &minute, &second) !=
        6) {
        return -1;
    }
    // Days since 1970, with years that begin in March.
    year -= month <= 2;
    month = (month + 9) % 12;
    days = 365L * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719469;
    return difftime(time(NULL), 0) -
           ((double)days * 86400 + hour * 3600.0 + minute * 60.0 + second);
}

static void print_server(const struct ctl *ctl, const cJSON *server) {
    char buffer[32], uptime[32], bytes[32];
    double age = age_of(member_text(server, "startTime", buffer));
    bool serving = strcmp(member_text(server, "state", buffer), "serving") == 0;

    duration_text(age, uptime);
    bytes_text(member_number(server, "residentBytes"), bytes);
    printf("adamd %s  ", member_text(server, "version", buffer));
    printf("%s%s%s  up %s  ", ctl->colour ? (serving ? "\033[32m" : "\033[33m") : "",
           member_text(server, "state", buffer), ctl->colour ? "\033[0m" : "", uptime);
    printf("%s  %.0f threads  %s resident  ", member_text(server, "backend", buffer),
           member_number(server, "threads"), bytes);
    printf("%.0f connections  %s\n", member_number(server, "connections"),
           transport_endpoint(ctl->transport));
}

static void print_both(const struct reply *server, const struct reply *models) {
    printf("{\"server\":%s,\"models\":", server->text);
    reply_print(models);
    fputs("}\n", stdout);
}

int run_status(const struct ctl *ctl) {
    struct reply server, models;
    int code = ctl_call(ctl, &(struct request){.method = "GET", .target = "/v1/server"}, &server);

    if (code != EXIT_OK) {
        return code;
    }
    code = ctl_call(ctl, &(struct request){.method = "GET", .target = "/v1/models"}, &models);
    if (code == EXIT_OK) {
        if (ctl->json) {
            print_both(&server, &models);
        } else {
            print_server(ctl, server.json);
            print_models(ctl, cJSON_GetObjectItemCaseSensitive(models.json, "models"));
        }
        reply_finish(&models);
    }
    reply_finish(&server);
    return code;
}

// For a container's health check: one try, no patience.
int run_health(const struct ctl *ctl) {
    const struct call call = {.method = "GET", .target = "/readyz", .single = true};
    uint32_t timeout_ms = ctl->timeout_ms != 0 ? ctl->timeout_ms : 3000;
    struct adamd_error *error =
        transport_call(ctl->transport, &call, transport_deadline(ctl->transport, timeout_ms), NULL);

    if (error != NULL) {
        (void)fail(ctl, error);
        return EXIT_UNAVAILABLE;
    }
    puts("ok");
    return EXIT_OK;
}

static struct adamd_error *print_body(void *arg, const struct http_head *head,
                                      struct connection *connection) {
    const struct ctl *ctl = arg;
    char bytes[16384];

    say(ctl, "HTTP %d  %s", head->status, head->content_type);
    for (;;) {
        size_t size = 0;
        struct adamd_error *error =
            error_of_io(connection, connection_read(connection, bytes, sizeof bytes, &size));
        if (error != NULL || size == 0) {
            return error;
        }
        fwrite(bytes, 1, size, stdout);
    }
}

static int call_raw(const struct ctl *ctl, struct iovec body) {
    char headers[512] = "";
    const char *type = ctl_flag(ctl, "content-type"), *accept = ctl_flag(ctl, "accept");
    const struct call call = {.method = ctl->words[0],
                              .target = ctl->words[1],
                              .headers = headers,
                              .body = &body,
                              .body_count = body.iov_base != NULL ? 1 : 0,
                              .has_body =
                                  body.iov_base != NULL || strcmp(ctl->words[0], "POST") == 0,
                              .once = strcmp(ctl->words[0], "GET") != 0,
                              .receive = print_body,
                              .arg = (void *)ctl};
    struct adamd_error *error = NULL;

    if (body.iov_base != NULL) {
        append_format(headers, sizeof headers, "Content-Type: %s\r\n",
                      type != NULL ? type : "application/json");
    }
    if (accept != NULL) {
        append_format(headers, sizeof headers, "Accept: %s\r\n", accept);
    }
    error = transport_call(ctl->transport, &call, ctl_deadline(ctl), NULL);
    return error != NULL ? fail(ctl, error) : EXIT_OK;
}

// A line end would be another header.
static bool is_plain(const char *text) {
    return text == NULL || strpbrk(text, " \r\n") == NULL;
}

int run_raw(const struct ctl *ctl) {
    const char *data = ctl_flag(ctl, "data"), *path = ctl_flag(ctl, "file");
    struct file file = {.size = 0};
    int code = EXIT_OK;

    if (ctl->word_count != 2 || ctl->words[1][0] != '/' || !is_plain(ctl->words[0]) ||
        !is_plain(ctl->words[1]) || !is_plain(ctl_flag(ctl, "content-type")) ||
        !is_plain(ctl_flag(ctl, "accept"))) {
        return fail_usage(ctl, "expected: adamctl raw METHOD /PATH");
    }
    if (path != NULL) {
        code = file_open(ctl, path, &file);
    }
    if (code == EXIT_OK) {
        code = call_raw(ctl, path != NULL
                                 ? (struct iovec){.iov_base = file.bytes, .iov_len = file.size}
                                 : (struct iovec){.iov_base = (void *)data,
                                                  .iov_len = data != NULL ? strlen(data) : 0});
    }
    file_close(&file);
    return code;
}
