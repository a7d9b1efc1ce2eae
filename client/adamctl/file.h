/**
 * Files that go to the daemon or come from it.
 */
#ifndef ADAMCTL_FILE_H
#define ADAMCTL_FILE_H

#include "ctl.h"

/** A whole file, mapped. */
struct file {
    void *bytes;
    size_t size;
};

int file_open(const struct ctl *ctl, const char *path, struct file *ret_file);
/** Takes anything from zeroed to open. */
void file_close(struct file *file);

/** The header of a safetensors file; `ret_json` is to be deleted. */
int file_header(const struct ctl *ctl, const char *path, const struct file *file, cJSON **ret_json);

/** The answer's body: into a new file that gets its name when it is whole, or to stdout. */
struct download {
    const char *path;        // NULL: stdout
    const struct file *sent; // what is asked about, a safetensors file; NULL: nothing, a GET
    struct http_head head;
    uint64_t bytes;
};
int file_download(const struct ctl *ctl, const char *target, struct download *download);

#endif
