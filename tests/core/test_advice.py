"""Advice: the sentence that follows from scores, the plan of the minutes, and a whole small request."""

from __future__ import annotations

import html
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from ssl_zoo.advice import api, request
from ssl_zoo.advice.plan import Plan, PlannedRow, Trial, make_plan
from ssl_zoo.advice.request import requested_comparison, without_missing_weights
from ssl_zoo.advice.verdict import Candidate, Kind, Point, decide
from ssl_zoo.comparison.load import load_comparison
from ssl_zoo.config.load import load_config
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation.correctness import Correctness
from ssl_zoo.evaluation.pairing import difference_interval
from ssl_zoo.runs.run import Run
from tests.conftest import Call, small_config, train
from tests.core.pictures import folder, photo, write

FIVE, TEN = Point("labels_5", "at 5 labels a class"), Point("labels_10", "at 10 labels a class")
ALL = Point("linear", "at all labels", drawn=False)
POINTS = (FIVE, TEN, ALL)


def candidate(row: str, kind: Kind, *accuracies: float, samples: int = 1000) -> Candidate:
    """Return a row with these accuracies in percent at each point, whose errors are mostly shared."""
    shared = torch.rand(samples, generator=torch.Generator().manual_seed(0))
    own = torch.rand(samples, generator=torch.Generator().manual_seed(1 + sum(map(ord, row))))
    difficulty = torch.where(torch.arange(samples) % 5 == 0, own, shared)
    correct = {}
    for point, accuracy in zip(POINTS, accuracies, strict=False):
        right = difficulty.argsort().argsort() < samples * accuracy / 100
        draws = 20 if point.drawn else 1
        correct[point.metric] = Correctness(right.repeat(draws, 1), 0.1 if point.drawn else 1.0)
    phrase = {"frozen": "the frozen net", "raw": "the raw pixels", "untrained": "the untrained net"}
    verb = "continuing" if kind == "continued" else "training from scratch"
    return Candidate(row, kind, phrase.get(kind, f"{verb} with {row}"), correct)


RAW = candidate("raw", "raw", 40, 50, 60)
FROZEN = candidate("pretrained", "frozen", 60, 70, 80)


def test_a_row_that_beats_the_frozen_network_is_advised_with_its_gain() -> None:
    verdict = decide([RAW, FROZEN, candidate("dino", "continued", 66, 74, 80)], POINTS, 2000)
    assert (verdict.decision, verdict.row, verdict.reference) == ("train", "dino", "pretrained")
    assert verdict.point == TEN  # the last one whose labels are drawn
    gain = verdict.differences["dino"]
    assert gain.mean == pytest.approx(4.0, abs=0.1)
    sentence, at_five, at_all = verdict.sentences
    assert sentence == (
        f"Continuing with dino adds {gain} points to the frozen net at 10 labels a class "
        "(70.0 % → 74.0 %)."
    )
    assert at_five.startswith("At 5 labels a class it adds 6.0 ± ")
    assert at_all.startswith("At all labels no difference is seen (+0.0 ± ")


def test_where_nothing_beats_the_frozen_network_it_advises_not_to_train() -> None:
    verdict = decide([RAW, FROZEN, candidate("dino", "continued", 60, 70.2, 80)], POINTS, 200)
    assert (verdict.decision, verdict.row) == ("do not train", "pretrained")
    first, nearest, *_ = verdict.sentences
    assert first.startswith("On your data nothing beats the frozen net (70.0 ± ")
    assert first.endswith(" % at 10 labels a class): do not train.")
    assert nearest.startswith("The nearest, continuing with dino, differs by +0.2 ± ")


def test_that_training_helps_with_fewer_labels_alone_is_told() -> None:
    verdict = decide([RAW, FROZEN, candidate("dino", "continued", 75, 70, 80)], POINTS, 2000)
    assert verdict.decision == "do not train"
    assert "at 5 labels a class continuing with dino adds 15.0 ± " in verdict.sentences[-1]


def test_with_few_labels_it_cannot_be_told_rather_than_not_to_train() -> None:
    few = [candidate("pretrained", "frozen", 60, 70, samples=24)]
    few.append(candidate("dino", "continued", 60, 83, samples=24))
    verdict = decide(few, POINTS, 48)
    gain = verdict.differences["dino"]
    assert not gain.positive  # it does not advise training
    assert gain.mean + gain.half_width > 10  # nor is a useful gain excluded
    assert (verdict.decision, verdict.row) == ("cannot be told", "pretrained")
    first, width = verdict.sentences
    assert first.startswith("With 48 labelled samples it cannot be told whether training helps: use ")
    assert first.endswith(" % at 10 labels a class) until there are more.")
    low, high = gain.mean - gain.half_width, gain.mean + gain.half_width
    assert width.startswith(
        f"Continuing with dino may gain most: it differs by {gain.mean:+.1f} ± {gain.half_width:.1f} "
        f"points, so by anything from {low:+.1f} to {high:+.1f}."
    )
    needed = int(width.split("needs about ")[1].split(" ")[0].replace(",", ""))
    assert needed == pytest.approx(48 * (gain.half_width / 2) ** 2, rel=0.05)


def perfect(samples: int, **rows: Kind) -> list[Candidate]:
    """Return rows that get all samples right."""
    right = torch.ones(1, samples, dtype=torch.bool)
    correct = {TEN.metric: Correctness(right.repeat(20, 1), 0.1), ALL.metric: Correctness(right)}
    return [Candidate(row, kind, row, correct) for row, kind in rows.items()]


def test_equal_perfect_rows_exclude_a_gain_only_with_many_samples() -> None:
    """Of n samples without a difference, 3 / n may differ (the rule of three)."""
    for samples in (5, 10, 24, 74):
        rows = perfect(samples, raw="raw", net="frozen", simclr="continued")
        verdict = decide(rows, POINTS, 2 * samples)
        assert (verdict.decision, verdict.row) == ("cannot be told", "net")
        gain = verdict.differences["simclr"]
        assert gain.mean == 0
        assert gain.half_width == pytest.approx(300 / samples, rel=0.01)
        told = {5: "5 samples to evaluate on are too few", 24: "Simclr may gain most: it differs by +0"}
        assert told.get(samples, "") in verdict.sentences[1]
        # The limit falls with 1 / n: it is 4 points at 75 samples, and 2 at 150, half of 300.
        assert samples < 20 or "needs about 300 labelled samples" in verdict.sentences[1]
    for samples in (76, 1000):
        rows = perfect(samples, raw="raw", net="frozen", simclr="continued")
        verdict = decide(rows, POINTS, 2 * samples)
        assert (verdict.decision, verdict.row) == ("do not train", "net")
        assert f"nothing beats net (100.0 ± {300 / samples:.1f} % " in verdict.sentences[0]


def test_below_twenty_samples_nothing_is_concluded_however_large_the_difference() -> None:
    for samples, decision in ((19, "cannot be told"), (20, "train")):
        (net,) = perfect(samples, net="frozen")
        wrong = Correctness(~net.correct[TEN.metric].correct, 0.1)
        rows = [Candidate("old", "frozen", "old", {TEN.metric: wrong})]
        rows += perfect(samples, simclr="continued")
        assert decide(rows, [TEN], 2 * samples).decision == decision


def test_one_row_that_is_surely_worse_does_not_hide_one_of_which_nothing_is_known() -> None:
    few = [candidate("pretrained", "frozen", 60, 70, samples=120)]
    worse = Candidate("simclr", "scratch", "simclr", few[0].correct)  # exactly as good
    unclear = candidate("dino", "continued", 60, 71, samples=120)
    assert decide([*few, worse], POINTS, 240).decision == "do not train"
    assert decide([*few, worse, unclear], POINTS, 240).decision == "cannot be told"


def test_where_nothing_was_trained_the_best_of_the_rest_is_named_and_no_more() -> None:
    verdict = decide([RAW, FROZEN], POINTS, 2000)
    assert (verdict.decision, verdict.row) == ("cannot be told", "pretrained")
    assert verdict.sentences[0].startswith("Nothing was trained; of what needs no training, use the fr")


def test_the_simplest_of_several_good_rows_is_advised() -> None:
    scratch = candidate("simclr-scratch", "scratch", 66, 74.3, 80)
    rows = [RAW, FROZEN, scratch, candidate("simclr", "continued", 66, 74, 80)]
    assert decide(rows, POINTS, 2000).row == "simclr"
    clearly = candidate("simclr-scratch", "scratch", 66, 79, 80)
    assert decide([RAW, FROZEN, clearly, rows[-1]], POINTS, 2000).row == "simclr-scratch"


def test_without_a_frozen_network_the_better_baseline_is_to_be_beaten() -> None:
    rows = [RAW, candidate("random-init", "untrained", 30, 40, 50)]
    verdict = decide([*rows, candidate("simclr", "scratch", 50, 60, 70)], POINTS, 2000)
    assert (verdict.decision, verdict.reference) == ("train", "raw")
    assert "Training from scratch with simclr adds 10.0" in verdict.sentences[0]
    # Features of a frozen network that are worse than the raw input are no reason to train.
    bad = candidate("pretrained", "frozen", 30, 40, 50)
    verdict = decide([*rows, bad, candidate("dino", "continued", 35, 45, 55)], POINTS, 2000)
    assert (verdict.decision, verdict.row) == ("do not train", "raw")


def test_without_labels_it_says_how_few_would_tell() -> None:
    rows = [Candidate("raw", "raw", "the raw pixels"), Candidate("simclr", "scratch", "simclr")]
    verdict = decide(rows, [], 0)
    assert (verdict.decision, verdict.row) == ("cannot be told", None)
    assert "20 labelled samples of each class" in verdict.sentences[0]


def nearest_centroids(bank: torch.Tensor, test: torch.Tensor, draws: torch.Tensor) -> Correctness:
    """Return the correctness of the centroids of two classes, for draws [R, k] of pairs of samples."""
    centres = bank.unflatten(0, (-1, 2))[draws].mean(1)  # [R, 2, D]
    truth = torch.arange(len(test)) % 2
    return Correctness(torch.cdist(test, centres).argmin(2) == truth, draws.shape[1] / (len(bank) // 2))


def simulate(advantage: float, seeds: int, per_class: int, rows: int = 3) -> float:
    """Return how often training is advised, on new data each time.

    A frozen network and trained rows see the samples under noise of their own, which is weaker by
    `advantage` for the last row.
    """
    trained = 0
    for seed in range(seeds):
        g = torch.Generator().manual_seed(seed)
        n, m, width = 60, 200, 8
        centre = torch.zeros(n + m, width)
        centre[1::2, 0] = 2.2
        x = centre + torch.randn(n + m, width, generator=g)
        draws = torch.stack([torch.randperm(n // 2, generator=g)[:per_class] for _ in range(20)])
        candidates = []
        for i in range(1 + rows):
            scale = 1.2 - (advantage if i == rows else 0.0)
            seen = x + scale * torch.randn(n + m, width, generator=g)
            correct = nearest_centroids(seen[:n], seen[n:], draws)
            kind: Kind = "continued" if i else "frozen"
            candidates.append(Candidate(f"{kind}{i}", kind, kind, {TEN.metric: correct}))
        trained += decide(candidates, [TEN], n + m).decision == "train"
    return trained / seeds


@pytest.mark.parametrize("per_class", [3, 15])
def test_rows_that_are_equally_good_are_seldom_told_apart(per_class: int) -> None:
    """At most in one of twenty cases, of new labels, test samples and noise; 3 sigma of 200 of them."""
    assert simulate(0.0, 200, per_class) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_a_row_that_is_truly_better_is_found() -> None:
    assert simulate(1.2, 50, 15) >= 0.8


def test_intervals_of_pairs_are_narrower_than_those_of_single_rows_and_refuse_other_draws() -> None:
    rng = torch.Generator().manual_seed(0)
    hard = torch.rand(1, 500, generator=rng)  # the difficulty of each sample, for all rows
    a, b = (Correctness(torch.rand(20, 500, generator=rng) * 0.2 + hard < 0.8, 0.1) for _ in range(2))
    paired = difference_interval(a, b)
    assert paired.half_width < 0.3 * difference_interval(a, Correctness(~a.correct, 0.1)).half_width
    with pytest.raises(ValueError, match="draws differ"):
        difference_interval(a, Correctness(b.correct[:, :400], 0.1))


PHRASES = {"raw": "raw", "a": "a", "b": "b", "a-scratch": "c"}


def plan_of(minutes: float, **steps: float) -> Plan:
    trials = {
        row: Trial(step_seconds=seconds, setup_seconds=1, steps_per_pass=10)
        for row, seconds in {"a": 1.0, "b": 1.0, "a-scratch": 1.0, **steps}.items()
    }
    return make_plan(minutes, 10.0, PHRASES, trials, 5.0, 2.0)


def test_the_plan_keeps_within_the_minutes_and_gives_all_rows_the_same() -> None:
    for minutes in (2, 5, 60):
        plan = plan_of(minutes)
        assert plan.seconds <= 60 * minutes
        assert plan.seconds >= 60 * minutes * 0.95 - 11  # and wastes little
        assert not plan.left_out
        trained = [row for row in plan.rows if row.passes is not None]
        assert len({row.passes for row in trained}) == 1
        assert all(row.passes >= 1 for row in trained)


def test_rows_for_which_the_minutes_are_too_few_are_left_out_from_the_last() -> None:
    plan = plan_of(1)
    assert [row.row for row in plan.rows] == ["raw", "a"]
    assert list(plan.left_out) == ["a-scratch", "b"]
    assert "passes over the data" in plan.left_out["b"]


def test_where_no_training_fits_the_rest_is_scored_and_the_minutes_that_would_do_are_told() -> None:
    plan = plan_of(0.5)
    assert [row.row for row in plan.rows] == ["raw"]
    assert list(plan.left_out) == ["a-scratch", "b", "a"]
    assert plan.seconds <= 30
    (text,) = plan.unanswered
    assert text.startswith(
        "Whether training helps cannot be answered: no training fits into 0.5 minutes"
    )
    needed = float(text.split("at least ")[1].split(",")[0])
    assert plan_of(needed).rows[-1].row == "a"
    assert not plan_of(needed).unanswered
    with pytest.raises(UserError, match="too few even without training") as error:
        plan_of(0.3)
    needed = float(str(error.value).split("at least ")[1].split(",")[0])
    assert [row.row for row in plan_of(needed).rows] == ["raw"]


def test_a_slow_row_is_left_out_before_quicker_ones() -> None:
    assert list(plan_of(3, b=30.0).left_out) == ["b"]


# ---- the command


@pytest.fixture(name="weights", scope="module")
def weights_of_a_tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "pre"
    train(small_config("simclr", train__epochs=0.2), out=run)
    return run / "backbone.safetensors"


@pytest.fixture(name="folders")
def photos_and_labelled(tmp_path: Path) -> tuple[Path, Path]:
    """Make 60 pictures without labels, in a sub-folder that is no class, and 48 in two classes."""
    for i in range(60):
        write(tmp_path / "photos" / "2024" / f"{i}.png", photo((20, 20), seed=i))
    for i in range(48):
        dark = photo((20, 20), seed=100 + i).point(lambda v: v // 2)
        picture = photo((20, 20), seed=100 + i) if i % 2 else dark
        write(tmp_path / "labelled" / ("light" if i % 2 else "dark") / f"{i}.png", picture)
    return tmp_path / "photos", tmp_path / "labelled"


QUICK = ["--tasks", "simclr", "--batch-size", "16", "--device", "cpu", "--precision", "fp32"]


@pytest.fixture(autouse=True)
def brief_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_TRIAL_SECONDS", 0.3)


def shorten(folder: Path) -> None:
    """Let rows train for a second instead of the planned minutes."""
    file = folder / "compare.yaml"
    settings = yaml.safe_load(file.read_text())
    settings["train"]["minutes"] = 0.01
    file.write_text(yaml.safe_dump(settings))


def test_it_compares_what_can_be_done_with_trained_weights_and_decides(
    call: Call, folders: tuple[Path, Path], weights: Path
) -> None:
    photos, labelled = map(str, folders)
    data = ["advise", "--data", photos, "--labels", labelled, *QUICK, "--from", str(weights)]
    code, out, err = call(*data, "--minutes", "30", "--out", "a", "--plan")
    assert code == 0, err
    assert f"50% of {labelled} is held out to evaluate on, by class" in err
    assert "108 images: 84 to train" in err
    assert "24 labelled ones for evaluation to learn from, 24 held out (50 %, stratified)" in err
    assert "the frozen network of pre" in out
    assert "training from scratch" in out  # which may wrap before the name, by the width of figures
    shorten(Path("a"))
    code, out, err = call("advise", "--resume", "a", "--json")
    assert code == 0, err
    result = json.loads(out)
    kinds = {row["row"]: row["kind"] for row in result["rows"]}
    assert kinds == {
        "raw": "raw", "random-init": "untrained", "pretrained": "frozen", "simclr": "continued",
        "simclr-scratch": "scratch",
    }  # fmt: skip
    assert [p["phrase"] for p in result["points"]] == [
        "at 1 label a class", "at 5 labels a class", "at all labels"
    ]  # fmt: skip
    assert all(
        row["accuracies"].keys() == {"knn", "labels_1", "labels_5", "linear"} for row in result["rows"]
    )
    verdict = result["verdict"]
    assert verdict["decision"] in ("train", "do not train", "cannot be told")
    assert verdict["row"] in kinds
    assert verdict["metric"] == "labels_5"
    assert verdict["differences"].keys() == kinds.keys() - {verdict["reference"]}
    assert result["commands"]
    page = Path("a/report.html").read_text()
    assert verdict["sentences"][0].replace("<", "&lt;") in html.unescape(page)
    assert "Accuracy and number of labels" in page
    # What it says to do next can be done.
    run = Run("a/simclr-0")
    longer = load_config(run.config_file, {"train.minutes": 60})
    assert (longer.train.minutes, longer.backbone.weights) == (60, str(weights))
    # The two rows of one task start from different weights.
    started = {row: Run(f"a/{row}-0").config().backbone.weights for row in ("simclr", "simclr-scratch")}
    assert started == {"simclr": str(weights), "simclr-scratch": None}
    # Asking for something else in the same folder is refused, and for the same again costs nothing.
    code, _, err = call(*data, "--minutes", "31", "--out", "a")
    assert code == 2
    assert "ssl-zoo advise --resume a" in err.splitlines()[-1]
    code, out, _ = call(*data, "--minutes", "30", "--out", "a")
    assert code == 0
    assert verdict["sentences"][0] in out


def test_without_time_to_train_it_scores_what_needs_no_training_and_says_so(
    call: Call, folders: tuple[Path, Path], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Trial(step_seconds=1e4, setup_seconds=0.1, steps_per_pass=10)
    monkeypatch.setattr(api, "try_training", lambda *arguments: slow)
    code, out, err = call("advise", "--data", folders[1], *QUICK, "--from", weights, "--minutes", "30",
                          "--out", "a")  # fmt: skip
    assert code == 0, err
    lines = out.splitlines()
    assert {line.split()[0] for line in lines if " ± " in line} >= {"raw", "random-init", "pretrained"}
    assert not Path("a/simclr-0").exists()
    (verdict,) = (line for line in lines if line.startswith("Nothing was trained; of what needs no "))
    assert " ± " in verdict
    assert "no training fits into 30 minutes; give at least" in lines[lines.index(verdict) + 1]
    # And the folder can be taken up again.
    code, out, err = call("advise", "--resume", "a")
    assert code == 0, err
    assert verdict in out


def test_without_labels_it_shows_the_health_and_asks_for_labels(
    call: Call, folders: tuple[Path, Path], weights: Path
) -> None:
    photos = str(folders[0] / "2024")
    code, out, err = call("advise", "--data", photos, *QUICK, "--from", str(weights), "--minutes", "30",
                          "--out", "a", "--plan")  # fmt: skip
    assert code == 0, err
    shorten(Path("a"))
    code, out, err = call("advise", "--resume", "a")
    assert code == 0, err
    assert "RankMe" in out
    assert "Without labels accuracy cannot be told" in out
    assert f"ssl-zoo advise --data {photos} --labels LABELLED" in out


def test_labels_that_are_nothing_are_refused_before_anything_is_held_out_of_them(
    call: Call, folders: tuple[Path, Path]
) -> None:
    code, _, err = call("advise", "--data", folders[0], "--labels", "nope", *QUICK)
    assert code == 2
    assert "'nope' is neither a folder nor a known data set" in err
    assert "held out" not in err


def test_pretrained_weights_are_looked_for_only_where_they_are_wanted(
    folders: tuple[Path, Path], weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quick = Trial(step_seconds=1, setup_seconds=0, steps_per_pass=1)
    monkeypatch.setattr(api, "try_training", lambda *arguments: quick)
    data = {"data.source": str(folders[1]), "data.image_size": 16, "train.device": "cpu"}
    for name, own in (("a", {"backbone.weights": str(weights)}), ("b", {"backbone.pretrained": False})):
        lines: list[str] = []
        api.open_advisor(
            None, {**data, **own}, tasks=["simclr"], out=tmp_path / name, progress=lines.append
        )
        assert ("looking for pretrained weights" in lines) == (name == "a")


def test_weights_that_cannot_be_had_leave_one_question_unanswered(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(config: BackboneConfig, *arguments: object) -> None:
        raise UserError(f"backbone.pretrained: the weights of {config.name} are not available: offline")

    monkeypatch.setattr(request, "build_encoder", offline)
    settings = {"data.source": str(folders[1]), "data.image_size": 16}
    comparison = requested_comparison(None, settings, [], ["simclr"])
    assert comparison.encoder_config(0).backbone.pretrained
    assert comparison.scratch == ["simclr"]
    continued, scratch = (comparison.run_config(row, 0).train.lr for row in ("simclr", "simclr-scratch"))
    data = folder(folders[1])
    comparison, unanswered = without_missing_weights(comparison, data)
    assert unanswered == [
        "Whether resnet18.a1_in1k suffices, or is worth going on from, cannot be answered: its weights "
        "are not on this machine and could not be downloaded; give a file with --from FILE, or connect",
        "Whether vit_small_patch14_dinov2.lvd142m as it is suffices cannot be answered: "
        "backbone.pretrained: the weights of vit_small_patch14_dinov2.lvd142m are not available: "
        "offline",
    ]
    assert not comparison.frozen
    config = comparison.run_config("simclr", 0)
    assert (config.backbone.name, config.backbone.pretrained) == ("resnet10_narrow", False)
    assert config.train.lr == scratch != continued
    assert list(comparison.trained_rows()) == ["simclr"]


def test_a_task_keeps_its_options_where_it_has_no_settings_for_a_random_start(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, weights: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    options = {"teacher": "resnet50", "pretrained": True}
    own = {"task": options, "train": {"lr": 1e-4}}
    backbone = {"name": "resnet18", "pretrained": True}
    file.write_text(
        yaml.safe_dump(
            {"tasks": ["distillation"], "backbone": backbone, "overrides": {"distillation": own}}
        )
    )
    comparison = requested_comparison(file, {"data.source": str(folders[1])}, [], None)

    def offline(config: BackboneConfig, *arguments: object) -> None:
        raise UserError(f"backbone.pretrained: the weights of {config.name} are not available: offline")

    monkeypatch.setattr(request, "build_encoder", offline)
    comparison, _ = without_missing_weights(comparison, folder(folders[1]))
    config = comparison.run_config("distillation", 0)
    assert dict(config.task).items() >= options.items()
    assert config.train.lr != 1e-4


def test_further_networks_are_scored_as_they_are_and_teach_a_small_one(
    call: Call, folders: tuple[Path, Path], weights: Path, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher.safetensors"
    shutil.copy(weights, teacher)
    code, out, err = call(
        "advise", "--data", folders[1], "--tasks", "distillation", *QUICK[2:], "--image-size", 16,
        "--backbone", "test_resnet", "--no-pretrained", "--frozen", teacher, "--minutes", 30,
        "--out", "a", "--set", f"task.weights={teacher}", "--plan",
    )  # fmt: skip
    assert code == 0, err
    assert {line.split()[0] for line in out.splitlines() if "the frozen" in line} == {
        "pretrained-teacher"
    }
    shorten(Path("a"))
    code, out, err = call("advise", "--resume", "a", "--json")
    assert code == 0, err
    result = json.loads(out)
    rows = {row["row"]: row for row in result["rows"]}
    assert {name: row["kind"] for name, row in rows.items()} == {
        "raw": "raw", "random-init": "untrained", "pretrained-teacher": "frozen",
        "distillation": "scratch",
    }  # fmt: skip
    # It is scored as it would be alone.
    code, out, err = call("eval", weights.parent, "--data", folders[1], "--protocol", "linear", "--json")
    assert code == 0, err
    alone = json.loads(out)["scores"]["simclr"]["linear"]
    assert rows["pretrained-teacher"]["scores"]["linear"] == pytest.approx(alone)


def variant_plan(rows: list[str], minutes: float = 1.0) -> Plan:
    planned = [PlannedRow(row=row, phrase=row, seconds=1.0) for row in rows]
    return Plan(minutes=10, spent_seconds=0, train_minutes=minutes, rows=planned)


def test_a_plan_without_a_variant_is_written_so_that_it_can_be_read_again(tmp_path: Path) -> None:
    overrides = {"cold": {"task": {"temperature": 0.05}}, "hot": {"task": {"temperature": 1.0}}}
    variants = {"cold": "simclr", "hot": "simclr", "flat": "byol"}
    comparison = load_comparison(
        None,
        {"tasks": ["simclr", "byol"], "variants": variants, "overrides": overrides, "baselines": []},
    )
    shorter = api._shortened(comparison, variant_plan(["raw", "simclr", "cold"]))
    assert list(shorter.trained_rows()) == ["simclr", "cold"]
    file = tmp_path / "compare.yaml"
    file.write_text(shorter.to_yaml())
    assert list(load_comparison(file, {}).trained_rows()) == ["simclr", "cold"]
    # Nothing beyond the plan is trained: a variant goes where its task's own row does.
    shorter = api._shortened(comparison, variant_plan(["raw", "byol", "cold"]))
    assert list(shorter.trained_rows()) == ["byol"]


def test_a_slow_further_network_does_not_take_the_minutes_of_training(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, weights: Path, tmp_path: Path
) -> None:
    quick = Trial(step_seconds=1e-3, setup_seconds=0.1, steps_per_pass=10)
    monkeypatch.setattr(api, "try_training", lambda *arguments: quick)
    settings = {"data.source": str(folders[1]), "data.image_size": 16, "train.device": "cpu"}
    settings |= {"backbone.name": "test_resnet", "backbone.pretrained": False}
    for seconds, left_out in ((1.0, False), (1e4, True)):
        monkeypatch.setattr(api, "try_features", lambda *arguments, seconds=seconds: seconds)
        advisor = api.open_advisor(
            None, settings, tasks=["simclr"], frozen=[str(weights)], out=tmp_path / f"{left_out}"
        )
        rows = [row.row for row in advisor.plan.rows]
        assert ("pretrained-pre" in rows) is not left_out
        assert "simclr" in rows
        assert ("its features take about" in advisor.plan.left_out.get("pretrained-pre", "")) is left_out
        assert [cell.row for cell in advisor.sweep.cells] == rows
