"""Adapters that split each supported block kind into two halves: one kind, or closely related kinds, per module.

The table of all adapters is in `tofu_export.patch.blocks`.
"""
