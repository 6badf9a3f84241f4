"""The report: a self-contained page that names what is missing and shows every name as text."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
import subprocess
import sys
import types
import warnings
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markupsafe import Markup
from matplotlib.axes import Axes
from PIL import Image

from ssl_zoo.comparison import compare, open_sweep
from ssl_zoo.config.schema import EncoderConfig
from ssl_zoo.data import ArraySplit, DataSet
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import Subject
from ssl_zoo.reporting import projection, report, samples
from ssl_zoo.reporting.curves import curve
from ssl_zoo.reporting.inputs import FeatureExtractor, Member, Missing, ReportInputs, read_folder
from ssl_zoo.reporting.neighbours import choose_queries, nearest
from ssl_zoo.reporting.pictures import (
    DISTINCT_STYLES,
    data_uri,
    label_ends,
    numbered_style,
    render_svg,
    row_styles,
    spread,
)
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.device import Device
from ssl_zoo.spec import Spec
from ssl_zoo.training import train
from tests.conftest import small_config
from tests.core.pictures import broken, photo, write

HOSTILE = ('"><img src=x onerror=alert(1)>', "<script>alert(1)", "$x_{1}")
"""Names of classes that look like markup, or like mathematics to matplotlib."""
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}
SECTIONS = ["results", "curves", "cost", "map", "neighbours", "views", "made"]


class Page(HTMLParser):
    """A page as a browser reads it; malformed HTML fails an assertion.

    Attributes:
        tags: the name and the attributes of each element.
        text: all text outside style sheets.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text, self.styles = "", ""
        self._open: list[str] = []
        self.feed(file.read_text())
        self.close()
        assert self._open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["style"]:
            self.styles += data
        else:
            self.text += f" {data}"

    def all(self, attribute: str) -> list[str]:
        """Return the values of an attribute, in order."""
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]

    def section(self, name: str) -> list[tuple[str, dict[str, str]]]:
        """Return the elements from the start of a section to that of the next."""
        starts = [i for i, (tag, _) in enumerate(self.tags) if tag == "section"]
        start = next(i for i in starts if self.tags[i][1]["id"] == name)
        return self.tags[start : next((i for i in starts if i > start), len(self.tags))]

    def check(self) -> None:
        """Check that the page loads and runs nothing, and that ids are unique."""
        ids = self.all("id")
        assert len(ids) == len(set(ids))
        assert {tag for tag, _ in self.tags}.isdisjoint({"script", "link", "iframe", "object", "base"})
        for target in [*self.all("href"), *self.all("xlink:href"), *self.all("src")]:
            assert target.startswith("data:image/") or (target[:1] == "#" and target[1:] in ids), target
        for value in (v for _, attributes in self.tags for v in attributes.values()):
            assert all(name in ids for name in re.findall(r"url\(#?(.*?)\)", value)), value
        assert not any(name.startswith("on") for _, attributes in self.tags for name in attributes)
        assert "url(" not in self.styles
        assert "@import" not in self.styles
        assert all(attributes.get("alt") for tag, attributes in self.tags if tag == "img")


def read(file: Path) -> Page:
    page = Page(file)
    page.check()
    return page


@pytest.fixture(name="photos", scope="module")
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "photos"
    for c, name in enumerate(HOSTILE):
        for i in range(16):
            write(folder / name / f"{i:02}.png", photo((20, 20), seed=100 * c + i))
    broken(folder / HOSTILE[0] / "<b>bad.png")
    return folder


SMALL: dict[str, Any] = {
    "epochs": 1, "batch_size": 8, "device": "cpu", "precision": "fp32", "log_every": 1,
    "knn_points": 2,
}  # fmt: skip


@pytest.fixture(name="comparison", scope="module")
def small_comparison(photos: Path) -> Path:
    out = photos.parent / "comparison"
    compare(
        out=out, tasks=["simclr", "inpainting"], seeds=2, protocols=["knn"],
        baselines=["pixels", "random-init"],
        data={"source": str(photos), "image_size": 16, "holdout": 0.3},
        backbone={"name": "test_resnet"}, train=SMALL,
        overrides={"inpainting": {"task": {"hidden": 32}}},
    )  # fmt: skip
    return out


@pytest.fixture(name="page", scope="module")
def whole_page(comparison: Path) -> Page:
    return read(report(comparison))


@pytest.fixture(name="copy")
def comparison_copy(comparison: Path, tmp_path: Path) -> Path:
    """Return a copy of the comparison that a test may damage."""
    copy = tmp_path / "copy"
    shutil.copytree(comparison, copy)
    (copy / "report.html").unlink(missing_ok=True)
    return copy


# ---- a comparison


def test_the_page_has_all_parts_and_each_row_in_each(page: Page) -> None:
    rows = {"simclr", "inpainting", "pixels", "random-init"}
    assert [attributes["id"] for tag, attributes in page.tags if tag == "section"] == SECTIONS
    assert page.all("href")[: len(SECTIONS)] == [f"#{name}" for name in SECTIONS]
    assert rows <= set(page.text.split())
    count = {name: sum(tag == "img" for tag, _ in page.section(name)) for name in SECTIONS}
    assert count["map"] == len(rows)
    assert count["neighbours"] == 6 * (1 + 6 * len(rows))
    assert count["views"] == 2
    assert "Not shown" not in page.text
    assert "has not" not in page.text
    assert "is not finished" not in page.text
    # Two losses, kNN and the one bound by images and by minutes, and accuracy against cost.
    assert page.all("class").count("plot") == 2 + 2 + 2 + 1


def test_names_of_classes_and_files_are_text(page: Page) -> None:
    assert not any(tag == "b" and not attributes for tag, attributes in page.section("made"))
    for name in HOSTILE:
        assert name in page.text
    assert "<b>bad.png" in page.text
    assert "1 sample could not be read" in page.text
    assert "x" not in page.all("src")


def test_a_neighbour_of_another_class_is_marked_not_by_colour_alone(page: Page) -> None:
    wrong = page.all("class").count("wrong")
    assert wrong > 0
    assert sum(alt.endswith(", which is wrong") for alt in page.all("alt")) == wrong
    assert page.text.count("✗ ") == wrong


def test_how_it_was_made_has_the_settings_that_are_not_defaults(page: Page) -> None:
    made = page.text[page.text.rindex("How it was made") :]
    assert "backbone.name = test_resnet" in made
    assert "task.hidden = 32" in made
    assert "train.seed" not in made
    assert "train.momentum" not in made
    assert all(f"{name}-{seed}" in made for name in ("simclr", "inpainting") for seed in (0, 1))
    assert f"torch {metadata.version('torch')}" in made


def test_nothing_else_is_written_and_the_page_can_lie_elsewhere(copy: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    file = report(str(copy), tmp_path / "page.html", map="pca")
    assert file == tmp_path / "page.html"
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert "by their first two principal components" in read(file).text


def test_what_failed_or_has_not_ended_or_lost_its_weights_says_so(copy: Path) -> None:
    reason = "the loss is nan at step 3; <script>alert(1)</script> & lower --lr"
    for seed in (0, 1):
        (copy / f"simclr-{seed}" / "results.json").unlink()
        (copy / f"inpainting-{seed}" / "checkpoint.pt").unlink()
    (copy / "simclr-0" / "failed.json").write_text(json.dumps({"failed": reason}))
    shutil.rmtree(copy / "random-init-0")
    shutil.rmtree(copy / "random-init-1")
    page = read(report(copy, map="pca"))
    assert f"simclr-0 failed: {reason}" in page.text
    assert "simclr-1 is not finished" in page.text
    assert "random-init-0 has not started" in page.text
    assert "; 3 of 7 cells are done" in page.text
    assert "has no checkpoint; train it first" in page.text
    assert sum(tag == "img" for tag, _ in page.section("map")) == 1  # of pixels
    # The curves of what was logged are there all the same.
    assert page.all("class").count("plot") == 2 + 2 + 2 + 1


def test_a_comparison_that_has_not_begun_has_a_page(copy: Path) -> None:
    for path in copy.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    page = read(report(copy, map="pca"))
    assert "No run is finished yet" in page.text
    assert "Nothing was logged" in page.text
    assert "No run has started" in page.text


def test_broken_files_and_missing_data_are_said_in_their_parts(copy: Path) -> None:
    (copy / "simclr-0" / "metrics.jsonl").write_text("{no json\n")
    (copy / "simclr-1" / "config.yaml").write_text("task: {name: gone}\n")
    sweep = open_sweep(copy / "compare.yaml", copy)
    moved = sweep.comparison.model_copy(update={"data": {"source": str(copy / "moved away")}})
    (copy / "compare.yaml").write_text(moved.to_yaml())
    page = read(report(copy, map="pca"))
    assert "metrics.jsonl, line 1 cannot be read" in page.text
    assert "there is no task 'gone'" in page.text
    assert "moved away" in page.text
    assert [attributes["id"] for tag, attributes in page.tags if tag == "section"] == [
        name for name in SECTIONS if name not in ("neighbours", "views")
    ]


def test_what_was_trained_on_another_machine_is_shown_on_this_one(comparison: Path) -> None:
    config = read_folder(comparison).config
    assert isinstance(config, EncoderConfig)
    train = config.train.model_copy(update={"device": "cuda:63"})
    assert FeatureExtractor(config.model_copy(update={"train": train}), "image").data.classes == tuple(
        sorted(HOSTILE)
    )


# ---- one run


def test_a_run_has_a_page_with_the_scores_beside_the_baselines(comparison: Path, tmp_path: Path) -> None:
    config = small_config(
        "inpainting", train__epochs=1, data__source=str(comparison.parent / "photos"),
        train__batch_size=8, train__knn_points=3,
    )  # fmt: skip
    run = train(config, out=tmp_path / "run")
    file = report(run.path, map="pca")
    assert file == run.path / "report.html"
    page = read(file)
    scores = run.results()["scores"]
    assert list(scores) == ["inpainting", "pixels", "random-init"]
    assert all(f"{name} {row['knn']:.1f}" in page.text for name, row in scores.items())
    assert page.text.startswith("inpainting: photos, test_resnet, 1 epochs")
    assert sum(tag == "img" for tag, _ in page.section("map")) == 1
    assert sum(tag == "img" for tag, _ in page.section("views")) == 1
    # Before it has ended there are the curves, and why there is no more.
    run.results_file.unlink()
    page = read(report(run.path, map="pca"))
    assert "is not finished; resume it with: ssl-zoo train --resume" in page.text
    assert page.all("class").count("plot") == 1 + 2


def test_without_labels_there_are_pictures_and_no_classes(tmp_path: Path) -> None:
    for i in range(40):
        write(tmp_path / "photos" / f"{i:02}.png", photo((20, 20), seed=i))
    config = small_config("rotation", data__source=str(tmp_path / "photos"), train__batch_size=8)
    run = train(config, out=tmp_path / "run")
    page = read(report(run.path, map="pca"))
    assert "all alike, as the classes are not known" in page.text
    assert "the data has no labels" in page.text
    assert "There was no evaluation during training" in page.text
    assert {"wrong", "legend"}.isdisjoint(page.all("class"))
    assert sum(tag == "img" for tag, _ in page.section("neighbours")) == 6 * (1 + 6)


def seen(labels: torch.Tensor, classes: tuple[str, ...] | None) -> Any:
    """Return the values of the sections on samples that are not images."""
    split = ArraySplit(torch.randn(len(labels), 5), labels)
    data = DataSet("x", Spec("numbers"), split, split, split, classes)
    device = Device(torch.device("cpu"), "fp32", False)

    class Numbers:
        def __init__(self) -> None:
            self.data = data

        def subject(self, member: Member) -> tuple[Subject, None]:
            return Subject("numbers", data, device, lambda x: x), None

    member = Member("<row>", 0, Run("nowhere"), "untrained")
    nothing = Missing("")
    inputs = ReportInputs(Path(), "", "", nothing, [member], nothing)
    return samples.section(inputs, Numbers(), "pca")  # type: ignore[arg-type]


def test_samples_that_are_no_images_have_a_map_and_neither_neighbours_nor_views() -> None:
    classes = ("</b>", "$a$", "c")
    made = seen(torch.arange(30) % 3, classes)
    assert [panel.title for panel in made["maps"]] == ["<row>"]
    assert made["maps"][0].picture.startswith("data:image/png;base64,")
    assert [name for name, _ in made["legend"]] == list(classes)
    assert made["queries"] == made["views"] == []


def test_more_classes_than_can_be_told_apart_share_a_look() -> None:
    legend = seen(torch.arange(2 * DISTINCT_STYLES) % (DISTINCT_STYLES + 6), None)["legend"]
    assert len({style for _, style in legend}) == DISTINCT_STYLES + 1
    assert legend[0][0] == "0"
    assert legend[-1][0] == "6 other classes"


# ---- what is asked for


def test_what_is_neither_a_run_nor_a_comparison_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has neither compare\.yaml nor config\.yaml"):
        report(tmp_path)
    with pytest.raises(UserError, match=r"nowhere is not a directory; give"):
        report(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_asked_for_is_known_before_the_work(comparison: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--map: there is no map 'tsn'\. Did you mean 'tsne'\?"):
        report(comparison, tmp_path / "x.html", map="tsn")
    with pytest.raises(UserError, match=r"-o .*x\.pdf: unknown format; its name must end in \.html"):
        report(comparison, tmp_path / "x.pdf")
    with pytest.raises(UserError, match=r"there is no folder"):
        report(comparison, tmp_path / "none" / "x.html")
    assert list(tmp_path.iterdir()) == []


# ---- maps


def test_the_principal_components_are_those_of_the_singular_value_decomposition() -> None:
    x = np.random.default_rng(0).normal(size=(40, 7)) * np.arange(1, 8) + 3
    centred = x - x.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    ours, theirs = projection.pca(x, 3), (u * s)[:, :3]
    signs = np.sign((ours * theirs).sum(0))
    np.testing.assert_allclose(ours, theirs * signs, atol=1e-9)


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("shape", [(30, 6), (30, 1), (12, 100), (3, 5), (2, 2), (1, 4)])
def test_a_map_is_finite_and_the_same_each_time(method: str, shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    points = projection.project(x, method)
    assert points.shape == (shape[0], 2)
    assert np.isfinite(points).all()
    assert (points == projection.project(x, method)).all()


def test_features_that_have_collapsed_or_are_zero_have_a_map() -> None:
    for x in (np.ones((30, 4), np.float32), np.zeros((30, 4), np.float32)):
        np.testing.assert_allclose(projection.project(x, "tsne"), 0, atol=1e-6)


def test_the_length_of_a_feature_does_not_matter() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(30, 6))
    longer = x * generator.uniform(0.5, 9, size=(30, 1))
    np.testing.assert_allclose(
        projection.project(x, "pca"), projection.project(longer, "pca"), atol=1e-9
    )


def test_groups_that_are_apart_stay_apart() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    x = np.eye(3)[labels] * 5 + generator.normal(size=(60, 3)) * 0.2
    points = projection.project(x, "tsne")
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.eye(60) * 1e9
    assert (labels[distances.argmin(1)] == labels).all()


def test_umap_is_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "find_spec", lambda name: None)
    assert projection.choose_method("auto") == "tsne"
    with pytest.raises(UserError, match=r"--map umap needs the extra: pip install 'ssl-zoo\[umap\]'"):
        projection.choose_method("umap")
    monkeypatch.setattr(projection, "find_spec", lambda name: object())
    assert projection.choose_method("auto") == projection.choose_method("umap") == "umap"

    class UMAP:
        def __init__(self, **settings: Any) -> None:
            assert settings["n_components"] == 2
            assert settings["n_neighbors"] == 15

        def fit_transform(self, x: Any) -> Any:
            return x[:, :2] * 2

    module = types.ModuleType("umap")
    module.UMAP = UMAP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)
    x = np.random.default_rng(0).normal(size=(30, 6))
    np.testing.assert_allclose(projection.project(x, "umap"), 2 * projection.project(x, "pca"))


# ---- neighbours


def test_the_nearest_are_those_of_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(50, 6, generator=generator), torch.randn(4, 6, generator=generator)
    bank[7] = 0
    found = nearest(bank, queries, 5)
    for query, ours in zip(queries.tolist(), found.tolist(), strict=True):
        cosines = []
        for vector in bank.tolist():
            dot = sum(a * b for a, b in zip(query, vector, strict=True))
            lengths = (sum(a * a for a in query) * sum(b * b for b in vector)) ** 0.5
            cosines.append(dot / lengths if lengths else 0.0)
        assert ours == sorted(range(50), key=lambda i: -cosines[i])[:5]
    assert nearest(bank[:3], queries, 5).shape == (4, 3)


def test_of_equals_the_first_is_nearest() -> None:
    assert nearest(torch.ones(5, 2), torch.ones(1, 2), 3).tolist() == [[0, 1, 2]]


def test_queries_are_of_different_classes_and_always_the_same() -> None:
    labels = torch.randint(10, (200,), generator=torch.Generator().manual_seed(0))
    chosen = choose_queries(labels, 200, 6)
    assert len(labels[chosen].unique()) == 6
    assert labels[chosen].equal(labels[chosen].sort().values)
    assert chosen.equal(choose_queries(labels, 200, 6))
    # Of few classes each is there as often as another; of few samples all are taken.
    assert sorted(labels.where(labels < 2, 2)[choose_queries(labels.clamp(max=2), 200, 6)].tolist()) == [
        0, 0, 1, 1, 2, 2,
    ]  # fmt: skip
    assert choose_queries(torch.tensor([4, 4, 9]), 3, 6).sort().values.tolist() == [0, 1, 2]
    assert len(choose_queries(None, 200, 6).unique()) == 6


# ---- figures


def painted(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], marker="o")
    axes.set_xlabel('$x_{1}$ <script>alert(1)</script> & "quoted"')
    label_ends(
        axes, [(name, 1.0, 1.0, numbered_style(i)) for i, name in enumerate(["<b>", "a&b", "$a$"])]
    )


def test_figures_are_svg_that_takes_names_for_text_and_shares_no_id(tmp_path: Path) -> None:
    first, second = (render_svg(painted, name, 'an "alt" <text>') for name in ("first", "second"))
    assert isinstance(first, Markup)
    assert first == render_svg(painted, "first", 'an "alt" <text>')
    file = tmp_path / "page.html"
    file.write_text(f"<section id='s'>{first}{second}</section>")
    page = read(file)
    assert page.text.count('$x_{1}$ <script>alert(1)</script> & "quoted"') == 2
    assert all(name in page.text for name in ("<b>", "a&b", "$a$"))
    assert page.all("aria-label") == ['an "alt" <text>'] * 2
    assert any(name.startswith("first-") for name in page.all("id"))
    # Colours are the page's own, whether it is dark or light.
    assert "#01020" not in html.unescape(first)
    assert "var(--soft)" in first


def test_a_name_of_letters_that_the_font_lacks_draws_without_a_warning() -> None:
    def paint(axes: Axes) -> None:
        axes.set_xlabel("猫 🐈")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "猫 🐈" in render_svg(paint, "x", "x")


def test_images_keep_every_pixel_but_photographs_take_little_room() -> None:
    rng = np.random.default_rng(0)
    for shape in ((28, 28), (32, 32, 3)):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        kind, image = decoded(data_uri(Image.fromarray(pixels)))
        assert kind == "png"
        assert (np.asarray(image) == pixels).all()
    kind, image = decoded(data_uri(photo((400, 400))))
    assert kind == "jpeg"
    assert np.abs(np.asarray(image).astype(int) - np.asarray(photo((400, 400)))).mean() < 3


def decoded(address: str) -> tuple[str, Image.Image]:
    head, content = address.split(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    return head.removeprefix("data:image/"), image


def test_looks_differ_and_depend_on_names_alone() -> None:
    assert len({numbered_style(i) for i in range(DISTINCT_STYLES)}) == DISTINCT_STYLES
    found = row_styles(["a", "b"], {"supervised": True, "pixels": False, "random-init": False})
    assert len(set(found.values())) == 5
    assert found["a"] == row_styles(["a", "b"], {})["a"]


def test_labels_are_moved_apart_as_little_as_can_be() -> None:
    assert spread([1.0, 5.0, 9.0], 1, 0, 10) == pytest.approx([1, 5, 9])
    assert spread([5.0, 5.0, 5.0], 1, 0, 10) == pytest.approx([4, 5, 6])
    assert spread([9.5, 0.1, 9.6], 1, 0, 10) == pytest.approx([9, 0.1, 10])
    assert spread([5.0] * 4, 10, 0, 10) == pytest.approx([0, 10, 20, 30])
    assert spread([], 1, 0, 10) == []


def test_a_curve_is_the_mean_and_the_range_over_runs_as_far_as_all_have_got() -> None:
    a = np.array([[10, 1, 5], [20, 2, 3], [30, 3, 1]], dtype=float)
    b = np.array([[10, 3, 7], [20, 4, 3]], dtype=float)
    joint = curve([a, b])
    assert joint is not None
    assert joint.runs == 2
    assert joint.samples.tolist() == [10, 20]
    assert joint.minutes.tolist() == [2, 3]
    assert (joint.mean.tolist(), joint.low.tolist(), joint.high.tolist()) == ([6, 3], [5, 3], [7, 3])
    assert curve([]) is None
    assert curve([a, np.zeros((0, 3))]) is None
    long = np.stack([np.arange(1000.0)] * 3, 1)
    shown = curve([long])
    assert shown is not None
    assert len(shown.mean) == 150
    assert shown.samples[0] == shown.mean[0] == 3  # of the first seven
    assert (np.diff(shown.mean) > 0).all()


# ---- in a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MEASURE = """
<iframe style="width: {width}px; height: 2000px; border: 0" srcdoc="{page}" onload="
  const root = contentDocument.documentElement;
  document.title = [contentWindow.innerWidth, root.scrollWidth, root.scrollHeight].join()
"></iframe>
"""
"""A frame, because Chromium's own window is never narrower than 500 pixels."""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_no_wider_than_the_window(
    comparison: Path, page: Page, width: int, tmp_path: Path
) -> None:
    assert CHROMIUM is not None
    text = (comparison / "report.html").read_text()
    frame = tmp_path / "frame.html"
    frame.write_text(MEASURE.format(width=width, page=html.escape(text)))
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,2000", "--dump-dom",
         frame.as_uri()],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    title = re.search(r"<title>(\d+),(\d+),(\d+)</title>", done.stdout)
    assert title is not None
    window, content, height = map(int, title.groups())
    assert content <= window == width
    assert height > 2000
