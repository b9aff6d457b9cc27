/* A LiteRT external delegate for tests: takes FULLY_CONNECTED (one row at a time) and misbehaves as told.
 *
 * Option or environment variable EDGEFLEET_TEST_DELEGATE: 
 *   ok, slow, wrong      computes; takes 20 ms more; computes a dead class
 *   none, static         takes no operator; takes no graph with tensors of dynamic size
 *   refuse, fail         an error when the graph is prepared; at an inference
 *   crash, crash-at-once SIGSEGV at an inference; when the delegate is created
 *   absent               there is no device
 * The structs repeat the stable head of LiteRT's C ABI (tensorflow/lite/core/c/common.h), enough for 2.14 to 2.3.
 */
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, ERROR = 1, FULLY_CONNECTED = 9, FLOAT32 = 1 };

typedef struct { int size; int data[]; } IntArray;
typedef struct { float scale; int32_t zero_point; } QuantParams;
typedef struct { int type; void *params; } Quantization;
typedef struct Delegate Delegate;
typedef struct Context Context;
typedef struct {
    int type; void *data; IntArray *dims; QuantParams params; int allocation; size_t bytes; const void *source;
    const char *name; Delegate *delegate; int buffer_handle; bool stale; bool variable; Quantization quantization;
    void *sparsity; const IntArray *dims_signature;
} Tensor;
typedef struct { IntArray *inputs, *outputs, *intermediates, *temporaries; void *user_data; } Node;
typedef struct {
    void *(*init)(Context *, const char *, size_t);
    void (*free)(Context *, void *);
    int (*prepare)(Context *, Node *);
    int (*invoke)(Context *, Node *);
    const char *(*profiling)(const Context *, const Node *);
    int32_t builtin_code;
    const char *custom_name;
    int version;
    void *external;
    void *async_kernel;
    uint64_t inplace;
} Registration;
struct Context {
    size_t tensors_size;
    int (*execution_plan)(Context *, IntArray **);
    Tensor *tensors;
    void *impl;
    int (*resize)(Context *, Tensor *, IntArray *);
    void (*report)(Context *, const char *, ...);
    int (*add_tensors)(Context *, int, int *);
    int (*node)(Context *, int, Node **, Registration **);
    int (*replace)(Context *, Registration, const IntArray *, Delegate *);
};
struct Delegate {
    void *data;
    int (*prepare)(Context *, Delegate *);
    void *copy_from, *copy_to, *free_buffer;
    int64_t flags;
    void *builder;
};
typedef struct { Delegate *delegate; IntArray *nodes, *inputs, *outputs; } Params;
typedef struct { char mode[16]; int x, weights, bias, y; } Kernel;

static char mode[16] = "ok";

static void *kernel_init(Context *context, const char *buffer, size_t length) {
    const Params *params = (const Params *)buffer;
    Kernel *kernel = calloc(1, sizeof *kernel);
    Node *node;
    Registration *registration;
    (void)length;
    context->node(context, params->nodes->data[0], &node, &registration);
    memcpy(kernel->mode, params->delegate->data, sizeof kernel->mode);
    kernel->x = node->inputs->data[0];
    kernel->weights = node->inputs->data[1];
    kernel->bias = node->inputs->data[2];
    kernel->y = node->outputs->data[0];
    return kernel;
}

static void kernel_free(Context *context, void *kernel) {
    (void)context;
    if (!strcmp(((Kernel *)kernel)->mode, "crash-free")) raise(SIGSEGV);
    free(kernel);
}

static int kernel_prepare(Context *context, Node *node) {
    const Kernel *kernel = node->user_data;
    (void)context;
    if (!strcmp(kernel->mode, "crash-prepare")) raise(SIGSEGV);
    return strcmp(kernel->mode, "fail-prepare") ? OK : ERROR;
}

static int kernel_invoke(Context *context, Node *node) {
    const Kernel *kernel = node->user_data;
    const Tensor *w = &context->tensors[kernel->weights];
    const float *x = context->tensors[kernel->x].data, *weights = w->data, *bias = context->tensors[kernel->bias].data;
    float *y = context->tensors[kernel->y].data;
    const struct timespec pause = {0, 20000000};
    const int rows = w->dims->data[0], columns = w->dims->data[1];
    static int calls = 0;
    if (!strcmp(kernel->mode, "late") && ++calls > 203) return ERROR; /* after 1 + 200 samples: latency is measured */
    if (!strcmp(kernel->mode, "hang"))
        for (;;) nanosleep(&pause, NULL);
    if (!strcmp(kernel->mode, "crash")) raise(SIGSEGV);
    if (!strcmp(kernel->mode, "fail")) return ERROR;
    if (!strcmp(kernel->mode, "slow")) nanosleep(&pause, NULL);
    if (w->type != FLOAT32) { /* quantised arithmetic is beyond this delegate: it is wrong in any mode */
        memset(y, 0, context->tensors[kernel->y].bytes);
        return OK;
    }
    for (int row = 0; row < rows; row++) {
        y[row] = bias[row];
        for (int column = 0; column < columns; column++) y[row] += weights[row * columns + column] * x[column];
    }
    if (!strcmp(kernel->mode, "wrong")) y[0] = 0.0f; /* one dead class */
    return OK;
}

static int delegate_prepare(Context *context, Delegate *delegate) {
    Registration kernel = {kernel_init, kernel_free, kernel_prepare, kernel_invoke, NULL, 0, "TestKernel", 1,
                           NULL, NULL, 0};
    IntArray *plan, *chosen;
    Node *node;
    Registration *registration;
    int status;
    if (!strcmp(delegate->data, "refuse")) {
        context->report(context, "the test delegate refuses this graph");
        return ERROR;
    }
    context->execution_plan(context, &plan);
    chosen = calloc(1, sizeof *chosen + sizeof(int) * (size_t)plan->size);
    for (int i = 0; i < plan->size; i++) {
        context->node(context, plan->data[i], &node, &registration);
        if (registration->builtin_code == FULLY_CONNECTED && strcmp(delegate->data, "none"))
            chosen->data[chosen->size++] = plan->data[i];
    }
    status = context->replace(context, kernel, chosen, delegate);
    free(chosen);
    return status;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t n, void (*report)(const char *)) {
    const char *told = getenv("EDGEFLEET_TEST_DELEGATE");
    Delegate *delegate;
    if (told) strncpy(mode, told, sizeof mode - 1);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(keys[i], "mode")) strncpy(mode, values[i], sizeof mode - 1);
    if (!strcmp(mode, "crash-at-once")) raise(SIGSEGV);
    if (!strcmp(mode, "absent")) {
        report("no test device found");
        return NULL;
    }
    delegate = calloc(1, sizeof *delegate);
    delegate->data = mode;
    delegate->prepare = delegate_prepare;
    delegate->flags = strcmp(mode, "static") ? 1 : 0; /* 1: takes graphs with tensors of dynamic size */
    return delegate;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
