// worker list

#include "commands.h"
#include "table.h"

#include <stdio.h>

static void print_workers(const struct ctl *ctl, const cJSON *workers) {
    struct table table;
    const cJSON *worker = NULL;

    table_init(&table, "RANK|WORKER|LIVE|EPOCH|SEQUENCE|VERSION|OUTCOME|APPLIED|STALE|REJECTED");
    cJSON_ArrayForEach(worker, workers) {
        const cJSON *counts = cJSON_GetObjectItemCaseSensitive(worker, "pushCounts");
        char buffer[32], outcome[32];
        table_add_row(&table);
        enum_text(member_text(worker, "lastOutcome", buffer), "PUSH_OUTCOME_", outcome);
        table_set(&table, 0, "%.0f", member_number(worker, "rank"));
        table_set(&table, 1, "%s", last_part(member_text(worker, "name", buffer)));
        table_set(&table, 2, "%s",
                  cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(worker, "live")) ? "yes" : "no");
        table_set(&table, 3, "%.0f", member_number(worker, "epoch"));
        table_set(&table, 4, "%.0f", member_number(worker, "lastSequence"));
        table_set(&table, 5, "%.0f", member_number(worker, "lastVersion"));
        table_set(&table, 6, "%s", outcome[0] != '\0' ? outcome : "-");
        table_set(&table, 7, "%.0f", member_number(counts, "applied"));
        table_set(&table, 8, "%.0f", member_number(counts, "stale"));
        table_set(&table, 9, "%.0f", member_number(counts, "rejected"));
    }
    if (table.rows > 1) {
        table_print(&table, ctl->colour);
    } else {
        say(ctl, "no workers");
    }
    table_finish(&table);
}

int run_worker_list(const struct ctl *ctl) {
    return ctl_list(ctl, "workers", "workers", print_workers);
}
