"""What a composed config is without the values that were meant for another option, before it is checked."""

import pkgutil

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from athanor.base.errors import UserError
from athanor.data.augmentation.augment import Augment
from athanor.engine.config import options, schema
from athanor.engine.config.check import locate, node_signature
from athanor.engine.config.signatures import signature


def settle(cfg: dict, overrides: list[str]) -> list[str]:
    """Drop values that were meant for another option than the one that the command line chose.

    An experiment, a study or a recorded run may set values for an option which the command line replaces. Those that
    the new option does not take are taken out of `cfg`, in place. Gives a notice for each that is dropped or stays.
    """
    typed = [override.lstrip("+").partition("=")[0] for override in overrides]
    drop_untaken(cfg, typed, overrides)
    notices = drop_our_augment(cfg, typed) + drop_unused(cfg, typed)
    recipes = (override for override in overrides if override.startswith(("experiment=", "study=")))
    source = f"run={cfg['run']}" if cfg["run"] else next(recipes, None)
    for group in (
        group for group in schema.top_groups() if source and group in typed and "_target_" in (cfg.get(group) or {})
    ):
        choice = next(o for o in reversed(overrides) if o.lstrip("+").startswith(f"{group}=")).lstrip("+")
        option = OmegaConf.to_container(compose("train", [choice])[group])
        names, takes_any_key = node_signature(group, cfg[group])
        for key, value in list(cfg[group].items()):
            if isinstance(value, dict) or f"{group}.{key}" in typed or option.get(key, ...) == value:
                continue
            if "${" in str(option.get(key)):
                continue  # it follows another setting, as plateau's mode does the monitor's
            stays = key in option if cfg["run"] else key in names or takes_any_key
            if not stays:
                del cfg[group][key]
            notices.append(f"{group}.{key}={value} of {source} {'stays' if stays else 'is dropped'} with {choice}")
    return notices


def drop_untaken(cfg: dict, typed: list[str], overrides: list[str]) -> None:
    """Take out of `cfg` what a debug option sets for any model, loss or optimizer, and the chosen one does not take."""
    for name in (word.partition("=")[2] for word in overrides if word.startswith("debug=")):
        path = options.CONFIGS / "debug" / f"{name}.yaml"
        for group, node in (OmegaConf.load(path) if path.is_file() else {}).items():
            if group in schema.GROUPS and "_target_" in (cfg.get(group) or {}):
                names, _ = node_signature(group, cfg[group])
                target = locate(group, cfg[group]["_target_"])
                if group == "data" and not (schema.returns_datasets(target) or schema.is_data_module(target)):
                    names = names.keys() - schema.READING.keys()
                for key in (key for key in node if key not in names and f"{group}.{key}" not in typed):
                    cfg[group].pop(key, None)


def drop_unused(cfg: dict, typed: list[str]) -> list[str]:
    """Set the groups to null that a LightningModule has no use for: a record of them would say what is not so. Nor is
    the test set read where it has no `test_step`, of which the result is a notice.

    Raises UserError where a person has typed a setting of such a group.
    """
    if "_target_" not in (cfg.get("task") or {}):
        return []
    target = locate("task", cfg["task"]["_target_"])
    if schema.is_task(target):
        return []
    for group in (group for group in schema.unused(cfg) if cfg.get(group)):
        if word := next((key for key in typed if key.partition(".")[0].partition("/")[0] == group), None):
            made = schema.GROUPS[group].made
            raise UserError(
                f"{word}: {target.__name__} does nothing with it; give its __init__ an argument `{made}` without a "
                "default, or leave the word out"
            )
        cfg[group] = None
    if not cfg["eval"]["test"] or has_own(target, "test_step"):
        return []
    cfg["eval"]["test"] = False
    return [f"{target.__name__} has no test_step: the test set is not read"]


def has_own(module: type, hook: str) -> bool:
    """Whether a class of modules has this hook itself, and not only Lightning's empty one."""
    return getattr(module, hook, None) is not getattr(pkgutil.resolve_name("lightning.pytorch.LightningModule"), hook)


def drop_our_augment(cfg: dict, typed: list[str]) -> list[str]:
    """Take the values of our augmentation out of the node of another one, with a notice where one was switched on.

    What is typed stays, and what the chosen option of data/augment has. Raises UserError for a value that may be meant
    for either.
    """
    node = cfg["data"].get("augment")
    if not isinstance(node, dict) or "_target_" not in node:
        return []  # which is said with all else that is wrong
    target = locate("data.augment", node["_target_"])
    if isinstance(target, type) and issubclass(target, Augment):
        return []
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    choice = hydra and hydra.runtime.choices.get("data/augment")
    alone = [f"hydra.searchpath={list(hydra.searchpath)}", f"+data/augment@alone={choice}"] if choice else []
    own = compose("train", alone)["alone"] if choice else {}  # not merged into what the data set says
    kept = {*own, *(key.removeprefix("data.augment.") for key in typed)}
    dropped = [key for key in signature(Augment)[0] if key in node and key not in kept]
    unclear = [key for key in dropped if key in signature(target)[0] and "_target_" not in kept]
    if unclear and not (cfg["run"] or cfg["resume"]):
        raise UserError(
            f"data.augment.{unclear[0]} may be meant for {node['_target_']} or for ours\n"
            "  put that target and its arguments into configs/data/augment/<name>.yaml and type data/augment=<name>"
        )
    values = {key: node.pop(key) for key in dropped if key not in unclear}
    switched_on = [f"{key}={value}" for key, value in values.items() if value and key not in Augment.no_switches]
    return [f"data.augment is {node['_target_']}, without {', '.join(switched_on)} of ours"] if switched_on else []
