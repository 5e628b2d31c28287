"""DICOM, NIfTI and MATLAB: one slice or frame a picture, values and units kept."""

import itertools
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from medical_files import dicom_file, write_nifti
from unblot.data.dataset import open_data
from unblot.errors import UnblotError

RNG = np.random.default_rng(4)
SLICES = RNG.integers(-1000, 2000, (3, 6, 9)).astype(np.int16)


def test_a_dicom_series_is_in_hounsfield_units(tmp_path: Path) -> None:
    for i, values in enumerate(SLICES):
        dicom_file(tmp_path / f"{i}.dcm", values, Modality="CT", RescaleSlope=2, RescaleIntercept=-1024)
    said: list[str] = []
    data = open_data(str(tmp_path), report=said.append)
    assert data.pictures.dtype == np.float32
    np.testing.assert_array_equal(data.pictures[:, 0], SLICES * 2.0 - 1024)
    assert "slope and intercept applied, values in HU" in said


def test_dicom_without_a_suffix_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    for name, values in zip(("IM0001", "1.2.840.113", "deeper/IM0003"), SLICES):
        dicom_file(tmp_path / name, values)
    for name in ("DICOMDIR", "README"):
        (tmp_path / name).write_bytes(bytes(128) + (b"DICM" if name == "DICOMDIR" else b"none"))
    said: list[str] = []
    data = open_data(str(tmp_path), report=said.append)
    assert data.cached is not None
    assert data.cached.names == ["1.2.840.113", "IM0001", "deeper/IM0003"]
    np.testing.assert_array_equal(data.pictures[:, 0], SLICES[[1, 0, 2]])
    assert "other files left out: no suffix (2)" in said
    np.testing.assert_array_equal(open_data(str(tmp_path / "IM0001")).pictures[:, 0], SLICES[:1])


def test_the_frames_of_a_dicom_file_are_pictures_of_the_stored_type(tmp_path: Path) -> None:
    dicom_file(tmp_path / "x.dcm", SLICES)
    data = open_data(str(tmp_path / "x.dcm"))
    assert data.cached is not None
    assert data.cached.names == ["x.dcm, slice 0", "x.dcm, slice 1", "x.dcm, slice 2"]
    assert data.pictures.dtype == np.int16
    np.testing.assert_array_equal(data.pictures[:, 0], SLICES)


def test_the_palette_of_a_dicom_file_gives_colours(tmp_path: Path) -> None:
    colours = RNG.integers(0, 65536, (3, 256)).astype("<u2")
    palette: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, table in zip(("Red", "Green", "Blue"), colours):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    for frames in (RNG.integers(0, 256, (2, 6, 9), np.uint8), RNG.integers(0, 256, (6, 9), np.uint8)):
        dicom_file(tmp_path / "x.dcm", frames, **palette)
        wanted = colours[:, frames.reshape(-1, 6, 9)].transpose(1, 0, 2, 3)
        np.testing.assert_array_equal(open_data(str(tmp_path / "x.dcm")).pictures, wanted)


@pytest.mark.parametrize("own", [False, True])
def test_slope_and_intercept_of_a_frame_are_in_its_functional_group_or_the_shared_one(
    own: bool, tmp_path: Path
) -> None:
    pydicom = pytest.importorskip("pydicom")

    def group(slope: float, intercept: float) -> object:
        inner, outer = pydicom.Dataset(), pydicom.Dataset()
        inner.RescaleSlope, inner.RescaleIntercept, inner.RescaleType = slope, intercept, "HU"
        outer.PixelValueTransformationSequence = [inner]
        return outer

    groups: dict[str, object] = {"SharedFunctionalGroupsSequence": [group(2, -1024)]}
    if own:
        groups["PerFrameFunctionalGroupsSequence"] = [group(1 + i, 10 * i) for i in range(3)]
    dicom_file(tmp_path / "x.dcm", SLICES, **groups)
    said: list[str] = []
    data = open_data(str(tmp_path / "x.dcm"), report=said.append)
    wanted = [SLICES[i] * (1.0 + i) + 10 * i for i in range(3)] if own else SLICES * 2.0 - 1024
    np.testing.assert_array_equal(data.pictures[:, 0], wanted)
    assert "slope and intercept applied, values in HU" in said


def test_one_scaled_file_makes_all_values_float(tmp_path: Path) -> None:
    dicom_file(tmp_path / "1.dcm", SLICES[0])
    dicom_file(tmp_path / "2.dcm", SLICES[1], RescaleSlope=0.5, RescaleIntercept=0)
    np.testing.assert_array_equal(
        open_data(str(tmp_path)).pictures[:, 0], SLICES[:2] * np.array([1, 0.5])[:, None, None]
    )


def test_a_broken_medical_file_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    dicom_file(tmp_path / "1.dcm", SLICES[0])
    (tmp_path / "2.dcm").write_bytes(b"nothing of the kind")
    data = open_data(str(tmp_path), on_broken="skip")
    assert data.cached is not None
    assert data.cached.names == ["1.dcm"]
    assert [broken.name for broken in data.cached.broken] == ["2.dcm"]


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.25, 3)])
def test_the_axial_slices_of_nifti_files_are_pictures(slope: float, intercept: float, tmp_path: Path) -> None:
    for name, values in (("1.nii", SLICES), ("2.nii.gz", SLICES[:2])):
        write_nifti(tmp_path / name, values, slope, intercept)
    data = open_data(str(tmp_path))
    wanted = np.concatenate([SLICES, SLICES[:2]])
    assert data.pictures.dtype == (np.int16 if slope == 1 else np.float32)
    np.testing.assert_allclose(data.pictures[:, 0], wanted if slope == 1 else wanted * 0.25 + 3)


def test_a_nifti_volume_is_turned_to_the_axes_of_the_body(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    turned = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    volume = np.arange(2 * 3 * 2, dtype=np.int16).reshape(2, 3, 2)
    nibabel.Nifti1Image(volume, turned).to_filename(tmp_path / "x.nii")
    wanted = np.asarray(nibabel.as_closest_canonical(nibabel.load(tmp_path / "x.nii")).dataobj)
    pictures = open_data(str(tmp_path / "x.nii")).pictures[:, 0]
    np.testing.assert_array_equal(pictures, wanted[:, ::-1].transpose(2, 1, 0))
    assert pictures.shape == (2, 2, 3)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_all_axial_slices_are_read_whatever_the_order_of_the_stored_axes(axes: tuple[int, ...], tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    volume = np.arange(9 * 6 * 3 * 2, dtype=np.int16).reshape(9, 6, 3, 2)  # right, front, up, time
    affine = np.eye(4)[:, [*axes, 3]]
    nibabel.Nifti1Image(volume.transpose(*axes, 3), affine).to_filename(tmp_path / "x.nii")
    data = open_data(str(tmp_path / "x.nii"))
    slices = volume[:, ::-1].transpose(3, 2, 1, 0).reshape(6, 6, 9)
    np.testing.assert_array_equal(data.pictures[:, 0], slices)


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_matlab_arrays_have_pictures_on_their_last_axis(version: str, tmp_path: Path) -> None:
    colour = RNG.integers(0, 256, (8, 9, 3, 5), np.uint8)
    labels = np.array([[1], [2], [10], [1], [2]], np.uint8)
    if version == "5":
        scipy.io.savemat(tmp_path / "x.mat", {"X": colour, "y": labels})
    else:
        with h5py.File(tmp_path / "x.mat", "w", userblock_size=512) as file:
            file["X"], file["y"] = colour.T, labels.T
        with open(tmp_path / "x.mat", "r+b") as raw:
            raw.write(b"MATLAB 7.3 MAT-file")
    data = open_data(str(tmp_path / "x.mat"))
    np.testing.assert_array_equal(data.pictures, colour.transpose(3, 2, 0, 1))
    assert data.classes == ("1", "2", "10")


@pytest.mark.parametrize(("shape", "wanted"), [((8, 9), (1, 8, 9)), ((8, 9, 3), (3, 8, 9)), ((8, 9, 7), (1, 8, 9))])
def test_matlab_files_of_one_picture_or_of_slices(
    shape: tuple[int, ...], wanted: tuple[int, int, int], tmp_path: Path
) -> None:
    scipy.io.savemat(tmp_path / "x.mat", {"a": RNG.random(shape)})
    data = open_data(str(tmp_path / "x.mat"))
    assert (data.shape, len(data)) == (wanted, 7 if shape[-1] == 7 else 1)


def test_a_deflated_dicom_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    import pydicom

    dicom_file(tmp_path / "1.dcm", SLICES[0])
    packed = pydicom.dcmread(tmp_path / "1.dcm")
    packed.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    packed.save_as(tmp_path / "1.dcm")
    with pytest.raises(UnblotError, match=r"1\.dcm: it is deflated"):
        open_data(str(tmp_path / "1.dcm"))


def test_a_matlab_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.mat").write_bytes(b"?" * 300)
    with pytest.raises(UnblotError, match=r"cannot read '.*x\.mat' as a MATLAB file"):
        open_data(str(tmp_path / "x.mat"))
