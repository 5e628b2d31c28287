"""Nearest neighbours among pictures: exact, in bounded memory."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.evaluation.image_set import BYTES, ImageSet

TERMS = 1024
"""Terms of a product that are summed in float32; the sums of as many are added up in float64."""

SPARE = 8
"""Candidates that the float32 screening keeps in addition to k."""


class Variant(NamedTuple):
    """Pictures (B, C, H, W) to compare, and which of their values count, (C, H, W) of 0 and 1."""

    pictures: Tensor
    known: Tensor


Variants = Callable[[Tensor], Iterator[Variant]]  # pictures (B, C, H, W) -> the variants of them that count as the same


def unchanged(pictures: Tensor) -> Iterator[Variant]:
    """Pictures as their only variant."""
    yield Variant(pictures, torch.ones_like(pictures[0]))


def nearest(queries: ImageSet, base: ImageSet, k: int, variants: Variants = unchanged) -> tuple[Tensor, Tensor]:
    """Euclidean distances (N, k), float64, from each query to its k nearest pictures of `base`, and their positions.

    Distances are over all values of a picture, in the network's range. Of the variants of a query the nearest counts;
    where some of its values are not known, the squared distance over the known ones is scaled up to all. Exact: a
    matrix product, mostly in float32, finds candidates, whose distances are computed again in float64. Where its
    rounding could hide a nearer picture, the query is compared with every picture in float64. `k` is at most the size
    of `base`.
    """
    k = min(k, len(base))
    channels, height, width = queries.shape
    rows = max(1, min(1024, BYTES // (4 * channels * height * width)))
    distances, positions = [], []
    for start in range(0, len(queries), rows):
        parts = [_nearest_of(variant, base, k) for variant in variants(queries[start : start + rows])]
        found, where = parts[0] if len(parts) == 1 else _merge(parts, k)
        distances.append(found)
        positions.append(where)
    return torch.cat(distances), torch.cat(positions)


def _nearest_of(variant: Variant, base: ImageSet, k: int) -> tuple[Tensor, Tensor]:
    """`nearest` for one variant of one block of queries."""
    flat, known = variant.pictures.flatten(1), variant.known.flatten()
    rows = max(1, BYTES // (4 * max(flat.shape)))
    centre = base[: min(rows, len(base))].flatten(1).mean(0)  # smaller norms, less rounding
    centred = (flat - centre) * known
    squared = centred.square().sum(1, dtype=torch.float64)
    best = torch.empty(len(flat), 0, dtype=torch.float64)
    where, largest = torch.empty(len(flat), 0, dtype=torch.long), 0.0
    for start in range(0, len(base), rows):
        block = (base[start : start + rows].flatten(1) - centre) * known
        norms = block.square().sum(1, dtype=torch.float64)
        largest = max(largest, float(norms.max()))
        screened = squared[:, None] + norms
        for x, y in zip(centred.split(TERMS, 1), block.split(TERMS, 1)):
            screened -= 2 * (x @ y.T)
        best = torch.cat([best, screened], 1)
        where = torch.cat([where, torch.arange(start, start + len(block)).expand(len(flat), -1)], 1)
        best, order = best.topk(min(k + SPARE, best.shape[1]), largest=False)
        where = where.gather(1, order)
    found, positions = _exact(flat, known, base, where, k)
    if len(base) > best.shape[1]:
        # |fl(x.y) - x.y| <= n eps |x||y| for n terms in any order of summation (Higham 2002, section 3.1); whatever was
        # left out is at least as far as the last candidate, minus this error.
        error = 4 * min(TERMS, flat.shape[1]) * torch.finfo(torch.float32).eps * (squared + largest)
        nearest_hidden = (best[:, -1] - error).clamp_min(0).mul(len(known) / known.sum()).sqrt()
        for row in torch.nonzero(nearest_hidden < found[:, -1]).flatten().tolist():
            every = torch.arange(len(base))[None]
            found[row : row + 1], positions[row : row + 1] = _exact(flat[row : row + 1], known, base, every, k)
    return found, positions


def _exact(flat: Tensor, known: Tensor, base: ImageSet, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of each row's candidates (B, m), by float64 distances; of equal ones the first position."""
    candidates = candidates.sort(dim=1).values
    share = known.double().mean()
    distances = torch.empty(candidates.shape, dtype=torch.float64)
    columns = max(1, BYTES // (8 * flat.shape[1]))
    rows = max(1, columns // candidates.shape[1])
    for top in range(0, len(flat), rows):
        for left in range(0, candidates.shape[1], columns):
            part = (slice(top, top + rows), slice(left, left + columns))
            chosen = candidates[part]
            near = base[chosen.flatten().numpy()].flatten(1).double().view(*chosen.shape, -1)
            difference = (near - flat[top : top + rows, None].double()) * known
            distances[part] = (difference.square().sum(-1) / share).sqrt()
    found, order = distances.sort(dim=1, stable=True)
    return found[:, :k], candidates.gather(1, order)[:, :k]


def _merge(parts: list[tuple[Tensor, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of several results for the same queries; each picture of the base counts once."""
    distances, positions = (torch.cat(column, 1) for column in zip(*parts))
    distances, order = distances.sort(dim=1, stable=True)
    positions = positions.gather(1, order)
    # Stably sorted by position, a repetition comes after its nearest occurrence.
    by_position, order = positions.sort(dim=1, stable=True)
    repeated = torch.zeros_like(by_position, dtype=torch.bool)
    repeated[:, 1:] = by_position[:, 1:] == by_position[:, :-1]
    distances = distances.masked_fill(torch.zeros_like(repeated).scatter(1, order, repeated), torch.inf)
    distances, order = distances.sort(dim=1, stable=True)
    return distances[:, :k], positions.gather(1, order)[:, :k]
