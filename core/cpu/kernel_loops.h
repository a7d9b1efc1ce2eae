/*
 * The loops of one dtype, for kernel.c, which includes this text once for each: STORED is the type
 * of an element in memory, REAL the one that is computed with, LOAD and SAVE lead from one to the
 * other, SAVE_DOUBLE from a double, ROW is how many are computed side by side, ROUNDS whether
 * STORED is narrower than REAL, and LOOP names the functions.
 */

// ROW elements side by side. `restrict` counts where it stands on a parameter, as here: without
// it gcc compares addresses in each row.
ADAMD_INLINE void LOOP(update_row)(RULE rule, struct adamd_kind kind, const STORED *restrict g,
                                   STORED *restrict p, STORED *restrict m, STORED *restrict v,
                                   STORED *restrict x) {
    for (size_t l = 0; l < ROW; l++) {
        REAL param = LOAD(p[l]);
        REAL exp_avg = LOAD(m[l]);
        REAL exp_avg_sq = LOAD(v[l]);
        REAL max_exp_avg_sq = kind.amsgrad ? LOAD(x[l]) : 0;
        UPDATE(kind, rule, LOAD(g[l]), &param, &exp_avg, &exp_avg_sq, &max_exp_avg_sq);
        p[l] = SAVE(param);
        m[l] = SAVE(exp_avg);
        v[l] = SAVE(exp_avg_sq);
        if (kind.amsgrad) {
            x[l] = SAVE(max_exp_avg_sq);
        }
    }
}

ADAMD_INLINE void LOOP(copy_row)(const STORED *restrict from, STORED *restrict to) {
    for (size_t l = 0; l < ROW; l++) {
        to[l] = from[l];
    }
}

ADAMD_INLINE void LOOP(add_squares_of_row)(const STORED *restrict g, double *restrict lanes) {
    for (size_t l = 0; l < ADAMD_LANES; l++) {
        lanes[l] = ADD_SQUARE(lanes[l], LOAD(g[l]));
    }
}

// The one loop: rows, then what is left. `kind` is a constant wherever it is inlined, so that rows
// have no branches.
ADAMD_INLINE double LOOP(update_loop)(const struct adamd_rule *rule_of_step, struct adamd_kind kind,
                                      const struct kernel_block *block) {
    const RULE rule = RULE_OF(rule_of_step, kind.storage);
    const STORED *g = block->grad;
    STORED *p = block->param;
    STORED *m = block->exp_avg;
    STORED *v = block->exp_avg_sq;
    STORED *x = block->max_exp_avg_sq;
    STORED *publish = block->publish;
    const size_t count = block->count;
    double lanes[ADAMD_LANES] = {0};
    size_t i = 0;

    for (; i + ROW <= count; i += ROW) {
        const size_t ahead = i + AHEAD_BYTES / sizeof(STORED);
        __builtin_prefetch(g + ahead, 0);
        __builtin_prefetch(p + ahead, 1);
        __builtin_prefetch(m + ahead, 1);
        __builtin_prefetch(v + ahead, 1);
        if (kind.amsgrad) {
            __builtin_prefetch(x + ahead, 1);
        }
        for (size_t part = 0; part < ROW; part += ADAMD_LANES) {
            LOOP(add_squares_of_row)(g + i + part, lanes);
        }
        LOOP(update_row)(rule, kind, g + i, p + i, m + i, v + i, kind.amsgrad ? x + i : NULL);
        if (publish != NULL) {
            LOOP(copy_row)(p + i, publish + i);
        }
    }
    for (; i < count; i++) {
        const size_t l = i % ADAMD_LANES;
        REAL param = LOAD(p[i]);
        REAL exp_avg = LOAD(m[i]);
        REAL exp_avg_sq = LOAD(v[i]);
        REAL max_exp_avg_sq = kind.amsgrad ? LOAD(x[i]) : 0;
        lanes[l] = ADD_SQUARE(lanes[l], LOAD(g[i]));
        UPDATE(kind, rule, LOAD(g[i]), &param, &exp_avg, &exp_avg_sq, &max_exp_avg_sq);
        p[i] = SAVE(param);
        m[i] = SAVE(exp_avg);
        v[i] = SAVE(exp_avg_sq);
        if (kind.amsgrad) {
            x[i] = SAVE(max_exp_avg_sq);
        }
        if (publish != NULL) {
            publish[i] = p[i];
        }
    }
    return adamd_fold_lanes(lanes);
}

// From here to update(): each function makes one member of `kind` a constant.
ADAMD_INLINE double LOOP(fix_rounds_each)(const struct adamd_rule *rule, struct adamd_kind kind,
                                          const struct kernel_block *block) {
    if (ROUNDS && kind.rounds_each) {
        kind.rounds_each = true;
        return LOOP(update_loop)(rule, kind, block);
    }
    kind.rounds_each = false;
    return LOOP(update_loop)(rule, kind, block);
}

ADAMD_INLINE double LOOP(fix_lerp)(const struct adamd_rule *rule, struct adamd_kind kind,
                                   const struct kernel_block *block) {
    if (kind.lerp_small) {
        kind.lerp_small = true;
        return LOOP(fix_rounds_each)(rule, kind, block);
    }
    kind.lerp_small = false;
    return LOOP(fix_rounds_each)(rule, kind, block);
}

ADAMD_INLINE double LOOP(fix_amsgrad)(const struct adamd_rule *rule, struct adamd_kind kind,
                                      const struct kernel_block *block) {
    if (kind.amsgrad) {
        kind.amsgrad = true;
        return LOOP(fix_lerp)(rule, kind, block);
    }
    kind.amsgrad = false;
    return LOOP(fix_lerp)(rule, kind, block);
}

// One for all kinds of the form that a device's graph needs: nobody waits for it on a CPU.
__attribute__((noinline)) static double LOOP(update_dividing)(const struct adamd_rule *rule,
                                                              struct adamd_kind kind,
                                                              const struct kernel_block *block) {
    return LOOP(update_loop)(rule, kind, block);
}

static double LOOP(update)(const struct adamd_rule *rule, const struct kernel_block *block) {
    struct adamd_kind kind = KIND_OF(rule, STORAGE);

    if (kind.divides) {
        return LOOP(update_dividing)(rule, kind, block);
    }
    kind.divides = false;
    switch (kind.decay) {
    case ADAMD_DECAY_L2:
        kind.decay = ADAMD_DECAY_L2;
        return LOOP(fix_amsgrad)(rule, kind, block);
    case ADAMD_DECAY_DECOUPLED:
        kind.decay = ADAMD_DECAY_DECOUPLED;
        return LOOP(fix_amsgrad)(rule, kind, block);
    case ADAMD_DECAY_NONE:
    default:
        kind.decay = ADAMD_DECAY_NONE;
        return LOOP(fix_amsgrad)(rule, kind, block);
    }
}

static void LOOP(weigh)(void *wide_array, const void *from_array, double weight, size_t count) {
    REAL *wide = wide_array;
    const STORED *from = from_array;
    const REAL w = (REAL)weight;

    for (size_t i = 0; i < count; i++) {
        wide[i] = w * LOAD(from[i]);
    }
}

static void LOOP(weigh_add)(void *wide_array, const void *from_array, double weight, size_t count) {
    REAL *wide = wide_array;
    const STORED *from = from_array;
    const REAL w = (REAL)weight;

    for (size_t i = 0; i < count; i++) {
        wide[i] = FMA(w, LOAD(from[i]), wide[i]);
    }
}

static void LOOP(divide_wide)(void *to_array, const void *wide_array, double divisor,
                              size_t count) {
    STORED *to = to_array;
    const REAL *wide = wide_array;
    const REAL d = (REAL)divisor;

    for (size_t i = 0; i < count; i++) {
        to[i] = SAVE(wide[i] / d);
    }
}

static void LOOP(add)(void *to_array, const void *from_array, size_t count) {
    STORED *to = to_array;
    const STORED *from = from_array;

    for (size_t i = 0; i < count; i++) {
        to[i] = SAVE(LOAD(to[i]) + LOAD(from[i]));
    }
}

static void LOOP(blend)(void *to_array, const void *from_array, double weight, size_t count) {
    STORED *to = to_array;
    const STORED *from = from_array;
    const REAL w = (REAL)weight;
    const REAL rest = 1 - w;
    const bool small = w < (REAL)0.5 && w > (REAL)-0.5;

    for (size_t i = 0; i < count; i++) {
        const REAL old = LOAD(to[i]);
        const REAL new = LOAD(from[i]);
        const REAL difference = new - old;
        to[i] = SAVE(small ? FMA(w, difference, old) : FMA(-difference, rest, new));
    }
}

static void LOOP(scale)(void *to_array, double factor, size_t count) {
    STORED *to = to_array;
    const REAL f = (REAL)factor;

    for (size_t i = 0; i < count; i++) {
        to[i] = SAVE(LOAD(to[i]) * f);
    }
}

static void LOOP(divide)(void *to_array, double divisor, size_t count) {
    STORED *to = to_array;
    const REAL d = (REAL)divisor;

    for (size_t i = 0; i < count; i++) {
        to[i] = SAVE(LOAD(to[i]) / d);
    }
}

static void LOOP(clamp)(void *to_array, double limit, size_t count) {
    STORED *to = to_array;
    const STORED stored_limit = SAVE((REAL)limit);
    const REAL high = LOAD(stored_limit);

    for (size_t i = 0; i < count; i++) {
        REAL x = LOAD(to[i]);
        x = x > high ? high : x;
        x = x < -high ? -high : x;
        to[i] = SAVE(x);
    }
}

ADAMD_INLINE void LOOP(measure)(REAL x, double *square_sum, REAL *max_abs, uint32_t *nonfinite) {
    const REAL magnitude = x < 0 ? -x : x;

    *square_sum = ADD_SQUARE(*square_sum, x);
    *max_abs = magnitude > *max_abs ? magnitude : *max_abs;
    *nonfinite += magnitude <= REAL_MAX ? 0 : 1;
}

static struct adamd_norm_part LOOP(norm)(const void *from_array, size_t count) {
    const STORED *from = from_array;
    double lanes[ADAMD_LANES] = {0};
    REAL largest[ADAMD_LANES] = {0};
    uint32_t nonfinite[ADAMD_LANES] = {0};
    struct adamd_norm_part part = {0};
    size_t i = 0;

    for (; i + ADAMD_LANES <= count; i += ADAMD_LANES) {
        for (size_t l = 0; l < ADAMD_LANES; l++) {
            LOOP(measure)(LOAD(from[i + l]), &lanes[l], &largest[l], &nonfinite[l]);
        }
    }
    for (size_t l = 0; i < count; i++, l++) {
        LOOP(measure)(LOAD(from[i]), &lanes[l], &largest[l], &nonfinite[l]);
    }
    for (size_t l = 0; l < ADAMD_LANES; l++) {
        part.max_abs = (double)largest[l] > part.max_abs ? (double)largest[l] : part.max_abs;
        part.nonfinite += nonfinite[l];
    }
    part.square_sum = adamd_fold_lanes(lanes);
    return part;
}

static void LOOP(widen)(double *to, const void *from_array, size_t count) {
    const STORED *from = from_array;

    for (size_t i = 0; i < count; i++) {
        to[i] = (double)LOAD(from[i]);
    }
}

static void LOOP(narrow)(void *to_array, const double *from, size_t count) {
    STORED *to = to_array;

    for (size_t i = 0; i < count; i++) {
        to[i] = SAVE_DOUBLE(from[i]);
    }
}

static const struct kernel_loops LOOP(loops) = {
    .update = LOOP(update),
    .weigh = LOOP(weigh),
    .weigh_add = LOOP(weigh_add),
    .divide_wide = LOOP(divide_wide),
    .add = LOOP(add),
    .blend = LOOP(blend),
    .scale = LOOP(scale),
    .divide = LOOP(divide),
    .clamp = LOOP(clamp),
    .norm = LOOP(norm),
    .widen = LOOP(widen),
    .narrow = LOOP(narrow),
};
