// The products of the linear layer on the processor. The longer side of each result is divided among the threads: what all
// of them read, and copy for themselves, is then the smaller operand.

// This thread's part of a result (I×J): rows i to i_end and columns j to j_end
#define SHARES(I, J) \
    size i = (I) < (J) ? 0 : FIRST(I), i_end = (I) < (J) ? (I) : LAST(I); \
    size j = (I) < (J) ? FIRST_COLUMN(FIRST, J) : 0, j_end = (I) < (J) ? FIRST_COLUMN(LAST, J) : (J)
#define FIRST_COLUMN(which, J) least(which(padded(J) / WIDTH) * WIDTH, J)

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
            if (gbias) multiply(1, J, n, &one, 0, 0, g + r * J, J, 1, s ? gb : 0, 0, gb, J);
            if (gweight) multiply(K, J, n, x + r * K, 1, K, g + r * J, J, 1, s ? gw : 0, J, gw, J);
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

// Whether they are quicker than NumPy's. Not measured, or known to be slower (Apple's library), on narrower vectors.
int linear_pays(void) { return WIDTH >= 8; }
