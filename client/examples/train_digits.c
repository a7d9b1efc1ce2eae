// A worker that holds nothing: it pulls parameters, computes a gradient and pushes it, and the
// daemon has everything else. Run N of these, and kill any of them at any time.
#include "digits.h"
#include "network.h"
#include "options.h"
#include "perceptron.h"

#include <adamd/client.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct worker {
    const struct options *options;
    const struct digits *digits;
    struct schedule schedule;
    adamd_session_t *session;
    float *params, *gradient;
    size_t count;     // of either
    uint64_t version; // of `params`
    double loss_sum;  // since the last report
    uint64_t loss_count;
};

static void print_score(uint64_t version, const char *name, double loss, double accuracy) {
    (void)printf("version %5llu   %s %.4f   held-out accuracy %.2f %%\n",
                 (unsigned long long)version, name, loss, 100.0 * accuracy);
}

static void report(struct worker *worker) {
    const struct network_score score = network_evaluate(
        &perceptron, worker->params, worker->digits->held_out, worker->digits->held_out_count);

    if (worker->loss_count > 0) {
        print_score(worker->version, "training loss", worker->loss_sum / (double)worker->loss_count,
                    score.accuracy);
    } else {
        print_score(worker->version, "held-out loss", score.loss, score.accuracy);
    }
    worker->loss_sum = 0.0;
    worker->loss_count = 0;
}

static adamd_error_t *pull(struct worker *worker) {
    const adamd_buffer_t buffer = {worker->params, worker->count * sizeof(float)};
    adamd_pull_options_t options = ADAMD_PULL_OPTIONS_INIT;
    adamd_pull_result_t result = ADAMD_PULL_RESULT_INIT;

    options.buffers = &buffer;
    options.buffer_count = 1;
    adamd_error_t *error = adamd_pull(worker->session, &options, &result);
    if (error == NULL) {
        worker->version = result.version;
    }
    return error;
}

// One round trip: the gradient goes up, and when the round has closed the next parameters come
// down.
static adamd_error_t *push_pull(struct worker *worker, double loss) {
    const adamd_buffer_t buffer = {worker->params, worker->count * sizeof(float)};
    const adamd_metric_t metric = {"loss", loss};
    adamd_push_options_t push = ADAMD_PUSH_OPTIONS_INIT;
    adamd_pull_options_t pull_options = ADAMD_PULL_OPTIONS_INIT;
    adamd_pull_result_t result = ADAMD_PULL_RESULT_INIT;

    push.flat = worker->gradient;
    push.flat_bytes = worker->count * sizeof(float);
    push.metrics = &metric;
    push.metric_count = 1;
    pull_options.buffers = &buffer;
    pull_options.buffer_count = 1;
    adamd_error_t *error = adamd_push_pull(worker->session, &push, &pull_options, NULL, &result);
    if (error == NULL) {
        worker->version = result.version;
    }
    return error;
}

// What a worker takes in its stride. STALE: it was slower than its lease, and the round closed
// without it. Or the daemon does not know this registration any more: it was started anew, or the
// model was restored. The gradient is dropped either way; everything else is in the daemon.
static adamd_error_t *catch_up(struct worker *worker, adamd_error_t *error) {
    const bool is_stale = strcmp(adamd_error_reason(error), "STALE") == 0;

    if (!is_stale && !adamd_error_wants_register(error)) {
        return error;
    }
    (void)printf("worker %llu catches up: %s\n", (unsigned long long)worker->options->rank,
                 adamd_error_reason(error));
    adamd_error_destroy(error);
    error = is_stale ? NULL : adamd_reregister(worker->session, NULL, NULL);
    return error != NULL ? error : pull(worker);
}

static adamd_error_t *train(struct worker *worker) {
    const struct options *options = worker->options;
    adamd_error_t *error = pull(worker);

    while (error == NULL && worker->version < options->steps) {
        const uint64_t from = worker->version;
        const uint32_t *rows = schedule_rows(&worker->schedule, from, options->rank);
        const float loss = network_gradient(&perceptron, worker->params, worker->digits->train,
                                            rows, options->batch, worker->gradient);

        error = push_pull(worker, (double)loss);
        if (error != NULL) {
            error = catch_up(worker, error);
            continue;
        }
        worker->loss_sum += (double)loss;
        worker->loss_count++;
        if (options->rank == 0 && worker->version / options->report != from / options->report) {
            report(worker);
        }
    }
    return error;
}

static adamd_error_t *join(struct worker *worker, adamd_client_t *client) {
    adamd_register_options_t options = ADAMD_REGISTER_OPTIONS_INIT;
    adamd_register_result_t result = ADAMD_REGISTER_RESULT_INIT;

    options.rank = (int64_t)worker->options->rank;
    adamd_error_t *error = adamd_register(client, &options, &worker->session, &result);
    if (error == NULL) {
        (void)printf("worker %u joins at version %llu, epoch %llu\n", result.rank,
                     (unsigned long long)result.version, (unsigned long long)result.epoch);
    }
    return error;
}

static void worker_finish(struct worker *worker) {
    adamd_session_destroy(worker->session);
    schedule_finish(&worker->schedule);
    free(worker->params);
    free(worker->gradient);
    *worker = (struct worker){0};
}

static bool worker_init(struct worker *worker, const struct options *options,
                        const struct digits *digits) {
    *worker = (struct worker){.options = options, .digits = digits};
    worker->count = network_parameter_count(&perceptron);
    worker->params = calloc(worker->count, sizeof(float));
    worker->gradient = calloc(worker->count, sizeof(float));
    if (worker->params == NULL || worker->gradient == NULL) {
        (void)fprintf(stderr, "out of memory\n");
        worker_finish(worker);
        return false;
    }
    if (!schedule_init(&worker->schedule, digits->train_count, options->workers, options->batch,
                       options->seed)) {
        (void)fprintf(stderr, "%zu rows are too few for --workers times --batch\n",
                      digits->train_count);
        worker_finish(worker);
        return false;
    }
    return true;
}

static bool run_worker(adamd_client_t *client, const struct options *options,
                       const struct digits *digits) {
    struct worker worker;

    if (!worker_init(&worker, options, digits)) {
        return false;
    }
    adamd_error_t *error = join(&worker, client);
    if (error == NULL) {
        error = train(&worker);
    }
    if (error == NULL) {
        (void)printf("worker %llu is done at version %llu\n", (unsigned long long)options->rank,
                     (unsigned long long)worker.version);
        error = adamd_deregister(worker.session, 0);
    }
    worker_finish(&worker);
    return error == NULL || complain_error("training", error);
}

static bool run_evaluation(adamd_client_t *client, const struct options *options,
                           const struct digits *digits) {
    const size_t count = network_parameter_count(&perceptron);
    float *params = calloc(count, sizeof *params);
    const adamd_buffer_t buffer = {params, count * sizeof *params};
    adamd_pull_options_t wanted = ADAMD_PULL_OPTIONS_INIT;
    adamd_pull_result_t result = ADAMD_PULL_RESULT_INIT;
    struct network_score score = {0};

    if (params == NULL) {
        (void)fprintf(stderr, "out of memory\n");
        return false;
    }
    wanted.buffers = &buffer;
    wanted.buffer_count = 1;
    adamd_error_t *error = adamd_pull_model(client, NULL, &wanted, &result);
    if (error == NULL) {
        score = network_evaluate(&perceptron, params, digits->held_out, digits->held_out_count);
        print_score(result.version, "held-out loss", score.loss, score.accuracy);
    }
    free(params);
    if (error != NULL) {
        return complain_error("pulling", error);
    }
    return 100.0 * score.accuracy >= options->require_accuracy;
}

static adamd_client_t *open_client(const struct options *options) {
    char reason[256] = "out of memory";
    char name[32];
    adamd_conf_t *conf = adamd_conf_new();
    adamd_client_t *client = NULL;

    (void)snprintf(name, sizeof name, "worker-%llu", (unsigned long long)options->rank);
    if (conf != NULL &&
        adamd_conf_set(conf, "endpoint", options->endpoint, reason, sizeof reason) == 0 &&
        adamd_conf_set(conf, "model", options->model, reason, sizeof reason) == 0 &&
        adamd_conf_set(conf, "worker", name, reason, sizeof reason) == 0) {
        client = adamd_client_new(conf, reason, sizeof reason);
    }
    if (client == NULL) {
        (void)fprintf(stderr, "train_digits: %s\n", reason);
        adamd_conf_destroy(conf);
    }
    return client;
}

static bool run(adamd_client_t *client, const struct options *options,
                const struct digits *digits) {
    if (options->create) {
        adamd_error_t *error = perceptron_create(client, options);
        if (error != NULL) {
            return complain_error("making the model", error);
        }
    }
    if (!perceptron_await(client, options)) {
        return false;
    }
    return options->evaluate ? run_evaluation(client, options, digits)
                             : run_worker(client, options, digits);
}

int main(int argc, char **argv) {
    struct options options;
    struct digits digits;
    bool good = false;
    const int status = options_read(&options, argc, argv);

    if (status >= 0) {
        return status;
    }
    (void)setvbuf(stdout, NULL, _IOLBF, BUFSIZ); // so that a log shows it as it goes
    if (!digits_load(&digits, options.data)) {
        return EXIT_FAILURE;
    }
    adamd_client_t *client = open_client(&options);
    if (client != NULL) {
        good = run(client, &options, &digits);
        adamd_client_destroy(client);
    }
    digits_finish(&digits);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
