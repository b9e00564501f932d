/* A disk that fails on demand, under one process, by LD_PRELOAD.
 *
 * While the file named by FAULT_FILE exists: "eio" in it makes fdatasync fail without syncing, "short" makes a large
 * pwrite write half of what it should and say so, as a full disk does. Each failure removes the file: one fault, once.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int due(const char *fault) {
    const char *path = getenv("FAULT_FILE");
    char word[8] = {0};
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return 0;
    ssize_t count = read(file, word, sizeof word - 1);
    close(file);
    if (count <= 0 || strncmp(word, fault, strlen(fault)) != 0) return 0;
    unlink(path);
    return 1;
}

int fdatasync(int file) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
    if (due("eio")) {
        errno = EIO;
        return -1;
    }
    return real(file);
}

static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    if (!real_pwrite) real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    /* Larger than a durable mark or the beginning of a segment: a frame. */
    if (size > 4096 && due("short")) return real_pwrite(file, data, size / 2, offset);
    return real_pwrite(file, data, size, offset);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) {
    return pwrite64(file, data, size, offset);
}
