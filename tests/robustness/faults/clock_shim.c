/* A wall clock that is wrong by as much as a file says, for a process that has
 * this library preloaded.
 *
 * FAULT_CLOCK_CONTROL names a file that holds a number of nanoseconds (64
 * bits), which both sides map. It is added to CLOCK_REALTIME, and to nothing
 * else: the monotonic clock goes on as it does on a machine whose clock is
 * set. Waits until a time of the wall clock are made in slices, so that a step
 * of the clock meets those that are under way too. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define SLICE (20 * 1000000LL)
#define CONTROL_BYTES 16

struct control {
    volatile int64_t offset; /* nanoseconds */
    volatile int64_t waits;  /* count of waits until a time of the wall clock */
};

static struct control none, *control = &none;

__attribute__((constructor)) static void loaded(void) {
    const char *path = getenv("FAULT_CLOCK_CONTROL");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, CONTROL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED)
        control = mapped;
}

/* The function that ours stands in front of. The oldest version of some is of
 * another kind, so it is asked for by version first. */
static void *next(const char *name, const char *version) {
    void *found = version ? dlvsym(RTLD_NEXT, name, version) : NULL;
    return found ? found : dlsym(RTLD_NEXT, name);
}

static int64_t nanoseconds(const struct timespec *time) { return time->tv_sec * SECOND + time->tv_nsec; }

static struct timespec timespec_of(int64_t all) {
    struct timespec made = {all / SECOND, all % SECOND};
    return made;
}

typedef long (*syscall_t)(long, ...);

static syscall_t kernel(void) {
    static syscall_t real;
    if (!real)
        real = (syscall_t)next("syscall", NULL);
    return real;
}

static int64_t truly(void) {
    struct timespec now;
    kernel()(SYS_clock_gettime, CLOCK_REALTIME, &now);
    return nanoseconds(&now);
}

static int is_wall(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }

typedef int (*clock_gettime_t)(clockid_t, struct timespec *);

int clock_gettime(clockid_t clock, struct timespec *time) {
    static clock_gettime_t real;
    if (!real)
        real = (clock_gettime_t)next("clock_gettime", NULL);
    int failed = real(clock, time);
    if (!failed && is_wall(clock))
        *time = timespec_of(nanoseconds(time) + control->offset);
    return failed;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    int64_t now = truly() + control->offset;
    time->tv_sec = now / SECOND;
    time->tv_usec = now % SECOND / 1000;
    return 0;
}

time_t time(time_t *where) {
    time_t now = (truly() + control->offset) / SECOND;
    if (where)
        *where = now;
    return now;
}

/* The end of a slice of a wait that ends at a time of our clock; 0 if that is
 * over. */
static int64_t slice(int64_t until) {
    int64_t now = truly(), left = until - (now + control->offset);
    return left <= 0 ? 0 : now + (left < SLICE ? left : SLICE);
}

#define WAIT_IN_SLICES(UNTIL, CALL)                                                                          \
    control->waits++;                                                                                        \
    for (;;) {                                                                                               \
        int64_t end = slice(nanoseconds(UNTIL));                                                             \
        struct timespec part = timespec_of(end ? end : truly());                                             \
        int result = (CALL);                                                                                 \
        if (result != ETIMEDOUT || !end)                                                                     \
            return result;                                                                                   \
    }

/* Whether a time is of the wall clock: that of the machine began with it. */
static int of_wall(const struct timespec *time) { return time->tv_sec > 1000000000; }

typedef int (*cond_timedwait_t)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    static cond_timedwait_t real;
    if (!real)
        real = (cond_timedwait_t)next("pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!of_wall(until))
        return real(cond, mutex, until);
    WAIT_IN_SLICES(until, real(cond, mutex, &part))
}

typedef int (*cond_clockwait_t)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);

int pthread_cond_clockwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, clockid_t clock,
                           const struct timespec *restrict until) {
    static cond_clockwait_t real;
    if (!real)
        real = (cond_clockwait_t)next("pthread_cond_clockwait", NULL);
    if (!is_wall(clock))
        return real(cond, mutex, clock, until);
    WAIT_IN_SLICES(until, real(cond, mutex, clock, &part))
}

typedef int (*mutex_timedlock_t)(pthread_mutex_t *, const struct timespec *);

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    static mutex_timedlock_t real;
    if (!real)
        real = (mutex_timedlock_t)next("pthread_mutex_timedlock", NULL);
    WAIT_IN_SLICES(until, real(mutex, &part))
}

typedef int (*sem_timedwait_t)(sem_t *, const struct timespec *);

static int sem_slice(sem_t *sem, const struct timespec *until) {
    static sem_timedwait_t real;
    if (!real)
        real = (sem_timedwait_t)next("sem_timedwait", NULL);
    return real(sem, until) ? errno : 0;
}

static int sem_wait_until(sem_t *sem, const struct timespec *until) {
    WAIT_IN_SLICES(until, sem_slice(sem, &part))
}

int sem_timedwait(sem_t *restrict sem, const struct timespec *restrict until) {
    int result = sem_wait_until(sem, until);
    if (result)
        errno = result;
    return result ? -1 : 0;
}

static int futex_slice(const long *args, const struct timespec *until) {
    return kernel()(SYS_futex, args[0], args[1], args[2], until, args[4], args[5]) < 0 ? errno : 0;
}

static int futex_wait_until(const long *args, const struct timespec *until) {
    WAIT_IN_SLICES(until, futex_slice(args, &part))
}

static int is_wall_futex(long operation) {
    return (operation & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET && operation & FUTEX_CLOCK_REALTIME;
}

/* Abseil waits by the bare system call. */
long syscall(long number, ...) {
    long args[6];
    va_list list;
    va_start(list, number);
    for (int at = 0; at < 6; at++)
        args[at] = va_arg(list, long);
    va_end(list);
    if (number != SYS_futex || !args[3] || !is_wall_futex(args[1]))
        return kernel()(number, args[0], args[1], args[2], args[3], args[4], args[5]);
    int result = futex_wait_until(args, (const struct timespec *)args[3]);
    if (result)
        errno = result;
    return result ? -1 : 0;
}
