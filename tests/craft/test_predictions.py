"""Logits that are kept: computed once for each checkpoint, set of images and choice of views."""

import pytest
import torch
from torch import nn

from athanor.base.errors import UserError
from athanor.craft.ensembles import predictions
from athanor.craft.ensembles.predictions import (
    SavedClassifier,
    predict_logits,
    stacked_logits,
    stage_batches,
    stage_labels,
)
from athanor.data.preprocess import Preprocess
from athanor.tasks.classification import Classification


@pytest.fixture
def saved(tmp_path):
    """Two classifiers in files, and the names of those that were loaded so far."""
    loaded = []

    def save(seed):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
        classifier = Classification(network, Preprocess((3, 6, 8)), nn.CrossEntropyLoss(), record={})
        path = tmp_path / f"{seed}.ckpt"
        torch.save({"state_dict": classifier.state_dict()}, path)
        return SavedClassifier(path, tmp_path / "predictions", lambda: loaded.append(path.stem) or classifier)

    return [save(0), save(1)], loaded


def test_logits_are_those_of_each_classifier_and_are_computed_once(saved, make_data):
    classifiers, loaded = saved
    data = make_data()
    logits = stacked_logits(classifiers, data, "val")
    assert logits.shape == (2, len(data.val_index), 4) and logits.dtype == torch.float32
    for classifier, own in zip(classifiers, logits, strict=True):
        assert torch.equal(own, predict_logits(classifier.load(), stage_batches(data, "val")))
    loaded.clear()
    assert torch.equal(stacked_logits(classifiers, data, "val"), logits)
    assert loaded == ["0", "1"]  # for the images that are predicted again


def test_another_stage_other_views_and_other_images_are_computed_anew(saved, make_data):
    classifiers, loaded = saved
    data = make_data()
    for stage, kind in ("val", "none"), ("test", "none"), ("train", "none"), ("val", "flip"):
        stacked_logits(classifiers, data, stage, kind)
    data.source.train_inputs[data.val_index[0]] += 1
    stacked_logits(classifiers, data, "val")
    assert loaded == ["0", "1"] * 5


def test_a_checkpoint_with_other_contents_and_a_damaged_file_are_computed_anew(saved, make_data):
    classifiers, loaded = saved
    data = make_data()
    stacked_logits(classifiers, data, "val")
    torch.save({"state_dict": {"weight": torch.ones(3)}}, classifiers[0].checkpoint)
    stacked_logits(classifiers, data, "val")
    assert loaded == ["0", "1", "0", "1"]
    [file] = classifiers[1].folder.glob("1_val_*.logits")
    file.write_bytes(b"\0" + file.read_bytes()[1:])
    stacked_logits(classifiers, data, "val")
    assert loaded == ["0", "1", "0", "1", "0", "1"]


@pytest.mark.parametrize("stage", ["train", "val", "test"])
def test_forged_logits_are_found_although_their_digest_is_right(stage, saved, make_data, monkeypatch):
    classifiers, _ = saved
    data = make_data()
    logits = stacked_logits(classifiers[:1], data, stage)[0]
    labels = stage_labels(data, stage)
    forged = torch.nn.functional.one_hot(labels, 4) * 9.0  # every image right
    wrong = (logits.argmax(1) != labels).float().mean().item()
    assert (1 - wrong) ** predictions.CHECKED < 1e-9  # how likely it would be that no changed image is looked at
    with monkeypatch.context() as patch:
        patch.setattr(predictions, "read_logits", lambda *_: None)
        patch.setattr(predictions, "predict_logits", lambda *_: torch.where(labels[:, None] >= 0, forged, logits))
        stacked_logits(classifiers[:1], data, stage)  # writes them, with their digest
    with monkeypatch.context() as patch:  # a control: the file is taken where nobody looks
        patch.setattr(predictions, "refuse_other_logits", lambda *_: None)
        assert (stacked_logits(classifiers[:1], data, stage)[0].argmax(1) == labels).all()
    with pytest.raises(UserError, match="gives other logits than those kept in"):
        stacked_logits(classifiers[:1], data, stage)


def test_logits_of_another_checkpoint_are_not_taken(saved, make_data):
    classifiers, loaded = saved
    data = make_data()
    stacked_logits(classifiers, data, "val")
    [first], [second] = (saved.folder.glob(f"{saved.checkpoint.stem}_*") for saved in classifiers)
    first.write_bytes(second.read_bytes())
    loaded.clear()
    assert not torch.equal(*stacked_logits(classifiers, data, "val"))
    assert loaded == ["0", "1"]


def test_logits_are_not_kept_through_a_link(saved, make_data, tmp_path, caplog):
    classifiers, _ = saved
    (tmp_path / "elsewhere").mkdir()
    classifiers[0].folder.symlink_to("elsewhere")
    stacked_logits(classifiers[:1], make_data(), "val")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert "predictions are not kept: cannot write" in caplog.text


def test_a_folder_that_cannot_be_written_to_costs_a_warning(saved, make_data, caplog):
    classifiers, loaded = saved
    classifiers[0].folder.write_text("a file, not a folder")
    for _ in range(2):
        stacked_logits(classifiers[:1], make_data(), "val")
    assert loaded == ["0", "0"]
    assert "predictions are not kept: cannot write" in caplog.text
