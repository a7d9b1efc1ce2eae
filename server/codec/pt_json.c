// Unknown keys of a param group, between the objects of a file and the JSON texts that a group
// keeps. JSON has no tuple and no tensor: {"tuple":[1,2]} and {"tensor":0.5} stand for them.
#include "codec/pt_state.h"

#include "adamd/json.h"
#include "codec/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 16, VALUES_MAX = 4096 }; // as the group keeps them

// ------------------------------------------------------------------------------------ to JSON

struct frame {
    const struct adamd_pt_value *value;
    size_t next;
};

struct printer {
    struct codec_text text;
    struct frame frames[DEPTH_MAX];
    size_t depth;
};

static void put_double(struct codec_text *text, double value) {
    char digits[40];

    (void)snprintf(digits, sizeof digits, "%.17g", value);
    codec_text_put(text, digits);
    codec_text_put(text, strpbrk(digits, ".en") == NULL ? ".0" : "");
}

static bool put_text(struct codec_text *text, const struct adamd_pt_value *value) {
    char *copy = NULL;

    if (!adamd_utf8_valid(value->text.bytes, value->text.size)) {
        return false;
    }
    copy = malloc(value->text.size + 1);
    if (copy == NULL) {
        return false;
    }
    memcpy(copy, value->text.bytes, value->text.size);
    copy[value->text.size] = '\0';
    codec_text_quote(text, copy);
    free(copy);
    return true;
}

static bool put_tensor(struct codec_text *text, const struct adamd_pt_value *value) {
    double number = 0;

    if (value->tensor->dtype != ADAMD_PT_FLOAT32 || value->tensor->rank != 0 ||
        !adamd_pt_number(value, &number) || !isfinite(number)) {
        return false;
    }
    codec_text_put(text, "{\"tensor\":");
    put_double(text, number);
    codec_text_put(text, "}");
    return true;
}

static bool put_scalar(struct codec_text *text, const struct adamd_pt_value *value) {
    char digits[32];

    switch (value->kind) {
    case ADAMD_PT_NONE:
        codec_text_put(text, "null");
        return true;
    case ADAMD_PT_TRUTH:
        codec_text_put(text, value->truth ? "true" : "false");
        return true;
    case ADAMD_PT_INT:
        (void)snprintf(digits, sizeof digits, "%" PRId64, value->integer);
        codec_text_put(text, digits);
        return true;
    case ADAMD_PT_FLOAT:
        put_double(text, value->number);
        return isfinite(value->number);
    case ADAMD_PT_TEXT:
        return put_text(text, value);
    case ADAMD_PT_TENSOR:
        return put_tensor(text, value);
    default:
        return false;
    }
}

static bool print_open(struct printer *printer, const struct adamd_pt_value *value) {
    if (value->kind != ADAMD_PT_LIST && value->kind != ADAMD_PT_TUPLE &&
        value->kind != ADAMD_PT_DICT) {
        return put_scalar(&printer->text, value);
    }
    if (printer->depth == DEPTH_MAX || printer->text.size > ADAMD_EXTRA_VALUE_MAX) {
        return false;
    }
    printer->frames[printer->depth++] = (struct frame){.value = value};
    codec_text_put(&printer->text, value->kind == ADAMD_PT_DICT    ? "{"
                                   : value->kind == ADAMD_PT_TUPLE ? "{\"tuple\":["
                                                                   : "[");
    return true;
}

static void print_close(struct printer *printer) {
    const enum adamd_pt_kind kind = printer->frames[--printer->depth].value->kind;

    codec_text_put(&printer->text, kind == ADAMD_PT_DICT    ? "}"
                                   : kind == ADAMD_PT_TUPLE ? "]}"
                                                            : "]");
}

// The next child of the innermost container.
static bool print_next(struct printer *printer) {
    struct frame *frame = &printer->frames[printer->depth - 1];
    const struct adamd_pt_value *value = frame->value;
    const size_t i = frame->next++;

    codec_text_put(&printer->text, i > 0 ? "," : "");
    if (value->kind != ADAMD_PT_DICT) {
        return print_open(printer, value->list.items[i]);
    }
    if (value->dict.pairs[i].key->kind != ADAMD_PT_TEXT ||
        !put_text(&printer->text, value->dict.pairs[i].key)) {
        return false;
    }
    codec_text_put(&printer->text, ":");
    return print_open(printer, value->dict.pairs[i].value);
}

char *codec_pt_to_json(const struct adamd_pt_value *value) {
    struct printer printer = {.depth = 0};
    bool good = print_open(&printer, value);

    while (good && printer.depth > 0) {
        const struct frame *frame = &printer.frames[printer.depth - 1];
        const size_t count = frame->value->kind == ADAMD_PT_DICT ? frame->value->dict.count
                                                                 : frame->value->list.count;
        if (frame->next == count) {
            print_close(&printer);
        } else {
            good = print_next(&printer);
        }
    }
    char *text = codec_text_end(&printer.text, NULL);
    if (!good) {
        free(text);
        return NULL;
    }
    return text;
}

// ---------------------------------------------------------------------------------- from JSON

enum open_kind { OPEN_LIST, OPEN_DICT, OPEN_TUPLE };

struct reader {
    struct adamd_json json;
    struct adamd_pt_writer *to;
    enum open_kind open[DEPTH_MAX + 1];
    size_t depth;
};

static void read_text(struct reader *reader, struct adamd_json_slice slice) {
    char *decoded = malloc(slice.size + 1);

    if (decoded != NULL) {
        adamd_pt_put_text_of(reader->to, decoded, adamd_json_decode(slice, decoded));
        free(decoded);
    } else {
        adamd_pt_put_none(reader->to);
    }
}

static void read_number(struct reader *reader, struct adamd_json_slice slice) {
    char digits[ADAMD_JSON_NUMBER_MAX + 1];
    char *end = NULL;

    memcpy(digits, slice.text, slice.size);
    digits[slice.size] = '\0';
    const long long integer = strtoll(digits, &end, 10);
    if (*end == '\0' && integer != INT64_MAX && integer != INT64_MIN) {
        adamd_pt_put_int(reader->to, integer);
    } else {
        adamd_pt_put_float(reader->to, strtod(digits, NULL));
    }
}

// {"tensor":x} or {"tuple":[: read and done, or read up to the bracket. Else nothing is read.
static bool read_special(struct reader *reader) {
    struct adamd_json probe = reader->json;
    struct adamd_json_slice name;
    struct adamd_json_slice number;
    char digits[ADAMD_JSON_NUMBER_MAX + 1];

    if (!adamd_json_take(&probe, '{') || adamd_json_peek(&probe) != '"' ||
        !adamd_json_string(&probe, &name) || !adamd_json_take(&probe, ':')) {
        return false;
    }
    if (name.size == 5 && memcmp(name.text, "tuple", 5) == 0 && adamd_json_take(&probe, '[')) {
        struct adamd_json rest = reader->json;
        (void)adamd_json_take(&rest, '{');
        (void)(adamd_json_string(&rest, &name) && adamd_json_take(&rest, ':') &&
               adamd_json_skip(&rest));
        if (!adamd_json_take(&rest, '}')) {
            return false; // a dict that has other members too
        }
        adamd_pt_begin_tuple(reader->to);
        reader->open[reader->depth++] = OPEN_TUPLE;
        reader->json = probe;
        return true;
    }
    if (name.size != 6 || memcmp(name.text, "tensor", 6) != 0 || adamd_json_peek(&probe) == '"' ||
        !adamd_json_number(&probe, &number) || !adamd_json_take(&probe, '}')) {
        return false;
    }
    memcpy(digits, number.text, number.size);
    digits[number.size] = '\0';
    const float single = strtof(digits, NULL);
    adamd_pt_put_small(reader->to, ADAMD_PT_FLOAT32, 0, NULL, &single);
    reader->json = probe;
    return true;
}

static void read_word(struct reader *reader) {
    switch (adamd_json_peek(&reader->json)) {
    case 't':
    case 'f':
        adamd_pt_put_bool(reader->to, adamd_json_peek(&reader->json) == 't');
        break;
    default:
        adamd_pt_put_none(reader->to);
        break;
    }
    (void)adamd_json_skip(&reader->json);
}

static void read_value(struct reader *reader) {
    struct adamd_json_slice slice;
    const char next = adamd_json_peek(&reader->json);

    if (next == '"') {
        if (adamd_json_string(&reader->json, &slice)) {
            read_text(reader, slice);
        }
    } else if (next == '-' || (next >= '0' && next <= '9')) {
        if (adamd_json_number(&reader->json, &slice)) {
            read_number(reader, slice);
        }
    } else if (next == '{' && read_special(reader)) {
        return;
    } else if (next == '{' || next == '[') {
        (void)adamd_json_take(&reader->json, next);
        reader->open[reader->depth++] = next == '{' ? OPEN_DICT : OPEN_LIST;
        if (next == '{') {
            adamd_pt_begin_dict(reader->to);
        } else {
            adamd_pt_begin_list(reader->to);
        }
    } else {
        read_word(reader);
    }
}

static void read_end(struct reader *reader) {
    switch (reader->open[--reader->depth]) {
    case OPEN_DICT:
        adamd_pt_end_dict(reader->to);
        break;
    case OPEN_LIST:
        adamd_pt_end_list(reader->to);
        break;
    case OPEN_TUPLE:
        (void)adamd_json_take(&reader->json, '}');
        adamd_pt_end_tuple(reader->to);
        break;
    }
}

void codec_pt_put_json(struct adamd_pt_writer *writer, const char *json) {
    struct reader reader = {.to = writer};
    struct adamd_json_slice name;

    adamd_json_init(&reader.json, json, strlen(json), DEPTH_MAX, VALUES_MAX);
    read_value(&reader);
    while (reader.depth > 0 && reader.json.complaint == NULL) {
        const bool is_dict = reader.open[reader.depth - 1] == OPEN_DICT;
        (void)adamd_json_take(&reader.json, ',');
        if (adamd_json_take(&reader.json, is_dict ? '}' : ']')) {
            read_end(&reader);
            continue;
        }
        if (is_dict && adamd_json_string(&reader.json, &name)) {
            read_text(&reader, name);
            (void)adamd_json_take(&reader.json, ':');
        }
        read_value(&reader);
    }
    ADAMD_ASSERT(reader.depth == 0); // the text was checked when the group took it
}
