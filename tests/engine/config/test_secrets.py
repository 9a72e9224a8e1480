"""What a config takes from the environment is used, and nowhere written."""

import hashlib
import io
import logging
import shutil

import pytest
from omegaconf import OmegaConf

from athanor.base.errors import UserError
from athanor.engine.config import secrets
from athanor.engine.runs.run import Run

KEY = "s3cr3t-0f-wandb"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    values = {
        "KEY": KEY,
        "LONGER": f"{KEY}-and-more",
        "GPUS": "2",
        "EMPTY": "",
        "ATHANOR_DATA": "/data",
        "HOME": "/home",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("UNSET", raising=False)


@pytest.mark.parametrize(
    "text, names",
    [
        ("${oc.env:KEY}", ["KEY"]),
        ("${oc.env:KEY,none}", ["KEY"]),
        ("${ oc.env : 'KEY' }", ["KEY"]),
        ("https://user:${oc.env:KEY}@host", ["KEY"]),
        ("${oc.env:UNSET,${oc.env:KEY}}", ["KEY"]),
        ("${oc.env:KEY} ${oc.env:LONGER}", ["KEY", "LONGER"]),
        ("${oc.decode:${oc.env:KEY}}", ["KEY"]),
        ("${oc.env:ATHANOR_DATA,${oc.env:HOME,.}/.cache}", []),  # places
        ("${oc.env:GPUS}", []),  # too short to be a secret
        ("${oc.env:EMPTY}", []),
        ("${oc.env:UNSET,x}", []),
        ("${seed}", []),
        (KEY, []),  # typed, not taken from the environment
    ],
)
def test_the_variables_that_a_config_names_are_found(text, names):
    cfg = OmegaConf.create({"seed": 0, "logger": {"a": {"list": [1, text]}}})
    secret = secrets.find(secrets.resolve(cfg))
    assert sorted(secret.values()) == sorted(f"${{oc.env:{name}}}" for name in names)


def test_a_variable_whose_name_is_computed_is_kept_by_the_name_that_comes_out():
    cfg = OmegaConf.create({"name": "KEY", "logger": {"a": "${oc.env:${name}}"}})
    assert secrets.resolve(cfg) == {"name": "KEY", "logger": {"a": "${oc.env:KEY}"}}


def test_what_is_of_no_logger_is_recorded_with_its_value():
    cfg = OmegaConf.create({"callbacks": {"a": "${oc.env:KEY}"}, "logger": {"a": "${oc.env:KEY}"}})
    assert secrets.resolve(cfg) == {"callbacks": {"a": KEY}, "logger": {"a": "${oc.env:KEY}"}}


def test_the_text_stays_where_it_stands_and_values_come_back():
    loggers = {
        "a": {"key": "${oc.env:KEY}", "uri": "http://${oc.env:LONGER}@h", "n": 3},
        "copy": "${logger.a.key}",
        "elsewhere": [f"{KEY}/x", None],
    }
    cfg = OmegaConf.create({"logger": loggers})
    resolved, values = secrets.resolve(cfg), OmegaConf.to_container(cfg, resolve=True)
    assert resolved["logger"] == {
        "a": {"key": "${oc.env:KEY}", "uri": "http://${oc.env:LONGER}@h", "n": 3},
        "copy": "${oc.env:KEY}",
        "elsewhere": [f"{KEY}/x", None],  # the same letters, typed by a person
    }
    assert secrets.reveal(resolved) == values
    assert OmegaConf.to_container(cfg, resolve=True) == values  # the resolver is Hydra's own again


def test_a_variable_that_chooses_a_node_is_a_setting(monkeypatch):
    monkeypatch.setenv("PRESET", "small")
    chosen = {"size": "${sizes.${oc.env:PRESET}}", "several": ["${oc.env:KEY}", "${oc.decode:'[1,2]'}"]}
    cfg = OmegaConf.create({"sizes": {"small": "s"}, "logger": chosen})
    assert secrets.resolve(cfg)["logger"] == {"size": "s", "several": ["${oc.env:KEY}", [1, 2]]}


def test_a_number_that_is_decoded_from_the_environment_is_a_setting(monkeypatch):
    monkeypatch.setenv("STEPS", "12345")
    assert secrets.resolve(OmegaConf.create({"logger": "${oc.decode:${oc.env:STEPS}}"})) == {"logger": 12345}


def test_texts_for_people_have_the_names_in_place_of_the_values():
    hidden = secrets.hide(f"{KEY}-and-more, {KEY}{KEY}", {KEY: "${oc.env:KEY}", f"{KEY}-and-more": "${oc.env:LONGER}"})
    assert hidden == "${oc.env:LONGER}, ${oc.env:KEY}${oc.env:KEY}"  # the longest first
    assert secrets.hide("text", {}) == "text"


def test_the_name_of_a_target_is_no_secret(monkeypatch):
    monkeypatch.setenv("TARGET", "torch.optim.Adam")
    cfg = OmegaConf.create({"logger": {"_target_": "${oc.env:TARGET}"}})
    assert secrets.resolve(cfg) == {"logger": {"_target_": "torch.optim.Adam"}}


def test_a_variable_that_is_not_set_is_named():
    with pytest.raises(
        UserError, match=r"takes \$\{oc\.env:UNSET\}, and there is no environment variable UNSET; set it"
    ):
        secrets.reveal({"a": ["x", "${oc.env:UNSET}"]})


def test_a_log_has_no_secret_in_it_nor_in_its_tracebacks():
    logger = logging.getLogger("test_secrets")
    handler = logging.StreamHandler(stream := io.StringIO())
    handler.addFilter(lambda record: secrets.redact(record, {KEY: "${oc.env:KEY}"}))
    logger.addHandler(handler)
    try:
        logger.warning("the key %s of %d", KEY, 3)
        try:
            raise RuntimeError(f"wrong key {KEY}")
        except RuntimeError:
            logger.exception("it failed")
    finally:
        logger.removeHandler(handler)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "the key ${oc.env:KEY} of 3"
    assert lines[-1] == "RuntimeError: wrong key ${oc.env:KEY}"
    assert KEY not in stream.getvalue()


# with runs

LOGGER = """
import hashlib
from pathlib import Path

from athanor.training.loggers import CSVLog

class Keyed(CSVLog):
    def __init__(self, save_dir: str, key: str, purge_step: int | None = None) -> None:
        super().__init__(save_dir, purge_step)
        Path("got").write_text(hashlib.sha256(key.encode()).hexdigest())
        if key.endswith("broken"):
            raise RuntimeError(f"the service does not know {key}")
"""
WORDS = ["model=linear", "data.limit=200", "trainer.max_epochs=1", "hydra.run.dir=run"]
WORDS += ["+logger.keyed._target_=own_logger.Keyed", "+logger.keyed.key='key: ${oc.env:KEY}'"]


@pytest.fixture
def logger(tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_logger.py").write_text(LOGGER)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setenv("HOME", str(tmp_path))


def holding(folder, secret):
    return [path.name for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def got(tmp_path, key):
    return (tmp_path / "got").read_text() == hashlib.sha256(f"key: {key}".encode()).hexdigest()


def test_a_recorded_config_resolves_again(logger, train, run_here, tmp_path, monkeypatch):
    assert train(*WORDS).code == 0
    assert Run("run").config["logger"]["keyed"]["key"] == "key: ${oc.env:KEY}"
    assert train("run=run", "hydra.run.dir=again").code == 0
    assert got(tmp_path, KEY)
    shutil.rmtree(tmp_path / "again")
    monkeypatch.delenv("KEY")
    ran = train("run=run")
    assert ran.code == 1
    assert "Environment variable 'KEY' not found" in ran.err
    assert len(ran.err.splitlines()) <= 2
    assert run_here("scripts/evaluate.py", "run").code == 0  # which makes no loggers


def test_no_file_of_a_run_holds_the_secret(logger, train, tmp_path):
    assert train(*WORDS).code == 0
    assert got(tmp_path, KEY)
    assert Run("run").config["logger"]["keyed"]["key"] == "key: ${oc.env:KEY}"
    assert holding(tmp_path, KEY) == []
    assert train("resume=run", "trainer.max_epochs=2").code == 0
    assert got(tmp_path, KEY)
    assert holding(tmp_path, KEY) == []


def test_no_message_of_a_run_that_fails_holds_the_secret(logger, train, tmp_path, monkeypatch):
    monkeypatch.setenv("KEY", f"{KEY}-broken")
    ran = train(*WORDS)
    assert ran.code == 1
    assert "the service does not know key: ${oc.env:KEY}" in ran.err
    assert KEY not in ran.out + ran.err
    assert holding(tmp_path, KEY) == []
