// Work on all cores, without Python's lock, for the kernels on the processor.
//
// A thread of Python's that comes back from a computation must wait for the interpreter's lock, and whoever waits sleeps:
// being woken takes as long as the kernels of a small model. The threads here never meet Python. One of its threads calls
// a kernel, the workers of this file take their parts of it, and all are done when the call returns. Between two kernels
// a worker looks out for the next one, for some tenths of a millisecond; after that it sleeps and leaves its core to
// others.

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

typedef long long size;

#define MOST_THREADS 64
#define LOOKS 16000

static inline void pause_a_little(void) {
#if defined __x86_64__ || defined __i386__
    __builtin_ia32_pause();
#elif defined __aarch64__
    __asm__ volatile("yield");
#endif
}

typedef void work(const void *arguments);

static _Thread_local size part_ = 0, parts_ = 1;  // which part of a kernel's elements or rows this thread is at
static _Thread_local jmp_buf no_memory;           // where it goes on if there is no memory for the part

static struct {
    atomic_long open;           // the number of the job that can be joined, 0 if there is none
    atomic_int inside;          // workers that have joined, or look whether they can
    atomic_llong next;          // the part that nobody has taken yet
    work *work;
    const void *arguments;
    size parts;
    atomic_int failed;          // whether there was no memory for one of them
} job;

static pthread_mutex_t job_is_taken = PTHREAD_MUTEX_INITIALIZER, dormitory = PTHREAD_MUTEX_INITIALIZER;
static struct { atomic_int asleep; pthread_cond_t call; } bed[MOST_THREADS];  // each is called by itself: who is not needed sleeps on
static size workers = 0;

static int done(work *work, const void *arguments) {  // or 0 where there was no memory for it
    if (setjmp(no_memory)) return 0;
    work(arguments);
    return 1;
}

static void take_parts(void) {
    size parts = job.parts, part;
    while ((part = atomic_fetch_add(&job.next, 1)) < parts) {
        part_ = part;
        parts_ = parts;
        if (!done(job.work, job.arguments)) atomic_store(&job.failed, 1);
    }
    part_ = 0;
    parts_ = 1;
}

static int there_is_another(long last) {
    long open = atomic_load(&job.open);
    return open && open != last;
}

static void *worker(void *number) {
    size me = (size)number;
    for (long last = 0;;) {
        for (int looks = 0; !there_is_another(last); looks++) {
            if (looks < LOOKS) { pause_a_little(); continue; }
            pthread_mutex_lock(&dormitory);
            atomic_store(&bed[me].asleep, 1);
            while (!there_is_another(last)) pthread_cond_wait(&bed[me].call, &dormitory);
            atomic_store(&bed[me].asleep, 0);
            pthread_mutex_unlock(&dormitory);
        }
        atomic_fetch_add(&job.inside, 1);
        long open = atomic_load(&job.open);  // still, now that it cannot end without this worker
        if (open && open != last) {
            last = open;
            take_parts();
        }
        atomic_fetch_sub(&job.inside, 1);
    }
    return 0;
}

static void make_beds(void) {
    for (int i = 0; i < MOST_THREADS; i++) {
        atomic_store(&bed[i].asleep, 0);
        pthread_cond_init(&bed[i].call, 0);
    }
}

static void after_fork(void) {  // the child has none of the workers, and may have got a lock that one of them held
    workers = 0;
    atomic_store(&job.open, 0);
    atomic_store(&job.inside, 0);
    pthread_mutex_init(&job_is_taken, 0);
    pthread_mutex_init(&dormitory, 0);
    make_beds();
}

static void hire(size wanted) {
    static int told = 0;  // under the lock job_is_taken
    sigset_t all, before;
    if (!told) {
        make_beds();
        told = !pthread_atfork(0, 0, after_fork);
    }
    sigfillset(&all);  // Ctrl-C is for Python's threads
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (pthread_t thread; workers < wanted; workers++) {
        if (pthread_create(&thread, 0, worker, (void *)(workers + 1))) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, 0);
}

// Calls work(arguments) once for each part, on as many threads. A worker that does not come, since another program has its
// core, is not waited for: whoever is done takes the part that was left for it. Returns 0 if there was not enough memory.
static int in_parts(work *work, const void *arguments, size parts) {
    static long jobs = 0;
    // while another thread of Python's is at it, and within a part, this one does all of it by itself
    if (parts < 2 || parts_ > 1 || pthread_mutex_trylock(&job_is_taken)) {
        return done(work, arguments);
    }
    if (parts > MOST_THREADS) parts = MOST_THREADS;
    if (workers < parts - 1) hire(parts - 1);
    job.work = work;
    job.arguments = arguments;
    job.parts = parts;
    atomic_store(&job.failed, 0);
    atomic_store(&job.next, 0);
    atomic_store(&job.open, ++jobs);
    for (size i = 1; i < parts; i++)
        if (atomic_load(&bed[i].asleep)) {
            pthread_mutex_lock(&dormitory);
            pthread_cond_signal(&bed[i].call);
            pthread_mutex_unlock(&dormitory);
        }
    take_parts();
    atomic_store(&job.open, 0);
    for (int looks = 0; atomic_load(&job.inside); looks++) looks < LOOKS ? pause_a_little() : (void)sched_yield();
    int failed = atomic_load(&job.failed);
    pthread_mutex_unlock(&job_is_taken);
    return !failed;
}

// ---- memory ----

static pthread_key_t memory_key[2];  // by which the system frees it when the thread ends
static pthread_once_t memory_keys_are_made = PTHREAD_ONCE_INIT;
static _Thread_local struct { float *at; size floats; } workspace[2];

static void make_memory_keys(void) { for (int i = 0; i < 2; i++) pthread_key_create(&memory_key[i], free); }

#ifdef __SANITIZE_ADDRESS__
#define EXACTLY 1  // what runs over is then seen, also after a larger request
#else
#define EXACTLY 0
#endif

// Memory of this thread's own for the kernel it is at, used again by the next one; `outer`: for one that calls others.
static float *scratch_(int outer, size floats) {
    if (floats > workspace[outer].floats || EXACTLY) {
        void *more;
        pthread_once(&memory_keys_are_made, make_memory_keys);
        if (posix_memalign(&more, 64, floats * sizeof(float))) longjmp(no_memory, 1);
        free(workspace[outer].at);
        workspace[outer].at = more;
        workspace[outer].floats = floats;
        pthread_setspecific(memory_key[outer], more);
    }
    return workspace[outer].at;
}

static float *scratch(size floats) { return scratch_(0, floats); }
static float *outer_scratch(size floats) { return scratch_(1, floats); }

static float *take(float **memory, size n) {
    float *taken = *memory;
    *memory += n;
    return taken;
}
