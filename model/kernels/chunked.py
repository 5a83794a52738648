"""WKV-7 in pure torch by chunks: dense products within a chunk (WY form), one small one from chunk to chunk.

For a chunk of C tokens with cumulated log-decay c_t, let u_t = S_{t-1} a_t, as rows of U. Then, with
A_b[t, s] = <a_t, b_s exp(c_{t-1} - c_s)> for s < t, R_b[t, s] = <r_t, b_s exp(c_t - c_s)> for s <= t, and A_k
and R_k alike:

    U   = (I - A_b)^-1 (A S_0^T + A_k V)      A = rows a_t exp(c_{t-1})      =: P S_0^T + Q
    Y   = R S_0^T + R_b U + R_k V             R = rows r_t exp(c_t)
    S_C = S_0 M + N                           M = diag(exp(c_C)) + P^T B     N = Q^T B + V^T K

so only the last line runs chunk after chunk. B and K are the rows b_s exp(c_C - c_s) and k_s exp(c_C - c_s).
Exponents are centred in the chunk, no state is rewound by dividing by decays, the inverse is a triangular
solve.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.kernels import reference

CHUNK = 32
SEGMENT = 256  # tokens whose chunk matrices exist at a time: they stay in cache
_LARGEST_RANGE = 60.0  # of c within a chunk: centred, factors up to exp(30) leave float32 far from overflow


def wkv7(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, s0: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute WKV-7 as `reference.wkv7` does; differentiable by autograd, in float32 or float64.

    Decays stronger than any RWKV-7 has (log-decay < -0.6065) stay exact: chunks get shorter, and where less
    than 4 tokens would be left in a chunk the recurrence is used.
    """
    chunk = _chunk_length(w)
    if chunk < 4:
        return reference.wkv7(r, w, k, v, a, b, s0)
    S, outputs = s0, []
    for segment in zip(*(torch.split(x, SEGMENT, dim=1) for x in (r, w, k, v, a, b)), strict=True):
        y, S = _segment(chunk, segment, S)
        outputs.append(y)
    return torch.cat(outputs, dim=1), S


def _chunk_length(w: Tensor) -> int:
    strongest = -float(w.detach().amin())
    chunk = CHUNK
    while chunk > 1 and strongest * chunk > _LARGEST_RANGE:
        chunk //= 2
    return chunk


def _segment(chunk: int, inputs: tuple[Tensor, ...], s0: Tensor) -> tuple[Tensor, Tensor]:
    T = inputs[0].shape[1]
    r, w, k, v, a, b = (_into_chunks(x, chunk) for x in inputs)
    # cumulated: on CUDA `cumsum` is not reproducible, and refuses where that is asked for
    c = w.new_ones(chunk, chunk).tril() @ w
    end, centre = c[..., -1:, :], c[..., chunk // 2 - 1, None, :]
    R, A = r * c.exp(), a * (c - w).exp()
    B, K = b * (end - c).exp(), k * (end - c).exp()
    R_b, R_k, A_b, A_k = _attention(r, a, b, k, c - centre, c - w - centre)
    P, Q = _solve(A_b, torch.cat([A, A_k @ v], dim=-1)).chunk(2, dim=-1)
    M = torch.diag_embed(end.squeeze(-2).exp()) + P.mT @ B
    S, last = _scan(s0, M, Q.mT @ B + v.mT @ K)
    y = (R + R_b @ P) @ S.mT + R_b @ Q + R_k @ v
    return y.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :T], last


def _attention(
    r: Tensor, a: Tensor, b: Tensor, k: Tensor, until_t: Tensor, before_t: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return R_b, R_k, A_b and A_k, each (B, H, chunks, C, C) lower triangular."""
    queries = torch.cat([r * until_t.exp(), a * before_t.exp()], dim=-2)
    from_s = (-until_t).exp()
    scores = queries @ torch.cat([b * from_s, k * from_s], dim=-2).mT
    of_r, of_a = scores.chunk(2, dim=-2)
    R_b, R_k = of_r.chunk(2, dim=-1)
    A_b, A_k = of_a.chunk(2, dim=-1)
    return R_b.tril(), R_k.tril(), A_b.tril(-1), A_k.tril(-1)


def _solve(A_b: Tensor, right: Tensor) -> Tensor:
    identity = torch.eye(A_b.shape[-1], dtype=A_b.dtype, device=A_b.device)
    solution: Tensor = torch.linalg.solve_triangular(identity - A_b, right, upper=False, unitriangular=True)
    return solution


def _scan(s0: Tensor, M: Tensor, N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk, (B, H, chunks, N, N), and the one after the last."""
    S, before = s0, []
    for M_c, N_c in zip(M.unbind(2), N.unbind(2), strict=True):
        before.append(S)
        S = S @ M_c + N_c
    return torch.stack(before, dim=2), S


def _into_chunks(x: Tensor, chunk: int) -> Tensor:
    """(B, T, H, N) -> (B, H, T / chunk, chunk, N); padding with zeros leaves the state as it is."""
    B, T, H, N = x.shape
    x = F.pad(x, (0, 0, 0, 0, 0, -T % chunk))
    return x.reshape(B, -1, chunk, H, N).permute(0, 3, 1, 2, 4)
