import torch

from athanor.engine.config import assemble
from athanor.training.at_first_step import at_first_step


def test_it_asks_once_where_all_is_set_up_and_trains_nothing(compose, tmp_path):
    from omegaconf import OmegaConf

    words = ["data.limit=200", "data.batch_size=16", "model=linear", "trainer=cpu", "name=asked"]
    config = OmegaConf.to_container(compose(*words), resolve=True)
    data = assemble.data(config)
    classifier = assemble.task(config, data)
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    trainer = assemble.bare_trainer(config, str(tmp_path), data, classifier)
    asked = []

    def look(trainer, module):
        asked.append(module)
        return len(trainer.optimizers), trainer.num_training_batches, trainer.num_devices

    assert at_first_step(trainer, classifier, data, look) == (1, len(data.train_index) // 16, 1)
    assert asked == [classifier]
    assert trainer.global_step == 0 and trainer.loggers == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())
    assert list(tmp_path.iterdir()) == []
