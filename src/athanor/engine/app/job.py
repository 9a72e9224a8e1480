"""The run that this process makes: train.py's side of a run's directory."""

import contextlib
import json
import logging
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from athanor.base.errors import UserError
from athanor.base.files import write_atomically
from athanor.engine.app.explain import explain
from athanor.engine.app.logs import set_up_logging
from athanor.engine.app.ranks import PARENT, is_main_process
from athanor.engine.config import secrets, trust
from athanor.engine.runs.provenance import comparison, describe, differences, environment, hash_of
from athanor.engine.runs.run import Run, read_checkpoint, shown
from athanor.engine.runs.summary import summary
from athanor.training import slurm
from athanor.training.signals import signals

if TYPE_CHECKING:
    import lightning.pytorch as L

    from athanor.data.module import ImageData
    from athanor.tasks.classification import Classifier

log = logging.getLogger(__name__)

ORIGIN = ("threads", "hardware", "versions", "git", "data")  # of the results: what they depend on
failed_jobs: list[Path] = []  # of this process, which in a multirun has many


class Job(Run):
    """The run of Hydra's current job. In a multirun each job has its own, below the sweep's directory.

    A directory that has a config.yaml already is gone on with, whoever asks for it: resume=, a sweep that is resumed,
    a scheduler that starts a job again.
    """

    def __init__(self) -> None:
        super().__init__(HydraConfig.get().runtime.output_dir)
        self.overrides = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)  # a secret stays one
        self.secrets: dict[str, str] = {}
        self.settings: dict[str, Any] | None = None  # the checked config, for what is said of a failure
        self.before = self.results  # of what is gone on with
        self.is_again = (self.dir / "config.yaml").is_file()
        self.is_resumed = any(override.startswith("resume=") for override in self.overrides)

    @property
    def is_done(self) -> bool:
        """The same job again, and it has finished."""
        done = self.is_again and not self.is_resumed and self.before.get("status") == "finished"
        if done:
            log.info("%s has finished already", shown(self.dir))
        return done

    def save_config(self, cfg: DictConfig) -> dict[str, Any]:
        """Check the config, write config.yaml, and give what is in it: plain values, ${oc.env:NAME} for secrets."""
        from athanor.engine.config import check

        config, self.secrets = check.plain(cfg), secrets.find(cfg)
        for handler in logging.getLogger().handlers:
            handler.addFilter(partial(secrets.redact, secrets=self.secrets))
        if self.is_again and not self.is_resumed:
            trust.add(trust.modules_of(config))  # what a person's own configs say may be in the recorded one as well
            return self.trusted_config
        for notice in check.settle(config, self.overrides):
            log.info(notice)
        check.check(config)
        self.settings = config
        for key in "launcher", "study":  # no result depends on them
            config.pop(key, None)
        recorded = secrets.hide({**config, "resume": None}, self.secrets)
        if is_main_process():
            write_atomically(self.dir / "config.yaml", OmegaConf.to_yaml(recorded))
        return {**recorded, "resume": config["resume"]}

    def resume_point(self) -> tuple[Path | None, int | None]:
        """The newest checkpoint that can be read, and its step: 0 without one, None where nothing is resumed.

        Those that cannot be read are named, and kept under another name.
        """
        if not self.is_again:
            return None, None
        for path in self.checkpoints:
            try:
                step = read_checkpoint(path)["global_step"]
            except (UserError, KeyError) as error:
                log.warning("%s; the one before it is used", error)
                if is_main_process():
                    os.replace(path, path.with_name(f"{path.name}.torn"))
                continue
            log.info("resuming from %s", shown(path))
            return path, step
        if PARENT not in os.environ:  # a rank of a run that has just begun
            log.info("there is no checkpoint yet; starting over in %s", shown(self.dir))
        return None, 0

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Whatever happens inside ends up in results.json and train.log; a failure does not stop a multirun."""
        set_up_logging()
        lock = FileLock(self.dir / ".lock")
        if is_main_process() and PARENT not in os.environ:
            take(lock, self.dir)
        own = [] if PARENT in os.environ else self.overrides  # a rank's are not what a person typed
        typed = list(dict.fromkeys([*self.before.get("overrides", []), *own]))
        self.begun = time.monotonic()
        begun = {"status": "running", "started": time.strftime("%Y-%m-%d %H:%M:%S"), "overrides": typed}
        origin = {key: self.before[key] for key in ORIGIN if key in self.before}  # what a rank compares its own with
        with contextlib.suppress(OSError):  # the next file that is written says so, where it is caught
            self.write(fresh=True, **begun, slurm_job=slurm.slurm_job_id(), **origin)
        try:
            with signals.handled():
                yield
            if self.results.get("status") == "failed":  # by one of its ranks, which has said so
                failed_jobs.append(self.dir)
        except (KeyboardInterrupt, SystemExit):
            with contextlib.suppress(OSError):
                self.write(status="interrupted")
            where = self.dir if HydraConfig.get().mode == RunMode.RUN else self.dir.parent
            log.info("interrupted; go on with python train.py resume=%s", shown(where))
            raise
        except Exception as error:
            self.fail(error)
        finally:
            if lock.is_locked:
                Path(lock.lock_file).unlink(missing_ok=True)
                lock.release()
            if "wandb" in sys.modules:
                sys.modules["wandb"].finish()  # or the next job of a multirun would log into this one's run

    def fail(self, error: Exception) -> None:
        failed_jobs.append(self.dir)
        is_mistake = isinstance(error, ValueError)  # which each process finds
        is_first = isinstance(error, ChildProcessError) or self.results.get("status") != "failed"
        if is_main_process() if is_mistake else is_first:
            shown_error = explain(error, shown(self.dir / "train.log"), self.settings)
            print(secrets.hide(shown_error, self.secrets), file=sys.stderr)
            said = secrets.hide(f"{type(error).__name__}: {error}", self.secrets)
            with contextlib.suppress(OSError):  # a full disk, or a folder that is gone
                self.replace_results({**self.results, "status": "failed", "error": said})
        with contextlib.suppress(OSError), open(self.dir / "train.log", "a") as file:
            file.write(secrets.hide("".join(traceback.format_exception(error)), self.secrets))
        single, begun = HydraConfig.get().mode == RunMode.RUN, (self.dir / "config.yaml").exists()
        if isinstance(error, UserError) and single and not begun:
            shutil.rmtree(self.dir, ignore_errors=True)  # a mistyped override is no run

    def write(self, fresh: bool = False, **values: object) -> None:
        if is_main_process():
            self.replace_results(values if fresh else {**self.results, **values})

    def replace_results(self, contents: dict[str, Any]) -> None:
        write_atomically(self.dir / "results.json", json.dumps(contents, indent=2) + "\n")

    def record_origin(self, config: dict, data: "ImageData", classifier: "Classifier") -> None:
        """Write down what this run depends on, and say where that differs from what it goes on with or repeats.

        Its checkpoints name the weights that it started from: runs that share them may be averaged (ensembles/soup.py).
        """
        state = classifier.network.state_dict().values()
        classifier.record["start"] = hash_of(*(value.reshape(-1) for value in state))
        if not is_main_process():
            return
        origin = {**environment(self.dir), "data": describe(data, config["test"])}
        earlier = self.before if self.is_again else Run(config["run"]).results if config["run"] else {}
        for line in differences(earlier, origin):
            log.warning("not as %s: %s", "before" if self.is_again else config["run"], line)
        self.write(**origin)

    def load_chosen(self, classifier: "Classifier", trainer: "L.Trainer") -> None:
        """Give the classifier the weights that are to be tested."""
        from athanor.callbacks.checkpoints import checkpoints_of

        trainer.strategy.barrier("checkpoints are written")
        found = checkpoints_of(trainer)
        chosen = found and found.chosen
        if chosen is None or "epoch" not in chosen:  # nothing was saved
            self.chosen = {"file": None, "metrics": metrics(trainer)}
            return
        self.chosen = chosen
        state = read_checkpoint(self.dir / "checkpoints" / chosen["file"])["state_dict"]
        classifier.load_state_dict(state)

    def finish(self, trainer: "L.Trainer", classifier: "Classifier") -> None:
        """Write results.json and say what came out."""
        if not is_main_process():
            return
        from athanor.callbacks.stopwatch import Stopwatch

        watch = next(callback for callback in trainer.callbacks if isinstance(callback, Stopwatch))
        found = {**self.chosen["metrics"], **{k: v for k, v in metrics(trainer).items() if k.startswith("test/")}}
        stages = {stage: grouped(found, stage) for stage in ("train", "val", "test")}
        self.write(
            status="finished",
            **{stage: values for stage, values in stages.items() if values},
            checkpoint=self.chosen["file"] and f"checkpoints/{self.chosen['file']}",
            checkpoint_epoch=self.chosen["file"] and self.chosen["epoch"] + 1,
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
            seconds=round(time.monotonic() - self.begun, 1),
            fit_seconds=round(watch.fit_seconds, 3),
            images_per_second=watch.images_per_second and round(watch.images_per_second, 1),
            parameters=sum(parameter.numel() for parameter in classifier.network.parameters()),
            seed=classifier.seed,
            device=str(trainer.strategy.root_device),
            devices=trainer.world_size,
            precision=trainer.precision,
            **{key: value for c in trainer.callbacks for key, value in getattr(c, "results", {}).items()},
        )
        (self.dir / "checkpoints" / "previous.ckpt").unlink(missing_ok=True)  # the last one is written and synced
        log.info(summary(self.results, self.config, shown(self.dir)))
        if self.config["run"]:
            earlier = Run(self.config["run"])
            log.info("%s\n", comparison(earlier.results, self.results, shown(earlier.dir)))


def take(lock: FileLock, directory: Path) -> None:
    try:
        lock.acquire(blocking=False)
    except Timeout:  # not an exception: the run that is under way has not failed
        print(f"error: {shown(directory)} is being trained by another process; wait for it, or end it", file=sys.stderr)
        raise SystemExit(1) from None


def metrics(trainer: "L.Trainer") -> dict[str, float]:
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def grouped(found: dict[str, float], stage: str) -> dict[str, float]:
    skipped = {f"{stage}/loss_step"}
    return {k.removeprefix(f"{stage}/"): v for k, v in found.items() if k.startswith(f"{stage}/") and k not in skipped}
