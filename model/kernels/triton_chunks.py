"""WKV-7 in Triton: the kernels. Launching, saving and differentiating is `triton_operator`'s part.

Time is cut into spans of 64 tokens, all of which work at once, but for one small product from span to span. Within
a span, chunks of 16 follow each other, each in the WY form of `chunked`. With c_t the cumulated log-decay, E its
last, rows R = r_t exp(c_t), A = a_t exp(c_{t-1}), B = b_s exp(E - c_s), K alike, and matrices like
A_b[t, s] = <a_t, b_s exp(c_{t-1} - c_s)>, strictly lower for queries a, lower for queries r:

    forward     U = (I - A_b)^-1 (A S_0^T + A_k V)           S_C = S_0 diag(exp(E)) + U^T B + V^T K
                Y = R S_0^T + R_b U + R_k V
    backward    Z = (I - A_b)^-T (B G^T + R_b^T dY)          G_0 = G diag(exp(E)) + Z^T A + dY^T R

where G is the gradient of S_C. Either step is affine in the state, so running a span from I without V (dY) and from
0 with it gives the map of the whole span, for `scan` to apply. States are held transposed, [key, value].
"""

import triton
import triton.language as tl

SPAN = tl.constexpr(64)
CHUNK = tl.constexpr(16)
HALF = tl.constexpr(8)

# Plain TF32 keeps 11 bits of each factor, fewer than repeated keys need; three products of it keep 22.
PRECISION = tl.constexpr("tf32x3")

# Stronger decays count as this one: what exp(-18) leaves of a state, float32 does not see beside the new one.
# Exponents reach four times this: see `_middle`.
STRONGEST = tl.constexpr(-18.0)


@triton.jit
def transitions(w, k, v, a, b, maps, offsets, T, H, N: tl.constexpr):
    """Of each span, S_C = S_0 M + O: the map M and the offset O."""
    span, head = tl.program_id(0), tl.program_id(1)
    M, O = _identity(N), tl.zeros([N, N], tl.float32)
    for chunk in range(SPAN // CHUNK):
        at, exists = _tokens(head, span * SPAN + chunk * CHUNK, T, H, N)
        _, of_a, of_k, end = _decays(_load(w, at, exists))
        K, V = _decayed(_load(k, at, exists), of_k), _load(v, at, exists)
        A, B = _decayed(_load(a, at, exists), of_a), _decayed(_load(b, at, exists), of_k)
        inverse = _inverse(_scores(A, B, False))
        M = end * M + _dot(tl.trans(B[0]), _dot(inverse, _dot(A[0], M)))
        U = _dot(inverse, _dot(A[0], O) + _dot(_scores(A, K, False), V))
        O = end * O + _dot(tl.trans(B[0]), U) + _dot(tl.trans(K[0]), V)
    to = _states(head * tl.num_programs(0) + span, 0, N, N)
    tl.store(maps + to, M)
    tl.store(offsets + to, O)


@triton.jit
def scan(maps, offsets, first, before, last, SPANS, N: tl.constexpr, COLUMNS: tl.constexpr, BACK: tl.constexpr):
    """Go from span to span, or BACK: the state before each, and the last. Each value (column) goes by itself."""
    head, column = tl.program_id(0), tl.program_id(1) * COLUMNS
    S = tl.load(first + _states(head, column, COLUMNS, N))
    for i in range(SPANS):
        span = head * SPANS + (SPANS - 1 - i if BACK else i)
        tl.store(before + _states(span, column, COLUMNS, N), S)
        M = tl.load(maps + _states(span, 0, N, N))
        S = _dot(M, S) + tl.load(offsets + _states(span, column, COLUMNS, N))
    tl.store(last + _states(head, column, COLUMNS, N), S)


@triton.jit
def outputs(r, w, k, v, a, b, states, y, T, H, N: tl.constexpr):
    """Of each span, y from the state before it."""
    span, head = tl.program_id(0), tl.program_id(1)
    S = tl.load(states + _states(head * tl.num_programs(0) + span, 0, N, N))
    for chunk in range(SPAN // CHUNK):
        at, exists = _tokens(head, span * SPAN + chunk * CHUNK, T, H, N)
        of_r, of_a, of_k, end = _decays(_load(w, at, exists))
        R, K, V = _decayed(_load(r, at, exists), of_r), _decayed(_load(k, at, exists), of_k), _load(v, at, exists)
        A, B = _decayed(_load(a, at, exists), of_a), _decayed(_load(b, at, exists), of_k)
        U = _dot(_inverse(_scores(A, B, False)), _dot(A[0], S) + _dot(_scores(A, K, False), V))
        Y = _dot(R[0], S) + _dot(_scores(R, B, True), U) + _dot(_scores(R, K, True), V)
        tl.store(y + at, Y, exists)
        S = end * S + _dot(tl.trans(B[0]), U) + _dot(tl.trans(K[0]), V)


@triton.jit
def chunk_states(w, k, v, a, b, states, within, T, H, N: tl.constexpr):
    """Of each span, from the state before it, the state before each of its chunks."""
    span, head = tl.program_id(0), tl.program_id(1)
    index = head * tl.num_programs(0) + span
    S = tl.load(states + _states(index, 0, N, N))
    for chunk in range(SPAN // CHUNK):
        tl.store(within + _states(index * (SPAN // CHUNK) + chunk, 0, N, N), S)
        at, exists = _tokens(head, span * SPAN + chunk * CHUNK, T, H, N)
        _, of_a, of_k, end = _decays(_load(w, at, exists))
        K, V = _decayed(_load(k, at, exists), of_k), _load(v, at, exists)
        A, B = _decayed(_load(a, at, exists), of_a), _decayed(_load(b, at, exists), of_k)
        U = _dot(_inverse(_scores(A, B, False)), _dot(A[0], S) + _dot(_scores(A, K, False), V))
        S = end * S + _dot(tl.trans(B[0]), U) + _dot(tl.trans(K[0]), V)


@triton.jit
def adjoints(r, w, a, b, dy, maps, offsets, T, H, N: tl.constexpr):
    """Of each span, G_0 = G M + O, with G and G_0 the gradients of the states after and before it."""
    span, head = tl.program_id(0), tl.program_id(1)
    M, O = _identity(N), tl.zeros([N, N], tl.float32)
    for i in range(SPAN // CHUNK):
        at, exists = _tokens(head, span * SPAN + (SPAN // CHUNK - 1 - i) * CHUNK, T, H, N)
        of_r, of_a, of_k, end = _decays(_load(w, at, exists))
        R, dY = _decayed(_load(r, at, exists), of_r), _load(dy, at, exists)
        A, B = _decayed(_load(a, at, exists), of_a), _decayed(_load(b, at, exists), of_k)
        transposed = tl.trans(_inverse(_scores(A, B, False)))
        M = end * M + _dot(tl.trans(A[0]), _dot(transposed, _dot(B[0], M)))
        Z = _dot(transposed, _dot(B[0], O) + _dot(tl.trans(_scores(R, B, True)), dY))
        O = end * O + _dot(tl.trans(A[0]), Z) + _dot(tl.trans(R[0]), dY)
    to = _states(head * tl.num_programs(0) + span, 0, N, N)
    tl.store(maps + to, M)
    tl.store(offsets + to, O)


@triton.jit
def gradients(r, w, k, v, a, b, dy, within, after, dr, dw, dk, dv, da, db, T, H, N: tl.constexpr):
    """Of each span, the gradients of its tokens, from the states `within` it and the gradient of the one `after`."""
    span, head = tl.program_id(0), tl.program_id(1)
    index = head * tl.num_programs(0) + span
    G = tl.load(after + _states(index, 0, N, N))
    for i in range(SPAN // CHUNK):
        chunk = SPAN // CHUNK - 1 - i
        at, exists = _tokens(head, span * SPAN + chunk * CHUNK, T, H, N)
        r_t, k_t, V = _load(r, at, exists), _load(k, at, exists), _load(v, at, exists)
        a_t, b_t, dY = _load(a, at, exists), _load(b, at, exists), _load(dy, at, exists)
        of_r, of_a, of_k, end = _decays(_load(w, at, exists))
        R, K, A, B = _decayed(r_t, of_r), _decayed(k_t, of_k), _decayed(a_t, of_a), _decayed(b_t, of_k)
        S = tl.load(within + _states(index * (SPAN // CHUNK) + chunk, 0, N, N))

        A_k, inverse = _scores(A, K, False), _inverse(_scores(A, B, False))
        U = _dot(inverse, _dot(A[0], S) + _dot(A_k, V))
        Z = _dot(tl.trans(inverse), _dot(B[0], G) + _dot(tl.trans(_scores(R, B, True)), dY))
        dV = _dot(K[0], G) + _dot(tl.trans(_scores(R, K, True)), dY) + _dot(tl.trans(A_k), Z)
        tl.store(dv + at, dV, exists)

        dR_b, dR_k = _where_scored(_dot(dY, tl.trans(U)), True), _where_scored(_dot(dY, tl.trans(V)), True)
        dA_b, dA_k = _where_scored(_dot(Z, tl.trans(U)), False), _where_scored(_dot(Z, tl.trans(V)), False)
        dR = _dot(dY, tl.trans(S)) * of_r[0] + _query_gradient(dR_b, B, of_r) + _query_gradient(dR_k, K, of_r)
        tl.store(dr + at, dR, exists)
        dA = _dot(Z, tl.trans(S)) * of_a[0] + _query_gradient(dA_b, B, of_a) + _query_gradient(dA_k, K, of_a)
        tl.store(da + at, dA, exists)
        # w_j is in c_t for t >= j, and in E
        dB, dK = _dot(U, tl.trans(G)) * of_k[0], _dot(V, tl.trans(G)) * of_k[0]
        dE = tl.trans(end) * tl.sum(S * G, 1)[None, :] + tl.sum(b_t * dB + k_t * dK, 0, keep_dims=True)
        dB += _key_gradient(dR_b, R, of_k) + _key_gradient(dA_b, A, of_k)
        tl.store(db + at, dB, exists)
        dK += _key_gradient(dR_k, R, of_k) + _key_gradient(dA_k, A, of_k)
        tl.store(dk + at, dK, exists)
        dc = r_t * dR + a_t * dA - b_t * dB - k_t * dK
        tl.store(dw + at, tl.cumsum(dc, 0, reverse=True) - a_t * dA + dE, exists)

        G = end * G + _dot(tl.trans(A[0]), Z) + _dot(tl.trans(R[0]), dY)


@triton.jit
def _decays(w):
    """What the rows of r, of a, and of b and k are multiplied with; and exp(E), (N, 1).

    Three factors each: the first for products with the state. In scores, a query t and a key s need the exponent
    c_t - c_s; it is split at the border between the halves of the chunk where they stand on either side of it (far:
    no exponent is positive), else in the middle of their half (near: at most four decays, no more than e^72).
    """
    t = tl.arange(0, CHUNK)[:, None]
    w = tl.maximum(w, STRONGEST)
    c, E = tl.cumsum(w, 0), tl.sum(w, 0, keep_dims=True)
    border = _until(HALF, w)
    middle = tl.where(t < HALF, _until(HALF // 2, w), _until(HALF + HALF // 2, w))
    of_r = _query_decays(c, middle, border)
    of_a = _query_decays(c - w, middle, border)
    far = tl.where(t < HALF, tl.exp(tl.minimum(border - c, 0.0)), 0.0)
    return of_r, of_a, (tl.exp(E - c), tl.exp(middle - c), far), tl.trans(tl.exp(E))


@triton.jit
def _query_decays(c, middle, border):
    far = tl.where(tl.arange(0, CHUNK)[:, None] >= HALF, tl.exp(tl.minimum(c - border, 0.0)), 0.0)
    return tl.exp(c), tl.exp(c - middle), far


@triton.jit
def _until(tokens: tl.constexpr, w):
    """The log-decays of the first tokens, summed: (1, N)."""
    return tl.sum(tl.where(tl.arange(0, CHUNK)[:, None] < tokens, w, 0.0), 0, keep_dims=True)


@triton.jit
def _decayed(x, decays):
    return x * decays[0], x * decays[1], x * decays[2]


@triton.jit
def _scores(Q, K, OWN: tl.constexpr):
    """<q_t, k_s exp(c_t - c_s)> for s < t, and s = t if it is among the query's OWN."""
    near, far = _dot(Q[1], tl.trans(K[1])), _dot(Q[2], tl.trans(K[2]))
    return tl.where(_is_near(), _where_scored(near, OWN), far)


@triton.jit
def _query_gradient(D, K, of_q):
    """The gradient of queries from D, that of their scores."""
    return _dot(tl.where(_is_near(), D, 0.0), K[1]) * of_q[1] + _dot(D, K[2]) * of_q[2]


@triton.jit
def _key_gradient(D, Q, of_k):
    """The gradient of keys from D, that of their scores."""
    return _dot(tl.trans(tl.where(_is_near(), D, 0.0)), Q[1]) * of_k[1] + _dot(tl.trans(D), Q[2]) * of_k[2]


@triton.jit
def _where_scored(x, OWN: tl.constexpr):
    t, s = _rows_and_columns()
    return tl.where((t >= s) if OWN else (t > s), x, 0.0)


@triton.jit
def _is_near():
    t, s = _rows_and_columns()
    return t // HALF == s // HALF


@triton.jit
def _inverse(A):
    """(I - A)^-1 of a strictly lower A, by exact merges of blocks of 1, 2, 4 and 8: no powers, which would overflow."""
    t, s = _rows_and_columns()
    of_pairs = tl.where(t == s, 1.0, tl.where(t // 2 == s // 2, A, 0.0))
    return _merge(_merge(_merge(of_pairs, A, 2), A, 4), A, 8)


@triton.jit
def _merge(inverse, A, SIZE: tl.constexpr):
    """Inverses of blocks of twice the SIZE: that of [[X, 0], [-L, Y]] is [[X^-1, 0], [Y^-1 L X^-1, Y^-1]]."""
    t, s = _rows_and_columns()
    L = tl.where((t // (2 * SIZE) == s // (2 * SIZE)) & (t // SIZE > s // SIZE), A, 0.0)
    return inverse + _dot(_dot(inverse, L), inverse)


@triton.jit
def _identity(N: tl.constexpr):
    return tl.where(tl.arange(0, N)[:, None] == tl.arange(0, N)[None, :], 1.0, 0.0)


@triton.jit
def _rows_and_columns():
    return tl.arange(0, CHUNK)[:, None], tl.arange(0, CHUNK)[None, :]


@triton.jit
def _dot(x, y):
    return tl.dot(x, y, input_precision=PRECISION)


@triton.jit
def _tokens(head, start, T, H, N: tl.constexpr):
    """Where the chunk that starts at a token lies in a contiguous (B, T, H, N), and which tokens exist."""
    t = start + tl.arange(0, CHUNK)
    row = ((head // H).to(tl.int64) * T + t) * H + head % H
    return row[:, None] * N + tl.arange(0, N)[None, :], (t < T)[:, None]


@triton.jit
def _states(index, column, COLUMNS: tl.constexpr, N: tl.constexpr):
    """Where the values from `column` on of a state lie in a contiguous (..., value, key), as [key, value]."""
    value = column + tl.arange(0, COLUMNS)
    return index.to(tl.int64) * (N * N) + value[None, :] * N + tl.arange(0, N)[:, None]


@triton.jit
def _load(x, at, exists):
    return tl.load(x + at, exists, other=0.0).to(tl.float32)
