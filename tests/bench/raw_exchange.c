#include "raw_exchange.h"

#include "bench_support.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static bool send_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        const ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);

        if (sent <= 0) {
            return false;
        }
        data += sent;
        size -= (size_t)sent;
    }
    return true;
}

static bool receive_all(int fd, char *data, size_t size) {
    while (size > 0) {
        const ssize_t got = recv(fd, data, size, 0);

        if (got <= 0) {
            return false;
        }
        data += got;
        size -= (size_t)got;
    }
    return true;
}

static void set_nodelay(int fd) {
    const int on = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void serve(int fd, size_t bytes) {
    char *in = malloc(bytes);
    char *out = malloc(bytes);

    if (in == NULL || out == NULL) {
        _exit(1);
    }
    memset(in, 1, bytes);
    memset(out, 1, bytes);
    set_nodelay(fd);
    while (receive_all(fd, in, bytes) && send_all(fd, out, bytes)) {
    }
    free(in);
    free(out);
    _exit(0);
}

static void accept_all(int listener, size_t bytes) {
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        const int fd = accept(listener, NULL, NULL);

        if (fd < 0) {
            _exit(1);
        }
        if (fork() == 0) {
            close(listener);
            serve(fd, bytes);
        }
        close(fd);
    }
}

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in address = {0};

    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)port);
    return address;
}

struct raw_server raw_server_start(size_t bytes) {
    struct sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    const int listener = socket(AF_INET, SOCK_STREAM, 0);

    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, 16) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) != 0) {
        bench_fail("no socket to listen on");
    }
    const struct raw_server server = {fork(), ntohs(address.sin_port)};

    if (server.pid == 0) {
        accept_all(listener, bytes);
    }
    close(listener);
    return server;
}

void raw_server_stop(const struct raw_server *server) {
    kill(server->pid, SIGKILL);
    waitpid(server->pid, NULL, 0);
}

int raw_connect(const struct raw_server *server) {
    const struct sockaddr_in address = loopback(server->port);
    const int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        bench_fail("cannot connect to the raw server");
    }
    set_nodelay(fd);
    return fd;
}

void raw_exchange(int fd, const void *out, void *in, size_t bytes) {
    if (!send_all(fd, out, bytes) || !receive_all(fd, in, bytes)) {
        bench_fail("the raw server is gone");
    }
}
