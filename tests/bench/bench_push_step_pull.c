// Push + step + pull through the daemon over loopback HTTP, beside a raw socket program that moves
// the same bytes both ways and the bare step, in the same run, round by round.
//
//     bench_push_step_pull [--daemon PROGRAM] [--count ELEMENTS] [--rounds N] [--workers N]...
#include "adamd/client.h"

#include "bench_support.h"
#include "raw_exchange.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS_MAX = 8, ROUNDS_MAX = 1000, WARM_UP = 3 };

enum way { ONE_TRIP, TWO_TRIPS, RAW, STEP, WAY_COUNT };

struct settings {
    char daemon[4096], directory[4096];
    size_t count, rounds;
    size_t workers[WORKERS_MAX];
    size_t worker_runs;
};

struct run;

/** One worker: a thread with a connection to the daemon and one to the raw server. */
struct lane {
    pthread_t thread;
    struct run *run;
    adamd_client_t *client;
    adamd_session_t *session;
    int raw;
    float *gradient, *params;
};

struct run {
    const struct settings *settings;
    size_t workers, bytes;
    struct lane lanes[WORKERS_MAX];
    pthread_barrier_t begin, end;
    enum way way;
    bool over;
    pid_t step_pid;
    FILE *step_in, *step_out;
    double times[WAY_COUNT][ROUNDS_MAX];
};

static void need(adamd_error_t *error) {
    if (error != NULL) {
        fprintf(stderr, "%s: %s\n", adamd_error_reason(error), adamd_error_message(error));
        exit(1);
    }
}

static void push_pull(struct lane *lane, bool one_trip) {
    adamd_push_options_t push = ADAMD_PUSH_OPTIONS_INIT;
    adamd_pull_options_t pull = ADAMD_PULL_OPTIONS_INIT;
    const adamd_buffer_t buffer = {lane->params, lane->run->bytes};

    push.flat = lane->gradient;
    push.flat_bytes = lane->run->bytes;
    pull.buffers = &buffer;
    pull.buffer_count = 1;
    if (one_trip) {
        need(adamd_push_pull(lane->session, &push, &pull, NULL, NULL));
        return;
    }
    need(adamd_push(lane->session, &push, NULL));
    need(adamd_pull(lane->session, &pull, NULL));
}

static void *work(void *arg) {
    struct lane *lane = arg;
    struct run *run = lane->run;

    for (;;) {
        pthread_barrier_wait(&run->begin);
        if (run->over) {
            return NULL;
        }
        if (run->way == RAW) {
            raw_exchange(lane->raw, lane->gradient, lane->params, run->bytes);
        } else {
            push_pull(lane, run->way == ONE_TRIP);
        }
        pthread_barrier_wait(&run->end);
    }
}

static adamd_client_t *make_client(const char *endpoint, size_t worker) {
    adamd_conf_t *conf = adamd_conf_new();
    char errstr[256] = "";
    char name[32];

    snprintf(name, sizeof name, "w%zu", worker);
    if (conf == NULL || adamd_conf_set(conf, "endpoint", endpoint, errstr, sizeof errstr) != 0 ||
        adamd_conf_set(conf, "model", "bench", errstr, sizeof errstr) != 0 ||
        adamd_conf_set(conf, "worker", name, errstr, sizeof errstr) != 0) {
        bench_fail(errstr);
    }
    adamd_client_t *client = adamd_client_new(conf, errstr, sizeof errstr);

    if (client == NULL) {
        bench_fail(errstr);
    }
    return client;
}

static void make_model(struct run *run, adamd_client_t *client, const float *start) {
    adamd_model_options_t options = ADAMD_MODEL_OPTIONS_INIT;
    adamd_policy_t policy = ADAMD_POLICY_INIT;
    const uint64_t shape = run->settings->count;
    const adamd_tensor_t tensor = {.key = "w", .shape = &shape, .rank = 1};
    const adamd_data_t data = {start, run->bytes};
    adamd_model_t *model = NULL;

    policy.trigger = run->workers > 1 ? ADAMD_TRIGGER_BARRIER : ADAMD_TRIGGER_EACH_PUSH;
    options.tensors = &tensor;
    options.tensor_count = 1;
    options.policy = &policy;
    need(adamd_model_create(client, &options));
    need(adamd_model_get(client, NULL, &model));
    need(adamd_put_parameters(client, model, &data, 1, 0, 0));
    adamd_model_destroy(model);
}

static float *make_floats(size_t count, float scale) {
    float *values = malloc(count * sizeof *values);

    if (values == NULL) {
        bench_fail("memory");
    }
    for (size_t i = 0; i < count; i++) {
        values[i] = scale * (float)(i % 1000) - 0.5F;
    }
    return values;
}

static void start_lanes(struct run *run, const char *endpoint, const struct raw_server *raw) {
    for (size_t i = 0; i < run->workers; i++) {
        struct lane *lane = &run->lanes[i];

        lane->run = run;
        lane->client = make_client(endpoint, i);
        lane->gradient = make_floats(run->settings->count, 0.001F);
        lane->params = make_floats(run->settings->count, 0.0F);
        lane->raw = raw_connect(raw);
        if (i == 0) {
            make_model(run, lane->client, lane->params);
        }
        need(adamd_register(lane->client, NULL, &lane->session, NULL));
    }
    // Threads only now: a barrier's round waits for all who are registered.
    for (size_t i = 0; i < run->workers; i++) {
        if (pthread_create(&run->lanes[i].thread, NULL, work, &run->lanes[i]) != 0) {
            bench_fail("thread");
        }
    }
}

static void end_lanes(struct run *run) {
    run->over = true;
    pthread_barrier_wait(&run->begin);
    for (size_t i = 0; i < run->workers; i++) {
        struct lane *lane = &run->lanes[i];

        pthread_join(lane->thread, NULL);
        adamd_session_destroy(lane->session);
        adamd_client_destroy(lane->client);
        close(lane->raw);
        free(lane->gradient);
        free(lane->params);
    }
}

/** bare_step lies beside this program. */
static void start_step(struct run *run) {
    int in[2];
    int out[2];

    if (pipe(in) != 0 || pipe(out) != 0 || (run->step_pid = fork()) < 0) {
        bench_fail("pipe");
    }
    if (run->step_pid == 0) {
        char program[4200];
        char count[24];
        char sources[24];

        snprintf(program, sizeof program, "%s/bare_step", run->settings->directory);
        snprintf(count, sizeof count, "%zu", run->settings->count);
        snprintf(sources, sizeof sources, "%zu", run->workers);
        dup2(in[0], 0);
        dup2(out[1], 1);
        close(in[1]);
        close(out[0]);
        execl(program, program, count, sources, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    run->step_in = fdopen(in[1], "w");
    run->step_out = fdopen(out[0], "r");
    if (run->step_in == NULL || run->step_out == NULL) {
        bench_fail("pipe");
    }
}

static double step_once(struct run *run) {
    char line[32];

    fputs("\n", run->step_in);
    fflush(run->step_in);
    if (fgets(line, sizeof line, run->step_out) == NULL) {
        bench_fail("bare_step ended");
    }
    return strtod(line, NULL) / 1e6;
}

static void end_step(struct run *run) {
    fclose(run->step_in);
    fclose(run->step_out);
    waitpid(run->step_pid, NULL, 0);
}

static double time_once(struct run *run, enum way way) {
    if (way == STEP) {
        return step_once(run);
    }
    run->way = way;
    const uint64_t begin = bench_now_ns();

    pthread_barrier_wait(&run->begin);
    pthread_barrier_wait(&run->end);
    return (double)(bench_now_ns() - begin) / 1e6;
}

static void measure(struct run *run) {
    for (int round = 0; round < WARM_UP * WAY_COUNT; round++) {
        (void)time_once(run, (enum way)(round % WAY_COUNT));
    }
    for (size_t round = 0; round < run->settings->rounds; round++) {
        for (int way = 0; way < WAY_COUNT; way++) {
            run->times[way][round] = time_once(run, (enum way)way);
        }
    }
}

static void print_results(struct run *run, const struct bench_daemon *daemon) {
    double median[WAY_COUNT];

    for (int way = 0; way < WAY_COUNT; way++) {
        median[way] = bench_median(run->times[way], run->settings->rounds);
    }
    const double bare = median[RAW] + median[STEP];

    printf("%7zu  %8.2f  %8.2f  %8.2f  %8.2f  %8.2f  %5.2f  %5.2f  %6.0f\n", run->workers,
           median[ONE_TRIP], median[TWO_TRIPS], median[RAW], median[STEP], bare,
           median[ONE_TRIP] / bare, median[TWO_TRIPS] / bare,
           (double)bench_memory(daemon->pid, "VmHWM:") / (1 << 20));
    fflush(stdout);
}

static void run_workers(const struct settings *settings, size_t workers) {
    struct run *run = calloc(1, sizeof *run);

    if (run == NULL) {
        bench_fail("memory");
    }
    run->settings = settings;
    run->workers = workers;
    run->bytes = settings->count * sizeof(float);
    pthread_barrier_init(&run->begin, NULL, (unsigned)workers + 1);
    pthread_barrier_init(&run->end, NULL, (unsigned)workers + 1);

    // Processes are forked before there are threads.
    struct bench_daemon daemon = bench_daemon_start(settings->daemon);
    const struct raw_server raw = raw_server_start(run->bytes);

    start_step(run);
    start_lanes(run, daemon.endpoint, &raw);
    measure(run);
    print_results(run, &daemon);
    end_lanes(run);
    end_step(run);
    raw_server_stop(&raw);
    bench_daemon_stop(&daemon);
    pthread_barrier_destroy(&run->begin);
    pthread_barrier_destroy(&run->end);
    free(run);
}

static size_t parse_number(const char *text, size_t max) {
    char *end = NULL;
    const unsigned long long number = strtoull(text, &end, 10);

    if (*end != '\0' || number == 0 || number > max) {
        bench_fail("not a number that is possible here");
    }
    return (size_t)number;
}

static void parse(struct settings *settings, int argc, char **argv) {
    if (argc % 2 == 0) {
        bench_fail("options: --daemon PATH, --count N, --rounds N, --workers N");
    }
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--daemon") == 0) {
            snprintf(settings->daemon, sizeof settings->daemon, "%s", argv[i + 1]);
        } else if (strcmp(argv[i], "--count") == 0) {
            settings->count = parse_number(argv[i + 1], 1000000000);
        } else if (strcmp(argv[i], "--rounds") == 0) {
            settings->rounds = parse_number(argv[i + 1], ROUNDS_MAX);
        } else if (strcmp(argv[i], "--workers") == 0 && settings->worker_runs < WORKERS_MAX) {
            settings->workers[settings->worker_runs++] = parse_number(argv[i + 1], WORKERS_MAX);
        } else {
            bench_fail(argv[i]);
        }
    }
}

int main(int argc, char **argv) {
    static struct settings settings = {.count = 10000000, .rounds = 15};
    const ssize_t length =
        readlink("/proc/self/exe", settings.directory, sizeof settings.directory - 1);
    char *slash = length > 0 ? strrchr(settings.directory, '/') : NULL;

    if (slash == NULL) {
        bench_fail("/proc/self/exe");
    }
    *slash = '\0';
    snprintf(settings.daemon, sizeof settings.daemon, "%.4000s/adamd", settings.directory);
    parse(&settings, argc, argv);
    if (settings.worker_runs == 0) {
        settings.workers[settings.worker_runs++] = 1;
        settings.workers[settings.worker_runs++] = 2;
    }
    bench_print_machine();
    printf("# %zu float32, %.1f MB each way; %zu rounds; medians in ms; bare = raw + step\n",
           settings.count, (double)settings.count * 4e-6, settings.rounds);
    printf("workers  one trip  two trip       raw      step      bare  ratio   two   peak MiB\n");
    for (size_t i = 0; i < settings.worker_runs; i++) {
        run_workers(&settings, settings.workers[i]);
    }
    return 0;
}
