#include "bench_support.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

uint64_t bench_now_ns(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a;
    const double y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_median(double *values, size_t count) {
    qsort(values, count, sizeof *values, compare);
    return count % 2 == 1 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

void bench_fail(const char *what) {
    fprintf(stderr, "%s%s%s\n", what, errno != 0 ? ": " : "", errno != 0 ? strerror(errno) : "");
    exit(1);
}

/** The first line of a file that starts with `start`, from its first ':' or from the beginning. */
static void print_line(const char *path, const char *start, const char *label) {
    FILE *file = fopen(path, "re");
    char line[512];

    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, start, strlen(start)) == 0) {
            const char *colon = strchr(line, ':');
            printf("# %s:%s%s", label, colon != NULL ? "" : " ", colon != NULL ? colon + 1 : line);
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
}

void bench_print_machine(void) {
    print_line("/proc/cpuinfo", "model name", "processor");
    printf("# cores: %ld\n", sysconf(_SC_NPROCESSORS_ONLN));
    print_line("/proc/version", "Linux", "kernel");
    print_line("/proc/loadavg", "", "load before");
}

static int read_port(const char *path) {
    FILE *file = fopen(path, "re");
    char line[16] = "";

    if (file == NULL) {
        return 0;
    }
    if (fgets(line, sizeof line, file) == NULL) {
        line[0] = '\0';
    }
    fclose(file);
    return (int)strtol(line, NULL, 10);
}

static void sleep_ms(long ms) {
    const struct timespec pause = {ms / 1000, ms % 1000 * 1000000};

    nanosleep(&pause, NULL);
}

struct bench_daemon bench_daemon_start(const char *program) {
    struct bench_daemon daemon = {0};

    snprintf(daemon.port_file, sizeof daemon.port_file, "/tmp/adamd-bench-port-%d", (int)getpid());
    daemon.pid = fork();
    if (daemon.pid < 0) {
        bench_fail("fork");
    }
    if (daemon.pid == 0) {
        execl(program, program, "--listen", "127.0.0.1:0", "--port-file", daemon.port_file,
              "--log-level", "warn", (char *)NULL);
        _exit(127);
    }
    for (int waited = 0; waited < 10000; waited += 10) {
        const int port = read_port(daemon.port_file);

        if (port > 0) {
            snprintf(daemon.endpoint, sizeof daemon.endpoint, "http://127.0.0.1:%d", port);
            return daemon;
        }
        if (waitpid(daemon.pid, NULL, WNOHANG) == daemon.pid) {
            bench_fail("the daemon ended at its start");
        }
        sleep_ms(10);
    }
    bench_fail("the daemon does not listen");
}

void bench_daemon_stop(struct bench_daemon *daemon) {
    int status = 0;

    kill(daemon->pid, SIGTERM);
    waitpid(daemon->pid, &status, 0);
    unlink(daemon->port_file);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        errno = 0;
        bench_fail("the daemon did not end cleanly");
    }
}

uint64_t bench_memory(pid_t pid, const char *line) {
    char path[64];
    char text[256];
    uint64_t kilobytes = 0;

    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "re");

    while (file != NULL && fgets(text, sizeof text, file) != NULL) {
        if (strncmp(text, line, strlen(line)) == 0) {
            kilobytes = strtoull(text + strlen(line), NULL, 10);
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return kilobytes * 1024;
}
