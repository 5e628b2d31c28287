"""The nearest pictures of a set, found exactly and in flat memory."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from unblot.evaluate.pictures import Pictures

BYTES = 64 * 2**20
"""Working memory of one block of pictures or of distances."""

SPARE = 8
"""Candidates that the float32 screen keeps beyond those asked for."""


def nearest(
    queries: Pictures,
    base: Pictures,
    k: int,
    variants: Callable[[Tensor], Iterator[Tensor]] = lambda pictures: iter([pictures]),
) -> tuple[Tensor, Tensor]:
    """Euclidean distances (N, k), float64, from each query to its k nearest pictures of `base`, and their positions.

    Distances are over all values of a picture, in the network's range. `variants` gives the forms of a batch of
    queries (flipped, shifted) of which the nearest counts. Exact: a float32 matrix product screens, the candidates'
    distances are computed again in float64, and where the screen's rounding error could hide a nearer picture, the
    query is compared with every picture in float64. `k` is cut to the size of `base`.
    """
    k = min(k, len(base))
    rows = _rows(queries)
    distances, positions = [], []
    for start in range(0, len(queries), rows):
        parts = [_nearest_of(form, base, k) for form in variants(queries[start : start + rows])]
        found, where = parts[0] if len(parts) == 1 else _merge(parts, k)
        distances.append(found)
        positions.append(where)
    return torch.cat(distances), torch.cat(positions)


def _rows(pictures: Pictures) -> int:
    """Pictures that make one block of float32 values, between 1 and 1024."""
    channels, height, width = pictures.shape
    return max(1, min(1024, BYTES // (4 * channels * height * width)))


def _nearest_of(queries: Tensor, base: Pictures, k: int) -> tuple[Tensor, Tensor]:
    """`nearest` for one block of queries (B, C, H, W)."""
    flat = queries.flatten(1)
    rows = max(1, min(BYTES // (4 * flat.shape[1]), BYTES // (4 * len(flat))))
    centre = base[: min(rows, len(base))].flatten(1).mean(0)
    centred = flat - centre
    squared = centred.square().sum(1)
    best = torch.empty(len(flat), 0)
    where = torch.empty(len(flat), 0, dtype=torch.long)
    largest = 0.0
    for start in range(0, len(base), rows):
        block = base[start : start + rows].flatten(1) - centre
        norms = block.square().sum(1)
        largest = max(largest, float(norms.max()))
        screened = torch.addmm(norms, centred, block.T, alpha=-2).add_(squared[:, None])
        best = torch.cat([best, screened], 1)
        where = torch.cat([where, torch.arange(start, start + len(block)).expand(len(flat), -1)], 1)
        best, order = best.topk(min(k + SPARE, best.shape[1]), largest=False)
        where = where.gather(1, order)
    found, positions = _exact(flat, base, where, k)
    if len(base) > best.shape[1]:
        # |fl(x.y) - x.y| <= n eps |x||y| for any order of summation (Higham 2002, section 3.1), for the product
        # and twice half of it for the norms; whatever was screened out is at least this far away.
        error = 4 * flat.shape[1] * torch.finfo(torch.float32).eps * (squared.double() + largest)
        hidden = (best[:, -1].double() - error).clamp_min(0).sqrt() < found[:, -1]
        for row in torch.nonzero(hidden).flatten().tolist():
            found[row], positions[row] = _against_all(flat[row], base, k, rows)
    return found, positions


def _exact(flat: Tensor, base: Pictures, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of each row's candidates (B, m), by float64 distances; ties go to the lower position."""
    candidates = candidates.sort(1).values
    step = max(1, BYTES // (8 * flat.shape[1] * candidates.shape[1]))
    distances = []
    for start in range(0, len(flat), step):
        chosen = candidates[start : start + step]
        near = base[chosen.flatten().numpy()].flatten(1).double().view(*chosen.shape, -1)
        distances.append((near - flat[start : start + step, None].double()).square().sum(-1).sqrt())
    found, order = torch.cat(distances).sort(dim=1, stable=True)
    return found[:, :k], candidates.gather(1, order)[:, :k]


def _against_all(query: Tensor, base: Pictures, k: int, rows: int) -> tuple[Tensor, Tensor]:
    """The k nearest of one query (D,), each distance in float64."""
    step = max(1, rows // 2)
    distances = torch.cat(
        [(part.flatten(1).double() - query.double()).square().sum(1).sqrt() for part in base.chunks(step)]
    )
    found, order = distances.sort(dim=0, stable=True)
    return found[:k], order[:k]


def _merge(parts: list[tuple[Tensor, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of several answers for the same queries, each picture of the base counted once."""
    distances, positions = (torch.cat(column, 1) for column in zip(*parts))
    distances, order = distances.sort(dim=1, stable=True)
    positions = positions.gather(1, order)
    # A later occurrence of the same position goes to the end.
    by_position, order = positions.sort(dim=1, stable=True)
    again = torch.zeros_like(by_position, dtype=torch.bool)
    again[:, 1:] = by_position[:, 1:] == by_position[:, :-1]
    repeated = torch.zeros_like(again).scatter(1, order, again)
    distances = distances.masked_fill(repeated, torch.inf)
    distances, order = distances.sort(dim=1, stable=True)
    return distances[:, :k], positions.gather(1, order)[:, :k]
