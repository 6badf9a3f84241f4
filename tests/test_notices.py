"""Notices: given once, hidden by --quiet, kept with a run, and all of them in the documentation."""

from __future__ import annotations

import ast
import json
import logging
from pathlib import Path

import pytest

from ssl_zoo.notices import LOGGER, Notice, collect_notices
from ssl_zoo.runs.run import Run
from tests.conftest import Call, flags
from tests.core.pictures import photo, write
from tests.notices import ROOT, calls, modules, notices, page

EXAMPLE = Notice("example", "An example.", "nothing")


def test_the_page_is_made_from_the_code() -> None:
    written = (ROOT / "docs" / "notices.md").read_text(encoding="utf-8")
    assert written == page(), "python -m tests.notices > docs/notices.md"


def test_every_kind_that_is_declared_is_given_somewhere() -> None:
    names = {id(v): k for module in modules() for k, v in vars(module).items() if isinstance(v, Notice)}
    called = {call.func.id for call in calls() if isinstance(call.func, ast.Name)}
    called |= {call.func.attr for call in calls() if isinstance(call.func, ast.Attribute)}
    passed = {a.id for call in calls() for a in call.args if isinstance(a, ast.Name)}
    assert {names[id(n)] for n in notices()} - called - passed == set()


def test_a_notice_is_one_sentence_with_a_way_to_change_it() -> None:
    for notice in notices():
        assert notice.name == notice.name.lower()
        assert " " not in notice.name
        assert notice.what.endswith(".")
        assert notice.change
        assert "\n" not in notice.what + notice.change
    with pytest.raises(ValueError, match="another notice named 'example'"):
        Notice("example", "Something else.", "nothing")


def test_each_text_is_collected_once_and_a_library_shows_none_of_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with collect_notices() as given:
        for text in ("a", "b", "a"):
            EXAMPLE(text)
    assert [notice["text"] for notice in given] == ["a", "b"]
    EXAMPLE("c")
    assert len(given) == 2
    assert capsys.readouterr() == ("", "")
    assert LOGGER.isEnabledFor(logging.INFO)


def test_the_command_line_prints_each_once_and_quiet_hides_them(call: Call, tmp_path: Path) -> None:
    for i in range(30):
        write(tmp_path / "photos" / f"{i}.png", photo((40, 30), seed=i))
    arguments = ["train", "--data", tmp_path / "photos", *flags("simclr", train__batch_size=8)]
    code, _, err = call(*arguments, "--out", "loud")
    assert code == 0, err
    lines = [line for line in err.splitlines() if line.startswith("photos: ")]
    assert len(lines) == len(set(lines)) >= 3
    assert "photos: 30 images: 27 to train, 3 held out (10 %); no labels" in lines
    assert "photos: a mirrored image is assumed to mean the same; task.flip=0 if it does not" in lines
    assert "left out of an epoch: 3 of 27 images, others each time, as a step takes 8" in err
    kept = [notice["text"] for notice in Run.open("loud").results()["notices"]]
    assert set(lines) <= set(kept)

    code, _, err = call("--quiet", *arguments, "--out", "quiet")
    assert code == 0, err
    assert not [line for line in err.splitlines() if line.startswith("photos: ")]
    assert Run.open("quiet").results()["notices"] == Run.open("loud").results()["notices"]

    code, out, err = call(*arguments, "--out", "json", "--json")
    assert (code, err) == (0, "")
    results = json.loads(out)
    assert [notice["text"] for notice in results["notices"]] == kept
    assert results["data"]["train"] == 27
    assert results["data"]["facts"]["held_out"] == "10 %"
    assert results["data"]["no_accuracy"] == "has no labels"
