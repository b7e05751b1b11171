/* Faults of a disk, for a process that has this library preloaded.
 *
 * It concerns regular files below the folder FAULT_DISK_FOLDER, and is told
 * what to do by the file FAULT_DISK_CONTROL, which both sides map (struct
 * control; disk.py has the same). With FAULT_DISK_REMEMBER it also plays the
 * part of the page cache: it keeps what the disk has of each page that was
 * written and not synced. A sync that fails leaves its pages as Linux does:
 * marked clean, in the cache alone, and not written by the sync that comes
 * after. FORGET then gives them back as the disk has them, as a cache that was
 * short of memory would; POWER_OFF gives back all that was not synced, and
 * kills the process. Names and lengths of files count as durable at once, and
 * mapped memory is not looked at. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { PASS, FAIL, SHORT, HANG, LIE };
enum { NOTHING, FORGET, POWER_OFF };
enum { PAGE = 4096, BUCKETS = 4096, POLL_MS = 2 };

/* One kind of call: what to do, after how many more that pass, how often (0:
 * without end), with which errno, and how many were met and had a fault. */
struct rule {
    volatile uint32_t act, skip, times, error;
    volatile uint64_t met, faults;
};

struct control {
    struct rule write, sync, read;
    volatile uint32_t command, done;
    char only[64]; /* files whose names end so; empty for all */
};

struct page {
    struct page *next;
    dev_t dev;
    ino_t ino;
    off_t at;
    int file;  /* a descriptor of our own */
    int lost;  /* a sync of it has failed */
    ssize_t size;
    char before[PAGE];
};

static struct control *control;
static char folder[PATH_MAX];
static size_t folder_size;
static int remember;
static struct page *pages[BUCKETS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static ssize_t raw_pread(int file, void *data, size_t size, off_t at) {
    return syscall(SYS_pread64, file, data, size, at);
}

static ssize_t raw_pwrite(int file, const void *data, size_t size, off_t at) {
    return syscall(SYS_pwrite64, file, data, size, at);
}

static void nap(void) {
    struct timespec time = {0, POLL_MS * 1000000};
    syscall(SYS_nanosleep, &time, NULL);
}

/* The page as the disk has it; what the disk has no bytes of reads as zeros. */
static void give_back(struct page *page) {
    char bytes[PAGE] = {0};
    struct stat now;
    if (page->size > 0)
        memcpy(bytes, page->before, page->size);
    if (fstat(page->file, &now) == 0 && now.st_size > page->at)
        raw_pwrite(page->file, bytes, now.st_size - page->at < PAGE ? now.st_size - page->at : PAGE, page->at);
}

static void give_back_all(int only_lost) {
    for (int bucket = 0; bucket < BUCKETS; bucket++) {
        struct page **link = &pages[bucket];
        while (*link) {
            struct page *page = *link;
            if (only_lost && !page->lost) {
                link = &page->next;
                continue;
            }
            give_back(page);
            close(page->file);
            *link = page->next;
            free(page);
        }
    }
}

static void *obey(void *unused) {
    (void)unused;
    for (;; nap()) {
        if (control->command == NOTHING)
            continue;
        pthread_mutex_lock(&lock);
        give_back_all(control->command == FORGET);
        if (control->command == POWER_OFF) {
            control->done++;
            kill(getpid(), SIGKILL);
        }
        control->command = NOTHING;
        control->done++;
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

__attribute__((constructor)) static void begin(void) {
    const char *below = getenv("FAULT_DISK_FOLDER"), *path = getenv("FAULT_DISK_CONTROL");
    if (!below || !path || !realpath(below, folder))
        return;
    folder_size = strlen(folder);
    remember = getenv("FAULT_DISK_REMEMBER") != NULL;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return;
    void *mapped = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED)
        control = mapped;
}

/* The thread is begun by the first file that matters, so in no process that is
 * only passed through. */
static void begin_thread(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, obey, NULL) == 0)
        pthread_detach(thread);
}

/* Whether a file is below the folder; its path goes to `path`. */
static int concerns(int file, char *path, struct stat *about) {
    static pthread_once_t thread = PTHREAD_ONCE_INIT;
    char link[64];
    if (!control)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    if (size <= (ssize_t)folder_size || strncmp(path, folder, folder_size) || path[folder_size] != '/')
        return 0;
    path[size] = 0;
    if (fstat(file, about) || !(S_ISREG(about->st_mode) || S_ISDIR(about->st_mode)))
        return 0;
    pthread_once(&thread, begin_thread);
    return 1;
}

static int named(const char *path) {
    size_t have = strlen(path), want = strnlen(control->only, sizeof control->only);
    return have >= want && !strncmp(path + have - want, control->only, want);
}

/* What is to be done to this call. */
static int judge(struct rule *rule, const char *path) {
    if (!named(path))
        return PASS;
    pthread_mutex_lock(&lock);
    int act = rule->act;
    rule->met++;
    if (act != PASS && rule->skip) {
        rule->skip--;
        act = PASS;
    } else if (act != PASS) {
        rule->faults++;
        if (rule->times && --rule->times == 0)
            rule->act = PASS;
    }
    pthread_mutex_unlock(&lock);
    return act;
}

static int fails(struct rule *rule, int act) {
    while (act == HANG && rule->act == HANG)
        nap();
    errno = rule->error ? (int)rule->error : EIO;
    return act == FAIL;
}

static unsigned bucket_of(ino_t ino, off_t at) { return (unsigned)(ino * 31 + at / PAGE) % BUCKETS; }

/* Take note of what the disk has of the pages that are about to be written. */
static void touch(int file, const struct stat *about, off_t at, size_t size) {
    for (off_t start = at - at % PAGE; start < at + (off_t)size; start += PAGE) {
        struct page **bucket = &pages[bucket_of(about->st_ino, start)], *page = *bucket;
        while (page && !(page->ino == about->st_ino && page->dev == about->st_dev && page->at == start))
            page = page->next;
        if (!page) {
            char path[64];
            page = calloc(1, sizeof *page);
            page->dev = about->st_dev;
            page->ino = about->st_ino;
            page->at = start;
            snprintf(path, sizeof path, "/proc/self/fd/%d", file);
            page->file = open(path, O_RDWR | O_CLOEXEC);
            page->size = raw_pread(page->file, page->before, PAGE, start);
            page->next = *bucket;
            *bucket = page;
        }
        page->lost = 0;
    }
}

/* A sync of a file has come to an end. */
static void settle(const struct stat *about, int failed) {
    for (int bucket = 0; bucket < BUCKETS; bucket++) {
        struct page **link = &pages[bucket];
        while (*link) {
            struct page *page = *link;
            if (page->ino != about->st_ino || page->dev != about->st_dev || page->lost) {
                link = &page->next;
            } else if (failed) {
                page->lost = 1;
                link = &page->next;
            } else {
                close(page->file);
                *link = page->next;
                free(page);
            }
        }
    }
}

static ssize_t do_write(int file, const void *data, size_t size, off_t at, int positioned) {
    char path[PATH_MAX];
    struct stat about;
    int before = errno;
    if (!concerns(file, path, &about) || !S_ISREG(about.st_mode)) {
        errno = before;
        return positioned ? raw_pwrite(file, data, size, at) : syscall(SYS_write, file, data, size);
    }
    int act = judge(&control->write, path);
    if (fails(&control->write, act))
        return -1;
    if (act == SHORT)
        size = size > 1 ? size / 2 : size;
    errno = before;
    if (!remember)
        return positioned ? raw_pwrite(file, data, size, at) : syscall(SYS_write, file, data, size);
    pthread_mutex_lock(&lock);
    touch(file, &about, positioned ? at : lseek(file, 0, SEEK_CUR), size);
    ssize_t written = positioned ? raw_pwrite(file, data, size, at) : syscall(SYS_write, file, data, size);
    before = errno;
    pthread_mutex_unlock(&lock);
    errno = before;
    return written;
}

static int do_sync(int file, long call) {
    char path[PATH_MAX];
    struct stat about;
    int before = errno;
    if (!concerns(file, path, &about)) {
        errno = before;
        return syscall(call, file);
    }
    int act = judge(&control->sync, path), failed = fails(&control->sync, act), error = errno;
    if (act == LIE) {
        errno = before;
        return 0;
    }
    if (remember) {
        pthread_mutex_lock(&lock);
        settle(&about, failed);
        pthread_mutex_unlock(&lock);
    }
    errno = failed ? error : before;
    return failed ? -1 : syscall(call, file);
}

static ssize_t do_read(int file, void *data, size_t size, off_t at, int positioned) {
    char path[PATH_MAX];
    struct stat about;
    int before = errno;
    /* Reads are many: they are looked at only while they may fail. */
    if (control && control->read.act != PASS && concerns(file, path, &about)
        && fails(&control->read, judge(&control->read, path)))
        return -1;
    errno = before;
    return positioned ? raw_pread(file, data, size, at) : syscall(SYS_read, file, data, size);
}

ssize_t write(int file, const void *data, size_t size) { return do_write(file, data, size, 0, 0); }
ssize_t pwrite(int file, const void *data, size_t size, off_t at) { return do_write(file, data, size, at, 1); }
ssize_t pwrite64(int file, const void *data, size_t size, off_t at) { return do_write(file, data, size, at, 1); }
ssize_t read(int file, void *data, size_t size) { return do_read(file, data, size, 0, 0); }
ssize_t pread(int file, void *data, size_t size, off_t at) { return do_read(file, data, size, at, 1); }
ssize_t pread64(int file, void *data, size_t size, off_t at) { return do_read(file, data, size, at, 1); }
int fsync(int file) { return do_sync(file, SYS_fsync); }
int fdatasync(int file) { return do_sync(file, SYS_fdatasync); }
