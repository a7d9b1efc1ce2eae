// Tables for people.

#include "table.h"

#include "ctl.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void table_init(struct table *table, const char *head) {
    *table = (struct table){.columns = 1};
    for (const char *at = head; *at != '\0'; at++) {
        table->columns += *at == '|';
    }
    table_add_row(table);
    for (size_t i = 0; i < table->columns; i++) {
        size_t size = strcspn(head, "|");
        table_set(table, i, "%.*s", (int)size, head);
        head += size + (head[size] == '|' ? 1 : 0);
    }
}

void table_finish(struct table *table) {
    free(table->cells);
    *table = (struct table){.columns = 0};
}

void table_add_row(struct table *table) {
    size_t cells = (table->rows + 1) * table->columns;

    table->cells = must(realloc(table->cells, cells * sizeof table->cells[0]));
    memset(table->cells[table->rows * table->columns], 0, table->columns * sizeof table->cells[0]);
    table->rows++;
}

void table_set(struct table *table, size_t column, const char *format, ...) {
    char *cell = table->cells[(table->rows - 1) * table->columns + column];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(cell, TABLE_CELL_MAX, format, arguments);
    va_end(arguments);
    for (; *cell != '\0'; cell++) {
        if ((unsigned char)*cell < 0x20 || *cell == 0x7f) {
            *cell = '?';
        }
    }
}

// In characters: bytes that continue one in UTF-8 take no room.
static size_t width_of(const char *text) {
    size_t width = 0;

    for (; *text != '\0'; text++) {
        width += ((unsigned char)*text & 0xc0) != 0x80;
    }
    return width;
}

static const char *colour_of(const char *cell, size_t row) {
    if (row == 0) {
        return "\033[1m";
    }
    if (strcmp(cell, "active") == 0 || strcmp(cell, "applied") == 0 || strcmp(cell, "yes") == 0) {
        return "\033[32m";
    }
    if (strcmp(cell, "failed") == 0 || strcmp(cell, "stale") == 0) {
        return "\033[31m";
    }
    return strcmp(cell, "paused") == 0 || strcmp(cell, "initializing") == 0 ? "\033[33m" : NULL;
}

static void print_cell(const char *cell, size_t row, size_t width, bool colour) {
    const char *start = colour ? colour_of(cell, row) : NULL;

    printf("%s%s%s", start != NULL ? start : "", cell, start != NULL ? "\033[0m" : "");
    printf("%*s", (int)(width - width_of(cell)), "");
}

static void measure(const struct table *table, size_t widths[TABLE_COLUMNS_MAX]) {
    for (size_t i = 0; i < table->rows * table->columns; i++) {
        size_t width = width_of(table->cells[i]), column = i % table->columns;
        widths[column] = width > widths[column] ? width : widths[column];
    }
}

void table_print(const struct table *table, bool colour) {
    size_t widths[TABLE_COLUMNS_MAX] = {0};

    measure(table, widths);
    for (size_t row = 0; row < table->rows; row++) {
        for (size_t column = 0; column < table->columns; column++) {
            bool last = column + 1 == table->columns;
            const char *cell = table->cells[row * table->columns + column];
            print_cell(cell, row, last ? width_of(cell) : widths[column] + 2, colour);
        }
        putchar('\n');
    }
}

const char *member_text(const cJSON *object, const char *name, char buffer[32]) {
    const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, name);

    if (cJSON_IsNumber(member)) {
        snprintf(buffer, 32, "%.6g", member->valuedouble);
        return buffer;
    }
    if (cJSON_IsBool(member)) {
        return cJSON_IsTrue(member) ? "yes" : "no";
    }
    return cJSON_IsString(member) ? member->valuestring : "";
}

double member_number(const cJSON *object, const char *name) {
    const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, name);

    return cJSON_IsString(member)   ? strtod(member->valuestring, NULL)
           : cJSON_IsNumber(member) ? member->valuedouble
                                    : 0;
}

const char *last_part(const char *name) {
    const char *slash = strrchr(name, '/');

    return slash != NULL ? slash + 1 : name;
}

void enum_text(const char *value, const char *prefix, char text[32]) {
    size_t size = strlen(prefix);

    snprintf(text, 32, "%s", strncmp(value, prefix, size) == 0 ? value + size : value);
    for (; *text != '\0'; text++) {
        int lower = tolower((unsigned char)*text);
        *text = (char)(lower == '_' ? '-' : lower);
    }
}

void bytes_text(double bytes, char text[32]) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    size_t unit = 0;

    for (; bytes >= 1000 && unit + 1 < sizeof units / sizeof units[0]; unit++) {
        bytes /= 1000;
    }
    snprintf(text, 32, unit == 0 || bytes >= 100 ? "%.0f %s" : "%.2f %s", bytes, units[unit]);
}

void duration_text(double seconds, char text[32]) {
    long whole = seconds > 0 && seconds < 1e12 ? (long)seconds : 0;

    if (whole < 60) {
        snprintf(text, 32, "%lds", whole);
    } else if (whole < 3600) {
        snprintf(text, 32, "%ldm%lds", whole / 60, whole % 60);
    } else if (whole < 86400) {
        snprintf(text, 32, "%ldh%ldm", whole / 3600, whole % 3600 / 60);
    } else {
        snprintf(text, 32, "%ldd%ldh", whole / 86400, whole % 86400 / 3600);
    }
}
