"""The commands that hand a run on: to other programs over HTTP, to other runtimes, and to other people."""

from typing import Any

from unblot.cli.commands import say
from unblot.cli.flags import OVERWRITE, Command, add_flags, add_path, add_run
from unblot.config.card import CardConfig
from unblot.config.export import ExportConfig, ImportConfig
from unblot.config.serving import ServeConfig
from unblot.errors import UnblotError, typed


def serve_command(args: dict[str, Any]) -> None:
    """Answer requests of programs for pictures, over HTTP: POST /samples and /edit, GET /models, /healthz, /metrics.

    The requests of many clients are computed together, and each picture is the one that `unblot sample` draws. Only
    this machine is listened to, unless --host and --token say otherwise; SIGTERM ends it when all is answered.
    """
    try:
        from unblot.serving.server import serve
    except ModuleNotFoundError as e:
        raise UnblotError(f"serving needs the package {e.name}; pip install 'unblot[serve]'") from None
    serve(args.pop("runs"), report=lambda line: print(line, flush=True), **args)


def export_command(args: dict[str, Any]) -> None:
    """Write a run for other runtimes: its denoiser as ONNX (or as a program of torch.export), with a sampler of a page
    in NumPy, the levels and the values beside it. The file is compared with the run first, and refused where it differs
    by more than 1e-4 (1e-2 with --half). --to diffusers writes a pipeline that the library diffusers loads."""
    from unblot import api
    from unblot.config.export import ExportConfig
    from unblot.interchange.raw import with_raw_weights

    run, out, overwrite = api.load(args.pop("run"), "cpu"), args.pop("out"), args.pop("overwrite")
    config = ExportConfig(**args)
    run = with_raw_weights(run) if config.raw else run
    if config.to == "diffusers":
        from unblot.interchange.to_diffusers import export_pipeline

        return say(f"the pipeline is in {export_pipeline(run, config, out, overwrite)}")
    try:
        from unblot.interchange.export import export_run

        folder, worst = export_run(run, config, out, overwrite)
    except ModuleNotFoundError as e:
        raise UnblotError(f"exporting needs the package {e.name}; pip install 'unblot[onnx]'") from None
    say(f"the denoiser is in {folder}; it differs from the run's by {worst:.1g} at most")


def card_command(args: dict[str, Any]) -> None:
    """Write a model card, RUN/card/README.md, with a picture of samples: data, recipe, figures with what real pictures
    reach, copies of training pictures, licence. Figures are those of `unblot evaluate`, where it was run."""
    from unblot import api
    from unblot.config.card import CardConfig
    from unblot.interchange.card import write_card

    run = args.pop("run")
    config = CardConfig(**args)
    say(f"the card is in {write_card(api.load(run, config.device), config)}")


def publish_command(args: dict[str, Any]) -> None:
    """Put a run on the Hugging Face hub with a new card, from where `unblot sample hf:OWNER/NAME` takes it.

    The model, its configuration and its tuning go there, and no picture of the data. Log in first with: hf auth login.
    """
    from unblot import api
    from unblot.config.card import CardConfig
    from unblot.interchange.publish import publish

    run, name, private = args.pop("run"), args.pop("name"), args.pop("private")
    config = CardConfig(**args)
    address = publish(api.load(run, config.device), name, config, private)
    say(f"published   {address}\ndraw        unblot sample hf:{name.removeprefix('hf:')}")


def import_command(args: dict[str, Any]) -> None:
    """Make a run of a model from elsewhere. Of the library diffusers: a folder of a DDPMPipeline, DDIMPipeline or
    PNDMPipeline, or of a UNet2DModel alone. Of improved-diffusion and guided-diffusion: a checkpoint, a .pt file, with
    --size, and --heads or --head-channels. Sampling, edits and export work on it as on any run; evaluate, tune and
    distill with pictures that --data names, since no model says what it learned from."""
    from unblot.interchange.imports import import_run

    source, out, overwrite = args.pop("source"), args.pop("out"), args.pop("overwrite")
    folder = import_run(source, ImportConfig(**args), out, overwrite)
    say(f"the run is in {folder}\nnext      unblot sample {typed(folder)}")


def add_commands(command: Command) -> None:
    """The commands with their flags."""
    serve = command("serve", "draw pictures for other programs, over HTTP", serve_command, "RUN ... [flags]")
    add_path(serve, "runs", nargs="+", metavar="RUN", help="run folders, each a model named as its folder")
    add_flags(serve, ServeConfig)

    about = "write a run for other runtimes and libraries: ONNX, diffusers"
    export = command("export", about, export_command, "RUN [--to onnx] [flags]")
    add_run(export)
    add_path(export, "--out", metavar="FOLDER", help="folder to write into (default: a new one, RUN-onnx)")
    export.add_argument("--overwrite", action="store_true", help="replace the export in --out; other files stay")
    add_flags(export, ExportConfig)

    card = command("card", "write a model card", card_command, "RUN [--license NAME]")
    add_run(card)
    add_flags(card, CardConfig)
    publish = command("publish", "put a run on the Hugging Face hub", publish_command, "RUN OWNER/NAME")
    add_run(publish)
    publish.add_argument("name", metavar="OWNER/NAME", help="what it is called there")
    publish.add_argument("--private", action="store_true", help="for your own eyes alone, where it is new")
    add_flags(publish, CardConfig)
    usage = "FOLDER|FILE [--out RUN] [flags]"
    taken = command("import", "make a run of a model of diffusers or another trainer", import_command, usage)
    add_path(taken, "source", metavar="FOLDER|FILE", help="a pipeline or a UNet2DModel, or a checkpoint")
    add_path(taken, "--out", metavar="RUN", help="run folder (default: a new one in runs/)")
    taken.add_argument("--overwrite", action="store_true", help=OVERWRITE)
    add_flags(taken, ImportConfig)
