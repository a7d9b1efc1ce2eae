// Push + step + pull from C, through libadamd-client and nothing else, in a process of its own: for
// each line on stdin it makes one round trip and prints the nanoseconds. The peer of
// bench_remote_adam.py.
//
//     bare_push_pull ENDPOINT MODEL COUNT
#include "adamd/client.h"

#include "bench_support.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static void need(adamd_error_t *error) {
    if (error != NULL) {
        fprintf(stderr, "%s: %s\n", adamd_error_reason(error), adamd_error_message(error));
        exit(1);
    }
}

static adamd_client_t *make_client(const char *endpoint, const char *model) {
    adamd_conf_t *conf = adamd_conf_new();
    char errstr[256] = "memory";
    adamd_client_t *client = NULL;

    if (conf == NULL || adamd_conf_set(conf, "endpoint", endpoint, errstr, sizeof errstr) != 0 ||
        adamd_conf_set(conf, "model", model, errstr, sizeof errstr) != 0 ||
        adamd_conf_set(conf, "worker", "w0", errstr, sizeof errstr) != 0) {
        bench_fail(errstr);
    }
    client = adamd_client_new(conf, errstr, sizeof errstr);
    if (client == NULL) {
        bench_fail(errstr);
    }
    return client;
}

// As RemoteAdam makes it: nothing is refused, so nothing is looked for.
static void make_model(adamd_client_t *client, uint64_t count, const float *start) {
    adamd_model_options_t options = ADAMD_MODEL_OPTIONS_INIT;
    adamd_policy_t policy = ADAMD_POLICY_INIT;
    const adamd_tensor_t tensor = {.key = "w", .shape = &count, .rank = 1};
    const adamd_data_t data = {start, count * sizeof *start};
    adamd_model_t *model = NULL;

    policy.nonfinite = ADAMD_NONFINITE_ALLOW;
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

int main(int argc, char **argv) {
    const size_t count = argc == 4 ? strtoull(argv[3], NULL, 10) : 0;
    adamd_push_options_t push = ADAMD_PUSH_OPTIONS_INIT;
    adamd_pull_options_t pull = ADAMD_PULL_OPTIONS_INIT;
    adamd_session_t *session = NULL;
    char line[16];

    if (count == 0) {
        bench_fail("usage: bare_push_pull ENDPOINT MODEL COUNT");
    }
    float *gradient = make_floats(count, 0.001F);
    float *params = make_floats(count, 0.0F);
    adamd_client_t *client = make_client(argv[1], argv[2]);
    const adamd_buffer_t buffer = {params, count * sizeof *params};

    make_model(client, count, params);
    need(adamd_register(client, NULL, &session, NULL));
    push.flat = gradient;
    push.flat_bytes = count * sizeof *gradient;
    pull.buffers = &buffer;
    pull.buffer_count = 1;
    while (fgets(line, sizeof line, stdin) != NULL) {
        const uint64_t begin = bench_now_ns();
        need(adamd_push_pull(session, &push, &pull, NULL, NULL));
        printf("%" PRIu64 "\n", bench_now_ns() - begin);
        fflush(stdout);
    }
    adamd_session_destroy(session);
    adamd_client_destroy(client);
    free(gradient);
    free(params);
    return 0;
}
