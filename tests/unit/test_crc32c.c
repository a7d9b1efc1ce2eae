// Goal: both ways give the published check values, whatever the pieces.
#include "adamd/crc32c.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static uint32_t (*const ways[])(uint32_t, const void *, size_t) = {adamd_crc32c,
                                                                   adamd_crc32c_tables};

// RFC 3720, B.4, and the catalogue's check value.
START_TEST(published_vectors_come_out)
{
    unsigned char bytes[32];

    ck_assert_uint_eq(ways[_i](0, "123456789", 9), 0xE3069283);
    ck_assert_uint_eq(ways[_i](0, NULL, 0), 0);
    memset(bytes, 0, sizeof bytes);
    ck_assert_uint_eq(ways[_i](0, bytes, sizeof bytes), 0x8A9136AA);
    memset(bytes, 0xFF, sizeof bytes);
    ck_assert_uint_eq(ways[_i](0, bytes, sizeof bytes), 0x62A8AB43);
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)i;
    }
    ck_assert_uint_eq(ways[_i](0, bytes, sizeof bytes), 0x46DD794E);
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(31 - i);
    }
    ck_assert_uint_eq(ways[_i](0, bytes, sizeof bytes), 0x113FDB5C);
}
END_TEST

START_TEST(pieces_give_the_same_as_the_whole)
{
    unsigned char bytes[101];

    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(i * 37 + 11);
    }
    const uint32_t whole = adamd_crc32c_tables(0, bytes, sizeof bytes);
    for (size_t cut = 0; cut <= sizeof bytes; cut++) {
        const uint32_t first = ways[_i](0, bytes, cut);
        ck_assert_uint_eq(ways[_i](first, bytes + cut, sizeof bytes - cut), whole);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("crc32c");
    TCase *tests = tcase_create("all");

    tcase_add_loop_test(tests, published_vectors_come_out, 0, 2);
    tcase_add_loop_test(tests, pieces_give_the_same_as_the_whole, 0, 2);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
