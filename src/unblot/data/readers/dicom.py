"""The frames of DICOM files, read by pydicom."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from unblot.data.readers.listing import check_expansion, file_origin, naming
from unblot.errors import UnblotError, printable

DEFLATED = "1.2.840.10008.1.2.1.99"  # a transfer syntax that is unpacked as a whole, however large
TRANSFORMATION = "PixelValueTransformationSequence"  # of a functional group


@dataclass(frozen=True)
class Slices:
    """The pictures of one file. count: how many. scaled: whether slope and intercept change the values. unit: of the
    values, "" if unknown. read(float): (n, H, W) or (n, H, W, 3), float32 with slope and intercept if asked."""

    count: int
    scaled: bool
    unit: str
    read: Callable[[bool], np.ndarray]


def dicom_slices(path: str) -> Slices:
    """The frames of a DICOM file; slope and intercept of the modality, PS3.3 C.11.1."""
    import pydicom

    size = file_origin(path)[1]
    if str(pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID", "")) == DEFLATED:
        raise UnblotError("it is deflated; save it with another transfer syntax")
    header = pydicom.dcmread(path, stop_before_pixels=True)
    count, height, width = int(header.get("NumberOfFrames", 1) or 1), int(header.Rows), int(header.Columns)
    values = count * int(header.SamplesPerPixel) * height * width
    check_expansion(values * int(header.BitsAllocated) // 8, size, printable(path))
    found = _transformations(header, count)
    slope = np.array([float(one.get("RescaleSlope") or 1) for one in found]).reshape(-1, 1, 1)
    intercept = np.array([float(one.get("RescaleIntercept") or 0) for one in found]).reshape(-1, 1, 1)
    units = {str(one.get("RescaleType", "") or ("HU" if header.get("Modality") == "CT" else "")) for one in found}

    def read(scaled: bool) -> np.ndarray:
        with naming(path, "DICOM"):
            array = _colours(pydicom.dcmread(path)).reshape(count, height, width, -1)
        if scaled:
            array = (array * slope[..., None] + intercept[..., None]).astype(np.float32)
        return array[..., 0] if array.shape[3] == 1 else array

    changed = bool((slope != 1).any() or (intercept != 0).any())
    return Slices(count, changed, printable(units.pop()) if len(units) == 1 else "", read)


def _transformations(header: Any, count: int) -> list[Any]:
    """Where slope and intercept of each frame stand: in its own functional group, the shared one, or the header;
    PS3.3 C.7.6.16.2.9."""
    shared = header.get("SharedFunctionalGroupsSequence") or [{}]
    own = [*(header.get("PerFrameFunctionalGroupsSequence") or []), *[{}] * count]
    return [(frame.get(TRANSFORMATION) or shared[0].get(TRANSFORMATION) or [header])[0] for frame in own[:count]]


def _colours(header: Any) -> np.ndarray:
    """The pixels of a DICOM file, palettes and luminance with chrominance as RGB."""
    from pydicom.pixels import apply_color_lut, convert_color_space

    array, kind = header.pixel_array, header.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        return apply_color_lut(array, header)
    if kind.startswith("YBR_FULL"):
        return convert_color_space(array, kind, "RGB", per_frame=True)
    return array
