"""What a person notes about a run (tags, notes, extra), and settings under names that they had before."""

import shutil

import pytest
import torch

from athanor.base.errors import UserError
from athanor.engine.config import assemble, check, settings
from athanor.engine.runs.run import Run
from athanor.engine.runs.sweep import Sweep

TINY = ["model=linear", "data.limit=200", "trainer.max_epochs=1"]
NOTED = ["tags=[paper,second]", "notes='a try...'", "extra.site=lab3", "extra.nested.value=3"]

STUDY = """
defaults: [base/default]
hydra: {sweeper: {params: {test: 'true,false'}}}
study: {title: mine, panels: [{x: epoch, y: val/acc}]}
"""


def remarks(run):
    return {key: run.config[key] for key in settings.REMARKS}


@pytest.fixture
def a(train, tmp_path):
    """A run with remarks."""
    ran = train(*TINY, *NOTED, "hydra.run.dir=a")
    assert (ran.code, ran.err) == (0, "")
    return Run(tmp_path / "a")


def test_remarks_are_recorded_where_a_person_searches(a):
    wanted = {"tags": ["paper", "second"], "notes": "a try...", "extra": {"site": "lab3", "nested": {"value": 3}}}
    assert remarks(a) == wanted
    assert {key: a.results[key] for key in wanted} == wanted
    columns = assemble.parameters(a.config)
    assert (columns["extra.site"], columns["extra.nested.value"]) == ("lab3", 3)


def test_a_run_that_is_repeated_keeps_its_remarks_and_takes_further_ones(a, train):
    assert train(f"run={a.dir}", "extra.x=1", "extra.site=lab4", "tags=[]", "hydra.run.dir=b").code == 0
    again = {"tags": [], "notes": "a try...", "extra": {"site": "lab4", "nested": {"value": 3}, "x": 1}}
    assert remarks(Run("b")) == again
    assert "tags" not in Run("b").results and Run("b").results["extra"] == again["extra"]
    assert Run("b").results["test"] == a.results["test"]


def test_a_run_that_is_resumed_keeps_its_remarks(a, train):
    before = a.config
    assert train(f"resume={a.dir}", "trainer.max_epochs=2").code == 0
    assert list(a.config) == list(before) and remarks(a) == {key: before[key] for key in settings.REMARKS}
    assert a.results["tags"] == ["paper", "second"] and a.results["epochs"] == 2


def test_a_record_without_remarks_is_complete(a, train):
    a.write_config({key: value for key, value in a.config.items() if key not in settings.REMARKS})
    assert train(f"resume={a.dir}", "trainer.max_epochs=2").code == 0
    assert remarks(a) == settings.REMARKS


@pytest.mark.parametrize(
    "words, extra",
    [
        (["extra=5"], 5),
        (["extra={a: 1, b: {c: [1, 2]}}", "+extra.d=3"], {"a": 1, "b": {"c": [1, 2]}, "d": 3}),
        (["extra.a=1", "extra.a=null", "extra.b=true"], {"a": None, "b": True}),
        (["experiment=mine"], {"site": "lab3", "_private": [1], "a b": {"c": None}}),
        (["experiment=mine", "extra.site=lab4", "~extra._private"], {"site": "lab4", "a b": {"c": None}}),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_extra_takes_anything(words, extra, compose, tmp_path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nextra: {site: lab3, _private: [1], a b: {c: null}}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    config = check.plain(compose(f"hydra.searchpath=[file://{tmp_path}]", *words))
    check.check(config)
    assert config["extra"] == extra
    assert {type(value) for value in assemble.parameters(config).values()} <= {bool, int, float, str}


def test_extra_can_be_varied_and_the_sweep_resumed(train, tmp_path):
    assert train("-m", *TINY, "extra.fold=1,2", "notes='a try... @home'", "hydra.sweep.dir=s").code == 0
    assert [run.results["extra"] for run in Sweep(tmp_path / "s").runs] == [{"fold": 1}, {"fold": 2}]
    shutil.rmtree(tmp_path / "s" / "1_fold=2")
    assert train("resume=s").code == 0
    assert remarks(Run("s/1_fold=2")) == {"tags": [], "notes": "a try... @home", "extra": {"fold": 2}}


def test_loggers_with_a_field_for_them_get_tags_and_notes(compose):
    config = compose("logger=wandb", "tags=[paper]", "notes=mine")
    assert (config.logger.wandb.tags, config.logger.wandb.notes) == (["paper"], "mine")


# names that settings had before


def with_old_names(config):
    compute = config.pop("compute")
    return {**config, "threads": compute["threads"], "compile": compute["compile"]}


@pytest.mark.parametrize("verb", ["run", "resume"])
def test_old_names_in_a_record_are_told_the_new_ones(verb, a, train):
    a.write_config(with_old_names(a.config))
    sentence = "threads is called compute.threads now, compile is called compute.compile now; change it in the file"
    ran = train(f"{verb}={a.dir}")
    assert (ran.code, ran.err) == (1, f"error: {a.dir / 'config.yaml'}: {sentence}\n")


def test_old_names_in_a_checkpoint_are_told_the_new_ones(a):
    contents = torch.load(a.checkpoint, weights_only=True)
    contents["athanor"]["config"] = with_old_names(contents["athanor"]["config"])
    torch.save(contents, a.checkpoint)
    with pytest.raises(UserError, match=r"best\.ckpt: threads is called compute\.threads now, .*; train again$"):
        a.classifier()


@pytest.mark.parametrize(
    "group, text, sentence",
    [
        ("experiment", "threads: 1", "threads is called compute.threads now; rename it in the YAML file that has it"),
        ("study", STUDY, "test is called eval.test now; type eval.test=<value>"),
    ],
)
def test_old_names_in_a_yaml_file_are_told_the_new_ones(group, text, sentence, train, tmp_path):
    (tmp_path / "configs" / group).mkdir(parents=True)
    (tmp_path / "configs" / group / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    ran = train("--config-dir", "configs", f"{group}=mine", *TINY)
    assert ran.code == 1 and ran.err.startswith(f"error: {sentence}") and len(ran.err.splitlines()) == 1
