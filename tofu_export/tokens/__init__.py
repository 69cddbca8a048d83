"""Token maps: which patches of an image are one token by now, and which are pruned, as the exported file decided."""
