"""scripts/check.py and train.py check=true, on a small configuration, and the word on the first loss."""

import json

import pytest

SMALL = ("model=linear", "data.limit=300", "data.batch_size=32")
SHORT = (*SMALL, "trainer.max_epochs=1", "logger=[csv]")


def test_the_script_prints_a_line_for_each_check_and_draws_the_inputs(run_here, tmp_path):
    ran = run_here("scripts/check.py", *SMALL)
    assert ran.code == 0, ran.out + ran.err
    assert "ok          overfit" in ran.out
    assert ran.out.splitlines()[-1] == "18 ok"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["inputs.png"]


def test_something_wrong_ends_with_exit_code_1_and_advice(run_here, tmp_path):
    ran = run_here("scripts/check.py", *SMALL, "optim.lr=1000", "--fast", "--json")
    assert ran.code == 1
    findings = {finding["check"]: finding for finding in json.loads(ran.out)}
    assert findings["learning_rate"]["verdict"] == "wrong"
    assert "lr_range.py" in findings["learning_rate"]["advice"]
    assert findings["outputs"]["verdict"] == "ok"
    assert list(tmp_path.iterdir()) == []


def test_unknown_words_are_refused_as_by_train(run_here):
    ran = run_here("scripts/check.py", "model=cnm")
    assert (ran.code, ran.err.startswith("error: model=cnm does not exist")) == (1, True)


def test_a_training_that_is_checked_is_the_same_to_the_bit(train, assert_same, tmp_path):
    assert train(*SHORT, "hydra.run.dir=plain").code == 0
    ran = train(*SHORT, "check=true", "hydra.run.dir=checked")
    assert ran.code == 0, ran.err
    assert "ok          gradient_check" in (tmp_path / "checked" / "train.log").read_text()
    assert (tmp_path / "checked" / "figures" / "inputs.png").is_file()
    assert_same("plain", "checked")
    configs = [(tmp_path / name / "config.yaml").read_text() for name in ("plain", "checked")]
    assert configs[0] == configs[1]
    assert train("run=checked", "check=true", "hydra.run.dir=again").code == 0


def test_a_training_does_not_begin_where_something_is_wrong(train, tmp_path):
    ran = train(*SHORT, "check=true", "optim.lr=1000", "hydra.run.dir=wrong")
    assert ran.code == 1
    assert "error: check=true: learning_rate is wrong" in ran.err
    assert not (tmp_path / "wrong" / "checkpoints").exists()


def test_check_takes_true_or_false(train):
    assert "check=often" in train(*SHORT, "check=often").err


@pytest.mark.parametrize("words, is_told", [(("init=normal", "init.std=20"), True), ((), False)])
def test_a_first_loss_far_from_guessing_is_told_once(words, is_told, train, tmp_path):
    ran = train(*SHORT, *words, "hydra.run.dir=run")
    assert ran.code == 0, ran.err
    said = (tmp_path / "run" / "train.log").read_text()
    assert said.count("warning: the first training loss is ") == is_told
    assert said.count("expected about 2.303 = -ln(1/10)") == is_told
