/* Times OrtApi::Run on zeros from C, to see what a harness in another language adds to it.
 *
 * Usage: ort_loop LIBRARY MODEL WARMUP N INPUT OUTPUT DIM...   (one float input, one float output; DIMs of the input)
 * Prints the N wall times in nanoseconds, one a line.
 *
 * Only the functions used are declared, by their place in the table of ONNX Runtime's C API, which never changes:
 * versions only add to its end. Output is preallocated after the first run, as in the agent's own bound call.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef void *Status; /* NULL is success */

enum { /* indices into OrtApi, ONNX Runtime 1.0 and later */
    GET_ERROR_MESSAGE = 2, CREATE_ENV = 3, CREATE_SESSION = 7, RUN = 9, CREATE_SESSION_OPTIONS = 10,
    SET_INTRA_OP_NUM_THREADS = 24, CREATE_TENSOR_WITH_DATA = 49, CREATE_CPU_MEMORY_INFO = 69
};
enum { FLOAT = 1, ARENA_ALLOCATOR = 1, DEFAULT_MEMORY = 0, LOG_ERROR = 3, API_VERSION = 16 };

typedef struct {
    void *const *(*get_api)(uint32_t version);
    const char *(*get_version)(void);
} ApiBase;

static void *const *api;

static void check(Status status) {
    if (status) {
        fprintf(stderr, "%s\n", ((const char *(*)(Status))api[GET_ERROR_MESSAGE])(status));
        exit(1);
    }
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc < 8) return 2;
    const char *model = argv[2], *input_name = argv[5], *output_name = argv[6];
    int warmup = atoi(argv[3]), n = atoi(argv[4]), rank = argc - 7;
    int64_t dims[8], count = 1;
    for (int i = 0; i < rank && i < 8; i++) count *= dims[i] = atoll(argv[7 + i]);
    void *env, *options, *session, *memory, *input, *output = NULL;
    void *library = dlopen(argv[1], RTLD_NOW);
    const ApiBase *(*get_base)(void) = library ? (const ApiBase *(*)(void))dlsym(library, "OrtGetApiBase") : NULL;
    if (!get_base) return 4;
    api = get_base()->get_api(API_VERSION);
    if (!api) return 3;
    check(((Status(*)(int, const char *, void **))api[CREATE_ENV])(LOG_ERROR, "loop", &env));
    check(((Status(*)(void **))api[CREATE_SESSION_OPTIONS])(&options));
    check(((Status(*)(void *, int))api[SET_INTRA_OP_NUM_THREADS])(options, 1));
    check(((Status(*)(void *, const char *, void *, void **))api[CREATE_SESSION])(env, model, options, &session));
    check(((Status(*)(int, int, void **))api[CREATE_CPU_MEMORY_INFO])(ARENA_ALLOCATOR, DEFAULT_MEMORY, &memory));
    float *data = calloc(count, sizeof(float));
    check(((Status(*)(void *, void *, size_t, const int64_t *, size_t, int, void **))api[CREATE_TENSOR_WITH_DATA])(
        memory, data, count * sizeof(float), dims, rank, FLOAT, &input));
    Status (*run)(void *, void *, const char *const *, void *const *, size_t, const char *const *, size_t, void **) =
        (Status(*)(void *, void *, const char *const *, void *const *, size_t, const char *const *, size_t,
                   void **))api[RUN];
    int64_t *walls = malloc(n * sizeof(int64_t));
    for (int i = -warmup; i < n; i++) {
        int64_t began = now_ns();
        Status status = run(session, NULL, &input_name, &input, 1, &output_name, 1, &output);
        int64_t ended = now_ns();
        if (status) check(status);
        if (i >= 0) walls[i] = ended - began;
    }
    for (int i = 0; i < n; i++) printf("%lld\n", (long long)walls[i]);
    return 0;
}
