"""Commands for authors of plugins: new-task, check, --plugin, plugins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssl_zoo.testing.catalogue import CHECKS, SOURCE_CHECKS
from tests.conftest import Call

pytestmark = pytest.mark.usefixtures("isolated_registry")

NEAR = '''
import torch.nn.functional as F
from ssl_zoo import Losses, Task
from ssl_zoo.views import RandomResizedCrop

class Near(Task):
    """Two crops of an image lie near each other, and so do all others."""
    name = "near"
    passes = 2
    def views(self, images, rng):
        crop = RandomResizedCrop(self.spec.size, scale=(0.3, 1.0))
        return tuple(self.spec.normalise(crop(images, rng)) for _ in range(2))
    def loss(self, views):
        x, y = (F.normalize(self.encoder(view).float()) for view in views)
        LOSS
'''
SOUND = "return Losses((x - y).square().sum(1).mean() + 1)"
FAILING = 'raise RuntimeError("out of crops")'


def near(loss: str = SOUND) -> Path:
    Path("near.py").write_text(NEAR.replace("LOSS", loss))
    return Path("near.py")


def test_check_reports_every_check_and_fails_where_one_fails(call: Call) -> None:
    code, out, err = call("check", "near", "--plugin", near(), "--json")
    assert (code, err) == (1, "")
    read = json.loads(out)["checks"]
    assert [entry["check"] for entry in read] == list(CHECKS)
    failed = {entry["check"] for entry in read if entry["state"] == "failed"}
    assert failed == {"representations_do_not_collapse"}  # nothing keeps images apart

    expect = "representations_do_not_collapse=it is there to show that"
    code, out, _ = call("check", "near", "--plugin", near(), "--expect", expect)
    assert code == 0
    assert "expected   representations_do_not_collapse: it is there to show that (" in out
    assert out.splitlines()[-1] == f"{len(CHECKS) - 2} passed, 1 expected, 1 skipped"


@pytest.mark.slow
def test_a_task_can_be_checked_with_settings_and_on_data(call: Call) -> None:
    arguments = ["--data", "digits", "--set", "task.stage=1", "--backbone", "test_resnet"]
    code, out, _ = call("check", "rotation", *arguments)
    assert code == 0, out
    assert "(data of digits)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rotatoin"], "Did you mean 'rotation'?"),
        (
            ["rotation", "--set", "task.stge=1"],
            "--set task.stge=1: task.stge: there is no such setting.",
        ),
        (["rotation", "--expect", "views_vray=no"], "no check 'views_vray'. Did you mean 'views_vary'?"),
        (["rotation", "--expect", "views_vary"], "views_vary needs a reason"),
        (["rotation", "--data", "nowhere/"], "data.source: "),
    ],
)
def test_what_cannot_be_checked_is_one_line_and_code_2(
    call: Call, arguments: list[str], message: str
) -> None:
    code, out, err = call("check", *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err


def test_an_error_in_the_middle_of_training_names_the_plugin_and_the_line(call: Call) -> None:
    file = near(FAILING).resolve()
    line = file.read_text().splitlines().index(f"        {FAILING}") + 1
    code, _, err = call("train", "--task", "near", "--epochs", "1", "--plugin", file)
    assert code == 1
    message = (
        f"error: RuntimeError: out of crops at {file}:{line}, in {file} (--debug shows the traceback)"
    )
    assert err.splitlines()[-1] == message


@pytest.mark.parametrize("place", ["before", "after", "equals"])
def test_a_plugin_may_be_named_anywhere(call: Call, place: str) -> None:
    file = str(near())
    arguments = {
        "before": ["--plugin", file, "tasks"],
        "after": ["tasks", "--plugin", file],
        "equals": ["tasks", f"--plugin={file}"],
    }[place]
    code, out, _ = call(*arguments)
    assert code == 0
    assert "Two crops of an image lie near" in out


def test_new_task_says_what_to_do_next(call: Call) -> None:
    code, out, err = call("new-task", "colour-guess", "--kind", "masked")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "wrote ssl-zoo-colour-guess",
        "  pip install -e ssl-zoo-colour-guess",
        "  ssl-zoo check colour-guess",
        "  ssl-zoo train --task colour-guess",
    ]
    assert Path("ssl-zoo-colour-guess/ssl_zoo_colour_guess.py").is_file()
    assert call("new-task", "colour-guess")[0] == 2
    assert call("new-task", "Colour")[0] == 2
    assert call("new-task", "other", "--kind", "mask")[0] == 2
    assert not Path("ssl-zoo-other").exists()


def test_a_source_is_written_and_checked_as_a_task_is(call: Call) -> None:
    code, out, err = call("new-source", "rows", "--kind", "table")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "wrote ssl-zoo-rows",
        "  pip install -e ssl-zoo-rows",
        "  ssl-zoo check-source rows:FILE.csv",
    ]
    lines = [f"{i % 7 / 7},{i},{i % 2}" for i in range(40)]
    Path("rows.csv").write_text("\n".join(["a,b,label", *lines]))
    plugin = "--plugin", "ssl-zoo-rows/ssl_zoo_rows.py"
    code, out, err = call("check-source", "rows:rows.csv", "--set", "data.options.test=0.5", *plugin)
    assert (code, err) == (0, "")
    assert "passed     can_be_opened: train 20, test 20" in out
    assert out.splitlines()[-1] == f"{len(SOURCE_CHECKS) - 3} passed, 3 skipped"

    Path("rows.csv").write_text("\n".join(["a,b,label", *lines, *lines]))
    code, out, err = call("check-source", "rows:rows.csv", *plugin, "--json")
    failed = [entry["check"] for entry in json.loads(out)["checks"] if entry["state"] == "failed"]
    assert (code, err, failed) == (1, "", ["test_split_is_apart"])

    code, out, err = call("check-source", "rows:none.csv", *plugin)
    assert (code, out) == (2, "")
    assert err.startswith("error: data.source: 'none.csv' is no table")


def test_plugins_tells_what_each_gives_and_what_is_wrong(call: Call) -> None:
    Path("broken.py").write_text(
        "from ssl_zoo import hookimpl\n@hookimpl\ndef ssl_zoo_register_sources(): return {'x': 3}\n"
    )
    entries = json.loads(call("plugins", "--json", "--plugin", "broken.py")[1])
    listed = {entry["name"]: entry for entry in entries}
    assert listed["simclr"]["contributes"] == "task"
    assert listed["vision-protocols"]["contributes"] == "protocols: dense"
    assert listed["wandb"]["contributes"] == "observer, on request"
    assert listed["broken.py"]["error"].startswith("ssl_zoo_register_sources must return a mapping")
    assert all(entry["error"] is None for name, entry in listed.items() if name != "broken.py")
