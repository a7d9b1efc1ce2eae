/**
 * A multi-layer perceptron in plain C: linear layers with ReLU between them, and softmax
 * cross-entropy at the end. The parameters are one array of float32, in the order of
 * nn.Sequential: weight (outputs x inputs, row-major) and bias of each layer.
 *
 * Nothing here allocates or knows of any service.
 */
#ifndef EXAMPLE_NETWORK_H
#define EXAMPLE_NETWORK_H

#include "digits.h"

enum { NETWORK_LAYERS_MAX = 4, NETWORK_WIDTH_MAX = 256 };

/** widths[0] inputs, widths[layers] classes. */
struct network {
    size_t layers;
    size_t widths[NETWORK_LAYERS_MAX + 1];
};

size_t network_parameter_count(const struct network *network);
/** Where the weight of `layer` begins, in elements; its bias follows. */
size_t network_offset(const struct network *network, size_t layer);

/** He initialisation, as torch.nn.init.kaiming_uniform_ has it, and zero biases. */
void network_init(const struct network *network, uint64_t seed, float *ret_params);

/**
 * Mean loss over `rows[indices[0 .. count)]`, and its gradient in `ret_gradient`, which is
 * overwritten. The same inputs give the same bits.
 */
float network_gradient(const struct network *network, const float *params,
                       const struct digits_row *rows, const uint32_t *indices, size_t count,
                       float *ret_gradient);

struct network_score {
    double loss, accuracy; // means over the rows
};

struct network_score network_evaluate(const struct network *network, const float *params,
                                      const struct digits_row *rows, size_t count);

#endif
