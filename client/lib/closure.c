// optimizer.step(closure): hooks, the caller's function, a push, and what else makes a step.

#include "internal.h"

#include <stdlib.h>
#include <string.h>

// What the session's calls are given: the push with the loss among its metrics.
struct step {
    adamd_session_t *session;
    struct adamd_push_options push;
    struct adamd_pull_options pull;
    bool has_pull;
    struct adamd_metric *metrics;
    struct adamd_push_result push_result;
    struct adamd_pull_result pull_result;
};

static struct adamd_error *take_args(struct step *step, const struct adamd_step_args *args) {
    struct adamd_error *error = NULL;

    step->push = (struct adamd_push_options)ADAMD_PUSH_OPTIONS_INIT;
    step->pull = (struct adamd_pull_options)ADAMD_PULL_OPTIONS_INIT;
    if (args->push == NULL) {
        return error_argument("push", "a step is made of a push");
    }
    error = take_options(&step->push, args->push);
    if (error == NULL && args->pull != NULL) {
        error = take_options(&step->pull, args->pull);
        step->has_pull = true;
    }
    return error;
}

// The caller's metrics, without a "loss" of theirs, and the loss.
static struct adamd_error *add_loss(struct step *step, double loss) {
    const struct adamd_metric *given = step->push.metrics;
    size_t count = 0;

    if (given == NULL && step->push.metric_count > 0) {
        return error_argument("metrics", "there are none");
    }
    step->metrics = calloc(step->push.metric_count + 1, sizeof *step->metrics);
    if (step->metrics == NULL) {
        return error_no_memory();
    }
    for (size_t i = 0; i < step->push.metric_count; i++) {
        if (given[i].key == NULL || strcmp(given[i].key, "loss") != 0) {
            step->metrics[count++] = given[i];
        }
    }
    step->metrics[count++] = (struct adamd_metric){"loss", loss};
    step->push.metrics = step->metrics;
    step->push.metric_count = count;
    return NULL;
}

// MANUAL: what was accumulated becomes a step, and what was pulled with the push is older than it.
static struct adamd_error *make_step(struct step *step, const struct adamd_step_options *options) {
    struct adamd_step_result result = ADAMD_STEP_RESULT_INIT;
    struct adamd_error *error = adamd_optim_step(step->session, options, &result);

    if (error != NULL) {
        return error;
    }
    step->push_result.version = result.version;
    return step->has_pull ? adamd_pull(step->session, &step->pull, &step->pull_result) : NULL;
}

static struct adamd_error *send_step(struct step *step, const struct adamd_step_options *options) {
    struct adamd_error *error = NULL;

    if (step->has_pull) {
        error = adamd_push_pull(step->session, &step->push, &step->pull, &step->push_result,
                                &step->pull_result);
    } else {
        error = adamd_push(step->session, &step->push, &step->push_result);
    }
    if (error == NULL && step->push_result.outcome == ADAMD_OUTCOME_STAGED) {
        error = make_step(step, options);
    }
    return error;
}

static struct adamd_error *run(struct step *step, adamd_closure_t closure, void *closure_arg,
                               struct hook_call *call, double *ret_loss) {
    const struct adamd_step_args *args = call->call.args;
    double loss = 0.0;
    struct adamd_error *error = hooks_run(call);

    if (error == NULL && closure != NULL) {
        error = closure(closure_arg, &loss);
    }
    if (error == NULL) {
        error = take_args(step, args);
    }
    if (error == NULL && closure != NULL) {
        error = add_loss(step, loss);
    }
    if (error == NULL) {
        error = send_step(step, args->step);
    }
    if (error == NULL && closure != NULL && ret_loss != NULL) {
        *ret_loss = loss;
    }
    return error;
}

adamd_error_t *adamd_step_closure(adamd_session_t *session, adamd_closure_t closure,
                                  void *closure_arg, const adamd_step_args_t *args,
                                  double *ret_loss, adamd_push_result_t *push_result,
                                  adamd_pull_result_t *pull_result) {
    struct adamd_step_args local = ADAMD_STEP_ARGS_INIT;
    struct step step = {.session = session,
                        .push_result = ADAMD_PUSH_RESULT_INIT,
                        .pull_result = ADAMD_PULL_RESULT_INIT};
    struct hook_call call = {
        .call = {
            .size = sizeof call.call, .event = ADAMD_STEP_PRE, .session = session, .args = &local}};
    struct adamd_error *error = take_options(&local, args);

    if (error == NULL) {
        error = run(&step, closure, closure_arg, &call, ret_loss);
    }
    if (step.push_result.outcome != ADAMD_OUTCOME_NONE) {
        give_result(&step.push_result, push_result);
    }
    if (error == NULL) {
        give_result(&step.pull_result, pull_result);
        call.call.event = ADAMD_STEP_POST;
        error = hooks_run(&call);
    }
    free(step.metrics);
    return error;
}
