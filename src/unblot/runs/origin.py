"""What a run took from the weights that it began with, in words."""

from unblot.config.transfer import Origin


def describe_origin(origin: Origin) -> str:
    """The table of what was taken, in part, begun anew and left, with a line above it."""
    choices = f"; so are {', '.join(origin.choices)}" if origin.choices else ""
    first = f"{origin.share:.1%} of the weights are from {origin.path} (sha256 {origin.sha256[:12]}){choices}"
    rows = [(row.part, row.taken, "" if row.taken == "left" else f"{row.share:.1%}", row.why) for row in origin.parts]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0])).rstrip() for row in rows]
    return "\n".join([first, *(f"  {line}" for line in lines)])
