/**
 * Tables for people: aligned columns, a bold head and some colour on a terminal, else plain text.
 */
#ifndef ADAMCTL_TABLE_H
#define ADAMCTL_TABLE_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

enum { TABLE_COLUMNS_MAX = 16, TABLE_CELL_MAX = 96 };

struct table {
    size_t columns, rows;
    char (*cells)[TABLE_CELL_MAX]; // row by row, the head first
};

/** `head`: the columns' names, separated by '|'. */
void table_init(struct table *table, const char *head);
void table_finish(struct table *table);
/** A row; its cells are set by table_set(). */
void table_add_row(struct table *table);
/** A cell of the last row. Control characters become '?'. */
void table_set(struct table *table, size_t column, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void table_print(const struct table *table, bool colour);

/** A member as text: of a string itself, of a number 6 digits, else "". `buffer` may be used. */
const char *member_text(const cJSON *object, const char *name, char buffer[32]);
double member_number(const cJSON *object, const char *name);
/** What follows the last '/' of a resource name, or the prefix of an enum value. */
const char *last_part(const char *name);
/** "BARRIER" of "TRIGGER_BARRIER": without `prefix`, in lower case. */
void enum_text(const char *value, const char *prefix, char text[32]);
/** "1.5 MB" */
void bytes_text(double bytes, char text[32]);
/** "3h12m" */
void duration_text(double seconds, char text[32]);

#endif
