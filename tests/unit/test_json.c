// ProtoJSON: what is printed reads back as the same bits, what is not JSON or not the schema's is
// refused with the path of the field, and nothing a document says can make it costly.
#include "codec/json.h"

#include "adamd/json.h"
#include "codec/message.h"
#include "codec/text.h"

#include <adamd/v1/adamd.pb-c.h>
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct codec_arena arena;
static struct adamd_fault fault;

static void clear(void) {
    codec_arena_finish(&arena);
}

static void *parse(const ProtobufCMessageDescriptor *type, const char *text) {
    ProtobufCMessage *message = NULL;

    memset(&fault, 0, sizeof fault);
    const enum adamd_status status =
        codec_json_parse(type, text, strlen(text), CODEC_JSON_MAX, &arena, &message, &fault);
    ck_assert_int_eq(status, fault.status);
    ck_assert((status == ADAMD_OK) == (message != NULL));
    return message;
}

static char *print(const void *message, unsigned flags) {
    char *text = NULL;
    size_t size = 0;

    ck_assert_int_eq(codec_json_print(message, flags, &text, &size), ADAMD_OK);
    ck_assert_uint_eq(size, strlen(text));
    return text;
}

static Adamd__V1__Model *parse_model(const char *text) {
    return parse(&adamd__v1__model__descriptor, text);
}

// --------------------------------------------------------------------------------------- refusals

static const struct {
    const char *text;
    const char *field;
} bad[] = {
    // not JSON by the letter
    {"{", ""},
    {"{}}", ""},
    {"{} {}", ""},
    {"{},", ""},
    {"[]", ""},
    {"1", ""},
    {"\"x\"", ""},
    {"null", ""},
    {"\xef\xbb\xbf{}", ""}, // a byte-order mark
    {"{\"version\":\"1\",}", ""},
    {"{\"version\":01}", ""},
    {"{\"version\":1.}", ""},
    {"{\"version\":.5}", ""},
    {"{\"version\":+1}", ""},
    {"{\"version\":0x10}", ""},
    {"{\"version\":1e}", ""},
    {"{version:1}", ""},
    {"{'version':1}", ""},
    {"{\"displayName\":\"a\nb\"}", ""},
    {"{\"displayName\":\"a\\u0000b\"}", ""},
    {"{\"displayName\":\"\\ud800\"}", ""},
    {"{\"displayName\":\"\\udc00\\ud800\"}", ""},
    {"{\"displayName\":\"\\x41\"}", ""},
    {"{\"displayName\":\"\xff\"}", ""},
    {"{\"displayName\":\"\xc0\xaf\"}", ""},
    {"{\"displayName\":\"\xf4\x90\x80\x80\"}", ""},
    {"{\"defaults\":{\"lr\":NaN}}", ""},
    {"{\"defaults\":{\"lr\":Infinity}}", ""},
    {"{\"live_workers\":tru}", ""},
    {"// comment\n{}", ""},
    {"[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]", ""}, // 17 levels
    // not the schema's
    {"{\"stepPolicy\":{\"quorun\":1}}", "stepPolicy.quorun"},
    {"{\"Version\":1}", "Version"},
    {"{\"stepPolicy\":{\"quorum\":1,\"quorum\":2}}", "stepPolicy.quorum"},
    {"{\"stepPolicy\":{\"minWorkers\":1,\"min_workers\":2}}", "stepPolicy.min_workers"},
    {"{\"stepPolicy\":{\"quorum\":null,\"quorum\":2}}", "stepPolicy.quorum"},
    {"{\"stepPolicy\":[]}", "stepPolicy"},
    {"{\"stepPolicy\":\"x\"}", "stepPolicy"},
    {"{\"stepPolicy\":1}", "stepPolicy"},
    {"{\"version\":\"\"}", "version"},
    {"{\"version\":\"1 \"}", "version"},
    {"{\"version\":\" 1\"}", "version"},
    {"{\"version\":\"01\"}", "version"},
    {"{\"version\":\"+1\"}", "version"},
    {"{\"version\":\"1.0\"}", "version"},
    {"{\"version\":\"0x1\"}", "version"},
    {"{\"version\":\"18446744073709551616\"}", "version"},
    {"{\"version\":\"-1\"}", "version"},
    {"{\"version\":-1}", "version"},
    {"{\"version\":1.5}", "version"},
    {"{\"version\":9007199254740994}", "version"}, // past 2^53 a number has lost bits
    {"{\"version\":1e300}", "version"},
    {"{\"version\":true}", "version"},
    {"{\"version\":{}}", "version"},
    {"{\"version\":[1]}", "version"},
    {"{\"liveWorkers\":4294967296}", "liveWorkers"},
    {"{\"liveWorkers\":\"4294967296\"}", "liveWorkers"},
    {"{\"displayName\":1}", "displayName"},
    {"{\"displayName\":true}", "displayName"},
    {"{\"labels\":{}}", "labels"},
    {"{\"labels\":[1]}", "labels[0]"},
    {"{\"labels\":[{},null]}", "labels[1]"},
    {"{\"labels\":[{\"key\":\"a\"},{\"key\":1}]}", "labels[1].key"},
    {"{\"tensors\":[{\"shape\":[1,\"x\"]}]}", "tensors[0].shape[1]"},
    {"{\"defaults\":{\"lr\":1e999}}", "defaults.lr"},
    {"{\"defaults\":{\"lr\":-1e999}}", "defaults.lr"},
    {"{\"defaults\":{\"lr\":\"1e999\"}}", "defaults.lr"},
    {"{\"defaults\":{\"lr\":\"nan\"}}", "defaults.lr"},
    {"{\"defaults\":{\"lr\":\"+Infinity\"}}", "defaults.lr"},
    {"{\"defaults\":{\"lr\":\"0x1p3\"}}", "defaults.lr"},
    {"{\"defaults\":{\"lr\":\" 1\"}}", "defaults.lr"},
    {"{\"defaults\":{\"lr\":\"\"}}", "defaults.lr"},
    {"{\"defaults\":{\"betas\":0.9}}", "defaults.betas"},
    {"{\"defaults\":{\"betas\":[0.9,\"x\"]}}", "defaults.betas[1]"},
    {"{\"defaults\":{\"amsgrad\":1}}", "defaults.amsgrad"},
    {"{\"defaults\":{\"amsgrad\":\"true\"}}", "defaults.amsgrad"},
    {"{\"stepPolicy\":{\"trigger\":\"BARRIER\"}}", "stepPolicy.trigger"},
    {"{\"stepPolicy\":{\"trigger\":17}}", "stepPolicy.trigger"},
    {"{\"stepPolicy\":{\"trigger\":-1}}", "stepPolicy.trigger"},
    {"{\"stepPolicy\":{\"trigger\":1.5}}", "stepPolicy.trigger"},
    {"{\"stepPolicy\":{\"trigger\":true}}", "stepPolicy.trigger"},
    {"{\"stepPolicy\":{\"deadline\":\"1\"}}", "stepPolicy.deadline"},
    {"{\"stepPolicy\":{\"deadline\":\"1.0000000001s\"}}", "stepPolicy.deadline"},
    {"{\"stepPolicy\":{\"deadline\":\"s\"}}", "stepPolicy.deadline"},
    {"{\"stepPolicy\":{\"deadline\":\"1.s\"}}", "stepPolicy.deadline"},
    {"{\"stepPolicy\":{\"deadline\":\"315576000001s\"}}", "stepPolicy.deadline"},
    {"{\"stepPolicy\":{\"deadline\":1}}", "stepPolicy.deadline"},
    {"{\"stepPolicy\":{\"deadline\":{\"seconds\":1}}}", "stepPolicy.deadline"},
    {"{\"createTime\":\"2026-02-29T00:00:00Z\"}", "createTime"},
    {"{\"createTime\":\"2026-01-01 00:00:00Z\"}", "createTime"},
    {"{\"createTime\":\"2026-01-01T00:00:00\"}", "createTime"},
    {"{\"createTime\":\"2026-01-01T24:00:00Z\"}", "createTime"},
    {"{\"createTime\":\"0000-01-01T00:00:00Z\"}", "createTime"},
    {"{\"createTime\":\"0001-01-01T00:00:00+00:01\"}", "createTime"},
    {"{\"createTime\":\"2026-01-01T00:00:00Zx\"}", "createTime"},
    {"{\"createTime\":\"2026-13-01T00:00:00Z\"}", "createTime"},
};

START_TEST(bad_document_is_refused_with_the_path_of_the_field)
{
    ck_assert_ptr_null(parse_model(bad[_i].text));
    ck_assert_int_eq(fault.status, ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, bad[_i].field);
    ck_assert_msg(fault.message[0] != 0, "%s", bad[_i].text);
}
END_TEST

START_TEST(an_unknown_name_suggests_the_nearest)
{
    ck_assert_ptr_null(parse_model("{\"stepPolcy\":{}}"));
    ck_assert_ptr_nonnull(strstr(fault.message, "\"stepPolicy\""));
    ck_assert_ptr_null(parse_model("{\"step_polcy\":{}}"));
    ck_assert_ptr_nonnull(strstr(fault.message, "\"step_policy\""));
    ck_assert_ptr_null(parse_model("{\"zzzzzzzzzzzz\":{}}"));
    ck_assert_ptr_null(strstr(fault.message, "did you mean"));
}
END_TEST

START_TEST(a_number_of_one_member_oneof_is_present_even_if_zero)
{
    const Adamd__V1__AdamOptions *options =
        parse(&adamd__v1__adam_options__descriptor, "{\"lr\":0,\"foreach\":false}");

    ck_assert_ptr_nonnull(options);
    ck_assert_int_eq(options->lr_oneof_case, ADAMD__V1__ADAM_OPTIONS__LR_ONEOF_LR);
    ck_assert_int_eq(options->foreach_oneof_case, ADAMD__V1__ADAM_OPTIONS__FOREACH_ONEOF_FOREACH);
    ck_assert_int_eq(options->eps_oneof_case, 0);
    char *text = print(options, CODEC_JSON_DEFAULTS);
    ck_assert_str_eq(
        text, "{\"lr\":0,\"betas\":[],\"foreach\":false,\"tensorBetas\":[],\"integers\":[]}");
    free(text);
    options = parse(&adamd__v1__adam_options__descriptor, "{\"lr\":null}");
    ck_assert_int_eq(options->lr_oneof_case, 0);
}
END_TEST

START_TEST(only_one_member_of_a_oneof_is_taken)
{
    const ProtobufCMessageDescriptor *type = &adamd__v1__push_gradients_request__descriptor;

    ck_assert_ptr_nonnull(parse(type, "{\"header\":{},\"chunk\":null}"));
    ck_assert_ptr_null(parse(type, "{\"header\":{},\"commit\":{}}"));
    ck_assert_str_eq(fault.field, "commit");
}
END_TEST

START_TEST(both_spellings_of_a_name_are_taken)
{
    const Adamd__V1__Model *model =
        parse_model(" {\"step_policy\" : {\"min_workers\":\"3\"}, \"display_name\":\"a\\u00e9\\/\","
                    "\"liveWorkers\":7.0e0, \"version\":9007199254740992,"
                    "\"generation\":\"18446744073709551615\"}\n");

    ck_assert_ptr_nonnull(model);
    ck_assert_uint_eq(model->step_policy->min_workers, 3);
    ck_assert_str_eq(model->display_name, "a\xc3\xa9/");
    ck_assert_uint_eq(model->live_workers, 7);
    ck_assert_uint_eq(model->version, UINT64_C(9007199254740992));
    ck_assert_uint_eq(model->generation, UINT64_MAX);
}
END_TEST

START_TEST(an_empty_document_is_an_empty_message)
{
    char *text = print(parse_model(""), 0);
    ck_assert_str_eq(text, "{}");
    free(text);
    text = print(parse_model(" \n\t"), 0);
    ck_assert_str_eq(text, "{}");
    free(text);
}
END_TEST

// ---------------------------------------------------------------------------------------- limits

START_TEST(limits_of_size_depth_and_count_hold)
{
    ProtobufCMessage *message = NULL;
    enum { COUNT = 1100000 };
    char *text = malloc(2 * COUNT + 64);

    ck_assert_ptr_nonnull(text);
    ck_assert_int_eq(
        codec_json_parse(&adamd__v1__model__descriptor, "{}  ", 4, 3, &arena, &message, &fault),
        ADAMD_TOO_LARGE);
    size_t size = (size_t)sprintf(text, "{\"tensors\":[{\"shape\":[1");
    for (int i = 0; i < COUNT; i++) {
        text[size++] = ',';
        text[size++] = '1';
    }
    size += (size_t)sprintf(text + size, "]}]}");
    ck_assert_int_eq(codec_json_parse(&adamd__v1__model__descriptor, text, size,
                                      CODEC_JSON_CREATE_MAX, &arena, &message, &fault),
                     ADAMD_BAD_FIELD);
    ck_assert_ptr_nonnull(strstr(fault.message, "too many values"));
    memset(text, '[', COUNT);
    ck_assert_int_eq(codec_json_parse(&adamd__v1__model__descriptor, text, COUNT,
                                      CODEC_JSON_CREATE_MAX, &arena, &message, &fault),
                     ADAMD_BAD_FIELD);
    ck_assert_ptr_nonnull(strstr(fault.message, "deep"));
    free(text);
}
END_TEST

START_TEST(bytes_are_base64_and_bounded)
{
    static const struct {
        const char *text;
        int size; // -1: refused
    } rows[] = {{"", 0},      {"AA==", 1},      {"AA", 1},    {"AAA=", 2},  {"AAA", 2},
                {"_-8=", 2},  {"/+8=", 2},      {"A", -1},    {"AB==", -1}, {"A===", -1},
                {"AA=A", -1}, {"AA==AA==", -1}, {"A A=", -1}, {"AAB", -1}};
    char text[64];

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        (void)snprintf(text, sizeof text, "{\"data\":\"%s\"}", rows[i].text);
        const Adamd__V1__TensorChunk *chunk = parse(&adamd__v1__tensor_chunk__descriptor, text);
        ck_assert_msg((chunk != NULL) == (rows[i].size >= 0), "%s", rows[i].text);
        if (chunk != NULL) {
            ck_assert_int_eq((int)chunk->data.len, rows[i].size);
        }
    }
    const size_t size = (size_t)CODEC_JSON_BYTES_MAX + 3;
    struct codec_text large = {0};
    unsigned char *bytes = calloc(1, size);
    codec_text_put(&large, "{\"data\":\"");
    codec_text_base64(&large, bytes, size, true);
    codec_text_put(&large, "\"}");
    char *document = codec_text_end(&large, NULL);
    ck_assert_ptr_null(parse(&adamd__v1__tensor_chunk__descriptor, document));
    ck_assert_int_eq(fault.status, ADAMD_TOO_LARGE);
    ck_assert_str_eq(fault.field, "data");
    free(document);
    free(bytes);
}
END_TEST

// -------------------------------------------------------------------------------------- round trip

static uint64_t random_state = UINT64_C(0x9e3779b97f4a7c15);

static uint64_t next_random(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static double double_of(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void check_double(double value) {
    Adamd__V1__Metric metric = ADAMD__V1__METRIC__INIT;

    metric.value = value;
    char *text = print(&metric, CODEC_JSON_DEFAULTS);
    const Adamd__V1__Metric *back = parse(&adamd__v1__metric__descriptor, text);
    ck_assert_msg(back != NULL, "%s: %s", text, fault.message);
    if (isnan(value)) {
        ck_assert(isnan(back->value));
    } else {
        ck_assert_msg(memcmp(&back->value, &value, sizeof value) == 0, "%s is not %a", text, value);
    }
    free(text);
    clear();
}

START_TEST(doubles_of_any_bits_come_back)
{
    static const double rows[] = {0.0,
                                  -0.0,
                                  0.1 + 0.2,
                                  1e-3,
                                  9007199254740992.0,
                                  5e-324,
                                  1.7976931348623157e308,
                                  1.0 / 3,
                                  1e22,
                                  123456789012345680.0};

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        check_double(rows[i]);
        check_double(-rows[i]);
    }
    check_double((double)INFINITY);
    check_double(-(double)INFINITY);
    for (int i = 0; i < 20000; i++) {
        check_double(double_of(next_random()));
    }
}
END_TEST

START_TEST(doubles_are_printed_as_short_as_they_can_be)
{
    static const struct {
        double value;
        const char *text;
    } rows[] = {{0.1, "0.1"},      {1e-3, "0.001"}, {0.1 + 0.2, "0.30000000000000004"},
                {1e300, "1e+300"}, {-0.0, "-0"},    {9007199254740992.0, "9007199254740992"}};

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct codec_text text = {0};
        codec_text_double(&text, rows[i].value);
        char *printed = codec_text_end(&text, NULL);
        ck_assert_str_eq(printed, rows[i].text);
        free(printed);
    }
}
END_TEST

// Fills a message with random content, by its descriptor.
static void fill(ProtobufCMessage *message, unsigned depth);

static void *random_string(void) {
    static const char *const strings[] = {
        "",          "a",    "\"\\\b\f\n\r\t\x01\x1f\x7f", "\xc3\xa9", "\xf0\x9f\x98\x80",
        "</script>", "a.b/c"};
    const char *string = strings[next_random() % (sizeof strings / sizeof strings[0])];
    return codec_arena_copy(&arena, string, strlen(string));
}

static void fill_value(const ProtobufCFieldDescriptor *field, void *to, unsigned depth) {
    const uint64_t bits = next_random();
    const uint32_t small = (uint32_t)bits;
    const double finite = isfinite(double_of(bits)) ? double_of(bits) : -(double)INFINITY;

    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING:
        *(void **)to = random_string();
        break;
    case PROTOBUF_C_TYPE_BYTES:
        ((ProtobufCBinaryData *)to)->len = bits % 7;
        ((ProtobufCBinaryData *)to)->data = codec_arena_alloc(&arena, 8);
        memcpy(((ProtobufCBinaryData *)to)->data, &bits, 8);
        break;
    case PROTOBUF_C_TYPE_MESSAGE:
        *(ProtobufCMessage **)to = codec_message_new(&arena, field->descriptor);
        fill(*(ProtobufCMessage **)to, depth + 1);
        break;
    case PROTOBUF_C_TYPE_ENUM: {
        const ProtobufCEnumDescriptor *type = field->descriptor;
        *(int *)to = type->values[bits % type->n_values].value;
        break;
    }
    case PROTOBUF_C_TYPE_BOOL:
        *(protobuf_c_boolean *)to = bits & 1;
        break;
    case PROTOBUF_C_TYPE_DOUBLE:
        memcpy(to, &finite, sizeof finite);
        break;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_INT64:
        memcpy(to, &bits, sizeof bits);
        break;
    default:
        memcpy(to, &small, sizeof small);
        break;
    }
}

static bool fill_time(ProtobufCMessage *message) {
    if (message->descriptor == &google__protobuf__timestamp__descriptor) {
        Google__Protobuf__Timestamp *time = (void *)message;
        time->seconds = (int64_t)(next_random() % 315537897600U) - INT64_C(62135596800);
        time->nanos = (int32_t)(next_random() % 1000000000U);
        return true;
    }
    if (message->descriptor == &google__protobuf__duration__descriptor) {
        Google__Protobuf__Duration *time = (void *)message;
        time->seconds = (int64_t)(next_random() % 315576000000U);
        time->nanos = (int32_t)(next_random() % 1000U) * (next_random() % 2 == 0 ? 1000000 : 1);
        return true;
    }
    return false;
}

static void fill(ProtobufCMessage *message, unsigned depth) {
    unsigned char *base = (unsigned char *)message;

    if (fill_time(message)) {
        return;
    }
    ck_assert_uint_lt(depth, 8);
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        uint32_t *which = (void *)(base + field->quantifier_offset);
        const size_t size = field->type == PROTOBUF_C_TYPE_BYTES ? sizeof(ProtobufCBinaryData) : 8;
        if (next_random() % 3 == 0) {
            continue;
        }
        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            const size_t count = next_random() % 4;
            const bool wide = field->type != PROTOBUF_C_TYPE_UINT32;
            unsigned char *values = codec_arena_alloc(&arena, count * 16);
            for (size_t k = 0; k < count; k++) {
                fill_value(field, values + k * (wide ? size : 4), depth);
            }
            memcpy(base + field->offset, &values, sizeof values);
            memcpy(base + field->quantifier_offset, &count, sizeof count);
            continue;
        }
        if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
            if (*which != 0) {
                continue;
            }
            *which = field->id;
        }
        fill_value(field, base + field->offset, depth);
    }
}

static const ProtobufCMessageDescriptor *const types[] = {
    &adamd__v1__model__descriptor,
    &adamd__v1__create_model_request__descriptor,
    &adamd__v1__push_header__descriptor,
    &adamd__v1__push_gradients_request__descriptor,
    &adamd__v1__pull_parameters_response__descriptor,
    &adamd__v1__step_record__descriptor,
    &adamd__v1__list_workers_response__descriptor,
    &adamd__v1__register_worker_request__descriptor,
    &adamd__v1__error_info__descriptor,
    &adamd__v1__server__descriptor,
};

static void check_packed_equal(const ProtobufCMessage *a, const ProtobufCMessage *b) {
    const size_t size = protobuf_c_message_get_packed_size(a);
    unsigned char *left = malloc(size + 1);
    unsigned char *right = malloc(size + 1);

    ck_assert_uint_eq(protobuf_c_message_get_packed_size(b), size);
    (void)protobuf_c_message_pack(a, left);
    (void)protobuf_c_message_pack(b, right);
    ck_assert_mem_eq(left, right, size);
    free(left);
    free(right);
}

START_TEST(random_messages_come_back_by_json_and_by_protobuf)
{
    for (int i = 0; i < 300; i++) {
        ProtobufCMessage *message = codec_message_new(&arena, types[_i]);
        ProtobufCMessage *back = NULL;
        fill(message, 0);
        char *text = print(message, i % 2 == 0 ? CODEC_JSON_DEFAULTS : 0);
        struct adamd_json json;
        adamd_json_init(&json, text, strlen(text), 16, UINT64_MAX);
        ck_assert_msg(adamd_json_skip(&json) && adamd_json_finish(&json), "%s", text);
        back = parse(types[_i], text);
        ck_assert_msg(back != NULL, "%s: %s: %s", text, fault.field, fault.message);
        check_packed_equal(message, back);
        char *again = print(back, i % 2 == 0 ? CODEC_JSON_DEFAULTS : 0);
        ck_assert_str_eq(text, again);

        const size_t size = protobuf_c_message_get_packed_size(message);
        unsigned char *packed = malloc(size + 1);
        (void)protobuf_c_message_pack(message, packed);
        ck_assert_msg(codec_unpack(types[_i], packed, size, &arena, &back, &fault) == ADAMD_OK,
                      "%s: %s: %s", text, fault.field, fault.message);
        check_packed_equal(message, back);
        free(packed);
        free(text);
        free(again);
        clear();
    }
}
END_TEST

// ------------------------------------------------------------------------------------------ times

START_TEST(times_are_printed_and_read_by_rfc_3339)
{
    static const struct {
        int64_t seconds;
        int32_t nanos;
        const char *text;
    } rows[] = {
        {0, 0, "1970-01-01T00:00:00Z"},
        {-1, 999999999, "1969-12-31T23:59:59.999999999Z"},
        {951782400, 500000000, "2000-02-29T00:00:00.500Z"},
        {1795475429, 1000, "2026-11-23T23:10:29.000001Z"},
        {-62135596800, 0, "0001-01-01T00:00:00Z"},
        {253402300799, 999000000, "9999-12-31T23:59:59.999Z"},
        {4107542400, 0, "2100-03-01T00:00:00Z"}, // no leap year
    };
    char text[CODEC_TIME_TEXT_MAX];
    int64_t seconds = 0;
    int32_t nanos = 0;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ck_assert(codec_timestamp_print(rows[i].seconds, rows[i].nanos, text));
        ck_assert_str_eq(text, rows[i].text);
        ck_assert(codec_timestamp_parse(text, &seconds, &nanos));
        ck_assert_int_eq(seconds, rows[i].seconds);
        ck_assert_int_eq(nanos, rows[i].nanos);
    }
    ck_assert(codec_timestamp_parse("2026-11-24T01:40:29.1+02:30", &seconds, &nanos));
    ck_assert_int_eq(seconds, 1795475429);
    ck_assert_int_eq(nanos, 100000000);
    ck_assert(!codec_timestamp_print(253402300800, 0, text));
    ck_assert(!codec_timestamp_print(0, -1, text));
}
END_TEST

START_TEST(durations_are_printed_and_read)
{
    static const struct {
        int64_t seconds;
        int32_t nanos;
        const char *text;
    } rows[] = {{0, 0, "0s"},
                {1, 500000000, "1.500s"},
                {-1, -500000000, "-1.500s"},
                {0, -1, "-0.000000001s"},
                {30, 1000, "30.000001s"},
                {315576000000, 0, "315576000000s"}};
    char text[CODEC_TIME_TEXT_MAX];
    int64_t seconds = 0;
    int32_t nanos = 0;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ck_assert(codec_duration_print(rows[i].seconds, rows[i].nanos, text));
        ck_assert_str_eq(text, rows[i].text);
        ck_assert(codec_duration_parse(text, &seconds, &nanos));
        ck_assert_int_eq(seconds, rows[i].seconds);
        ck_assert_int_eq(nanos, rows[i].nanos);
    }
    ck_assert(codec_duration_parse("1.5s", &seconds, &nanos));
    ck_assert_int_eq(nanos, 500000000);
    ck_assert(!codec_duration_print(1, -1, text));
}
END_TEST

// ----------------------------------------------------------------------------------------- queries

START_TEST(query_parameters_set_fields)
{
    Adamd__V1__RegisterWorkerRequest *request =
        (void *)codec_message_new(&arena, &adamd__v1__register_worker_request__descriptor);
    Adamd__V1__PullParametersRequest *pull =
        (void *)codec_message_new(&arena, &adamd__v1__pull_parameters_request__descriptor);
    Adamd__V1__PushHeader *header =
        (void *)codec_message_new(&arena, &adamd__v1__push_header__descriptor);
    static const struct {
        const char *name, *text;
    } refused[] = {{"rank", ""},      {"rank", "-1"}, {"rank", "1e3"},    {"rank", "4294967296"},
                   {"nonce", "\xff"}, {"nonse", "x"}, {"generation", " "}};

    ck_assert_int_eq(codec_json_set(&request->base, "worker_id", "w0", &arena, &fault), ADAMD_OK);
    ck_assert_int_eq(codec_json_set(&request->base, "rank", "0", &arena, &fault), ADAMD_OK);
    ck_assert_int_eq(codec_json_set(&pull->base, "wait", "1.5s", &arena, &fault), ADAMD_OK);
    ck_assert_int_eq(codec_json_set(&header->base, "replace", "", &arena, &fault), ADAMD_OK);
    ck_assert_int_eq(codec_json_set(&header->base, "weight", "0.5", &arena, &fault), ADAMD_OK);
    ck_assert_str_eq(request->worker_id, "w0");
    ck_assert_int_eq(request->rank_oneof_case, ADAMD__V1__REGISTER_WORKER_REQUEST__RANK_ONEOF_RANK);
    ck_assert_int_eq(pull->wait->seconds, 1);
    ck_assert_int_eq(pull->wait->nanos, 500000000);
    ck_assert(header->replace);
    ck_assert_double_eq(header->weight, 0.5);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        ck_assert_int_eq(
            codec_json_set(&request->base, refused[i].name, refused[i].text, &arena, &fault),
            ADAMD_BAD_FIELD);
        ck_assert_str_eq(fault.field, refused[i].name);
    }
    ck_assert_int_eq(codec_json_set(&header->base, "replace", "yes", &arena, &fault),
                     ADAMD_BAD_FIELD);
    ck_assert_int_eq(codec_json_set(&header->base, "tensors", "1", &arena, &fault),
                     ADAMD_BAD_FIELD);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("json");
    TCase *cases = tcase_create("json");

    tcase_add_checked_fixture(cases, NULL, clear);
    tcase_set_timeout(cases, 60);
    tcase_add_loop_test(cases, bad_document_is_refused_with_the_path_of_the_field, 0,
                        sizeof bad / sizeof bad[0]);
    tcase_add_test(cases, an_unknown_name_suggests_the_nearest);
    tcase_add_test(cases, a_number_of_one_member_oneof_is_present_even_if_zero);
    tcase_add_test(cases, only_one_member_of_a_oneof_is_taken);
    tcase_add_test(cases, both_spellings_of_a_name_are_taken);
    tcase_add_test(cases, an_empty_document_is_an_empty_message);
    tcase_add_test(cases, limits_of_size_depth_and_count_hold);
    tcase_add_test(cases, bytes_are_base64_and_bounded);
    tcase_add_test(cases, doubles_of_any_bits_come_back);
    tcase_add_test(cases, doubles_are_printed_as_short_as_they_can_be);
    tcase_add_loop_test(cases, random_messages_come_back_by_json_and_by_protobuf, 0,
                        sizeof types / sizeof types[0]);
    tcase_add_test(cases, times_are_printed_and_read_by_rfc_3339);
    tcase_add_test(cases, durations_are_printed_and_read);
    tcase_add_test(cases, query_parameters_set_fields);
    suite_add_tcase(suite, cases);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
