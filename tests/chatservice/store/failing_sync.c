/* Makes every sync of a file to disk fail while the file named by FAILING_SYNC exists.
 *
 *   cc -shared -fPIC -o failing_sync.so failing_sync.c -ldl
 *   FAILING_SYNC=/path LD_PRELOAD=./failing_sync.so program
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int failing(void)
{
    const char *name = getenv("FAILING_SYNC");
    return name && access(name, F_OK) == 0;
}

static int sync_with(const char *function, int descriptor)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, function);
    if (!failing())
        return real(descriptor);
    errno = EIO;
    return -1;
}

int fsync(int descriptor) { return sync_with("fsync", descriptor); }
int fdatasync(int descriptor) { return sync_with("fdatasync", descriptor); }
