"""Notices: given once, hidden by --quiet, kept with a run, and all of them in the documentation."""

from __future__ import annotations

import ast
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_zoo.cli.notices import PRINTED
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
    assert "photos: 30 images: 30 to train, none to evaluate on; no labels" in lines
    assert "photos: a mirrored image is assumed to mean the same; task.flip=0 if it does not" in lines
    assert "left out of an epoch: 6 of 30 images, others each time, as a step takes 8" in err
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
    assert results["data"]["train"] == 30
    assert results["data"]["facts"]["held_out"] == ""
    assert results["data"]["no_accuracy"] == "has no labels"


def test_a_warning_has_a_prefix_and_is_kept_and_the_data_come_first(call: Call, tmp_path: Path) -> None:
    for i in range(12):
        write(tmp_path / "pats" / f"patient{i}" / "wide.png", photo((40, 20), seed=i))
    data = ("--data", tmp_path / "pats")
    code, _, err = call("train", *data, *flags("simclr", train__batch_size=6), "--out", "run")
    assert code == 0, err
    about_data = [line for line in err.splitlines() if "pats: " in line]
    assert about_data[0].startswith(
        "pats: 12 images: 12 to train, none to evaluate on; 12 classes of 1 "
    )
    assert about_data[1] == "pats: none of the 12 images is square; evaluation sees the central square"
    (warning,) = (line for line in about_data if line.startswith("warning: "))
    text = warning.removeprefix("warning: ")
    assert text.startswith("pats: 12 classes for 12 labelled images: ")
    assert {"notice": "warning", "text": text} in Run.open("run").results()["notices"]

    # All results as JSON have the notices, the warnings and the data.
    for command, key in (
        (("eval", "run", "--protocol", "health"), "scores"),
        (("embed", "run", "-o", "e.npz"), "width"),
        (("compare", "run", "--protocol", "health"), "rows"),
    ):
        code, out, err = call(*command, "--json")
        printed = json.loads(out)
        assert code == 0
        assert key in printed
        if command[0] != "compare":  # which reads the scores that there are, and no data
            assert (printed["data"]["name"], printed["data"]["train"]) == ("pats", 12)
            assert {"notice": "warning", "text": text} in printed["notices"]
            assert {"data", "not-square"} <= {notice["notice"] for notice in printed["notices"]}
            assert err.splitlines()[0] == warning
        assert isinstance(printed["notices"], list)
        assert "mirror" not in [notice["notice"] for notice in printed["notices"]]


def test_a_process_does_not_repeat_what_its_launcher_has_printed(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("config", "default", "-o", "a.yaml", "-o")
    repeated = "-o is given 2 times; the last one counts: "
    assert repeated in call(*arguments, "b.yaml")[2]
    monkeypatch.setenv(PRINTED, json.dumps([f"{repeated}-o c.yaml"]))
    assert repeated not in call(*arguments, "c.yaml")[2]


def test_collecting_does_not_silence_the_warnings_of_a_library() -> None:
    code = (
        "import logging; from ssl_zoo.notices import collect_notices\n"
        "with collect_notices() as outer, collect_notices() as inner:\n"
        "    logging.getLogger('ssl_zoo.data').warning('odd')\n"
        "print(outer == inner == [{'notice': 'warning', 'text': 'odd'}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "odd\n")
