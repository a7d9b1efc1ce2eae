/** What benchmarks share: clocks, medians, child processes, and lines about the machine. */
#ifndef ADAMD_BENCH_SUPPORT_H
#define ADAMD_BENCH_SUPPORT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/** Monotonic. */
uint64_t bench_now_ns(void);

/** The middle of `values`, which are sorted on the way. */
double bench_median(double *values, size_t count);

/** Model, cores and load of this machine, as comment lines. */
void bench_print_machine(void);

/** Ends the program with a message: a benchmark has nobody to report to. */
_Noreturn void bench_fail(const char *what);

/** A daemon of the benchmark's own. */
struct bench_daemon {
    pid_t pid;
    char endpoint[64];
    char port_file[64];
};

/** Starts `program` on a free loopback port; waits until it listens. */
struct bench_daemon bench_daemon_start(const char *program);
void bench_daemon_stop(struct bench_daemon *daemon);

/** Bytes of a line of /proc/PID/status, such as "VmHWM:". */
uint64_t bench_memory(pid_t pid, const char *line);

#endif
