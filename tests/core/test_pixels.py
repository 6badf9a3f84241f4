"""Images of any type and any number of channels: their values, their range and their channels."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from ssl_zoo import load_backbone
from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.load import load_config
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet, decode, load
from ssl_zoo.data.pixels import Form, ScaledSplit
from ssl_zoo.errors import UserError
from ssl_zoo.notices import collect_notices
from ssl_zoo.pixel_files import open_pixels
from ssl_zoo.preprocess import to_size
from ssl_zoo.spec import ImageSpec
from ssl_zoo.tools.exported_code import torch_usage
from tests.conftest import Call
from tests.core.pictures import CPU, folder, one_line, photo, write

RAMP = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)


def npy(path: Path, pixels: NDArray[Any]) -> Path:
    """Write an array and return its path."""
    np.save(path, pixels)
    return path


def tiff(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    """Write pixels [C, h, w] as a TIFF file whose channels lie in planes, and return its path."""
    separate = {"planarconfig": "separate"} if len(pixels) > 1 else {}
    options = {"photometric": "minisblack", **separate, **options}
    pytest.importorskip("tifffile").imwrite(path, pixels, **options)
    return path


def png(path: Path, pixels: NDArray[Any]) -> Path:
    """Write gray pixels as PNG and return its path."""
    return write(path, Image.fromarray(pixels))


def values(data: DataSet) -> dict[str, Tensor]:
    """Return each image of a data set by the name of its file, float32 [C, h, w]."""
    found = {}
    for split in filter(None, (data.train, data.test)):
        assert split.names is not None
        names = [Path(name).name for name in split.names]
        found |= dict(zip(names, split.batch(torch.arange(len(split))), strict=True))
    return found


def stored(data: DataSet) -> torch.dtype:
    """Return the type in which the images of a data set are held."""
    assert isinstance(data.train, ScaledSplit)
    dtype: torch.dtype = data.train.split.batch(torch.arange(1)).dtype
    return dtype


@pytest.mark.parametrize("resident", ["always", "never"])
@pytest.mark.parametrize(("suffix", "save"), [(".png", png), (".tif", png), (".npy", npy)])
def test_a_ramp_of_16_bits_keeps_its_levels_and_its_ratio_to_another(
    suffix: str, save: Callable[..., Path], resident: str, tmp_path: Path
) -> None:
    for name, pixels in {"a": RAMP, "b": RAMP // 4, "c": RAMP // 400}.items():
        save(tmp_path / f"{name}{suffix}", pixels)
    data = folder(tmp_path, range=[0, 65535], resident=resident)
    assert stored(data) == torch.uint16
    images = values(data)
    for name, pixels in {"a": RAMP, "b": RAMP // 4, "c": RAMP // 400}.items():
        expected = torch.from_numpy(pixels.astype(np.float64) / 65535).float()[None]
        torch.testing.assert_close(images[f"{name}{suffix}"], expected, rtol=1e-6, atol=0)
    assert len(images[f"a{suffix}"].unique()) == 256


def test_the_range_is_measured_on_the_data_set_and_said(tmp_path: Path) -> None:
    for i in range(10):
        npy(tmp_path / f"{i}.npy", np.full((16, 16), 100 * i, np.int16))
    with collect_notices() as notices:
        data = folder(tmp_path, range_percentiles=[0, 100], holdout=0.2)
    taken = sorted(int(Path(n).stem) * 100 for n in data.train.names or ())
    assert data.spec.data_settings()["range"] == [taken[0], taken[-1]]
    (text,) = [n["text"] for n in notices if n["notice"] == "range"]
    assert f"the values {taken[0]} to {taken[-1]} become 0 to 1" in text
    for name, image in values(data).items():  # values beyond the range are clipped
        share = (100 * int(Path(name).stem) - taken[0]) / (taken[-1] - taken[0])
        torch.testing.assert_close(image.mean(), torch.tensor(min(max(share, 0.0), 1.0)))


def test_percentiles_leave_out_a_hot_pixel(tmp_path: Path) -> None:
    for i in range(4):
        pixels = np.tile(np.arange(100, dtype=np.uint16), (100, 1))
        pixels[0, 0] = 60000
        npy(tmp_path / f"{i}.npy", pixels)
    data = folder(tmp_path, range_percentiles=[0, 99.9], image_size=88)
    assert data.spec.data_settings()["range"][1] < 100


@pytest.mark.parametrize(("suffix", "save"), [(".tif", tiff), (".npy", npy)])
def test_negative_values_keep_their_order(
    suffix: str, save: Callable[..., Path], tmp_path: Path
) -> None:
    pixels = np.linspace(-1024, 3071, 256).round().astype(np.int16).reshape(1, 16, 16)
    for name in "ab":
        save(tmp_path / f"{name}{suffix}", pixels)
    data = folder(tmp_path)
    assert stored(data) == torch.int16
    expected = torch.from_numpy((pixels.astype(np.float64) + 1024) / 4095).float()
    torch.testing.assert_close(values(data)[f"a{suffix}"], expected)


def test_floats_keep_their_values_and_what_is_not_finite_is_an_extreme(tmp_path: Path) -> None:
    pixels = np.linspace(-2, 5, 256, dtype=np.float32).reshape(16, 16)
    pixels[0, :2] = np.nan, np.inf
    for name in "ab":
        Image.fromarray(pixels).save(tmp_path / f"{name}.tif")
    data = folder(tmp_path, range=[-2, 5])
    image = values(data)["a.tif"][0]
    assert stored(data) == torch.float32
    torch.testing.assert_close(image[1:], torch.from_numpy((pixels[1:] + 2) / 7))
    low = (float(pixels[0, 2]) + 2) / 7
    torch.testing.assert_close(image[0, :2], torch.tensor([low, 1.0]))


@pytest.mark.parametrize("options", [{}, {"planarconfig": "contig"}, {"tile": (16, 16)}])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_a_tiff_of_four_bands_is_an_image_of_four_channels(
    dtype: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 250, (4, 16, 16)).astype(dtype)
    written = pixels.transpose(1, 2, 0) if options.get("planarconfig") == "contig" else pixels
    for name in "ab":
        tiff(tmp_path / f"{name}.tif", written, **options)
    data = folder(tmp_path, range=[0, 250])
    torch.testing.assert_close(values(data)["a.tif"], torch.from_numpy(pixels.astype(np.float32) / 250))


@pytest.mark.parametrize(("pages", "channels"), [("first", 1), ("channels", 6)])
def test_the_pages_of_a_tiff_are_channels_where_that_is_asked_for(
    pages: str, channels: int, tmp_path: Path
) -> None:
    stack = [np.full((16, 16), i, np.uint16) for i in range(6)]
    module = pytest.importorskip("tifffile")
    for name in "ab":
        with module.TiffWriter(tmp_path / f"{name}.tif") as file:
            for page in stack:
                file.write(page, contiguous=False)
    data = folder(tmp_path, range=[0, 5], pages=pages)
    image = values(data)["a.tif"]
    torch.testing.assert_close(image[:, 3, 3], torch.arange(channels) / 5)


def test_near_infrared_stored_as_alpha_is_a_channel_when_told(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        write(tmp_path / name, Image.fromarray(pixels))
    with collect_notices() as notices:
        data = folder(tmp_path, channels=4)
    assert "transparency" not in {n["notice"] for n in notices}
    assert torch.equal(values(data)["a.png"], torch.from_numpy(pixels.transpose(2, 0, 1)))
    with collect_notices() as notices:
        white = folder(tmp_path)
    (text,) = [n["text"] for n in notices if n["notice"] == "transparency"]
    assert text.endswith("transparent pixels become white; data.channels=4 takes it as a channel")
    assert values(white)["a.png"].shape[0] == 3


def test_where_8_and_16_bits_are_mixed_white_is_white(tmp_path: Path) -> None:
    png(tmp_path / "a.png", (RAMP // 257).astype(np.uint8))
    png(tmp_path / "b.png", RAMP)
    images = values(folder(tmp_path, range=None, holdout=0.01))
    assert all(abs(float(x.max()) - 1) < 0.01 for x in images.values())


def test_an_export_takes_8_bits_among_16_as_the_data_set_does(tmp_path: Path) -> None:
    png(tmp_path / "mixed" / "a.png", (RAMP // 257).astype(np.uint8))
    png(tmp_path / "mixed" / "b.png", RAMP // 2)
    data = folder(tmp_path / "mixed", holdout=0.01)
    assert isinstance(data.spec, ImageSpec)
    scope: dict[str, Any] = {"torch": torch}
    exec("\n".join(torch_usage(data.spec)), scope)
    png(tmp_path / "alone" / "a.png", (RAMP // 257).astype(np.uint8))
    alone = folder(tmp_path / "alone", **{**data.spec.data_settings(), "holdout": 0.01})
    assert alone.spec.data_settings() == data.spec.data_settings()
    torch.testing.assert_close(values(alone)["a.png"], values(data)["a.png"])
    for name, image in values(data).items():
        expected, file = data.spec.prepare(image[None]), tmp_path / "mixed" / name
        for found in (data.spec.preprocess(file), scope["preprocess"](file)):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_values_that_do_not_fit_the_type_of_the_data_set_are_refused() -> None:
    form = Form(1, "uint8")
    assert form.cast(np.array([255], np.uint16)).dtype == np.uint8
    with pytest.raises(ValueError, match="has values of int16, and other images are uint8"):
        form.cast(np.array([-1], np.int16))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(40, 40), (50, 30)])
def test_resizing_of_channels_equals_that_of_colours(channels: int, size: tuple[int, int]) -> None:
    image = photo(size) if channels == 3 else photo(size).convert("L")
    pixels = np.atleast_3d(np.array(image)).transpose(2, 0, 1)
    assert np.array_equal(to_size(pixels, 20, channels), to_size(image, 20, channels))


@pytest.mark.parametrize(
    ("shape", "channels", "bands"),
    [
        ((9, 9), None, 1),
        ((5, 9, 9), None, 5),
        ((9, 9, 5), None, 5),
        ((3, 9, 4), 3, 3),
        ((9, 9, 9), 9, 9),
    ],
)
def test_the_axis_of_the_channels_is_found(
    shape: tuple[int, ...], channels: int | None, bands: int, tmp_path: Path
) -> None:
    pixels = open_pixels(npy(tmp_path / "a.npy", np.zeros(shape)), 8, channels)
    assert isinstance(pixels, np.ndarray)
    assert len(pixels) == bands


def test_heads_of_arrays_are_parsed_by_one_thread_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's parser, which NumPy reads a head with, fails at times if two threads are in it."""
    np.save(tmp_path / "a.npy", np.zeros((8, 8), np.uint16))
    parse, inside, most = np.lib.format.read_array_header_1_0, [0], [0]

    def watched(stream: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.01)
        head = parse(stream)
        inside[0] -= 1
        return head

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", watched)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: open_pixels(tmp_path / "a.npy", 8), range(8)))
    assert most == [1]
    assert [len(pixels) for pixels in found] == [1] * 8


def test_an_array_of_objects_is_no_image(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="an array of Python objects is not an image"):
        open_pixels(tmp_path / "a.npy", 8)


@pytest.mark.parametrize(("setting", "value"), [("range", [5, 5]), ("range_percentiles", [-1, 50])])
def test_a_range_that_does_not_rise_is_refused(setting: str, value: list[int]) -> None:
    with pytest.raises(SettingError, match=rf"data.{setting}: .*such as"):
        load_config(overrides={"task.name": "simclr", f"data.{setting}": value})


def test_a_missing_library_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiff(tmp_path / "a.tif", np.zeros((5, 16, 16), np.uint8))
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(
        UserError, match=r"^data.source: .* needs tifffile: pip install 'ssl-zoo\[tiff\]'"
    ):
        folder(tmp_path)


def large(path: Path) -> Path:
    """Write a file of 100,000×100,000 pixels in its head, and few in its body; return its path."""
    pixels, side = np.zeros((16, 16), np.uint16), 100_000
    if path.suffix == ".npy":
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<u2", "fortran_order": False, "shape": (side, side)}
            )
            file.write(pixels.tobytes())
    elif path.suffix == ".tif":
        tiff(path, pixels.repeat(2, 0).reshape(2, 16, 16))
        with pytest.importorskip("tifffile").TiffFile(path, mode="r+b") as opened:
            for name in ("ImageWidth", "ImageLength"):
                opened.pages[0].tags[name].overwrite(side, dtype="I")
    elif path.suffix == ".png":
        head = b"IHDR" + side.to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + head + bytes(64))
    else:
        dicom(path, pixels, Rows=60_000, Columns=60_000)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".png", ".dcm"])
def test_too_many_pixels_are_refused_by_the_head_of_a_file(suffix: str, tmp_path: Path) -> None:
    file = large(tmp_path / f"a{suffix}")
    side = 60_000 if suffix == ".dcm" else 100_000
    for source in (file, io.BytesIO(file.read_bytes())):
        with pytest.raises(ValueError, match=f"{side}×{side} pixels take [0-9,]* MB, more than 2,000; "):
            decode.open_pixels(source, 16)


def test_an_array_with_a_head_of_fields_is_no_image(tmp_path: Path) -> None:
    fields = np.zeros(3, dtype=[("größe☃", "u1")])
    with pytest.warns(UserWarning, match="format 3"):
        np.save(tmp_path / "a.npy", fields)
    with pytest.raises(ValueError, match="version 3 of NumPy's format is not an image"):
        open_pixels(tmp_path / "a.npy", 8)


def dicom(path: Path, pixels: NDArray[np.uint16], **tags: Any) -> Path:
    """Write a slice of computed tomography and return its path."""
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.Rows, data.Columns, data.SamplesPerPixel = *pixels.shape, 1
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PhotometricInterpretation = "MONOCHROME2"
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.WindowCenter, data.WindowWidth = 40, 400
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


SLICE = np.linspace(0, 4095, 256).round().astype(np.uint16).reshape(16, 16)


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_dicom_gives_hounsfield_units_and_no_window(photometric: str, tmp_path: Path) -> None:
    pixels = SLICE
    dicom(tmp_path / "a.dcm", pixels, PhotometricInterpretation=photometric)
    read = open_pixels(tmp_path / "a.dcm", 8)
    assert isinstance(read, np.ndarray)
    assert read.dtype == np.int16
    sign = -1 if photometric == "MONOCHROME1" else 1
    assert np.array_equal(read[0], sign * (pixels.astype(np.int32) - 1024))


def test_of_several_frames_the_first_is_an_image_and_all_are_channels(tmp_path: Path) -> None:
    frames = np.stack([SLICE, SLICE // 2, SLICE // 3])
    file = dicom(tmp_path / "a.dcm", SLICE, NumberOfFrames=3, PixelData=frames.tobytes())
    for pages, expected in (("first", frames[:1]), ("channels", frames)):
        assert np.array_equal(open_pixels(file, 8, pages=pages), expected.astype(np.int16) - 1024)


@pytest.mark.parametrize(
    ("tags", "limits", "text"),
    [
        ([{}, {}], (-160, 239), "one window in 2 files looked at;"),
        ([{"VOILUTFunction": "LINEAR_EXACT"}], (-160, 240), "one window in 1 file looked at;"),
        ([{"PhotometricInterpretation": "MONOCHROME1"}], (-239, 160), "one window in 1 file looked at;"),
        (
            [{}, {"WindowCenter": [-600, 40], "WindowWidth": [1500, 400]}, {"WindowWidth": None}],
            (-1350, 239),
            "2 windows, which this range covers, in 2 files looked at, and 1 without;",
        ),
    ],
)
def test_the_window_of_the_files_is_the_range_of_the_data_set(
    tags: list[dict[str, Any]], limits: tuple[float, float], text: str, tmp_path: Path
) -> None:
    for number, given in enumerate(tags):
        dicom(tmp_path / f"{number}.dcm", SLICE, **given)
    with collect_notices() as notices:
        data = folder(tmp_path, range="window")
    assert data.spec.data_settings()["range"] == list(limits)
    (said,) = [n["text"] for n in notices if n["notice"] == "window"]
    assert text in said
    sign = -1 if limits[0] == -239 else 1
    units = sign * (SLICE.astype(np.float64) - 1024)
    expected = ((units - limits[0]) / (limits[1] - limits[0])).clip(0, 1)
    torch.testing.assert_close(values(data)["0.dcm"][0], torch.from_numpy(expected).float())


def test_without_a_window_one_line_asks_for_values(tmp_path: Path) -> None:
    dicom(tmp_path / "a.dcm", SLICE, WindowCenter=None)
    for source in (str(tmp_path), "digits"):
        with pytest.raises(SettingError, match=r"^data\.range: .*give"):
            load(DataConfig(source=source, range="window"), CPU)


TINY = "{channels: [8, 8, 8, 8], layers: [1, 1, 1, 1]}"


@pytest.mark.parametrize(("suffix", "save"), [(".tif", tiff), (".npy", npy)])
def test_five_channels_train_evaluate_embed_export_and_reload(
    suffix: str, save: Callable[..., Path], call: Call
) -> None:
    rng = np.random.default_rng(0)
    for i in range(24):
        pixels = rng.integers(-1000, 1000 + 500 * (i % 2), (5, 20, 20)).astype(np.int16)
        file = Path("data", "ab"[i % 2], f"{i:02}{suffix}")
        file.parent.mkdir(parents=True, exist_ok=True)
        save(file, pixels)
    given = {"train.epochs": 1, "train.batch_size": 8, "train.device": "cpu", "data.image_size": 16}
    given |= {"backbone.name": "resnet18", "backbone.options": TINY}
    settings = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    for arguments in (
        ["train", "--task", "simclr", "--data", "data", "--out", "run", *settings],
        ["eval", "run", "--protocol", "knn"],
        ["embed", "run", "--data", "data", "-o", "features.npz"],
        ["export", "run", "--to", "net.safetensors"],
    ):
        code, _, err = call(*arguments)
        assert code == 0, err
    with safe_open("net.safetensors", "pt") as tensors:
        header = tensors.metadata()
    scope: dict[str, Any] = {}
    exec(header["load"], scope)
    ours: Any = load_backbone("run")
    again: Any = load_backbone("net.safetensors")
    low, high = json.loads(header["normalise"])["range"]
    assert again.ssl_zoo_spec.range == (low, high)
    assert -1000 <= low < -800
    with np.load("features.npz") as rows, torch.no_grad():
        assert len(rows["name"]) == 24
        for name, features in zip(rows["name"], rows["features"], strict=True):
            file = Path("data", name)
            found = [
                ours(ours.ssl_zoo_preprocess(file)),
                again(again.ssl_zoo_preprocess(file)),
                scope["model"](scope["preprocess"](file)),
            ]
            for each in found:
                np.testing.assert_allclose(each[0].numpy(), features, rtol=1e-3, atol=1e-4)


def test_a_png_of_16_bits_and_three_colours_keeps_its_levels(tmp_path: Path) -> None:
    """Pillow drops the lower eight bits of each colour."""
    codecs = pytest.importorskip("imagecodecs")
    pixels = np.arange(16 * 16 * 3, dtype=np.uint16).reshape(16, 16, 3)
    (tmp_path / "a.png").write_bytes(codecs.png_encode(pixels))
    read = open_pixels(tmp_path / "a.png", 16)
    assert isinstance(read, np.ndarray)
    assert np.array_equal(read, pixels.transpose(2, 0, 1))


def bands(path: Path, number: int) -> Path:
    """Write an image of 8 bits with this number of channels and return its path."""
    pixels = np.random.default_rng(0).integers(0, 250, (number, 16, 16)).astype(np.uint8)
    return tiff(path, pixels)


def test_one_file_of_many_bands_does_not_decide_for_a_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(12):
        write(tmp_path / f"{i}.png")
    bands(tmp_path / "a.tif", 5)
    data = folder(tmp_path)
    assert isinstance(data.spec, ImageSpec)
    assert (data.spec.channels, len(values(data))) == (3, 12)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "a.tif: the image has 5 channels, and 3 are taken; data.channels=5 takes" in warning


@pytest.mark.parametrize(("many", "gray", "channels"), [(3, 1, 5), (1, 3, 1)])
def test_gray_images_and_those_of_many_bands_have_the_channels_of_most(
    many: int, gray: int, channels: int, tmp_path: Path
) -> None:
    for i in range(many):
        bands(tmp_path / f"{i}.tif", 5)
    for i in range(gray):
        png(tmp_path / f"{i}.png", np.full((16, 16), i, np.uint8))
    with collect_notices() as notices:
        data = folder(tmp_path)
    assert {name: len(image) for name, image in values(data).items()} == {
        **{f"{i}.tif": channels for i in range(many)},
        **{f"{i}.png": channels for i in range(gray)},
    }
    (text,) = [n["text"] for n in notices if n["notice"] == "gray"]
    assert text.endswith("repeated to 5 channels" if channels == 5 else "one channel is used")


@pytest.mark.parametrize(
    ("counts", "settings", "taken", "other"),
    [((12,), {"channels": 3}, 3, 5), ((12, 12), {}, 4, 5), ((13, 12), {}, 5, 4)],
)
def test_what_to_set_is_said_where_channels_do_not_fit(
    counts: tuple[int, ...], settings: dict[str, int], taken: int, other: int, tmp_path: Path
) -> None:
    for number, count in zip((5, 4), counts, strict=False):
        for i in range(count):
            bands(tmp_path / f"{number}-{i}.tif", number)
    with pytest.raises(UserError) as error:
        folder(tmp_path, **settings)
    assert one_line(error).endswith(
        f"the image has {other} channels, and {taken} are taken; data.channels={other} takes such "
        "images, and 1 the mean of the channels of any; fix or remove them"
    )
