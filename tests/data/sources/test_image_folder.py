import errno
import logging
import os
import re
import subprocess
import sys
from collections import namedtuple
from functools import partial

import pytest
import torch
from PIL import Image

from athanor.base.errors import UserError
from athanor.data.sources import cache, decode
from athanor.data.sources.image_file import load_image
from athanor.data.sources.image_folder import image_folder
from athanor.engine.app.explain import explain
from athanor.engine.runs.run import Run

SETTINGS = dict(splits=None, val_is="val", test_fraction=0.2, image_size=8, mode="RGB", skip_broken=False)
SETTINGS |= dict(follow_links=False, split_seed=0, resize="once", resize_area=None, resize_workers=0)


def save(path, colour=(10, 20, 30), size=(8, 8), mode="RGB", **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **settings)


@pytest.fixture
def root(tmp_path):
    """Two classes of 10 images, each image of its own grey."""
    for i in range(10):
        save(tmp_path / "pets" / "cat" / f"{i}.png", (i, i, i))
        save(tmp_path / "pets" / "dog" / f"{i}.png", (100 + i,) * 3)
    return tmp_path / "pets"


@pytest.fixture
def split_root(tmp_path):
    for split, n in (("train", 3), ("test", 1)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(n):
                save(tmp_path / "pets" / split / name / f"{i}.png", (label, i, 7))
    return tmp_path / "pets"


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    monkeypatch.setattr(cache, "_verified", set())


@pytest.fixture
def caches(tmp_path):
    """The finished caches, and what else lies in their folders."""
    return lambda: sorted((tmp_path / "data" / "cache").glob("*/*"))


@pytest.fixture
def read(tmp_path):
    def read(root, **settings):
        return image_folder(root, **SETTINGS | {"data_dir": tmp_path / "data"} | settings)

    return read


@pytest.fixture
def decoded_paths(monkeypatch):
    paths = []

    def counting(path, *args):
        paths.append(os.path.basename(path))
        return load_image(path, *args)

    monkeypatch.setattr(decode, "load_image", counting)
    return paths


# --- a folder of images


def test_train_and_test_folders_are_kept_apart(split_root, read):
    source = read(split_root)
    assert source.train_inputs.shape == (6, 3, 8, 8)
    assert source.train_inputs[:, 0, 0, 0].tolist() == source.train_targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.test_targets.tolist() == [0, 1]
    assert source.class_names == ("cat", "dog")
    assert f"image folder {split_root}: 6 train and 2 test images of 3x8x8" in source.origin


def test_one_folder_is_split_by_the_seed(root, read):
    first, again, other = read(root), read(root), read(root, split_seed=1)
    assert first.test_targets.tolist() == [0, 0, 1, 1]
    values = torch.cat([first.train_inputs, first.test_inputs])[:, 0, 0, 0].sort().values
    assert values.tolist() == [*range(10), *range(100, 110)]
    assert torch.equal(first.test_inputs, again.test_inputs)
    assert not torch.equal(first.test_inputs, other.test_inputs)
    assert "test_fraction=0.2, split_seed=0" in first.origin


def test_a_class_may_be_called_train(tmp_path, read):
    for name in ("bus", "train"):
        save(tmp_path / "vehicles" / name / "0.png")
        save(tmp_path / "vehicles" / name / "1.png")
    assert read(tmp_path / "vehicles").class_names == ("bus", "train")


def test_images_are_found_at_any_depth_and_other_files_ignored_and_counted(root, read, caplog):
    save(root / "cat" / "deep" / "er" / "image.JPEG", (255, 255, 255))
    save(root / "cat" / ".hidden.png")
    (root / "cat" / "notes.txt").touch()
    (root / "dog" / "paper.pdf").touch()
    with caplog.at_level(logging.INFO):
        source = read(root)
    assert len(source.train_inputs) + len(source.test_inputs) == 21
    assert f"ignored 2 files in {root}" in caplog.text


def test_mode_auto_is_grey_only_where_every_image_is(root, read):
    grey = read(root, mode="auto")
    assert grey.train_inputs.shape[1] == 1
    assert torch.equal(grey.train_inputs, read(root, mode="L").train_inputs)
    save(root / "cat" / "3.png", (1, 2, 3))
    assert read(root, mode="auto").train_inputs.shape[1] == 3


def test_without_a_size_images_stay_as_they_are(tmp_path, read):
    for name in ("a", "b"):
        for i in range(2):
            save(tmp_path / "pets" / name / f"{i}.png", size=(12, 7))
    assert read(tmp_path / "pets", image_size=None).train_inputs.shape == (2, 3, 7, 12)


def test_the_arrays_can_be_written_without_changing_the_cache(split_root, read):
    read(split_root).train_inputs.fill_(99)
    assert not (read(split_root).train_inputs == 99).all()


# --- validation sets, and a CSV of splits


@pytest.fixture
def folders(tmp_path):
    """Makes folders of splits with two classes; the red of an image is its class, the green its number."""

    def folders(**counts):
        for split, count in counts.items():
            for label, name in enumerate(("cat", "dog")):
                for i in range(count):
                    save(tmp_path / "pets" / split / name / f"{i}.png", (label, i, 7))
        return tmp_path / "pets"

    return folders


def test_with_all_three_folders_each_is_what_it_is_called(folders, read, caplog):
    with caplog.at_level(logging.INFO):
        source = read(folders(train=4, val=3, test=2))
    sizes = [len(inputs) for inputs in (source.train_inputs, source.val_inputs, source.test_inputs)]
    assert sizes == [8, 6, 4]
    assert source.val_inputs[:, 1, 0, 0].tolist() == [0, 1, 2, 0, 1, 2]
    assert source.val_targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert "8 train, 6 validation and 4 test images of 3x8x8; validation and test as given" in source.origin
    assert source.origin in caplog.messages


def test_without_test_a_part_of_train_is_the_test_set(folders, read):
    source = read(folders(train=10, val=3))
    assert (len(source.train_inputs), len(source.val_inputs), len(source.test_inputs)) == (16, 6, 4)
    assert source.test_targets.tolist() == [0, 0, 1, 1]
    assert "validation as given, test drawn from train with test_fraction=0.2, split_seed=0" in source.origin


def test_val_is_the_test_set_where_a_person_says_so(folders, read):
    source = read(folders(train=4, val=3), val_is="test")
    assert (len(source.train_inputs), source.val_inputs, len(source.test_inputs)) == (8, None, 6)
    save(source_root := folders(test=1) / "test" / "cat" / "0.png")
    with pytest.raises(UserError, match=r"data\.val_is=test: .*pets needs train/ and val/ and no test/"):
        read(source_root.parents[2], val_is="test")


def test_validation_needs_the_classes_of_train(folders, read):
    root = folders(train=2, val=1)
    (root / "val" / "dog").rename(root / "val" / "fox")
    with pytest.raises(UserError, match="train/ has classes that val/ lacks: dog"):
        read(root)


def test_parts_are_views_of_the_decoded_array_where_they_are_folders(folders, read):
    source = read(folders(train=4, val=3, test=2))
    storages = {inputs.untyped_storage().data_ptr() for inputs in (source.train_inputs, source.test_inputs)}
    assert storages == {source.val_inputs.untyped_storage().data_ptr()}


def write_splits(path, rows):
    path.write_text("\n".join(["file,split", *(f"{file},{split}" for file, split in rows)]))
    return path


def test_a_csv_file_of_splits(root, read, tmp_path, decoded_paths, caplog):
    parts = ["train"] * 6 + ["val"] * 2 + ["test"]  # number 9 of each class has no row
    rows = [(f"{name}/{i}.png", part) for name in ("cat", "dog") for i, part in enumerate(parts)]
    source = read(root, splits=write_splits(tmp_path / "splits.csv", reversed(rows)))
    assert source.train_inputs[:, 0, 0, 0].tolist() == [*range(6), *range(100, 106)]
    assert source.val_inputs[:, 0, 0, 0].tolist() == [6, 7, 106, 107]
    assert source.test_inputs[:, 0, 0, 0].tolist() == [8, 108] and source.test_targets.tolist() == [0, 1]
    assert "2 pictures have no row in" in caplog.text and "the first is cat/9.png" in caplog.text
    rows = [(file, part.replace("val", "train").replace("test", "train")) for file, part in rows]
    other = read(root, splits=write_splits(tmp_path / "other.csv", rows))
    assert (len(other.train_inputs), other.val_inputs, len(other.test_inputs)) == (14, None, 4)
    assert len(decoded_paths) == 20  # another choice decodes nothing again


@pytest.mark.parametrize(
    "rows, message",
    [
        (
            [("cat/0.png", "train"), ("cat/none.png", "test"), ("x", "test")],
            "2 rows .*; the first is cat/none.png",
        ),
        ([("cat/0.png", "train"), ("cat/0", "test")], r"1 pictures have more than one row; the first is cat/0\.png"),
        ([("cat/0.png", "train"), ("cat/1.png", "valid")], "1 cells of split are not train, val or test; .* valid"),
        ([("cat/0.png", ""), ("cat/1.png", "")], "2 empty cells in column split; the first is in row 1"),
        ([("cat/0.png", "test")], "no pictures for training"),
        ([("../secret.png", "train")], r"1 rows name no picture below .*pets; the first is \.\./secret\.png"),
    ],
)
def test_mistakes_in_a_csv_file_of_splits(root, read, tmp_path, rows, message):
    save(tmp_path / "secret.png")
    with pytest.raises(UserError, match=message):
        read(root, splits=write_splits(tmp_path / "splits.csv", rows))


def test_folders_of_splits_take_no_csv_file(split_root, read, tmp_path):
    with pytest.raises(UserError, match=r"data\.splits=.*splits\.csv: .*pets has folders of splits already"):
        read(split_root, splits=write_splits(tmp_path / "splits.csv", []))


# --- broken files


def break_files(root):
    whole = (root / "cat" / "0.png").read_bytes()
    (root / "cat" / "3.png").write_bytes(whole[:40])
    (root / "dog" / "0.png").write_text("no image")
    (root / "dog" / "gone.png").symlink_to(root / "dog" / "nothing.png")


def test_broken_files_are_left_out_and_counted_where_a_person_says_so(root, read, caplog, decoded_paths):
    break_files(root)
    with pytest.raises(
        UserError, match=r"3 of 21 images cannot be read; .*or type data\.skip_broken=true: .*cat/3\.png"
    ):
        read(root)
    for _ in range(2):  # decoded, and from the cache
        caplog.clear()
        source = read(root, skip_broken=True)
        images, targets = (
            torch.cat([getattr(source, f"{part}_{kind}") for part in ("train", "test")])
            for kind in ("inputs", "targets")
        )
        values = images[:, 0, 0, 0].tolist()
        assert sorted(values) == [0, 1, 2, *range(4, 10), *range(101, 110)]
        assert targets.tolist() == [int(value >= 100) for value in values]
        (message,) = caplog.messages
        assert message.startswith(f"left out 3 of 21 files that cannot be read: {root}/cat/3.png: ")
        assert f"{root}/dog/0.png: not an image; {root}/dog/gone.png does not exist" in message
        assert source.origin.endswith("3 broken files left out")
    assert len(decoded_paths) == 42  # once without and once with skipping
    with pytest.raises(UserError, match="3 of 21 images cannot be read"):  # that cache is for others
        read(root)


def test_a_class_of_broken_files_alone_is_named(root, read, caplog):
    for path in (root / "dog").iterdir():
        path.write_text("no image")
    assert read(root, skip_broken=True).train_targets.tolist() == [0] * 8
    assert "1 of 2 classes have no training input: dog" in caplog.text


# --- 16 bits


@pytest.fixture
def deep(tmp_path):
    """Two classes of 5 grey images of 16 bits, whose values differ in their lower bits alone, as PNG and TIFF."""
    for i in range(5):
        for name, start, suffix in (("a", 0, "png"), ("b", 100, "tif")):
            save(tmp_path / "deep" / name / f"{i}.{suffix}", 4096 + start + i, mode="I;16")
    return tmp_path / "deep"


@pytest.mark.parametrize("mode", ["auto", "L16"])
@pytest.mark.parametrize("size", [8, None, 4])
def test_sixteen_bits_are_kept(deep, read, mode, size):
    source = read(deep, mode=mode, image_size=size)
    images = torch.cat([source.train_inputs, source.test_inputs])
    assert images.dtype == torch.uint16 and images.shape[1:] == (1, size or 8, size or 8)
    values = [*range(4096, 4101), *range(4196, 4201)]
    assert sorted(images.int().flatten(1)[:, 0].tolist()) == values
    assert torch.equal(images.int(), images.int()[:, :, :1, :1].expand(images.shape))
    assert torch.equal(read(deep, mode=mode, image_size=size).train_inputs, source.train_inputs)


def test_other_modes_have_eight_bits(deep, read):
    assert read(deep, mode="L").train_inputs.dtype == read(deep).train_inputs.dtype == torch.uint8
    assert (read(deep, mode="L").train_inputs == 16).all()
    save(deep / "a" / "0.png", 77, mode="L")
    mixed = read(deep, mode="auto").train_inputs
    assert mixed.dtype == torch.uint8 and mixed.shape[1] == 1
    white = torch.cat([(source := read(deep, mode="L16")).train_inputs, source.test_inputs]).int()
    assert 77 * 257 in white  # white is 65535 for all


def test_a_network_is_trained_on_sixteen_bits_and_predicts_from_them(deep, run_here, tmp_path):
    words = ["data=image_folder", "data.root=deep", "data.mode=auto", "data.image_size=8", "data.batch_size=2"]
    words += ["data.val_fraction=0.4", "data_dir=data", "model=linear", "trainer.max_epochs=1", "logger=csv"]
    ran = run_here("train.py", *words, "hydra.run.dir=run")
    assert ran.code == 0, ran.err
    ran = run_here("scripts/evaluate.py", "run")
    assert ran.code == 0 and f"(recorded {Run('run').results['test']['loss']!r})" in ran.out
    ran = run_here("scripts/predict.py", "run", "deep", "--csv", "out.csv")
    assert ran.code == 0, ran.err
    rows = [row.split(",") for row in (tmp_path / "out.csv").read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == [f"deep/a/{i}.png" for i in range(5)] + [f"deep/b/{i}.tif" for i in range(5)]
    assert len({tuple(row[1:]) for row in rows}) == 10  # they differ below the 8th bit alone


# --- a run


@pytest.fixture
def messy(tmp_path):
    """train/ and val/ with pictures of all modes and sizes, turned, nested, behind links, and broken."""
    root, store = tmp_path / "messy", tmp_path / "store"
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [
        ("L", 77, "png"),
        ("RGBA", (9, 99, 9, 128), "webp"),
        ("I;16", 40_000, "tif"),
        ("CMYK", (9, 0, 0, 0), "jpg"),
    ]
    for folder in root / "train" / "cat", store / "dogs", root / "val" / "cat", root / "val" / "dog":
        for i in range(8):
            mode, colour, suffix = kinds[i % 4]
            save(folder / ("deep" if i % 2 else "") / f"{i}.{suffix}", colour, (8 + i, 20), mode, exif=exif)
        (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff")
        (folder / "Thumbs.db").touch()
    (root / "train" / "dog").symlink_to(store / "dogs")
    return root


MESSY = ["data=image_folder", "data.root=messy", "data.image_size=12", "data.skip_broken=true", "data_dir=data"]
MESSY += ["data.follow_links=true", "data.batch_size=4", "data.augment.flip=true", "model=mlp", "model.widths=[8]"]
MESSY += ["trainer.max_epochs=4"]


def test_a_messy_folder_is_trained_on_and_a_run_goes_on_to_the_bit(messy, run_here, train, assert_resumed):
    assert_resumed(partial(train, *MESSY), places=[4])  # of 3 in an epoch
    assert "left out 4 of 36 files that cannot be read: " in (Run("whole").dir / "train.log").read_text()
    results = Run("whole").results
    assert [results["data"][stage] for stage in ("train", "val", "test")] == [12, 16, 4]
    assert results["data"]["origin"].endswith("4 broken files left out")
    ran = run_here("scripts/evaluate.py", "whole")
    assert ran.code == 0 and f"(recorded {results['test']['loss']!r})" in ran.out


@pytest.mark.slow
def test_a_run_on_a_messy_folder_goes_on_to_the_bit_from_anywhere_and_is_swept(messy, train, assert_resumed):
    assert_resumed(partial(train, *MESSY), places=[1, 3, 4, 7, 10])
    ran = train("-m", *MESSY, "seed=0,1", "hydra.sweep.dir=sweep")
    assert ran.code == 0 and "2 jobs; " in ran.out, ran.err


# --- the cache


def test_the_second_read_decodes_nothing(root, read, decoded_paths):
    read(root)
    assert len(decoded_paths) == 20
    read(root, split_seed=5)
    assert len(decoded_paths) == 20


@pytest.mark.parametrize("change", ["pixels", "new file", "gone file", "touched"])
def test_a_changed_folder_is_decoded_anew_and_the_old_cache_removed(root, read, decoded_paths, caches, change):
    read(root)
    if change == "pixels":
        save(root / "cat" / "0.png", (200, 0, 0))
    elif change == "new file":
        save(root / "cat" / "new.png")
    elif change == "gone file":
        (root / "cat" / "0.png").unlink()
    else:
        os.utime(root / "cat" / "0.png", ns=(1, 1))
    source = read(root)
    assert len(decoded_paths) > 30
    if change == "pixels":
        assert 200 in torch.cat([source.train_inputs, source.test_inputs])[:, 0]
    assert len(caches()) == 1


def test_other_settings_have_their_own_cache(root, read, caches):
    read(root)
    read(root, image_size=4)
    read(root, mode="L")
    assert [path.name.rpartition("-")[0] for path in caches()] == ["L-8", "RGB-4", "RGB-8"]


def test_a_failed_decoding_leaves_no_cache(root, read, caches):
    (root / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        read(root)
    assert caches() == []


def test_the_leftovers_of_a_killed_process_are_removed_and_those_of_other_folders_left(root, read, caches, tmp_path):
    root.rename(tmp_path / "pets-2")
    read(tmp_path / "pets-2")
    half_built = caches()[0].with_name("partial")
    half_built.mkdir()
    (tmp_path / "pets-2").rename(root)
    read(root)
    assert half_built.is_dir()  # pets-2 may be decoded by another process right now
    root.rename(tmp_path / "pets-2")
    read(tmp_path / "pets-2", image_size=4)
    assert not half_built.exists() and len(caches()) == 3


def test_folders_in_two_places_with_equal_names_sizes_and_times_have_a_cache_each(tmp_path, read):
    for place, grey in ("one", 50), ("two", 200):
        for file in "cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png":
            path = tmp_path / place / "pets" / file
            save(path, (grey,) * 3, compress_level=0)
            os.utime(path, ns=(10**18, 10**18))
    assert [read(tmp_path / place / "pets").train_inputs.unique().item() for place in ("one", "two")] == [50, 200]


@pytest.mark.parametrize("damage", ["changed", "short", "empty", "gone", "other about", "no about"])
def test_a_damaged_cache_is_said_and_decoded_again(root, read, caches, decoded_paths, monkeypatch, caplog, damage):
    good = read(root)
    (folder,) = caches()
    file = folder / "images.npy"
    content = file.read_bytes()
    if damage == "changed":
        file.write_bytes(content[:-9] + b"strange!!")
    elif damage in ("short", "empty"):
        file.write_bytes(content[: 300 if damage == "short" else 0])
    elif damage == "gone":
        file.unlink()
    else:
        (folder / "about.json").write_text("[]" if damage == "other about" else "")
    monkeypatch.setattr(cache, "_verified", set())  # as in a new process
    again = read(root)
    assert caplog.messages == [f"the decoded images in {folder} are damaged: they are decoded again"]
    assert torch.equal(again.train_inputs, good.train_inputs) and len(decoded_paths) == 40
    monkeypatch.setattr(cache, "_verified", set())
    read(root)
    assert len(decoded_paths) == 40 and caches() == [folder]


def test_the_checksum_is_compared_once_a_process(root, read, monkeypatch):
    read(root)
    monkeypatch.setattr(cache, "_checksum", lambda file: pytest.fail("computed again"))
    read(root)


def test_a_full_disk_names_the_folder_and_leaves_nothing(root, read, caches, monkeypatch, tmp_path):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "decode_images", full)
    with pytest.raises(OSError, match="No space left") as error:
        read(root)
    explanation = explain(error.value, log=tmp_path / "run" / "train.log")
    assert str(tmp_path / "data" / "cache") in explanation
    assert explanation.endswith("make room on the disk, or set data_dir=<a folder you can write to>")
    assert caches() == []


def test_a_finished_cache_is_read_where_nothing_can_be_written(root, read, monkeypatch):
    first = read(root)
    monkeypatch.setattr(cache, "locked", lambda *arguments: pytest.fail("it writes a lock"))
    assert torch.equal(read(root).train_inputs, first.train_inputs)


def test_two_processes_at_once_decode_once(root, tmp_path):
    program = (
        "import logging, sys; logging.basicConfig(level='INFO')\n"
        "from athanor.data.sources.image_folder import image_folder\n"
        f"print(len(image_folder(sys.argv[1], data_dir=sys.argv[2], **{SETTINGS}).train_inputs))"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(root), str(tmp_path / "data")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [out for out, _ in outputs] == ["16\n", "16\n"], outputs
    assert sum(err.count("decoding 20 images") for _, err in outputs) == 1


def test_the_size_is_announced_and_held_against_the_free_space(root, read, monkeypatch, caplog):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage(0, 0, 1_000_000))
    with caplog.at_level(logging.INFO):
        read(root)
    assert re.search(r"decoding 20 images of .*pets once into .*: 0\.0 MB \(1\.0 MB free\)", caplog.text)
    with pytest.raises(UserError, match=r"need 3\.8 MB \(1\.0 MB free\) in .*set data_dir=<a folder on another disk>"):
        read(root, image_size=250)


def test_a_data_dir_that_cannot_be_written_is_named(root, tmp_path, read):
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot write in .*set data_dir=<a folder you can write to>"):
        read(root)


# --- mistakes


def test_root_that_does_not_exist(tmp_path, read):
    with pytest.raises(UserError, match=r"data\.root=.*pets is not a folder"):
        read(tmp_path / "pets")


def test_no_class_folders(tmp_path, read):
    save(tmp_path / "pets" / "0.png")
    with pytest.raises(UserError, match=r"no class folders in .*pets; make one folder a class"):
        read(tmp_path / "pets")


def test_only_one_class(tmp_path, read):
    save(tmp_path / "pets" / "cat" / "0.png")
    with pytest.raises(UserError, match=r"only one class folder, cat/, in .*pets; a classifier needs two"):
        read(tmp_path / "pets")


def test_an_empty_class_folder(root, read):
    (root / "emu").mkdir()
    (root / "emu" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"no images in .*emu \(1 other files\)"):
        read(root)


@pytest.mark.parametrize("there, missing", [("train", "test"), ("test", "train")])
def test_one_of_train_and_test_is_missing(split_root, read, there, missing):
    (split_root / missing).rename(split_root / ".away")
    with pytest.raises(
        UserError, match=f"{missing}/<class>/ is missing; .* put all classes directly into {split_root}"
    ):
        read(split_root)


def test_classes_that_differ_between_train_and_test(split_root, read):
    (split_root / "test" / "dog").rename(split_root / "test" / "fox")
    with pytest.raises(UserError, match="train/ has classes that test/ lacks: dog"):
        read(split_root)
    save(split_root / "test" / "dog" / "0.png")
    with pytest.raises(UserError, match="test/ has classes that train/ lacks: fox"):
        read(split_root)


def test_unreadable_images_are_counted_and_three_are_named(root, read):
    whole = (root / "cat" / "0.png").read_bytes()
    for i in range(4):
        (root / "cat" / f"{i}.png").write_bytes(whole[:40])
    (root / "dog" / "0.png").write_text("no image")
    with pytest.raises(
        UserError, match=r"5 of 20 images cannot be read; .*cat/0\.png: .*2\.png: .*; and 2 more"
    ) as error:
        read(root)
    assert "3.png" not in str(error.value)


def test_all_images_unreadable(tmp_path, read):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "0.png").touch()
    with pytest.raises(UserError, match="2 of 2 images cannot be read"):
        read(tmp_path / "pets", image_size=None)


def test_mixed_sizes_without_an_image_size(root, read):
    save(root / "dog" / "5.png", size=(30, 20))
    with pytest.raises(UserError, match=r"cat/0\.png is 8x8, .*dog/5\.png is 30x20; .*data\.image_size=64"):
        read(root, image_size=None)


def test_links_out_of_the_folder_are_refused(root, read, tmp_path):
    save(tmp_path / "secret.png")
    link = root / "cat" / "link.png"
    link.symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match=r"cat/link\.png is a link to .*secret\.png"):
        read(root)
    link.unlink()
    link.symlink_to(root / "dog" / "0.png")
    assert len(read(root).train_inputs) == 17
    (root / "fox").symlink_to(root / "dog")
    with pytest.raises(UserError, match=r"fox is a link to .*dog; links to folders"):
        read(root)


def test_links_are_followed_where_a_person_says_so(root, read, tmp_path):
    (tmp_path / "store").mkdir()
    (root / "dog").rename(tmp_path / "store" / "dogs")
    (root / "dog").symlink_to(tmp_path / "store" / "dogs")
    save(tmp_path / "store" / "picture.png")
    (root / "cat" / "one.png").symlink_to(tmp_path / "store" / "picture.png")
    with pytest.raises(UserError, match=r"dog is a link to .*dogs; .*data=image_folder data\.follow_links=true"):
        (root / "cat" / "one.png").rename(root / ".one.png")
        read(root)
    (root / ".one.png").rename(root / "cat" / "one.png")
    source = read(root, follow_links=True)
    assert len(source.train_inputs) + len(source.test_inputs) == 21


@pytest.mark.parametrize("link, target", [("cat/deep", "."), ("cat/deep", "cat"), ("emu", "dog"), ("cat/dogs", "dog")])
def test_a_folder_that_is_reached_twice_is_refused(root, read, link, target):
    """A circle of links, or pictures that count twice."""
    (root / link).symlink_to(root / target)
    with pytest.raises(UserError, match="are one folder, by a link: a circle, or pictures that count twice"):
        read(root, follow_links=True)


def test_a_changed_picture_behind_a_link_is_decoded_again(root, read, tmp_path):
    save(tmp_path / "a.png", (9, 9, 9))
    (root / "cat" / "link.png").symlink_to(tmp_path / "a.png")
    assert 250 not in read(root, follow_links=True, test_fraction=0.01).train_inputs
    save(tmp_path / "a.png", (250, 250, 250), compress_level=0)
    source = read(root, follow_links=True)
    assert 250 in torch.cat([source.train_inputs, source.test_inputs])


def test_root_itself_may_be_a_link(root, read, tmp_path):
    (tmp_path / "link").symlink_to(root)
    assert len(read(tmp_path / "link").train_inputs) == 16


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"mode": "rgb"}, r"data\.mode=rgb; use RGB, L \(grey\) or auto .*, or L16"),
        ({"image_size": 0}, r"data\.image_size=0; use pixels, as 64, or null"),
        ({"test_fraction": 1.0}, r"data\.test_fraction=1\.0; use a number above 0 and below 1"),
    ],
)
def test_wrong_knobs(root, read, setting, message):
    with pytest.raises(UserError, match=message):
        read(root, **setting)
