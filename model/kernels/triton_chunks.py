"""WKV-7 in Triton: the kernels. Launching, saving and differentiating is `triton_operator`'s part.

Time is cut into spans of 64 tokens, which all work at once, but for one small product from span to span (`scan`).
Within a span, chunks of 16 tokens follow each other, each in the WY form of `chunked`. Here tokens are columns: with
c_t the cumulated log-decay of the chunk and E its last, the columns of (N, 16) are R = r_t exp(c_t), A = a_t
exp(c_{t-1}), B = b_s exp(E - c_s), K alike, v_t in V, y_t in Y; and with A_b[t, s] = <a_t, b_s exp(c_{t-1} - c_s)>,
strictly lower for queries a, lower for queries r, inverse = (I - A_b)^-1:

    forward     U = (S_0 A + V A_k^T) inverse^T         S_C = S_0 diag(exp(E)) + U B^T + V K^T
                Y = S_0 R + U R_b^T + V R_k^T
    backward    Z = (G B + dY R_b) inverse              G_0 = G diag(exp(E)) + Z A^T + dY R^T

where G is the gradient of S_C. Either step is affine in the state, so running a span from I without V (dY) and from
0 with it gives the map of the whole span. The matrices of a chunk, all 16 by 16, are computed once per pass.
Values are rows everywhere and never meet but in gradients, so each warp keeps its rows of a state in registers.
"""

import triton
import triton.language as tl

SPAN = tl.constexpr(64)
CHUNK = tl.constexpr(16)
HALF = tl.constexpr(8)
MATRICES = tl.constexpr(4)  # of a chunk: inverse, A_k, R_b, R_k

# Plain TF32 keeps 11 bits of each factor, fewer than repeated keys need; three products of it keep 22.
PRECISION = tl.constexpr("tf32x3")

# Stronger decays count as this one: what exp(-18) leaves of a state, float32 does not see beside the new one.
STRONGEST = tl.constexpr(-18.0)


@triton.jit
def matrices(r, w, k, a, b, of_chunks, T, H, N: tl.constexpr):
    """Of each chunk, inverse, A_k, R_b and R_k."""
    at, exists = _rows(tl.program_id(1), tl.program_id(0) * CHUNK, T, H, N)
    of_r, of_a, of_k = _pair_decays(_load_decay(w, at, exists), 0)
    B, A = _decayed(_load(b, at, exists), of_k), _decayed(_load(a, at, exists), of_a)
    tl.store(of_chunks + _matrix(_program(), 0), _inverse(_scores(A, B, False)))
    K, R = _decayed(_load(k, at, exists), of_k), _decayed(_load(r, at, exists), of_r)
    tl.store(of_chunks + _matrix(_program(), 1), _scores(A, K, False))
    tl.store(of_chunks + _matrix(_program(), 2), _scores(R, B, True))
    tl.store(of_chunks + _matrix(_program(), 3), _scores(R, K, True))


@triton.jit
def transitions(w, k, v, a, b, of_chunks, maps, offsets, T, H, N: tl.constexpr):
    """Of each span, S_C = S_0 M + O: the map M and the offset O."""
    M, O = _identity(N), tl.zeros([N, N], tl.float32)
    for chunk in range(SPAN // CHUNK):
        at, exists = _columns(chunk, T, H, N)
        index = _program() * (SPAN // CHUNK) + chunk
        _, of_a, of_k, end = _state_decays(_load_decay(w, at, exists))
        A, B = _load(a, at, exists) * of_a, _load(b, at, exists) * of_k
        V, K = _load(v, at, exists), _load(k, at, exists) * of_k
        inverse, A_k = (
            tl.trans(tl.load(of_chunks + _matrix(index, 0))),
            tl.trans(tl.load(of_chunks + _matrix(index, 1))),
        )
        M = end * M + _dot(_dot(_dot(M, A), inverse), tl.trans(B))
        U = _dot(_dot(O, A) + _dot(V, A_k), inverse)
        O = end * O + _dot(U, tl.trans(B)) + _dot(V, tl.trans(K))
    into = _state(_program(), N)
    tl.store(maps + into, M)
    tl.store(offsets + into, O)


@triton.jit
def scan(
    maps, offsets, first, before, last, SPANS, N: tl.constexpr, VALUES: tl.constexpr, BACK: tl.constexpr
):
    """Go from span to span, or BACK: the state before each, and the last. Values go apart, and as columns."""
    head, value = tl.program_id(0), tl.program_id(1) * VALUES + tl.arange(0, VALUES)
    part = value[None, :] * N + tl.arange(0, N)[:, None]
    S = tl.load(first + head.to(tl.int64) * (N * N) + part)
    for i in range(SPANS):
        span = (head * SPANS + (SPANS - 1 - i if BACK else i)).to(tl.int64) * (N * N)
        tl.store(before + span + part, S)
        M = tl.load(maps + span + tl.arange(0, N)[None, :] * N + tl.arange(0, N)[:, None])
        S = _dot(M, S) + tl.load(offsets + span + part)
    tl.store(last + head.to(tl.int64) * (N * N) + part, S)


@triton.jit
def outputs(r, w, k, v, a, b, of_chunks, states, y, T, H, N: tl.constexpr):
    """Of each span, y from the state before it."""
    S = tl.load(states + _state(_program(), N))
    for chunk in range(SPAN // CHUNK):
        at, exists = _columns(chunk, T, H, N)
        index = _program() * (SPAN // CHUNK) + chunk
        of_r, of_a, of_k, end = _state_decays(_load_decay(w, at, exists))
        A, B = _load(a, at, exists) * of_a, _load(b, at, exists) * of_k
        V, K = _load(v, at, exists), _load(k, at, exists) * of_k
        U = _dot(
            _dot(S, A) + _dot(V, tl.trans(tl.load(of_chunks + _matrix(index, 1)))),
            tl.trans(tl.load(of_chunks + _matrix(index, 0))),
        )
        Y = _dot(S, _load(r, at, exists) * of_r)
        Y += _dot(U, tl.trans(tl.load(of_chunks + _matrix(index, 2)))) + _dot(
            V, tl.trans(tl.load(of_chunks + _matrix(index, 3)))
        )
        tl.store(y + at, Y, exists)
        S = end * S + _dot(U, tl.trans(B)) + _dot(V, tl.trans(K))


@triton.jit
def chunk_states(w, k, v, a, b, of_chunks, states, within, T, H, N: tl.constexpr):
    """Of each span, from the state before it, the state before each of its chunks."""
    S = tl.load(states + _state(_program(), N))
    for chunk in range(SPAN // CHUNK):
        at, exists = _columns(chunk, T, H, N)
        index = _program() * (SPAN // CHUNK) + chunk
        tl.store(within + _state(index, N), S)
        _, of_a, of_k, end = _state_decays(_load_decay(w, at, exists))
        A, B = _load(a, at, exists) * of_a, _load(b, at, exists) * of_k
        V, K = _load(v, at, exists), _load(k, at, exists) * of_k
        U = _dot(
            _dot(S, A) + _dot(V, tl.trans(tl.load(of_chunks + _matrix(index, 1)))),
            tl.trans(tl.load(of_chunks + _matrix(index, 0))),
        )
        S = end * S + _dot(U, tl.trans(B)) + _dot(V, tl.trans(K))


@triton.jit
def adjoints(r, w, a, b, dy, of_chunks, maps, offsets, T, H, N: tl.constexpr):
    """Of each span, G_0 = G M + O, with G and G_0 the gradients of the states after and before it."""
    M, O = _identity(N), tl.zeros([N, N], tl.float32)
    for i in range(SPAN // CHUNK):
        chunk = SPAN // CHUNK - 1 - i
        at, exists = _columns(chunk, T, H, N)
        index = _program() * (SPAN // CHUNK) + chunk
        of_r, of_a, of_k, end = _state_decays(_load_decay(w, at, exists))
        A, B = _load(a, at, exists) * of_a, _load(b, at, exists) * of_k
        dY, R = _load(dy, at, exists), _load(r, at, exists) * of_r
        inverse = tl.load(of_chunks + _matrix(index, 0))
        M = end * M + _dot(_dot(_dot(M, B), inverse), tl.trans(A))
        Z = _dot(_dot(O, B) + _dot(dY, tl.load(of_chunks + _matrix(index, 2))), inverse)
        O = end * O + _dot(Z, tl.trans(A)) + _dot(dY, tl.trans(R))
    into = _state(_program(), N)
    tl.store(maps + into, M)
    tl.store(offsets + into, O)


@triton.jit
def gradients(r, w, k, v, a, b, dy, of_chunks, within, after, dr, dw, dk, dv, da, db, T, H, N: tl.constexpr):
    """Of each span, the gradients of its tokens, from the states `within` it and the gradient of the one `after`."""
    G = tl.load(after + _state(_program(), N))
    for i in range(SPAN // CHUNK):
        chunk = SPAN // CHUNK - 1 - i
        at, exists = _columns(chunk, T, H, N)
        index = _program() * (SPAN // CHUNK) + chunk
        w_t = _load_decay(w, at, exists)
        of_r, of_a, of_k, end = _state_decays(w_t)
        r_t, a_t, b_t, k_t = (
            _load(r, at, exists),
            _load(a, at, exists),
            _load(b, at, exists),
            _load(k, at, exists),
        )
        V, dY = _load(v, at, exists), _load(dy, at, exists)
        S = tl.load(within + _state(index, N))

        U = _dot(
            _dot(S, a_t * of_a) + _dot(V, tl.trans(tl.load(of_chunks + _matrix(index, 1)))),
            tl.trans(tl.load(of_chunks + _matrix(index, 0))),
        )
        Z = _dot(
            _dot(G, b_t * of_k) + _dot(dY, tl.load(of_chunks + _matrix(index, 2))),
            tl.load(of_chunks + _matrix(index, 0)),
        )
        dV = _dot(G, k_t * of_k)
        dV += _dot(dY, tl.load(of_chunks + _matrix(index, 3))) + _dot(
            Z, tl.load(of_chunks + _matrix(index, 1))
        )
        tl.store(dv + at, dV, exists)

        dR_b, dR_k = _where_scored(_dot(tl.trans(dY), U), True), _where_scored(_dot(tl.trans(dY), V), True)
        dA_b, dA_k = _where_scored(_dot(tl.trans(Z), U), False), _where_scored(_dot(tl.trans(Z), V), False)
        pairs_r, pairs_a, pairs_k = _pair_decays(w_t, 1)
        R, A, B, K = (
            _decayed(r_t, pairs_r),
            _decayed(a_t, pairs_a),
            _decayed(b_t, pairs_k),
            _decayed(k_t, pairs_k),
        )
        dR = _dot(tl.trans(S), dY) * of_r + _query_gradient(dR_b, B, dR_k, K, pairs_r)
        tl.store(dr + at, dR, exists)
        dA = _dot(tl.trans(S), Z) * of_a + _query_gradient(dA_b, B, dA_k, K, pairs_a)
        tl.store(da + at, dA, exists)
        dB, dK = _dot(tl.trans(G), U) * of_k, _dot(tl.trans(G), V) * of_k
        # w_j is in c_t for t >= j, and in E
        dE = tl.trans(end * tl.sum(S * G, 0, keep_dims=True)) + tl.sum(b_t * dB + k_t * dK, 1, keep_dims=True)
        dB += _key_gradient(dR_b, R, dA_b, A, pairs_k)
        tl.store(db + at, dB, exists)
        dK += _key_gradient(dR_k, R, dA_k, A, pairs_k)
        tl.store(dk + at, dK, exists)
        dc = r_t * dR + a_t * dA - b_t * dB - k_t * dK
        tl.store(dw + at, tl.cumsum(dc, 1, reverse=True) - a_t * dA + dE, exists)

        G = end * G + _dot(Z, tl.trans(a_t * of_a)) + _dot(dY, tl.trans(r_t * of_r))


@triton.jit
def _state_decays(w):
    """exp(c_t) of r, exp(c_{t-1}) of a, exp(E - c_s) of b and k, each (N, 16), and exp(E), (1, N)."""
    c, E = tl.cumsum(w, 1), tl.sum(w, 1, keep_dims=True)
    return tl.exp(c), tl.exp(c - w), tl.exp(E - c), tl.trans(tl.exp(E))


@triton.jit
def _pair_decays(w, AXIS: tl.constexpr):
    """What r, a, and b and k are multiplied with in scores, whose exponent is c_t - c_s; tokens lie along the AXIS.

    Two factors each. A pair on either side of the border between the halves of the chunk is split there (far: no
    exponent is positive), others in the middle of their half (near: at most four decays away, so exp < e^72).
    """
    t = _token(AXIS)
    c = tl.cumsum(w, AXIS)
    border = _until(HALF, w, AXIS)
    middle = tl.where(t < HALF, _until(HALF // 2, w, AXIS), _until(HALF + HALF // 2, w, AXIS))
    of_r = tl.exp(c - middle), tl.where(t < HALF, 0.0, tl.exp(tl.minimum(c - border, 0.0)))
    of_a = tl.exp(c - w - middle), tl.where(t < HALF, 0.0, tl.exp(tl.minimum(c - w - border, 0.0)))
    of_k = tl.exp(middle - c), tl.where(t < HALF, tl.exp(tl.minimum(border - c, 0.0)), 0.0)
    return of_r, of_a, of_k


@triton.jit
def _until(tokens: tl.constexpr, w, AXIS: tl.constexpr):
    """The log-decays of the first tokens, summed."""
    return tl.sum(tl.where(_token(AXIS) < tokens, w, 0.0), AXIS, keep_dims=True)


@triton.jit
def _decayed(x, decays):
    return x * decays[0], x * decays[1]


@triton.jit
def _scores(Q, K, OWN: tl.constexpr):
    """<q_t, k_s exp(c_t - c_s)> for s < t, and s = t if it is among the query's OWN; tokens as rows."""
    near, far = _dot(Q[0], tl.trans(K[0])), _dot(Q[1], tl.trans(K[1]))
    return tl.where(_is_near(), _where_scored(near, OWN), far)


@triton.jit
def _query_gradient(D_b, B, D_k, K, of_q):
    """The gradient of queries from those of their scores with B and K."""
    near = _dot(B[0], tl.trans(_where_near(D_b))) + _dot(K[0], tl.trans(_where_near(D_k)))
    return near * of_q[0] + (_dot(B[1], tl.trans(D_b)) + _dot(K[1], tl.trans(D_k))) * of_q[1]


@triton.jit
def _key_gradient(D_r, R, D_a, A, of_k):
    """The gradient of keys from those of their scores with R and A."""
    near = _dot(R[0], _where_near(D_r)) + _dot(A[0], _where_near(D_a))
    return near * of_k[0] + (_dot(R[1], D_r) + _dot(A[1], D_a)) * of_k[1]


@triton.jit
def _where_scored(x, OWN: tl.constexpr):
    return tl.where((_token(0) >= _token(1)) if OWN else (_token(0) > _token(1)), x, 0.0)


@triton.jit
def _where_near(x):
    return tl.where(_is_near(), x, 0.0)


@triton.jit
def _is_near():
    return _token(0) // HALF == _token(1) // HALF


@triton.jit
def _inverse(A):
    """(I - A)^-1 of a strictly lower A, by exact merges of blocks of 1, 2, 4 and 8: no powers, which would overflow."""
    t, s = _token(0), _token(1)
    of_pairs = tl.where(t == s, 1.0, tl.where(t // 2 == s // 2, A, 0.0))
    return _merge(_merge(_merge(of_pairs, A, 2), A, 4), A, 8)


@triton.jit
def _merge(inverse, A, SIZE: tl.constexpr):
    """Inverses of blocks of twice the SIZE: that of [[X, 0], [-L, Y]] is [[X^-1, 0], [Y^-1 L X^-1, Y^-1]]."""
    t, s = _token(0), _token(1)
    L = tl.where((t // (2 * SIZE) == s // (2 * SIZE)) & (t // SIZE > s // SIZE), A, 0.0)
    return inverse + _dot(_dot(inverse, L), inverse)


@triton.jit
def _identity(N: tl.constexpr):
    return tl.where(tl.arange(0, N)[:, None] == tl.arange(0, N)[None, :], 1.0, 0.0)


@triton.jit
def _token(AXIS: tl.constexpr):
    """The number of a token in its chunk, along an axis of two."""
    return tl.expand_dims(tl.arange(0, CHUNK), 1 - AXIS)


@triton.jit
def _dot(x, y):
    return tl.dot(x, y, input_precision=PRECISION)


@triton.jit
def _rows(head, start, T, H, N: tl.constexpr):
    """Where the chunk that starts at a token lies in a contiguous (B, T, H, N), and which tokens exist."""
    t = start + _token(0)
    row = ((head // H).to(tl.int64) * T + t) * H + head % H
    return row * N + tl.arange(0, N)[None, :], t < T


@triton.jit
def _columns(chunk, T, H, N: tl.constexpr):
    """The same for a chunk of this program's span, with tokens as columns."""
    at, exists = _rows(tl.program_id(1), tl.program_id(0) * SPAN + chunk * CHUNK, T, H, N)
    return tl.trans(at), tl.trans(exists)


@triton.jit
def _program():
    """The number of this program, spans or chunks of a head being neighbours."""
    return tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)


@triton.jit
def _state(index, N: tl.constexpr):
    """Where a state lies in a contiguous (..., value, key)."""
    return index * (N * N) + tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]


@triton.jit
def _matrix(index, WHICH: tl.constexpr):
    """Where one of the MATRICES of a chunk lies."""
    return (index * MATRICES + WHICH) * (CHUNK * CHUNK) + _token(0) * CHUNK + _token(1)


@triton.jit
def _load(x, at, exists):
    return tl.load(x + at, exists, other=0.0).to(tl.float32)


@triton.jit
def _load_decay(w, at, exists):
    return tl.maximum(_load(w, at, exists), STRONGEST)
