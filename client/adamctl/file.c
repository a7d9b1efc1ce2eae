// Files that go to the daemon or come from it.

#include "file.h"

#include "table.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEADER_MAX = 16 << 20, READ_BYTES = 1 << 20, PROGRESS_BYTES = 64 << 20 };

int file_open(const struct ctl *ctl, const char *path, struct file *ret_file) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    void *bytes = NULL;

    if (fd < 0 || fstat(fd, &status) != 0) {
        int code = fail_here(ctl, "%s: %s", path, strerror(errno));
        if (fd >= 0) {
            (void)close(fd);
        }
        return code;
    }
    if (S_ISREG(status.st_mode) && status.st_size > 0) {
        bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    }
    (void)close(fd);
    if (bytes == NULL || bytes == MAP_FAILED) {
        return fail_here(ctl, "%s: not a file with something in it", path);
    }
    *ret_file = (struct file){.bytes = bytes, .size = (size_t)status.st_size};
    return EXIT_OK;
}

void file_close(struct file *file) {
    if (file->bytes != NULL) {
        (void)munmap(file->bytes, file->size);
    }
    *file = (struct file){.bytes = NULL};
}

int file_header(const struct ctl *ctl, const char *path, const struct file *file,
                cJSON **ret_json) {
    const unsigned char *bytes = file->bytes;
    uint64_t length = 0;

    for (unsigned i = 0; i < 8 && file->size >= 8; i++) {
        length |= (uint64_t)bytes[i] << (8 * i);
    }
    if (length < 2 || length > HEADER_MAX || length > file->size - 8 || bytes[8] != '{') {
        return fail_here(ctl, "%s: not a safetensors file", path);
    }
    *ret_json = cJSON_ParseWithLength((const char *)bytes + 8, (size_t)length);
    if (*ret_json == NULL) {
        return fail_here(ctl, "%s: the header is not JSON", path);
    }
    return EXIT_OK;
}

struct sink {
    const struct ctl *ctl;
    struct download *download;
    int fd;
    char *bytes; // READ_BYTES
};

static bool write_all(int fd, const char *bytes, size_t size) {
    while (size > 0) {
        ssize_t written = write(fd, bytes, size);
        if (written < 0 && errno != EINTR) {
            return false;
        }
        bytes += written > 0 ? written : 0;
        size -= written > 0 ? (size_t)written : 0;
    }
    return true;
}

static void show_progress(const struct sink *sink, size_t size) {
    const struct download *download = sink->download;
    char done[32], total[32];

    if (sink->ctl->quiet || !isatty(STDERR_FILENO) ||
        (download->bytes + size) / PROGRESS_BYTES == download->bytes / PROGRESS_BYTES) {
        return;
    }
    bytes_text((double)(download->bytes + size), done);
    bytes_text((double)download->head.length, total);
    fprintf(stderr, "\r%s of %s\033[K", done, total);
}

// From the start again, if an attempt before was cut off.
static struct adamd_error *receive_file(void *arg, const struct http_head *head,
                                        struct connection *connection) {
    const struct sink *sink = arg;

    if (sink->download->path == NULL && sink->download->bytes > 0) {
        return error_new("BAD_ANSWER", "the answer was cut off, and half of it is printed");
    }
    if (sink->download->path != NULL &&
        (ftruncate(sink->fd, 0) != 0 || lseek(sink->fd, 0, SEEK_SET) != 0)) {
        return error_new("INTERNAL", "%s: %s", sink->download->path, strerror(errno));
    }
    sink->download->head = *head;
    sink->download->bytes = 0;
    for (;;) {
        size_t size = 0;
        struct adamd_error *error =
            error_of_io(connection, connection_read(connection, sink->bytes, READ_BYTES, &size));
        if (error != NULL || size == 0) {
            return error;
        }
        if (!write_all(sink->fd, sink->bytes, size)) {
            return error_new("INTERNAL", "writing failed: %s", strerror(errno));
        }
        show_progress(sink, size);
        sink->download->bytes += size;
    }
}

static int download_to(const struct ctl *ctl, const char *target, struct sink *sink) {
    const struct file *sent = sink->download->sent;
    const struct iovec body = {.iov_base = sent != NULL ? sent->bytes : NULL,
                               .iov_len = sent != NULL ? sent->size : 0};
    const struct call call = {
        .method = sent != NULL ? "POST" : "GET",
        .target = target,
        .headers = sent != NULL ? "Content-Type: application/x-safetensors\r\n" : NULL,
        .body = &body,
        .body_count = sent != NULL ? 1 : 0,
        .has_body = sent != NULL,
        .receive = receive_file,
        .arg = sink,
    };
    struct adamd_error *error = NULL;

    sink->bytes = must(malloc(READ_BYTES));
    error = transport_call(ctl->transport, &call, ctl_deadline(ctl), NULL);
    free(sink->bytes);
    if (sink->download->bytes >= PROGRESS_BYTES && isatty(STDERR_FILENO) && !ctl->quiet) {
        fputs("\r\033[K", stderr);
    }
    return error != NULL ? fail(ctl, error) : EXIT_OK;
}

int file_download(const struct ctl *ctl, const char *target, struct download *download) {
    struct sink sink = {.ctl = ctl, .download = download, .fd = STDOUT_FILENO};
    size_t size = download->path != NULL ? strlen(download->path) + 8 : 0;
    char *part = NULL;
    int code = EXIT_OK;

    if (download->path == NULL) {
        return isatty(STDOUT_FILENO)
                   ? fail_usage(ctl, "tensors on a terminal help nobody: name a file with -o")
                   : download_to(ctl, target, &sink);
    }
    part = must(malloc(size));
    snprintf(part, size, "%s.XXXXXX", download->path);
    sink.fd = mkstemp(part);
    if (sink.fd < 0) {
        code = fail_here(ctl, "%s: %s", download->path, strerror(errno));
        free(part);
        return code;
    }
    code = download_to(ctl, target, &sink);
    (void)fchmod(sink.fd, 0644);
    if (code == EXIT_OK && (fsync(sink.fd) != 0 || rename(part, download->path) != 0)) {
        code = fail_here(ctl, "%s: %s", download->path, strerror(errno));
    }
    (void)close(sink.fd);
    if (code != EXIT_OK) {
        (void)unlink(part);
    }
    free(part);
    return code;
}
