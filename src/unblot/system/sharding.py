"""Sharding: one network spread over several processes, where it does not fit into the memory of one (FSDP2).

Each process keeps its share of every weight, gradient, moment and average; the weights of a block are gathered while it
computes (Zhao et al. 2023). Sharded tensors are PyTorch's DTensors; only these functions deal with them. Checkpoints
hold whole tensors, so that a run goes on sharded or not, on any number of processes.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from unblot.errors import UnblotError, arg
from unblot.system.distributed import Group

MODES = ("auto", "on", "off")
BYTES = 20  # per parameter in training: weight, gradient, two moments and average, in float32
ROOM = 0.5  # share of a GPU's memory for them; activations need the rest


def check_mode(mode: str) -> None:
    """Raises UnblotError for a mode that is not in MODES."""
    if mode not in MODES:
        raise UnblotError(f"unknown {arg('shard', mode)}; choose {', '.join(MODES)}")


def wants_shards(mode: str, group: Group, networks: Sequence[nn.Module], device: torch.device) -> bool:
    """Whether to shard the networks: "on" where there are several processes, "auto" where they are too large for one.

    Raises UnblotError for another mode.
    """
    check_mode(mode)
    if group.world == 1 or mode == "off":
        return False
    if mode == "on":
        return True
    parameters = sum(p.numel() for network in networks for p in network.parameters())
    return device.type == "cuda" and fills(parameters, torch.cuda.get_device_properties(device).total_memory)


def fills(parameters: int, memory: float) -> bool:
    """Whether training so many parameters takes more than their share of a GPU's memory, in bytes."""
    return BYTES * parameters >= ROOM * memory


def shard(network: nn.Module, group: Group, device: torch.device, gathered_once: bool = False) -> None:
    """Shards the network's parameters over all processes, block by block.

    gathered_once: the weights stay gathered from the first call of a step to its end, not only while their block
    computes: for a network that each process calls another number of times.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # FSDP2 takes no other
    mesh = init_device_mesh(device.type, (group.world,))
    for module in (*_blocks(network), network):
        # The outermost is not left out: averages are put in.
        fully_shard(module, mesh=mesh, reshard_after_forward=not gathered_once)


def forget_gathered(module: nn.Module) -> None:
    """Drops weights that are still gathered from a call: the parameters of the module are its shards again."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # imported if anything is sharded
    for part in module.modules():
        if fsdp is not None and isinstance(part, fsdp.FSDPModule):
            part.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, which all processes must ask for at once; another tensor as it is."""
    return tensor.full_tensor() if is_shared(tensor) else tensor  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor; another tensor as it is."""
    return tensor.to_local() if is_shared(tensor) else tensor  # type: ignore[attr-defined]


def put_together(part: Tensor, other: Tensor) -> Tensor:
    """The whole tensor of which this is the process's part, sharded as `other` is, asked for by all processes at once;
    the part itself where that is not sharded."""
    if not is_shared(other):
        return part
    shared = torch.empty_like(other)
    local(shared).copy_(part)
    return whole(shared)


def gathered(group: Group, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole tensors, gathered one after another, on the CPU where they were sharded; only in the main process."""
    kept = {}
    for name, tensor in tensors.items():
        one = whole(tensor)
        if group.is_main_process:
            kept[name] = one.cpu() if is_shared(tensor) else one
    return kept


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """This process's part of a whole tensor, sharded as `other` is; the tensor itself where that is not sharded."""
    if not is_shared(other) or is_shared(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh = other.device_mesh  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(mesh.device_type), mesh, other.placements, src_data_rank=None)  # type: ignore[attr-defined]


def is_shared(tensor: Tensor) -> bool:
    """Whether a tensor is sharded."""
    module = sys.modules.get("torch.distributed.tensor")  # half a second to import, and imported if anything is sharded
    return module is not None and isinstance(tensor, module.DTensor)


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a network, which compute one after another: members of its lists of modules."""
    for child in network.children():
        if isinstance(child, nn.ModuleList):
            yield from (block for block in child if next(block.parameters(), None) is not None)
