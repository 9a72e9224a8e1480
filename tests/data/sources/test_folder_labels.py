import logging
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from athanor.base.errors import UserError
from athanor.data.sources.folder_labels import folder_labels
from athanor.engine.runs.run import Run

SETTINGS = dict(file_column="file", target_columns=None, target_kind="auto", split_column=None, group_column=None)
SETTINGS |= dict(test_fraction=0.25, image_size=8, mode="L", skip_broken=False, follow_links=False, split_seed=0)
SETTINGS |= dict(resize="once", resize_area=None, resize_workers=0)


@pytest.fixture
def root(tmp_path):
    """24 pictures, each of its own grey, half of them in a folder."""
    for i in range(24):
        path = tmp_path / "photos" / ("deep" if i % 2 else "") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 * i).save(path)
    return tmp_path / "photos"


def name(i):
    return f"deep/{i}.png" if i % 2 else f"{i}.png"


@pytest.fixture
def write(tmp_path):
    """Writes labels.csv: a row for each picture of columns, which are functions of its number."""

    def write(count=24, names=name, **columns):
        lines = [",".join(["file", *columns])]
        lines += [",".join([names(i), *(str(column(i)) for column in columns.values())]) for i in range(count)]
        (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
        return tmp_path / "labels.csv"

    return write


@pytest.fixture
def read(tmp_path, root):
    def read(labels, **settings):
        return folder_labels(root, labels, **SETTINGS | {"data_dir": tmp_path / "data"} | settings)

    return read


def pairs(source):
    """Number and target of each picture, in train and in test."""
    parts = [(source.train_inputs, source.train_targets), (source.test_inputs, source.test_targets)]
    return [
        (image[0, 0, 0].item() // 10, target.tolist()) for part in parts for image, target in zip(*part, strict=True)
    ]


# --- kinds of targets


def test_texts_are_classes_in_the_order_of_their_names(write, read):
    source = read(write(animal=lambda i: ("dog", "cat", "ant")[i % 3]))
    assert source.class_names == ("ant", "cat", "dog") and source.train_targets.dtype == torch.int64
    assert sorted(pairs(source)) == [(i, 2 - i % 3) for i in range(24)]
    assert source.test_targets.bincount().tolist() == [2, 2, 2]


def test_integers_are_classes_in_the_order_of_numbers_and_that_is_said(write, read, caplog):
    with caplog.at_level(logging.INFO):
        source = read(write(age=lambda i: (10, 9, -1)[i % 3]))
    assert source.class_names == ("-1", "9", "10")
    assert sorted(pairs(source)) == [(i, 2 - i % 3) for i in range(24)]
    assert "the integers in age are classes; data.target_kind=numbers for task=regression" in caplog.text
    numbers = read(write(age=lambda i: (10, 9, -1)[i % 3]), target_kind="numbers")
    assert sorted(pairs(numbers)) == [(i, [(10, 9, -1)[i % 3]]) for i in range(24)]


@pytest.mark.parametrize("absent", [0, -1])
def test_columns_of_two_values_are_attributes(write, read, absent):
    source = read(write(odd=lambda i: 1 if i % 2 else absent, small=lambda i: 1 if i < 9 else absent))
    assert source.class_names == ("odd", "small") and source.train_targets.dtype == torch.int64
    assert sorted(pairs(source)) == [(i, [i % 2, int(i < 9)]) for i in range(24)]


def test_columns_of_other_numbers_are_numbers(write, read):
    source = read(write(age=lambda i: i / 2, height=lambda i: 100 + i))
    assert source.class_names == ("age", "height") and source.train_targets.dtype == torch.float32
    assert sorted(pairs(source)) == [(i, [i / 2, 100.0 + i]) for i in range(24)]
    one = read(write(age=lambda i: i / 2, height=lambda i: 100 + i), target_columns=["age"])
    assert one.train_targets.shape == (18, 1) and one.class_names == ("age",)


# --- rows, splits and groups


def test_a_column_of_splits(write, read):
    parts = ["train"] * 12 + ["val"] * 8 + ["test"] * 4
    source = read(write(animal=lambda i: "ab"[i % 2], part=lambda i: parts[i]), split_column="part")
    arrays = (source.train_inputs, source.val_inputs, source.test_inputs)
    numbers = [sorted(image[0, 0, 0].item() // 10 for image in array) for array in arrays]
    assert numbers == [[*range(12)], [*range(12, 20)], [*range(20, 24)]]
    assert source.val_targets.bincount().tolist() == [4, 4]


def test_groups_are_not_split(write, read):
    source = read(write(animal=lambda i: "ab"[i % 2], patient=lambda i: f"p{i // 4}"), group_column="patient")
    patients = [number // 4 for number, _ in pairs(source)]
    train = len(source.train_inputs)
    assert not set(patients[:train]) & set(patients[train:]) and 0 < len(source.test_inputs) < 12
    assert [group.item() for group in source.groups] == patients[:train]


def test_names_may_lack_the_suffix_or_begin_with_the_root(write, read, root):
    expected = pairs(read(write(animal=lambda i: "ab"[i % 2])))
    for names in (lambda i: name(i)[:-4]), (lambda i: f"./{name(i)}"), (lambda i: root / name(i)):
        assert pairs(read(write(names=lambda i: str(names(i)), animal=lambda i: "ab"[i % 2]))) == expected  # noqa: B023


def test_pictures_without_a_row_are_left_out_and_said(write, read, caplog):
    source = read(write(count=16, animal=lambda i: "ab"[i % 2]))
    assert sorted(number for number, _ in pairs(source)) == list(range(16))
    assert "8 pictures have no row in" in caplog.text and "the first is 16.png" in caplog.text


def test_a_mark_at_the_beginning_quotes_and_spaces(write, read, tmp_path):
    labels = write(animal=lambda i: (' "a, with comma"', " b ")[i % 2].strip(" ") if i % 2 else '"a, with comma"')
    labels.write_text("\ufeff" + labels.read_text(encoding="utf-8").replace(",b", ", b "), encoding="utf-8")
    assert read(labels).class_names == ("a, with comma", "b")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda text: text.replace("2.png,a", "none.png,a", 1),
            "1 rows name no picture .*; the first is none.png",
        ),
        (lambda text: text.replace("4.png,a", "2.png,a", 1), "1 pictures have more than one row; the first is 2.png"),
        (lambda text: text.replace(",a\n", ",\n"), "12 empty cells in column animal; the first is in row 1"),
        (
            lambda text: text.replace(",a\n", ",a,b\n", 2),
            "2 rows have more or fewer cells than the header; the first is row 1",
        ),
        (lambda text: text.replace("animal", "file"), "more than one column is called file"),
        (lambda text: text.replace("file", "image"), "data.file_column=file: .* has no such column; .*image"),
        (lambda text: "file,animal", "has no rows; it needs a header and a row for each picture"),
        (lambda text: text.replace(",a\n", ',"a\n', 1), "is not a CSV file in UTF-8"),
    ],
)
def test_mistakes_in_the_file_are_one_line(write, read, change, message):
    labels = write(animal=lambda i: "ab"[i % 2])
    labels.write_text(change(labels.read_text()))
    with pytest.raises(UserError, match=message) as error:
        read(labels)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"target_columns": ["animals"]}, r"data\.target_columns=animals: .* no such column; did you mean animal\?"),
        (
            {"target_columns": ["animal", "age"], "target_kind": "classes"},
            "classes are one column, and there are animal",
        ),
        ({"target_columns": ["animal", "age"]}, "24 cells of animal are not numbers .*; the first is a"),
        (
            {"target_columns": ["age"], "target_kind": "attributes"},
            "attributes are 0 and 1, or -1 and 1; age have other",
        ),
        ({"split_column": "age"}, "24 cells of age are not train, val or test; the first is 0"),
        ({"target_columns": ["age"], "group_column": "patient"}, r"data\.group_column=patient: .* has no such column"),
        ({"labels": "none.csv"}, r"data\.labels=.*none\.csv is not a file"),
        ({"mode": "grey"}, r"data\.mode=grey; use"),
    ],
)
def test_wrong_settings(write, read, settings, message):
    labels = write(animal=lambda i: "ab"[i % 2], age=lambda i: i)
    with pytest.raises(UserError, match=message):
        read(**{"labels": labels} | settings)


def test_another_csv_file_decodes_nothing_again(write, read, monkeypatch):
    read(write(animal=lambda i: "ab"[i % 2]))
    monkeypatch.setattr("athanor.data.sources.cache.decode_images", lambda *_: pytest.fail("decoded again"))
    assert len(read(write(count=16, age=lambda i: i / 2)).train_inputs) == 12


# --- runs

WORDS = ["data=folder_labels", "data.root=photos", "data.labels=labels.csv", "data.image_size=8", "data.mode=L"]
WORDS += ["data.batch_size=8", "data.val_fraction=0.2", "data_dir=data", "model=linear", "trainer.max_epochs=1"]
WORDS += ["logger=csv", "hydra.run.dir=run"]


@pytest.mark.parametrize("task", ["classification", "attributes", "regression"])
def test_each_kind_is_trained_evaluated_and_predicts_a_folder(task, write, root, run_here, tmp_path):
    columns = {
        "classification": {"animal": lambda i: ("dog", "cat")[i % 2]},
        "attributes": {"odd": lambda i: i % 2, "small": lambda i: int(i < 12)},
        "regression": {"age": lambda i: i / 2},
    }
    write(**columns[task])
    ran = run_here("train.py", f"task={task}", *WORDS)
    assert ran.code == 0, ran.err
    results = Run("run").results
    assert results["data"]["origin"].startswith(f"image folder {root}: ")
    assert sum(results["data"][stage] for stage in ("train", "val", "test")) == 24
    ran = run_here("scripts/evaluate.py", "run")
    assert ran.code == 0 and f"(recorded {results['test']['loss']!r})" in ran.out
    ran = run_here("scripts/predict.py", "run", "photos", "--csv", "out.csv")
    assert ran.code == 0, ran.err
    listed = sorted(f"photos/{name(i)}" for i in range(24))
    assert [line.split("  ")[0] for line in ran.out.splitlines()] == listed
    assert [row.partition(",")[0] for row in (tmp_path / "out.csv").read_text().splitlines()[1:]] == listed
    if task == "classification":
        assert all(line.split("  ")[1] in ("dog", "cat") for line in ran.out.splitlines())


@pytest.mark.slow
def test_attributes_go_on_to_the_bit_from_anywhere_and_are_swept(write, root, train, assert_resumed):
    write(odd=lambda i: i % 2, small=lambda i: int(i < 12))
    words = ["task=attributes", *WORDS[:-1], "data.batch_size=2", "trainer.max_epochs=2"]
    assert_resumed(partial(train, *words))
    ran = train("-m", *words, "seed=0,1", "hydra.sweep.dir=sweep")
    assert ran.code == 0 and "2 jobs; " in ran.out, ran.err


def test_a_turned_picture_is_predicted_as_people_see_it(write, run_here, root, tmp_path):
    write(animal=lambda i: "ab"[i % 2])
    assert run_here("train.py", *WORDS).code == 0
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(np.rot90(pixels).copy()).save("stored.png", exif=exif)
    Image.fromarray(pixels).save("seen.png")
    Image.fromarray(np.rot90(pixels).copy()).save("unturned.png")
    ran = run_here("scripts/predict.py", "run", "stored.png", "seen.png", "unturned.png", "--csv", "out.csv")
    rows = [row.split(",")[1:] for row in (tmp_path / "out.csv").read_text().splitlines()[1:]]
    assert ran.code == 0 and rows[0] == rows[1] != rows[2]
