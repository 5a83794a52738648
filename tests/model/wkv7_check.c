/* Compares the kernels of wkv7.c with the recurrence in double, gradients written out by hand: for processors that
 * this one can only emulate. Prints the largest error, relative to the largest entry of its tensor; fails above 1e-5.
 * Compile with -DN=64, and with the directory of wkv7.c among those of headers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "wkv7.c"

enum { BATCH = 2, HEADS = 2, CHANNELS = HEADS * N, R = 0, W, K, VALUE, A, B };

static float uniform(void) { return 2.0f * rand() / RAND_MAX - 1; }

static float *random_floats(int64_t count) {
    float *x = aligned_alloc(64, (count * sizeof *x + 63) / 64 * 64);
    for (int64_t i = 0; i < count; i++) x[i] = uniform();
    return x;
}

/* r w k v a b of tokens as RWKV-7 makes them: a and b have opposite directions, a has length 1. */
static void random_inputs(float **x, int64_t count) {
    for (int i = 0; i < INPUTS; i++) x[i] = random_floats(count);
    for (int64_t row = 0; row < count; row += N) {
        float square = 0;
        for (int j = 0; j < N; j++) square += x[A][row + j] * x[A][row + j];
        for (int j = 0; j < N; j++) {
            x[W][row + j] = -0.6065f * fabsf(x[W][row + j]);
            x[A][row + j] /= sqrtf(square);
            x[B][row + j] = -x[A][row + j] * fabsf(x[B][row + j]);
        }
    }
}

/* What the kernels compute, in double: outputs, final state, and the gradients of <y, dy> + <sT, dsT>. */
typedef struct {
    double *y, *sT, *d[INPUTS], *ds0;
} expected;

static void forward_of_head(int64_t T, int64_t first, float **x, double (*S)[N][N], double *y) {
    for (int64_t t = 0, at = first; t < T; t++, at += CHANNELS)
        for (int i = 0; i < N; i++) {
            double u = 0;
            for (int j = 0; j < N; j++) u += S[t][i][j] * x[A][at + j];
            for (int j = 0; j < N; j++) {
                S[t + 1][i][j] = S[t][i][j] * exp(x[W][at + j]) + u * x[B][at + j];
                S[t + 1][i][j] += (double)x[VALUE][at + i] * x[K][at + j];
                y[at + i] += S[t + 1][i][j] * x[R][at + j];
            }
        }
}

static void backward_of_head(int64_t T, int64_t first, float **x, double (*S)[N][N], const float *dy, double (*G)[N],
                             double **d) {
    for (int64_t t = T - 1, at = first + t * CHANNELS; t >= 0; t--, at -= CHANNELS)
        for (int i = 0; i < N; i++) {
            double u = 0, du = 0;
            for (int j = 0; j < N; j++) {
                u += S[t][i][j] * x[A][at + j];
                G[i][j] += (double)dy[at + i] * x[R][at + j];
                du += G[i][j] * x[B][at + j];
                d[VALUE][at + i] += G[i][j] * x[K][at + j];
            }
            for (int j = 0; j < N; j++) {
                d[R][at + j] += S[t + 1][i][j] * dy[at + i];
                d[K][at + j] += G[i][j] * x[VALUE][at + i];
                d[B][at + j] += G[i][j] * u;
                d[W][at + j] += G[i][j] * S[t][i][j] * exp(x[W][at + j]);
                d[A][at + j] += S[t][i][j] * du;
                G[i][j] = G[i][j] * exp(x[W][at + j]) + du * x[A][at + j];
            }
        }
}

static double error(const float *found, const double *expected, int64_t count) {
    double largest = 0, off = 0;
    for (int64_t i = 0; i < count; i++) {
        if (!(fabs(found[i] - expected[i]) <= off)) off = fabs(found[i] - expected[i]);
        largest = fmax(largest, fabs(expected[i]));
    }
    return off / largest;
}

/* Of sequences of T steps, and if `rest` is not 0 so many more in a second part. */
static double largest_error(int64_t T, int64_t rest, int with_dsT) {
    int64_t count = BATCH * (T + rest) * CHANNELS, of_states = BATCH * HEADS * N * N;
    int64_t spans = (T + SPAN - 1) / SPAN + (rest ? (rest + SPAN - 1) / SPAN - 1 : 0);
    float *x[INPUTS], *d[INPUTS], *s0 = random_floats(of_states), *dsT = random_floats(of_states);
    float *y = random_floats(count), *dy = random_floats(count), *u = random_floats(count);
    float *sT = random_floats(of_states), *ds0 = random_floats(of_states), *states = random_floats(of_states * (spans - 1));
    expected e = {calloc(count, 8), calloc(of_states, 8), {0}, calloc(of_states, 8)};
    random_inputs(x, count);
    for (int i = 0; i < INPUTS; i++) {
        d[i] = random_floats(count);
        e.d[i] = calloc(count, 8);
    }
    wkv7_forward(BATCH, T, rest, HEADS, x[R], x[W], x[K], x[VALUE], x[A], x[B], s0, y, sT, u, states, 2);
    wkv7_backward(BATCH, T, rest, HEADS, x[R], x[W], x[K], x[VALUE], x[A], x[B], s0, sT, u, states, dy,
                  with_dsT ? dsT : NULL, d[R], d[W], d[K], d[VALUE], d[A], d[B], ds0, 2);

    double(*S)[N][N] = malloc((T + rest + 1) * sizeof *S);
    for (int n = 0; n < BATCH * HEADS; n++) {
        int64_t state = n * N * N, first = n / HEADS * T * CHANNELS + n % HEADS * N;
        int64_t second = (BATCH * T + n / HEADS * rest) * CHANNELS + n % HEADS * N;
        double *start = (double *)S, *G = e.ds0 + state;
        for (int i = 0; i < N * N; i++) start[i] = s0[state + i];
        forward_of_head(T, first, x, S, e.y);
        forward_of_head(rest, second, x, S + T, e.y);
        memcpy(e.sT + state, S[T], sizeof *S);
        backward_of_head(rest, second, x, S + T, dy, (double(*)[N])G, e.d);
        for (int i = 0; i < N * N; i++) G[i] += with_dsT ? dsT[state + i] : 0;
        backward_of_head(T, first, x, S, dy, (double(*)[N])G, e.d);
    }
    double worst = fmax(error(y, e.y, count), error(sT, e.sT, of_states));
    worst = fmax(worst, error(ds0, e.ds0, of_states));
    for (int i = 0; i < INPUTS; i++) worst = fmax(worst, error(d[i], e.d[i], count));
    return worst;
}

int main(void) {
    double worst = 0;
    int64_t lengths[] = {1, 7, 8, 64, 65, 128, 141}, rests[] = {0, 141, 1, 70};
    for (int i = 0; i < 7; i++)
        for (int j = 0; j < 4; j++) worst = fmax(worst, largest_error(lengths[i], rests[j], (i + j) % 2));
    printf("%d lanes, largest error %.1e\n", LANES, worst);
    return !(worst < 1e-5);
}
