"""What the workflows in .github/workflows do; the Makefile's targets call it, so it runs on any machine.

Everything but `payload` needs Python alone, so that most jobs that hold credentials install nothing. Those that call
`slipway` do: what submits (`make submit-setup`) before it signs in, the preview on GKE, which trains, for itself.
"""
