"""Studies: how jobs become lines, and what a sweep with a study leaves behind, whatever happened to its jobs."""

import csv
import json
from pathlib import Path

import pytest

from athanor.engine.config.check_study import check_study
from athanor.engine.runs import study_figure
from athanor.engine.runs.run import Run
from athanor.engine.runs.study import Study
from athanor.engine.runs.sweep import Sweep

REPO = Path(__file__).parents[3]
STUDIES = sorted(path.stem for path in (REPO / "configs" / "study").glob("*.yaml"))
TINY = ["data=digits", "model=linear", "data.limit=200", "trainer.max_epochs=2", "logger=csv", "hydra.sweep.dir=sweep"]


def drawn(study):
    return study_figure.conclude(study)[1]


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved."""
    figures, save = [], study_figure.save_figure
    monkeypatch.setattr(study_figure, "save_figure", lambda figure, path: figures.append(figure) or save(figure, path))
    return figures


@pytest.fixture
def make_study(tmp_path):
    """A study of fake jobs: (what was typed, validation accuracy by epoch), and for some how they ended."""

    def make_study(panels, *jobs):
        for number, (typed, accuracies, *status) in enumerate(jobs):
            folder = tmp_path / str(number)
            folder.mkdir()
            results = {"status": (status or ["finished"])[0], "overrides": ["study=fake", *typed.split()]}
            results["measures"] = {"acc": {"mode": "max", "unit": "%"}, "loss": {"mode": "min"}}
            results |= {"epochs": len(accuracies), "steps": 10 * len(accuracies), "data": {"train": 1000 + number}}
            if accuracies:
                results["val"] = {"acc": accuracies[-1], "loss": 1 - accuracies[-1]}
            (folder / "results.json").write_text(json.dumps(results))
            (folder / "config.yaml").write_text("monitor: {metric: val/loss, mode: min}\n")
            rows = [f"{10 * i + 9},{i},val/acc,{acc}\n{10 * i},,lr,{0.1 * i}\n" for i, acc in enumerate(accuracies)]
            (folder / "metrics.csv").write_text("step,epoch,metric,value\n" + "".join(rows))
        return Study("fake", {"title": "A title", "panels": panels}, Sweep(tmp_path))

    return make_study


def data(axis):
    """Labels and points of the lines that are drawn."""
    curves = {line.get_label(): line for line in axis.lines}
    curves |= {bar.get_label(): bar.lines[0] for bar in axis.containers}  # with error bars
    curves = {name: line for name, line in curves.items() if not name.startswith("_nolegend") or len(curves) == 1}
    return {name: [tuple(point) for point in line.get_xydata().round(9).tolist()] for name, line in curves.items()}


EPOCHS = {"x": "epoch", "y": "val/acc"}


def test_a_line_a_setting_in_the_order_of_the_sweep(make_study, figures):
    jobs = [(f"optim.lr={lr} data.limit=5", [lr / 2, lr]) for lr in (0.5, 0.2, 0.8)]
    path = drawn(make_study([EPOCHS], *jobs))
    assert path.name == "fake.png" and path.parent.name == "figures"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(data(figures[0].axes[0]).items()) == [
        ("optim.lr=0.5", [(1, 0.25), (2, 0.5)]),
        ("optim.lr=0.2", [(1, 0.1), (2, 0.2)]),
        ("optim.lr=0.8", [(1, 0.4), (2, 0.8)]),
    ]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == [
        "optim.lr=0.5",
        "optim.lr=0.2",
        "optim.lr=0.8",
    ]


def test_jobs_that_differ_in_the_seed_alone_are_one_line_with_a_band(make_study, figures):
    jobs = [("optim.lr=1 seed=0", [0.1, 0.4]), ("optim.lr=1 seed=1", [0.3, 0.6]), ("optim.lr=2 seed=0", [0.5])]
    drawn(make_study([EPOCHS], *jobs))
    [axis] = figures[0].axes
    assert data(axis) == {"optim.lr=1": [(1, 0.2), (2, 0.5)], "optim.lr=2": [(1, 0.5)]}
    [band] = axis.collections
    spread = (2 * 0.1**2) ** 0.5
    edges = {round(y, 9) for x, y in band.get_paths()[0].vertices if x == 2}
    assert edges == {round(0.5 - spread, 9), round(0.5 + spread, 9)}


def test_seeds_are_averaged_as_far_as_all_of_them_got(make_study):
    jobs = [("seed=0", [0.1, 0.4, 0.5]), ("seed=1", [0.3, 0.6])]
    [line] = make_study([], *jobs).lines(EPOCHS)
    assert (line.label, line.x, line.y) == ("", [1, 2], pytest.approx([0.2, 0.5]))


def test_the_learning_rate_by_step_and_by_epoch(make_study):
    study = make_study([], ("optim.lr=1", [0.1, 0.2, 0.3]))
    assert study.lines({"x": "step", "y": "lr"})[0].x == [0, 10, 20]
    [line] = study.lines({"x": "epoch", "y": "lr"})  # logged without an epoch, before the step
    assert (line.x, line.y) == (pytest.approx([0, 1, 2]), pytest.approx([0, 0.1, 0.2]))


def test_a_setting_as_x_has_a_line_for_each_combination_of_the_others(make_study, figures):
    jobs = [
        (f"data.batch_size={size} optim.lr={lr} seed={seed}", [size / 100 + lr + 0.02 * seed])
        for size in (32, 8, 16)
        for lr in (0.1, 0.2)
        for seed in (0, 1)
    ]
    drawn(make_study([{"x": "data.batch_size", "y": "val/acc", "log_x": True}], *jobs))
    [axis] = figures[0].axes
    assert data(axis) == {
        "optim.lr=0.1": [(8, 0.19), (16, 0.27), (32, 0.43)],
        "optim.lr=0.2": [(8, 0.29), (16, 0.37), (32, 0.53)],
    }
    assert axis.get_xscale() == "log"
    assert [text.get_text() for text in axis.get_xticklabels()] == ["8", "16", "32"]
    top, bottom = axis.containers[0].lines[1][1].get_ydata()[0], axis.containers[0].lines[1][0].get_ydata()[0]
    assert top - bottom == pytest.approx(2 * 0.02 / 2**0.5)  # both ends of the error bar


def test_names_as_x_stay_in_the_order_of_the_sweep(make_study, figures):
    jobs = [("scheduler=step", [0.1]), ("scheduler=cosine", [0.3]), ("scheduler=constant", [0.2])]
    drawn(make_study([{"x": "scheduler", "y": "val/acc"}, {"x": "scheduler", "y": "data.train"}], *jobs))
    first, second = figures[0].axes
    assert [text.get_text() for text in first.get_xticklabels()] == ["step", "cosine", "constant"]
    assert first.lines[0].get_ydata().tolist() == [0.1, 0.3, 0.2]
    assert second.lines[0].get_ydata().tolist() == [1000, 1001, 1002]


@pytest.mark.parametrize("y", ["val/acc", "val/loss"])
def test_the_best_value_of_a_setting_against_another(y, make_study, figures):
    scores = {(8, 0.1): (0.9, 0.7), (8, 0.4): (0.6, 0.9), (64, 0.1): (0.5, 0.5), (64, 0.4): (0.7, 0.7)}
    jobs = [
        (f"data.batch_size={size} optim.lr={lr} seed={seed}", [score])
        for (size, lr), of_seeds in scores.items()
        for seed, score in enumerate(of_seeds)
    ]
    drawn(make_study([{"x": "data.batch_size", "y": y, "best": "optim.lr"}], *jobs))
    [axis] = figures[0].axes
    assert axis.lines[0].get_xydata().tolist() == [[8, 0.1], [64, 0.4]]  # by the means: 0.8 to 0.75, 0.5 to 0.7
    assert axis.get_ylabel() == f"optim.lr with the best {y}"


def test_eleven_lines_look_different(make_study, figures):
    drawn(make_study([EPOCHS, {"x": "step", "y": "lr"}], *[(f"optim.lr={i}", [0.1, 0.2]) for i in range(11)]))
    left, right = ([(line.get_color(), line.get_linestyle()) for line in axis.lines] for axis in figures[0].axes)
    assert len(set(left)) == 11
    assert left == right


def test_a_job_that_failed_is_left_out_and_named(make_study, figures):
    study = make_study([EPOCHS], ("optim.lr=1 seed=0", [0.1]), ("optim.lr=9 seed=1", [0.9], "failed"))
    drawn(study)
    assert list(data(figures[0].axes[0])) == ["optim.lr=1"]  # of a setting that varied, though one job is left
    assert figures[0].get_supxlabel() == "left out: optim.lr=9, seed=1 (failed)"


def test_a_panel_that_no_job_has_values_for_says_so(make_study, figures):
    drawn(make_study([EPOCHS, {"x": "epoch", "y": "val/top5"}], ("optim.lr=1", [0.1])))
    assert [text.get_text() for text in figures[0].axes[1].texts] == ["no job has val/top5"]


def test_nothing_is_drawn_of_nothing(make_study, tmp_path):
    study = make_study([EPOCHS], ("optim.lr=1", [0.9], "failed"), ("optim.lr=2", [0.9], "interrupted"))
    assert drawn(study) is None
    assert not (tmp_path / "figures").exists()
    assert study.left_out == ["optim.lr=1 (failed)", "optim.lr=2 (interrupted)"]


def test_the_table_has_a_row_a_setting_the_best_first(make_study, tmp_path):
    jobs = [("optim.lr=1 seed=0", [0.1]), ("optim.lr=2 seed=0", [0.5]), ("optim.lr=2 seed=1", [0.7])]
    lines = make_study([], *jobs).tabulate()
    assert [line.split() for line in lines] == [
        ["optim.lr=2", "val/acc", "60.00%", "+-", "14.14%", "val/loss", "0.4000", "+-", "0.1414", "n=2"],
        ["optim.lr=1", "val/acc", "10.00%", "val/loss", "0.9000", "n=1"],
    ]
    with open(tmp_path / "study.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["optim.lr"], row["n"], float(row["val/acc"])) for row in rows] == [("2", "2", 0.6), ("1", "1", 0.1)]


# train.py


def test_a_study_ends_with_its_table_and_its_figure(train, tmp_path, figures):
    ran = train("study=learning_rates", *TINY, "optim.lr=0.1,0.01", "seed=0")  # the lists of the study are replaced
    assert (ran.code, ran.err) == (0, "")
    assert list(data(figures[0].axes[0])) == ["optim.lr=0.1", "optim.lr=0.01"]
    sweep = Sweep(tmp_path / "sweep")
    for run, points in zip(sweep.runs, data(figures[0].axes[0]).values(), strict=True):
        assert max(points, key=lambda point: point[1])[1] == pytest.approx(run.results["val"]["acc"], abs=1e-6)
        assert "study" not in run.config and "test" not in run.results
    assert "  sweep/figures/learning_rates.png" in ran.out and "2 jobs; sweep/results.csv" in ran.out
    assert {"figures", "study.csv", "results.csv"} <= {path.name for path in sweep.dir.iterdir()}
    table = [line for line in ran.out.splitlines() if line.startswith("  optim.lr=")]
    assert len(table) == 2


def test_one_job_of_a_study_is_a_run(train):
    ran = train("study=learning_rates", *TINY, "hydra.mode=RUN", "hydra.run.dir=run")
    assert (ran.code, ran.err) == (0, "")
    assert Run("run").results["status"] == "finished"


def test_the_figure_and_the_table_are_there_when_a_job_failed_and_again_when_the_study_is_resumed(
    train, tmp_path, figures
):
    ran = train("study=learning_rates", *TINY, "optim.lr=0.1,-1", "seed=0")
    assert ran.code == 1
    assert "left out: optim.lr=-1 (failed)" in ran.out
    assert list(data(figures[0].axes[0])) == ["optim.lr=0.1"]
    path = tmp_path / "sweep" / "figures" / "learning_rates.png"
    assert path.is_file()
    path.unlink()
    ran = train("resume=sweep")
    assert "0_lr=0.1 has finished already" in ran.out
    assert path.is_file() and len(figures) == 2


def test_a_study_of_which_all_jobs_failed_says_that_there_is_nothing_to_draw(train, tmp_path):
    ran = train("study=learning_rates", *TINY, "optim.lr=-1,-2", "seed=0")
    assert ran.code == 1
    assert "nothing to draw" in ran.out and "2 jobs, 2 failed; sweep/results.csv" in ran.out
    assert "Traceback" not in ran.out + ran.err
    assert not (tmp_path / "sweep" / "figures").exists()


def test_a_figure_that_cannot_be_drawn_costs_two_lines(train, tmp_path, monkeypatch):
    def conclude(study):
        raise RuntimeError("no font\nat all")

    monkeypatch.setattr(study_figure, "conclude", conclude)
    ran = train("study=learning_rates", *TINY, "optim.lr=0.1", "seed=0")
    first, second = ran.err.splitlines()
    assert (ran.code, first) == (0, "error: the study is not drawn: RuntimeError: no font")
    assert second.endswith('raise RuntimeError("no font\\nat all")')
    assert (tmp_path / "sweep" / "results.csv").is_file() and (tmp_path / "sweep" / "study.csv").is_file()


OWN_STUDY = """
# @package _global_
hydra: {mode: MULTIRUN, sweeper: {params: {optim.lr: "0.1,0.01"}}}
study: {title: My title, conclude: my_study.conclude}
"""
OWN_CODE = """
def conclude(study):
    path = study.sweep.dir / "lines.txt"
    path.write_text(f"{study.title}: {[run.results['val']['acc'] for run in study.finished]}")
    return ["  a line of my own"], path
"""


def test_a_study_of_a_persons_own_names_the_function_that_concludes_it(train, tmp_path, monkeypatch):
    (tmp_path / "configs" / "study").mkdir(parents=True)
    (tmp_path / "configs" / "study" / "mine.yaml").write_text(OWN_STUDY.lstrip())
    (tmp_path / "my_study.py").write_text(OWN_CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    ran = train("--config-dir", "configs", "study=mine", *TINY, "eval.test=false")
    assert (ran.code, ran.err) == (0, "")
    accuracies = [run.results["val"]["acc"] for run in Sweep(tmp_path / "sweep").runs]
    assert (tmp_path / "sweep" / "lines.txt").read_text() == f"My title: {accuracies}" and len(accuracies) == 2
    assert "  a line of my own\n" in ran.out and "  sweep/lines.txt; sweep/study.csv\n" in ran.out
    assert not (tmp_path / "sweep" / "figures").exists()


def test_a_study_reads_the_results_of_each_run_once(make_study, monkeypatch):
    study = make_study([EPOCHS], ("optim.lr=1 seed=0", [0.1]), ("optim.lr=2 seed=1", [0.2]))
    reads, loads = [], json.loads
    monkeypatch.setattr(json, "loads", lambda text: reads.append(text) or loads(text))
    study = Study("fake", {"title": "A title", "panels": [EPOCHS]}, Sweep(study.sweep.dir))
    study.tabulate()
    drawn(study)
    assert len(reads) == len(study.sweep.runs) == 2


PANEL = "study.panels=[{%s}]"
WRONG = {
    PANEL % "x:epoch,y:val/ac": "study.panels[0].y=val/ac is not recorded; did you mean val/acc?",
    PANEL % "x:optim.rate,y:val/acc": "study.panels[0].x=optim.rate is not varied; ",
    PANEL % "x:optim.lr,y:test/acc": "study.panels[0].y=test/acc: the test set is left unread; draw val/, or ",
    PANEL % "x:seed,y:val/acc,best:optim.l": "study.panels[0].best=optim.l is not varied; did you mean optim.lr?",
    PANEL % "x:epoch,y:val/acc,best:optim.lr": "study.panels[0].best=optim.lr: there is one for each value",
    PANEL % "x:seed,y:seconds,best:optim.lr": "study.panels[0].y=seconds: study.panels[0].best needs a metric; ",
    PANEL % "x:epoch,y:val/acc,logx:true": "study.panels[0].logx: a panel has no 'logx'; did you mean log_x?",
    PANEL % "x:epoch,y:val/acc,log_x:1": "study.panels[0].log_x=1: a panel takes bool",
    PANEL % "x:epoch,y:val/acc,y_range:[1]": "study.panels[0].y_range=[1]: a panel takes a list of 2 float",
    PANEL % "x:epoch": "study.panels[0].y is missing: a panel needs x and y",
    "study.panels=[]": "study.panels is missing: a study needs title and panels",
    "study.title=5": "study.title=5: a study takes str",
    "+study.panel=5": "study.panel: a study has no 'panel'; did you mean panels?",
    "logger=tensorboard": "study.panels[0].x=epoch is drawn from metrics.csv, which nobody writes; add logger=csv",
    "study=nothing": "study=nothing does not exist; ",
    "+study.conclude=os.nothing": "study.conclude=os.nothing cannot be imported: ",
    "+study.conclude=nowhere.draw": "study.conclude=nowhere.draw cannot be imported: No module named 'nowhere'",
    "+study.conclude=os.sep": "study.conclude=os.sep is not a function; ",
    "+study.conclude=5": "study.conclude=5: a study takes str",
}


@pytest.mark.parametrize("word", WRONG)
def test_what_cannot_be_drawn_is_said_before_a_job_begins(word, train, tmp_path):
    words = [word] if word.startswith("study=") else ["study=learning_rates", word]
    ran = train(*words, "hydra.sweep.dir=sweep")
    assert ran.code == 1
    assert ran.err.startswith(f"error: {WRONG[word]}")
    assert len(ran.err.splitlines()) <= 2
    assert not (tmp_path / "sweep").exists()


def test_a_wrong_key_beside_a_list_is_what_is_blamed(train):
    for word in "optim.lrr=0.1", "optim.lrr=0.1,0.2":
        ran = train("study=learning_rates", *TINY, "seed=0,1", word)
        assert ran.code == 1
        assert ran.err.startswith("error: there is no optim.lrr; did you mean optim.lr=0.1")


def test_a_wrong_key_of_a_single_run_is_found_too(train):
    ran = train("study=learning_rates", *TINY, "hydra.mode=RUN", "+study.panel=5")
    assert (ran.code, ran.err) == (1, "error: study.panel: a study has no 'panel'; did you mean panels?\n")


def test_callbacks_and_further_metrics_record_what_a_panel_can_show(compose_sweep):
    words = ["study=learning_rates", "metrics=macro_f1", "+callbacks.health={_target_: a.b}"]
    for y in "val/macro_f1", "health/dead":
        check_study(compose_sweep(*words, PANEL % f"x:epoch,y:{y}"))
    for y in "parameters", "data.train":
        check_study(compose_sweep(*words, PANEL % f"x:optim.lr,y:{y}"))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_a_multirun_that_can_be_drawn_and_chooses_nothing_by_the_test_set(name, compose_sweep):
    config = compose_sweep(f"study={name}")
    assert (config.hydra.mode.name, config.name) == ("MULTIRUN", name)
    assert not config.eval.test or "conclude" in config.study
    assert config.callbacks.early_stopping is None
    check_study(config)


@pytest.mark.slow
def test_a_study_of_processes_is_drawn_once_at_the_end(tmp_path, run_process):
    pytest.importorskip("submitit")
    words = ["study=learning_rates", *TINY, "launcher=local", "optim.lr=0.1,0.01", "seed=0"]
    ran = run_process(tmp_path, "train.py", *words)
    assert (ran.code, ran.err) == (0, "")
    assert (tmp_path / "sweep" / "figures" / "learning_rates.png").is_file()
    assert ran.out.count("sweep/figures/learning_rates.png") == 1


def test_the_best_of_a_metric_is_the_smallest_where_smaller_is_better(make_study):
    jobs = [
        (f"optim.lr={lr} data.batch_size={size}", [acc]) for lr, size, acc in [(1, 8, 0.6), (2, 8, 0.8), (3, 8, 0.7)]
    ]
    panels = [{"x": "data.batch_size", "y": f"val/{name}", "best": "optim.lr"} for name in ("acc", "loss")]
    study = make_study(panels, *jobs, ("optim.lr=3 data.batch_size=16", [0.7]))
    assert [study.lines(panel)[0].y[0] for panel in panels] == [2.0, 2.0]
    assert study.rank("val/loss", 0.1) < study.rank("val/loss", 0.2) < study.rank("val/loss", float("nan"))
    assert study.rank("val/acc", 0.2) < study.rank("val/acc", 0.1) < study.rank("val/acc", float("nan"))
