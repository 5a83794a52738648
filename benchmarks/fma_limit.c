/* Multiply-adds as fast as the processor does them: on registers alone, enough of them to hide their latency. Vectors
 * are as wide as those that model/kernels/wkv7.c takes with the same flags. */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define SUMS 12 /* with factor and summand they fit 16 registers */

typedef float vec __attribute__((vector_size(4 * LANES)));

int lanes(void) { return LANES; }
int flop_per_round(void) { return 2 * SUMS * LANES; }

/* Whether a multiply-add is one instruction. */
int is_fused(void) {
#if defined(__FMA__) || defined(__aarch64__)
    return 1;
#else
    return 0;
#endif
}

/* Runs the loop once per thread; returns a sum, so that nothing is left out. */
float multiply_add(int rounds, int threads) {
    float total = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : total)
    for (int thread = 0; thread < threads; thread++) {
        vec sum[SUMS], factor = 0.999f - (vec){}, summand = 0.001f - (vec){};
        for (int i = 0; i < SUMS; i++) sum[i] = summand * (float)i; /* if they were equal, one would be computed */
        for (int n = 0; n < rounds; n++) {
#pragma GCC unroll 12
            for (int i = 0; i < SUMS; i++) sum[i] = sum[i] * factor + summand;
        }
        for (int i = 0; i < SUMS; i++)
            for (int lane = 0; lane < LANES; lane++) total += sum[i][lane];
    }
    return total;
}
