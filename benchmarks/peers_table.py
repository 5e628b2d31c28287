"""The metrics of peers.py as a table and as a chart."""

from pathlib import Path
from typing import Any

import numpy as np


def table(result: dict[str, Any]) -> str:
    """The metrics, a line for each contestant, the better peer's distance over ours, and ours over the floor."""
    lines = [
        "| | parameters | pictures/s | of the product rate | peak memory | Fréchet distance after s |",
        "|" + "---|" * 6,
    ]
    for name, f in result["contestants"].items():
        curve = ", ".join(f"{s['frechet']:g} ({s['seconds']:.0f})" for s in f["snapshots"] if "frechet" in s)
        lines.append(
            f"| {name} | {f['parameters'] / 1e6:.2f} M | {f['pictures_per_second']:g} | "
            f"{f['share_of_matrix_product_rate']:.0%} | {f['peak_memory_mib']} MiB | {curve} |"
        )
    lines.append(f"floors: {result['floor']}")
    ends = {name: f["snapshots"][-1].get("frechet") for name, f in result["contestants"].items()}
    peers = [end for name, end in ends.items() if end and not name.startswith("unblot")]
    if ends.get("unblot") and peers:
        floor = result["floor"][result["contestants"]["unblot"]["snapshots"][-1]["pictures"]]
        lines.append(
            f"the better peer over unblot: {min(peers) / ends['unblot']:.1f}; "
            f"unblot over the floor: {ends['unblot'] / floor:.1f}"
        )
    if "ddpm_unet_vs_diffusers" in result:
        ratios = result["ddpm_unet_vs_diffusers"]
        lines.append(f"equal networks, diffusers' time over ddpm_unet's: {ratios}")
    return "\n".join(lines)


def chart(result: dict[str, Any], path: Path) -> None:
    """Distance over time, both on logarithmic scales, as an SVG."""
    width, height, left, bottom, right = 680, 360, 60, 50, 190
    curves = {
        name: [(s["seconds"] / 60, s["frechet"]) for s in f["snapshots"] if s.get("frechet")]
        for name, f in result["contestants"].items()
    }
    floor = max(1e-3, min(result["floor"].values()))
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return
    most_x, most_y = max(x for x, _ in points), max(y for _, y in points)
    least_y = min(floor, *(y for _, y in points)) / 1.2

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + x / most_x * (width - left - right)
        return across, 20 + (1 - np.log(y / least_y) / np.log(1.2 * most_y / least_y)) * (height - 20 - bottom)

    colours = ("#0b6e4f", "#7fb069", "#d1495b", "#e08e45")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for exponent in range(int(np.floor(np.log10(least_y))), int(np.ceil(np.log10(most_y))) + 1):
        _, y = place(0, 10.0**exponent)
        if 20 <= y <= height - bottom:
            parts.append(f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{10.0**exponent:g}</text>')
    for colour, (name, curve) in zip(colours, curves.items()):
        at = [place(*point) for point in sorted(curve)]
        if at:
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts.append(f'<text x="{at[-1][0] + 6:.1f}" y="{at[-1][1] + 4:.1f}" fill="{colour}">{name}</text>')
    longest = max(curves.values(), key=len)
    for minutes, _ in longest:
        x, _ = place(minutes, floor)
        parts.append(f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{minutes:.3g}</text>')
    _, y = place(0, floor)
    parts.append(
        f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#888" stroke-dasharray="4"/>'
    )
    parts.append(f'<text x="{width - right + 6}" y="{y + 4:.1f}" fill="#888">real pictures</text>')
    parts.append(
        f'<text x="{left}" y="{height - 10}">minutes of training; Fréchet distance to held-out pictures</text>'
    )
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")
