"""UNetModel of improved-diffusion and guided-diffusion, written anew from what the papers and the trainers' flags say.

Its tensors have the names that those trainers give them, and it computes what they compute.
"""

import math

import torch
from torch import Tensor, nn

OPTIONS = {
    "channels": 3, "outputs": 3, "width": 32, "multipliers": (1, 3), "blocks": 1, "attention": (1,), "labels": 0,
    "scale_shift": True, "heads": 1, "head_channels": 0, "new_order": False, "updown": False,
}  # fmt: skip


def unet_model(**changes) -> "UNetModel":
    """A small network with random weights, of which none hides what it does."""
    torch.manual_seed(0)
    net = UNetModel(**{**OPTIONS, **changes})
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5 / max(1, parameter[0].numel()) ** 0.5)
    return net.eval()


class Residual(nn.Module):
    def __init__(self, ins: int, outs: int, o: dict, resize: str = ""):
        super().__init__()
        self.o, self.resize = o, resize
        self.in_layers = nn.Sequential(nn.GroupNorm(32, ins), nn.SiLU(), nn.Conv2d(ins, outs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * o["width"], outs * (1 + o["scale_shift"])))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, outs), nn.SiLU(), nn.Dropout(), nn.Conv2d(outs, outs, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if ins == outs else nn.Conv2d(ins, outs, 1)

    def resized(self, x: Tensor) -> Tensor:
        if self.resize == "down":
            return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2) if self.resize else x

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.in_layers[2](self.resized(self.in_layers[1](self.in_layers[0](x))))
        e = self.emb_layers(e)[:, :, None, None]
        width = h.shape[1]
        if self.o["scale_shift"]:
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + e[:, :width]) + e[:, width:])
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(self.resized(x)) + h


class Attention(nn.Module):
    def __init__(self, width: int, o: dict):
        super().__init__()
        self.heads = o["heads"] or width // o["head_channels"]
        self.new_order = o["new_order"]
        self.norm = nn.GroupNorm(32, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        flat = x.flatten(2)
        qkv, size = self.qkv(self.norm(flat)), x.shape[1] // self.heads
        found = []
        for head in range(self.heads):
            starts = [(3 * head + i) * size for i in range(3)]  # q, k, v of each head
            if self.new_order:
                starts = [head * size + i * x.shape[1] for i in range(3)]  # q of all heads, k of all, v of all
            q, k, v = (qkv[:, start : start + size] for start in starts)
            weight = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(size), dim=-1)
            found.append(v @ weight.transpose(1, 2))
        return (flat + self.proj_out(torch.cat(found, 1))).view_as(x)


class Convolution(nn.Module):
    """Halves (op) or doubles (conv) height and width."""

    def __init__(self, width: int, name: str):
        super().__init__()
        self.add_module(name, nn.Conv2d(width, width, 3, stride=2 if name == "op" else 1, padding=1))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        if hasattr(self, "op"):
            return self.op(x)
        return self.conv(x.repeat_interleave(2, -1).repeat_interleave(2, -2))


class First(nn.Conv2d):
    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return super().forward(x)


class UNetModel(nn.Module):
    """x (B, C, H, W), index (B,), label (B,) or None -> (B, outputs, H, W)."""

    def __init__(self, **o):
        super().__init__()
        self.o, width, blocks = o, o["width"], o["blocks"]
        widths = [width * m for m in o["multipliers"]]
        self.time_embed = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        if o["labels"]:
            self.label_emb = nn.Embedding(o["labels"], 4 * width)
        places: list[list[nn.Module]] = [[First(o["channels"], width, 3, padding=1)]]
        c, skips = width, [width]
        for level, w in enumerate(widths):
            for _ in range(blocks):
                places.append([Residual(c, w, o)] + [Attention(w, o)] * (level in o["attention"]))
                c = w
                skips.append(c)
            if level < len(widths) - 1:
                places.append([Residual(c, c, o, "down") if o["updown"] else Convolution(c, "op")])
                skips.append(c)
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, places))
        self.middle_block = nn.ModuleList([Residual(c, c, o), Attention(c, o), Residual(c, c, o)])
        places = []
        for level, w in reversed(list(enumerate(widths))):
            for i in range(blocks + 1):
                places.append([Residual(c + skips.pop(), w, o)] + [Attention(w, o)] * (level in o["attention"]))
                c = w
                if level and i == blocks:
                    places[-1].append(Residual(c, c, o, "up") if o["updown"] else Convolution(c, "conv"))
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, places))
        self.out = nn.Sequential(nn.GroupNorm(32, c), nn.SiLU(), nn.Conv2d(c, o["outputs"], 3, padding=1))

    def forward(self, x: Tensor, index: Tensor, label: Tensor | None = None) -> Tensor:
        half = self.o["width"] // 2
        angles = index[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
        e = self.time_embed(torch.cat([angles.cos(), angles.sin()], 1).to(x.dtype))
        if label is not None:
            e = e + self.label_emb(label)
        h, skips = x, []
        for place in self.input_blocks:
            for module in place.children():
                h = module(h, e)
            skips.append(h)
        for module in self.middle_block:
            h = module(h, e)
        for place in self.output_blocks:
            h = torch.cat([h, skips.pop()], 1)
            for module in place.children():
                h = module(h, e)
        return self.out(h)
