"""Train an image classifier: python train.py model=cnn optim=adam"""

import hydra
from omegaconf import DictConfig

from athanor import command


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> None:
    # here, not above: `--cfg job`, `--help` and tab completion need no torch
    import lightning.pytorch as L

    from athanor import assemble
    from athanor.ranks import local_ranks
    from athanor.runs import Run, load_weights

    run = Run.of_this_job()
    with run.recorded():
        config = run.save_config(cfg)
        L.seed_everything(config["seed"], verbose=False)
        with local_ranks(config["trainer"], run.dir):
            data = assemble.data(config)
            classifier = assemble.classifier(config, data)
            if config["weights"]:
                load_weights(classifier, config["weights"])
            trainer = assemble.trainer(config, str(run.dir), data)
            trainer.fit(classifier, data, ckpt_path=run.resume_from(config), weights_only=True)
            run.load_chosen(classifier, trainer)
            if config["test"]:
                trainer.test(classifier, data, verbose=False)
        run.finish(trainer, classifier, data)


if __name__ == "__main__":
    command.run(main)
