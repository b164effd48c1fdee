// The products of the linear layer on the processor. The longer side of each result is divided among the threads: what all
// of them read, and copy for themselves, is then the smaller operand.

// This thread's part of a result (I×J): rows i to i_end and columns j to j_end
#define SHARES(I, J) \
    size i = (I) < (J) ? 0 : FIRST(I), i_end = (I) < (J) ? (I) : LAST(I); \
    size j = (I) < (J) ? FIRST_COLUMN(FIRST, J) : 0, j_end = (I) < (J) ? FIRST_COLUMN(LAST, J) : (J)
#define FIRST_COLUMN(which, J) least(which(padded(J) / WIDTH) * WIDTH, J)

// Some rows and columns of a linear layer: every `step`-th row of x, J columns of W from `from` on; W has `wide` columns
typedef struct { size rows, step, K, from, J, wide; } layer;

static void project(layer l, const float *x, const float *weight, const float *bias, float *y) {  // y = x W + b
    multiply(l.rows, l.J, l.K, x, l.step * l.K, 1, weight + l.from, l.wide, 1, bias ? bias + l.from : 0, 0, y + l.from, l.step * l.wide);
}

static void project_input_vjp(int more, layer l, const float *g, const float *weight, float *gx) {  // ∂x = g Wᵀ, or added to it
    size step = l.step * l.K;
    multiply(l.rows, l.K, l.J, g + l.from, l.step * l.wide, 1, weight + l.from, 1, l.wide, more ? gx : 0, step, gx, step);
}

static void project_weight_vjp(int more, layer l, const float *g, const float *x, float *gweight, float *gbias) {  // xᵀ g, Σ g
    const float one = 1, *h = g + l.from;
    float *gw = gweight + l.from, *gb = gbias + l.from;
    if (gweight) multiply(l.K, l.J, l.rows, x, 1, l.step * l.K, h, l.step * l.wide, 1, more ? gw : 0, l.wide, gw, l.wide);
    if (gbias) multiply(1, l.J, l.rows, &one, 0, 0, h, l.step * l.wide, 1, more ? gb : 0, 0, gb, l.J);
}

static layer whole(size rows, size K, size J) { return (layer){rows, 1, K, 0, J, J}; }

// y = x W + b, (rows, K) (K, J) -> (rows, J)
KERNEL linear(size rows, size K, size J, const real *x, const real *weight, const real *bias, real *y) {
    SHARES(rows, J);
    multiply(i_end - i, j_end - j, K, x + i * K, K, 1, weight + j, J, 1, bias ? bias + j : 0, 0, y + i * J + j, J);
}

// ∂x = g Wᵀ, (rows, J) (J, K) -> (rows, K); ∂W = xᵀ g, (K, rows) (rows, J) -> (K, J); ∂b = Σ g. With several chunks of
// rows each thread has those that it computed before, which are in its cache: the first chunk's part of ∂W and ∂b goes to
// gweight and gbias, those of the others to `more`, a ∂W and a ∂b for each, to be added in the end. With one chunk, ∂W
// itself is divided.
KERNEL linear_vjp(size chunks, size rows, size K, size J, const real *g, const real *x, const real *weight,
                  real *gx, real *gweight, real *gbias, real *more) {
    const float one = 1;
    if (gx) {
        SHARES(rows, K);
        multiply(i_end - i, j_end - j, J, g + i * J, J, 1, weight + j * J, 1, J, 0, 0, gx + i * K + j, K);
    }
    if (chunks > 1) ROWS(c, chunks) {
        real *gw = c ? more + (c - 1) * (K + 1) * J : gweight, *gb = c ? gw + K * J : gbias;
        size first = rows * c / chunks, count = rows * (c + 1) / chunks - first, steps = (count + DEPTH - 1) / DEPTH;
        for (size s = 0; s < steps; s++) {  // so few rows that they are read from memory only once
            size r = first + count * s / steps, n = first + count * (s + 1) / steps - r;
            project_weight_vjp(s > 0, whole(n, K, J), g + r * J, x + r * K, gweight ? gw : 0, gbias ? gb : 0);
        }
    }
    if (chunks == 1 && gweight) {
        SHARES(K, J);
        multiply(i_end - i, j_end - j, rows, x + i, 1, K, g + j, J, 1, 0, 0, gweight + i * J + j, J);
    }
    if (chunks == 1 && gbias) {
        SHARES(1, J);
        multiply(i_end - i, j_end - j, rows, &one, 0, 0, g + j, J, 1, 0, 0, gbias + j, J);
    }
}

KERNEL linear_vjp_end(size chunks, size rows, size K, size J, const real *g, const real *x, const real *weight,
                      real *gx, real *gweight, real *gbias, real *more) {
    for (size c = 1; c < chunks; c++, more += (K + 1) * J) {
        if (gweight) COLUMNS(i, K * J) gweight[i] += more[i];
        if (gbias) COLUMNS(j, J) gbias[j] += more[K * J + j];
    }
}

// Whether these products are quicker than NumPy's: on vectors of sixteen and eight, but for a single row times a large weight.
// Not measured, or known to be slower (Apple's library), on narrower ones.
int products_pay(void) { return WIDTH >= 8; }
