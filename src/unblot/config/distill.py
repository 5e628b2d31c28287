"""The choices of a distillation, and what a distilled run was made from."""

from dataclasses import dataclass

from unblot.config.options import Checked, option


@dataclass(frozen=True, kw_only=True)
class DistillConfig(Checked):
    """How a few-step model was made, and from what. teacher: the path of a run; sha256: of its model file."""

    nfe: int = option("network calls that a sample will take", "distillation", "N", low=1, high=4, default=2)
    guidance: float | None = option(
        "guidance to build into the model; 1 is none (default: that of samples)", "distillation", "X", default=None
    )
    teacher_steps: int = option(
        "steps of the teacher for each step of the new model", "distillation", "N", low=1, high=1000, default=5
    )
    teacher: str = option("", "", default="")
    sha256: str = option("", "", default="")
