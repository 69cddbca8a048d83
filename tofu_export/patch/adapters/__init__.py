"""How each supported block kind is cut in two halves: one kind, or a kind and its near relatives, per module.

`tofu_export.patch.blocks` has the table of them all.
"""
