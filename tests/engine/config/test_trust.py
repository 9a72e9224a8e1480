"""Nothing in a run's files runs code when it is loaded. The same payloads run where nobody looks, see the controls."""

import contextlib
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from athanor.base.errors import UserError
from athanor.engine.config import assemble, built_here, check, hydra_versions, options, records, schema, trust
from athanor.engine.runs.run import Run, read_checkpoint

CONFIGS = Path(__file__).parents[3] / "configs"
FILES = sorted(path for path in CONFIGS.glob("*/**/*.yaml") if path.relative_to(CONFIGS).parts[0] != "hydra")
GROUPS = [*schema.GROUPS, "model.inner", "metrics.a", "callbacks.a", "logger.a", "monitor", "trainer.plugins"]
BUILT = ["model", "loss", "optim", "scheduler", "data.preprocess", "metrics.a"]  # from a checkpoint's record
# what makes the file `marker` when it is built
PAYLOADS = {
    "os.system": {"command": "touch MARKER"},
    "subprocess.run": {"args": "touch MARKER", "shell": True},
    "builtins.open": {"file": "MARKER", "mode": "w"},
    "torch.utils.collect_env.run": {"command": "touch MARKER"},
    "lightning.pytorch.loggers.tensorboard.os.makedirs": {"name": "MARKER"},
}


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


def node(target, marker):
    """A payload that makes this marker."""
    return {"_target_": target} | {
        key: value.replace("MARKER", str(marker)) if isinstance(value, str) else value
        for key, value in PAYLOADS[target].items()
    }


@pytest.fixture(scope="module")
def honest(tmp_path_factory, run_process):
    cwd = tmp_path_factory.mktemp("honest")
    words = ["model=linear", "data.limit=200", "trainer.max_epochs=1", "logger=csv", "hydra.run.dir=run"]
    assert run_process(cwd, "train.py", *words).code == 0
    return cwd / "run"


@pytest.fixture
def crafted(honest, tmp_path):
    """A copy of an honest run, to put something in."""
    shutil.copytree(honest, tmp_path / "crafted")
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    return tmp_path / "crafted"


def put(config, path, value):
    *parents, last = path.split(".")
    for parent in parents:
        config = config.setdefault(parent, {})
    config[last] = value


def write_config(run, path, value):
    config = yaml.safe_load((run / "config.yaml").read_text())
    put(config, path, value)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def write_record(run, change):
    for file in (run / "checkpoints").iterdir():
        contents = torch.load(file, weights_only=True)
        change(contents["athanor"])
        file.unlink()  # best and last are one file
        torch.save(contents, file)


COMMANDS = {
    "resume": ("train.py", "resume=crafted", "trainer.max_epochs=2"),
    "run": ("train.py", "run=crafted"),
    "evaluate": ("scripts/evaluate.py", "crafted"),
    "predict": ("scripts/predict.py", "crafted", "a.png"),
    "weights": ("train.py", "weights=crafted", "model=linear", "data.limit=200", "trainer.max_epochs=1"),
}
every_loader = pytest.mark.parametrize("verb", ["resume", "run", "evaluate"])  # of config.yaml


def refused(ran, marker, text=""):
    lines = [line for line in ran.err.splitlines() if line.strip()]
    assert ran.code == 1
    assert 1 <= len(lines) <= 2, ran.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in ran.out + ran.err
    assert text in ran.err
    assert not marker.exists()


# targets


@pytest.mark.parametrize("target", PAYLOADS)
def test_control_each_payload_makes_the_marker_where_it_is_built(target, marker):
    made = assemble.build(node(target, marker), "model")
    if target == "builtins.open":
        made.close()
    assert marker.exists()


@pytest.mark.parametrize("target", PAYLOADS)
@pytest.mark.parametrize("group", GROUPS)
def test_no_payload_passes_in_any_group(target, group, marker):
    config = {}
    put(config, group, node(target, marker))
    with pytest.raises(UserError, match=rf"^{group}\._target_={target} "):
        trust.check_targets(config)


@pytest.mark.parametrize("target", PAYLOADS)
def test_no_payload_passes_in_a_list(target, marker):
    config = {"model": {"_target_": "athanor.models.cnn.CNN", "_args_": [{"_target_": "athanor.models.mlp.MLP"}]}}
    trust.check_targets(config)
    config["model"]["_args_"].append([{"inner": node(target, marker)}])
    with pytest.raises(UserError, match=rf"^model\._args_\.1\.0\.inner\._target_={target} "):
        trust.check_targets(config)


def test_an_object_in_a_node_is_of_the_kind_that_the_nearest_row_names():
    parts = [{"_target_": "athanor.models.mlp.MLP"}]
    trust.check_targets({"model": {"parts": parts}})
    with pytest.raises(UserError, match=r"^callbacks\.a\.parts\.0\._target_=athanor\..*\.MLP is not a callback"):
        trust.check_targets({"callbacks": {"a": {"parts": parts}}})


@every_loader
@pytest.mark.parametrize("target", PAYLOADS)
def test_a_config_file_cannot_name_a_payload(verb, target, crafted, marker, run_here):
    write_config(crafted, "model", node(target, marker))
    refused(run_here(*COMMANDS[verb]), marker, f"model._target_={target} ")


@every_loader
@pytest.mark.parametrize("group", [*schema.GROUPS, "metrics.a", "callbacks.a", "logger.a", "trainer.plugins"])
def test_a_config_file_cannot_name_a_payload_anywhere(verb, group, crafted, marker, run_here):
    several = group in schema.GROUPS and schema.GROUPS[group].several
    write_config(crafted, group, {"a": node("os.system", marker)} if several else node("os.system", marker))
    ran = run_here(*COMMANDS[verb])
    if verb == "evaluate" and group.startswith(("callbacks", "logger")):  # of which it builds nothing
        assert (ran.code, marker.exists()) == (0, False)
    else:
        refused(ran, marker)


@pytest.mark.parametrize("target", PAYLOADS)
@pytest.mark.parametrize("group", BUILT)
def test_a_checkpoint_cannot_name_a_payload(target, group, crafted, marker, run_here):
    write_record(crafted, lambda record: put(record["config"], group, node(target, marker)))
    refused(run_here(*COMMANDS["predict"]), marker, f"{group}._target_={target} ")
    (crafted / "config.yaml").unlink()  # the file alone says it too
    refused(run_here("scripts/predict.py", "crafted/checkpoints/best.ckpt", "a.png"), marker, "_target_=")


def test_weights_of_a_checkpoint_are_taken_without_its_record(crafted, marker, run_here):
    write_record(crafted, lambda record: put(record["config"], "model", node("os.system", marker)))
    assert run_here(*COMMANDS["weights"]).code == 0
    assert not marker.exists()


@pytest.mark.parametrize(
    "group, target",
    [
        ("data", "athanor.data.sources.decode.drop_colour"),  # writes a file
        ("data", "athanor.data.module.ArrayData"),
        ("data.preprocess", "athanor.tasks.losses.Hinge"),
        ("model", "athanor.base.files.write_atomically"),
        ("model", "athanor.engine.app.job.ORIGIN"),
        ("model", "athanor.tasks.losses.Hinge.forward"),
        ("model", "athanor.models.torchvision.torch.load"),
        ("model", "athanor.models.torchvision.replace_head"),
        ("model", "athanor.models.torchvision.models"),
        ("model", "torch.nn.functional.relu"),
        ("model", "torch.nn.Linear"),  # which no YAML file names
        ("optim", "torch.optim.RAdam"),
        ("callbacks.a", "lightning.pytorch.callbacks.ModelCheckpoint"),
        ("logger.a", "lightning.pytorch.loggers.CSVLogger"),
        ("metrics.a", "torchmetrics.Accuracy"),
        ("model", "torch.nn.parallel.DistributedDataParallel"),
        ("model", "torch.hub.load"),
        ("optim", "torch.nn.Linear"),
        ("optim", "athanor.optim.muon.orthogonalize"),
        ("scheduler", "athanor.optim.schedules.check_positive"),
        ("scheduler", "athanor.optim.schedules.Schedule"),
        ("scheduler.momentum", "athanor.optim.schedules.check_momentum"),
        ("scheduler.momentum", "torch.optim.lr_scheduler.StepLR"),
        ("scheduler", "athanor.optim.schedules.math.exp"),
        ("metrics.a", "torchmetrics.text.BERTScore"),
        ("metrics.a", "torchmetrics.functional.accuracy"),
        ("callbacks.a", "lightning.pytorch.Trainer"),
        ("logger.a", "lightning.pytorch.loggers.tensorboard.os"),
        ("logger.a", "lightning.pytorch.loggers.CSVLogger.__init__"),
        ("trainer", "lightning.pytorch.cli.LightningCLI"),
        ("trainer.profiler", "lightning.pytorch.Trainer"),
        ("eval", "athanor.models.cnn.CNN"),
        ("model", "__main__.x"),
        ("model", "athanor.models.none.None"),
        ("model", "eval"),
        ("model", "torch.nn.Linear\nsecond line\nthird"),
        ("model", 3),
        ("model", None),
    ],
)
def test_what_is_no_part_of_its_group_is_refused_in_two_lines(group, target):
    config = {}
    put(config, group, {"_target_": target})
    with pytest.raises(UserError) as refusal:
        trust.check_targets(config)
    assert len(str(refusal.value).splitlines()) <= 2


@pytest.mark.parametrize(
    "group, target",
    [
        ("model", "athanor.models.cnn.CNN"),
        ("loss", "athanor.tasks.losses.Hinge"),
        ("optim", "torch.optim.Adagrad"),
        ("scheduler", "athanor.optim.schedules.cosine"),
        ("scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau"),
        ("callbacks", "lightning.pytorch.callbacks.EarlyStopping"),
        ("metrics", "torchmetrics.classification.MulticlassAccuracy"),
        ("logger", "lightning.pytorch.loggers.WandbLogger"),
    ],
)
def test_what_is_a_part_of_its_group_passes(group, target):
    trust.check_targets({group: {"a": {"_target_": target}}})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_every_option_that_is_shipped_passes(path, compose, tmp_path):
    group = path.parent.relative_to(CONFIGS).as_posix()
    if path.parts[-2] == "base" and group != "callbacks/base":
        pytest.skip("every option of the group contains it")
    word = f"{'callbacks/base@callbacks' if group == 'callbacks/base' else group}={path.stem}"
    needed = [key for key, value in yaml.safe_load(path.read_text("utf-8")).items() if value == "???"]
    words = [word, *(f"{group}.{key}={tmp_path}" for key in needed)]
    config = check.plain(compose(*words))
    assert len(list(trust.targets(config))) >= 7
    trust.check_targets(config)
    records.check_config(config, path)
    trust.check_targets(schema.rebuilt_part(config))


# code of one's own


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module that makes a file when it is imported."""
    (tmp_path / "code").mkdir()
    text = f"""
import os
from torch import nn
open({str(tmp_path / "imported")!r}, "w").close()

class Mine(nn.Flatten):
    def __init__(self, *, input_shape, num_classes):
        super().__init__()
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.head(super().forward(x))
"""
    (tmp_path / "code" / "own_model.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "code")
    return tmp_path / "imported"


MINE = {"model": {"_target_": "own_model.Mine"}}


def test_code_of_ones_own_needs_a_word_and_is_not_imported_before(mine, trusting):
    with pytest.raises(UserError) as refusal:
        trust.check_targets(MINE)
    assert str(refusal.value) == (
        "model._target_=own_model.Mine is defined in own_model, and a loaded config may not build from there\n"
        "  if you wrote or trust that code, put trust: [own_model] into configs/local/default.yaml"
    )
    trusting("own_mode", "own_model_2", "own")
    with pytest.raises(UserError, match="is defined in own_model, and"):
        trust.check_targets(MINE)
    assert not mine.exists()
    trusting("other", "own_model")
    trust.check_targets(MINE)
    assert mine.exists()


def test_trust_in_a_module_is_none_in_what_it_imports_and_in_other_kinds(mine, trusting):
    trusting("own_model")
    for target in "own_model.os.system", "own_model.nn.Linear", "own_model.none", "own_model.Mine":
        with pytest.raises(UserError):
            trust.check_targets({"optim": {"_target_": target}})


@pytest.fixture
def unlisted(monkeypatch, tmp_path):
    """As on another machine: no run that was made so far is known to have been made here."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    monkeypatch.delenv(built_here.VARIABLE, raising=False)


def test_a_run_that_was_made_here_needs_no_word_but_one_from_elsewhere(mine, run_here, request, tmp_path, trusting):
    (tmp_path / "configs" / "model").mkdir(parents=True)
    (tmp_path / "configs" / "model" / "mine.yaml").write_text("_target_: own_model.Mine\n")
    words = ["model=mine", "data.limit=200", "trainer.max_epochs=1", "logger=csv", "hydra.run.dir=crafted"]
    assert run_here("train.py", "--config-dir", "configs", *words).code == 0
    assert Run("crafted").config["model"]["_target_"] == MINE["model"]["_target_"]
    Image.new("L", (8, 8)).save("a.png")
    for verb in "evaluate", "predict", "run", "resume":
        assert (run_here(*COMMANDS[verb]).code, verb) == (0, verb)
    request.getfixturevalue("unlisted")
    for verb in "evaluate", "predict", "run", "resume":
        assert "put trust: [own_model] into configs/local/default.yaml" in run_here(*COMMANDS[verb]).err
    trusting("own_model")
    for verb in "evaluate", "predict", "run", "resume":
        ran = run_here(*COMMANDS[verb])
        assert (ran.code, ran.err) == (0, "")


@every_loader
@pytest.mark.parametrize("place", ["data.follow_links", "data.parts.first.follow_links"])
def test_links_are_not_followed_because_a_file_says_so(place, verb, crafted, marker, run_here):
    write_config(crafted, "data.root", "/photos")
    write_config(crafted, place, True)
    refused(run_here(*COMMANDS[verb]), marker, "data.follow_links=true: links are not followed because a run")


def test_links_are_followed_where_the_person_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(built_here, "is_listed", lambda config: False)
    config = {"data": {"root": "/photos", "follow_links": True}}
    for words in [], ["data.root=/photos"], ["model=mlp"]:
        with pytest.raises(UserError, match=r"type run=<run> data\.follow_links=true"):
            trust.check(config, typed=words)
    for words in ["data.follow_links=true"], ["data=digits"]:
        trust.check(config, typed=words)
    trust.check({"data": {"root": "/photos", "follow_links": False}})


@pytest.mark.parametrize("text", ["trust: own_model", "trust: [3]", "trust: {a: b}"])
def test_a_list_of_modules_that_is_none_is_refused(text, tmp_path, monkeypatch):
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "default.yaml").write_text(text)
    monkeypatch.setattr(options, "CONFIGS", tmp_path)
    with pytest.raises(UserError, match=r"is no list of modules; write trust: \[mypackage\]"):
        trust.trusted_modules()


def test_without_a_home_nothing_is_listed_outside_this_process_and_those_that_it_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file" / "state"))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.delenv(built_here.VARIABLE, raising=False)
    built_here.add({"seed": 1, "run": "x"})
    assert built_here.is_listed({"seed": 1, "run": None, "notes": "later"})
    assert not built_here.is_listed({"seed": 2})
    monkeypatch.delenv(built_here.VARIABLE)
    assert not built_here.is_listed({"seed": 1})
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    built_here.add({"seed": 1})
    monkeypatch.delenv(built_here.VARIABLE)
    assert built_here.is_listed({"seed": 1})


# what Hydra would make of a file

RUN = "torch.utils.collect_env.run, command: touch MARKER"  # which Hydra's own list of what is forbidden lacks
FOR_HYDRA = {
    "callbacks": f"hydra: {{callbacks: {{a: {{_target_: {RUN}}}}}}}",
    "job_logging": f"hydra: {{job_logging: {{handlers: {{a: {{(): {RUN}}}}}}}}}",
}


def for_hydra(crafted, marker, text):
    """An honest config with some lines more."""
    before = (crafted / "config.yaml").read_text()
    (crafted / "config.yaml").write_text(before + text.replace("MARKER", str(marker)) + "\n")


@pytest.mark.parametrize("text", FOR_HYDRA.values(), ids=FOR_HYDRA)
def test_control_hydra_builds_what_a_file_says(text, crafted, marker, run_here, monkeypatch):
    monkeypatch.setattr(hydra_versions, "MAIN", hydra_versions.COMPOSE)  # without the list for Hydra 1.4
    for_hydra(crafted, marker, text)
    with contextlib.suppress(Exception):  # what it made is no callback
        run_here("train.py", "--config-path", crafted, "--config-name", "config")
    assert marker.exists()


@every_loader
@pytest.mark.parametrize("text", FOR_HYDRA.values(), ids=FOR_HYDRA)
def test_hydra_never_sees_the_file(verb, text, crafted, marker, run_here):
    for_hydra(crafted, marker, text)
    refused(run_here(*COMMANDS[verb]), marker, "config.yaml is not a config of a run: no run records 'hydra'")


TEXTS = {
    "a sweeper": "hydra: {mode: MULTIRUN, sweeper: {_target_: os.system, command: touch MARKER}}",
    "a list of defaults": "defaults: [{override /hydra/job_logging: evil}]",
    "a search path": "defaults: [_self_]\nhydra: {searchpath: ['file:///tmp']}",
    "a computed value": "name: ${oc.decode:'{a: b}'}",
    "a default of a variable": "name: ${oc.env:NONE,x}",
    "a value of hydra": "name: ${hydra:runtime.cwd}",
    "a value of a path": "name: ${data.root}",
    "a computed variable": "name: ${oc.env:${data_dir}}",
    "half an interpolation": "name: '${oc.env'",
    "a tag": "seed: !!python/object/apply:os.system ['touch MARKER']",
    "a harmless tag": "seed: !!binary aGVsbG8=",
    "an alias": "name: &a [*a]",
    "no YAML": "seed: [",
    "a control character": "name: a\x07b",
    "a key that is no text": "3: 4",
    "a key of two lines": '"a\\nb\\nc": 3',
    "a key that is no text in a group": "model: {3: 4}",
    "a number among arguments": "model: {_target_: athanor.models.linear.Linear, 3: 4}",
    "no mapping": "model: 3",
    "no mapping of several": "logger: 3",
    "no target": "model: {}",
    "no target in data": "data: {preprocess: {}}",
    "no such value": "data: null",
    "deep": "name: " + "[" * 2000,
}


@every_loader
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_file_that_no_run_writes_is_refused(verb, text, crafted, marker, run_here):
    config = yaml.safe_load((crafted / "config.yaml").read_text())
    config.pop(text.partition(":")[0], None)
    text = f"{text}\n".replace("MARKER", str(marker))
    (crafted / "config.yaml").write_text(yaml.safe_dump(config) + text)
    refused(run_here(*COMMANDS[verb]), marker)


@pytest.mark.parametrize("contents", [b"", b"- 1", b"word", b"\xff\xfe\x00", b"seed: 0\n", b"---\na: 1\n---\nb: 2\n"])
def test_a_file_that_is_no_config_is_refused(contents, crafted, marker, run_here):
    (crafted / "config.yaml").write_bytes(contents)
    refused(run_here(*COMMANDS["run"]), marker, "crafted/config.yaml")


def test_a_package_header_says_nothing(crafted, marker, run_here):
    config = (crafted / "config.yaml").read_text()
    (crafted / "config.yaml").write_text("# @package hydra\n" + config)
    assert run_here(*COMMANDS["evaluate"]).code == 0
    write_config(crafted, "callbacks.a", node("builtins.open", marker))
    text = (crafted / "config.yaml").read_text()
    (crafted / "config.yaml").write_text("# @package hydra\n" + text)
    refused(run_here(*COMMANDS["run"]), marker, "callbacks.a._target_=builtins.open")


@pytest.mark.parametrize("key", ["eval", "seed", "trainer.precision", "data.preprocess"])
def test_a_config_of_an_older_version_is_named_with_what_it_lacks(key, crafted, marker, run_here):
    config = yaml.safe_load((crafted / "config.yaml").read_text())
    group, _, inner = key.partition(".")
    (config[group] if inner else config).pop(inner or key)
    (crafted / "config.yaml").write_text(yaml.safe_dump(config))
    refused(run_here(*COMMANDS["run"]), marker, f"crafted/config.yaml has no {key}, which this version")


def test_a_pickle_of_hydras_is_refused(train, marker):
    refused(train("--experimental-rerun", "config.pickle"), marker, "loads a pickle, which can run code")
    refused(train("--exp=config.pickle"), marker, "loads a pickle, which can run code")


# checkpoints


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.makedirs, (str(self.marker),)


@pytest.fixture
def pickled(crafted, marker):
    for file in (crafted / "checkpoints").iterdir():
        contents = torch.load(file, weights_only=True)
        file.unlink()
        torch.save({**contents, "hyper_parameters": Evil(marker)}, file)
    return crafted / "checkpoints" / "best.ckpt"


def test_control_the_pickle_runs_code_where_torch_may(pickled, marker):
    torch.load(pickled, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("verb", ["weights", "evaluate", "predict"])
def test_a_pickle_in_a_checkpoint_is_not_loaded(verb, pickled, marker, run_here):
    refused(run_here(*COMMANDS[verb]), marker, "is not loaded, as it would call os.makedirs")


def test_a_run_with_such_a_pickle_is_not_resumed_from_it(pickled, marker, run_here):
    ran = run_here(*COMMANDS["resume"])
    assert "Traceback" not in ran.out + ran.err
    assert not marker.exists()


def test_a_flipped_bit_in_a_weight_is_noticed(crafted, marker, run_here):
    path = crafted / "checkpoints" / "best.ckpt"
    with zipfile.ZipFile(path) as archive:
        entry = max((info for info in archive.infolist() if "/data/" in info.filename), key=lambda info: info.file_size)
    content = bytearray(path.read_bytes())
    content[entry.header_offset + entry.file_size // 2 + 200] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)  # a control: torch says nothing
    refused(run_here(*COMMANDS["predict"]), marker, "Bad CRC-32")


RECORDS = {
    "no record": lambda record: record.clear(),
    "no config": lambda record: record.update(config=3),
    "no groups": lambda record: record["config"].clear(),
    "a shape of words": lambda record: record.update(input_shape=["a", 1, 2]),
    "a shape of two": lambda record: record.update(input_shape=[8, 8]),
    "no classes": lambda record: record.update(class_names=[]),
    "classes of numbers": lambda record: record.update(class_names=[1, 2]),
    "other classes": lambda record: record.update(class_names=["a"]),
    "no model": lambda record: record["config"].pop("model"),
    "a model of nothing": lambda record: record["config"].update(model={}),
    "a model of text": lambda record: record["config"].update(model="athanor.models.cnn.CNN"),
    "an argument too many": lambda record: record["config"]["model"].update(wings=2),
    "an argument that is missing": lambda record: record["config"].update(optim={"_target_": "torch.optim.Muon"}),
    "no preprocessing": lambda record: record["config"].update(data={}),
    "a tensor": lambda record: record["config"]["model"].update(width=torch.ones(1)),
    "an interpolation": lambda record: record["config"]["model"].update(width="${oc.decode:1}"),
    "a variable that is not set": lambda record: record["config"]["model"].update(width="${oc.env:NONE_SUCH}"),
    "metrics of text": lambda record: record["config"].update(metrics="a"),
    "a monitor of text": lambda record: record["config"].update(monitor="a"),
}


@pytest.mark.parametrize("change", RECORDS.values(), ids=RECORDS)
def test_a_record_that_no_run_writes_is_refused(change, crafted, marker, run_here):
    write_record(crafted, change)
    ran = run_here(*COMMANDS["predict"])
    if change is RECORDS["an argument that is missing"]:  # an optimizer is made when training begins
        assert "Traceback" not in ran.err
    else:
        refused(ran, marker)


@pytest.mark.parametrize("contents", [[], torch.ones(2), {"athanor": 3}, {"state_dict": 3, "athanor": {}}])
def test_a_file_of_torch_that_is_no_checkpoint_is_refused(contents, tmp_path):
    torch.save(contents, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"not (one|a checkpoint) of Athanor's"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "group, node",
    [
        ("data.preprocess", {"_target_": "athanor.data.preprocess.Symmetric"}),
        ("model", {"_target_": "athanor.models.cnn.CNN"}),
        ("model", {"_target_": "torch.nn.Linear"}),
    ],
)
def test_a_config_that_is_not_the_checkpoints_is_refused(group, node, crafted, marker, run_here):
    write_config(crafted, group, node)
    refused(run_here(*COMMANDS["evaluate"]), marker)
