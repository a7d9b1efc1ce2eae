// Reads the digits and orders them.
#include "digits.h"

#include "random.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_MAX_BYTES = 1024, PIXEL_MAX = 16 };

// Reads a number of at most `max`, and what follows it: ',' or the end of the line.
static bool read_number(const char **text, long max, bool is_last, long *ret_number) {
    char *end = NULL;

    errno = 0;
    long number = strtol(*text, &end, 10);
    if (end == *text || errno != 0 || number < 0 || number > max) {
        return false;
    }
    if (is_last ? *end != '\n' && *end != '\r' && *end != '\0' : *end != ',') {
        return false;
    }
    *text = end + 1;
    *ret_number = number;
    return true;
}

static bool read_row(const char *line, struct digits_row *ret_row) {
    long number = 0;

    for (size_t i = 0; i < DIGITS_PIXELS; i++) {
        if (!read_number(&line, PIXEL_MAX, false, &number)) {
            return false;
        }
        ret_row->pixels[i] = (float)number / (float)PIXEL_MAX;
    }
    if (!read_number(&line, DIGITS_CLASSES - 1, true, &number)) {
        return false;
    }
    ret_row->class = (uint32_t)number;
    return true;
}

static bool append_row(struct digits_row **rows, size_t *count, const struct digits_row *row) {
    if ((*count & (*count - 1)) == 0) { // a power of two, or zero: full
        size_t capacity = *count == 0 ? 1 : 2 * *count;
        struct digits_row *larger = realloc(*rows, capacity * sizeof *larger);
        if (larger == NULL) {
            return false;
        }
        *rows = larger;
    }
    (*rows)[(*count)++] = *row;
    return true;
}

static const char *read_rows(struct digits *digits, FILE *file, size_t *ret_line) {
    char line[LINE_MAX_BYTES];
    struct digits_row row;

    for (*ret_line = 1; fgets(line, sizeof line, file) != NULL; (*ret_line)++) {
        const bool held_out = *ret_line % DIGITS_HELD_OUT_EACH == 0;
        if (!read_row(line, &row)) {
            return "not 64 pixels of 0 to 16 and a class of 0 to 9";
        }
        if (*ret_line > DIGITS_ROWS_MAX) {
            return "too many rows";
        }
        if (!append_row(held_out ? &digits->held_out : &digits->train,
                        held_out ? &digits->held_out_count : &digits->train_count, &row)) {
            return "out of memory";
        }
    }
    if (ferror(file)) {
        return "cannot be read";
    }
    return digits->held_out_count == 0 ? "too few rows" : NULL;
}

void digits_finish(struct digits *digits) {
    free(digits->train);
    free(digits->held_out);
    *digits = (struct digits){0};
}

bool digits_load(struct digits *digits, const char *path) {
    size_t line = 0;

    *digits = (struct digits){0};
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        (void)fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return false;
    }
    const char *wrong = read_rows(digits, file, &line);
    (void)fclose(file);
    if (wrong != NULL) {
        (void)fprintf(stderr, "%s:%zu: %s\n", path, line, wrong);
        digits_finish(digits);
        return false;
    }
    return true;
}

// Fisher and Yates. Each epoch has its own order, and each starts from the file's.
static void shuffle(struct schedule *schedule, uint64_t epoch) {
    struct random random = {.state = schedule->seed ^ (epoch * UINT64_C(0xd1342543de82ef95))};

    for (size_t i = 0; i < schedule->row_count; i++) {
        schedule->order[i] = (uint32_t)i;
    }
    for (size_t i = schedule->row_count - 1; i > 0; i--) {
        const size_t other = random_below(&random, (uint32_t)i + 1);
        const uint32_t kept = schedule->order[i];
        schedule->order[i] = schedule->order[other];
        schedule->order[other] = kept;
    }
    schedule->epoch = epoch;
}

bool schedule_init(struct schedule *schedule, size_t row_count, size_t workers, size_t batch,
                   uint64_t seed) {
    *schedule =
        (struct schedule){.row_count = row_count, .workers = workers, .batch = batch, .seed = seed};
    if (workers == 0 || batch == 0 || row_count == 0 || workers > row_count / batch) {
        return false;
    }
    schedule->order = calloc(row_count, sizeof *schedule->order);
    if (schedule->order == NULL) {
        return false;
    }
    shuffle(schedule, 0);
    return true;
}

void schedule_finish(struct schedule *schedule) {
    free(schedule->order);
    *schedule = (struct schedule){0};
}

const uint32_t *schedule_rows(struct schedule *schedule, uint64_t version, size_t rank) {
    const size_t rows_per_step = schedule->workers * schedule->batch;
    const uint64_t steps_per_epoch = schedule->row_count / rows_per_step;
    const uint64_t epoch = version / steps_per_epoch;

    if (epoch != schedule->epoch) {
        shuffle(schedule, epoch);
    }
    return schedule->order + (size_t)(version % steps_per_epoch) * rows_per_step +
           rank * schedule->batch;
}
