"""The conformance suite: sound tasks pass, and each broken task is caught by its check."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import Encoder, ImageSpec, Losses, Rng, Task
from ssl_zoo.testing import (
    Check,
    CheckData,
    CheckFailed,
    check_task,
    parametrize_with_checks,
    run_checks,
    task_checks,
)
from ssl_zoo.testing.catalogue import CHECKS
from ssl_zoo.views import ColorJitter, Compose, Normalise, RandomResizedCrop
from tests.core.broken_tasks import BROKEN
from tests.core.broken_tasks.views import (
    BatchesUpToAHundred,
    GalleryOfNothing,
    ViewsOfOneFactor,
    ViewsOfOneSeed,
)
from tests.core.sound_tasks import (
    SLOW,
    SMALL,
    Centred,
    Clustered,
    Constant,
    Distilled,
    Dropping,
    Queued,
    Remembering,
    Scheduled,
    Small,
    Sound,
    Taught,
    chosen,
    outcome,
)
from tests.core.sound_texts import NextToken, Sentences


@pytest.mark.parametrize(("task", "check", "message", "also"), BROKEN)
def test_what_is_broken_is_caught(task: type[Task], check: str, message: str, also: set[str]) -> None:
    failed = {o.check.name: o.note for o in run_checks(chosen(task, check)) if o.bad}
    assert re.search(message, failed.get(check, "it passes")), failed
    assert failed.keys() <= {check, *also}, failed


class AttractionAlone(Sound):
    """Two crops of an image attract each other, and nothing keeps images apart."""

    def __init__(self, encoder: Encoder, options: Any, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        jitter = ColorJitter(0.8, 0.8, 0.8, 0.2)
        self.crop = Compose(RandomResizedCrop(spec.size, (0.08, 1.0)), jitter, Normalise(spec))

    def view(self, batch: Tensor, rng: Rng) -> Tensor:
        return self.crop(batch, rng)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        x, y = F.normalize(self.encoder(torch.cat(views)), dim=1).chunk(2)
        return Losses((x - y).pow(2).sum(1).mean())


@pytest.mark.parametrize("data", [[Small(norm=False)], None], ids=["two convolutions", "ResNet"])
def test_attraction_without_repulsion_collapses(data: list[CheckData] | None) -> None:
    result = outcome(AttractionAlone, "representations_do_not_collapse", data=data)
    assert result.status == "failed"
    assert re.match(r"the features have collapsed after \d+ steps: spread 0\.0\d\d of 1", result.note)


def test_each_check_catches_some_task() -> None:
    assert {parameters.values[1] for parameters in BROKEN} == set(CHECKS)


# --- what is sound passes ---


@parametrize_with_checks(Sound, data=SMALL)
def test_a_sound_task_passes(check: Check) -> None:
    check()


@pytest.mark.parametrize(
    "task",
    [
        Queued,
        Centred,
        Clustered,
        Constant,
        Remembering,
        Distilled,
        Taught,
        Scheduled,
    ],
)
def test_sound_tasks_of_other_kinds_pass(task: type[Task]) -> None:
    assert {o.check.name: o.note for o in run_checks(chosen(task)) if o.bad} == {}


def test_dropout_is_no_difference_between_processes() -> None:
    dropping = chosen(Dropping, "two_processes_are_one")
    assert {o.check.name: o.note for o in run_checks(dropping) if o.bad} == {}


@parametrize_with_checks(
    NextToken,
    data=[Sentences()],
    expected_failures={"views_vary": "a language model reads its text as it is"},
)
def test_a_task_of_another_modality_passes(check: Check) -> None:
    check()


def test_what_is_meant_for_images_is_skipped_elsewhere() -> None:
    result = outcome(NextToken, "views_take_any_image", data=[Sentences()])
    assert (result.status, result.note) == ("skipped", "it takes text data, no images")
    result = outcome(Sound, "features_ignore_padding")
    assert (result.status, result.note) == (
        "skipped",
        "samples are not padded, as its spec has no `pad`",
    )


# --- what comes of checks ---


@pytest.fixture
def quick() -> Iterator[None]:
    """Remove the slow checks from the suite, and restore all in their order."""
    whole = dict(CHECKS)
    for name in SLOW:
        del CHECKS[name]
    yield
    CHECKS.clear()
    CHECKS.update(whole)


def test_a_failure_that_is_expected_is_no_fault() -> None:
    result = outcome(ViewsOfOneSeed, "views_vary", expected_failures={"views_vary": "no augmentation"})
    assert (result.status, result.bad) == ("expected", False)
    assert result.note == "no augmentation (another seed gives the same views)"


def test_a_class_may_name_the_failures_that_are_expected_of_it() -> None:
    class Meant(ViewsOfOneSeed):
        expected_failures: ClassVar[dict[str, str]] = {"views_vary": "no augmentation"}

    assert outcome(Meant, "views_vary").status == "expected"
    other = outcome(Meant, "views_vary", expected_failures={"views_vary": "another reason"})
    assert other.note.startswith("another reason")


def test_an_expected_failure_may_be_named_as_the_function_is() -> None:
    expected = {"check_views_vary": "no augmentation"}
    result = outcome(ViewsOfOneSeed, "views_vary", expected_failures=expected)
    assert (result.status, result.check.name) == ("expected", "views_vary")


def test_a_failure_that_is_expected_in_vain_is_a_fault() -> None:
    result = outcome(Sound, "views_vary", expected_failures={"views_vary": "no augmentation"})
    assert (result.status, result.bad) == ("unexpected", True)
    assert result.note == "it passes; remove it from the expected failures"


def test_a_task_raises_what_it_raises_when_a_check_is_called() -> None:
    check = next(c for c in task_checks(BatchesUpToAHundred, data=SMALL) if c.name == "throughput")
    with pytest.raises(RuntimeError, match="256"):
        check()


@pytest.mark.usefixtures("quick")
def test_check_task_gives_what_came_of_each_check() -> None:
    expected = {"views_vary": "no augmentation"}
    results = check_task(ViewsOfOneSeed, data=SMALL, expected_failures=expected)
    assert [o.check.name for o in results] == list(CHECKS)
    others = {o.check.name: o.status for o in results if o.status != "passed"}
    assert others == {
        "views_vary": "expected",
        "passes_are_as_declared": "skipped",
        "features_ignore_padding": "skipped",
    }
    assert all(o.check.title.endswith(".") for o in results)


class TwoFaults(ViewsOfOneFactor, GalleryOfNothing):
    """It has two faults, and a third is expected."""


@pytest.mark.usefixtures("quick")
def test_check_task_has_a_line_for_each_fault() -> None:
    with pytest.raises(CheckFailed) as raised:
        check_task(TwoFaults, data=SMALL, expected_failures={"features_are_pure": "as it were"})
    assert str(raised.value).splitlines() == [
        f"task 'sound' fails 3 of {len(CHECKS)} checks",
        "  views_vary: all samples of a batch are changed in the same way: draw parameters for each",
        "  views_can_be_shown: gallery gives no column, so there is nothing to look at",
        "  features_are_pure: it passes; remove it from the expected failures",
    ]


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"views_varies": "why"}, r"there is no check 'views_varies'\. Did you mean 'views_vary'"),
        ({"x": "why"}, r"there is no check 'x'\. There are: describes_itself, .*two_processes_are_one"),
        ({"views_vary": " "}, "expected_failures: views_vary needs a reason"),
    ],
)
def test_an_expected_failure_has_a_check_and_a_reason(expected: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_checks(Sound, expected_failures=expected)


def test_a_class_inside_of_a_function_is_not_taken_to_other_processes() -> None:
    class Local(Sound):
        """A class that another process cannot import."""

    result = outcome(Local, "two_processes_are_one")
    assert result.status == "skipped", result.note
    assert re.match(r"another process cannot build it: .*Local.* importable by name", result.note)


def test_a_class_of_a_script_is_not_taken_to_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    script = type("Scripted", (Sound,), {"__doc__": "Here.", "__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Scripted", script, raising=False)
    result = outcome(script, "two_processes_are_one")
    assert result.status == "skipped", result.note
    assert re.match(r"another process cannot build it: .*__main__.* importable by name", result.note)


# --- under pytest ---


def test_each_check_is_a_test_of_its_own() -> None:
    parameters = list(parametrize_with_checks(Sound, data=SMALL).args[1])
    assert [p.id for p in parameters] == list(CHECKS)


TESTS = """
from ssl_zoo.testing import parametrize_with_checks
from tests.core.broken_tasks.views import ViewsOfOneSeed
from tests.core.sound_tasks import SMALL, Sound

EXPECTED = {"views_vary": "no augmentation"}


def local():
    class Local(Sound):
        pass
    return Local


@parametrize_with_checks(ViewsOfOneSeed, data=SMALL, expected_failures=EXPECTED)
def test_expected(check):
    check()


@parametrize_with_checks(Sound, data=SMALL, expected_failures=EXPECTED)
def test_unexpected(check):
    check()


@parametrize_with_checks(local(), data=SMALL)
def test_local(check):
    check()
"""


def test_pytest_skips_and_expects_failures(tmp_path: Path) -> None:
    (tmp_path / "test_them.py").write_text(TESTS)
    names = {
        "test_expected[views_vary]": "XFAIL",
        "test_expected[views_obey_the_seed]": "PASSED",
        "test_unexpected[views_vary]": "FAILED",
        "test_local[describes_itself]": "FAILED",
        "test_local[two_processes_are_one]": "SKIPPED",
    }
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-rA", "-p", "no:cacheprovider"]
        + [f"test_them.py::{name}" for name in names],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )  # fmt: skip
    assert ended.returncode == 1, ended.stdout + ended.stderr
    for name, state in names.items():
        assert re.search(rf"{re.escape(name)} {state}", ended.stdout), ended.stdout
    for pattern in (
        r"XFAIL .*test_expected\[views_vary\] - no augmentation",
        r"FAILED .*test_unexpected\[views_vary\] - \[XPASS\(strict\)\] no augmentation",
        r"FAILED .*test_local\[describes_itself\] - .*CheckFailed: it has no docstring",
        r"SKIPPED .*another process cannot build it",
    ):
        assert re.search(pattern, ended.stdout), ended.stdout
