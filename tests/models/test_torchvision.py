import pytest
import torch
from torchvision import models

from athanor.base.errors import UserError
from athanor.engine.runs.run import read_checkpoint
from athanor.models.torchvision import Torchvision, last_layer

SMALL = "mobilenet_v3_small"


def net(shape=(3, 32, 32), name=SMALL, weights=None):
    return Torchvision(input_shape=shape, num_classes=7, name=name, weights=weights)


def test_grey_images_are_repeated_to_three_channels():
    model = net((1, 32, 32)).eval()
    grey = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(model(grey), model.net(grey.repeat(1, 3, 1, 1)))


@pytest.fixture
def stored(tmp_path):
    """Writes pretrained weights into a data_dir, as a download does."""

    def stored(name, **options):
        torch.manual_seed(0)
        network = models.get_model(name, **options)
        place = tmp_path / "weights" / "checkpoints" / models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), place)
        return network.state_dict()

    return stored


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", SMALL, "shufflenet_v2_x0_5", "googlenet"])
def test_pretrained_weights_are_those_of_a_file_in_all_layers_but_the_last(name, stored, tmp_path):
    options = {"init_weights": False, "aux_logits": True} if name == "googlenet" else {}
    weights = stored(name, **options)
    model = net((3, 64, 64), name, "DEFAULT")
    model.load_pretrained(tmp_path)
    state = model.net.state_dict()
    changed = {key.rsplit(".", 1)[0] for key in state if not torch.equal(state[key], weights[key])}
    assert changed == {last_layer(model.net)}
    assert model.training and model(torch.rand(2, 3, 64, 64)).shape == (2, 7)
    assert getattr(model.net, "transform_input", None) == (True if name == "googlenet" else None)


def test_weights_are_read_for_a_training_and_not_to_build_the_network_again(stored, tmp_path, caplog):
    model = net(weights="DEFAULT")  # as from a checkpoint: there is no file, and no network to download it from
    assert model.pretrained
    with pytest.raises(UserError, match=r"(?s)^model\.weights: .*put https://\S+\.pth into .*checkpoints,"):
        model.load_pretrained(tmp_path)
    stored(SMALL)
    with caplog.at_level("INFO"):
        model.load_pretrained(tmp_path)
    assert "go with data/preprocess=imagenet" in caplog.text
    random = net()
    before = random.state_dict()["net.features.0.0.weight"].clone()
    random.load_pretrained(tmp_path)
    assert torch.equal(random.state_dict()["net.features.0.0.weight"], before)


def test_a_pretrained_run_is_evaluated_without_the_file_of_its_weights(stored, tmp_path, train, run_here):
    weights = stored(SMALL)
    words = ["model=torchvision", f"model.name={SMALL}", "model.weights=DEFAULT", "model.freeze=all_but_head"]
    words += [f"data_dir={tmp_path}", "data.limit=150", "trainer.max_epochs=1", "hydra.run.dir=run"]
    ran = train(*words)
    assert (ran.code, ran.err) == (0, "")
    assert "begins with weights of ImageNet, which go with data/preprocess=imagenet" in ran.out
    state = read_checkpoint("run/checkpoints/last.ckpt")["state_dict"]
    name = "features.0.0.weight"
    assert torch.equal(state[f"network.net.{name}"], weights[name])
    (tmp_path / "weights").rename(tmp_path / "gone")
    ran = run_here("scripts/evaluate.py", "run")
    assert (ran.code, ran.err) == (0, "")


def test_a_file_that_torchvisions_own_network_was_saved_to_is_started_from(train):
    given = models.get_model(SMALL, weights=None).state_dict()  # of 1,000 classes
    torch.save(given, "backbone.pt")
    words = ["model=torchvision", f"model.name={SMALL}", "weights=backbone.pt", "model.freeze=all_but_head"]
    ran = train(*words, "data.limit=150", "trainer.max_epochs=1", "eval.test=false", "hydra.run.dir=run")
    assert (ran.code, ran.err) == (0, "")
    assert "the head (net.classifier.3.weight, net.classifier.3.bias) is new, as the classes differ" in ran.out
    state = read_checkpoint("run/checkpoints/last.ckpt")["state_dict"]
    assert torch.equal(state["network.net.features.0.0.weight"], given["features.0.0.weight"])


@pytest.mark.parametrize(
    "knobs, message",
    [
        ({"name": "resnet19"}, r"model\.name=resnet19 is not a classification network.*did you mean resnet"),
        ({"name": "fcn_resnet50"}, r"model\.name=fcn_resnet50 is not a classification network"),
        ({"weights": "IMAGENET"}, r"model\.weights=IMAGENET is not known; did you mean IMAGENET1K_V1\?$"),
        ({"shape": (4, 32, 32)}, r"takes 1 or 3 channels, and the data has 4; use model=resnet or model=cnn"),
        (
            {"name": "squeezenet1_1", "shape": (1, 8, 8)},
            r"model\.name=squeezenet1_1 cannot take 8x8 images \(.*it needs larger ones.*"
            r"Raise data\.image_size.*model=resnet or model=cnn",
        ),
    ],
)
def test_errors_name_the_knob(knobs, message):
    with pytest.raises(UserError, match=message):
        net(**knobs)
