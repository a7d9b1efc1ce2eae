// Protobuf from strangers: what protobuf-c would take without looking is refused before it sees it,
// and what unpacking allocates stays below what the walk announced.
#include "codec/message.h"

#include <adamd/v1/adamd.pb-c.h>
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct codec_arena arena;
static struct adamd_fault fault;

static void clear(void) {
    codec_arena_finish(&arena);
}

static enum adamd_status unpack(const ProtobufCMessageDescriptor *type, const void *bytes,
                                size_t size, void *ret_message) {
    ProtobufCMessage *message = NULL;

    memset(&fault, 0, sizeof fault);
    const enum adamd_status status = codec_unpack(type, bytes, size, &arena, &message, &fault);
    ck_assert_int_eq(status, fault.status);
    ck_assert((status == ADAMD_OK) == (message != NULL));
    *(ProtobufCMessage **)ret_message = message;
    return status;
}

// --------------------------------------------------------------------------------------- refusals

#define MODEL &adamd__v1__model__descriptor
#define HEADER &adamd__v1__push_header__descriptor
#define B(text) text, sizeof(text) - 1

static const struct {
    const ProtobufCMessageDescriptor *type;
    const char *bytes;
    size_t size;
    const char *field;
} bad[] = {
    {MODEL, B("\x00"), ""},                              // field 0
    {MODEL, B("\x80\x80\x80\x80\x10\x00"), ""},          // a number above 2^29
    {MODEL, B("\xe8\x80\x80\x80\x80\x00\x01"), ""},      // a tag of six bytes
    {MODEL, B("\x0a\x81\x80\x80\x80\x80\x00z"), "name"}, // a length of six bytes
    {MODEL, B("\x0b"), ""},                              // a group
    {MODEL, B("\x0c"), ""},                              //
    {MODEL, B("\x0e"), ""},                              // wire types that there are not
    {MODEL, B("\x0f"), ""},                              //
    {MODEL, B("\x0a"), "name"},                          // no length
    {MODEL, B("\x0a\x05ugh"), "name"},                   // cut
    {MODEL, B("\x0a\xff\xff\xff\xff\x0f"), "name"},      // a length of 4 GiB
    {MODEL, B("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "name"},
    {MODEL, B("\x68\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), "generation"}, // 65 bits
    {MODEL, B("\x68\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "generation"},
    {MODEL, B("\x68\x80"), "generation"},     // cut
    {MODEL, B("\x08\x01"), "name"},           // a number where a string belongs
    {MODEL, B("\x6a\x01\x01"), "generation"}, // a string where a number belongs
    {MODEL, B("\x69\x01\x01\x01\x01\x01\x01\x01\x01"), "generation"},
    {MODEL, B("\x0a\x01\xff"), "name"},         // not UTF-8
    {MODEL, B("\x0a\x03\xed\xa0\x80"), "name"}, // a surrogate
    {MODEL,
     B("\x0a\x03"
       "a\0b"),
     "name"},                             // NUL
    {MODEL, B("\x48\x07"), "durability"}, // no value of the enum
    {MODEL, B("\x48\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "durability"}, // minus one
    {MODEL, B("\x48\x80\x80\x80\x80\x20"), "durability"},                     // 2^33
    {MODEL, B("\x42\x00\x42\x00"), "step_policy"},                            // given twice
    {MODEL, B("\x42\x02\x08\x09"), "step_policy.trigger"},
    {MODEL, B("\x2a\x00\x2a\x03\x1a\x01\xff"), "tensors[1].key"},
    {MODEL, B("\x2a\x03\x2a\x01\xff"), "tensors[0].shape"}, // packed, cut
    {MODEL, B("\x2a\x03\x2a\x02\x01"), "tensors[0].shape"}, // longer than its message
    {MODEL, B("\x32\x04\x12\x02\x08\x01"), "param_groups[0].options.lr"},
    {HEADER, B("\x58\x01"), "crc32c"},         // a varint for a fixed32
    {HEADER, B("\x5d\x01\x02\x03"), "crc32c"}, // cut
    {HEADER, B("\x4a\x03\x01\x80\x80"), "tensors"},
    {HEADER, B("\x62\x02\x0a\x05"), "metrics[0].key"},
};

START_TEST(malformed_message_is_refused_with_its_field)
{
    void *message = NULL;

    ck_assert_int_eq(unpack(bad[_i].type, bad[_i].bytes, bad[_i].size, &message), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, bad[_i].field);
    ck_assert_uint_gt(strlen(fault.message), 0);
}
END_TEST

START_TEST(legal_but_unusual_encodings_are_taken)
{
    Adamd__V1__Model *model = NULL;
    Adamd__V1__PushHeader *header = NULL;
    Adamd__V1__AdamOptions *options = NULL;

    // Numbers longer than they need be, a scalar given twice, a packed field in pieces and
    // unpacked.
    ck_assert_int_eq(unpack(MODEL, B("\x68\x81\x80\x00\x68\x02"), &model), ADAMD_OK);
    ck_assert_uint_eq(model->generation, 2);
    ck_assert_int_eq(unpack(HEADER, B("\x4a\x02\x01\x02\x48\x03\x4a\x01\x04"), &header), ADAMD_OK);
    ck_assert_uint_eq(header->n_tensors, 4);
    ck_assert_uint_eq(header->tensors[3], 4);
    // betas unpacked.
    ck_assert_int_eq(unpack(&adamd__v1__adam_options__descriptor,
                            B("\x11\0\0\0\0\0\0\xe0\x3f\x11\0\0\0\0\0\0\0\0"), &options),
                     ADAMD_OK);
    ck_assert_uint_eq(options->n_betas, 2);
    ck_assert_double_eq(options->betas[0], 0.5);
    // Nothing at all, and fields of a later version.
    ck_assert_int_eq(unpack(MODEL, NULL, 0, &model), ADAMD_OK);
    ck_assert_str_eq(model->name, "");
    ck_assert_int_eq(unpack(MODEL,
                            B("\xf8\x7f\x05\xfa\x7f\x02hi\xf9\x7f"
                              "12345678"
                              "\xfd\x7f"
                              "1234"),
                            &model),
                     ADAMD_OK);
}
END_TEST

START_TEST(fields_that_this_version_does_not_know_are_few)
{
    unsigned char bytes[3 * (CODEC_UNKNOWN_MAX + 1)];
    void *message = NULL;

    for (size_t i = 0; i < sizeof bytes; i += 3) {
        memcpy(bytes + i, "\xf8\x7f\x00", 3);
    }
    ck_assert_int_eq(unpack(MODEL, bytes, (size_t)3 * CODEC_UNKNOWN_MAX, &message), ADAMD_OK);
    ck_assert_int_eq(unpack(MODEL, bytes, sizeof bytes, &message), ADAMD_BAD_FIELD);
}
END_TEST

// ------------------------------------------------------------------------------------------ bombs

// `size` bytes made of one piece over and over.
static unsigned char *repeat(const char *piece, size_t piece_size, size_t size) {
    unsigned char *bytes = malloc(size);

    ck_assert_ptr_nonnull(bytes);
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (unsigned char)piece[i % piece_size];
    }
    return bytes;
}

static const struct {
    const ProtobufCMessageDescriptor *type;
    const char *piece;
    size_t piece_size;
} bombs[] = {
    {MODEL, B("\x2a\x00")},     // empty tensors
    {MODEL, B("\x32\x00")},     // empty groups
    {MODEL, B("\x22\x00")},     // empty labels
    {MODEL, B("\x68\x01")},     // one number over and over: notes on members
    {MODEL, B("\xf8\x7f\x00")}, // unknown numbers
    {HEADER, B("\x62\x00")},    // empty metrics
    {&adamd__v1__param_group__descriptor, B("\x0a\x00")}, // empty strings
    {&adamd__v1__server__descriptor, B("\x22\x00")},
    {&adamd__v1__list_models_response__descriptor, B("\x0a\x02\x2a\x00")},
};

// conventions: 4 MiB of these took 285 MB and two million allocations without the walk.
START_TEST(bomb_takes_no_more_than_its_budget)
{
    const size_t size = (size_t)4 << 20;
    unsigned char *bytes = repeat(bombs[_i].piece, bombs[_i].piece_size,
                                  size / bombs[_i].piece_size * bombs[_i].piece_size);
    void *message = NULL;
    const enum adamd_status status =
        unpack(bombs[_i].type, bytes, size / bombs[_i].piece_size * bombs[_i].piece_size, &message);

    ck_assert_int_ne(status, ADAMD_OK);
    ck_assert_uint_eq(arena.taken, 0);
    free(bytes);
    // A small one of the same kind is within its rights, and within the bound.
    bytes = repeat(bombs[_i].piece, bombs[_i].piece_size, bombs[_i].piece_size * 60);
    size_t bound = 0;
    ck_assert_int_eq(codec_scan(bombs[_i].type, bytes, bombs[_i].piece_size * 60, &bound, &fault),
                     ADAMD_OK);
    ck_assert_int_eq(unpack(bombs[_i].type, bytes, bombs[_i].piece_size * 60, &message), ADAMD_OK);
    ck_assert_uint_le(arena.taken, bound);
    free(bytes);
}
END_TEST

START_TEST(packed_numbers_are_within_the_bound)
{
    const size_t count = (size_t)1 << 20;
    unsigned char *bytes = malloc(count + 16);
    Adamd__V1__PushHeader *header = NULL;

    ck_assert_ptr_nonnull(bytes);
    memcpy(bytes, "\x4a\x80\x80\x40", 4);
    memset(bytes + 4, 1, count);
    ck_assert_int_eq(unpack(HEADER, bytes, count + 4, &header), ADAMD_OK);
    ck_assert_uint_eq(header->n_tensors, count);
    ck_assert_uint_le(arena.taken, 24 * count);
    free(bytes);
}
END_TEST

// A table of the largest model with the shortest names there can be must pass.
START_TEST(large_table_with_short_names_is_taken)
{
    enum { COUNT = 65536 };
    Adamd__V1__CreateModelRequest request = ADAMD__V1__CREATE_MODEL_REQUEST__INIT;
    Adamd__V1__CreateModelRequest *back = NULL;
    Adamd__V1__Model model = ADAMD__V1__MODEL__INIT;
    Adamd__V1__Tensor *tensors = calloc(COUNT, sizeof *tensors);
    Adamd__V1__Tensor **list = calloc(COUNT, sizeof(Adamd__V1__Tensor *));
    char(*keys)[16] = calloc(COUNT, sizeof *keys);
    uint64_t shape = 5;

    for (int i = 0; i < COUNT; i++) {
        adamd__v1__tensor__init(&tensors[i]);
        (void)snprintf(keys[i], sizeof keys[i], "w%d", i);
        tensors[i].key = keys[i];
        tensors[i].n_shape = 1;
        tensors[i].shape = &shape;
        list[i] = &tensors[i];
    }
    model.n_tensors = COUNT;
    model.tensors = list;
    request.model = &model;
    const size_t size = adamd__v1__create_model_request__get_packed_size(&request);
    unsigned char *bytes = malloc(size);
    (void)adamd__v1__create_model_request__pack(&request, bytes);
    ck_assert_msg(unpack(&adamd__v1__create_model_request__descriptor, bytes, size, &back) ==
                      ADAMD_OK,
                  "%s", fault.message);
    ck_assert_uint_eq(back->model->n_tensors, COUNT);
    ck_assert_str_eq(back->model->tensors[COUNT - 1]->key, "w65535");
    free(bytes);
    free(tensors);
    free(list);
    free(keys);
}
END_TEST

START_TEST(message_over_sixteen_mebibytes_is_refused_unread)
{
    void *message = NULL;

    ck_assert_int_eq(unpack(MODEL, "", (size_t)CODEC_MESSAGE_MAX + 1, &message), ADAMD_TOO_LARGE);
}
END_TEST

// ------------------------------------------------------------------------------------------ arena

START_TEST(arena_gives_zeroed_aligned_memory_up_to_its_limit)
{
    struct codec_arena small = {.limit = 112};

    for (size_t size = 0; size < 40; size += 13) {
        const unsigned char *piece = codec_arena_alloc(&small, size);
        ck_assert_ptr_nonnull(piece);
        ck_assert_uint_eq((uintptr_t)piece % 16, 0);
        for (size_t i = 0; i < size; i++) {
            ck_assert_uint_eq(piece[i], 0);
        }
    }
    ck_assert_ptr_null(codec_arena_alloc(&small, 1));
    ck_assert(small.over);
    codec_arena_finish(&small);
    ck_assert_ptr_null(codec_arena_array(&small, SIZE_MAX / 2, 3));
    ck_assert_ptr_null(codec_arena_alloc(&small, SIZE_MAX));
    char *large = codec_arena_alloc(&small, (size_t)1 << 20);
    ck_assert_ptr_nonnull(large);
    large[(1 << 20) - 1] = 1;
    ck_assert_str_eq(codec_arena_format(&small, "%s-%d", "a", 7), "a-7");
    codec_arena_finish(&small);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("message");
    TCase *cases = tcase_create("message");

    tcase_add_checked_fixture(cases, NULL, clear);
    tcase_set_timeout(cases, 60);
    tcase_add_loop_test(cases, malformed_message_is_refused_with_its_field, 0,
                        sizeof bad / sizeof bad[0]);
    tcase_add_test(cases, legal_but_unusual_encodings_are_taken);
    tcase_add_test(cases, fields_that_this_version_does_not_know_are_few);
    tcase_add_loop_test(cases, bomb_takes_no_more_than_its_budget, 0,
                        sizeof bombs / sizeof bombs[0]);
    tcase_add_test(cases, packed_numbers_are_within_the_bound);
    tcase_add_test(cases, large_table_with_short_names_is_taken);
    tcase_add_test(cases, message_over_sixteen_mebibytes_is_refused_unread);
    tcase_add_test(cases, arena_gives_zeroed_aligned_memory_up_to_its_limit);
    suite_add_tcase(suite, cases);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
