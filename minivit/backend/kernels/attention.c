// Attention on the processor, for kernels.c: softmax(scale · Q Kᵀ) V of many heads, and its gradients.
//
// The N×M scores of a head are never all in memory: a tile of QUERIES × KEYS of them is computed, used and forgotten while
// it is in the cache (Rabe and Staats 2021; Dao et al. 2022). The products of such small matrices are done here too: a
// library of products pays for its preparations on matrices much larger than these.

#define KEYS 512
#define QUERIES 64

#if defined __AVX512F__
#define WIDTH 16  // floats to a vector
#define MOST 4    // vectors of a row of the result that are kept in registers, for six rows
#elif defined __AVX__
#define WIDTH 8
#define MOST 2
#elif defined __ARM_NEON
#define WIDTH 4
#define MOST 4
#else
#define WIDTH 4
#define MOST 2
#endif

typedef float vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int bits __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

static inline vector larger(vector a, vector b) {
    bits a_is = a > b;
    return (vector)((a_is & (bits)a) | (~a_is & (bits)b));
}

// exp(x) for x ≤ 0, as `exponential` in kernels.c
static inline vector exponentials(vector x) {
    vector c = larger(x, (vector){0} - 88), whole = c * 1.442695041f + 12582912;  // 1.5 · 2²³: the sum's last bits are n
    vector n = whole - 12582912, f = c - n * 0.693359375f + n * 2.121944401e-4f;
    vector e = 1 + f * (1 + f * (1 / 2.0f + f * (1 / 6.0f + f * (1 / 24.0f + f * (1 / 120.0f + f * (1 / 720.0f + f * (1 / 5040.0f)))))));
    e *= (vector)(((bits)whole << 23) + 0x3f800000);
    return (vector)(((bits)e & (x > -87.33654f)) | ~(x == x));  // 0 far below, and NaN
}

// ---- small products ----

// C = A B, or C += A B, for R rows and V vectors of columns of C, which stay in registers. R and V are constants to the
// compiler wherever this is inlined. A's element (i, k) is a[i·ai + k·ak]: so A may as well be a transpose.
static inline __attribute__((always_inline)) void tile(
    const int R, const int V, size K, const float *a, size ai, size ak, const float *b, size bk, float *c, size ci, int add) {
    vector sum[12][MOST];
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) sum[i][j] = add ? *(vector *)(c + i * ci + j * WIDTH) : (vector){0};
    for (size k = 0; k < K; k++) {
        vector row[MOST];
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) row[j] = *(const vector *)(b + k * bk + j * WIDTH);
#pragma GCC unroll 12
        for (int i = 0; i < R; i++) {
            float x = a[i * ai + k * ak];
#pragma GCC unroll 4
            for (int j = 0; j < V; j++) sum[i][j] += x * row[j];
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) *(vector *)(c + i * ci + j * WIDTH) = sum[i][j];
}

#define TILE(R, V) tile(R, V, K, a + i * ai, ai, ak, b + j, bk, c + i * ci + j, ci, add)
#define COLUMN_OF_TILES(V, R) \
    for (; i + R <= I; i += R) TILE(R, V); \
    switch (I - i) { case 5: TILE(5, V); break; case 4: TILE(4, V); break; case 3: TILE(3, V); break; \
                     case 2: TILE(2, V); break; case 1: TILE(1, V); break; }

// C (I×J) = A (I×K) B (K×J), or +=. J is a multiple of WIDTH; bk and ci are how far apart rows of B and C lie.
static void product(size I, size J, size K, const float *a, size ai, size ak, const float *b, size bk, float *c, size ci, int add) {
    for (size j = 0; j < J;) {
        size i = 0, left = (J - j) / WIDTH;
#if MOST == 4
        if (left >= 4) { COLUMN_OF_TILES(4, 6); j += 4 * WIDTH; continue; }
        if (left == 3) { COLUMN_OF_TILES(3, 6); j += 3 * WIDTH; continue; }
#endif
        if (left >= 2) { COLUMN_OF_TILES(2, 6); j += 2 * WIDTH; continue; }
        for (; i + 12 <= I; i += 12) TILE(12, 1);
        COLUMN_OF_TILES(1, 6);
        j += WIDTH;
    }
}

// ---- layouts ----

static size padded(size n) { return (n + WIDTH - 1) / WIDTH * WIDTH; }

static float *take(float **scratch, size n) {
    float *taken = *scratch;
    *scratch += n;
    return taken;
}

// The rows of x with their lengths a multiple of WIDTH, filled up with zeros: a copy where they are not. *stride is
// how far apart they lie, before and after.
static const float *pad(const float *x, size rows, size n, size *stride, float *copy) {
    size wide = padded(n);
    if (wide == n) return x;
    for (size i = 0; i < rows; i++)
        for (size j = 0; j < wide; j++) copy[i * wide + j] = j < n ? x[i * *stride + j] : 0;
    *stride = wide;
    return copy;
}

static void put_back(const float *copy, size rows, size n, float *x, size stride, int add) {
    for (size i = 0; i < rows; i++) COLUMNS(j, n) x[i * stride + j] = copy[i * padded(n) + j] + (add ? x[i * stride + j] : 0);
}

// factor · xᵀ, (n, rows) with its rows filled up with zeros
static void transpose(const float *x, size rows, size n, size stride, float factor, float *out) {
    size wide = padded(rows);
    for (size j = 0; j < n; j++) {
        for (size i = 0; i < rows; i++) out[j * wide + i] = factor * x[i * stride + j];
        for (size i = rows; i < wide; i++) out[j * wide + i] = 0;
    }
}

static size least(size a, size b) { return a < b ? a : b; }

typedef struct { size images, heads, rows; } strides;
typedef struct { size h, N, M, d, dv; strides q, k, v, out, g, gq, gk, gv; } shape;

#define ROW(x, i) (x + head / s->h * s->x.images + head % s->h * s->x.heads + (i) * s->x.rows)  // of this head's matrix

// ---- attention ----

// A tile holds its scores transposed, a row for each key: what is said of every query (its largest score, their sum) is
// then said of whole vectors, and nothing needs to be added up within one.

// Each of the pieces is one head, of one image, and some of its queries: `piece` names them, (head, first query, last + 1).
// `layout` is a `shape`. If log_total is there it takes, for the way back, the logarithm of each row's sum of exp: (images,
// heads, N). Each thread has `space` numbers of scratch.
KERNEL attention(size pieces, float scale, const size *piece, const size *layout,
                 const real *q, const real *k, const real *v, real *out, float *log_total, size space, float *scratch) {
    const shape *s = (const shape *)layout;
    scratch += part_ * space;
    size d = s->d, dv = s->dv, V = padded(dv), most = least(KEYS, s->M);
    float *queries = take(&scratch, d * QUERIES), *values = take(&scratch, most * V), *scores = take(&scratch, most * QUERIES);
    float *sums = take(&scratch, QUERIES * V), *largest = take(&scratch, s->N + QUERIES), *total = take(&scratch, s->N + QUERIES);
    ROWS(p, pieces) {
        size head = piece[3 * p], from = piece[3 * p + 1], to = piece[3 * p + 2];
        for (size j = 0; j < s->M; j += KEYS) {
            size m = least(KEYS, s->M - j), v_stride = s->v.rows;
            const float *v_rows = pad(ROW(v, j), m, dv, &v_stride, values);
            for (size i = from; i < to; i += QUERIES) {
                size n = least(QUERIES, to - i), N = padded(n);
                float factor[QUERIES], *o = ROW(out, i);
                transpose(ROW(q, i), n, d, s->q.rows, scale, queries);
                product(m, N, d, ROW(k, j), s->k.rows, 1, queries, N, scores, N, 0);
                for (size r = 0; r < N; r += WIDTH) {  // softmax as far as the keys are known: what was before is scaled down
                    vector *max = (vector *)(largest + i + r), *sum = (vector *)(total + i + r);
                    vector before = (vector){0} - INFINITY, more = {0};
                    if (j) before = *max;
                    vector now = before;
                    for (size c = 0; c < m; c++) now = larger(*(vector *)(scores + c * N + r), now);
                    vector less = exponentials(before - now);
                    if (j) more = less * *sum;
                    for (size c = 0; c < m; c++) {
                        vector *score = (vector *)(scores + c * N + r);
                        *score = exponentials(*score - now);
                        more += *score;
                    }
                    *max = now, *sum = more, *(vector *)(factor + r) = less;
                }
                if (j) for (size r = 0; r < n; r++) COLUMNS(c, dv) o[r * s->out.rows + c] *= factor[r];
                if (V == dv) product(n, V, m, scores, 1, N, v_rows, v_stride, o, s->out.rows, j > 0);
                else {
                    product(n, V, m, scores, 1, N, v_rows, v_stride, sums, V, 0);
                    put_back(sums, n, dv, o, s->out.rows, j > 0);
                }
            }
        }
        for (size i = from; i < to; i++) {
            float factor = 1 / total[i], *o = ROW(out, i);
            COLUMNS(c, dv) o[c] *= factor;
            if (log_total) log_total[head * s->N + i] = LOG(total[i]) + largest[i];
        }
    }
}

// ∂q, ∂k, ∂v of the same pieces. Scores and probabilities are computed again: exp(S - log_total) is A. To ∂k and ∂v every
// query of a head adds its part: those of a head's first piece go to gk and gv, those of its others to matrices of their
// own, more_gk (pieces, M, d) and more_gv (pieces, M, dv).
KERNEL attention_vjp(size pieces, float scale, const size *piece, const size *layout,
                     const real *q, const real *k, const real *v, const real *out, const real *g, const float *log_total,
                     real *gq, real *gk, real *gv, real *more_gk, real *more_gv, size space, float *scratch) {
    const shape *s = (const shape *)layout;
    scratch += part_ * space;
    size d = s->d, dv = s->dv, D = padded(d), V = padded(dv), most = least(KEYS, s->M);
    float *queries = take(&scratch, d * QUERIES), *cotangents = take(&scratch, dv * QUERIES);
    float *A = take(&scratch, most * QUERIES), *dS = take(&scratch, most * QUERIES);
    float *k_copy = take(&scratch, most * D), *q_copy = take(&scratch, QUERIES * D), *g_copy = take(&scratch, QUERIES * V);
    float *gk_copy = take(&scratch, most * D), *gv_copy = take(&scratch, most * V), *gq_copy = take(&scratch, QUERIES * D);
    ROWS(p, pieces) {
        size head = piece[3 * p], from = piece[3 * p + 1], to = piece[3 * p + 2];
        size to_k = from ? d : s->gk.rows, to_v = from ? dv : s->gv.rows;  // how far apart the rows of ∂k and ∂v lie
        real *gk_head = from ? more_gk + p * s->M * d : ROW(gk, 0), *gv_head = from ? more_gv + p * s->M * dv : ROW(gv, 0);
        for (size j = 0; j < s->M; j += KEYS) {
            size m = least(KEYS, s->M - j), k_stride = s->k.rows;
            const float *k_rows = pad(ROW(k, j), m, d, &k_stride, k_copy);
            float *gk_rows = D == d ? gk_head + j * to_k : gk_copy, *gv_rows = V == dv ? gv_head + j * to_v : gv_copy;
            size gk_stride = D == d ? to_k : D, gv_stride = V == dv ? to_v : V;
            for (size i = from; i < to; i += QUERIES) {
                size n = least(QUERIES, to - i), N = padded(n), q_stride = s->q.rows, g_stride = s->g.rows;
                float l[QUERIES] = {0}, along[QUERIES] = {0};
                for (size r = 0; r < n; r++) {  // Σ A ∂A over a row of A is g · out, since out = A V
                    const float *g_row = ROW(g, i + r), *o = ROW(out, i + r);
                    SUM(sum, c, dv, g_row[c] * o[c]);
                    along[r] = sum;
                    l[r] = log_total[head * s->N + i + r];
                }
                transpose(ROW(q, i), n, d, s->q.rows, scale, queries);
                transpose(ROW(g, i), n, dv, s->g.rows, 1, cotangents);
                product(m, N, d, ROW(k, j), s->k.rows, 1, queries, N, A, N, 0);
                product(m, N, dv, ROW(v, j), s->v.rows, 1, cotangents, N, dS, N, 0);  // ∂A = ∂out Vᵀ
                for (size r = 0; r < N; r += WIDTH) {
                    vector less = *(vector *)(l + r), mean = *(vector *)(along + r);
                    for (size c = 0; c < m; c++) {  // A = softmax(S)
                        vector *a = (vector *)(A + c * N + r), *ds = (vector *)(dS + c * N + r);
                        *a = exponentials(*a - less);
                        *ds = *a * (*ds - mean) * scale;
                    }
                }
                const float *q_rows = pad(ROW(q, i), n, d, &q_stride, q_copy), *g_rows = pad(ROW(g, i), n, dv, &g_stride, g_copy);
                product(m, V, n, A, N, 1, g_rows, g_stride, gv_rows, gv_stride, i > from);  // out = A V
                product(m, D, n, dS, N, 1, q_rows, q_stride, gk_rows, gk_stride, i > from);  // S = scale · Q Kᵀ
                if (D == d) product(n, D, m, dS, 1, N, k_rows, k_stride, ROW(gq, i), s->gq.rows, j > 0);
                else {
                    product(n, D, m, dS, 1, N, k_rows, k_stride, gq_copy, D, 0);
                    put_back(gq_copy, n, d, ROW(gq, i), s->gq.rows, j > 0);
                }
            }
            if (D != d) put_back(gk_copy, m, d, gk_head + j * to_k, to_k, 0);
            if (V != dv) put_back(gv_copy, m, dv, gv_head + j * to_v, to_v, 0);
        }
    }
}
