// Runs a fuzz target over the files of a folder, in builds without a fuzzer: each kept input must
// pass for ever. Also over every prefix of each, which costs little and finds much.
#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 1 << 20, PREFIXES_MAX = 512 };

static size_t read_file(const char *path, uint8_t **ret_bytes) {
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = malloc(FILE_MAX);

    if (file == NULL || bytes == NULL) {
        (void)fprintf(stderr, "cannot read %s\n", path);
        exit(EXIT_FAILURE);
    }
    const size_t size = fread(bytes, 1, FILE_MAX, file);
    (void)fclose(file);
    *ret_bytes = bytes;
    return size;
}

// Each input in memory of exactly its size, so that a sanitizer sees a read past the end.
static void run_input(const uint8_t *bytes, size_t size) {
    uint8_t *copy = malloc(size > 0 ? size : 1);

    if (copy == NULL) {
        exit(EXIT_FAILURE);
    }
    memcpy(copy, bytes, size);
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static size_t run_file(const char *path) {
    uint8_t *bytes = NULL;
    const size_t size = read_file(path, &bytes);
    size_t runs = 1;

    run_input(bytes, size);
    for (size_t cut = 0; cut < size && cut < PREFIXES_MAX; cut++, runs++) {
        run_input(bytes, cut);
    }
    free(bytes);
    return runs;
}

int main(int argc, char **argv) {
    size_t files = 0;
    size_t runs = 0;
    DIR *folder = argc == 2 ? opendir(argv[1]) : NULL;

    if (folder == NULL) {
        (void)fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return EXIT_FAILURE;
    }
    for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        char path[4096];
        if (entry->d_name[0] == '.') {
            continue;
        }
        (void)snprintf(path, sizeof path, "%s/%s", argv[1], entry->d_name);
        runs += run_file(path);
        files++;
    }
    (void)closedir(folder);
    printf("%zu files, %zu inputs\n", files, runs);
    return files > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
