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
0 with it gives the map of the whole span: its slope M and its offset.

A launch is for a stretch of spans, from the token START on; the forward pass takes all in one. Matrices, maps, the
states of chunks, U, Z and dc are of that stretch alone.

Values are rows, and never meet but in gradients, so each warp keeps its rows of a state in registers. The kernels
are as small as they are because a thread has 255 registers: what is 16 by 16, or needs no state, has its own.
"""

import triton
import triton.language as tl

SPAN = tl.constexpr(64)
CHUNK = tl.constexpr(16)
CHUNKS = tl.constexpr(4)  # of a span
HALF = tl.constexpr(8)
MATRICES = tl.constexpr(4)  # of a chunk: inverse, A_k, R_b and R_k; or the gradients of A_b, A_k, R_b and R_k

# Plain TF32 keeps 11 bits of each factor, fewer than repeated keys need; three products of it keep 22.
PRECISION = tl.constexpr("tf32x3")

# Stronger decays count as this one: what exp(-18) leaves of a state, float32 does not see beside the new one.
STRONGEST = tl.constexpr(-18.0)

# Log-decay of a chunk up to which one factor for each of two tokens is enough: float32 holds exp(64) and exp(-64).
MILD = tl.constexpr(-64.0)

# Lengths vary from batch to batch: no kernel is compiled anew because one is 1, or divides by 16.
_kernel = triton.jit(do_not_specialize=["T", "H", "START", "SPANS"])


@_kernel
def matrices(r, w, k, a, b, of_chunks, T, H, START, N: tl.constexpr):
    """Of each chunk, inverse, A_k, R_b and R_k, summed over blocks of channels."""
    start = START + tl.program_id(0) * CHUNK
    nothing = tl.zeros([CHUNK, CHUNK], tl.float32)
    A_b, A_k, R_b, R_k = nothing, nothing, nothing, nothing
    for channel in range(0, N, CHUNK):
        at, exists = _rows(start, channel, T, H, N, CHUNK)
        w_t = _load_decay(w, at, exists)
        r_t, k_t = _load(r, at, exists), _load(k, at, exists)
        a_t, b_t = _load(a, at, exists), _load(b, at, exists)
        if _is_mild(w_t, 0):
            of_r, of_a, of_k = _middle_decays(w_t, 0)
            R, A, B, K = r_t * of_r, a_t * of_a, tl.trans(b_t * of_k), tl.trans(k_t * of_k)
            A_b, A_k = A_b + _dot(A, B), A_k + _dot(A, K)
            R_b, R_k = R_b + _dot(R, B), R_k + _dot(R, K)
        else:
            pairs_r, pairs_a, pairs_k = _pair_decays(w_t, 0)
            pair_r, pair_a = _both(r_t, pairs_r), _both(a_t, pairs_a)
            pair_b, pair_k = _both(b_t, pairs_k), _both(k_t, pairs_k)
            A_b, A_k = A_b + _scores(pair_a, pair_b), A_k + _scores(pair_a, pair_k)
            R_b, R_k = R_b + _scores(pair_r, pair_b), R_k + _scores(pair_r, pair_k)
    tl.store(of_chunks + _matrix(_program(), 0), _inverse(_strictly_lower(A_b)))
    tl.store(of_chunks + _matrix(_program(), 1), _strictly_lower(A_k))
    tl.store(of_chunks + _matrix(_program(), 2), _lower(R_b))
    tl.store(of_chunks + _matrix(_program(), 3), _lower(R_k))


@_kernel
def transitions(w, k, v, a, b, of_chunks, maps, T, H, START, N: tl.constexpr):
    """Of each span, S_C = S_0 M + offset: in `maps`, M of all spans, then all offsets (the third axis)."""
    is_offset = tl.program_id(2) == 1
    S = tl.where(is_offset, 0.0, _identity(N))
    for chunk in range(CHUNKS):
        at, exists = _columns(START + tl.program_id(0) * SPAN + chunk * CHUNK, T, H, N)
        _, of_a, of_k, end = _state_decays(_load_decay(w, at, exists))
        A, B, K = _load(a, at, exists) * of_a, _load(b, at, exists) * of_k, _load(k, at, exists) * of_k
        V = _load(v, at, exists & is_offset)
        _, S = _forward(S, V, A, B, K, end, of_chunks, _program() * CHUNKS + chunk)
    spans = tl.num_programs(0).to(tl.int64) * tl.num_programs(1)
    tl.store(maps + _state(tl.program_id(2) * spans + _program(), N), S)


@_kernel
def scan(maps, first, before, last, SPANS, N: tl.constexpr, VALUES: tl.constexpr, BACK: tl.constexpr):
    """Go from span to span, or BACK: the state before each, and the last. Values go apart, and as columns."""
    head = tl.program_id(0).to(tl.int64)
    key, value = tl.arange(0, N)[:, None], tl.program_id(1) * VALUES + tl.arange(0, VALUES)[None, :]
    offsets = maps + tl.num_programs(0).to(tl.int64) * SPANS * N * N
    S = tl.load(first + head * N * N + value * N + key)
    for i in range(SPANS):
        span = (head * SPANS + (SPANS - 1 - i if BACK else i)) * N * N
        tl.store(before + span + value * N + key, S)
        M = tl.load(maps + span + tl.arange(0, N)[None, :] * N + key)
        S = _dot(M, S) + tl.load(offsets + span + value * N + key)
    tl.store(last + head * N * N + value * N + key, S)


@_kernel
def outputs(r, w, k, v, a, b, of_chunks, before, y, T, H, START, N: tl.constexpr):
    """Of each span, y from the state before it."""
    S = tl.load(before + _state(_program(), N))
    for chunk in range(CHUNKS):
        index = _program() * CHUNKS + chunk
        at, exists = _columns(START + tl.program_id(0) * SPAN + chunk * CHUNK, T, H, N)
        of_r, of_a, of_k, end = _state_decays(_load_decay(w, at, exists))
        A, B, K = _load(a, at, exists) * of_a, _load(b, at, exists) * of_k, _load(k, at, exists) * of_k
        V = _load(v, at, exists)
        Y = _dot(S, _load(r, at, exists) * of_r)
        U, S = _forward(S, V, A, B, K, end, of_chunks, index)
        Y += _dot(U, tl.trans(tl.load(of_chunks + _matrix(index, 2))))
        Y += _dot(V, tl.trans(tl.load(of_chunks + _matrix(index, 3))))
        tl.store(y + at, Y, exists)


@_kernel
def chunk_states(w, k, v, a, b, of_chunks, before, states, u, T, H, START, N: tl.constexpr):
    """Of each span, from the state before it, the state before each of its chunks, and U; `before` has all spans."""
    span = tl.program_id(1).to(tl.int64) * tl.cdiv(T, SPAN) + START // SPAN + tl.program_id(0)
    S = tl.load(before + _state(span, N))
    for chunk in range(CHUNKS):
        index = _program() * CHUNKS + chunk
        at, exists = _columns(START + tl.program_id(0) * SPAN + chunk * CHUNK, T, H, N)
        _, of_a, of_k, end = _state_decays(_load_decay(w, at, exists))
        A, B, K = _load(a, at, exists) * of_a, _load(b, at, exists) * of_k, _load(k, at, exists) * of_k
        tl.store(states + _state(index, N), S)
        U, S = _forward(S, _load(v, at, exists), A, B, K, end, of_chunks, index)
        tl.store(u + _tokens(index, N), U)


@_kernel
def adjoints(r, w, a, b, dy, of_chunks, maps, T, H, START, N: tl.constexpr):
    """Of each span, G_0 = G M + offset, as `transitions` has them."""
    is_offset = tl.program_id(2) == 1
    G = tl.where(is_offset, 0.0, _identity(N))
    for i in range(CHUNKS):
        chunk = CHUNKS - 1 - i
        at, exists = _columns(START + tl.program_id(0) * SPAN + chunk * CHUNK, T, H, N)
        of_r, of_a, of_k, end = _state_decays(_load_decay(w, at, exists))
        R, A, B = _load(r, at, exists) * of_r, _load(a, at, exists) * of_a, _load(b, at, exists) * of_k
        dY = _load(dy, at, exists & is_offset)
        Z = _z(G, dY, B, of_chunks, _program() * CHUNKS + chunk)
        G = end * G + _dot(Z, tl.trans(A)) + _dot(dY, tl.trans(R))
    spans = tl.num_programs(0).to(tl.int64) * tl.num_programs(1)
    tl.store(maps + _state(tl.program_id(2) * spans + _program(), N), G)


@_kernel
def chunk_gradients(r, w, k, a, b, dy, of_chunks, after, gradients, z, dv, T, H, START, N: tl.constexpr):
    """Of each span, from the gradient of the state after it, that of the state after each chunk, Z and dv."""
    G = tl.load(after + _state(_program(), N))
    for i in range(CHUNKS):
        index = _program() * CHUNKS + CHUNKS - 1 - i
        at, exists = _columns(START + tl.program_id(0) * SPAN + (CHUNKS - 1 - i) * CHUNK, T, H, N)
        tl.store(gradients + _state(index, N), G)
        _, _, of_k, _ = _state_decays(_load_decay(w, at, exists))
        dY = _load(dy, at, exists)
        Z = _z(G, dY, _load(b, at, exists) * of_k, of_chunks, index)
        tl.store(z + _tokens(index, N), Z)
        dV = _dot(Z, tl.load(of_chunks + _matrix(index, 1)))
        dV += _dot(dY, tl.load(of_chunks + _matrix(index, 3)))
        tl.store(dv + at, dV + _dot(G, _load(k, at, exists) * of_k), exists)
        of_r, of_a, _, end = _state_decays(_load_decay(w, at, exists))  # again, rather than kept in registers
        R, A = _load(r, at, exists) * of_r, _load(a, at, exists) * of_a
        G = end * G + _dot(Z, tl.trans(A)) + _dot(dY, tl.trans(R))


@_kernel
def matrix_gradients(v, dy, u, z, of_chunks, T, H, START, N: tl.constexpr):
    """Of each chunk, the gradients of A_b, A_k, R_b and R_k, summed over blocks of values."""
    start = START + tl.program_id(0) * CHUNK
    nothing = tl.zeros([CHUNK, CHUNK], tl.float32)
    dA_b, dA_k, dR_b, dR_k = nothing, nothing, nothing, nothing
    for value in range(0, N, CHUNK):
        at, exists = _rows(start, value, T, H, N, CHUNK)
        here = _block(_program(), value, N, CHUNK)
        U, V = tl.trans(tl.load(u + here)), tl.trans(_load(v, at, exists))
        Z, dY = tl.load(z + here), _load(dy, at, exists)
        dA_b, dA_k = dA_b + _dot(Z, U), dA_k + _dot(Z, V)
        dR_b, dR_k = dR_b + _dot(dY, U), dR_k + _dot(dY, V)
    tl.store(of_chunks + _matrix(_program(), 0), _strictly_lower(dA_b))
    tl.store(of_chunks + _matrix(_program(), 1), _strictly_lower(dA_k))
    tl.store(of_chunks + _matrix(_program(), 2), _lower(dR_b))
    tl.store(of_chunks + _matrix(_program(), 3), _lower(dR_k))


@_kernel
def query_gradients(r, w, k, a, b, dy, z, d_of_chunks, states, dr, da, dc, T, H, START, N: tl.constexpr):
    """Of each chunk, dr and da, and their part of dw."""
    at, exists = _columns(START + tl.program_id(0) * CHUNK, T, H, N)
    w_t = _load_decay(w, at, exists)
    of_r, of_a, _, _ = _state_decays(w_t)
    S = tl.trans(tl.load(states + _state(_program(), N)))
    dR, dA = _dot(S, _load(dy, at, exists)) * of_r, _dot(S, tl.load(z + _tokens(_program(), N))) * of_a
    b_t, k_t = _load(b, at, exists), _load(k, at, exists)
    if _is_mild(w_t, 1):
        of_r, of_a, of_k = _middle_decays(w_t, 1)
        B, K = b_t * of_k, k_t * of_k
        dA += (_dot(B, _transposed(d_of_chunks, 0)) + _dot(K, _transposed(d_of_chunks, 1))) * of_a
        dR += (_dot(B, _transposed(d_of_chunks, 2)) + _dot(K, _transposed(d_of_chunks, 3))) * of_r
    else:
        pairs_r, pairs_a, pairs_k = _pair_decays(w_t, 1)
        pair_b, pair_k = _both(b_t, pairs_k), _both(k_t, pairs_k)
        dA += _query_gradient(d_of_chunks, 0, pair_b, pair_k, pairs_a)
        dR += _query_gradient(d_of_chunks, 2, pair_b, pair_k, pairs_r)
    tl.store(da + at, dA, exists)
    tl.store(dr + at, dR, exists)
    dA *= _load(a, at, exists)
    dC = tl.cumsum(_load(r, at, exists) * dR + dA, 1, reverse=True) - dA
    tl.store(dc + _tokens(_program(), N), dC)


@_kernel
def key_gradients(
    r, w, k, v, a, b, u, d_of_chunks, states, gradients, dc, dw, dk, db, T, H, START, N: tl.constexpr
):
    """Of each chunk, dk, db, and dw: w_j is in c_t for t >= j, and in E."""
    at, exists = _columns(START + tl.program_id(0) * CHUNK, T, H, N)
    w_t = _load_decay(w, at, exists)
    _, _, of_k, end = _state_decays(w_t)
    G = tl.load(gradients + _state(_program(), N))
    S_G = tl.sum(tl.load(states + _state(_program(), N)) * G, 0, keep_dims=True)
    U, V = tl.load(u + _tokens(_program(), N)), _load(v, at, exists)
    dB, dK = _dot(tl.trans(G), U) * of_k, _dot(tl.trans(G), V) * of_k
    b_t, k_t = _load(b, at, exists), _load(k, at, exists)
    dE = tl.trans(end * S_G) + tl.sum(b_t * dB + k_t * dK, 1, keep_dims=True)
    r_t, a_t = _load(r, at, exists), _load(a, at, exists)
    if _is_mild(w_t, 1):
        of_r, of_a, of_k = _middle_decays(w_t, 1)
        R, A = r_t * of_r, a_t * of_a
        dB += (_dot(A, _of_chunk(d_of_chunks, 0)) + _dot(R, _of_chunk(d_of_chunks, 2))) * of_k
        dK += (_dot(A, _of_chunk(d_of_chunks, 1)) + _dot(R, _of_chunk(d_of_chunks, 3))) * of_k
    else:
        pairs_r, pairs_a, pairs_k = _pair_decays(w_t, 1)
        pair_r, pair_a = _both(r_t, pairs_r), _both(a_t, pairs_a)
        dB += _key_gradient(d_of_chunks, 0, pair_r, pair_a, pairs_k)
        dK += _key_gradient(d_of_chunks, 1, pair_r, pair_a, pairs_k)
    tl.store(db + at, dB, exists)
    tl.store(dk + at, dK, exists)
    dW = dE + tl.load(dc + _tokens(_program(), N)) - tl.cumsum(b_t * dB + k_t * dK, 1, reverse=True)
    tl.store(dw + at, dW, exists)


@triton.jit
def _forward(S, V, A, B, K, end, of_chunks, index):
    """U, and the state after the chunk."""
    inverse, A_k = tl.load(of_chunks + _matrix(index, 0)), tl.load(of_chunks + _matrix(index, 1))
    U = _dot(_dot(S, A) + _dot(V, tl.trans(A_k)), tl.trans(inverse))
    return U, end * S + _dot(U, tl.trans(B)) + _dot(V, tl.trans(K))


@triton.jit
def _z(G, dY, B, of_chunks, index):
    inverse, R_b = tl.load(of_chunks + _matrix(index, 0)), tl.load(of_chunks + _matrix(index, 2))
    return _dot(_dot(G, B) + _dot(dY, R_b), inverse)


@triton.jit
def _state_decays(w):
    """exp(c_t) of r, exp(c_{t-1}) of a, exp(E - c_s) of b and k, each (N, 16), and exp(E), (1, N)."""
    c, E = tl.cumsum(w, 1), tl.sum(w, 1, keep_dims=True)
    return tl.exp(c), tl.exp(c - w), tl.exp(E - c), tl.trans(tl.exp(E))


@triton.jit
def _is_mild(w, AXIS: tl.constexpr):
    """Whether no channel decays by more than exp(-64) within the chunk: RWKV-7's are at most exp(-9.8)."""
    return tl.min(tl.sum(w, AXIS)) > MILD


@triton.jit
def _middle_decays(w, AXIS: tl.constexpr):
    """What r, a, and b and k are multiplied with in scores, whose exponent is c_t - c_s; tokens lie along the AXIS.

    Split in the middle of the chunk, where decays are mild.
    """
    c, middle = tl.cumsum(w, AXIS), _until(HALF, w, AXIS)
    return tl.exp(c - middle), tl.exp(c - w - middle), tl.exp(middle - c)


@triton.jit
def _pair_decays(w, AXIS: tl.constexpr):
    """The same for any decays.

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
def _both(x, decays):
    return x * decays[0], x * decays[1]


@triton.jit
def _scores(Q, K):
    """<q_t, k_s exp(c_t - c_s)>, tokens being rows; nonsense above the diagonal."""
    near, far = _dot(Q[0], tl.trans(K[0])), _dot(Q[1], tl.trans(K[1]))
    return tl.where(_is_near(), near, far)


@triton.jit
def _query_gradient(d_of_chunks, WHICH: tl.constexpr, B, K, of_q):
    """The gradient of queries from those of their scores with B and K."""
    D_b, D_k = _transposed(d_of_chunks, WHICH), _transposed(d_of_chunks, WHICH + 1)
    near = _dot(B[0], _where_near(D_b)) + _dot(K[0], _where_near(D_k))
    return near * of_q[0] + (_dot(B[1], D_b) + _dot(K[1], D_k)) * of_q[1]


@triton.jit
def _key_gradient(d_of_chunks, WHICH: tl.constexpr, R, A, of_k):
    """The gradient of keys from those of their scores with A and R."""
    D_a, D_r = _of_chunk(d_of_chunks, WHICH), _of_chunk(d_of_chunks, WHICH + 2)
    near = _dot(A[0], _where_near(D_a)) + _dot(R[0], _where_near(D_r))
    return near * of_k[0] + (_dot(A[1], D_a) + _dot(R[1], D_r)) * of_k[1]


@triton.jit
def _lower(x):
    return tl.where(_token(0) >= _token(1), x, 0.0)


@triton.jit
def _strictly_lower(x):
    return tl.where(_token(0) > _token(1), x, 0.0)


@triton.jit
def _where_near(x):
    return tl.where(_is_near(), x, 0.0)


@triton.jit
def _is_near():
    return _token(0) // HALF == _token(1) // HALF


@triton.jit
def _inverse(A):
    """(I - A)^-1 of a strictly lower A by exact merges of blocks of 1, 2, 4 and 8. Powers of A would overflow."""
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
def _rows(start, channel, T, H, N: tl.constexpr, WIDTH: tl.constexpr):
    """Where the channels of the chunk that starts at a token lie in (B, T, H, N), and which tokens exist.

    Tokens are rows. The second axis of programs goes over sequences and their heads.
    """
    head, t = tl.program_id(1), start + _token(0)
    row = ((head // H).to(tl.int64) * T + t) * H + head % H
    return row * N + channel + tl.arange(0, WIDTH)[None, :], t < T


@triton.jit
def _columns(start, T, H, N: tl.constexpr):
    """The same for all channels, tokens being columns."""
    at, exists = _rows(start, 0, T, H, N, N)
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
def _tokens(index, N: tl.constexpr):
    """Where u, z and dc of a chunk lie, tokens being columns."""
    return tl.trans(_block(index, 0, N, N))


@triton.jit
def _block(index, channel, N: tl.constexpr, WIDTH: tl.constexpr):
    """The same for some of the channels, tokens being rows."""
    return (index * CHUNK + _token(0)) * N + channel + tl.arange(0, WIDTH)[None, :]


@triton.jit
def _matrix(index, WHICH: tl.constexpr):
    """Where one of the MATRICES of a chunk lies."""
    return (index * MATRICES + WHICH) * (CHUNK * CHUNK) + _token(0) * CHUNK + _token(1)


@triton.jit
def _of_chunk(matrices, WHICH: tl.constexpr):
    return tl.load(matrices + _matrix(_program(), WHICH))


@triton.jit
def _transposed(matrices, WHICH: tl.constexpr):
    return tl.trans(_of_chunk(matrices, WHICH))


@triton.jit
def _load(x, at, exists):
    return tl.load(x + at, exists, other=0.0).to(tl.float32)


@triton.jit
def _load_decay(w, at, exists):
    return tl.maximum(_load(w, at, exists), STRONGEST)
