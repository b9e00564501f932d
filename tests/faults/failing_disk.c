/* A disk that fails on demand, under the prediction log of one process or of all of a gateway's, by LD_PRELOAD.
 *
 * The first word of the file named by FAULT_FILE says how. Those that come once remove the file when they are met:
 *
 *   eio      fdatasync fails without syncing
 *   enospc   a write of a frame fails, and writes nothing
 *   short    a write of a frame writes half of it and says so, as a full disk does
 *   lie      as `short`, but it claims to have written all of it
 *
 * Those that last as long as the file is there:
 *
 *   slow     fdatasync takes 40 ms more
 *   stall    fdatasync waits until the file is gone; beside it, FAULT_FILE.met says that one does
 *   broken   fdatasync fails, without syncing
 *   full     a write of a frame fails, and writes nothing
 *   nosync   fdatasync and fsync of anything say that all is well, and sync nothing
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLOW_MICROSECONDS 40000
#define POLL_MICROSECONDS 1000
#define FRAMES_FROM 4096 /* Before it lie a segment's header and its durable mark. */

static int ordered(const char *fault) {
    const char *path = getenv("FAULT_FILE");
    char word[8] = {0};
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    ssize_t count = read(file, word, sizeof word - 1);
    close(file);
    return count > 0 && strncmp(word, fault, strlen(fault)) == 0;
}

/* Of several that meet an order at once, the one that removes it has it. */
static int once(const char *fault) { return ordered(fault) && unlink(getenv("FAULT_FILE")) == 0; }

static int is_segment(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path);
    return length > 4 && memcmp(path + length - 4, ".seg", 4) == 0;
}

static void stand_still(void) {
    char met[PATH_MAX];
    snprintf(met, sizeof met, "%s.met", getenv("FAULT_FILE"));
    close(open(met, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    while (ordered("stall")) usleep(POLL_MICROSECONDS);
}

int fdatasync(int file) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
    if (ordered("nosync")) return 0;
    if (getenv("FAULT_FILE") && is_segment(file)) {
        if (ordered("broken") || once("eio")) {
            errno = EIO;
            return -1;
        }
        if (ordered("slow")) usleep(SLOW_MICROSECONDS);
        if (ordered("stall")) stand_still();
    }
    return real(file);
}

int fsync(int file) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    return ordered("nosync") ? 0 : real(file);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    if (offset >= FRAMES_FROM && getenv("FAULT_FILE") && is_segment(file)) {
        if (once("short")) return real(file, data, size / 2, offset);
        if (once("lie")) return real(file, data, size / 2, offset) < 0 ? -1 : (ssize_t)size;
        if (ordered("full") || once("enospc")) {
            errno = ENOSPC;
            return -1;
        }
    }
    return real(file, data, size, offset);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) {
    return pwrite64(file, data, size, offset);
}
