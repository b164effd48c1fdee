// The two halves of an encoder block on the processor, each in one call:  z + MSA(LN(z))  and  z + MLP(LN(z)).
//
// In a small model an operation takes some ten microseconds, and as long again until the interpreter has come to the next
// one; meanwhile its numbers leave the cache. Here every thread takes a few images through all operations of a half before
// it turns to the next few: what one kernel writes, the next finds in the cache.

#define MANY 400  // rows at a time, about: what the kernels hand on is then in the second cache

// `first` to `last` of n things are this thread's part of the work; from here on it calls kernels for itself alone.
#define ALONE(n) size first = FIRST(n), last = LAST(n); part_ = 0, parts_ = 1

// From `first` to `last` in equal steps of at most `most`, which is 1 or more: `count` from `at` on
#define STEPS(at, count, most) \
    for (size s_ = 0, steps_ = (last - first + (most) - 1) / (most), at, count; s_ < steps_ && \
         (at = first + (last - first) * s_ / steps_, count = first + (last - first) * (s_ + 1) / steps_ - at, 1); s_++)

static void normalized(size rows, size D, const float *x, const float *mu, const float *rstd, const float *weight, const float *bias,
                       float *y) {
    for (size r = 0; r < rows; r++) COLUMNS(j, D) y[r * D + j] = (x[r * D + j] - mu[r]) * rstd[r] * weight[j] + bias[j];
}

// The projections to [q | k | v], in one piece; or in two where one token of N asks: k and v of all, q of that one
static int to_qkv(size images, size N, size Q, size D, layer *piece) {
    if (Q > 1 || N == 1) return piece[0] = whole(images * N, D, 3 * D), 1;
    piece[0] = (layer){images * N, 1, D, D, 2 * D, 3 * D};
    piece[1] = (layer){images, N, D, 0, D, 3 * D};
    return 2;
}

// Layer norm's ∂x, and, if asked for, ∂weight and ∂bias, added to what is there if `more`; `sums` is room for 2 D numbers
static void norm_vjp(int more, size rows, size D, const float *g, const float *x, const float *mu, const float *rstd,
                     const float *weight, float *gx, float *gweight, float *gbias, float *sums) {
    layer_norm_vjp(1, rows, D, g, x, mu, rstd, weight, gx, gweight ? sums : 0, sums + D);
    if (gweight) COLUMNS(j, D) {
        gweight[j] = sums[j] + (more ? gweight[j] : 0);
        gbias[j] = sums[D + j] + (more ? gbias[j] : 0);
    }
}

// The gradients of a half's parameters: of layer norm, the first linear layer and the second. Each chunk of the rows has its
// own: the first one in the arrays given for them, the others in `more`, all six after each other. `at` is 0 where there is
// no such parameter, or nobody asks.
enum { NORM_WEIGHT, NORM_BIAS, WEIGHT1, BIAS1, WEIGHT2, BIAS2 };
typedef struct { size n; float *at; } gradient;
#define OF_ATTENTION \
    {{D, gnorm_weight}, {D, gnorm_bias}, {D * 3 * D, gqkv_weight}, {3 * D, gqkv_bias}, {D * D, gproj_weight}, {D, gproj_bias}}
#define OF_MLP {{D, gnorm_weight}, {D, gnorm_bias}, {D * H, gweight1}, {H, gbias1}, {H * D, gweight2}, {D, gbias2}}

static void of_chunk(size c, gradient *six, float *more) {
    size all = 0;
    for (int i = 0; i < 6; i++) if (six[i].at) all += six[i].n;
    if (c) more += (c - 1) * all;
    for (int i = 0; i < 6; i++) if (c && six[i].at) six[i].at = take(&more, six[i].n);
}

static void add_chunks(size chunks, const gradient *six, const float *more) {
    for (size c = 1; c < chunks; c++)
        for (int i = 0; i < 6; i++)
            if (six[i].at) {
                COLUMNS(j, six[i].n) six[i].at[j] += more[j];
                more += six[i].n;
            }
}

// ---- z + MSA(LN(z)) ----

// z (images, N, D) -> out (images, Q, D): only the first Q tokens of an image ask. For the way back, if they are there: mu
// and rstd (images · N), qkv (images, N, 3D), merged (images, Q, D), the heads side by side, and attention's log_total.
KERNEL residual_attention(size images, size N, size Q, size D, size heads, float scale, float eps, const real *z,
                          const real *norm_weight, const real *norm_bias, const real *qkv_weight, const real *qkv_bias,
                          const real *proj_weight, const real *proj_bias,
                          real *out, float *mu, float *rstd, real *qkv, real *merged, float *log_total) {
    size d = D / heads, most = N < MANY ? MANY / N : 1, keep = log_total != 0;
    shape layout = {heads, Q, N, d, d, {N * 3 * D, d, 3 * D}, {N * 3 * D, d, 3 * D}, {N * 3 * D, d, 3 * D}, {Q * D, d, D}};
    float *memory = outer_scratch(most * (N * D + (keep ? 0 : N * (3 * D + 2) + Q * D)));
    float *normed = take(&memory, most * N * D);
    layer piece[2];
    ALONE(images);
    if (!keep) {  // nothing is kept
        qkv = take(&memory, most * N * 3 * D), merged = take(&memory, most * Q * D);
        mu = take(&memory, most * N), rstd = take(&memory, most * N);
    }
    STEPS(b, count, most) {
        size from = keep ? b : 0;
        real *p = qkv + from * N * 3 * D, *m = merged + from * Q * D, *o = out + b * Q * D;
        layer_norm(count * N, D, eps, z + b * N * D, norm_weight, norm_bias, normed, mu + from * N, rstd + from * N);
        for (int i = 0, pieces = to_qkv(count, N, Q, D, piece); i < pieces; i++) project(piece[i], normed, qkv_weight, qkv_bias, p);
        attention(count * heads, scale, 0, (const size *)&layout, p, p + D, p + 2 * D, m, keep ? log_total + b * heads * Q : 0);
        project(whole(count * Q, D, D), m, proj_weight, proj_bias, o);
        for (size i = 0; i < count; i++) add(Q * D, o + i * Q * D, z + (b + i) * N * D, o + i * Q * D);
    }
}

// ∂z and, if they are there, the gradients of all parameters
KERNEL residual_attention_vjp(size chunks, size images, size N, size Q, size D, size heads, float scale,
                              const real *g, const real *z, const float *mu, const float *rstd, const real *qkv, const real *merged,
                              const float *log_total, const real *norm_weight, const real *norm_bias, const real *qkv_weight,
                              const real *proj_weight, real *gz, real *gnorm_weight, real *gnorm_bias,
                              real *gqkv_weight, real *gqkv_bias, real *gproj_weight, real *gproj_bias, real *more) {
    size d = D / heads, most = N < MANY ? MANY / N : 1, first_chunk = FIRST(chunks), last_chunk = LAST(chunks);
    strides packed = {N * 3 * D, d, 3 * D}, alone = {Q * D, d, D};
    shape layout = {heads, Q, N, d, d, packed, packed, packed, alone, alone, packed, packed, packed};
    float *memory = outer_scratch(most * (5 * N + Q) * D + 2 * D);
    float *gmerged = take(&memory, most * Q * D), *gqkv = take(&memory, most * N * 3 * D), *normed = take(&memory, most * N * D);
    float *gnormed = take(&memory, most * N * D), *sums = memory;
    layer piece[2];
    int parameters = gqkv_weight != 0;
    part_ = 0, parts_ = 1;
    for (size c = first_chunk; c < last_chunk; c++) {
        size first = images * c / chunks, last = images * (c + 1) / chunks;
        gradient own[] = OF_ATTENTION;
        of_chunk(c, own, more);
        STEPS(b, count, most) {
            size rows = count * N, at = b * N;
            const real *p = qkv + at * 3 * D, *m = merged + b * Q * D, *h = g + b * Q * D;
            real *to = gz + at * D;
            int pieces = to_qkv(count, N, Q, D, piece);
            project_input_vjp(0, whole(count * Q, D, D), h, proj_weight, gmerged);
            if (1 < Q && Q < N) COLUMNS(i, rows * 3 * D) gqkv[i] = 0;  // where nobody asks
            attention_vjp(count * heads, scale, 0, (const size *)&layout, p, p + D, p + 2 * D, m, gmerged,
                          log_total + b * heads * Q, gqkv, gqkv + D, gqkv + 2 * D, 0, 0);
            for (int i = 0; i < pieces; i++) project_input_vjp(i, piece[i], gqkv, qkv_weight, gnormed);
            if (parameters) {
                normalized(rows, D, z + at * D, mu + at, rstd + at, norm_weight, norm_bias, normed);
                project_weight_vjp(b > first, whole(count * Q, D, D), h, m, own[WEIGHT2].at, own[BIAS2].at);
                for (int i = 0; i < pieces; i++) project_weight_vjp(b > first, piece[i], gqkv, normed, own[WEIGHT1].at, own[BIAS1].at);
            }
            norm_vjp(b > first, rows, D, gnormed, z + at * D, mu + at, rstd + at, norm_weight, to,
                     own[NORM_WEIGHT].at, own[NORM_BIAS].at, sums);
            for (size i = 0; i < count; i++) add(Q * D, to + i * N * D, h + i * Q * D, to + i * N * D);
        }
    }
}

KERNEL residual_attention_vjp_end(size chunks, size images, size N, size Q, size D, size heads, float scale,
                              const real *g, const real *z, const float *mu, const float *rstd, const real *qkv, const real *merged,
                              const float *log_total, const real *norm_weight, const real *norm_bias, const real *qkv_weight,
                              const real *proj_weight, real *gz, real *gnorm_weight, real *gnorm_bias,
                              real *gqkv_weight, real *gqkv_bias, real *gproj_weight, real *gproj_bias, const real *more) {
    const gradient six[] = OF_ATTENTION;
    add_chunks(chunks, six, more);
}

// ---- z + MLP(LN(z)) ----

// Rows of D numbers, H within. mu, rstd and hidden, the first layer's sums, are for the way back, if they are there.
KERNEL residual_mlp(size rows, size D, size H, size tanh_form, float eps, const real *z,
                    const real *norm_weight, const real *norm_bias, const real *weight1, const real *bias1,
                    const real *weight2, const real *bias2, real *out, float *mu, float *rstd, real *hidden) {
    size most = MANY, keep = hidden != 0;
    float *memory = outer_scratch(most * (D + H + (keep ? 0 : H + 2)));
    float *normed = take(&memory, most * D), *active = take(&memory, most * H);
    ALONE(rows);
    if (!keep) hidden = take(&memory, most * H), mu = take(&memory, most), rstd = take(&memory, most);
    STEPS(r, count, most) {
        size from = keep ? r : 0;
        layer_norm(count, D, eps, z + r * D, norm_weight, norm_bias, normed, mu + from, rstd + from);
        project(whole(count, D, H), normed, weight1, bias1, hidden + from * H);
        (tanh_form ? gelu_tanh : gelu)(count * H, hidden + from * H, active);
        project(whole(count, H, D), active, weight2, bias2, out + r * D);
        add(count * D, out + r * D, z + r * D, out + r * D);
    }
}

// As residual_attention_vjp
KERNEL residual_mlp_vjp(size chunks, size rows, size D, size H, size tanh_form, const real *g, const real *z,
                        const float *mu, const float *rstd, const real *hidden, const real *norm_weight, const real *norm_bias,
                        const real *weight1, const real *weight2, real *gz, real *gnorm_weight, real *gnorm_bias,
                        real *gweight1, real *gbias1, real *gweight2, real *gbias2, real *more) {
    size most = MANY, first_chunk = FIRST(chunks), last_chunk = LAST(chunks);
    float *memory = outer_scratch(most * (2 * D + 2 * H) + 2 * D);
    float *active = take(&memory, most * H), *ghidden = take(&memory, most * H), *normed = take(&memory, most * D);
    float *gnormed = take(&memory, most * D), *sums = memory;
    int parameters = gweight1 != 0;
    part_ = 0, parts_ = 1;
    for (size c = first_chunk; c < last_chunk; c++) {
        size first = rows * c / chunks, last = rows * (c + 1) / chunks;
        gradient own[] = OF_MLP;
        of_chunk(c, own, more);
        STEPS(r, count, most) {
            const real *h = g + r * D, *before = hidden + r * H;
            project_input_vjp(0, whole(count, H, D), h, weight2, ghidden);
            if (parameters) {
                (tanh_form ? gelu_tanh : gelu)(count * H, before, active);
                project_weight_vjp(r > first, whole(count, H, D), h, active, own[WEIGHT2].at, own[BIAS2].at);
            }
            (tanh_form ? gelu_tanh_vjp : gelu_vjp)(count * H, ghidden, before, ghidden);
            project_input_vjp(0, whole(count, D, H), ghidden, weight1, gnormed);
            if (parameters) {
                normalized(count, D, z + r * D, mu + r, rstd + r, norm_weight, norm_bias, normed);
                project_weight_vjp(r > first, whole(count, D, H), ghidden, normed, own[WEIGHT1].at, own[BIAS1].at);
            }
            norm_vjp(r > first, count, D, gnormed, z + r * D, mu + r, rstd + r, norm_weight, gz + r * D,
                     own[NORM_WEIGHT].at, own[NORM_BIAS].at, sums);
            add(count * D, gz + r * D, h, gz + r * D);
        }
    }
}

KERNEL residual_mlp_vjp_end(size chunks, size rows, size D, size H, size tanh_form, const real *g, const real *z,
                        const float *mu, const float *rstd, const real *hidden, const real *norm_weight, const real *norm_bias,
                        const real *weight1, const real *weight2, real *gz, real *gnorm_weight, real *gnorm_bias,
                        real *gweight1, real *gbias1, real *gweight2, real *gbias2, const real *more) {
    const gradient six[] = OF_MLP;
    add_chunks(chunks, six, more);
}
