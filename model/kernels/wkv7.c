/* WKV-7 forward and backward in float32, vectorised over the state, parallel over (batch, head).
 *
 * Compiled for one head size: -DN=64 -DLANES=16. The forward keeps the state as [key][value], so that both products
 * with it are sums over rows; the backward as [value][key], so that five of its seven sums are, and recomputes the
 * states of SPAN steps from a checkpoint: nothing is divided by a decay. Sums have one fixed order, whatever the number
 * of threads.
 */
#include <stdint.h>
#include <string.h>

#define SPAN 16              /* steps between checkpoints */
#define V (N / LANES)        /* vectors in a row of the state */
#define GROUP (V % 4 == 0 ? 4 : V % 3 == 0 ? 3 : V % 2 == 0 ? 2 : 1) /* vectors kept in registers together */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float row[N];
#define ALIGNED __attribute__((aligned(64)))

/* One input or gradient: a (B, T, H, N) tensor whose last two dimensions are contiguous. */
typedef struct {
    float *data;
    int64_t batch_stride, step_stride;
} sequence;

static inline vec *at(float *x) { return (vec *)x; }
static inline float *step(sequence x, int64_t b, int64_t t, int64_t h) {
    return x.data + b * x.batch_stride + t * x.step_stride + h * N;
}
static inline vec all(float x) { return x - (vec){}; }

/* exp(x) for x <= 0, to about one unit in the last place; 0 below the smallest normal result. */
static inline vec exp_negative(vec x) {
    ivec tiny = x < -87.0f;
    x = (vec)(~tiny & (ivec)x);
    vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* nearest integer to x / ln 2 */
    x -= n * 0.693359375f;
    x += n * 2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * x + 1.3981999507e-3f;
    p = p * x + 8.3334519073e-3f;
    p = p * x + 4.1665795894e-2f;
    p = p * x + 1.6666665459e-1f;
    p = p * x + 5.0000001201e-1f;
    p = p * (x * x) + x + 1.0f;
    ivec power = (__builtin_convertvector(n, ivec) + 127) << 23;
    return (vec)(~tiny & (ivec)(p * (vec)power));
}

static void decays(const float *w, float *out) {
    for (int c = 0; c < V; c++) at(out)[c] = exp_negative(((const vec *)w)[c]);
}

static void transpose(const float *from, float *to) {
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) to[j * N + i] = from[i * N + j];
}

/* ---- forward: state[j][i], i = value across lanes ---- */

static void forward_step(row *state, const float *e, const float *k, const float *v, const float *b, const float *r,
                         const float *a_next, float *u, float *y) {
    for (int c = 0; c < V; c += GROUP) {
        vec uc[GROUP], vc[GROUP], yc[GROUP], next[GROUP];
        for (int g = 0; g < GROUP; g++) {
            uc[g] = at(u)[c + g];
            vc[g] = ((const vec *)v)[c + g];
            yc[g] = next[g] = (vec){};
        }
        for (int j = 0; j < N; j++)
            for (int g = 0; g < GROUP; g++) {
                vec s = at(state[j])[c + g] * e[j] + uc[g] * b[j] + vc[g] * k[j];
                at(state[j])[c + g] = s;
                yc[g] += s * r[j];
                next[g] += s * a_next[j];
            }
        for (int g = 0; g < GROUP; g++) {
            at(y)[c + g] = yc[g];
            at(u)[c + g] = next[g];
        }
    }
}

static void forward_head(int64_t batch, int64_t T, int64_t head, const sequence *in, const float *s0, sequence y,
                         sequence u_out, float *checkpoints, float *sT) {
    static const row zero = {0};
    ALIGNED row state[N], e, u = {0};
    transpose(s0, state[0]);
    if (T > 0)
        for (int j = 0; j < N; j++)
            for (int c = 0; c < V; c++) at(u)[c] += at(state[j])[c] * step(in[4], batch, 0, head)[j];
    for (int64_t t = 0; t < T; t++) {
        const float *a_next = t + 1 < T ? step(in[4], batch, t + 1, head) : zero;
        if (checkpoints && t % SPAN == 0) memcpy(checkpoints + t / SPAN * N * N, state, sizeof state);
        if (u_out.data) memcpy(step(u_out, batch, t, head), u, sizeof u);
        decays(step(in[1], batch, t, head), e);
        forward_step(state, e, step(in[2], batch, t, head), step(in[3], batch, t, head), step(in[5], batch, t, head),
                     step(in[0], batch, t, head), a_next, u, step(y, batch, t, head));
    }
    transpose(state[0], sT);
}

/* `in` are r w k v a b; `u` (B, T, H, N) and `checkpoints` (B, H, ceil(T / SPAN), N, N), or null, are for backward. */
void wkv7_forward(int64_t B, int64_t T, int64_t H, const sequence *in, const float *s0, sequence y, sequence u,
                  float *checkpoints, float *sT, int threads) {
    int64_t spans = (T + SPAN - 1) / SPAN;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t n = 0; n < B * H; n++)
        forward_head(n / H, T, n % H, in, s0 + n * N * N, y, u, checkpoints ? checkpoints + n * spans * N * N : 0,
                     sT + n * N * N);
}

/* ---- backward: state[i][j], j = key across lanes; rows in blocks of LANES ---- */

#if LANES == 16
#define MASKS {{0,16,2,18,4,20,6,22,8,24,10,26,12,28,14,30}, {0,1,16,17,4,5,20,21,8,9,24,25,12,13,28,29}, \
               {0,1,2,3,16,17,18,19,8,9,10,11,24,25,26,27}, {0,1,2,3,4,5,6,7,16,17,18,19,20,21,22,23}}
#elif LANES == 8
#define MASKS {{0,8,2,10,4,12,6,14}, {0,1,8,9,4,5,12,13}, {0,1,2,3,8,9,10,11}}
#else
#define MASKS {{0,4,2,6}, {0,1,4,5}}
#endif

/* Lane l of the result is the sum of the lanes of x[l]; x is overwritten. */
static inline vec sum_lanes(vec *x) {
    static const ivec low[] = MASKS;
#pragma GCC unroll 4
    for (int level = 0, count = LANES / 2; count > 0; level++, count /= 2)
        for (int m = 0; m < count; m++) {
            vec p = x[2 * m], q = x[2 * m + 1];
            x[m] = __builtin_shuffle(p, q, low[level]) + __builtin_shuffle(p, q, low[level] + (1 << level));
        }
    return x[0];
}

/* All vectors of one step of one head. */
typedef struct {
    const float *r, *w, *k, *v, *a, *b, *u, *dy;
    float *dr, *dw, *dk, *dv, *da, *db;
    ALIGNED row e;
} moment;

/* Rows of S_1 ... S_count of a block, from S_0 and what the forward kept. */
static void recompute(row (*states)[LANES], const moment *moments, int count, int first_row) {
    for (int t = 0; t < count; t++) {
        const moment *m = &moments[t];
        for (int i = 0; i < LANES; i++)
            for (int c = 0; c < V; c++)
                at(states[t + 1][i])[c] = at(states[t][i])[c] * ((const vec *)m->e)[c] +
                                          ((const vec *)m->b)[c] * m->u[first_row + i] +
                                          ((const vec *)m->k)[c] * m->v[first_row + i];
    }
}

/* Adds y = S r to the gradient G of the state; returns dv = G k and leaves du = G b in `du`. */
static vec backward_values(row *G, const moment *m, int first_row, float *du) {
    vec of_v[LANES], of_u[LANES];
    for (int i = 0; i < LANES; i++) {
        of_v[i] = of_u[i] = (vec){};
        for (int c = 0; c < V; c++) {
            vec g = at(G[i])[c] + ((const vec *)m->r)[c] * m->dy[first_row + i];
            at(G[i])[c] = g;
            of_v[i] += g * ((const vec *)m->k)[c];
            of_u[i] += g * ((const vec *)m->b)[c];
        }
    }
    *at(du) = sum_lanes(of_u);
    return sum_lanes(of_v);
}

/* Adds the rows of a block to the gradients along the key, and takes G one step back. */
static void backward_keys(row *G, const row *before, const row *after, const moment *m, int first_row,
                          const float *du) {
    for (int c = 0; c < V; c++) {
        vec dr = {}, dw = {}, dk = {}, da = {}, db = {};
        vec e = ((const vec *)m->e)[c], a = ((const vec *)m->a)[c];
        for (int i = 0; i < LANES; i++) {
            vec g = at(G[i])[c], s = ((const vec *)before[i])[c];
            dr += ((const vec *)after[i])[c] * m->dy[first_row + i];
            dk += g * m->v[first_row + i];
            db += g * m->u[first_row + i];
            dw += g * s;
            da += s * du[i];
            at(G[i])[c] = g * e + a * du[i];
        }
        at(m->dr)[c] += dr;
        at(m->dw)[c] += dw * e;
        at(m->dk)[c] += dk;
        at(m->da)[c] += da;
        at(m->db)[c] += db;
    }
}

static void backward_span(row *G, const float *checkpoint, const moment *moments, int count) {
    ALIGNED row start[N], states[SPAN + 1][LANES], du;
    transpose(checkpoint, start[0]);
    for (int first_row = 0; first_row < N; first_row += LANES) {
        memcpy(states[0], start[first_row], sizeof states[0]);
        recompute(states, moments, count, first_row);
        for (int t = count - 1; t >= 0; t--) {
            const moment *m = &moments[t];
            at(m->dv + first_row)[0] = backward_values(G + first_row, m, first_row, du);
            backward_keys(G + first_row, states[t], states[t + 1], m, first_row, du);
        }
    }
}

static void backward_head(int64_t batch, int64_t T, int64_t head, const sequence *in, sequence dy, sequence u,
                          const float *checkpoints, const float *dsT, const sequence *out, float *ds0) {
    ALIGNED row G[N];
    moment moments[SPAN];
    memcpy(G, dsT, sizeof G);
    for (int64_t span = (T - 1) / SPAN; span >= 0; span--) {
        int count = T - span * SPAN < SPAN ? T - span * SPAN : SPAN;
        for (int n = 0; n < count; n++) {
            int64_t t = span * SPAN + n;
            moment *m = &moments[n];
            const float **from[] = {&m->r, &m->w, &m->k, &m->v, &m->a, &m->b};
            float **to[] = {&m->dr, &m->dw, &m->dk, &m->dv, &m->da, &m->db};
            for (int x = 0; x < 6; x++) {
                *from[x] = step(in[x], batch, t, head);
                *to[x] = step(out[x], batch, t, head);
                memset(*to[x], 0, sizeof(row));
            }
            m->u = step(u, batch, t, head);
            m->dy = step(dy, batch, t, head);
            decays(m->w, m->e);
        }
        backward_span(G, checkpoints + span * N * N, moments, count);
    }
    memcpy(ds0, G, sizeof G);
}

/* `out` are the gradients of r w k v a b, whatever they hold is overwritten. */
void wkv7_backward(int64_t B, int64_t T, int64_t H, const sequence *in, sequence dy, sequence u,
                   const float *checkpoints, const float *dsT, const sequence *out, float *ds0, int threads) {
    int64_t spans = (T + SPAN - 1) / SPAN;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t n = 0; n < B * H; n++)
        backward_head(n / H, T, n % H, in, dy, u, checkpoints + n * spans * N * N, dsT + n * N * N, out,
                      ds0 + n * N * N);
}
