"""What the default preset decides from the data."""

from dataclasses import replace

import pytest

from unblot.config.presets import WIDTHS_TINY, default, ladder, resolve
from unblot.config.schema import DataFacts, TextFacts
from unblot.nn import NETWORKS
from unblot.specs import parse


def facts(side: int = 64, std: float = 0.5, channels: int = 3, **more) -> DataFacts:
    return replace(DataFacts("some", channels, side, side, (), {}, std, 1000, ""), **more)


def network_options(data: DataFacts) -> dict:
    """The options of the default network, those that its spec does not name too."""
    return parse(NETWORKS, default(data)["network"], "network")[1]


def levels(data: DataFacts) -> tuple[float, float]:
    """Mean and standard deviation of log sigma."""
    mean, std = (float(part.split("=")[1]) for part in default(data)["schedule"].removeprefix("edm:").split(","))
    return mean, std


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("text", [None, TextFacts("", "", 0, 1000)], ids=["plain", "captions"])
def test_noise_grows_with_size_and_contrast_and_the_cleanest_levels_stay(channels, text) -> None:
    by_size = [levels(facts(side, 0.8, channels, text=text)) for side in (28, 64, 128, 256, 1024)]
    by_contrast = [levels(facts(128, std, channels, text=text)) for std in (0.1, 0.3, 0.6, 0.9)]
    for found in (by_size, by_contrast):
        assert found == sorted(found)
        assert found[0] < found[-1]
        narrow = [std for mean, std in found if text and mean > -0.8]  # small gray pictures stay as they were
        assert narrow == [0.75] * len(narrow)
        assert narrow or all(mean - 2.5 * std == pytest.approx(-3.8, abs=0.02) for mean, std in found)


def test_captions_and_latents_are_learned_at_twice_the_rate_and_never_by_adamw() -> None:
    text = TextFacts("", "", 0, 1000)
    for data, latents, rate in (
        (facts(), False, 4e-3),
        (facts(text=text), False, 8e-3),
        (facts(), True, 8e-3),
        (facts(1, channels=2), False, 2e-3),
    ):
        assert resolve(data, {}, latents).learning_rate == rate
        assert resolve(data, {"optimizer": "adamw:beta1=0.8"}, latents).learning_rate == min(rate, 4e-3)
        assert resolve(data, {"optimizer": "adamw", "learning_rate": 0.01}, latents).learning_rate == 0.01
    assert resolve(facts(8, text=text), {}, True).learning_rate == 4e-3  # so small pictures have AdamW
    assert resolve(facts(), {"preset": "ddpm"}, True).learning_rate == 2e-4


def test_small_pictures_with_captions_come_in_larger_batches() -> None:
    text = TextFacts("", "", 0, 1000)
    sizes = {side: resolve(facts(side), {}).batch_size for side in (32, 64)}
    assert sizes == {32: 64, 64: 32}
    assert {side: resolve(facts(side, text=text), {}).batch_size for side in sizes} == {32: 128, 64: 32}


def test_latents_come_in_smaller_batches_where_the_map_of_the_network_is_large() -> None:
    def batches(text: TextFacts | None) -> dict[int, int]:
        return {side: resolve(facts(side, text=text), {}, True).batch_size for side in (8, 16, 32, 64)}

    assert batches(None) == {8: 64, 16: 64, 32: 32, 64: 32}
    assert batches(TextFacts("", "", 0, 1000)) == {8: 64, 16: 64, 32: 64, 64: 64}


def test_small_gray_pictures_have_the_levels_they_were_measured_with() -> None:
    assert levels(facts(28, 0.6, 1)) == levels(facts(8, 0.75, 1)) == (-0.8, 1.2)


def test_captions_are_hidden_less_often_than_labels() -> None:
    text = TextFacts("", "", 0, 1000)
    assert resolve(facts(32, text=text), {}).label_dropout < resolve(facts(32), {}).label_dropout


def test_each_level_has_one_pair_of_blocks_and_captions_fold_large_pictures_more() -> None:
    text = TextFacts("", "", 0, 1000)
    assert default(facts(8, text=text))["network"] == default(facts(8))["network"]
    for side in (16, 28, 32, 40, 48, 64, 96, 128, 256, 1024):
        options = network_options(facts(side))
        assert (options["blocks"], options["paired"]) == (1, True)
        coarsest = len(options["multipliers"].split("-")) - 1
        assert int(options["attention"]) == coarsest
        assert side / options["patch"] / 2**coarsest <= 10
        assert ("waves" in default(facts(side))["network"]) == (options["patch"] > 1)
        assert options["patch"] in (1, 8) or side / options["patch"] > 20
        assert options["patch"] == 8 or side / options["patch"] <= 40
    for side in (24, 32, 48, 64, 96, 128, 256):
        with_captions, without = (network_options(facts(side, text=t)) for t in (text, None))
        assert with_captions["patch"] == min(8, 2 * without["patch"])
        assert with_captions["blocks"] == without["blocks"] == 1
        folded_more = with_captions["patch"] > without["patch"]
        assert (with_captions["multipliers"] != without["multipliers"]) == folded_more


def test_pictures_that_nothing_is_said_of_fall_into_up_to_128_clusters_of_25_or_more() -> None:
    def clusters(count: int, **more) -> int:
        return resolve(facts(32, count=count, **more), {}).clusters

    assert [clusters(count) for count in (25, 49, 50, 316, 3200, 60_000)] == [0, 0, 2, 12, 128, 128]
    assert clusters(1000, classes=("a", "b")) == clusters(1000, text=TextFacts("", "", 0, 1000)) == 0


def test_tiny_pictures_take_a_join_only_where_a_folded_square_has_as_many_values_as_the_network_channels() -> None:
    plain = tuple(f"unet:width={width},multipliers=1,patch=2,attention=" for width in WIDTHS_TINY)
    for channels in range(1, 65):
        joins = [",join=true" * (4 * channels >= width) for width in WIDTHS_TINY]
        for side in (8, 12):
            found = ladder(facts(side, channels=channels), "default")
            assert found == tuple(spec + join for spec, join in zip(plain, joins, strict=True))
