// Plain loops: slow, obvious, and the same bits as every backend. Values pass as doubles, which
// hold those of every dtype.
#include "plain_ops.h"

#include "adamd/backend_impl.h"
#include "adamd/differentiate.h"
#include "adamd/square_sum.h"
#include "adamd/update.h"

#include <string.h>

static unsigned char *address(const struct adamd_buffer *buffer, uint64_t offset,
                              enum adamd_dtype dtype, uint64_t i) {
    return (unsigned char *)buffer->host + offset + i * adamd_dtype_size(dtype);
}

static double get(const struct adamd_buffer *buffer, uint64_t offset, enum adamd_dtype dtype,
                  uint64_t i) {
    const unsigned char *at = address(buffer, offset, dtype, i);
    uint16_t half;
    float single;
    double wide;

    switch (dtype) {
    case ADAMD_FLOAT64:
        memcpy(&wide, at, sizeof wide);
        return wide;
    case ADAMD_FLOAT32:
        memcpy(&single, at, sizeof single);
        return (double)single;
    default:
        memcpy(&half, at, sizeof half);
        return (double)(dtype == ADAMD_FLOAT16 ? adamd_f32_of_f16(half) : adamd_f32_of_bf16(half));
    }
}

static void set(struct adamd_buffer *buffer, uint64_t offset, enum adamd_dtype dtype, uint64_t i,
                double value) {
    unsigned char *at = address(buffer, offset, dtype, i);
    const float single = (float)value;
    uint16_t half;

    switch (dtype) {
    case ADAMD_FLOAT64:
        memcpy(at, &value, sizeof value);
        return;
    case ADAMD_FLOAT32:
        memcpy(at, &single, sizeof single);
        return;
    default:
        half = dtype == ADAMD_FLOAT16 ? adamd_f16_of_f32(single) : adamd_bf16_of_f32(single);
        memcpy(at, &half, sizeof half);
    }
}

// What `value` is once it was stored.
static double rounded(enum adamd_dtype dtype, double value) {
    return dtype == ADAMD_FLOAT64 ? value : (double)adamd_round_f32(dtype, (float)value);
}

static double multiply_add(enum adamd_dtype dtype, double a, double b, double c) {
    return dtype == ADAMD_FLOAT64 ? fma(a, b, c) : (double)fmaf((float)a, (float)b, (float)c);
}

// To the computing type.
static double narrow(enum adamd_dtype dtype, double value) {
    return dtype == ADAMD_FLOAT64 ? value : (double)(float)value;
}

// The mean over the sources as backend.h defines it.
static double mean_at(const struct adamd_mean *mean, const struct adamd_run *run, uint64_t i) {
    const uint32_t *indices = &mean->source_indices[run->sources_first];
    const struct adamd_source *first = &mean->sources[indices[0]];
    const enum adamd_dtype dtype = run->dtype;
    double sum = get(first->gradient, run->offset, dtype, i);

    if (run->sources_count == 1) {
        return sum;
    }
    sum = narrow(dtype, narrow(dtype, first->weight) * sum);
    for (uint32_t k = 1; k < run->sources_count; k++) {
        const struct adamd_source *source = &mean->sources[indices[k]];
        sum = multiply_add(dtype, narrow(dtype, source->weight),
                           get(source->gradient, run->offset, dtype, i), sum);
    }
    return rounded(dtype, narrow(dtype, sum / narrow(dtype, mean->weight_sum)));
}

static void update_narrow(const struct adamd_rule *rule, enum adamd_dtype dtype, double grad,
                          double state[4]) {
    float narrowed[4];

    for (int k = 0; k < 4; k++) {
        narrowed[k] = (float)state[k];
    }
    adamd_update_f32(adamd_kind_of_f32(rule, dtype), adamd_rule_to_f32(rule, dtype), (float)grad,
                     &narrowed[0], &narrowed[1], &narrowed[2], &narrowed[3]);
    for (int k = 0; k < 4; k++) {
        state[k] = (double)narrowed[k];
    }
}

static void update_at(const struct adamd_step *step, const struct adamd_run *run, uint64_t i,
                      double grad) {
    struct adamd_buffer *const arrays[4] = {step->param, step->exp_avg, step->exp_avg_sq,
                                            step->max_exp_avg_sq};
    const struct adamd_rule *rule = &step->rules[run->rule];
    const int count = rule->amsgrad ? 4 : 3;
    double state[4] = {0};

    for (int k = 0; k < count; k++) {
        state[k] = get(arrays[k], run->offset, run->dtype, i);
    }
    if (run->dtype == ADAMD_FLOAT64) {
        adamd_update_f64(adamd_kind_of_f64(rule, run->dtype), adamd_rule_to_f64(rule, run->dtype),
                         grad, &state[0], &state[1], &state[2], &state[3]);
    } else {
        update_narrow(rule, run->dtype, grad, state);
    }
    for (int k = 0; k < count; k++) {
        set(arrays[k], run->offset, run->dtype, i, state[k]);
    }
}

// Elements [begin, end) of a run, a block: their sum of squares.
static double step_block(const struct adamd_step *step, const struct adamd_mean *mean,
                         const struct adamd_run *run, uint64_t begin, uint64_t end) {
    double lanes[ADAMD_LANES] = {0};

    for (uint64_t i = begin; i < end; i++) {
        const double g = mean_at(mean, run, i);
        const double square = g * g;
        update_at(step, run, i, g);
        lanes[(i - begin) % ADAMD_LANES] += square;
    }
    return adamd_fold_lanes(lanes);
}

static uint64_t block_end(const struct adamd_run *run, uint64_t begin) {
    return run->count - begin < ADAMD_BLOCK_ELEMENTS ? run->count : begin + ADAMD_BLOCK_ELEMENTS;
}

static void run_step(const struct adamd_step *step) {
    const struct adamd_mean mean = adamd_step_mean(step);
    double sum = 0.0;

    for (uint32_t r = 0; r < step->run_count; r++) {
        const struct adamd_run *run = &step->runs[r];
        for (uint64_t begin = 0; begin < run->count; begin += ADAMD_BLOCK_ELEMENTS) {
            sum += step_block(step, &mean, run, begin, block_end(run, begin));
        }
    }
    if (step->publish != NULL) {
        memcpy(step->publish->host, step->param->host, step->arena_bytes);
    }
    *step->ret_square_sum = sum;
}

static void run_accumulate(const struct adamd_accumulate *op) {
    for (uint64_t i = 0; i < op->count; i++) {
        set(op->to, op->offset, op->dtype, i,
            get(op->to, op->offset, op->dtype, i) + get(op->from, op->offset, op->dtype, i));
    }
}

static void run_blend(const struct adamd_blend *op) {
    const double w = narrow(op->dtype, op->weight);
    const double rest = narrow(op->dtype, 1.0 - w);

    for (uint64_t i = 0; i < op->count; i++) {
        const double old = get(op->to, op->offset, op->dtype, i);
        const double new = get(op->from, op->offset, op->dtype, i);
        const double difference = narrow(op->dtype, new - old);
        set(op->to, op->offset, op->dtype, i,
            fabs(w) < 0.5 ? multiply_add(op->dtype, w, difference, old)
                          : multiply_add(op->dtype, -difference, rest, new));
    }
}

static void run_scale(const struct adamd_scale *op) {
    const double factor = narrow(op->dtype, op->factor);

    for (uint64_t i = 0; i < op->count; i++) {
        const double x = get(op->to, op->offset, op->dtype, i);
        set(op->to, op->offset, op->dtype, i, op->divides ? x / factor : x * factor);
    }
}

static void run_clamp(const struct adamd_clamp *op) {
    const double limit = rounded(op->dtype, op->limit);

    for (uint64_t i = 0; i < op->count; i++) {
        const double x = get(op->to, op->offset, op->dtype, i);
        const double below = x > limit ? limit : x;
        set(op->to, op->offset, op->dtype, i, below < -limit ? -limit : below);
    }
}

static void run_mean(const struct adamd_mean *op) {
    for (uint32_t r = 0; r < op->run_count; r++) {
        const struct adamd_run *run = &op->runs[r];
        for (uint64_t i = 0; i < run->count; i++) {
            set(op->to, run->offset, run->dtype, i, mean_at(op, run, i));
        }
    }
}

static struct adamd_norm_part norm_of(const struct adamd_buffer *from,
                                      const struct adamd_run *run) {
    struct adamd_norm_part part = {0};

    for (uint64_t begin = 0; begin < run->count; begin += ADAMD_BLOCK_ELEMENTS) {
        double lanes[ADAMD_LANES] = {0};
        for (uint64_t i = begin; i < block_end(run, begin); i++) {
            const double x = get(from, run->offset, run->dtype, i);
            const double square = x * x;
            lanes[(i - begin) % ADAMD_LANES] += square;
            part.max_abs = fabs(x) > part.max_abs ? fabs(x) : part.max_abs;
            part.nonfinite += isfinite(x) ? 0 : 1;
        }
        part.square_sum += adamd_fold_lanes(lanes);
    }
    return part;
}

// -------------------------------------------------------------------------------- differentiating

static struct adamd_vjp_element get_element(const struct adamd_vjp_arrays *arrays,
                                            const struct adamd_run *run, bool amsgrad, uint64_t i) {
    return (struct adamd_vjp_element){
        .param = get(arrays->param, run->offset, run->dtype, i),
        .grad = get(arrays->grad, run->offset, run->dtype, i),
        .exp_avg = get(arrays->exp_avg, run->offset, run->dtype, i),
        .exp_avg_sq = get(arrays->exp_avg_sq, run->offset, run->dtype, i),
        .max_exp_avg_sq = amsgrad ? get(arrays->max_exp_avg_sq, run->offset, run->dtype, i) : 0.0,
    };
}

// As set(), of what a float does not hold.
static void set_double(struct adamd_buffer *buffer, const struct adamd_run *run, uint64_t i,
                       double value) {
    const bool is_half = run->dtype == ADAMD_FLOAT16 || run->dtype == ADAMD_BFLOAT16;

    set(buffer, run->offset, run->dtype, i, is_half ? (double)adamd_odd_f32_of_f64(value) : value);
}

static void set_element(const struct adamd_vjp_arrays *arrays, const struct adamd_run *run,
                        bool amsgrad, uint64_t i, struct adamd_vjp_element element) {
    set_double(arrays->param, run, i, element.param);
    set_double(arrays->grad, run, i, element.grad);
    set_double(arrays->exp_avg, run, i, element.exp_avg);
    set_double(arrays->exp_avg_sq, run, i, element.exp_avg_sq);
    if (amsgrad) {
        set_double(arrays->max_exp_avg_sq, run, i, element.max_exp_avg_sq);
    }
}

static void differentiate_block(const struct adamd_differentiate *op, const struct adamd_run *run,
                                uint64_t begin, struct adamd_vjp_sums *sums) {
    const struct adamd_vjp_rule *rule = &op->rules[run->rule];
    double lanes[ADAMD_VJP_SUM_COUNT][ADAMD_LANES] = {{0}};

    for (uint64_t i = begin; i < run->count && i < begin + ADAMD_BLOCK_ELEMENTS; i++) {
        const struct adamd_vjp_element read = get_element(&op->at, run, rule->amsgrad, i);
        struct adamd_vjp_element bar = get_element(&op->bars, run, rule->amsgrad, i);
        struct adamd_vjp_sums terms;
        adamd_vjp(adamd_vjp_kind_of(rule), rule, &read, &bar, &terms);
        set_element(&op->bars, run, rule->amsgrad, i, bar);
        for (size_t s = 0; s < ADAMD_VJP_SUM_COUNT; s++) {
            lanes[s][(i - begin) % ADAMD_LANES] += terms.sums[s];
        }
    }
    for (size_t s = 0; s < ADAMD_VJP_SUM_COUNT; s++) {
        sums->sums[s] += adamd_fold_lanes(lanes[s]);
    }
}

static void run_differentiate(const struct adamd_differentiate *op) {
    memset(op->ret_sums, 0, op->rule_count * sizeof op->ret_sums[0]);
    for (uint32_t r = 0; r < op->run_count; r++) {
        const struct adamd_run *run = &op->runs[r];
        struct adamd_vjp_sums sums = {{0}};
        for (uint64_t begin = 0; begin < run->count; begin += ADAMD_BLOCK_ELEMENTS) {
            differentiate_block(op, run, begin, &sums);
        }
        for (size_t s = 0; s < ADAMD_VJP_SUM_COUNT; s++) {
            op->ret_sums[run->rule].sums[s] += sums.sums[s];
        }
    }
}

void plain_run(const struct adamd_op *op) {
    switch (op->kind) {
    case ADAMD_OP_STEP:
        run_step(&op->step);
        return;
    case ADAMD_OP_COPY:
        memcpy((char *)op->copy.to->host + op->copy.to_offset,
               (const char *)op->copy.from->host + op->copy.from_offset, op->copy.bytes);
        return;
    case ADAMD_OP_FILL:
        memset((char *)op->fill.to->host + op->fill.offset, 0, op->fill.bytes);
        return;
    case ADAMD_OP_ACCUMULATE:
        run_accumulate(&op->accumulate);
        return;
    case ADAMD_OP_BLEND:
        run_blend(&op->blend);
        return;
    case ADAMD_OP_SCALE:
        run_scale(&op->scale);
        return;
    case ADAMD_OP_CLAMP:
        run_clamp(&op->clamp);
        return;
    case ADAMD_OP_MEAN:
        run_mean(&op->mean);
        return;
    case ADAMD_OP_NORM:
        for (uint32_t r = 0; r < op->norm.run_count; r++) {
            op->norm.ret_parts[r] = norm_of(op->norm.from, &op->norm.runs[r]);
        }
        return;
    case ADAMD_OP_DIFFERENTIATE:
        run_differentiate(&op->differentiate);
        return;
    }
}
