// Envelopes: any split of the bytes gives the same messages, and never a byte more is taken.
#include "codec/envelope.h"

#include <adamd/v1/adamd.pb-c.h>
#include <check.h>
#include <stdlib.h>
#include <string.h>

static struct adamd_fault fault;

static const unsigned char stream[] = "\0\0\0\0\3abc"
                                      "\0\0\0\0\0"
                                      "\0\0\0\1\4"
                                      "01234567890123456789012345678901234567890123456789"
                                      "01234567890123456789012345678901234567890123456789"
                                      "01234567890123456789012345678901234567890123456789"
                                      "01234567890123456789012345678901234567890123456789"
                                      "01234567890123456789012345678901234567890123456789"
                                      "0123456789"
                                      "the rest";
static const size_t sizes[] = {3, 0, 260};
enum { REST = 8 };

// Feeds the stream in pieces of `step` bytes; all three messages, and what is left is the rest.
START_TEST(any_split_gives_the_same_messages)
{
    const size_t step = (size_t)_i;
    struct deframer deframer = {.message_max = 300};
    size_t at = 0;
    size_t count = 0;

    while (count < 3) {
        const size_t left = sizeof stream - 1 - at;
        const unsigned char *message = NULL;
        size_t used = 0;
        size_t size = 0;
        ck_assert_int_eq(deframer_take(&deframer, stream + at, left < step ? left : step, &used,
                                       &message, &size, &fault),
                         ADAMD_OK);
        at += used;
        if (message == NULL) {
            ck_assert_uint_eq(used, step);
            continue;
        }
        ck_assert_uint_eq(size, sizes[count]);
        ck_assert_mem_eq(message, stream + at - size, size);
        ck_assert(deframer_at_boundary(&deframer));
        count++;
    }
    ck_assert_str_eq((const char *)stream + at, "the rest");
    deframer_finish(&deframer);
}
END_TEST

START_TEST(boundary_is_known)
{
    struct deframer deframer = {.message_max = 300};
    const unsigned char *message = NULL;
    size_t used = 0;
    size_t size = 0;

    ck_assert(deframer_at_boundary(&deframer));
    for (size_t i = 0; i < 8; i++) {
        ck_assert_int_eq(deframer_take(&deframer, stream + i, 1, &used, &message, &size, &fault),
                         ADAMD_OK);
        ck_assert(deframer_at_boundary(&deframer) == (i == 7));
    }
    ck_assert_int_eq(deframer_take(&deframer, NULL, 0, &used, &message, &size, &fault), ADAMD_OK);
    ck_assert_ptr_null(message);
    ck_assert(deframer_at_boundary(&deframer));
    deframer_finish(&deframer);
}
END_TEST

static const struct {
    const char *head;
    enum adamd_status status;
} bad[] = {
    {"\1\0\0\0\0", ADAMD_BAD_FIELD},   // compressed
    {"\2\0\0\0\0", ADAMD_BAD_FIELD},   // the end of a stream, which requests do not have
    {"\200\0\0\0\0", ADAMD_BAD_FIELD}, // trailers of gRPC-Web
    {"\0\0\0\1\55", ADAMD_TOO_LARGE},  // 301
    {"\0\377\377\377\377", ADAMD_TOO_LARGE},
};

START_TEST(bad_head_is_refused_at_its_fifth_byte)
{
    struct deframer deframer = {.message_max = 300};
    const unsigned char *message = NULL;
    size_t used = 0;
    size_t size = 0;

    ck_assert_int_eq(deframer_take(&deframer, bad[_i].head, 4, &used, &message, &size, &fault),
                     ADAMD_OK);
    ck_assert_int_eq(deframer_take(&deframer, bad[_i].head + 4, 1, &used, &message, &size, &fault),
                     bad[_i].status);
    ck_assert_str_eq(fault.field, "envelope");
    ck_assert_ptr_null(deframer.message);
    deframer_finish(&deframer);
}
END_TEST

START_TEST(packed_message_comes_out_again)
{
    Adamd__V1__PushHeader header = ADAMD__V1__PUSH_HEADER__INIT;
    struct deframer deframer = {.message_max = ENVELOPE_SMALL_MAX};
    const unsigned char *message = NULL;
    unsigned char *bytes = NULL;
    size_t bytes_size = 0;
    size_t used = 0;
    size_t size = 0;

    header.worker = (char *)"w0";
    header.sequence = 300;
    ck_assert_int_eq(envelope_pack(&header.base, &bytes, &bytes_size), ADAMD_OK);
    ck_assert_int_eq(deframer_take(&deframer, bytes, bytes_size, &used, &message, &size, &fault),
                     ADAMD_OK);
    ck_assert_uint_eq(used, bytes_size);
    Adamd__V1__PushHeader *back = adamd__v1__push_header__unpack(NULL, size, message);
    ck_assert_ptr_nonnull(back);
    ck_assert_str_eq(back->worker, "w0");
    ck_assert_uint_eq(back->sequence, 300);
    adamd__v1__push_header__free_unpacked(back, NULL);
    free(bytes);
    deframer_finish(&deframer);
    deframer_finish(&deframer);
}
END_TEST

START_TEST(head_is_big_endian)
{
    unsigned char head[ENVELOPE_HEAD_SIZE];

    envelope_head(head, 0x01020304);
    ck_assert_mem_eq(head, "\0\1\2\3\4", sizeof head);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("envelope");
    TCase *cases = tcase_create("envelope");

    tcase_add_loop_test(cases, any_split_gives_the_same_messages, 1, (int)sizeof stream);
    tcase_add_test(cases, boundary_is_known);
    tcase_add_loop_test(cases, bad_head_is_refused_at_its_fifth_byte, 0,
                        sizeof bad / sizeof bad[0]);
    tcase_add_test(cases, packed_message_comes_out_again);
    tcase_add_test(cases, head_is_big_endian);
    suite_add_tcase(suite, cases);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
