"""metrics.jsonl: whatever was done to a line of it, what is read can be used."""

import json
from typing import Any

import pytest

from unblot.runs.metrics import COLOURS, OCTAVES, parse_metrics

COLOUR, DETAIL = {key: [0.5, None] for key in COLOURS}, {key: [1.0] for key in OCTAVES}


@pytest.mark.parametrize(
    ("preview", "kept"),
    [
        (COLOUR, True),  # of a run from before octaves were measured
        (COLOUR | DETAIL, True),
        (COLOUR | DETAIL | {"octaves": ["1.0"]}, False),
        (COLOUR | DETAIL | {"octaves": [1.0, 1.0]}, False),
        (COLOUR | {"octaves": [1.0]}, False),
        (COLOUR | {"mean_z": [0.5, True]}, False),
        (DETAIL, False),
        ([], False),
    ],
)
def test_a_preview_is_read_with_all_its_numbers_or_skipped(preview: Any, kept: bool) -> None:
    line = {"step": 1, "preview": preview}
    assert parse_metrics(json.dumps(line).encode() + b"\n")[:2] == (([line], 0) if kept else ([], 1))
