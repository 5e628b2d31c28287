"""Files and folders that cannot become a run: each told in one line, none of them run, nothing left behind."""

import json
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import refused
from pipelines import KINDS, exported, librarys, run_of
from unblot.cli.parser import main

diffusers = pytest.importorskip("diffusers")
WEIGHTS, BIN = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The files of a pipeline of the library, by name."""
    folder = tmp_path_factory.mktemp("pipeline")
    diffusers.DDPMPipeline(librarys("defaults"), diffusers.DDPMScheduler()).save_pretrained(folder)
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def pipeline(sound, tmp_path):
    folder = tmp_path / "pipeline"
    for name, content in sound.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def told(capsys, source: Path) -> str:
    """The one line about a source that cannot be imported; no run is written."""
    out = source.parent / "run"
    line = refused(capsys, "import", source, "--out", out)
    assert not out.exists()
    return line


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pickled(folder: Path, weights) -> Path:
    """The folder's network with these pickled weights in place of its own."""
    (folder / "unet" / WEIGHTS).unlink()
    torch.save(weights, folder / "unet" / BIN)
    return folder / "unet" / BIN


UNETS = {  # options of a UNet2DModel that no network here has, or that lie, and a part of the line
    "mid_block_type": (None, "its mid_block_type is None"),
    "act_fn": ("gelu", "its act_fn is 'gelu'"),
    "time_embedding_type": ("fourier", "'fourier', and ddpm_unet"),
    "resnet_time_scale_shift": ("scale_shift", "its attn_norm_num_groups is None"),
    "down_block_types": (["DownBlock2D", "SkipDownBlock2D"], "SkipDownBlock2D"),
    "up_block_types": (["UpBlock2D", "AttnUpBlock2D"], "its up_block_types is ['UpBlock2D', 'AttnUpBlock2D']"),
    "out_channels": (6, "its out_channels is 6"),
    "flip_sin_to_cos": (False, "its freq_shift is 0"),
    "attention_head_dim": (5, "head 5 does not divide width 16"),
    "norm_num_groups": (7, "groups 7 do not divide"),
    "sample_size": (10**9, "impossible"),
    "block_out_channels": ([16384, 16384], "in the file, and"),
    "layers_per_block": (10**9, "blocks must be from 1 to 64"),
    "in_channels": (2, "its out_channels is 3"),
    "num_class_embeds": (10**9, "its num_class_embeds is 1000000000, and its weights are for 0 labels"),
    "norm_eps": ("small", "Expected `float`, got `str`"),
    "a_new_option": (1, "unknown field `$.a_new_option`"),
    "_class_name": ("UNet2DConditionModel", "is of 'UNet2DConditionModel', and unblot takes UNet2DModel"),
}


@pytest.mark.parametrize("name", UNETS)
def test_a_network_that_cannot_be_held(name, pipeline, capsys):
    value, part = UNETS[name]
    edit(pipeline / "unet/config.json", **{name: value})
    assert part in told(capsys, pipeline)


SCHEDULERS = {
    "_class_name": ("KarrasVeScheduler", "'KarrasVeScheduler', and unblot takes DDPMScheduler"),
    "prediction_type": ("flow_prediction", "'flow_prediction' is none of epsilon, sample, v_prediction"),
    "beta_schedule": ("laplace", "'laplace' is none of linear, scaled_linear, squaredcos_cap_v2"),
    "trained_betas": ([0.1, 0.2], "a table of their own"),
    "beta_end": (2.0, "betas between 0 and 1"),
    "num_train_timesteps": (10**9, "steps from 1 to 100000"),
    "rescale_betas_zero_snr": (True, "epsilon is undefined at the pure noise"),
    "variance_type": ("learned_range", "'learned_range' is none of fixed_small"),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_that_is_unknown_or_does_not_fit(name, pipeline, capsys):
    value, part = SCHEDULERS[name]
    edit(pipeline / SCHEDULER, **{name: value})
    assert part in told(capsys, pipeline)


def test_a_scheduler_of_another_class_than_the_pipeline_names(pipeline, capsys):
    edit(pipeline / SCHEDULER, _class_name="DDIMScheduler")
    assert "is of 'DDIMScheduler', and unblot takes DDPMScheduler there" in told(capsys, pipeline)


def test_pipelines_of_another_kind(pipeline, capsys):
    edit(pipeline / "model_index.json", _class_name="StableDiffusionPipeline")
    assert "'StableDiffusionPipeline': of latents, texts" in told(capsys, pipeline)
    (pipeline / "model_index.json").write_text("{")
    assert "no valid JSON" in told(capsys, pipeline)


def test_a_name_that_leads_out_of_runs(tmp_path, monkeypatch, capsys):
    source = exported(run_of(tmp_path / "run", **KINDS["v"]), tmp_path / "source")
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    config = json.loads((source / "unblot.json").read_text())
    for name in ("../../outside", str(tmp_path / "outside"), "..\\..\\outside", "..", "", "/", "odd\0"):
        config["data"]["name"] = name
        (source / "unblot.json").write_text(json.dumps(config))
        if "outside" in name:
            assert main(["import", str(source)]) == 0
        else:
            assert "a name that no folder can have" in refused(capsys, "import", source)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["outside", "outside-2", "outside-3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "run", "source"]
    assert main(["import", str(source), "--out", "named"]) == 0


def test_places_without_a_model(pipeline, tmp_path, capsys):
    assert "there is no folder or file" in told(capsys, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "neither model_index.json nor config.json" in told(capsys, tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("a text")
    assert "a file of no kind that holds weights" in told(capsys, tmp_path / "notes.txt")
    (pipeline / SCHEDULER).unlink()
    assert "no such file" in told(capsys, pipeline)
    (pipeline / "unet" / WEIGHTS).unlink()
    assert "has no weights" in told(capsys, pipeline)


def test_a_lora_as_a_file_and_in_a_folder(tmp_path, capsys):
    (tmp_path / "lora").mkdir()
    file = tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    save_file({"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": torch.zeros(4, 8)}, file)
    assert "is a LoRA" in told(capsys, file)
    assert "is a LoRA" in told(capsys, file.parent)


def test_a_run_is_no_stranger(tmp_path, capsys):
    run = run_of(tmp_path / "source", network=KINDS["ddpm"]["network"])
    assert "is a model of unblot already" in told(capsys, run.path / "model.safetensors")


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_never_run(zipped, pipeline, tmp_path, capsys):
    canary = tmp_path / "canary"
    file = pickled(pipeline, {"conv_in.weight": Code(canary)})
    torch.save({"model": Code(canary)}, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    assert "holds code, io.open, which is not run" in told(capsys, pipeline)
    part = "holds code" if zipped else "is no whole file of PyTorch"
    assert part in told(capsys, tmp_path / "model.pt")
    torch.save({"input_blocks.0.0.weight": Code(canary)}, tmp_path / "ema.pt", _use_new_zipfile_serialization=zipped)
    assert part in told(capsys, tmp_path / "ema.pt")
    assert not canary.exists()
    torch.load(file, weights_only=False)  # the same file, read as it must not be: the canary works
    assert canary.exists()


def test_a_pickle_that_is_cut_off_damaged_compressed_or_of_something_else(pipeline, capsys):
    weights = load_file(pipeline / "unet" / WEIGHTS)
    file = pickled(pipeline, weights)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "it is cut off" in told(capsys, pipeline)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"nonsense")
        archive.writestr("archive/version", b"3")
    assert "is damaged" in told(capsys, pipeline)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1000))
    assert "is compressed" in told(capsys, pipeline)
    torch.save([1, 2], file)
    assert "holds a list" in told(capsys, pipeline)
    torch.save({**weights, "step": 3}, file)
    assert "holds 'step', which is no named tensor" in told(capsys, pipeline)
    file.write_bytes(whole)
    assert main(["import", str(pipeline), "--out", str(pipeline.parent / "run")]) == 0


def test_a_small_pickle_claims_no_large_tensor(pipeline, capsys):
    weights = load_file(pipeline / "unet" / WEIGHTS)
    pickled(pipeline, {**weights, "conv_in.weight": torch.zeros(1).expand(1 << 40)})
    assert "claims larger tensors than it holds" in told(capsys, pipeline)


@pytest.mark.parametrize("name", ["a tensor less", "a tensor more", "cut off"])
def test_weights_that_do_not_fit(name, pipeline, capsys):
    file = pipeline / "unet" / WEIGHTS
    weights = load_file(file)
    if name == "cut off":
        file.write_bytes(file.read_bytes()[:5000])
    else:
        weights.pop("conv_out.bias") if name == "a tensor less" else weights.update(more=torch.zeros(1))
        save_file(weights, file)
    line = told(capsys, pipeline)
    assert ("not a whole safetensors file" if name == "cut off" else "weights and config do not fit") in line


def test_a_record_of_unblot_with_a_schedule_that_its_network_cannot_embed(tmp_path, capsys):
    out = exported(run_of(tmp_path / "source", **KINDS["v"]), tmp_path / "out")
    config = json.loads((out / "unblot.json").read_text())
    edit(out / "unblot.json", train={**config["train"], "schedule": "flow"})
    assert "schedule 'flow' has no indices to embed" in told(capsys, out)


def test_a_record_of_unblot_beside_another_network(tmp_path, capsys):
    out = exported(run_of(tmp_path / "source", **KINDS["v"]), tmp_path / "out")
    edit(out / SCHEDULER, prediction_type="sample")
    assert "unblot.json and scheduler/scheduler_config.json are of different models" in told(capsys, out)


TRAINERS = {  # names and shapes of tensors of other trainers' networks
    "denoising-diffusion-pytorch": {"model": {"model.init_conv.weight": (8, 3, 7, 7)}, "ema": {"initted": ()}},
    "the state of an optimizer": {"state": {}, "param_groups": {}},
    "as Stable Diffusion": {"model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3)},
    "without the config.json": {"conv_in.weight": (8, 3, 3, 3), "time_embedding.linear_1.weight": (32, 8)},
    "tensors such as fc.weight": {"fc.weight": (2, 2)},
}


@pytest.mark.parametrize("part", TRAINERS)
def test_checkpoints_of_other_trainers_are_told_what_differs(part, tmp_path, capsys):
    def made(shapes):
        return OrderedDict((k, made(v) if isinstance(v, dict) else torch.zeros(v)) for k, v in shapes.items())

    torch.save(made(TRAINERS[part]), tmp_path / "model-1.pt")
    assert part in told(capsys, tmp_path / "model-1.pt")
