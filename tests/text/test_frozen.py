"""Frozen encoders of transformers: their states are computed once, and drawing needs the very same encoder."""

import json
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from unblot import api
from unblot.errors import UnblotError
from unblot.runs.folder import MODEL
from unblot.text import frozen
from unblot.text.frozen import Frozen, FrozenEncoder, FrozenStates, FrozenTokenizer
from unblot.text.tokenizer import PAD, START

transformers = pytest.importorskip("transformers")
CAPTIONS = ["a red picture", "a dark one"]
TINY = {"network": "unet:width=8,multipliers=1,blocks=1", "steps": 2, "batch_size": 8, "preview_every": 0}


def encoder(folder: Path, kind: str, seed: int = 0) -> Path:
    """A random T5 or BERT of one layer with a tokenizer of whole words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    names = {"t5": ["<pad>", "</s>", "<unk>"], "bert": ["[PAD]", "[CLS]", "[UNK]"]}[kind]
    vocabulary = {word: i for i, word in enumerate([*names, "a", "red", "dark", "picture", "one"])}
    model = Tokenizer(WordLevel(vocabulary, names[2]))
    model.pre_tokenizer = Whitespace()
    single = {"t5": "$A </s>", "bert": "[CLS] $A"}[kind]
    model.post_processor = TemplateProcessing(single=single, special_tokens=[(names[1], 1)])
    special = {"pad_token": names[0], "unk_token": names[2]}
    transformers.PreTrainedTokenizerFast(tokenizer_object=model, **special).save_pretrained(folder)
    torch.manual_seed(seed)
    if kind == "t5":
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
        made = transformers.T5EncoderModel(transformers.T5Config(vocab_size=len(vocabulary), **sizes))
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        made = transformers.BertModel(transformers.BertConfig(vocab_size=len(vocabulary), **sizes))
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(CAPTIONS[i % 2])
    return folder


@pytest.fixture(scope="module", params=["t5", "bert"])
def run(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A run with a frozen encoder in which the text matters: what attends to it is no longer zero."""
    place = encoder(tmp_path_factory.mktemp("encoder") / request.param, request.param)
    spec = f"transformers:{place}"
    trained = api.train(data, out=tmp_path_factory.mktemp("runs") / "run", text_encoder=spec, quiet=True, **TINY)
    torch.manual_seed(0)
    for parameter in trained.denoiser.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    api.save_model(trained.path / MODEL, trained.config, dict(trained.denoiser.named_parameters()))
    return api.load(trained.path)


def place_of(run: api.Run) -> Path:
    assert isinstance(run.denoiser.text_encoder, FrozenEncoder)
    return Path(run.denoiser.text_encoder.states.frozen.place)


def test_the_model_file_has_the_map_and_the_name_and_draws_alone(run: api.Run, tmp_path: Path) -> None:
    (tmp_path / MODEL).write_bytes((run.path / MODEL).read_bytes())
    with safe_open(tmp_path / MODEL, "pt") as file:
        assert [n for n in file.keys() if n.startswith("text")] == ["text_encoder.map.bias", "text_encoder.map.weight"]  # noqa: SIM118
        spec = json.loads(file.metadata()["unblot"])["train"]["text_encoder"]
    assert spec.startswith(f"transformers:model={place_of(run)},size=16,sha256=")
    red, dark = (api.load(tmp_path / MODEL).sample(2, prompt=text, steps=2).array for text in CAPTIONS)
    assert not np.array_equal(red, dark)
    assert np.array_equal(red, run.sample(2, prompt=CAPTIONS[0], steps=2).array)


def test_a_picture_is_the_same_beside_other_prompts(run: api.Run) -> None:
    both = run.sample(2, prompt=CAPTIONS, steps=2, batch_size=1)
    alone = api.load(run.path).sample(1, first=1, prompt=CAPTIONS[1], steps=2, batch_size=1)
    assert np.array_equal(both.array[1], alone.array[0])


def test_states_are_those_of_the_library_and_zero_where_there_is_no_token(run: api.Run) -> None:
    encoder = run.denoiser.text_encoder
    frozen = encoder.states.frozen
    tokens = encoder.tokenizer([CAPTIONS[1]])
    ids = frozen.tokenizer([CAPTIONS[1]], return_tensors="pt")["input_ids"]
    expected = frozen.model(input_ids=ids).last_hidden_state[0]
    states = encoder.states(tokens)[0].float()
    assert torch.allclose(states[1 : 1 + len(expected)], expected, atol=2e-3)
    assert tokens[0, 0] == START
    assert not states[tokens[0] == PAD].any()
    assert not states[0].any()


def test_captions_are_encoded_once_and_a_second_run_computes_nothing(run: api.Run, data: Path, tmp_path, monkeypatch):
    def forbidden(*args: object) -> None:
        raise AssertionError("a state was computed, or a socket opened")

    monkeypatch.setattr(FrozenStates, "compute", forbidden)
    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    spec = f"transformers:{place_of(run)}"
    again = api.train(data, out=tmp_path / "run", text_encoder=spec, quiet=True, **TINY)
    assert again.config == run.config


def test_remembered_states_are_a_file_of_half_precision(run: api.Run, tmp_path: Path) -> None:
    frozen = run.denoiser.text_encoder.states.frozen
    states = FrozenStates(frozen, 5)
    states.remember([*CAPTIONS, CAPTIONS[0]], tmp_path, torch.device("cpu"))
    (path,) = tmp_path.iterdir()
    assert np.load(path).shape == (2, 5, 16)
    assert np.load(path).dtype == np.float16
    path.write_bytes(path.read_bytes()[:-4])  # a damaged one is written again
    FrozenStates(frozen, 5).remember(CAPTIONS, tmp_path, torch.device("cpu"))
    assert np.load(path).shape == (2, 5, 16)


def test_states_computed_while_drawing_are_kept_for_as_long_as_they_fit(run: api.Run, monkeypatch) -> None:
    states, computed = FrozenStates(run.denoiser.text_encoder.states.frozen, 5), []
    plain = states.compute
    monkeypatch.setattr(states, "compute", lambda rows, device: computed.append(rows) or plain(rows, device))
    monkeypatch.setattr(frozen, "RECENT_BYTES", 3 * 5 * 16 * 2)  # of three texts
    rows = torch.arange(2, 8)[:, None].repeat(1, 5)
    every = states(rows)
    assert torch.equal(states(rows), every)  # all of one call are kept, however many
    assert len(computed) == 6
    for i in (0, 1, 2, 0, 3, 0, 4, 0):
        assert torch.equal(states(rows[[i]])[0], every[i])
    assert len(states.recent) == 3
    assert not states.known
    assert len(computed) == 6 + 4  # 1, 2, 3 and 4 again, and 0 never: it was always among the last three


@pytest.mark.parametrize("length", [1, 4])
def test_texts_are_cut_and_counted_at_once(length: int) -> None:
    class Tokenizer:
        """Cuts as it was last told to, as the library's own does, and slowly."""

        def __call__(self, texts: list[str], truncation: bool, max_length: int = 0, **_: object) -> dict[str, list]:
            self.most = max_length if truncation else None
            time.sleep(0.002)
            return {"input_ids": [list(range(9))[: self.most] for _ in texts]}

    encoder = Frozen("x")
    encoder.tokenizer = Tokenizer()
    tokenizer = FrozenTokenizer(encoder, length)
    with ThreadPoolExecutor(2) as pool:
        sizes = pool.map(lambda _: tokenizer.sizes(["a"]), range(20))
        rows = [tokenizer(["a"]) for _ in range(20)]
        assert [*sizes] == [[10]] * 20
    assert all(row.tolist() == [[START, *range(2, 1 + length)]] for row in rows)


def test_an_encoder_that_is_gone_or_another_is_told(run: api.Run) -> None:
    place = place_of(run)
    kept = place.with_name("kept")
    place.rename(kept)
    try:
        with pytest.raises(UnblotError, match=f"no text encoder is at '{place}' any more"):
            api.load(run.path).sample(1, prompt="a", steps=1)
        shutil.copytree(kept, place)
        weights = place / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
        with pytest.raises(UnblotError, match="has changed since"):
            api.load(run.path).sample(1, prompt="a", steps=1)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        kept.rename(place)


def test_weights_that_are_no_safetensors_are_refused(data: Path, tmp_path: Path) -> None:
    place = encoder(tmp_path / "t5", "t5")
    (place / "model.safetensors").rename(place / "pytorch_model.bin")
    with pytest.raises(UnblotError, match="weights in safetensors"):
        api.train(data, out=tmp_path / "run", text_encoder=f"transformers:{place}", quiet=True, **TINY)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("transformers", "names no encoder"),
        ("transformers:/no/such/folder", "no text encoder at '/no/such/folder'"),
        ("transformers:width=64", "names no encoder"),
    ],
)
def test_what_is_no_encoder_is_refused_before_training(data: Path, spec: str, told: str) -> None:
    with pytest.raises(UnblotError, match=told):
        api.plan(data, text_encoder=spec, quiet=True)


def test_lengths_and_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(UnblotError, match="captions of 999 tokens"):
        FrozenStates(Frozen("x"), 999)


def test_a_name_of_the_hub_in_a_model_file_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def stand_in(place: str, *, local_files_only: bool, **_: object) -> str:
        asked.append(local_files_only)
        raise OSError("it is not here")

    monkeypatch.setattr(hub, "snapshot_download", stand_in)
    with pytest.raises(UnblotError, match="a name on the hub"):
        _ = Frozen("somebody/encoder").folder
    with pytest.raises(UnblotError, match="hf download somebody/encoder"):
        _ = Frozen("somebody/encoder", sha256="0" * 64).folder
    assert asked == [False, True]
