// A daemon that does what a script says.

#include "fake_daemon.h"

#include <check.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ms(void) {
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void wait_ms(uint32_t ms) {
    (void)poll(NULL, 0, (int)ms);
}

static bool read_exactly(int fd, void *data, size_t size) {
    for (char *at = data; size > 0;) {
        ssize_t got = recv(fd, at, size, 0);
        if (got <= 0) {
            return false;
        }
        at += got;
        size -= (size_t)got;
    }
    return true;
}

// Byte by byte, so that nothing of the body is taken.
static bool read_head(int fd, char *head, size_t room) {
    for (size_t size = 0; size + 1 < room; size++) {
        if (!read_exactly(fd, head + size, 1)) {
            return false;
        }
        head[size + 1] = '\0';
        if (size >= 3 && memcmp(head + size - 3, "\r\n\r\n", 4) == 0) {
            return true;
        }
    }
    return false;
}

static void send_text(int fd, const char *text, size_t size, bool piecemeal) {
    while (size > 0) {
        ssize_t sent = send(fd, text, piecemeal ? 1 : size, MSG_NOSIGNAL);
        if (sent <= 0) {
            return;
        }
        text += sent;
        size -= (size_t)sent;
    }
}

static void answer(int fd, const struct fake_line *line) {
    if (line->delay_ms > 0) {
        wait_ms(line->delay_ms);
    }
    if (line->answer != NULL) {
        send_text(fd, line->answer,
                  line->answer_size > 0 ? line->answer_size : strlen(line->answer),
                  line->piecemeal);
    }
}

static bool read_body(int fd, const struct fake_line *line, struct fake_request *request) {
    const char *length = strstr(request->head, "Content-Length: ");
    size_t size = length != NULL ? (size_t)strtoull(length + 16, NULL, 10) : 0;

    if (line->before_body && line->read_first < size) {
        size = line->read_first;
    }
    if (line->says_continue && strstr(request->head, "Expect: 100-continue") != NULL) {
        send_text(fd, "HTTP/1.1 100 Continue\r\n\r\n", 25, false);
    }
    request->body = malloc(size + 1);
    request->body_size = size;
    return request->body != NULL && read_exactly(fd, request->body, size);
}

// Says nothing, until the client gives up.
static void wait_for_end(int fd) {
    char byte = 0;

    while (recv(fd, &byte, 1, 0) > 0) {
    }
}

// One request after the other, until a line closes or the client does.
static void serve(struct fake_daemon *daemon, int fd) {
    while (daemon->next < daemon->line_count && daemon->request_count < FAKE_REQUESTS_MAX) {
        struct fake_request *request = &daemon->requests[daemon->request_count];
        const struct fake_line *line = &daemon->lines[daemon->next];

        if (!read_head(fd, request->head, sizeof request->head)) {
            return;
        }
        daemon->next++;
        daemon->request_count++;
        request->time_ms = now_ms();
        if (!read_body(fd, line, request)) {
            return;
        }
        answer(fd, line);
        if (line->answer == NULL && !line->closes) {
            wait_for_end(fd);
            return;
        }
        if (line->closes || line->before_body) {
            return;
        }
    }
}

static void *run(void *arg) {
    struct fake_daemon *daemon = arg;

    for (;;) {
        int fd = accept(daemon->listener, NULL, NULL);
        if (fd < 0) {
            return NULL;
        }
        serve(daemon, fd);
        (void)close(fd);
    }
}

void fake_daemon_start(struct fake_daemon *daemon, const struct fake_line *lines, size_t count) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;

    *daemon = (struct fake_daemon){.lines = lines, .line_count = count};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    daemon->listener = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_ge(daemon->listener, 0);
    ck_assert_int_eq(bind(daemon->listener, (struct sockaddr *)&address, sizeof address), 0);
    ck_assert_int_eq(listen(daemon->listener, 8), 0);
    ck_assert_int_eq(getsockname(daemon->listener, (struct sockaddr *)&address, &size), 0);
    snprintf(daemon->endpoint, sizeof daemon->endpoint, "http://127.0.0.1:%u",
             ntohs(address.sin_port));
    ck_assert_int_eq(pthread_create(&daemon->thread, NULL, run, daemon), 0);
}

void fake_daemon_stop(struct fake_daemon *daemon) {
    if (daemon->listener >= 0) {
        (void)shutdown(daemon->listener, SHUT_RDWR); // accept() returns
        (void)pthread_join(daemon->thread, NULL);
        (void)close(daemon->listener);
        daemon->listener = -1;
    }
}

void fake_daemon_finish(struct fake_daemon *daemon) {
    fake_daemon_stop(daemon);
    for (size_t i = 0; i < daemon->request_count; i++) {
        free(daemon->requests[i].body);
        daemon->requests[i].body = NULL;
    }
}
