"""Some of a data set's pictures, in the place of all of them."""

import numpy as np


def spread(indices: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the indices (N,), evenly spread over them and in their order.

    Listings are sorted, by folder and so by class: the first of them may all be of one kind.
    """
    return indices[np.linspace(0, len(indices) - 1, min(len(indices), count)).astype(np.int64)]
