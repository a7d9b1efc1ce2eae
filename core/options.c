// The options' checks. PyTorch's constructor is the text that this file follows, in its order.
#include "adamd/options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct adamd_options adamd_options_default = {
    .lr = 1e-3,
    .betas = {0.9, 0.999},
    .eps = 1e-8,
    .weight_decay = 0.0,
    .ints = ADAMD_NUMBER_WEIGHT_DECAY, // 0, not 0.0
};

enum { DIGITS_MAX = 24, REPR_MAX = 64 };

// The digits of a finite value without point ("15" of 1.5e-7), the fewest that read back as the
// same value, and the exponent of the first.
static int shortest_digits(double magnitude, char digits[DIGITS_MAX], int *ret_exponent) {
    char text[32];
    int count = 0;

    for (int precision = 0; precision < 17; precision++) {
        (void)snprintf(text, sizeof text, "%.*e", precision, magnitude);
        if (strtod(text, NULL) == magnitude) {
            break;
        }
    }
    for (const char *c = text; *c != 'e' && *c != '\0'; c++) {
        if (*c >= '0' && *c <= '9') {
            digits[count++] = *c;
        }
    }
    digits[count] = '\0';
    *ret_exponent = (int)strtol(strchr(text, 'e') + 1, NULL, 10);
    return count;
}

// Python's repr() of a float: users compare these texts with PyTorch's.
static const char *format_repr(double value, char text[REPR_MAX]) {
    const char *sign = signbit(value) && !isnan(value) ? "-" : "";
    char digits[DIGITS_MAX];
    int exponent = 0;

    if (!isfinite(value)) {
        (void)snprintf(text, REPR_MAX, "%s%s", sign, isnan(value) ? "nan" : "inf");
        return text;
    }
    const int count = shortest_digits(fabs(value), digits, &exponent);
    if (exponent < -4 || exponent >= 16) {
        (void)snprintf(text, REPR_MAX, "%s%c%s%se%c%02d", sign, digits[0], count > 1 ? "." : "",
                       digits + 1, exponent < 0 ? '-' : '+', abs(exponent));
    } else {
        const int decimals = count - 1 - exponent;
        (void)snprintf(text, REPR_MAX, "%.*f", decimals > 1 ? decimals : 1, value);
    }
    return text;
}

static enum adamd_status refuse(struct adamd_fault *fault, const char *field, const char *what,
                                double value, bool is_int) {
    char repr[REPR_MAX];

    if (is_int && isfinite(value)) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, field, "%s: %.0f", what, value);
    }
    return adamd_fail(fault, ADAMD_BAD_FIELD, field, "%s: %s", what, format_repr(value, repr));
}

static enum adamd_status refuse_text(struct adamd_fault *fault, const char *field,
                                     const char *text) {
    return adamd_fail(fault, ADAMD_BAD_FIELD, field, "%s", text);
}

// For a tensor and a multi-tensor loop that reads its value on the host.
static bool is_unreadable(const struct adamd_options *options) {
    return options->foreach == ADAMD_TRUE && !options->capturable;
}

static enum adamd_status check_lr(const struct adamd_options *options, struct adamd_fault *fault) {
    if (options->lr_is_tensor && is_unreadable(options)) {
        return refuse_text(fault, "lr",
                           "lr as a Tensor is not supported for capturable=False and foreach=True");
    }
    if (options->lr_is_tensor && options->lr_elements > 1) {
        return refuse_text(fault, "lr", "Tensor lr must be 1-element");
    }
    // Written "not at least 0", here and below, so that NaN is refused.
    if (!(options->lr >= 0.0)) {
        return refuse(fault, "lr", "Invalid learning rate", options->lr,
                      (options->ints & ADAMD_NUMBER_LR) != 0);
    }
    return ADAMD_OK;
}

static enum adamd_status check_numbers(const struct adamd_options *options,
                                       struct adamd_fault *fault) {
    if (!(options->eps >= 0.0)) {
        return refuse(fault, "eps", "Invalid epsilon value", options->eps,
                      (options->ints & ADAMD_NUMBER_EPS) != 0);
    }
    if (!(options->betas[0] >= 0.0 && options->betas[0] < 1.0)) {
        return refuse(fault, "betas[0]", "Invalid beta parameter at index 0", options->betas[0],
                      (options->ints & ADAMD_NUMBER_BETA0) != 0);
    }
    if (!(options->betas[1] >= 0.0 && options->betas[1] < 1.0)) {
        return refuse(fault, "betas[1]", "Invalid beta parameter at index 1", options->betas[1],
                      (options->ints & ADAMD_NUMBER_BETA1) != 0);
    }
    if (!(options->weight_decay >= 0.0)) {
        return refuse(fault, "weight_decay", "Invalid weight_decay value", options->weight_decay,
                      (options->ints & ADAMD_NUMBER_WEIGHT_DECAY) != 0);
    }
    return ADAMD_OK;
}

static enum adamd_status check_betas(const struct adamd_options *options,
                                     struct adamd_fault *fault) {
    if (options->betas_are_mixed ||
        (options->ints & (ADAMD_NUMBER_BETA0 | ADAMD_NUMBER_BETA1)) != 0) {
        return refuse_text(fault, "betas", "betas must be either both floats or both Tensors");
    }
    if (!options->betas_are_tensors) {
        return ADAMD_OK;
    }
    if (is_unreadable(options)) {
        return refuse_text(
            fault, "betas[0]",
            "betas[0] as a Tensor is not supported for capturable=False and foreach=True");
    }
    if (options->betas_elements[0] > 1) {
        return refuse_text(fault, "betas[0]", "Tensor betas[0] must be 1-element");
    }
    return options->betas_elements[1] > 1
               ? refuse_text(fault, "betas[1]", "Tensor betas[1] must be 1-element")
               : ADAMD_OK;
}

static enum adamd_status check_flags(const struct adamd_options *options,
                                     struct adamd_fault *fault) {
    if (options->fused == ADAMD_TRUE && options->differentiable) {
        return refuse_text(fault, "fused", "`fused` does not support `differentiable`");
    }
    if (options->fused == ADAMD_TRUE && options->foreach == ADAMD_TRUE) {
        return refuse_text(fault, "fused", "`fused` and `foreach` cannot be `True` together.");
    }
    if (options->foreach == ADAMD_TRUE && options->differentiable) {
        return refuse_text(fault, "foreach", "_foreach ops don't support autograd");
    }
    return ADAMD_OK;
}

enum adamd_status adamd_options_check(const struct adamd_options *options,
                                      struct adamd_fault *fault) {
    enum adamd_status status = check_lr(options, fault);

    status = status == ADAMD_OK ? check_numbers(options, fault) : status;
    status = status == ADAMD_OK ? check_betas(options, fault) : status;
    return status == ADAMD_OK ? check_flags(options, fault) : status;
}

// By way of memory: gcc 12 makes one vector of two such conversions side by side, and then forgets
// the rounding in it.
static double round_to_float(double value) {
    const volatile float rounded = (float)value;

    return (double)rounded;
}

void adamd_options_round(struct adamd_options *options) {
    if (options->lr_is_tensor) {
        options->lr = round_to_float(options->lr);
    }
    if (options->betas_are_tensors) {
        options->betas[0] = round_to_float(options->betas[0]);
        options->betas[1] = round_to_float(options->betas[1]);
    }
}
