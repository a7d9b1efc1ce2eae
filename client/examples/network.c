// Forward and backward, one row at a time: at this size the arithmetic is small beside a round
// trip, and the code stays as short as the mathematics.
#include "network.h"

#include "random.h"

#include <math.h>
#include <string.h>

// What the forward pass leaves for the backward one: each layer's inputs, and last the logits.
struct activations {
    float values[NETWORK_LAYERS_MAX + 1][NETWORK_WIDTH_MAX];
};

size_t network_offset(const struct network *network, size_t layer) {
    size_t offset = 0;

    for (size_t i = 0; i < layer; i++) {
        offset += (network->widths[i] + 1) * network->widths[i + 1];
    }
    return offset;
}

size_t network_parameter_count(const struct network *network) {
    return network_offset(network, network->layers);
}

void network_init(const struct network *network, uint64_t seed, float *ret_params) {
    struct random random = {.state = seed};

    for (size_t layer = 0; layer < network->layers; layer++) {
        const size_t weights = network->widths[layer] * network->widths[layer + 1];
        const float bound = sqrtf(6.0f / (float)network->widths[layer]);
        for (size_t i = 0; i < weights; i++) {
            *ret_params++ = (2.0f * random_float(&random) - 1.0f) * bound;
        }
        for (size_t i = 0; i < network->widths[layer + 1]; i++) {
            *ret_params++ = 0.0f;
        }
    }
}

// outputs = weight * inputs + bias
static void run_linear(const float *weight, const float *inputs, size_t input_count, float *outputs,
                       size_t output_count) {
    const float *bias = weight + input_count * output_count;

    for (size_t o = 0; o < output_count; o++) {
        float sum = bias[o];
        for (size_t i = 0; i < input_count; i++) {
            sum += weight[o * input_count + i] * inputs[i];
        }
        outputs[o] = sum;
    }
}

static void run_forward(const struct network *network, const float *params,
                        const struct digits_row *row, struct activations *activations) {
    memcpy(activations->values[0], row->pixels, network->widths[0] * sizeof(float));
    for (size_t layer = 0; layer < network->layers; layer++) {
        const size_t inputs = network->widths[layer];
        const size_t outputs = network->widths[layer + 1];
        float *out = activations->values[layer + 1];

        run_linear(params, activations->values[layer], inputs, out, outputs);
        for (size_t o = 0; layer + 1 < network->layers && o < outputs; o++) {
            out[o] = out[o] > 0.0f ? out[o] : 0.0f;
        }
        params += (inputs + 1) * outputs;
    }
}

// Cross-entropy of softmax(logits), whose gradient is softmax(logits) - onehot(class). Shifted by
// the largest logit, so that nothing overflows.
static float run_loss(const float *logits, size_t count, uint32_t class, float *ret_delta) {
    float largest = logits[0];
    float sum = 0.0f;

    for (size_t i = 1; i < count; i++) {
        largest = logits[i] > largest ? logits[i] : largest;
    }
    for (size_t i = 0; i < count; i++) {
        ret_delta[i] = expf(logits[i] - largest);
        sum += ret_delta[i];
    }
    for (size_t i = 0; i < count; i++) {
        ret_delta[i] /= sum;
    }
    ret_delta[class] -= 1.0f;
    return logf(sum) + largest - logits[class];
}

// Adds one layer's gradient, and turns the delta of its outputs into that of its inputs.
static void run_linear_backward(const float *weight, const float *inputs, size_t input_count,
                                const float *delta, size_t output_count, float *gradient,
                                float *ret_delta) {
    float *bias_gradient = gradient + input_count * output_count;

    memset(ret_delta, 0, input_count * sizeof *ret_delta);
    for (size_t o = 0; o < output_count; o++) {
        if (delta[o] == 0.0f) { // of a unit that was off
            continue;
        }
        for (size_t i = 0; i < input_count; i++) {
            gradient[o * input_count + i] += delta[o] * inputs[i];
            ret_delta[i] += delta[o] * weight[o * input_count + i];
        }
        bias_gradient[o] += delta[o];
    }
}

// `delta` is that of the logits at first.
static void run_backward(const struct network *network, const float *params,
                         const struct activations *activations, float *delta, float *gradient) {
    float below[NETWORK_WIDTH_MAX];

    for (size_t layer = network->layers; layer-- > 0;) {
        const size_t offset = network_offset(network, layer);
        const size_t inputs = network->widths[layer];
        const float *values = activations->values[layer];

        run_linear_backward(params + offset, values, inputs, delta, network->widths[layer + 1],
                            gradient + offset, below);
        for (size_t i = 0; i < inputs; i++) {
            delta[i] = values[i] > 0.0f ? below[i] : 0.0f; // ReLU passes on where it was on
        }
    }
}

float network_gradient(const struct network *network, const float *params,
                       const struct digits_row *rows, const uint32_t *indices, size_t count,
                       float *ret_gradient) {
    const size_t parameters = network_parameter_count(network);
    struct activations activations;
    float delta[NETWORK_WIDTH_MAX];
    float loss = 0.0f;

    memset(ret_gradient, 0, parameters * sizeof *ret_gradient);
    for (size_t i = 0; i < count; i++) {
        const struct digits_row *row = &rows[indices[i]];
        run_forward(network, params, row, &activations);
        loss += run_loss(activations.values[network->layers], network->widths[network->layers],
                         row->class, delta);
        run_backward(network, params, &activations, delta, ret_gradient);
    }
    for (size_t i = 0; i < parameters; i++) {
        ret_gradient[i] /= (float)count;
    }
    return loss / (float)count;
}

static uint32_t largest_index(const float *values, size_t count) {
    size_t largest = 0;

    for (size_t i = 1; i < count; i++) {
        largest = values[i] > values[largest] ? i : largest;
    }
    return (uint32_t)largest;
}

struct network_score network_evaluate(const struct network *network, const float *params,
                                      const struct digits_row *rows, size_t count) {
    const size_t classes = network->widths[network->layers];
    struct activations activations;
    float delta[NETWORK_WIDTH_MAX];
    struct network_score score = {0};

    for (size_t i = 0; i < count; i++) {
        const float *logits = activations.values[network->layers];
        run_forward(network, params, &rows[i], &activations);
        score.loss += (double)run_loss(logits, classes, rows[i].class, delta);
        score.accuracy += largest_index(logits, classes) == rows[i].class ? 1.0 : 0.0;
    }
    score.loss /= (double)count;
    score.accuracy /= (double)count;
    return score;
}
