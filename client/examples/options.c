// A table of options: getopt_long finds the row, the row says where the value goes and what it may
// be.
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

static const char help[] =
    "usage: train_digits [--create] --rank R --workers N [OPTION...]\n"
    "       train_digits --eval [--require-accuracy PERCENT]\n"
    "\n"
    "Trains a 64-128-64-10 network on handwritten digits, as one of N workers of an adamd daemon. "
    "A\n"
    "step takes the mean gradient of all workers. Kill a worker and start it again whenever you "
    "like.\n"
    "\n"
    "  --endpoint URL      the daemon, http://HOST:PORT or unix:/PATH (http://127.0.0.1:7440)\n"
    "  --model ID          the model's name there (digits)\n"
    "  --data FILE         (client/examples/data/digits.csv)\n"
    "  --create            makes the model if it is not there, with its first parameters\n"
    "  --eval              trains nothing: the held-out loss and accuracy of the model as it is\n"
    "  --rank R            which of the workers this is, from 0 (0)\n"
    "  --workers N         how many there are (1)\n"
    "  --steps N           ends at this version of the model (600)\n"
    "  --batch ROWS        of one worker in one step (16)\n"
    "  --seed N            of the first parameters and of the order of rows (1)\n"
    "  --report N          rank 0 prints loss and held-out accuracy each N steps (50)\n"
    "  --wait-ms N         for the model to be made by another worker (30000)\n"
    "  --require-accuracy PERCENT   --eval fails below this\n"
    "with --create:\n"
    "  --lr X              AdamW's learning rate (0.003)\n"
    "  --weight-decay X    (0.1)\n"
    "  --min-workers N     no step with fewer workers than this (N of --workers)\n"
    "  --lease-ms N        a worker that is silent for so long no longer counts (30000)\n";

enum kind { TEXT, NUMBER, REAL, FLAG };

struct row {
    const char *name;
    enum kind kind;
    size_t offset;
    double min, max; // a NUMBER's bounds are exact below 2^53
};

#define ROW(name, kind, member, min, max) \
    { name, kind, offsetof(struct options, member), min, max }

static const struct row rows[] = {
    ROW("endpoint", TEXT, endpoint, 0, 0),
    ROW("model", TEXT, model, 0, 0),
    ROW("data", TEXT, data, 0, 0),
    ROW("create", FLAG, create, 0, 0),
    ROW("eval", FLAG, evaluate, 0, 0),
    ROW("rank", NUMBER, rank, 0, 4095),
    ROW("workers", NUMBER, workers, 1, 4096),
    ROW("min-workers", NUMBER, min_workers, 1, 4096),
    ROW("steps", NUMBER, steps, 1, 1e12),
    ROW("batch", NUMBER, batch, 1, 1e6),
    ROW("seed", NUMBER, seed, 0, 9e15),
    ROW("report", NUMBER, report, 1, 1e12),
    ROW("wait-ms", NUMBER, wait_ms, 0, 6e5),
    ROW("lease-ms", NUMBER, lease_ms, 1, 6e5),
    ROW("lr", REAL, lr, 0, 1e3),
    ROW("weight-decay", REAL, weight_decay, 0, 1e3),
    ROW("require-accuracy", REAL, require_accuracy, 0, 100),
};

enum { ROW_COUNT = sizeof rows / sizeof rows[0] };

static bool set_number(uint64_t *member, const struct row *row, const char *text) {
    char *end = NULL;

    errno = 0;
    const unsigned long long number = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || (double)number < row->min ||
        (double)number > row->max) {
        return false;
    }
    *member = number;
    return true;
}

static bool set_real(double *member, const struct row *row, const char *text) {
    char *end = NULL;
    const double number = strtod(text, &end);

    if (end == text || *end != '\0' || !isfinite(number) || number < row->min ||
        number > row->max) {
        return false;
    }
    *member = number;
    return true;
}

static bool set_member(struct options *options, const struct row *row, const char *text) {
    void *member = (char *)options + row->offset;

    switch (row->kind) {
    case NUMBER:
        return set_number(member, row, text);
    case REAL:
        return set_real(member, row, text);
    case FLAG:
        *(bool *)member = true;
        return true;
    case TEXT:
        *(const char **)member = text;
        return *text != '\0';
    }
    return false;
}

static int complain(const char *name, const char *what) {
    (void)fprintf(stderr, "train_digits: --%s: %s\n", name, what);
    return 2;
}

static int check_together(struct options *options) {
    if (options->min_workers == 0) {
        options->min_workers = options->workers;
    }
    if (options->rank >= options->workers) {
        return complain("rank", "is not below --workers");
    }
    if (options->min_workers > options->workers) {
        return complain("min-workers", "is above --workers");
    }
    return -1;
}

int options_read(struct options *options, int argc, char **argv) {
    struct option known[ROW_COUNT + 2] = {{0}};
    int index = 0;
    int found = 0;

    *options = (struct options){
        .endpoint = "http://127.0.0.1:7440",
        .model = "digits",
        .data = "client/examples/data/digits.csv",
        .workers = 1,
        .batch = 16,
        .steps = 600,
        .report = 50,
        .seed = 1,
        .lease_ms = 30000,
        .wait_ms = 30000,
        .lr = 3e-3,
        .weight_decay = 0.1,
    };
    for (size_t i = 0; i < ROW_COUNT; i++) {
        known[i].name = rows[i].name;
        known[i].has_arg = rows[i].kind == FLAG ? no_argument : required_argument;
    }
    known[ROW_COUNT] = (struct option){.name = "help", .val = 'h'};
    while ((found = getopt_long(argc, argv, "", known, &index)) != -1) {
        if (found == 'h') {
            (void)fputs(help, stdout);
            return 0;
        }
        if (found == '?') {
            return 2; // getopt_long has said why
        }
        if (!set_member(options, &rows[index], optarg)) {
            return complain(rows[index].name, "is not a value that it takes; see --help");
        }
    }
    if (optind < argc) {
        (void)fprintf(stderr, "train_digits: %s: there are no arguments, only options\n",
                      argv[optind]);
        return 2;
    }
    return check_together(options);
}
