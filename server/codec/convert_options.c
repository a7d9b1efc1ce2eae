// Options, policy, labels and durations: the parts that several requests share.
#include "codec/convert.h"

#include "codec/fields.h"
#include "codec/message.h"
#include "codec/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const uint64_t DURATION_MAX_MS = UINT64_C(7) * 24 * 3600 * 1000;

enum adamd_status codec_fail_at(struct adamd_fault *fault, enum adamd_status status,
                                const char *path) {
    char field[sizeof fault->field];

    if (fault != NULL && path[0] != 0) {
        (void)snprintf(field, sizeof field, "%s%s%.60s", path, fault->field[0] != 0 ? "." : "",
                       fault->field);
        (void)snprintf(fault->field, sizeof fault->field, "%s", field);
    }
    return status;
}

static enum adamd_tristate tristate_of(protobuf_c_boolean value) {
    return value ? ADAMD_TRUE : ADAMD_FALSE;
}

// By their names in AdamOptions.integers.
static const struct {
    const char *name;
    enum adamd_number number;
} numbers[] = {
    {"lr", ADAMD_NUMBER_LR},
    {"eps", ADAMD_NUMBER_EPS},
    {"weight_decay", ADAMD_NUMBER_WEIGHT_DECAY},
    {"betas[0]", ADAMD_NUMBER_BETA0},
    {"betas[1]", ADAMD_NUMBER_BETA1},
};
enum { NUMBERS = sizeof numbers / sizeof numbers[0] };

static double value_of(const struct adamd_options *options, enum adamd_number number) {
    switch (number) {
    case ADAMD_NUMBER_LR:
        return options->lr;
    case ADAMD_NUMBER_EPS:
        return options->eps;
    case ADAMD_NUMBER_WEIGHT_DECAY:
        return options->weight_decay;
    case ADAMD_NUMBER_BETA0:
        return options->betas[0];
    default:
        return options->betas[1];
    }
}

// A number that is set is a float again, unless it is named as an int.
static unsigned numbers_set(const Adamd__V1__AdamOptions *message) {
    return (message->lr_oneof_case != 0 ? ADAMD_NUMBER_LR : 0U) |
           (message->eps_oneof_case != 0 ? ADAMD_NUMBER_EPS : 0U) |
           (message->weight_decay_oneof_case != 0 ? ADAMD_NUMBER_WEIGHT_DECAY : 0U) |
           (message->n_betas != 0 ? (unsigned)ADAMD_NUMBER_BETA0 | ADAMD_NUMBER_BETA1 : 0U);
}

static enum adamd_status lay_integers(const Adamd__V1__AdamOptions *message,
                                      struct adamd_options *options, struct adamd_fault *fault) {
    const unsigned set = numbers_set(message);

    options->ints &= ~set;
    for (size_t i = 0; i < message->n_integers; i++) {
        char field[40];
        size_t k = 0;
        while (k < NUMBERS && strcmp(message->integers[i], numbers[k].name) != 0) {
            k++;
        }
        (void)snprintf(field, sizeof field, "integers[%zu]", i);
        if (k == NUMBERS) {
            return adamd_fail(fault, ADAMD_BAD_FIELD, field,
                              "\"%.40s\" is none of lr, eps, weight_decay, betas[0], betas[1]",
                              message->integers[i]);
        }
        if ((set & numbers[k].number) == 0) {
            continue;
        }
        const double value = value_of(options, numbers[k].number);
        if (value != floor(value)) {
            return adamd_fail(fault, ADAMD_BAD_FIELD, field, "%s is no integer: %.17g",
                              numbers[k].name, value);
        }
        options->ints |= numbers[k].number;
    }
    return ADAMD_OK;
}

static enum adamd_status lay_betas(const Adamd__V1__AdamOptions *message,
                                   struct adamd_options *options, struct adamd_fault *fault) {
    if (message->n_betas != 0 && message->n_betas != 2) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "betas", "betas are none or two numbers, not %zu",
                          message->n_betas);
    }
    if (message->n_tensor_betas > 2) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "tensor_betas",
                          "tensor_betas are none, one or two, not %zu", message->n_tensor_betas);
    }
    if (message->n_betas == 2) {
        options->betas[0] = message->betas[0];
        options->betas[1] = message->betas[1];
    }
    if (message->n_tensor_betas > 0) {
        const bool first = message->tensor_betas[0] != 0;
        const bool second = message->tensor_betas[message->n_tensor_betas - 1] != 0;
        options->betas_are_tensors = first && second;
        options->betas_are_mixed = first != second;
    }
    return ADAMD_OK;
}

static enum adamd_status lay(const Adamd__V1__AdamOptions *message, struct adamd_options *options,
                             struct adamd_fault *fault) {
    const enum adamd_status status = lay_betas(message, options, fault);

    if (status != ADAMD_OK) {
        return status;
    }
#define LAY(name, value)                   \
    if (message->name##_oneof_case != 0) { \
        options->name = (value);           \
    }
    LAY(lr, message->lr)
    LAY(eps, message->eps)
    LAY(weight_decay, message->weight_decay)
    LAY(amsgrad, message->amsgrad != 0)
    LAY(maximize, message->maximize != 0)
    LAY(foreach, tristate_of(message->foreach))
    LAY(capturable, message->capturable != 0)
    LAY(differentiable, message->differentiable != 0)
    LAY(fused, tristate_of(message->fused))
    LAY(decoupled_weight_decay, message->decoupled_weight_decay != 0)
#undef LAY
    if (message->tensor_lr_oneof_case != 0) {
        options->lr_is_tensor = message->tensor_lr != 0;
    }
    return lay_integers(message, options, fault);
}

enum adamd_status codec_options_lay(const Adamd__V1__AdamOptions *message, const char *path,
                                    struct adamd_options *options, struct adamd_fault *fault) {
    struct adamd_options laid = *options;
    struct adamd_options rounded;
    enum adamd_status status = ADAMD_OK;

    if (message != NULL) {
        status = lay(message, &laid, fault);
    }
    // Checked as it will hold; kept as it was said, since the next path of a mask may say that it
    // is no tensor.
    rounded = laid;
    adamd_options_round(&rounded);
    status = status == ADAMD_OK ? adamd_options_check(&rounded, fault) : status;
    if (status != ADAMD_OK) {
        return codec_fail_at(fault, status, path);
    }
    *options = laid;
    return ADAMD_OK;
}

// The message with one option and no other, but for what `integers` says of it. False if that
// option is not set.
static bool keep_option(Adamd__V1__AdamOptions *options, const ProtobufCFieldDescriptor *kept) {
    static const unsigned char zeros[sizeof(size_t)];
    bool set = false;

    for (unsigned i = 0; i < options->base.descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &options->base.descriptor->fields[i];
        unsigned char *quantifier = (unsigned char *)options + field->quantifier_offset;
        const bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED;
        const size_t size = repeated ? sizeof(size_t) : sizeof(uint32_t);
        if (field == kept) {
            set = memcmp(quantifier, zeros, size) != 0;
        } else if (strcmp(field->name, "integers") != 0) {
            memset(quantifier, 0, size);
        }
    }
    return set;
}

const ProtobufCFieldDescriptor *codec_option_find(const char *name) {
    const ProtobufCMessageDescriptor *type = &adamd__v1__adam_options__descriptor;

    for (unsigned i = 0; i < type->n_fields; i++) {
        if (codec_name_is(name, type->fields[i].name)) {
            return &type->fields[i];
        }
    }
    return NULL;
}

enum adamd_status codec_option_lay(const Adamd__V1__AdamOptions *message,
                                   const ProtobufCFieldDescriptor *option, const char *path,
                                   struct adamd_options *options, struct adamd_fault *fault) {
    Adamd__V1__AdamOptions one = ADAMD__V1__ADAM_OPTIONS__INIT;
    struct adamd_options none = *options;

    if (message != NULL) {
        one = *message;
        if (keep_option(&one, option)) {
            return codec_options_lay(&one, path, options, fault);
        }
    }
    if (strcmp(option->name, "foreach") == 0) {
        none.foreach = ADAMD_NONE;
    } else if (strcmp(option->name, "fused") == 0) {
        none.fused = ADAMD_NONE;
    } else {
        char field[80];
        (void)snprintf(field, sizeof field, "%s.%s", path, option->name);
        return adamd_fail(fault, ADAMD_BAD_FIELD, field,
                          "%s is named in update_mask, but missing in the message", field);
    }
    *options = none;
    return codec_options_lay(NULL, path, options, fault);
}

static bool fill_integers(struct codec_arena *arena, const struct adamd_options *options,
                          Adamd__V1__AdamOptions *message) {
    message->integers = codec_arena_array(arena, NUMBERS, sizeof *message->integers);
    for (size_t i = 0; message->integers != NULL && i < NUMBERS; i++) {
        if ((options->ints & numbers[i].number) != 0) {
            message->integers[message->n_integers++] = (char *)numbers[i].name;
        }
    }
    return message->integers != NULL;
}

static bool fill_betas(struct codec_arena *arena, const struct adamd_options *options,
                       Adamd__V1__AdamOptions *message) {
    message->betas = codec_arena_array(arena, 2, sizeof *message->betas);
    message->tensor_betas = codec_arena_array(arena, 1, sizeof *message->tensor_betas);
    if (message->betas == NULL || message->tensor_betas == NULL) {
        return false;
    }
    memcpy(message->betas, options->betas, sizeof options->betas);
    message->n_betas = 2;
    message->tensor_betas[0] = 1;
    message->n_tensor_betas = options->betas_are_tensors ? 1 : 0;
    return true;
}

Adamd__V1__AdamOptions *codec_options_message(struct codec_arena *arena,
                                              const struct adamd_options *given) {
    Adamd__V1__AdamOptions *message =
        CODEC_NEW(arena, Adamd__V1__AdamOptions, adamd__v1__adam_options);
    struct adamd_options rounded = *given;
    const struct adamd_options *options = &rounded;

    adamd_options_round(&rounded);
    if (message == NULL || !fill_betas(arena, options, message) ||
        !fill_integers(arena, options, message)) {
        return NULL;
    }
#define SET(name, NAME, value)                                                   \
    message->name##_oneof_case = ADAMD__V1__ADAM_OPTIONS__##NAME##_ONEOF_##NAME; \
    message->name = (value);
    SET(lr, LR, options->lr)
    SET(eps, EPS, options->eps)
    SET(weight_decay, WEIGHT_DECAY, options->weight_decay)
    SET(amsgrad, AMSGRAD, options->amsgrad)
    SET(maximize, MAXIMIZE, options->maximize)
    SET(capturable, CAPTURABLE, options->capturable)
    SET(differentiable, DIFFERENTIABLE, options->differentiable)
    SET(decoupled_weight_decay, DECOUPLED_WEIGHT_DECAY, options->decoupled_weight_decay)
    if (options->foreach != ADAMD_NONE) {
        SET(foreach, FOREACH, options->foreach == ADAMD_TRUE)
    }
    if (options->fused != ADAMD_NONE) {
        SET(fused, FUSED, options->fused == ADAMD_TRUE)
    }
    if (options->lr_is_tensor) {
        SET(tensor_lr, TENSOR_LR, true)
    }
#undef SET
    return message;
}

enum adamd_status codec_duration_read(const Google__Protobuf__Duration *message, const char *field,
                                      uint64_t max_ms, uint64_t *ret_ms,
                                      struct adamd_fault *fault) {
    if (message == NULL) {
        *ret_ms = 0;
        return ADAMD_OK;
    }
    if (message->seconds < 0 || message->nanos < 0 || message->nanos > 999999999) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, field, "%s: not a duration of 0 or more", field);
    }
    const uint64_t fraction_ms = ((uint64_t)message->nanos + 999999) / 1000000;
    if ((uint64_t)message->seconds > max_ms / 1000 ||
        (uint64_t)message->seconds * 1000 + fraction_ms > max_ms) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, field, "%s: longer than %" PRIu64 " s", field,
                          max_ms / 1000);
    }
    *ret_ms = (uint64_t)message->seconds * 1000 + fraction_ms;
    return ADAMD_OK;
}

static enum adamd_trigger trigger_of(Adamd__V1__StepPolicy__Trigger trigger) {
    switch (trigger) {
    case ADAMD__V1__STEP_POLICY__TRIGGER__TRIGGER_BARRIER:
        return ADAMD_BARRIER;
    case ADAMD__V1__STEP_POLICY__TRIGGER__TRIGGER_MANUAL:
        return ADAMD_MANUAL;
    default:
        return ADAMD_EACH_PUSH;
    }
}

static enum adamd_nonfinite nonfinite_of(Adamd__V1__StepPolicy__Nonfinite nonfinite) {
    switch (nonfinite) {
    case ADAMD__V1__STEP_POLICY__NONFINITE__NONFINITE_SKIP:
        return ADAMD_NONFINITE_SKIP;
    case ADAMD__V1__STEP_POLICY__NONFINITE__NONFINITE_ALLOW:
        return ADAMD_NONFINITE_ALLOW;
    default:
        return ADAMD_NONFINITE_REJECT;
    }
}

enum adamd_status codec_policy_take(const Adamd__V1__StepPolicy *message,
                                    struct adamd_policy *ret_policy, struct adamd_fault *fault) {
    struct adamd_policy policy = {.max_staleness = UINT64_MAX};

    if (message != NULL) {
        enum adamd_status status = codec_duration_read(message->deadline, "step_policy.deadline",
                                                       DURATION_MAX_MS, &policy.deadline_ms, fault);
        if (status == ADAMD_OK) {
            status = codec_duration_read(message->lease, "step_policy.lease", DURATION_MAX_MS,
                                         &policy.lease_ms, fault);
        }
        if (status != ADAMD_OK) {
            return status;
        }
        policy.trigger = trigger_of(message->trigger);
        policy.nonfinite = nonfinite_of(message->nonfinite);
        policy.quorum = message->quorum;
        policy.min_workers = message->min_workers;
        if (message->max_staleness_oneof_case != 0) {
            policy.max_staleness = message->max_staleness;
        }
    }
    *ret_policy = policy;
    return ADAMD_OK;
}

enum adamd_status codec_policy_read(const Adamd__V1__StepPolicy *message,
                                    struct adamd_policy *ret_policy, struct adamd_fault *fault) {
    struct adamd_policy policy;
    enum adamd_status status = codec_policy_take(message, &policy, fault);

    if (status != ADAMD_OK) {
        return status;
    }
    status = adamd_policy_check(&policy, fault);
    if (status == ADAMD_OK) {
        *ret_policy = policy;
    }
    return status;
}

Adamd__V1__StepPolicy *codec_policy_message(struct codec_arena *arena,
                                            const struct adamd_policy *policy) {
    static const Adamd__V1__StepPolicy__Trigger triggers[] = {
        [ADAMD_EACH_PUSH] = ADAMD__V1__STEP_POLICY__TRIGGER__TRIGGER_EACH_PUSH,
        [ADAMD_BARRIER] = ADAMD__V1__STEP_POLICY__TRIGGER__TRIGGER_BARRIER,
        [ADAMD_MANUAL] = ADAMD__V1__STEP_POLICY__TRIGGER__TRIGGER_MANUAL,
    };
    static const Adamd__V1__StepPolicy__Nonfinite nonfinites[] = {
        [ADAMD_NONFINITE_REJECT] = ADAMD__V1__STEP_POLICY__NONFINITE__NONFINITE_REJECT,
        [ADAMD_NONFINITE_SKIP] = ADAMD__V1__STEP_POLICY__NONFINITE__NONFINITE_SKIP,
        [ADAMD_NONFINITE_ALLOW] = ADAMD__V1__STEP_POLICY__NONFINITE__NONFINITE_ALLOW,
    };
    enum { LEASE_DEFAULT_MS = 30000 };
    const uint64_t lease_ms = policy->lease_ms != 0 ? policy->lease_ms : LEASE_DEFAULT_MS;
    Adamd__V1__StepPolicy *message =
        CODEC_NEW(arena, Adamd__V1__StepPolicy, adamd__v1__step_policy);

    if (message == NULL) {
        return NULL;
    }
    message->trigger = triggers[policy->trigger];
    message->nonfinite = nonfinites[policy->nonfinite];
    message->quorum = policy->quorum;
    message->min_workers = policy->min_workers;
    if (policy->max_staleness != UINT64_MAX) {
        message->max_staleness_oneof_case =
            ADAMD__V1__STEP_POLICY__MAX_STALENESS_ONEOF_MAX_STALENESS;
        message->max_staleness = policy->max_staleness;
    }
    message->lease = codec_duration(arena, lease_ms * 1000000);
    if (policy->deadline_ms != 0) {
        message->deadline = codec_duration(arena, policy->deadline_ms * 1000000);
    }
    return message->lease == NULL || (policy->deadline_ms != 0 && message->deadline == NULL)
               ? NULL
               : message;
}

static enum adamd_status check_label(const Adamd__V1__Label *label, size_t index,
                                     const struct codec_label *earlier, struct adamd_fault *fault) {
    char field[32];
    const size_t key_size = strlen(label->key);

    (void)snprintf(field, sizeof field, "labels[%zu].key", index);
    if (key_size == 0 || key_size > CODEC_LABEL_KEY_MAX) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, field, "the key of a label has 1 to %d bytes",
                          CODEC_LABEL_KEY_MAX);
    }
    for (size_t i = 0; i < index; i++) {
        if (strcmp(earlier[i].key, label->key) == 0) {
            return adamd_fail(fault, ADAMD_BAD_FIELD, field, "the key \"%s\" is given twice",
                              label->key);
        }
    }
    (void)snprintf(field, sizeof field, "labels[%zu].value", index);
    if (strlen(label->value) > CODEC_LABEL_VALUE_MAX) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, field,
                          "the value of a label has at most %d bytes", CODEC_LABEL_VALUE_MAX);
    }
    return ADAMD_OK;
}

enum adamd_status codec_labels_read(Adamd__V1__Label *const *messages, size_t count,
                                    struct codec_label *ret_labels, size_t *ret_count,
                                    struct adamd_fault *fault) {
    if (count > CODEC_LABELS_MAX) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "labels", "%zu labels, at most %d", count,
                          CODEC_LABELS_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        const enum adamd_status status = check_label(messages[i], i, ret_labels, fault);
        if (status != ADAMD_OK) {
            return status;
        }
        (void)snprintf(ret_labels[i].key, sizeof ret_labels[i].key, "%s", messages[i]->key);
        (void)snprintf(ret_labels[i].value, sizeof ret_labels[i].value, "%s", messages[i]->value);
    }
    *ret_count = count;
    return ADAMD_OK;
}

enum adamd_status codec_display_name_read(const char *text, char *to, struct adamd_fault *fault) {
    if (strlen(text) > CODEC_DISPLAY_NAME_MAX) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "display_name",
                          "display_name has more than %d bytes", CODEC_DISPLAY_NAME_MAX);
    }
    (void)snprintf(to, CODEC_DISPLAY_NAME_MAX + 1, "%s", text);
    return ADAMD_OK;
}
