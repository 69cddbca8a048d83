"""Name nodes after the module that they come from, so that profiles group by stage."""

from __future__ import annotations

import ast

import onnx_ir as ir

__all__ = ["SCOPES", "modules_of", "name_by_stage"]

SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter notes the path of modules behind a node (torch 2.9 to 2.14)."""


def name_by_stage(model: ir.Model) -> None:
    """Rename every node of an exported graph to `module.path/operator`, numbered where that is taken.

    Changes: node names only. Nodes without the exporter's note keep the stage of the node before them.
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
    """The paths of modules in the exporter's note, the outermost first; the model itself is not among them.

    Args:
        scopes: the text of the note, a list of names: '', 'blocks', 'blocks.0', ..., the traced operator.
    """
    try:
        names = ast.literal_eval(scopes)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):  # a file of others may hold anything
        return []
    if not isinstance(names, list):
        return []
    # "_empty_nn_module_stack_from_metadata_hook" stands for no module
    return [name for name in map(str, names[:-1]) if name and not name.startswith("_")]
