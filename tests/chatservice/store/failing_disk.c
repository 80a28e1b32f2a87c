/* Makes every sync, or every read at an offset, fail while a file of that name exists: a sync with
 * EIO, a read with ETIMEDOUT, as of a disk behind a network (SQLite takes EIO for damage).
 *
 *   cc -shared -fPIC -o failing_disk.so failing_disk.c -ldl
 *   FAILING_SYNC=/path FAILING_READ=/path LD_PRELOAD=./failing_disk.so program
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int failing(const char *variable, int error)
{
    const char *name = getenv(variable);
    if (!name || access(name, F_OK) != 0)
        return 0;
    errno = error;
    return 1;
}

int fsync(int file)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return failing("FAILING_SYNC", EIO) ? -1 : real(file);
}

int fdatasync(int file)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return failing("FAILING_SYNC", EIO) ? -1 : real(file);
}

ssize_t pread(int file, void *into, size_t count, off_t offset)
{
    ssize_t (*real)(int, void *, size_t, off_t) =
        (ssize_t(*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread");
    return failing("FAILING_READ", ETIMEDOUT) ? -1 : real(file, into, count, offset);
}

ssize_t pread64(int file, void *into, size_t count, off64_t offset)
{
    ssize_t (*real)(int, void *, size_t, off64_t) =
        (ssize_t(*)(int, void *, size_t, off64_t))dlsym(RTLD_NEXT, "pread64");
    return failing("FAILING_READ", ETIMEDOUT) ? -1 : real(file, into, count, offset);
}
