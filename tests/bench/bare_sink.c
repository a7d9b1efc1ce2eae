// The bar for uploads: accepts curl's PUT or POST with a plain read loop into one buffer, answers
// 200.
//
//     bare_sink BYTES       prints its port, serves one connection after another until it is killed
#define _GNU_SOURCE
#include "bench_support.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";

static bool send_text(int fd, const char *text) {
    return send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text);
}

/** Reads a head into `head`; how much of the body came with it, or -1. */
static ssize_t read_head(int fd, char *head, size_t size, size_t *ret_body) {
    size_t used = 0;

    for (;;) {
        const ssize_t got = recv(fd, head + used, size - 1 - used, 0);

        if (got <= 0) {
            return -1;
        }
        used += (size_t)got;
        head[used] = '\0';
        const char *end = strstr(head, "\r\n\r\n");

        if (end != NULL) {
            const char *length = strcasestr(head, "content-length:");

            *ret_body = length != NULL ? strtoull(length + 15, NULL, 10) : 0;
            return (ssize_t)(used - (size_t)(end + 4 - head));
        }
    }
}

static bool serve_one(int fd, char *buffer, size_t bytes) {
    char head[16384];
    size_t body = 0;
    const ssize_t early = read_head(fd, head, sizeof head, &body);

    if (early < 0 || body > bytes) {
        return false;
    }
    if (strcasestr(head, "100-continue") != NULL && !send_text(fd, go_on)) {
        return false;
    }
    for (size_t at = (size_t)early; at < body;) {
        const ssize_t got = recv(fd, buffer + at, body - at, 0);

        if (got <= 0) {
            return false;
        }
        at += (size_t)got;
    }
    return send_text(fd, answer);
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    const size_t bytes = argc == 2 ? strtoull(argv[1], NULL, 10) : 0;
    char *buffer = bytes > 0 ? malloc(bytes) : NULL;
    const int listener = socket(AF_INET, SOCK_STREAM, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (buffer == NULL || listener < 0 ||
        bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, 16) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) != 0) {
        bench_fail("usage: bare_sink BYTES");
    }
    memset(buffer, 1, bytes);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        const int fd = accept(listener, NULL, NULL);

        if (fd < 0) {
            bench_fail("accept");
        }
        while (serve_one(fd, buffer, bytes)) {
        }
        close(fd);
    }
}
