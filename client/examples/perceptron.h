/**
 * The example's network as adamd sees it: which one it is, its tensors, and how a model of it is
 * made.
 */
#ifndef EXAMPLE_PERCEPTRON_H
#define EXAMPLE_PERCEPTRON_H

#include "network.h"
#include "options.h"

#include <adamd/client.h>

extern const struct network perceptron;

/** Makes the model and gives it its first parameters. A model that is there already is left as it
 * is, but for one that its maker left without parameters. */
adamd_error_t *perceptron_create(adamd_client_t *client, const struct options *options);

/** Waits until the model has parameters, and checks that it is this network. */
bool perceptron_await(adamd_client_t *client, const struct options *options);

/** Says on stderr what failed, and frees the error. Always false. */
bool complain_error(const char *doing, adamd_error_t *error);

#endif
