// Attention on the processor, for kernels.c: softmax(scale · Q Kᵀ) V of many heads, and its gradients.
//
// The N×M scores of a head are never all in memory: a tile of QUERIES × KEYS of them is computed, used and forgotten while
// it is in the cache (Rabe and Staats 2021; Dao et al. 2022).

#define KEYS 512
#define QUERIES 64

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

// ---- layouts ----

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

typedef struct { size images, heads, rows; } strides;
typedef struct { size h, N, M, d, dv; strides q, k, v, out, g, gq, gk, gv; } shape;

#define ROW(x, i) (x + head / s->h * s->x.images + head % s->h * s->x.heads + (i) * s->x.rows)  // of this head's matrix

// ---- attention ----

// A tile holds its scores transposed, a row for each key: what is said of every query (its largest score, their sum) is
// then said of whole vectors, and nothing needs to be added up within one.

// Each of the pieces is one head, of one image, and some of its queries: `piece` names them, (head, first query, last + 1);
// without it each is a whole head. `layout` is a `shape`. If log_total is there it takes, for the way back, the logarithm of
// each row's sum of exp: (images, heads, N).
KERNEL attention(size pieces, float scale, const size *piece, const size *layout,
                 const real *q, const real *k, const real *v, real *out, float *log_total) {
    const shape *s = (const shape *)layout;
    size d = s->d, dv = s->dv, V = padded(dv), most = least(KEYS, s->M);
    float *memory = scratch((d + most + V) * QUERIES + most * V + 2 * (s->N + QUERIES));
    float *queries = take(&memory, d * QUERIES), *values = take(&memory, most * V), *scores = take(&memory, most * QUERIES);
    float *sums = take(&memory, QUERIES * V), *largest = take(&memory, s->N + QUERIES), *total = take(&memory, s->N + QUERIES);
    ROWS(p, pieces) {
        size head = piece ? piece[3 * p] : p, from = piece ? piece[3 * p + 1] : 0, to = piece ? piece[3 * p + 2] : s->N;
        for (size j = 0; j < s->M; j += KEYS) {
            size m = least(KEYS, s->M - j), v_stride = s->v.rows;
            const float *v_rows = pad(ROW(v, j), m, dv, &v_stride, values);
            for (size i = from; i < to; i += QUERIES) {
                size n = least(QUERIES, to - i), N = padded(n);
                float factor[QUERIES], *o = ROW(out, i);
                transpose(n, d, ROW(q, i), s->q.rows, scale, queries, N);
                product(m, N, d, ROW(k, j), s->k.rows, s->k.rows, 1, queries, N, 0, 0, scores, N);
                for (size r = 0; r < N; r += WIDTH) {  // softmax as far as the keys are known: what was before is scaled down
                    vector *max = (vector *)(largest + i + r), *sum = (vector *)(total + i + r);
                    vector before = (vector){0} - INFINITY, more = {0};
                    if (j) before = *max;
                    vector now = before;
                    size c = 0;
                    for (; c + 4 <= m; c += 4) {  // two and two first: `now` has to wait for itself once in four
                        const float *four = scores + c * N + r;
                        now = larger(larger(larger(*(vector *)four, *(vector *)(four + N)),
                                            larger(*(vector *)(four + 2 * N), *(vector *)(four + 3 * N))), now);
                    }
                    for (; c < m; c++) now = larger(*(vector *)(scores + c * N + r), now);
                    vector base = (vector)((bits)now & (now != -INFINITY));  // 0 there: so is exp(-∞ - 0), but not exp(-∞ + ∞)
                    vector less = exponentials(before - base);
                    if (j) more = less * *sum;
                    for (size c = 0; c < m; c++) {
                        vector *score = (vector *)(scores + c * N + r);
                        *score = exponentials(*score - base);
                        more += *score;
                    }
                    *max = now, *sum = more, *(vector *)(factor + r) = less;
                }
                if (j) for (size r = 0; r < n; r++) COLUMNS(c, dv) o[r * s->out.rows + c] *= factor[r];
                if (V == dv) product(n, V, m, scores, 1, 1, N, v_rows, v_stride, j ? o : 0, s->out.rows, o, s->out.rows);
                else {
                    product(n, V, m, scores, 1, 1, N, v_rows, v_stride, 0, 0, sums, V);
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
                     real *gq, real *gk, real *gv, real *more_gk, real *more_gv) {
    const shape *s = (const shape *)layout;
    size d = s->d, dv = s->dv, D = padded(d), V = padded(dv), most = least(KEYS, s->M);
    float *memory = scratch((d + 2 * dv + 2 * most + 2 * D + V) * QUERIES + most * (2 * D + V));
    float *queries = take(&memory, d * QUERIES), *cotangents = take(&memory, dv * QUERIES), *outputs = take(&memory, dv * QUERIES);
    float *A = take(&memory, most * QUERIES), *dS = take(&memory, most * QUERIES);
    float *k_copy = take(&memory, most * D), *q_copy = take(&memory, QUERIES * D), *g_copy = take(&memory, QUERIES * V);
    float *gk_copy = take(&memory, most * D), *gv_copy = take(&memory, most * V), *gq_copy = take(&memory, QUERIES * D);
    ROWS(p, pieces) {
        size head = piece ? piece[3 * p] : p, from = piece ? piece[3 * p + 1] : 0, to = piece ? piece[3 * p + 2] : s->N;
        size to_k = from ? d : s->gk.rows, to_v = from ? dv : s->gv.rows;  // how far apart the rows of ∂k and ∂v lie
        real *gk_head = from ? more_gk + p * s->M * d : ROW(gk, 0), *gv_head = from ? more_gv + p * s->M * dv : ROW(gv, 0);
        for (size j = 0; j < s->M; j += KEYS) {
            size m = least(KEYS, s->M - j), k_stride = s->k.rows;
            const float *k_rows = pad(ROW(k, j), m, d, &k_stride, k_copy);
            float *gk_rows = D == d ? gk_head + j * to_k : gk_copy, *gv_rows = V == dv ? gv_head + j * to_v : gv_copy;
            size gk_stride = D == d ? to_k : D, gv_stride = V == dv ? to_v : V;
            for (size i = from; i < to; i += QUERIES) {
                size n = least(QUERIES, to - i), N = padded(n), q_stride = s->q.rows, g_stride = s->g.rows;
                float l[QUERIES] = {0}, along[QUERIES];
                for (size r = 0; r < n; r++) l[r] = log_total[head * s->N + i + r];
                transpose(n, d, ROW(q, i), s->q.rows, scale, queries, N);
                transpose(n, dv, ROW(g, i), s->g.rows, 1, cotangents, N);
                transpose(n, dv, ROW(out, i), s->out.rows, 1, outputs, N);
                for (size r = 0; r < N; r += WIDTH) {  // Σ A ∂A over a row of A is g · out, since out = A V
                    vector sum = {0};
                    for (size c = 0; c < dv; c++) sum += *(vector *)(cotangents + c * N + r) * *(vector *)(outputs + c * N + r);
                    *(vector *)(along + r) = sum;
                }
                product(m, N, d, ROW(k, j), s->k.rows, s->k.rows, 1, queries, N, 0, 0, A, N);
                product(m, N, dv, ROW(v, j), s->v.rows, s->v.rows, 1, cotangents, N, 0, 0, dS, N);  // ∂A = ∂out Vᵀ
                for (size r = 0; r < N; r += WIDTH) {
                    vector less = *(vector *)(l + r), mean = *(vector *)(along + r);
                    for (size c = 0; c < m; c++) {  // A = softmax(S)
                        vector *a = (vector *)(A + c * N + r), *ds = (vector *)(dS + c * N + r);
                        *a = exponentials(*a - less);
                        *ds = *a * (*ds - mean) * scale;
                    }
                }
                const float *q_rows = pad(ROW(q, i), n, d, &q_stride, q_copy), *g_rows = pad(ROW(g, i), n, dv, &g_stride, g_copy);
                product(m, V, n, A, N, N, 1, g_rows, g_stride, i > from ? gv_rows : 0, gv_stride, gv_rows, gv_stride);  // out = A V
                product(m, D, n, dS, N, N, 1, q_rows, q_stride, i > from ? gk_rows : 0, gk_stride, gk_rows, gk_stride);  // S = scale · Q Kᵀ
                if (D == d) product(n, D, m, dS, 1, 1, N, k_rows, k_stride, j ? ROW(gq, i) : 0, s->gq.rows, ROW(gq, i), s->gq.rows);
                else {
                    product(n, D, m, dS, 1, 1, N, k_rows, k_stride, 0, 0, gq_copy, D);
                    put_back(gq_copy, n, d, ROW(gq, i), s->gq.rows, j > 0);
                }
            }
            if (D != d) put_back(gk_copy, m, d, gk_head + j * to_k, to_k, 0);
            if (V != dv) put_back(gv_copy, m, dv, gv_head + j * to_v, to_v, 0);
        }
    }
}
