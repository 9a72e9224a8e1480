import re

import pytest
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from athanor.base.errors import NonFiniteError, UserError, nearest
from athanor.base.text import printable
from athanor.engine.app.explain import FULL, explain


def caught(function, *arguments):
    with pytest.raises(Exception) as caught:
        function(*arguments)
    return caught.value


def test_nearest_names_what_is_near_and_lists_all_where_nothing_is():
    assert nearest("cosin", ["step", "cosine"]) == "did you mean cosine?"
    assert nearest("zzz", ["step", "cosine"]) == "choose from: cosine, step"


@pytest.mark.parametrize(
    "error",
    [
        UserError("optim.lr=abc: Adam takes float"),
        ValueError("data.batch_size=0 does not fit"),
        NonFiniteError("the train loss is nan"),
        FileNotFoundError("there is no x.png"),
    ],
    ids=repr,
)
def test_a_mistake_of_the_person_is_one_line_with_no_traceback(error, tmp_path):
    assert explain(error, tmp_path / "train.log") == f"error: {error}"


def test_a_mistake_of_ours_names_the_log_with_the_traceback(tmp_path):
    log = tmp_path / "train.log"
    text = explain(RuntimeError("shapes differ\nat length"), log)
    assert text == f"error: RuntimeError: shapes differ\n  the traceback is in {log}"


@pytest.mark.parametrize(
    ("data", "batch"), [({"batch_size": 1}, "data.batch_size=1"), ({"size": 1}, "the batch")], ids=["ours", "their own"]
)
def test_a_batch_of_one_image_is_named_where_the_data_calls_it_so(data, batch):
    error = ValueError("Expected more than 1 value per channel when training, got input size torch.Size([1, 8])")
    text = explain(error, None, {"data": data, "model": None})
    assert text.startswith(f"error: batch norm needs two images a step on each device, and {batch} gives it one")


def test_without_a_log_the_way_to_the_traceback_is_shown(monkeypatch):
    error = caught(lambda: {}["absent"])
    first, place, last = explain(error).splitlines()
    assert first == "error: KeyError: 'absent'"
    assert re.fullmatch(r"  .*test_explain\.py:\d+: error = caught.*", place)
    assert last == "  HYDRA_FULL_ERROR=1 before the command prints the traceback"
    monkeypatch.setenv(FULL, "1")
    assert explain(error).startswith("Traceback (most recent call last):\n")
    assert explain(error).endswith("\n".join([first, place, last]))


def test_an_error_of_a_gpu_says_how_to_find_its_line():
    error = RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later")
    lines = explain(error, "here/train.log").splitlines()
    assert lines[0] == "error: RuntimeError: CUDA error: device-side assert triggered"
    assert "CUDA_LAUNCH_BLOCKING=1" in lines[1] and lines[2] == "  the traceback is in here/train.log"


def test_an_error_of_ours_names_a_line_of_ours_where_there_is_no_other():
    error = caught(printable, 3)
    error = error.with_traceback(error.__traceback__.tb_next)  # without this file
    assert re.match(r"  .*/athanor/base/text\.py:\d+: if text.isprintable", explain(error).splitlines()[1])


def test_a_mistake_that_a_worker_of_a_loader_meets_is_told_as_if_it_were_met_here():
    head, frame = "Traceback (most recent call last):", '  File "x.py", line 1, in f'
    sent = f"Original {head}\n{frame}\nathanor.base.errors.UserError: no\n  type b"
    error = UserError(f"Caught UserError in DataLoader worker process 0.\n{sent}")
    assert explain(error) == "error: no\n  type b"


def test_what_was_wrong_inside_an_instantiation_is_what_is_shown():
    def instantiate():  # as Hydra 1.3 does
        raise InstantiationException("Error in call to target") from UserError("eps=0 must be positive")

    assert explain(caught(instantiate)) == "error: eps=0 must be positive"


def test_an_option_that_does_not_exist_gets_the_nearest_and_the_list(compose):
    text = explain(caught(compose, "scheduler=cosin"))
    first, second = text.splitlines()
    assert first == "error: scheduler=cosin does not exist; did you mean cosine?"
    assert second.startswith("  scheduler: ")
    assert {"constant,", "cosine,", "plateau,"} <= set(second.split())


def test_a_key_that_does_not_exist_gets_the_nearest_and_the_way_to_add_one(compose):
    first, second = explain(caught(compose, "optim.lrr=1")).splitlines()
    assert first == "error: there is no optim.lrr; did you mean optim.lr=1?"
    assert second == "  (+optim.lrr=<value> adds a key that is not in the YAML)"


def test_a_key_of_a_list_or_of_the_top_level_is_named_too(compose):
    assert explain(caught(compose, "sed=1")).startswith("error: there is no sed; did you mean seed=1?")
    assert explain(caught(compose, "trainer.max_epoch=1")).startswith("error: there is no trainer.max_epoch; did you")


def test_an_override_that_cannot_be_read_is_quoted(compose):
    text = explain(caught(compose, "optim.lr=[1"))
    assert text.startswith("error: cannot read 'optim.lr=[1'")
    assert len(text.splitlines()) == 2


def test_an_interpolation_that_leads_nowhere_is_short():
    text = explain(caught(lambda: OmegaConf.create({"a": "${b.c}"}).a))
    assert text.startswith("error: Interpolation key 'b.c' not found")
    assert len(text.splitlines()) <= 2
