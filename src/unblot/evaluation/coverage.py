"""How much two sets of features cover each other: precision, recall, density, coverage, and shares of classes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 512
"""Rows of a distance matrix in memory at a time."""


class Covering(NamedTuple):
    """The terms whose means are precision, recall, density (in two ways) and coverage: one a picture, float64.

    `precision` (N,): 1 where the sample is within reach of a reference picture (nearer than its k-th neighbour).
    `recall` (M,): 1 where the reference picture is within reach of a sample (Kynkäänniemi et al. 2019).
    `density` (N,): number of reference pictures that have the sample within reach, over k.
    `crowding` (M,): the same by reference picture: number of samples within its reach, over k, times M/N.
    `coverage` (M,): 1 where a sample is within the reference picture's reach (Naeem et al. 2020).
    """

    precision: Tensor
    recall: Tensor
    density: Tensor
    crowding: Tensor
    coverage: Tensor


def covering(samples: Tensor, reference: Tensor, k: int = 3, k_density: int = 5) -> Covering:
    """Precision, recall (with `k` neighbours), density and coverage (`k_density`) of features (N, d) and (M, d).

    Both sets need more than k members. Recall grows with the number of samples: compare only at equal counts.
    Takes O((N + M)²·d) time and no matrix larger than 512 rows.
    """
    x, y = samples.double(), reference.double()
    centre = y.mean(0)
    x, y = x - centre, y - centre
    (reach_x,) = _reach(x, [k])
    reach_y, reach_y_density = _reach(y, [k, k_density])
    precision, density = [], []
    recall = torch.zeros(len(y), dtype=torch.bool)
    crowding = torch.zeros(len(y), dtype=torch.float64)
    for start in range(0, len(x), BLOCK):
        squared = _squared(x[start : start + BLOCK], y)
        precision.append((squared <= reach_y).any(1))
        within = squared <= reach_y_density
        density.append(within.sum(1) / k_density)
        crowding += within.sum(0)
        recall |= (squared <= reach_x[start : start + BLOCK, None]).any(0)
    return Covering(
        torch.cat(precision).double(),
        recall.double(),
        torch.cat(density).double(),
        crowding * len(y) / (len(x) * k_density),
        (crowding > 0).double(),
    )


def class_counts(classes: Tensor, num_classes: int) -> Tensor:
    """Number of members of each class, (num_classes,); classes: class indices (N,)."""
    return torch.bincount(classes, minlength=num_classes)


def share_distance(counts: Tensor, reference: Tensor) -> float:
    """Total variation of the shares of classes, 0 to 1: the share of pictures that would have to change class."""
    shares, truth = counts.double() / counts.sum(), reference.double() / reference.sum()
    return float((shares - truth).abs().sum() / 2)


def share_distance_by_chance(counts: Sequence[int], reference: Sequence[int]) -> float:
    """The expected `share_distance` of two sets of these sizes with the same shares, those of both together.

    The mean deviation of a share p of N pictures is about sqrt(2·p·(1 − p)/(pi·N)); the variances of the sets add up.
    """
    n, m = sum(counts), sum(reference)
    shares = ((a + b) / (n + m) for a, b in zip(counts, reference, strict=True))
    return sum(math.sqrt(2 * p * (1 - p) * (1 / n + 1 / m) / math.pi) for p in shares) / 2


def _reach(x: Tensor, ks: list[int]) -> list[Tensor]:
    """Squared distance of each member to its k-th nearest other member, for each k."""
    found = []
    for start in range(0, len(x), BLOCK):
        squared = _squared(x[start : start + BLOCK], x)
        rows = torch.arange(len(squared))
        squared[rows, start + rows] = torch.inf
        found.append(squared.topk(max(ks), largest=False).values)
    nearest = torch.cat(found)
    return [nearest[:, k - 1] for k in ks]


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances (B, M); of equal rows not exactly 0, by about 1e-16 of |x|²."""
    return torch.addmm(y.square().sum(1), x, y.T, alpha=-2).add_(x.square().sum(1)[:, None]).clamp_min_(0)
