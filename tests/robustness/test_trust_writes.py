"""Files of others lead no write elsewhere: links, archives, exported code."""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ssl_zoo import preprocess, sizes
from ssl_zoo.errors import UserError
from ssl_zoo.pixel_files import arrays, dicom, opening, page, tiff
from ssl_zoo.runs.run import Run
from ssl_zoo.tools.export import export
from tests.conftest import Call
from tests.core.pictures import go_offline, named, photo
from tests.robustness.hostile import (
    commands,
    contents,
)

# ---- where it is written


REPLACED = [
    "checkpoint.pt",
    "checkpoint.before.pt",
    "results.json",
    "backbone.safetensors",
    "report.html",
]
"""Files that are written under another name first, and then renamed."""


def with_steps_left(run: Run) -> list[list[str | Path]]:
    """Commands that write all there is to be written in a run, once there is something left to do."""
    longer = ["--samples", "512", "--set", "train.checkpoint_seconds=0"]
    return [[*commands(run.path)["train"], *longer], commands(run.path)["report"]]


@pytest.mark.parametrize("place", ["{}", ".{}.part"], ids=["in place", "aside"])
@pytest.mark.parametrize("dangling", [False, True], ids=["to a file", "to nothing"])
def test_a_link_in_the_way_of_a_runs_file_is_replaced(
    run: Run, call: Call, place: str, dangling: bool, tmp_path: Path, tried: Counter[str]
) -> None:
    names = [name for name in REPLACED if (name, place) not in KEPT]
    (tmp_path / "mine").mkdir()
    for name in names:
        mine, link = tmp_path / "mine" / name, run.path / place.format(name)
        if not dangling:
            mine.write_text("{}")
        link.unlink(missing_ok=True)
        link.symlink_to(mine)
        tried["attacks"] += 1
    for command in with_steps_left(run):
        code, _, said = call(*command)
        assert code == 0, said
    assert contents(tmp_path / "mine") == ({} if dangling else dict.fromkeys(names, b"{}"))
    assert all((run.path / name).is_file() and not (run.path / name).is_symlink() for name in REPLACED)


KEPT = [("checkpoint.pt", "{}")]
"""Files that must exist for a run to be resumed."""


@pytest.mark.parametrize("dangling", [False, True], ids=["to a file", "to nothing"])
@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock"])
def test_a_link_in_the_place_of_a_file_that_grows_is_refused(
    run: Run, call: Call, name: str, dangling: bool, tmp_path: Path, tried: Counter[str]
) -> None:
    mine = tmp_path / "mine" / "profile"
    mine.parent.mkdir()
    if not dangling:
        mine.write_text("mine\n")
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(mine)
    go_on, _ = with_steps_left(run)
    code, _, said = call(*go_on)
    assert code == 1, said
    assert f"cannot write {run.path / name}: " in said
    assert contents(mine.parent) == ({} if dangling else {"profile": b"mine\n"})
    tried["attacks"] += 1


@pytest.mark.parametrize(
    "name",
    [
        ".lock",
        "pixels/.cell.lock",
        pytest.param("logs/pixels.log", marks=pytest.mark.slow),
        ".table.md.part",
    ],
)
def test_no_link_in_a_comparison_leads_what_is_written_out_of_it(
    call: Call, name: str, tmp_path: Path, tried: Counter[str]
) -> None:
    mine, out = tmp_path / "mine" / "profile", tmp_path / "c"
    mine.parent.mkdir()
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(mine)
    devices = "2" if name.startswith("logs/") else "1"
    code, _, said = call(
        "compare", "--tasks", "simclr", "--seeds", "1", "--baselines", "pixels", "--protocol", "knn",
        "--set", "train.optimizer=sgdx", "--device", "cpu", "--out", out, "--devices", devices,
    )  # fmt: skip
    assert code in (1, 2), said  # simclr fails at once
    assert "--debug" not in said
    assert contents(mine.parent) == {}
    tried["attacks"] += 1


MEMBERS = ["../outside", "../../outside", "../../../../outside", "{outside}", "link/outside", "hard"]


def archive_of(file: Path, outside: Path, suffix: str = "") -> None:
    """Write an archive whose members would be unpacked outside its folder, some by links."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:gz" if file.suffix == ".gz" else "w") as archive:
        for target, name in ((str(outside.parent), "link"), (str(outside), "hard")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for name in MEMBERS:
            content = io.BytesIO()
            photo().save(content, "PNG")
            member = tarfile.TarInfo(name.format(outside=outside) + suffix)
            member.size = content.tell()
            content.seek(0)
            archive.addfile(member, content)


def test_no_archive_is_unpacked_outside_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Counter[str]
) -> None:
    go_offline(monkeypatch)
    root, outside = tmp_path / "data" / "root", tmp_path / "mine" / "outside"
    outside.parent.mkdir()
    for name in ("fgvc-aircraft-2013b.tar.gz", "SUN397.tar.gz", "dtd/dtd-r1.0.1.tar.gz"):
        archive_of(root / name, outside)
    before = contents(tmp_path)
    for source in ("fgvc-aircraft", "sun397", "dtd"):
        with pytest.raises(UserError):
            named(source, root)
        assert contents(tmp_path) == before, source
        tried["attacks"] += len(MEMBERS)


def test_an_archive_of_images_is_read_and_not_unpacked(tmp_path: Path, tried: Counter[str]) -> None:
    outside = tmp_path / "mine" / "outside"
    outside.parent.mkdir()
    archive_of(tmp_path / "root" / "photos.tar", outside, ".png")
    before = contents(tmp_path)
    data = named("timm:photos", tmp_path / "root" / "photos.tar", image_size=14)
    data.train.batch(torch.arange(len(data.train)))
    assert contents(tmp_path) == before
    tried["attacks"] += len(MEMBERS)


# ---- what is exported


def test_exported_code_does_nothing_but_load(run: Run, tmp_path: Path, tried: Counter[str]) -> None:
    with safe_open(run.backbone_file, "pt") as file:
        header = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    known = json.loads(header["backbone"])
    evil = "'); import os; os.mkdir('evil') #\n\"\"\"\nimport os\n"
    attempts = [
        {"options": {"pretrained_cfg_overlay": {"description": evil, evil: 1}}},
        {"options": {f"x=__import__('os').mkdir('evil'), {evil}": 1}},
        {"options": {"global_pool": evil}},
        {"options": {"pretrained_cfg": {"notes": [evil], "input_size": [3, 16, 16]}}},
        {"name": f"test_resnet.{evil}"},
        {"name": evil},
        {"options": {**known["options"], "drop_rate": 0.5}},
    ]
    specs = [{}, {"mean": [evil]}, {"size": evil}, {"channels": evil}, {"modality": evil}, {evil: evil}]
    written = 0
    for backbone in attempts:
        for spec in specs:
            its = {**json.loads(header["spec"]), **spec}
            changed = {"backbone": json.dumps({**known, **backbone}), "spec": json.dumps(its)}
            save_file(state, run.backbone_file, {**header, **changed})
            tried["attacks"] += 1
            try:
                code = export(run.path, tmp_path / "out.safetensors")
            except UserError:
                continue
            written += 1
            with safe_open(tmp_path / "out.safetensors", "pt") as file:
                only_loads(file.metadata()["load"])
            only_loads(code)
    assert written


def only_loads(code: str) -> None:
    """Code imports timm and torch, calls what builds and loads a model, and else has plain values.

    The preprocessing is the zoo's own source, the same in every export, with numbers of the run.
    """
    for module in (page, arrays, tiff, dicom, opening, sizes, preprocess):
        own = inspect.getsource(module).partition("from __future__ import annotations\n")[2].strip()
        own = re.sub(r"(?m)^from ssl_zoo.*\n", "", own).strip()
        assert own in code
        code = code.replace(own, "")
    harmless = {"timm.create_model", "timm.models.load_checkpoint", "model.get_submodule", "model.eval"}
    harmless |= {"torch.from_numpy", "image_input"}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called in harmless or re.fullmatch(r"torch\.nn\.(Conv2d|Identity)", called), code
        elif isinstance(node, ast.Import):
            assert {name.name for name in node.names} <= {"timm", "torch"}, code
        elif isinstance(node, ast.FunctionDef):
            assert node.name == "preprocess", code
        else:
            assert not isinstance(node, ast.ImportFrom | ast.ClassDef), code
