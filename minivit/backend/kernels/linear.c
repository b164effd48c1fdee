// The products of the linear layer on the processor: each thread computes some rows of the result by the BLAS that NumPy
// has brought, which is to use one thread meanwhile, and goes on with its rows while they are in the cache.

typedef int narrow;
typedef void wide_gemm(int, int, int, size, size, size, float, const float *, size, const float *, size, float, float *, size);
typedef void narrow_gemm(int, int, int, narrow, narrow, narrow, float, const float *, narrow, const float *, narrow, float, float *, narrow);

static struct { void *gemm; int wide; } blas;

// `gemm` is cblas_sgemm; `wide` says whether its integers have 64 bits.
void use_blas(void *gemm, int wide) {
    blas.gemm = gemm;
    blas.wide = wide;
}

// Where few products make a number, adding the bias counts: then so many rows at a time that they are in the cache when it
// comes, and the BLAS's preparation of the weight, which each chunk asks for again, is still little beside the product.
#define NARROW 256
#define CHUNK 512
#define ROW_BY_ROW 101
enum { AS_IT_IS = 111, TRANSPOSED = 112 };

// C (I×J) = A (I×K) B (K×J), where A and B may be kept transposed; ai, bi and ci are how far apart their kept rows lie
static void gemm(int a_is, int b_is, size I, size J, size K, const float *a, size ai, const float *b, size bi, float *c, size ci) {
    if (I <= 0) return;
    if (blas.wide) ((wide_gemm *)blas.gemm)(ROW_BY_ROW, a_is, b_is, I, J, K, 1, a, ai, b, bi, 0, c, ci);
    else ((narrow_gemm *)blas.gemm)(ROW_BY_ROW, a_is, b_is, I, J, K, 1, a, ai, b, bi, 0, c, ci);
}

// y = x W + b, (rows, K) (K, J) -> (rows, J)
KERNEL linear(size rows, size K, size J, const real *x, const real *weight, const real *bias, real *y) {
    size most = K <= NARROW ? CHUNK : rows;
    for (size r = FIRST(rows), n; r < LAST(rows); r += n) {
        n = LAST(rows) - r < most ? LAST(rows) - r : most;
        gemm(AS_IT_IS, AS_IT_IS, n, J, K, x + r * K, K, weight, J, y + r * J, J);
        if (bias)
            for (size i = r; i < r + n; i++) COLUMNS(j, J) y[i * J + j] += bias[j];
    }
}

// ∂x = g Wᵀ, (rows, J) (J, K) -> (rows, K)
KERNEL linear_vjp(size rows, size K, size J, const real *g, const real *weight, real *gx) {
    size first = FIRST(rows), last = LAST(rows);
    gemm(AS_IT_IS, TRANSPOSED, last - first, K, J, g + first * J, J, weight, J, gx + first * K, K);
}

// ∂W = xᵀ g, (K, rows) (rows, J) -> (K, J), and ∂b = Σ g. The longer side of ∂W is divided: what all threads read whole, and
// the BLAS copies for each of them, is then the shorter one.
KERNEL linear_vjp_parameters(size rows, size K, size J, const real *g, const real *x, real *gweight, real *gbias) {
    size k = J > K ? 0 : FIRST(K), k_end = J > K ? K : LAST(K), j = J > K ? FIRST(J) : 0, j_end = J > K ? LAST(J) : J;
    if (gweight && j < j_end) gemm(TRANSPOSED, AS_IT_IS, k_end - k, j_end - j, rows, x + k, K, g + j, J, gweight + k * J + j, J);
    if (gbias) {
        size from = FIRST(J), columns = LAST(J) - from;
        COLUMNS(c, columns) gbias[from + c] = 0;
        for (size r = 0; r < rows; r++) COLUMNS(c, columns) gbias[from + c] += g[r * J + from + c];
    }
}
