import csv

import pytest
from tensorboard.backend.event_processing import plugin_event_multiplexer
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import list_session_groups
from tensorboard.plugins.hparams.api_pb2 import ListSessionGroupsRequest
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from athanor.training.loggers import CSVLog, TensorBoard

PARAMETERS = {"optim.lr": 0.1, "seed": 3, "model": "CNN", "data.augment.flip": True}


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_holds_one_row_a_metric(tmp_path):
    log = CSVLog(str(tmp_path))
    log.log_metrics({"train/loss": 0.123456789123, "lr": 1e-5, "epoch": 2.0}, step=7)
    log.log_metrics({"val/acc": 0.5}, step=8)
    log.save()
    assert [list(row.values()) for row in rows(tmp_path)] == [
        ["7", "2", "train/loss", "0.123456789"],
        ["7", "2", "lr", "1e-05"],
        ["8", "", "val/acc", "0.5"],
    ]


def test_csv_goes_on_in_its_file_when_it_is_opened_again(tmp_path):
    for step in range(3):
        log = CSVLog(str(tmp_path))
        log.log_metrics({"a": step, "epoch": 0}, step=step)
        log.log_metrics({"only_later": 1, "epoch": 0} if step == 2 else {}, step=step)
        log.save()
        log.finalize("success")
    assert [(row["step"], row["metric"]) for row in rows(tmp_path)] == [
        ("0", "a"),
        ("1", "a"),
        ("2", "a"),
        ("2", "only_later"),
    ]
    assert (tmp_path / "metrics.csv").read_text().count("step,epoch,metric,value") == 1


def test_csv_writes_what_is_left_at_the_end_and_nothing_where_nothing_was_logged(tmp_path):
    log = CSVLog(str(tmp_path))
    log.save()
    assert not (tmp_path / "metrics.csv").exists()
    log.log_metrics({"a": float("nan")}, step=0)
    log.finalize("failed")
    assert rows(tmp_path)[0]["value"] == "nan"


def test_csv_takes_any_name_and_is_resumed_with_it(tmp_path):
    log = CSVLog(str(tmp_path))
    names = ["acc/crane, bird", 'acc/"x"', "acc/new\nline", "=1+1"]
    for step in 1, 2:
        log.log_metrics(dict.fromkeys(names, 0.5), step=step)
    log.save()
    text = (tmp_path / "metrics.csv").read_text()
    (tmp_path / "metrics.csv").write_text(text + "3,,acc/half a r")
    CSVLog(str(tmp_path), purge_step=2)
    assert [(row["step"], row["metric"]) for row in rows(tmp_path)] == [
        ("1", "acc/crane, bird"),
        ("1", 'acc/"x"'),
        ("1", "acc/new\\nline"),
        ("1", "'=1+1"),
    ]


def test_a_name_that_an_old_version_broke_over_two_lines_does_not_stop_a_resumed_run(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,epoch,metric,value\n1,0,a,1\n1,0,new\nline,0\n2,0,a,1\n")
    CSVLog(str(tmp_path), purge_step=2)
    assert [row["metric"] for row in rows(tmp_path)] == ["a", "new"]


@pytest.fixture
def events(tmp_path):
    """The file of a run that logged, ended its fit, and then was tested."""
    log = TensorBoard(str(tmp_path), PARAMETERS)
    log.log_metrics({"train/loss": 2.0, "val/loss": 1.5, "epoch": 0}, step=1)
    log.log_metrics({"train/loss": 1.0, "val/loss": 0.5, "epoch": 1}, step=2)
    log.save()
    log.finalize("success")
    log.log_metrics({"test/acc": 0.75}, step=2)
    log.finalize("success")
    log.log_chosen({"train/loss": 2.0, "val/loss": 1.5, "test/acc": 0.75}, step=1)
    log.experiment.close()
    return tmp_path


def test_tensorboard_writes_one_file_of_scalars_straight_into_the_folder(events):
    assert sorted(path.name.split(".")[:3] for path in events.iterdir()) == [["chosen"], ["events", "out", "tfevents"]]
    accumulator = EventAccumulator(str(events)).Reload()
    assert [(e.step, e.value) for e in accumulator.Scalars("train/loss")] == [(1, 2.0), (2, 1.0)]
    assert [e.value for e in accumulator.Scalars("test/acc")] == [0.75]


def test_the_hparams_hold_every_parameter_and_no_experiment_summary(events):
    summaries = {}
    for event in EventFileLoader(str(next((events / "chosen").iterdir()))).Load():
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                summaries[value.tag] = HParamsPluginData.FromString(value.metadata.plugin_data.content)
    assert set(summaries) == {"_hparams_/session_start_info", "_hparams_/session_end_info"}
    hparams = summaries["_hparams_/session_start_info"].session_start_info.hparams
    assert {name: getattr(v, v.WhichOneof("kind")) for name, v in hparams.items()} == PARAMETERS
    assert summaries["_hparams_/session_end_info"].session_end_info.status == 1  # success


def test_a_run_that_measured_nothing_leaves_no_line_in_the_table(tmp_path):
    log = TensorBoard(str(tmp_path), PARAMETERS)
    log.log_metrics({"train/loss": 1.0}, step=0)
    log.finalize("success")
    log.experiment.close()
    assert [path.name.split(".")[0] for path in tmp_path.iterdir()] == ["events"]
    assert b"hparams" not in next(tmp_path.iterdir()).read_bytes()


def test_tensorboard_shows_validation_and_test_of_the_chosen_checkpoint_in_its_table(events):
    """As TensorBoard's own plugin makes the table of runs without an experiment summary."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(events)).Reload()
    backend = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(events))))
    request = ListSessionGroupsRequest(start_index=0, slice_size=9, allowed_statuses=[1])
    [group] = list_session_groups.Handler(RequestContext(), backend, "", request).run().session_groups
    values = {value.name.tag: value.value for value in group.metric_values}
    assert values == {"val/loss": 1.5, "test/acc": 0.75}
