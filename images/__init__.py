"""How Slipway's images are pinned, built, looked into and described; `python -m images` lists the commands."""
