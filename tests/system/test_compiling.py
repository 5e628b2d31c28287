"""A network is compiled where that is faster, and runs as it is where it is not or cannot be."""

import time

import pytest
import torch
from torch import nn

from unblot import UnblotError, api
from unblot.system import compiling
from unblot.system.compiling import compile_where_it_pays, compiled_for_many
from unblot.training import trainer as engine

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def network(monkeypatch) -> nn.Module:
    """A network whose compiled self is marked; nobody waits for a device."""
    monkeypatch.setattr(compiling, "wait_for", lambda device: None)
    return nn.Linear(2, 2)


def compiled_to(monkeypatch, seconds: float) -> None:
    """torch.compile makes a forward that takes so long."""

    def compiled(forward, dynamic):
        def slower(x):
            time.sleep(seconds)
            return forward(x)

        return slower

    monkeypatch.setattr(torch, "compile", compiled)


def decide(network: nn.Module, mode: str, device: torch.device, steps: int, own: float = 0.0) -> tuple[bool, list[str]]:
    """The decision for a network whose own pass takes `own` seconds, and what was said."""
    forward, notes = type(network).forward, []

    def passes() -> None:
        if "forward" not in vars(network):
            time.sleep(own)
        network(torch.ones(1, 2))

    assert type(network).forward is forward
    return compile_where_it_pays(network, mode, device, passes, steps, notes.append), notes


@pytest.mark.parametrize(("mode", "device", "steps"), [("off", GPU, 10**9), ("auto", CPU, 10**9), ("auto", GPU, 1)])
def test_it_is_not_tried_where_it_cannot_pay(network, monkeypatch, mode, device, steps):
    compiled_to(monkeypatch, 0)
    assert decide(network, mode, device, steps) == (False, [])
    assert "forward" not in vars(network)


def test_it_stays_where_it_is_faster_and_goes_where_it_is_not(network, monkeypatch):
    compiled_to(monkeypatch, 0.02)
    kept, notes = decide(network, "auto", GPU, 10**9)
    assert not kept
    assert "without it" in notes[0]
    assert "forward" not in vars(network)
    kept, notes = decide(network, "auto", GPU, 10**9, own=0.2)
    assert kept
    assert "going on with it" in notes[0]
    assert "forward" in vars(network)


def test_a_compiler_that_fails_is_a_line_and_no_more(network, monkeypatch):
    def compiled(forward, dynamic):
        def fails(x):
            raise RuntimeError("\n\nno C++ compiler\nsee the log")

        return fails

    monkeypatch.setattr(torch, "compile", compiled)
    kept, notes = decide(network, "on", CPU, 10)
    assert not kept
    assert notes == ["torch.compile failed, going on without it: RuntimeError: no C++ compiler"]
    assert network(torch.ones(1, 2)).shape == (1, 2)


def test_another_mode_is_refused(network):
    with pytest.raises(UnblotError, match=r"'maybe'.*auto, on, off"):
        decide(network, "maybe", CPU, 10)


def test_a_compiled_run_is_the_run(monkeypatch):
    """Traced whole, with what stays of it run as it was: the same losses, names of weights and averaged pictures."""
    whole = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, dynamic: whole(f, dynamic=dynamic, backend="aot_eager", fullgraph=True)
    )
    dataset = api.open_data("digits")
    tiny = {
        "network": "unet:width=16,multipliers=1,blocks=1,attention=0",
        "steps": 8,
        "batch_size": 24,
        "compile": "on",
    }
    config = api.plan_run(api.DataConfig(data="digits"), dataset, tiny)
    plain, compiled = (engine.denoising_trainer(config, dataset) for _ in range(2))
    notes: list[str] = []
    compiled.compile(notes.append)
    assert "going on with it" in notes[0]
    for _ in range(3):
        torch.testing.assert_close(compiled.take_step().loss, plain.take_step().loss)
    assert list(compiled.tensors()) == list(plain.tensors())
    x, level = torch.randn(3, 1, 8, 8), compiled.task.schedule(torch.tensor(0.5))
    with plain.averaged(), compiled.averaged(), torch.no_grad():
        torch.testing.assert_close(compiled.denoiser(x, level).x0, plain.denoiser(x, level).x0)


def test_for_many_passes_it_is_tried_and_undone_at_the_end(network, monkeypatch):
    compiled_to(monkeypatch, 0)
    for count, kept in ((compiling.MANY - 1, False), (10**6, True)):

        def passes() -> None:
            if "forward" not in vars(network):
                time.sleep(0.02)

        with compiled_for_many(network, "auto", GPU, passes, count, lambda line: None):
            assert ("forward" in vars(network)) == kept
        assert "forward" not in vars(network)


def test_other_forms_of_input_are_not_compiled_anew(network, monkeypatch):
    seen = []

    def backend(graph, inputs):
        seen.append(inputs)
        return graph.forward

    own = torch.compile
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: own(forward, dynamic=dynamic, backend=backend))
    monkeypatch.setattr(compiling, "WORTH", 0.0)
    monkeypatch.setattr(compiling, "GAIN", 0.0)
    with compiled_for_many(network, "auto", GPU, lambda: network(torch.ones(4, 2)), 10**6, lambda line: None):
        once = len(seen)
        for rows in (4, 3, 4, 5):
            assert network(torch.ones(rows, 2)).shape == (rows, 2)
    assert (once, len(seen)) == (1, 1)
