// The arena of a step is a sequence of pieces: a gap, a run, a gap, a run, ..., a gap. Gaps hold
// padding and tensors that are not stepped; they matter only where everything is published. Pieces
// are cut into blocks; a unit is a few blocks in a row, over as many pieces as it takes, so that
// many small tensors cost what one large tensor costs.
#include "pass.h"

#include "adamd/backend_impl.h"
#include "adamd/square_sum.h"
#include "block.h"

#include <stdlib.h>
#include <string.h>

enum { UNIT_BLOCKS = 8, GAP_BLOCK_BYTES = 16384 };

/** Where a unit begins. */
struct unit {
    uint64_t block; // in the piece
    uint64_t piece; // even: the gap before run piece / 2; odd: run piece / 2
};

struct pass {
    const struct adamd_op *op;
    const struct kernel *kernel;
    const struct adamd_run *runs;
    uint32_t run_count;
    uint64_t gaps_end;               // where the last gap ends; 0: gaps are passed over
    double *sums;                    // of a step, by block; gaps' are 0
    struct adamd_norm_part *parts;   // of a norm, by block
    struct adamd_vjp_sums *vjp_sums; // of a differentiation, by block
    struct unit *units;
    uint64_t block_count;
    size_t unit_count;
};

struct piece {
    const struct adamd_run *run; // NULL: a gap
    uint64_t offset, bytes;
    uint64_t block_count, block_bytes;
};

static uint64_t end_of(const struct adamd_run *run) {
    return run->offset + run->count * adamd_dtype_size(run->dtype);
}

static struct piece cut(const struct adamd_run *run, uint64_t offset, uint64_t end,
                        uint64_t block_bytes) {
    return (struct piece){
        .run = run,
        .offset = offset,
        .bytes = end - offset,
        .block_count = (end - offset + block_bytes - 1) / block_bytes,
        .block_bytes = block_bytes,
    };
}

static struct piece piece_at(const struct pass *pass, uint64_t i) {
    const uint64_t r = i / 2;

    if (i % 2 == 1) {
        const struct adamd_run *run = &pass->runs[r];
        return cut(run, run->offset, end_of(run),
                   ADAMD_BLOCK_ELEMENTS * adamd_dtype_size(run->dtype));
    }
    const uint64_t begin = r > 0 ? end_of(&pass->runs[r - 1]) : 0;
    const uint64_t end = r < pass->run_count ? pass->runs[r].offset : pass->gaps_end;
    return cut(NULL, begin, pass->gaps_end == 0 ? begin : end, GAP_BLOCK_BYTES);
}

static uint64_t piece_count(const struct pass *pass) {
    return 2 * (uint64_t)pass->run_count + 1;
}

// Notes where each unit begins.
static void cut_units(struct pass *pass) {
    uint64_t blocks_before = 0;
    size_t unit = 0;

    for (uint64_t i = 0; i < piece_count(pass); i++) {
        const uint64_t blocks = piece_at(pass, i).block_count;
        while (unit * UNIT_BLOCKS < blocks_before + blocks) {
            pass->units[unit] = (struct unit){unit * UNIT_BLOCKS - blocks_before, i};
            unit++;
        }
        blocks_before += blocks;
    }
    ADAMD_ASSERT(unit == pass->unit_count);
}

static void take_runs(struct pass *pass) {
    const struct adamd_op *op = pass->op;

    if (op->kind == ADAMD_OP_STEP) {
        pass->runs = op->step.runs;
        pass->run_count = op->step.run_count;
        pass->gaps_end = op->step.publish != NULL ? op->step.arena_bytes : 0;
    } else if (op->kind == ADAMD_OP_MEAN) {
        pass->runs = op->mean.runs;
        pass->run_count = op->mean.run_count;
    } else if (op->kind == ADAMD_OP_NORM) {
        pass->runs = op->norm.runs;
        pass->run_count = op->norm.run_count;
    } else {
        ADAMD_ASSERT(op->kind == ADAMD_OP_DIFFERENTIATE);
        pass->runs = op->differentiate.runs;
        pass->run_count = op->differentiate.run_count;
    }
}

struct pass *pass_create(const struct adamd_op *op, const struct kernel *kernel) {
    struct pass *pass = calloc(1, sizeof *pass);

    if (pass == NULL) {
        return NULL;
    }
    pass->op = op;
    pass->kernel = kernel;
    take_runs(pass);
    for (uint64_t i = 0; i < piece_count(pass); i++) {
        pass->block_count += piece_at(pass, i).block_count;
    }
    pass->unit_count = (size_t)((pass->block_count + UNIT_BLOCKS - 1) / UNIT_BLOCKS);
    // One more of each: an empty pass needs no memory, and calloc(0) may say NULL.
    const size_t sums = op->kind == ADAMD_OP_STEP ? (size_t)pass->block_count : 0;
    const size_t parts = op->kind == ADAMD_OP_NORM ? (size_t)pass->block_count : 0;
    const size_t vjp_sums = op->kind == ADAMD_OP_DIFFERENTIATE ? (size_t)pass->block_count : 0;
    pass->sums = calloc(sums + 1, sizeof *pass->sums);
    pass->parts = calloc(parts + 1, sizeof *pass->parts);
    pass->vjp_sums = calloc(vjp_sums + 1, sizeof *pass->vjp_sums);
    pass->units = calloc(pass->unit_count + 1, sizeof *pass->units);
    if (pass->sums == NULL || pass->parts == NULL || pass->vjp_sums == NULL ||
        pass->units == NULL) {
        pass_destroy(pass);
        return NULL;
    }
    cut_units(pass);
    return pass;
}

void pass_destroy(struct pass *pass) {
    if (pass != NULL) {
        free(pass->sums);
        free(pass->parts);
        free(pass->vjp_sums);
        free(pass->units);
        free(pass);
    }
}

size_t pass_units(const struct pass *pass) {
    return pass->unit_count > 0 ? pass->unit_count : 1;
}

// A gap of a step that publishes.
static void copy_gap(const struct adamd_step *step, uint64_t offset, uint64_t bytes) {
    memcpy((unsigned char *)step->publish->host + offset,
           (const unsigned char *)step->param->host + offset, (size_t)bytes);
}

// Block `i` of `piece`, block `b` of the pass.
static void run_block(const struct pass *pass, const struct piece *piece, uint64_t i, uint64_t b) {
    const uint64_t begin = i * piece->block_bytes;
    const uint64_t left = piece->bytes - begin;
    const uint64_t bytes = left < piece->block_bytes ? left : piece->block_bytes;

    if (piece->run == NULL) {
        copy_gap(&pass->op->step, piece->offset + begin, bytes);
        return;
    }
    const struct block block = {piece->run, piece->offset + begin,
                                (size_t)(bytes / adamd_dtype_size(piece->run->dtype))};
    if (pass->op->kind == ADAMD_OP_STEP) {
        pass->sums[b] = block_step(pass->kernel, &pass->op->step, block);
    } else if (pass->op->kind == ADAMD_OP_MEAN) {
        block_mean(pass->kernel, &pass->op->mean, block);
    } else if (pass->op->kind == ADAMD_OP_NORM) {
        pass->parts[b] = block_norm(pass->kernel, &pass->op->norm, block);
    } else {
        pass->vjp_sums[b] = block_differentiate(pass->kernel, &pass->op->differentiate, block);
    }
}

void pass_run(struct pass *pass, size_t unit) {
    const uint64_t first = (uint64_t)unit * UNIT_BLOCKS;
    const uint64_t end =
        pass->block_count - first < UNIT_BLOCKS ? pass->block_count : first + UNIT_BLOCKS;
    uint64_t i = pass->units[unit].piece;
    uint64_t block = pass->units[unit].block;
    struct piece piece = piece_at(pass, i);

    for (uint64_t b = first; b < end; b++) {
        while (block == piece.block_count) {
            piece = piece_at(pass, ++i);
            block = 0;
        }
        run_block(pass, &piece, block++, b);
    }
}

static void finish_step(const struct pass *pass) {
    double sum = 0.0;

    for (uint64_t b = 0; b < pass->block_count; b++) {
        sum += pass->sums[b];
    }
    *pass->op->step.ret_square_sum = sum;
}

static void finish_norm(const struct pass *pass) {
    const struct adamd_norm_part *from = pass->parts;

    for (uint32_t r = 0; r < pass->run_count; r++) {
        struct adamd_norm_part part = {0};
        for (uint64_t b = piece_at(pass, 2 * (uint64_t)r + 1).block_count; b > 0; b--, from++) {
            part.square_sum += from->square_sum;
            part.max_abs = from->max_abs > part.max_abs ? from->max_abs : part.max_abs;
            part.nonfinite += from->nonfinite;
        }
        pass->op->norm.ret_parts[r] = part;
    }
}

static void add_sums(struct adamd_vjp_sums *to, const struct adamd_vjp_sums *from) {
    for (size_t s = 0; s < ADAMD_VJP_SUM_COUNT; s++) {
        to->sums[s] += from->sums[s];
    }
}

// A run's blocks first, so that what a run comes to does not depend on its neighbours.
static void finish_differentiate(const struct pass *pass) {
    const struct adamd_differentiate *op = &pass->op->differentiate;
    const struct adamd_vjp_sums *from = pass->vjp_sums;

    memset(op->ret_sums, 0, op->rule_count * sizeof op->ret_sums[0]);
    for (uint32_t r = 0; r < pass->run_count; r++) {
        struct adamd_vjp_sums sums = {{0}};
        for (uint64_t b = piece_at(pass, 2 * (uint64_t)r + 1).block_count; b > 0; b--, from++) {
            add_sums(&sums, from);
        }
        add_sums(&op->ret_sums[pass->runs[r].rule], &sums);
    }
}

void pass_finish(const struct pass *pass) {
    if (pass->op->kind == ADAMD_OP_STEP) {
        finish_step(pass);
    } else if (pass->op->kind == ADAMD_OP_NORM) {
        finish_norm(pass);
    } else if (pass->op->kind == ADAMD_OP_DIFFERENTIATE) {
        finish_differentiate(pass);
    }
}
