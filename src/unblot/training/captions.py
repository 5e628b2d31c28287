"""The captions of a data set as a frozen text encoder sees them, computed once."""

from unblot.data.cache.place import cache_folder
from unblot.data.dataset import Dataset
from unblot.denoiser import Denoiser
from unblot.system.distributed import join_group
from unblot.system.turns import one_a_node_first
from unblot.text.frozen import FrozenEncoder

CAPTIONS = "captions"  # the folder of hidden states, beside the dataset caches


def remember_captions(denoiser: Denoiser, dataset: Dataset) -> None:
    """Lets a frozen text encoder know the hidden states of all captions: from the cache, or computed into it.

    One process of each node computes them, the others read what it wrote. Raises UnblotError where the encoder is not
    what it was.
    """
    encoder = denoiser.text_encoder
    if not isinstance(encoder, FrozenEncoder):
        return
    texts = ["", *(text for several in dataset.captions or () for text in several)]
    place, device = cache_folder() / CAPTIONS, encoder.map.weight.device
    one_a_node_first(join_group(), lambda: encoder.states.remember(texts, place, device))
