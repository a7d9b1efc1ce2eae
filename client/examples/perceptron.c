// From the network to a model of adamd and back.
#include "perceptron.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LAYERS = 3, TENSORS = 2 * LAYERS, POLL_MS = 50 };

const struct network perceptron = {.layers = LAYERS,
                                   .widths = {DIGITS_PIXELS, 128, 64, DIGITS_CLASSES}};

// nn.Linear's shapes, in the order in which the parameters lie.
static const uint64_t shapes[TENSORS][2] = {
    {128, DIGITS_PIXELS}, {128}, {64, 128}, {64}, {DIGITS_CLASSES, 64}, {DIGITS_CLASSES},
};
static const adamd_tensor_t tensors[TENSORS] = {
    {"fc1.weight", shapes[0], 2, ADAMD_DTYPE_FLOAT32},
    {"fc1.bias", shapes[1], 1, ADAMD_DTYPE_FLOAT32},
    {"fc2.weight", shapes[2], 2, ADAMD_DTYPE_FLOAT32},
    {"fc2.bias", shapes[3], 1, ADAMD_DTYPE_FLOAT32},
    {"fc3.weight", shapes[4], 2, ADAMD_DTYPE_FLOAT32},
    {"fc3.bias", shapes[5], 1, ADAMD_DTYPE_FLOAT32},
};

bool complain_error(const char *doing, adamd_error_t *error) {
    (void)fprintf(stderr, "%s: %s (%s)\n", doing, adamd_error_message(error),
                  adamd_error_reason(error));
    adamd_error_destroy(error);
    return false;
}

static bool is_reason(const adamd_error_t *error, const char *reason) {
    return error != NULL && strcmp(adamd_error_reason(error), reason) == 0;
}

static adamd_error_t *put_first_parameters(adamd_client_t *client, const adamd_model_t *model,
                                           uint64_t seed) {
    const size_t count = network_parameter_count(&perceptron);
    float *params = malloc(count * sizeof *params);
    const adamd_data_t piece = {params, count * sizeof *params};

    if (params == NULL) {
        (void)fprintf(stderr, "out of memory\n");
        abort();
    }
    network_init(&perceptron, seed, params);
    adamd_error_t *error = adamd_put_parameters(client, model, &piece, 1, 0, 0);
    free(params);
    return error;
}

adamd_error_t *perceptron_create(adamd_client_t *client, const struct options *options) {
    adamd_adam_options_t adam = ADAMD_ADAMW_OPTIONS_INIT;
    adamd_policy_t policy = ADAMD_POLICY_INIT;
    adamd_model_options_t wanted = ADAMD_MODEL_OPTIONS_INIT;
    adamd_model_t *model = NULL;

    adam.lr = options->lr;
    adam.weight_decay = options->weight_decay;
    policy.trigger = ADAMD_TRIGGER_BARRIER;
    policy.min_workers = (uint32_t)options->min_workers;
    policy.lease_ms = (uint32_t)options->lease_ms;
    wanted.tensors = tensors;
    wanted.tensor_count = TENSORS;
    wanted.options = &adam;
    wanted.policy = &policy;
    adamd_error_t *error = adamd_model_create(client, &wanted);
    if (error != NULL && !is_reason(error, "EXISTS")) {
        return error;
    }
    adamd_error_destroy(error);
    error = adamd_model_get(client, NULL, &model);
    if (error == NULL && strcmp(adamd_model_state(model), "INITIALIZING") == 0) {
        error = put_first_parameters(client, model, options->seed);
    }
    adamd_model_destroy(model);
    return error;
}

static bool is_perceptron(const adamd_model_t *model) {
    bool same = adamd_model_tensor_count(model) == TENSORS;

    for (size_t i = 0; same && i < TENSORS; i++) {
        const adamd_tensor_t *tensor = adamd_model_tensor(model, i);
        same = strcmp(tensor->key, tensors[i].key) == 0 && tensor->rank == tensors[i].rank &&
               memcmp(tensor->shape, shapes[i], tensor->rank * sizeof shapes[i][0]) == 0;
    }
    return same;
}

enum sight { NOT_THERE, OURS, ANOTHER, UNKNOWN };

static enum sight look_for_model(adamd_client_t *client) {
    adamd_model_t *model = NULL;
    enum sight sight = NOT_THERE;
    adamd_error_t *error = adamd_model_get(client, NULL, &model);

    if (error != NULL && !is_reason(error, "NOT_FOUND")) {
        (void)complain_error("asking for the model", error);
        return UNKNOWN;
    }
    adamd_error_destroy(error);
    if (model != NULL && strcmp(adamd_model_state(model), "INITIALIZING") != 0) {
        sight = is_perceptron(model) ? OURS : ANOTHER;
    }
    adamd_model_destroy(model);
    return sight;
}

bool perceptron_await(adamd_client_t *client, const struct options *options) {
    const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
    enum sight sight = look_for_model(client);

    for (uint64_t waited_ms = 0; sight == NOT_THERE && waited_ms < options->wait_ms;
         waited_ms += POLL_MS) {
        (void)nanosleep(&pause, NULL);
        sight = look_for_model(client);
    }
    if (sight == NOT_THERE) {
        (void)fprintf(stderr, "model %s was not made: start a worker with --create\n",
                      options->model);
    }
    if (sight == ANOTHER) {
        (void)fprintf(stderr, "model %s has other tensors\n", options->model);
    }
    return sight == OURS;
}
