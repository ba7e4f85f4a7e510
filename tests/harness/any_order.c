// A driver that runs the operations of an emulated GPU in any order that streams and events allow.
//
// The emulation executes each operation immediately, so it never notices a wait that is missing.
// This library takes its place (any_order.py). It keeps the operations in queues, one for each
// stream, and executes them as late as possible: when the host waits for one. Then it chooses at
// random among the streams that need not wait, and changes its choice now and then. A recorded
// graph keeps what each operation waits for, and each launch has an order of its own.
//
// ANY_ORDER_SEED   number of the order
// ANY_ORDER_LOSE   n > 0: each wait in a recording is ignored with probability 1/n, to see that
//                  tests notice it
// ANY_ORDER_COUNT  set: print the number of operations of a recording, and the longest chain of
//                  operations that wait for one another

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TO_DEVICE = 1, TO_HOST = 2, NOT_READY = 600 };  // CUDA's numbers
enum { SWITCH = 40, MOST = 20000 };  // operations between new priorities; operations in queues

typedef struct Operation Operation;
typedef struct { Operation **at; int size, room; } List;
typedef struct { Operation *last; List waits; Operation *recorded; unsigned priority; } Stream;
struct Operation {
    void (*run)(void *);  // none for an event
    void *arguments;
    Stream *stream;
    List before, after;  // before: what a recorded one waits for; after: those that wait for it
    int recording;  // the number of its recording, or 0
    int missing;    // number of operations that it still waits for
    int done;
    int reached, length;  // of a recorded one: the end waits for it; chain of operations up to it
    Operation *copy;  // of a recorded operation: that of the newest launch
};
typedef struct { Operation *operation; } Event;
typedef struct { List operations; } Graph;

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static Stream null_stream, *streams[4096] = {&null_stream};
static int number_of_streams = 1, losing, messages;
static int recordings, open_recording;  // number of the last recording; of the present one, or 0
static pthread_t recorder;  // the thread that makes the recording. Other threads do not take part
static Stream *recorded_stream;
static List ready, recorded;
static long waiting;
static uint64_t state = 88172645463325252ULL;

#define LOCKED(work) do { pthread_mutex_lock(&lock); work; pthread_mutex_unlock(&lock); } while (0)

static unsigned draw(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (unsigned)(state >> 16);
}

__attribute__((constructor)) static void start(void) {
    const char *seed = getenv("ANY_ORDER_SEED"), *lose = getenv("ANY_ORDER_LOSE");
    if (seed) state ^= (uint64_t)(atoll(seed) + 1) * 0x9E3779B97F4A7C15ULL;
    if (lose) losing = atoi(lose);
    for (int k = 0; k < 8; k++) draw();
    messages = dup(2);  // pytest takes 2
}

static void fail(const char *what) {
    dprintf(messages, "\nany_order: %s\n", what);
    abort();
}

static void *original(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) fail(name);
    return found;
}

static int recording(void) {
    return pthread_equal(recorder, pthread_self()) ? open_recording : 0;
}

static void add(List *list, Operation *item) {
    if (list->size == list->room) {
        list->room = list->room ? 2 * list->room : 4;
        list->at = realloc(list->at, list->room * sizeof *list->at);
    }
    list->at[list->size++] = item;
}

static void clear(List *list) {
    free(list->at);
    *list = (List){0};
}

static Stream *stream_of(void *handle) {  // CUDA's predefined streams are small numbers
    return (size_t)handle < 16 ? &null_stream : handle;
}

// ---------------------------------------------------------------- the queues

static void run_one(void) {
    if (!ready.size) fail("operations wait for one another, or for one that was only recorded");
    if (draw() % SWITCH == 0)
        for (int k = 0; k < number_of_streams; k++) streams[k]->priority = draw();
    int best = 0;
    for (int k = 1; k < ready.size; k++)
        if (ready.at[k]->stream->priority > ready.at[best]->stream->priority) best = k;
    Operation *chosen = ready.at[best];
    ready.at[best] = ready.at[--ready.size];
    if (chosen->run) chosen->run(chosen->arguments);
    chosen->done = 1, waiting--;
    for (int k = 0; k < chosen->after.size; k++)
        if (!--chosen->after.at[k]->missing) add(&ready, chosen->after.at[k]);
    clear(&chosen->after);
}

static void run_until(Operation *wanted) {
    while (wanted && !wanted->done) run_one();
}

static void run_all(void) {
    while (waiting) run_one();
}

static void wait_for(Operation *one, Operation *earlier) {
    if (!earlier || earlier->done) return;
    add(&earlier->after, one);
    one->missing++;
}

static void enter_queue(Operation *one) {
    waiting++;
    if (!one->missing) add(&ready, one);
}

static Operation *new_operation(void (*run)(void *), void *arguments, Stream *stream) {
    Operation *made = calloc(1, sizeof *made);
    made->run = run, made->arguments = arguments, made->stream = stream;
    made->recording = recording();
    return made;
}

static Operation *append(void (*run)(void *), void *arguments, void *handle) {
    Stream *stream = stream_of(handle);
    Operation *made = new_operation(run, arguments, stream);
    if (recording()) {
        if (stream->recorded) add(&made->before, stream->recorded);
        for (int k = 0; k < stream->waits.size; k++) add(&made->before, stream->waits.at[k]);
        if (!made->before.size && stream != recorded_stream)
            fail("an operation in a stream that takes no part in the recording");
        stream->recorded = made;
        add(&recorded, made);
    } else {
        wait_for(made, stream->last);
        for (int k = 0; k < stream->waits.size; k++) wait_for(made, stream->waits.at[k]);
        stream->last = made;
        enter_queue(made);
        while (waiting > MOST) run_one();
    }
    clear(&stream->waits);
    return made;
}

static void synchronize(void *handle) {
    Stream *stream = stream_of(handle);
    run_until(stream->last);
    for (int k = 0; k < stream->waits.size; k++) run_until(stream->waits.at[k]);
}

// ---------------------------------------------------------------- streams and events

static int new_stream(void **handle) {
    Stream *made = calloc(1, sizeof *made);
    made->priority = draw();
    LOCKED(streams[number_of_streams++] = made);
    *handle = made;
    return 0;
}
int fk_cudaStreamCreate(void **handle) { return new_stream(handle); }
int fk_cudaStreamCreateWithFlags(void **handle, unsigned f) { return new_stream(handle); }
int fk_cudaStreamCreateWithPriority(void **handle, unsigned f, int p) { return new_stream(handle); }
int fk_cudaStreamDestroy(void *handle) { return 0; }  // graphs may still name it

int fk_cudaStreamSynchronize(void *handle) {
    LOCKED(synchronize(handle));
    return 0;
}

int fk_cudaDeviceSynchronize(void) {
    LOCKED(run_all());
    return 0;
}

static int state_of(Operation *last) {  // runs one operation: a host may ask until it is done
    int done;
    LOCKED(if (last && !last->done) run_one(); done = !last || last->done);
    return done ? 0 : NOT_READY;
}
int fk_cudaStreamQuery(void *handle) { return state_of(stream_of(handle)->last); }
int fk_cudaEventQuery(void *event) { return state_of(((Event *)event)->operation); }

int fk_cudaEventCreate(void **event) {
    *event = calloc(1, sizeof(Event));
    return 0;
}
int fk_cudaEventCreateWithFlags(void **event, unsigned flags) { return fk_cudaEventCreate(event); }

int fk_cudaEventDestroy(void *event) {
    free(event);
    return 0;
}

int fk_cudaEventRecord(void *event, void *handle) {
    LOCKED(((Event *)event)->operation = append(NULL, NULL, handle));
    return 0;
}

int fk_cudaEventSynchronize(void *event) {
    LOCKED(run_until(((Event *)event)->operation));
    return 0;
}

static void let_wait(Stream *stream, Operation *earlier) {
    int joins = recording() && !stream->recorded && stream != recorded_stream;
    if (earlier && earlier->recording != recording())
        fail("a wait for an event that is not of the same recording");
    if (!earlier || (losing && recording() && !joins && draw() % losing == 0)) return;
    add(&stream->waits, earlier);
}

int fk_cudaStreamWaitEvent(void *handle, void *event, unsigned flags) {
    LOCKED(let_wait(stream_of(handle), ((Event *)event)->operation));
    return 0;
}

// ---------------------------------------------------------------- graphs

int fk_cudaStreamIsCapturing(void *handle, int *status) {
    *status = recording() > 0;
    return 0;
}

int fk_cudaStreamBeginCapture(void *handle, int mode) {
    pthread_mutex_lock(&lock);
    run_all();
    for (int k = 0; k < number_of_streams; k++) {
        streams[k]->recorded = NULL;
        clear(&streams[k]->waits);
    }
    recorder = pthread_self(), open_recording = ++recordings;
    recorded_stream = stream_of(handle), recorded = (List){0};
    pthread_mutex_unlock(&lock);
    return 0;
}

static void expect_one_end(Operation *end) {  // CUDA refuses a recording with loose ends
    end->reached = 1;
    for (int k = recorded.size - 1; k >= 0; k--) {
        Operation *one = recorded.at[k];
        if (one->run && !one->reached && !losing)
            fail("a stream of the recording was not waited for");
        for (int j = 0; one->reached && j < one->before.size; j++) one->before.at[j]->reached = 1;
    }
}

static void count(void) {
    int longest = 0, operations = 0;
    for (int k = 0; k < recorded.size; k++) {
        Operation *one = recorded.at[k];
        for (int j = 0; j < one->before.size; j++) {
            int length = one->before.at[j]->length;
            if (length > one->length) one->length = length;
        }
        if (one->run) one->length++, operations++;
        if (one->length > longest) longest = one->length;
    }
    printf("%d operations, %d of them one after another\n", operations, longest);
    fflush(stdout);
}

int fk_cudaStreamEndCapture(void *handle, void **graph) {
    pthread_mutex_lock(&lock);
    Operation *end = append(NULL, NULL, handle);
    expect_one_end(end);
    if (getenv("ANY_ORDER_COUNT")) count();
    open_recording = 0;
    Graph *made = calloc(1, sizeof *made);
    made->operations = recorded;
    *graph = made;
    pthread_mutex_unlock(&lock);
    return 0;
}

int fk_cudaGraphInstantiate(void **executable, void *graph, unsigned long long flags) {
    *executable = graph;
    return 0;
}
int fk_cudaGraphDestroy(void *graph) { return 0; }
int fk_cudaGraphExecDestroy(void *graph) { return 0; }
int fk_cudaGraphUpload(void *graph, void *handle) { return 0; }

int fk_cudaGraphLaunch(void *graph, void *handle) {
    pthread_mutex_lock(&lock);
    List list = ((Graph *)graph)->operations;
    Operation *begin = append(NULL, NULL, handle);
    Operation *end = new_operation(NULL, NULL, stream_of(handle));
    for (int k = 0; k < list.size; k++) {
        Operation *one = list.at[k];
        one->copy = new_operation(one->run, one->arguments, one->stream);
        wait_for(one->copy, begin);
        for (int j = 0; j < one->before.size; j++) wait_for(one->copy, one->before.at[j]->copy);
        wait_for(end, one->copy);
        enter_queue(one->copy);
    }
    enter_queue(end);
    stream_of(handle)->last = end;
    pthread_mutex_unlock(&lock);
    return 0;
}

// ---------------------------------------------------------------- copies and memory

typedef struct { void *to; const void *from; size_t size; int kind, value; } Copy;
typedef struct { char *start; size_t size; } Block;
static Block pinned[1 << 16];  // memory of the host from which a GPU copies while the host goes on
static int number_of_pinned;

static int is_pinned(const void *address) {
    const char *p = address;
    for (int k = 0; k < number_of_pinned; k++)
        if (pinned[k].start && (size_t)(p - pinned[k].start) < pinned[k].size) return 1;
    return 0;
}

int fk_cudaHostAlloc(void **address, size_t size, unsigned flags) {
    int (*call)(void **, size_t, unsigned) = original("fk_cudaHostAlloc");
    int status = call(address, size, flags);
    LOCKED(pinned[number_of_pinned++ % (1 << 16)] = ((Block){*address, size}));
    return status;
}

int fk_cudaFreeHost(void *address) {
    int (*call)(void *) = original("fk_cudaFreeHost");
    pthread_mutex_lock(&lock);
    run_all();
    for (int k = 0; k < number_of_pinned; k++)
        if (pinned[k].start == address) pinned[k].start = NULL;
    pthread_mutex_unlock(&lock);
    return call(address);
}

int fk_cudaFree(void *address) {  // waits for the device. any_order.py may still write there
    LOCKED(if (!open_recording) run_all());
    return 0;
}

static void copy_now(void *arguments) {
    Copy *c = arguments;
    int (*call)(void *, const void *, size_t, int, void *) = original("fk_cudaMemcpyAsync");
    call(c->to, c->from, c->size, c->kind, NULL);
}

static void set_now(void *arguments) {
    Copy *c = arguments;
    int (*call)(void *, int, size_t, void *) = original("fk_cudaMemsetAsync");
    call(c->to, c->value, c->size, NULL);
}

static Copy *new_copy(void *to, const void *from, size_t size, int kind, int value) {
    Copy *made = malloc(sizeof *made);
    *made = (Copy){to, from, size, kind, value};
    return made;
}

int fk_cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *handle) {
    Copy *c = new_copy(to, from, size, kind, 0);
    pthread_mutex_lock(&lock);
    if (kind == TO_DEVICE && !is_pinned(from)) c->from = memcpy(malloc(size), from, size);
    Operation *made = append(copy_now, c, handle);
    if (kind == TO_HOST && !is_pinned(to)) run_until(made);
    pthread_mutex_unlock(&lock);
    return 0;
}

int fk_cudaMemsetAsync(void *to, int value, size_t size, void *handle) {
    LOCKED(append(set_now, new_copy(to, NULL, size, 0, value), handle));
    return 0;
}

int fk_cudaMemcpy(void *to, const void *from, size_t size, int kind) {
    int (*call)(void *, const void *, size_t, int) = original("fk_cudaMemcpy");
    LOCKED(synchronize(NULL));
    return call(to, from, size, kind);
}

int fk_cudaMemset(void *to, int value, size_t size) {
    int (*call)(void *, int, size_t) = original("fk_cudaMemset");
    LOCKED(synchronize(NULL));
    return call(to, value, size);
}

// ---------------------------------------------------------------- kernels

typedef struct { void *original, *library; } Module;
typedef struct { void *original; const size_t *sizes; int count; } Kernel;
typedef struct { Kernel *kernel; unsigned grid[3], block[3], shared; void **arguments; } Launch;

int cuModuleLoadData(void **module, const void *image) {
    int (*call)(void **, const void *) = original("cuModuleLoadData");
    Module *made = calloc(1, sizeof *made);
    made->library = dlopen(image, RTLD_NOW | RTLD_LOCAL);  // the image is the name of a library
    *module = made;
    return call(&made->original, image);
}

int cuModuleGetFunction(void **function, void *handle, const char *name) {
    int (*call)(void **, void *, const char *) = original("cuModuleGetFunction");
    Module *module = handle;
    Kernel *made = calloc(1, sizeof *made);
    char symbol[600];
    int status = call(&made->original, module->original, name);
    if (status) return status;
    snprintf(symbol, sizeof symbol, "%s__argsz", name);
    made->sizes = dlsym(module->library, symbol);
    snprintf(symbol, sizeof symbol, "%s__nargs", name);
    made->count = *(int *)dlsym(module->library, symbol);
    *function = made;
    return 0;
}

int cuModuleGetGlobal_v2(void **address, size_t *size, void *handle, const char *name) {
    int (*call)(void **, size_t *, void *, const char *) = original("cuModuleGetGlobal_v2");
    return call(address, size, ((Module *)handle)->original, name);
}

static void launch_now(void *arguments) {
    Launch *l = arguments;
    unsigned *g = l->grid, *b = l->block;
    int (*call)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                void *, void **, void **) = original("cuLaunchKernel");
    if (call(l->kernel->original, g[0], g[1], g[2], b[0], b[1], b[2], l->shared, NULL, l->arguments,
             NULL))
        fail("a kernel was refused");
}

int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void *handle, void **arguments, void **extra) {
    Kernel *kernel = function;
    Launch *made = malloc(sizeof *made);
    *made = (Launch){kernel, {gx, gy, gz}, {bx, by, bz}, shared, malloc(kernel->count * 8 + 8)};
    for (int k = 0; k < kernel->count; k++) {
        size_t size = (kernel->sizes[k] + 63) / 64 * 64;
        made->arguments[k] = memcpy(aligned_alloc(64, size), arguments[k], kernel->sizes[k]);
    }
    LOCKED(append(launch_now, made, handle));
    return 0;
}

// ---------------------------------------------------------------- products

typedef struct { void *stream; } Handle;
typedef struct {
    int ta, tb, m, n, k, at, lda, bt, ldb, ct, ldc, compute, algorithm;
    double alpha, beta;  // 8 bytes of a float or a double
    const void *a, *b;
    void *c;
} Product;

int fkb_cublasCreate_v2(void **handle) {
    *handle = calloc(1, sizeof(Handle));
    return 0;
}

int fkb_cublasSetStream_v2(void *handle, void *stream) {
    ((Handle *)handle)->stream = stream;
    return 0;
}

int fkb_cublasGetStream_v2(void *handle, void **stream) {
    *stream = ((Handle *)handle)->stream;
    return 0;
}

static void multiply_now(void *arguments) {
    Product *p = arguments;
    int (*call)(void *, int, int, int, int, int, const void *, const void *, int, int, const void *,
                int, int, const void *, void *, int, int, int, int) = original("fkb_cublasGemmEx");
    if (call(NULL, p->ta, p->tb, p->m, p->n, p->k, &p->alpha, p->a, p->at, p->lda, p->b, p->bt,
             p->ldb, &p->beta, p->c, p->ct, p->ldc, p->compute, p->algorithm))
        fail("a product was refused");
}

int fkb_cublasGemmEx(void *handle, int ta, int tb, int m, int n, int k, const void *alpha,
                     const void *a, int at, int lda, const void *b, int bt, int ldb,
                     const void *beta, void *c, int ct, int ldc, int compute, int algorithm) {
    Product *p = malloc(sizeof *p);
    *p = (Product){ta, tb, m, n, k, at, lda, bt, ldb, ct, ldc, compute, algorithm, 0, 0, a, b, c};
    memcpy(&p->alpha, alpha, at ? 8 : 4);
    memcpy(&p->beta, beta, at ? 8 : 4);
    LOCKED(append(multiply_now, p, ((Handle *)handle)->stream));
    return 0;
}
