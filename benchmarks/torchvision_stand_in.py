"""Imported before the peers: lets a torchvision whose compiled operators do not fit this PyTorch be imported.

diffusers and denoising-diffusion-pytorch import torchvision, which then asks for two operators that neither uses.
"""

import importlib.util
import sys

import torch

OPERATORS = []  # live as long as the process

if importlib.util.find_spec("torchvision"):
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        OPERATORS.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            OPERATORS[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
