"""Which files are DICOM: by their suffix, or without one by their first bytes."""

import os
import stat

from unblot.data.readers.walking import suffix_of

DICOM = (".dcm", ".dicom", ".ima")
PREAMBLE, MARK = 128, b"DICM"  # bytes before the mark, PS3.10 section 7.1


def may_be_dicom(base: str) -> bool:
    """Whether a file is named as DICOM files are: by a suffix, by none, or by numbers with dots between them.

    DICOMDIR, the list of a disc's files, holds no picture.
    """
    suffix = suffix_of(base)
    return suffix in DICOM or (not suffix.strip(".0123456789") and base.upper() != "DICOMDIR")


def is_dicom(path: str) -> bool:
    """Whether a file that `may_be_dicom` is: with the suffix always, else where it has DICOM's mark."""
    if suffix_of(path) in DICOM:
        return True
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # nobody waits for a pipe
            return False
        with open(path, "rb") as file:
            return file.read(PREAMBLE + len(MARK))[PREAMBLE:] == MARK
    except OSError:
        return False
