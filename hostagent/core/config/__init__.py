"""The metallb.io kinds, judged one object at a time: decoded, then checked for what one object alone can tell."""
