// Blocks of the encoder on the processor, several in one call:  z' = z + MSA(LN(z)),  z = z' + MLP(LN(z')).
//
// In a small model an operation takes some ten microseconds, and as long again until the interpreter has come to the next
// one; meanwhile its numbers leave the cache, and the other cores wait. Here every thread takes its share of the images
// through all blocks before it waits for the others, and within half a block a few of them at a time through all operations:
// what one kernel writes, the next finds in the cache.

#define MANY 400  // rows at a time, about: what the kernels hand on is then in the second cache

// From `first` to `last` in equal steps of at most `most`, which is 1 or more: `count` from `at` on
#define STEPS(at, count, most) \
    for (size s_ = 0, steps_ = (last - first + (most) - 1) / (most), at, count; s_ < steps_ && \
         (at = first + (last - first) * s_ / steps_, count = first + (last - first) * (s_ + 1) / steps_ - at, 1); s_++)

typedef struct { size images, N, Q, D, H, heads, tanh_form; float scale, eps; } sizes;  // only Q of N tokens ask

enum { NORM1_WEIGHT, NORM1_BIAS, QKV_WEIGHT, QKV_BIAS, PROJ_WEIGHT, PROJ_BIAS,
       NORM2_WEIGHT, NORM2_BIAS, WEIGHT1, BIAS1, WEIGHT2, BIAS2, PARAMETERS };
#define COUNTS {D, D, D * 3 * D, 3 * D, D * D, D, D, D, D * H, H, H * D, D}  // how many numbers each of them has

// What a block computes for the next one and for the way back: q, k and v (images, N, 3D), the heads side by side and z'
// (images, Q, D), the first layer's sums (images, Q, H), the result (images, Q, D), which the last block has elsewhere; and
// of layer norm and attention what is known of each row.
typedef struct { float *qkv, *merged, *between, *hidden, *out, *mu1, *rstd1, *log_total, *mu2, *rstd2; } room;

static room take_room(sizes s, int is_last, float **kept, float **stats) {
    size rows = s.images * s.N, asking = s.images * s.Q;
    room r = {0};
    r.qkv = take(kept, rows * 3 * s.D), r.merged = take(kept, asking * s.D), r.between = take(kept, asking * s.D);
    r.hidden = take(kept, asking * s.H);
    if (!is_last) r.out = take(kept, asking * s.D);
    r.mu1 = take(stats, rows), r.rstd1 = take(stats, rows), r.log_total = take(stats, asking * s.heads);
    r.mu2 = take(stats, asking), r.rstd2 = take(stats, asking);
    return r;
}

static void parameters_of(size block, const size *addresses, const float **p) {
    for (int i = 0; i < PARAMETERS; i++) p[i] = DATA(addresses[block * PARAMETERS + i]);
}

static size images_at_a_time(size N) { return N < MANY ? MANY / N : 1; }
static size rows_at_a_time(size N) { return N < MANY ? MANY : N; }

static shape of_heads(sizes s) {
    size d = s.D / s.heads;
    strides packed = {s.N * 3 * s.D, d, 3 * s.D}, alone = {s.Q * s.D, d, s.D};
    return (shape){s.heads, s.Q, s.N, d, d, packed, packed, packed, alone, alone, packed, packed, packed};
}

// The projections to [q | k | v], in one piece; or in two where one token of N asks: k and v of all, q of that one
static int to_qkv(size images, size N, size Q, size D, layer *piece) {
    if (Q > 1 || N == 1) return piece[0] = whole(images * N, D, 3 * D), 1;
    piece[0] = (layer){images * N, 1, D, D, 2 * D, 3 * D};
    piece[1] = (layer){images, N, D, 0, D, 3 * D};
    return 2;
}

// ---- forward: of the images from `first` to `last` ----

static void attend(sizes s, size first, size last, const float **p, const float *z, room r, float *normed) {
    size N = s.N, Q = s.Q, D = s.D;
    shape layout = of_heads(s);
    layer piece[2];
    STEPS(b, count, images_at_a_time(N)) {
        float *qkv = r.qkv + b * N * 3 * D, *merged = r.merged + b * Q * D, *out = r.between + b * Q * D;
        layer_norm(count * N, D, s.eps, z + b * N * D, p[NORM1_WEIGHT], p[NORM1_BIAS], normed, r.mu1 + b * N, r.rstd1 + b * N);
        for (int i = 0, pieces = to_qkv(count, N, Q, D, piece); i < pieces; i++) project(piece[i], normed, p[QKV_WEIGHT], p[QKV_BIAS], qkv);
        attention(count * s.heads, s.scale, 0, (const size *)&layout, qkv, qkv + D, qkv + 2 * D, merged, r.log_total + b * s.heads * Q);
        project(whole(count * Q, D, D), merged, p[PROJ_WEIGHT], p[PROJ_BIAS], out);
        for (size i = 0; i < count; i++) add(Q * D, out + i * Q * D, z + (b + i) * N * D, out + i * Q * D);
    }
}

static void transform(sizes s, size first, size last, const float **p, room r, float *out, float *memory) {
    size D = s.D, H = s.H;
    float *normed = take(&memory, rows_at_a_time(s.N) * D), *active = memory;
    first *= s.Q, last *= s.Q;  // rows
    STEPS(i, count, MANY) {
        float *z = r.between + i * D, *hidden = r.hidden + i * H;
        layer_norm(count, D, s.eps, z, p[NORM2_WEIGHT], p[NORM2_BIAS], normed, r.mu2 + i, r.rstd2 + i);
        project(whole(count, D, H), normed, p[WEIGHT1], p[BIAS1], hidden);
        (s.tanh_form ? gelu_tanh : gelu)(count * H, hidden, active);
        project(whole(count, H, D), active, p[WEIGHT2], p[BIAS2], out + i * D);
        add(count * D, out + i * D, z, out + i * D);
    }
}

// Without `keep` all blocks have the same room: a block's result comes when its input, where that was, is no longer needed.
static void encode(sizes s, size blocks, size first, size last, const float *z, const size *parameters, float *out,
                   float *kept, float *stats, int keep, float *memory) {
    size Q = s.Q;
    for (size l = 0; l < blocks; l++) {
        const float *p[PARAMETERS];
        float *own = kept, *own_stats = stats;
        s.Q = l < blocks - 1 ? s.N : Q;
        room r = take_room(s, l == blocks - 1, keep ? &kept : &own, keep ? &stats : &own_stats);
        if (!r.out) r.out = out;
        parameters_of(l, parameters, p);
        attend(s, first, last, p, z, r, memory);
        transform(s, first, last, p, r, r.out, memory);
        z = r.out;
    }
}

// z (images, N, D) -> out (images, Q, D): in the last block only the first Q tokens of an image ask. `parameters` are the
// addresses of twelve arrays for each block, 0 for a bias that is not there. kept and stats, if they are there, have room
// for all that the way back needs.
KERNEL encoder(size images, size blocks, size N, size Q, size D, size H, size heads, size tanh_form, float scale, float eps,
               const real *z, const size *parameters, real *out, float *kept, float *stats) {
    sizes s = {images, N, Q, D, H, heads, tanh_form, scale, eps};
    size first = FIRST(images), last = LAST(images), few = images_at_a_time(N);
    float *memory = outer_scratch(rows_at_a_time(N) * (D + H) + (kept ? 0 : few * N * (6 * D + H + heads + 4)));
    float *work = take(&memory, rows_at_a_time(N) * (D + H));
    part_ = 0, parts_ = 1;  // from here on this thread calls kernels for itself alone
    if (kept) {
        encode(s, blocks, first, last, z, parameters, out, kept, stats, 1, work);
        return;
    }
    STEPS(b, count, few) {
        float *own = memory, *own_stats = own + few * N * (6 * D + H);
        s.images = count;
        encode(s, blocks, 0, count, z + b * N * D, parameters, out + b * Q * D, own, own_stats, 0, work);
    }
}

// ---- backward ----

static void normalized(size rows, size D, const float *x, const float *mu, const float *rstd, const float *weight, const float *bias,
                       float *y) {
    for (size r = 0; r < rows; r++) COLUMNS(j, D) y[r * D + j] = (x[r * D + j] - mu[r]) * rstd[r] * weight[j] + bias[j];
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

// g, the cotangent of z' + MLP(LN(z')), -> gz, that of z'; and the parameters' gradients, to[...], if they are there
static void transform_vjp(sizes s, size first, size last, const float **p, room r, const float *g, float *gz, float **to, float *memory) {
    size D = s.D, H = s.H, rows = rows_at_a_time(s.N);
    float *active = take(&memory, rows * H), *ghidden = take(&memory, rows * H), *normed = take(&memory, rows * D);
    float *gnormed = take(&memory, rows * D), *sums = memory;
    first *= s.Q, last *= s.Q;
    STEPS(i, count, MANY) {
        const float *h = g + i * D, *z = r.between + i * D, *hidden = r.hidden + i * H, *mu = r.mu2 + i, *rstd = r.rstd2 + i;
        project_input_vjp(0, whole(count, H, D), h, p[WEIGHT2], ghidden);
        if (to[WEIGHT1]) {
            (s.tanh_form ? gelu_tanh : gelu)(count * H, hidden, active);
            project_weight_vjp(i > first, whole(count, H, D), h, active, to[WEIGHT2], to[BIAS2]);
        }
        (s.tanh_form ? gelu_tanh_vjp : gelu_vjp)(count * H, ghidden, hidden, ghidden);
        project_input_vjp(0, whole(count, D, H), ghidden, p[WEIGHT1], gnormed);
        if (to[WEIGHT1]) {
            normalized(count, D, z, mu, rstd, p[NORM2_WEIGHT], p[NORM2_BIAS], normed);
            project_weight_vjp(i > first, whole(count, D, H), ghidden, normed, to[WEIGHT1], to[BIAS1]);
        }
        norm_vjp(i > first, count, D, gnormed, z, mu, rstd, p[NORM2_WEIGHT], gz + i * D, to[NORM2_WEIGHT], to[NORM2_BIAS], sums);
        add(count * D, gz + i * D, h, gz + i * D);
    }
}

// g, the cotangent of z + MSA(LN(z)), -> gz, that of z
static void attend_vjp(sizes s, size first, size last, const float **p, const float *z, room r, const float *g, float *gz,
                       float **to, float *memory) {
    size N = s.N, Q = s.Q, D = s.D, many = rows_at_a_time(N);
    shape layout = of_heads(s);
    float *gmerged = take(&memory, many * D), *gqkv = take(&memory, many * 3 * D), *normed = take(&memory, many * D);
    float *gnormed = take(&memory, many * D), *sums = memory;
    layer piece[2];
    STEPS(b, count, images_at_a_time(N)) {
        size rows = count * N;
        const float *h = g + b * Q * D, *x = z + b * N * D, *mu = r.mu1 + b * N, *rstd = r.rstd1 + b * N;
        float *qkv = r.qkv + b * N * 3 * D, *merged = r.merged + b * Q * D, *out = gz + b * N * D;
        int pieces = to_qkv(count, N, Q, D, piece);
        project_input_vjp(0, whole(count * Q, D, D), h, p[PROJ_WEIGHT], gmerged);
        if (1 < Q && Q < N) COLUMNS(i, rows * 3 * D) gqkv[i] = 0;  // where nobody asks
        attention_vjp(count * s.heads, s.scale, 0, (const size *)&layout, qkv, qkv + D, qkv + 2 * D, merged, gmerged,
                      r.log_total + b * s.heads * Q, gqkv, gqkv + D, gqkv + 2 * D, 0, 0);
        for (int i = 0; i < pieces; i++) project_input_vjp(i, piece[i], gqkv, p[QKV_WEIGHT], gnormed);
        if (to[QKV_WEIGHT]) {
            normalized(rows, D, x, mu, rstd, p[NORM1_WEIGHT], p[NORM1_BIAS], normed);
            project_weight_vjp(b > first, whole(count * Q, D, D), h, merged, to[PROJ_WEIGHT], to[PROJ_BIAS]);
            for (int i = 0; i < pieces; i++) project_weight_vjp(b > first, piece[i], gqkv, normed, to[QKV_WEIGHT], to[QKV_BIAS]);
        }
        norm_vjp(b > first, rows, D, gnormed, x, mu, rstd, p[NORM1_WEIGHT], out, to[NORM1_WEIGHT], to[NORM1_BIAS], sums);
        for (size i = 0; i < count; i++) add(Q * D, out + i * N * D, h + i * Q * D, out + i * N * D);
    }
}

// Where chunk c of the images adds up the gradients: the first in the arrays given for them, each other one in its part of
// `more`, all after each other; 0 where there is no such parameter, or nobody asks.
static void of_chunk(size c, size n, const size *counts, const size *gradients, float *more, float **to) {
    size all = 0;
    for (size i = 0; i < n; i++) all += gradients && gradients[i] ? counts[i % PARAMETERS] : 0;
    if (c) more += (c - 1) * all;
    for (size i = 0; i < n; i++)
        to[i] = !gradients || !gradients[i] ? 0 : c ? take(&more, counts[i % PARAMETERS]) : DATA(gradients[i]);
}

// gz and, if `gradients` is there, the gradients of all parameters. `between` has room for the cotangent of z'.
KERNEL encoder_vjp(size chunks, size images, size blocks, size N, size Q, size D, size H, size heads, size tanh_form, float scale,
                   const real *g, const real *z, const size *parameters, float *kept, float *stats, float *between,
                   real *gz, const size *gradients, float *more) {
    sizes s = {images, N, Q, D, H, heads, tanh_form, scale, 0};
    const size counts[] = COUNTS;
    float *memory = outer_scratch(rows_at_a_time(N) * (6 * D + 2 * H) + 2 * D), *to[blocks * PARAMETERS];
    room r[blocks];
    for (size l = 0; l < blocks; l++) {
        s.Q = l < blocks - 1 ? N : Q;
        r[l] = take_room(s, l == blocks - 1, &kept, &stats);
    }
    size first_chunk = FIRST(chunks), last_chunk = LAST(chunks);
    part_ = 0, parts_ = 1;
    for (size c = first_chunk; c < last_chunk; c++) {
        size first = images * c / chunks, last = images * (c + 1) / chunks;
        of_chunk(c, blocks * PARAMETERS, counts, gradients, more, to);
        for (size l = blocks; l--;) {
            const float *p[PARAMETERS];
            s.Q = l < blocks - 1 ? N : Q;
            float *own = between + first * (N - s.Q) * D;  // with fewer rows an image would lie where another thread's was
            parameters_of(l, parameters, p);
            transform_vjp(s, first, last, p, r[l], l < blocks - 1 ? gz : g, own, to + l * PARAMETERS, memory);
            attend_vjp(s, first, last, p, l ? r[l - 1].out : z, r[l], own, gz, to + l * PARAMETERS, memory);
        }
    }
}

KERNEL encoder_vjp_end(size chunks, size images, size blocks, size N, size Q, size D, size H, size heads, size tanh_form, float scale,
                   const real *g, const real *z, const size *parameters, float *kept, float *stats, float *between,
                   real *gz, const size *gradients, float *more) {
    const size counts[] = COUNTS;
    if (gradients)
        for (size c = 1; c < chunks; c++)
            for (size i = 0; i < blocks * PARAMETERS; i++)
                if (gradients[i]) {
                    float *sum = DATA(gradients[i]), *part = take(&more, counts[i % PARAMETERS]);
                    COLUMNS(j, counts[i % PARAMETERS]) sum[j] += part[j];
                }
}
