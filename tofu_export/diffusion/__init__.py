"""Token Fusion in the self-attention of Stable Diffusion's UNet, from a diffusers model to verified files.

Tokens are reduced before the self-attention of the blocks with the highest resolution and are restored after it, so
that the rest of the UNet sees its whole grid. See `docs/diffusion.md`.
"""
