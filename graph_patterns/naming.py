"""Name nodes after their modules, so that profiles group by stage."""

from __future__ import annotations

import ast

import onnx_ir as ir

__all__ = ["SCOPES", "modules_of", "name_by_stage"]

SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata key of torch's exporter for the path of modules of a node (torch 2.9 to 2.14)."""


def name_by_stage(model: ir.Model) -> None:
    """Rename every node of an exported graph to `module.path/operator`, numbered if the name is taken.

    Changes: node names only. Nodes without the exporter's metadata keep the stage of the node before them.
    """
    taken: dict[str, int] = {}
    stage = "stem"
    for node in model.graph:
        stage = _scope(node) or stage
        name = f"{stage}/{node.op_type}"
        count = taken.get(name, 0)
        taken[name] = count + 1
        node.name = f"{name}_{count}" if count else name


def _scope(node: ir.Node) -> str | None:
    text = node.metadata_props.get(SCOPES)
    if not text:
        return None
    modules = modules_of(text)
    return modules[-1].removeprefix("model.") if modules else None


def modules_of(scopes: str) -> list[str]:
    """Return the module paths in the exporter's metadata, outermost first, without the model itself.

    Args:
        scopes: the text of the metadata, a list of names: '', 'blocks', 'blocks.0', ..., the traced operator.
    """
    try:
        names = ast.literal_eval(scopes)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):  # a foreign file may hold anything
        return []
    if not isinstance(names, list):
        return []
    # "_empty_nn_module_stack_from_metadata_hook" stands for no module
    return [name for name in map(str, names[:-1]) if name and not name.startswith("_")]
