"""The recorder of the run that this process makes: what train.py writes into the run's directory."""

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

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from athanor.base.error_place import name_and_text, told
from athanor.base.errors import UserError
from athanor.base.files import append
from athanor.base.text import printable
from athanor.engine.app import resumed_sweep
from athanor.engine.app.announcement import announcement
from athanor.engine.app.explain import explain
from athanor.engine.app.logs import set_up_logging
from athanor.engine.app.outcome import STAGES, logged_metrics, outcome
from athanor.engine.app.ranks import PARENT, agreed, is_main_process, started_elsewhere
from athanor.engine.app.resume_point import resume_point
from athanor.engine.config import built_here, places, schema, secrets
from athanor.engine.config.settings import REMARKS
from athanor.engine.runs import provenance, teacher
from athanor.engine.runs.claim import hold
from athanor.engine.runs.run import Run, read_checkpoint, shown
from athanor.engine.runs.summary import summary
from athanor.tasks.measure import stage_and_name
from athanor.training import slurm
from athanor.training.checkpoint_files import require_epoch
from athanor.training.signals import signals

if TYPE_CHECKING:
    import lightning.pytorch as L

    from athanor.data.module import ArrayData

log = logging.getLogger(__name__)

# keys of results.json: what the numbers depend on, and where they are logged
ORIGIN = ("threads", "hardware", "versions", "git", "data", "loggers")


class Job(Run):
    """The run of Hydra's current job. In a multirun each job has its own, below the sweep's directory.

    A directory that has a config.yaml already is continued, whoever asks for it: `resume=<run>`, a sweep that is
    resumed, or a scheduler that starts a job again.
    """

    def __init__(self) -> None:
        super().__init__(HydraConfig.get().runtime.output_dir)
        # unresolved, so that ${oc.env:NAME} stays as it was typed
        self.overrides = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
        self.is_single = HydraConfig.get().mode == RunMode.RUN
        self.secrets: dict[str, str] = {}
        self.settings: dict[str, Any] | None = None  # the checked config, for the message of a failure
        self.before = self.results  # those of the run that is continued, else {}
        self.is_one_of_several = started_elsewhere()  # asked now, as Lightning deletes WORLD_SIZE at the end
        self.is_again = (self.dir / "config.yaml").is_file()
        self.versions: dict[str, Any] = {}  # the runs of services with which this run goes on, by the names of loggers
        self.begun: float | None = None  # when this process began to write into the run's directory
        self.resume_point: tuple[Path | None, int | None] = (None, None)
        self.is_resumed = any(override.startswith("resume=") for override in self.overrides)
        has_limit = any(override.lstrip("+").startswith("trainer.max_") for override in self.overrides)
        is_more = self.is_resumed and (has_limit or self.before.get("status") == "finished")
        self.is_extended = is_more or self.before.get("extended", False)  # as an earlier process, or its parent, found

    def is_done(self, cfg: DictConfig) -> bool:
        """Whether this is a job that is started again although it has finished, and has nothing left to do.

        In a sweep that a person resumes, the job takes new limits of its training from `cfg`. Raises UserError where
        another setting differs from the job's record.
        """
        done = self.is_again and not self.is_resumed and self.before.get("status") == "finished"
        if self.is_again and resumed_sweep.is_resumed():
            done = not resumed_sweep.take_limits(self, cfg, self.overrides) and done
        if done:
            log.info("%s has finished already", shown(self.dir))
        return done

    def save_config(self, cfg: DictConfig) -> dict[str, Any]:
        """Check the config, write config.yaml and give what is in it: plain values, with ${oc.env:NAME} for secrets."""
        from athanor.engine.config import check
        from athanor.engine.config.settle import settle
        from athanor.training.remote_loggers import versions_in

        config = check.plain(cfg)
        self.secrets = secrets.find(config)
        for handler in logging.getLogger().handlers:
            handler.addFilter(partial(secrets.redact, secrets=self.secrets))
        for notice in settle(config, self.overrides):
            log.info(notice)
        check.check(config)
        config["eval"]["test"] = bool(config["eval"]["test"])  # auto: a multirun has told its jobs, so this is no job
        self.settings = config
        is_own = self.is_again and built_here.is_listed(self.config)
        if is_own:
            self.versions = versions_in(self.before.get("loggers"))
        elif self.before.get("loggers"):  # another's file could name a run of this person's
            self.write(loggers={})
        recorded = {key: value for key, value in config.items() if key not in schema.UNRECORDED}
        if not self.is_resumed or is_own:
            built_here.add(recorded)
        else:
            self.check_states()
        if self.is_again and not self.is_resumed:
            return self.trusted_config
        if is_main_process():
            if config["run"] and teacher.is_student(config):
                teacher.copy_teacher(Path(config["run"]), self.dir)
            self.write_config({**recorded, "resume": None})
        return recorded

    def check_states(self) -> None:
        """Raise UserError where a checkpoint of a run that somebody sent would have a callback act elsewhere."""
        for path in self.checkpoints:
            try:
                contents = read_checkpoint(path, weights=False)
            except UserError:  # torn
                continue
            places.check_states(contents.get("callbacks"), path)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Write down what happens inside, in results.json and train.log.

        A failure ends the process of a single run with exit code 1; a multirun goes on with its next job.
        """
        set_up_logging()
        lock = FileLock(self.dir / ".lock")
        if is_main_process() and PARENT not in os.environ:
            hold(lock, self.dir)
        cause = None
        try:
            with signals.handled():
                self.begin()
                yield
            has_failed = self.results.get("status") == "failed"  # because of one of its ranks, which has said why
        except (KeyboardInterrupt, SystemExit):
            with contextlib.suppress(OSError):
                if self.begun is not None:
                    self.write(status="interrupted")
            where = self.dir if self.is_single else self.dir.parent
            log.info("interrupted; go on with python train.py resume=%s", shown(where))
            raise
        except Exception as error:
            self.fail(error)
            has_failed, cause = True, error
        finally:
            if lock.is_locked:
                Path(lock.lock_file).unlink(missing_ok=True)
                lock.release()
            if "wandb" in sys.modules:
                sys.modules["wandb"].finish()  # else the next job of a multirun would log into this one's run
        if has_failed and self.is_single:
            raise SystemExit(1) from cause

    def begin(self) -> None:
        """Find the checkpoint to go on from, and only then begin results.json anew: else the run stays as it is."""
        answer = agreed(lambda: json.dumps(resume_point(self) if self.is_again else (None, None)), anew=True)
        newest, step = json.loads(answer)
        self.resume_point = newest and Path(newest), step
        self.begun = time.monotonic()
        own = [] if PARENT in os.environ else self.overrides  # those of a rank are not what a person typed
        typed = [*self.before.get("overrides", []), *own]
        typed = list({word.lstrip("+").partition("=")[0]: word for word in typed}.values())  # the last one counts
        begun = {"status": "running", "started": time.strftime("%Y-%m-%d %H:%M:%S"), "overrides": typed}
        begun |= {"extended": True} if self.is_extended else {}
        origin = {key: self.before[key] for key in ORIGIN if key in self.before}  # a rank compares its own with these
        with contextlib.suppress(OSError):  # the next file that is written raises it where it is explained
            self.write(fresh=True, **begun, slurm_job=slurm.slurm_job_id(), **origin)

    def fail(self, error: Exception) -> None:
        """Explain the failure, once for all processes of the job, and write down its traceback."""
        is_mistake = isinstance(error, UserError)  # every process meets the same one, so the main process reports it
        lock = FileLock(self.dir / ".failed.lock")
        with contextlib.suppress(OSError):  # the disk may be full, or the folder gone, here and below
            if self.is_one_of_several:  # else two processes that fail at once would both tell it
                lock.acquire()
        is_first = isinstance(error, ChildProcessError) or self.results.get("status") != "failed"
        if is_main_process() if is_mistake else is_first:
            explanation = explain(error, shown(self.dir / "train.log"), self.settings)
            print(secrets.hide(explanation, self.secrets), file=sys.stderr)
            place = None if is_mistake else told(error)
            text = secrets.hide(place or ": ".join(name_and_text(error)), self.secrets)
            with contextlib.suppress(OSError):
                if self.begun is not None:
                    self.write_results({**self.results, "status": "failed", "error": text})
        lines = secrets.hide("".join(traceback.format_exception(error)), self.secrets)
        with contextlib.suppress(OSError):
            append(self.dir / "train.log", printable(lines, keep="\n"))
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        is_nothing = self.is_single and is_main_process() and not (self.dir / "config.yaml").exists()
        if is_mistake and is_nothing:
            shutil.rmtree(self.dir, ignore_errors=True)  # a mistyped override leaves no run behind

    def write(self, fresh: bool = False, **values: object) -> None:
        """Add values to results.json, from the main process alone; fresh: in place of what is there."""
        if is_main_process():
            self.write_results(values if fresh else {**self.results, **values})

    def record_loggers(self, trainer: "L.Trainer") -> None:
        """Write down, at once, in which runs of services this run is logged, so that it goes on there when killed."""
        from athanor.training.remote_loggers import versions_in

        if trainer.fast_dev_run:  # Lightning has taken the loggers away
            return
        names = [name for name, node in (self.settings.get("logger") or {}).items() if node]
        versions = [logger.version for logger in trainer.loggers]
        self.write(loggers=versions_in(dict(zip(names, versions, strict=True))))

    def record_origin(
        self, config: dict, data: "ArrayData", task: "L.LightningModule", checkpoint: Path | None
    ) -> None:
        """Write down what this run depends on, in results.json and in the record that its checkpoints have, and warn
        where that differs from the run that it continues or repeats. A student gets its teacher.

        checkpoint: from which the run goes on, if it does.
        Raises UserError where it would validate or test on images that its weights have been trained on.
        """
        from athanor.engine.runs import lineage

        lineage.record_beginning(task, data, config, self.dir, checkpoint)
        if not is_main_process():
            return
        task.record["data"] = provenance.describe_data(data, config["eval"]["test"])
        origin = {**provenance.environment(self.dir), "data": task.record["data"]}
        if "parent" in task.record:
            origin["parent"] = task.record["parent"]
        earlier = self.before if self.is_again else Run(config["run"]).results if config["run"] else {}
        for line in provenance.differences(earlier, origin):
            log.warning("not as %s: %s", "before" if self.is_again else config["run"], line)
        remarks = {key: config[key] for key, empty in REMARKS.items() if config[key] not in (empty, None, "")}
        self.write(**origin, **remarks, **task.record.get("teacher", {}))

    def extend(self, trainer: "L.Trainer") -> None:
        """Let a run go on that was stopped by hand or by its time, where it has finished or is given another limit.

        One that was killed after such a stop, before it had finished, only finishes.
        """
        from athanor.callbacks.checkpoints import checkpoints_of

        if checkpoints := checkpoints_of(trainer):
            checkpoints.is_extended = self.is_extended

    def announce(self, config: dict, trainer: "L.Trainer", data: "ArrayData", task: "L.LightningModule") -> None:
        """Say what begins, from the main process."""
        if is_main_process():
            resumed = self.dir if self.is_single else self.dir.parent
            log.info("%s", announcement(config, trainer, data, task, shown(self.dir), shown(resumed)))

    def load_chosen(self, task: "L.LightningModule", trainer: "L.Trainer") -> None:
        """Give the task the weights that are to be tested."""
        from athanor.callbacks.checkpoints import checkpoints_of
        from athanor.callbacks.weight_average import averaged_updates

        trainer.strategy.barrier("checkpoints are written")
        checkpoints = checkpoints_of(trainer)
        chosen = checkpoints and checkpoints.chosen
        if chosen is None or "epoch" not in chosen:  # nothing was saved
            averaged = averaged_updates(trainer)
            self.chosen = {"file": None, "metrics": logged_metrics(trainer), "averaged": averaged}
            return
        self.chosen = chosen
        path = self.dir / "checkpoints" / chosen["file"]
        require_epoch(path, chosen["epoch"], chosen["step"])
        task.load_state_dict(read_checkpoint(path)["state_dict"])

    def finish(self, trainer: "L.Trainer", task: "L.LightningModule") -> None:
        """Complete results.json and print the summary."""
        if not is_main_process():
            return
        from athanor.training.loggers import TensorBoard

        tested = {name: value for name, value in logged_metrics(trainer).items() if stage_and_name(name)[0] == "test"}
        metrics = {**self.chosen["metrics"], **tested}
        counts = {stage: metrics.pop(f"{stage}/inputs", None) for stage in STAGES}
        for logger in (logger for logger in trainer.loggers if isinstance(logger, TensorBoard)):
            logger.log_chosen(metrics, self.chosen.get("step", trainer.global_step))
        if tested:
            self.write(test_reads=provenance.count_test_read(self.results["data"]["test_hash"], shown(self.dir)))
        own = outcome(self.chosen, self.begun, trainer, task, metrics)
        own["read"] = {stage: int(count) for stage, count in counts.items() if count}  # how many inputs
        added = {key: value for c in trainer.callbacks for key, value in getattr(c, "results", {}).items()}
        for name in added.keys() & {*self.results, *own}:
            log.warning("results.json has a %s of the run itself; the result of a callback needs another name", name)
        # the last one is written and synced; before `finished`, after which nobody would come back to remove it
        (self.dir / "checkpoints" / "previous.ckpt").unlink(missing_ok=True)
        self.write(**{**added, **self.results, **own})
        log.info(summary(self.results, self.config, self.measures, shown(self.dir)))
        if earlier := self.config["run"]:
            log.info("%s\n", provenance.compare_metrics(Run(earlier).results, self.results, shown(Path(earlier))))
