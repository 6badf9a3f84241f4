"""The answers of joint-embedding tasks in pictures: the views that are most like the first one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ssl_zoo.spec import ImageSpec
from ssl_zoo.tools.views import NEAREST, Answer, as_text, draw, nearest
from ssl_zoo.views import Rng
from ssl_zoo_vision.joint_embedding import JointEmbedding
from tests.vision.tiny_tasks import ON_PLACES, fixed_views, tiny
from tests.zoo import shipped

SPEC = ImageSpec(channels=3, size=8, mean=(0.5,) * 3, std=(0.25,) * 3)
ASKING = [name for name, task in shipped().items() if issubclass(task, JointEmbedding)]


class ByItsPixels(JointEmbedding):
    """A task whose features are all pixels."""

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def loss(self, views: tuple[Tensor, ...]) -> Any:
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def drawn(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_features_that_tell_images_apart_find_the_right_view_first() -> None:
    view = drawn(6)
    task = ByItsPixels(None, None, SPEC)  # type: ignore[arg-type]
    answers = nearest(task, SPEC, {"left": view, "right": view + 0.5 * drawn(6, 1)})
    assert tuple(answers) == ("nearest to left", *NEAREST[1:])
    first, second, third = answers.values()
    assert all(answer.right for answer in first)
    assert not any(answer.right for answer in (*second, *third))


@pytest.mark.parametrize("name", ASKING)
def test_answers_are_in_the_order_of_the_cosines_of_the_tasks_embeddings(name: str) -> None:
    task = tiny(name, dtype=torch.float32).eval()
    views = list(task.gallery(fixed_views(task, 5)).values())
    view, other = views[0], views[1] if len(views) > 1 else views[0].flip(3)
    with torch.no_grad():
        columns = list(nearest(task, task.spec, {"view 1": view, "other": other}).values())
        z, keys = task.compared(view), task.compared(other)
    shown = task.spec.show(other)
    for i in range(5):
        cosines = [float(F.cosine_similarity(z[i], keys[j], dim=0)) for j in range(5)]
        order = sorted(range(5), key=lambda j: -cosines[j])
        for j, column in zip(order, columns, strict=False):
            assert column[i].similarity == pytest.approx(cosines[j], abs=1e-5)
            assert column[i].right == (i == j)
            assert column[i].shown.tobytes() == shown[j].tobytes()


@pytest.mark.parametrize("name", ["dino", "ibot"])
def test_what_all_outputs_of_a_teacher_share_makes_no_images_alike(name: str) -> None:
    task = tiny(name, dtype=torch.float32).eval()
    x = fixed_views(task, 5)[0]
    with torch.no_grad():
        task.centre.centre.copy_(task.teacher(x).mean(0))
        z = F.normalize(task.compared(x))
        raw = F.normalize(task.head(task.encoder(x)))
    assert (raw @ raw.T).min() > (z @ z.T).min()
    assert (z @ z.T).min() < 0  # as vectors of mean 0


def test_the_right_answer_is_framed_and_each_has_its_similarity_below() -> None:
    gray = Image.new("RGB", (16, 16), "gray")
    answers = {"a": [Answer(gray, 0.5, right=False)], "b": [Answer(gray, 0.25, right=True)]}
    picture = np.asarray(draw(answers))
    assert picture.shape == (18 + 96 + 18 + 2 * 6, 2 * 96 + 3 * 6, 3)
    wrong, right = picture[18:114, 6:102], picture[18:114, 108:204]
    assert (wrong == 128).all()
    edge = np.ones((96, 96), bool)
    edge[4:-4, 4:-4] = False
    assert (right[~edge] == 128).all()
    assert (right[edge] == (0, 160, 64)).all()
    assert all((picture[115:133, left : left + 96] < 200).any() for left in (6, 108))
    for left in (6, 108):  # around the pictures alone
        outline = picture[17:115, left - 1 : left + 97].reshape(98, 98, 3).copy()
        outline[1:-1, 1:-1] = 192
        assert (outline == 192).all()


@pytest.mark.parametrize("name", ON_PLACES)
def test_a_task_on_places_puts_view_1_together_from_the_places_of_view_2(name: str) -> None:
    task = tiny(name, dtype=torch.float32).eval()
    views = fixed_views(task, 3)
    with torch.no_grad():
        ((caption, found),) = task.reconstructions(views).items()
        q, k = (F.normalize(task.place_map(x), dim=1).flatten(2) for x in views[:2])  # [B, d, N]
        rows, columns = task.place_map(views[0]).shape[2:]
        itself = task.reconstructions((views[0], *views[:1], *views[2:]))[caption]
    assert caption == "view 1 from view 2"
    assert rows * columns > 1
    height, width = views[1].shape[2] // rows, views[1].shape[3] // columns
    for i in range(3):
        for n in range(rows * columns):
            best = max(range(rows * columns), key=lambda m: float(q[i, :, n] @ k[i, :, m]))
            cells = []
            for image, place in ((found, n), (views[1], best)):
                top, left = place // columns * height, place % columns * width
                cells.append(image[i, :, top : top + height, left : left + width])
            torch.testing.assert_close(*cells)
    torch.testing.assert_close(itself, views[0])


def test_answers_that_are_texts_are_printed() -> None:
    text = as_text(
        {"nearest": [Answer("a cat", 0.123, right=True)], "2nd": [Answer("a dog", -0.5, False)]}
    )
    assert text == "nearest  a cat (0.12, of the same sample)\n2nd      a dog (-0.50)\n"


def test_tasks_that_ask_something_else_have_no_such_answers() -> None:
    task = tiny("rotation")
    assert nearest(task, task.spec, {"view 1": drawn(2), "view 2": drawn(2)}) == {}


@pytest.mark.parametrize(("name", "masked"), [("msn", [2]), ("ibot", [1, 2]), ("dinov2", [1, 2])])
def test_pictures_show_what_is_seen_of_views_with_hidden_places(name: str, masked: list[int]) -> None:
    task = tiny(name)
    views = fixed_views(task, 4)
    (masks,) = (view for view in views if view.dtype == torch.bool)
    shown = task.gallery(views)
    assert [caption for caption in shown if "seen" in caption] == [f"seen of view {i}" for i in masked]
    assert masks.any()
    for i, mask in zip(masked, masks.chunk(len(masked)), strict=True):
        view, seen = shown[f"view {i}"], shown[f"seen of view {i}"]
        patch = view.shape[2] // mask.shape[1]
        hidden = mask.repeat_interleave(patch, 1).repeat_interleave(patch, 2)  # [B, H, W]
        for channel in range(3):
            assert (seen[:, channel][hidden] == 0).all()
            assert torch.equal(seen[:, channel][~hidden], view[:, channel][~hidden])
