// Work on all cores, without Python's lock, for the kernels on the processor.
//
// A thread of Python's that comes back from a computation must wait for the interpreter's lock, and whoever waits sleeps:
// being woken takes as long as the kernels of a small model. The threads here never meet Python. One of its threads calls
// a kernel, the workers of this file take their parts of it, and all are done when the call returns. Between two kernels
// a worker looks out for the next one, for a fifth of a millisecond or so; after that it sleeps and leaves its core to
// others.

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

typedef long long size;

#define MOST_THREADS 64
#define LOOKS 4000

#if defined __x86_64__ || defined __i386__
#define PAUSE() __builtin_ia32_pause()
#elif defined __aarch64__
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

typedef void work(const void *arguments);

static _Thread_local size part_ = 0, parts_ = 1;  // which part of a kernel's elements or rows this thread is at

static struct {
    atomic_long round;  // number of the job · MOST_THREADS + parts - 1: a worker reads in one look whether there is one for it
    atomic_int left;    // parts that are not done
    work *work;
    const void *arguments;
} job;

static pthread_mutex_t job_is_taken = PTHREAD_MUTEX_INITIALIZER, bed = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t call = PTHREAD_COND_INITIALIZER;
static atomic_int asleep;
static size workers = 0;

static void *worker(void *number) {
    size me = (size)number;
    long seen = 0, round;
    for (;;) {
        for (int looks = 0; (round = atomic_load(&job.round)) == seen; looks++) {
            if (looks < LOOKS) { PAUSE(); continue; }
            pthread_mutex_lock(&bed);
            atomic_fetch_add(&asleep, 1);
            while (atomic_load(&job.round) == seen) pthread_cond_wait(&call, &bed);
            atomic_fetch_sub(&asleep, 1);
            pthread_mutex_unlock(&bed);
        }
        seen = round;
        if (me > round % MOST_THREADS) continue;
        part_ = me;
        parts_ = round % MOST_THREADS + 1;
        job.work(job.arguments);
        atomic_fetch_sub(&job.left, 1);
    }
    return 0;
}

static void after_fork(void) {  // the child has none of the workers, and may have got a lock that one of them held
    workers = 0;
    atomic_store(&asleep, 0);
    atomic_store(&job.round, 0);
    pthread_mutex_init(&job_is_taken, 0);
    pthread_mutex_init(&bed, 0);
    pthread_cond_init(&call, 0);
}

static void hire(size wanted) {
    static int told = 0;
    sigset_t all, before;
    if (!told) told = !pthread_atfork(0, 0, after_fork);
    sigfillset(&all);  // Ctrl-C is for Python's threads
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (pthread_t thread; workers < wanted; workers++) {
        if (pthread_create(&thread, 0, worker, (void *)(workers + 1))) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, 0);
}

// Calls work(arguments) on so many threads at once, each with another part_ of parts_.
static void in_parts(work *work, const void *arguments, size parts) {
    // while another thread of Python's is at it, and within a part, this one does all of it by itself
    if (parts > 1 && (parts_ > 1 || pthread_mutex_trylock(&job_is_taken))) parts = 1;
    if (parts > 1) {
        if (parts > MOST_THREADS) parts = MOST_THREADS;
        if (workers < parts - 1) hire(parts - 1);
        if (workers < parts - 1) parts = workers + 1;
        job.work = work;
        job.arguments = arguments;
        atomic_store(&job.left, (int)parts - 1);
        atomic_store(&job.round, (atomic_load(&job.round) / MOST_THREADS + 1) * MOST_THREADS + parts - 1);
        if (atomic_load(&asleep)) {
            pthread_mutex_lock(&bed);
            pthread_cond_broadcast(&call);
            pthread_mutex_unlock(&bed);
        }
        parts_ = parts;
        work(arguments);
        parts_ = 1;
        for (int looks = 0; atomic_load(&job.left); looks++) looks < LOOKS ? PAUSE() : (void)sched_yield();
        pthread_mutex_unlock(&job_is_taken);
    } else work(arguments);
}
