"""`python train.py --help`: from the comments of the YAML files, complete for whatever files there are."""

import re
import shutil

import pytest

from athanor.base.errors import UserError
from athanor.engine.app.help_text import help_text
from athanor.engine.config import options
from athanor.engine.config.descriptions import Option, docstring

CONFIGS = options.CONFIGS
FILES = [
    path for path in sorted(CONFIGS.glob("*/**/*.yaml")) if path.relative_to(CONFIGS).parts[0] not in ("hydra", "local")
]
GROUPS = sorted({path.parent.relative_to(CONFIGS).as_posix() for path in FILES} - {"callbacks/base"})


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONFIGS).with_suffix("").as_posix())
def test_every_file_says_in_one_line_what_it_is(path):
    summary = Option(path.parent.relative_to(CONFIGS).as_posix(), path.stem).summary
    assert 4 < len(summary) <= 150
    assert not summary.startswith(("Needs", "@"))


def test_the_overview_has_every_group_every_option_and_every_script(repo):
    text = help_text([])
    for group in (group for group in GROUPS if not group.endswith("/base")):
        block = text.partition(f"\n{group.replace('/', '.')}: ")[2].partition("\n\n")[0]
        assert block.split("\n")[0].strip(), f"train.yaml does not say what {group} is"
        for name in options.options(group):
            assert re.search(rf"^[* ] {name} +{re.escape(Option(group, name).summary)}$", block, re.MULTILINE)
    assert all(f"scripts/{path.name}" in text for path in (repo / "scripts").glob("*.py"))
    assert "* cnn " in text and "* digits " in text and "* csv " in text and "* tensorboard " in text


@pytest.mark.parametrize("group", [group for group in GROUPS if not group.endswith("/base")])
def test_every_setting_of_what_is_chosen_by_default_is_there_with_its_comment(group, compose):
    text = help_text([])
    for name in re.findall(r"\w+", next(entry.value for entry in Option("", "train").defaults if entry.key == group)):
        for setting in Option(group, name).settings().values() if name != "null" else ():
            assert (
                re.search(rf"^  {re.escape(f'{setting.key}={setting.value}')} +\S", text, re.MULTILINE)
                or not setting.value
            )
            assert setting.comment or not setting.value, f"{setting.key} of {group}={name} has no comment"


def test_an_option_is_explained_with_its_docstring_and_its_settings():
    text = help_text(["model=resnet"])
    assert text.startswith("model=resnet\n  a residual network\nathanor.models.resnet.ResNet\n  3x3 stem, stages of ")
    assert re.search(r"^  model.depth=20 +layers: 6n\+2", text, re.MULTILINE)
    assert "  other arguments" not in text and text.endswith("file: configs/model/resnet.yaml\n")
    assert "other arguments of Adam: +optim.<argument>=<value>" in help_text(["optim=adam"])
    assert "  Maps inputs to numbers" in (text := help_text(["task=regression"])) and "it chooses loss=mse" in text
    assert help_text(["model=ResNet"]) == help_text(["model=resnet"])
    assert help_text(["data.preprocess=pca"]) == help_text(["data/preprocess=pca"])


def test_settings_come_from_the_files_that_one_begins_with():
    settings = Option("data", "table").settings()
    assert list(settings)[:2] == ["data.batch_size", "data.file"]  # its own are first
    assert settings["data.batch_size"].value == "128"
    assert settings["data.batch_size"].comment.startswith("images of a step")  # of base/default
    assert settings["data.augment.flip"].value == "false"
    assert Option("experiment", "cifar10_93").settings()["trainer.max_epochs"].value == "6"
    assert Option("experiment", "cifar10_93").settings()["optim.lr"].value == "0.1"  # of cifar10_94
    assert "callbacks.early_stopping.patience" in Option("callbacks/base", "default").settings()


def test_a_comment_stands_behind_a_value_or_above_it(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "# my network. It is new.\n#\n# how to write one\n_target_: mine.Net\n"
        "width: 3 # behind\n# above\n# in two lines\ndepth: [1, 2]\npart: # of a node\n  a: '# no comment'\n"
        "  b: {c: 1}\n"
    )
    (tmp_path / "train.yaml").write_text("# usage\ndefaults:\n  - model: mine # a net\n")
    monkeypatch.setattr(options, "CONFIGS", tmp_path)
    option = Option("model", "mine")
    assert (option.head, option.summary, option.target) == (["my network. It is new."], "my network", "mine.Net")
    assert {key: (setting.value, setting.comment) for key, setting in option.settings().items()} == {
        "model.width": ("3", "behind"),
        "model.depth": ("[1,2]", "above in two lines"),
        "model.part": ("", "of a node"),
        "model.part.a": ("'# no comment'", ""),
        "model.part.b": ("", ""),
        "model.part.b.c": ("1", ""),
    }
    assert help_text(["model"]).startswith("model=<option>\n* mine              my network\n")
    assert "usage" in help_text([]) and "model: a net" in help_text([])


def test_groups_and_settings_are_explained():
    text = help_text(["optim"])
    assert text.startswith("optim=<option>\n  adagrad           Adagrad\n* adam              Adam (Kingma & Ba 2015)\n")
    assert "optim.lr_by_layer=null" in text and "see the head of configs/optim/adagrad.yaml" in text
    assert help_text(["optim.lr"]).startswith("  optim.lr=1.0e-3   ")
    assert len(help_text(["eval"]).splitlines()) == 2


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model=resnett", "model=resnett does not exist; did you mean resnet?\n  model: cnn, linear"),
        ("modle", "--help modle: there is no such group or setting; did you mean model?"),
        ("lr", "did you mean optim.lr?"),
        ("model.dropot", "did you mean model.dropout?"),
        ("zzz", "choose from: "),
    ],
)
def test_wrong_names_are_answered_with_the_nearest(word, message):
    with pytest.raises(UserError) as error:
        help_text([word])
    assert message in str(error.value)


@pytest.mark.parametrize("words", [[], ["data"], ["callbacks"], ["eval"]])
def test_lines_fit_into_80_columns_but_for_values_that_do_not(words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = help_text(words).partition("\ndata: ")[2] or help_text(words)
    rows = rows.partition("\nscripts\n")[0]
    long = [line for line in rows.splitlines() if len(line) > 80 and re.match(r"[* ] ", line)]
    assert [line for line in long if "=${" not in line and not line.startswith("  python")] == []


def test_the_command_line_answers_and_leaves_nothing_behind(train, tmp_path):
    for words in (["--help"], ["-h"], ["--help", "model=resnet"], ["model=resnet", "--help"]):
        ran = train(*words)
        assert (ran.code, ran.err) == (0, "")
        assert ("model=resnet\n" in ran.out) == ("model=resnet" in words)
    ran = train("--help", "model=resnett")
    assert (ran.code, ran.out) == (1, "") and "did you mean resnet?" in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["", "torch.optim.Adam", "athanor.models.cnn.Nothing", "nowhere.at.All"])
def test_a_docstring_that_is_in_no_file_of_that_name_is_empty(target):
    assert docstring(target) == ""


def test_a_terminal_without_a_size_has_some_columns(monkeypatch):
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr(shutil.os, "get_terminal_size", lambda fd: (_ for _ in ()).throw(OSError()))
    assert max(map(len, help_text(["optim"]).splitlines())) <= 120
