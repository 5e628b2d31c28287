"""What the lessons say is so: their numbers follow from the process, and a page holds them in both languages."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from unblot.api import distill, train
from unblot.errors import UnblotError
from unblot.lessons import learning, noise, page, reverse, textbook
from unblot.process.schedules import linear


def digits() -> torch.Tensor:
    return torch.from_numpy(load_digits().images[:256]).float()[:, None] / 8 - 1


def test_pictures_become_normal_noise_and_forget_what_they_were() -> None:
    moments = noise.noising(digits())
    distances, likeness = [m.distance for m in moments], [m.correlation for m in moments]
    assert distances == sorted(distances, reverse=True)
    assert likeness[0] == pytest.approx(1)
    assert abs(likeness[-1]) < 0.03
    assert distances[-1] < 1.63 / moments[-1].x.numel() ** 0.5 + 0.004  # Kolmogorov's 1 %, and what is left of x0
    assert 0 < noise.first_normal(digits()) < noise.T


def test_sums_of_any_noise_come_near_to_normal_at_the_rate_of_the_central_limit_theorem(monkeypatch) -> None:
    monkeypatch.setattr(noise, "SUMS", 20_000)
    monkeypatch.setattr(noise, "CHAINS", 2_000)
    found = noise.many_small_noises()
    coins = found.sums["coin flips"]
    slope = np.polyfit(np.log(noise.COUNTS[2:]), np.log(coins[2:]), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.05)  # Berry–Esseen, which a lattice reaches
    for kind in noise.KINDS:
        assert found.sums[kind][0] > 3 * found.sums[kind][-1]
        assert found.after_all_steps[kind] < 1.95 / 2_000**0.5  # Kolmogorov's 0.1 %


def test_kinds_of_noise_have_mean_0_and_variance_1() -> None:
    for kind, make in noise.KINDS.items():
        values = make(np.random.default_rng(0), (100_000,))
        assert abs(values.mean()) < 0.02, kind
        assert values.var() == pytest.approx(1, abs=0.03), kind


def test_the_linear_schedule_begins_with_little_noise_and_the_constant_one_does_not() -> None:
    steps = {name: noise.steps_of(name) for name in noise.SCHEDULES}
    assert steps["linear"].added[0] == pytest.approx(0.01)  # sqrt(1e-4)
    assert steps["linear"].added[-1] == pytest.approx(0.02**0.5)
    assert np.ptp(steps["constant"].added) < 1e-9
    assert steps["constant"].left[-1] == pytest.approx(steps["linear"].left[-1])
    assert steps["constant"].half < steps["linear"].half < steps["cosine"].half
    assert steps["linear"].left[steps["linear"].half] ** 2 <= 0.5 < steps["linear"].left[steps["linear"].half - 1] ** 2


def test_step_by_step_and_one_formula_give_one_distribution() -> None:
    rows = noise.two_ways(digits()[0], steps=(10, 200))
    assert all(row.p > 1e-3 for row in rows)
    assert rows[1].chain_bytes == 200 * rows[1].formula_bytes


def test_the_mean_of_the_unknown_step_is_the_known_step_with_the_mean_of_x0() -> None:
    found = reverse.step_back()
    assert found.by_mean_x0 < 1e-12
    assert float(found.weights.sum()) == pytest.approx(1)
    assert found.unknown.var(0).sum() > 1.5 * found.known.var(0).sum()  # not knowing x0 leaves more open


def test_the_textbook_samples_the_data_of_a_perfect_network() -> None:
    level = noise.levels(linear())

    def perfect(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:  # all data is the value 0.5
        at = level.at(t + 1)
        return (x - 0.5 * at.alpha.view(-1, 1, 1, 1).float()) / at.sigma.view(-1, 1, 1, 1).float()

    torch.manual_seed(0)
    assert torch.allclose(textbook.sample(perfect, (4, 1, 2, 2)), torch.full((4, 1, 2, 2), 0.5), atol=1e-3)


def test_the_textbook_learns(monkeypatch) -> None:
    monkeypatch.setattr(learning, "TRAINED", 200)
    found = learning.by_the_book(digits()[:64])
    assert np.mean(found.losses[-50:]) < 0.35 < np.mean(found.losses[:5])
    assert bool(found.drawn.isfinite().all())


def test_a_model_that_leaves_groups_out_is_seen_to() -> None:
    centres = torch.cartesian_prod(torch.arange(-2.0, 3.0), torch.arange(-2.0, 3.0))
    some = centres[:5].repeat_interleave(20, 0)
    found = learning._variety("five", torch.cat([some, torch.full((100, 2), 0.5)]), centres, 1)
    assert (found.modes, found.inside) == (5, 0.5)


def test_a_page_has_every_lesson_in_both_languages(tmp_path, monkeypatch) -> None:
    for module, name, value in (
        *(
            (learning, "TRAINED", 20),
            (learning, "MEASURED", 16),
            (learning, "STEPS", (1, 2)),
            (learning, "SECONDS", 0.2),
        ),
        *((noise, "SUMS", 2000), (noise, "CHAINS", 200)),
    ):
        monkeypatch.setattr(module, name, value)
    run = train("digits", out=tmp_path / "run", steps=2, preview_every=0, quiet=True)
    html = page.explain(run.path, tmp_path / "deep" / "lessons.html").read_text()
    assert html.count("<h2>") == len(page.LESSONS)
    assert html.count('class="t" lang="en"') == html.count('class="t" lang="zh"')
    assert "for t in reversed(range(1000))" in html
    assert "http" not in html.replace("http://www.w3.org", "")  # nothing is fetched


def test_a_distilled_run_and_a_folder_that_cannot_be_written_are_refused_before_the_lessons(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(page, "LESSONS", {"none": lambda *_: pytest.fail("a lesson was given")})
    small = {"network": "mlp:width=16,depth=1", "steps": 2, "preview_every": 0, "quiet": True}
    run = train("digits", out=tmp_path / "run", **small)
    student = distill(run.path, out=tmp_path / "student", steps=2, quiet=True)
    with pytest.raises(UnblotError, match="explaining needs a denoiser of every noise level"):
        page.explain(student.path, tmp_path / "lessons.html")
    (tmp_path / "file").touch()
    with pytest.raises(UnblotError, match="nothing can be written"):
        page.explain(run.path, tmp_path / "file" / "lessons.html")


def test_points_have_no_lessons(tmp_path) -> None:
    run = train("rings", out=tmp_path / "run", steps=2, preview_every=0, quiet=True)
    with pytest.raises(UnblotError, match="try digits"):
        page.explain(run.path, tmp_path / "lessons.html")
    assert not (tmp_path / "lessons.html").exists()


def test_a_tilde_in_the_target_is_the_users_folder(tmp_path, monkeypatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"source": {}, "data": {}, "train": {}, "version": "1"}')
    loaded = []

    def load(target):
        loaded.append(target)
        raise UnblotError("as far as it goes")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(page.api, "load", load)
    with pytest.raises(UnblotError, match="as far as it goes"):
        page.explain("~/run", "~/lessons.html")
    assert loaded == ["~/run"]
