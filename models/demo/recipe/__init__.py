"""The recipe of the demo model: the world it draws, how it is trained, and how it is judged.

Nothing of the service imports this package; it needs the `train` extra and Debian's package
fonts-noto-color-emoji.
"""
