"""Decoding of images of every format and mode to squares."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssl_zoo.data import ArraySplit, decode
from ssl_zoo.data.decode import open_image, open_pixels
from tests.core.pictures import folder, photo, to_size, write


def square(path: Path, side: int = 16, channels: int = 3) -> Tensor:
    return to_size(open_pixels(path, side), side, channels)


RED, HALF_RED = (200, 40, 30), (228, 148, 142)  # the second is the first at half opacity on white


def palette(transparent: bool) -> Image.Image:
    image = Image.new("P", (20, 20), 1)
    image.putpalette([0, 0, 0, *RED])
    if transparent:
        image.info["transparency"] = 1
    return image


FORMATS: dict[str, tuple[str, Callable[[], Image.Image], dict[str, Any], tuple[int, int, int]]] = {
    "jpeg": ("a.jpg", lambda: Image.new("RGB", (20, 20), RED), {"quality": 95}, RED),
    "upper-case suffix": ("A.JPEG", lambda: Image.new("RGB", (20, 20), RED), {"quality": 95}, RED),
    "webp": ("a.webp", lambda: Image.new("RGB", (20, 20), RED), {"lossless": True}, RED),
    "bmp": ("a.bmp", lambda: Image.new("RGB", (20, 20), RED), {}, RED),
    "png with alpha": ("a.png", lambda: Image.new("RGBA", (20, 20), (*RED, 128)), {}, HALF_RED),
    "gray with alpha": ("a.png", lambda: Image.new("LA", (20, 20), (0, 0)), {}, (255, 255, 255)),
    "palette": ("a.png", lambda: palette(False), {}, RED),
    "transparent palette": ("a.png", lambda: palette(True), {"transparency": 1}, (255, 255, 255)),
    "gray": ("a.png", lambda: Image.new("L", (20, 20), 90), {}, (90, 90, 90)),
    "bits": ("a.png", lambda: Image.new("1", (20, 20), 1), {}, (255, 255, 255)),
    "cmyk jpeg": ("a.jpg", lambda: Image.new("CMYK", (20, 20), (0, 0, 0, 128)), {}, (127, 127, 127)),
    "cmyk tiff": ("a.tif", lambda: Image.new("CMYK", (20, 20), (0, 255, 255, 55)), {}, (200, 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
def test_every_kind_of_file_becomes_the_colour_that_one_sees(kind: str, tmp_path: Path) -> None:
    name, image, options, colour = FORMATS[kind]
    write(tmp_path / name, image(), **options)
    data = folder(tmp_path, image_size=28)
    assert isinstance(data.train, ArraySplit)
    assert data.train.samples.dtype == torch.uint8
    seen = data.train.samples[0].float().mean((1, 2)).expand(3)
    torch.testing.assert_close(seen, torch.tensor(colour).float(), atol=3, rtol=0)


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "green")]
    for name in ("a.gif", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert square(tmp_path / name)[:, 8, 8].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_camera_s_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    # The stored pixels for each of the eight orientations of the EXIF standard.
    upright = np.arange(256, dtype=np.uint8).reshape(16, 16)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright, 1), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path / "a.png", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(square(path, channels=1)[0].numpy(), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_spoil_an_image(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", photo(), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff broken")
    plain = write(tmp_path / "b.jpg", photo())
    assert torch.equal(square(path), square(plain))


@pytest.mark.parametrize("size", [(96, 48), (48, 96)])
def test_of_an_oblong_image_the_centre_is_kept_undistorted(
    size: tuple[int, int], tmp_path: Path
) -> None:
    image = photo(size)
    left, top = (size[0] - 48) // 2, (size[1] - 48) // 2
    centre = image.crop((left, top, left + 48, top + 48))
    assert torch.equal(
        square(write(tmp_path / "a.png", image), 48), square(write(tmp_path / "b.png", centre), 48)
    )


def test_an_image_smaller_than_the_side_is_enlarged(tmp_path: Path) -> None:
    tiny = square(write(tmp_path / "a.png", photo((5, 3))), 32)
    assert tiny.shape == (3, 32, 32)
    assert torch.equal(square(write(tmp_path / "b.png", Image.new("RGB", (1, 1), "red")), 8)[0],
                       torch.full((8, 8), 255, dtype=torch.uint8))  # fmt: skip


def test_a_jpeg_is_decoded_at_the_smallest_scale_that_suffices(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", photo((1600, 800)), quality=95)
    scaled = open_image(path, 64)
    assert scaled.size == (200, 100)
    assert min(open_image(path, 500).size) >= 500
    whole = to_size(Image.open(path), 64, 3).float()
    difference = (to_size(scaled, 64, 3).float() - whole).abs()
    assert difference.mean() < 1.5
    assert difference.max() < 12


def test_what_would_fill_the_memory_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MAX_BYTES", 4000)
    with pytest.raises(ValueError, match=r"40×40 pixels take 0 MB, more than 0; data.tile reads"):
        open_image(write(tmp_path / "a.png"), 16)
    # A JPEG counts at the scale at which it is decoded.
    assert open_image(write(tmp_path / "a.jpg"), 16).size == (20, 20)


def test_pillow_s_warnings_do_not_reach_the_terminal(tmp_path: Path) -> None:
    write(tmp_path / "a.png", Image.new("1", (9600, 9600)))  # above the limit at which Pillow warns
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        Image.open(tmp_path / "a.png").close()
        assert len(caught) == 1
        spec = importlib.util.find_spec("ssl_zoo.data.decode")
        assert spec is not None
        assert spec.loader is not None
        fresh = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(fresh)  # sets its filter again, which pytest has reset
        fresh.MAX_BYTES = 2**60
        fresh.open_image(tmp_path / "a.png", 8).close()
    assert len(caught) == 1
