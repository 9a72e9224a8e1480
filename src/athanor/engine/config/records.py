"""What the files of a run may hold, before anything is made of it: config.yaml, and the record in a checkpoint.

They may come from anybody. Hydra builds objects from a config that it reads itself (hydra.callbacks, job_logging, a
searchpath), so it is handed a checked dict instead. Which targets may be built is the matter of trust.py.
"""

from pathlib import Path
from typing import Any, get_args

import yaml
from omegaconf import OmegaConf

from athanor.base.errors import UserError, first_line, require
from athanor.base.text import printable
from athanor.engine.config import schema, settings
from athanor.engine.config.secrets import INTERPOLATION

MAX_BYTES = 2**20  # of a config; of ours, with hundreds of classes and settings, it has 10,000
STRANGE_TOKENS = (yaml.AliasToken, yaml.TagToken, yaml.DirectiveToken)  # of which we write none


def read_config(path: Path) -> dict[str, Any]:
    """A run's config.yaml in plain values, with ${oc.env:NAME} as it stands.

    Raises UserError where it cannot be read, or holds what no run records: other keys, other interpolations.
    """
    try:
        require(path.stat().st_size <= MAX_BYTES, f"it has more than {MAX_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8")
        strange = next((token for token in yaml.scan(text) if isinstance(token, STRANGE_TOKENS)), None)
        config = None if strange else OmegaConf.to_container(OmegaConf.create(text))
    except FileNotFoundError:
        raise UserError(f"there is no {path}") from None
    except (Exception, RecursionError) as error:
        raise UserError(f"{path} is not a config, or torn: {first_line(error)}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a config of a run: it must be a mapping, without tags and aliases")
    refuse_renamed(config, path)
    unknown = sorted(map(repr, config.keys() - schema.top_level()))
    if unknown:
        raise UserError(f"{path} is not a config of a run: no run records {unknown[0][:80]}")
    refuse_strange(config, str(path))
    return config


def check_config(config: dict, path: Path) -> None:
    """Raise UserError where a config that has been read is not complete."""
    check_complete(config, path)
    for name, group in schema.GROUPS.items():
        require(not group.several or isinstance(config.get(name) or {}, dict), f"{path}: {name} is no mapping")


def check_record(contents: object, path: Path) -> None:
    """Raise UserError where a checkpoint's contents are not of the shape that assemble.from_record takes."""
    import torch

    is_ours = isinstance(contents, dict) and "athanor" in contents
    require(is_ours, f"{path} is a checkpoint, but not one of Athanor's")

    record, state = contents["athanor"], contents.get("state_dict")
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} is not a checkpoint of Athanor's: its state_dict is not made of tensors")
    try:
        check_described(record, path)
    except RecursionError:
        raise UserError(f"{path} is not a checkpoint of Athanor's: its record is too deep") from None


def check_described(record: object, path: Path) -> None:
    """Raise UserError where a record does not describe a task; that of an ensemble describes each member."""
    from athanor.data.sources.checks import INPUT_DTYPES  # imports torch

    foreign = f"{path} is not a checkpoint of Athanor's"
    require(isinstance(record, dict) and isinstance(record.get("config"), dict), f"{foreign}: its record has no config")
    shape, names = record.get("input_shape"), record.get("class_names")
    is_shape = isinstance(shape, list) and shape and all(type(size) is int and size > 0 for size in shape)
    require(is_shape, f"{foreign}: its input_shape is no list of sizes")
    for key, default in {"input_dtype": "uint8", "columns": None}.items():  # of older records, all of pictures
        record.setdefault(key, default)
    dtypes = [str(dtype).removeprefix("torch.") for dtype in INPUT_DTYPES]
    require(record["input_dtype"] in dtypes, f"{foreign}: its input_dtype is none of {', '.join(dtypes)}")
    require(are_columns(record["columns"]), f"{foreign}: its columns do not say how a table is encoded")
    are_names = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    require(are_names, f"{foreign}: its class_names are not a list of names")
    require(all(printable(name) == name for name in names), f"{foreign}: its class_names have control characters")
    require(isinstance(record.get("data", {}), dict), f"{foreign}: its data is no mapping")
    refuse_strange(record["config"], str(path))
    if "members" in record:
        check_ensemble(record, path)


def are_columns(columns: object) -> bool:
    """Whether they are such as athanor.data.sources.table describes, or None."""
    if columns is None:
        return True
    kinds = {"name": str, "mean": float | None, "categories": list | None}
    is_right = isinstance(columns, list) and all(
        isinstance(each, dict) and each.keys() == kinds.keys() for each in columns
    )
    return is_right and all(isinstance(each[key], kind) for each in columns for key, kind in kinds.items())


def check_ensemble(record: dict, path: Path) -> None:
    """Raise UserError where a record has members, but not what belongs to them."""
    from athanor.craft.ensembles import combine
    from athanor.tasks import tta

    foreign, members, weights = f"{path} is not an ensemble of Athanor's", record["members"], record.get("weights")
    numbers = isinstance(weights, list) and all(type(weight) is float and 0 < weight <= 1 for weight in weights)
    is_complete = isinstance(members, list) and members and numbers and len(weights) == len(members)
    require(is_complete, f"{foreign}: it needs a weight above 0 for each member")
    for key, choices in {"combine": get_args(combine.How), "tta": get_args(tta.Kind)}.items():
        require(record.get(key) in choices, f"{foreign}: {key} is none of {', '.join(choices)}")
    for member in members:
        check_described(member, path)
        is_same = all(member[key] == record[key] for key in ("input_shape", "input_dtype", "class_names", "columns"))
        require(is_same, f"{foreign}: a member has other classes or images")
        check_complete(member["config"], path, rebuilt_only=True)


def check_complete(config: dict, path: Path, rebuilt_only: bool = False) -> None:
    """Raise UserError where a recorded config lacks what it needs; rebuilt_only: what its task is built from."""
    refuse_renamed(config, path)
    unused = [name for name, group in schema.GROUPS.items() if group.made]  # null where a task has no use for them
    for place in schema.recorded_paths(rebuilt_only):
        node, above = config, ""
        for key in place.split("."):
            if not isinstance(node, dict):
                raise UserError(f"{path}: {above} is no mapping")
            above = f"{above}.{key}".lstrip(".")
            if node.get(key, ...) is None and above in unused:
                break
            if key not in node:
                raise UserError(f"{path} has no {above}, which this version of Athanor needs; add it, as in configs/")
            node = node[key]


def refuse_renamed(config: dict, path: Path) -> None:
    """Raise UserError where a recorded config has settings under their old names."""
    if renamed := settings.renamed(config):
        raise UserError(f"{path}: {renamed}; {'train again' if path.suffix == '.ckpt' else 'change it in the file'}")


def refuse_strange(node: object, where: str, of_logger: bool = False) -> None:
    """Raise UserError for what is no plain value, and interpolations but ${oc.env:NAME} of a logger, a secret's."""
    if isinstance(node, dict):
        for key, value in node.items():
            is_number = type(key) is int and "_target_" not in node  # of a class, in a mapping that is an argument
            if not is_number and not (isinstance(key, str) and key.isprintable() and key):
                raise UserError(f"{where}: {str(key)[:80]!r} is no key of a config")
            refuse_strange(value, f"{where}: {str(key)[:80]}", of_logger or key == "logger")
    elif isinstance(node, list):
        for value in node:
            refuse_strange(value, where, of_logger)
    elif isinstance(node, str):
        if "${" in (INTERPOLATION.sub("", node) if of_logger else node):
            raise UserError(f"{where} has an interpolation; a recorded config has ${{oc.env:NAME}} in logger alone")
    elif not isinstance(node, (bool, int, float, type(None))):
        raise UserError(f"{where} is no plain value but a {type(node).__name__}")


def config_text(config: dict[str, Any]) -> str:
    """What config.yaml holds: YAML of a config in plain values, in which ${oc.env:NAME} stands for a secret."""
    return OmegaConf.to_yaml(OmegaConf.create(config))
