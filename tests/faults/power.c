/* Preloaded into a process, keeps account of what a disk would still hold of POWER_HOME after a power cut.

   POWER_SHADOW/tree is that account: files with the content of their last fsync, under the names that the last
   fsync of the file or of its folder made durable. A file whose name is durable and whose content never was is empty
   there. POWER_SHADOW/objects holds the synced content of every file by device and inode number, so that it
   follows a file through a rename. Both folders must exist; POWER_HOME must be free of links. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))
#define PATH 8192

/* The path below POWER_HOME, "" for itself; NULL for one that is elsewhere. */
static const char *below_home(const char *path)
{
    const char *home = getenv("POWER_HOME");
    size_t length = home ? strlen(home) : 0;
    if (length == 0 || strncmp(path, home, length) != 0 || (path[length] != '/' && path[length] != 0))
        return NULL;
    return path[length] ? path + length + 1 : path + length;
}

static void in_shadow(char *path, const char *folder, const char *name)
{
    snprintf(path, PATH, "%s/%s/%s", getenv("POWER_SHADOW"), folder, name);
}

static void object_of(char *path, const struct stat *file)
{
    char name[64];
    snprintf(name, sizeof name, "%lx-%lx", (long)file->st_dev, (long)file->st_ino);
    in_shadow(path, "objects", name);
}

/* A name that no other process or thread writes to, for what is put into place by a rename. */
static void unfinished(char *path)
{
    char name[64];
    snprintf(name, sizeof name, "unfinished-%d", gettid());
    in_shadow(path, "", name);
}

static void put(const char *from, const char *to)
{
    if (REAL(int, rename, const char *, const char *)(from, to) != 0)
        perror(to), abort();
}

/* Copies through the caller's own descriptor where it can be read: closing another one would drop its locks. */
static void keep_content(int file, const char *object)
{
    char buffer[1 << 16], path[PATH];
    int is_readable = (fcntl(file, F_GETFL) & O_ACCMODE) != O_WRONLY;
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    int source = is_readable ? file : open(path, O_RDONLY | O_CLOEXEC);
    unfinished(path);
    int copy = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (source < 0 || copy < 0)
        perror(path), abort();
    ssize_t size;
    for (off_t at = 0; (size = pread(source, buffer, sizeof buffer, at)) > 0; at += size)
        if (write(copy, buffer, size) != size)
            perror(path), abort();
    close(copy);
    if (!is_readable)
        close(source);
    put(path, object);
}

static void make_folders(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0755);
        *slash = '/';
    }
}

/* From now on the name survives, with the content of the object, or empty without one. */
static void keep_name(const char *name, const char *object)
{
    char entry[PATH], path[PATH];
    struct stat kept, wanted;
    in_shadow(entry, "tree", name);
    int has_object = stat(object, &wanted) == 0;
    if (stat(entry, &kept) == 0 && (has_object ? kept.st_ino == wanted.st_ino : kept.st_size == 0))
        return;
    make_folders(entry);
    unfinished(path);
    REAL(int, unlink, const char *)(path);
    int failed = has_object ? link(object, path) : close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    if (failed)
        perror(path), abort();
    put(path, entry);
}

static void keep_names_in(int folder, const char *name)
{
    char object[PATH], path[PATH];
    struct stat file;
    int again = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = fdopendir(again);
    for (struct dirent *entry; (entry = readdir(entries));) {
        if (fstatat(folder, entry->d_name, &file, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(file.st_mode))
            continue;
        snprintf(path, sizeof path, "%s%s%s", name, *name ? "/" : "", entry->d_name);
        object_of(object, &file);
        keep_name(path, object);
    }
    closedir(entries);
    in_shadow(path, "tree", name);
    if (!(entries = opendir(path)))
        return;
    for (struct dirent *entry; (entry = readdir(entries));)
        if (entry->d_type == DT_REG && fstatat(folder, entry->d_name, &file, AT_SYMLINK_NOFOLLOW) != 0)
            unlinkat(dirfd(entries), entry->d_name, 0);
    closedir(entries);
}

static int settle(int file)
{
    char link[64], object[PATH], path[PATH];
    struct stat found;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0 || fstat(file, &found) != 0)
        return -1;
    path[size] = 0;
    const char *name = below_home(path);
    if (name && S_ISDIR(found.st_mode)) {
        keep_names_in(file, name);
    } else if (name && S_ISREG(found.st_mode) && found.st_nlink) {
        object_of(object, &found);
        keep_content(file, object);
        keep_name(name, object);
    }
    return 0;
}

int fsync(int file)
{
    return settle(file);
}

int fdatasync(int file)
{
    return settle(file);
}

/* The inode's number may be used again once the file is gone; what was durable under its name stays in the tree. */
static void forget(int folder, const char *path)
{
    char object[PATH];
    struct stat file;
    if (fstatat(folder, path, &file, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(file.st_mode) || file.st_nlink != 1)
        return;
    object_of(object, &file);
    REAL(int, unlink, const char *)(object);
}

int unlink(const char *path)
{
    forget(AT_FDCWD, path);
    return REAL(int, unlink, const char *)(path);
}

int unlinkat(int folder, const char *path, int flags)
{
    forget(folder, path);
    return REAL(int, unlinkat, int, const char *, int)(folder, path, flags);
}

int rename(const char *from, const char *to)
{
    forget(AT_FDCWD, to);
    return REAL(int, rename, const char *, const char *)(from, to);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    forget(to_folder, to);
    return REAL(int, renameat, int, const char *, int, const char *)(from_folder, from, to_folder, to);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned int flags)
{
    forget(to_folder, to);
    return REAL(int, renameat2, int, const char *, int, const char *, unsigned int)(from_folder, from, to_folder, to,
                                                                                  flags);
}
