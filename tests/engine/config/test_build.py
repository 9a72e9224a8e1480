"""Objects of a config, in lists too, and the facts that are handed to them, which no config sets."""

import itertools
import re
from functools import partial

import pytest
import torch
import yaml
from torch import nn

from athanor.base.errors import UserError
from athanor.data.preprocess import Preprocess
from athanor.data.sources.source import Source
from athanor.engine.config import assemble, check, facts, schema, trust
from athanor.engine.runs.run import Run
from athanor.models.initialise import Initialise

CODE = """
import lightning.pytorch as L
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn

class Block(nn.Linear):
    def __init__(self, width: int, *, input_shape: tuple, seed: int, secret: str = ""):
        super().__init__(width, width)
        self.input_shape, self.seed, self.secret = input_shape, seed, secret

class Net(nn.Module):
    def __init__(self, blocks: list[nn.Module], width: int, pairs: list[list[nn.Module]] | None = None, *,
                 input_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        self.first = nn.Linear(torch.Size(input_shape).numel(), width)
        self.blocks = nn.Sequential(*blocks, *(module for pair in pairs or [] for module in pair))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.blocks(self.first(x.flatten(1))))

class Part(L.Callback):
    def __init__(self, name: str):
        self.name = name

class Whole(L.Callback):
    def __init__(self, parts: list, by_name: dict, seed: int):
        self.results = {"whole": {"parts": [p.name for p in parts], "named": by_name["a"]["b"].name, "seed": seed}}

class Two(CSVLogger):
    def __init__(self, children: list[CSVLogger], save_dir: str):
        super().__init__(save_dir, name="two", version="")
        self.children = children
"""
BLOCKS = "[{_target_: lists.Block, width: 8}, {_target_: torch.nn.ReLU}]"
PART = "{_target_: lists.Part, name: %s}"
CALLBACK = f"{{_target_: lists.Whole, parts: [{PART % 'p'}, {PART % 'q'}], by_name: {{a: {{b: {PART % 'r'}}}}}}}"
LOGGER = "{_target_: lists.Two, children: [{_target_: lightning.pytorch.loggers.CSVLogger, name: child, version: ''}]}"


@pytest.fixture
def words(tmp_path, monkeypatch):
    """A model, a callback and a logger that are made of lists of objects, as words of a command line."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "lists.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    (tmp_path / "configs" / "model").mkdir(parents=True)
    (tmp_path / "configs" / "model" / "net.yaml").write_text(
        yaml.safe_dump({"_target_": "lists.Net", "width": 8, "blocks": yaml.safe_load(BLOCKS)})
    )
    return ["--config-dir", tmp_path / "configs", "model=net", "data.limit=100", "trainer.max_epochs=1"]


def test_objects_in_lists_are_built_checked_recorded_and_trusted(words, train, tmp_path, monkeypatch):
    monkeypatch.setenv("PASSPHRASE", "correct horse")
    secret = "{_target_: lists.Block, width: 8, secret: '${oc.env:PASSPHRASE}'}"
    more = [f"+model.pairs=[[{secret},{{_target_: torch.nn.Tanh}}]]", f"+callbacks.whole={CALLBACK}"]
    ran = train(*words, *more, f"+logger.two={LOGGER}", "seed=3", "hydra.run.dir=run")
    assert (ran.code, ran.err) == (0, "")
    run = Run(tmp_path / "run")
    assert run.results["whole"] == {"parts": ["p", "q"], "named": "r", "seed": 3}
    assert (tmp_path / "run" / "two").is_dir()
    assert run.config["model"]["pairs"][0][0]["secret"] == "correct horse"  # of no logger
    # from its files
    with pytest.raises(UserError, match=r"^model\.blocks\.0\._target_=lists\.Block .*"):
        trust.check_targets({"model": {"blocks": [{"_target_": "lists.Block"}]}})
    network = run.classifier().network
    assert [type(module).__name__ for module in network.blocks] == ["Block", "ReLU", "Block", "Tanh"]
    assert (network.blocks[0].seed, network.blocks[2].input_shape) == (3, (1, 8, 8))
    assert network.blocks[2].secret == "correct horse"


BLOCK = "_target_: lists.Block, width: 8"


@pytest.mark.parametrize(
    "path, text, message",
    [
        ("model", "blocks: [{_target_: lists.Block, widht: 8}]", "model.blocks.0.widht: Block has no 'widht'; did you"),
        ("model", "pairs: [[{_target_: lists.Block, width: a}]]", "model.pairs.0.0.width=a: Block takes int"),
        ("model", "blocks: [3]", "model.blocks=[3]: Net takes a list of Module"),
        ("model", "width: {a: 1}", "model.width={'a': 1}: Net takes int"),
        ("model", "blocks: [{_target_: lists.Blokc}]", "model.blocks.0._target_=lists.Blokc cannot be imported"),
        ("model", f"blocks: [{{{BLOCK}, seed: 1}}]", "model.blocks.0.seed=1: seed is the run's (type seed=<number>)"),
        ("model", f"blocks: [{{{BLOCK}, _args_: 1}}]", "model.blocks.0._args_=1: Block takes list"),
        ("model", f"blocks: [{{{BLOCK}, _call_: 1}}]", "model.blocks.0._call_: Block has no '_call_'"),
        (
            "model",
            "blocks: [{_target_: torch.nn.ELU, alpha: .nan}]",
            "model.blocks.0.alpha=nan is no number to compute",
        ),
        ("optim", "{_target_: torch.optim.Adam, betas: [0.9, .inf]}", "optim.betas.1=inf is no number to compute with"),
        ("callbacks.a", CALLBACK.replace("name: q", "nam: q"), "callbacks.a.parts.1.nam: Part has no 'nam'"),
        ("callbacks.a", CALLBACK.replace("name: r", "name: 1"), "callbacks.a.by_name.a.b.name=1: Part takes str"),
    ],
)
def test_mistakes_in_lists_are_told_with_their_place(path, text, message, words):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        check.check_node(path, {"_target_": "lists.Net"} | yaml.safe_load(text))


def test_how_a_module_that_is_not_there_can_be_found_is_told():
    with pytest.raises(UserError, match="No module named 'lits'\n  install lits, or let PYTHONPATH name the folder"):
        check.check_node("model", {"_target_": "lits.Net"})


@pytest.mark.parametrize(
    "path, node, message",
    [
        (
            "model.num_classes=5",
            "models.linear.Linear",
            "num_classes is the number of classes of the data and is handed",
        ),
        ("model.input_shape=[1, 8, 8]", "models.linear.Linear", "input_shape is the shape of one input of the data"),
        ("loss.class_counts=[1]", "tasks.losses.CrossEntropy", "class_counts is the number of training images of each"),
        (
            "data.seed=1",
            "data.sources.digits.digits",
            "seed is the run's (type seed=<number>) and is handed over; leave",
        ),
        ("data.source=a", "data.sources.digits.digits", "source is what the target of data returns"),
        ("data.data_dir=a", "data.sources.mnist.mnist", "data_dir is the same for all data (type data_dir=<folder>)"),
        ("data.preprocess.input_shape=[1]", "data.preprocess.Standardize", "input_shape is the shape of one input"),
        ("callbacks.a.agreement=1", "callbacks.control.Control", "agreement is one object for all callbacks"),
        ("logger.csv.purge_step=1", "training.loggers.CSVLog", "purge_step is the step at which a run is resumed"),
        ("logger.a.parameters={}", "training.loggers.TensorBoard", "parameters is the table of the run's settings"),
    ],
)
def test_what_is_handed_over_cannot_be_set(path, node, message):
    place, _, value = path.partition("=")
    group, _, key = place.rpartition(".")
    with pytest.raises(UserError, match=f"^{re.escape(f'{path}: {message}')}"):
        check.check_node(group, {"_target_": f"athanor.{node}", key: yaml.safe_load(value)})


def test_it_is_refused_before_data_is_loaded(train):
    ran = train("data=mnist", "data_dir=nowhere", "metrics=macro_f1", "+metrics.macro_f1.num_classes=3")
    assert ran.err.startswith("error: metrics.macro_f1.num_classes=3: num_classes is the number of classes of the data")
    ran = train("data=mnist", "data_dir=nowhere", "+trainer.logger=false")
    assert ran.err.startswith("error: trainer.logger=False: logger is what the group logger says (type logger=<option>")


def test_a_wish_is_kept_and_null_is_none(compose, tmp_path):
    wishes = [
        "+logger.csv.save_dir=elsewhere",
        "+logger.csv.purge_step=null",
        "+model.num_classes=null",
        "debug=profile",
    ]
    check.check(check.plain(compose(*wishes, "+trainer.profiler.dirpath=elsewhere")))
    node = {"_target_": "athanor.training.loggers.CSVLog", "save_dir": "elsewhere"}
    assert str(assemble.build(node, "logger", save_dir="run").path) == "elsewhere/metrics.csv"
    assert str(assemble.build({**node, "save_dir": None}, "logger", save_dir="run").path) == "run/metrics.csv"


def test_a_record_cannot_set_what_is_handed_over_either():
    node = {"_target_": "athanor.models.linear.Linear"}
    facts = {"input_shape": (1, 2, 2), "num_classes": 10}
    assert assemble.build(node, "model", **facts)(torch.zeros(1, 1, 2, 2)).shape == (1, 10)
    with pytest.raises(UserError, match=r"^model\.num_classes=5: num_classes is the number of classes of the data"):
        assemble.build({**node, "num_classes": 5}, "model", **facts)


def test_a_group_is_handed_only_what_its_row_names():
    node = {"_target_": "athanor.tasks.losses.CrossEntropy", "label_smoothing": 0.0, "class_weights": None}
    counts = torch.ones(3)
    assert isinstance(assemble.build(node, "loss", class_counts=counts), nn.Module)
    with pytest.raises(UserError, match="missing a required argument: 'class_counts'"):
        assemble.build(node, "model", class_counts=counts)


def test_every_fact_of_a_row_is_described_and_every_description_is_of_a_row():
    assert {fact for group in schema.GROUPS.values() for fact in group.facts} == set(facts.FACTS)


@pytest.mark.parametrize("path", ["data", "data.preprocess", "model", "init", "loss", "metrics", "callbacks", "logger"])
def test_what_is_handed_over_stands_where_a_person_looks_for_it(path, repo):
    """In the base class or, where there is none of ours, at the head of the group's first YAML."""
    bases = {"data": Source, "data.preprocess": Preprocess, "init": Initialise}
    if path in bases:
        text = bases[path].__doc__
    else:
        lines = min((repo / "configs" / path).glob("*.yaml")).read_text().splitlines()
        text = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    of_image_data = ("source", "seed") if path == "data" else ()
    assert [
        name for name in schema.GROUPS[path].handed if name not in (*of_image_data, *re.findall(r"\w+", text))
    ] == []


def test_arguments_without_a_name_and_objects_that_are_completed_later():
    parts = [{"_target_": "torch.nn.Linear", "_partial_": True, "_args_": [3]}, {"_target_": "torch.nn.ReLU"}, 3]
    first, second, third = assemble.build(parts, "model")
    assert isinstance(first, partial)
    assert first(2).weight.shape == (2, 3)
    assert (type(second), third) == (nn.ReLU, 3)
    sequence = assemble.build({"_target_": "torch.nn.Sequential", "_args_": parts[1:2]}, "model")
    assert [type(module) for module in sequence] == [nn.ReLU]
