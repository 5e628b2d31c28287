"""What a request may hold: the fields of samples and of edits, with their ranges. None of them names a file."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Base64Bytes, BaseModel, ConfigDict, Field, StrictInt, StrictStr
from pydantic_core import PydanticCustomError

from unblot.config.edits import EDITS
from unblot.config.options import MOST_STEPS
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import SPACINGS

MOST = 2**31 - 1
LABEL, TEXT, SEVERAL = 200, 2000, 1024  # characters of a label and of a prompt; labels or prompts that take turns

Label = Annotated[StrictInt, Field(ge=0, le=MOST)] | Annotated[StrictStr, Field(max_length=LABEL)]
Text = Annotated[StrictStr, Field(max_length=TEXT)]


def known(table: Mapping[str, Any]) -> AfterValidator:
    """The check that a field is the name of an entry; options, as in `edm_churn:churn=80`, are not for requests."""

    def check(name: str) -> str:
        if name not in table:
            raise PydanticCustomError("name", "choose one of {names}", {"names": ", ".join(table)})
        return name

    return AfterValidator(check)


SPACED = {name: spacing for name, spacing in SPACINGS.items() if name != "listed"}  # which needs its options
SolverName = Annotated[StrictStr, known(SOLVERS), Field(json_schema_extra={"enum": list(SOLVERS)})]
KindName = Annotated[StrictStr, known(EDITS), Field(json_schema_extra={"enum": list(EDITS)})]
SpacingName = Annotated[StrictStr, known(SPACED), Field(json_schema_extra={"enum": list(SPACED)})]


class Choices(BaseModel):
    """What samples and edits share. What is left out follows from the run, as in `unblot sample`."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, max_length=LABEL, description="name of a model; may be left out where there is one")
    label: Label | Annotated[list[Label], Field(min_length=1, max_length=SEVERAL)] | None = Field(
        None, description="class by name or number; several take turns; by default each as often as in the data"
    )
    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=SEVERAL)] | None = Field(
        None, description="what a picture shows, in words; several take turns"
    )
    negative: Text | None = Field(None, description="guide away from this text")
    seed: StrictInt = Field(0, ge=0, le=2**63 - 1, description="picture i follows from the seed and i alone")
    count: StrictInt = Field(1, ge=1, le=MOST, description="number of pictures")
    steps: StrictInt | None = Field(None, ge=1, le=MOST_STEPS, description="steps from noise to picture")
    solver: SolverName | None = None
    spacing: SpacingName | None = None
    guidance: float | None = Field(None, ge=-1000, le=1000, description="strength of guidance; 1 is none")


class SampleRequest(Choices):
    """New pictures: those that `unblot sample` draws with these choices."""

    first: StrictInt = Field(0, ge=0, le=MOST, description="number of the first picture")


class EditRequest(Choices):
    """Results of `unblot edit` for one picture."""

    kind: KindName
    picture: Base64Bytes = Field(description="content of a PNG, JPEG, TIFF or NPY file, in Base64")
    other: Base64Bytes | None = Field(None, description="second picture, to interpolate to")
    mask: Base64Bytes | None = Field(None, description="white where an inpainted picture is new")
    fit: Literal["crop", "pad", "stretch"] | None = Field(None, description="brings the picture to the run's size")
    left: StrictInt = Field(0, ge=0, le=MOST, description="pixels to add by outpainting")
    right: StrictInt = Field(0, ge=0, le=MOST)
    top: StrictInt = Field(0, ge=0, le=MOST)
    bottom: StrictInt = Field(0, ge=0, le=MOST)
    factor: StrictInt | None = Field(None, ge=2, le=MOST, description="first make the picture smaller, then upscale")
    strength: float | None = Field(None, gt=0, le=1, description="share of the steps of img2img")
    amount: float | None = Field(None, gt=0, le=1, description="of variations")
