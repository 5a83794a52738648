/* WKV-7 forward and backward in float32, parallel over batch and groups of heads. Compiled for one head size: -DN=64.
 *
 * Forward goes step by step. With the state S in the cache nearest to the processor, that is faster than by chunks:
 *
 *     u_t = S_{t-1} a_t        S_t = S_{t-1} diag(exp(w_t)) + u_t b_t^T + v_t k_t^T        y_t = S_t r_t
 *
 * Backward needs more of every state, and takes steps CHUNK at a time. In the terms of linear attention every step t
 * has two keys (b_t, k_t), two values (u_t, v_t) and two queries (r_t, a_t); entries 2t and 2t + 1 of `key`, `value` and
 * `query` below. If S is the state before a chunk, D_t the product of the decays until step t, and key_n,t the key n
 * decayed from its own step until step t, then within the chunk
 *
 *     S_t = S diag(D_t) + sum over n < 2t + 2 of value_n key_n,t^T
 *     y_t = S (D_t r_t)     + sum over n < 2t + 2 of value_n <key_n,t,   r_t>
 *     u_t = S (D_{t-1} a_t) + sum over n < 2t     of value_n <key_n,t-1, a_t>
 *
 * so an N x N state is read once per chunk, in products of small matrices that run at the speed of the processor's
 * multipliers, and only the scores <key, query> go step by step. Keys decay forward: nothing is divided by a decay.
 * Sums have one fixed order, whatever the number of threads.
 */
#include <stdint.h>
#include <string.h>

#define CHUNK 8
#define SPAN 64 /* steps between the states that the forward keeps for the backward */
#define TURN 16 /* steps of one head before those of the next in the forward pass, a multiple of CHUNK */

/* Vectors are as wide as the registers of the processor that is compiled for. A product keeps TILE x GROUP sums in
 * registers: 24 of 32, or 12 of 16 on x86 without AVX-512. */
#if defined(__AVX512F__) && N % 16 == 0
#define LANES 16
#elif defined(__AVX__) && N % 8 == 0
#define LANES 8
#else
#define LANES 4
#endif
#define V (N / LANES) /* vectors in a row of the state */
#define SCORES (2 * CHUNK * CHUNK) /* of a chunk, a multiple of LANES */
#define TILE 6
#define INPUTS 6 /* r w k v a b */
#define LINE (16 / LANES) /* vectors in a line of the cache */
#define STRETCH (128 / LANES) /* steps of a product's inner sum for every row that is asked for ahead */
#if defined(__AVX512F__) || defined(__aarch64__)
#define GROUP (V % 4 == 0 ? 4 : V % 3 == 0 ? 3 : V % 2 == 0 ? 2 : 1)
#else
#define GROUP (V % 2 == 0 ? 2 : 1)
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float aligned_vec __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float row[N];
#define ALIGNED __attribute__((aligned(64)))
/* Unrolls a loop over values that are to stay in registers: unasked, gcc does so at -O3 only, and takes longer. */
#define UNROLL _Pragma("GCC unroll 16")
#define INLINE static inline __attribute__((always_inline))

INLINE vec *at(const float *x) { return (vec *)x; }
INLINE vec all(float x) { return x - (vec){}; }

/* exp(x) for x <= 0, to about one unit in the last place; 0 below the smallest normal result. */
INLINE vec exp_negative(vec x) {
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

/* ---- across lanes ---- */

#ifdef __clang__
#define SHUFFLE(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define SHUFFLE(x, y, ...) __builtin_shuffle(x, y, (ivec){__VA_ARGS__})
#endif

/* Of every 2d lanes, the first (half = 0) or last (half = d) d of x, then those of y. */
#define LANE(l, d, half) ((l) & (d) ? LANES + (l) - (d) + (half) : (l) + (half))
#define LANES_4(l, d, half) LANE(l, d, half), LANE(l + 1, d, half), LANE(l + 2, d, half), LANE(l + 3, d, half)
#if LANES == 16
#define MIX(x, y, d, half) \
    SHUFFLE(x, y, LANES_4(0, d, half), LANES_4(4, d, half), LANES_4(8, d, half), LANES_4(12, d, half))
#elif LANES == 8
#define MIX(x, y, d, half) SHUFFLE(x, y, LANES_4(0, d, half), LANES_4(4, d, half))
#else
#define MIX(x, y, d, half) SHUFFLE(x, y, LANES_4(0, d, half))
#endif

/* Lane l of the result is the sum of the lanes of x[l]; x is overwritten. */
INLINE vec sum_lanes(vec *x) {
#define HALVE(d)                                     \
    UNROLL for (int m = 0; m < LANES / (2 * d); m++) \
        x[m] = MIX(x[2 * m], x[2 * m + 1], d, 0) + MIX(x[2 * m], x[2 * m + 1], d, d);
    HALVE(1)
    HALVE(2)
#if LANES >= 8
    HALVE(4)
#endif
#if LANES >= 16
    HALVE(8)
#endif
    return x[0];
}

static void transpose(const row *from, row *to) {
#define EXCHANGE(d)                            \
    UNROLL for (int i = 0; i < LANES; i++)     \
        if (!(i & d)) {                        \
            vec p = x[i], q = x[i + d];        \
            x[i] = MIX(p, q, d, 0);            \
            x[i + d] = MIX(p, q, d, d);        \
        }
    for (int top = 0; top < N; top += LANES)
        for (int c = 0; c < V; c++) {
            vec x[LANES];
            UNROLL for (int i = 0; i < LANES; i++) x[i] = at(from[top + i])[c];
            EXCHANGE(1)
            EXCHANGE(2)
#if LANES >= 8
            EXCHANGE(4)
#endif
#if LANES >= 16
            EXCHANGE(8)
#endif
            UNROLL for (int i = 0; i < LANES; i++) *at(to[c * LANES + i] + top) = x[i];
        }
}

/* ---- memory ---- */

/* Heads that lie side by side are taken in groups, some steps of one (forward a TURN, backward a SPAN) after those of
 * the other: else every step of a sequence is on a page of memory of its own. At most SIDE_BY_SIDE, whose states stay in
 * the cache and on the stack. */
#define SIDE_BY_SIDE (N <= 64 ? 16 : 4)

/* Into how many groups the heads are parted: as few as keep the threads about equally busy. */
static int64_t groups_of(int64_t B, int64_t H, int threads) {
    for (int64_t groups = (H + SIDE_BY_SIDE - 1) / SIDE_BY_SIDE; groups < H; groups++)
        if (B * groups % threads == 0 || B * groups >= 8 * threads) return groups;
    return H;
}

/* Heads of one sequence, and the number of the first one's state among all. */
typedef struct {
    int64_t batch, head, state;
    int count;
} group;

static group group_of(int64_t n, int64_t groups, int64_t H) {
    int64_t batch = n / groups, head = n % groups * H / groups, next = (n % groups + 1) * H / groups;
    return (group){batch, head, batch * H + head, next - head};
}

/* Steps of all sequences that lie one sequence after the other, and the rows and checkpoints before theirs. */
typedef struct {
    int64_t T, spans, rows, checkpoints;
} part;

static part part_after(part before, int64_t B, int64_t T, int64_t H) {
    return (part){T, (T + SPAN - 1) / SPAN, before.rows + B * before.T * H,
                  before.checkpoints + B * H * (before.spans - 1)};
}

/* What is to be computed, on states (B, H, N, N) and tensors (B, T, H, N); of sequences in two parts, these are two. */
typedef struct {
    int64_t H, groups;
    part parts[2];
    int last; /* of the parts */
    int past_cache; /* whether results are large */
    const float *in[INPUTS], *s0; /* r w k v a b */
    float *y, *u, *checkpoints, *sT; /* sT after the first part */
    const float *dy, *dsT;
    float *out[INPUTS], *ds0; /* the gradients of r w k v a b */
} task;

/* Where the work is: at step `t` of a part, of head `i` of group `n`. */
typedef struct {
    int64_t n, t;
    group heads;
    int part, i;
} place;

INLINE part part_of(const task *of, place here) { return of->parts[here.part]; }
INLINE place start_of_group(const task *of, int64_t n) { return (place){n, 0, group_of(n, of->groups, of->H), 0, 0}; }
INLINE place last_span_of(const task *of, place here, int in_part) {
    here.part = in_part;
    here.t = (part_of(of, here).spans - 1) * SPAN;
    return here;
}

/* The first number of the head's row of step t among all, and of its state. */
INLINE int64_t row_of(const task *of, place here, int64_t t) {
    part p = part_of(of, here);
    return (p.rows + (here.heads.batch * p.T + t) * of->H + here.heads.head + here.i) * N;
}
INLINE int64_t state_of(place here) { return (here.heads.state + here.i) * N * N; }

/* The state before the span that begins here, which is not the first of a part: that begins with s0 or sT. */
INLINE float *checkpoint_of(const task *of, place here) {
    part p = part_of(of, here);
    return of->checkpoints + (p.checkpoints + here.t / SPAN - 1) * N * N + state_of(here) * (p.spans - 1);
}

/* Where one step of one head lies, for the backward: what is read, and what is written. */
typedef struct {
    const float *r, *w, *k, *v, *a, *b, *u, *dy;
    float *dr, *dw, *dk, *dv, *da, *db;
} moment;

/* Results are written past the cache if y has more numbers than this: what is smaller is read again from the cache. */
#ifndef LARGE
#define LARGE (1 << 19)
#endif

/* A row that fills no line of the cache is no faster past it. */
#if N % 16 != 0
#define STORE_PAST_CACHE(to, x) (*(to) = (x))
#elif defined(__clang__)
#define STORE_PAST_CACHE(to, x) __builtin_nontemporal_store((aligned_vec)(x), to)
#elif defined(__x86_64__) && LANES == 16
#define STORE_PAST_CACHE(to, x) __builtin_ia32_movntps512((float *)(to), x)
#elif defined(__x86_64__) && LANES == 8
#define STORE_PAST_CACHE(to, x) __builtin_ia32_movntps256((float *)(to), x)
#elif defined(__x86_64__)
#define STORE_PAST_CACHE(to, x) __builtin_ia32_movntps((float *)(to), x)
#else
#define STORE_PAST_CACHE(to, x) (*(to) = (x))
#endif

/* Writes a row of a result; whole rows past the cache, which then need not fetch first what is overwritten. */
INLINE void deliver(float *to, const float *from, int past_cache) {
    for (int c = 0; c < V; c++)
        if (past_cache) STORE_PAST_CACHE((aligned_vec *)to + c, at(from)[c]);
        else ((aligned_vec *)to)[c] = at(from)[c];
}

/* What was delivered is there for other threads. */
INLINE void all_delivered(void) {
#ifdef __x86_64__
    __builtin_ia32_sfence();
#endif
}

/* Rows that are needed next, also to be written in the cache: products ask for them as they go, as memory delivers too
 * slowly to be asked at once. */
typedef struct {
    int count, asked;
    const float *row[14 * SPAN + 2 * N]; /* at most: inputs, u, dy and results of a span, the state before it, dsT */
} ahead;

INLINE void will_need(ahead *next, const float *row) { next->row[next->count++] = row; }
INLINE void will_need_state(ahead *next, const float *state) {
    for (int i = 0; i < N; i++) will_need(next, state + i * N);
}

INLINE void ask(ahead *next, int rows) {
    for (; rows > 0 && next->asked < next->count; rows--, next->asked++)
        UNROLL for (int line = 0; line < N; line += 16) __builtin_prefetch(next->row[next->asked] + line);
}

/* ---- products of small matrices ---- */

/* out[m] = sum over n < inner of x[m][n] y[n], where x[m][n] is x[m * down + n * right], for `tile` rows and GROUP
 * vectors from c. Given `before` and the decay of its columns, the sum starts with their product. */
INLINE void product(int tile, row *out, const float *x, int down, int right, const row *y, int inner, int c,
                    const row *before, const float *decay, ahead *next) {
    vec sum[TILE][GROUP];
    UNROLL for (int i = 0; i < tile; i++)
        UNROLL for (int g = 0; g < GROUP; g++) {
            if (decay) sum[i][g] = at(before[i])[c + g] * at(decay)[c + g];
            else sum[i][g] = all(0);
        }
    for (int start = 0; start < inner; start += STRETCH) {
        int end = inner % STRETCH == 0 || start + STRETCH < inner ? start + STRETCH : inner;
        ask(next, 1);
        for (int n = start; n < end; n++)
            UNROLL for (int i = 0; i < tile; i++) {
                vec factor = all(x[i * down + n * right]);
                UNROLL for (int g = 0; g < GROUP; g++) sum[i][g] += factor * at(y[n])[c + g];
            }
    }
    UNROLL for (int i = 0; i < tile; i++)
        UNROLL for (int g = 0; g < GROUP; g++) at(out[i])[c + g] = sum[i][g];
}

/* Rows of the next tile, of a multiple of 4: TILE, or 4 where that comes out even. */
INLINE int next_tile(int rows) { return rows == TILE || rows >= TILE + 4 ? TILE : 4; }

/* out[m] = sum over i of x[m][i] state[i], for the 2 steps rows of x */
static void times_state(row *out, const row *x, const row *state, int steps, ahead *next) {
    for (int c = 0; c < V; c += GROUP)
        for (int m = 0, tile; m < 2 * steps; m += tile) {
            tile = next_tile(2 * steps - m);
            if (tile == TILE) product(TILE, out + m, x[m], N, 1, state, N, c, 0, 0, next);
            else product(4, out + m, x[m], N, 1, state, N, c, 0, 0, next);
        }
}

/* after = before diag(decay) + sum over n < 2 steps of x[n]^T y[n]; both may be the same. Without decay only the sum. */
static void add_by_value(row *after, const row *before, const float *decay, const row *x, const row *y, int steps,
                         ahead *next) {
    for (int c = 0; c < V; c += GROUP)
        for (int i = 0, tile; i < N; i += tile) {
            tile = next_tile(N - i);
            if (tile == TILE) product(TILE, after + i, x[0] + i, 1, N, y, 2 * steps, c, before + i, decay, next);
            else product(4, after + i, x[0] + i, 1, N, y, 2 * steps, c, before + i, decay, next);
        }
}

/* ---- a chunk ---- */

typedef struct {
    ALIGNED row decay[CHUNK], since_start[CHUNK]; /* exp(w_t); D_t */
    row value[2 * CHUNK], key_at_end[2 * CHUNK];  /* key_n,C-1 */
    row query_of_start[2 * CHUNK];                /* D_t r_t and D_{t-1} a_t */
    float scores[SCORES];
} chunk;

/* Where the score of query a_t or r_t with key n is kept, and its gradient: without those that are always zero. */
INLINE int of_a(int t, int n) { return 2 * t * t + 2 * n; }
INLINE int of_r(int t, int n) { return n < 2 * t ? 2 * t * t + 2 * n + 1 : 2 * t * t + 2 * t + n; }

/* The products of queries and keys, lane by lane, and their sums. */
typedef vec products[SCORES];

INLINE void sum_products(products x, float *scores, int steps) {
    int count = 2 * steps * steps;
    for (int n = count; n % LANES != 0; n++) x[n] = (vec){};
    for (int n = 0; n < count; n += LANES) *at(scores + n) = sum_lanes(x + n);
}

/* Decays the keys of a chunk until its end; with_queries also fills the scores, which are taken on the way there. */
INLINE void decay_keys(chunk *x, const moment *m, int steps, int with_queries) {
    ALIGNED products product;
    for (int t = 0; t < steps; t++)
        for (int c = 0; c < V; c++) at(x->decay[t])[c] = exp_negative(at(m[t].w)[c]);
    for (int c = 0; c < V; c++) {
        vec since_start = all(1);
        for (int t = 0; t < steps; t++) {
            if (with_queries) at(x->query_of_start[2 * t + 1])[c] = at(m[t].a)[c] * since_start;
            at(x->since_start[t])[c] = since_start *= at(x->decay[t])[c];
            if (with_queries) at(x->query_of_start[2 * t])[c] = at(m[t].r)[c] * since_start;
            at(x->value[2 * t + 1])[c] = at(m[t].v)[c];
            at(x->value[2 * t])[c] = at(m[t].u)[c];
        }
    }
#pragma GCC unroll 1 /* here as below: as fast, and less for the compiler to do */
    for (int s = 0; s < steps; s++) {
        vec b[V], k[V], r_b = {}, r_k = {};
        UNROLL for (int c = 0; c < V; c++) {
            b[c] = at(m[s].b)[c];
            k[c] = at(m[s].k)[c];
            r_b += b[c] * at(m[s].r)[c];
            r_k += k[c] * at(m[s].r)[c];
        }
        product[of_r(s, 2 * s)] = r_b;
        product[of_r(s, 2 * s + 1)] = r_k;
        for (int t = s + 1; t < steps; t++) {
            vec a_b = {}, a_k = {}, r_b = {}, r_k = {};
            UNROLL for (int c = 0; c < V; c++) {
                vec decay = at(x->decay[t])[c];
                a_b += b[c] * at(m[t].a)[c];
                a_k += k[c] * at(m[t].a)[c];
                b[c] *= decay;
                k[c] *= decay;
                r_b += b[c] * at(m[t].r)[c];
                r_k += k[c] * at(m[t].r)[c];
            }
            if (with_queries) {
                product[of_a(t, 2 * s)] = a_b;
                product[of_a(t, 2 * s + 1)] = a_k;
                product[of_r(t, 2 * s)] = r_b;
                product[of_r(t, 2 * s + 1)] = r_k;
            }
        }
        UNROLL for (int c = 0; c < V; c++) {
            at(x->key_at_end[2 * s])[c] = b[c];
            at(x->key_at_end[2 * s + 1])[c] = k[c];
        }
    }
    if (with_queries) sum_products(product, x->scores, steps);
}

static void decay_keys_and_queries(chunk *x, const moment *m, int steps) { decay_keys(x, m, steps, 1); }
static void decay_keys_alone(chunk *x, const moment *m) { decay_keys(x, m, CHUNK, 0); }

static int64_t smaller(int64_t x, int64_t y) { return x < y ? x : y; }
static const ALIGNED row nothing;

/* ---- forward: the state is [key][value] ---- */

/* out = sum over j of x_j state[j] */
static void times_row(const row *state, const float *x, float *out) {
    for (int c = 0; c < V; c += GROUP) {
        vec sum[GROUP] = {};
        for (int j = 0; j < N; j++)
            UNROLL for (int g = 0; g < GROUP; g++) sum[g] += at(state[j])[c + g] * x[j];
        UNROLL for (int g = 0; g < GROUP; g++) at(out)[c + g] = sum[g];
    }
}

/* Asks for GROUP vectors from c of a row: for the rows of the next chunk there is time while this one's state is changed
 * (heads of less than 32 have it for some of them). */
INLINE void ask_for_columns(const float *row, int c) {
    UNROLL for (int g = 0; g < GROUP; g += LINE) __builtin_prefetch(row + (c + g) * LANES);
}

/* Takes a head through the steps of a chunk, a group of the state's columns after the other. `next_u` is S a of the first
 * step, and becomes that of the step after the last. */
static void forward_chunk(const task *of, place here, place next, row *state, float *next_u) {
    ALIGNED row decay[CHUNK], y[CHUNK], u[CHUNK + 1];
    int64_t first = row_of(of, here, here.t), next_first = row_of(of, next, next.t), step = of->H * N;
    int64_t T = part_of(of, here).T;
    int count = smaller(CHUNK, T - here.t);
    const float *wanted[INPUTS + 2] = {of->in[0], of->in[1], of->in[2], of->in[3], of->in[4], of->in[5], of->y, of->u};
    int n_wanted = of->past_cache ? INPUTS : of->u ? INPUTS + 2 : INPUTS + 1;
    for (int t = 0; t < count; t++)
        for (int c = 0; c < V; c++) at(decay[t])[c] = exp_negative(at(of->in[1] + first + t * step)[c]);
    memcpy(u[0], next_u, sizeof(row));
    for (int c = 0; c < V; c += GROUP)
        for (int t = 0; t < count; t++) {
            const float *r = of->in[0] + first + t * step, *k = of->in[2] + first + t * step;
            const float *v = of->in[3] + first + t * step, *b = of->in[5] + first + t * step;
            const float *next_a = here.t + t + 1 < T ? of->in[4] + first + (t + 1) * step : nothing;
            vec v_t[GROUP], u_t[GROUP], y_t[GROUP] = {}, u_next[GROUP] = {};
            UNROLL for (int g = 0; g < GROUP; g++) {
                v_t[g] = at(v)[c + g];
                u_t[g] = at(u[t])[c + g];
            }
            for (int some = 0, n = 0; some < N; some += 4, n++) {
                if (n < n_wanted) ask_for_columns(wanted[n] + next_first + t * step, c);
                UNROLL for (int j = some; j < some + 4; j++) {
                    vec decay_j = all(decay[t][j]), k_j = all(k[j]), b_j = all(b[j]), r_j = all(r[j]);
                    vec a_j = all(next_a[j]);
                    UNROLL for (int g = 0; g < GROUP; g++) {
                        vec S = at(state[j])[c + g] * decay_j + v_t[g] * k_j + u_t[g] * b_j;
                        at(state[j])[c + g] = S;
                        y_t[g] += S * r_j;
                        u_next[g] += S * a_j;
                    }
                }
            }
            UNROLL for (int g = 0; g < GROUP; g++) {
                at(y[t])[c + g] = y_t[g];
                at(u[t + 1])[c + g] = u_next[g];
            }
        }
    memcpy(next_u, u[count], sizeof(row));
    for (int t = 0; t < count; t++) {
        deliver(of->y + first + t * step, y[t], of->past_cache);
        if (of->u) deliver(of->u + first + t * step, u[t], of->past_cache);
    }
}

/* The next chunk: of the turn, of the same turn of the next head, of the first head's next turn, of the next part, of
 * the next group. */
static place next_chunk(const task *of, place here) {
    int64_t T = part_of(of, here).T;
    here.t += CHUNK;
    if (here.t < T && here.t % TURN != 0) return here;
    if (++here.i < here.heads.count) {
        here.t = (here.t - 1) / TURN * TURN;
        return here;
    }
    here.i = 0;
    if (here.t < T) return here;
    if (here.part == of->last) return start_of_group(of, here.n + 1);
    here.part++;
    here.t = 0;
    return here;
}

static void forward_groups(const task *of, int64_t from, int64_t to) {
    if (from == to) return;
    ALIGNED row state[SIDE_BY_SIDE][N], next_u[SIDE_BY_SIDE];
    for (place here = start_of_group(of, from), next; here.n < to; here = next) {
        next = next_chunk(of, here);
        if (here.t == 0) {
            if (here.part == 0) transpose((const row *)(of->s0 + state_of(here)), state[here.i]);
            times_row(state[here.i], of->in[4] + row_of(of, here, 0), next_u[here.i]);
        } else if (here.t % SPAN == 0 && of->u)
            for (int i = 0; i < N; i++) deliver(checkpoint_of(of, here) + i * N, state[here.i][i], of->past_cache);
        forward_chunk(of, here, next.n < to ? next : here, state[here.i], next_u[here.i]);
        if (here.part == 0 && here.t + CHUNK >= part_of(of, here).T)
            transpose(state[here.i], (row *)(of->sT + state_of(here)));
    }
    all_delivered();
}

static task new_task(int64_t B, int64_t T, int64_t rest, int64_t H, int threads) {
    part none = {0, 1, 0, 0}, first = part_after(none, B, T, H), second = part_after(first, B, rest, H);
    return (task){H, groups_of(B, H, threads), {first, second}, rest > 0, B * (T + rest) * H * N > LARGE, .s0 = 0};
}

/* B, T and H are at least 1. Sequences have T steps, and in a second part `rest` more, which may be none: tensors are
 * (B, T, H, N) and then (B, rest, H, N), and sT is the state after the first. They are contiguous; those that are
 * written begin at a multiple of 64 bytes, or of 4 N where that is less. `u`, such a tensor, and `checkpoints` (B, H,
 * ceil(steps / SPAN) - 1, N, N) of each part, the states before spans but the first, are for a backward pass: without
 * `u` neither is written. */
void wkv7_forward(int64_t B, int64_t T, int64_t rest, int64_t H, const float *r, const float *w, const float *k,
                  const float *v, const float *a, const float *b, const float *s0, float *y, float *sT, float *u,
                  float *checkpoints, int threads) {
    task of = new_task(B, T, rest, H, threads);
    memcpy(of.in, (const float *[]){r, w, k, v, a, b}, sizeof of.in);
    of.s0 = s0, of.y = y, of.u = u, of.checkpoints = checkpoints, of.sT = sT;
    int64_t count = B * of.groups;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int thread = 0; thread < threads; thread++)
        forward_groups(&of, thread * count / threads, (thread + 1) * count / threads);
}

/* ---- backward: the state and its gradient G are [value][key] ---- */

/* Gradients of what a chunk holds, in its layout; `out` are those of y_t, then of u_t. Values, keys and queries become
 * those of v, k, b, r and a. */
typedef struct {
    ALIGNED row out[2 * CHUNK], value[2 * CHUNK], key[2 * CHUNK], query[2 * CHUNK];
    row w[CHUNK], decay; /* `decay` is of that of S until the end */
    float scores[SCORES];
} gradients;

/* Adds to the gradients of the values what the outputs of the chunk give them. A value u_t is an output, too. */
INLINE void values_of_chunk(const chunk *x, const moment *m, gradients *d, int steps) {
    for (int c = 0; c < V; c += GROUP)
        for (int t = steps - 1; t >= 0; t--) {
            vec du[GROUP], dv[GROUP];
            UNROLL for (int g = 0; g < GROUP; g++) {
                vec dy = at(m[t].dy)[c + g];
                at(d->out[2 * t])[c + g] = dy;
                du[g] = at(d->value[2 * t])[c + g] + dy * x->scores[of_r(t, 2 * t)];
                dv[g] = at(d->value[2 * t + 1])[c + g] + dy * x->scores[of_r(t, 2 * t + 1)];
            }
            for (int later = t + 1; later < steps; later++)
                UNROLL for (int g = 0; g < GROUP; g++) {
                    vec dy = at(d->out[2 * later])[c + g], du_later = at(d->out[2 * later + 1])[c + g];
                    du[g] += dy * x->scores[of_r(later, 2 * t)] + du_later * x->scores[of_a(later, 2 * t)];
                    dv[g] += dy * x->scores[of_r(later, 2 * t + 1)] + du_later * x->scores[of_a(later, 2 * t + 1)];
                }
            UNROLL for (int g = 0; g < GROUP; g++) {
                at(d->out[2 * t + 1])[c + g] = du[g];
                at(d->value[2 * t + 1])[c + g] = dv[g];
            }
        }
}

/* The gradient of the score <key_n,t, query> is <value_n, gradient of the output>. */
INLINE void gradients_of_scores(const chunk *x, gradients *d, int steps) {
    ALIGNED products product;
    for (int t = 0; t < steps; t++) {
        vec dy[V], du[V], dy_u = {}, dy_v = {};
        UNROLL for (int c = 0; c < V; c++) {
            dy[c] = at(d->out[2 * t])[c];
            du[c] = at(d->out[2 * t + 1])[c];
            dy_u += dy[c] * at(x->value[2 * t])[c];
            dy_v += dy[c] * at(x->value[2 * t + 1])[c];
        }
        for (int n = 0; n < 2 * t; n++) {
            vec of_a_t = {}, of_r_t = {};
            UNROLL for (int c = 0; c < V; c++) {
                of_a_t += at(x->value[n])[c] * du[c];
                of_r_t += at(x->value[n])[c] * dy[c];
            }
            product[of_a(t, n)] = of_a_t;
            product[of_r(t, n)] = of_r_t;
        }
        product[of_r(t, 2 * t)] = dy_u;
        product[of_r(t, 2 * t + 1)] = dy_v;
    }
    sum_products(product, d->scores, steps);
}

/* Goes through the chunk from its end. On entry d->key are the gradients of the keys at the end, d->query those of the
 * queries of the start. */
INLINE void keys_and_queries_of_chunk(const chunk *x, const moment *m, gradients *d, int steps) {
    /* Side by side: apart by a multiple of 4096 bytes, reading one would wait for what was written to the other. */
    struct {
        ALIGNED vec key[CHUNK * (CHUNK + 1)][GROUP]; /* key_n,t at t (t + 1) + n */
        vec of_key[2 * CHUNK][GROUP];
    } at_step;
    for (int c = 0; c < V; c += GROUP) {
        vec of_start[GROUP];
        for (int t = 0; t < steps; t++) {
            vec(*key)[GROUP] = at_step.key + t * (t + 1), (*before)[GROUP] = key - 2 * t;
            for (int n = 0; n < 2 * t; n++)
                UNROLL for (int g = 0; g < GROUP; g++) key[n][g] = before[n][g] * at(x->decay[t])[c + g];
            UNROLL for (int g = 0; g < GROUP; g++) {
                key[2 * t][g] = at(m[t].b)[c + g];
                key[2 * t + 1][g] = at(m[t].k)[c + g];
                at_step.of_key[2 * t][g] = at(d->key[2 * t])[c + g];
                at_step.of_key[2 * t + 1][g] = at(d->key[2 * t + 1])[c + g];
            }
        }
        UNROLL for (int g = 0; g < GROUP; g++) of_start[g] = at(d->decay)[c + g];
        for (int t = steps - 1; t >= 0; t--) {
            vec(*key)[GROUP] = at_step.key + t * (t + 1), (*before)[GROUP] = key - 2 * t;
            vec(*of_key)[GROUP] = at_step.of_key;
            vec decay[GROUP], r[GROUP], a[GROUP], dr[GROUP], da[GROUP], dw[GROUP];
            UNROLL for (int g = 0; g < GROUP; g++) {
                vec since_start = at(x->since_start[t])[c + g];
                vec since_before = t ? at(x->since_start[t - 1])[c + g] : all(1);
                decay[g] = at(x->decay[t])[c + g];
                r[g] = at(m[t].r)[c + g];
                a[g] = at(m[t].a)[c + g];
                dr[g] = at(d->query[2 * t])[c + g];
                da[g] = at(d->query[2 * t + 1])[c + g];
                of_start[g] += dr[g] * r[g];
                dw[g] = of_start[g] * since_start;
                of_start[g] = of_start[g] * decay[g] + da[g] * a[g];
                dr[g] *= since_start;
                da[g] *= since_before;
                UNROLL for (int n = 2 * t; n < 2 * t + 2; n++) {
                    dr[g] += key[n][g] * d->scores[of_r(t, n)];
                    at(d->key[n])[c + g] = of_key[n][g] + r[g] * d->scores[of_r(t, n)];
                }
            }
            for (int n = 0; n < 2 * t; n++) {
                vec of_r_t = all(d->scores[of_r(t, n)]), of_a_t = all(d->scores[of_a(t, n)]);
                UNROLL for (int g = 0; g < GROUP; g++) {
                    vec gradient = of_key[n][g] + r[g] * of_r_t;
                    dr[g] += key[n][g] * of_r_t;
                    dw[g] += key[n][g] * gradient;
                    da[g] += before[n][g] * of_a_t;
                    of_key[n][g] = gradient * decay[g] + a[g] * of_a_t;
                }
            }
            UNROLL for (int g = 0; g < GROUP; g++) {
                at(d->query[2 * t])[c + g] = dr[g];
                at(d->w[t])[c + g] = dw[g];
                at(d->query[2 * t + 1])[c + g] = da[g];
            }
        }
    }
}

/* sum over i of G[i] state[i] */
static void decay_of_state(const row *G, const row *state, float *out) {
    for (int c = 0; c < V; c++) {
        vec sum[4] = {};
        for (int i = 0; i < N; i += 4)
            UNROLL for (int m = 0; m < 4; m++) sum[m] += at(G[i + m])[c] * at(state[i + m])[c];
        at(out)[c] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
}

/* Takes G from the end of a chunk to its start; without `end` it is zero there. Both may be the same. */
static void backward_chunk(const row *end, row *start, const row *state, chunk *x, const moment *m, int steps,
                           gradients *d, ahead *next, int past_cache) {
    ALIGNED row by_key[N];
    decay_keys_and_queries(x, m, steps);
    if (end) {
        transpose(end, by_key);
        times_state(d->value, x->key_at_end, by_key, steps, next);
        times_state(d->key, x->value, end, steps, next);
        decay_of_state(end, state, d->decay);
    } else {
        memset(d->value, 0, sizeof d->value);
        memset(d->key, 0, sizeof d->key);
        memset(d->decay, 0, sizeof d->decay);
    }
    values_of_chunk(x, m, d, steps);
    gradients_of_scores(x, d, steps);
    times_state(d->query, d->out, state, steps, next);
    keys_and_queries_of_chunk(x, m, d, steps);
    for (int t = 0; t < steps; t++) {
        deliver(m[t].dr, d->query[2 * t], past_cache);
        deliver(m[t].dw, d->w[t], past_cache);
        deliver(m[t].dk, d->key[2 * t + 1], past_cache);
        deliver(m[t].dv, d->value[2 * t + 1], past_cache);
        deliver(m[t].da, d->query[2 * t + 1], past_cache);
        deliver(m[t].db, d->key[2 * t], past_cache);
    }
    add_by_value(start, end, end ? x->since_start[steps - 1] : 0, d->out, x->query_of_start, steps, next);
}

/* Of `left` steps those of the next chunk: an even number, for whole tiles. A part of an odd length ends with a step
 * without keys, which keeps the state as it is; what it gives goes nowhere. */
static int steps_of_chunk(int64_t left) { return smaller(CHUNK, (left + 1) / 2 * 2); }

/* The state before the first step of the part. */
INLINE const float *start_state_of(const task *of, place here) {
    return (here.part == 0 ? of->s0 : of->sT) + state_of(here);
}

/* The given gradient of the state after the last step of the part: none is zero. */
INLINE const float *end_gradient_of(const task *of, place here) {
    return here.part == 0 && of->dsT ? of->dsT + state_of(here) : 0;
}

static void find_backward(moment *m, const task *of, place here, float *nowhere, ahead *next) {
    int64_t T = part_of(of, here).T, chunks = (smaller(T - here.t, SPAN) + CHUNK - 1) / CHUNK;
    next->count = next->asked = 0;
#pragma GCC unroll 1
    for (int64_t t = here.t; t < here.t + chunks * CHUNK; t++, m++) {
        const float **from[INPUTS] = {&m->r, &m->w, &m->k, &m->v, &m->a, &m->b};
        float **to[INPUTS] = {&m->dr, &m->dw, &m->dk, &m->dv, &m->da, &m->db};
        int64_t at_row = row_of(of, here, t);
        for (int i = 0; i < INPUTS; i++) {
            *from[i] = t < T ? of->in[i] + at_row : nothing;
            *to[i] = t < T ? of->out[i] + at_row : nowhere;
            if (t < T) will_need(next, *from[i]);
            if (t < T && !of->past_cache) will_need(next, *to[i]);
        }
        m->u = t < T ? of->u + at_row : nothing;
        m->dy = t < T ? of->dy + at_row : nothing;
        if (t < T) will_need(next, m->u);
        if (t < T) will_need(next, m->dy);
    }
    will_need_state(next, here.t == 0 ? start_state_of(of, here) : checkpoint_of(of, here));
    if (here.t + SPAN >= T && end_gradient_of(of, here)) will_need_state(next, end_gradient_of(of, here));
}

/* The span to go on with: that of the next head, the one before, the last of the part before, of the next group. */
static place next_span(const task *of, place here) {
    if (++here.i < here.heads.count) return here;
    here.i = 0;
    here.t -= SPAN;
    if (here.t >= 0) return here;
    if (here.part > 0) return last_span_of(of, here, here.part - 1);
    return last_span_of(of, start_of_group(of, here.n + 1), of->last);
}

/* The gradient of the state after the last step of the part: what is given, and what later steps have left in G. */
static const row *end_of_part(const task *of, place here, row *G) {
    const row *given = (const row *)end_gradient_of(of, here);
    if (here.part == of->last) return given;
    if (given)
        for (int i = 0; i < N; i++)
            for (int c = 0; c < V; c++) at(G[i])[c] += at(given[i])[c];
    return G;
}

static void backward_groups(const task *of, int64_t from, int64_t to) {
    if (from == to) return;
    ALIGNED row G[SIDE_BY_SIDE][N], state[SPAN / CHUNK][N], nowhere;
    static const chunk zero;
    static const gradients none;
    chunk x = zero;
    gradients d = none;
    moment steps[2][SPAN] = {};
    ahead following;
    place here = last_span_of(of, start_of_group(of, from), of->last);
    find_backward(steps[0], of, here, nowhere, &following);
    for (int half = 0; here.n < to; half ^= 1) {
        const moment *m = steps[half];
        place next = next_span(of, here);
        int64_t T = part_of(of, here).T;
        int count = smaller(T - here.t, SPAN);
        if (next.n < to) find_backward(steps[half ^ 1], of, next, nowhere, &following);
        const row *first = (const row *)start_state_of(of, here);
        if (here.t > 0) transpose((const row *)checkpoint_of(of, here), state[0]);
        for (int t = CHUNK; t < count; t += CHUNK) {
            const row *before = here.t + t == CHUNK ? first : state[t / CHUNK - 1];
            decay_keys_alone(&x, m + t - CHUNK);
            add_by_value(state[t / CHUNK], before, x.since_start[CHUNK - 1], x.value, x.key_at_end, CHUNK, &following);
        }
        const row *end = G[here.i];
        if (here.t + SPAN >= T) end = end_of_part(of, here, G[here.i]);
        for (int t = (count - 1) / CHUNK * CHUNK; t >= 0; t -= CHUNK) {
            int at_start = here.t + t == 0;
            row *start = at_start && here.part == 0 ? (row *)(of->ds0 + state_of(here)) : G[here.i];
            const row *before = at_start ? first : state[t / CHUNK];
            int steps = steps_of_chunk(T - here.t - t);
            backward_chunk(end, start, before, &x, m + t, steps, &d, &following, of->past_cache);
            end = start;
        }
        ask(&following, following.count);
        here = next;
    }
    all_delivered();
}

/* `sT` is needed of sequences in two parts only. Without `dsT` it is zero. Only the gradients of the seven inputs are
 * written, whatever they hold before. */
void wkv7_backward(int64_t B, int64_t T, int64_t rest, int64_t H, const float *r, const float *w, const float *k,
                   const float *v, const float *a, const float *b, const float *s0, float *sT, float *u,
                   float *checkpoints, const float *dy, const float *dsT, float *dr, float *dw, float *dk, float *dv,
                   float *da, float *db, float *ds0, int threads) {
    task of = new_task(B, T, rest, H, threads);
    memcpy(of.in, (const float *[]){r, w, k, v, a, b}, sizeof of.in);
    memcpy(of.out, (float *[]){dr, dw, dk, dv, da, db}, sizeof of.out);
    of.s0 = s0, of.sT = sT, of.u = u, of.checkpoints = checkpoints, of.dy = dy, of.dsT = dsT, of.ds0 = ds0;
    int64_t count = B * of.groups;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int thread = 0; thread < threads; thread++)
        backward_groups(&of, thread * count / threads, (thread + 1) * count / threads);
}
