"""Distillation: its target is the flow of the teacher, the student beats it, and its run is like any other."""

import dataclasses
import shutil
import signal
from pathlib import Path

import pytest
import torch

from helpers import by_two_processes, flags
from oracles import F64, gaussian, gaussian_flow, ideal
from unblot import UnblotError, api
from unblot.config.distill import DistillConfig
from unblot.denoiser import Denoised, Denoiser
from unblot.distillation.student import student_config, teacher_of
from unblot.distillation.targets import one_step_x0, segment
from unblot.distillation.task import DistillationTask
from unblot.editing import images as edit
from unblot.interchange.raw import with_raw_weights
from unblot.nn import NETWORKS
from unblot.process.levels import NoiseLevel, corrupt, mix, norm
from unblot.process.schedules import SCHEDULES, SIGMA_MIN, only_at
from unblot.runs.folder import METRICS, MODEL, TEACHER, read_config
from unblot.runs.metrics import read_metrics
from unblot.sampling.batched import sampling_levels
from unblot.sampling.loop import sample
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import levels_at
from unblot.system.files import read_tensors
from unblot.training import checkpoint
from unblot.training import trainer as engine
from unblot.training.batches import Batch

TINY = {"network": "mlp:width=32", "steps": 12, "batch_size": 40, "checkpoint_every": 12, "preview_every": 0}
FEW = {"steps": 9, "log_every": 3, "checkpoint_every": 4, "preview_every": 4}
MEAN, STD = 0.3, 0.5


def level_at(schedule, ratio):
    return levels_at(schedule, torch.tensor([ratio], dtype=F64)).at(0)


def flows(name, high, low, steps):
    """The target from `high` to `low` (sigma/alpha; 0: the clean picture), and the exact one, on normal data."""
    schedule = SCHEDULES[name]()
    t = level_at(schedule, high)
    s = level_at(schedule, low) if low else schedule(torch.zeros((), dtype=F64))
    x = norm(t, STD) * torch.randn(64, 1, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    found = one_step_x0(gaussian(MEAN, STD), x, segment(schedule, t, s, steps))
    x_s, shrink = gaussian_flow(x, t, s, MEAN, STD), s.sigma / t.sigma
    return found, (x_s - shrink * x) / (s.alpha - shrink * t.alpha)


# --- the target


@pytest.mark.parametrize("name", ["linear", "edm", "flow"])
def test_the_target_is_the_flow_of_the_exact_teacher_to_second_order(name):
    counts = torch.tensor([8, 16, 32, 64])
    errors = [(found - exact).abs().mean() for found, exact in (flows(name, 20.0, 0.7, int(n)) for n in counts)]
    slope = torch.stack(errors).log().diff() / counts.double().log().diff()
    assert abs(-slope[-1] - 2) < 0.2, slope
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("name", ["linear", "edm", "flow"])
def test_the_last_target_is_the_consistency_function(name):
    """Down to SIGMA_MIN, where the teacher's last estimate stands for what is left."""
    found, exact = flows(name, 1.0, 0.0, 64)
    assert (found - exact).abs().max() < 2 * SIGMA_MIN


@pytest.mark.parametrize("parameterization", ["edm", "v", "flow", "eps"])
def test_at_the_cleanest_level_a_model_gives_its_input_back(parameterization):
    torch.manual_seed(0)

    class Anything(torch.nn.Module):
        embeds = "log_noise_ratio"

        def forward(self, x, noise, label):
            return torch.tanh(3 * x)

    schedule = SCHEDULES["linear" if parameterization == "v" else "flow"]()
    level = level_at(schedule, SIGMA_MIN)
    x = torch.randn(16, 1, 4, 4)
    assert (Denoiser(Anything(), parameterization, 0.5)(x, level).x0 - x).abs().max() < 4 * SIGMA_MIN * x.abs().max()
    way = segment(schedule, level, schedule(torch.zeros((), dtype=F64)), 1)
    kept = one_step_x0(gaussian(0.0, 1.0), x.double(), way)
    assert (kept - x).abs().max() < 2 * SIGMA_MIN * x.abs().max()


def test_a_segment_goes_from_its_level_to_the_next_from_pure_noise_too():
    for name in ("flow", "linear_zero_snr", "edm"):
        schedule = SCHEDULES[name]()
        t, s = schedule(torch.ones(1, dtype=F64)).at(0), level_at(schedule, 1.0)
        for steps in (1, 2, 5):
            way = segment(schedule, t, s, steps)
            assert len(way.sigma) == steps + 1
            assert (way.at(0), way.at(-1)) == (t, s)
            assert bool(((way.sigma / way.alpha).diff() < 0).all())
            data = torch.tensor([-1.0, 1.0], dtype=F64).view(2, 1, 1, 1)
            assert torch.isfinite(one_step_x0(ideal(data), torch.ones(3, 1, 1, 1, dtype=F64) * t.sigma, way)).all()


def test_training_draws_the_levels_of_the_grid_alone_and_each_alike():
    levels = NoiseLevel(torch.tensor([0.0, 0.5, 0.8, 1.0], dtype=F64), torch.tensor([1.0, 0.8, 0.6, 0.0], dtype=F64))
    drawn = only_at(levels)((torch.arange(300, dtype=F64) + 0.5) / 300)
    assert [int((drawn.alpha == alpha).sum()) for alpha in levels.alpha] == [100, 100, 100, 0]
    ends = only_at(levels)(torch.tensor([0.0, 1.0], dtype=F64))
    assert ends.alpha.tolist() == [1.0, 0.0]


class Two(Denoiser):
    """A denoiser of points: label 0 is at −1, label 1 at 1, no label (2) at 0."""

    def __init__(self):
        super().__init__(torch.nn.Linear(1, 1), "edm", num_classes=2)

    def output(self, x_t, level, label=None, conditions=None):
        places = torch.tensor([-1.0, 1.0, 0.0], dtype=x_t.dtype)[label].view(-1, 1, 1, 1)
        c_skip, c_out = self.parameterization(level, self.data_std)
        return mix(1 / c_out, places.expand_as(x_t), -c_skip / c_out, x_t)


def points_of(places):
    return torch.tensor(places).view(-1, 1, 1, 1).expand(-1, 2, 1, 1)


def test_guidance_is_put_into_the_targets_of_labelled_pictures():
    task = task_for(Two(), guidance=3.0)
    label, t = torch.tensor([0, 1, 2]), torch.tensor([0.25, 0.25, 0.25])
    x0, eps = torch.zeros(3, 2, 1, 1), torch.randn(3, 2, 1, 1, generator=torch.Generator().manual_seed(0))

    class Student(Two):
        def forward(self, x, level, label=None):
            return Denoised(points_of([-3.0, 3.0, 0.0])[: len(x)])

    with torch.no_grad():
        assert loss_of(task, Student(), Batch(x0, t, eps, label)).abs().max() < 1e-4
        assert loss_of(task, Two(), Batch(x0, t, eps, label))[:2].min() > 1


def test_a_student_is_asked_where_its_own_steps_lead():
    """The last level is reached from noise by the student's first step, not from a picture."""
    task, asked = task_for(Two()), []

    class Student(Two):
        def forward(self, x, level, label=None):
            asked.append((x.clone(), level))
            return Denoised(points_of([0.5] * len(x)))

    t, label = torch.tensor([0.75, 0.25]), torch.tensor([0, 1])
    x0, eps = points_of([0.1, 0.2]), torch.randn(2, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss_of(task, Student(), Batch(x0, t, eps, label))
    first, last = task.levels.at(0), task.levels.at(1)
    (began, _), (seen, level) = asked
    x_T = corrupt(x0, first, eps)
    assert torch.allclose(began, x_T[1:])
    shrink = float(last.sigma / first.sigma)
    assert torch.allclose(seen[0], x_T[0])
    assert torch.allclose(seen[1], shrink * x_T[1] + (float(last.alpha) - shrink * float(first.alpha)) * 0.5, atol=1e-5)
    assert level.sigma.tolist() == [float(first.sigma), float(last.sigma)]


def test_matching_pulls_towards_the_teacher_and_not_at_all_where_the_critic_agrees_with_it():
    torch.manual_seed(0)
    network = NETWORKS["mlp"](2, 2, (1, 1), 0, width=16)
    task = task_for(Denoiser(network, "edm"))
    t, eps = torch.full((64,), 0.5), torch.randn(64, 2, 1, 1)
    samples = torch.randn(64, 2, 1, 1).requires_grad_()

    def pull():
        losses = task.matching(samples, t, eps, None)
        assert losses["critic"].min() > 0
        return torch.autograd.grad(losses["matching"].sum(), samples)[0]

    assert pull().abs().max() == 0  # the critic begins as the teacher
    with torch.no_grad():
        for p in task.critic.parameters():
            p.add_(0.1 * torch.randn_like(p))
    level = task.every_level(t)
    x_t = corrupt(samples.detach(), level, eps)
    with torch.no_grad():
        away = task.critic(x_t, level).x0 - task.teacher(x_t, level).x0
    found = pull()
    assert away.abs().max() > 1e-3
    assert (found * away).flatten(1).sum(1).min() >= 0
    assert torch.equal(found.sign(), away.sign())


def test_the_critic_learns_the_students_samples():
    torch.manual_seed(0)
    network = NETWORKS["mlp"](2, 2, (1, 1), 0, width=32)
    task = task_for(Denoiser(network, "edm"))
    optimizer = torch.optim.Adam(task.critic.parameters(), 1e-2)
    for _ in range(150):
        t, eps = (torch.arange(256) + 0.5) / 256, torch.randn(256, 2, 1, 1)
        optimizer.zero_grad()
        task.matching(0.4 + 0.1 * torch.randn(256, 2, 1, 1), t, eps, None)["critic"].mean().backward()
        optimizer.step()
    level = level_at(task.every_level, 5.0)
    with torch.no_grad():
        seen = task.critic(0.4 + 5 * torch.randn(256, 2, 1, 1), level).x0
    assert (seen - 0.4).abs().mean() < 0.1
    assert all(p.grad is None for p in task.teacher.parameters())


def task_for(teacher, **choices):
    return DistillationTask(config_for("gaussians", **choices), api.open_data("gaussians"), teacher)


def loss_of(task, student, batch):
    task.denoiser = student
    return task.losses(batch, 0.0)["student"]


# --- the run


def config_for(data, **choices):
    dataset = api.open_data(data)
    config = api.plan_run(api.DataConfig(data=data), dataset, {"network": "mlp:width=32"})
    spacing = {"times": "spacing", "spacing": "listed:ratios=80/1", "solver": "euler", "sampling_steps": 2}
    train = dataclasses.replace(config.train, **spacing)
    return dataclasses.replace(config, train=train, distill=DistillConfig(**choices))


def sampling_of(config):
    return sampling_levels(config.train.schedule, config.train.spacing, config.train.sampling_steps)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    api.train("gaussians", out=folder, unlabelled=True, quiet=True, **TINY)
    return folder


@pytest.fixture(scope="module")
def straight(teacher):
    api.distill(teacher, out=teacher.parent / "straight", quiet=True, **FEW)
    return teacher.parent / "straight"


def test_a_distilled_run_samples_in_its_own_steps_with_nothing_said(straight, teacher):
    run = api.load(straight)
    assert (run.config.train.sampling_steps, run.config.train.times) == (2, "spacing")
    assert run.config.distill is not None
    assert run.config.distill.teacher == str(teacher)
    assert run.sample(4).provenance["steps"] == 2
    assert (run.sample(4, steps=2).array == run.sample(4).array).all()
    for odd in ({"steps": 3}, {"solver": "heun"}, {"spacing": "karras"}):
        with pytest.raises(UnblotError, match="leave out steps=, solver="):
            run.sample(4, **odd)
    with pytest.raises(UnblotError, match="editing needs a denoiser of every noise level"):
        edit.variations(run, run.sample(1).array)


def test_its_last_weights_are_those_of_the_student(straight):
    last = read_tensors(straight / "checkpoints/00000009/state.safetensors", ("weights/student/",))[0]
    raw = with_raw_weights(api.load(straight)).denoiser.state_dict()
    assert {f"weights/student/{name}" for name in raw} == last.keys()
    assert all(torch.equal(raw[name.removeprefix("weights/student/")], weight) for name, weight in last.items())


def test_from_within_a_runs_folder_the_new_one_is_beside_it(teacher, tmp_path, monkeypatch):
    for name, path in (("run", "."), ("other", MODEL)):
        monkeypatch.chdir(shutil.copytree(teacher, tmp_path / name))
        run = api.distill(path, quiet=True, **{**FEW, "steps": 1, "preview_every": 0})
        assert run.path.resolve() == (tmp_path / f"{name}-distilled").resolve()


def test_a_model_that_always_draws_with_a_label_never_learns_without_one(teacher):
    config = read_config(teacher)
    clustered = dataclasses.replace(config, data=dataclasses.replace(config.data, clusters=(0.25, 0.75)))
    source = dataclasses.replace(config.source, unlabelled=False)
    classed = dataclasses.replace(config, source=source, data=dataclasses.replace(config.data, classes=("a", "b")))
    kinds = config, clustered, classed
    dropouts = [student_config(c, teacher, DistillConfig(), {}).train.label_dropout for c in kinds]
    assert dropouts == [config.train.label_dropout, 0.0, 0.0]
    assert config.train.label_dropout > 0


def test_the_critic_learns_in_the_second_half_of_the_run(straight):
    config = read_config(straight)
    assert config.distill is not None
    task = DistillationTask(config, api.open_dataset(config.source, quiet=True), teacher_of(straight, config.distill))
    trainer = engine.Trainer(config, task)
    critic = task.learners["critic"]

    def learned():
        before = [p.clone() for p in critic.parameters()]
        trainer.take_step()
        return not all(torch.equal(a, b) for a, b in zip(before, critic.parameters(), strict=True))

    assert [learned() for _ in range(9)] == [False] * 5 + [True] * 4


def test_a_distilled_run_is_evaluated_without_what_only_a_denoiser_has(straight):
    report = api.evaluate(straight, n=60, features="pixels", quiet=True)
    assert report["metrics"]["rows"]
    assert (report["likelihood"], report["learning"]) == (None, None)
    assert "distilled" in report["verdicts"]["learning"]["text"]
    assert any("distilled" in note for note in report["notes"])


@pytest.mark.parametrize("stop_at", [1, 4, 6])
def test_interrupted_and_resumed_is_the_same_run_without_the_old_folder(
    straight, teacher, tmp_path, monkeypatch, stop_at
):
    take_step = engine.Trainer.take_step

    def interrupted_step(self):
        if self.step + 1 == stop_at:
            signal.raise_signal(signal.SIGINT)
        return take_step(self)

    monkeypatch.setattr(engine.Trainer, "take_step", interrupted_step)
    folder, old = tmp_path / "run", tmp_path / teacher.name
    shutil.copytree(teacher, old)
    api.distill(old, out=folder, quiet=True, **FEW)
    assert checkpoint.steps_saved(folder)[-1] == stop_at
    monkeypatch.setattr(engine.Trainer, "take_step", take_step)
    shutil.rmtree(old)
    api.resume(folder, quiet=True)
    ours, theirs = api.load(folder), api.load(straight)
    for mine, other in zip(ours.denoiser.state_dict().values(), theirs.denoiser.state_dict().values(), strict=True):
        assert torch.equal(mine, other)
    assert (folder / METRICS).read_bytes() == (straight / METRICS).read_bytes()


def test_two_processes_distill_as_one_does(tmp_path):
    """With a network that each process holds whole, and with one that is spread over both."""
    small = {"network": "unet:width=16,multipliers=1,blocks=1", "held_out_every": 0}
    teacher = api.train("digits", out=tmp_path / "teacher", quiet=True, **{**TINY, **small, "steps": 2}).path
    choices = {"nfe": 2, "steps": 6, "log_every": 1, "preview_every": 3, "held_out_every": 3, "warmup": 0}
    one = api.distill(teacher, out=tmp_path / "one", quiet=True, **choices)
    two = {shard: tmp_path / shard for shard in ("off", "on")}
    command = ["distill", str(teacher), "--quiet", *flags(choices)]
    by_two_processes(*([*command, f"--shard={shard}", "--out", str(out)] for shard, out in two.items()))

    def logged(run: Path, name: str) -> list[float]:
        return [line[name] for line in read_metrics(run) if line.get(name) is not None]

    for shard, out in two.items():
        assert ("spread over 2 processes" in (out / "training.log").read_text()) == (shard == "on")
        assert len(logged(out, "loss")) == 6
        assert logged(out, "loss") == pytest.approx(logged(tmp_path / "one", "loss"), rel=1e-5)
        for a, b in zip(logged(tmp_path / "one", "held_out"), logged(out, "held_out"), strict=True):
            assert b == pytest.approx(a, rel=1e-4)
        for p, q in zip(one.denoiser.parameters(), api.load(out).denoiser.parameters(), strict=True):
            torch.testing.assert_close(q, p, rtol=1e-3, atol=1e-5)


def test_what_cannot_be_distilled_is_told_in_one_line(straight, teacher, tmp_path):
    def refused(told, path=teacher, **choices):
        with pytest.raises(UnblotError, match=told) as error:
            api.distill(path, out=tmp_path / "new", quiet=True, **choices)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "new").exists()

    refused("was distilled itself.*teacher", straight)
    for nfe in (0, 9):
        refused(f"nfe= must be .*1.*4, not {nfe}", nfe=nfe)
    refused("no model at", tmp_path)
    refused("guidance=2.0 pushes towards a label", guidance=2.0)
    refused("unknown choice 'warp'", warp=1)
    refused("leave out times='index'", times="index")
    with pytest.raises(UnblotError, match="choose another out="):
        api.distill(teacher, out=teacher, quiet=True, overwrite=True)
    assert (teacher / MODEL).exists()


def test_a_distilled_run_does_not_go_on_with_another_teacher(straight, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    (folder / TEACHER).write_bytes((folder / MODEL).read_bytes())
    with pytest.raises(UnblotError, match="missing or changed"):
        api.resume(folder, steps=12, quiet=True)


def test_a_student_beats_its_teacher_in_as_many_evaluations(tmp_path):
    api.train("rings", out=tmp_path / "teacher", quiet=True, network="mlp:width=64", steps=300, batch_size=128)
    teacher = api.load(tmp_path / "teacher")
    schedule = SCHEDULES["edm"]()
    x = 80.0 * torch.randn(2000, 2, 1, 1, generator=torch.Generator().manual_seed(0))

    def drawn(denoiser, config):
        train = config.train
        levels = sampling_levels(train.schedule, train.spacing, train.sampling_steps)
        return sample(denoiser, x, levels, SOLVERS["euler"](), lambda: x)

    fine = sample(teacher.denoiser, x, segment(schedule, *ends(schedule), 40), SOLVERS["heun"](), lambda: x)
    for nfe in (1, 2):
        student = api.distill(tmp_path / "teacher", out=tmp_path / f"{nfe}", quiet=True, nfe=nfe, steps=100)
        theirs, ours = (drawn(run.denoiser, student.config) - fine for run in (teacher, student))
        assert ours.square().mean() < 0.5 * theirs.square().mean()


def ends(schedule):
    return schedule(torch.ones((), dtype=F64)), schedule(torch.zeros((), dtype=F64))
