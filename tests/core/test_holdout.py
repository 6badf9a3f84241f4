"""Holding out: by class, groups and copies on one side, and cheap evaluation of few samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from ssl_zoo.data.holdout import exact_copies, group_by_name, merge_groups, stratified_split
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation.accuracy import accuracies
from ssl_zoo.evaluation.linear import Axes, fit_logistic, logits
from tests.core.pictures import broken, folder, photo, write


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.5])
def test_the_share_is_held_out_of_each_class_and_a_single_image_is_trained_on(share: float) -> None:
    sizes = [200, 61, 30, 7, 2, 1]
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    train, test = stratified_split(labels, torch.arange(len(labels)), share)
    assert torch.equal(torch.cat([train, test]).sort().values, torch.arange(len(labels)))
    held = labels[test].bincount(minlength=len(sizes))
    for size, number in zip(sizes, held.tolist(), strict=True):
        assert abs(number - share * size) < 1
    assert held[-1] == 0
    assert len(test) == round(share * sum(sizes))


def test_of_more_classes_than_held_out_images_those_are_drawn_at_random() -> None:
    labels = torch.arange(200) // 4
    _, test = stratified_split(labels, torch.arange(200), 0.1)
    chosen = labels[test].unique()
    assert len(test) == len(chosen) == 20
    assert chosen.max() >= 40  # not those that come first by name


def test_groups_are_never_divided_and_the_share_is_nearly_met() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(0, 60, (900,), generator=generator)
    labels = groups % 3
    train, test = stratified_split(labels, groups, 0.1)
    assert not set(groups[train].tolist()) & set(groups[test].tolist())
    held = labels[test].bincount(minlength=3) / labels.bincount()
    assert held.min() > 0.05
    assert held.max() < 0.15


def test_of_few_large_groups_the_smallest_is_held_out() -> None:
    groups = torch.tensor([0] * 50 + [50] * 40 + [90] * 60)
    train, test = stratified_split(torch.zeros(150, dtype=torch.long), groups, 0.1)
    assert (len(train), groups[test].unique().tolist()) == (110, [50])


def test_copies_of_an_image_lie_on_one_side(tmp_path: Path) -> None:
    for i in range(40):
        path = write(tmp_path / "a" / f"{i}.png", photo((9, 9), seed=i))
        for name in ("copy", "again"):
            (tmp_path / "b" / f"{name}{i}.png").parent.mkdir(exist_ok=True)
            (tmp_path / "b" / f"{name}{i}.png").write_bytes(path.read_bytes())
    data = folder(tmp_path, labels="none", holdout=0.1)
    assert data.test is not None
    assert data.facts.copies == 80
    train, test = (
        {tuple(x) for x in s.batch(torch.arange(len(s))).flatten(1).tolist()}
        for s in (data.train, data.test)
    )
    assert not train & test
    assert len(data.test) == 12


def test_files_of_one_size_and_one_end_are_not_copies(tmp_path: Path) -> None:
    contents = [b"a" + bytes(9000), b"b" + bytes(9000), b"a" + bytes(9000), b"", b""]
    paths = [tmp_path / str(i) for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    assert exact_copies([*paths, tmp_path / "gone"]) == [[0, 2]]


def test_nothing_is_held_out_of_data_without_labels_unless_asked_for(tmp_path: Path) -> None:
    for i in range(20):
        write(tmp_path / ("a" if i % 2 else "b") / f"{i}.png", photo((9, 9), seed=i))
    for settings, held in (({}, 0), ({"holdout": 0.2}, 4), ({"groups": r"\d+"}, 2)):
        data = folder(tmp_path, labels="none", **settings)
        assert (len(data.train), 0 if data.test is None else len(data.test)) == (20 - held, held)
    labelled = folder(tmp_path)
    assert labelled.test is not None
    assert (len(labelled.train), len(labelled.test)) == (18, 2)


@pytest.mark.parametrize("rule", ["folder", r"(p\d+)", r"^p\d+"])
def test_images_of_one_patient_lie_on_one_side(rule: str, tmp_path: Path) -> None:
    for patient in range(20):
        for i in range(5):
            write(tmp_path / f"p{patient}" / f"{i}.png", photo((9, 9), seed=5 * patient + i))
    data = folder(tmp_path, labels="none", groups=rule)
    assert data.test is not None
    assert data.train.names is not None
    assert data.test.names is not None
    train, test = ({Path(name).parent.name for name in s.names} for s in (data.train, data.test))
    assert not train & test
    assert (len(test), data.facts.held_out) == (2, "10 %, in whole groups, 20 in all")


def test_a_pattern_that_does_not_fit_the_names_is_one_line(tmp_path: Path) -> None:
    names = ["p1/a.png", "p2/b.png", "scan.png"]
    with pytest.raises(UserError, match=r"data\.groups: p\\d is not found in the names of 1 of 3"):
        group_by_name(names, r"p\d")
    with pytest.raises(UserError, match=r"data\.groups: is not a regular expression"):
        group_by_name(names, "(p")
    with pytest.raises(UserError, match=r"data\.groups: digits has no files to group|nothing is held"):
        folder(Path("digits"), groups="folder")


def test_sets_that_share_a_sample_are_one_group() -> None:
    groups = merge_groups(7, [[0, 1], [2, 3], [3, 1], [5, 6]])
    assert [groups[i] == groups[j] for i, j in ((0, 3), (0, 2), (5, 6))] == [True] * 3
    assert len(groups.unique()) == 3


def test_an_unreadable_folder_of_copies_trains_on_what_is_left(tmp_path: Path) -> None:
    for i in range(3):
        broken(tmp_path / f"broken{i}.png")
    for i in range(8):
        write(tmp_path / f"{i}.png", photo(seed=i))
    data = folder(tmp_path, holdout=0.1)
    assert data.test is not None
    assert len(data.train) + len(data.test) == 8


# The cost of evaluation follows the number of samples


def test_few_samples_of_many_features_have_the_fit_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 300, generator=generator), torch.arange(40) % 4
    x[torch.arange(40), y] += 2
    axes = Axes.of(x)
    assert axes.basis.shape == (300, 39)  # centred samples span one dimension less
    weight = fit_logistic(axes(x), y, 4, 1e-2, variance=axes.variance)
    test = torch.randn(50, 300, generator=generator)
    ours = logits(weight, axes(test)).softmax(1)
    scaler = StandardScaler().fit(x.numpy())
    theirs = LogisticRegression(C=1 / (1e-2 * 40), max_iter=5000, tol=1e-8)
    theirs.fit(scaler.transform(x.numpy()), y.numpy())
    expected = torch.from_numpy(theirs.predict_proba(scaler.transform(test.numpy()))).float()
    torch.testing.assert_close(ours, expected, atol=0.01, rtol=0)


def test_the_axes_of_few_samples_need_no_matrix_of_all_features() -> None:
    x = torch.randn(30, 200_000, generator=torch.Generator().manual_seed(0))  # 200,000² would be 160 GB
    assert Axes.of(x).basis.shape == (200_000, 29)


def test_balanced_accuracy_is_scikit_learns_and_shown_where_classes_differ_in_size() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    predicted = torch.zeros(100, dtype=torch.long)
    predicted[95:] = 1
    scores = accuracies("knn", predicted, labels)
    expected = 100 * balanced_accuracy_score(labels.numpy(), predicted.numpy())
    assert scores == pytest.approx({"knn": 95, "knn_balanced": expected})
    assert accuracies("knn", labels, labels.flip(0) * 0 + labels) | {} == {
        "knn": 100.0,
        "knn_balanced": 100.0,
    }
    assert list(accuracies("knn", torch.arange(4), torch.arange(4))) == ["knn"]
