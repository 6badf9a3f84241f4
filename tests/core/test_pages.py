"""Pages of files as samples: one is decoded at a time, and of broken stacks the rest is kept."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

from ssl_zoo import load_backbone
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet, decode, load
from ssl_zoo.data.decode import open_pixels, page_sizes
from ssl_zoo.errors import UserError
from ssl_zoo.notices import collect_notices
from tests.conftest import Call
from tests.core.pictures import CPU, everything, folder, one_line, photo, write
from tests.core.test_pixels import TINY, dicom

tifffile = pytest.importorskip("tifffile")
Save = Callable[[Path, NDArray[Any]], Path]


def numbers(*shape: int, seed: int = 0) -> NDArray[np.uint16]:
    """Return random pixels of 12 bits."""
    return np.random.default_rng(seed).integers(0, 4096, shape).astype(np.uint16)


def tiff(path: Path, pages: Any, **options: Any) -> Path:
    """Write pages as a TIFF file, each with a directory of its own, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as file:
        for page in pages:
            file.write(page, contiguous=False, photometric="minisblack", **options)
    return path


def sizes(path: Path, channels: int | None, pages: str) -> Iterator[tuple[int, int, int]]:
    """Yield the number, the height and the width of each image that a file has."""
    for number, height, width, _ in page_sizes(path, channels, pages):
        yield number, height, width


def lzw(path: Path, pages: NDArray[Any]) -> Path:
    """Write pages as a compressed TIFF file and return its path."""
    return tiff(path, pages, compression="lzw")


def imagej(path: Path, pages: NDArray[Any]) -> Path:
    """Write a TIFF file with one directory for all pages, as ImageJ does above 4 GB; return its path."""
    tifffile.imwrite(path, pages, imagej=True, truncate=True)
    return path


def frames(path: Path, pages: NDArray[Any]) -> Path:
    """Write pages as frames of a DICOM file and return its path."""
    data = pages.astype(np.uint16).tobytes()
    return dicom(path, pages[0], NumberOfFrames=len(pages), PixelData=data, RescaleIntercept=0)


def compressed_frames(path: Path, pages: NDArray[Any]) -> Path:
    """Write pages as compressed frames of a DICOM file and return its path."""
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.dcmread(frames(path, pages))
    data.compress(pydicom.uid.RLELossless)
    data.save_as(path)
    return path


def npy(path: Path, pages: NDArray[Any]) -> Path:
    """Write an array [N, h, w] and return its path."""
    np.save(path, pages)
    return path


def by_columns(path: Path, pages: NDArray[Any]) -> Path:
    """Write an array [N, h, w] whose first axis varies fastest, and return its path."""
    return npy(path, np.asfortranarray(pages))


STACKS: dict[str, tuple[str, Save]] = {
    "tiff": (".tif", tiff),
    "lzw": (".tif", lzw),
    "imagej": (".tif", imagej),
    "dicom": (".dcm", frames),
    "dicom-rle": (".dcm", compressed_frames),
    "npy": (".npy", npy),
    "npy-columns": (".npy", by_columns),
}


def pixels(image: Image.Image | NDArray[Any]) -> NDArray[Any]:
    """Return an opened image of one channel as an array [h, w]."""
    return image[0] if isinstance(image, np.ndarray) else np.asarray(image)


def names(data: DataSet) -> list[str]:
    """Return the names of the samples to train on, without folders."""
    return [Path(name).name for name in data.train.names or ()]


@pytest.mark.parametrize("kind", STACKS)
def test_each_page_is_a_sample_with_its_own_pixels(kind: str, tmp_path: Path) -> None:
    suffix, save = STACKS[kind]
    stacks = {name: numbers(3, 16, 16, seed=i) for i, name in enumerate("ab")}
    for name, stack in stacks.items():
        save(tmp_path / f"{name}{suffix}", stack)
    data = folder(tmp_path, pages="samples", range=[0, 4095])
    assert names(data) == [f"{name}{suffix}#{page}" for name in "ab" for page in range(3)]
    expected = np.concatenate(list(stacks.values()))[:, None] / 4095
    torch.testing.assert_close(everything(data), torch.from_numpy(expected).float())
    stream = io.BytesIO((tmp_path / f"b{suffix}").read_bytes())
    assert (pixels(open_pixels(stream, 16, pages=2)) == stacks["b"][2]).all()
    with pytest.raises(Exception, match=r"no page 3|beyond|out of range|end of file"):
        pixels(open_pixels(tmp_path / f"b{suffix}", 16, pages=3))


def test_pages_of_a_file_may_differ_in_size_type_and_reader(tmp_path: Path) -> None:
    pages = [
        numbers(20, 30).astype(np.uint8), numbers(40, 10), np.float32(numbers(9, 9)), numbers(16, 16),
    ]  # fmt: skip
    file = tiff(tmp_path / "a.tif", pages)
    assert list(sizes(file, None, "samples")) == [(i, *page.shape) for i, page in enumerate(pages)]
    for number, page in enumerate(pages):
        assert (pixels(open_pixels(file, 8, pages=number)) == page).all()
    data = folder(tmp_path, pages="samples", range=[0, 4095], canvas="square")
    assert len(everything(data)) == 4
    assert not data.train.skipped


def test_frames_of_an_animation_are_samples_and_other_files_are_one(tmp_path: Path) -> None:
    colours = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    write(tmp_path / "a.gif", colours[0], save_all=True, append_images=colours[1:])
    write(tmp_path / "b.png", photo((16, 16)))
    write(tmp_path / "c.jpg", photo((160, 160)))
    data = folder(tmp_path, pages="samples")
    assert names(data) == ["a.gif#0", "a.gif#1", "a.gif#2", "b.png#0", "c.jpg#0"]
    images = everything(data)
    assert images[:3, :, 8, 8].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert images[3:].equal(everything(folder(tmp_path))[1:])


@pytest.mark.parametrize(
    ("shape", "channels", "pages"),
    [
        ((5, 16, 16), None, 5),
        ((5, 16, 16), 1, 5),
        ((5, 16, 16), 5, 1),
        ((16, 16, 3), None, 1),
        ((5, 16, 16, 3), None, 5),
        ((5, 3, 16, 16), None, 5),
        ((16, 16), None, 1),
    ],
)
def test_the_first_axis_of_an_array_is_pages_where_it_is_not_channels(
    shape: tuple[int, ...], channels: int | None, pages: int, tmp_path: Path
) -> None:
    file = npy(tmp_path / "a.npy", numbers(*shape))
    assert list(sizes(file, channels, "samples")) == [(i, 16, 16) for i in range(pages)]


def test_overviews_of_a_page_are_no_samples(tmp_path: Path) -> None:
    stack = numbers(2, 16, 16)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in stack:
            file.write(page)
            file.write(page[::2, ::2], subfiletype=1)
    assert list(sizes(tmp_path / "a.tif", None, "samples")) == [(0, 16, 16), (2, 16, 16)]
    assert (open_pixels(tmp_path / "a.tif", 16, pages="channels") == stack).all()


def test_pages_have_the_label_of_their_file_and_are_held_out_with_it(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for i in range(10):
            tiff(tmp_path / label / f"{i}.tif", numbers(1 + i, 16, 16, seed=i + 10 * (label == "dog")))
    data = folder(tmp_path, pages="samples", holdout=0.3)
    assert data.test is not None
    files = [{name.partition("#")[0] for name in split.names or ()} for split in (data.train, data.test)]
    assert not files[0] & files[1]
    assert len(files[0] | files[1]) == 20
    assert len(data.train) + len(data.test) == 2 * 55
    for split in (data.train, data.test):
        assert split.labels is not None
        classes = [Path(name).parent.name for name in split.names or ()]
        assert classes == [("cat", "dog")[label] for label in split.labels.tolist()]
        assert [Path(name.partition("#")[0]) for name in split.names or ()] == [
            Path(group) for group in split.groups or ()
        ]


@pytest.mark.parametrize("tile", [None, 20])
def test_pages_and_their_tiles_are_the_same_wherever_they_lie(tile: int | None, tmp_path: Path) -> None:
    for i in range(2):
        tiff(tmp_path / "d" / f"{i}.tif", numbers(3, 30, 40, seed=i))
    found = []
    for where in ({"resident": "always"}, {"resident": "never"}, {"cache": str(tmp_path / "cache")}):
        data = folder(tmp_path / "d", pages="samples", tile=tile, canvas=24, range=[0, 4095], **where)
        assert data.train.canvas is not None
        data.train.canvas.prepare()
        windows = data.train.at_pass(1).batch(torch.arange(len(data.train)))
        found.append((names(data), everything(data), windows))
    for of_names, squares, windows in found[1:]:
        assert of_names == found[0][0]
        assert squares.equal(found[0][1])
        assert windows.equal(found[0][2])
    if tile is None:
        assert found[0][0] == [f"{i}.tif#{page}" for i in range(2) for page in range(3)]
    else:
        grid = [f"{row},{column}" for row in range(2) for column in range(2)]
        assert found[0][0] == [
            f"{i}.tif#{p}:{cell}" for i in range(2) for p in range(3) for cell in grid
        ]


def test_a_cache_of_another_division_of_the_same_files_is_not_taken(tmp_path: Path) -> None:
    for i in range(2):
        tiff(tmp_path / "d" / f"{i}.tif", numbers(4, 40, 40, seed=i))
    settings: list[dict[str, Any]] = [{"pages": "samples"}, {"tile": 20}, {"tile": 30}]
    for division in settings:
        shared = {"canvas": "square", "range": [0, 4095], **division}
        cached = folder(tmp_path / "d", cache=str(tmp_path / "cache"), **shared)
        assert len(cached.train) == 8
        assert everything(cached).equal(everything(folder(tmp_path / "d", **shared)))


@pytest.mark.parametrize("kind", ["tiff", "imagej", "dicom", "npy"])
def test_one_page_is_decoded_at_a_time(kind: str, tmp_path: Path) -> None:
    suffix, save = STACKS[kind]
    stack = numbers(64, 128, 128)
    file = save(tmp_path / f"a{suffix}", stack)
    open_pixels(file, 16, pages=1)  # imports are not counted
    tracemalloc.start()
    try:
        assert len(list(sizes(file, None, "samples"))) == 64
        assert (pixels(open_pixels(file, 16, pages=50)) == stack[50]).all()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * stack[0].nbytes  # some copies in other types, such as float64


def endless(path: Path, pages: NDArray[Any]) -> Path:
    """Write a TIFF file whose last page is followed by its first, and return its path."""
    tiff(path, pages)
    with tifffile.TiffFile(path) as file:
        first, end = file.pages[0].offset, file.pages.next_page_offset
    content = bytearray(path.read_bytes())
    content[end : end + 4] = first.to_bytes(4, "little")
    path.write_bytes(content)
    return path


def overcounted_imagej(path: Path, pages: NDArray[Any]) -> Path:
    """Write a stack as ImageJ does, with 9 pages by its head, and return its path."""
    content = imagej(path, pages).read_bytes()
    path.write_bytes(content.replace(b"images=3", b"images=9"))
    return path


def overcounted_frames(path: Path, pages: NDArray[Any]) -> Path:
    """Write frames of a DICOM file, a billion by its head, and return its path."""
    return dicom(path, pages[0], NumberOfFrames=10**9, PixelData=pages.tobytes(), RescaleIntercept=0)


def overcounted_npy(path: Path, pages: NDArray[Any]) -> Path:
    """Write an array, of a billion pages by its head, and return its path."""
    with path.open("wb") as file:
        npy_head(file, (10**9, *pages.shape[1:]))
        file.write(pages.tobytes())
    return path


def npy_head(file: IO[bytes], shape: tuple[int, ...]) -> None:
    """Write the head of an array of uint16."""
    head = {"descr": "<u2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, head)


COUNT = "the head counts {:,} pages, and the file ends after 3"
BROKEN: dict[str, tuple[str, Save, str]] = {
    "tiff": (".tif", endless, "the head counts pages without end, and the file has 3"),
    "imagej": (".tif", overcounted_imagej, COUNT.format(9)),
    "dicom": (".dcm", overcounted_frames, COUNT.format(10**9)),
    "npy": (".npy", overcounted_npy, COUNT.format(10**9)),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_pages_before_a_wrong_count_are_samples_and_the_next_one_is_listed(
    kind: str, tmp_path: Path
) -> None:
    suffix, save, reason = BROKEN[kind]
    stacks = [numbers(3, 16, 16, seed=i) for i in range(2)]
    save(tmp_path / f"a{suffix}", stacks[0])
    STACKS[kind][1](tmp_path / f"b{suffix}", stacks[1])
    data = folder(tmp_path, pages="samples", range=[0, 4095])
    expected = np.concatenate(stacks)[:, None] / 4095
    torch.testing.assert_close(everything(data), torch.from_numpy(expected).float())
    assert {Path(name).name: text for name, text in data.train.skipped.items()} == {
        f"a{suffix}#3": reason
    }


@pytest.mark.parametrize("kind", ["tiff", "imagej", "dicom"])
def test_a_stack_of_channels_with_a_wrong_count_is_listed(kind: str, tmp_path: Path) -> None:
    suffix, save, reason = BROKEN[kind]
    save(tmp_path / f"a{suffix}", numbers(3, 16, 16))
    for name in "bc":
        STACKS[kind][1](tmp_path / f"{name}{suffix}", numbers(3, 16, 16))
    data = folder(tmp_path, pages="channels")
    assert everything(data).shape == (2, 3, 16, 16)
    assert {Path(name).name: text for name, text in data.train.skipped.items()} == {f"a{suffix}": reason}


def large_imagej(path: Path) -> Path:
    """Write a stack of 400×2048×2048 zeros that takes hardly any space on disk, and return its path."""
    tifffile.memmap(path, shape=(400, 2048, 2048), dtype=np.uint16, imagej=True)
    return path


def large_frames(path: Path) -> Path:
    """Write such frames of a DICOM file and return its path."""
    size = 400 * 2048 * 2048 * 2
    tags = {"Rows": 2048, "Columns": 2048, "NumberOfFrames": 400, "PixelData": b"\0\0"}
    content = dicom(path, numbers(1, 1), **tags).read_bytes()
    with path.open("wb") as file:
        file.write(content[:-6] + size.to_bytes(4, "little"))
        file.truncate(file.tell() + size)
    return path


def large_npy(path: Path) -> Path:
    """Write such an array and return its path."""
    with path.open("wb") as file:
        npy_head(file, (400, 2048, 2048))
        file.truncate(file.tell() + 400 * 2048 * 2048 * 2)
    return path


@pytest.mark.parametrize(
    ("suffix", "large"), [(".tif", large_imagej), (".dcm", large_frames), (".npy", large_npy)]
)
def test_a_stack_that_is_too_large_is_listed_with_a_remedy_that_works(
    suffix: str, large: Callable[[Path], Path], tmp_path: Path
) -> None:
    file = large(tmp_path / f"a{suffix}")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="take 3,355 MB") as error:
            open_pixels(file, 16, pages="channels")
        assert list(sizes(file, None, "channels")) == [(0, 0, 0)]
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()
    assert str(error.value) == (
        "400 channels of 2048×2048 pixels take 3,355 MB, more than 2,000; if they are pages, "
        "data.pages=samples takes them one by one"
    )
    assert list(sizes(file, None, "samples"))[-1] == (399, 2048, 2048)
    assert pixels(open_pixels(file, 16, pages=399)).shape == (2048, 2048)


def test_too_large_a_stack_costs_the_run_nothing_but_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decode, "MAX_BYTES", 10_000)
    for name, pages in (("a", 30), ("b", 3), ("c", 3)):
        tiff(tmp_path / f"{name}.tif", numbers(pages, 16, 16))
    data = folder(tmp_path, pages="channels")
    assert everything(data).shape == (2, 3, 16, 16)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith(f"cannot read {tmp_path / 'a.tif'}: 30 channels of 16×16 pixels take ")
    assert "data.pages=samples" in line
    assert len(folder(tmp_path, pages="samples").train) == 36


@pytest.mark.parametrize("kind", ["tiff", "dicom"])
def test_a_notice_says_that_the_first_page_is_used_and_what_changes_it(
    kind: str, tmp_path: Path
) -> None:
    suffix, save = STACKS[kind]
    save(tmp_path / f"a{suffix}", numbers(3, 16, 16))
    save(tmp_path / f"b{suffix}", numbers(1, 16, 16))
    with collect_notices() as notices:
        folder(tmp_path)
    (text,) = [n["text"] for n in notices if n["notice"] == "first-frame"]
    assert text.endswith(
        "1 of 2 images has several pages; the first one is used; data.pages=samples takes each as a "
        "sample"
    )
    with collect_notices() as notices:
        folder(tmp_path, pages="samples")
    (text,) = [n["text"] for n in notices if n["notice"] == "pages"]
    assert text.endswith("4 pages in 2 files, those of a file on one side")
    assert "first-frame" not in {n["notice"] for n in notices}


@pytest.mark.parametrize("source", ["digits", "fashion-mnist", "hf:some/images"])
def test_only_image_files_have_pages(source: str) -> None:
    with pytest.raises(UserError, match="has no image files to divide; leave it out") as error:
        load(DataConfig(source=source, pages="samples"), CPU)
    assert one_line(error).startswith("data.pages: ")


def test_a_run_on_pages_resumes_names_them_and_exports_a_network_of_one_page(call: Call) -> None:
    for i in range(12):
        pages = numbers(3, 20, 20, seed=i) // (1 + i % 2)
        tiff(Path("data", "ab"[i % 2], f"{i:02}.tif"), pages)
    given = {"train.batch_size": 8, "train.device": "cpu", "data.image_size": 16, "data.holdout": 0.3}
    given |= {"backbone.name": "resnet18", "backbone.options": TINY, "data.pages": "samples"}
    settings = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    train = ["train", "--task", "simclr", "--data", "data", *settings, "--epochs"]
    for arguments in (
        [*train, "1", "--out", "run"],
        ["train", "--resume", "run", "--epochs", "2"],
        ["eval", "run", "--protocol", "linear", "--keep"],
        ["predict", "run", "-o", "classes.csv"],
        ["embed", "run", "-o", "features.npz"],
        ["embed", "run", "--data", "data", "--set", "data.pages=samples", "-o", "again.npz"],
        ["embed", "run", "--pool", "-o", "stacks.npz"],
        ["export", "run", "--to", "net.safetensors"],
    ):
        code, _, err = call(*arguments)
        assert code == 0, err
    everything = {f"{'ab'[i % 2]}/{i:02}.tif#{page}" for i in range(12) for page in range(3)}
    with np.load("features.npz") as rows, np.load("again.npz") as again, np.load("stacks.npz") as stacks:
        features = dict(zip(rows["name"].tolist(), rows["features"], strict=True))
        assert set(features) == everything == set(again["name"].tolist())
        assert len(stacks["name"]) == 12
    lines = Path("classes.csv").read_text().splitlines()
    assert {line.partition(",")[0] for line in lines[1:]} == everything
    with safe_open("net.safetensors", "pt") as tensors:
        scope: dict[str, Any] = {}
        exec(tensors.metadata()["load"], scope)
    model: Any = load_backbone("net.safetensors")
    file = Path("data", "a", "00.tif")
    page: Any = tifffile.imread(file, key=2)[None]
    with torch.no_grad():
        for source, name in ((file, "a/00.tif#0"), (page, "a/00.tif#2")):
            for found in (
                model(model.ssl_zoo_preprocess(source)),
                scope["model"](scope["preprocess"](source)),
            ):
                np.testing.assert_allclose(found[0].numpy(), features[name], rtol=1e-3, atol=1e-4)
