// The daemon binds its sockets itself: the HTTP library would neither tell why it could not, nor
// take a Unix socket.
#define _GNU_SOURCE // SOCK_NONBLOCK

#include "listener.h"

#include "config_value.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 1024 };

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un local;
};

static socklen_t make_address(const struct config_listen *listen, union address *address) {
    memset(address, 0, sizeof *address);
    if (listen->is_unix) {
        address->local.sun_family = AF_UNIX;
        memcpy(address->local.sun_path, listen->address,
               strnlen(listen->address, sizeof address->local.sun_path - 1));
        return sizeof address->local;
    }
    if (strchr(listen->address, ':') != NULL) {
        address->v6.sin6_family = AF_INET6;
        address->v6.sin6_port = htons(listen->port);
        (void)inet_pton(AF_INET6, listen->address, &address->v6.sin6_addr);
        return sizeof address->v6;
    }
    address->v4.sin_family = AF_INET;
    address->v4.sin_port = htons(listen->port);
    (void)inet_pton(AF_INET, listen->address, &address->v4.sin_addr);
    return sizeof address->v4;
}

// A socket file that a dead process left behind refuses connections.
static void remove_stale(const union address *address, socklen_t size) {
    struct stat status;
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        return;
    }
    if (lstat(address->local.sun_path, &status) == 0 && S_ISSOCK(status.st_mode) &&
        connect(fd, &address->any, size) != 0 && errno == ECONNREFUSED) {
        (void)unlink(address->local.sun_path);
    }
    (void)close(fd);
}

// Answers are written whole: nothing is gained by waiting for more. Connections inherit the option.
static void set_tcp_options(int fd) {
    const int yes = 1;

    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

static bool read_port(int fd, struct config_listen *listen) {
    union address address = {.any = {.sa_family = AF_UNSPEC}};
    socklen_t size = sizeof address;

    if (getsockname(fd, &address.any, &size) != 0) {
        return false;
    }
    if (address.any.sa_family == AF_INET6) {
        listen->port = ntohs(address.v6.sin6_port);
    } else if (address.any.sa_family == AF_INET) {
        listen->port = ntohs(address.v4.sin_port);
    }
    return true;
}

// listen(2), whose name the parameters of this file have.
static int start_listening(int fd) {
    return listen(fd, BACKLOG);
}

enum adamd_status listener_open(struct config_listen *listen, int *ret_fd,
                                struct adamd_fault *fault) {
    union address address;
    const socklen_t size = make_address(listen, &address);
    const int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd >= 0 && listen->is_unix) {
        remove_stale(&address, size);
    } else if (fd >= 0) {
        set_tcp_options(fd);
    }
    if (fd < 0 || bind(fd, &address.any, size) != 0 ||
        (listen->is_unix && chmod(listen->address, 0660) != 0) || // NOLINT: ours since bind()
        (!listen->is_unix && !read_port(fd, listen)) || start_listening(fd) != 0) {
        char text[CONFIG_TEXT_MAX + 16];
        const int error = errno;
        print_listen(listen, text, sizeof text);
        if (fd >= 0) {
            (void)close(fd);
        }
        return adamd_fail(fault, ADAMD_BAD_FIELD, "listen", "%s: %s", text, strerror(error));
    }
    *ret_fd = fd;
    return ADAMD_OK;
}

void listener_close(const struct config_listen *listen, int fd) {
    (void)close(fd);
    if (listen->is_unix) {
        (void)unlink(listen->address);
    }
}

enum adamd_status port_file_write(const char *path, uint16_t port, struct adamd_fault *fault) {
    char temporary[CONFIG_TEXT_MAX + 8];
    FILE *file;

    snprintf(temporary, sizeof temporary, "%s.new", path);
    file = fopen(temporary, "we");
    if (file == NULL) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "port_file", "%s: %s", temporary,
                          strerror(errno));
    }
    const bool is_written = fprintf(file, "%u\n", port) > 0;
    if (fclose(file) != 0 || !is_written || rename(temporary, path) != 0) {
        (void)unlink(temporary);
        return adamd_fail(fault, ADAMD_BAD_FIELD, "port_file", "%s: %s", path, strerror(errno));
    }
    return ADAMD_OK;
}
