/* A disk that fails or is slow while a file of that name exists: every sync fails with EIO, or takes
 * 0.8 s longer.
 *
 *   cc -shared -fPIC -o disk.so disk.c -ldl
 *   FAULTS=/directory LD_PRELOAD=./disk.so program      and then: touch /directory/disk-fails
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int there(const char *fault)
{
    char path[PATH_MAX];
    const char *directory = getenv("FAULTS");
    if (!directory)
        return 0;
    snprintf(path, sizeof path, "%s/%s", directory, fault);
    return access(path, F_OK) == 0;
}

static int failing(void)
{
    if (there("disk-slow"))
        usleep(800000);
    if (!there("disk-fails"))
        return 0;
    errno = EIO;
    return 1;
}

int fsync(int file)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return failing() ? -1 : real(file);
}

int fdatasync(int file)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return failing() ? -1 : real(file);
}
