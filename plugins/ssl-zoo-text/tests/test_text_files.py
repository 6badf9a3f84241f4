"""Files of texts: each kind gives the same documents, and bad input is one line."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import subprocess
import sys
import tracemalloc
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import small_spec
from ssl_zoo_text.corpus import MAX_DOCUMENT, Document, _cut
from ssl_zoo_text.files import HubOptions, open_files, open_hub, takes
from ssl_zoo_text.files import read_folder as read
from ssl_zoo_text.plugin import ssl_zoo_register_sources
from ssl_zoo_text.reading import FileOptions, FileReader, UnreadableFile

from ssl_zoo import UserError
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet, load

ROWS = [("In the beginning, was “it”.", "law"), ("Two lines\nof one text.", "poetry"), ("Third.", "law")]


def opened(path: Path, **options: Any) -> DataSet:
    settings = FileOptions(**{"length": 8, "vocabulary": 300, **options})
    return open_files(DataConfig(source=str(path), holdout=0.3), torch.device("cpu"), settings)


def read_file(path: Path, name: str, **options: Any) -> list[Document]:
    return list(FileReader(FileOptions(**options)).read(path, name))


def read_folder(root: Path, **options: Any) -> list[Document]:
    settings = FileOptions(**options)
    return read(root, settings, FileReader(settings)).documents


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_each_kind_of_table_gives_the_same_documents(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"x.{suffix}"
    rows = [{"text": text, "label": label} for text, label in ROWS]
    if suffix == "tsv":  # it has no way to write a line break or a quote
        rows = [{**row, "text": row["text"].replace("\n", ' 4" ')} for row in rows]
    if suffix == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    elif suffix == "parquet":
        pytest.importorskip("pyarrow", reason="the extra ssl-zoo-text[parquet] is not installed")
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        with file.open("w", encoding="utf-8-sig", newline="") as opened_file:
            style: Any = {"quoting": csv.QUOTE_NONE, "quotechar": None, "delimiter": "\t"}
            writer = csv.DictWriter(opened_file, rows[0], **(style if suffix == "tsv" else {}))
            writer.writeheader()
            writer.writerows(rows)
    documents = list(read_file(file, file.name))
    assert [(d.text, d.label) for d in documents] == [(row["text"], row["label"]) for row in rows]
    assert documents[1].name == f"{file.name}:2"
    file.write_bytes(file.read_bytes().replace(b"text", b"body"))
    with pytest.raises(UserError, match=r"has no column 'text'|cannot be read"):
        list(read_file(file, file.name))


def test_plain_text_is_divided_by_blank_lines_or_else_by_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ssl_zoo.notices")
    file = tmp_path / "x.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree\r\n")
    paragraphs = [("one\ntwo", "x:1"), ("three", "x:4")]
    lines = [("one", "x:1"), ("two", "x:2"), ("three", "x:4")]
    whole = [("one\ntwo\n\nthree\n", "x")]
    rules = {"auto": paragraphs, "paragraphs": paragraphs, "lines": lines, "file": whole}
    for rule, expected in rules.items():
        assert [(d.text, d.name) for d in read_file(file, "x", documents=rule)] == expected
    packed = tmp_path / "x.txt.xz"
    packed.write_bytes(lzma.compress("\n\none\N{LINE SEPARATOR}line\ntwo\n \n\n".encode()))
    assert [d.text for d in read_file(packed, "x")] == ["one\N{LINE SEPARATOR}line", "two"]
    file.write_text("".join(f"Line number {i} of this text.\n" for i in range(30)) + "\n")
    opened(file)
    assert "x.txt: 30 documents (data.options.documents=auto)" in caplog.text
    folder = [d.name for d in read_folder(tmp_path, documents="lines")]
    assert folder[:2] == ["x.txt:1", "x.txt:2"]


def test_columns_have_other_names_and_tables_are_packed(tmp_path: Path) -> None:
    rows = [{"body": text, "kind": number} for number, (text, _) in enumerate(ROWS)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    contents = {
        "x.jsonl.gz": gzip.compress(lines),
        "x.jsonl.xz": lzma.compress(lines),
        "x.json": json.dumps(rows).encode(),
        "y.json": lines,
        "x.csv.gz": gzip.compress(b'body,kind\n"a, ""b""",0\n'),
    }
    for name, content in contents.items():
        file = tmp_path / name
        file.write_bytes(content)
        assert takes(str(file))
        documents = [(d.text, d.label) for d in read_file(file, name, text="body", label="kind")]
        expected = [(text, str(number)) for number, (text, _) in enumerate(ROWS)]
        assert documents == ([('a, "b"', "0")] if "csv" in name else expected)
    with pytest.raises(UserError, match=r"has no column 'text' \(it has body, kind\); name the column"):
        read_file(tmp_path / "x.json", "x.json")


def test_train_and_test_folders_are_splits_with_classes_below_them(tmp_path: Path) -> None:
    for folder in ("train/pos", "train/neg", "train/unsup", "test/pos", "test/neg", ".git", "train/.x"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(4):
            (tmp_path / folder / f"{i}.txt").write_text(f"Review {i} in {folder}, all its own. " * 4)
    (tmp_path / "test/pos/copy.txt").write_text((tmp_path / "train/pos/0.txt").read_text())
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "train/urls.txt").write_text("A list beside the classes.")
    (tmp_path / "about.txt").write_text("A text beside the splits.")
    data = opened(tmp_path, length=32, passages=8000)
    assert data.classes == ("neg", "pos")
    assert data.test is not None
    names = [{n.partition("[")[0] for n in s.names or ()} for s in (data.bank, data.test)]
    assert names == [set(s.groups or ()) for s in (data.bank, data.test)]
    assert names[0] == {f"train/{label}/{i}.txt" for label in ("pos", "neg") for i in range(4)}
    assert names[1] == {f"test/{label}/{i}.txt" for label in ("pos", "neg") for i in range(4)}
    shown = " ".join(map(str, data.spec.show(data.train.batch(torch.arange(len(data.train))))))
    assert "unsup" in shown
    assert ".git" not in shown
    assert "train/.x" not in shown
    assert data.train.labels is None
    assert data.facts.folders == {"train": ["train"], "test": ["test"]}
    assert dict(data.facts.other_files) == {".json": 1}
    assert asdict(data.facts)["unused"] == {"": 2}
    config = DataConfig(source=str(tmp_path), groups="folder", options={"length": 32, "vocabulary": 300})
    with pytest.raises(UserError, match=r"data\.groups: nothing is held out of .*has a test split"):
        load(config, torch.device("cpu"), ssl_zoo_register_sources(), "text")


def test_broken_files_of_a_folder_are_listed_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(12):
        (tmp_path / f"{i:02}.txt").write_text(f"Text {i} is in a file of its own. " * 4)
    packed = bytearray(gzip.compress(b"A text. " * 999))
    packed[12:20] = bytes(8)
    (tmp_path / "a.txt.gz").write_bytes(packed)
    (tmp_path / "b.csv").write_text('text\n"no end')
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    (tmp_path / "d.txt").write_bytes(b"caf\xe9 caf\xe9")
    data = opened(tmp_path)
    assert list(data.train.skipped) == ["a.txt.gz", "b.csv"]
    assert caplog.text.count("not valid UTF-8") == 1
    assert "2 files are not valid UTF-8, such as c.txt at byte 3: 3 characters replaced" in caplog.text
    for name in data.train.skipped:
        with pytest.raises(UnreadableFile, match=r"^data\.source: .* cannot be read: [^\n]+$"):
            read_file(tmp_path / name, name)


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(coding: str, tmp_path: Path) -> None:
    text = "Na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve.\nTwo."
    (tmp_path / "x.txt").write_bytes(text.encode(coding))
    assert [d.text for d in read_file(tmp_path / "x.txt", "x")] == text.split("\n")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": ["a", "b"]}, r"x\.jsonl, row 2: 'text' is not a string \(\['a', 'b'\]\); convert it"),
        ({"text": 5}, r"row 2: 'text' is not a string \(5\)"),
        ({"text": "a", "label": {}}, r"row 2: 'label' is not the name or number of a class \(\{\}\)"),
    ],
)
def test_a_value_that_is_not_a_string_is_refused(row: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"text": None}) + "\n" + json.dumps(row))
    with pytest.raises(UserError, match=message):
        read_file(file, "x.jsonl")


def test_sub_folders_are_labels_and_other_files_left_out(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(4):
            (tmp_path / label / f"{number}.txt").write_text(f"Text {number} of {label}. " * 9)
    (tmp_path / "a" / "picture.png").write_bytes(b"\x89PNG")
    assert {d.label for d in read_folder(tmp_path)} == {"a", "b"}
    assert {d.split for d in read_folder(tmp_path)} == {None}
    data = opened(tmp_path)
    assert data.classes == ("a", "b")
    assert data.test is not None
    assert takes(str(tmp_path))
    assert not takes(str(tmp_path / "a" / "picture.png"))


def test_an_empty_file_and_a_folder_of_pictures_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(UserError, match=r"data\.source: x\.txt has no text, and two are needed"):
        opened(tmp_path / "x.txt")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "x.png").write_bytes(b"\x89PNG")
    with pytest.raises(
        UserError, match=r"pictures has no texts \(it has 1 \.png\); texts are files ending"
    ):
        opened(tmp_path / "pictures")
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n{"text"')
    with pytest.raises(UserError, match=r"x\.jsonl cannot be read: line 2 is not JSON"):
        opened(tmp_path / "x.jsonl")


def test_bytes_that_are_not_utf_8_are_replaced_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "x.txt").write_bytes("caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode("latin-1"))
    reader = FileReader(FileOptions())
    assert reader.text(tmp_path / "x.txt", "x.txt") == "caf\N{REPLACEMENT CHARACTER}"
    reader.warn()
    assert "1 file is not valid UTF-8, such as x.txt at byte 3: 1 character replaced" in caplog.text


def test_lone_surrogates_of_json_are_replaced_and_counted_with_wrong_bytes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = '{"text": "\\udc00 of row %d \\ud83d\\ude00 \\ud800", "label": "\\ud800"}\n'
    (tmp_path / "x.jsonl").write_bytes((row * 9 % (*range(9),)).encode() + b'{"text": "caf\xe9"}')
    documents = [d for d in read_file(tmp_path / "x.jsonl", "x.jsonl") if d.label]
    mark = "\N{REPLACEMENT CHARACTER}"
    assert [d.text for d in documents] == [
        f"{mark} of row {i} \N{GRINNING FACE} {mark}" for i in range(9)
    ]
    assert {d.label for d in documents} == {mark}
    opened(tmp_path / "x.jsonl")
    assert caplog.text.count("not valid UTF-8") == 1
    assert "1 file is not valid UTF-8, such as x.jsonl at byte" in caplog.text
    assert "28 characters replaced" in caplog.text
    caplog.clear()
    (tmp_path / "x.jsonl").write_text(row * 9 % (*range(9),))
    opened(tmp_path / "x.jsonl")
    assert "x.jsonl in row 1, a lone surrogate: 27 characters replaced; cut texts between" in caplog.text


def test_a_text_in_your_own_code_is_decoded_as_those_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = small_spec()
    expected = "caf\N{REPLACEMENT CHARACTER} au lait"
    (tmp_path / "x.txt").write_bytes(b"caf\xe9 au lait")
    assert spec.show(spec.preprocess(tmp_path / "x.txt")) == [expected]
    assert "x.txt at byte 3: 1 character replaced; convert with iconv -t utf-8" in caplog.text
    assert spec.show(spec.preprocess("caf\ud800 au lait")) == [expected]
    for coding in ("utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / "x.txt").write_bytes(expected.encode(coding))
        assert spec.show(spec.preprocess(tmp_path / "x.txt")) == [expected]
    (tmp_path / "x.txt.gz").write_bytes(b"text")
    for name in ("x.txt.gz", "none.txt"):
        with pytest.raises(UserError, match=rf"{name} cannot be read: [^\n]+$"):
            spec.preprocess(tmp_path / name)


def test_of_a_long_line_nothing_is_lost() -> None:
    text = " ".join(map(str, range(400_000)))
    for line in (text, text.replace(" ", "")):
        documents = [document.text for document in _cut(Document(line, "x"))]
        assert len(documents) == -(-len(line) // MAX_DOCUMENT)
        assert all(0 < len(document) <= MAX_DOCUMENT for document in documents)
        assert (" " if " " in line else "").join(documents) == line


@pytest.mark.parametrize("labelled", [True, False])
def test_texts_of_hugging_face_s_library_have_the_names_of_their_labels(
    labelled: bool, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra ssl-zoo-text[hf] is not installed")
    made = tmp_path / "made"
    made.mkdir()
    labels = [i % 2 if labelled else i % 3 - 1 for i in range(12)]  # -1: unknown
    rows = {"text": [f"Text number {i}. " * 9 for i in range(12)], "label": labels}
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    made_rows = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    made_rows.to_parquet(made / "train.parquet")
    made_rows.select(range(3)).to_parquet(made / "test.parquet")
    sources = ssl_zoo_register_sources()
    config = DataConfig(
        source=f"hf:{made}", root=str(tmp_path / "cache"), options={"length": 8, "vocabulary": 300}
    )
    data = load(config, torch.device("cpu"), sources, "text")
    assert data.spec.modality == "text"
    assert data.classes == (("no", "yes") if labelled else None)
    assert data.bank.names is not None
    assert data.bank.names[0].startswith(f"hf:{made}:")
    assert (tmp_path / "cache").is_dir()
    if labelled:
        assert data.bank.labels is not None
        numbers = [int(name.rpartition(":")[2].partition("[")[0]) - 1 for name in data.bank.names]
        assert data.bank.labels.tolist() == [labels[i] for i in numbers]


def test_what_hugging_face_s_library_cannot_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra ssl-zoo-text[hf] is not installed")
    (tmp_path / "empty").mkdir()

    def reason(source: str) -> str:
        with pytest.raises(UserError) as error:
            open_hub(DataConfig(source=source, root=str(tmp_path)), torch.device("cpu"), HubOptions())
        assert "\n" not in str(error.value)
        return str(error.value)

    assert reason(f"hf:{tmp_path / 'empty'}").startswith("data.source: hf:")

    def with_subsets(*arguments: Any, **options: Any) -> None:
        raise ValueError("Config name is missing.\nPlease pick one among: ['a', 'b']")

    monkeypatch.setattr(datasets, "load_dataset", with_subsets)
    assert reason("hf:x").endswith(
        "Config name is missing. Please pick one among: ['a', 'b']; give one by data.options.subset"
    )


def long_line(file: Path, megabytes: int) -> None:
    """Write a line of words, of which few are repeated, without a full stop."""
    words = [f"w{i * 7919 % 10007}" for i in range(3000)]
    part = " ".join(words[i * i % 2999] for i in range(150_000))
    with file.open("w") as opened_file:
        while opened_file.tell() < megabytes * 1e6:
            opened_file.write(f"{opened_file.tell()} {part} ")


def test_a_long_line_is_cut_without_a_list_of_all_its_words(tmp_path: Path) -> None:
    long_line(tmp_path / "x.txt", 10)
    (line,) = read_file(tmp_path / "x.txt", "x")
    tracemalloc.start()
    number = sum(1 for _ in _cut(line))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number == -(-len(line.text) // MAX_DOCUMENT)
    assert peak < 40e6, "the words of the whole line would take 100 MB"


@pytest.mark.slow
def test_a_line_of_100_mb_takes_some_times_its_size_of_memory(tmp_path: Path) -> None:
    long_line(tmp_path / "x.txt", 100)
    program = """import resource, sys, torch
from ssl_zoo.config.schema import DataConfig
from ssl_zoo_text.files import open_files
from ssl_zoo_text.reading import FileOptions
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = open_files(DataConfig(source="x.txt"), torch.device("cpu"), FileOptions())
print(len(data.train) * 63, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    tokens, megabytes = map(float, done.stdout.split())
    assert tokens > 1e7
    assert megabytes < 1500


def test_a_column_gives_the_splits_and_a_wrong_one_is_refused_in_a_line(tmp_path: Path) -> None:
    rows = "text,label,split\nOne.,a,train\nTwo.,b,val\nThree.,c,unlabelled\n"
    (tmp_path / "x.csv").write_text(rows)
    documents = read_file(tmp_path / "x.csv", "x.csv")
    assert [(d.label, d.split) for d in documents] == [
        ("a", "train"), ("b", "test"), (None, "unlabelled")
    ]  # fmt: skip
    (tmp_path / "x.csv").write_text("text,split\nOne.,soon\n")
    with pytest.raises(
        UserError, match=r"x\.csv, row 1: split: is 'soon'; give train, .*options\.split"
    ):
        read_file(tmp_path / "x.csv", "x.csv")


def test_a_list_of_text_files_has_their_labels_and_splits(tmp_path: Path) -> None:
    lines = []
    for i in range(8):
        (tmp_path / f"{i}.txt").write_text(f"The text of number {i} is here.\n\nAnd its end is there.")
        lines.append(f"{i}.txt,{'ab'[i % 2]},{'test' if i > 5 else 'train'}\n")
    (tmp_path / "list.csv").write_text("path,label,split\n" + "".join(lines))
    data = opened(tmp_path / "list.csv")
    assert data.classes == ("a", "b")
    assert data.test is not None
    assert {name.partition("[")[0] for name in data.test.names or []} == {"6.txt", "7.txt"}
    (tmp_path / "list.csv").write_text("path\ngone.txt\n")
    with pytest.raises(UserError, match=r"list\.csv, line 2: .*gone\.txt does not exist"):
        opened(tmp_path / "list.csv")
