// The n-th allocation fails, for every n, while a file of torch.save is written and read: the
// answer is that memory ran out, and nothing is left behind (which the sanitizers watch).
#include "pt_files.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

// This program's core is compiled to allocate here: the n-th call fails.
void *test_malloc(size_t size);
void *test_calloc(size_t count, size_t size);
void *test_realloc(void *memory, size_t size);

static int allocations_left = -1; // negative: none fails

static bool allocation_fails(void) {
    return allocations_left >= 0 && allocations_left-- == 0;
}

void *test_malloc(size_t size) {
    return allocation_fails() ? NULL : malloc(size);
}

void *test_calloc(size_t count, size_t size) {
    return allocation_fails() ? NULL : calloc(count, size);
}

void *test_realloc(void *memory, size_t size) {
    return allocation_fails() ? NULL : realloc(memory, size);
}

static struct pt_built built;

static enum adamd_status write_file(void) {
    static const float values[] = {1, 2};
    const uint64_t shape[] = {2};
    struct adamd_pt_writer *writer = NULL;
    const struct adamd_pt_piece *pieces = NULL;
    size_t count = 0;

    if (adamd_pt_create("archive", &writer) != ADAMD_OK) {
        return ADAMD_NO_MEMORY;
    }
    adamd_pt_begin_dict(writer);
    for (int i = 0; i < 100; i++) { // the list of storages grows
        adamd_pt_put_int(writer, i);
        adamd_pt_put_tensor(writer, ADAMD_PT_FLOAT32, 1, shape, values);
    }
    adamd_pt_end_dict(writer);
    ck_assert(adamd_pt_checksum(writer, UINT64_MAX));
    const enum adamd_status status = adamd_pt_finish(writer, &pieces, &count);
    built.size = 0;
    for (size_t i = 0; i < count; i++) {
        memcpy(built.bytes + built.size, pieces[i].bytes, pieces[i].size);
        built.size += pieces[i].size;
    }
    adamd_pt_destroy(writer);
    return status;
}

static enum adamd_status read_file(void) {
    const struct adamd_pt_limits limits = {0};
    struct adamd_pt_file *file = NULL;
    struct adamd_fault fault = {0};
    const enum adamd_status status = adamd_pt_read(built.bytes, built.size, &limits, &file, &fault);

    ck_assert_int_eq(fault.status, status);
    ck_assert((status == ADAMD_OK) == (file != NULL));
    adamd_pt_close(file);
    return status;
}

static int fail_each(enum adamd_status (*run)(void)) {
    enum adamd_status status = ADAMD_NO_MEMORY;
    int n = 0;

    for (; status != ADAMD_OK; n++) {
        ck_assert_int_lt(n, 10000);
        allocations_left = n;
        status = run();
        ck_assert(status == ADAMD_OK || status == ADAMD_NO_MEMORY);
    }
    allocations_left = -1;
    return n;
}

START_TEST(each_allocation_of_the_writer_may_fail)
{ ck_assert_int_gt(fail_each(write_file), 8); }
END_TEST

START_TEST(each_allocation_of_the_reader_may_fail)
{
    ck_assert_int_eq(write_file(), ADAMD_OK);
    ck_assert_int_gt(fail_each(read_file), 5);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("pt_failures");
    TCase *tcase = tcase_create("all");

    tcase_add_test(tcase, each_allocation_of_the_writer_may_fail);
    tcase_add_test(tcase, each_allocation_of_the_reader_may_fail);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
