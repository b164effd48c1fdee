// The products of the linear layer on the processor. The longer side of each result is divided among the threads: what all
// of them read, and copy for themselves, is then the smaller operand.

#define SHARES(I, J) \
    size i = (I) < (J) ? 0 : FIRST(I), i_end = (I) < (J) ? (I) : LAST(I); \
    size j = (I) < (J) ? FIRST_COLUMN(FIRST, J) : 0, j_end = (I) < (J) ? FIRST_COLUMN(LAST, J) : (J)
#define FIRST_COLUMN(which, J) least(which(padded(J) / WIDTH) * WIDTH, J)

// y = x W + b, (rows, K) (K, J) -> (rows, J)
KERNEL linear(size rows, size K, size J, const real *x, const real *weight, const real *bias, real *y) {
    SHARES(rows, J);
    multiply(i_end - i, j_end - j, K, x + i * K, K, 1, weight + j, J, 1, bias ? bias + j : 0, y + i * J + j, J);
}

// ∂x = g Wᵀ, (rows, J) (J, K) -> (rows, K)
KERNEL linear_vjp(size rows, size K, size J, const real *g, const real *weight, real *gx) {
    SHARES(rows, K);
    multiply(i_end - i, j_end - j, J, g + i * J, J, 1, weight + j * J, 1, J, 0, gx + i * K + j, K);
}

// ∂W = xᵀ g, (K, rows) (rows, J) -> (K, J), and ∂b = Σ g
KERNEL linear_vjp_parameters(size rows, size K, size J, const real *g, const real *x, real *gweight, real *gbias) {
    if (gweight) {
        SHARES(K, J);
        multiply(i_end - i, j_end - j, rows, x + i, 1, K, g + j, J, 1, 0, gweight + i * J + j, J);
    }
    if (gbias) {
        size j = FIRST_COLUMN(FIRST, J);
        const float one = 1;
        multiply(1, FIRST_COLUMN(LAST, J) - j, rows, &one, 0, 0, g + j, J, 1, 0, gbias + j, J);
    }
}

// Whether they are quicker than NumPy's. Not measured, or known to be slower (Apple's library), on narrower vectors.
int linear_pays(void) { return WIDTH >= 8; }
