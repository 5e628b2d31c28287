"""DICOM and NIfTI files for tests, made by the libraries that read them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest


def dicom_file(path: Path, frames: np.ndarray, **header: object) -> None:
    """A DICOM file of frames (H, W) or (N, H, W) in uint8 or int16, with these header fields."""
    pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = CTImageStorage
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = generate_uid()
    found.Rows, found.Columns = frames.shape[-2:]
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated = found.BitsStored = 8 * frames.dtype.itemsize
    found.HighBit, found.PixelRepresentation = found.BitsStored - 1, int(frames.dtype.kind == "i")
    if frames.ndim == 3:
        found.NumberOfFrames = len(frames)
    for name, value in header.items():
        setattr(found, name, value)
    found.PixelData = frames.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save_as(path, enforce_file_format=True)


def write_dicom(folder: Path, pictures: np.ndarray, labels: Sequence[str]) -> Path:
    """A folder of DICOM files, one a picture, in folders by label."""
    for i, (picture, label) in enumerate(zip(pictures, labels)):
        dicom_file(folder / label / f"{i}.dcm", picture)
    return folder


def write_nifti(path: Path, pictures: np.ndarray, slope: float = 1, intercept: float = 0) -> None:
    """A NIfTI volume whose axial slices, seen with the front up, are the pictures (N, H, W)."""
    nibabel = pytest.importorskip("nibabel")
    volume = pictures.transpose(2, 1, 0)[:, ::-1]
    image = nibabel.Nifti1Image(np.ascontiguousarray(volume), np.eye(4))
    image.header.set_slope_inter(slope, intercept)
    image.to_filename(path)
