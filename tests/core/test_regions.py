"""Regions of large TIFF files: only what a tile touches is read, with the pixels of the whole file."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import IO, Any
from zlib import crc32

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ssl_zoo import pixel_files
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet, LazySplit, decode
from ssl_zoo.data.decode import open_pixels, page_sizes
from ssl_zoo.data.image_files import ImageFiles
from ssl_zoo.data.parts import find_parts
from ssl_zoo.pixel_files import Page, Region, Segments
from tests.core.pictures import broken, everything, folder, write

tifffile = pytest.importorskip("tifffile")
Picture = Image.Image | NDArray[Any]


def noise(*shape: int, dtype: str = "uint8") -> NDArray[Any]:
    """Return smooth random pixels, which JPEG changes little, over the range of a type."""
    rows = np.random.default_rng(0).integers(0, 3, shape).cumsum(0).cumsum(1)
    return (rows % 251 * (257 if dtype == "uint16" else 1)).astype(dtype)


def values(picture: Picture) -> NDArray[Any]:
    """Return the pixels of an image in the layout of an array, [C, h, w] or [h, w, C]."""
    return picture if isinstance(picture, np.ndarray) else np.asarray(picture)


def crop(picture: Picture, region: Region) -> NDArray[Any]:
    """Return the pixels of a region of an image."""
    top, left, height, width = region
    if isinstance(picture, np.ndarray):
        return picture[:, top : top + height, left : left + width]
    return np.asarray(picture.crop((left, top, left + width, top + height)))


def decode_whole(path: Path, page: int, side: int) -> Picture:
    """Fail, as no page is to be decoded as a whole."""
    pytest.fail(f"{path} was decoded as a whole")


def opened(path: Path, tile: int, **settings: Any) -> tuple[DataSet, ImageFiles]:
    """Return a folder read in tiles, on disk, and its images."""
    data = folder(path, resident="never", tile=tile, **settings)
    assert isinstance(data.train, LazySplit)
    assert isinstance(data.train.files, ImageFiles)
    return data, data.train.files


TILED, STRIPS = {"tile": (32, 48)}, {"rowsperstrip": 7}
LAYOUTS: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {
    "gray in one strip": (noise(90, 130), {}),
    "gray in strips": (noise(90, 130), STRIPS),
    "gray in tiles": (noise(90, 130), TILED),
    "inverted": (noise(90, 130), {"photometric": "miniswhite", **STRIPS}),
    "bits": (noise(90, 130) > 99, STRIPS),
    "colours": (noise(90, 130, 3), {"photometric": "rgb"}),
    "colours, lzw": (noise(90, 130, 3), {"photometric": "rgb", "compression": "lzw", **STRIPS}),
    "colours, jpeg": (noise(90, 130, 3), {"photometric": "rgb", "compression": "jpeg", **TILED}),
    "ycbcr, jpeg": (
        noise(90, 130, 3),
        {"photometric": "ycbcr", "compression": "jpeg", "subsampling": (2, 2), **TILED},
    ),
    "ycbcr, jpeg in strips": (
        noise(90, 130, 3), {"photometric": "ycbcr", "compression": "jpeg", "rowsperstrip": 16},
    ),
    "alpha": (
        noise(90, 130, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"], **TILED},
    ),
    "associated alpha": (
        noise(90, 130, 4), {"photometric": "rgb", "extrasamples": ["assocalpha"], **TILED},
    ),
    "cmyk": (noise(90, 130, 4), {"photometric": "separated", "compression": "deflate", **STRIPS}),
    "palette": (
        noise(90, 130),
        {"photometric": "palette", "colormap": noise(3, 256, dtype="uint16"), "compression": "lzw"},
    ),
    "colour planes": (
        noise(3, 90, 130),
        {"photometric": "rgb", "planarconfig": "separate", "compression": "lzw", **TILED},
    ),
    "16 bits": (noise(90, 130, dtype="uint16"), {"compression": "deflate", "predictor": True, **TILED}),
    "16 bits, big-endian": (noise(90, 130, dtype="uint16"), {"byteorder": ">", **STRIPS}),
    "16 bits, colours": (noise(90, 130, 3, dtype="uint16"), {"photometric": "rgb", "bigtiff": True}),
    "signed": (noise(90, 130).astype(np.int16) - 99, TILED),
    "floats": (
        noise(90, 130).astype(np.float32), {"compression": "zstd", "predictor": True, **STRIPS},
    ),
    "many channels": (
        noise(90, 130, 6, dtype="uint16"),
        {"photometric": "minisblack", "planarconfig": "contig", "compression": "lzw", **TILED},
    ),
    "many planes": (
        noise(6, 90, 130), {"photometric": "minisblack", "planarconfig": "separate", "bigtiff": True},
    ),
    "many compressed planes, big-endian": (
        noise(6, 90, 130, dtype="uint16"),
        {
            **{"photometric": "minisblack", "planarconfig": "separate", "compression": "deflate"},
            **{"bigtiff": True, "byteorder": ">", **STRIPS},
        },
    ),
}  # fmt: skip


def tiff(path: Path, layout: str) -> Path:
    """Write a TIFF file in a layout, behind a first page of other pixels, and return its path."""
    pixels, options = LAYOUTS[layout]
    outer = {name: options[name] for name in ("bigtiff", "byteorder") if name in options}
    inner = {name: value for name, value in options.items() if name not in outer}
    with tifffile.TiffWriter(path, **outer) as file:
        file.write(noise(40, 50), photometric="minisblack")
        file.write(pixels, **{"photometric": "minisblack", **inner})
    return path


@pytest.mark.parametrize("tile", [20, 64, 200])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiles_are_crops_of_the_whole_page_in_every_layout(
    layout: str, tile: int, tmp_path: Path
) -> None:
    path = tiff(tmp_path / "a.tif", layout)
    channels = 6 if layout.startswith("many") else None
    whole = open_pixels(path, decode.UNSCALED, channels, 1)
    if isinstance(whole, Image.Image):
        whole.load()
    parts = find_parts([path], DataConfig(tile=tile, pages="samples", channels=channels), 14, 1, "d")
    open_tile = parts.opener(decode_whole, 1)
    tiles = [number for number, part in enumerate(parts.members) if part.page == 1]
    assert len(tiles) == -(-90 // tile) * -(-130 // tile)
    for number in tiles:
        found, expected = open_tile(number, 16), crop(whole, parts.members[number].region)
        assert isinstance(found, Image.Image) == isinstance(whole, Image.Image)
        assert getattr(found, "mode", None) == getattr(whole, "mode", None)
        assert values(found).dtype == expected.dtype
        assert np.array_equal(values(found), expected)


def test_pages_that_are_channels_are_cut_together(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number, options in enumerate((TILED, {"compression": "lzw", **TILED}, TILED)):
            file.write(noise(90, 130) + np.uint8(number), photometric="minisblack", **options)
    _, files = opened(tmp_path, 50, pages="channels", channels=3)
    whole = open_pixels(tmp_path / "a.tif", 16, 3, "channels")
    found = files.open(1, 16)
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, crop(whole, Region(0, 50, 50, 50)))


class Reads(io.FileIO):
    """A file that knows which of its bytes were read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.ranges: list[tuple[int, int]] = []

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes and note their places."""
        first, data = self.tell(), super().read(-1 if size is None else size)
        self.ranges.append((first, first + len(data)))
        return data


def first_page(stream: IO[bytes]) -> Page:
    """Return the first page of a TIFF file."""
    found = pixel_files.find_pages(stream, None, "first")
    assert found is not None
    return next(found)


def test_a_tile_of_a_large_file_reads_and_decodes_the_segments_that_it_touches(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", np.tile(noise(512, 4096), (8, 1))
    tifffile.imwrite(path, pixels, tile=(256, 256), compression="lzw")
    with tifffile.TiffFile(path) as file:
        (page,) = file.pages
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with Reads(path) as stream:
        segments = Segments.of(stream, first_page(stream))
        assert segments is not None
        for side, top, left in ((256, 0, 0), (224, 1000, 2000), (700, 1000, 2000), (700, 3396, 3396)):
            region = Region(top, left, side, side).aligned(segments.sides)
            stream.ranges.clear()
            cut = segments.cut(stream, region)
            rows, columns = (range(at // 256, -(-(at + side) // 256)) for at in (top, left))
            touched = [places[16 * row + column] for row in rows for column in columns]
            inside = {(first, first + count) for first, count in touched}
            others = sorted(set(places) - set(touched))
            assert inside <= set(stream.ranges)
            assert not any(a < first + n and b > first for a, b in stream.ranges for first, n in others)
            (few,) = tifffile.TiffFile(cut).pages
            assert list(few.databytecounts) == [count for _, count in touched]
            assert np.array_equal(
                few.asarray(), pixels[region.top :, region.left :][: few.imagelength, : few.imagewidth]
            )


def test_pixels_that_are_not_compressed_are_read_alone(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(2000, 3000, 3), photometric="rgb", rowsperstrip=2000)
    with Reads(tmp_path / "a.tif") as stream:
        segments = Segments.of(stream, first_page(stream))
        assert segments is not None
        region = Region(500, 700, 224, 100).aligned(segments.sides)
        stream.ranges.clear()
        segments.cut(stream, region)
        assert sum(last - first for first, last in stream.ranges) < 224 * 100 * 3 + 1000


def test_a_tile_is_read_where_all_others_are_damaged(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", noise(200, 300)
    tifffile.imwrite(path, pixels, tile=(64, 64), compression="lzw")
    with tifffile.TiffFile(path) as file:
        (page,) = file.pages
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with path.open("r+b") as stream:
        for number, (first, count) in enumerate(places):
            if number != 6:
                stream.seek(first)
                stream.write(bytes(count))
    open_tile = find_parts([path], DataConfig(tile=64), 14, 1, "d").opener(decode_whole, 1)
    assert np.array_equal(values(open_tile(6, 16)), pixels[64:128, 64:128])
    with pytest.raises(OSError, match="decoder error"):
        open_tile(7, 16)


def blank(path: Path, height: int, width: int) -> Path:
    """Write a TIFF file of so many black pixels in RGB, which takes no room on the disk."""
    tifffile.memmap(path, shape=(height, width, 3), dtype="uint8", photometric="rgb")
    return path


def test_tiles_of_a_file_that_is_too_large_as_a_whole_are_samples(tmp_path: Path) -> None:
    path = blank(tmp_path / "a.tif", 30_000, 40_000)
    with pytest.raises(
        ValueError, match=r"^40000×30000 pixels take 4,800 MB, more than 2,000; data.tile"
    ):
        open_pixels(path, 16)
    tracemalloc.start()
    try:
        parts = find_parts([path], DataConfig(tile=1000), 14, 1, "d")
        assert values(parts.opener(decode_whole, 1)(1199, 16)).shape == (1000, 1000, 3)
        assert tracemalloc.get_traced_memory()[1] < 2e7
    finally:
        tracemalloc.stop()
    assert len(parts) == 1200


def test_a_segment_that_is_too_large_is_listed_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decode, "MAX_BYTES", 40_000)
    one = {"compression": "lzw", "rowsperstrip": 150}
    tifffile.imwrite(tmp_path / "one.tif", noise(150, 100), **one)
    tifffile.imwrite(tmp_path / "tiles.tif", noise(150, 100), tile=(16, 16), compression="lzw")
    data, _ = opened(tmp_path, 50)
    everything(data)
    assert [Path(name).name for name in data.train.skipped] == ["one.tif#0,0"]
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"{tmp_path / 'one.tif'}#0,0: 100×150 pixels take 0 MB, more than 0; data.tile" in line


@pytest.mark.parametrize("kind", ["turned", "old", "list", "tag"])
def test_what_cannot_be_cut_is_decoded_as_a_whole(kind: str, tmp_path: Path) -> None:
    tags = {"turned": (274, "H", 1, 6), "old": (259, "H", 1, 6), "tag": (257, "f", 1, 2.0)}
    extra = [tags[kind]] if kind == "turned" else []
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(90, 130), extratags=extra, rowsperstrip=10, compression="lzw")
    if kind in ("old", "tag"):
        with tifffile.TiffFile(path, mode="r+b") as file:
            code, letter, _, value = tags[kind]
            file.pages[0].tags[code].overwrite(value, dtype=letter)
    if kind == "list":
        with tifffile.TiffFile(path, mode="r+b") as file:
            file.pages[0].tags[279].overwrite([9] * 5)
    sizes = list(page_sizes(path, None, "first", 50))
    assert [cell for *_, cell in sizes] == [None]
    if kind == "turned":
        assert sizes == [(0, 130, 90, None)]


def test_large_pictures_of_other_formats_are_decoded_up_to_the_limit(tmp_path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    assert limit is not None
    path = write(tmp_path / "a.png", Image.new("1", (20_000, 2 * limit // 20_000 + 1)))
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    for source in (path, io.BytesIO(path.read_bytes())):
        image = decode.open_image(source, 16)
        image.load()
        image.close()
    assert limit == Image.MAX_IMAGE_PIXELS
    broken(tmp_path / "b.png")
    with pytest.raises(OSError, match="cannot identify"):
        decode.open_image(tmp_path / "b.png", 16)
    content = bytearray(write(tmp_path / "c.png").read_bytes())
    content[16:24] = (25_000).to_bytes(4, "big") * 2
    content[29:33] = crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "c.png").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"^25000×25000 pixels take 2,500 MB, more than 2,000; data.tile"
    ):
        decode.open_image(tmp_path / "c.png", 16)
