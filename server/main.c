// adamd: from the command line to the exit code.
#include "config.h"
#include "log.h"
#include "reactor.h"
#include "server.h"

#include <stdio.h>
#include <sys/resource.h>

// As sysexits(3) and the manual say.
enum { STATUS_OK = 0, STATUS_USAGE = 64, STATUS_UNAVAILABLE = 69, STATUS_CONFIG = 78 };

extern char **environ; // POSIX has it in no header

static int complain(const struct adamd_fault *fault, int exit_status) {
    fprintf(stderr, "adamd: %s%s%s", fault->field, fault->field[0] != '\0' ? ": " : "",
            fault->message);
    for (size_t i = 0; i < fault->metadata_count; i++) {
        fprintf(stderr, ", %s %s", fault->metadata[i].key, fault->metadata[i].value);
    }
    fputc('\n', stderr);
    return exit_status;
}

// One descriptor for each connection, and some for ourselves; the usual soft limit is 1,024.
static void raise_descriptor_limit(void) {
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit); // what does not fit is refused later
    }
}

static int serve(const struct config *config) {
    struct adamd_fault fault = {.status = ADAMD_OK};
    struct server server;
    int exit_status = STATUS_OK;
    const enum adamd_status status = server_init(&server, config, &fault);

    if (status == ADAMD_OK) {
        reactor_run(server.reactor);
    } else {
        exit_status =
            complain(&fault, status == ADAMD_DEVICE_LOST ? STATUS_UNAVAILABLE : STATUS_CONFIG);
    }
    server_finish(&server);
    if (exit_status == STATUS_OK) {
        log_event(LEVEL_INFO, "server", "ended", log_text("how", "in order"));
    }
    return exit_status;
}

int main(int argc, char **argv) {
    struct adamd_fault fault = {.status = ADAMD_OK};
    struct config config;
    enum config_action action = CONFIG_RUN;
    const enum adamd_status status = config_init(&config, argc, argv, environ, &action, &fault);

    if (status != ADAMD_OK) {
        return complain(&fault, action == CONFIG_USAGE ? STATUS_USAGE : STATUS_CONFIG);
    }
    switch (action) {
    case CONFIG_VERSION:
        puts("adamd " ADAMD_VERSION);
        return STATUS_OK;
    case CONFIG_HELP:
        config_help(stdout);
        return STATUS_OK;
    case CONFIG_PRINT:
        config_print(&config, stdout);
        return STATUS_OK;
    case CONFIG_CHECK:
        return STATUS_OK;
    case CONFIG_USAGE:
    case CONFIG_RUN:
        break;
    }
    log_init((enum log_level)config.log_level, config.log_format == 1);
    raise_descriptor_limit();
    return serve(&config);
}
