"""Tables of a person's own: what becomes of their columns, and that a run predicts new rows as it was trained."""

import csv
import sys
from functools import partial

import pytest
import torch

from athanor.base.errors import UserError
from athanor.data.sources.csv_file import CsvFile, read_table
from athanor.data.sources.table import Column, encoded, table
from athanor.engine.runs.run import Run, read_checkpoint

SETTINGS = dict(
    target_kind="auto",
    columns=None,
    leave_out=[],
    categorical_columns=[],
    missing=None,
    test_file=None,
    test_fraction=0.2,
    group_column=None,
    time_column=None,
    split_seed=0,
)
CITIES = ("Berlin", "Oslo", "Rome")


def write(path, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


@pytest.fixture
def flats(tmp_path):
    """120 flats: city, rooms, size, a price that follows from them, whether it is high, day and owner."""
    draw = torch.Generator().manual_seed(0)
    rows = [["city", "rooms", "size", "price", "dear", "day", "owner"]]
    for i in range(120):
        city, rooms = (int(torch.randint(0, 3, (), generator=draw)) for _ in range(2))
        size = 30 + 20 * rooms + 10 * torch.rand((), generator=draw).item()
        price = 100.5 * (city + 1) + 3 * size
        day = f"2024-{1 + i // 28:02d}-{1 + i % 28:02d}"
        rows.append(
            [CITIES[city], rooms + 1, f"{size:.2f}", f"{price:.3f}", "yes" if price > 400 else "no", day, i // 4]
        )
    return rows


@pytest.fixture
def make(tmp_path, flats):
    def make(target="dear", rows=flats, **settings):
        left = [name for name in ("price", "dear", "day", "owner") if name != target and name in rows[0]]
        used = [settings.get(key) for key in ("group_column", "time_column")]
        own = {"leave_out": [name for name in left if name not in used]} | settings
        return table(write(tmp_path / "flats.csv", rows), target, **SETTINGS | own)

    return make


def test_texts_become_categories_and_numbers_stay_numbers(make, flats):
    source = make()
    assert source.class_names == ("no", "yes") and source.train_targets.dtype == torch.int64
    assert source.train_inputs.shape == (96, 5) and source.test_inputs.shape == (24, 5)
    every = torch.cat([source.train_inputs, source.test_inputs])
    assert every[:, :3].sum(1).eq(1).all()
    expected = sorted((*(float(row[0] == city) for city in CITIES), int(row[1]), float(row[2])) for row in flats[1:])
    torch.testing.assert_close(torch.tensor(sorted(map(tuple, every.tolist()))), torch.tensor(expected))
    assert make(categorical_columns=["rooms"]).train_inputs.shape == (96, 7)
    assert make(columns=["size"]).train_inputs.shape == (96, 1)


def test_floats_are_numbers_and_several_columns_are_several_targets(make, tmp_path, flats):
    assert make("price").train_targets.shape == (96, 1) and make("price").class_names == ("price",)
    source = table(tmp_path / "flats.csv", ["price", "size"], **SETTINGS | {"columns": ["city"]})
    assert source.train_targets.dtype == torch.float32 and source.train_targets.shape == (96, 2)
    assert make("rooms").class_names == ("1", "2", "3")
    assert make("rooms", target_kind="numbers").train_targets.unique().tolist() == [1, 2, 3]


def test_means_and_categories_are_of_the_train_split_alone(make, make_data, flats):
    rows = [list(row) for row in flats]
    source = make(rows=rows)
    data = make_data(source=source, batch_size=8)
    order = {row[2]: i for i, row in enumerate(flats) if i}  # no two flats have one size

    def row_of(inputs):
        return order[f"{inputs[-1].item():.2f}"]

    held_out = [row_of(source.train_inputs[i]) for i in data.val_index] + [row_of(each) for each in source.test_inputs]
    trained = [row_of(source.train_inputs[i]) for i in data.train_index]
    rows[held_out[0]][0] = rows[held_out[-1]][0] = "Lima"  # in validation and in test only
    rows[held_out[1]][1], rows[trained[0]][1] = 1000, ""
    fitted = make_data(source=make(rows=rows, missing="mean"), batch_size=8).source
    assert [column["categories"] for column in fitted.columns] == [list(CITIES), None, None]
    known = [float(rows[i][1]) for i in trained[1:]]
    assert fitted.columns[1]["mean"] == pytest.approx(sum(known) / len(known))
    assert fitted.train_inputs[data.train_index[0], 3] == pytest.approx(fitted.columns[1]["mean"])
    assert fitted.train_inputs[data.val_index[0], :3].tolist() == fitted.test_inputs[-1, :3].tolist() == [0, 0, 0]


def test_groups_and_times_are_kept_in_the_test_part_too(make, flats):
    grouped = make(group_column="owner")
    sizes = {f"{float(row[2]):.2f}": row[6] for row in flats[1:]}
    owners = [
        {sizes[f"{size:.2f}"] for size in part[:, -1].tolist()} for part in (grouped.train_inputs, grouped.test_inputs)
    ]
    assert not owners[0] & owners[1] and len(grouped.groups) == len(grouped.train_inputs)
    timed = make(time_column="day")
    assert [f"{size:.2f}" for size in timed.test_inputs[:, -1].tolist()] == [row[2] for row in flats[-24:]]
    assert timed.times.diff().ge(0).all()


def test_a_test_file_is_the_test_set(make, tmp_path, flats):
    write(tmp_path / "test.csv", [flats[0], *flats[1:11]], ";")
    source = make(rows=[flats[0], *flats[11:]], test_file=tmp_path / "test.csv")
    assert (len(source.train_inputs), len(source.test_inputs)) == (110, 10)
    assert "a test file of its own" in source.origin


def changed(rows, *cells):
    rows = [list(row) for row in rows]
    for row, column, text in cells:
        rows[row][rows[0].index(column)] = text
    return rows


@pytest.mark.parametrize(
    ("cells", "settings", "message"),
    [
        ([(3, "size", ""), (7, "size", "NA"), (5, "city", "")], {},
         r"missing cells: city 1 \(first in row 5\), size 2 \(first in row 3\)\n  type data.missing=drop to leave"),
        ([(3, "dear", "")], {"missing": "mean"}, r"missing cells: dear 1 \(first in row 3\)"),
        ([(3, "size", "40 m2")], {}, "1 cells of size are no numbers, the first is '40 m2' in row 3; correct them, or"),
        ([(i, "city", f"flat {i}") for i in range(1, 121)], {}, "different texts in 120 rows, too many .*leave_out"),
        ([(1, "day", "soon")], {"time_column": "day"}, "data.time_column=day: .*; use numbers, or dates as 2024-01-31"),
        ([], {"columns": ["sise"]}, "data.columns: .* has no column sise; did you mean size?"),
        ([], {"leave_out": ["prize"]}, "data.leave_out: .* has no column prize; did you mean price?"),
        ([], {"missing": "zero"}, "data.missing=zero; use mean, drop, or null"),
        ([], {"test_fraction": 0}, "data.test_fraction=0; use a number above 0"),
        ([], {"columns": []}, "has no columns of inputs"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused_in_a_sentence(make, flats, cells, settings, message):
    with pytest.raises(UserError, match=message):
        make(rows=changed(flats, *cells), **settings)


def test_rows_with_missing_cells_can_be_left_out(make, flats):
    source = make(rows=changed(flats, (3, "size", ""), (9, "dear", "n/a"), (9, "city", "")), missing="drop")
    assert len(source.train_inputs) + len(source.test_inputs) == 118


def test_new_rows_are_encoded_as_those_that_were_trained_on(make, tmp_path, flats):
    source = make()
    new = write(tmp_path / "new.csv", [["size", "city", "rooms"], [50, "Rome", 2], [60, "Lima", 1], [70, "", 3]], "\t")
    expected = [[0, 0, 1, 2, 50], [0, 0, 0, 1, 60], [0, 0, 0, 3, 70]]
    assert encoded(read_table(new, "x"), source.columns).tolist() == expected
    one = write(tmp_path / "one.csv", [["size", "city"], [50, "Rome"]])
    with pytest.raises(UserError, match="has no column rooms"):
        encoded(read_table(one, "x"), source.columns)
    gap = write(tmp_path / "gap.csv", [["size", "city", "rooms"], ["", "Rome", 2]])
    with pytest.raises(UserError, match=r"missing cells: size 1 \(first in row 1\)\n  the model was trained without"):
        encoded(read_table(gap, "x"), source.columns)


def test_a_column_whose_training_rows_are_all_empty_is_named():
    column = Column.read(CsvFile("x.csv", {"a": ["", "", "3"]}), "a")
    with pytest.raises(UserError, match="column a has no number in any training row"):
        column.described(torch.tensor([0, 1]), True)


def test_parquet_needs_pandas_and_says_so(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="Parquet needs pandas: pip install pandas pyarrow, or use CSV"):
        read_table(tmp_path / "a.parquet", "data.file")


def test_parquet_gives_what_csv_gives(make, tmp_path, flats):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    expected = make()
    pandas.read_csv(tmp_path / "flats.csv").to_parquet(tmp_path / "flats.parquet")
    settings = SETTINGS | {"leave_out": ["price", "day", "owner"]}
    assert torch.equal(table(tmp_path / "flats.parquet", "dear", **settings).train_inputs, expected.train_inputs)


@pytest.mark.slow
def test_a_run_on_a_table_goes_on_to_the_bit_from_anywhere_and_is_swept(flats, train, tmp_path, assert_resumed):
    write(tmp_path / "flats.csv", changed(flats, (4, "size", "")))
    words = ["task=regression", "data=table", "data.file=flats.csv", "data.target_columns=price", "data.missing=mean"]
    words += ["data.leave_out=[dear,day,owner]", "model=mlp", "model.widths=[16]", "data.batch_size=4"]
    words.append("trainer.max_epochs=2")
    assert_resumed(partial(train, *words))
    ran = train("-m", *words, "seed=0,1", "hydra.sweep.dir=sweep")
    assert ran.code == 0 and "2 jobs; " in ran.out, ran.err


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_run_on_a_table_is_evaluated_and_predicts_rows(task, flats, train, run_here, tmp_path):
    write(tmp_path / "flats.csv", changed(flats, (4, "size", "")))
    target, rest = ("dear", "price") if task == "classification" else ("price", "dear")
    words = [f"task={task}", "data=table", "data.file=flats.csv", f"data.target_columns={target}", "data.missing=mean"]
    words += [f"data.leave_out=[{rest},day,owner]", "model=mlp", "model.widths=[16]", "model.dropout=0"]
    ran = train(*words, "data.batch_size=16", "trainer.max_epochs=2", "hydra.run.dir=run")
    assert (ran.code, ran.err) == (0, "")
    run = Run("run")
    assert [column["name"] for column in read_checkpoint(run.checkpoint)["athanor"]["columns"]] == [
        "city",
        "rooms",
        "size",
    ]
    ran = run_here("scripts/evaluate.py", "run")
    assert f"(recorded {run.results['test'][run.headline]!r})" in ran.out, ran.err
    write(tmp_path / "new.csv", [["size", "city", "rooms"], [50, "Rome", 2], ["", "Lima", 1]])
    ran = run_here("scripts/predict.py", "run", "new.csv", "--csv", "said.csv")
    assert ran.code == 0 and [line.split("  ")[0] for line in ran.out.splitlines()] == [
        "new.csv row 1",
        "new.csv row 2",
    ]
    if task == "classification":
        ran = run_here("scripts/evaluate.py", "run", "data.split_seed=3")
        assert ran.code == 1 and "other means or categories than those of the checkpoint" in ran.err
    (tmp_path / "new.png").write_bytes(b"")
    assert run_here("scripts/predict.py", "run", "new.png").code == 1
