"""The metrics of peers.py as a table and as a chart."""

from pathlib import Path
from typing import Any

from unblot.system.files import write_text
from unblot.system.plots import log_axis, svg_file


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


def save_chart(result: dict[str, Any], path: Path) -> None:
    """Distance over the time of training, on a logarithmic scale, as an SVG file; nothing where nothing is measured."""
    curves = {
        name: sorted((s["seconds"] / 60, s["frechet"]) for s in f["snapshots"] if s.get("frechet"))
        for name, f in result["contestants"].items()
    }
    distances = [distance for curve in curves.values() for _, distance in curve]
    if not distances:
        return
    floor = max(1e-3, min(result["floor"].values()))

    def draw(axes: Any) -> None:
        for colour, (name, curve) in zip(("#0b6e4f", "#7fb069", "#d1495b", "#e08e45"), curves.items()):
            if curve:
                axes.plot(*zip(*curve), color=colour, label=name)
        axes.axhline(floor, color="#888888", linestyle="--", label="real pictures")
        log_axis(axes, "y", min(floor, *distances) / 1.2, max(distances) * 1.2)
        axes.set(xlabel="minutes of training", ylabel="Fréchet distance to held-out pictures")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    write_text(path, svg_file(680, 360, "Fréchet distance over time", draw))
