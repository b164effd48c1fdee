// Products of matrices on the processor.
//
// What a core can multiply and add is bounded by how fast numbers reach it. A tile of C that stays in registers reads each
// number of A once for all of its columns, and each of B once for all of its rows; so that the rest of A and B is near when
// its turn comes, they are taken block by block (Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix
// Multiplication"), and copied into the order in which tiles read them where that pays.

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

#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

// What a step of a tile's sums is to the processor. Where somebody else's thread is at work on the same core, it takes half of
// the core's instructions, and their number is what counts. On vectors of eight a step is 12 multiply-adds and 8 others at
// least: so eight steps make one turn of the loop there, and the compiler is told to move no sums from register to register,
// and not to read B once more for every row.
#if defined __AVX__ && defined __FMA__ && !defined __AVX512F__
#define AT_ONCE 8
#define ADD_PRODUCT(sum, x, y) __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(x), "x"(y))
#define KEEP(y) __asm__("" : "+x"(y))
#else
#define AT_ONCE 1
#define ADD_PRODUCT(sum, x, y) sum += x * y
#define KEEP(y) (void)0
#endif
#if AT_ONCE > 1 || defined __clang__
#define STEP_BY_STEP __asm__ volatile("" ::: "memory")  // it would read for several steps ahead, and run out of registers
#else
#define STEP_BY_STEP (void)0
#endif

#define TALL 6  // rows of A that a tile takes
#define PANEL (MOST * WIDTH)  // columns of B that it takes

typedef float vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int bits __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

static inline size least(size a, size b) { return a < b ? a : b; }
static inline size padded(size n) { return (n + WIDTH - 1) / WIDTH * WIDTH; }

// ---- in registers ----

// One step of the sums: a column of A times a row of B
#define STEP(k) { \
    vector row[MOST]; \
    UNROLL for (int j = 0; j < V; j++) { row[j] = *(const vector *)(b + (k) * bk + j * WIDTH); KEEP(row[j]); } \
    UNROLL for (int i = 0; i < R; i++) { \
        vector x = a[i * ai + (k) * ak] - (vector){0};  /* in all lanes */ \
        UNROLL for (int j = 0; j < V; j++) ADD_PRODUCT(sum[i][j], x, row[j]); \
    } \
    STEP_BY_STEP; \
}

// C = A B + `plus` for R rows and V vectors of columns of C, `steps` to a turn of the loop. These three are constants to the
// compiler wherever this is inlined. A's element (i, k) is a[i·ai + k·ak]: so A may as well be a transpose. `plus` may be C
// itself, or 0: nothing.
static inline __attribute__((always_inline)) void tile(
    const int R, const int V, const int steps, size K, const float *a, size ai, size ak, const float *b, size bk,
    const float *plus, size pi, float *c, size ci) {
    vector sum[12][MOST];
    UNROLL for (int i = 0; i < R; i++)
        UNROLL for (int j = 0; j < V; j++) {
            sum[i][j] = (vector){0};
            __builtin_prefetch(c + i * ci + j * WIDTH, 1);
        }
    if (steps > 1)
        for (; K >= steps; K -= steps, a += steps * ak, b += steps * bk) UNROLL for (int k = 0; k < steps; k++) STEP(k)
    for (size k = 0; k < K; k++) STEP(k)
    UNROLL for (int i = 0; i < R; i++)
        UNROLL for (int j = 0; j < V; j++) {
            if (plus) sum[i][j] += *(const vector *)(plus + i * pi + j * WIDTH);
            *(vector *)(c + i * ci + j * WIDTH) = sum[i][j];
        }
}

#define TILE(R, V) tile(R, V, steps, K, a + i * panel, ai, ak, b + j, bk, plus ? plus + i * pi + j : 0, pi, c + i * ci + j, ci)
#define COLUMN_OF_TILES(V) \
    for (; i + TALL <= I; i += TALL) TILE(TALL, V); \
    switch (I - i) { case 5: TILE(5, V); break; case 4: TILE(4, V); break; case 3: TILE(3, V); break; \
                     case 2: TILE(2, V); break; case 1: TILE(1, V); break; }

static inline __attribute__((always_inline)) void tiles(
    const int steps, size I, size J, size K, const float *a, size panel, size ai, size ak, const float *b, size bk,
    const float *plus, size pi, float *c, size ci) {
    for (size j = 0; j < J;) {
        size i = 0, left = (J - j) / WIDTH;
#if MOST == 4
        if (left >= 4) { COLUMN_OF_TILES(4); j += 4 * WIDTH; continue; }
        if (left == 3) { COLUMN_OF_TILES(3); j += 3 * WIDTH; continue; }
#endif
        if (left >= 2) { COLUMN_OF_TILES(2); j += 2 * WIDTH; continue; }
        if (panel == ai) for (; i + 12 <= I; i += 12) TILE(12, 1);
        COLUMN_OF_TILES(1);
        j += WIDTH;
    }
}

// C (I×J) = A (I×K) B (K×J) + plus, of matrices that are in the cache. J is a multiple of WIDTH; bk, pi and ci are how far
// apart rows of B, of plus and of C lie. A tile's first row, row i, begins at a + i·panel: that is ai where A lies in one piece.
ONE_COPY product(size I, size J, size K, const float *a, size panel, size ai, size ak, const float *b, size bk,
                 const float *plus, size pi, float *c, size ci) {
    if (AT_ONCE > 1 && J == PANEL && bk == PANEL && ai == 1 && ak == TALL)  // copies of both: several steps without reckoning
        tiles(AT_ONCE, I, PANEL, K, a, panel, 1, TALL, b, PANEL, plus, pi, c, ci);
    else
        tiles(1, I, J, K, a, panel, ai, ak, b, bk, plus, pi, c, ci);
}

// ---- block by block ----

// Two vectors, `above` and `below`, in pieces of n lanes: every second piece of the one changes places with the piece before it
// of the other. Which lanes the two are made of then, the lanes of `below` counted from WIDTH on:
#define ABOVE(n, i) ((i) & (n) ? WIDTH + (i) - (n) : (i))
#define BELOW(n, i) ((i) & (n) ? WIDTH + (i) : (i) + (n))
#define FOUR(which, n, i) which(n, i), which(n, i + 1), which(n, i + 2), which(n, i + 3)
#define EIGHT(which, n, i) FOUR(which, n, i), FOUR(which, n, i + 4)
#if WIDTH == 16
#define ALL(which, n) EIGHT(which, n, 0), EIGHT(which, n, 8)
#define EXCHANGE_ALL EXCHANGE(8) EXCHANGE(4) EXCHANGE(2) EXCHANGE(1)
#elif WIDTH == 8
#define ALL(which, n) EIGHT(which, n, 0)
#define EXCHANGE_ALL EXCHANGE(4) EXCHANGE(2) EXCHANGE(1)
#else
#define ALL(which, n) FOUR(which, n, 0)
#define EXCHANGE_ALL EXCHANGE(2) EXCHANGE(1)
#endif
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (bits){__VA_ARGS__})
#endif
#define EXCHANGE(n) \
    UNROLL for (int r = 0; r < WIDTH; r++) \
        if (!(r & n)) { \
            vector above = square[r], below = square[r + n]; \
            square[r] = SHUFFLE(above, below, ALL(ABOVE, n)); \
            square[r + n] = SHUFFLE(above, below, ALL(BELOW, n)); \
        }

// out = factor · xᵀ, (rows, n) -> (n, rows), its rows filled up with zeros to a multiple of WIDTH
ONE_COPY transpose(size rows, size n, const float *x, size stride, float factor, float *out, size out_stride) {
    size done = 0;  // columns
    for (; done + WIDTH <= n; done += WIDTH)
        for (size i = 0; i < rows; i += WIDTH) {  // a square: its halves change places, then the halves of these, and so on
            vector square[WIDTH];
            UNROLL for (int r = 0; r < WIDTH; r++) {
                square[r] = (vector){0};
                if (i + r < rows) square[r] += factor * *(const vector *)(x + (i + r) * stride + done);
            }
            EXCHANGE_ALL
            UNROLL for (int r = 0; r < WIDTH; r++) *(vector *)(out + (done + r) * out_stride + i) = square[r];
        }
    for (size j = done; j < n; j++)
        for (size i = 0; i < padded(rows); i++) out[j * out_stride + i] = i < rows ? factor * x[i * stride + j] : 0;
}

// Chosen by trying, on a processor with 48 KB of first and 2 MB of second cache, and where vectors are of eight, on one of
// AMD's with 32 and 512 KB.
#define DEPTH 400             // of the sums, at most, between two additions to C: A's block and a panel of B are then in the second cache
#define FAR (WIDTH == 16 ? 300 : 50)  // numbers between two columns of a transpose, from which on copying it pays
#define ACROSS (WIDTH == 16 ? 384 : 3072)  // columns of B's block; A is copied once for each
#define LONG (WIDTH == 8 ? 128 : 1LL << 62)  // a row of C, from which on copying A's rows pays; copy_rows has no room for wider vectors
#define DOWN 96               // rows of A's block, often in as many pages: the places of so many are kept at hand (TLB)
#define FEW (WIDTH == 8 ? 16 : 32)  // rows: with fewer, copying B takes longer than what it gains

typedef float eight __attribute__((vector_size(32), aligned(4), may_alias));

// A's block (I×K) in panels of TALL rows, each as a tile reads it: column after column. What is stored eight at a time
// reaches into what comes next: the panel's next column, or in the end the room between two panels.
#define DISTANCE(K) ((K) + 1)  // from one panel to the next, divided by TALL

static void copy_rows(size I, size K, const float *a, size ai, float *out) {
    for (size i = 0; i < I; i += TALL) transpose(least(TALL, I - i), K, a + i * ai, ai, 1, out + i * DISTANCE(K), TALL);
}

static void copy_columns(size I, size K, const float *a, size ak, float *out) {  // of a transpose, whose ai is 1
    for (size k = 0; k < K; k++) {
        const float *column = a + k * ak;
        size i = 0;
        for (; i + 8 <= I; i += TALL) *(eight *)(out + i * DISTANCE(K) + k * TALL) = *(const eight *)(column + i);
        for (; i < I; i++) out[i / TALL * TALL * DISTANCE(K) + k * TALL + i % TALL] = column[i];
    }
}

// B's block (K×J), panel after panel, the last one filled up with zeros
static void copy_panels(size K, size J, const float *b, size bk, size bj, float *out) {
    size whole = J / PANEL * PANEL, n = J - whole, N = padded(n);
    if (bj != 1) {
        for (size j = 0; j < whole; j += PANEL) transpose(PANEL, K, b + j * bj, bj, 1, out + j * K, PANEL);
        if (n) transpose(n, K, b + whole * bj, bj, 1, out + whole * K, N);
    }
    else
        for (size k = 0; k < K; k++) {  // along the rows, as they lie in memory
            const float *row = b + k * bk;
            float *last = out + whole * K + k * N;
            for (size j = 0; j < whole; j += PANEL) COLUMNS(c, PANEL) out[j * K + k * PANEL + c] = row[j + c];
            COLUMNS(c, n) last[c] = row[whole + c];
            for (size c = n; c < N; c++) last[c] = 0;
        }
}

// C (I×J) = A (I×K) B (K×J) + plus, where A and B may be transposes: their elements are a[i·ai + k·ak] and b[k·bk + j·bj].
// plus may be C itself; with pi = 0, one row to be added to all; or 0: nothing. K is at least 1.
ONE_COPY multiply(size I, size J, size K, const float *a, size ai, size ak, const float *b, size bk, size bj,
                  const float *plus, size pi, float *c, size ci) {
    int copy_a = I > FEW && (ak == 1 ? J > LONG : ak > FAR), copy_b = bj != 1 || I > FEW || J % WIDTH;
    size steps = (K + DEPTH - 1) / DEPTH, most = (K + steps - 1) / steps;  // of equal depth: a short last one would cost C as much
    float *memory = scratch((copy_a ? DOWN * DISTANCE(most) : 0) + DOWN * PANEL + least(ACROSS, padded(J)) * most);
    float *edge = take(&memory, DOWN * PANEL), *right = take(&memory, least(ACROSS, padded(J)) * most), *left = memory;
    for (size j = 0; j < J; j += ACROSS)
        for (size k = 0; k < K; k += most) {
            size across = least(ACROSS, J - j), depth = least(most, K - k);
            const float *b_block = b + k * bk + j * bj;
            if (copy_b) copy_panels(depth, across, b_block, bk, bj, right);
            for (size i = 0; i < I; i += DOWN) {
                size down = least(DOWN, I - i);
                const float *a_block = a + i * ai + k * ak;
                if (copy_a && ak == 1) copy_rows(down, depth, a_block, ai, left);
                else if (copy_a) copy_columns(down, depth, a_block, ak, left);
                for (size p = 0; p < across; p += PANEL) {
                    size n = least(PANEL, across - p), N = padded(n), more_i = k ? ci : pi;
                    float *to = c + i * ci + j + p;
                    const float *more = k ? to : plus ? plus + i * pi + j + p : 0;
                    const float *panel = copy_b ? right + p * depth : b_block + p;
                    const float *from = copy_a ? left : a_block;
                    size next = copy_a ? DISTANCE(depth) : ai, from_i = copy_a ? 1 : ai, from_k = copy_a ? TALL : ak;
                    size panel_k = copy_b ? N : bk;
                    if (n == N) product(down, n, depth, from, next, from_i, from_k, panel, panel_k, more, more_i, to, ci);
                    else {  // the last vector of C's rows has no room there
                        product(down, N, depth, from, next, from_i, from_k, panel, panel_k, 0, 0, edge, N);
                        for (size r = 0; r < down; r++)
                            COLUMNS(q, n) to[r * ci + q] = edge[r * N + q] + (more ? more[r * more_i + q] : 0);
                    }
                }
            }
        }
}
