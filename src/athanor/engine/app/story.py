"""The whole story of a run, in one page: from a config to its results."""

from omegaconf import DictConfig


def train_job(cfg: DictConfig) -> float:
    """Train, test and record the run of Hydra's current job; gives the monitored metric, for Hydra's sweepers."""
    # imported here, so that `--cfg job`, `--help` and tab completion need not load torch
    import lightning.pytorch as L

    from athanor.engine.app.checked import check_before
    from athanor.engine.app.job import Job
    from athanor.engine.app.ranks import spread
    from athanor.engine.config import assemble
    from athanor.engine.runs.lineage import load_weights

    job = Job()
    if job.is_done(cfg):
        return job.monitored(cfg.monitor)
    with job.recorded():
        config = job.save_config(cfg)
        if spread(config, job.dir):  # over several devices: the rest is done by a process for each
            return job.monitored(cfg.monitor)
        L.seed_everything(config["seed"], verbose=False)
        data = assemble.data(config)
        task = assemble.task(config, data)
        checkpoint, step = job.resume_point
        if config["weights"] and not checkpoint:
            load_weights(task, config["weights"])
        trainer = assemble.trainer(config, str(job.dir), data, task, step, job.versions)
        job.record_loggers(trainer)
        job.record_origin(config, data, task, checkpoint)
        if cfg.get("check") and not checkpoint:
            check_before(config, job.dir, data, task)
        job.extend(trainer)
        job.announce(config, trainer, data, task)
        trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
        job.load_chosen(task, trainer)
        if config["eval"]["test"]:
            trainer.test(task, data, verbose=False)
        job.finish(trainer, task)
    return job.monitored(cfg.monitor)
